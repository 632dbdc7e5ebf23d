"""Runs to cells: files, counts, variances, and every error in one line that names the column or the cell."""

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from scipy import stats
from scipy.special import expit, logit

from bayesgen.errors import UserError
from bayesgen.infer.cells import COLUMNS, FREEDOM, LEVELS, collinearity, log_odds, read_runs, to_cells
from bayesgen.infer.compare import by_base
from bayesgen.infer.hypotheses import HYPOTHESES
from tests.infer.tables import runs


def at(row: int, **values) -> pl.DataFrame:
    """The table with other values in one row."""
    here = pl.int_range(pl.len()) == row
    return runs().with_columns(pl.when(here).then(pl.lit(v)).otherwise(pl.col(k)).alias(k) for k, v in values.items())


def counted(**values) -> pl.DataFrame:
    """The table with counts in place of breadth."""
    return runs().drop("breadth").with_columns(**values)


BAD = {  # row 4 is of cell 'b0 c1', seed 1
    "no experiment": (runs().drop("experiment"), "no column 'experiment'"),
    "no cell": (runs().rename({"cell": "cel"}), "no column 'cell'.*did you mean 'cel'"),
    "no seed": (runs().rename({"seed": "seeds"}), "no column 'seed'.*did you mean 'seeds'"),
    "no breadth": (runs().rename({"breadth": "breath"}), "no column 'breadth'.*did you mean 'breath'"),
    "counts of nothing": (counted(broad=pl.lit(3)), "no column 'breadth', nor both 'broad' and 'asked'"),
    "no rows": (runs().clear(), "no rows"),
    "one seed": (runs().filter((pl.col("cell") != "b1 c1") | (pl.col("seed") == 0)), "cell 'b1 c1' has one seed"),
    "one seed, twice": (runs().filter((pl.col("base") != "b1") | (pl.col("seed") == 0)), r"cell 'b1 c0' \(and 1 more\) has one seed"),
    "a seed twice": (at(4, seed=0), "cell 'b0 c1' has seed 0 twice"),
    "breadth above 1": (at(4, breadth=1.5), "breadth is 1.5 in cell 'b0 c1'"),
    "breadth below 0": (at(4, breadth=-0.5), "breadth is -0.5 in cell 'b0 c1'"),
    "no breadth in a run": (at(4, breadth=None), "breadth is None in cell 'b0 c1'"),
    "breadth not a number": (at(4, breadth=float("nan")), "breadth is nan in cell 'b0 c1'"),
    "more broad than asked": (counted(broad=pl.lit(12), asked=pl.lit(10)), "breadth is .* in cell 'b0 c0'; expected a share"),
    "a floor above 1": (at(4, floor=2.0), "floor is 2.0 in cell 'b0 c1'"),
    "a ceiling that is missing": (at(4, ceiling=None), "ceiling is None in cell 'b0 c1'"),
    "a ceiling below the floor": (at(4, ceiling=0.01), "ceiling is 0.01 in cell 'b0 c1', no more than floor, 0.02"),
    "a ceiling at the floor": (at(4, ceiling=0.02), "ceiling is 0.02 in cell 'b0 c1', no more than floor, 0.02"),
    "unknown optimizer": (at(4, optimizer="addam"), "optimizer is 'addam'; did you mean 'adam'"),
    "no optimizer": (at(4, optimizer=None), "optimizer is 'None'; valid: adam"),
    "a hole": (at(4, evidence=None), "column 'evidence' has no value in cell 'b0 c1'"),
    "a hole among counts": (at(4, steps=None), "column 'steps' has no value in cell 'b0 c1'"),
    "an infinite number": (at(4, margin=float("inf")), "column 'margin' has no value in cell 'b0 c1'"),
    "text for numbers": (runs().with_columns(rows=pl.lit("many")), "column 'rows' holds String, expected numbers"),
    "text for breadth": (runs().with_columns(breadth=pl.lit("much")), "column 'breadth' holds String, expected numbers"),
    "text for counts": (counted(broad=pl.lit("many"), asked=pl.lit(10)), "column 'broad' holds String, expected numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_one_line(case):
    bad, expected = BAD[case]
    with pytest.raises(UserError, match=f"^mine.csv: .*{expected}") as error:
        to_cells(bad, "mine.csv")
    assert "\n" not in str(error.value)


BAD_FILES = {
    "another kind": ("runs.xlsx", "", "a table of runs is a .parquet or .csv file"),
    "not there": ("runs.csv", None, "there is no such file"),
    "empty": ("runs.csv", "", "cannot be read as csv"),
    "ragged": ("runs.csv", 'a,b\n1,2\n1,2,3,4\n"', "cannot be read as csv"),
    "no Parquet": ("runs.parquet", "experiment,cell", "cannot be read as parquet"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_line(tmp_path, case):
    name, content, expected = BAD_FILES[case]
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{name}: {expected}") as error:
        read_runs(tmp_path / name)
    assert "\n" not in str(error.value)


def same(a, b):
    """Whether two tables are the same to the last bit."""
    assert a._replace(breadth_C=0, y_C=0, cells=0) == b._replace(breadth_C=0, y_C=0, cells=0)
    for x, y in zip((a.breadth_C, a.y_C, *a.cells[1:]), (b.breadth_C, b.y_C, *b.cells[1:]), strict=True):
        assert np.asarray(x).tolist() == np.asarray(y).tolist()
    assert {k: v.tolist() for k, v in a.cells.columns.items()} == {k: v.tolist() for k, v in b.cells.columns.items()}


def test_csv_and_parquet_are_the_same_table(tmp_path):
    runs().write_csv(tmp_path / "runs.csv")
    runs().write_parquet(tmp_path / "runs.parquet")
    same(to_cells(read_runs(tmp_path / "runs.csv")), to_cells(read_runs(tmp_path / "runs.parquet")))
    same(to_cells(read_runs(tmp_path / "runs.csv")), to_cells(runs()))


def test_cells_are_means_over_seeds_in_the_order_of_the_table():
    table, by_hand = to_cells(runs()), runs().group_by("cell", maintain_order=True).agg(cs.numeric().mean())
    assert table.names == by_hand["cell"].to_list()
    assert table.breadth_C == pytest.approx(by_hand["breadth"].to_numpy(), abs=1e-12)
    assert table.y_C == pytest.approx(logit(table.breadth_C), abs=1e-12)
    for column in (c for c in COLUMNS if c != "optimizer"):
        assert np.asarray(table.cells.columns[column]) == pytest.approx(by_hand[column].to_numpy(), rel=1e-6)  # float32
    assert np.asarray(table.cells.floor_C) == pytest.approx(by_hand["floor"].to_numpy())
    assert np.asarray(table.cells.ceiling_C) == pytest.approx(by_hand["ceiling"].to_numpy())
    assert table.cells.columns["optimizer"].tolist() == [0, 1, 2, 3] * 2
    assert table.seeds == 3


def test_rows_may_come_in_any_order():
    table, shuffled = to_cells(runs()), to_cells(runs().sample(fraction=1, shuffle=True, seed=0))
    order = [shuffled.names.index(n) for n in table.names]
    assert order != sorted(order)
    assert shuffled.y_C[order] == pytest.approx(table.y_C, abs=1e-12)
    of = lambda t: [t.experiments[t.cells.experiment_B[b]] + t.bases[b] for b in t.cells.base_C.tolist()]  # noqa: E731
    assert [of(shuffled)[i] for i in order] == of(table)


def test_bases_and_cells_of_one_name_in_two_experiments_are_two():
    twins = pl.concat([runs(bases=2), runs(bases=2).with_columns(experiment=pl.lit("y"))])
    table = to_cells(twins)
    assert (len(table.names), len(table.bases), table.experiments) == (8, 4, ["x0", "y"])
    assert table.cells.experiment_B.tolist() == [0, 0, 1, 1]


def test_experiments_on_one_network_are_a_family_by_way_of_others_too():
    """x0 is on n0 and n1, y on n1 and n2, z on n2; x1 is on its own."""
    networks = {"x0": ("n0", "n1"), "x1": ("own",), "y": ("n1", "n2"), "z": ("n2",)}
    some = runs(bases=1).drop("experiment", "base")
    tables = [some.with_columns(experiment=pl.lit(e), base=pl.lit(n)) for e, on in networks.items() for n in on]
    table = to_cells(pl.concat(tables))
    assert table.networks == ["n0", "n1", "own", "n2"]
    assert len(table.bases) == 6
    assert table.families() == {"x0": "x0", "y": "x0", "z": "x0", "x1": "x1"}
    assert to_cells(runs()).families() == {"x0": "x0", "x1": "x1"}
    assert [len(g) for g in by_base(table)] == [2, 4, 2, 4]
    assert by_base(table)[1] == [2, 3, 6, 7]  # whatever the experiment


def test_what_is_not_told_of_bases_floors_and_ceilings():
    table = to_cells(runs(leave_out=("base", "floor", "ceiling")))
    assert table.bases == table.networks == ["x0", "x1"]  # an experiment one each, which nobody shares
    assert set(table.cells.floor_C.tolist()) == {0}
    assert set(table.cells.ceiling_C.tolist()) == {1}


def test_counts_are_shares_with_half_a_case_more_of_either_kind():
    """Nobody of ten is no impossibility: (0 + 1/2) / (10 + 1)."""
    broad = runs()["seed"] * 5
    same(
        to_cells(counted(broad=broad, asked=pl.lit(10))),
        to_cells(runs().with_columns(breadth=pl.Series((broad.to_numpy() + 0.5) / (10 + 1)))),
    )
    assert to_cells(counted(broad=pl.lit(0), asked=pl.lit(10))).breadth_C == pytest.approx(1 / 22)


def test_levels_are_what_may_be_held_out():
    table = to_cells(runs().with_columns(rank=pl.lit(4.0), network=pl.lit("s")))
    assert set(table.levels) == {c for c in LEVELS if c in runs().columns} | {"rank", "network"}
    assert table.levels["rank"] == ["4"] * 8
    assert table.levels["experiment"] == ["x0"] * 4 + ["x1"] * 4


def test_the_variance_is_the_delta_methods_where_cells_agree():
    """Then there is nothing to be drawn towards but what there is: var(p) / (p (1 - p))^2 / n."""
    p_C, n_C, own = np.array([0.2, 0.5, 0.9]), np.array([3, 10, 10]), 0.3
    variance_C = (own * p_C * (1 - p_C)) ** 2
    y_C, found_C = log_odds(p_C, variance_C, n_C)
    assert y_C == pytest.approx(logit(p_C))
    assert found_C == pytest.approx(own**2 / n_C)


def test_a_variance_that_few_seeds_tell_is_drawn_towards_the_median():
    """Second road: the mean of a chi-squared's conjugate posterior, FREEDOM seeds more whose variance is the median's."""
    p_C, own_C, n = np.full(3, 0.5), np.array([0.1, 0.2, 2.0]), 5
    _, found_C = log_odds(p_C, (own_C / 4) ** 2, np.full(3, n))
    expected = [np.average([0.2**2, own**2], weights=[FREEDOM, n - 1]) / n for own in own_C]
    assert found_C == pytest.approx(expected)
    _, many_C = log_odds(p_C, (own_C / 4) ** 2, np.full(3, 10_000))
    assert many_C * 10_000 == pytest.approx(own_C**2, rel=5e-2)  # 4 in 10,000 of a hundredfold


def test_the_variance_is_what_seeds_do():
    """Simulation: log odds of a mean over ten seeds, whose log odds stray by .3."""
    rng = np.random.default_rng(0)
    p_RxS = expit(-1 + 0.3 * rng.normal(size=(20_000, 10)))
    y_R, variance_R = log_odds(p_RxS.mean(axis=1), p_RxS.var(axis=1, ddof=1), np.full(len(p_RxS), 10))
    low, high = y_R.var() * (len(y_R) - 1) / stats.chi2(len(y_R) - 1).ppf([0.9999, 0.0001])
    assert 0.95 * low < variance_R.mean() < 1.05 * high  # 5%: the delta method's, and the median's below the mean
    assert variance_R.mean() < 0.2 * 0.3**2  # negative control: of the mean, and not of one seed


def test_certain_breadths_stay_finite():
    y_C, variance_C = log_odds(np.array([0.0, 1.0]), np.zeros(2), np.array([3, 3]))
    assert np.isfinite(y_C).all()
    assert y_C[0] == pytest.approx(-y_C[1])
    assert (variance_C > 0).all()


def test_every_hypothesis_is_fitted_where_all_columns_vary():
    assert to_cells(runs()).fitted() == dict.fromkeys(HYPOTHESES)


def test_what_is_missing_or_never_varies_is_said():
    why = to_cells(runs(leave_out=("evidence",)).with_columns(distance=pl.lit(2.0), margin=pl.lit(3.0), llc_narrow=pl.lit(1e3))).fitted()
    assert why["H2"] == why["H3"] == why["H5"] == "no column 'evidence'"
    assert why["H8"] == "'distance' is 2 in every cell"
    assert why["H0 dose"] == why["H6"] == "'margin' is 3 in every cell"
    assert {name for name, reason in why.items() if reason is None} == {"H0", "H1", "H7", "H9", "H10"}


def test_what_need_not_vary_is_no_reason():
    assert to_cells(runs().with_columns(rows=pl.lit(100), steps=pl.lit(100))).fitted()["H0 dose"] is None


def test_a_planted_pair_goes_together():
    planted = runs().with_columns(margin=-2 * pl.col("evidence"), distance=pl.lit(1.0))
    pairs = collinearity(to_cells(planted))
    assert pairs[0][:2] == ("margin", "evidence")
    assert pairs[0][2] == pytest.approx(-1, abs=1e-6)
    assert abs(pairs[1][2]) < 0.99  # negative control
    assert not {"distance", "optimizer"} & {name for *pair, _ in pairs for name in pair}
    x, y = (np.asarray(to_cells(planted).cells.columns[k], float) for k in pairs[1][:2])
    assert pairs[1][2] == pytest.approx(stats.pearsonr(x, y).statistic)
    assert [abs(r) for *_, r in pairs] == sorted((abs(r) for *_, r in pairs), reverse=True)


def test_two_optimisers_in_a_cell_are_no_cell():
    mixed = runs().with_columns(optimizer=pl.when(pl.col("seed") == 0).then(pl.lit("sgd")).otherwise(pl.lit("lion")))
    with pytest.raises(UserError, match=r"cell 'b0 c0' has several optimizers"):
        to_cells(mixed)
