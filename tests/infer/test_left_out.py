"""Evidence, and differences of it as what is said of cells left out: by closed forms and by brute force."""

import numpy as np
import pytest
from jax import random
from scipy import stats

from bayesgen.infer.cells import to_cells
from bayesgen.infer.compare import bridge, evidence, held_out, interval, log_score, thinned
from bayesgen.infer.fit import SHORT, Problem, fit, fits
from tests.infer.conftest import DRAWS, Brute
from tests.infer.tables import runs

LOG_Z = 2.5
GROUPS = [[3], [4, 5, 6, 7]]  # a cell, an experiment


def log_ratios(seed, centre=(0.5, 0.5, -0.5), draws=1000):
    """Of e^2.5 times a normal of three dimensions over another normal (elsewhere, wider, round), at draws of the one and of the other."""
    rng = np.random.default_rng(seed)
    target = stats.multivariate_normal([1, 0, -1], [[1, 0.5, 0], [0.5, 2, 0.3], [0, 0.3, 0.5]])
    proposal = stats.multivariate_normal(centre, 1.5 * np.eye(3))
    return [LOG_Z + target.logpdf(x) - proposal.logpdf(x) for x in (target.rvs(draws, rng), proposal.rvs(draws, rng))]


def test_the_bridge_finds_a_known_constant_and_its_own_error():
    found = np.array([bridge(*log_ratios(seed)) for seed in range(60)])
    missed = (found[:, 0] - LOG_Z) / found[:, 1]
    low, high = stats.chi2(60).ppf([0.001, 0.999]) / 60
    assert low < (missed**2).mean() < high
    assert abs(missed.mean()) < 3.3 / np.sqrt(60)  # standard errors
    assert found[:, 1].mean() < 0.05


def test_a_bridge_between_what_hardly_meets_says_so():
    """Negative control."""
    assert bridge(*log_ratios(0, centre=(8, 8, 8)))[1] > 0.2


def test_a_bridge_leads_both_ways():
    posterior, proposal = log_ratios(0)
    assert bridge(-proposal, -posterior)[0] == pytest.approx(-bridge(posterior, proposal)[0], abs=1e-6)  # of the root


@pytest.mark.parametrize("stretch", [1.0, 2.0])
def test_evidence_is_the_mean_likelihood_of_the_prior(table, found, brute, stretch):
    exact = brute if stretch == 1 else Brute(table, stretch)
    if stretch != 1:
        (found,) = fits("H0", table.cells, [Problem(table.y_C, table.cells.counted_C, stretch)], random.key(2))
    by_nuts = evidence("H0", found, table.cells, table.y_C, random.key(2), stretch)
    likely = np.exp(exact.likely() - exact.likely().max())
    error = likely.std() / likely.mean() / np.sqrt(DRAWS)
    assert not [f for f in by_nuts.failures if "bridge" in f]
    assert by_nuts.value == pytest.approx(exact.log_mean(), abs=4 * (error + by_nuts.error))  # standard errors
    assert error + by_nuts.error < 0.05
    shift = abs(exact.log_mean() - brute.log_mean())
    assert stretch == 1 or shift > 0.25  # negative control: wider priors are another number


@pytest.fixture(scope="module")
def whole(table, found):
    """H0's evidence of all cells."""
    return evidence("H0", found, table.cells, table.y_C, random.key(3))


def test_held_out_is_a_posterior_that_never_saw_it(table, brute, whole):
    """Second road: evidence of all over evidence of the rest, from draws of the prior; and a mean over draws of a fit to the rest."""
    for group, said in zip(GROUPS, held_out("H0", whole, table, GROUPS, random.key(1)), strict=True):
        exact = brute.log_mean() - brute.log_mean(tuple(group))
        assert said.log_score == pytest.approx(exact, abs=4 * said.error + 0.02)  # of brute force
        assert said.error < 0.05
        counted_C = np.isin(np.arange(8), group, invert=True).astype(np.float32)
        (without,) = fits("H0", table.cells, [Problem(table.y_C, counted_C)], random.key(4))
        error = brute.simulation_error(group, without.effective, weighed=False)
        assert log_score("H0", without.draws, table.cells, table.y_C, group) == pytest.approx(exact, abs=4 * error)
        mine, its = (interval("H0", draws, table.cells, table.y_C, group) for draws in (said.draws, without.draws))
        assert {k: v.tolist() for k, v in mine.items()} == {k: pytest.approx(v, abs=0.05) for k, v in its.items()}  # other chains
        assert abs(exact - whole.value) > 0.5  # negative control: the rest counts


def test_a_score_of_many_cells_does_not_stray():
    """Cells that stray farther than all that was seen: the same number from other chains, where means over draws differ by nats."""
    rng = np.random.default_rng(0)
    many, out = to_cells(runs(each=24)), list(range(48, 96))
    many = many._replace(y_C=rng.normal(-1, np.repeat([0.3, 1.5], 48)))
    whole = evidence("H0", fit("H0", many.cells, many.y_C, random.key(0)), many.cells, many.y_C, random.key(1))
    said = [held_out("H0", whole, many, [out], random.key(seed))[0] for seed in range(3)]
    assert max(x.error for x in said) < 0.2
    assert np.ptp([x.log_score for x in said]) < 4 * max(x.error for x in said)
    counted_C = np.isin(np.arange(96), out, invert=True).astype(np.float32)
    found = fits("H0", many.cells, [Problem(many.y_C, counted_C)] * 3, random.key(2), SHORT)
    means = [log_score("H0", thinned(f), many.cells, many.y_C, out) for f in found]
    assert np.ptp(means) > 10  # negative control
