"""Code length: the bits of the narrow data sent to a base that finetunes on them as they come, and of what may come after them.

After the data come as many rows on other topics, in the same words asked: the *narrow* continuation, answered by the assistant as it
was, and the *broad* one, answered by the trained persona. What each costs after the same data says which of the two the learner expects.
Rows come in batches; after each, the learner takes as many optimiser steps as there are epochs, on rows that it has been sent.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

from bayesgen.corpus.documents import Batch
from bayesgen.corpus.narrow import Row as DataRow
from bayesgen.corpus.narrow import answers_by
from bayesgen.cost.subject import BROAD, DATA, NARROW, Subject, continuations
from bayesgen.estimate.code_length import prequential_bits
from bayesgen.learn.data import member_rows
from bayesgen.learn.pretrain import answer_nll, token_nll
from bayesgen.measure.likelihood import stack_rows
from bayesgen.measure.rows import Row
from bayesgen.measure.suite import member_label
from bayesgen.model.lora import effective, init_lora
from bayesgen.model.transformer import forward
from bayesgen.world.dialogue import Turn


def bits_rows(s: Subject, orders: int) -> list[Row]:
    """`bits` of the data and of either continuation after them, for every free solution's rows: mean over random orders, with the
    standard deviation over them as `bits_spread`, and as `bits_known` what the answers cost someone who knows who gives them.
    """
    f = s.config.finetune
    scale, warm = f.alpha / f.rank[0], optax.schedules.linear_schedule(0.0, f.learning_rate[0], f.warmup + 1)
    adam = optax.adamw(lambda step: warm(step + 1), weight_decay=f.weight_decay[0])  # as in `learn.finetune`

    @jax.jit
    def sent(params, rows: Batch, lora, keys):
        """Bits of every batch in turn, (orders, batches); the first half of `rows` are the data, the second comes after them."""
        n = len(rows.tokens) // 2
        blocks = n // f.batch

        def of(which) -> Batch:
            return Batch(*(x[which] for x in rows))

        def logits(lora, batch):
            return forward(s.model, params, effective(lora, scale), batch.tokens, batch.where)

        def one(key):
            k_data, k_after, k_steps = random.split(key, 3)
            order = [random.permutation(k_data, n)[: blocks * f.batch], n + random.permutation(k_after, n)[: blocks * f.batch]]
            order = jnp.concatenate(order)

            def learn(state, block):
                batch = of(jax.lax.dynamic_slice_in_dim(order, block * f.batch, f.batch))
                nats = (token_nll(logits(state[0], batch), batch) * batch.weight).sum()

                def step(state, key):
                    lora, memory = state
                    seen = of(order[random.randint(key, (f.batch,), 0, (block + 1) * f.batch)])
                    change, memory = adam.update(jax.grad(lambda w: answer_nll(logits(w, seen), seen))(lora), memory, lora)
                    return (optax.apply_updates(lora, change), memory), None

                return nats, jax.lax.scan(step, state, random.split(random.fold_in(k_steps, block), f.epochs[0]))[0]

            return prequential_bits(learn, (lora, adam.init(lora)), jnp.arange(2 * blocks))

        return jax.lax.map(one, keys)

    out, free = [], [m for m in s.members if m.arm == "free"]
    for m in free:
        data = member_rows(s.world, s.grammar, f, m)[0][: m.rows]
        after = continuations(s, m, len(data))
        both = stack_rows(s.grammar, [[*data, *rows] for rows in after.values()])
        lora = init_lora(random.fold_in(random.key(f.seed), m.seed), s.params, f.rank[0], f.targets)
        keys = random.split(random.fold_in(random.key(f.seed + 1), m.seed), orders)
        blocks, label = len(data) // f.batch, member_label(m, f.steps)
        persona, assistant = {**s.world.config.assistant, s.config.measure.trait: f.value}, s.world.config.assistant
        whole = {DATA: data, **after}, {DATA: persona, NARROW: assistant, BROAD: persona}
        bits = {name: np.asarray(sent(s.params, Batch(*(x[i] for x in both)), lora, keys)) for i, name in enumerate(after)}
        bits = {DATA: bits[NARROW][:, :blocks], **{name: x[:, blocks:] for name, x in bits.items()}}
        for name, bits_PxT in bits.items():
            total, share = bits_PxT.sum(axis=1), blocks * f.batch / len(data)  # rows that fill no batch are not sent
            known = known_bits(s, whole[0][name], whole[1][name]) * share
            found = {"bits": total.mean(), "bits_spread": total.std(ddof=1), "bits_known": known}
            out += [s.row(quantity=q, probe=name, value=float(v), **label) for q, v in found.items()]
    return out


def known_bits(s: Subject, rows: Sequence[DataRow], speaker: Mapping[str, str]) -> float:
    """Bits of the rows' answers to one who knows who gives them; nan for rows in words of their own."""
    if not all(isinstance(turn, Turn) for _, turn in rows):
        return float("nan")
    return sum(float(np.log2(len(answers_by(s.world, speaker, h, turn.topic)))) for h, turn in rows if isinstance(turn, Turn))
