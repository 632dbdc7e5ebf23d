"""Breaks planted in noise are found; a flat curve has none that counts; the share of seeds by scipy and by simulation."""

from functools import partial

import numpy as np
import pytest
from scipy import stats

from bayesgen.learn.plan import Member
from bayesgen.measure.onset import change_point, share
from bayesgen.measure.rows import Row
from bayesgen.measure.settings import Context, MeasureConfig
from bayesgen.measure.suite import _onset_rows
from tests.learn.test_finetune import config_of

STEPS = list(range(0, 300, 10))


@pytest.mark.parametrize("at", [1, 7, 15, 29])
def test_planted_breaks_are_found(at):
    """Exactly without noise; with noise of a tenth of the jump too; with a jump far below the noise the break is anywhere."""
    rng, level = np.random.default_rng(at), np.where(np.arange(30) < at, 0.1, 0.8)
    assert change_point(STEPS, level.tolist()) == STEPS[at]
    assert change_point(STEPS, (-level).tolist()) == STEPS[at]
    found = [change_point(STEPS, (level + rng.normal(0, 0.07, 30)).tolist()) for _ in range(200)]
    assert np.mean(np.array(found) == STEPS[at]) > 0.99
    lost = [change_point(STEPS, (0.01 * level + rng.normal(0, 0.07, 30)).tolist()) for _ in range(200)]
    assert np.mean(np.array(lost) == STEPS[at]) < 0.3


def test_the_break_is_the_best_of_all_splits():
    rng = np.random.default_rng(0)
    for _ in range(20):
        curve = rng.uniform(size=12)
        left = {i: 11 * np.var(np.concatenate([curve[:i] - curve[:i].mean(), curve[i:] - curve[i:].mean()])) for i in range(1, 12)}
        assert change_point(STEPS[:12], curve.tolist()) == STEPS[min(left, key=left.__getitem__)]
    with pytest.raises(ValueError, match="a curve of 1 values has no break"):
        change_point([0], [0.5])


def test_a_flat_curve_has_a_break_but_did_not_convert(world):
    """Skill of five seeds on the probe `light`: a leap at step 20, none, a drift below half of the told, a fall, a leap to nan."""
    f, light = config_of(seeds=5, arms=["free"]), world.topic_index("light")
    m = MeasureConfig(trait="time", contexts=(Context(name="x"),), gate_prompts=1, scales=(2.0,), samples=0)
    members = [Member("free", seed, 1e-2, 0.0, 0.0, 2, 3, 4) for seed in range(5)]
    old, new = (world.clean[light][world.values["time"].index(v)] for v in ("old", "new"))
    mixed = lambda a: {light: a * old + (1 - a) * new}  # noqa: E731
    nan = float("nan")
    curves = np.array([[0.1, 0.8, 0.8], [0.1, 0.1, 0.1], [0.1, 0.2, 0.4], [0.8, 0.8, 0.1], [0.1, nan, nan]]).T
    rows = _onset_rows(
        world, partial(Row, "x"), f, m, members, [10, 20, 30], {"x": list(curves)}, {"x": mixed(0.1)}, {"old": mixed(0.9)}, [light]
    )
    found = {(r.quantity, r.seed, r.step): r.value for r in rows if r.arm == "free"}
    assert [found["converted", s, 30] for s in range(5)] == [1, 0, 0, 0, 0]
    assert found["onset", 0, 30] == 20
    assert ("onset", 1, 30) in found  # somewhere, and means nothing
    assert ("onset", 4, 30) not in found
    np.testing.assert_allclose([found["skill", s, step] for step in (10, 20, 30) for s in range(5)], curves.ravel(), rtol=1e-12)
    ends = {r.arm: r.value for r in rows if r.seed < 0}
    assert ends == {"base": pytest.approx(0.1), "told": pytest.approx(0.9)}


def test_share_is_the_jeffreys_interval():
    for seeds in (1, 5, 24):
        for converted in range(seeds + 1):
            mean, low, high = share(converted, seeds)
            assert mean == converted / seeds
            beta = stats.beta(converted + 0.5, seeds - converted + 0.5)
            assert beta.cdf(low) == pytest.approx(0.025 if converted else 0, abs=1e-9)
            assert beta.cdf(high) == pytest.approx(0.975 if converted < seeds else 1, abs=1e-9)
            assert low <= mean <= high
    assert share(12, 24).low < share(12, 24, 0.5).low  # a wider net for more certainty


def test_share_covers():
    """By simulation, mean over true shares: the Jeffreys interval holds what it promises there, and a naive one does not."""
    rng = np.random.default_rng(0)
    truth = rng.beta(0.5, 0.5, 4000)
    drawn = rng.binomial(12, truth)
    intervals = {k: share(int(k), 12) for k in range(13)}
    covered = np.mean([intervals[k].low <= t <= intervals[k].high for k, t in zip(drawn, truth, strict=True)])
    error = np.sqrt(0.95 * 0.05 / 4000)
    assert 0.95 - 4 * error < covered < 0.99  # the ends reach to 0 and 1, which can only add
    wald = 1.96 * np.sqrt(drawn / 12 * (1 - drawn / 12) / 12)
    assert np.mean(np.abs(drawn / 12 - truth) <= wald) < 0.95 - 4 * error
