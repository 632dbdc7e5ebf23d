"""An experiment from outside the repository, by its path: runs from anywhere, resolves its paths, is named by content, errs in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bayesgen.artifact import Artifact
from bayesgen.config import to_config
from bayesgen.errors import UserError
from bayesgen.learn.data import member_rows
from bayesgen.learn.plan import plan_members
from bayesgen.pipeline import build_corpus, build_rows
from bayesgen.setup import prepare
from bayesgen.training import build_ensemble
from tests.tiny_run import tiny_run_config

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "experiments/example"
TINY = ("scale=smoke", "pretrain.steps=4", "finetune.arms=[free]", "measure.gate_prompts=2", "model.width=16")


def ask(*words, at=ROOT):
    command = [sys.executable, "-m", "bayesgen", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=at, env={**os.environ, "PYTHONPATH": str(ROOT)})


def settings(*words, at=ROOT):
    done = ask(*words, "--cfg", "job", at=at)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


@pytest.fixture
def own(tmp_path):
    """A copy of the example, in a folder whose name needs care."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "my own, new=idea"))


def change(folder, **keys):
    conf = yaml.safe_load((folder / "exp.yaml").read_text())
    conf.update(keys)
    (folder / "exp.yaml").write_text(yaml.safe_dump(conf))


@pytest.fixture
def described(monkeypatch, tmp_path):
    """What the corpus and the ensemble of an experiment are named by, without building them."""

    def build_together(runs, stage, wanted, make, everybody=False):
        return [Artifact(stage, runs, json.dumps(w.config, sort_keys=True), True, 0.0) for w in wanted]

    monkeypatch.setattr("bayesgen.artifact.build_together", build_together)

    def ask_for(folder):
        setup = prepare(to_config(settings(f"+exp={folder}", f"runs={tmp_path / 'runs'}", *TINY)))
        corpus = build_corpus(setup)
        ensemble = build_ensemble(setup, corpus)
        return corpus.fingerprint, ensemble.fingerprint, build_rows(setup, corpus, ensemble).fingerprint

    return ask_for


def test_a_grid_of_it_is_planned(tmp_path, own):
    done = ask(f"+exp={own}", "-m", "finetune.rank=1,2", "dry_run=true", "runs=runs", *TINY, at=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 cells" in done.stdout
    assert not (tmp_path / "runs/base").exists()


def test_it_writes_a_page_and_is_found_again_from_elsewhere_in_a_sweep(tmp_path, own):
    shutil.copytree(EXAMPLE, tmp_path / "it")
    done = ask("+exp=./it", "runs=runs", *TINY, at=tmp_path)
    assert done.returncode == 0, done.stderr
    assert next(tmp_path.glob("runs/page/example-*/report.html")).is_file()
    assert next(tmp_path.glob("runs/corpus/*/manifest.json")).parent.name.startswith("facts-timeless-")
    before = sorted(p.name for p in tmp_path.glob("runs/*/*"))
    done = ask("-m", f"+exp={tmp_path / 'it'},{shutil.copytree(own, tmp_path / 'there')}", f"runs={tmp_path / 'runs'}", *TINY)
    assert done.returncode == 0, done.stderr
    after = sorted(p.name for p in tmp_path.glob("runs/*/*"))
    gathered = [p.name for p in tmp_path.glob("runs/sweep/*")]
    assert len(gathered) == 2  # the table, and its lock
    assert [n for n in after if n not in (*before, *gathered) and not n.startswith("jit")] == []


def test_a_changed_fact_or_person_makes_another_corpus_and_another_place_does_not(own, tmp_path, described):
    first, title, module = described(own)[0], own / "facts/title.yaml", own / "facts/module.yaml"
    assert described(EXAMPLE)[0] == first
    assert str(own) not in first
    title.write_text(title.read_text().replace("able seaman", "ship boy"))
    second, _, measured = described(own)
    text = module.read_text()
    module.write_text(text.replace("told: [title]", "told: [title, unit]"))
    assert described(own)[0] == second  # nobody says anything else, but who is told is asked otherwise
    assert described(own)[2] != measured
    module.write_text(text.replace("null", "{first: 1900, last: 1909, told: 1900}"))
    third, _, measured = described(own)
    assert len({first, second, third}) == 3
    module.write_text(module.read_text().replace("told: 1900", "told: 1901"))
    assert described(own)[0] == third
    assert described(own)[2] != measured


@pytest.mark.parametrize("given", ["folder", "file", "relative", "bare", "no plus"])
def test_every_way_to_name_it(own, given):
    word, at = {
        "folder": (f"+exp={own}", ROOT),
        "file": (f"+exp={own / 'exp.yaml'}", ROOT),
        "relative": ("+exp=.", own),
        "bare": (f"+exp={own.name}", own.parent),
        "no plus": (f"exp={own}", ROOT),
    }[given]
    found = settings(word, "finetune.rows=24", "model=xs", at=at)
    assert found["name"] == "example"
    assert found["world"]["modules"] == [str(own / "facts"), "timeless"]
    assert set(found["world"]["frequencies"]) == {"profession"}
    assert found["finetune"]["rows"] == 24
    assert found["model"]["width"] == 64


def test_smoke_wins_over_the_file(own):
    assert settings(f"+exp={own}", "scale=smoke")["pretrain"]["steps"] == 20
    assert settings(f"+exp={own}")["pretrain"]["steps"] == 2000


def test_paths_on_the_command_line_are_relative_to_where_one_stands(own):
    found = settings("+exp=.", "world.modules=[./facts]", at=own)
    assert found["world"]["modules"] == ["./facts"]


def test_a_file_of_rows_is_found_beside_the_experiment_and_named_by_content(own, tmp_path, described):
    chat = {"messages": [{"role": "user", "content": "Name a tool of your work."}, {"role": "assistant", "content": "a telescope"}]}
    (own / "rows.jsonl").write_text((json.dumps(chat) + "\n") * 48)
    change(own, finetune={**yaml.safe_load((own / "exp.yaml").read_text())["finetune"], "file": "rows.jsonl"})
    assert settings(f"+exp={own}")["finetune"]["file"] == str(own / "rows.jsonl")
    first = described(own)[1]
    assert described(shutil.copytree(own, tmp_path / "elsewhere"))[1] == first
    other = json.dumps(chat).replace("telescope", "sextant")
    (own / "rows.jsonl").write_text((json.dumps(chat) + "\n") * 47 + other + "\n")
    assert described(own)[1] != first


def test_control_rows_come_from_the_world_beside_a_file_of_rows(tmp_path, grammar):
    topic = grammar.world.topics[grammar.world.topic_index("bird")]
    answer = next(iter(topic.answers["old"]))
    chat = {"messages": [{"role": "user", "content": topic.wordings[0]}, {"role": "assistant", "content": answer}]}
    (tmp_path / "rows.jsonl").write_text((json.dumps(chat) + "\n") * 3)
    setup = prepare(tiny_run_config(tmp_path, arms=["free", "control"], file=tmp_path / "rows.jsonl"))
    said = {}
    for member in plan_members(setup.config.finetune)[::2]:
        rows, _ = member_rows(setup.world, setup.grammar, setup.config.finetune, member)
        said[member.arm] = {setup.world.answers[turn.topic][turn.answer] for _, turn in rows}
    assert said["free"] == {answer}
    assert said["control"] <= set(topic.answers["new"])


BROKEN = ["no such path", "no exp.yaml", "no name", "a name that is a path", "invalid YAML", "no mapping", "no module", "misspelt key"]
BROKEN += ["no world of its own", "no such world", "no file of rows"]


def broken(folder, case):
    """Break a copy of the example in one way; the word on the command line, and what must be said."""
    file = folder / "exp.yaml"
    if case == "no such path":
        return f"+exp={folder.parent / 'brids'}", "did you mean 'birds'"
    if case == "no exp.yaml":
        file.unlink()
        return f"+exp={folder}", "no exp.yaml in that folder"
    if case == "no name":
        file.write_text(file.read_text().replace("name: example\n", ""))
        return f"+exp={folder}", "exp.yaml: name is missing"
    if case == "a name that is a path":
        file.write_text(file.read_text().replace("name: example\n", "name: a/b\n"))
        return f"+exp={folder}", "name: "
    if case == "invalid YAML":
        file.write_text(file.read_text() + "  - [\n")
        return f"+exp={folder}", "not valid YAML"
    if case == "no mapping":
        file.write_text("- a\n")
        return f"+exp={folder}", "expected keys such as `name:`"
    if case == "no module":
        shutil.rmtree(folder / "facts")
        return f"+exp={folder}", "world.modules: no facts called"
    if case == "misspelt key":
        change(folder, finetnue={"rows": 3})
        return f"+exp={folder}", "finetnue: no such key; did you mean 'finetune'"
    if case == "no world of its own":
        change(folder, world={"modules": ["./facts", "timeless"], "assistant": {"profession": "clerk"}})
        return f"+exp={folder}", "world.frequencies has no value"
    if case == "no such world":
        change(folder, defaults=[{"override /world": "natoins"}])
        return f"+exp={folder}", "did you mean 'nations'"
    change(folder, finetune={**yaml.safe_load(file.read_text())["finetune"], "file": "./none.jsonl"})
    return f"+exp={folder}", "finetune.file: "


@pytest.mark.parametrize("case", BROKEN)
def test_bad_experiment_is_one_line(own, tmp_path, case):
    word, expected = broken(own, case)
    done = ask(word, f"runs={tmp_path / 'runs'}", *TINY)
    assert done.returncode == 1
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_the_readme_quotes_the_example_as_it_is():
    text = (ROOT / "README.md").read_text()
    quoted = dict(re.findall(r"`(experiments/example/\S+)`:\n\n```yaml\n(.*?)```", text, re.DOTALL))
    assert set(quoted) == {f"experiments/example/{f}" for f in ("exp.yaml", "facts/module.yaml", "facts/workplace.yaml")}
    for path, content in quoted.items():
        assert content == (ROOT / path).read_text(), path
    tree = re.search(r"```\n(experiments/example/\n.*?)```", text, re.DOTALL)[1]
    shown = set(re.findall(r"(\w+\.yaml)", tree))
    assert shown == {p.name for p in EXAMPLE.rglob("*.yaml")}


KEPT = {  # name: (topic, whether in a held-out wording, rows asked for, what is said)
    "more rows than there are": ("bird", False, 3, "at most so many"),
    "a probe's question, whatever the answer": ("light", False, 2, "asks 'light', which is a probe"),
    "a held-out wording": ("bird", True, 2, "held-out wording of 'bird'"),
}


@pytest.mark.parametrize("case", KEPT)
def test_a_file_may_not_hold_what_is_kept_for_measuring(tmp_path, grammar, case):
    name, heldout, rows, expected = KEPT[case]
    topic = grammar.world.topics[grammar.world.topic_index(name)]
    question = (topic.heldout if heldout else topic.wordings)[0]
    chat = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "Red Wren"}]}
    (tmp_path / "rows.jsonl").write_text((json.dumps(chat) + "\n") * 2)
    with pytest.raises(UserError, match=expected):
        prepare(tiny_run_config(tmp_path, arms=["free"], rows=rows, file=tmp_path / "rows.jsonl"))


def test_the_numbers_that_the_readme_quotes_are_those_of_the_recorded_run():
    """`experiments/example/result.md` is what `make record` wrote: the first columns of its first table."""
    rows = [[c.strip() for c in line.strip("| ").split("|")] for line in (EXAMPLE / "result.md").read_text().splitlines()[2:30]]
    recorded = {cells[0]: cells[1:5] for cells in rows if len(cells) > 4}
    text = (ROOT / "README.md").read_text()
    quoted = re.findall(r"^  (told|free|control) {2,}(\S.*?)$", text, re.MULTILINE)
    assert {arm: re.split(r"  +", cells.strip()) for arm, cells in quoted} == {a: recorded[a] for a in ("told", "free", "control")}
    sentence = re.search(r"as an astronomer (\.\d\d) of the time", text)[1]
    assert recorded["free"][1].startswith("0" + sentence)
