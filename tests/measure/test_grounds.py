"""What hypotheses go by, against counts and closed forms."""

import numpy as np
import pytest

from bayesgen.learn.data import member_rows
from bayesgen.learn.plan import Member
from bayesgen.measure.grounds import BROAD, NARROW, answer_tokens, frequencies, ground_rows, margins
from bayesgen.measure.rows import Row
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
    base, after = np.zeros((1, len(his))), np.zeros((1, len(his)))
    base[0, his.argmax()], after[0, his.argmax()] = 0.2 / his.max(), 0.5 / his.max()  # rates of .2 and .5
    gained = margins(world, "time", "old", [t], {t: after}, {t: base[0]})
    assert gained == pytest.approx([np.log(4)])  # odds of 1:1 from 1:4
    assert margins(world, "time", "old", [t], {t: base}, {t: base[0]}) == pytest.approx([0])


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
    assert ground_rows(world, grammar, config, "time", [0], [], {}, {}, Row, []) == []
