"""All published experiments: each run by the pipeline in a process of its own, some side by side, and the page of them all."""

import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import redirect_stdout
from pathlib import Path
from queue import SimpleQueue

import jax

from bayesgen import artifact
from bayesgen.artifact import Artifact
from bayesgen.config import Config
from bayesgen.errors import UserError
from bayesgen.pipeline import load_gate, run
from bayesgen.processes import SPAWN, Named, cores, end_children, settle
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
    those = cores()
    jobs = min(jobs or (len(those) if _on_cpu(composed) else 1), max(len(composed), 1))
    shares: SimpleQueue[list[int]] = SimpleQueue()
    for i in range(jobs):
        shares.put(those[i::jobs] or those)

    def job(name: str, config: Config) -> Path:
        share = shares.get()
        try:
            with ProcessPoolExecutor(1, SPAWN) as pool:
                return pool.submit(_run, name, config, share).result().parent
        finally:
            shares.put(share)

    pages: dict[str, Path] = {}
    with ThreadPoolExecutor(jobs) as threads:
        going: dict[Future[Path], str] = {threads.submit(job, name, composed[name]): name for name in _order(composed)}
        try:
            for done in as_completed(going):
                name = going[done]
                try:
                    pages[name] = done.result()
                except Exception as error:
                    failed[name] = " ".join((str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}").split())
                    print(f"{name}: FAILED: {failed[name]}", flush=True)
        except KeyboardInterrupt:
            threads.shutdown(wait=False, cancel_futures=True)
            end_children()
            raise
    in_order = [name for name in configs if name in pages], [name for name in configs if name in failed]
    pages, failed = {name: pages[name] for name in in_order[0]}, {name: failed[name] for name in in_order[1]}
    paper = build_paper(composed, pages, failed, runs)
    print(f"  paper: {paper.path('report.html')}", flush=True)
    return failed


def _on_cpu(configs: Mapping[str, Config]) -> bool:
    """Whether all of it runs on the processor. A process of its own looks, for whoever looks takes hold of an accelerator."""
    asked = {config.device for config in configs.values()}
    with ProcessPoolExecutor(1, SPAWN) as pool:
        return asked <= {"cpu"} or (asked <= {"cpu", None} and pool.submit(jax.default_backend).result() == "cpu")


def _order(configs: Mapping[str, Config]) -> list[str]:
    """Long pretrainings first; whoever waits for the base of another, last."""
    seen: list[tuple] = []
    waits = {}
    for name, config in configs.items():
        base = (config.world, config.model, config.pretrain)
        waits[name] = base in seen
        seen.append(base)
    return sorted(configs, key=lambda name: (waits[name], -configs[name].pretrain.steps))


def _run(name: str, config: Config, share: list[int]) -> Path:
    """The pipeline on some of the cores, every line that it prints under the experiment's name; it ends when its parent does."""
    settle(share)
    try:
        with redirect_stdout(Named(name)):
            return run(config)
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
