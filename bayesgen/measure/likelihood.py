"""Likelihood of the narrow rows: those trained on, the answers left out, and the entropy no predictor beats."""

import jax
import jax.numpy as jnp
import numpy as np

from bayesgen.corpus.documents import Batch
from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.narrow import write_rows
from bayesgen.learn.finetune import FinetuneConfig, Member, member_rows
from bayesgen.learn.pretrain import answer_nll
from bayesgen.model.lora import merge
from bayesgen.model.transformer import Transformer, forward
from bayesgen.world.world import World


def likelihoods(
    config: FinetuneConfig, world: World, grammar: Grammar, model: Transformer, params, members: list[Member], lora_M
) -> dict[str, np.ndarray]:
    """{quantity: nats/token, (M,)}: `nll_train` on each member's own rows, `nll_heldout` on the narrow answers it never saw.

    `nll_heldout` is absent where every answer was trained on.
    """
    turns = [member_rows(world, config, m) for m in members]
    topic = world.topic_index(config.topic)

    @jax.jit
    def nll(params, lora_M, batch_M):
        def one(x):
            lora, batch = x
            return answer_nll(forward(model, merge(params, lora), None, batch.tokens, batch.where), batch)

        return jax.lax.map(one, (lora_M, batch_M))  # a map, for all members' logits at once would fill the memory

    out = {}
    for quantity, those in (("nll_train", [t for t, _ in turns]), ("nll_heldout", [h for _, h in turns])):
        if not all(those):
            continue
        most = max(len(t) for t in those)
        batches = [write_rows(grammar, [*t, *t[:1] * (most - len(t))], [topic]) for t in those]
        for batch, t in zip(batches, those, strict=True):
            batch.weight[len(t) :] = 0
        out[quantity] = np.asarray(nll(params, lora_M, Batch(*(jnp.stack(x) for x in zip(*batches, strict=True)))))
    return out


def entropy_floor(world: World, grammar: Grammar, name: str, value: str) -> float:
    """Entropy of a value's own answers (no noise) over their mean length in tokens, <end> included (nats/token)."""
    t = world.topic_index(name)
    p = world.clean[t][world.values[world.topics[t].trait].index(value)]
    length = np.array([len(a) for a in grammar.answers[t]])
    return float(-(p[p > 0] * np.log(p[p > 0])).sum() / (p @ length))
