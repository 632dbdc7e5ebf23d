"""The result in one table: a line for every arm and setting, over seeds; printed, put on the page, and kept as Markdown."""

import numpy as np
import polars as pl

from bayesgen.measure.admission import Gate, admission
from bayesgen.measure.excess import Excess
from bayesgen.measure.gate import BaseGate
from bayesgen.measure.intervals import Interval, over_seeds
from bayesgen.measure.norms import NORMS
from bayesgen.measure.rows import NO_SEED, at_setting, converged, diverged, spell
from bayesgen.world.load import TIMELESS

STILL = 0.02  # what does not depend on the trait should not move further than this (total variation)


def headline_table(table: pl.DataFrame, config, world) -> list[dict]:
    """One line an arm and setting: rates, adoption, loss of default, transfer, movement elsewhere, likelihood and norm; over seeds."""
    f, lost = config.finetune, diverged(table)
    now = at_the_end(table)
    probes = list(f.probes)
    still = {trait: [world.topics[t].name for t in world.topics_of(trait)] for trait in still_traits(config, world)}

    def line(arm: str, setting: dict[str, float]) -> dict:
        here = at_setting(now.filter(pl.col("arm") == arm), setting)
        gone = len(at_setting(lost.filter(pl.col("arm") == arm), setting))
        notes = [f"{spell(k)} {v:g}" for k, v in setting.items() if len(getattr(f, k)) > 1]

        def over(quantity: str, topics: list[str], probe: str = "all") -> Interval | None:
            values = by_seed(here, quantity, topics, probe)
            return over_seeds(list(values.values())) if values else None

        return {
            "arm": arm,
            "setting": ", ".join([*notes, *([f"{gone} of {f.seeds} diverged"] if gone else [])]),
            "on": over("rate", [f.topic], f.value),
            "off": over("rate", probes, f.value),
            "adoption": over("adoption", probes),
            "loss": over("loss_of_default", probes),
            "residual": over("mixture_residual", probes),
            "transfer": over("transfer", probes),
            "moved": {trait: over("moved", topics) for trait, topics in still.items()},
            "train": over("nll_train", [f.topic]),
            "heldout": over("nll_heldout", [f.topic]),
            "floor_train": over("floor_train", [f.topic]),
            "floor_heldout": over("floor_heldout", [f.topic]),
            "norm": over("frobenius", ["all"]),
            "outside": over("outside", probes),
        }

    ideal = now.filter(pl.col("arm").str.starts_with("ideal"))["arm"].unique(maintain_order=True)
    before = [line(arm, {}) for arm in ("base", "population", "told")]
    return before + [line(arm, s) for arm in f.arms for s in f.settings(arm)] + [line(arm, {}) for arm in ideal]


def at_the_end(table: pl.DataFrame) -> pl.DataFrame:
    """Rows of trainings that converged, after the last step and unscaled, and of all that is not trained."""
    last = table["step"].max()
    return converged(table).filter((pl.col("scale") == 1.0) & ((pl.col("step") == last) | (pl.col("seed") < 0)))


def by_seed(rows: pl.DataFrame, quantity: str, topics: list[str], probe: str = "all") -> dict[int, float]:
    """{seed: mean over topics}, of the topics that have a number in every seed: all seeds are averaged over the same ones."""
    rows = rows.filter((pl.col("quantity") == quantity) & pl.col("topic").is_in(topics) & (pl.col("probe") == probe))
    known = rows.group_by("topic").agg(pl.col("value").is_finite().all()).filter("value")["topic"].to_list()
    means = rows.filter(pl.col("topic").is_in(known)).group_by("seed").agg(pl.col("value").mean()).sort("seed")
    return dict(zip(means["seed"], means["value"], strict=True))


def contrasts(table: pl.DataFrame, config, world) -> list[tuple[str, Interval, str]]:
    """What the experiment asks: (contrast, its interval over seeds, verdict). Arms are paired by seed; first setting."""
    f, now, out = config.finetune, at_setting(at_the_end(table), config.finetune.settings("narrow")[0]), []
    arms = {arm: now.filter(pl.col("arm") == arm) for arm in (*f.arms, "base")}
    off = {arm: by_seed(rows, "rate", list(f.probes), f.value) for arm, rows in arms.items()}
    for first, second in (("free", "base"), ("free", "control"), ("narrow", "base"), ("broad", "free")):
        if off.get(first) and off.get(second):
            other = dict.fromkeys(off[first], off["base"][NO_SEED]) if second == "base" else off[second]
            gap = over_seeds([x - other[seed] for seed, x in off[first].items() if seed in other])
            verdict = "above 0" if gap.low > 0 else "below 0" if gap.high < 0 else "not told from 0"
            out.append((f"{first} − {second}: {f.value} answers on the probes", gap, verdict))
    for trait in still_traits(config, world) if off.get("free") else ():
        moved = over_seeds(list(by_seed(arms["free"], "moved", [world.topics[t].name for t in world.topics_of(trait)]).values()))
        verdict = f"within {STILL}" if moved.high <= STILL else f"NOT within {STILL}"
        out.append((f"free: how far {'timeless' if trait == TIMELESS else trait} topics moved", moved, verdict))
    return out


def still_traits(config, world) -> list[str]:
    """The traits that are not measured, "always" (timeless topics) last: what narrow data should leave alone."""
    return [trait for trait in world.values if trait != config.measure.trait]


def norm_table(table: pl.DataFrame, config) -> list[dict]:
    """Every norm of the update, for each arm (first setting) and matrix."""
    now = at_setting(at_the_end(table), config.finetune.settings("narrow")[0])
    modules = now.filter(pl.col("quantity") == NORMS[0])["topic"].unique(maintain_order=True)
    return [
        {"arm": arm, "module": module, **{n: over_seeds(list(by_seed(here, n, [module]).values())) for n in NORMS}}
        for arm in config.finetune.arms
        for here in (now.filter(pl.col("arm") == arm),)
        if len(here)
        for module in modules
    ]


def pair_gates(table: pl.DataFrame, config) -> list[Gate]:
    """Admission of the narrow/broad pair under the first setting, if both arms were run."""
    f = config.finetune
    if not {"narrow", "broad"} <= set(f.arms):
        return []
    return admission(at_setting(converged(table), f.settings("narrow")[0]), f.topic, f.value, f.probes)


def print_summary(headline: list[dict], found: list[tuple[str, Interval, str]], gates: list[Gate], base_gate: BaseGate):
    """The short table at the end of a run."""
    names = [f"{row['arm']} {row['setting']}".strip() for row in headline]
    wide = max(map(len, names)) + 1
    print(f"\n  {'':<{wide}}{'trained topic':>20}{'probes':>20}{'adoption':>20}{'loss of default':>21}")
    for name, row in zip(names, headline, strict=True):
        cells = [row[k] for k in ("on", "off", "adoption", "loss")]
        print(f"  {name:<{wide}}" + "".join(f"{show(c):>20}" for c in cells[:-1]) + f"{show(cells[-1]):>21}")
    if base_gate.failures:
        print("  The base did NOT pass its gate: read nothing into the arms.")
    for name, interval, verdict in found:
        print(f"  {name}: {show(interval, 3)}, {verdict}")
    for gate in gates:
        print(f"  pair: {gate.name}: {'yes' if gate.passed else 'NO'} ({gate.found})")
    print(flush=True)


def result_markdown(
    config, headline: list[dict], found: list[tuple[str, Interval, str]], gates: list[Gate], base_gate: BaseGate, excess: Excess
) -> str:
    """The result as it stands on an experiment's page under `experiments/`: generated, never typed."""
    still = list(headline[0]["moved"])
    moved = {trait: "timeless moved" if trait == TIMELESS else f"{trait} moved" for trait in still}
    head = ["arm", config.finetune.topic, "probes", "adoption", "loss of default", "transfer λ", *moved.values(), "outside", "NLL train"]
    head += ["NLL held out", "‖ΔW‖"]
    lines = [" | ".join(head), "|".join(["---"] * len(head))]
    for r in headline:
        cells = [r["on"], r["off"], r["adoption"], r["loss"], r["transfer"], *(r["moved"][t] for t in still), r["outside"]]
        cells += [r["train"], r["heldout"], r["norm"]]
        lines.append(" | ".join([f"{r['arm']} {r['setting']}".strip(), *map(show, cells)]))
    worst = base_gate.worst
    verdict = "not passed: " + "; ".join(base_gate.failures) if base_gate.failures else "passed"
    return "\n".join(
        [
            f"One base, {config.finetune.seeds} finetuning seeds: means, 95% intervals in brackets. Rates are those of "
            f"{config.finetune.value} answers.",
            "",
            *(f"| {line} |" for line in lines),
            "",
            *(f"- {name}: {show(interval, 3)}, {said}." for name, interval, said in found),
            "",
            f"Base: {excess.network:.3f} nats per answer token on fresh documents, {excess.difference:.3f} ± {excess.error:.3f} above the "
            f"exact entropy. Gate: {verdict} (worst: {worst.value} after {worst.turns} turns, network {worst.network:.3f}, "
            f"ideal {worst.ideal:.3f} ± {worst.error:.3f}).",
            *(f"Pair, {g.name}: {'yes' if g.passed else 'no'} ({g.found})." for g in gates),
            "",
        ]
    )


def show(interval: Interval | None, digits: int = 2) -> str:
    """A mean with its 95% interval, or a dash."""
    if interval is None or np.isnan(interval.mean):
        return "–"
    mean, low, high = (f"{round(x, digits) + 0.0:.{digits}f}" for x in interval)  # + 0.0: no "-0.00"
    return mean if np.isnan(interval.low) else f"{mean} [{low}, {high}]"
