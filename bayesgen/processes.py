"""Processes side by side, each on its own share of the processor's cores; all end with the one that began them."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import TextIOBase
from multiprocessing import active_children, get_context
from threading import Thread
from typing import Any

from pebble import ProcessExpired, ProcessPool

from bayesgen.errors import UserError

SPAWN = get_context("spawn")


@dataclass(frozen=True)
class Share:
    """What of the machine a process may use: some cores, and one accelerator or (none) all."""

    cores: list[int]
    accelerator: int | None = None


@dataclass(frozen=True)
class Job:
    """A call to be made in a process of its own: "module:function" and its arguments, which are plain data."""

    name: str
    call: str
    args: tuple


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def dealt(jobs: int) -> list[list[int]]:
    """The cores dealt out to at most so many processes, one core each or more."""
    those = cores()
    jobs = min(jobs, len(those))
    return [those[i::jobs] for i in range(jobs)]


def settle(share: list[int]):
    """Of a process that was begun: keep to a share of the cores, and end when the parent does."""
    Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, share)  # before JAX counts them


def side_by_side(jobs: Sequence[Job], shares: Sequence[Share]) -> Iterator[tuple[Job, Any]]:
    """Every job in a process of its own, as many at a time as there are shares; in the order in which they end, each with what it
    returned, or with the exception that it raised or died of. A job that is killed costs itself alone. An interrupt ends them all.

    What a process may use is settled before the module of its job is imported, and with it JAX.
    """
    waiting, free, going = list(reversed(jobs)), list(shares), {}
    pool = ProcessPool(len(shares), max_tasks=1, context=SPAWN)
    try:
        while waiting or going:
            while waiting and free:
                job, share = waiting.pop(), free.pop()
                going[pool.schedule(_call, args=[job, share])] = job, share
            for done in wait(going, return_when=FIRST_COMPLETED).done:
                job, share = going.pop(done)
                free.append(share)
                error = done.exception()
                yield job, _died(error) if isinstance(error, ProcessExpired) else error or done.result()
    finally:
        pool.stop()  # nobody is left, or nobody is to go on
        pool.join()


def alone(job: Job) -> Any:
    """What a job returns, or its exception. Its process ends: it lets go of memory, and of an accelerator."""
    ((_, found),) = side_by_side([job], [Share(cores())])
    if isinstance(found, BaseException):
        raise found
    return found


def shares(platform: str, devices: int, jobs: int | None, work: int) -> list[Share]:
    """What each of at most `jobs` processes may use, for so much work. None: a core each, or one process with all accelerators. Two
    processes on one accelerator would take each other's memory, so there are at most as many as accelerators.
    """
    if platform != "cpu":
        those, count = cores(), min(jobs or 1, devices)
        return [Share(those)] if count == 1 else [Share(those[k::count] or those, k) for k in range(count)]
    those = dealt(max(1, min(jobs or len(cores()), work)))
    return [Share(share) for share in those]


def cause(error: BaseException) -> str:
    """The reason of a failure, in one line."""
    return " ".join((str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}").split())


def _died(error: ProcessExpired) -> Exception:
    code = error.exitcode
    how = f"by signal {signal.Signals(-code).name}" if code and code < 0 else f"with status {code}"
    return RuntimeError(f"its process ended {how}" + (" (no memory left?)" if code == -signal.SIGKILL else ""))


def _call(job: Job, share: Share) -> Any:
    settle(share.cores)
    if share.accelerator is not None:
        for name in ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS"):
            given = os.environ.get(name, "").split(",")
            os.environ[name] = given[share.accelerator] if any(given) else str(share.accelerator)
    module, function = job.call.split(":")
    with redirect_stdout(Named(job.name)):
        return getattr(import_module(module), function)(*job.args)


@contextmanager
def workers(shares: list[list[int]], begin: Callable, *args) -> Iterator[ProcessPoolExecutor]:
    """A process for each share of the cores, which calls `begin(*args)` first. An error or an interrupt ends them all."""
    waiting = SPAWN.SimpleQueue()
    for share in shares:
        waiting.put(share)
    pool = ProcessPoolExecutor(len(shares), SPAWN, _begin, (waiting, begin, args))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        end_children()
        raise
    pool.shutdown()


def end_children():
    """End every process that this one began."""
    for child in active_children():
        child.terminate()


def _begin(waiting, begin: Callable, args: tuple):
    settle(waiting.get())
    begin(*args)


def _follow(parent: int):
    """End this process once its parent has: nobody would hear what it computes. What it has saved is found again."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


class Named(TextIOBase):
    """Standard output, a name before every line; lines of several processes do not mix."""

    def __init__(self, name: str):
        self._name, self._line, self._out = name, "", sys.stdout

    def write(self, s: str) -> int:
        *whole, self._line = (self._line + s).split("\n")
        for line in whole:
            if line.strip():
                self._out.write(f"{self._name}:{line}\n")
        self._out.flush()
        return len(s)
