"""Through the door: bad input in one line; what one process keeps another finds; a small table from its file to beliefs."""

import json
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

from bayesgen import beliefs
from bayesgen.artifact import build
from bayesgen.beliefs import build_runs
from bayesgen.errors import UserError
from bayesgen.infer.cells import read_runs
from bayesgen.infer.settings import InferConfig
from tests.infer.tables import RANGES, SPREADS, runs
from tests.infer.test_gather import cell, costs

SETTINGS = {"table": (), "admitted": True, "learned": 0.5, "simulations": 1, "calibrations": 2, "seed": 0}


def at_the_door(folder, *words):
    return subprocess.run([sys.executable, "-m", "bayesgen", "goal=infer", f"runs={folder}", *words], capture_output=True, text=True)


BAD = {
    "nothing to go by": ([], "infer.table is null, and there is no sweep in"),
    "a table that is not there": (["infer.table={folder}/none.csv"], "infer.table: there is no {folder}/none.csv"),
    "one seed": (["infer.table={folder}/single.csv"], "{folder}/single.csv: cell 'b0 c0' (and 7 more) has one seed"),
    "misspelt key": (["infer.tabel={folder}/single.csv"], "infer.tabel"),
    "a negative number": (["infer.simulations=-1"], "infer.simulations: input should be greater than or equal to 0, found -1"),
    "no processes": (["jobs=0"], "jobs=0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(tmp_path, case):
    runs(seeds=1).write_csv(tmp_path / "single.csv")
    words, expected = BAD[case]
    done = at_the_door(tmp_path, *(w.format(folder=tmp_path) for w in words))
    assert done.returncode == 1
    assert done.stderr.startswith("bayesgen: ")
    assert expected.format(folder=tmp_path) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def config(*tables, **changes):
    return InferConfig(**{**SETTINGS, "table": tables, **changes})


def test_a_table_and_several_are_one_table(tmp_path):
    """Each row once, though two files hold it; columns that one of them lacks are left out, and said."""
    runs().write_csv(tmp_path / "all.csv")
    runs(leave_out=("margin",)).filter(pl.col("base") == "b0").with_columns(experiment=pl.lit("y")).write_parquet(tmp_path / "more.parquet")
    runs().head(5).write_csv(tmp_path / "again.csv")
    files = [tmp_path / name for name in ("all.csv", "more.parquet", "again.csv")]
    found = pl.read_parquet(build_runs(config(*files), tmp_path).path("runs.parquet"))
    assert len(found) == len(runs()) + 6
    assert set(runs().columns) - set(found.columns) == {"margin"}


def test_columns_left_out_are_said(tmp_path, capsys):
    runs().with_columns(margin=pl.when(pl.col("seed") == 0).then(None).otherwise("margin")).write_csv(tmp_path / "runs.csv")
    build_runs(config(tmp_path / "runs.csv"), tmp_path)
    assert "column 'margin' is left out: 8 runs have no value in it" in capsys.readouterr().out


def test_a_floor_that_one_table_lacks_is_not_forgotten_of_the_other(tmp_path):
    """The default of what a table does not tell is its own: 0, and one base an experiment. What others tell stays as it is."""
    runs().write_csv(tmp_path / "told.csv")
    plain = runs(leave_out=("floor", "ceiling", "base")).with_columns(experiment=pl.lit("y"))
    plain.write_csv(tmp_path / "plain.csv")
    found = pl.read_parquet(build_runs(config(tmp_path / "told.csv", tmp_path / "plain.csv"), tmp_path).path("runs.parquet"))
    assert found.filter(pl.col("experiment") != "y").select("floor", "ceiling", "base").equals(runs().select("floor", "ceiling", "base"))


def test_a_table_is_known_by_what_it_holds(tmp_path):
    path = tmp_path / "runs.csv"
    runs().write_csv(path)
    first = build_runs(config(path), tmp_path)
    assert first.fresh
    path.rename(tmp_path / "moved.csv")
    assert build_runs(config(tmp_path / "moved.csv"), tmp_path).folder == first.folder
    runs(odds=0.0).write_csv(path)
    assert build_runs(config(path), tmp_path).folder != first.folder


def sweep_folder(folder, *gates):
    """A sweep that was run: rows by hand, and whether each cell's base passed its gate."""
    folder.mkdir(parents=True)
    pl.concat([cell(0), cell(1)]).write_parquet(folder / "rows.parquet")
    found = [{"base": f"base {k}", "gate": f"gate {k}", "passed": passed} for k, passed in enumerate(gates)]
    (folder / "cells.json").write_text(json.dumps({"found": found}))


@pytest.mark.parametrize(("admitted", "bases"), [(True, {"base 0"}), (False, {"base 0", "base 1"})])
def test_bases_that_fail_their_gate_are_left_out_unless_asked_for(tmp_path, capsys, admitted, bases):
    sweep_folder(tmp_path / "sweep" / "prior", True, False)
    found = pl.read_parquet(build_runs(config(admitted=admitted), tmp_path).path("runs.parquet"))
    assert set(found["base"]) == bases
    assert ("1 cells left out: their base fails its gate (base 1)" in capsys.readouterr().out) == admitted


@pytest.mark.parametrize(
    ("arm", "said"), [("free", "they"), ("narrow", "their narrow or broad solution"), ("broad", "their narrow or broad")]
)
def test_cells_that_did_not_learn_their_task_are_left_out(tmp_path, capsys, arm, said):
    """On the mean of their seeds, .6 and .7: one that fell short alone is no reason. What has not learned it is no solution either."""
    sweep_folder(tmp_path / "sweep" / "prior", True, True)
    assert len(pl.read_parquet(build_runs(config(learned=0.62), tmp_path).path("runs.parquet"))) == 4
    rows = pl.read_parquet(tmp_path / "sweep" / "prior" / "rows.parquet")
    less = pl.when((pl.col("quantity") == "learned") & (pl.col("cell") == 1) & (pl.col("arm") == arm)).then(pl.col("value") / 2)
    rows.with_columns(value=less.otherwise("value")).write_parquet(tmp_path / "sweep" / "prior" / "rows.parquet")
    capsys.readouterr()
    assert set(pl.read_parquet(build_runs(config(), tmp_path).path("runs.parquet"))["base"]) == {"base 0"}
    assert f"1 cells left out: {said}" in capsys.readouterr().out


def test_costs_of_a_base_count_for_every_sweep_on_it(tmp_path):
    for name in ("prior", "dose"):
        sweep_folder(tmp_path / "sweep" / name, True, True)
    rows = pl.read_parquet(tmp_path / "sweep" / "dose" / "rows.parquet")
    rows.with_columns(rows=pl.col("rows") + 1).write_parquet(tmp_path / "sweep" / "dose" / "rows.parquet")
    pl.concat([costs(0), costs(1)]).write_parquet(tmp_path / "sweep" / "prior" / "costs.parquet")
    found = pl.read_parquet(build_runs(config(), tmp_path).path("runs.parquet"))
    assert len(found) == 8
    assert found.select("base", "llc_narrow").unique().sort("base").rows() == [("base 0", 2.5), ("base 1", 3.5)]


def test_what_a_belief_keeps_a_trial_finds(tmp_path, monkeypatch):
    """Draws by name, from one process to the other: a table is simulated at the spreads that were found."""
    draws = {"a": np.zeros(5, np.float32), "o": np.ones((5, 4), np.float32), **{k: np.full(5, v, np.float32) for k, v in SPREADS.items()}}
    seen = []
    told = {"fit": {"r_hat": 1.0, "divergences": 0}}
    monkeypatch.setattr(beliefs, "begin", lambda raw, runs: InferConfig(**raw))
    monkeypatch.setattr(beliefs, "_table", lambda source: None)
    monkeypatch.setattr(beliefs, "weigh", lambda *_: (told, draws))
    monkeypatch.setattr(beliefs, "trial", lambda name, found, *_: seen.append(found["H9"]) or {})
    source = build(tmp_path, "runs", "runs", {}, lambda folder: (folder / "runs.parquet").write_text(""))
    belief = beliefs.weigh_one(SETTINGS, tmp_path, source, "H9")
    beliefs.try_one(SETTINGS, tmp_path, source, "H9", {"H9": belief})
    (found,) = seen
    assert set(found) == set(draws)
    assert all((found[k] == draws[k]).all() for k in draws)


def test_one_table_or_many_or_none():
    assert InferConfig(**{**SETTINGS, "table": None}).table == ()
    assert [str(p) for p in InferConfig(**{**SETTINGS, "table": "a.csv"}).table] == ["a.csv"]
    assert [str(p) for p in InferConfig(**{**SETTINGS, "table": ["a.csv", "b.csv"]}).table] == ["a.csv", "b.csv"]


def test_a_folder_that_is_no_sweep_is_said(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises((UserError, OSError)) as error:
        build_runs(config(tmp_path / "mine"), tmp_path)
    assert str(tmp_path / "mine") in str(error.value)


@pytest.mark.slow
def test_a_small_table_goes_through_and_is_found_again(tmp_path):
    """Two columns, so that few hypotheses are fitted; asked again, nothing is computed."""
    kept = {"ordinary", "rows"}
    runs(leave_out=(*(set(RANGES) - kept), "optimizer")).write_csv(tmp_path / "runs.csv")
    assert {"ordinary", "breadth"} <= set(read_runs(tmp_path / "runs.csv").columns)
    words = f"infer.table={tmp_path}/runs.csv", "infer.simulations=1", "infer.calibrations=2"
    began = time.monotonic()
    first = at_the_door(tmp_path, *words)
    took = time.monotonic() - began
    assert first.returncode == 0, first.stderr
    assert "8 cells of 3 seeds or more, 4 bases, 2 experiments" in first.stdout
    assert "H2 is not fitted: no column 'frequency_broad'" in first.stdout
    made = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*/manifest.json")}
    assert {p.parent.name.rsplit("-", 1)[0] for p in tmp_path.glob("belief/*/manifest.json")} == {"H0", "H7"}
    assert {p.parent.name.rsplit("-", 1)[0] for p in tmp_path.glob("trial/*/manifest.json")} == {"H0", "H7"}

    belief = json.loads(next(tmp_path.glob("belief/H7-*/belief.json")).read_text())
    assert set(belief["parameters"]) == {"a", "D", "q", *SPREADS}
    assert len(belief["expected"]) == 8
    assert {len(belief["left_out"][unit]["score"]) for unit in ("cell", "base")} == {8, 4}
    assert set(belief["evidence"]) == {"0.5", "1.0", "2.0"}
    varied = {fold["varied"] for fold in belief["folds"]}
    assert {"experiment", "ordinary"} <= varied
    trial = json.loads(next(tmp_path.glob("trial/H7-*/trial.json")).read_text())
    assert {truth: len(of) for truth, of in trial["evidence"].items()} == {"H0": 1, "H7": 1}
    assert {len(r) for r in trial["calibration"]["ranks"].values()} == {2}

    began = time.monotonic()
    again = at_the_door(tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*/manifest.json")} == made
    assert time.monotonic() - began < took / 2
