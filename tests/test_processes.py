"""Processes side by side: each on its share, all ended by an error."""

import os
import time
from concurrent.futures import as_completed
from multiprocessing import active_children

import pytest

from bayesgen.processes import cores, dealt, workers

_SET = []


def settled(word: str):
    _SET.append(word)


def where(seconds: float) -> tuple[list[str], list[int]]:
    time.sleep(seconds)
    return _SET, cores()


def fail(_):
    raise ValueError("this part is broken")


def one_of_two_fails():
    with workers([cores(), cores()], settled, "ready") as pool:
        for done in as_completed([pool.submit(where, 60), pool.submit(fail, 0)]):
            done.result()


def test_cores_are_dealt_out_and_none_twice():
    for jobs in (1, 2, 1000):
        shares = dealt(jobs)
        assert sorted(core for share in shares for core in share) == cores()
        assert len(shares) == min(jobs, len(cores()))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin processes")
def test_every_worker_begins_and_keeps_to_its_share():
    shares = [[cores()[0]], [cores()[-1]]]
    with workers(shares, settled, "ready") as pool:
        found = [done.result() for done in as_completed([pool.submit(where, 0.3) for _ in range(4)])]
    assert all(words == ["ready"] for words, _ in found)
    assert {tuple(share) for _, share in found} == {tuple(share) for share in shares}


def test_an_error_ends_all_workers_at_once():
    began = time.monotonic()
    with pytest.raises(ValueError, match="this part is broken"):
        one_of_two_fails()
    for child in active_children():
        child.join(timeout=10)
    assert not active_children()
    assert time.monotonic() - began < 30  # the other sleeps for a minute
