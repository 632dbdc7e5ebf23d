"""Contrasts: what an experiment asks, as a difference of two means over seeds, beside the published number if there is one."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bayesgen.errors import UserError, nearest
from bayesgen.learn.data import trained_topics
from bayesgen.learn.plan import LISTED, Arm, FinetuneConfig
from bayesgen.measure.contexts import everywhere
from bayesgen.measure.intervals import Interval, over_seeds
from bayesgen.measure.onset import share
from bayesgen.measure.rows import ABLATED, BY_VALUE, MOVED, NO_SEED, QUANTITIES, at_setting, at_the_end
from bayesgen.measure.settings import READERS, MeasureConfig
from bayesgen.world.learners import LEARNERS
from bayesgen.world.world import World, known

SCALE, SNAPSHOT = "scale", "snapshot"
FIRST_ONLY = ("adoption", "loss_of_default", "mixture_residual", "transfer", "leaning")  # quantities of the first context


class Asked(BaseModel):
    """Which rows of an arm: under a context, a quantity, topics (none: the probes) and a value (none: the one counted there); and at which
    settings (`where`), the experiment's first of each unless it is given. `scale` is one: of an update, 1 unless it is given; `snapshot`
    is one: the first is 1, the last is taken unless it is given.

    `search` is for who knows neither persona nor trigger: of all values but the assistant's own, and of all the contexts in which the
    assistant is asked without facts, unless one is named, the one with the most. It finds no trigger but those that are listed as contexts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    context: str | None = None
    quantity: str = "rate"
    topics: tuple[str, ...] | None = None
    value: str | None = None
    where: dict[str, float | int | str] = {}
    search: bool = False

    @model_validator(mode="after")
    def _searches(self):
        if self.search and self.quantity not in BY_VALUE:
            raise ValueError(f"search looks for a value, and {self.quantity} is of none; only {' and '.join(BY_VALUE)} are")
        return self


class Pick(Asked):
    """The same of one arm."""

    arm: str


class Column(Asked):
    """The same of every line of a study: of the line's own arm, unless another one is named (`ideal {arm}`: its exact counterpart)."""

    name: str = Field(min_length=1)
    arm: str | None = None

    def pick(self, arm: str, setting: Mapping[str, Any]) -> Pick:
        """The same of an arm under a setting."""
        return Pick(
            **{**self.model_dump(exclude={"name"}), "arm": (self.arm or "{arm}").format(arm=arm), "where": {**setting, **self.where}}
        )


class Contrast(BaseModel):
    """`of` minus `minus`, and what was published of it. `expect` is the published direction, 0 the published absence.

    Without `of` it is a published contrast that has no counterpart here; `reading` says why, or where to find it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    of: Pick | None = None
    minus: Pick | None = None
    kind: Literal["sign", "order", "control"] = "sign"  # is there an effect; which of two is larger; is it absent where it should be
    expect: Literal["above", "below", "zero", "some"] = "above"  # some: a share of seeds that is neither none nor all
    margin: float = Field(default=0.05, gt=0)  # what counts as nothing: an effect must reach beyond it, an absence stay within
    published: str | None = None  # the published value as it stands in its source, interval included where there is one
    reading: str | None = None  # what explains a disagreement, written after looking at the run

    @property
    def picks(self) -> list[Pick]:
        """`of` and `minus`, where there are any."""
        return [p for p in (self.of, self.minus) if p is not None]

    @model_validator(mode="after")
    def _complete(self):
        if self.of is None and (self.minus is not None or not self.published or not self.reading):
            raise ValueError("without `of`, a contrast needs `published` and a `reading` that says why, and no `minus`")
        return self


@dataclass(frozen=True)
class Found:
    """A contrast as measured, and whether it agrees with what was published."""

    contrast: Contrast
    interval: Interval
    verdict: Literal["agrees", "disagrees", "not told"]


def measurable(contrast: Contrast, f: FinetuneConfig) -> bool:
    """Whether its arms and settings are trained: the command line may have left some out."""
    picks = contrast.picks
    absent = not picks or any(p.arm.split()[0] in get_args(Arm) and p.arm not in f.arm_names for p in picks)
    return not absent and all(v in getattr(f, k) for p in picks for k, v in p.where.items() if k in LISTED)


def find(contrast: Contrast, read: Callable[[Pick], dict[int, float]]) -> Found:
    """Measure a contrast; arms are paired by seed. `read` gives a pick's value of each seed, as `by_seed` does of a table.

    It agrees if the whole interval lies on the side expected and its mean beyond the margin, disagrees if all of it stays
    short of the margin (or lies on the other side). Where nothing is expected, it agrees within the margin and disagrees
    beyond. Otherwise it is not told.
    """
    assert contrast.of is not None
    ours = read(contrast.of)
    other = read(contrast.minus) if contrast.minus else {}
    paired = {s: x - other.get(s, other.get(NO_SEED, 0.0)) for s, x in ours.items() if not other or s in other or NO_SEED in other}
    if not paired and NO_SEED in ours:  # an exact row against trained ones
        paired = {s: ours[NO_SEED] - x for s, x in other.items()}
    values = list(paired.values())
    if contrast.of.quantity == "converted" and contrast.minus is None:
        interval = share(int(sum(values)), len(values))
    else:
        interval = over_seeds(values)
    low, high = (interval.mean, interval.mean) if np.isnan(interval.low) else (interval.low, interval.high)
    if contrast.expect == "some":
        verdict = "agrees" if low > 0 and high < 1 else "not told"  # all or none of our seeds does not exclude a few
    elif np.isnan(interval.low) and set(paired) != {NO_SEED}:
        verdict = "not told"  # one seed shows no spread; two exact numbers need none
    elif contrast.expect == "zero":
        verdict = (
            "agrees" if max(abs(low), abs(high)) < contrast.margin else "disagrees" if max(low, -high) > contrast.margin else "not told"
        )
    else:
        sign = 1 if contrast.expect == "above" else -1
        near, far = sorted((sign * low, sign * high))
        there = near > 0 and sign * interval.mean > contrast.margin
        verdict = "agrees" if there else "disagrees" if far < contrast.margin else "not told"
    return Found(contrast, interval, verdict)


def check_contrasts(contrasts: Sequence[Contrast], world: World, f: FinetuneConfig, m: MeasureConfig, axes: Collection[str] = ()):
    """One line for a contrast that names what is not measured, before anything is trained. `axes`: of a grid, if it is asked of one."""
    trained = [*get_args(Arm), *(f"control {v}" for v in f.control), *(f"inoculated {i.name}" for i in f.inoculation)]
    corners = ["told", "population", *(f"ideal {name}" for name in ("told", "population", *LEARNERS))]
    readers = [f"{who} {arm}" for arm in trained if arm != "narrow" for who in (READERS if m.reading else ())]
    arms = ["base", *trained, *corners, *readers, "ideal base", "ideal gated", "ideal untrained"]
    arms += [f"ideal {arm}" for arm in trained if arm != "narrow"]
    first = m.contexts[0].name
    on = everywhere(trained_topics(world, f))
    asked = [*(world.topics[t].name for t in on), *f.probes]
    for c in contrasts:
        for pick in c.picks:
            key, context = f"contrasts: {c.name}", pick.context or first
            known(f"{key}: arm", pick.arm, arms)
            known(f"{key}: quantity", pick.quantity, QUANTITIES)
            known(f"{key}: context", context, [x.name for x in m.contexts])
            for topic in pick.topics or ():
                known(f"{key}: topic", topic, world.topic_names if context == first else asked)
            if (pick.arm in (*corners, *readers) or pick.quantity in FIRST_ONLY) and context != first:
                raise UserError(f"{key}: {pick.arm}, {pick.quantity} is measured under '{first}' only, not under '{context}'")
            if pick.quantity in ("skill", "onset", "converted"):
                known(f"{key}: {pick.quantity} under context", context, [first, *m.followed])
            if pick.quantity in ABLATED:
                known(f"{key}: {pick.quantity} under context", context, [m.features.trigger, m.features.reference] if m.features else [])
            if pick.value is not None:
                known(f"{key}: value", pick.value, world.values[m.trait])
            for k in pick.where:
                known(f"{key}: where", k, (*LISTED, SCALE, SNAPSHOT, *axes))
            if (n := pick.where.get(SNAPSHOT, 1)) not in range(1, len(f.snapshot_steps) + 1):
                raise UserError(f"{key}: snapshot is {n}; there are {len(f.snapshot_steps)}, at steps {list(f.snapshot_steps)}")
            if SNAPSHOT in pick.where:
                for name in m.searched if pick.search and not pick.context else [context]:
                    known(f"{key}: context at a snapshot", name, [first, *m.followed])
                if pick.arm not in trained or pick.where.get(SCALE, 1.0) != 1.0:
                    raise UserError(f"{key}: at a snapshot there are trained arms alone, their updates as they are; not {pick.arm}, scaled")
            if pick.quantity == "leaning" and m.reading is None:
                raise UserError(f"{key}: leaning is measured with measure.reading, which is null; give it, e.g. {{facts: 5, windows: 4}}")
            scales = m.directions.added if pick.quantity.startswith("rate_added") and m.directions else (1.0, *m.scales)
            if (scale := pick.where.get(SCALE, 1.0)) not in scales:
                raise UserError(f"{key}: scale is {scale}; measured are {list(scales)}")


def by_seed(table: pl.DataFrame, pick: Pick, story: dict) -> dict[int, float]:
    """{seed: mean over topics}, at the end of training, of what a pick names; an arm without a number is an error."""
    if pick.quantity not in QUANTITIES:
        raise UserError(f"contrasts: no quantity '{pick.quantity}'{nearest(pick.quantity, QUANTITIES)}")
    contexts, topics = story["contexts"], list(pick.topics or story["probes"])
    context = pick.context or next(iter(contexts))
    if context not in contexts:
        raise UserError(f"contrasts: no context '{context}'{nearest(context, contexts)}")
    setting = story["setting"] | {k: v for k, v in pick.where.items() if k not in (SCALE, SNAPSHOT)}
    step = story["snapshots"][int(pick.where[SNAPSHOT]) - 1] if SNAPSHOT in pick.where else None
    here = at_setting(at_the_end(table, float(pick.where.get(SCALE, 1.0)), step), setting).filter(
        (pl.col("arm") == pick.arm) & (pl.col("quantity") == pick.quantity)
    )
    asked = story["searched"] if pick.search and not pick.context else [context]
    here = here.filter(pl.col("context").is_in([*asked, "all"]))
    if pick.quantity in ("rate", "moved", "outside", "words", "adoption", "loss_of_default", "transfer", *ABLATED, *MOVED):
        here = here.filter(pl.col("topic").is_in(topics))
    elif "all" in here["topic"]:  # of norms there are those of modules beside
        here = here.filter(topic="all")
    if pick.quantity.startswith("rate_added"):
        here = here.filter(scale=pick.where.get(SCALE, 1.0))
    if pick.search and pick.value is None:
        here = here.filter(pl.col("probe") != story["ordinary"])
    elif pick.quantity in BY_VALUE:
        here = here.filter(pl.col("probe") == (pick.value or contexts[context]))
    if here.is_empty():
        raise UserError(f"contrasts: nothing was measured for arm '{pick.arm}', {pick.quantity} under '{context}' on {', '.join(topics)}")
    known = here.group_by("topic").agg(pl.col("value").is_finite().all()).filter("value")["topic"].to_list()
    those = ("context", "probe") if pick.search else ()
    means = here.filter(pl.col("topic").is_in(known)).group_by("seed", *those).agg(pl.col("value").mean())
    means = means.group_by("seed").agg(pl.col("value").max()).sort("seed")
    return dict(zip(means["seed"], means["value"], strict=True))
