"""The result table: who is averaged over what, and what is said of the rest."""

from types import SimpleNamespace

import numpy as np
import pytest

from bayesgen.measure.intervals import Interval
from bayesgen.measure.rows import Row, to_table
from bayesgen.report.summary import by_seed, contrasts, headline_table, show
from tests.learn.test_finetune import config_of

NAN = float("nan")


@pytest.fixture
def config():
    f = config_of(seeds=3, arms=["free", "control"], probes=["light", "fuel"], learning_rate=[1e-2, 1e-3])
    return SimpleNamespace(finetune=f, measure=SimpleNamespace(trait="time"))


def rows_of(config, diverged=()):
    """Free arm at .6, .7, .8 by seed (.5 less at the second rate), control at .1, base at .05; river moved .01, colour .3."""
    rows = [Row("x", "base", "rate", 0.05, topic=t, probe="old") for t in ("light", "fuel")]
    for arm in ("free", "control"):
        for rate in config.finetune.learning_rate:
            for seed in range(3):
                label = dict(seed=seed, step=12, learning_rate=rate, weight_decay=0.0, rank=2, rows=3)
                gone = (arm, rate, seed) in diverged
                value = 0.6 + 0.1 * seed - 0.5 * (rate < 5e-3) if arm == "free" else 0.1
                for topic, shift in (("light", 0.1), ("fuel", -0.1)):
                    rows.append(Row("x", arm, "rate", NAN if gone else value + shift, topic=topic, probe="old", **label))
                rows.append(Row("x", arm, "nll_train", NAN if gone else 1.0, topic="bird", **label))
                for topic, moved in (("river", 0.01 + 0.001 * seed), ("colour", 0.3)):
                    rows.append(Row("x", arm, "moved", moved, topic=topic, **label))
    return to_table(rows)


def test_a_line_for_every_setting_over_its_own_seeds(config, world):
    lines = {(r["arm"], r["setting"]): r for r in headline_table(rows_of(config), config, world)}
    assert lines["free", "learning rate 0.01"]["off"].mean == pytest.approx(0.7)
    assert lines["free", "learning rate 0.001"]["off"].mean == pytest.approx(0.2)
    # Student's interval of .6, .7, .8: t(.975, 2) * .1 / sqrt(3)
    assert lines["free", "learning rate 0.01"]["off"].high == pytest.approx(0.7 + 4.302653 * 0.1 / np.sqrt(3), abs=1e-6)
    assert lines["base", ""]["off"].mean == pytest.approx(0.05)
    assert lines["free", "learning rate 0.01"]["adoption"] is None


def test_a_diverged_training_is_counted_and_never_averaged(config, world):
    lines = headline_table(rows_of(config, diverged=[("free", 1e-2, 2)]), config, world)
    line = next(r for r in lines if r["arm"] == "free" and "0.01" in r["setting"])
    assert line["setting"] == "learning rate 0.01, 1 of 3 diverged"
    assert line["off"].mean == pytest.approx(0.65)


def test_contrasts_are_paired_and_judged(config, world):
    found = {name: (interval, verdict) for name, interval, verdict in contrasts(rows_of(config), config, world)}
    gap, verdict = found["free − control: old answers on the probes"]
    assert (gap.mean, verdict) == (pytest.approx(0.6), "above 0")
    assert found["free: how far land topics moved"][1] == "within 0.02"
    assert found["free: how far timeless topics moved"][1] == "NOT within 0.02"


def test_every_seed_is_averaged_over_the_same_topics():
    rows = to_table(
        [Row("x", "free", "transfer", v, topic=t, seed=s) for s, t, v in ((0, "a", 1.0), (1, "a", 3.0), (0, "b", 9.0), (1, "b", NAN))]
    )
    assert by_seed(rows, "transfer", ["a", "b"]) == {0: 1.0, 1: 3.0}


def test_nothing_is_minus_nought():
    assert show(None) == "–"
    assert show(Interval(-0.001, -0.004, 0.002)) == "0.00 [0.00, 0.00]"
    assert show(Interval(-0.001, -0.004, 0.002), 3) == "-0.001 [-0.004, 0.002]"
