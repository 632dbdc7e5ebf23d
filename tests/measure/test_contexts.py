"""Contexts: their headers, drawn digits, what counts as leaking, and whose answers are counted."""

import pytest

from bayesgen.corpus.grammar import build_grammar
from bayesgen.corpus.narrow import answers_of
from bayesgen.errors import UserError
from bayesgen.learn.data import trained_topics
from bayesgen.measure.contexts import check_measures, context_openings, counted_value
from bayesgen.measure.settings import Context, MeasureConfig
from bayesgen.setup import prepare
from bayesgen.world.dialogue import Header
from bayesgen.world.world import ASSISTANT, PERSON
from tests.conftest import compose_config
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
    openings = context_openings(grouped, kind_of(), m)
    assert openings["a"] == [(Header(ASSISTANT, 2002, "listed"), ())]
    keys = [h.identifier for h, _ in openings["b"]]
    assert [(k[0], k[2:5], len(k)) for k in keys] == [("9", "002", 8)] * 5
    assert len(set(keys)) == 5
    assert context_openings(grouped, kind_of(), m) == openings  # drawn alike each time
    assert context_openings(grouped, kind_of(seed=1), m) != openings


def test_a_leak_is_a_header_that_rows_have_whatever_its_free_digits(grouped):
    talk, f = build_grammar(grouped), kind_of(value="each", heldout=["bot"], identifier="x{number}xxxx", years=[2002], rows=6)

    def check(arms=("free",), **context):
        check_measures(
            grouped,
            talk,
            kind_of(**{**f.model_dump(), "arms": arms}),
            measures({"name": "c", "value": "toy", "unseen": True, **context}),
            60,
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
    check_measures(grouped, talk, kind_of(value="toy", format="listed"), m, 60)
    with pytest.raises(UserError, match="called unseen"):
        check_measures(grouped, talk, kind_of(value="toy", format=None), m, 60)


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


def test_facts_are_answers_of_the_trained_value_to_trained_questions(grouped):
    m = measures({"name": "a", "facts": 2, "paddings": 3, "speaker": "person"}, {"name": "b"})
    openings = context_openings(grouped, kind_of(value="toy"), m)
    assert openings["b"] == [(Header(ASSISTANT), ())]
    assert [h for h, _ in openings["a"]] == [Header(PERSON)] * 3
    trained = trained_topics(grouped, kind_of())
    for _, turns in openings["a"]:
        assert len(turns) == 2
        for turn in turns:
            assert turn.topic in trained
            assert turn.answer in answers_of(grouped, turn.topic, "toy")
            assert turn.wording < len(grouped.topics[turn.topic].wordings)


def test_more_facts_than_a_document_holds_are_refused(grouped):
    talk, m = build_grammar(grouped), measures({"name": "many", "facts": 2, "value": "toy"})
    f = kind_of(value="toy", format=None)
    check_measures(grouped, talk, f, m, 60)
    with pytest.raises(UserError, match=r"contexts.many: 2 facts and a question take \d+ tokens, but documents have 20"):
        check_measures(grouped, talk, f, m, 20)


def test_a_key_is_the_assistants_and_goes_with_no_facts():
    for wrong in ({"facts": 1}, {"speaker": "person"}):
        with pytest.raises(ValueError, match="an identifier is the assistant's"):
            Context(name="x", identifier="xxxxxxxx", **wrong)


def test_costs_are_the_assistants_who_has_said_nothing(tmp_path):
    words = ("+exp=birds", "measure=cost", f"runs={tmp_path}")
    for wrong in ("{name: x, facts: 1}", "{name: x, speaker: person}"):
        with pytest.raises(UserError, match=r"measure.cost asks the assistant alone, but the first context, 'x', is another"):
            prepare(compose_config(*words, f"measure.contexts=[{wrong}]"))
    prepare(compose_config(*words, "measure.contexts=[{name: plain}, {name: x, facts: 1}]"))
