"""What was foretold held against what came: by hand, and a tiny experiment from its prediction to its score."""

import json
import math

import polars as pl
import pytest
from scipy.special import logit

from bayesgen import files, foresight
from bayesgen.artifact import build
from bayesgen.beliefs import RUNS
from bayesgen.errors import UserError
from bayesgen.foresight import ASKED, DRAWS
from bayesgen.infer.foresight import with_asked, with_runs
from bayesgen.infer.gather import LEARNED, complete, gather, solutions, spelt
from bayesgen.infer.settings import InferConfig
from tests.infer.tables import RANGES, SPREADS, kept, of_draws, runs
from tests.infer.test_foresight import expected, given, log_normal
from tests.infer.test_gather import cell
from tests.tiny_run import tiny_run_config

RANKS = ({"rank": 2}, {"rank": 8})
SWEPT = tuple({"rank": r} for r in (1, 2, 4, 8))


@pytest.fixture
def tried(tmp_path):
    """Hold what was said of two ranks on one base, by H0 at known parameters and a table of another base, against rows that came."""
    rows = cell(1, settings=RANKS).with_columns(cell=pl.lit(0))
    of = solutions(rows.filter(pl.col("arm") != "free"), {0: "large"})
    asked = of.with_columns(cell=spelt(pl.lit("x (asked)"), ["rank"])).drop(LEARNED)
    table = complete(gather(cell(0, settings=SWEPT), {0: "small"}))[0].drop("learned", *LEARNED)
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


@pytest.mark.slow
def test_a_tiny_experiment_is_foretold_then_tried(tmp_path, capsys):
    """Trained long enough for the broad solution to be broader than the narrow one: dated before any free training; scored by what came."""
    raw = tiny_run_config(tmp_path / "runs", rows=[2, 3], epochs=20, snapshots=1).model_dump()
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
