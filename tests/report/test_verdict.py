"""What is said of findings: each branch by findings made by hand."""

import numpy as np
import pytest

from bayesgen.report.verdict import against, apart, coverage, explained, judge, scores, separating

CELLS = 8
NAMES = [f"c{i}" for i in range(CELLS)]
BASES = [f"b{i}" for i in range(CELLS)]
WIDER = {2: 6.98, 4: 1.653, 1000: 1.001}  # Student's t of 2.275%, over 2: from a table
BREADTH = [0.1 * i + 0.05 for i in range(CELLS)]


def findings(
    gain, experiments=4, low=0.0, high=1.0, cell=0.5, failures=(), passed=True, expected=None, evidence=(0.0, 0.0, 0.0), families=()
):
    """Of a hypothesis that is better by `gain` (one a fold) than one of which nothing is gained."""
    gain = np.broadcast_to(gain, experiments)
    cells = np.array_split(np.arange(CELLS), experiments)
    folds = [
        {
            "varied": "experiment",
            "level": f"x{i}",
            "family": families[i] if families else f"x{i}",
            "cells": c.tolist(),
            "score": -5.0 + g,
            "low": [low] * len(c),
            "high": [high] * len(c),
            "failures": (),
        }
        for i, (c, g) in enumerate(zip(cells, gain, strict=True))
    ]
    return {
        "title": "a story",
        "folds": folds,
        "left_out": {
            "base": {"score": [-1.0 + g for g in gain], "cells": [CELLS // len(gain)] * len(gain)},
            "cell": {"score": [-1.0] * CELLS, "cells": [1] * CELLS},
        },
        "fit": {"failures": failures},
        "checks": {"least": {"seen": 9.0, "made": (0.0, 1.0), "share": 1.0, "passed": passed}},
        "evidence": {k: {"value": evidence[i]} for i, k in enumerate(("0.5", "1.0", "2.0"))},
        "parameters": {"cell": [cell, 0, 1], "base": [0.0, 0, 1], "experiment": [0.0, 0, 1]},
        "expected": [[x, 0.0, 1.0] for x in (expected or BREADTH)],
    }


def of(beliefs, trials=None):
    bases = len(beliefs["H0"]["left_out"]["base"]["score"])
    return judge(beliefs, trials or {}, BREADTH, NAMES, BASES[:bases])


def test_the_best_must_beat_the_null_by_two_errors():
    null = findings(0)
    clear = of({"H0": null, "H2": findings([2.0, 2.1, 1.9, 2.0])})
    assert clear.best == "H2"
    assert clear.words[0].startswith("H2")
    unsure = of({"H0": null, "H2": findings([9.0, -3.0, 2.0, 0.0])})
    assert unsure.best is None
    assert unsure.words[0].startswith("None of these")


def test_errors_of_few_are_wider():
    for count, wider in WIDER.items():
        gained = np.tile([1.0, 2.0], count // 2)
        plain = np.sqrt(count * gained.var(ddof=1))
        by, error = apart(gained, np.zeros(count), np.ones(count), np.arange(count))
        assert (by, error) == (1.5 * count, pytest.approx(plain * wider, rel=1e-3))
    assert apart(np.ones(1), np.zeros(1), np.ones(1), np.zeros(1)) == (1.0, float("inf"))


def test_experiments_that_share_a_base_count_as_one():
    """What is clear of four is not, if three of them are of one network."""
    gains = [2.0, 2.1, 1.9, 1.0]
    alone = of({"H0": findings(0), "H2": findings(gains)})
    assert (alone.best, alone.families) == ("H2", 4)
    kin = {"families": ("x0", "x0", "x0", "x3")}
    shared = of({"H0": findings(0, **kin), "H2": findings(gains, **kin)})
    assert (shared.best, shared.families) == (None, 2)
    assert "4 experiments (those that share a base count as one in the error: 2 in all)" in shared.words[0]
    assert "count as one" not in alone.words[0]
    one = of({"H0": findings(0, families=("x0",) * 4), "H2": findings(gains, families=("x0",) * 4)})
    assert one.best is None  # one says nothing of others


def test_a_fit_that_fails_a_gate_is_not_the_best():
    assert of({"H0": findings(0), "H2": findings([2.0, 2.1, 1.9, 2.0], failures=("R-hat 1.2",))}).best is None


def test_rivals_are_those_within_two_errors():
    found = of(
        {
            "H0": findings(0),
            "H2": findings([2.0, 2.1, 1.9, 2.0]),
            "H5": findings([2.1, 1.9, 2.0, 1.9]),
            "H9": findings([1.0, 1.1, 0.9, 1.0]),
        }
    )
    assert found.best == "H2"
    assert found.rivals == ("H5",)
    assert "H5" in found.words[1]


def test_few_experiments_are_no_ground():
    few = scores({"H0": findings(0, experiments=2)})
    assert few.unit == "cell"  # two bases are too few as well
    assert few.cells_G.tolist() == [1] * len(few.of["H0"]) == [1] * CELLS
    enough = scores({"H0": findings(0, experiments=3)})
    assert enough.unit == "experiment"
    assert enough.cells_G.tolist() == [3, 3, 2]


def test_coverage_counts_cells_within():
    share, count = coverage(findings(0, low=0.2, high=0.7), BREADTH)
    assert count == CELLS
    assert share == pytest.approx(np.mean([0.2 <= b <= 0.7 for b in BREADTH]))
    assert any("FAILED" in w for w in of({"H0": findings(0, low=0.2, high=0.3)}).words)


def test_explained_is_of_variance():
    assert explained(findings(0, cell=0.5), findings(0, cell=1.0)) == pytest.approx(0.75)


def test_what_speaks_against_it_comes_first():
    null, tried = findings(0), findings([1.0, -2.0, 1.0, 1.0], passed=False, expected=[*BREADTH[:-1], 0.1])
    tried["left_out"]["base"]["score"][3] = -4.0  # of which the null has -1
    said = against({"H0": null, "H2": tried}, "H2", "H0", BREADTH, NAMES, BASES[:4], most=2)
    assert said[0] == "left out, base b3 is foretold worse than by H0, by 3.0 nats over 2 cells"
    assert said[1] == "left out, experiment x1 is foretold worse than by H0, by 2.0 nats over 2 cells"
    assert "least is 9.00" in said[2]
    assert "'c7'" in said[3]
    assert not any("left out" in x for x in against({"H0": null}, "H0", "H0", BREADTH, NAMES, BASES[:4]))


def test_the_best_is_held_against_the_best_null():
    """And not against the one that is easily beaten."""
    null, dose = findings(0, experiments=8), findings(3.0, experiments=8)
    found = of({"H0": null, "H0 dose": dose, "H2": findings([8.1, 7.9, 8.0, 2.0, 8.0, 8.1, 7.9, 8.0], experiments=8)})
    assert found.best == "H2"
    assert found.against[0].startswith("left out, experiment x3 is foretold worse than by H0 dose, by 1.0 nats")


def test_tables_not_recognised_are_said_and_by_what_they_are_mistaken():
    trials = {  # what each says of the tables of either
        "H0": {"evidence": {"H0": [0.0] * 4, "H2": [0.0] * 3 + [-1.0]}},
        "H2": {"evidence": {"H0": [-1.0] * 4, "H2": [-1.0] * 3 + [0.0]}},
    }
    found = of({"H0": findings(0), "H2": findings(0)}, trials)
    assert found.recovered == {"H0": 1.0, "H2": 0.25}
    assert ("H2", "H0", 0.75) in found.confused
    assert any("Tables made by H2 are recognised in 25% only, and taken for H0 (75%)" in w for w in found.words)


def test_calibration_that_fails_is_said():
    bad = {"evidence": {"H0": [0.0]}, "calibration": {"p_value": 0.001}}
    assert of({"H0": findings(0)}, {"H0": bad}).uncalibrated == ("H0",)
    assert of({"H0": findings(0)}, {"H0": {**bad, "calibration": {"p_value": 0.5}}}).uncalibrated == ()


def test_cells_that_would_tell_two_apart():
    other = [*BREADTH[:3], 0.9, *BREADTH[4:]]
    assert separating({"a": findings(0), "b": findings(0, expected=other)}, "a", "b", NAMES, most=1) == [("c3", pytest.approx(0.35), 0.9)]


def test_a_fit_without_an_experiment_that_fails_is_said_and_not_believed():
    broken = findings([2.0, 2.1, 1.9, 2.0])
    broken["folds"][1]["failures"] = ("R-hat 1.5",)
    found = of({"H0": findings(0), "H2": broken})
    assert found.best is None
    assert "without experiment x1: R-hat 1.5" in found.standings[0].failures


@pytest.mark.parametrize("better", ["H0 dose", "H0 likelihood"])
def test_a_hypothesis_must_beat_the_better_null(better):
    beliefs = {"H0": findings(0), better: findings([2.0, 2.0, 2.1, 1.9]), "H2": findings([2.0, 2.1, 1.9, 2.0])}
    found = of(beliefs)
    assert (found.null, found.best) == (better, None)
    assert of({k: beliefs[k] for k in ("H0", "H2")}).best == "H2"  # the same beside the weaker null


def test_bases_left_out_are_told_where_experiments_decide():
    """Each experiment four nats better, each base too: by hand, and beside the better null."""
    gains = [2.0, 2.1, 1.9, 2.0]
    found = of({"H0": findings(0), "H0 dose": findings(0.5), "H2": findings(gains)})
    error = np.sqrt(4 * np.var(gains, ddof=1)) * WIDER[4]
    assert found.ahead == pytest.approx((6.0, error), rel=1e-3)
    assert found.by_base == pytest.approx((4, 6.0, error), rel=1e-3)
    assert any(w.startswith("Of 4 bases left out in turn, H2 is +6.0") and w.endswith("beside H0 dose.") for w in found.words)
    assert of({"H0": findings(0, experiments=2), "H2": findings(1, experiments=2)}).by_base is None  # cells decide there


def test_what_would_change_the_verdict():
    """One experiment that carries it; how many more of the same; priors that turn the evidence. By hand."""
    null = findings(0, evidence=(0.0, 0.0, 0.0))
    carried = of({"H0": null, "H2": findings([0.15, 0.2, 0.15, -4.0], evidence=(1.0, 1.0, -1.0))})
    assert carried.best is None
    assert any(c.startswith("Without experiment 'x3', H2 is +0.5") for c in carried.changes)
    assert "More of the same would not: H2, the nearest, is no better than H0 on the mean of what was left out." in carried.changes
    assert "Under priors twice as wide, H0 has the greatest evidence, and not H2." in carried.changes
    assert not any("half as wide" in c for c in carried.changes)

    steady, nearer = findings([0.3, 0.3, 0.3, -90.0]), findings([0.1, 3.0, -2.0, 0.0])  # one that is better but for one, and the nearest
    other = of({"H0": null, "H2": nearer, "H5": steady})
    assert other.nearest == "H2"
    assert any(c.startswith("Without experiment 'x3', H5 is +0.9") for c in other.changes)

    by_a_hair = of({"H0": null, "H2": findings([1.5, 0.5, 1.5, 0.5], evidence=(1.0, 1.0, 1.0))})
    assert by_a_hair.best == "H2"
    assert by_a_hair.changes == ("4 times: without one of the 4 experiments H2 would not be believed.",)

    gains = np.array([3.0, -1.0, 2.0, 0.0])
    unsure = of({"H0": null, "H2": findings(gains, evidence=(1.0, 1.0, 1.0))})
    error = np.sqrt(4 * gains.var(ddof=1)) * WIDER[4]
    needed = int(np.ceil(4 * (2 * error / 4.0) ** 2))
    assert f"If more experiments that share no base were like these 4, {needed} in all would set H2 apart from H0." in unsure.changes
    assert of({"H0": null, "H2": findings([2.0, 2.1, 1.9, 2.0])}).changes == (
        "None of what was left out decides it alone, nor do the priors.",
    )
