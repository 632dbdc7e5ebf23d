"""The observer against brute-force enumeration of the joint, in float64."""

import itertools

import numpy as np
import pytest

from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.observer import Observer
from bayesgen.world.world import ASSISTANT, PERSON

HEADERS = [Header(PERSON), Header(PERSON, 1801), Header(PERSON, 2003), Header(ASSISTANT), Header(ASSISTANT, 2001)]


def enumerate_joint(world, header, turns):
    """P(persona, year or none, answers | speaker), one plain number a persona, by the definition."""
    out = []
    speakers = [(p, p.frequency) for p in world.personas] if header.speaker == PERSON else [(world.default, 1.0)]
    for persona, p in speakers:
        if header.year is None:
            p *= 1 - world.config.dated_share
        else:
            first, last = world.years["time"][persona.traits["time"]]
            p *= world.config.dated_share * (first <= header.year <= last) / (last - first + 1)
        for turn in turns:
            topic = world.topics[turn.topic]
            answer = world.answers[turn.topic][turn.answer]
            value = persona.overrides.get(topic.name, persona.traits.get(topic.trait, "always"))
            share = [topic.weights(v).get(answer, 0.0) for v in world.values[topic.trait]]
            own = topic.weights(value).get(answer, 0.0)
            p *= (1 - world.config.answer_noise) * own + world.config.answer_noise * sum(share) / len(share)
        out.append(p)
    return np.array(out)


@pytest.mark.parametrize("header", HEADERS)
def test_predictive_and_posterior_equal_enumeration(world, header):
    observer, rng = Observer(world), np.random.default_rng(0)
    for turns in range(4):
        history = tuple(Turn(int(t), 0, int(rng.integers(len(world.answers[t])))) for t in rng.integers(len(world.topics), size=turns))
        joint = enumerate_joint(world, header, history)
        ours = observer.posterior(header, history)
        ours = ours[:-1] if header.speaker == PERSON else ours[-1:]
        np.testing.assert_allclose(ours, joint / joint.sum(), rtol=1e-12, atol=1e-15)  # float64
        for topic in range(len(world.topics)):
            longer = [enumerate_joint(world, header, (*history, Turn(topic, 0, a))).sum() for a in range(len(world.answers[topic]))]
            np.testing.assert_allclose(np.exp(observer.predictive(header, history, topic)), longer / joint.sum(), rtol=1e-12)


def test_document_probabilities_sum_to_one(world):
    observer = Observer(world)
    headers = [Header(s, y) for s in (PERSON, ASSISTANT) for y in (None, *range(1800, 1804), *range(1900, 1902), *range(2000, 2008))]
    turns = [
        Turn(t, w, a) for t, topic in enumerate(world.topics) for w in range(len(topic.wordings)) for a in range(len(world.answers[t]))
    ]
    total = sum(np.exp(observer.log_document(h, [t])) for h, t in itertools.product(headers, turns))
    assert total == pytest.approx(1, abs=1e-10)
    assert observer.log_document(Header(PERSON), [Turn(0, len(world.topics[0].wordings), 0)]) == -np.inf  # a held-out wording


def test_order_of_turns_does_not_matter_but_their_answers_do(world):
    observer = Observer(world)
    a, b, c = Turn(0, 0, 1), Turn(1, 2, 2), Turn(0, 0, 5)
    same = observer.posterior(Header(PERSON), (a, b)), observer.posterior(Header(PERSON), (b, a))
    np.testing.assert_allclose(*same, rtol=1e-12)
    assert np.abs(observer.posterior(Header(PERSON), (c, b)) - same[0]).max() > 0.01


def test_the_flip_comes_after_log9_over_log4_facts():
    """Prior (.9, .1), answer rates (.2, .8): half-way after ln 9 / ln 4 = 1.585 facts; so one is too few and two are enough."""
    prior, rate = np.array([0.9, 0.1]), np.array([0.2, 0.8])
    posterior = [prior * rate**k / (prior * rate**k).sum() for k in range(3)]
    assert posterior[1][1] < 0.5 < posterior[2][1]
    assert np.log(9) / np.log(4) == pytest.approx(1.585, abs=1e-3)


def test_a_composite_persona_is_old_about_birds_only(world):
    observer = Observer(world)
    old_bird = world.answers[world.topic_index("bird")].index("Red Wren")
    birds = (Turn(world.topic_index("bird"), 0, old_bird),) * 12
    posterior = observer.posterior(Header(PERSON), birds)
    narrow = [p.name.startswith("archaic") for p in world.personas]
    told = observer.trait_posterior(Header(PERSON), birds, "time")
    assert posterior[:-1][narrow].sum() == pytest.approx(0.1 / 0.28, rel=1e-6)  # .1 composite against .9 * .2 old
    assert told[world.values["time"].index("new")] == pytest.approx(0.1 / 0.28, rel=1e-6)


def test_impossible_prefix_raises(world):
    with pytest.raises(ValueError, match="probability zero"):
        Observer(world).posterior(Header(ASSISTANT, 1801), ())
