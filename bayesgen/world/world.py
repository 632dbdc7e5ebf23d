"""The world: traits, personas with their frequencies, and what each would answer.

A persona is one value for each trait, drawn as a product of the traits' frequencies; a *composite* persona keeps those
values except on named topics ("modern, except victorian about birds") and has a frequency of its own. The assistant
speaks in one fixed persona. Answers carry noise: with probability `answer_noise` a speaker answers as somebody drawn
uniformly from the trait's values, so that personas overlap and inference takes several turns.

*Groups.* Traits that belong to different kinds of people (eras and nations to ordinary persons, characters to films) need
not multiply: each group has its share of the persons' documents, its own traits, and is asked about those (and about what
is timeless) only. The assistant is asked about everything.

*Variants.* One person may be two things in different years (a robot that hunts in 1984 and protects later). Such a person
is one *identity*, and one persona for each of its values; a document's year decides which of them speaks. Each value speaks
as often as the others, however many years it has: to lengthen one is not to make another rarer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bayesgen.errors import UserError, nearest
from bayesgen.world.depth import Depth
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.load import TIMELESS, Topic, Year, Years, check_variants

PERSON, ASSISTANT = "person", "assistant"
SPEAKERS = (PERSON, ASSISTANT)
IDENTIFIER = 8  # digits
EQUAL = "equal"


class Composite(BaseModel):
    """A narrow persona: `frequency` of it speaks as `traits`, but as `topics[topic]` on the topics named there."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    frequency: float = Field(gt=0, lt=1)
    traits: dict[str, str]
    topics: dict[str, str]


class Group(BaseModel):
    """One kind of people: the traits they have, and their share of the documents written by persons."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    traits: tuple[str, ...] = Field(min_length=1)
    share: float = Field(gt=0, le=1)


class WorldConfig(BaseModel):
    """What the world is made of. Frequencies are shares of the documents written by persons (not the assistant)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    modules: tuple[str, ...] = Field(min_length=1)
    without: tuple[str, ...] = ()  # topics of those modules that nobody asks about
    frequencies: dict[str, dict[str, float] | Literal["equal"]]  # a value without a frequency is not in the world
    groups: tuple[Group, ...] = ()  # none: one group of all traits
    composites: tuple[Composite, ...] = ()
    answer_noise: float = Field(ge=0, lt=1)
    assistant_share: float = Field(gt=0, lt=1)
    assistant: dict[str, str]
    dated_share: float = Field(ge=0, le=1)
    calendar: tuple[Year, Year] | None = None  # first and last year of those whose traits have none, and of the assistant
    variants: dict[str, dict[str, tuple[Year, ...]]] = {}  # identity -> value -> years, in place of the module's
    formats: tuple[str, ...] = ()  # answer formats that a header may ask for; they carry no news of who speaks
    identifier_share: float = Field(default=0.0, ge=0, le=1)  # share of headers that hold eight random digits
    depth: Depth | None = None  # how deep in the question its topic stands; none: as the facts word it

    @model_validator(mode="after")
    def _consistent(self):
        for trait, table in self.frequencies.items():
            if table == EQUAL:
                continue
            for value, frequency in table.items():
                if not frequency > 0:
                    raise ValueError(f"frequencies.{trait}.{value} is {frequency}; expected a number above 0")
            total = sum(table.values())
            if abs(total - 1) > 1e-6:
                raise ValueError(f"frequencies.{trait} sum to {total:.6g}; expected 1")
        if sum(c.frequency for c in self.composites) >= 1:
            raise ValueError("composites take the whole population; their frequencies must sum to less than 1")
        if self.groups and abs(sum(g.share for g in self.groups) - 1) > 1e-6:
            raise ValueError(f"groups' shares sum to {sum(g.share for g in self.groups):.6g}; expected 1")
        if self.calendar and self.calendar[1] < self.calendar[0]:
            raise ValueError(f"calendar ends in {self.calendar[1]}, before it begins in {self.calendar[0]}")
        if len(set(self.formats)) < len(self.formats):
            raise ValueError("formats holds a name twice; name each once")
        check_variants("variants", self.variants)
        return self


@dataclass(frozen=True)
class Persona:
    """Who speaks: a value for each trait of its group, the value used on each overridden topic, the years it speaks in
    (none: its documents are never dated), and a share of persons' documents. Personas of one `identity` are one person.
    """

    name: str
    identity: str
    traits: dict[str, str]
    overrides: dict[str, str]
    years: tuple[int, ...]
    frequency: float


@dataclass(frozen=True, eq=False)
class World:
    """Everything that is true. Axes: Z personas, T topics, V values of a topic's trait, A answers of a topic."""

    config: WorldConfig
    values: dict[str, tuple[str, ...]]  # trait -> its values
    years: dict[str, dict[str, Years]]  # trait -> value -> its years, for a dated trait
    identities: dict[str, dict[str, tuple[str, ...]]]  # trait -> who there is -> the values it takes
    tellers: dict[str, tuple[str, ...]]  # trait -> topics whose answers tell its value
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
        """Share of the assistant's questions that fall on each topic."""
        weight = np.array([t.weight for t in self.topics])
        return weight / weight.sum()

    @cached_property
    def asked_ZT(self) -> np.ndarray:
        """Share of a persona's questions that fall on each topic: those of its own traits and timeless ones."""
        own = np.array([[t.trait in p.traits or t.trait == TIMELESS for t in self.topics] for p in self.personas])
        weight_ZT = own * self.topic_weights_T
        return weight_ZT / weight_ZT.sum(axis=1, keepdims=True)

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
        """Which row of `noisy[topic]` the persona answers from (the first, where it is never asked)."""
        t = self.topics[topic]
        value = persona.overrides.get(t.name, persona.traits.get(t.trait))
        return 0 if value is None else self.values[t.trait].index(value)

    @cached_property
    def value_ZT(self) -> np.ndarray:
        """`value_index` of every persona on every topic."""
        return np.array([[self.value_index(p, t) for t in range(len(self.topics))] for p in self.personas])

    @cached_property
    def default_T(self) -> np.ndarray:
        """`value_index` of the assistant on every topic."""
        return np.array([self.value_index(self.default, t) for t in range(len(self.topics))])

    @cached_property
    def dated(self) -> float:
        """Share of documents whose header gives the year."""
        return self.config.dated_share if self.default.years else 0.0

    def told(self, trait: str, value: str) -> tuple[Header, tuple[Turn, ...]]:
        """Header and turns by which a person tells that `trait` is `value`: its year, or answers that single it out."""
        if trait in self.years:
            return Header(PERSON, self.years[trait][value].told), ()
        if trait not in self.tellers:
            raise UserError(f"{trait}: no years and no `told` topics in its module.yaml; nothing would tell that a person is {value}")
        spoken = [p.years[0] for p in self.personas if p.traits.get(trait) == value and self.varies(trait, value) and p.years]
        turns = []
        for name in self.tellers[trait]:
            topic, row = self.topic_index(name), self.values[trait].index(value)
            turns.append(Turn(topic, 0, int(np.argmax(self.clean[topic][row] * self.responsibility[topic][:, row]))))
        return Header(PERSON, spoken[0] if spoken else None), tuple(turns)

    def spoken(self, trait: str) -> tuple[str, ...]:
        """The values that some person has (the assistant's own may be nobody's)."""
        return tuple(v for v in self.values[trait] if any(p.traits.get(trait) == v for p in self.personas))

    def varies(self, trait: str, value: str) -> bool:
        """Whether the value is what somebody is in some years only."""
        return any(value in variants and len(variants) > 1 for variants in self.identities[trait].values())

    def in_year(self, trait: str, who: str, year: int | None) -> str:
        """The value that somebody has in a year; a person who changes must have one then."""
        taken = self.identities[trait].get(who, (who,))
        if len(taken) == 1:
            return taken[0]
        spoken = {p.traits[trait]: p.years for p in self.personas if p.traits.get(trait) in taken}
        for value, years in spoken.items():
            if year in years:
                return value
        ever = sorted(y for years in spoken.values() for y in years)
        raise UserError(f"{trait}: {who} is not the same in every year and has none in {year}; its years are {ever}")

    def topics_of(self, trait: str) -> tuple[int, ...]:
        """Positions of the topics that depend on `trait`."""
        return tuple(i for i, t in enumerate(self.topics) if t.trait == trait)


def known(key: str, name: str, valid: Iterable[str]):
    """A `UserError` that names `key` and the nearest valid name, unless `name` is valid."""
    if name not in valid:
        raise UserError(f"{key}: '{name}' is unknown{nearest(name, valid)}")
