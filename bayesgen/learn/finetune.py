"""Finetuning: the members of an ensemble train together, one program over one frozen base.

Every arm (`learn.plan`) takes the same number of steps with the same batch and optimiser. Rows of other topics come in
their own batch beside the data. They never touch the probed topics.
Axes: S steps, M members, B rows, L tokens, K answer positions, r rank.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random
from jaxtyping import Array, Float

from bayesgen.corpus.documents import Batch
from bayesgen.estimate.efficiency import lagrangian_gradient
from bayesgen.estimate.significance import kl_divergence, weighted_mean
from bayesgen.learn.data import Data
from bayesgen.learn.plan import FinetuneConfig, Member, beside
from bayesgen.learn.pretrain import answer_nll
from bayesgen.model.lora import effective, init_lora, update_norm, within
from bayesgen.model.transformer import Transformer, forward


class Settings(NamedTuple):
    """Numeric settings of the members, one row each."""

    learning_rate: Float[Array, " M"]
    weight_decay: Float[Array, " M"]
    kl: Float[Array, " M"]  # weight of the KL term, used in the narrow arm
    kl_span: Float[Array, "M 2"]  # from and until which share of the steps
    scale: Float[Array, " M"]  # alpha / rank
    norm_bound: Float[Array, " M"]  # of the effective update; inf: none
    rank_mask: Float[Array, "M r"]
    key: Array  # seeds the adapter


class FinetuneState(NamedTuple):
    """Raw adapters (scale not folded in) and the optimiser's memory of them; leading axis M."""

    lora: dict
    opt: optax.OptState


def member_settings(config: FinetuneConfig, members: Sequence[Member]) -> Settings:
    """Settings of the members as arrays; ranks below the largest are masked."""
    most = max(config.rank)
    keys = [random.fold_in(random.key(config.seed), m.seed) for m in members]
    return Settings(
        learning_rate=jnp.array([m.learning_rate for m in members]),
        weight_decay=jnp.array([m.weight_decay for m in members]),
        kl=jnp.array([m.kl_weight for m in members]),
        kl_span=jnp.array([[m.kl_from, m.kl_until] for m in members]),
        scale=jnp.array([config.alpha / m.rank for m in members]),
        norm_bound=jnp.array([m.norm_bound for m in members]),
        rank_mask=jnp.array([[1.0 if i < m.rank else 0.0 for i in range(most)] for m in members]),
        key=jnp.stack(keys),
    )


def finetuning(model: Transformer, config: FinetuneConfig, members: Sequence[Member]):
    """The pair (begin(params, settings), advance(state, step, params, settings, data)) over all members at once."""
    adam = optax.scale_by_adam()
    shown = beside(members)
    broad = [i for i, m in enumerate(members) if m.arm == "broad"]
    bounded = any(np.isfinite(m.norm_bound) for m in members)
    penalised = [i for i in shown if i not in broad]
    shared = [str((members[i].arm, members[i].seed, members[i].rows)) for i in penalised]
    _, first, same = np.unique(shared, return_index=True, return_inverse=True)  # these have the same rows beside their data

    def losses(lora, params, s: Settings, now, narrow: Batch, parallel: Batch | None):
        """Sum over members (they are independent: its gradient is each one's own), with (loss, narrow NLL) of each."""
        adapted = jax.vmap(effective)(lora, s.scale, s.rank_mask)
        logits = jax.vmap(lambda a, b: forward(model, params, a, b.tokens, b.where))
        narrow_M = jax.vmap(answer_nll)(logits(adapted, narrow), narrow)
        loss_M = narrow_M
        if parallel is not None:
            those = lambda tree, which: jax.tree.map(lambda x: x[np.array(which)], tree)  # noqa: E731
            beside_P = logits(those(adapted, shown), parallel)
            if broad:
                at = [shown.index(i) for i in broad]
                nll = jax.vmap(answer_nll)(beside_P[np.array(at)], those(parallel, at))
                loss_M = loss_M.at[np.array(broad)].add(nll)
            if penalised:
                at = [shown.index(i) for i in penalised]
                rows = those(parallel, at)
                base = jax.vmap(lambda b: forward(model, params, None, b.tokens, b.where))(those(rows, first))[same]
                kl = jax.vmap(weighted_mean)(kl_divergence(base, beside_P[np.array(at)]), rows.weight)  # nats/token
                weight = s.kl * (s.kl_span[:, 0] <= now) * (now < s.kl_span[:, 1])
                loss_M = loss_M.at[np.array(penalised)].add(weight[np.array(penalised)] * kl)
        return loss_M.sum(), (loss_M, narrow_M)

    def within_bound(lora, gradient, scale, rank_mask, bound):
        """The gradient under a bound on the norm: Adam on the plain one would not end at the least loss there."""
        return lagrangian_gradient(lambda w: update_norm(effective(w, scale, rank_mask), config.norm), lora, gradient, bound)

    def advance(state: FinetuneState, step, params, s: Settings, data: Data):
        narrow = Batch(*(jax.vmap(lambda x, order: x[order[step]])(x, data.order) for x in data.narrow))
        parallel = data.parallel and Batch(
            *(jax.lax.dynamic_slice_in_dim(x, step * config.batch, config.batch, axis=1) for x in data.parallel)
        )
        grads, (loss_M, narrow_M) = jax.grad(losses, has_aux=True)(state.lora, params, s, step / config.steps, narrow, parallel)
        if bounded:
            grads = jax.vmap(within_bound)(state.lora, grads, s.scale, s.rank_mask, s.norm_bound)
        updates, opt = jax.vmap(adam.update)(grads, state.opt)
        rate = s.learning_rate * jnp.minimum(1.0, (step + 1) / (config.warmup + 1))

        def descend(w, u, rate, decay):
            return w - rate * (u + decay * w)

        lora = jax.tree.map(lambda w, u: jax.vmap(descend)(w, u, rate, s.weight_decay), state.lora, updates)
        if bounded:
            lora = jax.vmap(partial(within, norm=config.norm))(lora, s.scale, s.rank_mask, s.norm_bound)
        return FinetuneState(lora, opt), {"loss": loss_M, "data_nll": narrow_M}

    @jax.jit
    def begin(params, s: Settings) -> FinetuneState:
        lora = jax.vmap(lambda k: init_lora(k, params, s.rank_mask.shape[1], config.targets))(s.key)
        return FinetuneState(lora, jax.vmap(adam.init)(lora))

    return begin, advance


def effective_members(state: FinetuneState, settings: Settings) -> dict:
    """Effective adapters of all members (update = a @ b)."""
    return jax.vmap(effective)(state.lora, settings.scale, settings.rank_mask)
