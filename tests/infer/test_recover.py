"""What is simulated is the hypothesis, ranks tell right posteriors from wrong ones, and comparisons find who made a table."""

import numpy as np
import pytest
from jax import random
from scipy import stats
from scipy.special import expit, logit

from bayesgen.infer import compare, recover
from bayesgen.infer.cells import to_cells
from bayesgen.infer.fit import fit
from bayesgen.infer.recover import (
    BAND,
    RANKS,
    Calibration,
    Guess,
    calibrate,
    confused,
    confusion,
    guess,
    of_tables,
    prior_breadth,
    simulate,
    tables_of,
)
from tests.infer.tables import PRIORS, SPREAD_PRIORS, SPREADS, A, array, matrix, of_draws, runs
from tests.infer.test_hypotheses import eta


def test_simulated_tables_have_the_spreads_that_are_given(table):
    """All three of one and the same draw, whichever that is."""
    given = {k: np.array([0.1, 0.2, 0.3], np.float32) * (1 + i) for i, k in enumerate(SPREADS)}
    found = [simulate("H0", table.cells, random.key(seed), given)[0] for seed in range(20)]
    which = [int(np.argmin(np.abs(given["cell"] - truth["cell"]))) for truth in found]
    assert set(which) == {0, 1, 2}
    for truth, i in zip(found, which, strict=True):
        assert {k: truth[k] for k in SPREADS} == {k: v[i] for k, v in given.items()}
    assert len({float(truth["a"]) for truth in found}) == 20  # of the prior, each time anew


def test_a_simulated_table_is_what_its_parameters_say(table):
    """Squared distances from what is expected, by the matrix of its spreads, are chi-squared; by another one's they are not."""
    floor, ceiling = np.asarray(table.cells.floor_C, float), np.asarray(table.cells.ceiling_C, float)
    given, distances = {k: np.array([v], np.float32) for k, v in SPREADS.items()}, []
    for seed in range(200):
        truth, y = simulate("H0", table.cells, random.key(seed), given)
        left = y - logit(floor + (ceiling - floor) * expit(float(truth["a"])))
        distances.append([left @ np.linalg.solve(matrix(table.cells, {**SPREADS, "base": b}), left) for b in (SPREADS["base"], 1.0)])
    right, wrong = np.array(distances).T
    assert stats.kstest(right, stats.chi2(8).cdf).pvalue > 0.01
    assert stats.kstest(wrong, stats.chi2(8).cdf).pvalue < 1e-6  # negative control


def test_nothing_that_follows_from_parameters_is_ranked(table):
    assert set(simulate("H9", table.cells, random.key(0))[0]) == {*PRIORS["H9"], *SPREAD_PRIORS}


def test_prior_breadth_is_the_priors(table):
    found = prior_breadth("H0", table.cells, random.key(0), 1000)
    floor, ceiling = (np.asarray(x, float)[2] for x in (table.cells.floor_C, table.cells.ceiling_C))
    a = logit((found[:, 2] - floor) / (ceiling - floor))
    assert stats.kstest(a, A.cdf).pvalue > 0.01
    assert stats.kstest(a, stats.norm(0, 2).cdf).pvalue < 1e-3  # negative control


# ranks


def ranks_of(width, simulations=400):
    """A mean with a standard normal prior, measured once: the posterior is N(y / 2, 1 / 2), here `width` times as wide."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=simulations)
    y = truth + rng.normal(size=simulations)
    draws = y[:, None] / 2 + width * np.sqrt(0.5) * rng.normal(size=(simulations, RANKS))
    return (draws < truth[:, None]).sum(axis=1)


def test_ranks_of_an_exact_posterior_are_uniform():
    assert recover._uniform(ranks_of(1.0)) > BAND


@pytest.mark.parametrize("width", [0.6, 1.6])
def test_trap_ranks_of_one_too_narrow_or_too_wide_are_not(width):
    assert recover._uniform(ranks_of(width)) < 1e-3


def test_p_values_of_uniform_ranks_are_small_as_often_as_they_say():
    """Ties of a hundred ranks would spoil this, were they not broken. Twice the lesser of two is small at most so often, and nearly so."""
    rng = np.random.default_rng(1)
    p = np.array([recover._uniform(rng.integers(0, RANKS + 1, 200)) for _ in range(600)])
    for small in (0.05, 0.2):
        low, high = stats.binom(600, small).ppf([0.001, 0.999]) / 600
        assert small / 2 < (p < small).mean() <= high, (small, low)


def test_a_hundred_tables_see_what_is_a_third_too_narrow():
    """Which the ranks alone, by Kolmogorov and Smirnov, do not."""
    ranks = ranks_of(0.67, 100)
    assert stats.kstest((ranks + 0.5) / (RANKS + 1), "uniform").pvalue > BAND
    assert recover._uniform(ranks) < BAND


def test_the_worst_parameter_counts_as_often_as_there_are_any():
    of = Calibration({"good": ranks_of(1.0), "bad": ranks_of(0.6), "fine": ranks_of(1.0)}, {}, 0)
    assert of.p_value == pytest.approx(3 * recover._uniform(ranks_of(0.6)))
    assert Calibration({str(i): ranks_of(1.0) for i in range(50)}, {}, 0).p_value == 1.0


@pytest.mark.parametrize(("shift", "calibrated"), [(0.0, True), (0.7, False)])
def test_who_believes_the_prior_is_calibrated(table, monkeypatch, shift, calibrated):
    """Draws of the prior, whatever the data: true values rank uniformly among them, and 90% intervals hold 90%. Another prior's: not."""
    rng = np.random.default_rng(0)
    believed = {**SPREAD_PRIORS, **PRIORS["H9"]}

    def believe(_name, _cells, problems, *_):
        drawn = [{k: p.rvs((RANKS, 4) if k == "o" else RANKS, random_state=rng) + shift for k, p in believed.items()} for _ in problems]
        return [of_draws(**draws) for draws in drawn]

    monkeypatch.setattr(recover, "fits", believe)
    found = calibrate("H9", table.cells, random.key(0), 150)
    assert set(found.ranks) == {*(k for k in believed if k != "o"), *(f"o[{i}]" for i in range(4))}
    assert (found.p_value > BAND) == calibrated
    low, high = stats.binom(150, 0.9).ppf([0.0005, 0.9995]) / 150  # an interval from draws is a little short of its share
    assert all(low <= share <= high for share in found.covered.values()) == calibrated
    assert found.failed == 0


def test_fits_that_fail_are_counted(table, monkeypatch):
    good = of_draws(a=np.zeros(RANKS), **{k: np.ones(RANKS) for k in SPREADS})
    monkeypatch.setattr(recover, "fits", lambda *_: [good, good._replace(divergences=1), good._replace(r_hat=2.0)])
    assert calibrate("H0", table.cells, random.key(0), 3).failed == 2


# guesses


SCORES = {
    "A": [{"A": 3.0, "B": 1.0, "C": 0.0}, {"A": 1.0, "B": 2.0, "C": 0.0}, {"A": 0.0, "B": -1.0, "C": -9.0}, {"A": 5.0, "B": 0.0, "C": 0.0}],
    "B": [{"A": 0.0, "B": 1.0, "C": 0.0}, {"A": -3.0, "B": -2.0, "C": -4.0}],
    "C": [{"A": 2.0, "B": 1.0, "C": 0.0}, {"A": 0.0, "B": 3.0, "C": 1.0}],
}


def test_who_is_taken_for_whom_by_hand():
    found = confusion(SCORES)
    assert found == {"A": {"A": 0.75, "B": 0.25, "C": 0.0}, "B": {"A": 0.0, "B": 1.0, "C": 0.0}, "C": {"A": 0.5, "B": 0.5, "C": 0.0}}
    assert confused(found) == [("C", "A", 0.5), ("C", "B", 0.5), ("A", "B", 0.25)]
    assert confused(found, 0.3) == [("C", "A", 0.5), ("C", "B", 0.5)]
    assert confused(found, 0.25)[-1] == ("A", "B", 0.25)  # at least so often


def test_trials_of_all_are_put_together_by_who_made_a_table():
    """What A says of its own two tables and of B's one, and what B says; of C's, who said nothing, nothing."""
    trials = {"A": {"evidence": {"A": [3.0, 1.0], "B": [0.0], "C": [7.0]}}, "B": {"evidence": {"A": [1.0, 2.0], "B": [1.0], "C": [8.0]}}}
    found = of_tables(trials, "evidence")
    assert found == {"A": [{"A": 3.0, "B": 1.0}, {"A": 1.0, "B": 2.0}], "B": [{"A": 0.0, "B": 1.0}]}
    assert confusion(found) == {"A": {"A": 0.5, "B": 0.5}, "B": {"A": 0.0, "B": 1.0}}
    assert confusion({"A": []}) == {}


def test_each_makes_its_own_tables_and_what_is_said_of_them_is_told_apart(table, monkeypatch):
    """Stand-ins of two fits: what comes out is in the order of who made a table."""
    draws = {k: np.array([0.1], np.float32) for k in SPREADS}
    made = tables_of({"H0": draws, "H1": draws}, table.cells, random.key(0), 3)
    again = tables_of({"H0": draws, "H1": draws}, table.cells, random.key(0), 3)
    assert all((a == b).all() for truth in made for a, b in zip(made[truth], again[truth], strict=True))
    every = [y for of in made.values() for y in of]
    assert len({float(y[0]) for y in every}) == 6
    monkeypatch.setattr(recover, "fits", lambda name, cells, problems, *_: [p.y_C for p in problems])
    monkeypatch.setattr(recover, "evidence", lambda name, its, cells, y, key: compare.Evidence(float(its[0]), 0.0, ()))
    monkeypatch.setattr(
        recover, "loo", lambda name, its, table, groups: [compare.LeftOut(score, 0.0, {}, 0.0) for score in (table.y_C[1], 1.0)]
    )
    found = guess("H0", made, table, random.key(1))
    assert {truth: [g.evidence for g in of] for truth, of in found.items()} == {k: [float(y[0]) for y in of] for k, of in made.items()}
    assert [g.left_out for of in found.values() for g in of] == [float(y[1]) + 1 for y in every]


@pytest.mark.slow
def test_tempered_bayes_is_calibrated_on_a_small_design(table):
    """Sixty tables of its own: ranks uniform, intervals hold what they say."""
    found = calibrate("H2", table.cells, random.key(0), 60)
    assert found.p_value > 0.01
    low, high = stats.binom(60, 0.9).ppf([0.0005, 0.9995]) / 60
    assert all(low <= share <= high for share in found.covered.values())
    assert found.failed < 15


@pytest.mark.slow
def test_a_design_that_can_tell_finds_the_parameters():
    """Two dozen cells, little noise: weights of odds and of evidence are found as they were, and far better known than before."""
    cells = to_cells(runs(bases=8, each=3)).cells
    given = {k: np.array([0.1], np.float32) for k in SPREADS}
    truths = [simulate("H2", cells, random.key(seed), given) for seed in range(5)]
    for seed, (truth, y) in enumerate(truths):
        draws = fit("H2", cells, y, random.key(seed)).draws
        for k in ("w", "beta"):
            assert abs(draws[k].mean() - float(truth[k])) < 3.5 * draws[k].std()
            assert draws[k].std() < 0.5 * PRIORS["H2"][k].std()
    true_w = [float(truth["w"]) for truth, _ in truths]
    assert np.ptp(true_w) > 0.5  # negative control: one answer for all would not do


@pytest.mark.slow
@pytest.mark.parametrize(("truth", "other"), [("H1", "H8"), ("H8", "H1")])
def test_comparisons_find_who_made_a_table(table, truth, other):
    """Of two that have nothing in common: odds of frequencies, without a free intercept; and distance, that fades."""
    columns = {"frequency_broad": np.geomspace(1e-3, 0.5, 8), "frequency_narrow": np.full(8, 1e-3), "distance": np.array([0, 3] * 4)}
    table = table._replace(cells=table.cells._replace(columns={**table.cells.columns, **{k: array(v) for k, v in columns.items()}}))
    odds = np.ptp(eta("H1", table.cells, log10_f0=-3.0))
    assert odds > 5  # nats between the least and the most frequent
    little = of_draws(**{k: [0.1] for k in SPREADS})
    made = tables_of({truth: little.draws}, table.cells, random.key(0), 4)
    its, others = (guess(name, made, table, random.key(1))[truth] for name in (truth, other))
    for score in Guess._fields:
        gained = [getattr(a, score) - getattr(b, score) for a, b in zip(its, others, strict=True)]
        assert sum(gained) > 3
        assert sum(x > 0 for x in gained) >= 3
