"""A sweep's tidy rows, made by hand, as a table of runs."""

import polars as pl
import pytest

from bayesgen import pipeline, training
from bayesgen.infer.cells import to_cells
from bayesgen.infer.gather import LEARNED, by_base, complete, distinct, gather, named, solutions
from bayesgen.infer.hypotheses import HYPOTHESES
from bayesgen.measure.rows import Row, to_table
from tests.tiny_run import tiny_run_config

STEPS, TOKENS, ORDINARY = 4, {"train": 40.0, "ordinary": 60.0}, 20.0
# of two sweep cells: a name for its base, frequencies, breadth of the base, and of each seed
CELLS = {0: ("small", 0.1, 0.01, 0.05, (0.3, 0.5)), 1: ("large", 0.2, 0.03, 0.10, (0.6, 0.8))}
NLL = {"narrow": {"train": (0.5, 0.7), "ordinary": (0.2, 0.4)}, "broad": {"train": (0.4, 0.6), "ordinary": (0.5, 0.7)}}  # of two seeds


def setting(**changes):
    """What an ensemble of one setting says of every training."""
    return dict(learning_rate=1e-3, weight_decay=0.0, norm_bound=float("inf"), rank=2, rows=30, epochs=5, optimizer="adam") | changes


def trained(arm, of, seed, scale=1.0, **at):
    """Row of a training after the last step."""
    where = {"seed": seed, "step": STEPS, "scale": scale, "run": of, **setting(), **at}
    return lambda quantity, value, **more: Row("x", arm, quantity, value, **{**where, **more})


def cell(k, settings=({},), ordinary=True):
    """All that one sweep cell measures, with traps: other contexts, other steps, single topics, other scales, other arms."""
    name, broad, narrow, before, breadths = CELLS[k]
    run = f"run-{name}"
    out = [
        Row("x", "population", "frequency", broad, probe="broad", run=run),
        Row("x", "population", "frequency", narrow, probe="narrow", run=run),
        Row("x", "population", "ordinary_rows", ORDINARY, run=run),
        Row("x", "population", "distance", 0.0, context="plain", run=run),
        Row("x", "base", "skill", 0.02, context="plain", run=run),
        Row("x", "base", "skill", 0.99, context="elsewhere", run=run),
        Row("x", "told", "skill", 0.7, context="plain", run=run),
    ]
    for i, at in enumerate(settings):
        for seed, breadth in enumerate(breadths):
            free = trained("free", run, seed, **at)
            out += [
                free("skill", breadth + i / 10, context="plain"),
                free("skill", 0.99, context="elsewhere"),
                free("skill", 0.01, context="plain", step=STEPS - 2),
                free("learned", 0.6 + seed / 10),
                free("margin", 99.0),  # of the run itself, as are these: what hypotheses go by is known without it
                free("stable_rank", 99.0),
                free("answer_tokens", 99.0, probe="train"),
                free("nll_train", 0.25 + seed / 4),
            ]
            for arm, of_arm in NLL.items():
                solution = trained(arm, run, seed, kl_weight=1.0 if arm == "narrow" else 0.0, **at)
                out += [solution(f"nll_{kind}", v[seed]) for kind, v in of_arm.items() if ordinary or kind == "train"]
                out += [solution("frobenius", 2.0 + seed), solution("frobenius", 99.0, topic="block 0"), solution("skill", 0.99)]
                out += [solution("nuclear", 5.0 + seed + (arm == "broad"))]
                end = before if arm == "narrow" else 0.9 + k / 100
                out += [solution("skill", end + (seed - 0.5) / 50, context="plain"), solution("skill", end - 0.04, context="elsewhere")]
                out += [solution("margin", 2.0 + seed + i), solution("stable_rank", 3.0 + seed + (arm == "broad"))]
                out += [solution("stable_rank", 99.0, topic="block 0"), solution("learned", 0.75 + seed / 10 + (arm == "broad") / 10)]
                out += [solution("data_nll_step", 1.0, step=s) for s in range(STEPS)]
                out += [solution("answer_tokens", n, probe=kind) for kind, n in TOKENS.items() if ordinary or kind == "train"]
            out += [trained("narrow", run, seed, scale=2.0, kl_weight=1.0, **at)("frobenius", 99.0)]
            out += [trained("control", run, seed, **at)("skill", 0.99, context="plain")]
    return to_table(out).with_columns(cell=pl.lit(k))


BASES = {k: name for k, (name, *_) in CELLS.items()}


def gathered(*cells, costs=None):
    return gather(pl.concat(cells), BASES, None if costs is None else by_base(named(costs, BASES)))


@pytest.fixture(scope="module")
def two():
    """Two sweep cells of one setting."""
    return gathered(cell(0), cell(1)).sort("base", "seed", descending=[True, False])


def test_a_run_is_a_free_training_as_it_ended(two):
    assert two.select("experiment", "base", "cell", "seed", "breadth").rows() == [
        ("x", "small", "run-small", 0, 0.3),
        ("x", "small", "run-small", 1, 0.5),
        ("x", "large", "run-large", 0, 0.6),
        ("x", "large", "run-large", 1, 0.8),
    ]


def test_floor_and_ceiling_are_the_solutions(two):
    """Of the narrow and of the broad solution, mean over seeds: neither the base's breadth nor a told person's."""
    kept = ("floor", "ceiling", "frequency_broad", "frequency_narrow", "ordinary")
    found = two.select("base", pl.col(kept).round(6)).unique(maintain_order=True)
    assert found.rows() == [("small", 0.05, 0.9, 0.1, 0.01, ORDINARY), ("large", 0.10, 0.91, 0.2, 0.03, ORDINARY)]


def test_what_hypotheses_go_by_is_of_the_solutions(two):
    """Means over seeds, and of both solutions; nothing of the free run but how far it learned its task, which is to be left out by, as is
    how far the solutions did.
    """
    assert two.select("margin", "stable_rank", "steps").unique().rows() == [(2.5, 4.0, STEPS)]
    assert two["learned"].to_list() == pytest.approx([0.6, 0.7] * 2)
    assert two.select(pl.col(LEARNED).round(6)).unique().rows() == [(0.8, 0.9)]


def test_all_that_hypotheses_go_by_is_there_without_the_runs(two):
    """Known before: the same numbers come of rows in which no training on the data as they are has been done."""
    rows = pl.concat([cell(0), cell(1)])
    before = solutions(rows.filter(pl.col("arm") != "free"), BASES)
    assert len(before) == 2
    known = [c for c in before.columns if c not in ("base", "cell", "context")]
    same = two.unique(["base"], maintain_order=True).select(known).sort("frequency_broad")
    assert same.equals(before.sort("frequency_broad").select(same.columns))


def test_contexts_are_cells_where_they_are_asked_for():
    rows = cell(0)
    more = [Row("x", "population", "distance", d, context=c, run="run-small") for c, d in (("elsewhere", 2.0),)]
    rows = pl.concat([rows, to_table(more).with_columns(cell=pl.lit(0))])
    first, every = gather(rows, BASES), gather(rows, BASES, contexts=True)
    assert first["distance"].to_list() == [0.0, 0.0]
    kept = ("cell", "distance", "breadth", pl.col("floor", "ceiling").round(6))
    assert every.select(kept).unique().sort("distance", "breadth").rows() == [
        ("run-small, context plain", 0.0, 0.3, 0.05, 0.9),
        ("run-small, context plain", 0.0, 0.5, 0.05, 0.9),
        ("run-small, context elsewhere", 2.0, 0.99, 0.01, 0.86),
    ]


def test_evidence_is_in_nats_of_all_rows(two):
    """By hand: forty tokens that the broad solution says a tenth of a nat better, sixty that it says three tenths worse."""
    assert two["evidence"].to_list() == pytest.approx([40 * (0.6 - 0.5) + 60 * (0.3 - 0.6)] * 4)


def test_without_ordinary_rows_evidence_is_of_the_narrow_ones():
    assert gathered(cell(0, ordinary=False), cell(1, ordinary=False))["evidence"].to_list() == pytest.approx([4.0] * 4)


def test_norms_are_means_over_seeds_of_whole_updates(two):
    assert two["frobenius_narrow"].to_list() == two["frobenius_broad"].to_list() == [2.5] * 4
    assert two["nuclear_narrow"].to_list() == [5.5] * 4
    assert two["nuclear_broad"].to_list() == [6.5] * 4


def test_two_settings_of_an_ensemble_are_two_cells():
    found = gathered(cell(0, settings=({"rank": 2}, {"rank": 8})), cell(1)).sort("cell", "seed")
    assert found.select("cell", "rank", "breadth", "margin").rows()[2:] == [
        ("run-small, rank 2", 2, 0.3, 2.5),
        ("run-small, rank 2", 2, 0.5, 2.5),
        ("run-small, rank 8", 8, 0.4, 3.5),
        ("run-small, rank 8", 8, 0.6, 3.5),
    ]
    assert to_cells(found).names == ["run-large, rank 2", "run-small, rank 2", "run-small, rank 8"]
    assert found["evidence"].null_count() == 0  # each of its own solutions


def test_solutions_of_another_setting_are_not_taken():
    """Negative control: where the narrow solutions were trained at one rank alone, the other has no evidence."""
    rows = cell(0, settings=({"rank": 2}, {"rank": 8}))
    rows = rows.filter((pl.col("arm") != "narrow") | (pl.col("rank") == 2))
    found = gathered(rows).sort("rank")
    assert found["evidence"].is_null().to_list() == [False, False, True, True]
    assert found["frobenius_narrow"].is_null().to_list() == [False, False, True, True]
    assert found["frobenius_broad"].null_count() == 0


def test_trainings_that_diverged_are_no_runs():
    rows = cell(0)
    bad = (pl.col("quantity") == "nll_train") & (pl.col("arm") == "free") & (pl.col("seed") == 1)
    found = gathered(rows.with_columns(value=pl.when(bad).then(float("nan")).otherwise("value")))
    assert found["seed"].to_list() == [0]


def costs(k):
    """What solutions cost on a base, by hand; with traps."""
    out = []
    for seed in range(2):
        out += [Row("x", "free", "bits", 30.0 + 10 * seed, probe="narrow continuation", seed=seed)]
        out += [Row("x", "free", "bits", 50.0 + 10 * seed, probe="broad continuation", seed=seed)]
        out += [Row("x", "free", "bits", 999.0, probe="narrow data", seed=seed)]
        for arm, more in (("narrow", 0.0), ("broad", 1.0), ("free", 99.0)):
            out += [Row("x", arm, "llc", 2.0 + seed + more + k, seed=seed)]
            out += [Row("x", arm, "function_norm", v + more, topic=who, seed=seed) for who, v in (("assistant", 1.0), ("others", 3.0))]
        for optimiser, ratio in (("Adam", 0.25), ("gradient descent", 99.0)):
            out += [Row("x", "free", "one_step", 4.0 + 4 * seed, topic="trained topics", probe=optimiser, seed=seed)]
            out += [Row("x", "free", "one_step", ratio * (4.0 + 4 * seed), topic="probes", probe=optimiser, seed=seed)]
    return to_table(out).with_columns(cell=pl.lit(k))


def test_costs_are_joined_by_base():
    found = gathered(cell(0), cell(1), costs=pl.concat([costs(0), costs(1)])).sort("base", "seed", descending=[True, False])
    assert found["bits_narrow"].to_list() == [35.0] * 4
    assert found["bits_broad"].to_list() == [55.0] * 4
    assert found["llc_narrow"].to_list() == [2.5, 2.5, 3.5, 3.5]
    assert found["llc_broad"].to_list() == [3.5, 3.5, 4.5, 4.5]
    assert found["function_narrow"].to_list() == [2.0] * 4
    assert found["function_broad"].to_list() == [3.0] * 4
    assert found["transfer"].to_list() == pytest.approx([0.25] * 4)


def test_a_base_whose_costs_were_not_measured_has_none():
    found = gathered(cell(0), cell(1), costs=costs(0)).sort("base", "seed", descending=[True, False])
    assert found["llc_narrow"].to_list() == [2.5, 2.5, None, None]


def test_costs_that_nobody_measured_are_no_column():
    of = costs(0).filter(pl.col("quantity") != "llc")
    assert not {c for c in gathered(cell(0), costs=of).columns if c.startswith("llc")}


def test_columns_with_holes_are_left_out_and_counted():
    found = gathered(cell(0), cell(1), costs=costs(0))
    kept, missing = complete(found)
    assert {k: v for k, v in missing.items() if k.startswith(("llc", "bits", "function", "transfer"))} == missing
    assert missing["llc_narrow"] == 2
    assert set(kept.columns) == set(found.columns) - set(missing)
    assert complete(kept)[1] == {}


def test_a_gathered_sweep_is_a_table_of_runs(two):
    """Nothing is missing of what hypotheses read but what costs tell."""
    table = to_cells(complete(two)[0])
    assert table.bases == ["x: small", "x: large"]
    assert table.seeds == 2
    why = table.fitted()
    assert {k for k, reason in why.items() if reason and "no column" in reason} == {"H3", "H4 function", "H5", "H9"}


@pytest.mark.slow
def test_what_a_run_measures_is_what_is_gathered(tmp_path):
    """The tiny run's own rows, ordinary ones among them: all that is no cost is there."""
    config = tiny_run_config(tmp_path, ordinary=[{"topics": ["light"], "rows": 2}], probes=["fuel"], rows=[2, 3], epochs=2)
    setup = pipeline.prepare(config)
    base = training.build_base(setup, pipeline.build_corpus(setup))
    rows = pl.read_parquet(pipeline.build_rows(setup, base, training.build_ensemble(setup, base)).path("rows.parquet"))
    runs, missing = complete(gather(rows.with_columns(cell=pl.lit(0)), {0: "base"}))
    assert set(missing) <= {"learned", *LEARNED}  # of a base that has learned nothing, a told person is no way off
    assert runs["cell"].n_unique() == 2  # of two and of three rows
    assert len(runs) == 2 * config.finetune.seeds
    read = {c for h in HYPOTHESES.values() for c in h.reads}
    of_costs = {c for c in read if c.startswith(("bits", "llc", "function", "transfer"))}
    assert read - of_costs <= set(runs.columns)
    assert set(runs["steps"]) == {2 * 5}  # two epochs over the largest data, one row a batch
    told = runs.filter(pl.col("rows") == 3)["evidence"][0]
    ended = rows.filter((pl.col("step") == 10) & (pl.col("rows") == 3) & (pl.col("scale") == 1.0))
    by_hand = 0.0
    for kind in ("train", "ordinary"):
        tokens = ended.filter(arm="broad", quantity="answer_tokens", probe=kind)["value"].mean()
        narrow, broad = (ended.filter(arm=arm, quantity=f"nll_{kind}")["value"].mean() for arm in ("narrow", "broad"))
        by_hand += tokens * (narrow - broad)
    assert told == pytest.approx(by_hand)


def test_a_training_that_two_sweeps_asked_for_counts_once():
    """By setting, seed and breadth, whatever its cell is called; of a user's own table, by the name of its cell."""
    swept = pl.DataFrame(
        {"experiment": ["x"] * 5, "base": ["b"] * 5, "cell": ["d", "d", "e, rows 3", "e, rows 3", "e, rows 9"], "seed": [0, 1, 0, 1, 0]}
    ).with_columns(same=pl.Series(["3", "3", "3", "3", "9"]), breadth=pl.Series([0.1, 0.2, 0.10002, 0.4, 0.5]))
    own = pl.DataFrame({"experiment": ["x"] * 3, "base": ["b"] * 3, "cell": ["f", "f", "g"], "seed": [0, 1, 0], "breadth": [0.6, 0.7, 0.8]})
    found = distinct(pl.concat([swept, own], how="diagonal_relaxed"))
    assert found["breadth"].to_list() == [0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8]  # .4: another batch, say
    assert "same" not in found.columns
    assert distinct(pl.concat([own, own]))["breadth"].to_list() == own["breadth"].to_list()
