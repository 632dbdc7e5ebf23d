"""All published experiments: each run by the pipeline in a process of its own, some side by side, and the page of them all."""

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesgen import artifact
from bayesgen.artifact import Artifact
from bayesgen.config import Config, to_config
from bayesgen.pipeline import load_gate, run
from bayesgen.processes import Job, alone, cause, shares, side_by_side
from bayesgen.report.paper import Entry, write_paper


def run_all(configs: Mapping[str, Config | str], runs: Path, jobs: int | None = None) -> dict[str, str]:
    """The experiments, and the page of them all; returns the cause of each that failed.

    Each has a process of its own: it begins with empty memory, and when it dies the others go on. Compiled programs are
    shared on disk. Where a config could not be made, its cause stands in its place.

    Args:
        configs: by name.
        runs: the folder of artifacts.
        jobs: how many experiments at a time, the processor's cores shared out among them: one core each is worth more than all
            for each in turn, for small networks. None: as many as cores, but one on an accelerator, which is not to be shared.
    """
    composed = {name: config for name, config in configs.items() if not isinstance(config, str)}
    failed = {name: config for name, config in configs.items() if isinstance(config, str)}
    pages: dict[str, Path] = {}
    if composed:
        asked = {config.device for config in composed.values()}
        platform, devices = alone(Job("device", "bayesgen.setup:device_kind", (next(iter(asked)) if len(asked) == 1 else None,)))
        of = [Job(name, "bayesgen.paper:run_one", (composed[name].model_dump(),)) for name in _order(composed)]
        for job, found in side_by_side(of, shares(platform, devices, jobs, len(of))):
            if isinstance(found, BaseException):
                failed[job.name] = cause(found)
                print(f"{job.name}: FAILED: {failed[job.name]}", flush=True)
            else:
                pages[job.name] = found
    in_order = [name for name in configs if name in pages], [name for name in configs if name in failed]
    pages, failed = {name: pages[name] for name in in_order[0]}, {name: failed[name] for name in in_order[1]}
    paper = build_paper(composed, pages, failed, runs)
    print(f"  paper: {paper.path('report.html')}", flush=True)
    return failed


def _order(configs: Mapping[str, Config]) -> list[str]:
    """Long pretrainings first; whoever waits for the base of another, last."""
    seen: list[tuple] = []
    waits = {}
    for name, config in configs.items():
        base = (config.world, config.model, config.pretrain)
        waits[name] = base in seen
        seen.append(base)
    return sorted(configs, key=lambda name: (waits[name], -configs[name].pretrain.steps))


def run_one(raw: dict[str, Any]) -> Path:
    """The pipeline; the folder of its page."""
    config = to_config(raw)
    try:
        return run(config).parent
    except Exception:
        if config.debug:
            traceback.print_exc()
        raise


def build_paper(configs: Mapping[str, Config], pages: Mapping[str, Path], failed: dict[str, str], runs: Path) -> Artifact:
    """One page of the pages of several experiments."""
    came = {name: artifact.lineage(runs, folder) for name, folder in pages.items()}

    def make(folder: Path):
        gates = {name: next(a for a in of.values() if a.stage == "gate") for name, of in came.items()}
        entries = [Entry(name, pages[name], configs[name], not load_gate(gates[name])[0].failures) for name in pages]
        every = {fingerprint: a for of in came.values() for fingerprint, a in of.items()}  # a shared base counts once
        write_paper(folder, entries, failed, sum(a.seconds for a in every.values()) / 60)

    described = {"experiments": list(pages), "failed": failed, "code": artifact.code("report", "measure", "plots")}
    return artifact.build(runs, "page", "paper", described, make, *(next(iter(of.values())) for of in came.values()))
