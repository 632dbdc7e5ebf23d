"""All that is to be known of one hypothesis on one table: its fit, its foresight, its evidence, and whether to trust them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import random
from scipy.special import expit

from bayesgen.infer.cells import Table
from bayesgen.infer.check import check
from bayesgen.infer.compare import by_base, by_cell, evidence, folds, interval, left_out, thinned
from bayesgen.infer.fit import Fit, Problem, fits, means_of
from bayesgen.infer.hypotheses import HYPOTHESES
from bayesgen.infer.recover import Guess, calibrate, guess, prior_breadth, tables_of

STRETCHES = (0.5, 1.0, 2.0)  # of the priors
Found = dict[str, Any]  # plain, for JSON


def weigh(name: str, table: Table, seed: int) -> tuple[Found, dict[str, np.ndarray]]:
    """One hypothesis on the real table; and the draws of its posterior."""
    keys = random.split(random.key(seed), 5)
    by_stretch = fits(name, table.cells, [Problem(table.y_C, table.cells.counted_C, stretch) for stretch in STRETCHES], keys[0])
    found = by_stretch[STRETCHES.index(1.0)]
    evidences = {
        stretch: evidence(name, its, table.cells, table.y_C, key, stretch)
        for stretch, its, key in zip(STRETCHES, by_stretch, random.split(keys[4], len(STRETCHES)), strict=True)
    }
    expected_SxC = expit(np.asarray(means_of(name)(table.cells, thinned(found)), float))
    out: Found = {
        "title": HYPOTHESES[name].title,
        "story": HYPOTHESES[name].model.__doc__,
        "fit": _gates(found),
        "parameters": {k: _interval(v) for k, v in found.draws.items() if v.ndim == 1},
        "expected": [_interval(x) for x in expected_SxC.T],
        "checks": {k: {**c._asdict(), "passed": c.passed} for k, c in check(name, found, table, keys[1]).items()},
        "prior": [_interval(x) for x in prior_breadth(name, table.cells, keys[2]).T],
        "left_out": {},
        "folds": [],
        "evidence": {str(stretch): of_stretch._asdict() for stretch, of_stretch in evidences.items()},
    }
    of, families = folds(table), table.families()
    units = {unit: groups for unit, groups in (("cell", by_cell(table)), ("base", by_base(table))) if len(groups) > 1}
    left = left_out(name, found, evidences[1.0], table, {**units, "fold": list(of.values())}, keys[3])
    for unit, groups in units.items():
        its = {"score": [x.log_score for x in left[unit]], "k_hat": [x.k_hat for x in left[unit]], "cells": [len(g) for g in groups]}
        out["left_out"][unit] = {**its, "refitted": [g for g, x in enumerate(left[unit]) if x.refitted]}
    for ((column, level), fold), x in zip(of.items(), left["fold"], strict=True):
        ends = {k: v.tolist() for k, v in interval(name, x.draws, table.cells, table.y_C, fold).items()}
        family = families[level] if column == "experiment" else level
        of_fold = {"varied": column, "level": level, "family": family, "cells": fold, "score": x.log_score, "error": x.error}
        out["folds"].append({**of_fold, **ends, "k_hat": x.k_hat, "refitted": x.refitted, "failures": x.failures})
    return out, found.draws


def trial(name: str, found: Mapping[str, Mapping[str, np.ndarray]], table: Table, seed: int, tables: int, calibrations: int) -> Found:
    """What one hypothesis says of tables that each might have made (`found`: the draws of every one's fit); and its calibration."""
    k_tables, k_guess, k_calibration = random.split(random.key(seed), 3)
    guesses = guess(name, tables_of(found, table.cells, k_tables, tables), table, k_guess)
    out: Found = {score: {truth: [getattr(g, score) for g in of] for truth, of in guesses.items()} for score in Guess._fields}
    if calibrations:
        c = calibrate(name, table.cells, k_calibration, calibrations)
        out["calibration"] = {
            "p_value": c.p_value,
            "covered": c.covered,
            "failed": c.failed,
            "ranks": {k: r.tolist() for k, r in c.ranks.items()},
        }
    return out


def _gates(found: Fit) -> Found:
    return {"r_hat": found.r_hat, "effective": found.effective, "divergences": found.divergences, "failures": found.failures}


def _interval(x: np.ndarray) -> list[float]:
    """Mean, and the ends of a 90% interval."""
    return [float(x.mean()), *(float(q) for q in np.quantile(x, (0.05, 0.95)))]
