"""A grid of configurations: planned, computed side by side, gathered into one table.

    cells -> plan -> bases -> programs (ensembles, each with its cells' rows) -> table

Every cell's base, ensemble and rows are artifacts of its own, the ones that it finds when it is run by itself; so a grid that is
asked again, or grows, computes what is missing. Cells that share a base train in one program as far as memory and
`pipeline.alike_ensembles` allow. A job that fails or is killed costs its own cells; they are listed at the end with the reason.
"""

import json
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from bayesgen import artifact, files, pipeline, training
from bayesgen.artifact import Artifact
from bayesgen.config import to_config
from bayesgen.errors import UserError
from bayesgen.measure.rows import SCHEMA, diverged
from bayesgen.planning import Plan, Raw, prepare_all
from bayesgen.processes import Job, alone, cause, shares, side_by_side
from bayesgen.report.study import Cell, check_study, write_study
from bayesgen.setup import use_device

Levels = Mapping[str, str]  # of a cell, on every axis
Found = tuple[Artifact, Artifact, Artifact, dict[str, Artifact]]  # rows, base, its gate, and the parts of the costs
Kept = tuple[Levels, Artifact, Artifact, Artifact, dict[str, Artifact]]
DAMAGED = "its rows are damaged, or gone; asked again they are made anew"


def run_sweep(cells: Sequence[tuple[Levels, Raw | str]], runs: Path, jobs: int | None, dry_run: bool) -> dict[str, str]:
    """Compute what is missing of a grid and gather its table; returns the reason of every cell that failed.

    Args:
        cells: each cell's level on every axis, and its configuration, or why there is none.
        runs: the folder of artifacts.
        jobs: processes at a time, which share out the cores, or have an accelerator each. None: one a core, or one that has all
            accelerators to itself.
        dry_run: plan and list, nothing more.
    """
    for axis in cells[0][0]:
        if axis in (*SCHEMA, "cell", "part"):
            raise UserError(f"sweep.{axis}: the table of rows has a column of that name; call the axis something else")
    names = [_name(levels) for levels, _ in cells]
    failed = {i: raw for i, (_, raw) in enumerate(cells) if isinstance(raw, str)}
    raws = {i: raw for i, (_, raw) in enumerate(cells) if not isinstance(raw, str)}
    axes = {axis: list(dict.fromkeys(levels[axis] for levels, _ in cells)) for axis in cells[0][0]}
    for i, raw in raws.items():
        try:
            config = to_config(raw)
        except UserError as error:
            failed[i] = str(error)
            continue
        if config.study:
            check_study(config.study, axes)
    asked = {i: raw for i, raw in raws.items() if i not in failed}
    found: set[int] = set()
    if asked:
        plan = alone(Job("plan", "bayesgen.planning:make_plan", (asked, jobs)))
        plan.say(len(failed))
        found, failed = plan.found, failed | plan.refused
    if dry_run:
        for i, name in enumerate(names):
            print(f"  {name}: {'refused: ' + failed[i] if i in failed else 'found' if i in found else 'missing'}", flush=True)
    elif asked:
        came, died = _compute(plan, asked, jobs)
        failed |= came
        left = {i: raw for i, raw in asked.items() if i not in failed}
        of = alone(Job("table", "bayesgen.sweep:find_cells", (left,))) if left else {}
        failed |= {i: died.get(i, DAMAGED) for i in left if i not in of}  # whoever was done before is not lost
        kept = [(cells[i][0], *those) for i, those in of.items()]
        if kept:
            table = gather(kept, len(cells), {names[i]: failed[i] for i in sorted(failed)}, runs)
            print(f"  {len(kept)} of {len(cells)} cells: {table.path('rows.parquet')}", flush=True)
            whole, gates = [(cells[i][0], raws[i]) for i in of], [gate for _, _, gate, _ in of.values()]
            if whole[0][1].get("study"):
                print(f"  page: {alone(Job('page', 'bayesgen.sweep:make_page', (whole, gates, table)))}", flush=True)
    return {names[i]: failed[i] for i in sorted(failed)}


def _name(levels: Levels) -> str:
    return ", ".join(f"{axis}={level}" for axis, level in levels.items()) or "the one cell"


def _compute(plan: Plan, raws: Mapping[int, Raw], jobs: int | None) -> tuple[dict[int, str], dict[int, str]]:
    """Bases, then programs; returns the reasons of what failed, by cell, and of what a job that died may have left undone."""
    failed, died = {}, {}
    parts = {f"bases {k}/{len(plan.bases)}": part for k, part in enumerate(plan.bases, start=1)}
    for part, _, why in _each(plan, "make_bases", parts, raws, jobs):
        for i in part:
            if why and not plan.base[i].exists():
                failed |= {k: why for k in raws if plan.base.get(k) == plan.base[i]}
    left = [[i for i in part if i not in failed] for part in plan.programs]
    parts = {f"program {k}/{len(plan.programs)}": part for k, part in enumerate(left, start=1) if part}
    for part, found, why in _each(plan, "make_cells", parts, raws, jobs):
        if why:
            died |= dict.fromkeys(part, why)
        else:
            failed |= found
    return failed, died


def _each(
    plan: Plan, call: str, parts: Mapping[str, list[int]], raws: Mapping[int, Raw], jobs: int | None
) -> Iterator[tuple[list[int], Any, str | None]]:
    """Cells of each part, what a job on them returned, and why not, as they end."""
    if not parts:
        return
    of = [Job(name, f"bayesgen.sweep:{call}", ({i: raws[i] for i in part},)) for name, part in parts.items()]
    for job, found in side_by_side(of, shares(plan.platform, plan.devices, jobs, len(of))):
        why = cause(found) if isinstance(found, BaseException) else None
        if why:
            print(f"{job.name}: FAILED: {why}", flush=True)
        yield parts[job.name], found, why


def make_bases(raws: Mapping[int, Raw]):
    """Bases that train together."""
    configs = {i: to_config(raw) for i, raw in raws.items()}
    use_device(next(iter(configs.values())))
    setups = list(prepare_all(configs)[0].values())
    training.build_bases(setups, [pipeline.build_corpus(setup) for setup in setups])


def make_cells(raws: Mapping[int, Raw]) -> dict[int, str]:
    """The gate of a base, and ensembles, rows and costs of the cells that train together on it; returns why some came to nothing."""
    configs = {i: to_config(raw) for i, raw in raws.items()}
    use_device(next(iter(configs.values())))
    setups, failed = prepare_all(configs)
    first = next(iter(setups.values()))
    base = training.build_base(first, pipeline.build_corpus(first))
    for gate in {gate.folder: gate for gate in (pipeline.build_gate(setup, base) for setup in setups.values())}.values():
        pipeline.say_gate(gate)
    try:
        training.build_ensembles(list(setups.values()), base)
    except UserError as error:  # of some whose members all diverged; the others are there
        failed |= {i: cause(error) for i, setup in setups.items() if not _trained(setup, base)}
    began, said = time.monotonic(), time.monotonic()
    left = [i for i in setups if i not in failed]
    for n, i in enumerate(left, start=1):
        try:
            ensemble = training.build_ensemble(setups[i], base)
            pipeline.build_rows(setups[i], base, ensemble)
            if setups[i].config.measure.cost:
                pipeline.build_costs(setups[i], base, ensemble)
        except Exception as error:
            if setups[i].config.debug:
                traceback.print_exc()
            failed[i] = cause(error)
        if (now := time.monotonic()) - said > 5 or n == len(left):
            print(f"  rows of {n}/{len(left)} cells, {(now - began) / n * (len(left) - n):.0f} s left", flush=True)
            said = now
    return failed


def make_page(whole: Sequence[tuple[Levels, Raw]], gates: Sequence[Artifact], table: Artifact) -> Path:
    """The page of a grid that is a study, of its cells (and their gates) in the order of the table; its path."""
    configs = {k: to_config(raw) for k, (_, raw) in enumerate(whole)}
    config = configs[0]
    assert config.study is not None

    def make(folder: Path):
        rows, setups = pl.read_parquet(table.path("rows.parquet")), prepare_all(configs)[0]
        loaded = {gate.folder: pipeline.load_gate(gate)[0] for gate in gates}
        of = [
            Cell(levels, configs[k], setups[k].world, rows.filter(cell=k), loaded[gate.folder])
            for k, ((levels, _), gate) in enumerate(zip(whole, gates, strict=True))
        ]
        write_study(folder, of)

    described = {
        "question": config.question,
        "study": config.study.model_dump(mode="json"),
        "code": artifact.code("report", "measure", "plots"),
    }
    return artifact.build(config.runs, "page", config.name, described, make, table).path("report.html")


def _trained(setup, base: Artifact) -> bool:
    with artifact.only_named():
        return training.build_ensemble(setup, base).there


def gather(kept: Sequence[Kept], expected: int, failed: Mapping[str, str], runs: Path) -> Artifact:
    """One table of the rows of all cells, a column for every axis, one of their costs, and beside them which cells there are, how many
    of their trainings diverged, whether their base passed its gate, and which cells failed and why. Nothing is filled in for those.
    """

    def make(folder: Path):
        tables, costs, listed, gates = [], [], [], {}
        for k, (levels, rows, base, gate, of_costs) in enumerate(kept):
            own = {"cell": pl.lit(k), **{axis: pl.lit(level) for axis, level in levels.items()}}
            tables.append(pl.read_parquet(rows.path("rows.parquet")).with_columns(**own))
            costs += [pl.read_parquet(a.path("rows.parquet")).with_columns(part=pl.lit(part), **own) for part, a in of_costs.items()]
            gates[gate.folder.name] = pipeline.load_gate(gate)[0].failures
            its = {"rows": rows.folder.name, "base": base.folder.name, "gate": gate.folder.name, "passed": not gates[gate.folder.name]}
            listed.append({"levels": levels, **its, "diverged": diverged(tables[-1]).height})
        numbers = [axis for axis in kept[0][0] if all(_number(levels[axis]) for levels, *_ in kept)]
        for name, those in (("rows", tables), ("costs", costs)):
            if those:
                files.write_table(folder / f"{name}.parquet", pl.concat(those).with_columns(pl.col(numbers).cast(pl.Float64)))
        files.write_json(folder / "cells.json", {"expected": expected, "found": listed, "failed": failed})

    described = {"levels": [dict(levels) for levels, *_ in kept], "expected": expected, "failed": dict(failed)}
    parents = [a for _, rows, _, gate, costs in kept for a in (rows, gate, *costs.values())]
    names = {rows.folder.name.rpartition("-")[0] for _, rows, *_ in kept}
    table = artifact.build(runs, "sweep", "-".join(sorted(names)), described, make, *dict.fromkeys(parents))
    listed = json.loads(table.path("cells.json").read_text())["found"]
    if fail := {cell["gate"] for cell in listed if not cell["passed"]}:
        print(f"  gate NOT PASSED, of {len({cell['gate'] for cell in listed})}: {', '.join(sorted(fail))}", flush=True)
    if bad := sum(cell["diverged"] for cell in listed):
        print(f"  {bad} trainings diverged, in {sum(cell['diverged'] > 0 for cell in listed)} cells", flush=True)
    return table


def _number(level: str) -> bool:
    try:
        float(level)
    except ValueError:
        return False
    return True


def find_cells(raws: Mapping[int, Raw]) -> dict[int, Found]:
    """Rows, base, gate and costs of those cells that have them all."""
    configs = {i: to_config(raw) for i, raw in raws.items()}
    use_device(next(iter(configs.values())))
    out = {}
    for i, setup in prepare_all(configs)[0].items():
        with artifact.only_named():
            base = training.build_base(setup, pipeline.build_corpus(setup))
            ensemble = training.build_ensemble(setup, base)
            gate = pipeline.build_gate(setup, base)
        if measured := pipeline.find_measured(setup, base, ensemble):
            rows, costs = measured
            out[i] = rows, base, gate, costs
    return out
