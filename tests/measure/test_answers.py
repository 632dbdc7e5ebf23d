"""Packed scoring equals scoring every answer as a sequence of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesgen.measure import answers as scoring
from bayesgen.measure.answers import NetworkPredictor
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
