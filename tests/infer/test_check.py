"""Checks pass on what a hypothesis makes, as often as they say, and fail on what it does not."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import stats
from scipy.special import expit, logit

from bayesgen.infer.check import EDGE, Check, check, statistics
from bayesgen.infer.fit import fit
from tests.infer.tables import SPREADS, of_draws, with_y

A, DRAWS = -0.8, 400


def known(**spreads):
    """A posterior that knows the truth."""
    return of_draws(**{k: np.full(DRAWS, v) for k, v in {"a": A, **SPREADS, **spreads}.items()})


def made(table, seed, **spreads):
    """The table, as numpy makes it from the same truth."""
    floor, ceiling = np.asarray(table.cells.floor_C, float), np.asarray(table.cells.ceiling_C, float)
    y = with_y(table.cells, {**SPREADS, **spreads}, logit(floor + (ceiling - floor) * expit(A)), np.random.default_rng(seed))
    return table._replace(y_C=y)


def test_shares_are_uniform_where_the_hypothesis_is_true(table):
    """So that each check fails once in fifty, as its edges say."""
    found = [check("H0", known(), made(table, seed), random.key(seed)) for seed in range(40)]
    for name in found[0]:
        assert stats.kstest([of[name].share for of in found], "uniform").pvalue > 0.002, name  # one in a hundred, of five
    strayed = [check("H0", known(), made(table, seed, cell=1.5), random.key(seed)) for seed in range(40)]
    for name in ("largest residual", "most residual spread in one base"):  # negative control: four times the noise
        assert stats.kstest([of[name].share for of in strayed], "uniform").pvalue < 1e-6


def test_checks_pass_on_a_table_that_the_hypothesis_made(table):
    mine = made(table, 0)
    assert all(c.passed for c in check("H0", fit("H0", mine.cells, mine.y_C, random.key(0)), mine, random.key(1)).values())


def test_a_gross_outlier_is_seen(table):
    """By what was found of the table itself, outlier included."""
    mine = made(table, 0)
    mine.y_C[5] = 9.2  # as sure as a cell can be
    of = check("H0", fit("H0", mine.cells, mine.y_C, random.key(0)), mine, random.key(1))
    assert not of["largest residual"].passed
    assert of["least breadth (log odds)"].passed


def test_numbers_by_hand():
    y, mean = np.array([[1.0, 3.0, 2.0, 7.0]]), np.array([[0.0, 0.0, 2.0, 2.0]])
    found = statistics(y, mean, np.array([0, 0, 1, 2]))
    assert found["least breadth (log odds)"] == [1]
    assert found["greatest breadth (log odds)"] == [7]
    assert found["largest residual"] == [5]  # of 1, 3, 0, 5
    assert found["most residual spread in one base"] == [1]  # of 1 and 3; no other base has two cells
    assert found["kurtosis of residuals"] == pytest.approx(stats.kurtosis([1, 3, 0, 5], fisher=False))


def test_what_is_seen_and_made_is_of_the_table(table):
    mine = made(table, 0)
    least = check("H0", known(), mine, random.key(0))["least breadth (log odds)"]
    assert least.seen == pytest.approx(mine.y_C.min())
    rng = np.random.default_rng(1)
    others = [made(table, rng.integers(10**9)).y_C.min() for _ in range(2000)]
    assert least.made == pytest.approx(np.quantile(others, (0.05, 0.95)), abs=0.3)  # 4 standard errors of such ends of 400


@pytest.mark.parametrize(("share", "passed"), [(0.0, False), (EDGE, True), (0.5, True), (1 - EDGE, True), (1.0, False)])
def test_a_check_fails_at_either_end(share, passed):
    assert Check(0.0, (0.0, 1.0), share).passed == passed


def test_bases_of_one_cell_each_have_no_spread_to_be_wrong_about(table):
    """Such a table is no worse for that: nothing is seen, and nothing else was to be expected."""
    single = made(table, 0)._replace(cells=table.cells._replace(base_C=jnp.arange(8), experiment_B=jnp.zeros(8, int)))
    of = check("H0", known(), single, random.key(0))
    assert all(c.passed for name, c in of.items() if "base" in name)
