"""Processes side by side, each on its own share of the processor's cores; all end with the one that began them."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from io import TextIOBase
from multiprocessing import active_children, get_context
from threading import Thread

SPAWN = get_context("spawn")


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
