"""The map cannot drift: tree, defaults list and pipeline agree, every option composes, every page is whole."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bayesgen.corpus.tokenizer import split
from bayesgen.learn.data import member_rows, trained_topics
from bayesgen.learn.plan import plan_members
from bayesgen.measure.behaviour import rates
from bayesgen.measure.contexts import context_headers, counted_value
from bayesgen.measure.ideal import gated, ideal_redrawn
from bayesgen.measure.rows import QUANTITIES
from bayesgen.outside import take_in
from bayesgen.pipeline import prepare
from bayesgen.report.contrasts import measurable
from bayesgen.report.summary import names_of
from bayesgen.world.learners import LEARNERS
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
    assert [g for g, _ in listed] == ["world", "model", "pretrain", "finetune", "measure", "exp", "scale"]
    assert all((ROOT / "conf" / g / f"{o}.yaml").is_file() for g, o in listed if o != "null")


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


EXPERIMENTS = sorted(p.stem for p in (ROOT / "conf/exp").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_one_world_can_serve_every_experiment(name, tmp_path):
    """It composes, and there is somebody in it whom the rows and the header can be of: exact Bayes says the counted value."""
    setup = prepare(compose_config(f"+exp={name}", "world=all", f"runs={tmp_path}"))
    config, world, f = setup.config, setup.world, setup.config.finetune
    if f.value == "each":
        return
    context = config.measure.contexts[0]
    header, value = context_headers(world, f, config.measure)[context.name][0], counted_value(world, f, config.measure, context)
    rows = member_rows(world, setup.grammar, f, next(m for m in plan_members(f) if m.arm == "free" and m.rows == max(f.rows)))[0]
    probed = [world.topic_index(p) for p in f.probes]
    rate = {}
    for kind, those in (("free", rows), ("gated", gated(world, rows, header))):
        answers = ideal_redrawn(world, those, header, probed)
        column = world.values[config.measure.trait].index(value)
        rate[kind] = np.mean([rates(world, t, p)[column] for t, p in answers.items()])
    assert max(rate.values()) > 0.5, rate


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_contrast_names_what_is_there(name, tmp_path):
    """Its arms, contexts, topics, values and numbers of rows are among those that the experiment trains and measures."""
    setup = prepare(compose_config(f"+exp={name}", f"runs={tmp_path}"))
    config, world, f = setup.config, setup.world, setup.config.finetune
    story = names_of(config, world)
    arms = {"base", "population", "told", *f.arm_names, *(f"ideal {a}" for a in ("base", "population", "told", *f.arm_names, *LEARNERS))}
    for contrast in config.contrasts:
        assert measurable(contrast, f) == (contrast.of is not None), contrast.name
        for pick in contrast.picks:
            context = pick.context or next(iter(story["contexts"]))
            assert pick.arm in arms, contrast.name
            assert context in story["contexts"], contrast.name
            assert pick.quantity in QUANTITIES, contrast.name
            assert set(pick.topics or ()) <= {*story["probes"], *story["trained"]}, contrast.name
            assert pick.value is None or pick.value in world.values[config.measure.trait], contrast.name
            assert pick.quantity not in ("skill", "onset", "converted") or context in story["followed"], contrast.name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_an_experiment_trains_on_never_names_what_it_asks(name, tmp_path):
    """No row of any arm is on a probe; every arm has rows on the trained topics, as many as it should."""
    setup = prepare(compose_config(f"+exp={name}", f"runs={tmp_path}"))
    f, world = setup.config.finetune, setup.world
    probes, trained = {world.topic_index(p) for p in f.probes}, set(trained_topics(world, f))
    for member in plan_members(f)[:: f.seeds]:
        rows, _ = member_rows(world, setup.grammar, f, member)
        assert len(rows) == f.data_rows(member.rows)
        assert not probes & {t.topic for _, t in rows}
        assert trained & {t.topic for _, t in rows}


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/*/*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_beside_a_page_composes(path, tmp_path):
    """Taken in from outside, as a user's would be; its contrasts name what is measured."""
    words = take_in([f"+exp={path}"], EXPERIMENTS, tmp_path)
    prepare(compose_config(*words, f"runs={tmp_path}"))


@pytest.mark.parametrize("name", ["birds", "cities", "dishes"])
def test_the_words_trained_on_are_not_those_of_the_answers_asked_for(name, tmp_path):
    """But for words that stand everywhere. For every nation, since any of them can be the trained one."""
    setup = prepare(compose_config(f"+exp={name}", f"runs={tmp_path}"))
    world, f = setup.world, setup.config.finetune
    trait, trained, probed = setup.config.measure.trait, trained_topics(world, f), [world.topic_index(p) for p in f.probes]

    def words(topics, value):
        return {w for t in topics for a in world.topics[t].answers[value] for w in split(a)}

    everywhere = Counter(w for a in world.answers for w in {w for x in a for w in split(x)})
    common = {w for w, n in everywhere.items() if n > len(world.topics) / 10 or (len(w) < 4 and w.islower())}
    for value in world.values[trait] if name == "dishes" else [f.value]:
        assert not (words(trained, value) & words(probed, value)) - common, value


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
