"""READ FIRST: the whole of bayesgen as one page of calls.

    world -> corpus -> base -> gate -> ensemble -> rows -> costs -> page

Every stage is a function of its config and its parents' artifacts; asked twice, it is found.
"""

import json
import time
from collections.abc import Callable
from concurrent.futures import as_completed
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import current_process
from pathlib import Path
from typing import get_args

import jax
import numpy as np
import polars as pl

from bayesgen import artifact, files
from bayesgen.artifact import Artifact
from bayesgen.config import Config
from bayesgen.cost.subject import Subject, subject
from bayesgen.cost.suite import Part, parts
from bayesgen.hosts import several
from bayesgen.learn.plan import FinetuneConfig, plan_members
from bayesgen.measure.answers import NetworkPredictor
from bayesgen.measure.directions import direction_rows
from bayesgen.measure.excess import Excess, corpus_excess
from bayesgen.measure.features import feature_analysis
from bayesgen.measure.gate import BaseGate, PersonaRow, WordingRow, base_gate
from bayesgen.measure.reading import reading_rows
from bayesgen.measure.rows import Row, to_table
from bayesgen.measure.settings import CostPart
from bayesgen.measure.suite import measure_all
from bayesgen.processes import Named, dealt, workers
from bayesgen.report.page import write_page
from bayesgen.report.study import check_study
from bayesgen.setup import Setup, prepare, use_device
from bayesgen.training import build_base, build_ensemble, load_adapters, load_base

Build = partial[Artifact]  # of `artifact.build`


def run(config: Config) -> Path:
    """Everything, from facts to the page; returns the page's path."""
    print(f"  device: {use_device(config)}", flush=True)
    began = time.monotonic()
    if config.study:
        check_study(config.study, {})
    setup = prepare(config)
    corpus = build_corpus(setup)
    base = build_base(setup, corpus)
    gate = build_gate(setup, base)
    say_gate(gate)
    ensemble = build_ensemble(setup, base)
    rows = build_rows(setup, base, ensemble)
    costs = build_costs(setup, base, ensemble) if config.measure.cost else {}
    page = build_page(setup, gate, rows, costs, (corpus, base, gate, ensemble, rows, *costs.values()))
    print(f"  page: {page.path('report.html')}   ({time.monotonic() - began:.0f} s)", flush=True)
    return page.path("report.html")


def build_corpus(setup: Setup) -> Artifact:
    """The facts as loaded, the vocabulary, and some documents to read."""
    facts = {t.name: t.model_dump(mode="json") for t in setup.world.topics}

    def make(folder: Path):
        tokenizer = setup.grammar.tokenizer
        files.write_json(folder / "facts.json", facts)
        files.write_json(folder / "vocabulary.json", list(tokenizer.words))
        key = jax.random.key(setup.config.pretrain.seed + 1)  # not a training batch
        batch = jax.device_get(jax.jit(setup.source.draw, static_argnums=2)(key, 0, 50))
        files.write(folder / "documents.txt", "\n\n".join(tokenizer.decode(row) for row in batch.tokens.tolist()) + "\n")

    names = [Path(m).name for m in setup.config.world.modules]  # not where facts lie: what they say counts
    people = [asdict(p) for p in (*setup.world.personas, setup.world.default)]
    config = {
        "world": {**setup.config.world.model_dump(mode="json", exclude={"depth"}), "modules": names},
        "facts": facts,
        "people": people,
    }
    return artifact.build(setup.config.runs, "corpus", "-".join(names), config, make)


def build_gate(setup: Setup, base: Artifact) -> Artifact:
    """Persona inference of the base against the ideal observer."""
    config = setup.config

    def make(folder: Path):
        params = load_base(setup, base)
        predictor = NetworkPredictor(setup.model, params, setup.grammar)
        found = base_gate(setup.world, predictor, config.measure.trait, config.measure.gate_prompts, config.pretrain.seed + 1)
        key = jax.random.key(config.pretrain.seed + 1)  # not a training key
        excess = corpus_excess(setup.source, setup.model, params, 512, key)
        files.write_json(folder / "gate.json", {**asdict(found), "excess": asdict(excess)})

    measured = artifact.code("world", "corpus", "model", "measure")
    described = {"trait": config.measure.trait, "prompts": config.measure.gate_prompts, "code": measured}
    return artifact.build(config.runs, "gate", config.measure.trait, described, make, base)


def say_gate(gate: Artifact):
    """Print it, as with every run."""
    found, excess = load_gate(gate)
    print(f"  base loss {excess.network:.3f} nats/token, {excess.difference:.3f} ± {excess.error:.3f} above the exact entropy", flush=True)
    print("\n".join(found.lines), flush=True)


def load_gate(gate: Artifact) -> tuple[BaseGate, Excess]:
    """The gate's two tables, and the pretraining loss above its floor."""
    stored = json.loads(gate.path("gate.json").read_text())
    found = BaseGate(tuple(PersonaRow(**r) for r in stored["personas"]), tuple(WordingRow(**r) for r in stored["wordings"]))
    return found, Excess(**stored["excess"])


def build_rows(setup: Setup, base: Artifact, ensemble: Artifact) -> Artifact:
    """Every measurement, as one tidy table, sampled dialogues, and the features if they are asked for."""

    def make(folder: Path):
        params = load_base(setup, base)
        adapters = {s: load_adapters(setup, params, ensemble, s) for s in setup.config.finetune.snapshot_steps}
        losses = files.load_tree(
            ensemble.path("losses.safetensors"), np.zeros((setup.config.finetune.steps, len(plan_members(setup.config.finetune))))
        )
        of, members = (setup.config, setup.world, setup.grammar, setup.model, params), plan_members(setup.config.finetune)
        table, samples = measure_all(*of, adapters, losses)
        if setup.config.measure.features:
            more, features = feature_analysis(*of, adapters[max(adapters)], setup.source)
            table = pl.concat([table, to_table(more)])
            files.write_json(folder / "features.json", features)
        if setup.config.measure.directions:
            table = pl.concat([table, to_table(direction_rows(*of, adapters[max(adapters)], members))])
        if setup.config.measure.reading:
            table = pl.concat([table, to_table(reading_rows(*of, members))])
        table = table.with_columns(run=pl.lit(ensemble.folder.name))
        files.write_table(folder / "rows.parquet", table)
        files.write_json(folder / "samples.json", samples)

    described = setup.config.measure.model_dump(mode="json", exclude={"gate_prompts", "cost"})
    years = {trait: {v: y.told for v, y in of.items()} for trait, of in setup.world.years.items()}
    described["told"] = {"topics": setup.world.tellers, "years": years}  # no part of what anybody says
    described["code"] = artifact.code("world", "corpus", "model", "learn", "measure")
    return artifact.build(setup.config.runs, "rows", setup.config.name, described, make, ensemble)


def build_costs(setup: Setup, base: Artifact, ensemble: Artifact) -> dict[str, Artifact]:
    """What the free, narrow and broad solutions cost: an artifact a part, so that an interruption costs one part.

    On a processor with several cores, a process each works on them, which is quicker than all cores on one part at a time.
    """
    of = cost_parts(setup, base, ensemble)
    with artifact.only_named():
        missing = [part for part, build in of.items() if not build().there]
    shares = dealt(len(missing))
    alone = not several() and not current_process().daemon
    if alone and len(shares) > 1 and jax.devices(setup.config.device)[0].platform == "cpu":
        with workers(shares, _begin_costs, setup.config, base, ensemble) as pool:
            for done in as_completed([pool.submit(_build_cost, part) for part in missing]):
                done.result()
    return {part: build() for part, build in of.items()}


def find_measured(setup: Setup, base: Artifact, ensemble: Artifact) -> tuple[Artifact, dict[str, Artifact]] | None:
    """The rows, and the parts of the costs if they are asked for; none, unless all of them are there."""
    with artifact.only_named():
        rows = build_rows(setup, base, ensemble)
        if not rows.there or not setup.config.measure.cost:
            return (rows, {}) if rows.there else None
        costs = build_costs(setup, base, ensemble) if base.there and ensemble.there else {}
    return (rows, costs) if costs and all(found.there for found in costs.values()) else None


def cost_parts(setup: Setup, base: Artifact, ensemble: Artifact) -> dict[str, Build]:
    """The parts of the costs, each a call that builds it."""
    c, f, params = setup.config.measure.cost, setup.config.finetune, load_base(setup, base)
    assert c is not None
    setting = {**f.first_setting, "rows": max(f.rows)}
    every = subject(setup, f, params, load_adapters(setup, params, ensemble, f.steps), setting)

    def trained(finetune: FinetuneConfig) -> tuple[Subject, dict[int, dict]]:
        here = replace(setup, config=setup.config.model_copy(update={"finetune": finetune}))
        found = build_ensemble(here, base)
        adapters = {s: load_adapters(here, params, found, s) for s in finetune.snapshot_steps}
        return subject(here, finetune, params, adapters[finetune.steps]), adapters

    described = setup.config.measure.model_dump(mode="json", include={"trait", "value", "contexts"}) | {"setting": setting}
    described["code"] = artifact.code("world", "corpus", "model", "estimate", "learn", "measure", "cost")

    def make(rows: Callable[[], list[Row]], folder: Path):
        files.write_table(folder / "rows.parquet", to_table(rows()).with_columns(run=pl.lit(ensemble.folder.name)))

    def build(name: str, part: Part) -> Build:
        of = {**described, "part": name, "cost": part.settings}
        return partial(artifact.build, setup.config.runs, "cost", f"{setup.config.name}-{name}", of, partial(make, part.rows), ensemble)

    return {name: build(name, part) for name, part in parts(every, c, trained).items()}


_OF: dict[str, Build] = {}  # of a process that works on costs


def _begin_costs(config: Config, base: Artifact, ensemble: Artifact):
    use_device(config)
    _OF.update(cost_parts(prepare(config), base, ensemble))


def _build_cost(part: str):
    with redirect_stdout(Named(part)):
        found = _OF[part]()
        print(f"  cost ({found.seconds:.0f} s)", flush=True)


def build_page(setup: Setup, gate: Artifact, rows: Artifact, costs: dict[str, Artifact], story: tuple[Artifact, ...]) -> Artifact:
    """The page."""

    def make(folder: Path):
        table = pl.read_parquet(rows.path("rows.parquet"))
        samples = json.loads(rows.path("samples.json").read_text())
        features = json.loads(rows.path("features.json").read_text()) if setup.config.measure.features else None
        tables = [pl.read_parquet(found.path("rows.parquet")).with_columns(part=pl.lit(part)) for part, found in costs.items()]
        cost = pl.concat(tables) if set(costs) == set(get_args(CostPart)) else None  # a section on parts of them would mislead
        write_page(folder, setup.config, setup.world, table, samples, *load_gate(gate), story, features, cost)

    asked = [c.model_dump(mode="json") for c in setup.config.contrasts]
    described = {"question": setup.config.question, "contrasts": asked, "code": artifact.code("report", "measure", "plots")}
    if setup.config.study:
        described["study"] = setup.config.study.model_dump(mode="json")
    return artifact.build(setup.config.runs, "page", setup.config.name, described, make, gate, rows, *costs.values())
