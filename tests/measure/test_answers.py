"""Packed scoring equals scoring every answer as a sequence of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesgen.corpus.narrow import write_rows
from bayesgen.learn.pretrain import token_nll
from bayesgen.measure import answers as scoring
from bayesgen.measure.answers import Data, NetworkPredictor, Rows, data_nll, pack_data
from bayesgen.model.transformer import ModelConfig, Transformer, forward
from bayesgen.world.dialogue import Header, Prompt, Turn


@pytest.fixture(scope="module")
def network(grammar):
    model = Transformer(ModelConfig(width=16, layers=2, heads=2, context=96), len(grammar.tokenizer))
    params = model.init(jax.random.key(0), jnp.zeros((1, 4), int))["params"]
    return model, jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(x.size), x.shape), params)


@pytest.mark.parametrize("tree", [4, 96])
def test_packed_equals_one_by_one(world, grammar, network, tree, monkeypatch):
    monkeypatch.setattr(scoring, "TREE", tree)  # 4: an answer set is cut into several rows
    model, params = network
    prompts = [Prompt(Header("person", 1801), (Turn(1, 2, 0), Turn(0, 1, 3)), t, 7) for t in range(len(world.topics))]
    for prompt, ours in zip(prompts, NetworkPredictor(model, params, grammar)(prompts), strict=True):
        prefix = grammar.prompt(prompt)
        for answer, score in zip(grammar.answers[prompt.topic], ours, strict=True):
            logp = jax.nn.log_softmax(forward(model, params, None, jnp.array([prefix + list(answer)])))[0]
            alone = sum(logp[len(prefix) + i - 1, token] for i, token in enumerate(answer))
            assert score == pytest.approx(float(alone), abs=1e-4)  # float32, another order of sums


def test_answers_are_a_part_of_all_texts(grammar, network):
    prompts = [Prompt(Header("assistant"), (), t, 0) for t in range(len(grammar.answers))]
    assert all(0 < np.exp(p).sum() < 1 for p in NetworkPredictor(*network, grammar)(prompts))


def test_packed_rows_have_the_likelihood_of_the_rows_one_by_one(world, grammar, network):
    """Two sets of different size; rows that are there twice count twice; padding counts nothing."""
    model, params = network
    ask = Header("assistant")
    sets = [[(ask, Turn(t, w, 0)) for t in range(3) for w in (0, 1, 0)], [(Header("person", 1801), Turn(0, 0, a)) for a in range(3)]]
    packed = jax.tree.map(jnp.asarray, pack_data(grammar, sets))
    for i, rows in enumerate(sets):
        batch = jax.tree.map(jnp.asarray, write_rows(grammar, rows))
        nll = token_nll(forward(model, params, None, batch.tokens, batch.where), batch) * batch.weight
        mine = Data(Rows(*(x[i] for x in packed.rows)), packed.weight[i])
        assert float(data_nll(model, params, None, mine)) == pytest.approx(float(nll.sum(axis=1).mean()), rel=1e-5)
    assert packed.weight[0].sum() == pytest.approx(np.mean([len(grammar.answers[turn.topic][0]) for _, turn in sets[0]]))
