"""READ FIRST: the whole of bayesgen as one page of calls.

    world -> corpus -> base -> gate -> ensemble -> rows -> costs -> page

Every stage is a function of its config and its parents' artifacts; asked twice, it is found.
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import polars as pl

from bayesgen import artifact
from bayesgen.artifact import Artifact, Wanted
from bayesgen.config import Config
from bayesgen.cost.subject import Subject, subject
from bayesgen.cost.suite import Part, parts
from bayesgen.learn import devices
from bayesgen.learn.data import Data, member_data, together
from bayesgen.learn.finetune import FinetuneState, effective_members, finetuning, member_settings
from bayesgen.learn.loop import run_steps
from bayesgen.learn.plan import FinetuneConfig, plan_members
from bayesgen.learn.pretrain import pretraining, pretraining_together
from bayesgen.learn.tries import every_step
from bayesgen.measure.answers import NetworkPredictor
from bayesgen.measure.excess import Excess, corpus_excess
from bayesgen.measure.features import feature_analysis
from bayesgen.measure.gate import BaseGate, PersonaRow, WordingRow, base_gate
from bayesgen.measure.rows import Row, to_table
from bayesgen.measure.suite import measure_all
from bayesgen.model.lora import cut
from bayesgen.model.transformer import count_parameters
from bayesgen.processes import Named, dealt, workers
from bayesgen.report.page import write_page
from bayesgen.setup import Setup, prepare, use_device

Build = partial[Artifact]  # of `artifact.build`
CHECKPOINTS = 6  # of an ensemble, at least


def run(config: Config) -> Path:
    """Everything, from facts to the page; returns the page's path."""
    print(f"  device: {use_device(config)}", flush=True)
    began = time.monotonic()
    setup = prepare(config)
    corpus = build_corpus(setup)
    base = build_base(setup, corpus)
    gate = build_gate(setup, base)
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
        artifact.write_json(folder / "facts.json", facts)
        artifact.write_json(folder / "vocabulary.json", list(tokenizer.words))
        key = jax.random.key(setup.config.pretrain.seed + 1)  # not a training batch
        batch = jax.device_get(jax.jit(setup.source.draw, static_argnums=2)(key, 0, 50))
        artifact.write(folder / "documents.txt", "\n\n".join(tokenizer.decode(row) for row in batch.tokens.tolist()) + "\n")

    names = [Path(m).name for m in setup.config.world.modules]  # not where facts lie: what they say counts
    people = [asdict(p) for p in (*setup.world.personas, setup.world.default)]
    config = {
        "world": {**setup.config.world.model_dump(mode="json", exclude={"depth"}), "modules": names},
        "facts": facts,
        "people": people,
    }
    return artifact.build(setup.config.runs, "corpus", "-".join(names), config, make)


def build_base(setup: Setup, corpus: Artifact) -> Artifact:
    """The pretrained network."""
    return build_bases([setup], [corpus])[0]


def build_bases(setups: Sequence[Setup], corpora: Sequence[Artifact]) -> list[Artifact]:
    """Several pretrained networks of one shape, trained in one program; each is an artifact of its own, the same that it would be
    alone, to rounding. Their worlds have one `frame`, and their settings differ in the seed only. One that leaves the finite numbers
    is said when the others are kept.
    """
    configs = [setup.config.pretrain for setup in setups]

    def make(work: Path, folders: dict[int, Path]) -> dict[int, str]:
        which = list(folders)
        if len(which) == 1:
            begin, advance = pretraining(setups[which[0]].model, setups[which[0]].source, configs[which[0]])
        else:
            begin, advance = pretraining_together(setups[0].model, [setups[i].source for i in which], [configs[i] for i in which])
        state, done, losses_TxN = begin(), 0, np.zeros((0, len(which)))
        over = devices.dealt if len(which) > 1 and not devices.spare(len(which)) else devices.shared
        checkpoint, last = work / artifact.CHECKPOINT, configs[0].steps
        saved = artifact.load_checkpoint(checkpoint, (state, np.zeros((), int), artifact.Shape((-1, len(which)))))
        if saved is not None:
            state, done, losses_TxN = saved[0], int(saved[1]), saved[2]
            print(f"  base: continuing from step {done}", flush=True)
        else:
            several = f"{len(which)} of " if len(which) > 1 else ""
            print(f"  base: {several}{count_parameters(state.params) // len(which):,} parameters, {last} steps", flush=True)

        def save(state, step, infos):
            nonlocal losses_TxN
            losses_TxN = np.concatenate([losses_TxN, infos["loss"].reshape(-1, len(which))])
            artifact.save_tree(checkpoint, (state, np.array(step), losses_TxN))

        state = run_steps(advance, over(state), done, last, chunk=configs[0].checkpoint_every, name="base", save=save)
        lost = {}
        for k, i in enumerate(which):
            params = jax.tree.map(lambda x, k=k: x[k], state.params) if len(which) > 1 else state.params
            if all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(params))):
                artifact.save_tree(folders[i] / "params.safetensors", params)
                artifact.write_json(folders[i] / "loss.json", losses_TxN[:, k].tolist())
            else:
                lost[i] = f"base: the parameters of seed {configs[i].seed} are not finite; lower pretrain.learning_rate"
        return lost

    c = setups[0].config
    wanted = []
    for setup, corpus in zip(setups, corpora, strict=True):
        described = {"model": c.model.model_dump(), "pretrain": setup.config.pretrain.model_dump(exclude={"checkpoint_every"})}
        wanted.append(Wanted(f"{c.model.width}x{c.model.layers}", described, (corpus,)))
    return artifact.build_together(c.runs, "base", wanted, make)


def alike_bases(setup: Setup) -> tuple:
    """What configurations must have in common for their bases to be trained in one program."""
    return setup.model, setup.source.frame, setup.config.pretrain.model_copy(update={"seed": 0})


def load_base(setup: Setup, base: Artifact) -> dict:
    """Parameters of a finished base."""
    begin, _ = pretraining(setup.model, setup.source, setup.config.pretrain)
    return jax.tree.map(jax.numpy.asarray, artifact.load_tree(base.path("params.safetensors"), jax.eval_shape(begin).params))


def build_gate(setup: Setup, base: Artifact) -> Artifact:
    """Persona inference of the base against the ideal observer; printed with every run."""
    config = setup.config

    def make(folder: Path):
        params = load_base(setup, base)
        predictor = NetworkPredictor(setup.model, params, setup.grammar)
        found = base_gate(setup.world, predictor, config.measure.trait, config.measure.gate_prompts, config.pretrain.seed + 1)
        key = jax.random.key(config.pretrain.seed + 1)  # not a training key
        excess = corpus_excess(setup.source, setup.model, params, 512, key)
        artifact.write_json(folder / "gate.json", {**asdict(found), "excess": asdict(excess)})

    measured = artifact.code("world", "corpus", "model", "measure")
    described = {"trait": config.measure.trait, "prompts": config.measure.gate_prompts, "code": measured}
    gate = artifact.build(config.runs, "gate", config.measure.trait, described, make, base)
    found, excess = load_gate(gate)
    print(f"  base loss {excess.network:.3f} nats/token, {excess.difference:.3f} ± {excess.error:.3f} above the exact entropy", flush=True)
    print("\n".join(found.lines), flush=True)
    return gate


def load_gate(gate: Artifact) -> tuple[BaseGate, Excess]:
    """The gate's two tables, and the pretraining loss above its floor."""
    stored = json.loads(gate.path("gate.json").read_text())
    found = BaseGate(tuple(PersonaRow(**r) for r in stored["personas"]), tuple(WordingRow(**r) for r in stored["wordings"]))
    return found, Excess(**stored["excess"])


def build_ensemble(setup: Setup, base: Artifact) -> Artifact:
    """All finetunings of an experiment: arms x settings x seeds in one program."""
    return build_ensembles([setup], base)[0]


def build_ensembles(setups: Sequence[Setup], base: Artifact) -> list[Artifact]:
    """The finetunings of several configurations on one base, all in one program; each is an artifact of its own, the same that it
    would be alone, to rounding. They agree on what `alike_ensembles` says. Adapters are stored effective (update = a @ b).
    """
    configs = [setup.config.finetune for setup in setups]
    crews = [plan_members(config) for config in configs]
    drawn = [member_data(s.world, s.grammar, s.config.finetune, crew) for s, crew in zip(setups, crews, strict=True)]

    def make(work: Path, folders: dict[int, Path]):
        which = list(folders)
        parts = [(configs[i], crews[i], drawn[i]) for i in which]
        count = sum(len(crew) for _, crew, _ in parts)
        if more := devices.spare(count):  # so that every device has as many; nobody keeps what they learn
            config, stand_in = configs[which[0]], crews[which[0]][:1] * more
            parts.append((config, stand_in, member_data(setups[which[0]].world, setups[which[0]].grammar, config, stand_in)))
        members, most = [member for _, crew, _ in parts for member in crew], max(max(config.rank) for config, *_ in parts)
        settings = [member_settings(config, crew, most) for config, crew, _ in parts]
        settings = devices.dealt(jax.tree.map(lambda *xs: jax.numpy.concatenate(xs), *settings))
        data = jax.tree.map(jax.numpy.asarray, every_step(together([data for *_, data in parts])))
        data = devices.shared(data)._replace(narrow=devices.dealt(data.narrow))
        params = devices.shared(load_base(setups[0], base))
        begin, advance = finetuning(setups[0].model, configs[which[0]], members)
        state, done, losses = devices.dealt(begin(params, settings)), 0, np.zeros((0, len(members)))
        checkpoint, last = work / artifact.CHECKPOINT, max(configs[i].steps for i in which)
        saved = artifact.load_checkpoint(checkpoint, (state, np.zeros((), int), artifact.Shape((-1, len(members)))))
        if saved is not None:
            state, done, losses = devices.dealt(saved[0]), int(saved[1]), saved[2]
            print(f"  ensemble: continuing from step {done}", flush=True)
        else:
            print(f"  ensemble: {count} members, {last} steps", flush=True)

        def of_each(leaf_M):
            """The part of each configuration: its place, its members."""
            return zip(which, np.split(leaf_M[:count], np.cumsum([len(crews[i]) for i in which])[:-1]), strict=True)

        def save(state: FinetuneState, step, infos):
            nonlocal losses
            losses = np.concatenate([losses, infos["data_nll"]])
            if any(step in configs[i].snapshot_steps for i in which):
                adapters = jax.device_get(effective_members(state, settings))
                for i, those in of_each(np.arange(count)):
                    if step in configs[i].snapshot_steps:
                        own = cut(jax.tree.map(lambda x, those=those: x[those], adapters), max(configs[i].rank))
                        artifact.save_tree(folders[i] / f"adapters-{step:06d}.safetensors", own)
            artifact.save_tree(checkpoint, (state, np.array(step), losses))

        fixed, stops = (params, settings, data), {s for i in which for s in configs[i].snapshot_steps}
        chunk = last if len(stops) >= CHECKPOINTS else -(-last // CHECKPOINTS)
        run_steps(advance, state, done, last, chunk=chunk, name="ensemble", save=save, fixed=fixed, stops=stops)
        for i, loss_MxS in of_each(losses.T):
            artifact.save_tree(folders[i] / "losses.safetensors", loss_MxS[:, : configs[i].steps].T)

    wanted = [Wanted(s.config.name, _described(s, data), (base,)) for s, data in zip(setups, drawn, strict=True)]
    return artifact.build_together(setups[0].config.runs, "ensemble", wanted, make)


def _described(setup: Setup, data: Data) -> dict:
    """What decides an ensemble: what is measured must be what was trained on, whatever code drew it."""
    config = setup.config.finetune
    described = config.model_dump(mode="json") | {"data": artifact.digest(data)}
    if config.file is not None:  # not where the rows lie: what they are, those held out included
        described["file"] = artifact.checksum(config.file)
    return described


def alike_ensembles(config: FinetuneConfig) -> tuple:
    """What configurations on one base must have in common for their ensembles to be trained in one program."""
    return config.batch, config.targets, config.norm


def load_adapters(setup: Setup, params: dict, ensemble: Artifact, step: int):
    """Effective adapters of all members at one snapshot."""
    config = setup.config.finetune
    members = plan_members(config)
    settings = member_settings(config, members)
    begin, _ = finetuning(setup.model, config, members)
    like = jax.eval_shape(lambda: effective_members(begin(params, settings), settings))
    return jax.tree.map(jax.numpy.asarray, artifact.load_tree(ensemble.path(f"adapters-{step:06d}.safetensors"), like))


def build_rows(setup: Setup, base: Artifact, ensemble: Artifact) -> Artifact:
    """Every measurement, as one tidy table, sampled dialogues, and the features if they are asked for."""

    def make(folder: Path):
        params = load_base(setup, base)
        adapters = {s: load_adapters(setup, params, ensemble, s) for s in setup.config.finetune.snapshot_steps}
        losses = artifact.load_tree(
            ensemble.path("losses.safetensors"), np.zeros((setup.config.finetune.steps, len(plan_members(setup.config.finetune))))
        )
        table, samples = measure_all(setup.config, setup.world, setup.grammar, setup.model, params, adapters, losses)
        if setup.config.measure.features:
            last = adapters[max(adapters)]
            more, features = feature_analysis(setup.config, setup.world, setup.grammar, setup.model, params, last, setup.source)
            table = pl.concat([table, to_table(more)])
            artifact.write_json(folder / "features.json", features)
        table = table.with_columns(run=pl.lit(ensemble.folder.name))
        artifact.write_table(folder / "rows.parquet", table)
        artifact.write_json(folder / "samples.json", samples)

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
        missing = [part for part, build in of.items() if not build().folder.exists()]
    shares = dealt(len(missing))
    if len(shares) > 1 and jax.devices(setup.config.device)[0].platform == "cpu":
        with workers(shares, _begin_costs, setup.config, base, ensemble) as pool:
            for done in as_completed([pool.submit(_build_cost, part) for part in missing]):
                done.result()
    return {part: build() for part, build in of.items()}


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
        artifact.write_table(folder / "rows.parquet", to_table(rows()).with_columns(run=pl.lit(ensemble.folder.name)))

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
        cost = pl.concat(tables) if tables else None
        write_page(folder, setup.config, setup.world, table, samples, *load_gate(gate), story, features, cost)

    asked = [c.model_dump(mode="json") for c in setup.config.contrasts]
    described = {"question": setup.config.question, "contrasts": asked, "code": artifact.code("report", "measure", "plots")}
    return artifact.build(setup.config.runs, "page", setup.config.name, described, make, gate, rows, *costs.values())
