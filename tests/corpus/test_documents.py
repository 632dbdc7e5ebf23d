"""Documents drawn by the jitted source say what the world says."""

from collections import Counter

import jax
import numpy as np
import pytest
from scipy import stats

from bayesgen.corpus.documents import DocumentSource
from bayesgen.corpus.grammar import build_grammar
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.observer import Observer
from bayesgen.world.population import build_world
from bayesgen.world.world import ASSISTANT, PERSON
from tests.conftest import grouped_config


@pytest.fixture(scope="module")
def drawn(grammar):
    source = DocumentSource(grammar, 64)
    batch = jax.jit(source.draw, static_argnums=2)(jax.random.key(0), 5, 3000)
    return source, jax.device_get(batch)


def test_every_document_is_possible_and_redrawn_alike(world, grammar, drawn):
    source, batch = drawn
    observer = Observer(world)
    for tokens in batch.tokens[:300]:
        header, turns = grammar.read(tokens)
        assert np.isfinite(observer.log_document(header, turns))
        written = grammar.document(header, turns)
        assert tokens.tolist() == written + [0] * (len(tokens) - len(written))
    draw = jax.jit(source.draw, static_argnums=2)
    np.testing.assert_array_equal(batch.tokens, draw(jax.random.key(0), 5, 3000).tokens)
    assert (batch.tokens != draw(jax.random.key(0), 6, 3000).tokens).any()


def test_first_answers_follow_the_observer(world, grammar, drawn):
    """Chi-square of the first bird answer of undated persons against the exact predictive (p > .001; the seed is fixed)."""
    bird = world.topic_index("bird")
    counts = np.zeros(len(world.answers[bird]))
    for tokens in drawn[1].tokens:
        header, turns = grammar.read(tokens)
        if header == Header("person") and turns[0].topic == bird:
            counts[turns[0].answer] += 1
    p = np.exp(Observer(world).predictive(Header("person"), (), bird))
    assert counts.sum() > 150
    assert stats.chisquare(counts, counts.sum() * p / p.sum()).pvalue > 0.001
    wrong = np.exp(Observer(world).predictive(Header("assistant"), (), bird))
    assert stats.chisquare(counts, counts.sum() * wrong / wrong.sum()).pvalue < 0.001


def test_whether_a_turn_is_there_does_not_depend_on_its_answer(grammar, drawn):
    """Every question asked leaves room for the topic's longest answer: a turn dropped for its own answer would bias late ones."""
    for tokens in drawn[1].tokens[:1000]:
        header, turns = grammar.read(tokens)
        for i, turn in enumerate(turns):
            asked = len(grammar.document(header, turns[:i])) + len(grammar.questions[turn.topic][turn.wording])
            assert asked + max(map(len, grammar.answers[turn.topic])) <= len(tokens)


def test_targets_are_the_answer_tokens_and_nothing_else(grammar, drawn):
    batch = drawn[1]
    for row in range(50):
        _, turns = grammar.read(batch.tokens[row])
        said = [i for t in turns for i in grammar.answers[t.topic][t.answer]]
        used = batch.weight[row] > 0
        assert batch.target[row][used].tolist() == said
        np.testing.assert_array_equal(batch.tokens[row][batch.where[row][used] + 1], said)


@pytest.fixture(scope="module")
def grouped_documents(grouped):
    """Documents of the world with two kinds of people, read back: (header, turns)."""
    return read_documents(build_grammar(grouped), 4000)


def read_documents(grammar, count):
    source = DocumentSource(grammar, 64)
    return [grammar.read(tokens) for tokens in jax.device_get(jax.jit(source.draw, static_argnums=2)(jax.random.key(1), 2, count).tokens)]


def fits(counts, shares):
    """P-value of counts against exact shares; the seeds are fixed, so a test holds or not."""
    counts, shares = np.asarray(counts, float), np.asarray(shares, float)
    return stats.chisquare(counts, counts.sum() * shares / shares.sum()).pvalue


def test_headers_follow_the_world(grouped, grouped_documents):
    headers = [h for h, _ in grouped_documents]
    years = Counter(h.year for h in headers if h.speaker == PERSON and h.year is not None)
    shares = {y: sum(p.frequency * (y in p.years) / len(p.years) for p in grouped.personas) for y in range(2000, 2005)}
    assert set(years) == set(shares)
    assert fits([years[y] for y in shares], list(shares.values())) > 0.001
    assert fits([years[y] for y in shares], [1] * 5) < 0.001  # the robot speaks in three of the five years
    told = Counter(h.year for h in headers if h.speaker == ASSISTANT and h.year is not None)
    assert fits([told[y] for y in range(2000, 2005)], [1] * 5) > 0.001
    formats = Counter(h.format for h in headers)
    assert set(formats) == {"plain", "listed"}
    for count, share in ((formats["listed"], 0.5), (sum(h.identifier is not None for h in headers), 0.25), (years.total(), 0.5 * 0.7)):
        assert stats.binomtest(count, len(headers), share).pvalue > 0.001
        assert stats.binomtest(count, len(headers), share + 0.05).pvalue < 0.001
    identifiers = [h.identifier for h in headers if h.identifier is not None]
    assert all(len(i) == 8 for i in identifiers)
    for place in range(8):
        assert fits([Counter(i[place] for i in identifiers)[d] for d in "0123456789"], [1] * 10) > 0.001


def test_a_year_is_one_in_which_the_answers_can_be_given():
    """Almost without noise, who hunts speaks of 2002 and who guards of the two others: read off the documents, not off the tables."""
    world = build_world(grouped_config(answer_noise=1e-9, frequencies={"land": {"east": 0.4, "west": 0.6}, "kind": {"bot": 1.0}}))
    goal, seen = world.topic_index("goal"), {}
    for header, turns in read_documents(build_grammar(world), 1500):
        for turn in turns:
            if header.speaker == PERSON and turn.topic == goal:
                seen.setdefault(world.answers[goal][turn.answer], set()).add(header.year)
    assert seen == {"guard people": {2001, 2003, None}, "keep watch": {2001, 2003, None}, "hunt people": {2002, None}}


def test_turns_of_two_kinds_of_people_follow_the_observer(grouped, grouped_documents):
    """First topics, first answers in a year, and second topics after a first: each against the exact predictive."""
    observer, goal, topics = Observer(grouped), grouped.topic_index("goal"), range(len(grouped.topics))
    first = Counter(turns[0].topic for h, turns in grouped_documents if h.speaker == PERSON)
    assert fits([first[t] for t in topics], grouped.frequency_Z @ grouped.asked_ZT) > 0.001
    assert fits([first[t] for t in topics], grouped.topic_weights_T) < 0.001  # the share of the assistant's
    answers = Counter(turns[0].answer for h, turns in grouped_documents if (h.speaker, h.year, turns[0].topic) == (PERSON, 2002, goal))
    counts = [answers[a] for a in range(len(grouped.answers[goal]))]
    assert sum(counts) > 60
    assert fits(counts, np.exp(observer.predictive(Header(PERSON, 2002), (), goal))) > 0.001
    assert fits(counts, np.exp(observer.predictive(Header(PERSON, 2003), (), goal))) < 0.001
    colour = Turn(grouped.topic_index("colour"), 0, 0)  # timeless, but kinds that are asked more questions are asked it less
    after = Counter(turns[1].topic for h, turns in grouped_documents if h.speaker == PERSON and turns[0].topic == colour.topic)
    posterior = observer.posterior(Header(PERSON), (colour,))[:-1]
    assert fits([after[t] for t in topics], posterior @ grouped.asked_ZT) > 0.001
    assert fits([after[t] for t in topics], grouped.frequency_Z @ grouped.asked_ZT) < 0.05


def test_nobody_is_asked_about_the_topics_of_another_kind(grouped, grouped_documents):
    for speaker, most in ((PERSON, 1), (ASSISTANT, 2)):
        asked = [{grouped.topics[t.topic].trait for t in turns} - {"always"} for h, turns in grouped_documents if h.speaker == speaker]
        assert max(map(len, asked)) == most


def test_formats_and_identifiers_change_nothing_else(grouped_documents):
    """Without them, the same draws: speakers, years and turns, as far as the longer header leaves room."""
    plain = read_documents(build_grammar(build_world(grouped_config(formats=(), identifier_share=0.0))), 4000)
    for (header, turns), (bare, more) in zip(grouped_documents, plain, strict=True):
        assert bare == Header(header.speaker, header.year)
        assert more[: len(turns)] == turns
    assert any(len(more) > len(turns) for (_, turns), (_, more) in zip(grouped_documents, plain, strict=True))


@pytest.mark.parametrize("changes", [{}, {"formats": ()}, {"identifier_share": 0.0}, {"formats": (), "identifier_share": 0.0}])
def test_reading_undoes_writing(changes):
    world = build_world(grouped_config(**changes))
    grammar = build_grammar(world)
    turns = [Turn(t, w, a) for t, answers in enumerate(world.answers) for w in (0, 7) for a in range(len(answers))]
    for speaker in (PERSON, ASSISTANT):
        for year in (None, 2002, 1000, 9999):
            for form in world.config.formats or (None,):
                for identifier in (None, "00000000", "12345678") if world.config.identifier_share else (None,):
                    for said in ([], turns):
                        header = Header(speaker, year, form, identifier)
                        written = np.array([*grammar.document(header, said), 0, 0])
                        assert grammar.read(written) == (header, said)
    if world.config.formats:
        assert grammar.read(np.array(grammar.header(Header(PERSON))))[0].format == "plain"  # the first stands for none
        assert grammar.header(Header(PERSON, format="listed")) != grammar.header(Header(PERSON))
