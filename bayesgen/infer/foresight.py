"""What hypotheses say of cells before anybody trains them, why, and how it turned out.

    runs + what is known of settings without runs -> a fit that knows nothing of these -> breadth of each, an interval, reasons -> score

A reason is a part of the predicted log odds (prior, likelihood, complexity ...: `hypotheses.PARTS`), beside what it is in the average cell
of the table: the intercept takes up whatever all cells have in common.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import polars as pl
from scipy.special import expit, logsumexp
from scipy.stats import spearmanr

from bayesgen.infer.cells import Table, to_cells
from bayesgen.infer.compare import ENDS, given_others, log_score, quantile, thinned
from bayesgen.infer.fit import Fit, derived_of, fit
from bayesgen.infer.gather import complete


class Asked(NamedTuple):
    """A table of cells, those in `out` without runs: they count for nothing, and no breadth of theirs is known."""

    table: Table
    out: list[int]


class Said(NamedTuple):
    """Of the cells asked about: for every draw of the posterior a normal, of the log odds to be measured; and each part's mean (nats)
    beside its mean over the cells of the table.
    """

    mean_SxC: np.ndarray
    variance_SxC: np.ndarray
    why: dict[str, np.ndarray]


class Score(NamedTuple):
    """How a prediction turned out: joint log density of what was measured (nats), the share of cells within 90% intervals, and Spearman's
    correlation of foretold and measured breadth (none: fewer than three cells, or all alike).
    """

    log_score: float
    covered: float
    rank: float | None


def with_asked(known: pl.DataFrame, asked: pl.DataFrame) -> Asked:
    """The cells of a table of runs, and settings that have none (`gather.solutions`, with a name for each as `cell`)."""
    placeholder = asked.with_columns(breadth=(pl.col("floor") + pl.col("ceiling")) / 2)
    twice = pl.concat([placeholder.with_columns(seed=pl.lit(s, pl.Int64)) for s in (0, 1)])
    table = _joined(known, twice)
    out = list(range(len(table.names) - len(asked), len(table.names)))
    variance_C = table.cells.variance_C
    usual = float(np.median(np.asarray(variance_C)[: out[0]]))  # as sure as the table's cells are
    variance_C, counted_C = (x.at[jnp.asarray(out)].set(v) for x, v in ((variance_C, usual), (table.cells.counted_C, 0.0)))
    return Asked(table._replace(cells=table.cells._replace(variance_C=variance_C, counted_C=counted_C)), out)


def with_runs(known: pl.DataFrame, came: pl.DataFrame, asked: Asked) -> Asked:
    """The same cells, once their runs are there."""
    table = _joined(known, came)
    if table.names != asked.table.names:
        raise ValueError("the runs that came are not those that were asked about")
    return Asked(table, asked.out)


def _joined(known: pl.DataFrame, more: pl.DataFrame) -> Table:
    columns = [c for c in known.columns if c in more.columns]  # others say nothing of the cells asked about
    table = to_cells(complete(pl.concat([known.select(columns), more.select(columns)], how="vertical_relaxed"))[0])
    own_C = to_cells(complete(known)[0]).cells.variance_C  # to which others' would have lent something
    return table._replace(cells=table.cells._replace(variance_C=table.cells.variance_C.at[: len(own_C)].set(own_C)))


def say(name: str, asked: Asked, key) -> tuple[Fit, Said]:
    """What a hypothesis says, fitted to all cells that have runs."""
    table, out = asked
    found = fit(name, table.cells, table.y_C, key)
    mean_SxC, variance_SxC = given_others(name, thinned(found), table.cells, table.y_C, tuple(out))
    parts = derived_of(name)(table.cells, {k: jnp.asarray(v) for k, v in thinned(found).items()})
    known_C = np.isin(np.arange(len(table.names)), out, invert=True)
    means = {k: np.asarray(v, float).mean(axis=0) for k, v in parts.items() if k != "mean"}
    why = {k: x[out] - x[known_C].mean() for k, x in means.items() if k != "constant"}
    return found, Said(mean_SxC[:, out], variance_SxC[:, out], why)


def intervals(said: Mapping[str, Said], weights: Mapping[str, float]) -> dict[str, list[float]]:
    """Breadth of each cell under a mixture of hypotheses: its middle and the ends of an interval."""
    share = np.concatenate([np.full(len(s.mean_SxC), weights[k] / len(s.mean_SxC)) for k, s in said.items()])
    mean_SxC, variance_SxC = (np.concatenate([getattr(s, x) for s in said.values()]) for x in ("mean_SxC", "variance_SxC"))
    some = share > 0
    columns = range(mean_SxC.shape[1])
    return {
        end: [float(expit(quantile(q, mean_SxC[some, c], variance_SxC[some, c], share[some]))) for c in columns] for end, q in ENDS.items()
    }


def why(said: Mapping[str, Said], weights: Mapping[str, float]) -> dict[str, list[float]]:
    """Parts of the predicted log odds of each cell (nats), mean over hypotheses by their weight."""
    names = dict.fromkeys(part for s in said.values() for part in s.why)
    cells = next(iter(said.values())).mean_SxC.shape[1]
    return {part: sum((weights[k] * s.why.get(part, np.zeros(cells)) for k, s in said.items()), np.zeros(cells)).tolist() for part in names}


def shares(parts: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """How much of the predicted log odds each part is: its size, mean over cells, among all parts'."""
    sizes = {k: float(np.abs(v).mean()) for k, v in parts.items()}
    whole = sum(sizes.values())
    return {k: x / whole for k, x in sizes.items()} if whole else sizes


def log_scores(found: Mapping[str, Fit], came: Asked) -> dict[str, float]:
    """Joint log density of what was measured, by the fits that were frozen before."""
    table, out = came
    return {k: log_score(k, f.draws, table.cells, table.y_C, out) for k, f in found.items()}


def mixed(scores: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Log density under the mixture."""
    w = np.array([weights[k] for k in scores])
    return float(np.asarray(logsumexp(list(scores.values()), b=w)))


def score(log_score: float, ends: Mapping[str, Any], breadth_C: Sequence[float]) -> Score:
    """Of one hypothesis, or of the mixture."""
    inside = [low <= y <= high for low, y, high in zip(ends["low"], breadth_C, ends["high"], strict=True)]
    told = len(breadth_C) >= 3 and np.ptp(breadth_C) > 0 and np.ptp(ends["middle"]) > 0
    rank = float(np.asarray(spearmanr(ends["middle"], breadth_C))[0]) if told else None
    return Score(log_score, float(np.mean(inside)), rank)
