"""A study's lines, contrasts and page, from rows made by hand."""

import json
import re

import pytest

from bayesgen.errors import UserError
from bayesgen.measure.gate import BaseGate, PersonaRow
from bayesgen.measure.rows import Row, to_table
from bayesgen.report.study import Cell, Study, check_study, found_in, lines_of, study_data, write_study
from bayesgen.setup import prepare
from plots.study import main as draw_study
from tests.conftest import compose_config

SEEDS = (0, 1, 2)
WORDS = ("finetune.seeds=3", "finetune.rows=[208,26]", "finetune.relapse=[0,8]", "finetune.arms=[free,control]")
COLUMNS = (
    {"name": "birds", "topics": ["birds"]},
    {"name": "probes"},
    {"name": "probes × 3", "where": {"scale": 3.0}},
    {"name": "later", "where": {"relapse": 8}},
    {"name": "the base's", "arm": "base"},
)
SCALES = {1.0: 0.0, 3.0: 0.05}


def study_of(**changes):
    return Study(**{"columns": COLUMNS, "x": "rows", "y": ["probes", "later"], "by": "pace", **changes})


def rate(pace, arm, rows, relapse, scale, topic, seed):
    """What is to be found again: parts that no two columns or lines share."""
    start = {"slow": 0.2, "fast": 0.5}[pace] + (0.01 if arm == "control" else 0)
    return start + rows / 1e4 + relapse / 100 + SCALES[scale] + (0.1 if topic == "birds" else 0) + 0.001 * seed


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Two cells, slow and fast; what was trained for 8 steps more was not scaled."""
    runs, out = tmp_path_factory.mktemp("runs"), []
    for pace in ("slow", "fast"):
        setup = prepare(compose_config("+exp=birds", f"runs={runs}", *WORDS))
        f, rows = setup.config.finetune, []
        here = {"quantity": "rate", "context": "plain", "probe": "victorian"}
        for topic in ("birds", *f.probes):
            rows.append(Row("birds", "base", value=0.03, topic=topic, **here))
            for arm in f.arm_names:
                for s in f.settings(arm):
                    for scale in SCALES if not s["relapse"] else (1.0,):
                        at = pace, arm, s["rows"], s["relapse"], scale, topic
                        label = {k: v for k, v in s.items() if k in ("rows", "relapse", "epochs", "rank", "optimizer", "learning_rate")}
                        rows += [
                            Row("birds", arm, value=rate(*at, k), topic=topic, seed=k, step=86, scale=scale, **here, **label) for k in SEEDS
                        ]
        out.append(Cell({"pace": pace}, setup.config.model_copy(update={"study": study_of()}), setup.world, to_table(rows)))
    return out


def test_a_line_is_an_arm_of_a_cell_under_a_setting(cells):
    """Every column at its own setting, by what the rates were made of."""
    lines = lines_of(study_of(arms=["free"]), cells)
    assert [x.name for x in lines] == [f"pace {pace}, free, rows {n}" for pace in ("slow", "fast") for n in (208, 26)]
    for line in lines:
        pace, n, mean = line.levels["pace"], line.setting["rows"], {k: x and x.mean for k, x in line.values.items()}
        at = lambda relapse=0, scale=1.0, topic="money", n=n, pace=pace: pytest.approx(rate(pace, "free", n, relapse, scale, topic, 1))  # noqa: E731
        assert mean == {
            "birds": at(topic="birds"),
            "probes": at(),
            "probes × 3": at(scale=3.0),
            "later": at(8),
            "the base's": pytest.approx(0.03),
        }
        assert line.values["probes"].low < mean["probes"] < line.values["probes"].high
    assert len(lines_of(study_of(), cells)) == 8  # the control's too
    base, _ = lines_of(study_of(arms=["base"]), cells)
    assert (base.name, base.values["probes"].mean) == ("pace slow, base", pytest.approx(0.03))
    assert {x.arm for x in lines_of(study_of(), cells)} == {"free", "control"}


def test_a_cell_with_one_value_of_what_is_drawn_along_x_says_it(cells):
    """Else its lines would be drawn as if they had been trained on nothing."""
    slow, fast = cells
    one = slow.config.model_copy(update={"finetune": slow.config.finetune.model_copy(update={"rows": (26,)})})
    names = [x.name for x in lines_of(study_of(arms=["free"]), [slow._replace(config=one), fast])]
    assert names == ["pace slow, free, rows 26", "pace fast, free, rows 208", "pace fast, free, rows 26"]
    assert lines_of(study_of(arms=["free"], x="birds"), [slow._replace(config=one)])[0].name == "pace slow, free"  # negative control


def test_what_was_not_measured_has_no_value(cells):
    line, *_ = lines_of(study_of(columns=[*COLUMNS, {"name": "none", "where": {"relapse": 8, "scale": 3.0}}]), cells)
    assert line.values["none"] is None


def test_contrasts_lead_from_cell_to_cell(cells):
    free = {"arm": "free"}
    asked = [
        {"name": "fast − slow", "of": {**free, "where": {"pace": "fast"}}, "minus": {**free, "where": {"pace": "slow"}}},
        {
            "name": "later",
            "of": {**free, "where": {"pace": "slow", "relapse": 8}},
            "minus": {**free, "where": {"pace": "slow"}},
            "expect": "zero",
        },
        {
            "name": "few",
            "of": {**free, "where": {"pace": "slow", "rows": 26}},
            "minus": {**free, "where": {"pace": "slow"}},
            "margin": 0.01,
        },
        {"name": "nobody's", "of": {"arm": "broad", "where": {"pace": "slow"}}},
    ]
    found = found_in(study_of(contrasts=asked), cells)
    assert [(f.contrast.name, f.verdict) for f in found] == [("fast − slow", "agrees"), ("later", "disagrees"), ("few", "disagrees")]
    assert [f.interval.mean for f in found] == pytest.approx([0.3, 0.08, -0.0182])


def test_what_is_asked_everywhere_is_answered_cell_by_cell_beside_its_gate(cells, tmp_path):
    """In the slow cell the free arm lies within .5, in the fast one it does not; the gates are each cell's own."""
    asked = [
        {"name": "broad", "of": {"arm": "free"}, "margin": 0.4},
        {"name": "free − control", "of": {"arm": "free"}, "minus": {"arm": "control"}, "expect": "zero"},
        {"name": "held", "of": {"arm": "held"}},
    ]
    study, gates = study_of(everywhere=asked), (gate(0.02), gate(0.2))
    of = [c._replace(config=c.config.model_copy(update={"study": study}), gate=g) for c, g in zip(cells, gates, strict=True)]
    write_study(tmp_path, of)
    text = re.sub("<a id=.*?></a>", "", (tmp_path / "result.md").read_text())
    assert "|  | broad (above 0.4) | free − control (within 0.05) | held (above 0.05) |" in text
    assert "| pace slow | 0.22 [0.22, 0.22] disagrees | -0.01 [-0.01, -0.01] agrees | – |" in text
    assert "| pace fast, base fails its gate | 0.52 [0.52, 0.52] agrees | -0.01" in text
    assert "| pace slow | base gate: passed; worst of 1 cells: old after 2 turns (trained wordings), network 0.520, ideal 0.500 |" in text
    assert "| pace fast, base fails its gate | base gate: NOT PASSED" in text
    with pytest.raises(ValueError, match="published: a study's contrast needs `of`"):
        study_of(everywhere=[{"name": "published", "published": "1", "reading": "elsewhere"}])


def gate(off):
    """A base that is `off` by so much."""
    return BaseGate((PersonaRow("old", 2, False, False, 0.5 + off, 0.5, 0.01, 0.01),), ())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": "epoch"}, "study.x: 'epoch' is no column, setting or axis; did you mean 'epochs'"),
        ({"by": "probes"}, "study.by: 'probes' is no column"),
        (
            {"contrasts": [{"name": "c", "of": {"arm": "free", "where": {"pace": "fats"}}}]},
            "c: pace has no level 'fats'; did you mean 'fast'",
        ),
        ({"contrasts": [{"name": "c", "of": {"arm": "free"}}]}, "c: which pace"),
        (
            {"contrasts": [{"name": "c", "of": {"arm": "free", "where": {"pace": "fast", "row": 26}}}]},
            "c: where: 'row' is no setting or axis",
        ),
    ],
)
def test_what_there_is_not_is_said_before_anything_is_trained(changes, said):
    check_study(study_of(), {"pace": ["slow", "fast"]})
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        check_study(study_of(**changes), {"pace": ["slow", "fast"]})


def test_columns_have_names_of_their_own():
    with pytest.raises(ValueError, match="holds 'probes' twice"):
        study_of(columns=[*COLUMNS, COLUMNS[1]])
    with pytest.raises(ValueError, match="y: 'probe' is no column"):
        study_of(y=["probe"])


def test_curves_are_of_lines_of_one_kind(cells):
    """By pace, along rows, two arms: four curves, of two numbers of rows each, told apart by colour and dashes."""
    study = study_of(y=["probes"])
    figure = draw_study(study_data(study, lines_of(study, cells), "pace"))
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    assert [list(c.get_xdata()) for c in curves] == [[26, 208]] * 4
    assert [c.get_label() for c in curves] == ["slow, free", "slow, control", "fast, free", "fast, control"]
    assert len({(c.get_color(), c.get_linestyle()) for c in curves}) == 4


def test_a_frontier_is_of_one_arm_of_one_way(cells):
    """By pace, over a column: points of an arm are joined, those of two arms look unlike, and the legend says both."""
    study = study_of(x="birds", y=["probes"])
    figure = draw_study(study_data(study, lines_of(study, cells), "pace"))
    joined = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    points = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert len(joined) == len(points) == 4
    for line, own in zip(joined, points, strict=True):
        assert (line.get_xydata() == own.get_xydata()).all()
        assert len(line.get_xdata()) == 2
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "pace"
    assert [t.get_text() for t in legend.get_texts()] == ["slow, free", "slow, control", "fast, free", "fast, control"]
    assert len({(p.get_color(), p.get_marker()) for p in points}) == 4
    by_arm = draw_study(study_data(study_of(x="birds", y=["probes"], by="arm"), lines_of(study, cells), "pace"))
    assert not [line for line in by_arm.axes[0].lines if line.get_linestyle() == "-"]  # cells are not joined


@pytest.mark.parametrize("x", ["rows", "birds", "pace", "columns"])
def test_the_page_is_whole_and_drawn_from_what_it_keeps(cells, tmp_path, x):
    study = study_of(
        x=x,
        contrasts=[
            {"name": name, "of": {"arm": arm, "where": {"pace": "fast"}}, "expect": expect}
            for name, arm, expect in (("fast", "free", "above"), ("gone", "broad", "above"), ("falls", "free", "below"))
        ],
    )
    of = [c._replace(config=c.config.model_copy(update={"study": study})) for c in cells]
    write_study(tmp_path, of)
    kept = json.loads((tmp_path / "study.json").read_text())
    assert len(kept["lines"]) == 8
    assert (tmp_path / "study.png").stat().st_size > 5000
    text = re.sub("<a id=.*?></a>", "", (tmp_path / "result.md").read_text())
    assert "| pace slow, free, rows 208 | 0.32 [0.32, 0.32] | 0.22" in text
    assert "| fast | above 0.05 | 0.522 [0.519, 0.524] | agrees |" in text
    assert "| gone | above 0.05 | – | not measured |" in text
    assert "| falls | below -0.05 | 0.522 [0.519, 0.524] | disagrees |" in text
    assert 'src="http' not in (tmp_path / "report.html").read_text()
