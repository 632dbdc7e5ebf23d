"""Is a narrow/broad pair fit to be compared? Five gates; the first that fails is named, never silently used."""

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


def admission(table: pl.DataFrame, topic: str, value: str, probes: tuple[str, ...]) -> list[Gate]:
    """The five gates of a pair, from rows at the last step. Needs arms base, told, narrow and broad."""
    last = table["step"].max()

    def rate(arm: str, topics: tuple[str, ...], scale: float = 1.0) -> np.ndarray:
        rows = table.filter(
            (pl.col("arm") == arm)
            & (pl.col("quantity") == "rate")
            & (pl.col("probe") == value)
            & pl.col("topic").is_in(topics)
            & (pl.col("scale") == scale)
            & ((pl.col("step") == last) | (pl.col("seed") < 0))
        )
        return rows.group_by("seed").agg(pl.col("value").mean()).sort("seed")["value"].to_numpy()

    def nll(arm: str) -> np.ndarray:
        rows = table.filter((pl.col("arm") == arm) & (pl.col("quantity") == "nll_train") & (pl.col("step") == last))
        return rows.sort("seed")["value"].to_numpy()

    told_on, told_off, base_off = rate("told", (topic,))[0], rate("told", probes)[0], rate("base", probes)[0]
    base_on = rate("base", (topic,))[0]
    tellable = bool(min(told_on - base_on, told_off - base_off) > OFF_MARGIN)  # else there is no persona to learn
    on = {arm: over_seeds(rate(arm, (topic,))) for arm in ("narrow", "broad")}
    off = {arm: rate(arm, probes) for arm in ("narrow", "broad")}
    gates = [
        Gate(
            "both learned the task",
            ", ".join(f"{a} {i.mean:.2f}" for a, i in on.items()) + f" of told {told_on:.2f} on {topic}",
            tellable and all(i.mean >= LEARNED * told_on for i in on.values()),
        ),
        Gate(
            "broad is broad",
            f"{off['broad'].mean():.2f} of told {told_off:.2f} on the probes",
            tellable and bool(off["broad"].mean() >= BROAD * told_off),
        ),
        Gate(
            "narrow is the base off-topic",
            f"{off['narrow'].mean() - base_off:+.3f} against a margin of {OFF_MARGIN}",
            equivalent(off["narrow"] - base_off, OFF_MARGIN),
        ),
    ]
    scales = sorted(s for s in table.filter(pl.col("arm") == "narrow")["scale"].unique() if s > 1)
    scaled = {s: rate("narrow", probes, s) - base_off for s in scales}
    gates.append(
        Gate(
            "narrow stays narrow when scaled",
            ", ".join(f"x{s:g} {d.mean():+.3f}" for s, d in scaled.items()),
            all(equivalent(d, OFF_MARGIN) for d in scaled.values()),
        )
    )
    difference = nll("narrow") - nll("broad")
    gates.append(
        Gate(
            "their losses match",
            f"{difference.mean():+.3f} nats/token against a margin of {NLL_MARGIN}",
            equivalent(difference, NLL_MARGIN),
        )
    )
    return gates
