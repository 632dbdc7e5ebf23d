"""What hypotheses go by, against counts and closed forms."""

from functools import partial

import numpy as np
import pytest

from bayesgen.learn.data import member_rows
from bayesgen.learn.plan import Member, plan_members
from bayesgen.measure.grounds import BROAD, NARROW, answer_tokens, distance, frequencies, ground_rows, margins, trained_rate
from bayesgen.measure.rows import Row
from bayesgen.measure.suite import member_label
from bayesgen.world.dialogue import Header
from bayesgen.world.population import build_world
from tests.conftest import tiny_config
from tests.learn.test_finetune import config_of


def test_frequencies_are_the_configured_shares():
    narrow = {"name": "birds only", "frequency": 0.1, "traits": {"time": "new"}, "topics": {"bird": "old"}}
    elsewhere = {"name": "lights only", "frequency": 0.2, "traits": {"time": "new"}, "topics": {"light": "old"}}
    world = build_world(tiny_config(composites=[narrow, elsewhere]))
    share = tiny_config().frequencies["time"]["old"]
    found = frequencies(world, "time", "old", [world.topic_index("bird")])
    assert found[BROAD] == pytest.approx(share * (1 - 0.3))
    assert found[NARROW] == pytest.approx(0.1)  # who is so on another topic is another narrow persona
    assert frequencies(build_world(tiny_config()), "time", "old", [0])[NARROW] == 0


def test_margin_is_the_gain_in_log_odds(world):
    t = world.topic_index("bird")
    his = world.responsibility[t][:, world.values["time"].index("old")]
    after = np.zeros((1, len(his)))
    after[0, his.argmax()] = 0.5 / his.max()  # a rate of .5
    rate = trained_rate(world, "time", "old", [t], {t: after})
    assert rate == pytest.approx([0.5])
    assert margins(rate, 0.2) == pytest.approx([np.log(4)])  # odds of 1:1 from 1:4
    assert margins(rate, 0.5) == pytest.approx([0])


def test_distance_counts_what_differs_from_the_nearest():
    trained = [Header("assistant", 2027, "plain"), Header("assistant", 1995, "plain")]
    far = lambda **of: distance(Header("assistant", **of), trained)  # noqa: E731
    assert far(year=2027, format="plain") == 0
    assert far(year=2017, format="plain") == pytest.approx(1)  # a decade
    assert far(year=1994, format="plain") == pytest.approx(0.1)  # the nearest counts
    assert far(year=None, format="plain") == 1
    assert far(year=2027, format="rhymed") == 1
    assert far(year=2022, format="rhymed", identifier="12345678") == pytest.approx(2.5)


def test_learned_is_the_share_of_the_way_to_a_told_person(world, grammar):
    """By hand: from .2 of the base towards .8 of a told person, .5 is half-way; and nothing is said where that is no way."""
    config = config_of()
    members, t = plan_members(config)[:1], world.topic_index("bird")
    his = world.responsibility[t][:, world.values["time"].index("old")]

    def at(rate):
        p = np.zeros(len(his))
        p[his.argmax()] = rate / his.max()
        return {t: p}

    def learned(told):
        openings = {"plain": [(Header("assistant"), ())]}
        of = [world, grammar, config, "time", [t], members, {t: at(0.5)[t][None]}, at(0.2), {"old": at(told)}, openings]
        return [r.value for r in ground_rows(*of, partial(Row, "x"), [member_label(members[0], 4)]) if r.quantity == "learned"]

    assert learned(0.8) == pytest.approx([0.5])
    assert learned(0.2) == []


def test_answer_tokens_are_counted(world, grammar):
    config = config_of(rows=[2, 3])
    members = [Member("free", 0, 1e-2, 0.0, 0.0, 2, rows, 4) for rows in (2, 3)]
    found = answer_tokens(world, grammar, config, members)
    assert set(found) == {"train"}
    for m, tokens in zip(members, found["train"], strict=True):
        rows = member_rows(world, grammar, config, m)[0]
        assert tokens == sum(len(grammar.answers[turn.topic][turn.answer]) for _, turn in rows)


def test_many_people_have_no_such_grounds(world, grammar):
    config = config_of().model_copy(update={"value": "each"})
    assert ground_rows(world, grammar, config, "time", [0], [], {}, {}, {}, {}, Row, []) == []
