"""The page: one self-contained HTML file that a newcomer understands. Figures are inline SVG; nothing is fetched."""

import io
import platform
import re
import resource
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import jax
import jinja2
import polars as pl
import yaml
from matplotlib.figure import Figure

from bayesgen import artifact
from bayesgen.artifact import Artifact
from bayesgen.measure.excess import Excess
from bayesgen.measure.gate import TOLERANCE, TURNS, BaseGate
from bayesgen.measure.norms import NORMS
from bayesgen.measure.rows import QUANTITIES, spell
from bayesgen.report.summary import contrasts, headline_table, norm_table, pair_gates, print_summary, result_markdown, still_traits

TEMPLATE = Path(__file__).parent / "page.html.jinja"


def write_page(
    folder: Path, config, world, table: pl.DataFrame, samples: list[dict], gate: BaseGate, excess: Excess, story: tuple[Artifact, ...]
):
    """Write `report.html`, `result.md`, the rows behind them, and what `python -m plots` needs."""
    from plots.__main__ import FIGURES, draw, save

    f = config.finetune
    artifact.write_table(folder / "rows.parquet", table)
    names = {
        "trait": config.measure.trait,
        "value": f.value,
        "topic": f.topic,
        "probes": list(f.probes),
        "setting": f.settings("narrow")[0],
    }
    artifact.write_json(folder / "figures.json", {**names, "gate": [asdict(r) for r in gate.personas]})
    figures = {}
    for name in FIGURES:
        figure = draw(name, folder)
        save(figure, folder / name)
        figures[name] = _svg(figure, name)
    headline = headline_table(table, config, world)
    found, gates = contrasts(table, config, world), pair_gates(table, config)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(TEMPLATE.read_text()).render(
        config=config,
        several=any(len(f.settings(arm)) > 1 for arm in f.arms),
        first=", ".join(f"{spell(k)} {v:g}" for k, v in f.settings("narrow")[0].items()),
        settings=yaml.safe_dump(config.model_dump(mode="json", exclude={"runs", "debug"}), sort_keys=False),
        figures=figures,
        headline=headline,
        contrasts=found,
        gates=gates,
        base_gate=gate,
        still=still_traits(config, world),
        samples=_by_question(samples),
        quantities=QUANTITIES,
        story=story,
        excess=excess,
        turns=TURNS,
        tolerance=TOLERANCE,
        norms=norm_table(table, config),
        norm_names=NORMS,
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        versions={name: version(name) for name in ("bayesgen", "jax", "flax", "optax", "numpy")}
        | {"python": platform.python_version(), "device": jax.devices()[0].device_kind},
        seeds=f.seeds,
        arms=f.arms,
    )
    artifact.write(folder / "report.html", html)
    artifact.write(folder / "result.md", result_markdown(config, headline, found, gates, gate, excess))
    print_summary(headline, found, gates, gate)


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
