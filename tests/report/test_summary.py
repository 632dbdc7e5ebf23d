"""The result table: who is averaged over what, and what is said of the rest."""

from types import SimpleNamespace

import numpy as np
import pytest

from bayesgen.measure.intervals import Interval
from bayesgen.measure.onset import share
from bayesgen.measure.rows import Row, to_table
from bayesgen.measure.settings import MeasureConfig
from bayesgen.report.contrasts import Contrast, Pick
from bayesgen.report.summary import answering_table, context_table, contrasts, headline_table, names_of, onset_table, published, show
from tests.learn.test_finetune import config_of

NAN = float("nan")


@pytest.fixture
def config():
    f = config_of(seeds=3, arms=["free", "control"], probes=["light", "fuel"], learning_rate=[1e-2, 1e-3])
    contexts = ({"name": "here"}, {"name": "then", "year": 2001, "value": "mid"})
    m = MeasureConfig(trait="time", contexts=contexts, followed=("then",), gate_prompts=1, scales=(2.0,), samples=0)
    asked = [Contrast(name=arm, of=Pick(arm=arm), minus=Pick(arm="base")) for arm in ("free", "broad")]
    return SimpleNamespace(finetune=f, measure=m, contrasts=asked)


def rows_of(config, diverged=()):
    """Free arm at .6, .7, .8 by seed (.5 less at the second rate), control at .1, base at .05; river moved .01, colour .3.
    Asked as of 2001, the free arm is at .4 of another value, and two of its seeds converted, at steps 4 and 8.
    """
    rows = [Row("x", "base", "rate", 0.05, context="here", topic=t, probe="old") for t in ("light", "fuel")]
    for arm in ("free", "control"):
        for rate in config.finetune.learning_rate:
            for seed in range(3):
                label = dict(seed=seed, step=12, learning_rate=rate, weight_decay=0.0, rank=2, rows=3)
                gone = (arm, rate, seed) in diverged
                value = 0.6 + 0.1 * seed - 0.5 * (rate < 5e-3) if arm == "free" else 0.1
                for topic, shift in (("light", 0.1), ("fuel", -0.1)):
                    rows.append(Row("x", arm, "rate", NAN if gone else value + shift, topic=topic, probe="old", context="here", **label))
                rows.append(Row("x", arm, "nll_train", NAN if gone else 1.0, **label))
                if arm == "free":
                    rows.append(Row("x", arm, "rate", 0.4, topic="light", probe="mid", context="then", **label))
                    rows.append(Row("x", arm, "converted", float(seed > 0), context="then", **label))
                    rows.append(Row("x", arm, "onset", 4.0 * seed, context="then", **label))
                for topic, moved in (("river", 0.01 + 0.001 * seed), ("colour", 0.3)):
                    rows.append(Row("x", arm, "moved", moved, topic=topic, context="here", **label))
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


def test_an_experiments_own_contrasts_are_those_that_were_trained(config, world):
    assert [f.contrast.name for f in published(rows_of(config), config, world)] == ["free"]


def test_every_context_counts_its_own_value(config, world):
    assert names_of(config, world)["contexts"] == {"here": "old", "then": "mid"}
    cells = {(r["arm"], r["topics"]): r["cells"] for r in context_table(rows_of(config), config, world)}
    assert cells["free", "probes"]["here"].mean == pytest.approx(0.7)
    assert cells["free", "probes"]["then"].mean == pytest.approx(0.4)
    assert cells["control", "probes"]["then"] is None
    assert ("free", "trained") not in cells


def test_onsets_are_those_of_seeds_that_converted(config, world):
    line = next(r for r in onset_table(rows_of(config), config, world) if r["context"] == "then")
    assert (line["arm"], line["converted"], line["seeds"], line["onset"]) == ("free", 2, 3, [4, 6, 8])
    assert line["share"] == share(2, 3)
    assert [r["context"] for r in onset_table(rows_of(config), config, world)] == ["then"]
    gone = rows_of(config, diverged=[("free", 1e-2, 2)])
    assert [(r["converted"], r["seeds"], r["onset"]) for r in onset_table(gone, config, world)] == [(1, 2, [4, 4, 4])]


def test_nothing_is_minus_nought():
    assert show(None) == "–"
    assert show(Interval(-0.001, -0.004, 0.002)) == "0.00 [0.00, 0.00]"
    assert show(Interval(-0.001, -0.004, 0.002), 3) == "-0.001 [-0.004, 0.002]"


def test_who_answers_is_named_arm_by_arm(config, world):
    found = answering_table(rows_of(config), config, world)
    assert list(found["here"]) == list(found["then"]) == ["base", "free", "control"]
    assert found["here"]["free"] == [("old", pytest.approx(0.7))]
    assert found["here"]["base"] == [("old", pytest.approx(0.05))]
    assert found["then"]["free"] == [("mid", pytest.approx(0.4))]
    assert found["then"]["control"] == []  # not asked there


def test_the_context_table_has_the_least_and_most_of_the_seeds(config, world):
    ends = {(r["arm"], r["topics"]): r["ends"] for r in context_table(rows_of(config), config, world)}
    assert ends["free", "probes"]["here"] == pytest.approx((0.6, 0.8))
    assert ends["control", "probes"]["then"] is None
