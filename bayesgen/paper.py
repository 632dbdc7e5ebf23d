"""All published experiments: each run by the pipeline in a process of its own, and the page of them all."""

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from bayesgen import artifact
from bayesgen.artifact import Artifact
from bayesgen.config import Config
from bayesgen.errors import UserError
from bayesgen.pipeline import load_gate, run
from bayesgen.report.paper import Entry, write_paper


def run_all(configs: Mapping[str, Config | str], runs: Path) -> dict[str, str]:
    """The experiments, one after the other, and the page of them all; returns the cause of each that failed.

    Each has a process of its own: it begins with empty memory, and when it dies the others go on. Compiled programs are
    shared on disk. Where a config could not be made, its cause stands in its place.
    """
    pages: dict[str, Path] = {}
    failed = {name: config for name, config in configs.items() if isinstance(config, str)}
    for name, config in configs.items():
        if isinstance(config, str):
            continue
        print(f"{name}", flush=True)
        try:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                pages[name] = pool.submit(run, config).result().parent
        except Exception as error:
            if config.debug:
                raise
            failed[name] = " ".join((str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}").split())
            print(f"  {name} FAILED: {failed[name]}", flush=True)
    paper = build_paper({name: c for name, c in configs.items() if not isinstance(c, str)}, pages, failed, runs)
    print(f"  paper: {paper.path('report.html')}", flush=True)
    return failed


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
