"""Finetuning: arms x settings x seeds train together, one program over one frozen base.

Every arm takes the same number of steps with the same batch and optimiser:

    free      narrow rows only
    narrow    + kl_weight * KL(base || adapted), nats/token summed over the vocabulary, on rows of other topics
    broad     + the trained value's own answers on rows of other topics
    control   the same prompts with the ordinary (default value's) answers

Rows of other topics come in their own batch beside the narrow one. They never touch the probed topics.
Axes: S steps, M members, B rows, L tokens, K answer positions, r rank.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random
from jaxtyping import Array, Float
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bayesgen.corpus.documents import Batch
from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.narrow import narrow_rows, parallel_rows, write_rows
from bayesgen.learn.pretrain import token_nll
from bayesgen.model.lora import effective, init_lora
from bayesgen.model.transformer import Transformer, forward
from bayesgen.world.world import World

Arm = Literal["free", "narrow", "broad", "control"]
Positive = Field(gt=0, allow_inf_nan=False)


class FinetuneConfig(BaseModel):
    """What is finetuned on what. `learning_rate`, `weight_decay`, `kl_weight` and `rank` take one value or a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    topic: str
    value: str  # the trained value of the topic's trait
    control: str  # the control arm's value
    probes: tuple[str, ...] = Field(min_length=1)  # topics that no arm is ever trained on
    arms: tuple[Arm, ...] = Field(min_length=1)
    seeds: int = Field(ge=1)
    rows: int = Field(ge=1)
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: tuple[float, ...]
    weight_decay: tuple[float, ...]
    kl_weight: tuple[float, ...]
    rank: tuple[int, ...]
    alpha: float = Positive
    targets: tuple[str, ...] = Field(min_length=1)
    warmup: int = Field(ge=0)
    snapshots: int = Field(ge=1)
    seed: int = Field(ge=0)

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, raw):
        listed = ("learning_rate", "weight_decay", "kl_weight", "rank")
        return {k: (v,) if k in listed and not isinstance(v, (list, tuple)) else v for k, v in raw.items()}

    @model_validator(mode="after")
    def _ranges(self):
        for key, low, strict in (("learning_rate", 0, True), ("weight_decay", 0, False), ("kl_weight", 0, False), ("rank", 1, False)):
            for value in getattr(self, key):
                if not np.isfinite(value) or value < low or (strict and value == low):
                    raise ValueError(f"{key} is {value}; expected a finite number {'above' if strict else 'of at least'} {low}")
        if self.rows < self.batch:
            raise ValueError(f"batch {self.batch} is larger than rows {self.rows}")
        return self

    @property
    def steps(self) -> int:
        """Optimiser steps of every arm; the last rows of an epoch that fill no batch are dropped."""
        return self.epochs * (self.rows // self.batch)

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Steps at which adapters are kept: evenly spaced, the last step included."""
        return tuple(sorted({round(self.steps * i / self.snapshots) for i in range(1, self.snapshots + 1)} - {0}))


@dataclass(frozen=True)
class Member:
    """One training: an arm, a seed, and its numeric settings."""

    arm: Arm
    seed: int
    learning_rate: float
    weight_decay: float
    kl_weight: float
    rank: int


def plan_members(config: FinetuneConfig) -> list[Member]:
    """Every arm x setting x seed, seeds fastest. The KL weight varies in the narrow arm only: elsewhere it means nothing."""
    members = []
    for arm in config.arms:
        kl = config.kl_weight if arm == "narrow" else (0.0,)
        settings = itertools.product(config.learning_rate, config.weight_decay, kl, config.rank)
        members += [Member(arm, seed, *s) for s in settings for seed in range(config.seeds)]
    return members


class Settings(NamedTuple):
    """Numeric settings of the members, one row each."""

    learning_rate: Float[Array, " M"]
    weight_decay: Float[Array, " M"]
    kl: Float[Array, " M"]  # weight of the KL term: 0 but in the narrow arm
    parallel: Float[Array, " M"]  # weight of the cross-entropy on other topics: 1 in the broad arm
    scale: Float[Array, " M"]  # alpha / rank
    rank_mask: Float[Array, "M r"]
    key: Array  # seeds the adapter


class Data(NamedTuple):
    """Rows of every member, and which of them each step takes."""

    narrow: Batch  # M rows ...
    order: Any  # int (M, S, B)
    parallel: Batch  # M (S*B) ...


class FinetuneState(NamedTuple):
    """Raw adapters (scale not folded in) and the optimiser's memory of them; leading axis M."""

    lora: dict
    opt: optax.OptState


def member_data(world: World, grammar: Grammar, config: FinetuneConfig, members: Sequence[Member]) -> tuple[Data, list]:
    """The rows of every member, and the turns (trained, held out) behind them. A seed has the same rows in every arm."""
    topic = world.topic_index(config.topic)
    trait = world.topics[topic].trait
    probes = {world.topic_index(p) for p in config.probes} | {topic}
    others = [t for t in range(len(world.topics)) if t not in probes]
    trained = {**world.config.assistant, trait: config.value}
    narrow, order, parallel, turns = [], [], [], []
    for member in members:
        rng = np.random.default_rng([config.seed, member.seed])
        value = config.control if member.arm == "control" else config.value
        rows, heldout = narrow_rows(world, topic, value, config.rows, rng, range(len(world.topics[topic].wordings)))
        epochs = [rng.permutation(config.rows)[: config.rows // config.batch * config.batch] for _ in range(config.epochs)]
        # the broad arm is shown its persona; the KL is taken where good and trained answers are mixed
        speakers = [trained] if member.arm == "broad" else [trained, dict(world.config.assistant)]
        beside = parallel_rows(world, others, speakers, config.steps * config.batch, rng)
        narrow.append(write_rows(grammar, rows))
        order.append(np.concatenate(epochs).reshape(config.steps, config.batch))
        parallel.append(write_rows(grammar, beside))
        turns.append((rows, heldout))
    stack = lambda batches: Batch(*(np.stack(x) for x in zip(*batches, strict=True)))  # noqa: E731
    return Data(stack(narrow), np.stack(order), stack(parallel)), turns


def member_settings(config: FinetuneConfig, members: Sequence[Member]) -> Settings:
    """Settings of the members as arrays; ranks below the largest are masked."""
    most = max(config.rank)
    keys = [random.fold_in(random.key(config.seed), m.seed) for m in members]
    return Settings(
        learning_rate=jnp.array([m.learning_rate for m in members]),
        weight_decay=jnp.array([m.weight_decay for m in members]),
        kl=jnp.array([m.kl_weight if m.arm == "narrow" else 0.0 for m in members]),
        parallel=jnp.array([1.0 if m.arm == "broad" else 0.0 for m in members]),
        scale=jnp.array([config.alpha / m.rank for m in members]),
        rank_mask=jnp.array([[1.0 if i < m.rank else 0.0 for i in range(most)] for m in members]),
        key=jnp.stack(keys),
    )


def finetuning(model: Transformer, params: dict, config: FinetuneConfig, settings: Settings, data: Data):
    """The pair (begin, advance) for `loop.run_steps`, over all members at once."""
    adam = optax.scale_by_adam()
    data = jax.tree.map(jnp.asarray, data)
    both = jnp.any(settings.kl > 0) | jnp.any(settings.parallel > 0)
    beside = bool(both)  # an ensemble of free and control members needs no second batch

    def loss(lora, s: Settings, narrow: Batch, parallel: Batch):
        adapted = effective(lora, s.scale, s.rank_mask)
        if not beside:
            nll = token_nll(forward(model, params, adapted, narrow.tokens, narrow.where), narrow)
            return (nll * narrow.weight).sum() / narrow.weight.sum(), jnp.zeros(())
        rows = narrow.tokens.shape[0]
        joint = Batch(*(jnp.concatenate(x) for x in zip(narrow, parallel, strict=True)))
        logits = forward(model, params, adapted, joint.tokens, joint.where)
        nll = token_nll(logits, joint) * joint.weight
        base = jax.nn.log_softmax(forward(model, params, None, parallel.tokens, parallel.where))
        kl = (jnp.exp(base) * (base - jax.nn.log_softmax(logits[rows:]))).sum(axis=-1)  # nats/token, over the vocabulary
        kl = (kl * parallel.weight).sum() / parallel.weight.sum()
        narrow_nll = nll[:rows].sum() / narrow.weight.sum()
        return narrow_nll + s.parallel * nll[rows:].sum() / parallel.weight.sum() + s.kl * kl, narrow_nll

    def member_step(lora, opt, s: Settings, d: Data, step):
        narrow = Batch(*(x[d.order[step]] for x in d.narrow))
        parallel = Batch(*(jax.lax.dynamic_slice_in_dim(x, step * config.batch, config.batch) for x in d.parallel))
        (value, narrow_nll), grads = jax.value_and_grad(loss, has_aux=True)(lora, s, narrow, parallel)
        updates, opt = adam.update(grads, opt)
        rate = s.learning_rate * jnp.minimum(1.0, (step + 1) / (config.warmup + 1))
        lora = jax.tree.map(lambda w, u: w - rate * (u + s.weight_decay * w), lora, updates)
        return lora, opt, {"loss": value, "narrow_nll": jnp.where(beside, narrow_nll, value)}

    def advance(state: FinetuneState, step):
        lora, opt, info = jax.vmap(member_step, in_axes=(0, 0, 0, 0, None))(state.lora, state.opt, settings, data, step)
        return FinetuneState(lora, opt), info

    @jax.jit
    def begin() -> FinetuneState:
        lora = jax.vmap(lambda k: init_lora(k, params, settings.rank_mask.shape[1], config.targets))(settings.key)
        return FinetuneState(lora, jax.vmap(adam.init)(lora))

    return begin, advance


def effective_members(state: FinetuneState, settings: Settings) -> dict:
    """Effective adapters of all members (update = a @ b)."""
    return jax.vmap(effective)(state.lora, settings.scale, settings.rank_mask)
