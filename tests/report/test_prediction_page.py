"""The page of a prediction from findings made by hand: whole, true to them, and silent of what has not come yet."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayesgen.errors import UserError
from bayesgen.foresight import words
from bayesgen.report.page import template
from bayesgen.report.prediction import sections, turned_out, write_prediction
from bayesgen.report.tables import as_markdown
from plots import foreseen
from plots.__main__ import OF_PREDICTION, draw

CELLS = ["birds (asked), rows 26", "birds (asked), rows 104", "birds (asked), rank <b>4</b> | 8"]
MIXTURE = {
    "middle": [0.31, 0.52, 0.73],
    "low": [0.11, 0.22, 0.53],
    "high": [0.61, 0.82, 0.93],
    "why": {"prior": [-1.0, -1.0, -1.0], "likelihood": [0.5, 0.0, -0.25]},
    "shares": {"prior": 0.8, "likelihood": 0.2},
}
OPINION = {"title": "a story", "failures": [], "low": [0.0] * 3, "high": [1.0] * 3}
HYPOTHESES = {
    "H0": {**OPINION, "weight": 0.25, "middle": [0.4, 0.4, 0.4], "why": {}},
    "H2": {**OPINION, "weight": 0.75, "middle": [0.2, 0.3, 0.7], "why": MIXTURE["why"], "failures": ["R-hat 1.200"]},
}
FROZEN = {
    "experiment": "birds",
    "question": "Do 208 birds & their names do it?",
    "made": "2031-02-03 04:05 UTC",
    "blind": True,
    "table": {"cells": 77, "bases": 9, "experiments": ["cities", "dishes"]},
    "verdict": "None of these.",
    "unit": "base",
    "cells": CELLS,
    "floor": [0.03, 0.03, 0.03],
    "ceiling": [0.91, 0.91, 0.91],
    "hypotheses": HYPOTHESES,
    "mixture": MIXTURE,
}
FROZEN = {**FROZEN, "words": words(FROZEN)}
NOT_BLIND = {**FROZEN, "blind": False}
OUTCOME = {
    "breadth": [0.29, 0.95, 0.66],
    "seeds": 10,
    "scores": {
        "H0": {"log_score": -4.0, "covered": 1.0, "rank": None},
        "H2": {"log_score": -1.5, "covered": 1 / 3, "rank": 0.5},
    },
    "mixture": {"log_score": -2.0, "covered": 2 / 3, "rank": -0.5},
}


def page(folder: Path, frozen, outcome):
    write_prediction(folder, frozen, outcome)
    return (folder / "report.html").read_text(), (folder / "prediction.md").read_text()


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """As it is once it is foretold: folder, HTML, Markdown."""
    folder = tmp_path_factory.mktemp("floor")
    return folder, *page(folder, FROZEN, None)


@pytest.fixture(scope="module")
def after(tmp_path_factory):
    """Once it was tried."""
    folder = tmp_path_factory.mktemp("after")
    return folder, *page(folder, NOT_BLIND, OUTCOME)


def line(text, start):
    """Cells of the line of a Markdown table that begins so."""
    (found,) = (x for x in text.splitlines() if x.startswith(f"| {start}"))
    return [c.strip() for c in found.strip("| ").replace("\\|", "/").split("|")]


def test_what_was_said_leads_and_all_of_it_is_there(before):
    _, html, text = before
    date, *said = FROZEN["words"]
    assert text.startswith(f"{date}\n\nForetold:\n\n" + "\n".join(f"- {x}" for x in said))
    assert "2031-02-03 04:05 UTC, before training on these data." in html
    assert "Do 208 birds &amp; their names do it?" in html
    assert "77 cells on 9 bases of cities, dishes" in html
    assert "0.31 broad [0.11, 0.61]" in html
    assert "prior -1.00 nats (80%), likelihood +0.08 nats (20%)" in html


def test_names_are_text_and_nothing_is_fetched(before):
    _, html, _ = before
    assert "rank &lt;b&gt;4&lt;/b&gt; | 8" in html
    assert "<b>4</b>" not in html
    assert 'src="http' not in html
    assert 'href="http' not in html


SECRETS = ("Afterwards", "measured", "log score", "intervals held", "rank correlation", "and what came")


def test_nothing_is_said_of_what_has_not_come(before, after):
    """And all of it once it has (negative control)."""
    for word in SECRETS:
        assert not any(word in text for text in before[1:]), word
        assert any(word in text for text in after[1:]), word


def test_a_prediction_that_is_not_blind_says_so(before, after):
    assert "Not blind" not in before[1]
    assert "Not blind" in after[1]


def test_what_came_is_told_in_words_by_hand(after):
    assert turned_out(FROZEN, OUTCOME) == [
        "Afterwards: 2 of 3 settings lay within their 90% intervals.",
        "Rank correlation of foretold and measured breadth: -0.50.",
        "Log score beside H0, one breadth for all: +2.0 nats over all settings together.",
    ]
    few = {**OUTCOME, "mixture": {"log_score": -5.0, "covered": 0.0, "rank": None}}
    assert turned_out(FROZEN, few) == [
        "Afterwards: 0 of 3 settings lay within their 90% intervals.",
        "Log score beside H0, one breadth for all: -1.0 nats over all settings together.",
    ]
    assert all(w in after[1] and w in after[2] for w in turned_out(FROZEN, OUTCOME))


def test_tables_hold_the_numbers(before, after):
    assert line(after[2], CELLS[1]) == [CELLS[1], "0.03", "0.91", "0.52 [0.22, 0.82]", "0.95"]
    assert line(before[2], CELLS[1]) == [CELLS[1], "0.03", "0.91", "0.52 [0.22, 0.82]"]
    assert line(after[2], "H0: ") == ["H0: a story", "0.25", "0.40", "100%", "–", "+0.0"]
    assert line(after[2], "H2: ") == ["H2: a story (FAILED: R-hat 1.200)", "0.75", "0.40", "33%", "+0.50", "+2.5"]
    assert line(after[2], "mixture: ") == ["mixture: all of them", "1.00", "0.52", "67%", "-0.50", "+2.0"]
    assert line(before[2], "H2: ") == ["H2: a story (FAILED: R-hat 1.200)", "0.75", "0.40"]
    assert line(before[2], "mixture | likelihood") == ["mixture", "likelihood", "+0.08", "20%"]
    assert line(before[2], "H2 | prior") == ["H2", "prior", "-1.00", "80%"]


@pytest.mark.parametrize("outcome", [None, OUTCOME])
def test_every_line_of_a_table_is_as_long_as_its_head(outcome):
    found = sections(FROZEN, outcome)
    assert [len(rows) - 1 for *_, rows in found] == [3, 3, 4]
    assert all({len(row) for row in rows} == {len(rows[0])} for *_, rows in found)


def test_what_is_kept_is_what_was_said_and_what_came(before, after):
    for (folder, *_), frozen, outcome in ((before, FROZEN, None), (after, NOT_BLIND, OUTCOME)):
        assert json.loads((folder / "prediction.json").read_text()) == {**frozen, "outcome": outcome}
        assert (folder / f"{OF_PREDICTION}.png").stat().st_size > 5000


def drawn_lines(outcome):
    """What a figure of a prediction draws: {label: (x, y)}, and the ends of its intervals."""
    axes: list[Any] = foreseen.main({**FROZEN, "outcome": outcome}).axes
    (ax,) = axes
    lines: dict[str, Any] = {
        x.get_label(): (list(x.get_xdata()), list(x.get_ydata())) for x in ax.lines if not x.get_label().startswith("_")
    }
    (bars,) = ax.containers
    lines[bars.get_label()] = tuple(map(list, bars.lines[0].get_data()))
    (segments,) = (x.get_segments() for x in bars.lines[2])
    names = dict(zip(ax.get_yticks(), (t.get_text() for t in ax.get_yticklabels()), strict=True))
    return lines, np.array([s[:, 0] for s in segments]), names


def test_the_figure_shows_every_number_on_the_line_of_its_setting():
    lines, ends, names = drawn_lines(OUTCOME)
    of = {k: next(v for label, v in lines.items() if label.startswith(k)) for k in ("narrow", "broad", "foretold", "measured")}
    for which, expected in (("narrow", FROZEN["floor"]), ("broad", FROZEN["ceiling"]), ("foretold", MIXTURE["middle"])):
        assert of[which][0] == expected
    assert of["measured"][0] == OUTCOME["breadth"]
    assert ends == pytest.approx(np.array([MIXTURE["low"], MIXTURE["high"]]).T)
    for x, y in of.values():
        assert len(x) == 3
        assert list(y) == sorted(y, reverse=True)  # from the top
        assert [names[k] for k in y] == [c.partition(", ")[2] for c in CELLS]  # the first setting on the line of its name


def test_nothing_measured_is_drawn_before():
    assert not any(label.startswith("measured") for label in drawn_lines(None)[0])


def test_a_single_setting_without_levels_keeps_its_name():
    one = {k: v[:1] for k, v in MIXTURE.items() if k in ("middle", "low", "high")}
    figure = foreseen.main({**FROZEN, "cells": ["birds (asked)"], "floor": [0.1], "ceiling": [0.9], "mixture": one, "outcome": None})
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["birds (asked)"]


def test_the_figure_of_no_prediction_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no page of a prediction there \(looked for prediction.json\); goal=predict makes one"):
        draw(OF_PREDICTION, tmp_path)


# tables


SECTION = ("A title", "How to read it.", [["name", "x"], ["a | b", "1"], ["c", "<2>"]])


def test_markdown_is_sentences_lists_and_tables():
    assert as_markdown(["One.", "Two."], [SECTION], ("Against it", ["this", "that"])).splitlines() == [
        "One. Two.",
        "",
        "Against it:",
        "",
        "- this",
        "- that",
        "",
        "**A title.** How to read it.",
        "",
        "| name | x |",
        "|---|---|",
        "| a \\| b | 1 |",
        "| c | <2> |",
    ]


def test_tables_in_html_are_cells_of_text():
    html = template("tables.html.jinja").render(sections=[SECTION])
    assert html.count("<th>") == 2
    assert html.count("<td>") == 4
    assert "<td>a | b</td>" in html
    assert "<td>&lt;2&gt;</td>" in html
