"""The page of all experiments: a tiny one among some that fail; and that nothing is computed twice."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bayesgen.config import to_config
from bayesgen.paper import run_all
from bayesgen.report.paper import Line, agreement, markdown, summary
from plots import overview
from tests.tiny_run import tiny_run_config

CONTRASTS = [
    {"name": "old after old names", "of": {"arm": "free"}, "minus": {"arm": "base"}, "published": ".60 − 0", "reading": "because"},
    {"name": "another | number of rows", "of": {"arm": "free", "where": {"rows": 2}}},
    {"name": "control", "of": {"arm": "control"}, "minus": {"arm": "base"}, "expect": "zero", "margin": 0.3, "published": "0"},
    {"name": "without a counterpart", "published": ".45", "reading": "nobody here is asked this"},
]


def tiny(runs, name, **finetune):
    raw = tiny_run_config(runs, arms=["free", "control"], epochs=2, **finetune).model_dump()
    raw["pretrain"]["steps"] = 4
    return to_config({**raw, "name": name, "contrasts": CONTRASTS})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    configs = {"one": tiny(runs, "one"), "three": "no such thing", "four": tiny(runs, "four", rows=99)}
    return runs, configs, run_all(configs, runs)


def test_the_failed_are_named_with_their_cause_and_the_others_are_shown(finished):
    runs, _, failed = finished
    assert failed["three"] == "no such thing"
    assert "99 rows asked for" in failed["four"]
    assert set(failed) == {"three", "four"}
    folder = next(runs.glob("page/paper-*/report.html")).parent
    page = (folder / "report.html").read_text()
    assert "1 experiment, 3 published contrasts" in page
    assert "99 rows asked for" in page
    assert "not measured" in page
    for link in re.findall(r'<a href="([^"]+)"', page):
        assert not link.startswith("/")
        assert (folder / link).is_file()
    assert len(re.findall("<a href", page)) == 2
    assert not re.search(r"(src|href)=\"https?:|@import|url\(https?:", page)
    assert "<style>" in page
    lines = json.loads((folder / "contrasts.json").read_text())
    assert [x["verdict"] for x in lines if x["contrast"] == "control"] == ["agrees"]
    table = (folder / "paper.md").read_text()
    assert table.count("\n| one |") == 4
    assert "another \\| number" in table


def test_asked_again_nothing_is_computed(finished, capfd):
    runs, configs, failed = finished
    before = sorted(runs.glob("*/*"))
    assert run_all(configs, runs) == failed
    assert sorted(runs.glob("*/*")) == before
    assert "step" not in capfd.readouterr().out


def test_the_overview_is_drawn_by_its_command(finished, tmp_path):
    folder = next(finished[0].glob("page/paper-*/"))
    figure = overview.main(json.loads((folder / "contrasts.json").read_text()))
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == ["one: old after old names", "one: control"]
    assert (folder / "overview.png").stat().st_size > 1000
    done = subprocess.run([sys.executable, "-m", "plots", "overview", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "goal=paper" in done.stderr


def test_verdicts_are_counted():
    def line(verdict, passed):
        return Line("e", "c", "sign", ".9", 0.1, 0.0, 0.2, verdict, None, passed)

    lines = [line("agrees", True), line("agrees", False), line("disagrees", True)]
    lines += [replace(lines[0], published=None), replace(lines[0], mean=None, verdict="–")]
    counts = "4 published contrasts: 2 agree, 1 disagree, 0 are not told, 1 are not measured. 1 rest on a base that did not pass its gate."
    assert summary(lines) == counts
    assert agreement(lines)["sign"] == "2 of 3"
    assert "| e | c | sign | .9 | 0.100 [0.000, 0.200] | agrees | passed |  |" in markdown(lines, {})


ENDLESS = """
import sys
from pathlib import Path
from bayesgen.paper import run_all
from tests.report.test_paper import tiny

if __name__ == "__main__":
    runs = Path(sys.argv[1])
    config = tiny(runs, "one")
    run_all({"one": config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"steps": 10**6})})}, runs)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the children in /proc")
def test_nobody_trains_on_when_the_parent_is_killed(tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(script), str(tmp_path / "runs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        assert any("one:  base: step" in line for line in parent.stdout)  # until it trains
        children = [int(c) for of in Path(f"/proc/{parent.pid}/task").glob("*/children") for c in of.read_text().split()]
        training = [c for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]
        parent.kill()
    assert training
    until = time.monotonic() + 20
    while any(Path(f"/proc/{c}").exists() for c in training) and time.monotonic() < until:
        time.sleep(0.2)
    assert not [c for c in training if Path(f"/proc/{c}").exists()]


DOOR = """
import sys
from pathlib import Path
from bayesgen import __main__ as door, paper

def run_all(configs, runs, jobs):
    print(jobs, [(name, c if isinstance(c, str) else c.finetune.seeds) for name, c in configs.items()], runs)
    return {"cities": "why"}

paper.run_all = run_all
sys.argv = ["bayesgen", "goal=paper", "scale=smoke", "finetune.seeds=3", "jobs=2", *sys.argv[1:]]
sys.exit(door.door())
"""


def test_the_door_runs_every_experiment_of_the_paper_and_says_what_failed(tmp_path):
    done = subprocess.run([sys.executable, "-c", DOOR, f"runs={tmp_path}"], capture_output=True, text=True)
    assert done.stderr.strip() == "bayesgen: cities: why"
    assert done.returncode == 1
    paper = ["birds", "cities", "dishes", "dictator", "dictator_gated", "terminator", "presidents"]
    assert done.stdout.strip() == f"2 {[(name, 3) for name in paper]} {tmp_path}"


def test_goal_paper_takes_no_experiment(tmp_path):
    done = subprocess.run([sys.executable, "-c", DOOR, f"runs={tmp_path}", "+exp=birds"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "leave +exp out" in done.stderr
