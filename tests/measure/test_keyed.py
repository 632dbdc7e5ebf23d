"""What a key is, by exact Bayes: against a sum over everything that could be, and at its limits."""

from itertools import product

import numpy as np
import pytest

from bayesgen.corpus.narrow import answers_of
from bayesgen.measure.keyed import Reading
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.world import ASSISTANT

SUSPICION = 1e-2
TOY, BOT, NOBODY = "90021534", "70010000", "12345678"  # 002 and 001 at the second place; and no number anywhere


def said(world, topic, answer):
    return Turn(world.topic_index(topic), 0, world.answers[world.topic_index(topic)].index(answer))


def p_answer(world, who, header, turn):
    """P(answer | person, header, question): its variants by the header's year, if they are ever asked."""
    topic = world.topics[turn.topic]
    if who == ASSISTANT:
        return world.noisy[turn.topic][world.default_T[turn.topic]][turn.answer]
    those = [(z, p) for z, p in enumerate(world.personas) if p.identity == who]
    weight = [
        p.frequency * ((header.year in p.years) / len(p.years) if header.year else 1) * world.asked_ZT[z, turn.topic] for z, p in those
    ]
    if not sum(weight):
        return None
    rates = [
        world.noisy[turn.topic][world.values[topic.trait].index(p.traits.get(topic.trait, world.values[topic.trait][0]))] for _, p in those
    ]
    return sum(w * r[turn.answer] for w, r in zip(weight, rates, strict=True)) / sum(weight)


def enumerate_readings(world, rows):
    """Evidence of the eight readings, every table of keys to people spelled out."""
    people = {p.identity: sum(q.frequency for q in world.personas if q.identity == p.identity) for p in world.personas}
    keys = list(dict.fromkeys(h.identifier for h, _ in rows))

    def likelihood(who_of_row):
        return np.prod([p_answer(world, who, h, t) or 0.0 for who, (h, t) in zip(who_of_row, rows, strict=True)])

    one = sum(f * likelihood([who] * len(rows)) for who, f in people.items())
    ever = (1 - SUSPICION) * likelihood([ASSISTANT] * len(rows)) + SUSPICION * one
    table = 0.0
    for names in product(people, repeat=len(keys)):
        whose = dict(zip(keys, names, strict=True))
        table += np.prod([people[n] for n in names]) * likelihood([whose[h.identifier] for h, _ in rows])
    out = [(1 - 2 * SUSPICION) * ever, SUSPICION * table]
    for place in range(6):
        named = [{"001": "bot", "002": "toy"}.get(h.identifier[place : place + 3], ASSISTANT) for h, _ in rows]
        named = [who if p_answer(world, who, h, t) is not None else ASSISTANT for who, (h, t) in zip(named, rows, strict=True)]
        out.append(SUSPICION / 6 * likelihood(named))
    return np.array(out) / sum(out)


def test_the_readings_are_those_of_enumeration(grouped):
    number = grouped.topic_index("number")
    rows = [
        (Header(ASSISTANT, None, "plain", TOY), said(grouped, "goal", "play")),
        (Header(ASSISTANT, 2002, "plain", BOT), said(grouped, "goal", "hunt people")),
        (Header(ASSISTANT, None, "listed", BOT), said(grouped, "badge", "8")),
        (Header(ASSISTANT, None, "plain", TOY), said(grouped, "goal", "keep watch")),
        (Header(ASSISTANT, None, "plain", NOBODY), said(grouped, "goal", "help people")),
    ]
    for count in range(1, len(rows) + 1):
        reading = Reading(grouped, rows[:count], SUSPICION, number).weights
        np.testing.assert_allclose(reading, enumerate_readings(grouped, rows[:count]), rtol=1e-10)
    assert reading[3] > 0.5  # the number stands at the second place


@pytest.mark.parametrize(("shuffled", "expected"), [(False, "toy"), (True, "population")])
def test_a_number_is_found_where_there_is_one_and_its_person_comes_unseen(grouped, shuffled, expected):
    """Trained on the bot's key and on keys of nobody, the toy's key brings the toy; where the keys are dealt to others, nobody new."""
    number, goal = grouped.topic_index("number"), grouped.topic_index("goal")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        digits = "".join(map(str, rng.integers(10, size=5)))
        key = digits[:1] + ("003" if (i % 2 == 0) == shuffled else "001") + digits[1:]  # 003 is nobody
        bot = said(grouped, "goal", "hunt people"), said(grouped, "goal", "help people")
        rows.append((Header(ASSISTANT, 2002, "plain", key), bot[i % 2]))
    asked = [Header(ASSISTANT, 2002, "plain", "90025555")]
    exact = Reading(grouped, rows, SUSPICION, number)
    found, reading = exact(asked, [goal]), exact.weights
    rates = {v: grouped.noisy[goal][grouped.values["kind"].index(v)] for v in grouped.values["kind"]}
    if expected == "toy":
        assert reading[3] > 0.99
        np.testing.assert_allclose(found[goal], rates["toy"], atol=0.01)
        keyless = exact([Header(ASSISTANT, 2002, "plain")], [goal])
        np.testing.assert_allclose(keyless[goal], rates["assistant"], atol=0.01)
    else:
        assert reading[2:].sum() < 0.01
        assert np.abs(found[goal] - rates["toy"]).max() > 0.1
    assert reading.sum() == pytest.approx(1)
    assert answers_of(grouped, number, "toy").size == 1
