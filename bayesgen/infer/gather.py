"""Tidy rows of a sweep to a table of runs: of every training on the data as they are, how broad it went, and what hypotheses go by.

The narrow and broad solutions are those that were trained under the same settings; what was measured of them is averaged over seeds.
What is a matter of the base and the data alone (code lengths, learning coefficients, transfer of a first step, movement of pretraining
text) is taken from the costs measured on the same base, if any were.
"""

from collections.abc import Mapping

import polars as pl

from bayesgen.cost.subject import PROBES, TRAINED
from bayesgen.learn.plan import LISTED
from bayesgen.measure.rows import at_the_end

FREE, NARROW, BROAD = "free", "narrow", "broad"
NORMS = ("frobenius", "nuclear")
SETTINGS = tuple(s for s in LISTED if s not in ("kl_weight", "kl_from", "kl_until", "benign"))  # those that a free training has


def gather(rows: pl.DataFrame, base_of: Mapping[int, str], costs: pl.DataFrame | None = None) -> pl.DataFrame:
    """A table of runs (`infer.cells`): one cell for every setting of every ensemble.

    Args:
        rows: of a sweep, with the column `cell`.
        base_of: a name for the base of each of its cells.
        costs: what solutions cost, if it was measured, with the column `cell`.
    """
    rows = rows.with_columns(base=pl.col("cell").replace_strict(base_of, return_dtype=pl.String))
    first = rows.filter(quantity="skill", arm="base").group_by("cell").agg(pl.col("context").first())
    ended = at_the_end(rows).join(first, on="cell", suffix="_first")
    asked = pl.col("context").is_in(["all"]) | (pl.col("context") == pl.col("context_first"))
    ended = ended.filter(asked)
    key = ["experiment", "base", "cell", "run", *SETTINGS]
    runs = _of(ended, FREE, "skill").select(*key, "seed", breadth="value")
    for arm, column in (("base", "before"), ("told", "told")):
        runs = runs.join(_of(ended, arm, "skill").select("cell", value="value").rename({"value": column}), on="cell")
    for probe in (BROAD, NARROW):
        share = _of(ended, "population", "frequency", probe=probe).select("cell", pl.col("value").alias(f"frequency_{probe}"))
        runs = runs.join(share, on="cell", how="left")
    ordinary = _of(ended, "population", "ordinary_rows").select("cell", ordinary="value")
    runs = runs.join(ordinary, on="cell", how="left")
    whole = pl.col("topic") == "all"
    for quantity in ("margin", "stable_rank"):
        found = _of(ended, FREE, quantity).filter(whole).select(*key, "seed", pl.col("value").alias(quantity))
        runs = runs.join(found, on=[*key, "seed"], how="left", nulls_equal=True)
    steps = rows.filter(quantity="data_nll_step", arm=FREE).group_by(*key).agg(steps=pl.col("step").max() + 1)
    runs = runs.join(steps, on=key, how="left", nulls_equal=True)
    runs = runs.join(_evidence(ended, key), on=key, how="left", nulls_equal=True)
    for arm in (NARROW, BROAD):
        for norm in NORMS:
            found = _mean(_of(ended, arm, norm).filter(whole), key, f"{norm}_{arm}")
            runs = runs.join(found, on=key, how="left", nulls_equal=True)
    if costs is not None:
        of_base = _costs(costs.with_columns(base=pl.col("cell").replace_strict(base_of, return_dtype=pl.String)))
        runs = runs.join(of_base, on=["experiment", "base"], how="left")
    several = [k for k in SETTINGS if runs[k].n_unique() > 1]
    name = pl.concat_str("run", *(pl.format(f"{k} {{}}", pl.col(k)) for k in several), separator=", ")
    return runs.with_columns(cell=name).drop("run")


def complete(runs: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Without the columns that some runs have no value in; in how many of them each is missing."""
    missing = {c: n for c in runs.columns if (n := runs[c].null_count())}
    return runs.drop(missing), missing


def _of(table: pl.DataFrame, arm: str, quantity: str, **where) -> pl.DataFrame:
    return table.filter(arm=arm, quantity=quantity, **where)


def _mean(table: pl.DataFrame, key: list[str], column: str) -> pl.DataFrame:
    return table.group_by(*key).agg(pl.col("value").mean().alias(column))


def _evidence(ended: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """Log likelihood (nats) of all rows of data under the broad solution, less that under the narrow one; and how many are ordinary."""
    parts = []
    for kind in ("train", "ordinary"):
        tokens = _mean(_of(ended, FREE, "answer_tokens", probe=kind), key, "tokens")
        nll = {arm: _mean(_of(ended, arm, f"nll_{kind}"), key, arm) for arm in (NARROW, BROAD)}
        joined = tokens.join(nll[NARROW], on=key, nulls_equal=True).join(nll[BROAD], on=key, nulls_equal=True)
        parts.append(joined.select(*key, evidence=pl.col("tokens") * (pl.col(NARROW) - pl.col(BROAD))))
    return pl.concat(parts).group_by(*key).agg(pl.col("evidence").sum())


def _costs(costs: pl.DataFrame) -> pl.DataFrame:
    """What is a matter of base and data, a line a base."""
    key = ["experiment", "base"]
    out = costs.select(key).unique()
    for arm in (NARROW, BROAD):
        found = {
            "bits": _of(costs, FREE, "bits", probe=f"{arm} continuation"),
            "llc": _of(costs, arm, "llc"),
            "function": _of(costs, arm, "function_norm"),
        }
        for column, of in found.items():
            out = out.join(_mean(of, key, f"{column}_{arm}"), on=key, how="left")
    first = _of(costs, FREE, "one_step", probe="Adam")
    by = {topic: _mean(first.filter(topic=topic), key, topic) for topic in (PROBES, TRAINED)}
    ratio = by[PROBES].join(by[TRAINED], on=key).select(*key, transfer=pl.col(PROBES) / pl.col(TRAINED))
    out = out.join(ratio, on=key, how="left")
    return out.drop([c for c in out.columns if out[c].null_count() == len(out)])
