"""The page of all experiments: every published contrast beside what was found, in one table. Made from finished pages alone."""

import json
import math
import os
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from bayesgen import files
from bayesgen.measure.intervals import Interval
from bayesgen.report.contrasts import by_seed, find, measurable
from bayesgen.report.html import drawn, template
from bayesgen.report.summary import show

KINDS = ("sign", "order", "control")
VERDICTS = {"agrees": "agree", "disagrees": "disagree", "not told": "are not told"}


@dataclass(frozen=True)
class Entry:
    """An experiment: its name, its finished page, its settings, and whether its base passed the gate."""

    name: str
    page: Path
    config: Any
    passed: bool


@dataclass(frozen=True)
class Line:
    """A contrast as the table shows it; without numbers where its arms or rows were not trained."""

    experiment: str
    contrast: str
    kind: str
    published: str | None
    mean: float | None
    low: float | None
    high: float | None
    verdict: str
    reading: str | None
    passed: bool

    @property
    def here(self) -> str:
        """Our estimate with its interval."""
        if self.mean is None:
            return "not measured"
        low, high = (math.nan if x is None else x for x in (self.low, self.high))
        return show(Interval(self.mean, low, high), 3)


def lines_of(entry: Entry) -> list[Line]:
    """A line for each contrast in an experiment's conf, measured on the rows that its page keeps."""
    table = pl.read_parquet(entry.page / "rows.parquet")
    story = json.loads((entry.page / "figures.json").read_text())
    out = []
    for c in entry.config.contrasts:
        found = find(c, partial(by_seed, table, story=story)) if measurable(c, entry.config.finetune) else None
        mean, low, high = (x if math.isfinite(x) else None for x in (found.interval if found else (math.nan,) * 3))
        verdict = found.verdict if found else "–"
        out.append(Line(entry.name, c.name, c.kind, c.published, mean, low, high, verdict, c.reading, entry.passed))
    return out


def write_paper(folder: Path, entries: list[Entry], failed: dict[str, str], minutes: float):
    """Write `report.html`, `paper.md`, the overview, and the lines that it draws (`contrasts.json`)."""
    from plots.__main__ import OF_PAPER

    lines = [line for entry in entries for line in lines_of(entry)]
    files.write_json(folder / "contrasts.json", [asdict(line) for line in lines])
    figures = drawn([OF_PAPER], folder)
    html = template("paper.html.jinja").render(
        entries=entries,
        links={e.name: os.path.relpath(e.page / "report.html", folder) for e in entries},
        lines={e.name: [line for line in lines if line.experiment == e.name] for e in entries},
        said=summary(lines),
        agreement={e.name: agreement([line for line in lines if line.experiment == e.name]) for e in entries},
        kinds=KINDS,
        overview=figures.get(OF_PAPER, ""),
        failed=failed,
        minutes=minutes,
    )
    files.write(folder / "report.html", html)
    files.write(folder / "paper.md", markdown(lines, failed))


def agreement(lines: list[Line]) -> dict[str, str]:
    """{kind: "3 of 4"}: of the published contrasts that are measured, how many agree in sign, order and control."""
    out = {}
    for kind in KINDS:
        those = [line for line in lines if line.kind == kind and line.published and line.mean is not None]
        out[kind] = f"{sum(line.verdict == 'agrees' for line in those)} of {len(those)}" if those else "–"
    return out


def summary(lines: list[Line]) -> str:
    """How many published contrasts have each verdict, and how many rest on a base that can tell nothing."""
    those = [line for line in lines if line.published]
    measured = [line for line in those if line.mean is not None]
    found, weak = Counter(line.verdict for line in measured), sum(not line.passed for line in measured)
    said = ", ".join(f"{found[verdict]} {words}" for verdict, words in VERDICTS.items())
    said = f"{len(those)} published contrasts: {said}, {len(those) - len(measured)} are not measured."
    return said + (f" {weak} rest on a base that did not pass its gate." if weak else "")


def markdown(lines: list[Line], failed: dict[str, str]) -> str:
    """The same table as Markdown: generated, never typed."""
    rows = [("experiment", "contrast", "asks", "published", "here", "verdict", "base gate", "reading"), ("---",) * 8]
    for x in lines:
        gate = "passed" if x.passed else "NOT passed"
        rows.append((x.experiment, x.contrast, x.kind, x.published or "–", x.here, x.verdict, gate, x.reading or ""))
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([summary(lines), "", *table, "", *(f"{name} failed: {why}\n" for name, why in failed.items())])
