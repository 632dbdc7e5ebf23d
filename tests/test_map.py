"""The map cannot drift: the README's tree names folders that exist, in the pipeline's order, and every figure is drawable."""

import re
from pathlib import Path

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


def test_every_experiment_has_its_page():
    for conf in (ROOT / "conf/exp").glob("*.yaml"):
        page = (ROOT / "experiments" / conf.stem / "README.md").read_text()
        assert "Prediction" in page
        assert f"+exp={conf.stem}" in page
