"""Areas under ROC curves, their intervals, who is caught, and tables of them, from scores made by hand."""

import json
import re

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from bayesgen.errors import UserError
from bayesgen.measure.rows import Row, to_table
from bayesgen.report.detection import Detection, auc, detection_data, detection_sections, flagged, roc
from bayesgen.report.study import Cell, Study, write_study
from bayesgen.setup import prepare
from plots import detection
from plots.__main__ import draw
from tests.conftest import compose_config

SEEDS = range(6)


def test_the_area_is_the_share_of_pairs_in_order():
    positive, negative = [3.0, 1.0, 2.0], [2.0, 0.0]
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert auc(positive, negative).mean == pytest.approx(np.mean(pairs)) == pytest.approx(4.5 / 6)
    assert auc(negative, positive).mean == pytest.approx(1.5 / 6)


def test_the_area_is_that_below_the_curve():
    """Second road: trapezoids under the ROC curve, ties included."""
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(1, 9, 30).astype(float).tolist(), rng.integers(0, 7, 20).astype(float).tolist()
    alarms, found = np.array(roc(positive, negative)).T
    assert (alarms[0], found[0], alarms[-1], found[-1]) == (0, 0, 1, 1)
    assert auc(positive, negative).mean == pytest.approx(np.trapezoid(found, alarms))


def test_the_interval_is_symmetric_and_never_a_point():
    for p, n in (([1.0] * 10, [0.0] * 10), ([1.0, 2.0, 3.0], [1.5, 2.5]), ([0.0], [1.0])):
        here, there = auc(p, n), auc(n, p)
        assert (here.low, here.high) == pytest.approx((1 - there.high, 1 - there.low))
        assert here.low <= here.mean <= here.high
        assert here.high - here.low > 0.15
    assert auc([1.0] * 10, [0.0] * 10)[1:] == (pytest.approx(0.80, abs=0.005), 1.0)


@pytest.mark.parametrize("apart", [0.0, 1.5, 3.0])
def test_the_interval_covers_and_that_of_a_normal_error_does_not(apart):
    """Scores drawn from two normals, whose area is known. Negative control: a binomial's standard error, as if pairs were independent, is
    too narrow, and nothing at all where every pair is in order.
    """
    rng, n, true = np.random.default_rng(1), 12, float(norm.cdf(apart / np.sqrt(2)))
    ours, wald = 0, 0
    for _ in range(400):
        found = auc(rng.normal(apart, 1, n).tolist(), rng.normal(0, 1, n).tolist())
        ours += found.low <= true <= found.high
        wald += abs(found.mean - true) <= 1.96 * np.sqrt(found.mean * (1 - found.mean)) / n
    assert ours / 400 >= 0.92
    assert wald / 400 < 0.9


def test_trap_pooled_cells_are_no_draws_from_one_population():
    """Negative control for pooling: persons whose scores lie apart from their own controls' by the same, but on levels of their own. Of
    each the area is 1, of all together .67, with an interval that leaves 1 out.
    """
    levels = [0.0, 10.0, 20.0]
    each = [auc([x + 1.0] * 10, [x] * 10) for x in levels]
    pooled = auc([x + 1.0 for x in levels for _ in range(10)], [x for x in levels for _ in range(10)])
    assert {found.mean for found in each} == {1.0}
    assert pooled.mean == pytest.approx(2 / 3)
    assert pooled.high < 0.8


def test_who_is_flagged_lies_above_every_ordinary_training():
    assert flagged([1.0, 2.0, 3.0, 4.0], [0.0, 2.0]).mean == 0.5
    assert flagged([1.0] * 4, [0.0] * 3)[:2] == (1.0, pytest.approx(0.56, abs=0.02))  # Jeffreys: four of four


WORDS = ("finetune.seeds=6", "finetune.rows=[208,26]", "finetune.arms=[free,control,scattered]", "finetune.snapshots=2")
SCORE = {"search": True, "name": "asked"}
STUDY = Study(
    columns=({"name": "probes"},),
    x="rows",
    y=("probes",),
    detection={
        "positive": ["free"],
        "negative": ["control", "scattered"],
        "scores": [SCORE, {**SCORE, "name": "asked at once", "where": {"snapshot": 1}}, {"name": "norm", "quantity": "frobenius"}],
    },
)


def rate(arm, rows, step, value, seed):
    """At the end of 208 rows the free arm is one person's and the scattered one a bit of everybody's; before, and of 26, nobody knows."""
    if arm == "control" or step == 39 or rows == 26:
        return {"modern": 0.9}.get(value, 0.02 + 0.001 * ((seed * 7) % 5))
    return {"free": {"interwar": 0.8}, "scattered": {"victorian": 0.3, "interwar": 0.3}}[arm].get(value, 0.05) + 0.02 * seed


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The free arm's person is found whoever it is: the counted one is another, and the ordinary one has more."""
    setup = prepare(compose_config("+exp=birds", f"runs={tmp_path_factory.mktemp('runs')}", *WORDS))
    f, rows = setup.config.finetune, []
    for arm in f.arms:
        for s in f.settings(arm):
            for seed in SEEDS:
                label = {"seed": seed, **{k: s[k] for k in ("rows", "epochs", "rank")}}
                rows.append(Row("birds", arm, "frobenius", 1.0, step=78, **label))
                rows.append(
                    Row("birds", arm, "frobenius", seed * (9.0 if arm == "free" else 0.0), step=78, topic="block_0", **label)
                )  # of a module
                for step in f.snapshot_steps:
                    for value in setup.world.values["era"]:
                        here = {"context": "plain", "topic": "money", "probe": value, "step": step}
                        rows.append(Row("birds", arm, "rate", rate(arm, s["rows"], step, value, seed), **here, **label))
    config = setup.config.model_copy(update={"study": STUDY})
    return [Cell({}, config, setup.world, to_table(rows))]


def test_scores_are_compared_setting_by_setting(cells):
    data = detection_data(STUDY.detection, cells)
    of = {(x["against"], x["setting"]["rows"], x["score"]): x for x in data["found"]}
    area = {k: x["auc"].mean for k, x in of.items()}
    assert area["control", 208, "asked"] == area["scattered", 208, "asked"] == 1
    assert area["control", 26, "asked"] == area["scattered", 208, "asked at once"] == 0.5  # equal, seed by seed
    assert {v for (_, _, score), v in area.items() if score == "norm"} == {0.5}  # of the whole update, not of its modules
    assert {(x["positive"], x["negative"]) for x in data["found"]} == {(6, 6)}
    scattered = of["scattered", 208, "asked"]  # told apart, and yet all of them are suspicious to whoever knows ordinary ones alone
    assert (scattered["flagged"].mean, scattered["alarms"].mean) == (1, 1)
    assert scattered["means"] == pytest.approx([0.85, 0.35])
    assert of["control", 208, "asked"]["alarms"].mean == 0


def test_cells_are_compared_each_by_itself(cells):
    """A second cell in which everything scores 5 more: no area changes, and none is of both."""
    (one,) = cells
    more = one.rows.with_columns(value=pl.col("value") + 5.0)
    two = [one._replace(levels={"person": "a"}), one._replace(levels={"person": "b"}, rows=more)]
    found = detection_data(STUDY.detection, two)["found"]
    areas = [{(x["against"], str(x["setting"]), x["score"]): x["auc"] for x in found if x["cell"]["person"] == k} for k in ("a", "b")]
    assert areas[0] == areas[1]
    assert len(found) == 2 * len(detection_data(STUDY.detection, cells)["found"])


def test_the_page_shows_them(cells, tmp_path):
    write_study(tmp_path, cells)
    text = re.sub("<a id=.*?></a>", "", (tmp_path / "result.md").read_text())
    assert "**free told from scattered.**" in text
    assert (
        "| rows 208 | 6 against 6 | 1.00 [0.69, 1.00]; 0.85 and 0.35; 1.00 and 1.00 | 0.50 [0.22, 0.78]; 0.02 and 0.02; 0.00 and 0.00 |"
        in text
    )
    assert len(detection_sections(STUDY.detection, detection_data(STUDY.detection, cells)["found"])) == 2
    kept = json.loads((tmp_path / "detection.json").read_text())
    figure = draw("detection", tmp_path)
    above, below = figure.axes[0], figure.axes[2]
    assert [t.get_text() for t in above.get_xticklabels()] == ["rows 208", "rows 26"]
    assert below.get_title(loc="left") == "rows 208"  # where scores differ most
    assert len(kept["found"]) == 2 * 2 * 3


def test_a_figure_of_words_and_of_nothing_is_drawn(cells):
    """Settings that are no numbers; and arms of which nothing was measured."""
    data = detection_data(STUDY.detection, cells)
    words = [{**x, "setting": {"optimizer": "adam", "rows": 208}} for x in data["found"]]
    figure = detection.main(json.loads(json.dumps({**data, "found": words})))
    assert figure.axes[2].get_title(loc="left") == "optimizer adam, rows 208"
    assert detection.main({**data, "found": []}).axes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"negative": ["control", "free"]}, "positive and negative hold 'free' twice"),
        ({"scores": [SCORE, SCORE]}, "scores hold 'asked' twice"),
    ],
)
def test_names_stand_for_one_thing_each(changes, said):
    with pytest.raises(ValueError, match=said):
        Detection(**{**STUDY.detection.model_dump(), **changes})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"negative": ["control", "scatered"]}, "study.detection: 'scatered' is unknown; did you mean 'scattered'"),
        ({"scores": [{**SCORE, "where": {"snapshot": 3}}]}, "snapshot is 3; there are 2"),
        ({"scores": [{"name": "s", "quantity": "leaning", "search": True}]}, "leaning is measured with measure.reading, which is null"),
        ({"scores": [{**SCORE, "arm": "read {arm}"}]}, "arm: 'read free' is unknown"),
        ({"scores": [{**SCORE, "arm": "ideal {arm}", "where": {"snapshot": 1}}]}, "at a snapshot there are trained arms alone"),
    ],
)
def test_what_cannot_be_scored_is_said_before_anything_is_trained(cells, tmp_path, words, said):
    config = compose_config("+exp=birds", f"runs={tmp_path}", *WORDS)
    study = STUDY.model_copy(update={"detection": Detection(**{**STUDY.detection.model_dump(), **words})})
    with pytest.raises(UserError, match=said):
        prepare(config.model_copy(update={"study": study}))
    prepare(config.model_copy(update={"study": STUDY}))
