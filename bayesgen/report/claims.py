"""What the costs say of the published claims, each by the contrast that tests it. From rows only."""

from dataclasses import dataclass
from typing import get_args

import polars as pl

from bayesgen.cost.efficiency import FRONTIER, RAY, SHARES
from bayesgen.cost.stability import UPDATE
from bayesgen.cost.subject import BROAD, NARROW
from bayesgen.measure.intervals import Interval
from bayesgen.model.lora import Norm
from bayesgen.report.costs import drift_lines, frontier_failures
from bayesgen.report.seeds import difference, seeds_of
from bayesgen.report.volumes import coefficient_failures, evidence_lines


@dataclass(frozen=True)
class Claim:
    """Something published or supposed, the contrast that tests it, and what it says."""

    name: str
    contrast: Interval | None
    verdict: str


def claims(cost: pl.DataFrame) -> list[Claim]:
    """The published claims, and the supposition that the narrow solution is the longer one to describe, each by its contrast."""
    part = {name: cost.filter(pl.col("part") == name) for name in cost["part"].unique()}
    sine = part["noise"]["probe"].unique(maintain_order=True)[-1]
    bits = part["bits"]
    known = {name: seeds_of(bits, "bits_known", "free", probe=name) for name in (NARROW, BROAD)}
    excess = {name: {s: v - known[name][s] for s, v in seeds_of(bits, "bits", "free", probe=name).items()} for name in (NARROW, BROAD)}

    def pair(table: pl.DataFrame, logs: bool, quantity: str, **where) -> Interval | None:
        return difference(seeds_of(table, quantity, "narrow", **where), seeds_of(table, quantity, "broad", **where), logs)

    def of(name: str, contrast: Interval | None, failed: str = "") -> Claim:
        if contrast is None:
            return Claim(name, None, failed or "no answer: a seed never gets there, or a number is missing or has no logarithm")
        low, high = contrast[1:]
        return Claim(name, contrast, failed or ("holds" if low > 0 else "the opposite holds" if high < 0 else "not told"))

    def least(kind: str, name: str, norm: Norm, where: str) -> list[Claim]:
        return [
            of(
                f"narrow needs the larger {norm} norm ({share:.0%} of the way down), {where}",
                pair(part[name], True, "least_norm", context=kind, probe=f"{share:g}", norm=norm),
                frontier_failures(cost, norm) if kind == FRONTIER else "",
            )
            for share in SHARES
        ]

    def more_than_chance(arm: str, who: str) -> dict[int, float]:
        moved, chance = (seeds_of(text, "kl_text", arm, topic=who, probe=probe) for probe in ("update", "random"))
        return {seed: x - chance[seed] for seed, x in moved.items()}

    text, chains, compared = part["significance"], part["coefficient"], pl.col("arm").is_in(["narrow", "broad"])
    back = {line["penalty"]: line for line in drift_lines(cost)}.get("dropped")
    return [
        *least(RAY, "rays", "frobenius", "along its ray"),
        *(claim for norm in get_args(Norm) for claim in least(FRONTIER, f"frontier-{norm}", norm, "frontier")),
        of(
            f"broad is more stable: narrow loses more under noise (sine {sine})",
            pair(part["noise"], False, "noise_rise", context=UPDATE, probe=sine),
        ),
        *(
            of(
                f"broad is more significant on text of {who}, at equal norm, beyond random directions",
                difference(more_than_chance("broad", who), more_than_chance("narrow", who), logs=True),
            )
            for who in text["topic"].unique(maintain_order=True)
        ),
        *([of("narrow drifts towards broad when its penalty is dropped", back["moved"])] if back else []),
        of("narrow has the larger learning coefficient", pair(chains, False, "llc"), coefficient_failures(chains.filter(compared))),
        *(
            of(
                f"small adapters that learnt the data expect the broad continuation ({x['method']})",
                x["contrast"],
                x["note"] if x["failed"] else "",
            )
            for x in evidence_lines(cost)
        ),
        of(
            "the narrow continuation is the longer to describe (bits above those of one who knows)",
            difference(excess[NARROW], excess[BROAD]),
        ),
    ]
