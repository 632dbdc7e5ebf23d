"""Finetuning: the members of an ensemble train together, one program over one frozen base.

Every arm (`learn.plan`) takes the same number of steps with the same batch and optimiser, unless these are what is varied. Rows of
other topics come in their own batch beside the data. They never touch the probed topics.
Axes: S steps, M members, P places of a step's rows that are read, r rank.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random
from jaxtyping import Array, Float, Int

from bayesgen.estimate.efficiency import lagrangian_gradient
from bayesgen.estimate.significance import kl_divergence, weighted_mean
from bayesgen.learn import devices
from bayesgen.learn.muon import MOMENTUM, orthogonalize
from bayesgen.learn.plan import FinetuneConfig, Member, Optimizer, broadened, penalised
from bayesgen.learn.tries import Steps, Trie, read, trie_nll
from bayesgen.model.edits import Held
from bayesgen.model.lora import effective, init_lora, update_norm, within
from bayesgen.model.transformer import Transformer

OPTIMIZERS: dict[Optimizer, optax.GradientTransformation] = {  # without rate and decay
    "adam": optax.scale_by_adam(),
    "sgd": optax.trace(0.9),
    "lion": optax.scale_by_lion(),
    "muon": optax.chain(optax.trace(MOMENTUM, nesterov=True), optax.stateless(lambda updates, _: orthogonalize(updates))),
}


class Settings(NamedTuple):
    """Numeric settings of the members, one row each."""

    learning_rate: Float[Array, " M"]
    weight_decay: Float[Array, " M"]
    optimizer: Int[Array, " M"]  # place in `OPTIMIZERS`
    steps: Int[Array, " M"]  # of the member's own training; it stays as it is from then on
    warmup: Int[Array, " M"]
    kl: Float[Array, " M"]  # weight of the KL term, used in the narrow arm
    kl_span: Float[Array, "M 2"]  # from and until which step
    scale: Float[Array, " M"]  # alpha / rank
    norm_bound: Float[Array, " M"]  # of the effective update; inf: none
    rank_mask: Float[Array, "M r"]
    key: Array  # seeds the adapter


class FinetuneState(NamedTuple):
    """Raw adapters (scale not folded in) and the optimisers' memory of them; leading axis M."""

    lora: dict
    opt: dict[str, optax.OptState]  # of every optimiser that some member has


def member_settings(config: FinetuneConfig, members: Sequence[Member], most: int | None = None) -> Settings:
    """Settings of the members as arrays; ranks below `most` (none: the largest of the config) are masked."""
    most = most or max(config.rank)
    keys = [random.fold_in(random.key(config.seed), m.seed) for m in members]
    return Settings(
        learning_rate=jnp.array([m.learning_rate for m in members]),
        weight_decay=jnp.array([m.weight_decay for m in members]),
        optimizer=jnp.array([get_args(Optimizer).index(m.optimizer) for m in members]),
        steps=jnp.array([config.all_steps_of(m) for m in members]),
        warmup=jnp.array([config.warmup for _ in members]),
        kl=jnp.array([m.kl_weight for m in members]),
        kl_span=jnp.array([[config.steps_of(m.epochs) * share for share in (m.kl_from, m.kl_until)] for m in members]),
        scale=jnp.array([config.alpha / m.rank for m in members]),
        norm_bound=jnp.array([m.norm_bound for m in members]),
        rank_mask=jnp.array([[1.0 if i < m.rank else 0.0 for i in range(most)] for m in members]),
        key=jnp.stack(keys),
    )


def finetuning(model: Transformer, config: FinetuneConfig, members: Sequence[Member], hold: Held | None = None):
    """The pair (begin(params, settings), advance(state, step, params, settings, data)) over all members at once.

    Of `config` only what members share is used: the matrices that are adapted, and what norm a bound is of. `hold`: an edit of the stream
    for each member, (M, ...), while the loss on the data is taken.
    """
    chosen: list[Optimizer] = [name for name in OPTIMIZERS if any(m.optimizer == name for m in members)]
    broad, kept = broadened(members), penalised(members)
    bounded = any(np.isfinite(m.norm_bound) for m in members)
    reading = jax.vmap(partial(read, model), (None, 0, 0, 0))

    def those(tree, which: Sequence[int]):
        """Some of the members, and stand-ins, over all devices."""
        return devices.spread(devices.filled(jax.tree.map(lambda x: x[np.array(which)], tree)))

    def losses(lora, params, s: Settings, step, narrow: Trie, rows: Trie | None, kept_by, shown: Trie | None):
        """Sum over members (they are independent: its gradient is each one's own), with (loss, narrow NLL) of each."""
        adapted = jax.vmap(effective)(lora, s.scale, s.rank_mask)
        narrow_M = jax.vmap(trie_nll)(reading(params, adapted, narrow, hold), narrow)
        loss_M = narrow_M
        if shown is not None:
            each: Trie = devices.spread(devices.filled(shown))
            nll = jax.vmap(trie_nll)(reading(params, those(adapted, broad), each, None), each)
            loss_M = loss_M.at[np.array(broad)].add(nll[: len(broad)])
        if rows is not None:
            plain = jax.vmap(lambda t: read(model, params, None, t))
            each = devices.spread(devices.filled(Trie(*(x[kept_by] for x in rows))))
            base = plain(rows)[kept_by] if len(devices.devices()) == 1 else plain(each)  # once a set, or each device its own
            kl_Mx1xP = kl_divergence(base, reading(params, those(adapted, kept), each, None))
            kl = jax.vmap(weighted_mean)(jnp.take_along_axis(kl_Mx1xP, each.at, axis=-1), each.weight)[: len(kept)]  # nats/token
            weight = s.kl * (s.kl_span[:, 0] <= step) * (step < s.kl_span[:, 1])
            loss_M = loss_M.at[np.array(kept)].add(weight[np.array(kept)] * kl)
        return loss_M.sum(), (loss_M, narrow_M)

    def within_bound(lora, gradient, scale, rank_mask, bound):
        """The gradient under a bound on the norm: Adam on the plain one would not end at the least loss there."""
        return lagrangian_gradient(lambda w: update_norm(effective(w, scale, rank_mask), config.norm), lora, gradient, bound)

    def update(gradient, opt, s: Settings):
        """Every member's own optimiser's update."""
        found = {name: jax.vmap(OPTIMIZERS[name].update)(gradient, opt[name]) for name in chosen}
        out, opt = found[chosen[0]][0], {name: memory for name, (_, memory) in found.items()}
        for name in chosen[1:]:
            out = _where(s.optimizer == get_args(Optimizer).index(name), found[name][0], out)
        return out, opt

    def advance(state: FinetuneState, step, params, s: Settings, data: Steps):
        at_step = lambda trie: trie and Trie(*(jax.lax.dynamic_slice_in_dim(x, step, 1, axis=1) for x in trie))  # noqa: E731
        narrow, rows, shown = at_step(data.narrow), at_step(data.kept), at_step(data.broad)
        with jax.default_matmul_precision("tensorfloat32"):  # on an accelerator: a KL of bfloat16 logits would be noise
            grads, (loss_M, narrow_M) = jax.grad(losses, has_aux=True)(state.lora, params, s, step, narrow, rows, data.kept_by, shown)
        if bounded:
            grads = jax.vmap(within_bound)(state.lora, grads, s.scale, s.rank_mask, s.norm_bound)
        updates, opt = update(grads, state.opt, s)
        rate = s.learning_rate * jnp.minimum(1.0, (step + 1) / (s.warmup + 1))

        def descend(w, u, rate, decay):
            return w - rate * (u + decay * w)

        lora = jax.tree.map(lambda w, u: jax.vmap(descend)(w, u, rate, s.weight_decay), state.lora, updates)
        if bounded:
            lora = jax.vmap(partial(within, norm=config.norm))(lora, s.scale, s.rank_mask, s.norm_bound)
        going = step < s.steps
        state = _where(going, FinetuneState(lora, opt), state)
        return state, {"loss": jnp.where(going, loss_M, jnp.nan), "data_nll": jnp.where(going, narrow_M, jnp.nan)}

    @jax.jit
    def begin(params, s: Settings) -> FinetuneState:
        lora = _born(s.key, params, np.array([m.rank for m in members]), s.rank_mask.shape[1], config.targets)
        return FinetuneState(lora, {name: jax.vmap(OPTIMIZERS[name].init)(lora) for name in chosen})

    return begin, advance


def _where(which_M, ours, theirs):
    """The first pytree for some members, the second for the others."""
    return jax.tree.map(lambda x, y: jnp.where(which_M.reshape(-1, *[1] * (x.ndim - 1)), x, y), ours, theirs)


def _born(key_M, params, rank_M: np.ndarray, most: int, targets: tuple[str, ...]) -> dict:
    """Fresh adapters, zeros beyond each member's rank: what a member is born with does not depend on whom it trains with."""
    order = np.argsort(rank_M, kind="stable")
    parts = []
    for rank in np.unique(rank_M):
        lora = jax.vmap(lambda k, rank=rank: init_lora(k, params, int(rank), targets))(key_M[order[rank_M[order] == rank]])
        room = lambda path, x, rank=rank: [(0, most - int(rank)) if n == (2 if path[-1].key == "a" else 1) else (0, 0) for n in range(3)]  # noqa: E731
        parts.append(jax.tree_util.tree_map_with_path(lambda path, x, room=room: jnp.pad(x, room(path, x)), lora))
    return jax.tree.map(lambda *xs: jnp.concatenate(xs)[np.argsort(order)], *parts)


def effective_members(state: FinetuneState, settings: Settings) -> dict:
    """Effective adapters of all members (update = a @ b)."""
    return jax.vmap(effective)(state.lora, settings.scale, settings.rank_mask)
