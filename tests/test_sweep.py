"""Grids: expanded, planned, trained together, found again, gathered; failures cost themselves alone."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from bayesgen.compose import cells
from bayesgen.config import to_config
from bayesgen.errors import UserError
from bayesgen.pipeline import build_corpus
from bayesgen.planning import make_plan
from bayesgen.setup import prepare
from bayesgen.sweep import run_sweep
from bayesgen.training import build_base, build_ensemble, build_ensembles
from tests.test_processes import alive
from tests.tiny_run import tiny_run_config

TINY = {"arms": ["free", "narrow"], "epochs": 2, "snapshots": 1}


def raw(runs, **finetune):
    out = tiny_run_config(runs, **TINY, **finetune).model_dump()
    out["pretrain"]["steps"] = 4
    return out


def grid(runs, **axes):
    """One axis after the other, and both."""
    (a, first), (b, second) = axes.items()
    return [({f"of_{a}": str(x), f"of_{b}": str(y)}, raw(runs, **{a: x, b: y})) for x in first for y in second]


def test_words_and_a_named_grid_make_cells(tmp_path):
    found = cells(["exp=birds", "model=xs,s", "finetune.rank=1,2", "finetune.seeds=3", f"runs={tmp_path}"])
    assert [c.levels for c in found] == [{"model": m, "finetune.rank": r} for m in ("xs", "s") for r in ("1", "2")]
    assert [(c.raw["model"]["width"], c.raw["finetune"]["rank"], c.raw["finetune"]["seeds"]) for c in found] == [
        (64, 1, 3),
        (64, 2, 3),
        (128, 1, 3),
        (128, 2, 3),
    ]
    rates = cells(["exp=birds", "sweep=rates"])
    assert len(rates) == 100
    assert {c.raw["finetune"]["rank"] for c in rates} == {1, 2, 4, 8, 16}
    assert len(cells(["exp=birds"])) == 1


def test_levels_by_name_set_several_keys(tmp_path, monkeypatch):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/mine.yaml").write_text(
        "pace: {slow: {finetune.epochs: 9, finetune.learning_rate: 1e-3}, fast: {finetune.epochs: 1, finetune.learning_rate: 1e-2}}\n"
    )
    found = cells(["exp=birds", "sweep=mine", f"hydra.searchpath=['{tmp_path.as_uri()}']"])
    assert [(c.levels["pace"], c.raw["finetune"]["epochs"], c.raw["finetune"]["learning_rate"]) for c in found] == [
        ("slow", 9, 1e-3),
        ("fast", 1, 1e-2),
    ]


def test_values_are_set_as_hydra_sets_them(tmp_path):
    """What refers to a key that is swept follows it, and a part of a table is merged into it."""
    found = cells(["exp=presidents", "finetune.identifier='xxx{ordinal}xx','xx{ordinal}xxx'"])
    assert [c.raw["measure"]["contexts"][0]["identifier"] for c in found] == ["xxx{ordinal}xx", "xx{ordinal}xxx"]
    for words in (["world.frequencies={era:{victorian:0.2}},{era:{victorian:0.1}}"], ["world.frequencies={era:{victorian:0.2}}"]):
        swept = cells(["exp=birds", *words])[0].raw["world"]["frequencies"]["era"]
        assert swept["victorian"] == 0.2
        assert len(swept) == 4


@pytest.mark.parametrize(
    ("grid", "said"),
    [("finetune.rank: 3", "sweep.finetune.rank is 3"), ("finetune.rank: [1, 1]", "holds a value twice"), ("a: {x: 3}", "sweep.a is")],
)
def test_a_grid_that_is_none_is_one_line(tmp_path, grid, said):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/mine.yaml").write_text(grid + "\n")
    with pytest.raises(UserError, match=re.escape(said)):
        cells(["exp=birds", "sweep=mine", f"hydra.searchpath=['{tmp_path.as_uri()}']"])


def test_a_misspelt_axis_is_the_reason_of_its_cells():
    (misspelt,) = {str(c.raw) for c in cells(["exp=birds", "finetune.rnak=1,2"])}
    assert misspelt == "finetune.rnak: no such key; did you mean 'rank'?"
    bad = cells(["exp=birds,brids", "finetune.seeds=1"])
    assert isinstance(bad[0].raw, dict)
    assert "did you mean 'birds'" in str(bad[1].raw)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    asked = grid(runs, rank=[1, 2], rows=[3, 99])
    return runs, asked, run_sweep(asked, runs, 1, False)


def test_all_cells_but_those_that_fail_are_there_and_nothing_is_filled_in(swept):
    runs, _, failed = swept
    assert set(failed) == {"of_rank=1, of_rows=99", "of_rank=2, of_rows=99"}
    assert all("99 rows asked for" in why for why in failed.values())
    folder = next(runs.glob("sweep/*/rows.parquet")).parent
    table = pl.read_parquet(folder / "rows.parquet")
    assert set(table["of_rank"]) == {1, 2}
    assert table.filter(pl.col("arm") == "free").select("of_rank", "rank").unique().filter(pl.col("of_rank") != pl.col("rank")).is_empty()
    assert table.filter(pl.col("arm") == "free").select("rank").n_unique() == 2
    listed = json.loads((folder / "cells.json").read_text())
    assert (listed["expected"], len(listed["found"]), listed["failed"]) == (4, 2, failed)
    assert {(cell["passed"], cell["diverged"]) for cell in listed["found"]} == {(False, 0)}  # four steps make no base that passes


def test_cells_that_train_together_are_what_they_are_alone(swept, tmp_path):
    runs, asked, _ = swept
    together = sorted(runs.glob("ensemble/tiny-*/manifest.json"))
    assert [json.loads(p.read_text())["together"] for p in together] == [2, 2]
    for _, words in asked[::2]:
        setup = prepare(to_config({**words, "runs": tmp_path}))
        base = build_base(setup, build_corpus(setup))
        alone = build_ensemble(setup, base)
        crowd = runs / "ensemble" / alone.folder.name
        for name in ("adapters-000006.safetensors", "losses.safetensors"):
            ours, theirs = load_file(alone.folder / name), load_file(crowd / name)
            assert ours.keys() == theirs.keys()
            for key in ours:
                np.testing.assert_allclose(ours[key], theirs[key], atol=2e-5)


def test_asked_again_nothing_is_computed_and_a_larger_grid_computes_what_is_new(swept, capfd):
    runs, asked, failed = swept
    before = sorted(runs.glob("*/*"))
    assert run_sweep(asked, runs, 1, False) == failed
    assert sorted(runs.glob("*/*")) == before
    assert "step" not in capfd.readouterr().out
    larger = grid(runs, rank=[1, 2], learning_rate=[1e-2, 2e-2])
    plan = make_plan({i: words for i, (_, words) in enumerate(larger)}, 1)
    assert (len(plan.found), plan.programs) == (2, [[0, 1, 2, 3]])  # split as if none were found: what was begun is found again
    assert run_sweep(larger, runs, 1, False) == {}
    assert "2 found, 2 missing" in (said := capfd.readouterr().out)
    assert len(list(runs.glob("ensemble/*/losses.safetensors"))) == 4
    assert said.count("ensemble: 8 members") == 1  # two cells of two arms and two seeds


def test_a_dry_run_lists_and_builds_nothing(tmp_path, capfd):
    assert set(run_sweep(grid(tmp_path, rank=[1, 2], rows=[3, 99]), tmp_path, 1, True)) == {
        "of_rank=1, of_rows=99",
        "of_rank=2, of_rows=99",
    }
    said = capfd.readouterr().out
    assert "of_rank=1, of_rows=3: missing" in said
    assert "of_rank=2, of_rows=99: refused: " in said
    assert "4 cells" in said
    assert not list(tmp_path.glob("base/*"))


def test_an_axis_may_not_hide_a_column(tmp_path):
    with pytest.raises(UserError, match=re.escape("sweep.value: the table of rows has a column of that name")):
        run_sweep([({"value": "x"}, raw(tmp_path))], tmp_path, 1, True)


def test_damaged_rows_are_made_anew(swept, tmp_path, capfd):
    """Cut short, and with a bit that is another: found by the plan, not by who reads the table."""
    runs, _, failed = swept
    shutil.copytree(runs, tmp_path / "runs")
    asked = grid(tmp_path / "runs", rank=[1, 2], rows=[3, 99])
    rows = [tmp_path / "runs/rows" / cell["rows"] / "rows.parquet" for cell in listed_in(tmp_path / "runs", failed)["found"]]
    before = [path.read_bytes() for path in rows]
    rows[0].write_bytes(before[0][: len(before[0]) // 2])
    flipped = bytearray(before[1])
    flipped[len(flipped) // 2] ^= 1
    rows[1].write_bytes(flipped)
    capfd.readouterr()
    assert run_sweep(asked, tmp_path / "runs", 1, False) == failed
    assert "0 found, 2 missing" in capfd.readouterr().out
    assert [path.read_bytes() for path in rows] == before


def listed_in(runs, failed):
    """The list of cells of the sweep in which these failed."""
    return next(of for of in (json.loads(p.read_text()) for p in runs.glob("sweep/*/cells.json")) if of["failed"] == failed)


def test_a_cell_that_diverges_costs_itself_alone_in_company_and_by_itself(swept, tmp_path):
    """Beside one that is done earlier: whoever is done reports no loss either."""
    runs, *_ = swept
    for stage in ("base", "corpus"):
        shutil.copytree(runs / stage, tmp_path / stage)
    raws = [raw(tmp_path, learning_rate=1e-2), raw(tmp_path, learning_rate=1e20)]
    raws[1]["finetune"]["epochs"] = 4
    healthy, ill = (prepare(to_config(r)) for r in raws)
    base = build_base(healthy, build_corpus(healthy))
    for company in ([healthy, ill], [ill]):
        with pytest.raises(UserError, match="every member diverged"):
            build_ensembles(company, base)
        assert len(list(tmp_path.glob("ensemble/*/losses.safetensors"))) == 1
    assert build_ensemble(healthy, base).fresh is False


ENDLESS = """
import signal
import sys
from pathlib import Path
from bayesgen.sweep import run_sweep
from tests.test_sweep import raw

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever began us may ignore it
    runs = Path(sys.argv[1])
    endless = raw(runs)
    endless["pretrain"]["steps"] = 10**6
    run_sweep([({"a": "1"}, endless)], runs, 1, False)
"""


KILLED = """
import sys
from pathlib import Path
from bayesgen.sweep import run_sweep
from tests.test_sweep import raw

if __name__ == "__main__":
    runs = Path(sys.argv[1])
    long = raw(runs, batch=3)
    long["finetune"]["epochs"] = 40_000
    print("FAILED CELLS", run_sweep([({"a": "1"}, raw(runs)), ({"a": "2"}, long)], runs, 2, False), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the children in /proc")
def test_a_job_that_is_killed_costs_its_own_cells(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    runs = tmp_path / "runs"
    command = [sys.executable, str(tmp_path / "killed.py"), str(runs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}) as parent:
        assert parent.stdout is not None
        for line in parent.stdout:
            if "program 2/2:" in line and "ensemble: step" in line:
                children = [int(c) for of in Path(f"/proc/{parent.pid}/task").glob("*/children") for c in of.read_text().split()]
                endless = max(runs.glob("ensemble/*.work"), key=lambda work: (work / "checkpoint.safetensors").exists())
                (holder,) = [c for c in children if any(str(endless)[:-5] in os.readlink(fd) for fd in Path(f"/proc/{c}/fd").iterdir())]
                os.kill(holder, signal.SIGKILL)
                break
        said = parent.stdout.read()
        assert parent.wait(120) == 0
    assert "FAILED CELLS {'a=2': 'RuntimeError: its process ended by signal SIGKILL (no memory left?)'}" in said
    assert "1 of 2 cells" in said
    assert pl.read_parquet(next(runs.glob("sweep/*/rows.parquet")))["a"].unique().to_list() == [1.0]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the children in /proc")
def test_an_interrupt_leaves_no_children_and_a_state_to_go_on_from(tmp_path):
    (tmp_path / "endless.py").write_text(ENDLESS)
    command = [sys.executable, str(tmp_path / "endless.py"), str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as parent:
        assert parent.stdout is not None
        assert any("base: step" in line for line in parent.stdout)
        children = [int(c) for of in Path(f"/proc/{parent.pid}/task").glob("*/children") for c in of.read_text().split()]
        parent.send_signal(signal.SIGINT)
        parent.wait(60)
    assert children
    until = time.monotonic() + 20
    while any(map(alive, children)) and time.monotonic() < until:
        time.sleep(0.2)
    assert not list(filter(alive, children))
    assert list((tmp_path / "runs").glob("base/*.work/**/checkpoint.safetensors"))


def test_a_grid_that_is_a_study_ends_in_a_page(tmp_path, capsys):
    """A line a cell and arm, contrasts between cells; a level that there is not is said before anything is trained."""
    at = lambda arm, rank: {"arm": arm, "where": {"of_rank": rank, "of_rows": "3"}}  # noqa: E731
    contrasts = [{"name": "rank 2 − 1", "of": at("free", "2"), "minus": at("free", "1")}]
    study = {"columns": [{"name": "probes"}], "x": "of_rank", "y": ["probes"], "contrasts": contrasts}
    cells = [(levels, {**its, "study": study}) for levels, its in grid(tmp_path, rank=[1, 2], rows=[3])]
    wrong = {**study, "contrasts": [{"name": "w", "of": at("free", "3")}]}
    with pytest.raises(UserError, match="w: of_rank has no level '3'"):
        run_sweep([(levels, {**its, "study": wrong}) for levels, its in cells], tmp_path, 1, False)
    assert not (tmp_path / "ensemble").exists()
    assert run_sweep(cells, tmp_path, 1, False) == {}
    (page,) = (p for p in (tmp_path / "page").glob("tiny-*") if p.is_dir())
    assert f"page: {page}/report.html" in capsys.readouterr().out
    text = re.sub("<a id=.*?></a>", "", (page / "result.md").read_text())
    of_each = (f"| of_rank {r}, of_rows 3, {arm}, base fails its gate |" for r in (1, 2) for arm in TINY["arms"])  # a tiny one does
    for line in ("| rank 2 − 1 | above 0.05 |", "| base gate: NOT PASSED;", *of_each):
        assert line in text
    assert (page / "study.png").stat().st_size > 5000
