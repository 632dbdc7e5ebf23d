"""What is said before anything is trained: by closed forms, by simulation, by hand; what came, held against it; and through the door."""

import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from jax import random
from scipy import stats
from scipy.special import expit, logit

from bayesgen import files, foresight, pipeline, training
from bayesgen.artifact import Artifact, build, build_together, only_named
from bayesgen.beliefs import BELIEF, RUNS, build_runs
from bayesgen.errors import UserError
from bayesgen.foresight import ASKED, DRAWS, FEWEST, PREDICTION, SAID, _only, _trained, words
from bayesgen.infer import foresight as pure
from bayesgen.infer.cells import to_cells
from bayesgen.infer.fit import derived_of
from bayesgen.infer.foresight import Said, intervals, log_scores, mixed, say, score, shares, why, with_asked, with_runs
from bayesgen.infer.gather import BROAD, FREE, NARROW, complete, gather, solutions, spelt
from bayesgen.infer.hypotheses import HYPOTHESES, PARTS
from bayesgen.infer.settings import InferConfig
from bayesgen.report.contrasts import Contrast
from bayesgen.setup import prepare
from tests.infer.tables import RANGES, SPREAD_PRIORS, SPREADS, array, matrix, of_draws, runs
from tests.infer.test_gather import cell, setting
from tests.infer.test_hypotheses import EQUATIONS, drawn, odds
from tests.infer.test_verdict import findings
from tests.tiny_run import tiny_run_config

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
    assert shares({"prior": [0.0, 0.0]}) == {"prior": 0.0}
    assert shares({}) == {}


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
    assert found.log_score == -1.5
    assert found.covered == 0.5  # an end of the interval is within
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


# the experiment


def tiny(folder, **finetune):
    return tiny_run_config(folder, **finetune)


@pytest.mark.parametrize("arms", [(NARROW, BROAD), (FREE,)])
def test_settings_and_measures_of_other_arms_are_left_out(tmp_path, arms):
    """As if nobody had asked for them; all that these arms have stays."""
    given = {"batch": 2, "gate": "listed", "benign": [0.5], "kl_from": [0.1], "kl_until": [0.9], "rank": [2, 4], "rows": [3, 4]}
    whole = tiny(tmp_path, arms=["free", "narrow", "mixed", "token", "broad", "control"], **given)
    measure = whole.measure.model_copy(update={"samples": 3})
    whole = whole.model_copy(update={"contrasts": (Contrast.model_validate({"name": "x", "of": {"arm": "control"}}),), "measure": measure})
    only = _only(whole, *arms)
    of = only.finetune
    assert of.arms == arms
    assert (of.gate, of.benign) == (None, (0.5,))
    assert (of.kl_from, of.kl_until) == (((0.1,), (0.9,)) if NARROW in arms else ((0.0,), (1.0,)))
    assert (only.contrasts, only.measure.samples, only.measure.cost, only.measure.features) == ((), 0, None, None)
    other = {"arms", "gate", "benign", "kl_weight", "kl_from", "kl_until"}
    assert of.model_dump(exclude=other) == whole.finetune.model_dump(exclude=other)
    assert {s["rank"] for s in of.settings(arms[0])} == {2, 4}
    assert only.model_dump(exclude={"finetune", "measure", "contrasts"}) == whole.model_dump(exclude={"finetune", "measure", "contrasts"})


def test_penalties_of_the_narrow_arm_are_asked_about_and_are_no_matter_of_the_free_one(tmp_path):
    whole = tiny(tmp_path, kl_weight=[1.0, 2.0])
    assert {s["kl_weight"] for s in _only(whole, NARROW, BROAD).finetune.settings(NARROW)} == {1.0, 2.0}
    assert len(_only(whole, FREE).finetune.settings(FREE)) == 1


@pytest.fixture
def hollow(monkeypatch):
    """Artifacts by name, without what is in them: nothing is trained."""

    def empty(root, stage, wanted, make, everybody=False):
        return build_together(root, stage, wanted, lambda work, folders: None, everybody)

    monkeypatch.setattr("bayesgen.artifact.build_together", empty)


def train(config):
    setup = prepare(config)
    with only_named():
        corpus = pipeline.build_corpus(setup)
    return training.build_ensemble(setup, training.build_base(setup, corpus))


@pytest.mark.parametrize("how", ["alone", "among all arms"])
def test_who_could_have_known_better_is_seen(tmp_path, hollow, how):
    """Trainings on the data as they are, by themselves or as a run of the whole experiment leaves them; others are none."""
    config = tiny(tmp_path)
    train(_only(config, NARROW, BROAD))
    assert not _trained(config)
    train(_only(config, FREE) if how == "alone" else config)
    assert _trained(config)
    assert not _trained(tiny(tmp_path, rank=4))


# what the table holds of it already


def kept(folder, stage, name, table) -> Artifact:
    """A table as an artifact."""
    return build(folder, stage, stage, {}, lambda at: files.write_table(at / name, table))


def swept(bases=4, each=3):
    """A table as a sweep over ranks gives it."""
    constant = {**setting(rows=30), "ordinary": 10.0}
    of = runs(bases, each).with_columns(pl.lit(v).alias(k) for k, v in constant.items() if k != "rank")
    return of.with_columns(rank=pl.col("cell").str.slice(-1).cast(pl.Int64))


def about(base="b0", ranks=(1,), **changes):
    """What is asked about, on such a base."""
    of = lines(swept().filter((pl.col("base") == base) & pl.col("rank").is_in(ranks)))
    return of.with_columns(pl.lit(v).alias(k) for k, v in changes.items())


def left_out(folder, table, asked):
    """Names of the cells that are taken out, and how many runs."""
    found, dropped = foresight.without(kept(folder, "runs", RUNS, table), kept(folder, "asked", ASKED, asked), folder)
    left = pl.read_parquet(found.path(RUNS))
    return set(table["cell"]) - set(left["cell"]), dropped, left


def test_the_very_same_settings_on_the_same_base_are_taken_out(tmp_path):
    """These alone: other ranks, and the same rank on other bases, stay, every run of them."""
    table = swept()
    gone, dropped, left = left_out(tmp_path, table, about(ranks=(1, 2)))
    assert (gone, dropped) == ({"b0 c1", "b0 c2"}, 6)
    assert left.equals(table.filter(~pl.col("cell").is_in(["b0 c1", "b0 c2"])))


OTHERS = {
    "another base": {"base": "b9"},
    "another experiment": {"experiment": "y"},
    "another rate": {"learning_rate": 1e-2},
    "more ordinary rows": {"ordinary": 20.0},
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_not_the_same_stays(tmp_path, case):
    gone, dropped, _ = left_out(tmp_path, swept(), about(**OTHERS[case]))
    assert (gone, dropped) == (set(), 0)


def test_counts_may_be_whole_numbers(tmp_path):
    """Of a table in which a setting is whole (ordinary 10, not 10.0), as in a .csv."""
    gone, _, _ = left_out(tmp_path, swept().with_columns(pl.col("ordinary").cast(pl.Int64)), about(ranks=(1, 2)))
    assert gone == {"b0 c1", "b0 c2"}


def test_where_nothing_is_taken_out_the_table_is_the_same(tmp_path):
    source, asked = kept(tmp_path, "runs", RUNS, swept()), kept(tmp_path, "asked", ASKED, about(base="b0", experiment="y"))
    assert foresight.without(source, asked, tmp_path) == (source, 0)


@pytest.mark.parametrize(("ranks", "left"), [((0,), 8), ((0, 1), 7)])
def test_too_few_cells_to_predict_from_are_refused(tmp_path, ranks, left):
    """Nine cells, less those asked about: eight are enough."""
    if left >= FEWEST:
        assert left_out(tmp_path, swept(bases=3), about(ranks=ranks))[2].n_unique("cell") == left
    else:
        with pytest.raises(UserError, match=f"{left} cells to predict from, those asked about left out; expected 8 or more"):
            left_out(tmp_path, swept(bases=3), about(ranks=ranks))


def test_beside_a_table_that_does_not_know_all_settings_they_are_taken_out_as_well(tmp_path):
    """Where any table lacks a setting, its column is left out of all (`build_runs`); the prediction must not know the answer for that."""
    swept().write_parquet(tmp_path / "sweep.parquet")
    runs(leave_out=("steps",)).with_columns(experiment=pl.lit("mine")).write_csv(tmp_path / "mine.csv")
    config = InferConfig(table=(tmp_path / "sweep.parquet", tmp_path / "mine.csv"), simulations=0, calibrations=0, seed=0)
    source = build_runs(config, tmp_path)
    found, dropped = foresight.without(source, kept(tmp_path, "asked", ASKED, about(ranks=(1, 2))), tmp_path)
    assert dropped >= 6  # what cannot be told from them, too
    assert not {"b0 c1", "b0 c2"} & set(pl.read_parquet(found.path(RUNS)).filter(pl.col("experiment") == "x0")["cell"])


# from process to process


def test_what_a_hypothesis_said_is_found_by_others(tmp_path, monkeypatch):
    draws = {"a": np.arange(5, dtype=np.float32), "o": np.ones((5, 4), np.float32)}
    said = opinion(0.0, 5, prior=[1.0, -2.0], likelihood=[0.25, 0.5])
    monkeypatch.setattr(foresight, "begin", lambda raw, runs: InferConfig(**raw))
    monkeypatch.setattr(pure, "say", lambda name, both, key: (of_draws(**draws)._replace(r_hat=1.5), said))
    raw = {"simulations": 0, "calibrations": 0, "seed": 0}
    known, asked = kept(tmp_path, "runs", RUNS, KNOWN), kept(tmp_path, "asked", ASKED, lines(CAME))
    made = foresight.say_one(raw, tmp_path, known, asked, "H9")
    found = foresight.load_said({"H9": made})["H9"]
    assert (found.mean_SxC == said.mean_SxC).all()
    assert (found.variance_SxC == said.variance_SxC).all()
    assert {k: v.tolist() for k, v in found.why.items()} == {"prior": [1.0, -2.0], "likelihood": [0.25, 0.5]}
    assert json.loads(made.path(SAID).read_text())["failures"] == ["R-hat 1.500, not below 1.01"]
    assert {k: v.tolist() for k, v in files.load_arrays(made.path(DRAWS)).items()} == {k: v.tolist() for k, v in draws.items()}


PAIR = {"H0": opinion(-1.0, 40), "H2": opinion(1.0, 10, seed=3, prior=[2.0, 1.0], likelihood=[-0.5, 0.5])}


@pytest.fixture
def predict(tmp_path, monkeypatch):
    """Freeze what H0 and H2 say, who each know half of what was left out: what is read of it."""
    beliefs = {"H0": findings(0), "H2": findings([4.0, 4.0, -4.0, -4.0])}
    failures = {"H0": [], "H2": ["1 divergent transitions"]}

    def made(stage, name, make):
        return build(tmp_path, stage, name, {}, make)

    def say(at: Path, name: str):
        files.save_arrays(at / "said.safetensors", {"mean": PAIR[name].mean_SxC, "variance": PAIR[name].variance_SxC})
        files.write_json(at / SAID, {"why": {k: x.tolist() for k, x in PAIR[name].why.items()}, "failures": failures[name]})

    def to_json(dropped=0, trained=False):
        monkeypatch.setattr(foresight, "_trained", lambda config: trained)
        known, asked = kept(tmp_path, "runs", RUNS, runs()), kept(tmp_path, "asked", ASKED, lines(CAME))
        weighed = {k: made("belief", k, partial(lambda at, b: files.write_json(at / BELIEF, b), b=b)) for k, b in beliefs.items()}
        said = {k: made("said", k, partial(say, name=k)) for k in PAIR}
        prediction = foresight.build_prediction(tiny(tmp_path), known, asked, weighed, said, dropped, tmp_path)
        return json.loads(prediction.path(PREDICTION).read_text())

    return to_json


def test_a_prediction_is_the_mixture_by_what_each_is_worth(predict):
    """Each of two that know half of it weighs a half."""
    frozen = predict()
    half = {"H0": 0.5, "H2": 0.5}
    assert {k: h["weight"] for k, h in frozen["hypotheses"].items()} == pytest.approx(half, abs=1e-3)
    for end in QUANTILES:
        assert frozen["mixture"][end] == pytest.approx(intervals(PAIR, half)[end], abs=1e-3)
        assert frozen["hypotheses"]["H2"][end] == pytest.approx(intervals({"H2": PAIR["H2"]}, {"H2": 1.0})[end])
    assert frozen["mixture"]["why"]["prior"] == pytest.approx([1.0, 0.5], abs=1e-3)
    assert frozen["mixture"]["shares"] == pytest.approx({"prior": 0.75, "likelihood": 0.25}, abs=1e-3)
    assert frozen["hypotheses"]["H2"]["failures"] == ["1 divergent transitions"]
    assert frozen["cells"] == ["b3 c0", "b3 c1"]
    assert frozen["table"] == {"cells": 8, "bases": 4, "experiments": ["x0", "x1"]}
    assert frozen["unit"] == "experiment"
    assert frozen["words"] == words(frozen)


def test_a_prediction_is_dated_and_stays_as_it_was(predict, monkeypatch):
    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2100, 1, 1, tzinfo=tz)

    first = predict()
    made = datetime.strptime(first["made"], "%Y-%m-%d %H:%M UTC").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - made).total_seconds()) < 3600
    monkeypatch.setattr(foresight, "datetime", Later)
    assert predict(trained=True) == first


@pytest.mark.parametrize(("dropped", "trained", "blind"), [(0, False, True), (3, False, False), (0, True, False)])
def test_a_prediction_is_blind_if_nobody_could_have_known_better(predict, dropped, trained, blind):
    assert predict(dropped, trained)["blind"] == blind


def frozen_of(cells, **changes):
    """A prediction by hand, of so many cells."""
    many = range(cells)
    mixture = {"middle": [0.1 + c / 20 for c in many], "low": [0.05] * cells, "high": [0.95] * cells}
    of = {"why": {"dose": [0.004] * cells, "likelihood": [-1.0] * cells, "prior": [3.0] * cells}}
    parts = {"shares": {"dose": 0.001, "likelihood": 0.25, "prior": 0.749}}
    return {"made": "TODAY", "blind": True, "cells": [f"c{c}" for c in many], "mixture": {**mixture, **of, **parts}} | changes


def test_words_are_dated_and_hold_breadths_and_reasons():
    """The largest first; what is next to nothing is not said."""
    found = words(frozen_of(2))
    assert found[0] == "TODAY, before training on these data."
    assert found[1:3] == ["c0: 0.10 broad [0.05, 0.95]", "c1: 0.15 broad [0.05, 0.95]"]
    assert found[3] == "why, beside the average cell: prior +3.00 nats (75%), likelihood -1.00 nats (25%)"
    assert words(frozen_of(2, blind=False))[0] == "TODAY. Trainings on these data were there already."


def test_words_of_many_settings_are_few():
    assert not any("more" in w for w in words(frozen_of(6)))
    assert words(frozen_of(9))[7] == "and 3 settings more"
    assert len(words(frozen_of(9))) == len(words(frozen_of(6))) + 1


def test_no_reason_is_said_to_be_none():
    quiet = frozen_of(1)
    quiet["mixture"] |= {"why": {"prior": [0.0]}, "shares": {"prior": 0.0}}
    assert words(quiet)[-1] == "why, beside the average cell: no reason to expect other"
    quiet["mixture"] |= {"why": {}, "shares": {}}
    assert words(quiet)[-1] == "why, beside the average cell: no reason to expect other"


# how it turned out

RANKS = ({"rank": 2}, {"rank": 8})
SWEPT = tuple({"rank": r} for r in (1, 2, 4, 8))


@pytest.fixture
def tried(tmp_path):
    """Hold what was said of two ranks on one base, by H0 at known parameters and a table of another base, against rows that came."""
    rows = cell(1, settings=RANKS).with_columns(cell=pl.lit(0))
    of = solutions(rows.filter(pl.col("arm") != "free"), {0: "large"})
    asked = of.with_columns(cell=spelt(pl.lit("x (asked)"), ["rank"]))
    table = complete(gather(cell(0, settings=SWEPT), {0: "small"}))[0].drop("learned")
    known, draws = kept(tmp_path, "runs", RUNS, table), of_draws(a=0.5, **SPREADS).draws
    said = {"H0": build(tmp_path, "said", "H0", {}, lambda at: files.save_arrays(at / DRAWS, draws))}
    ends = {"middle": [0.6, 0.9], "low": [0.5, 0.85], "high": [0.75, 0.95]}
    frozen = {"hypotheses": {"H0": {"title": "a story", "weight": 1.0, **ends}}, "mixture": ends}

    def outcome(rows=rows, frozen=frozen):
        return foresight.outcome(frozen, known, kept(tmp_path, "asked", ASKED, asked), said, kept(tmp_path, "rows", "rows.parquet", rows))

    return outcome, rows, table, asked, frozen


def test_what_came_is_held_against_what_was_said(tried):
    """Breadth by hand; the log score by numpy's conditioning of the table with the runs in it."""
    outcome, rows, table, asked, _ = tried
    found = outcome()
    assert found["breadth"] == pytest.approx([0.7, 0.8])  # .6 and .8, and a tenth more
    assert found["seeds"] == 2
    assert found["scores"]["H0"]["covered"] == 0.5
    assert found["scores"]["H0"]["rank"] is None
    runs_of = gather(rows, {0: "large"}).with_columns(cell=pl.format("x (asked), rank {}", "rank"))
    both = with_runs(table, runs_of, with_asked(table, asked))
    cells, y_C = both.table.cells, both.table.y_C
    assert y_C[4:] == pytest.approx(logit([0.7, 0.8]))
    middle, V = given(cells, y_C, expected("H0", cells, a=0.5), [4, 5])
    assert found["scores"]["H0"]["log_score"] == pytest.approx(log_normal(y_C[4:], middle, V), abs=1e-3)  # float32
    assert found["mixture"] == pytest.approx(found["scores"]["H0"])  # of which it is all


def test_weights_are_those_that_were_frozen(tried):
    outcome, *_, frozen = tried
    less = {**frozen, "hypotheses": {"H0": {**frozen["hypotheses"]["H0"], "weight": 0.5}}}
    assert outcome(frozen=less)["mixture"]["log_score"] == pytest.approx(outcome()["mixture"]["log_score"] - math.log(2))


@pytest.mark.parametrize(("diverged", "said"), [((1,), "rank 8: 1 of its trainings"), ((0, 1), "rank 8: 0 of its trainings")])
def test_a_setting_with_fewer_than_two_trainings_that_converged_is_said(tried, diverged, said):
    outcome, rows, *_ = tried
    bad = (pl.col("quantity") == "nll_train") & (pl.col("arm") == "free") & (pl.col("rank") == 8) & pl.col("seed").is_in(diverged)
    with pytest.raises(UserError, match=said):
        outcome(rows.with_columns(value=pl.when(bad).then(float("nan")).otherwise("value")))


# through the door

BAD = {
    "of everyone": (["+exp=presidents"], "goal=predict: finetune.value is 'each'; breadth is told of one value"),
    "a grid": (["+exp=birds", "+sweep=prior"], "goal=predict takes one experiment"),
    "several values": (["-m", "+exp=birds", "finetune.rank=1,2"], "goal=predict with several values"),
    "no experiment": ([], "choose an experiment, such as +exp=birds"),
    "nothing to go by": (["+exp=birds"], "infer.table is null, and there is no sweep in"),
    "neither true nor false": (["+exp=birds", "infer.score=perhaps"], "infer.score"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(tmp_path, case):
    """And nothing is trained for it."""
    words, expected = BAD[case]
    done = subprocess.run([sys.executable, "-m", "bayesgen", "goal=predict", f"runs={tmp_path}", *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("bayesgen: ")
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(tmp_path.glob("corpus/*"))


def test_a_table_too_small_to_predict_from_is_said_before_anything_is_fitted(tmp_path, monkeypatch):
    runs(bases=2).write_csv(tmp_path / "few.csv")
    settings = {k: v for k, v in setting().items() if k not in ("rows", "optimizer")}
    asked = lines(CAME).with_columns(pl.lit(v).alias(k) for k, v in settings.items())
    monkeypatch.setattr(foresight, "alone", lambda job: kept(tmp_path, "asked", ASKED, asked))
    infer = InferConfig(table=(tmp_path / "few.csv",), simulations=0, calibrations=0, seed=0)
    with pytest.raises(UserError, match="goal=predict: 4 cells to predict from, those asked about left out; expected 8 or more"):
        foresight.foresee(tiny(tmp_path).model_dump(), infer, tmp_path, 1)
    assert not list(tmp_path.glob("belief/*"))


@pytest.mark.slow
def test_a_tiny_experiment_is_foretold_then_tried(tmp_path, capsys):
    """Trained long enough for the broad solution to be broader than the narrow one: dated before any free training; scored by what came."""
    raw = tiny(tmp_path / "runs", rows=[2, 3], epochs=20, snapshots=1).model_dump()
    raw["pretrain"] |= {"steps": 1500, "checkpoint_every": 500}
    bare = runs(leave_out=(*RANGES, "optimizer"))  # nothing to go by but breadth: one hypothesis is soon fitted
    bare.write_csv(tmp_path / "runs.csv")
    infer = InferConfig(table=(tmp_path / "runs.csv",), simulations=0, calibrations=0, seed=0)
    assert foresight.foresee(raw, infer, tmp_path / "runs", 2) == {}
    printed = capsys.readouterr().out
    assert "H2 is not fitted: no column 'frequency_broad'" in printed
    (path,) = (tmp_path / "runs").glob("prediction/*/prediction.json")
    frozen = json.loads(path.read_text())
    assert {k: h["weight"] for k, h in frozen["hypotheses"].items()} == {"H0": 1.0}
    assert frozen["blind"]
    assert all(f"  {w}" in printed for w in frozen["words"])
    (page,) = (tmp_path / "runs").glob("page/prediction-tiny-*/prediction.json")
    came = json.loads(page.read_text())["outcome"]
    ensembles = {json.loads(p.read_text())["config"]["arms"][0]: p for p in (tmp_path / "runs").glob("ensemble/*/manifest.json")}
    assert set(ensembles) == {"narrow", "free"}
    assert path.stat().st_mtime < ensembles["free"].stat().st_mtime
    rows = pl.concat([pl.read_parquet(p) for p in (tmp_path / "runs").glob("rows/*/rows.parquet")])
    ended = rows.filter(arm="free", quantity="skill", context="plain").filter(pl.col("step") == pl.col("step").max())
    by_hand = ended.group_by("rows").agg(pl.col("value").mean()).sort("rows")["value"]
    assert [c.partition(", ")[2] for c in frozen["cells"]] == ["rows 2", "rows 3"]
    assert came["breadth"] == pytest.approx(by_hand.to_list())
    assert came["mixture"] == pytest.approx(came["scores"]["H0"])
