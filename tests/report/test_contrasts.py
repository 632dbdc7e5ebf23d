"""Contrasts: pairs by seed, exact rows, and what each verdict needs."""

import numpy as np
import pytest
from pydantic import ValidationError

from bayesgen.errors import UserError
from bayesgen.measure.onset import share
from bayesgen.measure.rows import Row, to_table
from bayesgen.measure.settings import MeasureConfig
from bayesgen.report.contrasts import Contrast, Pick, by_seed, check_contrasts, find, measurable
from tests.learn.test_finetune import config_of

STORY = {"contexts": {"here": "old", "there": "mid"}, "probes": ["light", "fuel"], "setting": {"learning_rate": 1e-2, "rows": 3}}
ON = {"here": 0.0, "there": -0.2}  # what another context does to a rate
SEEDS = 4


def table(gap=0.3, spread=0.01, seeds=SEEDS):
    """Free arm `gap` above the control, seed by seed; both rise by .1 a seed. Base .05, exact .5. Other rows are traps."""
    rows = []
    for context, value in STORY["contexts"].items():
        for topic, shift in (("light", 0.02), ("fuel", -0.02), ("bird", 0.3)):
            common = dict(topic=topic, context=context, probe=value)
            rows += [Row("x", "base", "rate", 0.05 + shift, **common), Row("x", "ideal free", "rate", 0.5 + shift, rows=3, **common)]
            for seed in range(seeds):
                level = 0.1 + 0.1 * seed + shift + ON[context]
                at = dict(seed=seed, step=9, learning_rate=1e-2, rows=3)
                noise = spread * (0.5 if seed % 2 else -0.5)
                rows += [
                    Row("x", "control", "rate", level, **common, **at),
                    Row("x", "free", "rate", level + gap + noise, **common, **at),
                    Row("x", "free", "rate", 0.9, **common, **{**at, "rows": 1}),  # another number of rows
                    Row("x", "free", "rate", 0.9, **common, **{**at, "learning_rate": 1e-3}),
                    Row("x", "free", "rate", 0.9, **common, **{**at, "step": 5}),  # not the end
                    Row("x", "free", "rate", 0.9, **common, **at, scale=2.0),
                    Row("x", "free", "rate", 0.9, **{**common, "probe": "new"}, **at),
                ]
    for seed in range(seeds):
        at = dict(seed=seed, step=9, learning_rate=1e-2, rows=3)
        rows += [Row("x", "free", "converted", float(seed < 3), context="here", **at), Row("x", "free", "nll_train", 1.5, **at)]
    return to_table(rows)


def judged(rows, of, minus=None, **rest):
    return find(Contrast(name="x", of=Pick(**of), minus=Pick(**minus) if minus else None, **rest), lambda pick: by_seed(rows, pick, STORY))


def test_a_pick_means_the_counted_value_on_the_probes_at_the_end():
    rows = table(spread=0)
    assert by_seed(rows, Pick(arm="control"), STORY) == pytest.approx({s: 0.1 + 0.1 * s for s in range(SEEDS)})
    assert by_seed(rows, Pick(arm="control", context="there"), STORY) == pytest.approx({s: -0.1 + 0.1 * s for s in range(SEEDS)})
    assert by_seed(rows, Pick(arm="free", topics=("bird",)), STORY) == pytest.approx({s: 0.7 + 0.1 * s for s in range(SEEDS)})
    assert by_seed(rows, Pick(arm="free", where={"rows": 1}), STORY) == pytest.approx(dict.fromkeys(range(SEEDS), 0.9))
    assert by_seed(rows, Pick(arm="free", value="new"), STORY) == pytest.approx(dict.fromkeys(range(SEEDS), 0.9))
    assert by_seed(rows, Pick(arm="free", quantity="nll_train"), STORY) == dict.fromkeys(range(SEEDS), 1.5)  # of no topic
    assert by_seed(rows, Pick(arm="base"), STORY) == pytest.approx({-1: 0.05})


def test_a_search_finds_the_value_and_the_context_with_most():
    """Neither named: the assistant's own value has more and does not count, nor does a context with facts; of each seed the most over
    topics together, not topic by topic.
    """
    contexts = {**STORY["contexts"], "told facts": "mid"}
    story = {**STORY, "contexts": contexts, "ordinary": "new", "searched": ["here", "there"], "snapshots": [5, 9]}
    rates = {
        ("here", "old"): (0.2, 0.4),
        ("here", "mid"): (0.5, 0.0),
        ("there", "mid"): (0.6, 0.2),
        ("there", "new"): (0.9, 0.9),
        ("there", "old"): (0.1, 0.1),
        ("told facts", "mid"): (1.0, 1.0),
    }
    rows = [
        Row("x", "free", "rate", p, context=c, probe=v, topic=t, seed=s, step=step, learning_rate=1e-2, rows=3)
        for (c, v), of in rates.items()
        for t, p in zip(("light", "fuel"), of, strict=True)
        for s in (0, 1)
        for step in (5, 9)
    ]
    here = lambda **of: by_seed(to_table(rows), Pick(arm="free", search=True, **of), story)  # noqa: E731
    assert here() == pytest.approx({0: 0.4, 1: 0.4})  # (.6 + .2) / 2
    assert here(context="here") == pytest.approx({0: 0.3, 1: 0.3})  # old's (.2 + .4) / 2, before mid's (.5 + 0) / 2
    assert here(value="old") == pytest.approx({0: 0.3, 1: 0.3})  # the context with most of it
    early = [r for r in rows if r.step == 5]
    later = [Row(**{**vars(r), "value": 0.0}) for r in rows if r.step == 9]
    found = lambda n: by_seed(to_table(early + later), Pick(arm="free", search=True, where={"snapshot": n}), story)  # noqa: E731
    assert (found(1)[0], found(2)[0]) == (pytest.approx(0.4), 0.0)
    with pytest.raises(ValidationError, match="search looks for a value, and frobenius is of none"):
        Pick(arm="free", quantity="frobenius", search=True)


def test_a_norm_is_that_of_the_whole_update():
    rows = [Row("x", "free", "frobenius", v, topic=t, seed=0, step=9, learning_rate=1e-2, rows=3) for t, v in (("all", 5.0), ("qkv", 3.0))]
    assert by_seed(to_table(rows), Pick(arm="free", quantity="frobenius"), STORY) == {0: 5.0}


def test_every_seed_is_averaged_over_the_same_topics():
    story = {"contexts": {"here": "old"}, "probes": ["a", "b"], "setting": {}}
    values = ((0, "a", 1.0), (1, "a", 3.0), (0, "b", 9.0), (1, "b", float("nan")))
    rows = to_table([Row("x", "free", "transfer", v, topic=t, seed=s, context="here") for s, t, v in values])
    assert by_seed(rows, Pick(arm="free", quantity="transfer"), story) == {0: 1.0, 1: 3.0}


def test_arms_are_paired_by_seed():
    """The seeds differ by .1 each, the arms by .3 within a seed: only pairs can tell so well. The third seed is in one arm only."""
    rows = table()
    paired = judged(rows, {"arm": "free"}, {"arm": "control"}).interval
    assert paired.mean == pytest.approx(0.3, abs=0.01)
    assert paired.high - paired.low < 0.03
    alone = judged(rows, {"arm": "free"}).interval
    assert alone.high - alone.low > 0.3
    gone = rows.filter((rows["arm"] != "control") | (rows["seed"] != 3))
    assert judged(gone, {"arm": "free"}, {"arm": "control"}).interval.mean == pytest.approx(0.3, abs=0.01)  # not .25 or .35


def test_exact_and_untrained_rows_stand_against_every_seed():
    rows = table(spread=0)
    means = 0.1 + 0.1 * np.arange(SEEDS)
    base = judged(rows, {"arm": "control"}, {"arm": "base"}).interval
    exact = judged(rows, {"arm": "ideal free"}, {"arm": "control"}).interval
    assert (base.mean, exact.mean) == (pytest.approx(np.mean(means) - 0.05), pytest.approx(0.5 - np.mean(means)))
    assert base.high - base.low == pytest.approx(exact.high - exact.low)
    both = judged(rows, {"arm": "ideal free"}, {"arm": "base"})
    assert both.interval.mean == pytest.approx(0.45)
    assert np.isnan(both.interval.low)  # two exact numbers: no spread, and yet a verdict
    assert both.verdict == "agrees"
    assert judged(rows, {"arm": "ideal free"}, {"arm": "base"}, expect="below").verdict == "disagrees"


@pytest.mark.parametrize(
    ("gap", "spread", "verdicts"),
    [  # above, below, zero (margin .05)
        (0.3, 0.01, ("agrees", "disagrees", "disagrees")),
        (-0.3, 0.01, ("disagrees", "agrees", "disagrees")),
        (0.0, 0.01, ("disagrees", "disagrees", "agrees")),
        (0.0, 0.5, ("not told", "not told", "not told")),
        (0.03, 0.001, ("disagrees", "disagrees", "agrees")),  # there, and too small to count
        (0.07, 0.01, ("agrees", "disagrees", "disagrees")),
        (0.04, 0.04, ("not told", "disagrees", "not told")),  # the mean must be beyond what counts
    ],
)
def test_verdicts(gap, spread, verdicts):
    rows = table(gap, spread, seeds=10)
    for expect, verdict in zip(("above", "below", "zero"), verdicts, strict=True):
        assert judged(rows, {"arm": "free"}, {"arm": "control"}, expect=expect).verdict == verdict, expect
    wide = judged(rows, {"arm": "free"}, {"arm": "control"}, expect="zero", margin=2.0)
    assert wide.verdict == "agrees"


def test_a_share_of_seeds_has_the_interval_of_a_share():
    found = judged(table(), {"arm": "free", "quantity": "converted"})
    assert found.interval == share(3, 4)
    assert found.verdict == "agrees"


@pytest.mark.parametrize(
    ("pick", "expected"),
    [
        ({"arm": "free", "context": "hre"}, "no context 'hre'.*did you mean 'here'"),
        ({"arm": "free", "quantity": "raet"}, "no quantity 'raet'.*did you mean 'rate'"),
        ({"arm": "fre"}, "nothing was measured for arm 'fre', rate under 'here' on light, fuel"),
        ({"arm": "free", "topics": ("brd",)}, "nothing was measured for arm 'free', rate under 'here' on brd"),
        ({"arm": "free", "value": "nwe"}, "nothing was measured"),
        ({"arm": "free", "where": {"rows": 2}}, "nothing was measured"),
        ({"arm": "free", "quantity": "onset"}, "nothing was measured"),
    ],
)
def test_what_is_not_there_is_one_line(pick, expected):
    for given in ((pick, None), ({"arm": "free"}, pick)):
        with pytest.raises(UserError, match=expected) as error:
            judged(table(), *given)
        assert "\n" not in str(error.value)


def test_a_contrast_without_a_counterpart_says_why():
    told = Contrast(name="x", published=".45", reading="nobody is asked this")
    assert not measurable(told, config_of(arms=["free"]))
    for lacking in ({"published": ".45"}, {"reading": "why"}, {"published": ".45", "reading": "why", "minus": Pick(arm="base")}):
        with pytest.raises(ValidationError, match="without `of`"):
            Contrast(name="x", **lacking)


@pytest.mark.parametrize(
    ("pick", "expected"),
    [
        ({"arm": "ideal fre"}, "arm: 'ideal fre' is unknown; did you mean 'ideal free'"),
        ({"arm": "ideal narrow"}, "arm: 'ideal narrow' is unknown"),
        ({"arm": "told", "context": "there"}, "told, rate is measured under 'here' only, not under 'there'"),
        ({"arm": "free", "quantity": "transfer", "context": "there"}, "transfer is measured under 'here' only"),
        ({"arm": "free", "quantity": "converted", "context": "there"}, "converted under context: 'there' is unknown"),
        ({"arm": "free", "quantity": "rate_ablated"}, "rate_ablated under context: 'here' is unknown"),
        ({"arm": "free", "context": "there", "topics": ("river",)}, "topic: 'river' is unknown"),
    ],
)
def test_what_will_not_be_measured_is_said_before_training(world, pick, expected):
    f = config_of(arms=["free"])
    m = MeasureConfig(trait="time", contexts=[{"name": "here"}, {"name": "there", "year": 2001}], gate_prompts=1, scales=[2.0], samples=0)
    check_contrasts(
        [Contrast(name="x", of=Pick(arm="free", context="there", topics=("light",)), minus=Pick(arm="ideal free"))], world, f, m
    )
    with pytest.raises(UserError, match=expected):
        check_contrasts([Contrast(name="x", of=Pick(**pick))], world, f, m)


def test_a_contrast_is_strict():
    for bad in ({"arm": "free", "contxt": "here"}, {"context": "here"}):
        with pytest.raises(ValidationError):
            Contrast(name="x", of=bad)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValidationError):
        Contrast(name="x", of=Pick(arm="free"), margin=0.0)


def test_only_what_is_trained_is_measurable():
    f = config_of(arms=["free", "control"], rows=[3, 1])
    ok = {"free": True, "control": True, "broad": False, "base": True, "told": True, "ideal free": True, "control new": False}
    for arm, expected in ok.items():
        assert measurable(Contrast(name="x", of=Pick(arm=arm)), f) == expected
        assert measurable(Contrast(name="x", of=Pick(arm="free"), minus=Pick(arm=arm)), f) == expected
    assert [measurable(Contrast(name="x", of=Pick(arm="free", where={"rows": n})), f) for n in (1, 2, 3)] == [True, False, True]
