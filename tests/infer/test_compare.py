"""Foresight and mixtures of hypotheses: by closed forms, by brute force, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import stats
from scipy.special import expit, logit, logsumexp

from bayesgen.infer import compare
from bayesgen.infer.compare import (
    Evidence,
    LeftOut,
    by_base,
    by_cell,
    difference,
    folds,
    interval,
    left_out,
    log_score,
    loo,
    stacking,
    thinned,
)
from bayesgen.infer.fit import fit
from tests.infer.conftest import Brute
from tests.infer.tables import SPREADS, matrix, of_draws, with_y

RNG = np.random.default_rng(0)
OUT = {"a cell": [3], "a base": [4, 5], "one of a base, and another base": [0, 2, 3], "an experiment": [4, 5, 6, 7]}


# what is said of cells unseen


@pytest.mark.parametrize("case", OUT)
def test_what_is_said_of_cells_unseen_is_the_normal_given_the_others(table, case):
    """Known parameters: conditioning of the whole matrix, in double precision."""
    out, a, cells = OUT[case], -0.8, table.cells
    rest = [c for c in range(8) if c not in out]
    floor, ceiling = np.asarray(cells.floor_C, float), np.asarray(cells.ceiling_C, float)
    mean, K = logit(floor + (ceiling - floor) * expit(a)), matrix(cells, SPREADS)
    gain = K[np.ix_(out, rest)] @ np.linalg.inv(K[np.ix_(rest, rest)])
    middle = mean[out] + gain @ (table.y_C - mean)[rest]
    V = K[np.ix_(out, out)] - gain @ K[np.ix_(rest, out)]
    known = of_draws(a=a, **SPREADS).draws
    exact = stats.multivariate_normal(middle, V).logpdf(table.y_C[out])
    assert log_score("H0", known, cells, table.y_C, out) == pytest.approx(exact, abs=1e-4)  # float32
    said = interval("H0", known, cells, table.y_C, out)
    for end_C, z, within in zip(said.values(), (0, -1.6449, 1.6449), (1e-4, 1e-3, 1e-3), strict=True):  # four digits of z
        assert logit(end_C) == pytest.approx(middle + z * np.sqrt(np.diag(V)), abs=within)
    assert np.abs(middle - mean[out]).max() > 0.05 or case == "an experiment"  # negative control: the others tell something


def test_nothing_is_learned_of_another_experiment(table):
    middle_C = interval("H0", of_draws(a=0.0, **SPREADS).draws, table.cells, table.y_C, OUT["an experiment"])["middle"]
    floor, ceiling = np.asarray(table.cells.floor_C), np.asarray(table.cells.ceiling_C)
    assert middle_C == pytest.approx((floor + (ceiling - floor) / 2)[4:], abs=1e-5)


def test_two_roads_to_the_density_of_one_cell(table, found):
    """By the mean and the variance given all others; and by the density of all less that of all others."""
    for cell in range(8):
        mean_SxC, variance_SxC = compare.given_others("H0", thinned(found), table.cells, table.y_C, (cell,))
        density_S = stats.norm(mean_SxC[:, cell], np.sqrt(variance_SxC[:, cell])).logpdf(table.y_C[cell])
        left = jnp.asarray(compare._left_out(8, [[cell]]))
        assert compare._left_densities("H0", thinned(found), table.cells, table.y_C, left)[:, 0] == pytest.approx(density_S, abs=2e-3)
        said = log_score("H0", thinned(found), table.cells, table.y_C, [cell])
        assert said == pytest.approx(logsumexp(density_S) - np.log(len(density_S)), abs=1e-4)  # float32, differences of 10 nats


def test_intervals_are_of_the_mixture_of_draws(table):
    """Two opinions, far apart: the interval reaches from one to the other, which no normal's would."""
    two = of_draws(a=[-3.0, 3.0], **{k: [0.1, 0.1] for k in SPREADS}).draws
    ends = interval("H0", two, table.cells, table.y_C, OUT["an experiment"])
    mean_SxC, variance_SxC = compare.given_others("H0", two, table.cells, table.y_C, (4, 5, 6, 7))
    for c, of_cell in zip(range(4, 8), zip(*ends.values(), strict=True), strict=True):
        shares = [stats.norm(mean_SxC[:, c], np.sqrt(variance_SxC[:, c])).cdf(logit(end)).mean() for end in of_cell]
        assert shares == pytest.approx([0.5, 0.05, 0.95], abs=1e-6)
    assert (ends["high"] - ends["low"]).min() > 0.7


# leaving one out


GROUPS = {"cells": by_cell, "bases": by_base}


@pytest.fixture(scope="module")
def calm(table):
    """The same cells measured ten times as badly, their posterior, and what is true of them: no cell decides, weights have a variance."""
    calm = table._replace(cells=table.cells._replace(variance_C=10 * table.cells.variance_C))
    return calm, fit("H0", calm.cells, calm.y_C, random.key(1)), Brute(calm)


@pytest.mark.parametrize("unit", GROUPS)
def test_leaving_one_out_is_what_brute_force_gives(calm, unit):
    """Second road: evidence of all over evidence of all others, from draws of the prior."""
    table, found, brute = calm
    groups = GROUPS[unit](table)
    left = loo("H0", found, table, groups)
    exact_G = np.array([brute.log_mean() - brute.log_mean(tuple(g)) for g in groups])
    error_G = np.array([brute.simulation_error(g, 1000, weighed=True) for g in groups])
    assert not any(x.refitted for x in left)
    assert (np.abs([x.log_score for x in left] - exact_G) < 4 * error_G).all()
    assert [x.error for x in left] == pytest.approx(error_G * np.sqrt(1000 / 2800), rel=0.3)  # of so many draws; smoothed, thinned
    assert error_G.max() < 0.025


def test_trap_cells_that_were_seen_are_foretold_better(calm):
    """Negative control: without weights, draws know what they are asked about, and say it too well by more than is allowed above."""
    table, found, brute = calm
    left = jnp.asarray(compare._left_out(8, by_base(table)))
    seen_G = logsumexp(compare._left_densities("H0", thinned(found, 1000), table.cells, table.y_C, left), axis=0) - np.log(1000)
    exact_G = np.array([brute.log_mean() - brute.log_mean(tuple(g)) for g in by_base(table)])
    assert (seen_G - exact_G > [4 * brute.simulation_error(g, 1000, weighed=True) for g in by_base(table)]).all()


def test_draws_of_what_is_left_out_are_of_a_posterior_without_it(calm):
    """Second road: weights of brute force."""
    table, found, brute = calm
    for group, said in zip(by_base(table), loo("H0", found, table, by_base(table)), strict=True):
        weight_S, a = brute.weights(tuple(group)), brute.draws["a"]
        mean, sd = weight_S @ a, np.sqrt(weight_S @ (a - weight_S @ a) ** 2)
        assert len(said.draws["a"]) == compare.THINNED
        assert said.draws["a"].mean() == pytest.approx(mean, abs=0.2 * sd)
        assert said.draws["a"].std() == pytest.approx(sd, rel=0.15)


def test_weights_that_are_not_to_be_relied_on_are_replaced_by_a_fit(calm, monkeypatch):
    (table, found, _), asked, whole = calm, [], Evidence(-7.0, 0.1, ())

    def fitted(name, whole, table, groups, key):
        asked.append((whole, list(groups)))
        return [LeftOut(-42.0 - len(g), 0.1, {}, np.nan, ("a gate",)) for g in groups]

    monkeypatch.setattr(compare, "held_out", fitted)
    units = {"cell": by_cell(table), "base": by_base(table)}
    plain = {unit: loo("H0", found, table, groups) for unit, groups in units.items()}
    between = np.sort([x.k_hat for x in plain["base"]])[1:3].mean()
    monkeypatch.setattr(compare, "K_HAT", between)
    left = left_out("H0", found, whole, table, units, random.key(0))
    bad = {unit: [g for g, x in enumerate(those) if x.k_hat > between] for unit, those in plain.items()}
    assert len(bad["base"]) == 2
    assert asked == [(whole, [groups[g] for unit, groups in units.items() for g in bad[unit]])]  # all in one go
    for unit, groups in units.items():
        for g, (group, x, by_weights) in enumerate(zip(groups, left[unit], plain[unit], strict=True)):
            said = (-42.0 - len(group), ("a gate",)) if g in bad[unit] else (by_weights.log_score, ())
            assert (x.log_score, x.failures) == said
            assert (x.k_hat, x.refitted) == (by_weights.k_hat, g in bad[unit])


def test_groups(table):
    assert by_cell(table) == [[c] for c in range(8)]
    assert by_base(table) == [[0, 1], [2, 3], [4, 5], [6, 7]]


# mixtures and differences


def test_one_that_is_always_better_takes_all():
    found = stacking({"good": np.zeros(5), "bad": np.full(5, -1.0)})
    assert found["good"] == pytest.approx(1, abs=1e-6)


def test_two_that_each_know_half_of_the_cells_share():
    """Second road: the best of a thousand mixtures."""
    a, b = np.array([0.0, 0.0, -3.0, -3.5]), np.array([-2.5, -3.0, 0.0, 0.0])
    found = stacking({"a": a, "b": b})
    grid = np.linspace(0, 1, 1001)[1:-1]
    best = grid[np.argmax([np.logaddexp(np.log(w) + a, np.log1p(-w) + b).sum() for w in grid])]
    assert found["a"] == pytest.approx(best, abs=1e-3)  # of the grid
    assert found["a"] == pytest.approx(0.5, abs=0.02)
    assert sum(found.values()) == pytest.approx(1)


def test_a_mixture_of_three_is_no_worse_than_any_other():
    scores = {k: RNG.normal(size=12) for k in "abc"}
    weigh = lambda w: logsumexp(np.stack(list(scores.values())), axis=0, b=np.asarray(w)[:, None]).sum()  # noqa: E731
    best = weigh(list(stacking(scores).values()))
    assert best >= max(weigh(w) for w in RNG.dirichlet(np.ones(3), 2000)) - 1e-4  # where it stops
    assert best > weigh([1 / 3] * 3) + 1e-3  # negative control


def test_no_hope_of_one_cell_costs_no_underflow():
    found = stacking({"a": np.array([-1000.0, -1000.0]), "b": np.array([-1001.0, -1001.0])})
    assert found["a"] == pytest.approx(1, abs=1e-5)


def test_a_difference_and_its_standard_error_by_hand():
    total, error = difference(np.array([1.0, 2.0, 6.0]), np.zeros(3), np.full(3, 4))
    assert total == 9
    assert error == pytest.approx(np.sqrt(3) * np.sqrt((4 + 1 + 9) / 2))  # sqrt(n) times the standard deviation of 1, 2, 6
    assert difference(np.array([1.0]), np.array([0.5]), np.array([4])) == (0.5, float("inf"))
    assert difference(np.array([1.0, 2.0]), np.array([0.0, 1.0]), np.array([3, 3])) == (2.0, 0.0)


def test_groups_of_many_cells_are_not_noise():
    """What is gained in proportion to the cells is sure, however unlike the groups; were they as large, the same gains would not be."""
    gained, cells = np.array([50.0, 1.0, 2.0, 3.0]), np.array([50, 1, 2, 3])
    assert difference(gained, np.zeros(4), cells) == (56.0, pytest.approx(0, abs=1e-9))
    assert difference(gained, np.zeros(4), np.full(4, 14))[1] > 40


def test_groups_of_a_family_are_one_in_the_error():
    of_G, none_G, cells_G = np.array([3.0, 1.0, 5.0, 2.0]), np.zeros(4), np.array([2, 2, 4, 3])
    by_family = difference(np.array([4.0, 5.0, 2.0]), np.zeros(3), np.array([4, 4, 3]))
    assert difference(of_G, none_G, cells_G, np.array(list("aabc"))) == pytest.approx(by_family)
    assert difference(of_G, none_G, cells_G, np.array(list("abcd"))) == difference(of_G, none_G, cells_G)
    assert difference(of_G, none_G, cells_G, np.array(["a"] * 4)) == (11.0, float("inf"))


def test_the_error_of_unlike_groups_is_how_far_their_gains_stray():
    """Second road: a thousand tables of groups of three sizes, each cell gaining .2 on the mean, groups differing by .1 a cell."""
    rng = np.random.default_rng(0)
    cells = np.repeat([2, 5, 20], 10)
    found = np.array([difference((0.2 + 0.1 * rng.normal(size=30)) * cells, np.zeros(30), cells) for _ in range(1000)])
    spread = found[:, 0].std()
    assert found[:, 1].mean() == pytest.approx(spread, rel=0.1)
    plain = np.sqrt(30) * (0.2 * cells).std()
    assert plain > 0.5 * spread  # negative control: the sizes alone would look like noise of that order
    assert found[:, 1].mean() < 0.85 * np.hypot(spread, plain)


# what is left out


def test_what_never_varies_or_is_nearly_all_is_no_fold(table):
    levels = {
        "experiment": ["x"] * 8,  # one level
        "rows": ["30"] * 6 + ["100"] * 2,  # one of more than two thirds
        "optimizer": ["adam"] * 5 + ["sgd"] * 2 + ["lion"],
        "network": [str(i) for i in range(8)],
    }
    found = folds(table._replace(levels=levels))
    assert set(found) == {("rows", "100"), *(("optimizer", o) for o in ("adam", "sgd", "lion")), *(("network", str(i)) for i in range(8))}
    assert found["rows", "100"] == [6, 7]
    assert found["optimizer", "adam"] == [0, 1, 2, 3, 4]


def test_two_thirds_are_a_fold_and_more_are_none(table):
    six = table._replace(y_C=np.zeros(6), levels={"rows": ["30"] * 4 + ["100"] * 2})
    assert set(folds(six)) == {("rows", "30"), ("rows", "100")}


def test_draws_are_thinned_evenly_from_first_to_last():
    x = np.arange(1000)
    assert thinned(of_draws(a=x), 4)["a"].tolist() == [0, 333, 666, 999]
    assert thinned(of_draws(a=x), 5000)["a"].tolist() == x.tolist()


def test_a_table_made_by_numpy_is_as_likely_as_its_matrix_says(table):
    """Of the helper that other tests simulate with: squared distances are chi-squared."""
    rng, K = np.random.default_rng(0), matrix(table.cells, SPREADS)
    inverse = np.linalg.inv(K)
    distances = [y @ inverse @ y for y in (with_y(table.cells, SPREADS, np.zeros(8), rng) for _ in range(300))]
    assert stats.kstest(distances, stats.chi2(8).cdf).pvalue > 0.01
