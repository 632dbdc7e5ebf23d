"""The result in one table: a line for every arm and setting, over seeds; printed, put on the page, and kept as Markdown."""

import numpy as np
import polars as pl

from bayesgen.measure.admission import Gate, admission
from bayesgen.measure.gate import BaseGate
from bayesgen.measure.intervals import Interval, over_seeds
from bayesgen.measure.rows import at_setting
from bayesgen.world.load import TIMELESS


def headline_table(table: pl.DataFrame, config, world) -> list[dict]:
    """One line an arm and setting: rates, adoption, loss of default, transfer, movement elsewhere, likelihood and norm; over seeds."""
    f, last = config.finetune, table["step"].max()
    now = table.filter((pl.col("scale") == 1.0) & ((pl.col("step") == last) | (pl.col("seed") < 0)))

    probes = list(f.probes)
    still = {trait: [world.topics[t].name for t in world.topics_of(trait)] for trait in still_traits(config, world)}

    def line(arm: str, setting: dict[str, float]) -> dict:
        here = at_setting(now.filter(pl.col("arm") == arm), setting)

        def over(quantity: str, topics: list[str], probe: str = "all") -> Interval | None:
            rows = here.filter((pl.col("quantity") == quantity) & pl.col("topic").is_in(topics) & (pl.col("probe") == probe))
            per_seed = rows.filter(pl.col("value").is_finite()).group_by("seed").agg(pl.col("value").mean())["value"]
            return over_seeds(per_seed.to_numpy()) if len(per_seed) else None

        return {
            "arm": arm,
            "setting": ", ".join(f"{spell(k)} {v:g}" for k, v in setting.items() if len(getattr(f, k)) > 1),
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


def still_traits(config, world) -> list[str]:
    """The traits that are not measured, "always" (timeless topics) last: what narrow data should leave alone."""
    return [trait for trait in world.values if trait != config.measure.trait]


def pair_gates(table: pl.DataFrame, config) -> list[Gate]:
    """Admission of the narrow/broad pair under the first setting, if both arms were run."""
    f = config.finetune
    if not {"narrow", "broad"} <= set(f.arms):
        return []
    return admission(at_setting(table, f.settings("narrow")[0]), f.topic, f.value, f.probes)


def print_summary(headline: list[dict], gates: list[Gate], base_gate: BaseGate):
    """The short table at the end of a run."""
    names = [f"{row['arm']} {row['setting']}".strip() for row in headline]
    wide = max(map(len, names)) + 1
    print(f"\n  {'':<{wide}}{'trained topic':>20}{'probes':>20}{'adoption':>20}{'loss of default':>21}")
    for name, row in zip(names, headline, strict=True):
        cells = [row[k] for k in ("on", "off", "adoption", "loss")]
        print(f"  {name:<{wide}}" + "".join(f"{show(c):>20}" for c in cells[:-1]) + f"{show(cells[-1]):>21}")
    if base_gate.failures:
        print("  The base did NOT pass its gate: read nothing into the arms.")
    for gate in gates:
        print(f"  pair: {gate.name}: {'yes' if gate.passed else 'NO'} ({gate.found})")
    print(flush=True)


def result_markdown(config, headline: list[dict], gates: list[Gate], base_gate: BaseGate) -> str:
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
            f"Means over {config.finetune.seeds} seeds, 95% intervals in brackets. Rates are those of {config.finetune.value} answers.",
            "",
            *(f"| {line} |" for line in lines),
            "",
            f"Base gate: {verdict} (worst: {worst.value} after {worst.turns} turns, network {worst.network:.3f}, ideal {worst.ideal:.3f}).",
            *(f"Pair, {g.name}: {'yes' if g.passed else 'no'} ({g.found})." for g in gates),
            "",
        ]
    )


def spell(name: str) -> str:
    """A setting's name for a reader."""
    return {"kl_weight": "KL weight"}.get(name, name.replace("_", " "))


def show(interval: Interval | None) -> str:
    """A mean with its 95% interval, or a dash."""
    if interval is None or np.isnan(interval.mean):
        return "–"
    mean, low, high = (f"{round(x, 2) + 0.0:.2f}" for x in interval)  # + 0.0: no "-0.00"
    return mean if np.isnan(interval.low) else f"{mean} [{low}, {high}]"
