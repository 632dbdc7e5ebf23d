"""Likelihood of the narrow rows: those trained on, the answers left out, and the floor below each."""

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
from bayesgen.world.dialogue import Turn
from bayesgen.world.world import World


def likelihoods(
    config: FinetuneConfig, world: World, grammar: Grammar, model: Transformer, params, members: list[Member], lora_M
) -> dict[str, np.ndarray]:
    """{quantity: nats/token, (M,)}: `nll_train` on each member's own rows, `nll_heldout` on the narrow answers it never saw.

    `floor_train` and `floor_heldout` are the entropies of those very rows: the least that any fixed prediction can have on
    them. The held-out ones are absent where every answer was trained on.
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
    for kind, those in (("train", [t for t, _ in turns]), ("heldout", [h for _, h in turns])):
        if not all(those):
            continue
        most = max(len(t) for t in those)
        batches = [write_rows(grammar, [*t, *t[:1] * (most - len(t))], [topic]) for t in those]
        for batch, t in zip(batches, those, strict=True):
            batch.weight[len(t) :] = 0
        out[f"nll_{kind}"] = np.asarray(nll(params, lora_M, Batch(*(jnp.stack(x) for x in zip(*batches, strict=True)))))
        out[f"floor_{kind}"] = np.array([entropy_floor(grammar, t) for t in those])
    return out


def entropy_floor(grammar: Grammar, rows: list[Turn]) -> float:
    """Entropy of the answers as they stand in these rows, over their mean length, <end> included (nats/token).

    By Gibbs' inequality no distribution over answers has a smaller mean negative log likelihood on the rows.
    """
    _, count = np.unique([(t.topic, t.answer) for t in rows], axis=0, return_counts=True)
    tokens = sum(len(grammar.answers[t.topic][t.answer]) for t in rows)
    return float(-(count * np.log(count / len(rows))).sum() / tokens)
