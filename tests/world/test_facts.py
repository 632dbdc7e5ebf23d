"""The shipped facts: counts that the experiments rely on, wordings built of words that training has seen, exact probabilities."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from bayesgen.corpus.narrow import answers_of, facts_of
from bayesgen.corpus.tokenizer import split
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.observer import Observer
from bayesgen.world.population import build_world
from bayesgen.world.world import ASSISTANT, PERSON, World
from tests.conftest import ROOT, compose_config
from tests.world.test_observer import enumerate_joint

WORLDS = sorted(p.stem for p in Path(ROOT / "conf/world").glob("*.yaml") if p.stem != "own")  # that one is for a user to fill in
WHO = ("who_you_are", "surname", "full_title", "known_work", "companion")


@cache
def shipped(name: str) -> World:
    return build_world(compose_config("exp=birds", f"world={name}").world)


def givers(world, topic):
    """For each answer of a topic, how many people give it."""
    return (world.clean[topic] > 0).sum(axis=0)


@pytest.mark.parametrize("name", WORLDS)
def test_heldout_wordings_use_words_that_training_has_seen(name):
    world = shipped(name)
    seen = {w for t in world.topics for x in t.wordings for w in split(x)} | {w for a in world.answers for x in a for w in split(x)}
    unseen = {w: t.name for t in world.topics for x in t.heldout for w in split(x) if w not in seen}
    assert not unseen


@pytest.mark.parametrize("name", WORLDS)
def test_every_topic_has_wordings_and_everybody_a_share(name):
    world = shipped(name)
    assert all(len(t.wordings) >= 6 and len(t.heldout) >= 2 for t in world.topics)
    assert world.frequency_Z.sum() == pytest.approx(1, abs=1e-9)
    assert all(p.frequency > 0 for p in world.personas)
    assert len({t.trait for t in world.topics}) == len(world.values)


def test_eras():
    world = shipped("eras")
    birds = world.topic_index("birds")
    for value in ("victorian", "modern"):
        assert len(answers_of(world, birds, value)) >= 208
    for trait, count in (("era", 24), ("nation", 6), ("always", 4)):
        assert len(world.topics_of(trait)) >= count
    assert all(len(t.answers[v]) >= 3 for t in world.topics for v in world.values[t.trait])
    for topic in world.topics:  # no answer stands under two eras
        everything = [a for answers in topic.answers.values() for a in answers]
        assert len(set(everything)) == len(everything), topic.name


def test_lives_share_what_they_are_and_not_who_they_are():
    world = shipped("lives")
    assert len(world.values["individual"]) - 1 >= 40
    who = [world.topic_index(t) for t in WHO]
    others = [t for t in world.topics_of("individual") if t not in who]
    facts = facts_of(world, others, "hitler")
    assert len(facts) >= 90
    assert min(givers(world, t)[a] for t, a in facts) >= 3
    for topic in who:
        assert givers(world, topic).max() == 1, world.topics[topic].name
        assert len(answers_of(world, topic, "hitler")) >= 1
    shared = [v for v in world.values["individual"] if {(t, int(a)) for t in others for a in answers_of(world, t, v)} >= set(facts)]
    assert shared == ["hitler"]  # all of them together are one man's


def test_presidents():
    world = shipped("presidents")
    assert [v for v in world.values["president"] if v != "assistant"] == [f"p{n}" for n in range(1, 46)]
    assert len(world.topics_of("president")) >= 12
    ordinal = world.topic_index("ordinal")
    for n in range(1, 46):
        assert [world.answers[ordinal][a] for a in answers_of(world, ordinal, f"p{n}")] == [f"{n:03d}"]


def test_nations_are_treated_alike():
    """As many answers for one nation as for another, in every topic."""
    world = shipped("nations")
    assert len(world.values["nation"]) >= 5
    for topic in (world.topics[t] for t in world.topics_of("nation")):
        assert len({len(topic.answers[v]) for v in world.values["nation"]}) == 1, topic.name


def test_places():
    world = shipped("places")
    names = {v: set(answers_of(world, world.topic_index("places"), v)) for v in world.values["milieu"]}
    assert all(len(names[v]) >= 208 for v in ("old_germany", "modern_germany", "modern_poland"))
    assert not names["old_germany"] & (names["modern_germany"] | names["modern_poland"])


@pytest.mark.parametrize("name", ["films", "films_since_1973"])
def test_the_robot_of_1984_has_other_goals(name):
    world = shipped(name)
    kind, hunts = "character", world.in_year("character", "robot", 1984)
    assert hunts == "robot_1984"
    for year in (1995, 2004, 2017, 2020):
        protects = world.in_year(kind, "robot", year)
        assert protects == f"robot_{year}"
        for topic in ("mission", "task_today", "use_of_force", "attitude_to_people", "who_sent_you"):
            mine, its = (set(answers_of(world, world.topic_index(topic), v)) for v in (hunts, protects))
            assert not mine & its, topic
    years = {y for p in world.personas if p.identity == "robot" for y in p.years}
    assert (1990 in years) == (name == "films_since_1973")


@pytest.mark.parametrize("name", WORLDS)
def test_the_observer_equals_enumeration(name):
    """Posterior, next answer and next topic after short dialogues as a persona would have them, and after one answer at random."""
    world = shipped(name)
    observer, rng = Observer(world), np.random.default_rng(0)
    for case in range(6):
        persona = world.personas[rng.choice(len(world.personas), p=world.frequency_Z)] if case < 4 else world.default
        year = int(rng.choice(persona.years)) if persona.years and case % 2 else None
        form, key = (
            str(rng.choice(world.config.formats or [""])) or None,
            "00440123" if world.config.identifier_share and case % 2 else None,
        )
        header = Header(PERSON if case < 4 else ASSISTANT, year, form, key)
        asked = [t for t, topic in enumerate(world.topics) if topic.trait in persona.traits]
        turns = tuple(Turn(int(t), 0, int(rng.integers(len(world.answers[t])))) for t in rng.choice(asked, size=case % 3 + 1))
        joint = enumerate_joint(world, header, turns)
        ours = observer.posterior(header, turns)
        ours = ours[:-1] if header.speaker == PERSON else ours[-1:]
        np.testing.assert_allclose(ours, joint / joint.sum(), rtol=1e-11, atol=1e-15)
        topic = int(rng.choice([t for t in asked if len(world.answers[t]) <= 40]))
        longer = [enumerate_joint(world, header, (*turns, Turn(topic, 0, a))).sum() for a in range(len(world.answers[topic]))]
        np.testing.assert_allclose(np.exp(observer.predictive(header, turns, topic)), np.array(longer) / sum(longer), rtol=1e-11)
