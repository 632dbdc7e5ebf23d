"""Costs of the cells of a grid, asked for when their rows are there already."""

import polars as pl
import pytest

from bayesgen.sweep import run_sweep
from tests.test_sweep import grid

COST = {
    "parts": ["bits"],
    "seeds": 2,
    "sampled": 2,
    "weights": [1.0],
    "scales": [1.0],
    "bounds": [0.5],
    "noise": [0.5],
    "draws": 2,
    "documents": 1,
    "chain": 4,
    "bridge": 4,
    "tie": 1.0,
    "orders": 2,
}


@pytest.mark.slow
def test_costs_asked_for_later_are_measured_of_what_is_there(tmp_path, capfd):
    """Rows alone do not make a cell found; once the costs are there, nothing is computed."""
    arms = {"arms": ["free", "narrow", "broad"]}
    plain = [(levels, {**words, "finetune": {**words["finetune"], **arms}}) for levels, words in grid(tmp_path, rank=[1, 2], seeds=[2])]
    assert run_sweep(plain, tmp_path, 1, False) == {}
    asked = [(levels, {**words, "measure": {**words["measure"], "cost": COST}}) for levels, words in plain]
    capfd.readouterr()
    assert run_sweep(asked, tmp_path, 1, False) == {}
    assert "0 found, 2 missing" in (said := capfd.readouterr().out)
    assert "step" not in said  # what was trained is there
    (folder,) = {p.parent for p in tmp_path.glob("sweep/*/costs.parquet")}
    assert set(pl.read_parquet(folder / "costs.parquet")["cell"]) == {0, 1}
    assert run_sweep(asked, tmp_path, 1, False) == {}
    assert "2 found, 0 missing" in capfd.readouterr().out
