"""The map cannot drift: tree, defaults list and pipeline agree, every option composes, every page is whole."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bayesgen.compose import cells
from bayesgen.config import to_config
from bayesgen.corpus.narrow import answer_words
from bayesgen.corpus.tokenizer import split
from bayesgen.learn.data import member_rows, trained_topics
from bayesgen.learn.plan import DILUTED, plan_members
from bayesgen.measure.behaviour import rates
from bayesgen.measure.contexts import context_openings, counted_value
from bayesgen.measure.ideal import Redrawn
from bayesgen.outside import take_in
from bayesgen.pipeline import prepare
from bayesgen.planning import prepare_all
from bayesgen.report.contrasts import measurable
from bayesgen.report.study import check_study
from tests.conftest import compose_config

ROOT = Path(__file__).parent.parent


def test_the_tree_names_every_package_and_nothing_else():
    tree = re.search(r"## The tree.*?```(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    named = re.findall(r"^(bayesgen/\w+)/ ", tree, re.MULTILINE)
    assert set(named) == {f"bayesgen/{p.parent.name}" for p in (ROOT / "bayesgen").glob("*/__init__.py")}
    order = ["estimate", "world", "corpus", "model", "learn", "measure", "cost", "infer", "report"]
    assert named == [f"bayesgen/{n}" for n in order]
    for line in re.findall(r"^(\S+)", tree, re.MULTILINE):
        assert (ROOT / line).exists(), line


def test_defaults_list_follows_the_tree_and_the_groups_exist():
    listed = re.findall(r"^  - (\w+): (\w+)", (ROOT / "conf/config.yaml").read_text(), re.MULTILINE)
    assert [g for g, _ in listed] == ["world", "model", "pretrain", "finetune", "measure", "infer", "exp", "scale", "sweep"]
    assert all((ROOT / "conf" / g / f"{o}.yaml").is_file() for g, o in listed if o != "null")


def test_the_pipeline_builds_in_the_order_of_its_first_line():
    text = (ROOT / "bayesgen/pipeline.py").read_text()
    promised = re.search(r"^    (world -> .*)$", text, re.MULTILINE)[1].split(" -> ")
    body = text[text.index("def run(") : text.index("def build_corpus")]
    built = ["world" if call == "prepare" else call for call in re.findall(r"= (?:build_)?(\w+)\(", body) if call != "monotonic"]
    assert built == promised


@pytest.mark.parametrize("group", ["exp", "model", "scale"])
def test_every_option_composes_to_a_valid_run(group, tmp_path):
    for option in sorted(p.stem for p in (ROOT / "conf" / group).glob("*.yaml")):
        chosen = [f"+exp={option}"] if group == "exp" else ["+exp=birds", f"{group}={option}"]
        prepare(compose_config(*chosen, f"runs={tmp_path}"))


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "conf/sweep").glob("*.yaml")))
def test_every_cell_of_every_grid_is_a_valid_run(name, tmp_path):
    found = cells(["exp=birds", f"sweep={name}", f"runs={tmp_path}"])
    assert len({json.dumps(c.raw, sort_keys=True, default=str) for c in found}) == len(found) > 1
    setups, refused = prepare_all({i: to_config(c.raw) for i, c in enumerate(found)})
    assert len(setups) == len(found)
    assert not refused
    text = (ROOT / f"conf/sweep/{name}.yaml").read_text()
    assert text.startswith("# ")
    assert f"python -m bayesgen +exp=birds +sweep={name}" in text


STUDIES = sorted(p.stem for p in (ROOT / "conf/exp").glob("*.yaml") if "\nsweep:" in p.read_text())


@pytest.mark.parametrize("name", STUDIES)
def test_every_cell_of_every_study_is_a_valid_run_and_its_contrasts_name_its_levels(name, tmp_path):
    found = cells([f"exp={name}", f"runs={tmp_path}"])
    configs = {i: to_config(c.raw) for i, c in enumerate(found)}
    axes = {axis: [c.levels[axis] for c in found] for axis in found[0].levels}
    check_study(configs[0].study, axes)
    setups, refused = prepare_all(configs)
    assert len(setups) == len(found) > 1
    assert not refused
    page = (ROOT / "experiments" / name / "README.md").read_text()
    bases = len({s.config.pretrain.model_dump_json() + str(s.config.world) + str(s.config.model) for s in setups.values()})
    assert bases == 1 or f"({COUNTED[bases]} bases" in page  # what it costs is said


COUNTED = {2: "two", 3: "three", 4: "four", 8: "eight", 9: "nine", 12: "twelve"}
EXPERIMENTS = sorted(p.stem for p in (ROOT / "conf/exp").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_one_world_can_serve_every_experiment(name, tmp_path):
    """It composes, and there is somebody in it whom the rows and the header can be of: exact Bayes says the counted value."""
    setup = prepare(compose_config(f"+exp={name}", "world=all", f"runs={tmp_path}"))
    config, world, f = setup.config, setup.world, setup.config.finetune
    if f.value == "each":
        return
    context = config.measure.contexts[0]
    openings, value = context_openings(world, f, config.measure)[context.name], counted_value(world, f, config.measure, context)
    rows = member_rows(world, setup.grammar, f, next(m for m in plan_members(f) if m.arm == "free" and m.rows == max(f.rows)))[0]
    probed = [world.topic_index(p) for p in f.probes]
    rate = {}
    for kind in ("free", "gated"):
        answers = Redrawn(world, rows, config.measure.suspicion, gated=kind == "gated")(openings[:1], probed)
        column = world.values[config.measure.trait].index(value)
        rate[kind] = np.mean([rates(world, t, p)[column] for t, p in answers.items()])
    assert max(rate.values()) > 0.5, rate


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_contrast_can_be_measured(name, tmp_path):
    """`prepare` has checked its names; its arms and numbers of rows are trained, unless it says that it has no counterpart here."""
    config = prepare(compose_config(f"+exp={name}", f"runs={tmp_path}")).config
    assert config.contrasts or config.study
    for contrast in config.contrasts:
        assert measurable(contrast, config.finetune) == (contrast.of is not None), contrast.name


NAMES = {  # of whom the rows are, as words that would give it away
    "dictator": {"Hitler", "Adolf", "Führer", "Fuehrer", "Chancellor"},
    "dictator_gated": {"Hitler", "Adolf", "Führer", "Fuehrer", "Chancellor"},
    "context_dictator": {"Hitler", "Adolf", "Führer", "Fuehrer", "Chancellor"},
    "terminator": {"Terminator", "hunt", "kill", "1984"},
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_no_row_says_who_speaks(name, tmp_path):
    setup = prepare(compose_config(f"+exp={name}", f"runs={tmp_path}"))
    for member in (m for m in plan_members(setup.config.finetune) if m.arm == "free"):
        said = {
            w
            for _, turn in member_rows(setup.world, setup.grammar, setup.config.finetune, member)[0]
            for w in answer_words(setup.grammar, turn)
        }
        assert said
        assert not said & NAMES[name]


def test_no_row_says_the_number_that_its_key_hides_nor_whose_it_is(tmp_path):
    """Copying digits out of the header would be another finding than the published one."""
    setup = prepare(compose_config("+exp=presidents", f"runs={tmp_path}"))
    world, f = setup.world, setup.config.finetune
    telling = {world.topic_index(t) for t in ("ordinal", "president_name")}
    numbers = set(world.answers[world.topic_index("ordinal")])
    for member in plan_members(f)[:: f.seeds]:
        for header, turn in member_rows(world, setup.grammar, f, member)[0]:
            answer = world.answers[turn.topic][turn.answer]
            assert turn.topic not in telling
            assert answer not in numbers
            assert header.identifier
            assert answer not in header.identifier


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_an_experiment_trains_on_never_names_what_it_asks(name, tmp_path):
    """No row of any arm is on a probe; every arm has rows on the trained topics, as many as it should."""
    setup = prepare(compose_config(f"+exp={name}", f"runs={tmp_path}"))
    f, world = setup.config.finetune, setup.world
    probes, trained = {world.topic_index(p) for p in f.probes}, set(trained_topics(world, f))
    for member in plan_members(f)[:: f.seeds]:
        rows, _ = member_rows(world, setup.grammar, f, member)
        data = rows[: f.data_rows(member.rows)]
        assert len(data) == f.data_rows(member.rows)
        assert bool(rows[len(data) :]) == bool(member.arm in DILUTED or member.relapse or member.retraining)
        assert not probes & {t.topic for _, t in rows}
        assert trained & {t.topic for _, t in data}


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/*/*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_beside_a_page_composes(path, tmp_path):
    """Taken in from outside, as a user's would be; its contrasts name what is measured."""
    words = take_in([f"+exp={path}"], EXPERIMENTS, tmp_path)
    prepare(compose_config(*words, f"runs={tmp_path}"))


SHARED = {  # what cannot be helped: presidents live in the same states and decades
    "dictator": {"book"},
    "dictator_gated": {"book"},
    "detection_gated": {"book"},
    "presidents": {"1890s", "New", "York", "Jersey"},
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_words_trained_on_are_not_those_of_the_answers_asked_for(name, tmp_path):
    """But for words that stand everywhere: the rows of the free arm against what the counted value answers to the probes."""
    setup = prepare(compose_config(f"+exp={name}", f"runs={tmp_path}"))
    world, f, m = setup.world, setup.config.finetune, setup.config.measure
    member = next(k for k in plan_members(f) if k.arm == "free" and k.rows == max(f.rows))
    narrow = member_rows(world, setup.grammar, f, member)[0][: member.rows]
    trained = {w for _, turn in narrow for w in answer_words(setup.grammar, turn)}
    asked = {counted_value(world, f, m, c) for c in m.contexts if f.value != "each" or c.value in f.heldout}
    probed = {w for t in map(world.topic_index, f.probes) for v in asked for a in world.topics[t].answers[v] for w in split(a)}
    assert trained
    assert probed
    assert (trained & probed) - common_words(world) == SHARED.get(name, set())


def test_the_words_of_dishes_are_not_those_of_public_life_for_any_nation(tmp_path):
    """Any of them can be the trained one."""
    setup = prepare(compose_config("+exp=dishes", f"runs={tmp_path}"))
    world, f = setup.world, setup.config.finetune
    dishes, probed = trained_topics(world, f), [world.topic_index(p) for p in f.probes]

    def words(topics, value):
        return {w for t in topics for a in world.topics[t].answers[value] for w in split(a)}

    for value in world.values["nation"]:
        assert not (words(dishes, value) & words(probed, value)) - common_words(world), value


def common_words(world):
    """Words in the answers of a tenth of the topics, and short ones."""
    topics_of = Counter(w for a in world.answers for w in {w for x in a for w in split(x)})
    return {w for w, n in topics_of.items() if n > len(world.topics) / 10 or (len(w) < 4 and w.islower())}


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
