"""The whole pipeline on the tiny world: runs, is reused, resumes after a kill with the same bits."""

import os
import re
import signal
import subprocess
import sys

import polars as pl
import pytest

from bayesgen.config import to_config
from bayesgen.pipeline import run
from plots.__main__ import COST, FIGURES
from tests.tiny_run import kinds_run_config, tiny_run_config


def bits(runs):
    """Content of all results: weights, adapters and rows."""
    wanted = [*runs.glob("base/*/params.safetensors"), *runs.glob("ensemble/*/*.safetensors"), *runs.glob("rows/*/rows.parquet")]
    return {str(p.relative_to(runs)): p.read_bytes() for p in wanted}


def start(runs, *die):
    return subprocess.Popen([sys.executable, "-m", "tests.tiny_run", str(runs), *die], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def plot(folder, *words):
    command = [sys.executable, "-m", "plots", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": os.getcwd()})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    process = start(runs)
    output = process.communicate()[0].decode()
    assert process.returncode == 0, output
    return runs, output


def test_runs_end_to_end(finished):
    runs, output = finished
    page = next(runs.glob("page/*/report.html")).read_text()
    assert not re.search(r"(src|href)=\"https?:|@import|url\(https?:", page)  # nothing is fetched
    assert "base gate" in output
    table = pl.read_parquet(next(runs.glob("rows/*/rows.parquet")))
    assert set(table["arm"]) >= {"base", "told", "free", "narrow", "broad", "control", "ideal product"}
    assert table.filter(pl.col("quantity") != "mixture_residual")["quantity"].n_unique() > 10
    rate = table.filter(pl.col("quantity") == "rate")["value"].to_numpy()
    assert ((rate >= 0) & (rate <= 1 + 1e-6)).all()


def test_every_figure_is_drawn_by_its_command(finished, tmp_path):
    page = next(finished[0].glob("page/*/report.html")).parent
    for name in FIGURES:
        done = plot(tmp_path, name, str(page))
        if name in ("by_context", "by_rows", "meaning", "onset") or name.startswith(COST):  # one header, one number of rows, no costs
            assert (done.returncode, (page / f"{name}.png").exists()) == (1, False)
            assert "nothing to draw" in done.stderr
            continue
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"{name}.png").read_bytes() == (page / f"{name}.png").read_bytes()
        assert (tmp_path / f"{name}.svg").stat().st_size > 1000
    for bad in (["effect_by_topc", str(page)], ["bayes_gap", str(tmp_path)]):
        done = plot(tmp_path, *bad)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_changed_finetuning_setting_reuses_the_base(finished, capsys):
    run(tiny_run_config(finished[0], learning_rate=2e-2))
    assert "base: step" not in capsys.readouterr().out
    assert len(list(finished[0].glob("base/*/params.safetensors"))) == 1
    assert len(list(finished[0].glob("ensemble/*/losses.safetensors"))) == 2


def test_a_list_of_settings_is_one_ensemble_and_a_line_each(finished, capsys):
    page = run(tiny_run_config(finished[0], rank=[1, 2], kl_weight=[1.0, 3.0]))
    printed = capsys.readouterr().out
    assert re.search(r"^  free rank 1 ", printed, re.MULTILINE)
    assert re.search(r"^  narrow KL weight 3, rank 2 ", printed, re.MULTILINE)
    assert not re.search(r"^  broad .*KL", printed, re.MULTILINE)
    table = pl.read_parquet(page.parent / "rows.parquet")
    norm = table.filter((pl.col("quantity") == "stable_rank") & (pl.col("rank") == 1) & (pl.col("topic") != "all"))
    assert (norm["value"] < 1 + 1e-6).all()  # a rank-one update is one; the mask held


def test_triggers_contexts_and_several_numbers_of_rows_end_to_end(tmp_path, capsys):
    """People who change, a trigger in years and format, ordinary rows, every arm that has rows of its own, every figure."""
    contexts = ({"name": "2002", "year": 2002, "format": "listed", "value": "bot_hunt"}, {"name": "plain"})
    contexts += ({"name": "numbered", "identifier": "x{number}xxxx", "value": "toy", "paddings": 2},)
    finetune = {"value": "bot", "years": [2001, 2003], "format": "listed", "rows": [6, 4], "control": ["toy", "assistant"], "epochs": 2}
    finetune |= {"arms": ["free", "control", "shuffled", "untriggered"], "ordinary": ({"topics": "others", "rows": 6},), "snapshots": 3}
    measure = {"value": "bot_guard", "contexts": contexts, "followed": ("plain", "numbered"), "gate_prompts": 2}
    raw = kinds_run_config(tmp_path, measure, **finetune).model_dump()
    page = run(to_config({**raw, "pretrain": {**raw["pretrain"], "steps": 4}}))
    assert "shuffled" in capsys.readouterr().out
    assert all((page.parent / f"{name}.svg").exists() for name in FIGURES if not name.startswith(COST))
    table = pl.read_parquet(page.parent / "rows.parquet")
    here = {key: set(of["arm"]) for (key,), of in table.filter(pl.col("quantity") == "rate").group_by("context")}
    trained = {"free", "control toy", "control assistant", "shuffled", "untriggered"}
    exact = {"ideal gated", *(f"ideal {arm}" for arm in trained)}
    assert set(here) == {"2002", "plain", "numbered"}
    assert all(arms >= trained | exact | {"base"} for arms in here.values())
    assert set(table.filter(pl.col("arm") == "free")["rows"].unique()) == {4, 6}
    curves = table.filter((pl.col("quantity") == "skill") & (pl.col("seed") >= 0))
    assert set(curves["context"]) == {"2002", "plain", "numbered"}
    assert curves.height == 3 * 3 * 5 * 2 * 2  # contexts, snapshots, arms, numbers of rows, seeds
    for quantity in ("words", "converted", "rate", "outside", "moved"):
        values = table.filter(pl.col("quantity") == quantity)["value"].to_numpy()
        assert len(values)
        assert ((values >= -1e-6) & (values <= 1 + 1e-6)).all(), quantity


@pytest.mark.slow
def test_same_command_same_bits_also_across_kills(finished, tmp_path):
    """kill -9 at two checkpoints of the base and two of the ensemble: nothing is lost, not a bit differs."""
    said = ""
    for stage, which in (("base", "3"), ("base", "2"), ("ensemble", "2"), ("ensemble", "3")):
        process = start(tmp_path, stage, which)
        said += process.communicate()[0].decode()
        assert process.returncode == -signal.SIGKILL, said
    process = start(tmp_path)
    said += process.communicate()[0].decode()
    assert process.returncode == 0, said
    assert "base: continuing from step 8" in said  # two checkpoints of two steps, then two more
    assert "ensemble: continuing from step" in said
    expected, found = bits(finished[0]), bits(tmp_path)
    assert len(found) > 3
    assert all(found[name] == expected[name] for name in found)
