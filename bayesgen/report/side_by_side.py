"""The recorded costs of several experiments in one table: `python -m bayesgen.report.side_by_side experiments/cost`.

Reads the `cost.md` of every folder beside a page and puts claims and some measures side by side, between two marks of that page. The last
column is the rank correlation over the experiments between a measure and how broad the free solutions are: does the measure foretell by
how much training goes broad? None is given where a number fails. (Of six experiments, 5% of chance orders reach .89 either way.)
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from bayesgen import files

BEGIN, END = "<!-- side by side: generated -->", "<!-- end -->"
NUMBER = r"-?(?:\d+\.?\d*|nan|inf)"
VERDICTS = {"holds": "**yes**", "not told": "even", "the opposite holds": "*opposite*"}
FREE, NARROW, CONTRAST = 2, 3, 5  # columns of a measure's line
# what is asked of every page: a pattern of a line's first cell, the name here, and which column holds it
MEASURES = (
    (r".* answers, probes", "free, as the persona on the probes", FREE),
    (r".* answers, probes", "narrow, the same", NARROW),
    (r"likelihood of the data", "NLL of the data, narrow − broad", CONTRAST),
)
BEFORE = ((r"Adam", "before training: first step of Adam, probes / trained topics", 3),)


def tables(text: str) -> dict[str, list[list[str]]]:
    """{a first heading: rows of cells} of all tables of a Markdown page."""
    out, rows = {}, None
    for line in text.splitlines():
        if not line.startswith("|"):
            rows = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if rows is None:
            rows = out.setdefault(cells[0], [])
        elif not set(line) <= set("|-"):
            rows.append(cells)
    return out


def side_by_side(pages: Mapping[str, str]) -> str:
    """A Markdown table: one column a page ({name: its cost.md}), one line a measure or claim, the rank correlation last."""
    read = {name: tables(text) for name, text in pages.items()}
    lines = [("pair admitted: gates passed", {name: _gates(text) for name, text in pages.items()})]
    for kind, asked in (("measure", MEASURES), ("first step of", BEFORE)):
        for pattern, name, column in asked:
            lines.append((name, {page: _find(of[kind], pattern)[column] for page, of in read.items()}))
    claims = {page: {_alike(row[0]): row for row in of["claim"]} for page, of in read.items()}
    for claim in next(iter(claims.values())):
        lines.append((claim, {page: _claim(of[claim]) for page, of in claims.items()}))
    broad = [_mean(cell) for cell in lines[1][1].values()]
    out = [["", *pages, "ρ"], ["---"] * (len(pages) + 2)]
    for name, cells in lines:
        out.append([name, *map(_short, cells.values()), _order(list(cells.values()), broad)])
    return "\n".join("| " + " | ".join(row) + " |" for row in out)


def _find(rows: Sequence[Sequence[str]], pattern: str) -> Sequence[str]:
    return next(row for row in rows if re.fullmatch(pattern, row[0]))


def _alike(claim: str) -> str:
    """A claim in words that are the same on all pages: the persona's name is one page's own."""
    return re.sub(r"text of (?!assistant|other persons)\S+,", "text of the persona,", claim)


def _claim(row: Sequence[str]) -> str:
    _, contrast, verdict = row
    said = VERDICTS.get(verdict, "failed" if verdict.startswith("FAILED") else "no answer")
    return f"{said} {contrast}"


def _gates(text: str) -> str:
    found = re.findall(r"^Pair, .*?: (yes|no) \(", text, re.MULTILINE)
    return f"{found.count('yes')} of {len(found)}"


def _short(text: str) -> str:
    """An interval in few digits, as the pages write them; counts stay."""

    def short(match: re.Match) -> str:
        x = float(match[0])
        return re.sub(r"^(-?)0\.", r"\1.", f"{x:.2f}" if abs(x) < 10 else f"{x:.0f}").replace("-", "−")

    return re.sub(r"-?\d+\.\d+", short, text.removeprefix("log "))


def _mean(cell: str) -> float:
    found = re.search(NUMBER, cell)
    return float(found[0]) if found else float("nan")


def _order(cells: Sequence[str], broad: Sequence[float]) -> str:
    values = [_mean(cell) for cell in cells]
    if len(set(values)) < 2 or not np.isfinite(values).all() or any(cell.startswith("failed") for cell in cells):
        return "–"
    return _short(f"{np.corrcoef(rankdata(values), rankdata(broad))[0, 1]:.2f}")


def main(folder: Path):
    """Rewrite the table of the page in `folder`."""
    page = folder / "README.md"
    names = dict(re.findall(r"\[([^]]+)\]\((\w+)/cost\.md\)", page.read_text()))
    table = side_by_side({name: (folder / where / "cost.md").read_text() for name, where in names.items()})
    before, rest = page.read_text().split(BEGIN)
    files.write(page, f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
