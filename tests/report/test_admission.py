"""Each gate of a pair fails alone, on a table built so that only it must."""

import numpy as np
import pytest

from bayesgen.measure.rows import Row, to_table
from bayesgen.report.admission import admission

SEEDS = 10
GATES = [
    "both learned the data",
    "broad is broad",
    "narrow is the base off-topic",
    "narrow stays narrow when scaled",
    "their losses match",
]
PROBES = ("light", "fuel", "cab", "ship")
GOOD = dict(
    told=0.9, base=0.05, broad=0.85, narrow=0.06, scaled=0.07, third=0.05, one=0.0, start=3.0, floor=1.4, narrow_nll=1.5, broad_nll=1.5
)


def table(**changes):
    """Rates of the trained value `old` (and of `new`, `mid`) and likelihoods of a pair that is admitted, but for `changes`.

    `third`: the narrow arm's rate of `mid`; `one`: what its rate of `old` rises on the first probe, and falls on the second.
    """
    at = {**GOOD, **changes}
    rng, rows = np.random.default_rng(0), []

    def rates(arm, old, seed, third=0.05, one=0.0, **label):
        for topic, moved in zip(PROBES, (one, -one, 0.0, 0.0), strict=True):
            for probe, x in (("old", old + moved), ("mid", third), ("new", 1 - old - moved - third)):
                rows.append(Row("x", arm, "rate", x, topic=topic, probe=probe, seed=seed, **label))

    for arm in ("base", "told"):
        rates(arm, at[arm], -1)
    for seed in range(SEEDS):
        noise = rng.normal(0, 0.005)
        rates("broad", at["broad"] + noise, seed, step=9)
        rates("narrow", at["narrow"] + noise, seed, step=9, third=at["third"], one=at["one"])
        rates("narrow", at["scaled"] + noise, seed, step=9, scale=2.0)
        for arm in ("narrow", "broad"):
            likelihoods = {"nll_train": at[f"{arm}_nll"] + noise, "start_train": at["start"], "floor_train": at["floor"]}
            rows += [Row("x", arm, q, x, seed=seed, step=9) for q, x in likelihoods.items()]
    return to_table(rows)


def failed(rows):
    return [g.name for g in admission(rows, "old", PROBES) if not g.passed]


def test_a_good_pair_is_admitted():
    assert failed(table()) == []


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({"narrow_nll": 1.75, "broad_nll": 1.75}, GATES[0]),
        ({"start": 1.45}, GATES[0]),  # nothing to learn
        ({"broad": 0.3}, GATES[1]),
        ({"narrow": 0.15}, GATES[2]),
        ({"third": 0.3}, GATES[2]),  # the trained value did not move, but another did
        ({"one": 0.06}, GATES[2]),  # no mean moved: one probe rose as another fell
        ({"scaled": 0.2}, GATES[3]),
        ({"narrow_nll": 1.65}, GATES[4]),
    ],
)
def test_each_gate_fails_alone(change, gate):
    assert failed(table(**change)) == [gate]


def test_a_gate_says_how_many_probes_hold_and_where_it_is_worst():
    gates = {g.name: g.found for g in admission(table(one=0.2, scaled=0.2), "old", PROBES)}
    assert gates[GATES[2]].startswith("2 of 4 probes hold within 0.05; largest shift")
    assert "on light)" in gates[GATES[2]]
    assert gates[GATES[3]].startswith("x2: 0 of 4, ")


def test_a_base_that_cannot_be_told_has_no_pair():
    assert failed(table(told=0.05, broad=0.05)) == [GATES[1]]


def test_likelihoods_are_paired_by_seed_when_one_diverged():
    rows = table()
    gone = rows.filter(~((rows["arm"] == "broad") & (rows["seed"] == 0)))
    by_gate = {g.name: g.found for g in admission(gone, "old", PROBES)}
    assert by_gate[GATES[4]].startswith("+0.000 ")  # a seed's noise is the same in both arms


@pytest.mark.parametrize("arms", [["base"], ["narrow"], ["base", "narrow"]])
def test_what_was_not_measured_does_not_hold(arms):
    rows = table()
    here = rows.filter(~(rows["arm"].is_in(arms) & (rows["topic"] == "ship")))
    found = {g.name: g for g in admission(here, "old", PROBES)}
    assert not found[GATES[2]].passed
    assert found[GATES[2]].found.startswith("3 of 4 probes hold")


def test_one_seed_or_no_scaling_proves_nothing():
    rows = table()
    assert GATES[2] in failed(rows.filter(rows["seed"] < 1))
    assert failed(rows.filter(rows["scale"] == 1)) == [GATES[3]]
