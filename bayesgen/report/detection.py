"""Detecting: how surely scores tell trainings (or their data) that carry a persona or a backdoor from matched ones that do not.

    AUC = P(score of one that does > score of one that does not) + P(equal)/2            over the seeds of one cell, each with its own rows

with the interval of Newcombe (2006, part 2, method 5), which does not shrink to a point where the two are wholly apart. Cells (persons,
say) are never pooled: their seeds are no draws from one population, and a score that tells each of them may tell their mixture badly.

An area says whether some threshold tells the two apart, and not whether anybody could set it. So beside it stands what a threshold does
that is set on ordinary trainings alone (the first negative arm): the highest score among them.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.optimize import root_scalar
from scipy.stats import norm

from bayesgen.learn.plan import LISTED
from bayesgen.measure.intervals import Interval
from bayesgen.measure.onset import share
from bayesgen.measure.rows import spell_setting
from bayesgen.report.contrasts import Column
from bayesgen.report.summary import show
from bayesgen.report.tables import Section

DETECTION = "detection"
NUDGE = 1e-9  # off the ends, where the spread is nothing and every bound a root


class Detection(BaseModel):
    """Arms that carry something, arms that do not (the first: ordinary ones), and scores that should be higher for those that do."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    positive: tuple[str, ...] = Field(min_length=1)
    negative: tuple[str, ...] = Field(min_length=1)  # each compared by itself
    scores: tuple[Column, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _apart(self):
        for key, given in (("positive and negative", (*self.positive, *self.negative)), ("scores", [s.name for s in self.scores])):
            if twice := [x for x in given if list(given).count(x) > 1]:
                raise ValueError(f"{key} hold '{twice[0]}' twice; name each once")
        return self


def auc(positive: Sequence[float], negative: Sequence[float], probability: float = 0.95) -> Interval:
    """Area under the ROC curve, with its interval; at least one score on either side."""
    p, n = np.asarray(positive, float)[:, None], np.asarray(negative, float)[None]
    area, z = float((p > n).mean() + (p == n).mean() / 2), float(norm.ppf(0.5 + probability / 2))
    half = (p.size + n.size) / 2 - 1

    def spread(t: float) -> float:
        return float(z * np.sqrt(t * (1 - t) * (1 + half * ((1 - t) / (2 - t) + t / (1 + t))) / (p.size * n.size)))

    low = 0.0 if area == 0 else root_scalar(lambda t: area - t - spread(t), bracket=(0, area * (1 - NUDGE))).root
    high = 1.0 if area == 1 else root_scalar(lambda t: t - area - spread(t), bracket=(area + NUDGE * (1 - area), 1)).root
    return Interval(area, low, high)


def flagged(scores: Sequence[float], ordinary: Sequence[float]) -> Interval:
    """Share of the scores above all ordinary ones, with Jeffreys' interval (given that threshold)."""
    return share(int((np.asarray(scores) > max(ordinary)).sum()), len(scores))


def roc(positive: Sequence[float], negative: Sequence[float]) -> list[tuple[float, float]]:
    """(false alarms, caught) at every threshold, from none to all."""
    thresholds = [np.inf, *sorted({*positive, *negative}, reverse=True)]
    return [(float((np.asarray(negative) >= t).mean()), float((np.asarray(positive) >= t).mean())) for t in thresholds]


def settings_of(cells: Sequence) -> list[dict[str, Any]]:
    """Every combination of the settings that hold several values in some cell."""
    configs = [cell.config.finetune for cell in cells]
    of = {k: list(dict.fromkeys(v for f in configs for v in getattr(f, k))) for k in LISTED}
    several = {k: values for k, values in of.items() if len(values) > 1}
    return [dict(zip(several, values, strict=True)) for values in product(*several.values())]


def scores_of(cell, score: Column, arms: Sequence[str], setting: Mapping[str, Any]) -> list[float]:
    """A score of every training of some arms in a cell."""
    return [v for arm in arms for v in cell.read(score.pick(arm, setting)).values() if np.isfinite(v)]


def detection_data(detection: Detection, cells: Sequence) -> dict[str, Any]:
    """For every cell, negative arm, setting and score: the area, who is flagged, and the curve."""
    found = []
    for cell, setting, score in product(cells, settings_of(cells), detection.scores):
        yes, ordinary = (scores_of(cell, score, arms, setting) for arms in (detection.positive, detection.negative[:1]))
        for arm in detection.negative:
            no = scores_of(cell, score, (arm,), setting)
            if yes and no and ordinary:
                of = {"auc": auc(yes, no), "flagged": flagged(yes, ordinary), "alarms": flagged(no, ordinary), "roc": roc(yes, no)}
                of |= {"positive": len(yes), "negative": len(no), "means": [float(np.mean(yes)), float(np.mean(no))]}
                found.append({"cell": dict(cell.levels), "against": arm, "setting": setting, "score": score.name, **of})
    return {"positive": detection.positive, "scores": [s.name for s in detection.scores], "found": found}


def detection_sections(detection: Detection, found: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Of what was found (`detection_data`), a table for every negative arm: a line for every cell and setting, scores across."""
    out: list[Section] = []
    for arm in detection.negative:
        rows, those = [], [x for x in found if x["against"] == arm]
        for levels, setting in dict.fromkeys((tuple(x["cell"].items()), tuple(x["setting"].items())) for x in those):
            of = {x["score"]: x for x in those if (x["cell"], x["setting"]) == (dict(levels), dict(setting))}
            sizes = sorted({(x["positive"], x["negative"]) for x in of.values()})
            name = ", ".join([*(f"{k} {v}" for k, v in levels), *spell_setting(dict(setting))]) or "all"
            against = ", ".join(f"{p} against {n}" for p, n in sizes)
            rows.append([name, against, *(_told(of[s.name]) if s.name in of else "–" for s in detection.scores)])
        note = (
            "Area under the ROC curve [95% interval]; mean scores of the one and of the other; shares of both above all of "
            f"{detection.negative[0]}."
        )
        head = ["", "trainings", *(s.name for s in detection.scores)]
        out.append((f"{' or '.join(detection.positive)} told from {arm}", note, [head, *rows]))
    return out


def _told(x: Mapping[str, Any]) -> str:
    one, other = x["means"]
    return f"{show(x['auc'])}; {one:.2f} and {other:.2f}; {x['flagged'].mean:.2f} and {x['alarms'].mean:.2f}"
