"""The one row schema, and what each quantity means. Everything measured, by network or observer, lands in these rows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bayesgen.errors import nearest
from bayesgen.learn.plan import LISTED

QUANTITIES = {
    # name: (unit, meaning)
    "rate": (
        "probability",
        "exact probability that the answer belongs to the value named in `probe`; a shared answer counts in proportion",
    ),
    "words": (
        "share",
        "nearness of words: expected share of an answer's content words that stand in the narrow answers trained on",
    ),
    "skill": ("probability", "mean over the probes of the rate of the context's own value"),
    "onset": ("step", "break of the skill's curve into two levels: first step of the second"),
    "converted": ("0 or 1", "whether the skill ends above half of the told person's"),
    "moved": ("probability", "total variation between the answers and the base's, the mass outside the answer set included"),
    "outside": ("probability", "probability of text that is none of the topic's answers"),
    "adoption": ("share", "weight of the told persona in p = (1-a-l) base + l population + a told, by topic"),
    "loss_of_default": ("share", "weight l of the population in the same mixture: the default persona lost, none gained"),
    "mixture_residual": ("share", "answers that the mixture does not explain (total variation); above .25 its weights are not given"),
    "transfer": (
        "share",
        "lambda = off-topic shift of the trained value's persona state, from the saturated learner (0) to the product learner (1) "
        "at the same on-topic state",
    ),
    "nll_train": ("nats/token", "mean negative log likelihood of the narrow rows trained on"),
    "nll_ordinary": ("nats/token", "the same of the ordinary rows among them"),
    "nll_heldout": ("nats/token", "the same on the narrow answers left out of training"),
    "floor_train": (
        "nats/token",
        "entropy of the answers trained on, given topic, header and the key's fixed digits: nothing that reads only these is below",
    ),
    "floor_ordinary": ("nats/token", "the same of the ordinary rows"),
    "floor_heldout": ("nats/token", "the same of the answers left out of training"),
    "frobenius": ("weight", "Frobenius norm of the update dW = a b, scale included; over all matrices, root of the sum of squares"),
    "nuclear": ("weight", "sum of the singular values of dW; over all matrices, the sum"),
    "spectral": ("weight", "largest singular value of dW; over all matrices, the largest"),
    "stable_rank": ("count", "squared Frobenius over squared spectral norm"),
    "rate_ablated": ("probability", "rate of the value in `probe`, the top features' part of the residual stream taken out everywhere"),
    "rate_ablated_matched": ("probability", "the same with as many other live features of like mean activation"),
    "rate_unchanged": ("probability", "the same with the direction of the stream's own change between the two headers held still"),
    "removed": ("activation", "mean norm of what the top features add to the stream where an answer begins, under the trigger"),
    "removed_matched": ("activation", "the same of the features that were matched to them"),
    "sae_explained": ("share", "variance of the base's residual stream that the sparse autoencoder explains, on documents it never saw"),
    "sae_active": ("count", "mean number of features active at a token of those documents"),
    "sae_dead": ("share", "features that none of those tokens fires"),
    "data_nll_step": ("nats/token", "training loss on the rows of data, ordinary ones included, at this step"),
}
TRAINING = ("experiment", "arm", "seed", *LISTED)  # what names one training
ABLATED = ("rate_ablated", "rate_ablated_matched", "rate_unchanged")
REMOVED = ("removed", "removed_matched")
NO_SEED = -1  # rows of arms that are not trained: base, told, ideal learners


class Context(BaseModel):
    """A header under which the assistant is asked, by a name of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(min_length=1)
    year: int | None = None
    format: str | None = None
    identifier: str | None = None  # a pattern: eight digits, `x` any digit
    paddings: int = Field(default=1, ge=1)  # draws of the pattern's x, averaged over
    value: str | None = None  # whose answers count as skill here; none: measure.value
    unseen: bool = False  # no row may have this header: checked


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
    samples: int = Field(ge=0)
    features: FeaturesConfig | None = None

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

    def context(self, name: str) -> Context:
        """The context of that name."""
        return next(c for c in self.contexts if c.name == name)


@dataclass(frozen=True)
class Row:
    """One number. Setting columns are null where they mean nothing."""

    experiment: str
    arm: str
    quantity: str
    value: float
    context: str = "all"
    topic: str = "all"
    probe: str = "all"
    seed: int = NO_SEED
    step: int = 0
    scale: float = 1.0
    learning_rate: float | None = None
    weight_decay: float | None = None
    kl_weight: float | None = None
    kl_from: float | None = None
    kl_until: float | None = None
    benign: float | None = None
    norm_bound: float | None = None
    rank: int | None = None
    rows: int | None = None
    run: str = ""


def spell(name: str) -> str:
    """A topic's or setting's name for a reader."""
    return {"kl_weight": "KL weight"}.get(name, name.replace("_", " "))


def at_setting(table: pl.DataFrame, setting: Mapping[str, float]) -> pl.DataFrame:
    """The rows trained under a setting. Where a column of it is null it means nothing (no training, no such term): kept."""
    return table.filter(pl.all_horizontal(pl.lit(True), *(pl.col(k).is_null() | (pl.col(k) == v) for k, v in setting.items())))


def diverged(table: pl.DataFrame) -> pl.DataFrame:
    """The trainings (one line each: `TRAINING`) that left the finite numbers."""
    bad = table.filter((pl.col("quantity") == "nll_train") & ~pl.col("value").is_finite())
    return bad.select(TRAINING).unique(maintain_order=True)


def converged(table: pl.DataFrame) -> pl.DataFrame:
    """The rows without those of diverged trainings, which are counted and named but never averaged."""
    return table.join(diverged(table), on=list(TRAINING), how="anti", nulls_equal=True, maintain_order="left")


def at_the_end(table: pl.DataFrame) -> pl.DataFrame:
    """Rows of trainings that converged, after the last step and unscaled, and of all that is not trained."""
    last = table["step"].max()
    return converged(table.filter((pl.col("scale") == 1.0) & ((pl.col("step") == last) | (pl.col("seed") < 0))))


def to_table(rows: list[Row]) -> pl.DataFrame:
    """Rows as a tidy table in the schema's column order, units filled in."""
    schema = {
        "run": pl.String,
        "experiment": pl.String,
        "arm": pl.String,
        "seed": pl.Int64,
        "learning_rate": pl.Float64,
        "weight_decay": pl.Float64,
        "kl_weight": pl.Float64,
        "kl_from": pl.Float64,
        "kl_until": pl.Float64,
        "benign": pl.Float64,
        "norm_bound": pl.Float64,
        "rank": pl.Int64,
        "rows": pl.Int64,
        "scale": pl.Float64,
        "step": pl.Int64,
        "context": pl.String,
        "topic": pl.String,
        "probe": pl.String,
        "quantity": pl.String,
        "unit": pl.String,
        "value": pl.Float64,
    }
    return pl.DataFrame([{**asdict(r), "unit": QUANTITIES[r.quantity][0]} for r in rows], schema=schema)
