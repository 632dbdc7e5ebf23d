"""What may be believed, in words: from the findings on every hypothesis and the trials, and from nothing else.

The hypotheses are judged by what they say of experiments left out, if there are three or more; else of bases left out, if there are
four or more; else of single cells. There are three nulls: H0 (one breadth for all) and, where they are fitted, H0 dose (only how much was
learned) and H0 likelihood (only what the data say, no prior). The best hypothesis is the one that foretells best; it is believed if its
score is better than that of the best null by more than two standard errors over what was left out. Experiments on one pretrained network
vary together: in the error they count as one, and the fewer there are the wider it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from bayesgen.infer.compare import PROBABILITY, difference, stacking
from bayesgen.infer.recover import BAND, confused, confusion, of_tables

NULL = "H0"
NULLS = {"H0": "one breadth for all", "H0 dose": "only how much was learned", "H0 likelihood": "only what the data say"}
TOLD_APART = 0.8  # share of a hypothesis' own tables that must be recognised
COVERED = (0.80, 0.97)  # where the coverage of 90% intervals of what was left out should lie
LARGE = 2.0  # standard errors
UNITS = {"experiment": "experiments", "base": "bases", "cell": "cells"}
EXPERIMENTS, BASES = 3, 4  # as many are left out in turn at least
MOST = 3  # that are said one by one
Beliefs = Mapping[str, Mapping[str, Any]]  # hypothesis -> findings (`weigh.weigh`)
Trials = Mapping[str, Mapping[str, Any]]  # hypothesis -> findings (`weigh.trial`)


class Standing(NamedTuple):
    """A hypothesis beside H0: by how much it foretells better what was left out (nats, and standard error), and its share in stacking."""

    name: str
    title: str
    better: float
    error: float
    weight: float
    failures: tuple[str, ...]


class Verdict(NamedTuple):
    """What to believe."""

    unit: str  # what was left out: experiment, base or cell
    left_out: int  # how many of these
    families: int  # among them, the experiments on one network being one: what standard errors go by
    standings: tuple[Standing, ...]  # best first
    null: str  # the best of the nulls
    best: str | None  # the hypothesis that foretells best, if it beats that and passes its gates; none: no hypothesis is believed
    nearest: str | None  # that hypothesis, or else the one that comes nearest; none: all failed their gates
    ahead: tuple[float, float]  # of it beside the best null: nats, and standard error
    by_base: tuple[int, float, float] | None  # the same of bases left out, and how many, where more than these were left out together
    rivals: tuple[str, ...]  # those that are not told from the best
    coverage: tuple[float, int] | None  # of the best (or of H0) on held-out experiments, or levels: share, and of how many cells
    explained: float | None  # share of H0's variance between cells that the best takes away
    recovered: Mapping[str, float]  # share of each hypothesis' own tables that were recognised, by evidence
    confused: tuple[tuple[str, str, float], ...]
    uncalibrated: tuple[str, ...]
    against: tuple[str, ...]  # strongest evidence against the best
    changes: tuple[str, ...]  # what would change it
    words: tuple[str, ...]


class Scores(NamedTuple):
    """What is left out to judge by, each hypothesis' log density of every one of these, and how many cells each is."""

    unit: str
    of: dict[str, np.ndarray]
    cells_G: np.ndarray
    family_G: np.ndarray  # those of one vary together

    def beside(self, name: str, other: str, out: int | None = None) -> tuple[float, float]:
        """How much better one foretells than another, nats and standard error; of all, or without one of those left out."""
        kept = np.arange(len(self.cells_G)) != (-1 if out is None else out)
        return apart(self.of[name][kept], self.of[other][kept], self.cells_G[kept], self.family_G[kept])


def apart(of_G: np.ndarray, minus_G: np.ndarray, cells_G: np.ndarray, family_G: np.ndarray) -> tuple[float, float]:
    """`compare.difference`, its error widened for few families: two of it are as improbable as two standard errors of many are, by
    Student's t.
    """
    by, error = difference(of_G, minus_G, cells_G, family_G)
    families = len(set(family_G.tolist()))
    return by, error * float(stats.t.ppf(stats.norm.cdf(LARGE), families - 1)) / LARGE if families > 1 else error


def scores(beliefs: Beliefs, unit: str | None = None) -> Scores:
    """By the unit given, or else by experiments if there are enough, bases if there are enough, or cells."""
    first = next(iter(beliefs.values()))
    folds = {name: [f for f in found["folds"] if f["varied"] == "experiment"] for name, found in beliefs.items()}
    if unit is None:
        enough = len(first["left_out"].get("base", {"score": ()})["score"]) >= BASES
        unit = "experiment" if len(folds[next(iter(folds))]) >= EXPERIMENTS else "base" if enough else "cell"
    if unit == "experiment":
        of = {name: np.array([f["score"] for f in those]) for name, those in folds.items()}
        its = folds[next(iter(folds))]
        return Scores(unit, of, np.array([len(f["cells"]) for f in its]), np.array([f["family"] for f in its]))
    of = {name: np.array(found["left_out"][unit]["score"]) for name, found in beliefs.items()}
    cells_G = np.array(first["left_out"][unit]["cells"])
    return Scores(unit, of, cells_G, np.arange(len(cells_G)))


def judge(beliefs: Beliefs, trials: Trials, breadth_C: Sequence[float], names_C: Sequence[str], networks: Sequence[str]) -> Verdict:
    """The verdict."""
    score = scores(beliefs)
    unit, weights = score.unit, stacking(score.of)
    standings = []
    for name, found in beliefs.items():
        better, error = score.beside(name, NULL)
        fits = [*found["fit"]["failures"], *(f"without {f['varied']} {f['level']}: {why}" for f in found["folds"] for why in f["failures"])]
        checks = [f"check failed: {k}" for k, c in found["checks"].items() if not c["passed"]]
        standings.append(Standing(name, found["title"], better, error, weights[name], (*fits, *checks)))
    standings.sort(key=lambda s: -s.better)
    null = next(s.name for s in standings if s.name in NULLS)
    sound = [name for name in (s.name for s in standings) if name not in NULLS and not _unsound(beliefs[name], unit)]
    nearest = sound[0] if sound else None
    ahead = score.beside(nearest, null) if nearest else (0.0, 0.0)
    by_base = None
    if nearest and unit == "experiment" and len(beliefs[null]["left_out"].get("base", {"score": ()})["score"]) >= BASES:
        of_bases = scores(beliefs, "base")
        by_base = len(of_bases.cells_G), *of_bases.beside(nearest, null)
    best = sound[0] if ahead[0] > LARGE * ahead[1] else None
    rivals = ()
    if best is not None:
        behind = {s.name: score.beside(best, s.name) for s in standings if s.name != best}
        rivals = tuple(name for name, (by, error) in behind.items() if by <= LARGE * error and name not in NULLS)
    table = confusion(of_tables(trials, "evidence"))
    recovered = {k: row[k] for k, row in table.items()}
    uncalibrated = tuple(k for k, t in trials.items() if "calibration" in t and t["calibration"]["p_value"] < BAND / len(trials))
    shown = beliefs[best or null]
    out = Verdict(
        unit,
        len(score.cells_G),
        len(set(score.family_G.tolist())),
        tuple(standings),
        null,
        best,
        nearest,
        ahead,
        by_base,
        rivals,
        coverage(shown, breadth_C),
        explained(beliefs[best], beliefs[NULL]) if best else None,
        recovered,
        tuple(confused(table)),
        uncalibrated,
        against(beliefs, best or null, null if best else NULL, breadth_C, names_C, networks),
        changes(beliefs, best, sound, null, names_C, networks),
        (),
    )
    return out._replace(words=tuple(words(out)))


def _unsound(found: Mapping[str, Any], unit: str) -> bool:
    """Whether a fit that the score rests on fails its gates."""
    return bool(found["fit"]["failures"]) or any(f["failures"] for f in found["folds"] if f["varied"] == unit)


def coverage(found: Mapping[str, Any], breadth_C: Sequence[float]) -> tuple[float, int] | None:
    """Share of held-out cells whose breadth lies in its 90% interval: of experiments left out, or else of all levels left out."""
    folds = [f for f in found["folds"] if f["varied"] == "experiment"] or found["folds"]
    inside = [low <= breadth_C[c] <= high for f in folds for c, low, high in zip(f["cells"], f["low"], f["high"], strict=True)]
    return (float(np.mean(inside)), len(inside)) if inside else None


def explained(found: Mapping[str, Any], null: Mapping[str, Any]) -> float:
    """1 - (variance between cells, bases and experiments that is left) / (the same under H0), of posterior means of their deviations."""
    left, all_of = (sum(f["parameters"][k][0] ** 2 for k in ("cell", "base", "experiment")) for f in (found, null))
    return 1 - left / all_of


def against(
    beliefs: Beliefs, name: str, other: str, breadth_C: Sequence[float], names_C: Sequence[str], networks: Sequence[str], most: int = MOST
) -> tuple[str, ...]:
    """What speaks against a hypothesis most: levels and bases that another foretells better, checks that it fails, cells that lie farthest
    from it.
    """
    found, out = beliefs[name], []
    left = [
        (f"{f['varied']} {f['level']}", len(f["cells"]), f["score"], g["score"])
        for f, g in zip(found["folds"], beliefs[other]["folds"], strict=True)
    ]
    if "base" in found["left_out"]:
        mine, its = (beliefs[k]["left_out"]["base"] for k in (name, other))
        left += [(f"base {b}", *x) for b, *x in zip(networks, mine["cells"], mine["score"], its["score"], strict=True)]
    for what, cells, score, its_score in sorted(left, key=lambda x: x[2] - x[3])[:most]:
        if score < its_score:
            out.append(f"left out, {what} is foretold worse than by {other}, by {its_score - score:.1f} nats over {cells} cells")
    for k, c in found["checks"].items():
        if not c["passed"]:
            out.append(f"{k} is {c['seen']:.2f}; tables that it makes have {c['made'][0]:.2f} to {c['made'][1]:.2f}")
    gaps = np.array(breadth_C) - np.array([e[0] for e in found["expected"]])
    for i in np.argsort(-np.abs(gaps))[:most]:
        out.append(f"'{names_C[i]}' went {breadth_C[i]:.2f} broad, where {found['expected'][i][0]:.2f} is expected")
    return tuple(out)


def changes(
    beliefs: Beliefs, best: str | None, sound: Sequence[str], null: str, names_C: Sequence[str], networks: Sequence[str]
) -> tuple[str, ...]:
    """What would change the verdict: one of what was left out taken away, more of the same, other priors. `sound`: hypotheses whose fits
    pass their gates, the nearest first.
    """
    score = scores(beliefs)
    unit = score.unit
    if not sound:
        return ("A fit that passes its gates.",)
    nearest = sound[0]
    experiments = [f["level"] for f in beliefs[NULL]["folds"] if f["varied"] == "experiment"]
    of = {"experiment": experiments, "base": networks, "cell": names_C}[unit]
    by, error = score.beside(nearest, null)
    out = []
    turning = []
    for g, name in enumerate(of if len(of) > 2 else ()):
        for k in sound[:1] if best else sound:
            by_others, their_error = score.beside(k, null, out=g)
            if (by_others > LARGE * their_error) != (best is not None):
                turning.append(f"Without {unit} '{name}', {k} is {by_others:+.1f} ± {their_error:.1f} nats beside {null}.")
    if len(turning) > MOST:
        who = nearest if best else "some hypothesis"
        turning = [f"{len(turning)} times: without one of the {len(of)} {UNITS[unit]} {who} would {'not ' if best else ''}be believed."]
    out += turning
    if best is None and by > 0 and np.isfinite(error):
        families = len(set(score.family_G.tolist()))
        needed = int(np.ceil(families * (LARGE * error / by) ** 2))  # the sum grows as their number, its error as the root, or less
        alone = " that share no base" if unit == "experiment" else ""
        out.append(f"If more {UNITS[unit]}{alone} were like these {families}, {needed} in all would set {nearest} apart from {null}.")
    if best is None and by <= 0:
        out.append(f"More of the same would not: {nearest}, the nearest, is no better than {null} on the mean of what was left out.")
    first = {k: max(beliefs, key=lambda name, k=k: beliefs[name]["evidence"][k]["value"]) for k in ("0.5", "1.0", "2.0")}
    for k, said in (("0.5", "half"), ("2.0", "twice")):
        if first[k] != first["1.0"]:
            out.append(f"Under priors {said} as wide, {first[k]} has the greatest evidence, and not {first['1.0']}.")
    return tuple(out) or ("None of what was left out decides it alone, nor do the priors.",)


def words(v: Verdict) -> list[str]:
    """The verdict in plain words, caveats included."""
    out, of_null = [], f"{v.null} ({NULLS[v.null]})"
    units = UNITS[v.unit]
    if v.families < v.left_out:
        units += f" (those that share a base count as one in the error: {v.families} in all)"
    if v.best is None:
        said = f"; the nearest, {v.nearest}, is {v.ahead[0]:+.1f} ± {v.ahead[1]:.1f} nats beside it" if v.nearest else ""
        out.append(
            f"None of these. Of {v.left_out} {units} left out in turn, no hypothesis foretells breadth better than {of_null} by more "
            f"than two standard errors{said}."
        )
    else:
        its = next(s for s in v.standings if s.name == v.best)
        out.append(
            f"{v.best}: {its.title}. It foretells {v.left_out} {units}, left out in turn, better than {of_null} by more than two standard "
            f"errors ({v.ahead[0]:+.1f} ± {v.ahead[1]:.1f} nats), and takes away {v.explained:.0%} of the variance that H0 leaves between "
            "cells."
        )
        if v.rivals:
            out.append(f"It is not told from {', '.join(v.rivals)} (within two standard errors).")
    if v.by_base:
        count, by, error = v.by_base
        out.append(f"Of {count} bases left out in turn, {v.nearest} is {by:+.1f} ± {error:.1f} nats beside {v.null}.")
    if v.coverage:
        share, count = v.coverage
        fits = (
            "as they should" if COVERED[0] <= share <= COVERED[1] else f"which is not between {COVERED[0]:.0%} and {COVERED[1]:.0%}: FAILED"
        )
        out.append(f"{PROBABILITY:.0%} intervals held {share:.0%} of {count} cells left out, {fits}.")
    weak = [k for k, x in v.recovered.items() if x < TOLD_APART]
    if v.recovered and not weak:
        out.append(
            f"Tables made by each hypothesis on this very design are recognised in {min(v.recovered.values()):.0%} of cases or more."
        )
    for k in weak:
        others = [f"{b} ({x:.0%})" for a, b, x in v.confused if a == k]
        out.append(
            f"Tables made by {k} are recognised in {v.recovered[k]:.0%} only" + (f", and taken for {', '.join(others)}." if others else ".")
        )
    if v.uncalibrated:
        out.append(f"Calibration FAILED for {', '.join(v.uncalibrated)}.")
    failed = [s.name for s in v.standings if s.failures]
    if failed:
        out.append(f"Diagnostics failed for {', '.join(failed)}; what and why stands in their lines.")
    return out


def separating(beliefs: Beliefs, a: str, b: str, names_C: Sequence[str], most: int = 5) -> list[tuple[str, float, float]]:
    """Cells of the design on which two fitted hypotheses differ most: name, and the breadth that each expects."""
    e_a, e_b = (np.array([x[0] for x in beliefs[h]["expected"]]) for h in (a, b))
    return [(str(names_C[i]), float(e_a[i]), float(e_b[i])) for i in np.argsort(-np.abs(e_a - e_b))[:most]]
