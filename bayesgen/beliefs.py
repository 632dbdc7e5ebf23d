"""From sweeps, or any table of runs, to beliefs about why finetuning goes broad.

    tables -> runs -> (fit, foresight, evidence of each hypothesis) -> (could we tell? tables made by each) -> page

Everything is fitted on the processor, a hypothesis a process: so small a model is quicker there than on any accelerator.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import polars as pl

from bayesgen import artifact, files
from bayesgen.artifact import Artifact
from bayesgen.errors import UserError
from bayesgen.infer.cells import Table, collinearity, read_runs, to_cells, with_defaults
from bayesgen.infer.gather import LEARNED, by_base, complete, distinct, gather, named
from bayesgen.infer.hypotheses import HYPOTHESES
from bayesgen.infer.settings import InferConfig
from bayesgen.infer.weigh import trial, weigh
from bayesgen.processes import Job, cause, shares, side_by_side
from bayesgen.report.beliefs import write_beliefs
from bayesgen.report.verdict import NULL

LEGIBLE = 0.1  # breadth between floor and ceiling that there must be, to tell how far between them a cell lies
RUNS, BELIEF, DRAWS, TRIAL = "runs.parquet", "belief.json", "draws.safetensors", "trial.json"


def believe(config: InferConfig, runs: Path, jobs: int | None) -> dict[str, str]:
    """Fit and compare all hypotheses that the tables can say something of; returns the reasons of what failed."""
    jax.config.update("jax_platforms", "cpu")
    source = build_runs(config, runs)
    table = to_cells(pl.read_parquet(source.path(RUNS)), ", ".join(map(str, config.table)) or f"{runs}/sweep")
    say(table)
    names = [name for name, why in table.fitted().items() if why is None]
    failed: dict[str, str] = {}
    of = [Job(name, "bayesgen.beliefs:weigh_one", (config.model_dump(), runs, source, name)) for name in names]
    came, tried = dict(each(of, jobs, failed)), {}
    if config.simulations or config.calibrations:
        of = [Job(name, "bayesgen.beliefs:try_one", (config.model_dump(), runs, source, name, came)) for name in came]
        tried = dict(each(of, jobs, failed))
    if NULL in failed:
        return failed  # the others are there, but there is nothing to hold them against
    page = build_page(table, source, came, tried, failed, runs)
    print(f"  {page.path('report.html')}", flush=True)
    return failed


def build_page(
    table: Table, source: Artifact, came: dict[str, Artifact], tried: dict[str, Artifact], failed: dict[str, str], runs: Path
) -> Artifact:
    """The page of beliefs; its first words are printed."""
    in_order = [name for name in HYPOTHESES if name in came]

    def make(folder: Path):
        beliefs = {name: json.loads(came[name].path(BELIEF).read_text()) for name in in_order}
        trials = {name: json.loads(tried[name].path(TRIAL).read_text()) for name in in_order if name in tried}
        write_beliefs(folder, table, beliefs, trials, failed)

    parents = [source, *(came[name] for name in in_order), *(tried[name] for name in in_order if name in tried)]
    described = {"failed": failed, "code": artifact.code("infer", "report", "plots")}
    page = artifact.build(runs, "page", "beliefs", described, make, *parents)
    print("\n".join(f"  {line}" for line in page.path("beliefs.md").read_text().partition("\n")[0].split(". ")), flush=True)
    return page


def each(of: Sequence[Job], jobs: int | None, failed: dict[str, str]) -> Iterator[tuple[str, Artifact]]:
    """What jobs return, by name, as they end, on the processor; the reasons of those that fail are said and kept."""
    for job, found in side_by_side(of, shares("cpu", 1, jobs, len(of))) if of else ():
        if isinstance(found, BaseException):
            failed[job.name] = cause(found)
            print(f"{job.name}: FAILED: {failed[job.name]}", flush=True)
        else:
            yield job.name, found


def say(table: Table):
    """What there is to go by, and what not."""
    print(
        f"  {len(table.names)} cells of {table.seeds} seeds or more, {len(table.networks)} bases, {len(table.experiments)} experiments",
        flush=True,
    )
    for name, why in table.fitted().items():
        if why:
            print(f"  {name} is not fitted: {why}", flush=True)
    for a, b, r in collinearity(table)[:5]:
        if abs(r) > 0.9:
            print(f"  {a} and {b} go together (correlation {r:.2f}): what the one explains, the other does", flush=True)


def build_runs(config: InferConfig, runs: Path) -> Artifact:
    """One table of runs of all tables and sweeps."""
    given = list(config.table) or sorted(p.parent for p in (runs / "sweep").glob("*/rows.parquet"))
    if not given:
        raise UserError(
            f"infer.table is null, and there is no sweep in {runs}/sweep; run one, such as +exp=birds +sweep=prior, or name a table"
        )
    for path in given:
        if not path.exists():
            raise UserError(f"infer.table: there is no {path}")

    def make(folder: Path):
        costs = _costs_of(given)
        kept = pl.concat([_runs_of(path, config, costs) for path in given], how="diagonal_relaxed")
        kept, missing = complete(distinct(kept))
        for column, count in missing.items():
            print(f"  column '{column}' is left out: {count} runs have no value in it", flush=True)
        files.write_table(folder / RUNS, kept)

    content = [files.checksum(p / "rows.parquet" if p.is_dir() else p) for p in given]
    costs = [files.checksum(p / "costs.parquet") for p in given if (p / "costs.parquet").exists()]
    asked = config.model_dump(include={"admitted", "learned", "contexts"})
    described = {"tables": content, "costs": costs, **asked, "code": artifact.code("infer")}
    return artifact.build(runs, "runs", "runs", described, make)


def _found(path: Path) -> list[dict[str, Any]]:
    return json.loads((path / "cells.json").read_text())["found"]


def _bases(path: Path) -> dict[int, str]:
    return {k: cell["base"] for k, cell in enumerate(_found(path))}


def _costs_of(given: Sequence[Path]) -> pl.DataFrame | None:
    """What was measured of any base counts for all sweeps on it."""
    of = [named(pl.read_parquet(p / "costs.parquet"), _bases(p)) for p in given if (p / "costs.parquet").exists()]
    return by_base(pl.concat(of, how="diagonal_relaxed")) if of else None


def _runs_of(path: Path, config: InferConfig, costs: pl.DataFrame | None) -> pl.DataFrame:
    """Runs of a sweep's folder, or of a table of them; which cells of a sweep are left out, and why, is said."""
    if not path.is_dir():
        return with_defaults(read_runs(path))  # before tables are put together: what one lacks is not lost to the others
    found = _found(path)
    out = gather(pl.read_parquet(path / "rows.parquet"), _bases(path), costs, config.contexts)
    out = out.with_columns(network=pl.col("base").str.replace("-[^-]*$", ""))  # a base is called by its network's size first
    failing = sorted({cell["base"] for cell in found if not cell["passed"]})
    out = out.with_columns(pl.col("learned").mean().over("experiment", "base", "cell"))
    reasons = {  # a value that is not known is no reason
        f"their base fails its gate ({', '.join(failing)})": pl.col("base").is_in(failing) & config.admitted,
        f"they learned less than {config.learned:g} of their task": pl.col("learned") < config.learned,
        f"their narrow or broad solution learned less than {config.learned:g} of it": pl.min_horizontal(LEARNED) < config.learned,
        f"the broad solution is hardly broader than the narrow one (by less than {LEGIBLE:g})": pl.col("ceiling") - pl.col("floor")
        < LEGIBLE,
    }
    for why, which in reasons.items():
        out, bad = out.filter(~which.fill_null(False)), out.filter(which)
        if len(bad):
            print(f"  {path.name}: {bad.n_unique(['base', 'cell'])} cells left out: {why}", flush=True)
    return out.drop("learned", *LEARNED)


def weigh_one(raw: dict[str, Any], runs: Path, source: Artifact, name: str) -> Artifact:
    """One hypothesis on the table."""
    config = begin(raw, runs)

    def make(folder: Path):
        found, draws = weigh(name, _table(source), config.seed)
        files.write_json(folder / BELIEF, found)
        files.save_arrays(folder / DRAWS, draws)

    described = {"hypothesis": name, "seed": config.seed, "code": artifact.code("infer")}
    found = artifact.build(runs, "belief", of_hypothesis(name), described, make, source)
    gates = json.loads(found.path(BELIEF).read_text())["fit"]
    print(f"  R-hat {gates['r_hat']:.3f}, {gates['divergences']} divergences ({found.seconds:.0f} s)", flush=True)
    return found


def try_one(raw: dict[str, Any], runs: Path, source: Artifact, name: str, beliefs: dict[str, Artifact]) -> Artifact:
    """One hypothesis on tables that each might have made."""
    config, in_order = begin(raw, runs), [k for k in HYPOTHESES if k in beliefs]

    def make(folder: Path):
        found = {k: files.load_arrays(beliefs[k].path(DRAWS)) for k in in_order}
        files.write_json(folder / TRIAL, trial(name, found, _table(source), config.seed + 1, config.simulations, config.calibrations))

    described = {"hypothesis": name, **config.model_dump(include={"seed", "simulations", "calibrations"})}
    found = artifact.build(runs, "trial", of_hypothesis(name), described, make, *(beliefs[k] for k in in_order))
    print(
        f"  on {config.simulations} tables by each of {len(in_order)}, {config.calibrations} more for calibration ({found.seconds:.0f} s)",
        flush=True,
    )
    return found


def begin(raw: dict[str, Any], runs: Path) -> InferConfig:
    """Of a process: on the processor, compiled programs kept with the runs."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str((runs / "compiled").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    return InferConfig(**raw)


def _table(source: Artifact) -> Table:
    return to_cells(pl.read_parquet(source.path(RUNS)))


def of_hypothesis(name: str) -> str:
    """The name of its artifacts."""
    return name.replace(" ", "-")
