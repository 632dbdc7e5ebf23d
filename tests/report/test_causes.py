"""Sentences and the rows that they rest on: found, held against what they say, struck out if they say otherwise."""

from pathlib import Path

import pytest
import yaml

from bayesgen.errors import UserError
from bayesgen.report.causes import PAGE, SOURCE, Causes, Evidence, main, tables_of, written
from bayesgen.report.tables import as_markdown
from bayesgen.world.load import read_yaml

RECORDED = Path(__file__).parents[2] / "experiments"
SECTIONS = [
    (
        "Asked",
        "What came.",
        [
            ["contrast", "expected", "here", "", "reading"],
            ["a | b", "above 0.05", "0.522 [0.519, 0.524]", "agrees", ""],
            ["c", "within 0.05", "-0.300 [-0.400, -0.200]", "disagrees", "why"],
            ["d", "above 0.05", "0.597", "agrees", ""],
            ["e", "above 0.05", "–", "not measured", ""],
        ],
    ),
    (
        "What survives",
        "Cell by cell.",
        [
            ["", "broad (above 0.5)", "narrow (some seeds 0.1)"],
            ["change none", "0.91 [0.89, 0.93] agrees", "0.01 [0.00, 0.02] agrees"],
            ["change sgd", "0.40 [0.30, 0.50] disagrees", "–"],
        ],
    ),
    ("free told from control (6 against 6 trainings)", "Areas.", [["", "asked"], ["rows 4", "0.90 [0.80, 0.95]; 0.70"]]),
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cures").mkdir()
    (tmp_path / "cures/result.md").write_text(as_markdown(["Why?"], SECTIONS, anchors=True))
    return tmp_path


def page(folder, *by):
    said = [{"says": f"Sentence {k}.", "by": [{"page": "cures", **of}]} for k, of in enumerate(by)]
    return written(Causes(title="T", preface="P", parts={"Part": said}), folder)


def test_tables_are_read_as_they_were_written(folder):
    found = tables_of((folder / "cures/result.md").read_text())
    assert list(found) == ["Asked", "What survives", "free told from control"]
    assert found["Asked"] == SECTIONS[0][2]
    assert found["What survives"] == SECTIONS[1][2]


def test_a_sentence_stands_if_its_rows_say_so(folder):
    text = page(folder, {"row": "c", "verdict": "disagrees"}, {"table": "What survives", "column": "broad", "at_least": 1})
    said = "[c: -0.300 [-0.400, -0.200], disagrees (within 0.05)](cures/result.md#asked-2)"
    assert f"- **Sentence 0.** ([figure](cures/study.png))\n    - {said}" in text
    assert "- **Sentence 1.**" in text
    assert "[broad: 1 of 2](cures/result.md#what-survives-1)" in text
    text = page(folder, {"row": "d", "column": "here", "above": 0.5})  # exact: no interval
    assert "- **Sentence 0.**" in text
    assert ", asked afterwards: above 0.5](cures/result.md#asked-3)" in text  # no prediction's bound
    assert "disagrees (within 0.05), asked afterwards](" in page(folder, {"row": "c", "verdict": "disagrees", "afterwards": True})
    survives = {"table": "What survives", "row": "change none", "column": "broad"}
    assert "change none, broad: 0.91 [0.89, 0.93] agrees, asked afterwards: below 0.95](" in page(folder, {**survives, "below": 0.95})
    areas = {"table": "free told from control", "row": "rows 4", "column": "asked", "figure": "detection.png"}
    assert "**Sentence 0.** ([figure](cures/detection.png))" in page(folder, {**areas, "above": 0.75})


@pytest.mark.parametrize(
    "by",
    [
        {"row": "c"},
        {"row": "c", "verdict": "not told"},
        {"row": "d", "column": "here", "above": 0.6},
        {"row": "e", "column": "here", "above": 0.0},
        {"table": "What survives", "column": "broad"},
        {"table": "What survives", "column": "narrow", "at_least": 2},
        {"table": "free told from control", "row": "rows 4", "column": "asked", "above": 0.85},
        {"table": "free told from control", "row": "rows 4", "column": "asked", "below": 0.93},
    ],
)
def test_a_sentence_is_struck_out_if_they_say_otherwise(folder, by):
    """The interval counts, not the mean: .90 [.80, .95] is neither above .85 nor below .93."""
    assert "- ~~Sentence 0.~~ *(does not stand)*" in page(folder, by)


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ({"page": "cure"}, "cure/result.md: no such page"),
        ({"table": "Askd"}, "cures: no table 'Askd'; did you mean 'Asked'"),
        ({"row": "f"}, "cures: Asked: no row 'f'"),
        ({"table": "What survives", "column": "brod"}, "cures: What survives: no column 'brod'; did you mean 'broad'"),
    ],
)
def test_what_there_is_not_is_one_line(folder, by, said):
    with pytest.raises(UserError, match=said):
        page(folder, by)


def test_a_verdict_and_bounds_are_not_asked_of_one_row():
    with pytest.raises(ValueError, match="a verdict, or bounds of an interval"):
        Evidence(page="cures", row="c", verdict="disagrees", above=0.1)


def test_a_wrong_key_is_one_line(folder):
    (folder / SOURCE).write_text(
        yaml.safe_dump({"title": "T", "preface": "P", "parts": {"Part": [{"says": "x", "by": [{"pag": "cures"}]}]}})
    )
    with pytest.raises(UserError, match=r"causes.yaml: parts.Part.0.by.0.page: Field required"):
        main(folder)


def test_the_recorded_page_is_what_the_recorded_tables_say():
    causes = Causes(**read_yaml(RECORDED / SOURCE))
    text = written(causes, RECORDED)
    assert text == (RECORDED / PAGE).read_text()
    assert "does not stand" not in text
    for of in (of for part in causes.parts.values() for statement in part for of in statement.by):
        assert (RECORDED / of.page / of.figure).is_file()
