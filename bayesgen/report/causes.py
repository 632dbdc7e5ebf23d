"""What drives breadth, what removes it: sentences, each tied to rows of recorded pages: `python -m bayesgen.report.causes experiments`.

`causes.yaml` holds the sentences, and for each the rows that it rests on and what they must say. `causes.md` is made of it: a sentence
whose rows say otherwise is struck out. Nothing here is computed anew.
"""

import re
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bayesgen import files
from bayesgen.errors import UserError, nearest
from bayesgen.report.study import EXPECTED
from bayesgen.report.tables import anchor
from bayesgen.world.load import read_yaml

SOURCE, PAGE = "causes.yaml", "causes.md"
NUMBER = r"-?(?:\d+\.?\d*|nan)"
Tables = dict[str, list[list[str]]]  # by title; the head is the first row


class Evidence(BaseModel):
    """Rows of a recorded page (`<page>/result.md`) and what they must say: a verdict, or an interval wholly above or below a number."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    page: str
    table: str = "Asked"
    row: str | None = None  # its first cell; none: every row of the table
    column: str = ""  # that of the verdict
    verdict: Literal["agrees", "disagrees", "not told"] | None = None  # none, and no bounds either: agrees
    above: float | None = None
    below: float | None = None
    at_least: int | None = Field(default=None, ge=1)  # of all rows; none: all of them
    afterwards: bool = False  # asked when the run had been seen; bounds always are
    figure: str = "study.png"

    @model_validator(mode="after")
    def _one_of_both(self):
        if self.verdict and (self.above, self.below) != (None, None):
            raise ValueError("a verdict, or bounds of an interval (above, below); not both")
        return self

    def holds(self, cell: str) -> bool:
        """Whether a cell says it; an exact number is its own interval, and what was not measured says nothing."""
        if (self.above, self.below) == (None, None):
            verdict = self.verdict or "agrees"
            return cell == verdict or cell.endswith(f" {verdict}")
        found = re.match(rf"({NUMBER})(?: \[({NUMBER}), ({NUMBER})\])?", cell)
        if not found:
            return False
        low, high = (float(x) for x in (found[2] or found[1], found[3] or found[1]))
        return (self.above is None or low > self.above) and (self.below is None or high < self.below)


class Statement(BaseModel):
    """A sentence, and all that it rests on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    says: str
    by: tuple[Evidence, ...] = Field(min_length=1)


class Causes(BaseModel):
    """Sentences under titles, and what stands before them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str
    preface: str
    parts: dict[str, tuple[Statement, ...]]


def tables_of(text: str) -> Tables:
    """The tables of a page, by the title before each; what stands in brackets is no part of it, nor are anchors of a cell."""
    out: Tables = {}
    rows: list[list[str]] = []
    for line in text.splitlines():
        if found := re.match(r"\*\*(.+?)( \(.*?\))?\.\*\* ", line):
            rows = out.setdefault(found[1], [])
        elif line.startswith("| "):
            cells = re.split(r"(?<!\\)\|", line.strip())[1:-1]
            rows.append([re.sub(r"^<a id=.*?></a>", "", cell.strip()).replace("\\|", "|") for cell in cells])
    return out


def read(of: Evidence, tables: Tables) -> tuple[bool, list[tuple[int, str]]]:
    """Whether it is so, and the rows (their number, and what they say)."""
    if of.table not in tables:
        raise UserError(f"{of.page}: no table '{of.table}'{nearest(of.table, tables)}")
    head, *rows = tables[of.table] or [[]]
    named = [row[0] for row in rows]
    if of.row is not None and of.row not in named:
        raise UserError(f"{of.page}: {of.table}: no row '{of.row}'{nearest(of.row, named)}")
    heads = [re.sub(rf" \((?:{'|'.join(EXPECTED.values())}) \S+\)$", "", h) for h in head]
    if of.column not in heads[1:]:
        raise UserError(f"{of.page}: {of.table}: no column '{of.column}'{nearest(of.column, heads)}")
    at = heads.index(of.column, 1)
    those = [(k, row) for k, row in enumerate(rows, start=1) if of.row in (None, row[0])]
    holding = [k for k, row in those if of.holds(row[at])]
    enough = len(those) if of.at_least is None else of.at_least
    if of.row is None:
        return bool(those) and len(holding) >= enough, [(1, f"{of.column}: {len(holding)} of {len(those)}")]
    return len(holding) >= enough, [(k, _said(of, row, at)) for k, row in those]


def _said(of: Evidence, row: list[str], at: int) -> str:
    """A row in words: what came, and its verdict (with what was expected) or the bounds asked for."""
    bounds = " and ".join(f"{word} {x:g}" for word, x in (("above", of.above), ("below", of.below)) if x is not None)
    came = f"{row[0]}, {of.column}: {row[at]}"
    if of.table == "Asked":
        came = f"{row[0]}: {row[2]}" + ("" if bounds else f", {row[at]} ({row[1]})")
    return came + (f", asked afterwards: {bounds}" if bounds else ", asked afterwards" if of.afterwards else "")


def written(causes: Causes, folder: Path) -> str:
    """The page, of the recorded pages in `folder`."""
    pages: dict[str, Tables] = {}
    lines = [f"# {causes.title}", "", causes.preface.strip()]
    for title, statements in causes.parts.items():
        lines += ["", f"## {title}", ""]
        for statement in statements:
            stands, links = True, []
            for of in statement.by:
                if of.page not in pages:
                    path = folder / of.page / "result.md"
                    if not path.is_file():
                        raise UserError(f"{folder / SOURCE}: {path}: no such page; make record EXP={of.page} puts one there")
                    pages[of.page] = tables_of(path.read_text(encoding="utf-8"))
                holds, rows = read(of, pages[of.page])
                stands = stands and holds
                links += [f"[{said}]({of.page}/result.md#{anchor(of.table, k)})" for k, said in rows]
            figures = dict.fromkeys(f"[figure]({of.page}/{of.figure})" for of in statement.by)
            sentence = f"**{statement.says}**" if stands else f"~~{statement.says}~~ *(does not stand)*"
            lines += [f"- {sentence} ({', '.join(figures)})", *(f"    - {link}" for link in dict.fromkeys(links))]
    return "\n".join(lines) + "\n"


def main(folder: Path):
    """Write the page beside its sentences."""
    source = folder / SOURCE
    try:
        causes = Causes(**read_yaml(source, "`title:`, `preface:` and `parts:`"))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    files.write(folder / PAGE, written(causes, folder))


if __name__ == "__main__":
    try:
        if len(sys.argv) != 2:
            raise UserError("usage: python -m bayesgen.report.causes experiments")
        main(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(f"causes: {error}")
