"""The world: traits, personas with their frequencies, and what each would answer.

A persona is one value for each trait, drawn as a product of the traits' frequencies; a *composite* persona keeps those
values except on named topics ("modern, except victorian about birds") and has a frequency of its own. The assistant
speaks in one fixed persona. Answers carry noise: with probability `answer_noise` a speaker answers as somebody drawn
uniformly from the trait's values, so that personas overlap and inference takes several turns.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bayesgen.errors import UserError, nearest
from bayesgen.world.dialogue import Header
from bayesgen.world.load import TIMELESS, Module, Topic, Years, load_module

PERSON, ASSISTANT = "person", "assistant"
SPEAKERS = (PERSON, ASSISTANT)


class Composite(BaseModel):
    """A narrow persona: `frequency` of it speaks as `traits`, but as `topics[topic]` on the topics named there."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    frequency: float = Field(gt=0, lt=1)
    traits: dict[str, str]
    topics: dict[str, str]


class WorldConfig(BaseModel):
    """What the world is made of. Frequencies are shares of the documents written by persons (not the assistant)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    modules: tuple[str, ...] = Field(min_length=1)
    frequencies: dict[str, dict[str, float]]
    composites: tuple[Composite, ...] = ()
    answer_noise: float = Field(ge=0, lt=1)
    assistant_share: float = Field(gt=0, lt=1)
    assistant: dict[str, str]
    dated_share: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _frequencies_are_distributions(self):
        for trait, table in self.frequencies.items():
            for value, frequency in table.items():
                if not frequency > 0:
                    raise ValueError(f"frequencies.{trait}.{value} is {frequency}; expected a number above 0")
            total = sum(table.values())
            if abs(total - 1) > 1e-6:
                raise ValueError(f"frequencies.{trait} sum to {total:.6g}; expected 1")
        if sum(c.frequency for c in self.composites) >= 1:
            raise ValueError("composites take the whole population; their frequencies must sum to less than 1")
        return self


@dataclass(frozen=True)
class Persona:
    """Who speaks: a value for each trait, the value used on each overridden topic, and a share of persons' documents."""

    name: str
    traits: dict[str, str]
    overrides: dict[str, str]
    frequency: float


@dataclass(frozen=True, eq=False)
class World:
    """Everything that is true. Axes: Z personas, T topics, V values of a topic's trait, A answers of a topic."""

    config: WorldConfig
    values: dict[str, tuple[str, ...]]  # trait -> its values
    years: dict[str, dict[str, Years]]  # trait -> value -> its years, for a dated trait
    topics: tuple[Topic, ...]
    personas: tuple[Persona, ...]
    default: Persona  # the assistant's

    @cached_property
    def topic_names(self) -> tuple[str, ...]:
        """Names of the topics, in order."""
        return tuple(t.name for t in self.topics)

    def topic_index(self, name: str) -> int:
        """Position of a topic; an unknown name is an error that gives the nearest."""
        if name not in self.topic_names:
            raise UserError(f"topic '{name}' is not in the world{nearest(name, self.topic_names)}")
        return self.topic_names.index(name)

    @cached_property
    def topic_weights_T(self) -> np.ndarray:
        """Share of questions that fall on each topic."""
        weight = np.array([t.weight for t in self.topics])
        return weight / weight.sum()

    @cached_property
    def frequency_Z(self) -> np.ndarray:
        """Share of persons' documents by persona."""
        return np.array([p.frequency for p in self.personas])

    @cached_property
    def answers(self) -> tuple[tuple[str, ...], ...]:
        """For each topic, its distinct answers over all values, in file order."""
        return tuple(tuple(dict.fromkeys(a for v in self.values[t.trait] for a in t.answers[v])) for t in self.topics)

    @cached_property
    def clean(self) -> tuple[np.ndarray, ...]:
        """For each topic (V, A): what each value answers without noise."""
        out = []
        for topic, answers in zip(self.topics, self.answers, strict=True):
            rows = [topic.weights(value) for value in self.values[topic.trait]]
            out.append(np.array([[row.get(a, 0.0) for a in answers] for row in rows]))
        return tuple(out)

    @cached_property
    def noisy(self) -> tuple[np.ndarray, ...]:
        """For each topic (V, A): (1 - noise) * clean + noise * mean over values of clean."""
        noise = self.config.answer_noise
        return tuple((1 - noise) * c + noise * c.mean(axis=0, keepdims=True) for c in self.clean)

    @cached_property
    def responsibility(self) -> tuple[np.ndarray, ...]:
        """For each topic (A, V): to which value an answer belongs (a shared one in proportion). Rows sum to one."""
        return tuple((c / c.sum(axis=0)).T for c in self.clean)

    def value_index(self, persona: Persona, topic: int) -> int:
        """Which row of `noisy[topic]` the persona answers from."""
        t = self.topics[topic]
        value = persona.overrides.get(t.name, persona.traits.get(t.trait, TIMELESS))
        return self.values[t.trait].index(value)

    @cached_property
    def value_ZT(self) -> np.ndarray:
        """`value_index` of every persona on every topic."""
        return np.array([[self.value_index(p, t) for t in range(len(self.topics))] for p in self.personas])

    @cached_property
    def default_T(self) -> np.ndarray:
        """`value_index` of the assistant on every topic."""
        return np.array([self.value_index(self.default, t) for t in range(len(self.topics))])

    @cached_property
    def dated_trait(self) -> str | None:
        """The trait whose values have years, if the world has one."""
        return next(iter(self.years), None)

    def year_logprob(self, persona: Persona, year: int) -> float:
        """Log P(year | persona, dated): uniform over the years of the persona's value; -inf outside them."""
        trait = next(iter(self.years))
        years = self.years[trait][persona.traits[trait]]
        return -float(np.log(years.last - years.first + 1)) if years.first <= year <= years.last else -np.inf

    def told(self, trait: str, value: str) -> Header:
        """The header of a person who tells, by its year, that `trait` is `value`."""
        if trait not in self.years:
            raise UserError(f"measure.trait is '{trait}', whose values have no years to tell them by{nearest(trait, self.years)}")
        return Header(PERSON, self.years[trait][value].told)

    def topics_of(self, trait: str) -> tuple[int, ...]:
        """Positions of the topics that depend on `trait`."""
        return tuple(i for i, t in enumerate(self.topics) if t.trait == trait)


def build_world(config: WorldConfig) -> World:
    """Load the modules that `config` names and check that they fit together."""
    modules = [load_module(name) for name in config.modules]
    values: dict[str, tuple[str, ...]] = {}
    years: dict[str, dict[str, Years]] = {}
    for module in modules:
        trait, named = module.trait or TIMELESS, tuple(module.values)
        if values.setdefault(trait, named) != named:
            raise UserError(f"world.modules: '{module.name}' gives {trait} the values {named}, an earlier module {values[trait]}")
        dated = {v: y for v, y in module.values.items() if y is not None}
        if dated:
            years[trait] = dated
    topics = tuple(t for module in modules for t in module.topics)
    _check(config, modules, values, topics)
    personas = _product_personas(config, values)
    default = Persona(ASSISTANT, dict(config.assistant), {}, 0.0)
    return World(config, values, years, topics, personas, default)


def _product_personas(config: WorldConfig, values: dict[str, tuple[str, ...]]) -> tuple[Persona, ...]:
    """Every combination of trait values, at the product of their frequencies; composites take their share from all."""
    combined: list[tuple[dict[str, str], float]] = [({}, 1.0)]
    for trait in values:
        if trait != TIMELESS:
            table = config.frequencies[trait]
            combined = [({**have, trait: v}, f * table[v]) for have, f in combined for v in values[trait]]
    narrow = sum(c.frequency for c in config.composites)
    out = [Persona(" ".join(t.values()) or PERSON, t, {}, (1 - narrow) * f) for t, f in combined]
    for composite in config.composites:
        match = [(t, f) for t, f in combined if all(t[k] == v for k, v in composite.traits.items())]
        total = sum(f for _, f in match)
        out += [
            Persona(f"{composite.name} ({' '.join(t.values())})", t, dict(composite.topics), composite.frequency * f / total)
            for t, f in match
        ]
    return tuple(out)


def _check(config: WorldConfig, modules: list[Module], values: dict[str, tuple[str, ...]], topics: tuple[Topic, ...]):
    wordings: dict[str, str] = {}
    for topic in topics:
        for wording in topic.wordings + topic.heldout:
            if wording in wordings:
                raise UserError(
                    f"topics '{wordings[wording]}' and '{topic.name}' share the wording {wording!r}; "
                    "reword one, or no reader could tell them apart"
                )
            wordings[wording] = topic.name
    names = [t.name for t in topics]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"world.modules: topic '{name}' stands in two modules; rename one file")
    if config.answer_noise == 0:
        for topic in topics:
            seen: dict[str, str] = {}
            for value in values[topic.trait]:
                for answer in topic.answers[value]:
                    if answer in seen:
                        raise UserError(
                            f"topic '{topic.name}': {answer!r} stands under {seen[answer]} and {value}, but "
                            "world.answer_noise is 0; keep it under one, or give some noise"
                        )
                    seen[answer] = value
    traits = [t for t in values if t != TIMELESS]
    for key, named in (("frequencies", config.frequencies), ("assistant", config.assistant)):
        for trait in named:
            if trait not in traits:
                raise UserError(f"world.{key}.{trait}: no module has that trait{nearest(trait, traits)}")
        for trait in traits:
            if trait not in named:
                raise UserError(f"world.{key}.{trait} is missing; the modules {', '.join(config.modules)} need it")
    for trait in traits:
        for value in config.frequencies[trait]:
            known(f"world.frequencies.{trait}", value, values[trait])
        for value in values[trait]:
            if value not in config.frequencies[trait]:
                raise UserError(f"world.frequencies.{trait}.{value} is missing; every {trait} needs a frequency")
        known(f"world.assistant.{trait}", config.assistant[trait], values[trait])
    for composite in config.composites:
        key = f"world.composites.{composite.name}"
        for trait, value in composite.traits.items():
            known(f"{key}.traits", trait, traits)
            known(f"{key}.traits.{trait}", value, values[trait])
        for name, value in composite.topics.items():
            known(f"{key}.topics", name, names)
            known(f"{key}.topics.{name}", value, values[topics[names.index(name)].trait])


def known(key: str, name: str, valid: Iterable[str]):
    """A `UserError` that names `key` and the nearest valid name, unless `name` is valid."""
    if name not in valid:
        raise UserError(f"{key}: '{name}' is unknown{nearest(name, valid)}")
