"""Cells, bases and experiments that stray: the density level by level against the whole matrix."""

import jax
import numpy as np
import pytest
from jax import random
from scipy import stats

from bayesgen.infer.hypotheses import Cells
from bayesgen.infer.nested import Nested
from tests.infer.tables import SPREADS, array, matrix

RNG = np.random.default_rng(0)
C = 9
CELLS = Cells(  # unlike numbers of cells a base, and of bases an experiment
    {},
    *(array(np.zeros(C)), array(np.ones(C)), array(RNG.uniform(0.01, 0.3, C)), array(np.ones(C))),
    jax.numpy.array([0, 0, 1, 2, 2, 2, 3, 4, 4]),
    jax.numpy.array([0, 0, 1, 1, 2]),
)
MEAN, Y = RNG.normal(size=C), RNG.normal(size=C)
WHOLE = {"level by level": SPREADS, "no bases": {**SPREADS, "base": 0.0}, "no experiments": {**SPREADS, "experiment": 0.0}}
OUT = {
    "a cell": [3],
    "two of a base": [3, 5],
    "a base": [0, 1],
    "an experiment": [3, 4, 5, 6],
    "its only base": [7, 8],
    "all but one": [*range(8)],
}
NEAR = 2e-5  # nats: float32 sums of ten terms of a few nats


def nested(spread, counted_C=None, mean_C=MEAN):
    counted_C = CELLS.counted_C if counted_C is None else array(counted_C)
    return Nested(array(mean_C), CELLS.variance_C, counted_C, CELLS.base_C, CELLS.experiment_B, **spread)


def exact(spread, y_C=Y, of=slice(None)):
    return stats.multivariate_normal(MEAN[of], matrix(CELLS, spread)[of][:, of]).logpdf(y_C[of])


def without(out):
    return np.isin(np.arange(C), out, invert=True)


@pytest.mark.parametrize("case", WHOLE)
def test_the_density_is_the_normals_with_the_whole_matrix(case):
    spread = WHOLE[case]
    assert float(nested(spread).log_prob(array(Y))) == pytest.approx(exact(spread), abs=NEAR)


@pytest.mark.parametrize("name", SPREADS)
def test_trap_each_spread_tells(name):
    """Negative control of the test above: half as much again of any one of them is another density by far more than it allows."""
    assert abs(float(nested({**SPREADS, name: 1.5 * SPREADS[name]}).log_prob(array(Y))) - exact(SPREADS)) > 1000 * NEAR


@pytest.mark.parametrize("case", OUT)
def test_cells_held_out_leave_the_marginal_of_the_rest(case):
    counted = without(OUT[case])
    found = nested(SPREADS, counted).log_prob(array(Y))
    assert float(found) == pytest.approx(exact(SPREADS, of=counted), abs=NEAR)
    elsewhere = np.where(counted, Y, 50.0)
    assert float(nested(SPREADS, counted).log_prob(array(elsewhere))) == float(found)


@pytest.mark.parametrize("case", OUT)
@pytest.mark.parametrize("whole", WHOLE)
def test_others_are_the_normal_given_the_counted(case, whole):
    """Second road: conditioning of the whole matrix, in double precision."""
    K, out, rest = matrix(CELLS, WHOLE[whole]), OUT[case], np.flatnonzero(without(OUT[case]))
    gain = K[np.ix_(out, rest)] @ np.linalg.inv(K[np.ix_(rest, rest)])
    mean_C, variance_C = nested(WHOLE[whole], without(out)).given_counted(array(Y))
    assert np.asarray(mean_C)[out] == pytest.approx(MEAN[out] + gain @ (Y - MEAN)[rest], abs=NEAR)
    assert np.asarray(variance_C)[out] == pytest.approx(np.diag(K[np.ix_(out, out)] - gain @ K[np.ix_(rest, out)]), abs=NEAR)
    assert np.abs(gain).max() > 0.1 or case in ("an experiment", "its only base") or whole != "level by level"  # they tell something


def test_no_cells_say_nothing():
    assert float(nested(SPREADS, np.zeros(C)).log_prob(array(Y))) == 0


@pytest.mark.parametrize("case", ["none", *OUT])
def test_slopes_are_the_marginals_own(case):
    """What NUTS goes by: no division by an empty base's weight comes through."""
    counted = without(OUT.get(case, []))
    slopes = jax.grad(lambda spread: nested(spread, counted).log_prob(array(Y)))({k: array(v) for k, v in SPREADS.items()})
    for name, slope in slopes.items():
        low, high = (exact({**SPREADS, name: SPREADS[name] + h}, of=counted) for h in (-1e-4, 1e-4))
        assert float(slope) == pytest.approx((high - low) / 2e-4, abs=1e-4)  # float32, of slopes of a nat


def test_samples_have_that_mean_and_matrix():
    n = 40_000
    y_SxC = np.asarray(nested(SPREADS).sample(random.key(0), (n,)), float)
    K = matrix(CELLS, SPREADS)
    assert np.abs((y_SxC.mean(axis=0) - MEAN) / np.sqrt(np.diag(K) / n)).max() < 4.5  # standard errors, the largest of 9
    error = np.sqrt((np.outer(np.diag(K), np.diag(K)) + K**2) / n)  # of an entry
    assert np.abs((np.cov(y_SxC.T) - K) / error).max() < 4.5  # the largest of 45
    assert np.abs((np.cov(y_SxC.T) - matrix(CELLS, {**SPREADS, "base": 0.0})) / error).max() > 20  # negative control
