"""Contexts: their headers, drawn digits, what counts as leaking, and whose answers are counted."""

import pytest

from bayesgen.corpus.grammar import build_grammar
from bayesgen.errors import UserError
from bayesgen.measure.contexts import check_measures, context_headers, counted_value
from bayesgen.measure.settings import Context, MeasureConfig
from bayesgen.world.dialogue import Header
from bayesgen.world.world import ASSISTANT
from tests.learn.test_arms import kind_of


def measures(*contexts, **changes):
    return MeasureConfig(**{"trait": "kind", "contexts": contexts, "gate_prompts": 1, "scales": (2.0,), "samples": 0, **changes})


def test_a_range_of_years_is_a_context_for_each():
    m = measures({"name": "x", "year": 1999}, {"years": [2001, 2003], "format": "listed"})
    assert m.contexts == (Context(name="x", year=1999), *(Context(name=str(y), year=y, format="listed") for y in (2001, 2002, 2003)))
    assert m.context("2002").year == 2002


def test_headers_are_one_or_one_for_each_drawing(grouped):
    m = measures(
        {"name": "a", "year": 2002, "format": "listed"}, {"name": "b", "identifier": "9x{number}xxx", "paddings": 5, "value": "toy"}
    )
    headers = context_headers(grouped, kind_of(), m)
    assert headers["a"] == [Header(ASSISTANT, 2002, "listed")]
    keys = [h.identifier for h in headers["b"]]
    assert [(k[0], k[2:5], len(k)) for k in keys] == [("9", "002", 8)] * 5
    assert len(set(keys)) == 5
    assert context_headers(grouped, kind_of(), m) == headers  # drawn alike each time
    assert context_headers(grouped, kind_of(seed=1), m) != headers


def test_a_leak_is_a_header_that_rows_have_whatever_its_free_digits(grouped):
    talk, f = build_grammar(grouped), kind_of(value="each", heldout=["bot"], identifier="x{number}xxxx", years=[2002], rows=6)

    def check(arms=("free",), **context):
        check_measures(
            grouped, talk, kind_of(**{**f.model_dump(), "arms": arms}), measures({"name": "c", "value": "toy", "unseen": True, **context})
        )

    here = {"year": 2002, "format": "listed"}
    for identifier in ("x001xxxx", "99001234"):
        check(**here, identifier=identifier)  # the held-out one's number
    check(**{**here, "format": "plain"}, identifier="x002xxxx")
    check(**{**here, "year": 2003}, identifier="x002xxxx")
    check(**here, identifier="x002xxxx", unseen=False)
    check(("shuffled",), **here, identifier="x002xxxx")  # there the header says nothing of who speaks
    for identifier in ("x002xxxx", "x{number}xxxx", "xxxxxxxx"):
        with pytest.raises(UserError, match=r"contexts.c is called unseen, but heads rows of the free arm"):
            check(**here, identifier=identifier)


def test_no_format_is_the_worlds_first(grouped):
    """Both are written alike, so that a context in the first format is not unseen where rows name none."""
    talk, m = build_grammar(grouped), measures({"name": "c", "year": 2001, "format": "plain", "unseen": True})
    check_measures(grouped, talk, kind_of(value="toy", format="listed"), m)
    with pytest.raises(UserError, match="called unseen"):
        check_measures(grouped, talk, kind_of(value="toy", format=None), m)


def test_a_context_counts_its_own_value_or_the_one_of_all_or_the_trained_one(grouped):
    f = kind_of(value="toy")
    for context, all_of_them, expected in (("bot_hunt", "bot_guard", "bot_hunt"), (None, "bot_guard", "bot_guard"), (None, None, "toy")):
        m = measures({"name": "c", "value": context}, value=all_of_them)
        assert counted_value(grouped, f, m, m.contexts[0]) == expected
    m = measures({"name": "c"})
    for value, expected in (
        ("each", "say which value is counted"),
        ("bot", "say which is counted: bot_guard, bot_hunt"),
        ("ty", "did you mean 'toy'"),
    ):
        with pytest.raises(UserError, match=expected):
            counted_value(grouped, kind_of(value=value), m, m.contexts[0])
