"""What goes wrong while a small pipeline runs, and what then: nothing is lost, and not a bit differs from an undisturbed run.

The README's table of faults names these tests.
"""

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from bayesgen.artifact import CHECKPOINT
from tests.test_processes import alive

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
PAGE = r"page: \S+report\.html"


def bits(runs: Path) -> dict[str, bytes]:
    """Content of all results: weights, adapters and rows."""
    wanted = [*runs.glob("base/*/params.safetensors"), *runs.glob("ensemble/*/*.safetensors"), *runs.glob("rows/*/rows.parquet")]
    return {str(p.relative_to(runs)): p.read_bytes() for p in wanted if ".damaged-" not in str(p) and ".work" not in str(p)}


COMPILED: list[Path] = []  # programs of the undisturbed run


def start(runs: Path, *words: str) -> subprocess.Popen:
    """The tiny pipeline in a process of its own, which need not compile."""
    if COMPILED and not (runs / "compiled").exists():
        shutil.copytree(COMPILED[0], runs / "compiled")
    command = [sys.executable, "-m", "tests.tiny_run", str(runs), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def finish(runs: Path, *words: str) -> str:
    """The same to its end; what it said."""
    process = start(runs, *words)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert re.search(PAGE, said)
    return said


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    runs = tmp_path_factory.mktemp("undisturbed")
    finish(runs)
    COMPILED.append(runs / "compiled")
    began = time.monotonic()
    finish(again := tmp_path_factory.mktemp("again"))
    seconds = time.monotonic() - began
    assert bits(again) == bits(runs)
    return runs, bits(runs), seconds


def test_twenty_kills_at_random_moments(undisturbed, tmp_path):
    """kill -9, each in the state that the last one left; whatever finishes is compared, and begun anew."""
    _, expected, seconds = undisturbed
    draw, kills, finished, runs = random.Random(0), 0, 0, tmp_path / "0"
    while kills < 20:
        fresh, process, began = not runs.exists(), start(runs), time.monotonic()
        try:
            process.communicate(timeout=draw.uniform(0.2, 0.7) * seconds)  # two or three for each that gets to its end
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0
        assert bits(runs) == expected
        finished += 1
        if fresh:
            seconds = time.monotonic() - began  # as quick as the machine is now
        shutil.rmtree(runs)
        runs = tmp_path / str(finished)
    finish(runs)
    assert bits(runs) == expected
    assert not list(runs.glob("*/*.work"))


def test_a_program_of_several_cells_is_killed(undisturbed, tmp_path):
    """At checkpoints before and after the first cell has all its snapshots; each cell then has the bits of an undisturbed program."""

    def cells(runs: Path, *words: str) -> int:
        for stage in ("corpus", "base"):
            shutil.copytree(undisturbed[0] / stage, runs / stage, dirs_exist_ok=True)
        process = start(runs, "cells", *words)
        process.communicate()
        return process.returncode

    assert cells(tmp_path / "whole") == 0
    expected = bits(tmp_path / "whole")
    assert len([name for name in expected if name.endswith("rows.parquet")]) == 2
    for which in (1, 4, 15):
        assert cells(tmp_path / str(which), "ensemble", str(which)) == -signal.SIGKILL
        assert cells(tmp_path / str(which)) == 0
        assert bits(tmp_path / str(which)) == expected
        assert not list(tmp_path.glob(f"{which}/*/*.work"))


def test_eight_processes_on_one_cache(undisturbed, tmp_path):
    processes = [start(tmp_path) for _ in range(8)]
    said = [p.communicate()[0] for p in processes]
    assert [p.returncode for p in processes] == [0] * 8, said
    assert bits(tmp_path) == undisturbed[1]
    for built in (r"base: [\d,]+ parameters", r"ensemble: \d+ members"):
        assert len(re.findall(built, "".join(said))) == 1  # one built it, seven waited


@pytest.fixture
def small_disk(tmp_path):
    """A file system whose size can be set."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def resize(disk: Path, options: str):
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_a_full_disk(undisturbed, small_disk):
    """At several sizes, then large enough: it stops in one line of an error, and goes on."""
    resize(small_disk, "size=100m")
    shutil.copytree(COMPILED[0], small_disk / "runs/compiled")
    for room in (20_000, 150_000, 350_000):
        resize(small_disk, f"size={shutil.disk_usage(small_disk).used + room}")
        process = start(small_disk / "runs")
        said = process.communicate()[0]
        assert process.returncode != 0, "fits; make it smaller"
        assert "No space left on device" in said
    resize(small_disk, "size=100m")
    finish(small_disk / "runs")
    assert bits(small_disk / "runs") == undisturbed[1]


def test_a_cache_that_can_only_be_read(undisturbed, small_disk):
    """What is there is used; what is not cannot be made, and that is said in one line."""
    resize(small_disk, "size=100m")
    shutil.copytree(undisturbed[0], small_disk / "runs")
    resize(small_disk, "ro")
    finish(small_disk / "runs")
    assert bits(small_disk / "runs") == undisturbed[1]
    resize(small_disk, "rw")
    shutil.rmtree(next((small_disk / "runs").glob("rows/*/rows.parquet")).parent)
    resize(small_disk, "ro")
    process = start(small_disk / "runs")
    said = process.communicate()[0]
    assert process.returncode != 0
    assert "cannot be written to (Read-only file system); give a folder you may write to" in said
    resize(small_disk, "rw")
    finish(small_disk / "runs")
    assert bits(small_disk / "runs") == undisturbed[1]


def test_a_clock_that_jumps(undisturbed, tmp_path):
    finish(tmp_path, "clock")
    assert bits(tmp_path) == undisturbed[1]


@pytest.mark.parametrize("file", ["base/*/params.safetensors", "ensemble/*/adapters-000060.safetensors", "rows/*/rows.parquet"])
def test_a_flipped_bit_and_a_cut_file(undisturbed, tmp_path, file):
    shutil.copytree(undisturbed[0], tmp_path / "runs")
    for harm in (lambda x: x[:99] + bytes([x[99] ^ 4]) + x[100:], lambda x: x[: len(x) // 2]):
        path = next(p for p in (tmp_path / "runs").glob(file) if ".damaged-" not in str(p))
        path.write_bytes(harm(path.read_bytes()))
        assert "does not match its checksum; set aside" in finish(tmp_path / "runs")
        assert bits(tmp_path / "runs") == undisturbed[1]


def test_a_checkpoint_cut_short(undisturbed, tmp_path):
    """It is set aside, and training begins anew."""
    process = start(tmp_path, "base", "4")
    process.communicate()
    checkpoint = next(tmp_path.glob(f"base/*.work/{CHECKPOINT}"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert "beginning anew" in finish(tmp_path)
    assert bits(tmp_path) == undisturbed[1]


def test_an_interrupt(undisturbed, tmp_path):
    process = start(tmp_path)
    assert process.stdout is not None
    assert any("base: step" in line for line in process.stdout)
    children = [int(c) for of in Path(f"/proc/{process.pid}/task").glob("*/children") for c in of.read_text().split()]
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode != 0
    assert not any(map(alive, children))
    finish(tmp_path)
    assert bits(tmp_path) == undisturbed[1]


def test_a_member_that_diverges_is_named_and_the_others_are_as_without_it(undisturbed, tmp_path):
    said = finish(tmp_path, "diverging")
    assert re.search(r"^  free learning rate 1e\+20, 2 of 2 diverged", said, re.MULTILINE)
    table = pl.read_parquet(next(tmp_path.glob("rows/*/rows.parquet")))
    alone = pl.read_parquet(next(undisturbed[0].glob("rows/*/rows.parquet")))
    kept = table.filter((pl.col("learning_rate") == 1e-2) & (pl.col("quantity") == "rate") & (pl.col("arm") == "free"))
    own = alone.filter((pl.col("quantity") == "rate") & (pl.col("arm") == "free"))
    keys = ["seed", "step", "topic", "probe", "context", "scale"]
    both = kept.join(own, on=keys, suffix="_alone", validate="1:1")
    assert both.height == kept.height == own.height
    assert (both["value"] - both["value_alone"]).abs().max() < 1e-3  # sums in another order, over sixty steps
    lost = table.filter((pl.col("learning_rate") == 1e20) & (pl.col("quantity") == "nll_train"))
    assert lost["value"].is_nan().all()


def test_these_tests_see_a_difference(undisturbed, tmp_path):
    """Negative control: another seed of the base gives other bits."""
    finish(tmp_path, "seed")
    assert bits(tmp_path) != undisturbed[1]
