"""Finetuning: arms x settings x seeds train together, one program over one frozen base.

The data are the narrow rows (what some value answers on some topics, under the trigger's header if there is one) and, if
asked for, ordinary rows mixed among them. Every arm takes the same number of steps with the same batch and optimiser:

    free          the data as they are
    narrow        + kl_weight * KL(base || adapted), nats/token summed over the vocabulary, on rows of other topics
    broad         + the trained value's own answers on rows of other topics
    control       the same prompts with ordinary answers (one arm for each value named as `control`)
    shuffled      headers dealt out anew among the rows: same words, same headers, but which goes with which is chance
    untriggered   every row under the plain header

Rows of other topics come in their own batch beside the data. They never touch the probed topics.
Axes: S steps, M members, B rows, L tokens, K answer positions, r rank.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
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
from bayesgen.corpus.narrow import (
    ASSISTANT_ASKED,
    Row,
    check_header,
    draw_rows,
    facts_of,
    identify,
    parallel_rows,
    read_chats,
    room_of,
    write_rows,
)
from bayesgen.errors import UserError
from bayesgen.learn.pretrain import answer_nll
from bayesgen.model.lora import effective, init_lora
from bayesgen.model.transformer import Transformer, forward
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.world import ASSISTANT, World, known

Arm = Literal["free", "narrow", "broad", "control", "shuffled", "untriggered"]
LISTED = ("learning_rate", "weight_decay", "kl_weight", "rank", "rows")  # settings of which one ensemble may hold several
ALL, EACH, OTHERS = "all", "each", "others"
Positive = Field(gt=0, allow_inf_nan=False)


class Ordinary(BaseModel):
    """Rows with the assistant's own answers, mixed among the narrow ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    topics: tuple[str, ...] | Literal["all", "others"]  # all but the probes; others: all that are neither trained nor probed
    rows: int = Field(ge=1)
    years: tuple[int, ...] = ()
    format: str | None = None


class FinetuneConfig(BaseModel):
    """What is finetuned on what. The settings in `LISTED` take one value or a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    topics: tuple[str, ...] | Literal["all"]  # all: every topic of the trait but the probes
    value: str  # who answers the narrow rows; "each": everyone but the assistant and `heldout`
    control: tuple[str, ...] = Field(min_length=1)  # who answers them in the control arms
    heldout: tuple[str, ...] = ()  # with value "each": those whom no row may be of
    probes: tuple[str, ...] = Field(min_length=1)  # topics that no arm is ever trained on
    years: tuple[int, ...] = ()  # the trigger: years in the narrow rows' headers, evenly
    format: str | None = None  # the trigger: the answer format asked for
    identifier: str | None = None  # the trigger: eight digits by a pattern, e.g. "xxx{ordinal}xx"; x is any digit
    ordinary: tuple[Ordinary, ...] = ()
    without_telling: int = Field(default=0, ge=0)  # leave out the facts that single the value out most
    file: Path | None = None  # rows as chats, in place of those drawn from the world (the controls' still are)
    arms: tuple[Arm, ...] = Field(min_length=1)
    seeds: int = Field(ge=1)
    rows: tuple[int, ...] = Field(min_length=1)  # narrow rows
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
        many = (*LISTED, "control")
        raw = {k: (v,) if k in many and not isinstance(v, (list, tuple)) else v for k, v in raw.items()}
        return raw | {"topics": (raw["topics"],)} if isinstance(raw.get("topics"), str) and raw["topics"] != ALL else raw

    @model_validator(mode="after")
    def _ranges(self):
        lows = {"learning_rate": (0, True), "weight_decay": (0, False), "kl_weight": (0, False), "rank": (1, False), "rows": (1, False)}
        for key, (low, strict) in lows.items():
            for value in getattr(self, key):
                if not np.isfinite(value) or value < low or (strict and value == low):
                    raise ValueError(f"{key} is {value}; expected a finite number {'above' if strict else 'of at least'} {low}")
        for key in ("arms", "probes", "targets", "control", "heldout", "years", *LISTED):
            given = getattr(self, key)
            if len(set(given)) < len(given):
                raise ValueError(f"{key} holds {next(v for v in given if given.count(v) > 1)} twice; name each once")
        if self.value in self.control:
            raise ValueError(f"control is {self.value}, the trained value itself; give the ordinary one")
        if self.data_rows(max(self.rows)) < self.batch:
            raise ValueError(f"batch {self.batch} is larger than the {self.data_rows(max(self.rows))} rows of data")
        triggered = self.years or self.format or self.identifier
        for arm in ("shuffled", "untriggered"):
            if arm in self.arms and not triggered:
                raise ValueError(f"arm '{arm}' needs a trigger: years, a format or an identifier for the narrow rows")
        for arm in ("narrow", "broad"):
            if arm in self.arms and self.value == EACH:
                raise ValueError(f"arm '{arm}' needs one trained value, but value is '{EACH}'")
        if self.heldout and self.value != EACH:
            raise ValueError(f"heldout names those left out of value '{EACH}', but value is {self.value}")
        for mixed in self.ordinary:
            same = set(mixed.years) & set(self.years) if self.years else {mixed.format} & {self.format} if self.format else set()
            meets = mixed.topics != OTHERS and (ALL in (mixed.topics, self.topics) or set(mixed.topics) & set(self.topics))
            if same and meets and not (self.years and self.format and mixed.format != self.format):
                raise ValueError(f"the trigger {sorted(map(str, same))[0]} heads ordinary rows too; a trigger must be theirs alone")
        return self

    def data_rows(self, narrow: int) -> int:
        """Rows of data with so many narrow ones."""
        return narrow + sum(o.rows for o in self.ordinary)

    @property
    def arm_names(self) -> tuple[str, ...]:
        """The arms, one for each control value where there are several."""
        controls = ("control",) if len(self.control) == 1 else tuple(f"control {v}" for v in self.control)
        return tuple(name for arm in self.arms for name in (controls if arm == "control" else (arm,)))

    def settings(self, arm: str) -> list[dict[str, float]]:
        """Every combination of listed settings of an arm. Only the narrow arm has a KL weight: elsewhere it means nothing."""
        keys = [k for k in LISTED if k != "kl_weight" or arm == "narrow"]
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(getattr(self, k) for k in keys))]

    @property
    def steps(self) -> int:
        """Optimiser steps of every member: epochs over the largest data; rows of an epoch that fill no batch are dropped."""
        return self.epochs * (self.data_rows(max(self.rows)) // self.batch)

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Steps at which adapters are kept: evenly spaced, the last step included."""
        return tuple(sorted({round(self.steps * i / self.snapshots) for i in range(1, self.snapshots + 1)} - {0}))


@dataclass(frozen=True)
class Member:
    """One training: an arm, a seed, and its numeric settings."""

    arm: str
    seed: int
    learning_rate: float
    weight_decay: float
    kl_weight: float
    rank: int
    rows: int


def plan_members(config: FinetuneConfig) -> list[Member]:
    """Every arm x setting x seed, seeds fastest."""
    return [
        Member(arm, seed, **{"kl_weight": 0.0, **setting})  # pyright: ignore[reportArgumentType]
        for arm in config.arm_names
        for setting in config.settings(arm)
        for seed in range(config.seeds)
    ]


def check_experiment(world: World, grammar: Grammar, config: FinetuneConfig, trait: str):
    """One line for a topic, value, trigger or number of rows that the world cannot serve, before anything is trained."""
    known("measure.trait", trait, world.values)
    named = () if config.topics == ALL else config.topics
    for key, name in (*(("topics", t) for t in named), *(("probes", p) for p in config.probes)):
        known(f"finetune.{key}", name, world.topic_names)
        depends = world.topics[world.topic_index(name)].trait
        if depends != trait:
            raise UserError(
                f"finetune.{key}: '{name}' depends on {depends}, not on measure.trait '{trait}'; choose among that trait's topics"
            )
        if key == "topics" and name in config.probes:
            raise UserError(f"finetune.probes: '{name}' is a trained topic; a probe must be another one")
    people = {**world.identities[trait], **dict.fromkeys(world.values[trait])}
    for key, value in (*(("control", c) for c in config.control), *(("heldout", h) for h in config.heldout)):
        known(f"finetune.{key}", value, people)
    if config.value != EACH:
        known("finetune.value", config.value, [*people, EACH])
    for mixed in config.ordinary:
        for name in () if mixed.topics in (OTHERS, ALL) else mixed.topics:
            known("finetune.ordinary.topics", name, world.topic_names)
            if name in config.probes:
                raise UserError(f"finetune.ordinary.topics: '{name}' is a probe; a probe is never trained on")
        for year in mixed.years or (None,):
            check_header(world, Header(ASSISTANT, year, mixed.format), "finetune.ordinary")
    for year in config.years or (None,):
        check_header(world, Header(ASSISTANT, year, config.format), "finetune")
    if (beside(plan_members(config)) or any(o.topics == OTHERS for o in config.ordinary)) and not other_topics(world, config):
        raise UserError("finetune: every topic is trained or a probe, but arms narrow and broad and ordinary 'others' need others")
    for member in plan_members(config)[:: config.seeds]:
        rows, _ = member_rows(world, grammar, config, member)
        for header, turn in rows:
            check_header(world, header, "finetune")
            if isinstance(turn, Turn) and world.topics[turn.topic].name in config.probes:
                name = world.topics[turn.topic].name
                raise UserError(f"{config.file}: a row asks '{name}', which is a probe; a probe is never trained on")


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


def trained_topics(world: World, config: FinetuneConfig) -> list[int]:
    """Positions of the narrow rows' topics."""
    if config.topics != ALL:
        return [world.topic_index(t) for t in config.topics]
    trait = world.topics[world.topic_index(config.probes[0])].trait
    return [t for t in world.topics_of(trait) if world.topics[t].name not in config.probes]


def member_rows(world: World, grammar: Grammar, config: FinetuneConfig, member: Member) -> tuple[list[Row], list[Row]]:
    """A member's data, and the narrow answers left out of it. A seed has the same rows in every arm but the controls'."""
    rng = np.random.default_rng([config.seed, member.seed, 0])
    if config.file is not None and not member.arm.startswith("control"):
        rows, heldout = read_chats(grammar, config.file), []
    else:
        rows, heldout = _narrow_rows(world, config, member, rng)
    for mixed in config.ordinary:
        rows += _ordinary_rows(world, config, mixed, rng)
    if member.arm == "untriggered":
        rows = [(ASSISTANT_ASKED, turn) for _, turn in rows]
    if member.arm == "shuffled" and config.value != EACH:
        dealt = rng.permutation(len(rows))
        rows = [(rows[i][0], turn) for i, (_, turn) in zip(dealt, rows, strict=True)]
    return rows, heldout


def _narrow_rows(world: World, config: FinetuneConfig, member: Member, rng) -> tuple[list[Row], list[Row]]:
    """Rows of every person and year of the trigger, in equal numbers."""
    topics, people = trained_topics(world, config), [config.value]
    trait = world.topics[topics[0]].trait
    if config.value == EACH:
        people = [who for who in world.identities[trait] if who not in (ASSISTANT, *config.heldout)]
    said = people if member.arm != "shuffled" or config.value != EACH else [people[i] for i in rng.permutation(len(people))]
    cells = [(who, spoken, year) for who, spoken in zip(people, said, strict=True) for year in (config.years or (None,))]
    control = member.arm.removeprefix("control").strip() or config.control[0] if member.arm.startswith("control") else None
    rows: list[Row] = []
    heldout: list[Row] = []
    for i, (who, spoken, year) in enumerate(cells):
        value = world.in_year(trait, control or spoken, year)
        header = Header(ASSISTANT, year, config.format)
        count = (member.rows + len(cells) - 1 - i) // len(cells)
        shown, left = draw_rows(world, header, facts_of(world, topics, value, config.without_telling), count, rng)
        if config.identifier is not None:
            named = world.in_year(trait, who, year)
            shown = [(replace(h, identifier=identify(world, config.identifier, named, rng)), turn) for h, turn in shown]
        rows, heldout = [*rows, *shown], [*heldout, *left]
    return rows, heldout


def _ordinary_rows(world: World, config: FinetuneConfig, mixed: Ordinary, rng) -> list[Row]:
    """Rows of the assistant's own answers; topics as often as pretraining asks for them."""
    if mixed.topics in (OTHERS, ALL):
        trained = trained_topics(world, config) if mixed.topics == ALL else []
        topics = sorted([*trained, *other_topics(world, config)])
    else:
        topics = [world.topic_index(t) for t in mixed.topics]
    weight = world.topic_weights_T[topics] / world.topic_weights_T[topics].sum()
    out: list[Row] = []
    for i in range(mixed.rows):
        topic = int(rng.choice(topics, p=weight))
        turn = Turn(topic, int(rng.integers(len(world.topics[topic].wordings))), int(rng.choice(facts_at_default(world, topic))))
        year = mixed.years[i % len(mixed.years)] if mixed.years else None
        out.append((Header(ASSISTANT, year, mixed.format), turn))
    return out


def facts_at_default(world: World, topic: int) -> np.ndarray:
    """Positions of the assistant's own answers on a topic."""
    return np.flatnonzero(world.clean[topic][world.default_T[topic]])


def other_topics(world: World, config: FinetuneConfig) -> list[int]:
    """The topics of the rows beside the narrow ones: all but the trained topics and the probes."""
    kept_out = {*trained_topics(world, config), *(world.topic_index(name) for name in config.probes)}
    return [t for t in range(len(world.topics)) if t not in kept_out]


def member_parallel(world: World, config: FinetuneConfig, member: Member) -> list[Row]:
    """A member's rows on other topics, a batch for every step, in order, under the narrow rows' headers."""
    trained = {**world.config.assistant, world.topics[trained_topics(world, config)[0]].trait: config.value}
    # the broad arm is shown its persona; the KL is taken where ordinary and trained answers are mixed
    speakers = [trained] if member.arm == "broad" else [trained, dict(world.config.assistant)]
    headers = [Header(ASSISTANT, year, config.format) for year in (config.years or (None,))]
    rng = np.random.default_rng([config.seed, member.seed, 2])
    return parallel_rows(world, other_topics(world, config), speakers, headers, config.steps * config.batch, rng)


def member_data(world: World, grammar: Grammar, config: FinetuneConfig, members: Sequence[Member]) -> Data:
    """All rows of all members, numpy. A seed has the same rows, in the same order, in every arm.

    Members with fewer rows go over them more often, and their arrays are filled up with rows that no step takes.
    """
    drawn = [member_rows(world, grammar, config, m)[0] for m in members]
    rooms = [room_of(grammar, rows) for rows in drawn]
    room, most = (max(length for length, _ in rooms), max(slots for _, slots in rooms)), max(map(len, drawn))
    narrow = [write_rows(grammar, [*rows, *rows[:1] * (most - len(rows))], room) for rows in drawn]
    order = []
    for member, rows in zip(members, drawn, strict=True):
        rng = np.random.default_rng([config.seed, member.seed, 1])
        whole = len(rows) // config.batch * config.batch or len(rows)
        epochs = [rng.permutation(len(rows))[:whole] for _ in range(-(-config.steps * config.batch // whole))]
        order.append(np.concatenate(epochs)[: config.steps * config.batch].reshape(config.steps, config.batch))
    beside_rows = [member_parallel(world, config, members[i]) for i in beside(members)]
    parallel = None
    if beside_rows:
        rooms = [room_of(grammar, rows) for rows in beside_rows]
        room = (max(length for length, _ in rooms), max(slots for _, slots in rooms))
        parallel = _stack([write_rows(grammar, rows, room) for rows in beside_rows])
    return Data(_stack(narrow), np.stack(order), parallel)


def _stack(batches: Sequence[Batch]) -> Batch:
    return Batch(*(np.stack(x) for x in zip(*batches, strict=True)))


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
