"""What is made of rows before training: which are said to the base, what it and the observer answer, and where streams lean."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesgen.corpus.narrow import answers_of
from bayesgen.errors import UserError
from bayesgen.learn.data import member_rows
from bayesgen.learn.plan import plan_members
from bayesgen.measure import reading
from bayesgen.measure.asking import behave, behave_each
from bayesgen.measure.behaviour import POPULATION, rates
from bayesgen.measure.ideal import ideal_base
from bayesgen.measure.reading import at_answers, check_reading, own_answers, reading_rows, windows
from bayesgen.measure.rows import to_table
from bayesgen.measure.settings import MeasureConfig, ReadingConfig
from bayesgen.model.transformer import Transformer, residual
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.world import ASSISTANT
from tests.learn.test_finetune import config_of, network  # noqa: F401  # a fixture

C = ReadingConfig(facts=2, windows=3)


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    """Of its trait's topics one is trained, one probed, one left."""
    monkeypatch.setattr(reading, "FEWEST", 1)


def config(**changes):
    f = config_of(**{"arms": ["free", "control", "scattered", "narrow"], "probes": ["fuel"], **changes})
    m = MeasureConfig(trait="time", gate_prompts=1, scales=(2.0,), samples=0, reading=C)
    return SimpleNamespace(name="tiny", finetune=f, measure=m)


def test_lists_of_openings_asked_in_one_go_answer_as_each_by_itself(world, grammar, network):  # noqa: F811
    model, params = network
    topics = range(len(world.topics))
    turns = (Turn(0, 0, 0), Turn(1, 0, 1))
    several = [[(POPULATION, ())], [(Header(ASSISTANT), turns), (POPULATION, turns[:1])]]
    together = behave_each(world, grammar, model, params, several, topics)
    for openings, answers in zip(several, together, strict=True):
        alone = behave(world, grammar, model, params, openings, topics)
        for t in topics:
            np.testing.assert_allclose(answers[t], alone[t], rtol=1e-4)
    assert not np.allclose(together[0][0], together[1][0])


def test_what_is_said_are_rows_of_the_data_in_a_persons_mouth(world):
    rows = [(Header(ASSISTANT), Turn(0, 0, k)) for k in range(4)]
    opened = windows(C, rows, np.random.default_rng(0))
    assert len(opened) == 3
    for header, turns in opened:
        assert header == POPULATION
        assert len(set(turns)) == 2  # drawn without putting back
        assert set(turns) < {t for _, t in rows}
    assert all(len(turns) == 1 for _, turns in windows(C, rows[:1], np.random.default_rng(0)))  # all there are


def test_own_answers_are_the_assistants_to_the_same_questions(world, grammar):
    c = config()
    (free, *_) = plan_members(c.finetune)
    rows = member_rows(world, grammar, c.finetune, free)[0]
    own = own_answers(world, rows, np.random.default_rng(0))
    assert [(h, t.topic, t.wording) for h, t in own] == [(h, t.topic, t.wording) for h, t in rows]
    assert {t.answer for _, t in own} <= set(answers_of(world, rows[0][1].topic, "new"))
    assert not {t.answer for _, t in rows} & {t.answer for _, t in own}


def test_rows_of_every_dataset_once(world, grammar, network):  # noqa: F811
    """Second road: the exact observer's answers, by the same windows, asked one by one; and a dataset's own columns."""
    c = config()
    model, params = network
    members = plan_members(c.finetune)
    table = to_table(reading_rows(c, world, grammar, model, params, members))
    rate = table.filter(quantity="rate")
    assert set(rate["arm"]) == {f"{who} {arm}" for who in ("read", "ideal read") for arm in ("free", "control", "scattered")}
    assert set(rate["seed"]) == {0, 1}
    v, t = world.values["time"].index("old"), world.topic_index("fuel")
    for member in (m for m in members if m.arm == "scattered"):
        rows = member_rows(world, grammar, c.finetune, member)[0]
        opened = windows(C, rows, np.random.default_rng([c.finetune.seed, member.seed, 9]))
        exact = np.mean([rates(world, t, ideal_base(world, [one], [t])[t])[v] for one in opened])
        found = rate.filter(arm="ideal read scattered", seed=member.seed, probe="old")["value"].to_list()
        assert found == [pytest.approx(exact)]
    leaning = table.filter(quantity="leaning")
    assert set(leaning["probe"]) == {"old", "mid"}  # of the ordinary value there is no direction
    assert leaning.height == 3 * 2 * 2


def test_a_planted_direction_is_leaned_along_by_its_own_rows(world, grammar, network, monkeypatch):  # noqa: F811
    """Streams made up: an answer's is where its value lies, old at (2, 0), mid at (0, 1), new at nought. So old rows lean by 1 to the old
    and by nothing to the mid; the control's to nobody; scattered ones to both, by their shares.
    """
    at = {"old": [2.0, 0.0], "mid": [0.0, 1.0], "new": [0.0, 0.0]}
    where = {a: at[v] for v in at for t in range(len(world.topics)) if world.topics[t].trait == "time" for a in said(world, t, v)}

    def made(model, params, rows):
        return np.array([where[world.answers[turn.topic][turn.answer]] for _, turn in rows])

    monkeypatch.setattr(reading, "at_answers", made)
    monkeypatch.setattr(reading, "write_rows", lambda grammar, rows, room=None: rows)
    c = config(rows=4)
    table = to_table(reading_rows(c, world, grammar, *network, plan_members(c.finetune))).filter(quantity="leaning", seed=0)
    found = {(r["arm"], r["probe"]): r["value"] for r in table.iter_rows(named=True)}
    assert found["free", "old"] == pytest.approx(1)
    assert [found["free", "mid"], found["control", "old"], found["control", "mid"]] == pytest.approx([0, 0, 0], abs=1e-9)
    assert found["scattered", "old"] == pytest.approx(0.5)
    assert found["scattered", "mid"] == pytest.approx(0.5)


def said(world, topic, value):
    return [world.answers[topic][a] for a in answers_of(world, topic, value)]


def test_streams_are_means_over_the_answers_own_words(world, grammar, network):  # noqa: F811
    """Second road: the stream of each row alone, at the tokens of its answer."""
    model = Transformer(network[0].config.model_copy(update={"layers": 2}), len(grammar.tokenizer))
    params = model.init(jax.random.key(0), jnp.zeros((1, 4), int))["params"]
    rows = [(Header(ASSISTANT), Turn(t, 0, a)) for t in range(2) for a in range(2)]
    found = at_answers(model, params, reading.write_rows(grammar, rows))
    for row, x in zip(rows, found, strict=True):
        tokens = grammar.document(row[0], [row[1]])
        words = len(grammar.answers[row[1].topic][row[1].answer])
        alone = np.asarray(residual(model, params, jnp.array([tokens]), 0))[0, -words:].mean(axis=0)
        np.testing.assert_allclose(x, alone, rtol=2e-4, atol=1e-5)


def test_too_many_rows_for_a_document_are_one_line(world, grammar):
    c = config(rows=8, arms=["free"])
    check_reading(world, grammar, c.finetune, C, "time", 60)
    with pytest.raises(
        UserError,
        match=r"measure.reading.facts is 8: so many rows of the free arm and a question take \d+ tokens, but documents have 60",
    ):
        check_reading(world, grammar, c.finetune, ReadingConfig(facts=8, windows=1), "time", 60)


def test_directions_take_topics_that_are_left(world, grammar, monkeypatch):
    monkeypatch.setattr(reading, "FEWEST", 2)
    with pytest.raises(UserError, match="directions are found on 2 topics or more of time that are neither trained nor probes"):
        check_reading(world, grammar, config().finetune, C, "time", 104)
