"""The page: one self-contained HTML file that a newcomer understands. Figures are inline SVG; nothing is fetched."""

import io
import platform
import re
from dataclasses import asdict
from pathlib import Path

import jax
import jinja2
import numpy as np
import polars as pl
import yaml
from matplotlib.figure import Figure

from bayesgen import artifact
from bayesgen.artifact import Artifact
from bayesgen.measure.admission import Gate, admission
from bayesgen.measure.gate import BaseGate
from bayesgen.measure.intervals import Interval, over_seeds
from bayesgen.measure.rows import QUANTITIES
from bayesgen.world.load import TIMELESS

TEMPLATE = Path(__file__).parent / "page.html.jinja"


def write_page(
    folder: Path, config, world, table: pl.DataFrame, samples: list[dict], gate: BaseGate, losses: list[float], story: tuple[Artifact, ...]
):
    """Write `report.html`, `result.md`, the rows behind them, and what `python -m plots` needs."""
    from plots.__main__ import FIGURES, draw, save

    f = config.finetune
    artifact.write_table(folder / "rows.parquet", table)
    artifact.write_json(
        folder / "figures.json", {"value": f.value, "topic": f.topic, "probes": list(f.probes), "gate": [asdict(r) for r in gate.personas]}
    )
    figures = {}
    for name in FIGURES:
        figure = draw(name, folder)
        save(figure, folder / name)
        figures[name] = _svg(figure, name)
    headline = headline_table(table, config, world)
    gates = pair_gates(table, config)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(TEMPLATE.read_text()).render(
        config=config,
        settings=yaml.safe_dump(config.model_dump(mode="json", exclude={"runs", "debug"}), sort_keys=False),
        figures=figures,
        headline=headline,
        gates=gates,
        base_gate=gate,
        still=still_traits(config, world),
        samples=_by_question(samples),
        quantities=QUANTITIES,
        story=story,
        loss=np.mean(losses[-50:]),
        versions={"python": platform.python_version(), "jax": jax.__version__},
        seeds=f.seeds,
        arms=f.arms,
    )
    artifact.write(folder / "report.html", html)
    artifact.write(folder / "result.md", result_markdown(config, headline, gates, gate))
    print_summary(headline, gates, gate)


def headline_table(table: pl.DataFrame, config, world) -> list[dict]:
    """One line an arm: rates, adoption, loss of default, transfer, movement elsewhere, likelihood and norm; over seeds."""
    f, last = config.finetune, table["step"].max()
    now = table.filter((pl.col("scale") == 1.0) & ((pl.col("step") == last) | (pl.col("seed") < 0)))

    def over(arm: str, quantity: str, topics=None, probe: str | None = None) -> Interval | None:
        rows = now.filter((pl.col("arm") == arm) & (pl.col("quantity") == quantity))
        rows = rows if topics is None else rows.filter(pl.col("topic").is_in(topics))
        rows = rows if probe is None else rows.filter(pl.col("probe") == probe)
        per_seed = rows.group_by("seed").agg(pl.col("value").mean())["value"]
        return over_seeds(per_seed.to_numpy()) if len(per_seed) else None

    ideal = now.filter(pl.col("arm").str.starts_with("ideal"))["arm"].unique(maintain_order=True)
    out = []
    for arm in ("base", "population", "told", *f.arms, *ideal):
        out.append(
            {
                "arm": arm,
                "on": over(arm, "rate", [f.topic], f.value),
                "off": over(arm, "rate", list(f.probes), f.value),
                "adoption": over(arm, "adoption", list(f.probes)),
                "loss": over(arm, "loss_of_default", list(f.probes)),
                "transfer": over(arm, "transfer", list(f.probes)),
                "moved": {
                    trait: over(arm, "moved", [world.topics[t].name for t in world.topics_of(trait)])
                    for trait in still_traits(config, world)
                },
                "train": over(arm, "nll_train"),
                "heldout": over(arm, "nll_heldout"),
                "norm": over(arm, "frobenius", ["all"]),
                "outside": over(arm, "outside", list(f.probes)),
            }
        )
    return out


def still_traits(config, world) -> list[str]:
    """The traits that are not measured, "always" (timeless topics) last: what narrow data should leave alone."""
    return [trait for trait in world.values if trait != config.measure.trait]


def pair_gates(table: pl.DataFrame, config) -> list[Gate]:
    """Admission of the narrow/broad pair, if both arms were run with one setting."""
    f = config.finetune
    single = all(len(getattr(f, k)) == 1 for k in ("learning_rate", "weight_decay", "kl_weight", "rank"))
    if not single or not {"narrow", "broad"} <= set(f.arms):
        return []
    return admission(table, f.topic, f.value, f.probes)


def print_summary(headline: list[dict], gates: list[Gate], base_gate: BaseGate):
    """The short table at the end of a run."""
    print(f"\n  {'arm':<16}{'trained topic':>20}{'probes':>20}{'adoption':>20}{'loss of default':>20}")
    for row in headline:
        cells = [row[k] for k in ("on", "off", "adoption", "loss")]
        print(f"  {row['arm']:<16}" + "".join(f"{show(c):>20}" for c in cells))
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
        lines.append(" | ".join([r["arm"], *map(show, cells)]))
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


def show(interval: Interval | None) -> str:
    """A mean with its 95% interval, or a dash."""
    if interval is None or np.isnan(interval.mean):
        return "–"
    mean = f"{interval.mean + 0.0:.2f}"
    return mean if np.isnan(interval.low) else f"{mean} [{interval.low:.2f}, {interval.high:.2f}]"


def _svg(figure: Figure, name: str) -> str:
    """A figure as inline SVG, its ids made its own so that several can share a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", svg, count=1) if "width=" in svg[:400] else svg
    return re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)


def _by_question(samples: list[dict]) -> list[dict]:
    """Samples side by side: one entry a question, arms within."""
    out: dict[str, dict] = {}
    for s in samples:
        entry = out.setdefault(s["question"], {"question": s["question"], "topic": s["topic"], "answers": {}})
        entry["answers"][s["arm"]] = s["answers"]
    return list(out.values())
