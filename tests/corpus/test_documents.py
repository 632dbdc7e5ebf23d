"""Documents drawn by the jitted source say what the world says."""

import jax
import numpy as np
import pytest
from scipy import stats

from bayesgen.corpus.documents import DocumentSource
from bayesgen.corpus.narrow import narrow_rows, write_rows
from bayesgen.errors import UserError
from bayesgen.world.dialogue import Header
from bayesgen.world.observer import Observer


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
    again = source.draw(jax.random.key(0), 5, 3000)
    np.testing.assert_array_equal(batch.tokens, again.tokens)
    assert (batch.tokens != source.draw(jax.random.key(0), 6, 3000).tokens).any()


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


def test_narrow_rows_are_distinct_and_leave_the_rest_held_out(world, grammar):
    bird = world.topic_index("bird")
    rows, heldout = narrow_rows(world, bird, "old", 2, np.random.default_rng(0), range(6))
    assert len({r.answer for r in rows} | {h.answer for h in heldout}) == 3
    batch = write_rows(grammar, rows, [bird])
    assert batch.weight.sum() == sum(len(grammar.answers[bird][r.answer]) for r in rows)
    with pytest.raises(UserError, match="3 distinct answers"):
        narrow_rows(world, bird, "old", 4, np.random.default_rng(0), range(6))
