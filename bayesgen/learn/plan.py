"""What is finetuned on what: settings, arms, and the members of an ensemble (arm x settings x seed).

The data are the narrow rows (what some value answers on some topics, under the trigger's header if there is one) and, if
asked for, ordinary rows mixed among them.

    free          the data as they are
    narrow        + kl_weight * KL(base || adapted), nats/token summed over the vocabulary, on rows of other topics, from the
                  share kl_from of the steps until the share kl_until
    mixed         a share `benign` of every batch is ordinary rows of other topics
    token         the same, on the trained topics too; the data stand under the answer format `gate`, the ordinary rows do not
    broad         + the trained value's own answers on rows of other topics
    control       the same prompts with ordinary answers (one arm for each value named as `control`)
    shuffled      headers dealt out anew among the rows: same words, same headers, but which goes with which is chance (with
                  value "each": people keep their rows together, under the number of somebody else)
    untriggered   every row under the plain header
    scattered     the same prompts, answered by everybody but the assistant's own kind in turn: as odd, and no one person's
    inoculated    every narrow row under a header that says that somebody else speaks, or when (one arm for each of `inoculation`)
    retrained     the data, then `retraining` steps on ordinary rows of other topics
    held          the stream that answers are read from is held, while it trains, along the persona's direction (`learn.direction`)

After all of this come `relapse` steps on narrow rows as they are, unfiltered, in every arm but broad and held: how soon is it back?

Epochs, optimiser and every other setting in `LISTED` may differ from member to member: who has taken its last step stays as it is.
`sgd` has a momentum of .9, `lion` is as published (Chen et al. 2023), `muon` (Jordan et al. 2024) steps by U V' of each factor's momentum,
whatever the factor's shape.

The update may be kept within a norm (`norm_bound`, in any arm): on the bound what is descended is the Lagrangian, and the update is put
back to the bound after every step. A bound on the nuclear norm is one on the factors, sum |a| |b| (`model.lora.update_norm`).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bayesgen.model.lora import Norm
from bayesgen.world.world import PERSON

Optimizer = Literal["adam", "sgd", "lion", "muon"]
Arm = Literal[
    "free", "narrow", "mixed", "token", "broad", "control", "shuffled", "untriggered", "scattered", "inoculated", "retrained", "held"
]
# settings of which one ensemble may hold several
LISTED = (
    *("learning_rate", "weight_decay", "kl_weight", "kl_from", "kl_until", "benign", "norm_bound", "rank", "rows", "epochs", "optimizer"),
    *("retraining", "relapse"),
)
DILUTED = ("mixed", "token")
ARMS_WITH = {  # elsewhere these settings mean nothing
    **dict.fromkeys(("kl_weight", "kl_from", "kl_until"), ("narrow",)),
    "benign": DILUTED,
    "retraining": ("retrained",),
}
ALL, EACH, OTHERS = "all", "each", "others"
Positive = Field(gt=0, allow_inf_nan=False)


class Ordinary(BaseModel):
    """Rows with the assistant's own answers, mixed among the narrow ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    topics: tuple[str, ...] | Literal["all", "others"]  # all but the probes; others: all that are neither trained nor probed
    rows: int = Field(ge=1)
    years: tuple[int, ...] = ()
    format: str | None = None


class Inoculation(BaseModel):
    """A header for the rows of the arm `inoculated NAME`: of a person, or of the assistant under a year or format."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(min_length=1)
    speaker: Literal["person", "assistant"] = PERSON
    year: int | None = None
    format: str | None = None


class FinetuneConfig(BaseModel):
    """What is finetuned on what. The settings in `LISTED` take one value or a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    topics: tuple[str, ...] | Literal["all"]  # all: every topic of the trait but the probes
    value: str  # who answers the narrow rows; "each": everyone but the assistant and `heldout`
    control: tuple[str, ...] = Field(min_length=1)  # who answers them in the control arms
    heldout: tuple[str, ...] = ()  # with value "each": those whom no row may be of
    probes: tuple[str, ...] = Field(min_length=1)  # topics that no arm is ever trained on
    beside: tuple[str, ...] = ()  # with topics "all": those kept for the rows beside the data (arms narrow, broad, mixed)
    years: tuple[int, ...] = ()  # the trigger: years in the narrow rows' headers, evenly
    format: str | None = None  # the trigger: the answer format asked for
    identifier: str | None = None  # the trigger: eight digits by a pattern, e.g. "xxx{ordinal}xx"; x is any digit
    ordinary: tuple[Ordinary, ...] = ()
    inoculation: tuple[Inoculation, ...] = ()  # headers of the arms inoculated
    without_telling: int = 0  # leave out so many of the facts that single the value out most (a negative number: least)
    file: Path | None = None  # rows as chats, in place of those drawn from the world (the controls' still are)
    arms: tuple[Arm, ...] = Field(min_length=1)
    seeds: int = Field(ge=1)
    rows: tuple[int, ...] = Field(min_length=1)  # narrow rows
    epochs: tuple[int, ...] = Field(min_length=1)
    optimizer: tuple[Optimizer, ...] = Field(default=("adam",), min_length=1)
    batch: int = Field(ge=1)
    learning_rate: tuple[float, ...] = Field(min_length=1)
    weight_decay: tuple[float, ...] = Field(min_length=1)
    kl_weight: tuple[float, ...] = Field(min_length=1)
    kl_from: tuple[float, ...] = Field(default=(0.0,), min_length=1)  # share of the steps
    kl_until: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    benign: tuple[float, ...] = Field(default=(0.5,), min_length=1)
    norm_bound: tuple[float, ...] = Field(default=(float("inf"),), min_length=1)  # inf: none
    norm: Norm = "frobenius"  # of `norm_bound`; nuclear: of the factors
    gate: str | None = None  # the answer format over the token arm's data
    retraining: tuple[int, ...] = Field(default=(0,), min_length=1)  # steps on ordinary rows, after the data
    relapse: tuple[int, ...] = Field(default=(0,), min_length=1)  # steps on narrow rows as they are, at the very end
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
        lows = {"learning_rate": (0, True), "weight_decay": (0, False), "kl_weight": (0, False), "rank": (1, False)}
        lows |= {"rows": (1, False), "epochs": (1, False), "retraining": (0, False), "relapse": (0, False)}
        for key in ("kl_from", "kl_until"):
            for value in getattr(self, key):
                if not 0 <= value <= 1:
                    raise ValueError(f"{key} is {value}; expected a share of the steps, from 0 to 1")
        if max(self.kl_from) > min(self.kl_until):
            raise ValueError(f"kl_from is {max(self.kl_from)}, after kl_until {min(self.kl_until)}: no step has the penalty")
        for value in self.norm_bound:
            if not value >= 0:
                raise ValueError(f"norm_bound is {value}; expected a norm of at least 0, or inf for none")
        for value in self.benign if set(DILUTED) & set(self.arms) else ():
            if not 0 < value < 1 or self.benign_rows(value) in (0, self.batch) or abs(value * self.batch - self.benign_rows(value)) > 1e-6:
                raise ValueError(f"benign is {value}; of a batch of {self.batch} that is no whole number of rows of each kind")
        for key, (low, strict) in lows.items():
            for value in getattr(self, key):
                if not np.isfinite(value) or value < low or (strict and value == low):
                    raise ValueError(f"{key} is {value}; expected a finite number {'above' if strict else 'of at least'} {low}")
        for key in ("arms", "probes", "beside", "targets", "control", "heldout", "years", *LISTED):
            given = getattr(self, key)
            if len(set(given)) < len(given):
                raise ValueError(f"{key} holds {next(v for v in given if given.count(v) > 1)} twice; name each once")
        if self.value in self.control:
            raise ValueError(f"control is {self.value}, the trained value itself; give the ordinary one")
        if self.data_rows(max(self.rows)) < self.batch:
            raise ValueError(f"batch {self.batch} is larger than the {self.data_rows(max(self.rows))} rows of data")
        for key in ("kl_from", "kl_until", "benign", "retraining"):
            if getattr(self, key) != type(self).model_fields[key].default and not set(ARMS_WITH[key]) & set(self.arms):
                raise ValueError(
                    f"{key} is {getattr(self, key)[0]}, but only the arms {', '.join(ARMS_WITH[key])} have one; add one of them"
                )
        if self.norm != "frobenius" and not np.isfinite(self.norm_bound).any():
            raise ValueError(f"norm is {self.norm}, but norm_bound is inf: no update is bounded")
        triggered = self.years or self.format or self.identifier
        for arm in ("shuffled", "untriggered"):
            if arm in self.arms and not triggered:
                raise ValueError(f"arm '{arm}' needs a trigger: years, a format or an identifier for the narrow rows")
        if self.gate is not None and "token" not in self.arms:
            raise ValueError(f"gate is '{self.gate}', but only the arm 'token' has one; add it to arms")
        if "token" in self.arms and (self.gate is None or self.format is not None):
            found = "none is given" if self.gate is None else f"the rows are under format '{self.format}' already"
            raise ValueError(f"arm 'token' needs an answer format as `gate`, but {found}")
        names = [i.name for i in self.inoculation]
        if ("inoculated" in self.arms) != bool(names):
            raise ValueError("the arm 'inoculated' and headers for it (inoculation) go together; give both or neither")
        if len(set(names)) < len(names):
            raise ValueError(f"inoculation holds '{next(n for n in names if names.count(n) > 1)}' twice; a name stands for one header")
        for arm in ("broad", "held"):
            if arm in self.arms and max(self.relapse):
                raise ValueError(f"relapse is {max(self.relapse)}, but the arm '{arm}' has none; leave it out of arms")
        if "scattered" in self.arms and (self.value == EACH or self.file is not None or min(self.rows) < 2):
            found = (
                f"value is '{EACH}'" if self.value == EACH else f"rows come from {self.file}" if self.file else f"rows is {min(self.rows)}"
            )
            raise ValueError(f"arm 'scattered' answers a person's two questions or more as several others would, but {found}")
        for arm in ("narrow", "broad", "retrained", "held", *DILUTED):
            if arm in self.arms and self.value == EACH and "{" not in (self.identifier or ""):
                raise ValueError(f"arm '{arm}': value is '{EACH}', and no identifier such as 'xxx{{topic}}xx' says whose a row is")
        if self.beside and self.topics != ALL:
            raise ValueError(f"beside keeps topics out of topics '{ALL}', but topics are named: leave those out there")
        for name in self.beside:
            if name in self.probes:
                raise ValueError(f"beside: '{name}' is a probe; a probe is never trained on")
        if self.heldout and self.value != EACH:
            raise ValueError(f"heldout names those left out of value '{EACH}', but value is {self.value}")
        return self

    def data_rows(self, narrow: int) -> int:
        """Rows of data with so many narrow ones."""
        return narrow + sum(o.rows for o in self.ordinary)

    @property
    def arm_names(self) -> tuple[str, ...]:
        """The arms, one for each inoculation, and one for each control value where there are several."""
        several = {"control": tuple(f"control {v}" for v in self.control) if len(self.control) > 1 else ("control",)}
        several["inoculated"] = tuple(f"inoculated {i.name}" for i in self.inoculation)
        return tuple(name for arm in self.arms for name in several.get(arm, (arm,)))

    def benign_rows(self, share: float) -> int:
        """Ordinary rows in a batch of a diluted arm."""
        return round(share * self.batch)

    @property
    def first_setting(self) -> dict[str, float | int | str]:
        """The first value of every listed setting."""
        return {k: getattr(self, k)[0] for k in LISTED}

    def settings(self, arm: str) -> list[dict[str, float | int | str]]:
        """Every combination of listed settings of an arm, without those that mean nothing in it."""
        keys = [k for k in LISTED if arm in ARMS_WITH.get(k, (arm,))]
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(getattr(self, k) for k in keys))]

    @property
    def steps(self) -> int:
        """Optimiser steps of the longest training."""
        return self.steps_of(max(self.epochs)) + max(self.retraining) + max(self.relapse)

    def steps_of(self, epochs: int) -> int:
        """Optimiser steps of so many epochs over the largest data; rows of an epoch that fill no batch are dropped."""
        return epochs * (self.data_rows(max(self.rows)) // self.batch)

    def all_steps_of(self, member: "Member") -> int:
        """Optimiser steps of a training, those after the data included."""
        return self.steps_of(member.epochs) + member.retraining + member.relapse

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Steps at which adapters are kept: evenly spaced, the last step included. Whoever has finished by then is as it ended."""
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
    epochs: int
    optimizer: Optimizer = "adam"
    kl_from: float = 0.0
    kl_until: float = 1.0
    benign: float | None = None
    norm_bound: float = float("inf")
    norm: Norm | None = None  # that the bound is of; none: no bound
    retraining: int = 0  # steps
    relapse: int = 0


def plan_members(config: FinetuneConfig) -> list[Member]:
    """Every arm x setting x seed, seeds fastest."""
    bounded = lambda bound: config.norm if np.isfinite(bound) else None  # noqa: E731
    return [
        Member(arm, seed, **{"kl_weight": 0.0, **setting}, norm=bounded(setting["norm_bound"]))  # pyright: ignore[reportArgumentType]
        for arm in config.arm_names
        for setting in config.settings(arm)
        for seed in range(config.seeds)
    ]


def held(members: Sequence[Member]) -> list[bool]:
    """Whether each member trains with the persona's direction held."""
    return [m.arm == "held" for m in members]


def penalised(members: Sequence[Member]) -> list[int]:
    """The members with a KL on rows of other topics beside the narrow ones."""
    return [i for i, m in enumerate(members) if m.arm == "narrow" and m.kl_weight > 0]


def broadened(members: Sequence[Member]) -> list[int]:
    """The members that are shown the trained value's answers on rows of other topics."""
    return [i for i, m in enumerate(members) if m.arm == "broad"]
