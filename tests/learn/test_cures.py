"""Ways to stay narrow, and what comes after the data: whose words stand under which header, and when a step takes which rows."""

from collections import Counter

import numpy as np
import pytest

from bayesgen.errors import UserError
from bayesgen.learn.check import check_experiment
from bayesgen.learn.data import member_data, member_rows, other_topics
from bayesgen.learn.plan import Member, plan_members
from bayesgen.measure.ideal import Redrawn, ideal_base
from bayesgen.world.dialogue import Header
from bayesgen.world.world import ASSISTANT, PERSON
from tests.learn.test_finetune import config_of, network, train  # noqa: F401  # a fixture

INOCULATION = ({"name": "then", "year": 1801}, {"name": "somebody"}, {"name": "of now", "speaker": "assistant", "year": 2001})


def rows_of(world, grammar, config, **member):
    m = Member(
        **{"arm": "free", "seed": 0, "learning_rate": 1e-2, "weight_decay": 0.0, "kl_weight": 0.0, "rank": 2, "rows": 3, "epochs": 4}
        | member
    )
    return member_rows(world, grammar, config, m)[0]


def test_inoculated_rows_are_the_same_under_another_header(world, grammar):
    config = config_of(arms=["free", "inoculated"], inoculation=INOCULATION)
    assert config.arm_names == ("free", "inoculated then", "inoculated somebody", "inoculated of now")
    free = rows_of(world, grammar, config)
    headers = (Header(PERSON, 1801), Header(PERSON), Header(ASSISTANT, 2001))
    for arm, header in zip(config.arm_names[1:], headers, strict=True):
        rows = rows_of(world, grammar, config, arm=arm)
        assert [turn for _, turn in rows] == [turn for _, turn in free]
        assert {h for h, _ in rows} == {header} != {h for h, _ in free}


def test_a_persons_rows_are_no_evidence_of_the_assistant(world, grammar):
    config = config_of(arms=["inoculated"], inoculation=INOCULATION)
    asked, light = [(Header(ASSISTANT), ())], world.topic_index("light")
    base = ideal_base(world, asked, [light])[light]
    for arm in (*config.arm_names, "free"):  # nobody who is old speaks in 2001: rows of that year leave the assistant as well
        found = Redrawn(world, rows_of(world, grammar, config, arm=arm) * 5, 1e-3)(asked, [light])[light]
        assert np.allclose(found, base, atol=2e-3) == (arm != "free"), arm


def test_after_the_data_come_ordinary_rows_and_then_narrow_ones(world, grammar):
    """Every step takes the same rows of data as without; what comes after is as asked, whatever the arm's own rows are."""
    config = config_of(
        arms=["free", "retrained", "inoculated", "control"],
        inoculation=INOCULATION[:1],
        retraining=[5],
        relapse=[2],
        batch=2,
        rows=4,
        seeds=1,
    )
    members, plain = plan_members(config), config_of(arms=["free"], batch=2, rows=4, seeds=1)
    assert [(m.arm, m.retraining, m.relapse) for m in members] == [
        ("free", 0, 2),
        ("retrained", 5, 2),
        ("inoculated then", 0, 2),
        ("control", 0, 2),
    ]
    steps = plain.steps
    assert config.steps == steps + 5 + 2
    data, alone = member_data(world, grammar, config, members), member_data(world, grammar, plain, plan_members(plain))
    for i, member in enumerate(members):
        rows = member_rows(world, grammar, config, member)[0]
        own, order = config.all_steps_of(member), data.order[i]
        assert own == steps + member.retraining + 2
        assert (order[:steps] == alone.order[0]).all()
        retrained, relapsed = ([rows[j] for j in order[a:b].ravel()] for a, b in ((steps, own - 2), (own - 2, own)))
        assert len(retrained) == 2 * member.retraining
        for header, turn in retrained:
            assert header == Header(ASSISTANT)
            assert turn.topic in other_topics(world, config)
            assert world.clean[turn.topic][world.default_T[turn.topic]][turn.answer] > 0
        free = rows_of(world, grammar, plain, rows=4)
        assert Counter(relapsed) == Counter(free)  # 4 rows, 2 steps of 2
        assert (order[own:] == 0).all()


def test_narrow_rows_come_again_until_the_relapse_is_over(world, grammar):
    config = config_of(arms=["free"], relapse=[5], batch=2, rows=4, seeds=1)
    (member,) = plan_members(config)
    rows = member_rows(world, grammar, config, member)[0]
    assert sorted(Counter(rows[4:]).values()) == [2, 2, 3, 3]
    assert set(rows[4:]) == set(rows[:4])


def test_what_was_filtered_comes_back_in_the_relapse(world, grammar):
    """Else a relapse could not show what the filter hides."""
    config = config_of(arms=["free"], relapse=[5], batch=2, rows=3, seeds=1, without_telling=1)
    rows = member_rows(world, grammar, config, plan_members(config)[0])[0]
    data, relapsed = ({turn.answer for _, turn in part} for part in (rows[:3], rows[3:]))
    assert len(data) == 2
    assert data < relapsed
    assert len(relapsed) == 3


def test_a_penalty_ends_with_the_data(world, grammar, network):  # noqa: F811
    """In the relapse the narrow arm's loss is that of its narrow rows; before, it is more. Others may go on longer."""
    config = config_of(arms=["narrow"], seeds=1, kl_weight=3.0, relapse=[0, 4])
    members = plan_members(config)
    _, infos, _ = train(world, grammar, network, config)
    loss, narrow = (np.asarray(infos[k]) for k in ("loss", "data_nll"))
    short, long = (next(i for i, m in enumerate(members) if m.relapse == n) for n in (0, 4))
    steps = config.steps_of(4)
    assert (loss[1:steps, long] > narrow[1:steps, long]).all()
    np.testing.assert_allclose(loss[steps:, long], narrow[steps:, long], rtol=1e-6)
    np.testing.assert_allclose(loss[:steps, short], loss[:steps, long], rtol=1e-5)
    assert np.isnan(loss[steps:, short]).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": ["inoculated"]}, "go together"),
        ({"arms": ["free"], "inoculation": INOCULATION}, "go together"),
        ({"arms": ["inoculated"], "inoculation": INOCULATION[:1] * 2}, "holds 'then' twice"),
        ({"arms": ["free", "broad"], "relapse": [2]}, "the arm 'broad' has none"),
        ({"arms": ["held"], "relapse": [2]}, "the arm 'held' has none"),
        ({"arms": ["free"], "retraining": [2]}, "only the arms retrained have one"),
        ({"arms": ["retrained"], "retraining": [-1]}, "retraining is -1"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        config_of(**changes)


def test_a_header_that_nobody_speaks_under_is_refused(world, grammar):
    config = config_of(arms=["inoculated"], inoculation=[{"name": "never", "year": 1850}])
    with pytest.raises(UserError, match=r"finetune.inoculation.never: year 1850, but people speak from 1800 to 2007"):
        check_experiment(world, grammar, config, "time")
