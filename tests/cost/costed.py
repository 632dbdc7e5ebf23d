"""A tiny run with costs, and how its rows are read."""

import polars as pl

from bayesgen.measure.rows import to_table
from bayesgen.measure.settings import CostConfig
from tests.tiny_run import tiny_run_config

COST = {
    "seeds": 2,
    "sampled": 2,
    "weights": [1.0, 3.0],
    "scales": [0, 0.5, 1],
    "bounds": [0.5, 1.0],
    "noise": [0.2, 0.4],
    "draws": 3,
    "documents": 6,
    "chain": 20,
    "bridge": 20,
    "tie": 50.0,
    "orders": 2,
}


def costed(runs, **changes):
    """The tiny run, with two layers and costs."""
    config = tiny_run_config(runs, **changes)
    measure = config.measure.model_copy(update={"cost": CostConfig(**COST)})
    return config.model_copy(update={"model": config.model.model_copy(update={"layers": 2}), "measure": measure})


def table(rows, *keys, **where):
    """{keys: value} of some rows."""
    found = to_table(rows)
    for column, value in where.items():
        found = found.filter(pl.col(column) == value)
    return {r[:-1] if len(keys) > 1 else r[0]: r[-1] for r in found.select(*keys, "value").rows()}
