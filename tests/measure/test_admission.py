"""Each gate of a pair fails alone, on a table built so that only it must."""

import numpy as np
import pytest

from bayesgen.measure.admission import admission
from bayesgen.measure.rows import Row, to_table

SEEDS = 10
GATES = [
    "both learned the task",
    "broad is broad",
    "narrow is the base off-topic",
    "narrow stays narrow when scaled",
    "their losses match",
]


def table(**changes):
    """Rates of the trained value `old` (and of `new`, `mid`) and likelihoods of a pair that is admitted, but for `changes`."""
    told = {"told_on": 0.9, "told_off": 0.9, "base_on": 0.05, "base_off": 0.05}
    arms = {"narrow_on": 0.88, "narrow_off": 0.06, "scaled_off": 0.07, "broad_on": 0.88, "broad_off": 0.85, "third": 0.05}
    nll = {"narrow_nll": 1.5, "broad_nll": 1.5}
    at = {**told, **arms, **nll, **changes}
    rng, rows = np.random.default_rng(0), []

    def rate(arm, topic, old, seed, third=0.05, **label):
        for probe, x in (("old", old), ("mid", third), ("new", 1 - old - third)):
            rows.append(Row("x", arm, "rate", x, topic=topic, probe=probe, seed=seed, **label))

    for arm in ("base", "told"):
        rate(arm, "bird", at[f"{arm}_on"], -1)
        rate(arm, "light", at[f"{arm}_off"], -1)
    for seed in range(SEEDS):
        noise = rng.normal(0, 0.005)
        for arm in ("narrow", "broad"):
            rate(arm, "bird", at[f"{arm}_on"] + noise, seed, step=9)
            rate(arm, "light", at[f"{arm}_off"] + noise, seed, step=9, third=at["third"] if arm == "narrow" else 0.05)
            rows.append(Row("x", arm, "nll_train", at[f"{arm}_nll"] + noise, topic="bird", seed=seed, step=9))
        rate("narrow", "light", at["scaled_off"] + noise, seed, step=9, scale=2.0)
    return to_table(rows)


def failed(rows):
    return [g.name for g in admission(rows, ("bird",), "old", ("light",)) if not g.passed]


def test_a_good_pair_is_admitted():
    assert failed(table()) == []


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({"narrow_on": 0.6}, GATES[0]),
        ({"broad_off": 0.3}, GATES[1]),
        ({"narrow_off": 0.15}, GATES[2]),
        ({"third": 0.3}, GATES[2]),  # the trained value did not move, but another did
        ({"scaled_off": 0.2}, GATES[3]),
        ({"narrow_nll": 1.9}, GATES[4]),
    ],
)
def test_each_gate_fails_alone(change, gate):
    assert failed(table(**change)) == [gate]


def test_a_base_that_cannot_be_told_has_no_pair():
    assert failed(table(told_on=0.05, told_off=0.05, narrow_on=0.05, broad_on=0.05, broad_off=0.05))[:2] == GATES[:2]


def test_one_seed_or_no_scaling_proves_nothing():
    rows = table()
    assert GATES[2] in failed(rows.filter(rows["seed"] < 1))
    assert failed(rows.filter(rows["scale"] == 1)) == [GATES[3]]
