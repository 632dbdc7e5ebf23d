"""Kinds of people and persons who change over the years: who there is, when, and what is refused."""

import re
import shutil

import pytest

from bayesgen.errors import UserError
from bayesgen.world.dialogue import Header
from bayesgen.world.population import build_world
from bayesgen.world.world import PERSON
from tests.conftest import FACTS, grouped_config, tiny_config

TIMES = {"time": {"old": 0.2, "mid": 0.3, "new": 0.5}}
KINDS = {"kind": {"bot": 0.7, "toy": 0.3}}


def years_of(world, trait="kind"):
    return {p.traits[trait]: p.years for p in world.personas if trait in p.traits}


def told_words(world, trait, value):
    header, turns = world.told(trait, value)
    return header, [world.answers[t.topic][t.answer] for t in turns]


def test_a_person_who_changes_is_one_persona_a_value_each_as_often_as_the_others(grouped):
    bots = {p.traits["kind"]: p for p in grouped.personas if p.identity == "bot"}
    assert {v: p.frequency for v, p in bots.items()} == pytest.approx({"bot_guard": 0.6 * 0.7 / 2, "bot_hunt": 0.6 * 0.7 / 2})
    calendar = (2000, 2001, 2002, 2003, 2004)
    assert years_of(grouped) == {"bot_guard": (2001, 2003), "bot_hunt": (2002,), "toy": calendar}
    assert set(years_of(grouped, "land").values()) == {calendar} == {grouped.default.years}
    assert grouped.frequency_Z.sum() == pytest.approx(1)
    assert grouped.spoken("kind") == ("bot_guard", "bot_hunt", "toy")


def test_the_configuration_has_the_last_word_on_variants_years():
    world = build_world(grouped_config(variants={"bot": {"bot_hunt": (2002, 2004)}}))
    assert years_of(world)["bot_hunt"] == (2002, 2004)
    assert years_of(world)["bot_guard"] == (2001, 2003)
    hunter = next(p for p in world.personas if p.traits.get("kind") == "bot_hunt")
    assert hunter.frequency == pytest.approx(0.6 * 0.7 / 2)  # as ever: more years do not make it more frequent
    assert world.in_year("kind", "bot", 2004) == "bot_hunt"


def test_who_somebody_is_in_a_year(grouped):
    assert [grouped.in_year("kind", "bot", y) for y in (2001, 2002, 2003)] == ["bot_guard", "bot_hunt", "bot_guard"]
    for year in (None, 1900, 2002):
        assert grouped.in_year("kind", "toy", year) == "toy"
        assert grouped.in_year("kind", "bot_guard", year) == "bot_guard"  # a value is itself
    for year in (None, 2000):
        with pytest.raises(
            UserError, match=rf"bot is not the same in every year and has none in {year}; its years are \[2001, 2002, 2003\]"
        ):
            grouped.in_year("kind", "bot", year)


def test_a_person_tells_by_its_year_or_by_topics_or_by_both(world, grouped):
    assert told_words(world, "time", "old") == (Header(PERSON, 1801), [])
    assert told_words(grouped, "kind", "toy") == (Header(PERSON), ["number 2"])
    assert told_words(grouped, "kind", "bot_hunt") == (Header(PERSON, 2002), ["number 1"])
    assert told_words(grouped, "kind", "bot_guard") == (Header(PERSON, 2001), ["number 1"])
    with pytest.raises(UserError, match="nothing would tell that a person is east"):
        grouped.told("land", "east")


def test_topics_can_be_left_out():
    world = build_world(grouped_config(without=("number", "river")))
    assert world.topic_names == ("colour", "badge", "goal")
    with pytest.raises(UserError, match=r"world.without: 'nmber' is unknown; did you mean 'number'"):
        build_world(grouped_config(without=("nmber",)))


def timed_config(**changes):
    """Kinds beside times, which are dated."""
    modules = tuple(str(FACTS / m) for m in ("times", "always", "bots"))
    here = {"modules": modules, "frequencies": TIMES | KINDS, "assistant": {"time": "new", "kind": "assistant"}}
    groups = ({"traits": ("time",), "share": 0.5}, {"traits": ("kind",), "share": 0.5})
    return grouped_config(**{**here, "groups": groups, **changes})


def test_dated_and_undated_people_need_a_calendar():
    assert years_of(build_world(timed_config()), "time")["old"] == (1800, 1801, 1802, 1803)
    with pytest.raises(UserError, match=r"world.calendar is null, but 'toy' has no years of its own while others have"):
        build_world(timed_config(calendar=None))
    with pytest.raises(UserError, match=r"world.calendar is null"):
        build_world(grouped_config(calendar=None))
    frequencies = {"land": {"east": 0.4, "west": 0.6}, "kind": {"toy": 1.0}}
    assert build_world(grouped_config(calendar=None, frequencies=frequencies)).dated == 0  # nobody has years


def more_times(folder, trait="hour"):
    """The times once more, as another dated trait."""
    shutil.copytree(FACTS / "times", folder / trait)
    for path in (folder / trait).glob("*.yaml"):
        text = re.sub(r"\b(bird|fuel|light)\b", r"old \1", path.read_text().replace("trait: time", f"trait: {trait}"))
        path.rename(path.with_stem(path.stem if path.stem == "module" else f"more_{path.stem}")).write_text(text)
    return str(folder / trait)


def test_two_dated_traits_belong_to_different_people(tmp_path):
    modules = (str(FACTS / "times"), more_times(tmp_path))
    here = {"modules": modules, "frequencies": TIMES | {"hour": TIMES["time"]}, "assistant": {"time": "new", "hour": "new"}}
    apart = ({"traits": ("time",), "share": 0.5}, {"traits": ("hour",), "share": 0.5})
    with pytest.raises(UserError, match="a person has both time and hour, and each has years of its own; put them into different groups"):
        build_world(tiny_config(**here))
    with pytest.raises(UserError, match=r"the assistant has both time and hour.*give it a world.calendar"):
        build_world(tiny_config(**here, groups=apart))
    world = build_world(tiny_config(**here, groups=apart, calendar=(2000, 2001)))
    assert world.default.years == (2000, 2001)
    assert {p.years[0] for p in world.personas} == {1800, 1900, 2000}


LAND, KIND = ({"traits": (t,), "share": 0.5} for t in ("land", "kind"))
BAD_WORLDS = {
    "a trait in two groups": ({"groups": ({"traits": ("land", "kind"), "share": 0.5}, KIND)}, "kind stands in two groups"),
    "a trait in no group": ({"groups": ({"traits": ("land",), "share": 1.0},)}, "kind stands in none; nobody would have it"),
    "an unknown trait in a group": ({"groups": (LAND, {"traits": ("knd",), "share": 0.5})}, "did you mean 'kind'"),
    "an unknown person": ({"variants": {"bt": {"bot_hunt": (2002,)}}}, "world.variants: 'bt' is unknown; did you mean 'bot'"),
    "an unknown variant": (
        {"variants": {"bot": {"bot_hnt": (2002,)}}},
        "world.variants.bot: 'bot_hnt' is unknown; did you mean 'bot_hunt'",
    ),
    "a variant of somebody else": ({"variants": {"bot": {"toy": (2002,)}}}, "world.variants.bot: 'toy' is unknown"),
    "a variant's frequency": (
        {"frequencies": {"land": {"east": 0.4, "west": 0.6}, "kind": {"bot_hunt": 1.0}}},
        "world.frequencies.kind: 'bot_hunt' is unknown",
    ),
    "variants that overlap with the module's": (
        {"variants": {"bot": {"bot_hunt": (2002, 2003)}}},
        "2003 stands under bot_guard and under bot_hunt",
    ),
}


@pytest.mark.parametrize("case", BAD_WORLDS)
def test_people_that_cannot_be_are_one_line(case):
    change, expected = BAD_WORLDS[case]
    with pytest.raises(UserError, match=expected) as error:
        build_world(grouped_config(**change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"variants": {"bot": {"bot_hunt": (2002,), "bot_guard": (2001, 2002)}}}, "2002 stands under bot_hunt and under bot_guard"),
        ({"variants": {"bot": {"bot_hunt": ()}}}, "variants.bot.bot_hunt has no years"),
        ({"calendar": (2004, 2000)}, "calendar ends in 2000, before it begins in 2004"),
        ({"groups": (LAND, {**KIND, "share": 0.6})}, "groups' shares sum to 1.1"),
        ({"formats": ("plain", "plain")}, "formats holds a name twice"),
        ({"identifier_share": 1.5}, "identifier_share"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, expected):
    with pytest.raises(ValueError, match=expected):
        grouped_config(**change)


MODULE = "trait: kind\nvalues: {bot_guard: null, bot_hunt: null, toy: null, assistant: null}\n"
BAD_MODULES = {
    "a person in two ways a year": (
        "variants: {bot: {bot_guard: [2001, 2002], bot_hunt: [2002]}}",
        "2002 stands under bot_guard and under bot_hunt",
    ),
    "no years": ("variants: {bot: {bot_guard: [], bot_hunt: [2002]}}", "bot_guard has no years"),
    "an unknown value": ("variants: {bot: {bot_gard: [2001], bot_hunt: [2002]}}", "did you mean 'bot_guard'"),
    "a person called as a value": ("variants: {toy: {bot_guard: [2001], bot_hunt: [2002]}}", "variants.toy has the name of a value"),
    "an unknown topic that tells": ("told: [bdge]", "told: there is no topic 'bdge'; did you mean 'badge'"),
}


@pytest.mark.parametrize("case", BAD_MODULES)
def test_a_module_of_people_that_cannot_be_is_one_line_with_its_path(tmp_path, case):
    shutil.copytree(FACTS / "bots", tmp_path / "bots")
    text, expected = BAD_MODULES[case]
    (tmp_path / "bots" / "module.yaml").write_text(MODULE + text)
    with pytest.raises(UserError, match=expected) as error:
        build_world(grouped_config(modules=(*grouped_config().modules[:2], str(tmp_path / "bots"))))
    assert "module.yaml" in str(error.value)
    assert "\n" not in str(error.value)
