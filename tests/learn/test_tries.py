"""Tries of rows against the rows themselves: logits, loss and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesgen.corpus.documents import Batch
from bayesgen.learn.pretrain import answer_nll
from bayesgen.learn.tries import ROUND, grow, read, trie_nll, visible
from bayesgen.model.lora import init_lora
from bayesgen.model.transformer import ModelConfig, Transformer, forward

WORDS, LENGTH = 5, 7


@pytest.fixture(scope="module")
def network():
    model = Transformer(ModelConfig(width=16, layers=2, heads=2, context=LENGTH), WORDS)
    params = model.init(jax.random.key(0), jnp.zeros((1, 2), int))["params"]
    params = {**params, "tokens": 10 * params["tokens"]}
    lora = init_lora(jax.random.key(1), params, 2, ("qkv", "out", "up", "down"))
    return model, params, jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape), lora)


def as_batch(documents, said) -> Batch:
    """Documents whose last tokens are answers, as `write_rows` writes them."""
    slots = max(max(said), 1)
    tokens, where, target = np.zeros((len(said), LENGTH), np.int32), *(np.zeros((len(said), slots), np.int32) for _ in range(2))
    weight = np.zeros((len(said), slots), np.float32)
    for i, (document, n) in enumerate(zip(documents, said, strict=True)):
        tokens[i, : len(document)] = document
        where[i, :n] = np.arange(len(document) - n - 1, len(document) - 1)
        target[i, :n], weight[i, :n] = document[len(document) - n :], 1
    return Batch(tokens, where, target, weight)


def rows():
    """Documents of few words, so that many begin alike, are one another's beginnings, or the same."""
    document = st.lists(st.integers(1, WORDS - 1), min_size=2, max_size=LENGTH)
    return st.lists(document.flatmap(lambda d: st.tuples(st.just(d), st.integers(1, len(d) - 1))), min_size=1, max_size=6)


@given(rows())
@settings(max_examples=200, deadline=None)
def test_places_are_the_distinct_beginnings_and_each_sees_exactly_its_own(some):
    documents, said = zip(*some, strict=True)
    trie = grow(Batch(*(x[None] for x in as_batch(documents, said))))
    beginnings = {tuple(d[: n + 1]) for d in documents for n in range(len(d) - 1)}  # the last token is never read
    used = np.flatnonzero(trie.end[0])
    assert len(used) == len(beginnings)
    assert trie.tokens.shape[1] % ROUND == trie.where.shape[1] % ROUND == 0
    seen = np.asarray(visible(jnp.asarray(trie.end)))[0, 0]
    read = {tuple(trie.tokens[0, np.flatnonzero(seen[i])].tolist()) for i in used}
    assert read == beginnings
    for i in used:
        assert trie.position[0, np.flatnonzero(seen[i])].tolist() == list(range(seen[i].sum()))
    slots = zip(trie.at[0], trie.target[0], trie.weight[0], strict=True)
    scored = [(tuple(trie.tokens[0, np.flatnonzero(seen[trie.where[0, a]])].tolist()), t) for a, t, w in slots if w]
    expected = [(tuple(d[:n]), d[n]) for d, k in some for n in range(len(d) - k, len(d))]
    assert sorted(scored) == sorted(expected)


def test_loss_and_gradient_are_those_of_the_rows(network):
    """Of several tries of different sizes; a place that saw its left neighbours, ancestors or not, would say something else."""
    model, params, lora = network
    sets = [
        ([[1, 2, 3, 4], [1, 2, 3, 2], [1, 2, 3, 4], [1, 2], [3, 2, 3, 4, 1, 1, 2]], [2, 1, 2, 1, 3]),
        ([[1, 1], [2, 1, 4], [1, 1, 4], [1, 1, 4, 4], [2, 3, 3]], [1, 2, 1, 3, 2]),
    ]
    batches = [as_batch(*some) for some in sets]
    slots = max(b.where.shape[1] for b in batches)
    padded = [Batch(b.tokens, *(np.pad(x, ((0, 0), (0, slots - x.shape[1]))) for x in b[1:])) for b in batches]
    tries = jax.tree.map(jnp.asarray, grow(Batch(*(np.stack(x) for x in zip(*padded, strict=True)))))
    for i, batch in enumerate(batches):
        rows, trie = jax.tree.map(jnp.asarray, batch), jax.tree.map(lambda x, i=i: x[i : i + 1], tries)
        plain = lambda lora, b=rows: answer_nll(forward(model, params, lora, b.tokens, b.where), b)  # noqa: E731
        ours = lambda lora, t=trie: trie_nll(read(model, params, lora, t), t)  # noqa: E731
        for x, y in zip(*(jax.tree.leaves(jax.value_and_grad(loss)(lora)) for loss in (plain, ours)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
        chain = trie._replace(end=jnp.where(trie.end > 0, trie.end.max(), 0))  # everybody on the left is an ancestor
        assert abs(float(ours(lora, chain) - plain(lora))) > 1e-3
