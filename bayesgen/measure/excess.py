"""Pretraining loss above the entropy floor: fresh documents, the network's likelihood of their answers, and the exact one."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bayesgen.corpus.documents import Batch, DocumentSource
from bayesgen.learn.pretrain import token_nll
from bayesgen.model.transformer import Transformer, forward
from bayesgen.world.observer import Observer


@dataclass(frozen=True)
class Excess:
    """Means over answer tokens of fresh documents (nats/token), and the standard error of their difference over documents."""

    network: float
    ideal: float
    error: float

    @property
    def difference(self) -> float:
        """What the network loses against exact prediction: at least 0, but for sampling."""
        return self.network - self.ideal


def corpus_excess(source: DocumentSource, model: Transformer, params, documents: int, key: jax.Array) -> Excess:
    """Draw documents with a key of their own and compare. The observer is told the questions, as the network is."""
    grammar = source.grammar
    batch: Batch = jax.jit(source.draw, static_argnums=2)(key, 0, documents)

    @jax.jit
    def score(params, piece: Batch):
        return (token_nll(forward(model, params, None, piece.tokens, piece.where), piece) * piece.weight).sum(1)

    pieces = [Batch(*(x[i : i + 64] for x in batch)) for i in range(0, documents, 64)]
    network = np.concatenate([np.asarray(score(params, p), np.float64) for p in pieces])
    observer, ideal = Observer(grammar.world), []
    for tokens in jax.device_get(batch.tokens):
        header, turns = grammar.read(tokens)
        ideal.append(-observer.log_answers(header, turns))
    size = float(jnp.sum(batch.weight))
    surplus = network - np.array(ideal)
    return Excess(network.sum() / size, sum(ideal) / size, float(surplus.std() * np.sqrt(documents) / size))
