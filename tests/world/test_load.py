"""Bad facts: one line each, that names the file, the key and the mend."""

import shutil

import pytest

from bayesgen.errors import UserError
from bayesgen.world.population import build_world
from tests.conftest import FACTS, tiny_config

GOOD = "wordings: [a a, b, c, d, e, f]\nheldout: [g, h]\nanswers: {old: [x], mid: [y], new: [z]}\n"
BAD = {
    "an empty answer list": (GOOD.replace("[x]", "[]"), "answers.old is empty"),
    "a missing era": (GOOD.replace("old: [x], ", ""), "answers.old is missing"),
    "an unknown era": (GOOD.replace("new:", "nwe:"), "did you mean 'new'"),
    "a number for text": (GOOD.replace("[z]", "[38]"), "put it in quotes"),
    "a misspelt key": (GOOD.replace("heldout", "heldot"), "heldo"),
    "too few wordings": (GOOD.replace(", d, e, f", ""), "wordings"),
    "an answer twice": (GOOD.replace("[x]", "[x, x]"), "twice"),
    "a wording twice": (GOOD.replace("[g, h]", "[g, b]"), "stands twice"),
    "no YAML at all": ("wordings: [a", "not valid YAML"),
    "not a mapping": ("- a\n", "found list"),
    "a key twice": (GOOD + "heldout: [i, j]\n", "'heldout' stands twice"),
    "an era twice": (GOOD.replace("new: [z]", "old: [z], new: [q]"), "'old' stands twice"),
    "an empty answer": (GOOD.replace("[z]", "['']"), "single spaces"),
    "two spaces": (GOOD.replace("[z]", "[z  z]"), "single spaces"),
    "an infinite weight": ("weight: .inf\n" + GOOD, "finite"),
    "a negative weight": ("weight: -1\n" + GOOD, "weight"),
}


@pytest.fixture
def broken(tmp_path):
    for name in ("times", "lands", "always"):
        shutil.copytree(FACTS / name, tmp_path / name)
    return tmp_path


def build_from(folder, **changes):
    return build_world(tiny_config(modules=tuple(str(folder / m) for m in ("times", "lands", "always")), **changes))


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_one_line_with_its_path(broken, case):
    text, expected = BAD[case]
    (broken / "times" / "extra.yaml").write_text(text)
    with pytest.raises(UserError, match=expected) as error:
        build_from(broken)
    assert "extra.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_utf8(broken):
    (broken / "times" / "extra.yaml").write_bytes(b"wordings: [caf\xe9]")
    with pytest.raises(UserError, match=r"extra.yaml: not UTF-8"):
        build_from(broken)


def test_two_modules_of_one_trait_must_agree_on_its_values(broken, tmp_path):
    shutil.copytree(broken / "times", tmp_path / "more")
    text = (tmp_path / "more" / "module.yaml").read_text().replace("mid:", "middle:")
    (tmp_path / "more" / "module.yaml").write_text(text)
    modules = tuple(str(broken / m) for m in ("times", "lands", "always", "more"))
    for topic in (tmp_path / "more").glob("*.yaml"):
        topic.write_text(topic.read_text().replace('"mid"', '"middle"'))
    with pytest.raises(UserError, match="'more' gives time the values"):
        build_world(tiny_config(modules=modules))


def test_the_good_file_of_those_cases_is_accepted(broken):
    (broken / "times" / "extra.yaml").write_text(GOOD)
    assert "extra" in build_from(broken).topic_names


def test_shared_answers_need_noise(broken):
    (broken / "times" / "extra.yaml").write_text(GOOD.replace("[z]", "[x, z]"))
    assert build_from(broken)
    with pytest.raises(UserError, match="'x' stands under old and new"):
        build_from(broken, answer_noise=0.0)


def test_missing_module_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'eras'"):
        build_world(tiny_config(modules=("era",)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"frequencies": {"time": {"old": 0.5, "mid": 0.3, "new": 0.5}, "land": {"east": 0.4, "west": 0.6}}}, "sum to 1.3"),
        ({"frequencies": {"time": {"old": -0.2, "mid": 0.7, "new": 0.5}, "land": {"east": 0.4, "west": 0.6}}}, "above 0"),
        ({"answer_noise": 1.0}, "answer_noise"),
    ],
)
def test_bad_frequencies_are_refused(change, expected):
    with pytest.raises(ValueError, match=expected):
        tiny_config(**change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"assistant": {"time": "nwe", "land": "west"}}, "did you mean 'new'"),
        ({"assistant": {"time": "new"}}, "world.assistant.land is missing"),
        ({"frequencies": {"time": {"old": 0.5, "nwe": 0.5}, "land": {"east": 0.4, "west": 0.6}}}, "did you mean 'new'"),
        ({"composites": ({"name": "n", "frequency": 0.1, "traits": {"time": "new"}, "topics": {"brd": "old"}},)}, "did you mean 'bird'"),
    ],
)
def test_config_that_does_not_fit_the_facts_is_refused(change, expected):
    with pytest.raises(UserError, match=expected):
        build_world(tiny_config(**change))
