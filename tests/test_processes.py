"""Processes side by side: each on its share, all ended by an error or with their parent."""

import os
import subprocess
import sys
import time
from concurrent.futures import as_completed
from contextlib import redirect_stdout
from multiprocessing import active_children
from pathlib import Path

import pytest

from bayesgen.processes import Job, Named, Share, cores, dealt, shares, side_by_side, workers

_SET = []


def settled(word: str):
    _SET.append(word)


def where(seconds: float) -> tuple[list[str], list[int]]:
    time.sleep(seconds)
    return _SET, cores()


def fail(_):
    raise ValueError("this part is broken")


def say_who(path: str):
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


def one_waits(path: str):
    with workers([cores()], settled, "ready") as pool:
        pool.submit(say_who, path).result()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").exists() or Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"


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
    while active_children() and time.monotonic() - began < 30:  # no join: the pool's own thread may be waiting for the same process
        time.sleep(0.1)
    assert not active_children()  # the other sleeps for a minute


def kill_me(signal: int):
    os.kill(os.getpid(), signal)


def seen() -> tuple[list[int], str | None]:
    return cores(), os.environ.get("CUDA_VISIBLE_DEVICES")


def test_a_job_that_raises_or_is_killed_costs_itself_alone_and_the_shares_go_round():
    here = "tests.test_processes"
    jobs = [Job("raises", f"{here}:fail", (0,)), Job("killed", f"{here}:kill_me", (9,))]
    jobs += [Job(f"fine {i}", f"{here}:seen", ()) for i in range(3)]
    given = [Share([cores()[0]], 1), Share([cores()[-1]])]
    found = {job.name: what for job, what in side_by_side(jobs, given)}
    assert set(found) == {job.name for job in jobs}
    assert "this part is broken" in str(found["raises"])
    assert str(found["killed"]) == "its process ended by signal SIGKILL (no memory left?)"
    for i in range(3):
        assert found[f"fine {i}"] in [(share.cores, None if share.accelerator is None else "1") for share in given]


def test_shares_of_cores_and_of_accelerators():
    assert [s.cores for s in shares("cpu", 1, None, 99)] == dealt(len(cores()))
    assert len(shares("cpu", 1, 1, 99)) == len(shares("cpu", 1, None, 1)) == 1
    assert shares("gpu", 4, None, 99) == [Share(cores())]
    assert [s.accelerator for s in shares("gpu", 2, 3, 99)] == [0, 1]  # two on one would take each other's memory


def test_a_name_stands_before_every_line(capsys):
    with redirect_stdout(Named("bits")):
        print("half a", end=" ")
        print("line\n\nand another")
    assert capsys.readouterr().out == "bits:half a line\nbits:and another\n"


def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    """Killed, the parent can tell nobody; unlike an error, which ends all."""
    code = "import sys, tests.test_processes as t; t.one_waits(sys.argv[1])"
    told = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", code, str(told)])
    while not told.exists() or not told.read_text():
        assert parent.poll() is None
        time.sleep(0.1)
    child = int(told.read_text())
    os.kill(child, 0)  # it lives
    parent.kill()
    parent.wait()
    until = time.monotonic() + 30
    while time.monotonic() < until and alive(child):
        time.sleep(0.1)
    assert not alive(child)
