"""What is said of cells that nobody has trained: by closed forms, by simulation, by hand; and what came, held against it."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from jax import random
from scipy import stats
from scipy.special import expit, logit

from bayesgen.infer import foresight as pure
from bayesgen.infer.cells import to_cells
from bayesgen.infer.fit import derived_of
from bayesgen.infer.foresight import Said, intervals, log_scores, mixed, say, score, shares, why, with_asked, with_runs
from bayesgen.infer.hypotheses import HYPOTHESES, PARTS
from tests.infer.tables import SPREAD_PRIORS, SPREADS, array, matrix, of_draws, runs
from tests.infer.test_hypotheses import EQUATIONS, drawn, odds

NEW = pl.col("base") == "b3"
H2 = {"a": -0.4, "w": 0.7, "log10_f0": -2.5, "beta": 0.05}


def lines(rows):
    """What is known of cells without their runs, a line each."""
    return rows.drop("breadth", "seed").unique(maintain_order=True)


KNOWN, CAME = runs().filter(~NEW), runs().filter(NEW)  # six cells, and two of a base that nobody has trained on


@pytest.fixture(scope="module")
def asked():
    """Two cells asked about, beside six: in all the shape of `table`."""
    return with_asked(KNOWN, lines(CAME))


def floor_and_ceiling(cells):
    return np.asarray(cells.floor_C, float), np.asarray(cells.ceiling_C, float)


def expected(name, cells, **draw):
    """Log odds of breadth that a hypothesis expects of every cell, by its equation."""
    floor, ceiling = floor_and_ceiling(cells)
    eta = EQUATIONS[name]({k: np.asarray(v, float) for k, v in cells.columns.items()}, draw)
    return logit(floor + (ceiling - floor) * expit(eta))


def given(cells, y_C, mean_C, out, spread=SPREADS):
    """Mean and covariance of cells given all others, by the whole matrix."""
    rest, K = [c for c in range(len(y_C)) if c not in out], matrix(cells, spread)
    gain = K[np.ix_(out, rest)] @ np.linalg.inv(K[np.ix_(rest, rest)])
    return mean_C[out] + gain @ (y_C - mean_C)[rest], K[np.ix_(out, out)] - gain @ K[np.ix_(rest, out)]


def log_normal(y, middle: Any, V: Any) -> float:
    """Log density, by scipy."""
    return float(stats.multivariate_normal(middle, V).logpdf(y))


# a table with cells that nobody has trained


def test_cells_asked_about_come_last_and_count_for_nothing(asked):
    table, out = asked
    assert out == [6, 7]
    assert table.names == runs()["cell"].unique(maintain_order=True).to_list()
    assert np.asarray(table.cells.counted_C).tolist() == [1] * 6 + [0] * 2
    assert table.bases == to_cells(runs()).bases


def test_known_cells_keep_what_is_known_of_them(asked):
    alone = to_cells(KNOWN)
    assert asked.table.y_C[:6] == pytest.approx(alone.y_C, abs=0)
    for one, two in ((asked.table.cells.floor_C, alone.cells.floor_C), (asked.table.cells.ceiling_C, alone.cells.ceiling_C)):
        assert np.asarray(one)[:6].tolist() == np.asarray(two).tolist()
    assert {k: np.asarray(v)[:6].tolist() for k, v in asked.table.cells.columns.items()} == {
        k: np.asarray(v).tolist() for k, v in alone.cells.columns.items()
    }


@pytest.mark.parametrize("many", [1, 2])
def test_known_cells_are_as_sure_however_many_are_asked_about(many):
    """What stands in for unmeasured breadth has no variance at all, and must not pull down the median that others' are drawn towards."""
    found = with_asked(KNOWN, lines(CAME).head(many)).table.cells.variance_C
    assert np.asarray(found)[:6] == pytest.approx(np.asarray(to_cells(KNOWN).cells.variance_C), rel=1e-5)


def test_cells_asked_about_are_as_sure_as_the_median_of_the_others(asked):
    variance_C = np.asarray(asked.table.cells.variance_C, float)
    middle = np.sort(variance_C[:6])[2:4].mean()
    assert variance_C[6:] == pytest.approx([middle] * 2, rel=1e-6)


def test_columns_that_only_one_of_both_has_are_left_out():
    found = with_asked(KNOWN.drop("margin"), lines(CAME).drop("llc_broad")).table
    both = set(to_cells(KNOWN).cells.columns)
    assert both - set(found.cells.columns) == {"margin", "llc_broad"}
    assert found.fitted()["H5"] == "no column 'llc_broad'"


def test_runs_that_came_are_those_asked_about_or_refused(asked):
    table, out = with_runs(KNOWN, CAME, asked)
    assert (table.names, out) == (asked.table.names, asked.out)
    assert table.breadth_C == pytest.approx(runs().group_by("cell", maintain_order=True).agg(pl.col("breadth").mean())["breadth"].to_list())
    with pytest.raises(ValueError, match="not those that were asked about"):
        with_runs(KNOWN, CAME.with_columns(cell=pl.col("cell") + ", another"), asked)
    with pytest.raises(ValueError, match="not those that were asked about"):
        with_runs(KNOWN, CAME.filter(pl.col("cell") == "b3 c0"), asked)


# what a hypothesis says


def test_what_stands_in_for_breadth_nobody_knows_changes_nothing(asked):
    """To the last bit; another breadth of a known cell changes both (negative control)."""

    def said_with(shift_C):
        table = asked.table._replace(y_C=asked.table.y_C + shift_C)
        found, said = say("H0", asked._replace(table=table), random.key(0))
        return found.draws["a"], said.mean_SxC, said.variance_SxC

    one, two, three = (said_with(shift) for shift in (np.zeros(8), np.array([0.0] * 6 + [3.0, -7.0]), 2.0 * np.eye(8)[0]))
    assert all((x == y).all() for x, y in zip(one, two, strict=True))
    assert all((x != y).any() for x, y in zip(one, three, strict=True))
    assert one[1].shape == one[2].shape == (300, 2)


@pytest.fixture
def known_draws(monkeypatch):
    """Let a posterior be known, and not sampled."""
    return lambda **draws: monkeypatch.setattr(pure, "fit", lambda *_: of_draws(**draws))


def test_what_is_said_is_the_normal_given_the_known(asked, known_draws):
    """Second road: conditioning of the whole matrix, draw by draw; on nobody's runs it is another (negative control)."""
    draws = {"a": [-0.8, 0.5], **{k: [v, v / 2] for k, v in SPREADS.items()}}
    known_draws(**draws)
    _, said = say("H0", asked, random.key(0))
    cells, out = asked.table.cells, asked.out
    for s in range(2):
        mean_C = expected("H0", cells, a=draws["a"][s])
        middle, V = given(cells, asked.table.y_C, mean_C, out, {k: draws[k][s] for k in SPREADS})
        assert said.mean_SxC[s] == pytest.approx(middle, abs=1e-4)  # float32
        assert said.variance_SxC[s] == pytest.approx(np.diag(V), rel=1e-4)
        assert np.abs(middle - mean_C[out]).max() > 0.01


def test_reasons_of_h2_are_its_equations(asked, known_draws):
    """By hand: each part, mean over draws, beside its mean over the known cells alone; the intercept is none."""
    draws = drawn("H2", 40)
    known_draws(**draws, **{k: np.full(40, v) for k, v in SPREADS.items()})
    _, said = say("H2", asked, random.key(0))
    c = {k: np.asarray(v, float)[:, None] for k, v in asked.table.cells.columns.items()}
    by_hand = {"prior": (draws["w"] * odds(c, draws)).mean(axis=1), "likelihood": (draws["beta"] * c["evidence"]).mean(axis=1)}
    assert set(said.why) == set(by_hand)
    for part, x_C in by_hand.items():
        assert said.why[part] == pytest.approx(x_C[6:] - x_C[:6].mean(), abs=1e-4)  # float32
        assert abs(x_C.mean() - x_C[:6].mean()) > 1e-3  # negative control: beside all cells they are others


@pytest.mark.parametrize("name", HYPOTHESES)
def test_parts_add_up_to_the_docstrings_log_odds_and_these_to_the_mean(name, table):
    draws, cells = drawn(name, 5), table.cells
    parts = {k: np.asarray(v, float) for k, v in derived_of(name)(cells, {k: array(v) for k, v in draws.items()}).items()}
    mean, eta = parts.pop("mean"), sum(parts.values())
    columns, (floor, ceiling) = {k: np.asarray(v, float) for k, v in cells.columns.items()}, floor_and_ceiling(cells)
    by_hand = np.array([EQUATIONS[name](columns, {k: v[s] for k, v in draws.items()}) for s in range(5)])
    assert set(parts) <= set(PARTS)
    assert eta == pytest.approx(by_hand, rel=1e-4, abs=2e-4)  # float32, of powers and exponentials
    assert mean == pytest.approx(logit(floor + (ceiling - floor) * expit(by_hand)), abs=2e-4)
    assert all(np.abs(x).max() > 1e-2 for x in parts.values())  # negative control: none could be left out


@pytest.mark.parametrize("seed", range(3))
def test_a_base_that_is_known_says_more_than_a_new_one_and_that_than_a_new_experiment(seed, known_draws):
    """Whatever the spreads: of the same cell on either, intervals are the wider, the less of it has been seen."""
    rng = np.random.default_rng(seed)
    cells = {"known": ("x0", "b0"), "new base": ("x0", "b9"), "new experiment": ("x9", "b9")}
    like = lines(runs()).head(1)
    at = [like.with_columns(experiment=pl.lit(e), base=pl.lit(b), cell=pl.lit(name)) for name, (e, b) in cells.items()]
    known_draws(a=[0.0], **{k: [p.rvs(random_state=rng) + 0.05] for k, p in SPREAD_PRIORS.items()})
    _, said = say("H0", with_asked(runs(), pl.concat(at)), random.key(0))
    ends = intervals({"H0": said}, {"H0": 1.0})
    widths = logit(np.array(ends["high"])) - logit(np.array(ends["low"]))
    assert (np.diff(widths) > 1e-3).all()


# mixtures of hypotheses


def opinion(centre, draws, seed=0, **reasons):
    """What a hypothesis might say of two cells."""
    rng = np.random.default_rng(seed)
    mean_SxC = rng.normal(centre, 0.3, (draws, 2)) + np.array([0.0, 0.5])
    return Said(mean_SxC, rng.uniform(0.05, 0.4, (draws, 2)), {k: np.array(v) for k, v in reasons.items()})


TWO = {"low": opinion(-2.0, 50), "high": opinion(1.0, 200, seed=1)}
QUANTILES = {"low": 0.05, "middle": 0.5, "high": 0.95}


def simulated(weights, n=200_000):
    """Breadths that a mixture of `TWO` foretells, (n, 2)."""
    rng = np.random.default_rng(2)
    out = []
    for name, count in zip(TWO, rng.multinomial(n, [weights[k] for k in TWO]), strict=True):
        s = rng.integers(0, len(TWO[name].mean_SxC), count)
        out.append(rng.normal(TWO[name].mean_SxC[s], np.sqrt(TWO[name].variance_SxC[s])))
    return expit(np.concatenate(out))


@pytest.mark.parametrize("weights", [{"low": 0.3, "high": 0.7}, {"low": 0.9, "high": 0.1}])
def test_intervals_are_of_the_mixture_whatever_draws_each_has(weights):
    """Second road: simulation. Counted by draws, 50 and 200, it would be another mixture (negative control)."""
    ends, made, by_draws = intervals(TWO, weights), simulated(weights), simulated({"low": 0.2, "high": 0.8})
    for end, q in QUANTILES.items():
        error = np.sqrt(q * (1 - q) / len(made))
        assert (made <= ends[end]).mean(axis=0) == pytest.approx([q, q], abs=4 * error)
    assert np.abs((by_draws <= ends["middle"]).mean(axis=0) - 0.5).min() > 0.05


def test_all_the_weight_on_one_is_its_own_interval():
    for name, other in (("low", "high"), ("high", "low")):
        alone = intervals({name: TWO[name]}, {name: 1.0})
        both = intervals(TWO, {name: 1.0, other: 0.0})
        for end in QUANTILES:
            assert both[end] == pytest.approx(alone[end], abs=1e-9)
            assert np.abs(np.array(both[end]) - intervals(TWO, {name: 0.5, other: 0.5})[end]).min() > 0.01  # negative control


def test_one_draw_is_a_normal():
    ends = intervals({"H0": Said(np.array([[0.3, -1.0]]), np.array([[0.25, 4.0]]), {})}, {"H0": 1.0})
    for end, z in (("low", -1.6449), ("middle", 0.0), ("high", 1.6449)):
        assert ends[end] == pytest.approx([expit(0.3 + 0.5 * z), expit(-1.0 + 2 * z)], abs=1e-4)  # four digits of z


def test_reasons_are_averaged_by_weight_and_who_has_none_says_nothing():
    """By hand, of two cells."""
    said = {"a": opinion(0.0, 2, prior=[1.0, -1.0]), "b": opinion(0.0, 3, prior=[2.0, 0.0], likelihood=[0.5, 4.0]), "H0": opinion(0.0, 1)}
    found = why(said, {"a": 0.5, "b": 0.2, "H0": 0.3})
    assert set(found) == {"prior", "likelihood"}
    assert found["prior"] == pytest.approx([0.5 + 0.4, -0.5])
    assert found["likelihood"] == pytest.approx([0.1, 0.8])
    assert why({"H0": opinion(0.0, 1)}, {"H0": 1.0}) == {}


def test_shares_are_of_sizes_and_add_up_to_one():
    found = shares({"prior": [2.0, -2.0], "likelihood": [0.0, 1.0], "dose": [-0.5, -0.5]})
    assert found == pytest.approx({"prior": 2 / 3, "likelihood": 0.5 / 3, "dose": 0.5 / 3})  # signs do not cancel
    assert sum(found.values()) == pytest.approx(1)
    assert (shares({"prior": [0.0, 0.0]}), shares({})) == ({"prior": 0.0}, {})


# what came


def test_scores_are_log_densities_of_what_was_measured(asked):
    """Second road: scipy's normal of several dimensions, conditioned by numpy; a posterior of two draws is their mean."""
    came = with_runs(KNOWN, CAME, asked)
    cells, y_C, out = came.table.cells, came.table.y_C, came.out

    def density(name, **draw):
        middle, V = given(cells, y_C, expected(name, cells, **draw), out)
        return log_normal(y_C[out], middle, V)

    fits = {"H0": of_draws(a=np.array([-0.8, 3.0]), **{k: np.full(2, v) for k, v in SPREADS.items()}), "H2": of_draws(**H2, **SPREADS)}
    found, each = log_scores(fits, came), [density("H0", a=a) for a in (-0.8, 3.0)]
    assert found["H0"] == pytest.approx(np.logaddexp(each[0], each[1]) - np.log(2), abs=1e-3)  # float32
    assert found["H2"] == pytest.approx(density("H2", **H2), abs=1e-3)
    assert abs(each[0] - each[1]) > 0.5  # negative control: it matters who says it
    assert abs(found["H0"] - found["H2"]) > 0.05


def test_a_mixtures_log_density_is_by_hand():
    assert mixed({"a": math.log(0.2), "b": math.log(0.6)}, {"a": 0.75, "b": 0.25}) == pytest.approx(math.log(0.15 + 0.15))
    assert mixed({"a": -3.0, "b": 5.0}, {"a": 1.0, "b": 0.0}) == pytest.approx(-3.0)
    assert mixed({"a": -1000.0, "b": -1001.0}, {"a": 0.5, "b": 0.5}) == pytest.approx(-1000 + math.log((1 + math.exp(-1)) / 2))


ENDS = {"middle": [0.1, 0.4, 0.6, 0.9], "low": [0.0, 0.3, 0.5, 0.85], "high": [0.2, 0.5, 0.7, 0.95]}


def test_a_score_counts_cells_within_and_ranks_them():
    """By hand: two of four within; ranks 2, 1, 3, 4 where 1, 2, 3, 4 were foretold."""
    found = score(-1.5, ENDS, [0.25, 0.2, 0.5, 0.9])
    assert (found.log_score, found.covered) == (-1.5, 0.5)  # an end of the interval is within
    assert found.rank == pytest.approx(1 - 6 * (1 + 1) / (4 * 15))
    assert score(0.0, ENDS, [0.9, 0.6, 0.4, 0.1]).rank == pytest.approx(-1)


@pytest.mark.parametrize(
    ("ends", "breadth"),
    [({k: v[:2] for k, v in ENDS.items()}, [0.1, 0.4]), (ENDS, [0.5] * 4), ({**ENDS, "middle": [0.5] * 4}, ENDS["middle"])],
    ids=["two cells", "all went alike", "all foretold alike"],
)
def test_ranks_of_nothing_to_rank_are_none(ends, breadth):
    assert score(0.0, ends, breadth).rank is None
    assert score(0.0, {k: v[:3] for k, v in ENDS.items()}, [0.1, 0.4, 0.6]).rank == pytest.approx(1)  # negative control: three are enough
