"""What a table holds already of the settings that a prediction is asked about: taken out first."""

import polars as pl
import pytest

from bayesgen import foresight
from bayesgen.beliefs import RUNS, build_runs
from bayesgen.errors import UserError
from bayesgen.foresight import ASKED, FEWEST
from bayesgen.infer.settings import InferConfig
from tests.infer.tables import kept, runs
from tests.infer.test_foresight import lines
from tests.infer.test_gather import setting


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
