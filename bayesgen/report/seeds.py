"""Values of a quantity seed by seed, and their intervals. From rows only."""

import numpy as np
import polars as pl

from bayesgen.measure.intervals import Interval, over_seeds


def seeds_of(table: pl.DataFrame, quantity: str, arm: str, **where) -> dict[int, float]:
    """{seed: value} of a quantity; every other column named must be as given."""
    here = table.filter((pl.col("quantity") == quantity) & (pl.col("arm") == arm))
    for column, value in where.items():
        here = here.filter(pl.col(column) == value)
    return dict(here.select("seed", "value").sort("seed").rows())


def over(values: dict[int, float]) -> Interval | None:
    """Mean and interval over seeds; none where there are none, or one is not finite."""
    x = np.array(list(values.values()))
    return over_seeds(x) if len(x) and np.isfinite(x).all() else None


def difference(of: dict[int, float], minus: dict[int, float], logs: bool = False) -> Interval | None:
    """Seed by seed, of those that both have; none where one is not finite, or has no logarithm."""
    both = sorted(of.keys() & minus.keys())
    x, y = (np.array([d[s] for s in both]) for d in (of, minus))
    if not both or not (np.isfinite(x).all() and np.isfinite(y).all()) or (logs and min(x.min(), y.min()) <= 0):
        return None
    return over_seeds(np.log(x) - np.log(y) if logs else x - y)
