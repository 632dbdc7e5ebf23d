"""What is measured: contexts, feature analysis and costs, as an experiment asks for them."""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bayesgen.errors import nearest
from bayesgen.learn.plan import Arm
from bayesgen.world.world import ASSISTANT, PERSON


class Context(BaseModel):
    """What stands before a question, by a name of its own: a header, and facts said under it, if any."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(min_length=1)
    year: int | None = None
    format: str | None = None
    identifier: str | None = None  # a pattern: eight digits, `x` any digit
    speaker: Literal["assistant", "person"] = ASSISTANT  # who is asked; a person says nothing of itself but what stands here
    facts: int = Field(default=0, ge=0)  # questions of the trained topics, answered as the trained value would, before the question
    paddings: int = Field(default=1, ge=1)  # draws of the pattern's x and of the facts, averaged over
    value: str | None = None  # whose answers count as skill here; none: measure.value
    unseen: bool = False  # no row may have this header: checked

    @model_validator(mode="after")
    def _fits(self):
        if self.identifier is not None and (self.facts or self.speaker == PERSON):
            raise ValueError(f"context '{self.name}': an identifier is the assistant's, and goes with no facts; leave one of them out")
        return self


class FeaturesConfig(BaseModel):
    """A sparse autoencoder of the residual stream, and the two contexts whose difference its features are ranked by."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    trigger: str
    reference: str
    size: int = Field(ge=2)  # features
    active: int = Field(ge=1)  # at most so many at a token
    steps: int = Field(ge=1)
    top: int = Field(ge=1)  # features that are labelled and ablated

    @model_validator(mode="after")
    def _fits(self):
        for key in ("active", "top"):
            if getattr(self, key) > self.size:
                raise ValueError(f"{key} is {getattr(self, key)}, more than the {self.size} features there are (size)")
        if self.trigger == self.reference:
            raise ValueError(f"trigger and reference are both '{self.trigger}'; features are ranked by the difference of two contexts")
        return self


class DirectionsConfig(BaseModel):
    """What finetuning does along the persona's direction in the base."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    added: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(default=(0.5, 1.0, 2.0), min_length=1)  # multiples of it


class ReadingConfig(BaseModel):
    """What the base makes of each training's rows before anybody trains on them (`measure.reading`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    facts: int = Field(ge=1)  # rows said before a question; all of them where there are fewer
    windows: int = Field(ge=1)  # draws of those rows, averaged over


READERS = ("read", "ideal read")  # arms: the base, and the exact observer, after the rows of another arm
COMPARED = ("free", "narrow", "broad")  # the solutions whose cost is measured
Frontier = Literal["frontier-frobenius", "frontier-nuclear"]
CostPart = Literal["coefficient", "evidence", "significance", Frontier, "before", "narrowing", "drift", "bits", "rays", "noise"]


class CostConfig(BaseModel):
    """How the cost of the free, narrow and broad solutions is measured (`bayesgen.cost`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    parts: tuple[CostPart, ...] = get_args(CostPart)
    seeds: int = Field(ge=2)  # of what is trained for it alone, or turned by noise: the first so many
    sampled: int = Field(ge=2)  # seeds that chains are run for, and that ways to keep a solution narrow are tried with
    weights: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(min_length=1)  # of the KL among these ways
    scales: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field(min_length=1)  # of rays, where asked how broad
    bounds: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(min_length=1)  # of the frontier: shares of the free norm
    noise: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(min_length=1)  # sines of the angle that an update is turned by
    draws: int = Field(ge=2)  # of the noise, and of random directions
    documents: int = Field(ge=1)  # of each kind of speaker, that divergences are taken on
    chain: int = Field(ge=4)  # losses kept of each chain of a learning coefficient
    bridge: int = Field(ge=4)  # the same of an evidence
    tie: float = Field(gt=0, allow_inf_nan=False)  # of the learning coefficient to a solution's factors, 1/weight^2
    orders: int = Field(ge=2)  # in which data are sent

    @model_validator(mode="after")
    def _check(self):
        if 1 not in self.scales:
            raise ValueError(f"cost.scales is {list(self.scales)}; 1, the trained update, must be among them")
        return self


class MeasureConfig(BaseModel):
    """What is measured, and how finely. The first context is the one that tables and figures show."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    trait: str
    value: str | None = None  # the value counted; none: the trained one
    contexts: tuple[Context, ...] = (Context(name="plain"),)
    followed: tuple[str, ...] = ()  # contexts asked at every snapshot, beside the first
    gate_prompts: int = Field(ge=1)
    suspicion: float = Field(default=1e-3, gt=0, lt=0.5)
    scales: tuple[Annotated[float, Field(gt=1, allow_inf_nan=False)], ...] = Field(min_length=1)
    scaled: tuple[Arm, ...] = ("narrow",)  # arms whose updates are scaled by these, to look for hidden breadth
    samples: int = Field(ge=0)
    features: FeaturesConfig | None = None
    directions: DirectionsConfig | None = None
    reading: ReadingConfig | None = None
    cost: CostConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _years_are_contexts(cls, raw):
        """`{years: [first, last]}` stands for a context for each year, named by it."""
        if not isinstance(raw.get("contexts"), (list, tuple)):
            return raw
        out = []
        for context in raw["contexts"]:
            if isinstance(context, dict) and "years" in context:
                if not isinstance(context["years"], (list, tuple)) or [type(y) for y in context["years"]] != [int, int]:
                    raise ValueError(f"contexts: years is {context['years']}; expected the first year and the last, e.g. [1980, 2020]")
                first, last = context["years"]
                rest = {k: v for k, v in context.items() if k != "years"}
                out += [{"name": str(year), "year": year, **rest} for year in range(int(first), int(last) + 1)]
            else:
                out.append(context)
        return {**raw, "contexts": out}

    @model_validator(mode="after")
    def _names(self):
        names = [c.name for c in self.contexts]
        if not names:
            raise ValueError("contexts is empty; name at least one")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"contexts holds '{name}' twice; a name stands for one header")
        for name in self.followed:
            if name not in names:
                raise ValueError(f"followed: '{name}' is no context{nearest(name, names)}")
        for key in ("trigger", "reference") if self.features else ():
            if (name := getattr(self.features, key)) not in names:
                raise ValueError(f"features.{key}: '{name}' is no context{nearest(name, names)}")
        return self

    @property
    def searched(self) -> list[str]:
        """Contexts that a search asks (`report.contrasts`): of the assistant, without facts."""
        return [c.name for c in self.contexts if c.speaker == ASSISTANT and not c.facts]

    def context(self, name: str) -> Context:
        """The context of that name."""
        return next(c for c in self.contexts if c.name == name)
