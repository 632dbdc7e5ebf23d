"""How broad will these data go? Said before anybody trains on them, then tried.

    tables -> runs -> fit of each hypothesis
    experiment -> base, narrow and broad solutions ----> prediction (dated, frozen) -> training on the data -> score -> page

Nothing of the training on the data as they are is known to the prediction: hypotheses go by the base, the data, and the narrow and broad
solutions. What the table holds of the very same settings is taken out before.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl

from bayesgen import artifact, files, pipeline, training
from bayesgen.artifact import Artifact
from bayesgen.beliefs import BELIEF, RUNS, begin, build_runs, each, of_hypothesis
from bayesgen.config import Config, to_config
from bayesgen.errors import UserError
from bayesgen.infer import foresight
from bayesgen.infer.cells import to_cells
from bayesgen.infer.fit import Fit
from bayesgen.infer.gather import BROAD, FREE, LEARNED, NARROW, SETTINGS, solutions, spelt, trained
from bayesgen.infer.hypotheses import HYPOTHESES
from bayesgen.infer.settings import InferConfig
from bayesgen.learn.plan import ARMS_WITH, EACH, FinetuneConfig
from bayesgen.processes import Job, alone
from bayesgen.report.prediction import write_prediction
from bayesgen.report.verdict import NULL, judge
from bayesgen.setup import prepare, use_device

ASKED, DRAWS, SAID, PREDICTION = "asked.parquet", "draws.safetensors", "said.json", "prediction.json"
FEWEST = 8  # cells that a table must have at least, to predict from


def foresee(raw: dict[str, Any], infer: InferConfig, runs: Path, jobs: int | None) -> dict[str, str]:
    """Predict the breadth of every setting of an experiment, then (unless `infer.score` is false) train and score; returns the reasons of
    what failed.
    """
    jax.config.update("jax_platforms", "cpu")  # of this process: an accelerator is for those that train
    config = to_config(raw)
    if config.finetune.value == EACH:
        raise UserError("goal=predict: finetune.value is 'each'; breadth is told of one value")
    _only(config, NARROW, BROAD)  # what cannot be trained is said before anything is
    source = build_runs(infer, runs)
    _enough(pl.read_parquet(source.path(RUNS)))
    asked = alone(Job("narrow and broad", "bayesgen.foresight:build_asked", (raw, infer.learned)))
    known, dropped = without(source, asked, runs)
    both = foresight.with_asked(pl.read_parquet(known.path(RUNS)), pl.read_parquet(asked.path(ASKED)))
    names = [name for name, why in both.table.fitted().items() if why is None]
    for name, why in both.table.fitted().items():
        if why:
            print(f"  {name} is not fitted: {why}", flush=True)
    failed: dict[str, str] = {}
    raw_infer = infer.model_dump()
    of = [Job(name, "bayesgen.beliefs:weigh_one", (raw_infer, runs, known, name)) for name in names]
    weighed = dict(each(of, jobs, failed))
    of = [Job(name, "bayesgen.foresight:say_one", (raw_infer, runs, known, asked, name)) for name in weighed]
    said = dict(each(of, jobs, failed))
    if NULL not in said:
        return failed  # what hypotheses said is kept, but there is nothing to hold it against
    prediction = build_prediction(config, known, asked, {k: weighed[k] for k in names if k in said}, said, dropped, runs)
    frozen = json.loads(prediction.path(PREDICTION).read_text())
    print("\n".join(f"  {line}" for line in frozen["words"]), flush=True)
    came = None
    if infer.score:
        came = alone(Job("as they are", "bayesgen.foresight:build_free", (raw,)))
    page = build_page(config, prediction, known, asked, said, came, runs)
    print(f"  {page.path('report.html')}", flush=True)
    return failed


def build_asked(raw: dict[str, Any], learned: float) -> Artifact:
    """What is known of an experiment's settings before: a line each, by a name. Those whose narrow or broad solution learned less of its
    task are left out.
    """
    config = _only(to_config(raw), NARROW, BROAD)
    base, rows = _measured(config)

    def make(folder: Path):
        found = solutions(pl.read_parquet(rows.path("rows.parquet")).with_columns(cell=pl.lit(0)), {0: base.folder.name})
        found = solved(found, learned)
        several = [k for k in SETTINGS if found[k].n_unique() > 1]
        files.write_table(folder / ASKED, found.with_columns(cell=spelt(pl.lit(f"{config.name} (asked)"), several)))

    return artifact.build(config.runs, "asked", config.name, {"learned": learned, "code": artifact.code("infer")}, make, base, rows)


def solved(lines: pl.DataFrame, learned: float) -> pl.DataFrame:
    """Without the settings whose narrow or broad solution is none, having learned less than so much of its task; those are counted aloud.
    One whose share is not known stays.
    """
    poor = (pl.min_horizontal(LEARNED) < learned).fill_null(False)
    if bad := len(lines.filter(poor)):
        said = f"{bad} of {len(lines)} settings left out: their narrow or broad solution learned less than {learned:g} of its task"
        if bad == len(lines):
            raise UserError(f"goal=predict: {said}")
        print(f"  {said}", flush=True)
    return lines.filter(~poor).drop(LEARNED)


def build_free(raw: dict[str, Any]) -> Artifact:
    """Rows of the trainings on the data as they are."""
    return _measured(_only(to_config(raw), FREE))[1]


def _only(config: Config, *arms: str) -> Config:
    """The same experiment with these arms alone, and what only others have as if nobody had asked for it."""
    fields = FinetuneConfig.model_fields
    others = ["gate", *(k for k, those in ARMS_WITH.items() if not set(those) & set(arms))]
    blank = {k: getattr(config.finetune, k)[:1] if fields[k].is_required() else fields[k].default for k in others}
    finetune = FinetuneConfig(**{**config.finetune.model_dump(), **blank, "arms": arms})
    measure = config.measure.model_copy(update={"features": None, "cost": None, "samples": 0})
    return config.model_copy(update={"finetune": finetune, "measure": measure, "contrasts": ()})


def _measured(config: Config) -> tuple[Artifact, Artifact]:
    use_device(config)
    setup = prepare(config)
    base = training.build_base(setup, pipeline.build_corpus(setup))
    pipeline.say_gate(pipeline.build_gate(setup, base))
    return base, pipeline.build_rows(setup, base, training.build_ensemble(setup, base))


def without(source: Artifact, asked: Artifact, runs: Path) -> tuple[Artifact, int]:
    """The table of runs without those of the very same settings on the same base, as far as the table tells; and how many these were."""
    table, lines = pl.read_parquet(source.path(RUNS)), pl.read_parquet(asked.path(ASKED))
    same = [c for c in ("experiment", "base", *SETTINGS, "ordinary") if c in table.columns]
    left = table.join(lines.select(pl.col(c).cast(table[c].dtype) for c in same), on=same, how="anti", nulls_equal=True)
    _enough(left)
    if len(left) == len(table):
        return source, 0

    def make(folder: Path):
        files.write_table(folder / RUNS, left)

    return artifact.build(runs, "runs", "runs", {"left out": "the settings asked about"}, make, source, asked), len(table) - len(left)


def _enough(table: pl.DataFrame):
    cells = table.n_unique(["experiment", "base", "cell"])
    if cells < FEWEST:
        raise UserError(f"goal=predict: {cells} cells to predict from, those asked about left out; expected {FEWEST} or more")


def say_one(raw: dict[str, Any], runs: Path, known: Artifact, asked: Artifact, name: str) -> Artifact:
    """What one hypothesis says; its draws are kept, to be scored later."""
    config = begin(raw, runs)

    def make(folder: Path):
        both = foresight.with_asked(pl.read_parquet(known.path(RUNS)), pl.read_parquet(asked.path(ASKED)))
        found, said = foresight.say(name, both, jax.random.key(config.seed))
        files.save_arrays(folder / DRAWS, found.draws)
        files.save_arrays(folder / "said.safetensors", {"mean": said.mean_SxC, "variance": said.variance_SxC})
        files.write_json(folder / SAID, {"why": {k: x.tolist() for k, x in said.why.items()}, "failures": found.failures})

    described = {"hypothesis": name, "seed": config.seed, "code": artifact.code("infer")}
    return artifact.build(runs, "said", of_hypothesis(name), described, make, known, asked)


def load_said(said: Mapping[str, Artifact]) -> dict[str, foresight.Said]:
    """What hypotheses said."""
    out = {}
    for name, a in said.items():
        arrays = files.load_arrays(a.path("said.safetensors"))
        why = {k: np.array(x) for k, x in json.loads(a.path(SAID).read_text())["why"].items()}
        out[name] = foresight.Said(arrays["mean"], arrays["variance"], why)
    return out


def build_prediction(
    config: Config,
    known: Artifact,
    asked: Artifact,
    weighed: Mapping[str, Artifact],
    said: Mapping[str, Artifact],
    dropped: int,
    runs: Path,
) -> Artifact:
    """All that is said, by the hypotheses and by their mixture; the day it was, and whether anybody could have known better."""

    def make(folder: Path):
        table = to_cells(pl.read_parquet(known.path(RUNS)))
        beliefs = {name: json.loads(a.path(BELIEF).read_text()) for name, a in weighed.items()}
        verdict = judge(beliefs, {}, table.breadth_C.tolist(), table.names, table.networks)
        weights = {s.name: s.weight for s in verdict.standings}
        of, lines = load_said(said), pl.read_parquet(asked.path(ASKED))
        hypotheses = {
            name: {
                "title": HYPOTHESES[name].title,
                "weight": weights[name],
                **foresight.intervals({name: s}, {name: 1.0}),
                "why": {k: x.tolist() for k, x in s.why.items()},
                "failures": json.loads(said[name].path(SAID).read_text())["failures"],
            }
            for name, s in of.items()
        }
        parts = foresight.why(of, weights)
        mixture = {**foresight.intervals(of, weights), "why": parts, "shares": foresight.shares(parts)}
        seen = {"cells": len(table.names), "bases": len(table.networks), "experiments": table.experiments}
        out = {
            "experiment": config.name,
            "question": config.question,
            "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "blind": dropped == 0 and not _trained(config),
            "table": seen,
            "verdict": verdict.words[0],
            "unit": verdict.unit,
            "cells": lines["cell"].to_list(),
            "floor": lines["floor"].to_list(),
            "ceiling": lines["ceiling"].to_list(),
            "hypotheses": hypotheses,
            "mixture": mixture,
        }
        files.write_json(folder / PREDICTION, {**out, "words": words(out)})

    described = {"experiment": config.name, "code": artifact.code("infer")}
    return artifact.build(runs, "prediction", config.name, described, make, known, asked, *weighed.values(), *said.values())


def _trained(config: Config) -> bool:
    """Whether trainings on the data as they are lie there, under some of the settings asked about, by themselves or among others."""
    own = _only(config, FREE)
    setup = prepare(own)
    with artifact.only_named():
        base = training.build_base(setup, pipeline.build_corpus(setup))
    asked = json.loads(json.dumps(own.finetune.model_dump(mode="json")))
    same = set(asked) - {"arms", "control", "gate", "probes", "seeds", "snapshots", *ARMS_WITH, *SETTINGS}
    for path in (config.runs / "ensemble").glob("*/manifest.json"):
        found = json.loads(path.read_text())
        its = found["config"]
        alike = FREE in its["arms"] and all(its.get(k) == asked[k] for k in same) and all(set(its[k]) & set(asked[k]) for k in SETTINGS)
        if alike and base.fingerprint in found["parents"]:
            return True
    return False


def words(of: Mapping[str, Any]) -> list[str]:
    """The prediction in plain words."""
    m, n = of["mixture"], len(of["cells"])
    out = [f"{of['made']}, before training on these data." if of["blind"] else f"{of['made']}. Trainings on these data were there already."]
    for c in range(min(n, 6)):
        out.append(f"{of['cells'][c]}: {m['middle'][c]:.2f} broad [{m['low'][c]:.2f}, {m['high'][c]:.2f}]")
    if n > 6:
        out.append(f"and {n - 6} settings more")
    why = sorted(m["why"].items(), key=lambda x: -float(np.abs(x[1]).mean()))
    said = [f"{k} {np.mean(x):+.2f} nats ({m['shares'][k]:.0%})" for k, x in why if m["shares"][k] >= 0.005]
    return [*out, f"why, beside the average cell: {', '.join(said) or 'no reason to expect other'}"]


def build_page(
    config: Config, prediction: Artifact, known: Artifact, asked: Artifact, said: Mapping[str, Artifact], came: Artifact | None, runs: Path
) -> Artifact:
    """The page, with what came of it if it was tried."""

    def make(folder: Path):
        frozen = json.loads(prediction.path(PREDICTION).read_text())
        write_prediction(folder, frozen, outcome(frozen, known, asked, said, came) if came else None)

    described = {"experiment": config.name, "code": artifact.code("infer", "report", "plots")}
    parents = [prediction, *([came] if came else [])]
    return artifact.build(runs, "page", f"prediction-{config.name}", described, make, *parents)


def outcome(frozen: Mapping[str, Any], known: Artifact, asked: Artifact, said: Mapping[str, Artifact], came: Artifact) -> dict[str, Any]:
    """What was measured, and how every hypothesis and the mixture did. Fewer than two trainings that converged are an error."""
    lines, table = pl.read_parquet(asked.path(ASKED)), pl.read_parquet(known.path(RUNS))
    free = trained(pl.read_parquet(came.path("rows.parquet")).with_columns(cell=pl.lit(0)), {0: lines["base"][0]})
    its = [*SETTINGS, "context"]
    runs = lines.join(free.select(*its, "seed", "breadth"), on=its, nulls_equal=True, maintain_order="left")
    seeds = dict(runs.group_by("cell").len().iter_rows())
    for cell in lines["cell"]:
        if seeds.get(cell, 0) < 2:
            raise UserError(f"{cell}: {seeds.get(cell, 0)} of its trainings converged; two or more say how broad it goes")
    both = foresight.with_runs(table, runs, foresight.with_asked(table, lines))
    fits = {k: Fit(files.load_arrays(a.path(DRAWS)), 1.0, 0.0, 0) for k, a in said.items()}
    scores = foresight.log_scores(fits, both)
    weights = {k: h["weight"] for k, h in frozen["hypotheses"].items()}
    breadth = [float(both.table.breadth_C[c]) for c in both.out]
    found = {k: foresight.score(s, frozen["hypotheses"][k], breadth)._asdict() for k, s in scores.items()}
    mixture = foresight.score(foresight.mixed(scores, weights), frozen["mixture"], breadth)._asdict()
    return {"breadth": breadth, "seeds": min(seeds.values()), "scores": found, "mixture": mixture}
