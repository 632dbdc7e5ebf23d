"""The page: one self-contained HTML file that a newcomer understands. Figures are inline SVG; nothing is fetched."""

import platform
import resource
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import jax
import polars as pl
import yaml

from bayesgen import files
from bayesgen.artifact import Artifact
from bayesgen.cost.narrowing import SCALED
from bayesgen.measure.excess import Excess
from bayesgen.measure.gate import TOLERANCE, TURNS, BaseGate
from bayesgen.measure.intervals import over_seeds
from bayesgen.measure.norms import NORMS
from bayesgen.measure.rows import QUANTITIES, REMOVED, spell_setting
from bayesgen.report.claims import claims
from bayesgen.report.contrasts import Pick, by_seed
from bayesgen.report.costs import cost_section
from bayesgen.report.html import drawn, template
from bayesgen.report.markdown import cost_markdown, result_markdown
from bayesgen.report.study import Cell, write_parts
from bayesgen.report.summary import (
    ablation_table,
    answering_table,
    context_table,
    contrasts,
    headline_table,
    names_of,
    norm_table,
    onset_table,
    pair_gates,
    print_summary,
    published,
    still_traits,
)
from bayesgen.report.tables import as_markdown


def write_page(
    folder: Path,
    config,
    world,
    table: pl.DataFrame,
    samples: list[dict],
    gate: BaseGate,
    excess: Excess,
    stages: tuple[Artifact, ...],
    features: dict | None,
    cost: pl.DataFrame | None,
):
    """Write `report.html`, `result.md` (and `cost.md`), the rows behind them, and what `python -m plots` needs."""
    from plots.__main__ import FIGURES

    f = config.finetune
    files.write_table(folder / "rows.parquet", table)
    if cost is not None:
        files.write_table(folder / "cost.parquet", cost)
    story = names_of(config, world)
    files.write_json(folder / "figures.json", {**story, "gate": [asdict(r) for r in gate.personas]})
    figures = drawn(FIGURES, folder)
    headline, told, onsets = headline_table(table, config, world), published(table, config, world), onset_table(table, config, world)
    ablation = ablation_table(table, config, world) if features else []
    by_header, answering = context_table(table, config, world), answering_table(table, config, world)
    found, gates = contrasts(table, config, world), pair_gates(table, config, world)
    study, drawn_of_study = [], {}
    if config.study:
        study, drawn_of_study, _ = write_parts(folder, config.study, [Cell({}, config, world, table)])
    costs = {"claims": claims(cost), **cost_section(cost, story["value"])} if cost is not None else None
    html = template("page.html.jinja").render(
        config=config,
        several=any(len(f.settings(arm)) > 1 for arm in f.arm_names),
        first=", ".join(spell_setting(f.first_setting)),
        settings=yaml.safe_dump(config.model_dump(mode="json", exclude={"runs", "debug"}), sort_keys=False),
        figures=figures | drawn_of_study,
        study=study,
        headline=headline,
        contrasts=found,
        published=told,
        onsets=onsets if config.measure.followed else [],
        contexts=by_header if len(story["contexts"]) > 1 else [],
        answering=answering,
        features=features,
        removed=[over_seeds(list(by_seed(table, Pick(arm="free", quantity=q), story).values())) for q in REMOVED] if features else [],
        ablation=ablation,
        names=story,
        first_setting=next((r["setting"] for r in headline if r["arm"] == "free" and r["first"]), ""),
        gates=gates,
        cost=costs,
        narrowing_scales=SCALED,
        pair_ok=all(g.passed for g in gates),
        base_gate=gate,
        still=still_traits(config, world),
        samples=_by_question(samples),
        quantities=QUANTITIES,
        stages=stages,
        excess=excess,
        turns=TURNS,
        dated=any(r.dated for r in gate.personas),
        tolerance=TOLERANCE,
        norms=norm_table(table, config, world),
        norm_names=NORMS,
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        versions={name: version(name) for name in ("bayesgen", "jax", "flax", "optax", "numpy")}
        | {"python": platform.python_version(), "device": jax.devices()[0].device_kind},
        seeds=f.seeds,
        arms=f.arm_names,
    )
    files.write(folder / "report.html", html)
    tables = (by_header, answering, ablation)
    result = result_markdown(config, world, headline, found, told, onsets, gates, gate, excess, *tables)
    files.write(folder / "result.md", result + as_markdown([], study, anchors=True))
    if costs is not None:
        files.write(folder / "cost.md", cost_markdown(config, costs, gates))
    print_summary(headline, found, told, gates, gate)


def _by_question(samples: list[dict]) -> list[dict]:
    """Samples side by side: one entry a question, arms within."""
    out: dict[str, dict] = {}
    for s in samples:
        entry = out.setdefault(s["question"], {"question": s["question"], "topic": s["topic"], "answers": {}})
        entry["answers"][s["arm"]] = s["answers"]
    return list(out.values())
