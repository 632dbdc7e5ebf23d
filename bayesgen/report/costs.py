"""The cost section's tables: every measure for free, narrow and broad solutions. From rows only."""

from dataclasses import dataclass
from typing import get_args

import numpy as np
import polars as pl

from bayesgen.cost.efficiency import FRONTIER, RAY, SHARES
from bayesgen.cost.narrowing import SCALED
from bayesgen.cost.stability import FACTORS, UPDATE, penalty
from bayesgen.cost.subject import BROAD, DATA, NARROW, PROBES, TRAINED
from bayesgen.learn.plan import DILUTED
from bayesgen.measure.intervals import Interval
from bayesgen.measure.settings import COMPARED
from bayesgen.model.lora import Norm
from bayesgen.report.seeds import difference, over, seeds_of
from bayesgen.report.volumes import coefficient_failures, evidence_lines, minima_lines, worst_diagnostics

NORM_NAMES = get_args(Norm)
ABOVE = 0.005  # nats/token by which the free arm may end above another under a bound
LAW = 0.1  # how far KL along a short update may be from quadratic: its slope from 2, and its size from that of the Fisher norm (shares)


@dataclass(frozen=True)
class Line:
    """One measure: an interval over seeds for each arm, and narrow less broad, seed by seed (of the logarithms, where `logs`)."""

    name: str
    unit: str
    arms: dict[str, Interval | None]
    contrast: Interval | None
    logs: bool = False
    note: str = ""  # what to know before reading it, such as failed diagnostics


def _line(table: pl.DataFrame, name: str, unit: str, quantity: str, logs: bool = False, note: str = "", **where) -> Line:
    seeds = {arm: seeds_of(table, quantity, arm, **where) for arm in COMPARED}
    never = [f"{arm}: {n} of {len(x)} seeds never" for arm, x in seeds.items() if (n := sum(np.isinf(v) for v in x.values()))]
    arms = {arm: over(x) for arm, x in seeds.items()}
    contrast = difference(seeds["narrow"], seeds["broad"], logs)
    return Line(name, unit, arms, contrast, logs, "; ".join([*never, *([note] if note else [])]))


def cost_lines(cost: pl.DataFrame, value: str) -> list[Line]:
    """The table of what each arm's solutions cost. `cost`: the rows of every part, with its name as column `part`."""
    part = {name: cost.filter(pl.col("part") == name) for name in cost["part"].unique()}
    own = part["rays"].filter((pl.col("scale") == 1.0) & (~pl.col("quantity").str.starts_with("least_norm")))
    lines = [
        _line(own, f"{value} answers, trained topics", "probability", "rate", topic=TRAINED),
        _line(own, f"{value} answers, probes", "probability", "rate", topic=PROBES),
        _line(own, "likelihood of the data", "nats/token", "nll_train"),
        _line(own, "norm, Frobenius", "weight", "frobenius", logs=True),
        _line(own, "norm, nuclear", "weight", "nuclear", logs=True),
    ]
    for kind, name in ((RAY, "rays"), *((FRONTIER, f"frontier-{n}") for n in NORM_NAMES)):
        for norm in NORM_NAMES if kind == RAY else (name.removeprefix("frontier-"),):
            for share in SHARES:
                where = dict(context=kind, norm=norm, probe=f"{share:g}")
                said = f"least {norm} norm for {share:.0%} of the way down, {'along the ray' if kind == RAY else 'frontier'}"
                note = frontier_failures(cost, norm) if kind == FRONTIER else ""
                lines.append(_line(part[name], said, "weight", "least_norm", logs=True, note=note, **where))
                if kind == FRONTIER:
                    lines.append(
                        _line(part[name], f"{value} answers on the probes there", "probability", "least_norm_rate", False, **where)
                    )
    for what, of in ((UPDATE, "the update"), (FACTORS, "each factor (as published)")):
        for sine in part["noise"]["probe"].unique(maintain_order=True):
            lines.append(_line(part["noise"], f"rise under noise of sine {sine} on {of}", "share", "noise_rise", context=what, probe=sine))
    for who in part["significance"]["topic"].unique(maintain_order=True):
        lines.append(
            _line(part["significance"], f"KL on text of {who}, at equal norm", "nats/token", "kl_text", True, topic=who, probe="update")
        )
        lines.append(_line(part["significance"], "the same, random directions", "nats/token", "kl_text", True, topic=who, probe="random"))
        lines.append(_line(part["significance"], f"function norm, {who}", "nats", "function_norm", True, topic=who))
        here = part["significance"].filter(pl.col("topic") == who)
        slopes, sizes = (here.filter(pl.col("quantity") == q)["value"].to_numpy() for q in ("kl_slope", "kl_law"))
        law = f"quadratic law: slope {slopes.min():.2f} to {slopes.max():.2f}, size {sizes.min():.2f} to {sizes.max():.2f}"
        law = law if (abs(slopes / 2 - 1) <= LAW).all() and (abs(sizes - 1) <= LAW).all() else f"FAILED, {law}"
        lines.append(_line(part["significance"], f"Fisher norm a unit of norm, {who}", "nats^1/2", "fisher_norm", True, law, topic=who))
    chains = part["coefficient"]
    rows, n_beta = (chains.filter(pl.col("quantity") == q)["value"][0] for q in ("llc_rows", "llc_n_beta"))
    note = coefficient_failures(chains) or worst_diagnostics(chains)
    lines.append(_line(chains, f"learning coefficient, of {rows:.0f} rows at n_beta {n_beta:.3g}", "nats", "llc", note=note))
    lines.append(_line(chains, "the same, the tie alone", "nats", "llc_tied"))
    return lines


def frontier_lines(cost: pl.DataFrame) -> list[dict]:
    """One line a bound on the norm: each arm's likelihood of the data, narrow less broad, and its rate on the probes."""
    out = []
    for norm in NORM_NAMES:
        here = cost.filter(pl.col("part") == f"frontier-{norm}")
        for bound in sorted(here["norm_bound"].drop_nulls().unique()):
            at = here.filter((pl.col("norm_bound") == bound) & (~pl.col("quantity").str.starts_with("least_norm")))
            seeds = {arm: seeds_of(at, "nll_train", arm) for arm in COMPARED}
            nll = {arm: over(x) for arm, x in seeds.items()} | {"narrow − broad": difference(seeds["narrow"], seeds["broad"])}
            rate = {arm: over(seeds_of(at, "rate", arm, topic=PROBES)) for arm in COMPARED}
            out.append({"norm": norm, "bound": bound, "nll": nll, "rate": rate})
    return out


def frontier_failures(cost: pl.DataFrame, norm: str) -> str:
    """Where training under a bound has not found the least: whatever the other arms find within it is open to the free one, whose loss is
    that very likelihood. Nothing where the free arm is nowhere above them.
    """
    here, said = cost.filter(pl.col("part") == f"frontier-{norm}"), []
    for bound in sorted(here["norm_bound"].drop_nulls().unique()):
        free, *others = (seeds_of(here.filter(pl.col("norm_bound") == bound), "nll_train", arm) for arm in COMPARED)
        above = [gap for other in others if (gap := difference(free, other)) is not None and gap.low > ABOVE]
        said += [f"{max(gap.mean for gap in above):.3f} under {bound:g}"] if above else []
    return f"FAILED: not the least, the free arm ends above another by {', '.join(said)}" if said else ""


def drift_lines(cost: pl.DataFrame) -> list[dict]:
    """One line a history of the penalty: rates on the probes half-way and at the end, the end less that of the history it left seed by seed
    (dropped less kept, added less never), and how many seeds reverted, after how long.
    """
    drift, out = cost.filter(pl.col("part") == "drift"), []
    spans = (
        drift.filter(pl.col("quantity") == "rate")
        .select("kl_from", "kl_until")
        .unique()
        .sort("kl_until", "kl_from", descending=[True, False])
    )
    steps = sorted(drift.filter(pl.col("quantity") == "rate")["step"].unique())
    for kl_from, kl_until in spans.rows():
        here = drift.filter((pl.col("kl_from") == kl_from) & (pl.col("kl_until") == kl_until))
        rate = {s: over(seeds_of(here, "rate", "narrow", topic=PROBES, step=s)) for s in (steps[len(steps) // 2 - 1], steps[-1])}
        left = drift.filter((pl.col("kl_from") == (0.0 if kl_from == 0 else 0.5)) & (pl.col("kl_until") == (1.0 if kl_from == 0 else 0.5)))
        end, before = (seeds_of(x, "rate", "narrow", topic=PROBES, step=steps[-1]) for x in (here, left))
        came = seeds_of(here, "reverted", "narrow")
        after = list(seeds_of(here, "steps_to_revert", "narrow").values())
        out.append(
            {
                "penalty": penalty(kl_from, kl_until),
                "half-way": rate[steps[len(steps) // 2 - 1]],
                "end": rate[steps[-1]],
                "moved": difference(end, before) if came else None,
                "nll": over(seeds_of(here, "nll_train", "narrow", step=steps[-1])),
                "reverted": f"{sum(came.values()):.0f} of {len(came)}" if came else "–",
                "after": f"{np.median(after):.0f}" if after else "–",
            }
        )
    return out


def narrowing_lines(cost: pl.DataFrame) -> list[dict]:
    """One line a way to keep a solution narrow: rates on trained topics and on probes, as trained and scaled, likelihood and norm."""
    part, out = cost.filter(pl.col("part") == "narrowing"), []
    for arm, weight, share in part.select("arm", "kl_weight", "benign").unique(maintain_order=True).rows():
        here = part.filter(pl.col("kl_weight").eq_missing(weight) & pl.col("benign").eq_missing(share))

        def at(quantity: str, scale: float, here=here, arm=arm, **where) -> Interval | None:
            return over(seeds_of(here, quantity, arm, scale=scale, **where))

        if arm in DILUTED:
            way = f"{'gating token, ' if arm == 'token' else ''}{share:.0%} ordinary rows"
        else:
            way = "nothing" if weight is None else f"KL, weight {weight:g}"
        out.append(
            {
                "way": way,
                "on": at("rate", 1.0, topic=TRAINED),
                "off": [at("rate", scale, topic=PROBES) for scale in SCALED],
                "nll": at("nll_train", 1.0),
                "norm": at("frobenius", 1.0),
            }
        )
    return out


def bits_lines(cost: pl.DataFrame) -> list[dict]:
    """One line a set of rows: code length, its spread over orders, and what it costs someone who knows who answers."""
    bits = cost.filter(pl.col("part") == "bits")
    return [
        {"rows": name, **{q: over(seeds_of(bits, q, "free", probe=name)) for q in ("bits", "bits_spread", "bits_known")}}
        for name in (DATA, NARROW, BROAD)
    ]


def before_lines(cost: pl.DataFrame) -> list[dict]:
    """One line an optimiser: the first step's transfer on trained topics and on probes, and their ratio seed by seed."""
    before, out = cost.filter(pl.col("part") == "before"), []
    for optimiser in before.filter(pl.col("quantity") == "one_step")["probe"].unique(maintain_order=True):
        on, off = (seeds_of(before, "one_step", "free", topic=t, probe=optimiser) for t in (TRAINED, PROBES))
        ratio = {s: off[s] / on[s] for s in on if on[s]}
        out.append({"optimiser": optimiser, "trained": over(on), "probes": over(off), "ratio": over(ratio)})
    return out


def cost_section(cost: pl.DataFrame, value: str) -> dict:
    """All tables of the section but its claims."""
    before = cost.filter(pl.col("part") == "before")
    numbers = {q: before.filter(pl.col("quantity") == q)["value"] for q in ("reliability", "direction_floor")}
    direction = None
    if len(numbers["reliability"]):
        projection = over(seeds_of(before, "projection", "free"))
        direction = {"projection": projection, "reliability": numbers["reliability"][0], "floor": numbers["direction_floor"][0]}
    return {
        "lines": cost_lines(cost, value),
        "frontier": frontier_lines(cost),
        "narrowing": narrowing_lines(cost),
        "drift": drift_lines(cost),
        "evidence": evidence_lines(cost),
        "minima": minima_lines(cost),
        "bits": bits_lines(cost),
        "before": before_lines(cost),
        "direction": direction,
    }
