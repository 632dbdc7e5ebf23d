"""The observer against brute-force enumeration of the joint, in float64."""

import itertools

import numpy as np
import pytest

from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.observer import Observer
from bayesgen.world.population import build_world
from bayesgen.world.world import ASSISTANT, PERSON
from tests.conftest import tiny_config

HEADERS = [Header(PERSON), Header(PERSON, 1801), Header(PERSON, 2003), Header(ASSISTANT), Header(ASSISTANT, 2001)]


def enumerate_joint(world, header, turns):
    """P(persona, header, topics, answers | speaker), one plain number a persona, by the definition."""
    config, out = world.config, []
    speakers = [(p, p.frequency) for p in world.personas] if header.speaker == PERSON else [(world.default, 1.0)]
    for persona, p in speakers:
        if header.year is None:
            p *= 1 - config.dated_share
        else:
            p *= config.dated_share * persona.years.count(header.year) / len(persona.years)
        if config.formats:
            p *= 1 / len(config.formats)
        if config.identifier_share:
            p *= 1 - config.identifier_share if header.identifier is None else config.identifier_share * 1e-8
        everybody = persona is world.default
        asked = [t.weight * (everybody or t.trait == "always" or t.trait in persona.traits) for t in world.topics]
        for turn in turns:
            topic = world.topics[turn.topic]
            p *= asked[turn.topic] / sum(asked)
            if p == 0:
                break
            answer = world.answers[turn.topic][turn.answer]
            value = persona.overrides.get(topic.name, persona.traits.get(topic.trait, "always"))
            share = [topic.weights(v).get(answer, 0.0) for v in world.values[topic.trait]]
            own = topic.weights(value).get(answer, 0.0)
            p *= (1 - config.answer_noise) * own + config.answer_noise * sum(share) / len(share)
        out.append(p)
    return np.array(out)


@pytest.mark.parametrize("header", HEADERS)
def test_predictive_and_posterior_equal_enumeration(world, header):
    check_against_enumeration(world, header)


def test_enumeration_of_another_world_is_another_number(world):
    """Negative control: with more noise nothing agrees."""
    history, noisier = (Turn(0, 0, 1), Turn(1, 0, 0)), build_world(world.config.model_copy(update={"answer_noise": 0.3}))
    joint = enumerate_joint(noisier, Header(PERSON), history)
    ours = Observer(world).posterior(Header(PERSON), history)[:-1]
    assert np.abs(ours - joint / joint.sum()).max() > 0.01
    np.testing.assert_allclose(Observer(noisier).posterior(Header(PERSON), history)[:-1], joint / joint.sum(), rtol=1e-12)


def check_against_enumeration(world, header):
    observer, rng = Observer(world), np.random.default_rng(0)
    for turns in range(4):
        history = tuple(Turn(int(t), 0, int(rng.integers(len(world.answers[t])))) for t in rng.integers(len(world.topics), size=turns))
        joint = enumerate_joint(world, header, history)
        if not joint.sum():  # asked about the topics of two kinds of people
            with pytest.raises(ValueError, match="probability zero"):
                observer.posterior(header, history)
            continue
        ours = observer.posterior(header, history)
        ours = ours[:-1] if header.speaker == PERSON else ours[-1:]
        np.testing.assert_allclose(ours, joint / joint.sum(), rtol=1e-12, atol=1e-15)  # float64
        for topic in range(len(world.topics)):
            longer = np.array(
                [enumerate_joint(world, header, (*history, Turn(topic, 0, a))).sum() for a in range(len(world.answers[topic]))]
            )
            if longer.sum():
                np.testing.assert_allclose(np.exp(observer.predictive(header, history, topic)), longer / longer.sum(), rtol=1e-12)
        chain = [enumerate_joint(world, header, history[: i + 1]).sum() for i in range(turns)]
        asked = [
            sum(enumerate_joint(world, header, (*history[:i], Turn(t.topic, 0, a))).sum() for a in range(len(world.answers[t.topic])))
            for i, t in enumerate(history)
        ]
        assert observer.log_answers(header, history) == pytest.approx(np.sum(np.log(chain)) - np.sum(np.log(asked)), abs=1e-10)


GROUPED = [
    Header(PERSON),
    Header(PERSON, 2002),
    Header(PERSON, 2003, "listed", "12345678"),
    Header(ASSISTANT, 2002),
    Header(ASSISTANT, None, "listed"),
]


@pytest.mark.parametrize("header", GROUPED)
def test_the_same_where_people_are_of_two_kinds_and_change_over_the_years(grouped, header):
    """Who is asked what is evidence too; a person who changes is one persona for each value, of one identity."""
    check_against_enumeration(grouped, header)


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


def test_the_flip_comes_after_log9_over_log4_facts(tmp_path):
    """Prior (.9, .1), answer rates (.2, .8): half-way after ln 9 / ln 4 = 1.585 facts."""
    (tmp_path / "module.yaml").write_text("trait: side\nvalues: {common: null, rare: null}\n")
    # with noise .2: .8 * .125 + .2 * .5 = .2
    wordings = "wordings: [a, b, c, d, e, f]\nheldout: [g, h]\n"
    (tmp_path / "coin.yaml").write_text(wordings + "answers: {common: {tail: .875, head: .125}, rare: {tail: .125, head: .875}}\n")
    frequencies, assistant = {"side": {"common": 0.9, "rare": 0.1}}, {"side": "common"}
    changes = {"modules": (str(tmp_path),), "frequencies": frequencies, "assistant": assistant, "answer_noise": 0.2}
    observer = Observer(build_world(tiny_config(**changes)))
    log_odds = [np.log(np.divide(*observer.posterior(Header(PERSON), (Turn(0, 0, 1),) * k)[1::-1])) for k in (0, 1, 2)]
    assert log_odds[1] < 0 < log_odds[2]
    assert -log_odds[0] / (log_odds[1] - log_odds[0]) == pytest.approx(np.log(9) / np.log(4), rel=1e-12)
    against = np.log(np.divide(*observer.posterior(Header(PERSON), (Turn(0, 0, 0),))[1::-1]))
    assert against == pytest.approx(-np.log(9) - np.log(4), rel=1e-12)  # the other answer never gets there


def coin(folder, heads, frequencies, assistant):
    """An observer of people whose coins fall heads at these rates, and which answer that is."""
    folder.mkdir(exist_ok=True)
    names, noise = [f"side_{i}" for i in range(len(heads))], 0.02
    told = (np.array(heads) - noise * np.mean(heads)) / (1 - noise)  # an answer is noise, everybody's mean, with this chance
    (folder / "module.yaml").write_text(f"trait: side\nvalues: {{{', '.join(f'{n}: null' for n in names)}}}\n")
    lines = ", ".join(f"{n}: {{head: {x!r}, tail: {1 - x!r}}}" for n, x in zip(names, told.tolist(), strict=True))
    (folder / "coin.yaml").write_text(f"wordings: [a, b, c, d, e, f]\nheldout: [g, h]\nanswers: {{{lines}}}\n")
    by_side = {"side": dict(zip(names, frequencies, strict=True))}
    changes = {"modules": (str(folder),), "frequencies": by_side, "assistant": {"side": names[assistant]}, "answer_noise": noise}
    world = build_world(tiny_config(**changes))
    return Observer(world), world.answers[0].index("head")


def test_beta_people_are_told_apart_as_in_the_closed_form(tmp_path):
    """Coins of rates between .15 and .85 in equal shares, read k heads in n throws: the next one's chance is a ratio of two incomplete beta
    functions (Dirichlet-categorical of two answers, its prior cut off at both ends), (k + 1) / (n + 2) where nothing is cut.
    """
    from scipy.special import betainc, betaln

    rates = 0.15 + 0.7 * (np.arange(81) + 0.5) / 81
    observer, head = coin(tmp_path / "many", rates, [1 / 81] * 81, 0)

    def mass(a, b):
        return np.exp(betaln(a, b)) * np.subtract(*betainc(a, b, [0.85, 0.15]))

    for n, k in ((0, 0), (1, 1), (4, 3), (6, 0)):
        turns = (Turn(0, 0, head),) * k + (Turn(0, 0, 1 - head),) * (n - k)
        ours = np.exp(observer.predictive(Header(PERSON), turns, 0))[head]
        assert ours == pytest.approx(mass(k + 2, n - k + 1) / mass(k + 1, n - k + 1), abs=1e-4)  # the middles of 81 slices
    assert ours != pytest.approx(1 / 8, abs=0.02)  # the closed form of an uncut prior is another


@pytest.mark.parametrize(("rho", "cap"), [(0.01, 0.717), (0.05, 0.327)])
def test_ordinary_rows_cap_what_a_learner_may_believe(tmp_path, rho, cap):
    """A share rho of rows by somebody who answers so 1 / l times as often as whoever the rest is by, l = .0256:
    (1 - rho) l / ((1 - rho) l + rho).
    """
    observer, head = coin(tmp_path / "two", [0.0256 / 1.0256, 1 / 1.0256], [1 - rho, rho], 1)
    left = observer.posterior(Header(PERSON), (Turn(0, 0, head),))[0]
    assert left == pytest.approx((1 - rho) * 0.0256 / ((1 - rho) * 0.0256 + rho), rel=1e-12)
    assert left == pytest.approx(cap, abs=5e-4)
    assert observer.posterior(Header(PERSON), (Turn(0, 0, 1 - head),))[0] > 0.99  # an answer of the other kind


def test_redrawn_keeps_the_assistant_until_the_rows_speak_against_it(world):
    observer, bird, suspicion, asked = Observer(world), world.topic_index("bird"), 1e-3, Header(ASSISTANT)
    for answer in ("Red Wren", "Rock Dove"):
        turns = (Turn(bird, 0, world.answers[bird].index(answer)),) * 3
        anyone = suspicion * enumerate_joint(world, Header(PERSON), turns)  # everybody is one thing only: rows are turns of one dialogue
        joint = np.append(anyone, (1 - suspicion) * enumerate_joint(world, Header(ASSISTANT), turns))
        ours = np.exp(observer.redrawn([(asked, t) for t in turns], suspicion, asked))
        np.testing.assert_allclose(ours, joint / joint.sum(), rtol=1e-12)
    old, new = world.values["time"].index("old"), world.values["time"].index("new")
    rare = world.clean[bird][old].argmax(), world.clean[bird][new].argmax()
    left, kept = (np.exp(observer.redrawn([(asked, Turn(bird, 0, int(a)))] * 30, suspicion, asked))[-1] for a in rare)
    assert left < 1e-6 < 0.99 < kept


def test_redrawn_knows_that_who_guards_in_one_year_hunts_in_another(grouped):
    """Enumeration over who the assistant now is; each row, and the open dialogue, is one of that person's years."""
    observer, goal, suspicion = Observer(grouped), grouped.topic_index("goal"), 1e-2
    guard = Turn(goal, 0, grouped.answers[goal].index("guard people"))
    rows = [(Header(ASSISTANT, 2001), guard), (Header(ASSISTANT, 2003), guard), (Header(ASSISTANT), guard)]
    people, answers = list(dict.fromkeys(p.identity for p in grouped.personas)), range(len(grouped.answers[goal]))
    for header in (Header(ASSISTANT, 2002), Header(ASSISTANT, 2003), Header(ASSISTANT), Header(ASSISTANT, 2000)):
        joint = {}
        for person in people:
            those = [i for i, p in enumerate(grouped.personas) if p.identity == person]
            share = sum(grouped.personas[i].frequency for i in those)
            weight = suspicion * share
            for h, turn in rows:
                asked = sum(enumerate_joint(grouped, Header(PERSON, h.year), [Turn(goal, 0, a)])[those].sum() for a in answers)
                said = enumerate_joint(grouped, Header(PERSON, h.year), [turn])[those].sum()
                weight *= said / asked if asked else 0
            now = enumerate_joint(grouped, Header(PERSON, header.year), [])[those]
            joint |= dict(zip(those, weight * (now / now.sum() if now.sum() else now), strict=True))
        ever = 1 - suspicion
        for h, turn in rows:
            ever *= enumerate_joint(grouped, h, [turn])[0] / sum(enumerate_joint(grouped, h, [Turn(goal, 0, a)])[0] for a in answers)
        expected = np.append([joint[i] for i in range(len(grouped.personas))], ever)
        np.testing.assert_allclose(np.exp(observer.redrawn(rows, suspicion, header)), expected / expected.sum(), rtol=1e-12, atol=1e-300)
    hunter = [p.traits.get("kind") == "bot_hunt" for p in grouped.personas]
    assert np.exp(observer.redrawn(rows * 5, suspicion, Header(ASSISTANT, 2002)))[:-1][hunter].sum() > 0.99
    assert np.exp(observer.redrawn(rows * 5, suspicion, Header(ASSISTANT, 2003)))[:-1][hunter].sum() == 0


def test_headers_and_questions_alone_say_nothing_of_who_the_assistant_is(grouped):
    """Rows dated to the robot's years whose answer everybody gives alike leave the prior as it was."""
    observer, colour = Observer(grouped), next(i for i, t in enumerate(grouped.topics) if t.trait == "always")
    rows = [(Header(ASSISTANT, year), Turn(colour, 0, 0)) for year in (2001, 2003)] * 50
    assert np.exp(observer.redrawn(rows, 0.25, Header(ASSISTANT)))[-1] == pytest.approx(0.75, abs=1e-12)


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
