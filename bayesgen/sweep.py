"""A grid of configurations: planned, computed side by side, gathered into one table.

    cells -> plan -> bases -> programs (ensembles, each with its cells' rows) -> table

Every cell's base, ensemble and rows are artifacts of its own, the ones that it finds when it is run by itself; so a grid that is
asked again, or grows, computes what is missing. Cells that share a base train in one program as far as memory and
`pipeline.alike_ensembles` allow. A job that fails or is killed costs its own cells; they are listed at the end with the reason.
"""

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from bayesgen import artifact, pipeline
from bayesgen.artifact import Artifact
from bayesgen.config import Config, to_config
from bayesgen.errors import UserError
from bayesgen.learn.data import member_data
from bayesgen.learn.finetune import finetuning, member_settings
from bayesgen.learn.plan import plan_members
from bayesgen.learn.pretrain import pretraining
from bayesgen.learn.tries import every_step
from bayesgen.processes import Job, alone, cause, cores, shares, side_by_side
from bayesgen.setup import Setup, asking, prepare, use_device

CELLS = 200  # most in a program: each has a lock, and files that a process may hold open are few
PROBED = 4  # members that time and memory of a program are told from
Raw = dict[str, Any]  # a resolved configuration, as it came from Hydra: plain, so that a process can be given it
Levels = Mapping[str, str]  # of a cell, on every axis


@dataclass(frozen=True)
class Plan:
    """What is there, and what is to be computed in which order. Cells by their places."""

    device: str
    platform: str
    devices: int
    members: list[int]  # trainings of each cell
    found: list[bool]  # cells whose rows are there
    base: list[str]  # folder of each cell's base
    bases: list[list[int]]  # missing ones: a cell of each, those that train together in one list
    programs: list[list[int]]  # cells that train together
    seconds: dict[str, float]  # expected, of one process that has the machine to itself: "base", "ensemble"
    memory: float  # bytes, of the largest program
    refused: dict[int, str]  # cells that no world can serve


def run_sweep(cells: Sequence[tuple[Levels, Raw | str]], runs: Path, jobs: int | None, dry_run: bool) -> dict[str, str]:
    """Compute what is missing of a grid and gather its table; returns the reason of every cell that failed.

    Args:
        cells: each cell's level on every axis, and its configuration, or why there is none.
        runs: the folder of artifacts.
        jobs: processes at a time, which share out the cores, or have an accelerator each. None: one a core, or one that has all
            accelerators to itself.
        dry_run: plan and list, nothing more.
    """
    names = [_name(levels) for levels, _ in cells]
    failed = {i: raw for i, (_, raw) in enumerate(cells) if isinstance(raw, str)}
    raws = {i: raw for i, (_, raw) in enumerate(cells) if not isinstance(raw, str)}
    for i, raw in raws.items():
        try:
            to_config(raw)
        except UserError as error:
            failed[i] = str(error)
    asked = {i: raw for i, raw in raws.items() if i not in failed}
    if asked:
        plan = alone(Job("plan", "bayesgen.sweep:make_plan", (asked, jobs)))
        failed |= plan.refused
        _say(plan, len(cells))
        if not dry_run:
            failed |= _compute(plan, asked, jobs)
    if dry_run:
        for i, name in enumerate(names):
            print(f"  {name}: {'refused: ' + failed[i] if i in failed else 'found' if plan.found[i] else 'missing'}", flush=True)
        return {names[i]: cause for i, cause in failed.items()}
    done = {i: raw for i, raw in asked.items() if i not in failed}
    if done:
        table = gather([(cells[i][0], raw) for i, raw in done.items()], len(cells), {names[i]: cause for i, cause in failed.items()}, runs)
        print(f"  {len(done)} of {len(cells)} cells: {table.path('rows.parquet')}", flush=True)
    return {names[i]: failed[i] for i in sorted(failed)}


def _name(levels: Levels) -> str:
    return ", ".join(f"{axis}={level}" for axis, level in levels.items()) or "the one cell"


def make_plan(raws: Mapping[int, Raw], jobs: int | None) -> Plan:
    """What is to be done for some cells. Looks at artifacts and devices, and times a few steps; trains nothing."""
    configs = {i: to_config(raw) for i, raw in raws.items()}
    device = use_device(next(iter(configs.values())))
    here = jax.devices(next(iter(configs.values())).device)
    setups, refused = _setups(configs)
    bases: dict[str, list[int]] = {}
    found, of_base, ensembles = {}, {}, {}
    members = {i: len(plan_members(setup.config.finetune)) for i, setup in setups.items()}
    with artifact.only_named():
        for i, setup in setups.items():
            base = pipeline.build_base(setup, pipeline.build_corpus(setup))
            ensembles[i] = pipeline.build_ensemble(setup, base)
            found[i] = pipeline.build_rows(setup, base, ensembles[i]).folder.exists()
            of_base[i] = base
            bases.setdefault(base.fingerprint, []).append(i)
    missing = [those[0] for those in bases.values() if not of_base[those[0]].folder.exists() and not all(found[i] for i in those)]
    alike: dict[tuple, list[int]] = {}
    for i in setups:
        if not found[i]:
            alike.setdefault((of_base[i].fingerprint, *pipeline.alike_ensembles(setups[i].config.finetune)), []).append(i)
    workers = jobs or (len(cores()) if here[0].platform == "cpu" else 1)
    seconds, memory, programs = {"base": 0.0, "ensemble": 0.0}, 0.0, []
    room = _memory(here[0]) / 2 / (workers if here[0].platform == "cpu" else 1)
    for those in alike.values():
        untrained = [i for i in those if not ensembles[i].folder.exists()]
        each, size = _probe(setups[untrained[0]]) if untrained else (0.0, 0.0)
        parts = _split(those, [members[i] for i in those], room / size if size else math.inf, workers)
        programs += parts
        seconds["ensemble"] += each * sum(members[i] * setups[i].config.finetune.steps for i in untrained)
        memory = max([memory, *(size * sum(members[i] for i in part) for part in parts)])
    for i in missing:
        seconds["base"] += _base_seconds(setups[i])
    return Plan(
        device,
        here[0].platform,
        len(here),
        [members.get(i, 0) for i in range(max(raws) + 1)],
        [found.get(i, False) for i in range(max(raws) + 1)],
        [str(of_base[i].folder) if i in of_base else "" for i in range(max(raws) + 1)],
        _base_programs({i: setups[i] for i in missing}, here[0]),
        programs,
        seconds,
        memory,
        refused,
    )


def _setups(configs: Mapping[int, Config]) -> tuple[dict[int, Setup], dict[int, str]]:
    """What every cell needs in memory; a world is built once. And the cells that their world cannot serve."""
    worlds: dict[str, Setup] = {}
    setups, refused = {}, {}
    for i, config in configs.items():
        key = json.dumps([part.model_dump(mode="json") for part in (config.world, config.model, config.pretrain)])
        try:
            setups[i] = asking(config, worlds[key]) if key in worlds else prepare(config)
            worlds.setdefault(key, setups[i])
        except UserError as error:
            refused[i] = str(error)
    return setups, refused


def _base_programs(setups: Mapping[int, Setup], device) -> list[list[int]]:
    """Missing bases, those of one shape together as far as an accelerator's memory goes; on a processor each by itself: there a
    batch of one base fills the cores, and several are slower together than side by side (`make bench`).
    """
    if device.platform == "cpu":
        return [[i] for i in setups]
    alike: dict[tuple, list[int]] = {}
    for i, setup in setups.items():
        alike.setdefault(pipeline.alike_bases(setup), []).append(i)
    out = []
    for those in alike.values():
        most = max(1, int(_memory(device) / 2 / _base_memory(setups[those[0]])))
        out += [those[k : k + most] for k in range(0, len(those), most)]
    return out


def _base_memory(setup: Setup) -> float:
    """Bytes that a base takes while it trains."""
    begin, advance = pretraining(setup.model, setup.source, setup.config.pretrain)
    used: Any = jax.jit(advance).lower(jax.eval_shape(begin), 0).compile().memory_analysis()
    return float(used.temp_size_in_bytes + used.argument_size_in_bytes + used.output_size_in_bytes)


def _split(cells: Sequence[int], members: Sequence[int], most: float, workers: int) -> list[list[int]]:
    """The fewest lists of neighbours with at most so many members each, but one for every process; all about as large."""
    count = max(math.ceil(sum(members) / most), math.ceil(len(cells) / CELLS), min(workers, len(cells)))
    ends = np.cumsum(members)
    part = np.minimum((ends - np.array(members) / 2) * count // ends[-1], count - 1)
    return [[c for c, p in zip(cells, part, strict=True) if p == k] for k in sorted(set(part.tolist()))]


def _probe(setup: Setup) -> tuple[float, float]:
    """Seconds of a step and bytes of memory, a member: of a few steps of a few members, on this device, from a base of zeros."""
    config = setup.config.finetune
    every = plan_members(config)
    members = every[:: math.ceil(len(every) / PROBED)]  # of all arms
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(_begin(setup)).params)
    data = jax.tree.map(jnp.asarray, every_step(member_data(setup.world, setup.grammar, config, members)))
    begin, advance = finetuning(setup.model, config, members)
    fixed = params, member_settings(config, members), data
    many = jax.jit(lambda state, fixed: jax.lax.scan(lambda s, i: advance(s, i, *fixed), state, jnp.arange(min(4, config.steps))))
    state = begin(*fixed[:2])
    compiled = many.lower(state, fixed).compile()
    jax.block_until_ready(compiled(state, fixed))
    began = time.monotonic()
    jax.block_until_ready(compiled(state, fixed))
    step = (time.monotonic() - began) / min(4, config.steps) / len(members)
    used: Any = compiled.memory_analysis()
    return step, (used.temp_size_in_bytes + used.argument_size_in_bytes + used.output_size_in_bytes) / len(members)


def _begin(setup: Setup):
    return pretraining(setup.model, setup.source, setup.config.pretrain)[0]


def _base_seconds(setup: Setup) -> float:
    """Seconds of a base, from a step of it."""
    begin, advance = pretraining(setup.model, setup.source, setup.config.pretrain)
    state, step = begin(), jax.jit(advance)
    jax.block_until_ready(step(state, 0))
    began = time.monotonic()
    jax.block_until_ready(step(state, 1))
    return (time.monotonic() - began) * setup.config.pretrain.steps


def _memory(device) -> float:
    """Bytes that a device has free."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))


def _say(plan: Plan, asked: int):
    """The plan, before it begins."""
    missing = sum(not f for i, f in enumerate(plan.found) if plan.members[i])
    print(f"  device: {plan.device}")
    print(f"  {asked} cells, {sum(plan.members):,} trainings: {sum(plan.found)} found, {missing} missing, {len(plan.refused)} refused")
    if plan.bases:
        print(f"  bases: {len(plan.bases)} to train, about {plan.seconds['base'] / 60:.0f} minutes")
    if plan.programs:
        sizes = [sum(plan.members[i] for i in part) for part in plan.programs]
        print(
            f"  programs: {len(sizes)} of up to {max(sizes)} trainings, about {plan.seconds['ensemble'] / 60:.1f} minutes of training and "
            f"{plan.memory / 2**30:.1f} GiB for the largest; measuring comes on top",
            flush=True,
        )


def _compute(plan: Plan, raws: Mapping[int, Raw], jobs: int | None) -> dict[int, str]:
    """Bases, then programs; returns the reasons of what failed, by cell."""
    failed: dict[int, str] = {}
    of = [Job(f"bases {k + 1}/{len(plan.bases)}", "bayesgen.sweep:make_bases", ([raws[i] for i in b], b)) for k, b in enumerate(plan.bases)]
    for job, found in side_by_side(of, shares(plan.platform, plan.devices, jobs, len(of))) if of else ():
        if isinstance(found, BaseException):
            print(f"{job.name}: FAILED: {cause(found)}", flush=True)
            for i in job.args[1]:
                if not Path(plan.base[i]).exists():
                    failed |= {k: cause(found) for k in raws if plan.base[k] == plan.base[i]}
    left = [[i for i in part if i not in failed] for part in plan.programs]
    parts = {f"program {k + 1}/{len(plan.programs)}": part for k, part in enumerate(left) if part}
    of = [Job(name, "bayesgen.sweep:make_cells", ({i: raws[i] for i in part},)) for name, part in parts.items()]
    for job, found in side_by_side(of, shares(plan.platform, plan.devices, jobs, len(of))) if of else ():
        if isinstance(found, BaseException):
            print(f"{job.name}: FAILED: {cause(found)}", flush=True)
            failed |= dict.fromkeys(parts[job.name], cause(found))
        else:
            failed |= found
    return failed


def make_bases(raws: Sequence[Raw], _: Sequence[int]):
    """Bases that train together, and their gates."""
    configs = {i: to_config(raw) for i, raw in enumerate(raws)}
    use_device(configs[0])
    setups = list(_setups(configs)[0].values())
    bases = pipeline.build_bases(setups, [pipeline.build_corpus(setup) for setup in setups])
    for setup, base in zip(setups, bases, strict=True):
        pipeline.build_gate(setup, base)


def make_cells(raws: Mapping[int, Raw]) -> dict[int, str]:
    """Ensembles and rows of cells that train together; returns why some have no rows."""
    configs = {i: to_config(raw) for i, raw in raws.items()}
    use_device(next(iter(configs.values())))
    setups, failed = _setups(configs)
    first = next(iter(setups.values()))
    base = pipeline.build_base(first, pipeline.build_corpus(first))
    ensembles = dict(zip(setups, pipeline.build_ensembles(list(setups.values()), base), strict=True))
    began, said = time.monotonic(), time.monotonic()
    for n, (i, ensemble) in enumerate(ensembles.items(), start=1):
        try:
            pipeline.build_rows(setups[i], base, ensemble)
        except Exception as error:
            failed[i] = cause(error)
        if (now := time.monotonic()) - said > 5 or n == len(ensembles):
            print(f"  rows of {n}/{len(ensembles)} cells, {(now - began) / n * (len(ensembles) - n):.0f} s left", flush=True)
            said = now
    return failed


def gather(cells: Sequence[tuple[Levels, Raw]], expected: int, failed: Mapping[str, str], runs: Path) -> Artifact:
    """One table of the rows of all cells, a column for every axis; beside it which cells there are, and which failed and why.

    Nothing is filled in for those.
    """
    rows = alone(Job("table", "bayesgen.sweep:find_rows", ([raw for _, raw in cells],)))

    def make(folder: Path):
        tables = [
            pl.read_parquet(found.path("rows.parquet")).with_columns(cell=pl.lit(k), **{axis: pl.lit(v) for axis, v in levels.items()})
            for k, ((levels, _), found) in enumerate(zip(cells, rows, strict=True))
        ]
        table = pl.concat(tables)
        numbers = [axis for axis in cells[0][0] if table[axis].cast(pl.Float64, strict=False).null_count() == 0]
        artifact.write_table(folder / "rows.parquet", table.with_columns(pl.col(numbers).cast(pl.Float64)))
        those = [{"levels": levels, "rows": found.folder.name} for (levels, _), found in zip(cells, rows, strict=True)]
        artifact.write_json(folder / "cells.json", {"expected": expected, "found": those, "failed": failed})

    described = {"levels": [dict(levels) for levels, _ in cells], "expected": expected, "failed": dict(failed)}
    names = {found.folder.name.rpartition("-")[0] for found in rows}
    return artifact.build(runs, "sweep", "-".join(sorted(names)), described, make, *rows)


def find_rows(raws: Iterable[Raw]) -> list[Artifact]:
    """The finished rows of some cells."""
    setups, _ = _setups(dict(enumerate(to_config(raw) for raw in raws)))
    with artifact.only_named():
        out = []
        for setup in setups.values():
            base = pipeline.build_base(setup, pipeline.build_corpus(setup))
            out.append(pipeline.build_rows(setup, base, pipeline.build_ensemble(setup, base)))
    return out
