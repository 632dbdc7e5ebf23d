"""Checks: does a fitted hypothesis make tables like the one that it was fitted to."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Float

from bayesgen.infer.cells import Table
from bayesgen.infer.compare import thinned
from bayesgen.infer.fit import Fit, means_of
from bayesgen.infer.hypotheses import SPREADS
from bayesgen.infer.nested import Nested

EDGE = 0.01  # a check fails where fewer of the tables made are as small, or as large, as what was seen


class Check(NamedTuple):
    """A number of the table, what it is in tables that the hypothesis makes, and the share of those in which it is no larger."""

    seen: float
    made: tuple[float, float]  # 90% interval
    share: float

    @property
    def passed(self) -> bool:
        """Whether the number is nothing unusual."""
        return EDGE <= self.share <= 1 - EDGE


def statistics(y_SxC: Float[np.ndarray, "S C"], mean_SxC: Float[np.ndarray, "S C"], base_C: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers of tables of log odds that no parameter is fitted to alone."""
    left = y_SxC - mean_SxC
    within = [left[:, base_C == b].std(axis=1) for b in np.unique(base_C) if (base_C == b).sum() > 1]
    out = {
        "least breadth (log odds)": y_SxC.min(axis=1),
        "greatest breadth (log odds)": y_SxC.max(axis=1),
        "largest residual": np.abs(left).max(axis=1),
        "kurtosis of residuals": ((left - left.mean(axis=1, keepdims=True)) ** 4).mean(axis=1) / left.var(axis=1) ** 2,
    }
    return out | ({"most residual spread in one base": np.max(within, axis=0)} if within else {})


def check(name: str, found: Fit, table: Table, key) -> dict[str, Check]:
    """Posterior predictive checks."""
    draws = {k: jnp.asarray(v) for k, v in thinned(found, 1000).items()}
    cells = table.cells
    mean_SxC = means_of(name)(cells, draws)

    def make(key, mean_C, spread):
        return Nested(mean_C, cells.variance_C, cells.counted_C, cells.base_C, cells.experiment_B, **spread).sample(key)

    made_SxC = jax.vmap(make)(random.split(key, len(mean_SxC)), mean_SxC, {k: draws[k] for k in SPREADS})
    base_C, expected = np.asarray(cells.base_C), np.asarray(mean_SxC, float)
    of_made = statistics(np.asarray(made_SxC, float), expected, base_C)
    of_seen = statistics(np.broadcast_to(table.y_C, expected.shape), expected, base_C)
    out = {}
    for k, made in of_made.items():
        low, high = np.quantile(made, (0.05, 0.95))
        out[k] = Check(float(np.median(of_seen[k])), (float(low), float(high)), float((made <= of_seen[k]).mean()))
    return out
