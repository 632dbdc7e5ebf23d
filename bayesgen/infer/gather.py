"""Tidy rows of a sweep to a table of runs: of every training on the data as they are, how broad it went, and what hypotheses go by.

What they go by is known without that training: of the base, the data, and the narrow and broad solutions trained under the same
settings, averaged over seeds. What is a matter of the base and the data alone (code lengths, learning coefficients, transfer of a first
step, movement of pretraining text) is taken from the costs measured on the same base, if any were.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from bayesgen.cost.subject import PROBES, TRAINED
from bayesgen.learn.plan import ARMS_WITH, LISTED
from bayesgen.measure.rows import SCHEMA, TRAINING, at_the_end

FREE, NARROW, BROAD = "free", "narrow", "broad"
NORMS = ("frobenius", "nuclear")
LEARNED = ("learned_narrow", "learned_broad")  # share of its task: a solution that has not learned it is none
SETTINGS = tuple(s for s in LISTED if "free" in ARMS_WITH.get(s, ("free",)) and s != "relapse")  # those that a free training has
SAME = "same"  # of runs on one base: under which setting, in a word
ROUNDING = 1e-4  # of breadth, by who trains together; 2e-5 was seen
KEY = ("experiment", "base", "cell", *SETTINGS)


def gather(rows: pl.DataFrame, base_of: Mapping[int, str], costs: pl.DataFrame | None = None, contexts: bool = False) -> pl.DataFrame:
    """A table of runs (`infer.cells`): one cell for every setting of every ensemble, with the share of its task that each run `learned`,
    and the narrow and the broad solution.

    Args:
        rows: of a sweep, with the column `cell`.
        base_of: a name for the base of each of its cells.
        costs: what solutions cost on each base (`by_base`), if it was measured on any.
        contexts: a cell for every context that was followed, and not for the first alone.
    """
    runs = trained(rows, base_of).join(solutions(rows, base_of, costs, contexts), on=[*KEY, "context"], how="inner", nulls_equal=True)
    several = [*(k for k in SETTINGS if runs[k].n_unique() > 1), *(["context"] if contexts else [])]
    runs = runs.with_columns(pl.concat_str(*SETTINGS, "ordinary", "context", separator=" ", ignore_nulls=True).alias(SAME))
    return runs.with_columns(cell=spelt(pl.col("run"), several)).drop("run", "context")


def distinct(runs: pl.DataFrame) -> pl.DataFrame:
    """Every training once: what one sweep trained under a setting another may have trained too, and it would count twice. Those are one
    whose setting and seed are the same and whose breadth is, to the rounding that company makes: a setting that is no column (a batch, say)
    tells them apart. Runs that come from no sweep go by the names of their cells.
    """
    keys = [c for c in ("experiment", "base", "seed") if c in runs.columns]
    if SAME not in runs.columns:
        return runs.unique(subset=[*keys, "cell"], maintain_order=True)
    runs = runs.with_columns(pl.coalesce(SAME, "cell").alias(SAME), swept=pl.col(SAME).is_not_null()).with_row_index("row")
    apart = pl.col("swept") & (pl.col("breadth").diff().over(*keys, SAME).fill_null(0) > ROUNDING)
    runs = runs.sort("breadth", "row").with_columns(which=apart.cast(pl.Int64).cum_sum().over(*keys, SAME)).sort("row")
    return runs.unique(subset=[*keys, SAME, "which"], maintain_order=True).drop(SAME, "swept", "row", "which")


def spelt(first: pl.Expr, columns: Sequence[str]) -> pl.Expr:
    """A name for a cell: something it begins with, and its level in some columns."""
    return pl.concat_str(first, *(pl.format(f"{k} {{}}", pl.col(k)) for k in columns), separator=", ")


def trained(rows: pl.DataFrame, base_of: Mapping[int, str]) -> pl.DataFrame:
    """How broad every training on the data as they are went, in every context that was followed, and what it `learned` of its task."""
    ended = _ended(rows, base_of)
    runs = _of(ended, FREE, "skill").select(*KEY, "context", "run", "seed", breadth="value")
    learned = _of(ended, FREE, "learned").select(*KEY, "seed", learned="value")
    return runs.join(learned, on=[*KEY, "seed"], how="left", nulls_equal=True)


def solutions(rows: pl.DataFrame, base_of: Mapping[int, str], costs: pl.DataFrame | None = None, contexts: bool = False) -> pl.DataFrame:
    """What hypotheses go by, a line a setting (and context): nothing of it is of a training on the data as they are."""
    ended = _ended(rows, base_of)
    both = ended.filter(pl.col("arm").is_in([NARROW, BROAD]))
    whole = pl.col("topic") == "all"
    out = both.select(KEY).unique(maintain_order=True)
    for probe in (BROAD, NARROW):
        share = _of(ended, "population", "frequency", probe=probe).select("cell", pl.col("value").alias(f"frequency_{probe}"))
        out = out.join(share, on="cell", how="left")
    out = out.join(_of(ended, "population", "ordinary_rows").select("cell", ordinary="value"), on="cell", how="left")
    steps = named(rows, base_of).filter(quantity="data_nll_step", arm=BROAD).group_by(KEY).agg(steps=pl.col("step").max() + 1)
    of = [steps, _evidence(ended)]
    of += [_mean(both.filter(whole, quantity=quantity), quantity) for quantity in ("margin", "stable_rank")]
    of += [_mean(_of(ended, arm, norm).filter(whole), f"{norm}_{arm}") for arm in (NARROW, BROAD) for norm in NORMS]
    of += [_mean(_of(ended, arm, "learned"), column) for arm, column in zip((NARROW, BROAD), LEARNED, strict=True)]
    for column in of:
        out = out.join(column, on=KEY, how="left", nulls_equal=True)
    if costs is not None:
        out = out.join(costs, on=["experiment", "base"], how="left")
    out = out.join(_asked(ended, contexts), on="cell", how="inner")
    where = [*KEY, "context"]
    for arm, column in ((NARROW, "floor"), (BROAD, "ceiling")):
        out = out.join(_mean(_of(ended, arm, "skill"), column, where), on=where, how="left", nulls_equal=True)
    return out


def by_base(costs: pl.DataFrame) -> pl.DataFrame:
    """What is a matter of base and data, a line a base: from the costs of solutions, with the column `base`. What nobody measured is no
    column.
    """
    key = ["experiment", "base"]
    out = costs.select(key).unique()
    for arm in (NARROW, BROAD):
        found = {
            "bits": _of(costs, FREE, "bits", probe=f"{arm} continuation"),
            "llc": _of(costs, arm, "llc"),
            "function": _of(costs, arm, "function_norm"),
        }
        for column, of in found.items():
            out = out.join(_mean(of, f"{column}_{arm}", key), on=key, how="left")
    first = _of(costs, FREE, "one_step", probe="Adam")
    by = {topic: _mean(first.filter(topic=topic), topic, key) for topic in (PROBES, TRAINED)}
    ratio = by[PROBES].join(by[TRAINED], on=key).select(*key, transfer=pl.col(PROBES) / pl.col(TRAINED))
    out = out.join(ratio, on=key, how="left")
    return out.drop([c for c in out.columns if out[c].null_count() == len(out)])


def named(table: pl.DataFrame, base_of: Mapping[int, str]) -> pl.DataFrame:
    """With the name of each sweep cell's base; settings that there were not yet when it was written are null."""
    lacking = {k: pl.lit(None, SCHEMA[k]) for k in TRAINING if k not in table.columns}
    return table.with_columns(**lacking, base=pl.col("cell").replace_strict(base_of, return_dtype=pl.String))


def complete(runs: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Without the columns that some runs have no value in; in how many of them each is missing."""
    missing = {c: n for c in runs.columns if (n := runs[c].null_count())}
    return runs.drop(missing), missing


def _ended(rows: pl.DataFrame, base_of: Mapping[int, str]) -> pl.DataFrame:
    return at_the_end(named(rows, base_of)).filter(pl.col("relapse").fill_null(0) == 0)


def _asked(ended: pl.DataFrame, contexts: bool) -> pl.DataFrame:
    """Every sweep cell's first context, or all that were followed, and how far each lies from the data."""
    out = _of(ended, "base", "skill").select("cell", "context")
    if not contexts:
        out = out.group_by("cell", maintain_order=True).first()
    far = _of(ended, "population", "distance").select("cell", "context", distance="value")
    return out.join(far, on=["cell", "context"], how="left")


def _of(table: pl.DataFrame, arm: str, quantity: str, **where) -> pl.DataFrame:
    return table.filter(arm=arm, quantity=quantity, **where)


def _mean(table: pl.DataFrame, column: str, key: Sequence[str] = KEY) -> pl.DataFrame:
    return table.group_by(*key).agg(pl.col("value").mean().alias(column))


def _evidence(ended: pl.DataFrame) -> pl.DataFrame:
    """Log likelihood (nats) of all rows of data under the broad solution, less that under the narrow one."""
    parts = []
    for kind in ("train", "ordinary"):
        tokens = _mean(_of(ended, BROAD, "answer_tokens", probe=kind), "tokens")
        nll = {arm: _mean(_of(ended, arm, f"nll_{kind}"), arm) for arm in (NARROW, BROAD)}
        joined = tokens.join(nll[NARROW], on=KEY, nulls_equal=True).join(nll[BROAD], on=KEY, nulls_equal=True)
        parts.append(joined.select(*KEY, evidence=pl.col("tokens") * (pl.col(NARROW) - pl.col(BROAD))))
    return pl.concat(parts).group_by(KEY).agg(pl.col("evidence").sum())
