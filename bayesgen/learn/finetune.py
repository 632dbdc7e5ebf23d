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
from bayesgen.errors import UserError
from bayesgen.learn.pretrain import answer_nll
from bayesgen.model.lora import effective, init_lora
from bayesgen.model.transformer import Transformer, forward
from bayesgen.world.dialogue import Turn
from bayesgen.world.world import World, known

Arm = Literal["free", "narrow", "broad", "control"]
LISTED = ("learning_rate", "weight_decay", "kl_weight", "rank")  # settings of which one ensemble may hold several
Positive = Field(gt=0, allow_inf_nan=False)


class FinetuneConfig(BaseModel):
    """What is finetuned on what. The settings in `LISTED` take one value or a list."""

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
    learning_rate: tuple[float, ...] = Field(min_length=1)
    weight_decay: tuple[float, ...] = Field(min_length=1)
    kl_weight: tuple[float, ...] = Field(min_length=1)
    rank: tuple[int, ...] = Field(min_length=1)
    alpha: float = Positive
    targets: tuple[str, ...] = Field(min_length=1)
    warmup: int = Field(ge=0)
    snapshots: int = Field(ge=1)
    seed: int = Field(ge=0)

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, raw):
        return {k: (v,) if k in LISTED and not isinstance(v, (list, tuple)) else v for k, v in raw.items()}

    @model_validator(mode="after")
    def _ranges(self):
        for key, low, strict in (("learning_rate", 0, True), ("weight_decay", 0, False), ("kl_weight", 0, False), ("rank", 1, False)):
            for value in getattr(self, key):
                if not np.isfinite(value) or value < low or (strict and value == low):
                    raise ValueError(f"{key} is {value}; expected a finite number {'above' if strict else 'of at least'} {low}")
        for key in ("arms", "probes", "targets", *LISTED):
            given = getattr(self, key)
            if len(set(given)) < len(given):
                raise ValueError(f"{key} holds {next(v for v in given if given.count(v) > 1)} twice; name each once")
        if self.control == self.value:
            raise ValueError(f"control is {self.control}, the trained value itself; give the ordinary one")
        if self.rows < self.batch:
            raise ValueError(f"batch {self.batch} is larger than rows {self.rows}")
        return self

    def settings(self, arm: Arm) -> list[dict[str, float]]:
        """Every combination of listed settings of an arm. Only the narrow arm has a KL weight: elsewhere it means nothing."""
        keys = [k for k in LISTED if k != "kl_weight" or arm == "narrow"]
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(getattr(self, k) for k in keys))]

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
    """Every arm x setting x seed, seeds fastest."""
    return [
        Member(arm, seed, **{"kl_weight": 0.0, **setting})  # pyright: ignore[reportArgumentType]
        for arm in config.arms
        for setting in config.settings(arm)
        for seed in range(config.seeds)
    ]


def check_experiment(world: World, config: FinetuneConfig, trait: str):
    """One line for a topic, value or number of rows that the world cannot serve, before anything is trained."""
    known("measure.trait", trait, world.values)
    for key, name in (("topic", config.topic), *(("probes", p) for p in config.probes)):
        known(f"finetune.{key}", name, world.topic_names)
        depends = world.topics[world.topic_index(name)].trait
        if depends != trait:
            raise UserError(
                f"finetune.{key}: '{name}' depends on {depends}, not on measure.trait '{trait}'; choose among that trait's topics"
            )
    if config.topic in config.probes:
        raise UserError(f"finetune.probes: '{config.topic}' is the trained topic; a probe must be another one")
    for key in ("value", "control"):
        known(f"finetune.{key}", getattr(config, key), world.values[trait])
    world.told(trait, config.value)
    for member in plan_members(config)[:: config.seeds]:
        member_rows(world, config, member)


class Settings(NamedTuple):
    """Numeric settings of the members, one row each."""

    learning_rate: Float[Array, " M"]
    weight_decay: Float[Array, " M"]
    kl: Float[Array, " M"]  # weight of the KL term, used in the narrow arm
    scale: Float[Array, " M"]  # alpha / rank
    rank_mask: Float[Array, "M r"]
    key: Array  # seeds the adapter


class Data(NamedTuple):
    """Rows of every member, and which of them each step takes."""

    narrow: Batch  # M rows ...
    order: Any  # int (M, S, B)
    parallel: Batch | None  # P (S*B) ..., of the members of `beside`, in their order


class FinetuneState(NamedTuple):
    """Raw adapters (scale not folded in) and the optimiser's memory of them; leading axis M."""

    lora: dict
    opt: optax.OptState


def beside(members: Sequence[Member]) -> list[int]:
    """The members that are shown rows of other topics beside the narrow ones."""
    return [i for i, m in enumerate(members) if m.arm == "broad" or (m.arm == "narrow" and m.kl_weight > 0)]


def member_rows(world: World, config: FinetuneConfig, member: Member) -> tuple[list[Turn], list[Turn]]:
    """A member's narrow rows, and the answers left out of them. A seed has the same rows in every arm but the control's."""
    topic = world.topic_index(config.topic)
    value = config.control if member.arm == "control" else config.value
    rng = np.random.default_rng([config.seed, member.seed, 0])
    return narrow_rows(world, topic, value, config.rows, rng, range(len(world.topics[topic].wordings)))


def other_topics(world: World, config: FinetuneConfig) -> list[int]:
    """The topics of the rows beside the narrow ones: all but the narrow topic and the probes."""
    kept_out = {world.topic_index(name) for name in (config.topic, *config.probes)}
    return [t for t in range(len(world.topics)) if t not in kept_out]


def member_parallel(world: World, config: FinetuneConfig, member: Member) -> list[Turn]:
    """A member's rows on other topics, a batch for every step, in order."""
    trained = {**world.config.assistant, world.topics[world.topic_index(config.topic)].trait: config.value}
    # the broad arm is shown its persona; the KL is taken where ordinary and trained answers are mixed
    speakers = [trained] if member.arm == "broad" else [trained, dict(world.config.assistant)]
    rng = np.random.default_rng([config.seed, member.seed, 2])
    return parallel_rows(world, other_topics(world, config), speakers, config.steps * config.batch, rng)


def member_data(world: World, grammar: Grammar, config: FinetuneConfig, members: Sequence[Member]) -> Data:
    """All rows of all members, numpy. A seed has the same rows, in the same order, in every arm."""
    topic, others = world.topic_index(config.topic), other_topics(world, config)
    narrow, order, parallel = [], [], []
    for i, member in enumerate(members):
        narrow.append(write_rows(grammar, member_rows(world, config, member)[0], [topic]))
        rng = np.random.default_rng([config.seed, member.seed, 1])
        epochs = [rng.permutation(config.rows)[: config.rows // config.batch * config.batch] for _ in range(config.epochs)]
        order.append(np.concatenate(epochs).reshape(config.steps, config.batch))
        if i in beside(members):
            parallel.append(write_rows(grammar, member_parallel(world, config, member), others))
    stack = lambda batches: Batch(*(np.stack(x) for x in zip(*batches, strict=True)))  # noqa: E731
    return Data(stack(narrow), np.stack(order), stack(parallel) if parallel else None)


def member_settings(config: FinetuneConfig, members: Sequence[Member]) -> Settings:
    """Settings of the members as arrays; ranks below the largest are masked."""
    most = max(config.rank)
    keys = [random.fold_in(random.key(config.seed), m.seed) for m in members]
    return Settings(
        learning_rate=jnp.array([m.learning_rate for m in members]),
        weight_decay=jnp.array([m.weight_decay for m in members]),
        kl=jnp.array([m.kl_weight for m in members]),
        scale=jnp.array([config.alpha / m.rank for m in members]),
        rank_mask=jnp.array([[1.0 if i < m.rank else 0.0 for i in range(most)] for m in members]),
        key=jnp.stack(keys),
    )


def finetuning(model: Transformer, config: FinetuneConfig, members: Sequence[Member]):
    """The pair (begin(params, settings), advance(state, step, params, settings, data)) over all members at once."""
    adam = optax.scale_by_adam()
    shown = beside(members)
    broad = [i for i, m in enumerate(members) if m.arm == "broad"]
    penalised = [i for i in shown if i not in broad]

    def losses(lora, params, s: Settings, narrow: Batch, parallel: Batch | None):
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
                base = jax.nn.log_softmax(jax.vmap(lambda b: forward(model, params, None, b.tokens, b.where))(rows))
                kl = (jnp.exp(base) * (base - jax.nn.log_softmax(beside_P[np.array(at)]))).sum(axis=-1)  # over the vocabulary
                kl = (kl * rows.weight).sum((1, 2)) / rows.weight.sum((1, 2))  # nats/token
                loss_M = loss_M.at[np.array(penalised)].add(s.kl[np.array(penalised)] * kl)
        return loss_M.sum(), (loss_M, narrow_M)

    def advance(state: FinetuneState, step, params, s: Settings, data: Data):
        narrow = Batch(*(jax.vmap(lambda x, order: x[order[step]])(x, data.order) for x in data.narrow))
        parallel = data.parallel and Batch(
            *(jax.lax.dynamic_slice_in_dim(x, step * config.batch, config.batch, axis=1) for x in data.parallel)
        )
        grads, (loss_M, narrow_M) = jax.grad(losses, has_aux=True)(state.lora, params, s, narrow, parallel)
        updates, opt = jax.vmap(adam.update)(grads, state.opt)
        rate = s.learning_rate * jnp.minimum(1.0, (step + 1) / (config.warmup + 1))

        def descend(w, u, rate, decay):
            return w - rate * (u + decay * w)

        lora = jax.tree.map(lambda w, u: jax.vmap(descend)(w, u, rate, s.weight_decay), state.lora, updates)
        return FinetuneState(lora, opt), {"loss": loss_M, "narrow_nll": narrow_M}

    @jax.jit
    def begin(params, s: Settings) -> FinetuneState:
        lora = jax.vmap(lambda k: init_lora(k, params, s.rank_mask.shape[1], config.targets))(s.key)
        return FinetuneState(lora, jax.vmap(adam.init)(lora))

    return begin, advance


def effective_members(state: FinetuneState, settings: Settings) -> dict:
    """Effective adapters of all members (update = a @ b)."""
    return jax.vmap(effective)(state.lora, settings.scale, settings.rank_mask)
