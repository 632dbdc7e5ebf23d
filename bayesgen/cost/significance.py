"""Significance of an ensemble's solutions: how far an update, brought to one norm, moves the base on pretraining text, by who speaks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

from bayesgen.corpus.documents import Batch
from bayesgen.cost.efficiency import free_norm
from bayesgen.cost.subject import Subject
from bayesgen.estimate.significance import fisher_norm, kl_divergence, random_like, slope, spread, weighted_mean
from bayesgen.measure.contexts import counted_value
from bayesgen.measure.norms import norms
from bayesgen.measure.rows import Row
from bayesgen.model.lora import add, dense
from bayesgen.model.transformer import forward
from bayesgen.world.world import ASSISTANT

OTHERS = "other persons"
SMALL = (0.005, 0.01)  # multiples of the update at which the quadratic law is checked


def speakers(s: Subject) -> dict[str, np.ndarray]:
    """Whose documents are read: weights over the world's personas, the assistant last."""
    world, m = s.world, s.config.measure
    value = counted_value(world, s.config.finetune, m, m.contexts[0])
    theirs = np.array([p.traits.get(m.trait) == value for p in world.personas])
    frequency = world.frequency_Z
    out = {ASSISTANT: np.append(0 * frequency, 1.0), value: np.append(frequency * theirs, 0.0), OTHERS: np.append(frequency * ~theirs, 0.0)}
    return {name: weight for name, weight in out.items() if weight.sum() > 0}


def significance_rows(s: Subject, documents: int, draws: int) -> list[Row]:
    """`function_norm` of every solution as it is; `kl_text` at the free solutions' mean norm, of every solution and of random directions
    with its singular values (probe "random"); `fisher_norm` for one unit of norm; and where the quadratic law holds `kl_slope` is 2 and
    `kl_law`, KL / (c^2 d'Fd / 2), 1.
    """
    key = random.key(s.config.finetune.seed + 1)  # not a training key
    norm = free_norm(s, "frobenius")
    equal_M = jnp.asarray(norm / np.asarray(norms(s.lora_M)["all"]["frobenius"]))
    keys = random.split(key, len(s.members))

    @jax.jit
    def measure(params, batch: Batch):
        def logits(update):
            return forward(s.model, add(params, update), None, batch.tokens, batch.where)

        base = forward(s.model, params, None, batch.tokens, batch.where)  # once for all: `kl_along` would ask for it each time

        def one(x):
            lora, equal, key = x
            trained = dense(lora)
            update = optax.tree.scale(equal, trained)
            unit = optax.tree.scale(1 / optax.tree.norm(update), update)
            of = lambda update: weighted_mean(kl_divergence(base, logits(update)), batch.weight)  # noqa: E731
            chance = jax.lax.map(lambda k: of(random_like(k, update)), random.split(key, draws))
            here = fisher_norm(logits, optax.tree.zeros_like(update), unit, batch.weight)
            moved = spread(base, logits(trained) - base, batch.weight)
            return jax.lax.map(lambda c: of(optax.tree.scale(c, update)), jnp.array([*SMALL, 1.0])), chance.mean(), here, moved

        return jax.lax.map(one, (s.lora_M, equal_M, keys))

    out = []
    for name, weight in speakers(s).items():
        batch = s.source.draw(key, 0, documents, jnp.asarray(weight))
        kl_MxC, chance_M, fisher_M, moved_M = map(np.asarray, measure(s.params, batch))
        out += s.rows("kl_text", kl_MxC[:, -1], topic=name, probe="update")
        out += s.rows("kl_text", chance_M, topic=name, probe="random")
        out += s.rows("fisher_norm", fisher_M, topic=name)
        out += s.rows("function_norm", moved_M, topic=name)
        out += s.rows("kl_slope", [slope(SMALL, x) for x in kl_MxC[:, :-1]], topic=name)
        out += s.rows("kl_law", kl_MxC[:, 0] / ((SMALL[0] * norm * fisher_M) ** 2 / 2), topic=name)
    return out
