"""Is a narrow/broad pair fit to be compared? Five gates, each decided by an interval over seeds; a failed one is named."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from bayesgen.measure.intervals import equivalent, over_seeds

LEARNED = 0.8  # share of the told persona's on-topic rate that both arms must reach
BROAD = 0.5  # share of the told persona's off-topic rate that the broad arm must reach
OFF_MARGIN = 0.05  # equivalence margin of narrow against base off-topic (probability)
NLL_MARGIN = 0.1  # equivalence margin of the two arms' narrow likelihood (nats/token)


@dataclass(frozen=True)
class Gate:
    """One condition, what was found, and whether it holds."""

    name: str
    found: str
    passed: bool


def admission(table: pl.DataFrame, trained: tuple[str, ...], value: str, probes: tuple[str, ...]) -> list[Gate]:
    """The five gates of a pair, from rows at the last step. Needs arms base, told, narrow and broad; seeds of one setting."""
    last = table["step"].max()
    now = table.filter((pl.col("step") == last) | (pl.col("seed") < 0))

    def rate(arm: str, topics: tuple[str, ...], of: str = value, scale: float = 1.0) -> np.ndarray:
        """Mean rate of a value over topics, one number a seed."""
        rows = now.filter((pl.col("arm") == arm) & (pl.col("quantity") == "rate") & (pl.col("scale") == scale))
        rows = rows.filter((pl.col("probe") == of) & pl.col("topic").is_in(topics))
        return rows.group_by("seed").agg(pl.col("value").mean()).sort("seed")["value"].to_numpy()

    def nll(arm: str) -> np.ndarray:
        return now.filter((pl.col("arm") == arm) & (pl.col("quantity") == "nll_train")).sort("seed")["value"].to_numpy()

    values = now.filter((pl.col("quantity") == "rate") & pl.col("topic").is_in(probes))["probe"].unique(maintain_order=True)

    def shift(scale: float) -> np.ndarray:
        """Narrow minus base off-topic (values, seeds). Every value's rate counts: what moves to a third one has moved too."""
        return np.stack([rate("narrow", probes, v, scale) - rate("base", probes, v) for v in values])

    def still(scale: float) -> bool:
        return all(equivalent(s, OFF_MARGIN) for s in shift(scale))

    def largest(scale: float) -> float:
        means = shift(scale).mean(axis=1)
        return float(means[np.abs(means).argmax()])

    told_on, told_off = rate("told", trained)[0], rate("told", probes)[0]
    tellable = bool(min(told_on - rate("base", trained)[0], told_off - rate("base", probes)[0]) > OFF_MARGIN)  # a persona to learn
    on = {arm: over_seeds(rate(arm, trained)) for arm in ("narrow", "broad")}
    off = over_seeds(rate("broad", probes))
    scales = sorted(s for s in now.filter(pl.col("arm") == "narrow")["scale"].unique() if s > 1)
    difference = nll("narrow") - nll("broad")
    return [
        Gate(
            "both learned the task",
            ", ".join(f"{a} {i.mean:.2f}" for a, i in on.items()) + f" of told {told_on:.2f} on the trained topics",
            tellable and all(i.low >= LEARNED * told_on for i in on.values()),
        ),
        Gate("broad is broad", f"{off.mean:.2f} of told {told_off:.2f} on the probes", tellable and bool(off.low >= BROAD * told_off)),
        Gate(
            "narrow is the base off-topic",
            f"largest shift of a value's rate {largest(1.0):+.3f} against a margin of {OFF_MARGIN}",
            still(1.0),
        ),
        Gate(
            "narrow stays narrow when scaled",
            ", ".join(f"x{s:g} {largest(s):+.3f}" for s in scales),
            bool(scales) and all(still(s) for s in scales),
        ),
        Gate(
            "their losses match",
            f"{difference.mean():+.3f} nats/token against a margin of {NLL_MARGIN}",
            equivalent(difference, NLL_MARGIN),
        ),
    ]
