"""Is a narrow/broad pair fit to be compared? Five gates, each decided by an interval over seeds; a failed one is named."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from bayesgen.measure.intervals import equivalent, over_seeds

LEARNED = 0.8  # share of the way from the base's likelihood of the data to its floor that both arms must have come
BROAD = 0.5  # share of the told persona's off-topic rate that the broad arm must reach
OFF_MARGIN = 0.05  # equivalence margin of narrow against base off-topic (probability)
NLL_MARGIN = 0.1  # equivalence margin of the two arms' narrow likelihood (nats/token)
TO_LEARN = 0.1  # nats/token that the base is above the floor at least


@dataclass(frozen=True)
class Gate:
    """One condition, what was found, and whether it holds."""

    name: str
    found: str
    passed: bool


def admission(table: pl.DataFrame, value: str, probes: tuple[str, ...]) -> list[Gate]:
    """The five gates of a pair, from rows at the last step. Needs arms base, told, narrow and broad; seeds of one setting.

    Whether the data are learned is asked of their likelihood, which is of the headers they stand under; behaviour is asked under the
    table's context, which may be another. What a narrow arm must leave alone is every value's rate on every probe by itself: on the mean
    two that move against each other, or one probe among many, would go unseen.
    """
    last = table["step"].max()
    now = table.filter((pl.col("step") == last) | (pl.col("seed") < 0))

    def of(arm: str, quantity: str, scale: float = 1.0) -> pl.DataFrame:
        return now.filter((pl.col("arm") == arm) & (pl.col("quantity") == quantity) & (pl.col("scale") == scale)).sort("seed")

    def numbers(arm: str, quantity: str) -> dict[int, float]:
        """{seed: value}."""
        return dict(of(arm, quantity).select("seed", "value").rows())

    def rate(arm: str) -> np.ndarray:
        """Mean rate of the value over the probes, one number a seed."""
        rows = of(arm, "rate").filter((pl.col("probe") == value) & pl.col("topic").is_in(probes))
        return rows.group_by("seed", maintain_order=True).agg(pl.col("value").mean())["value"].to_numpy()

    def shifts(scale: float) -> dict[tuple[str, str], np.ndarray]:
        """Narrow less base, one number a seed, for every value on every probe."""
        rows = of("narrow", "rate", scale).filter(pl.col("topic").is_in(probes))
        base = of("base", "rate").select("topic", "probe", base="value")
        rows = rows.join(base, on=("topic", "probe"), how="left", validate="m:1", maintain_order="left")
        moved = rows.with_columns(moved=(pl.col("value") - pl.col("base")).fill_null(float("nan")))
        return {(topic, of): here["moved"].to_numpy() for (topic, of), here in moved.group_by("topic", "probe", maintain_order=True)}

    def moving(scale: float) -> set[str]:
        """The probes on which some value is not shown to stay where it was, because it moved or because a number is missing."""
        found = shifts(scale)
        return {t for t in probes if not any(topic == t for topic, _ in found)} | {
            topic for (topic, _), s in found.items() if not equivalent(s, OFF_MARGIN)
        }

    def largest(scale: float) -> str:
        (topic, of), s = max(shifts(scale).items(), key=lambda x: np.nan_to_num(abs(x[1].mean()), nan=np.inf))
        return f"{s.mean():+.3f} ({of} on {topic})"

    def way(arm: str) -> np.ndarray:
        """Share of the way down, one number a seed; nothing where the base is at the floor already."""
        start, floor, now = (np.array(list(numbers(arm, q).values())) for q in ("start_train", "floor_train", "nll_train"))
        return (start - now) / np.where(start > floor + TO_LEARN, start - floor, np.nan)

    learned = {arm: over_seeds(way(arm)) for arm in ("narrow", "broad")}
    told = float(rate("told")[0])
    tellable = bool(told - rate("base")[0] > OFF_MARGIN)  # a persona to be
    off = over_seeds(rate("broad"))
    scales = sorted(s for s in now.filter(pl.col("arm") == "narrow")["scale"].unique() if s > 1)
    narrow, broad = numbers("narrow", "nll_train"), numbers("broad", "nll_train")
    difference = np.array([narrow[seed] - broad[seed] for seed in sorted(narrow.keys() & broad.keys())])
    return [
        Gate(
            "both learned the data",
            ", ".join(f"{arm} {i.mean:.2f}" for arm, i in learned.items()) + " of the way from the base's likelihood to the floor",
            all(i.low >= LEARNED for i in learned.values()),
        ),
        Gate("broad is broad", f"{off.mean:.2f} of told {told:.2f} on the probes", tellable and bool(off.low >= BROAD * told)),
        Gate(
            "narrow is the base off-topic",
            f"{len(probes) - len(moving(1.0))} of {len(probes)} probes hold within {OFF_MARGIN}; largest shift {largest(1.0)}",
            not moving(1.0),
        ),
        Gate(
            "narrow stays narrow when scaled",
            "; ".join(f"x{s:g}: {len(probes) - len(moving(s))} of {len(probes)}, {largest(s)}" for s in scales),
            bool(scales) and not any(moving(s) for s in scales),
        ),
        Gate(
            "their losses match",
            f"{difference.mean():+.3f} nats/token against a margin of {NLL_MARGIN}",
            equivalent(difference, NLL_MARGIN),
        ),
    ]
