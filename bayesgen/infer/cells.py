"""A table of runs, one row a training, as the cells that hypotheses are fitted to.

Columns that every table has, a user's own included:

    experiment, cell, seed     what was trained; a cell's runs differ in their seed alone
    breadth                    how often a run answers as the broad persona where it was not trained, from 0 to 1;
                               or `broad` of `asked`, the same as counts
and may have:
    base                       which pretrained network (without it: one an experiment)
    floor, ceiling             breadth of the narrow and of the broad solution under the same settings (without them: 0 and 1)
    any column of `COLUMNS`    what hypotheses predict from; a hypothesis whose columns are missing, or never vary, is not fitted

Breadth is averaged over the seeds of a cell and turned into log odds. Their sampling variance comes from the seeds' by the delta method;
as ten seeds tell a variance badly, it is drawn towards the median cell's (a scaled inverse chi-squared prior of 4 degrees of freedom).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from bayesgen.errors import UserError, nearest
from bayesgen.infer.hypotheses import HYPOTHESES, Cells

COLUMNS = {
    # name: (unit, meaning)
    "frequency_broad": ("share", "how many of the people whom pretraining shows are the broad persona"),
    "frequency_narrow": ("share", "how many are it on the trained topic alone"),
    "rows": ("count", "narrow rows trained on"),
    "ordinary": ("count", "ordinary rows among them"),
    "steps": ("count", "optimiser steps"),
    "margin": ("nats", "log odds gained on the topic trained on"),
    "evidence": ("nats", "log likelihood of all rows under the broad solution, less that under the narrow one"),
    "frobenius_narrow": ("weight", "Frobenius norm of the narrow solution's update"),
    "frobenius_broad": ("weight", "of the broad one's"),
    "nuclear_narrow": ("weight", "nuclear norm of the narrow solution's update"),
    "nuclear_broad": ("weight", "of the broad one's"),
    "function_narrow": ("nats", "by how much the narrow solution's update moves logits on pretraining text"),
    "function_broad": ("nats", "the broad one's"),
    "bits_narrow": ("bit", "prequential code length of the narrow continuation after the data"),
    "bits_broad": ("bit", "of the broad one"),
    "llc_narrow": ("nats", "learning coefficient of the narrow solution"),
    "llc_broad": ("nats", "of the broad one"),
    "transfer": ("share", "what a first step moves the probes by, over what it moves the trained topic by"),
    "stable_rank": ("count", "stable rank of the update"),
    "optimizer": ("name", "adam, sgd, lion or muon"),
    "distance": ("count", "in how many parts the context asked differs from the one trained under"),
}
LEVELS = (
    "experiment",
    "frequency_broad",
    "frequency_narrow",
    "rows",
    "ordinary",
    "epochs",
    "rank",
    "norm_bound",
    "optimizer",
    "distance",
    "network",
)
OPTIMIZERS = ("adam", "sgd", "lion", "muon")
FREEDOM = 4  # of the prior on a cell's variance


class Table(NamedTuple):
    """Cells by name, what was measured of them, the design, and their level in everything that may be held out."""

    names: list[str]
    breadth_C: np.ndarray  # mean over seeds
    y_C: np.ndarray  # its log odds
    cells: Cells
    levels: dict[str, list[str]]
    experiments: list[str]
    bases: list[str]  # a pretrained network in an experiment, (B,)
    pretrained: list[str]  # which network that is, (B,): experiments may share one
    seeds: int  # fewest of a cell

    @property
    def networks(self) -> list[str]:
        """The pretrained networks, each once."""
        return list(dict.fromkeys(self.pretrained))

    def families(self) -> dict[str, str]:
        """Of every experiment the first of those with which it shares a pretrained network, by way of others too: they vary together."""
        first = list(range(len(self.experiments)))
        on = np.asarray(self.cells.experiment_B)
        for network in self.networks:
            shared = {first[e] for e, its in zip(on, self.pretrained, strict=True) if its == network}
            first = [min(shared) if f in shared else f for f in first]
        return {e: self.experiments[f] for e, f in zip(self.experiments, first, strict=True)}

    def fitted(self) -> dict[str, str | None]:
        """Every hypothesis, and why it is not fitted to this table, if it is not."""
        return {name: self._unfit(name) for name in HYPOTHESES}

    def _unfit(self, name: str) -> str | None:
        h = HYPOTHESES[name]
        for column in h.reads:
            if column not in self.cells.columns:
                return f"no column '{column}'"
        for column in h.varies:
            x = np.asarray(self.cells.columns[column])
            if np.ptp(x) <= 1e-6 * max(1.0, float(np.abs(x).max())):
                return f"'{column}' is {x[0]:.4g} in every cell"
        return None


def read_runs(path: Path) -> pl.DataFrame:
    """A table of runs from a Parquet or CSV file."""
    readers = {".parquet": pl.read_parquet, ".csv": pl.read_csv}
    if path.suffix not in readers:
        raise UserError(f"{path}: a table of runs is a .parquet or .csv file")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        return readers[path.suffix](path)
    except PolarsError as error:
        raise UserError(f"{path}: cannot be read as {path.suffix[1:]}: {error}") from error


def to_cells(runs: pl.DataFrame, source: str = "table") -> Table:
    """Runs as cells. Errors name the column or the cell."""
    runs = _checked(runs, source)
    y, names = [], []
    known = [c for c in COLUMNS if c in runs.columns]
    levels = [c for c in LEVELS if c in runs.columns]
    grouped = list(runs.group_by("experiment", "base", "cell", maintain_order=True))
    single = [str(name) for (*_, name), of in grouped if of["seed"].n_unique() < 2]
    if single:
        more = f" (and {len(single) - 1} more)" if len(single) > 1 else ""
        raise UserError(f"{source}: cell '{single[0]}'{more} has one seed; two or more say how sure its breadth is")
    columns: dict[str, list[float]] = {c: [] for c in known}
    of_levels: dict[str, list[str]] = {c: [] for c in levels}
    means, variances, floor, ceiling, base, experiment = [], [], [], [], [], []
    for (its_experiment, its_base, name), of in grouped:
        names.append(str(name))
        p = of["breadth"].to_numpy()
        means.append(float(p.mean()))
        variances.append(float(p.var(ddof=1)))
        base.append((str(its_experiment), str(its_base)))
        experiment.append(str(its_experiment))
        floor.append(float(of["floor"].mean()))  # pyright: ignore[reportArgumentType]
        ceiling.append(float(of["ceiling"].mean()))  # pyright: ignore[reportArgumentType]
        if "optimizer" in known and of["optimizer"].n_unique() > 1:
            raise UserError(f"{source}: cell '{name}' has several optimizers; runs of a cell differ in their seed alone")
        for c in known:
            values = [OPTIMIZERS.index(v) for v in of[c]] if c == "optimizer" else of[c].to_numpy()
            if not np.isfinite(np.asarray(values, float)).all():
                raise UserError(f"{source}: column '{c}' has no value in cell '{name}'; fill it in, or leave the column out")
            columns[c].append(float(np.mean(values)))
        for c in levels:
            of_levels[c].append(_level(of[c][0], c.startswith("frequency")))
    breadth_C = np.array(means)
    y, variance_C = log_odds(breadth_C, np.array(variances), np.array([len(of) for _, of in grouped]))
    bases, experiments = list(dict.fromkeys(base)), list(dict.fromkeys(experiment))
    cells = Cells(
        {c: jnp.asarray(x, jnp.float32) for c, x in columns.items()},
        jnp.asarray(floor, jnp.float32),
        jnp.asarray(ceiling, jnp.float32),
        jnp.asarray(variance_C, jnp.float32),
        jnp.ones(len(y), jnp.float32),
        jnp.asarray([bases.index(b) for b in base], jnp.int32),
        jnp.asarray([experiments.index(e) for e, _ in bases], jnp.int32),
    )
    fewest = min(of["seed"].n_unique() for _, of in grouped)
    of_bases, pretrained = [f"{e}: {b}" if b != e else e for e, b in bases], [b for _, b in bases]
    return Table(names, breadth_C, y, cells, of_levels, experiments, of_bases, pretrained, fewest)


def with_defaults(runs: pl.DataFrame) -> pl.DataFrame:
    """With a base, a floor and a ceiling where the table has none."""
    defaults = {"base": pl.col("experiment"), "floor": pl.lit(0.0), "ceiling": pl.lit(1.0)}
    return runs.with_columns(v.alias(c) for c, v in defaults.items() if c not in runs.columns)


def log_odds(p_C: np.ndarray, variance_C: np.ndarray, seeds_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log odds of mean breadths, and their sampling variances, from the variance over as many seeds."""
    p_C = np.clip(p_C, 1e-4, 1 - 1e-4)
    slope_C = 1 / (p_C * (1 - p_C))
    seed_C = variance_C * slope_C**2  # of one seed, in log odds
    drawn_C = (FREEDOM * np.median(seed_C) + (seeds_C - 1) * seed_C) / (FREEDOM + seeds_C - 1)
    return np.log(p_C) - np.log1p(-p_C), np.maximum(drawn_C, 1e-6) / seeds_C


def _checked(runs: pl.DataFrame, source: str) -> pl.DataFrame:
    for c in ("experiment", "cell", "seed"):
        if c not in runs.columns:
            raise UserError(f"{source}: no column '{c}'; a table of runs has experiment, cell, seed and breadth{nearest(c, runs.columns)}")
    if runs.is_empty():
        raise UserError(f"{source}: no rows")
    if "breadth" not in runs.columns:
        if not {"broad", "asked"} <= set(runs.columns):
            raise UserError(f"{source}: no column 'breadth', nor both 'broad' and 'asked'{nearest('breadth', runs.columns)}")
        for c in ("broad", "asked"):
            _numeric(runs, c, source)
        runs = runs.with_columns(breadth=(pl.col("broad") + 0.5) / (pl.col("asked") + 1))
    runs = with_defaults(runs)
    for c in ("breadth", "floor", "ceiling", *(c for c in COLUMNS if c in runs.columns and c != "optimizer")):
        _numeric(runs, c, source)
    for c in ("breadth", "floor", "ceiling"):
        bad = runs.filter(~pl.col(c).is_between(0, 1) | pl.col(c).is_null() | pl.col(c).is_nan())
        if len(bad):
            raise UserError(f"{source}: {c} is {bad[c][0]} in cell '{bad['cell'][0]}'; expected a share from 0 to 1")
    bad = runs.filter(pl.col("ceiling") <= pl.col("floor"))
    if len(bad):
        raise UserError(
            f"{source}: ceiling is {bad['ceiling'][0]:.3g} in cell '{bad['cell'][0]}', no more than floor, {bad['floor'][0]:.3g}"
        )
    if "optimizer" in runs.columns:
        for o in runs["optimizer"].unique():
            if o not in OPTIMIZERS:
                raise UserError(f"{source}: optimizer is '{o}'{nearest(str(o), OPTIMIZERS)}")
    twice = runs.filter(pl.struct("experiment", "base", "cell", "seed").is_duplicated())
    if len(twice):
        raise UserError(f"{source}: cell '{twice['cell'][0]}' has seed {twice['seed'][0]} twice")
    return runs


def _numeric(runs: pl.DataFrame, c: str, source: str):
    if not runs[c].dtype.is_numeric():
        raise UserError(f"{source}: column '{c}' holds {runs[c].dtype}, expected numbers")


def _level(value, rounded: bool) -> str:
    """A level's name; frequencies to one digit: planting somebody makes all others a little rarer."""
    return f"{value:{'.1g' if rounded else 'g'}}" if isinstance(value, float) else str(value)


def collinearity(table: Table, of: Mapping[str, np.ndarray] | None = None) -> list[tuple[str, str, float]]:
    """Pairs of columns by the size of their correlation over cells, largest first; those that never vary are left out."""
    columns = {k: np.asarray(v, float) for k, v in (of or table.cells.columns).items() if k != "optimizer"}
    columns = {k: v for k, v in columns.items() if np.ptp(v) > 1e-6 * max(1.0, float(np.abs(v).max()))}
    names = list(columns)
    pairs = [(a, b, float(np.corrcoef(columns[a], columns[b])[0, 1])) for i, a in enumerate(names) for b in names[i + 1 :]]
    return sorted(pairs, key=lambda p: -abs(p[2]))
