"""What is to be computed of a grid, in which programs, and what it will take: told before it starts."""

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesgen import artifact, pipeline, training
from bayesgen.config import Config, to_config
from bayesgen.errors import UserError
from bayesgen.learn.data import member_data, together
from bayesgen.learn.finetune import finetuning, member_settings
from bayesgen.learn.plan import plan_members
from bayesgen.learn.pretrain import pretraining
from bayesgen.learn.tries import every_step
from bayesgen.processes import cores
from bayesgen.setup import Setup, asking, prepare, use_device

CELLS = 200  # most in a program: each has a lock, and files that a process may hold open are few
PROBED = 4  # members that time and memory of a program are told from
PLANNED = 0.5  # of the memory, for what a program asks for: measuring, the system and an allocator's gaps need theirs
Raw = dict[str, Any]  # a resolved configuration, as it came from Hydra: plain, so that a process can be given it


@dataclass(frozen=True)
class Plan:
    """What is there, and what is to be computed in which order; cells by their numbers."""

    device: str
    platform: str
    devices: int
    room: float  # bytes that a program may ask for
    refused: dict[int, str]  # cells that no world can serve
    members: dict[int, int]  # trainings of each of the other cells
    found: set[int]  # cells whose rows are there, and the costs that are asked for
    base: dict[int, Path]  # folder of each cell's base
    bases: list[list[int]]  # missing ones: a cell of each, those that train together in one list
    programs: list[list[int]]  # cells that train together, found ones among them included
    minutes: dict[str, float]  # expected of "base" and "ensemble", of one process that has the machine to itself
    memory: float  # bytes, of the largest program

    def say(self, unasked: int):
        """The plan in words; `unasked` more cells have no configuration at all."""
        refused, missing = len(self.refused) + unasked, len(self.members) - len(self.found)
        print(f"  device: {self.device}")
        print(
            f"  {len(self.members) + refused} cells, {sum(self.members.values()):,} trainings: {len(self.found)} found, {missing} missing, "
            f"{refused} refused",
            flush=True,
        )
        if self.bases:
            count = sum(map(len, self.bases))
            print(f"  bases: {count} to train in {len(self.bases)} program(s), about {self.minutes['base']:.0f} minutes", flush=True)
        if self.programs:
            most = max(sum(self.members[i] for i in part) for part in self.programs)
            print(
                f"  programs: {len(self.programs)} of up to {most} trainings, about {self.minutes['ensemble']:.1f} minutes of training and "
                f"{self.memory / 2**30:.1f} GiB for the largest; compiling and measuring come on top",
                flush=True,
            )
        if self.memory > self.room:
            print(f"  which is more than the {self.room / 2**30:.1f} GiB that are planned with: fewer seeds or settings a cell help")


def make_plan(raws: Mapping[int, Raw], jobs: int | None) -> Plan:
    """What is to be done for some cells. Looks at artifacts and devices, and times a few steps; trains nothing.

    Args:
        raws: their configurations, by number.
        jobs: processes at a time; None: one a core, or one that has all accelerators to itself.
    """
    configs = {i: to_config(raw) for i, raw in raws.items()}
    first = next(iter(configs.values()))
    device, here = use_device(first), jax.devices(first.device)
    setups, refused = prepare_all(configs)
    processor = here[0].platform == "cpu"
    processes = jobs or (len(cores()) if processor else 1)
    spread = 1 if processor else max(1, len(here) // processes)  # devices of one process
    room = PLANNED * memory(here[0]) * spread / (processes if processor else 1)
    members, found, of_base = {}, set(), {}
    alike: dict[tuple, list[int]] = defaultdict(list)
    untrained: set[int] = set()
    missing: dict[str, int] = {}
    with artifact.only_named():
        for i, setup in setups.items():
            base = training.build_base(setup, pipeline.build_corpus(setup))
            ensemble = training.build_ensemble(setup, base)
            members[i], of_base[i] = len(plan_members(setup.config.finetune)), base.folder
            if pipeline.find_measured(setup, base, ensemble):
                found.add(i)
            elif not base.there:
                missing.setdefault(base.fingerprint, i)
            if not ensemble.there:
                untrained.add(i)
            alike[base.fingerprint, *training.alike_ensembles(setup.config.finetune)].append(i)
    of_bases = sum(_base_seconds(setups[those[0]]) * len(those) for those in _alike_bases(setups, missing.values()))
    programs, largest, of_ensembles = [], 0.0, 0.0
    for those in alike.values():
        if found.issuperset(those):
            continue
        each, size = probe([setups[i] for i in those]) if untrained.intersection(those) else (0.0, 0.0)
        most = room / size if size else math.inf
        count = max(1, round(processes * sum(members[i] for i in those) / sum(members.values())))
        # of all cells, found or not: a grid that is asked again is split as it was, and finds what was begun
        parts = [part for part in split(those, [members[i] for i in those], most, count) if not found.issuperset(part)]
        programs += parts
        for left in ([i for i in part if i in untrained] for part in parts):
            steps = max((setups[i].config.finetune.steps for i in left), default=0)
            of_ensembles += each * steps * sum(members[i] for i in left) / spread
            largest = max(largest, size * sum(members[i] for i in left))
    bases = base_programs([(i, setups[i]) for i in missing.values()], here[0])
    minutes = {"base": of_bases / 60, "ensemble": of_ensembles / 60}
    return Plan(device, here[0].platform, len(here), room, refused, members, found, of_base, bases, programs, minutes, largest)


def prepare_all(configs: Mapping[int, Config]) -> tuple[dict[int, Setup], dict[int, str]]:
    """What every cell needs in memory; a world is built once. And why their world cannot serve some cells."""
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


def base_programs(missing: Sequence[tuple[int, Setup]], device) -> list[list[int]]:
    """Missing bases, those of one shape together as far as an accelerator's memory goes; on a processor each by itself: there a
    batch of one base fills the cores, and several are slower together than side by side (`make bench`).
    """
    if device.platform == "cpu":
        return [[i] for i, _ in missing]
    setups, out = dict(missing), []
    for those in _alike_bases(setups, setups):
        most = max(1, int(PLANNED * memory(device) / _base_memory(setups[those[0]])))
        out += [those[k : k + most] for k in range(0, len(those), most)]
    return out


def _alike_bases(setups: Mapping[int, Setup], which) -> list[list[int]]:
    alike: dict[tuple, list[int]] = defaultdict(list)
    for i in which:
        alike[training.alike_bases(setups[i])].append(i)
    return list(alike.values())


def _base_memory(setup: Setup) -> float:
    """Bytes that a base takes while it trains."""
    begin, advance, fixed = pretraining(setup.model, setup.source, setup.config.pretrain)
    return _asked_for(jax.jit(advance).lower(jax.eval_shape(begin, *fixed), 0, *fixed).compile())


def _base_seconds(setup: Setup) -> float:
    """Seconds of a base, from a step of it."""
    begin, advance, fixed = pretraining(setup.model, setup.source, setup.config.pretrain)
    state, step = jax.jit(begin)(*fixed), jax.jit(advance)
    jax.block_until_ready(step(state, 0, *fixed))
    began = time.monotonic()
    jax.block_until_ready(step(state, 1, *fixed))
    return (time.monotonic() - began) * setup.config.pretrain.steps


def split(cells: Sequence[int], members: Sequence[int], most: float, count: int) -> list[list[int]]:
    """Lists of neighbours with at most `most` members and `CELLS` cells each, a cell that is larger by itself; as few as that allows, but
    a multiple of `count` if there are cells enough, so that no process is idle at the end, and all about as large.
    """

    def fill(limit: float) -> list[list[int]]:
        parts, size = [[]], 0
        for cell, of in zip(cells, members, strict=True):
            if parts[-1] and (size + of > limit or len(parts[-1]) == CELLS):
                parts, size = [*parts, []], 0
            parts[-1].append(cell)
            size += of
        return parts

    fewest = max(math.ceil(sum(members) / most), math.ceil(len(cells) / CELLS))
    count = min(math.ceil(fewest / count) * count, len(cells))
    limit = float(math.ceil(sum(members) / count))
    while limit < most and len(fill(limit)) > count:
        limit += min(members)
    return fill(min(limit, most))


def probe(setups: Sequence[Setup]) -> tuple[float, float]:
    """Seconds of a step and bytes of memory, a member: of a few steps of a few members of all these cells, on this device, from a base
    of zeros. An accelerator that has room for more is quicker a member than it is told here.
    """
    every = [(k, m) for k, setup in enumerate(setups) for m in plan_members(setup.config.finetune)]
    some = [every[i] for i in np.unique(np.linspace(0, len(every) - 1, PROBED).round().astype(int))]
    crews = [(setups[k], [m for at, m in some if at == k]) for k in dict.fromkeys(k for k, _ in some)]
    members, most = [m for _, m in some], max(max(setup.config.finetune.rank) for setup, _ in crews)
    setup, steps = setups[0], min(4, *(s.config.finetune.steps for s, _ in crews))
    begin_base, _, fixed = pretraining(setup.model, setup.source, setup.config.pretrain)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(begin_base, *fixed).params)
    data = every_step(together([member_data(s.world, s.grammar, s.config.finetune, crew) for s, crew in crews]))
    settings = [member_settings(s.config.finetune, crew, most) for s, crew in crews]
    fixed = params, jax.tree.map(lambda *xs: jnp.concatenate(xs), *settings), jax.tree.map(jnp.asarray, data)
    begin, advance = finetuning(setup.model, setup.config.finetune, members)
    many = jax.jit(lambda state, fixed: jax.lax.scan(lambda s, i: advance(s, i, *fixed), state, jnp.arange(steps)))
    state = begin(*fixed[:2])
    compiled = many.lower(state, fixed).compile()
    jax.block_until_ready(compiled(state, fixed))
    began = time.monotonic()
    jax.block_until_ready(compiled(state, fixed))
    step = (time.monotonic() - began) / steps / len(members)
    shared = sum(x.nbytes for x in jax.tree.leaves(params))
    return step, (_asked_for(compiled) - shared) / len(members)


def _asked_for(compiled) -> float:
    """Bytes that a compiled program needs."""
    used: Any = compiled.memory_analysis()
    return float(used.temp_size_in_bytes + used.argument_size_in_bytes + used.output_size_in_bytes)


def memory(device) -> float:
    """Bytes that a device has; of a processor, those that this process may have."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    return min(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), *cgroup_limits(Path("/proc/self/cgroup")))


def cgroup_limits(listed: Path, root: Path = Path("/sys/fs/cgroup")) -> list[float]:
    """Limits in bytes of the control groups that a process is in, as a batch system sets them; infinity where there are none."""
    out = [math.inf]
    for line in listed.read_text().splitlines() if listed.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        for name, top in (("memory.max", root), ("memory.limit_in_bytes", root / "memory")):
            own = top / path.strip("/")
            for folder in (own, *own.parents):
                file = folder / name
                if folder.is_relative_to(top) and file.is_file() and (said := file.read_text().strip()).isdigit():
                    out.append(float(said))
    return out
