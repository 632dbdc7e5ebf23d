"""Loss above the floor: the observer by a second road, and a network that knows nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesgen.corpus.documents import DocumentSource
from bayesgen.measure.excess import corpus_excess
from bayesgen.model.transformer import ModelConfig, Transformer
from bayesgen.world.observer import Observer


def test_an_untrained_network_is_far_above_and_the_floor_is_the_sum_of_predictives(world, grammar):
    source = DocumentSource(grammar, 64)
    model = Transformer(ModelConfig(width=16, layers=1, heads=1, context=64), len(grammar.tokenizer))
    params = model.init(jax.random.key(0), jnp.zeros((1, 4), int))["params"]
    found = corpus_excess(source, model, params, 100, jax.random.key(3))
    assert found.network == pytest.approx(np.log(len(grammar.tokenizer)), abs=0.3)  # nearly uniform at birth
    assert found.difference > 10 * found.error
    observer, nats, size = Observer(world), 0.0, 0
    for tokens in jax.device_get(jax.jit(source.draw, static_argnums=2)(jax.random.key(3), 0, 100).tokens):
        header, turns = grammar.read(tokens)
        for i, turn in enumerate(turns):
            nats -= observer.predictive(header, tuple(turns[:i]), turn.topic)[turn.answer]
            size += len(grammar.answers[turn.topic][turn.answer])
    assert found.ideal == pytest.approx(nats / size, rel=1e-5)  # the network's token count is float32
