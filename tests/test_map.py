"""The map cannot drift: tree, defaults list and pipeline agree, every option composes, every page is whole."""

import re
from pathlib import Path

import pytest

from bayesgen.pipeline import prepare
from tests.conftest import compose_config

ROOT = Path(__file__).parent.parent


def test_the_tree_names_every_package_and_nothing_else():
    tree = re.search(r"## The tree.*?```(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    named = re.findall(r"^(bayesgen/\w+)/ ", tree, re.MULTILINE)
    assert set(named) == {f"bayesgen/{p.parent.name}" for p in (ROOT / "bayesgen").glob("*/__init__.py")}
    order = ["world", "corpus", "model", "learn", "measure", "infer", "report"]
    assert named == [f"bayesgen/{n}" for n in order]
    for line in re.findall(r"^(\S+)", tree, re.MULTILINE):
        assert (ROOT / line).exists(), line


def test_defaults_list_follows_the_tree_and_the_groups_exist():
    listed = re.findall(r"^  - (\w+): (\w+)", (ROOT / "conf/config.yaml").read_text(), re.MULTILINE)
    assert [g for g, _ in listed] == ["world", "model", "pretrain", "finetune", "measure", "scale"]
    assert all((ROOT / "conf" / g / f"{o}.yaml").is_file() for g, o in listed)


def test_the_pipeline_builds_in_the_order_of_its_first_line():
    text = (ROOT / "bayesgen/pipeline.py").read_text()
    promised = re.search(r"^    (world -> .*)$", text, re.MULTILINE)[1].split(" -> ")
    body = text[text.index("def run(") : text.index("def use_device")]
    built = ["world" if call == "prepare" else call for call in re.findall(r"= (?:build_)?(\w+)\(", body) if call != "monotonic"]
    assert built == promised


@pytest.mark.parametrize("group", ["exp", "model", "scale"])
def test_every_option_composes_to_a_valid_run(group, tmp_path):
    for option in sorted(p.stem for p in (ROOT / "conf" / group).glob("*.yaml")):
        chosen = [f"+exp={option}"] if group == "exp" else ["+exp=birds", f"{group}={option}"]
        prepare(compose_config(*chosen, f"runs={tmp_path}"))


def test_no_page_holds_a_placeholder_or_a_dead_link():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("experiments/**/*.md")]:
        text = page.read_text()
        assert "@@" not in text, page
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page}: {link}"


def test_every_experiment_has_its_page():
    for conf in (ROOT / "conf/exp").glob("*.yaml"):
        page = (ROOT / "experiments" / conf.stem / "README.md").read_text()
        assert "Prediction" in page
        assert f"+exp={conf.stem}" in page
