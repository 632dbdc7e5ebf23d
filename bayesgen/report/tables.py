"""A page's tables as data, and as Markdown."""

import re
from collections.abc import Sequence

Section = tuple[str, str, list[list[str]]]  # title, a line to read it by, a table whose first row is its head


def anchor(title: str, row: int) -> str:
    """What the k-th row of a section is linked by; what stands in brackets is no part of its title."""
    return f"{re.sub(r'[^a-z0-9]+', '-', title.partition(' (')[0].lower()).strip('-')}-{row}"


def as_markdown(first: Sequence[str], sections: Sequence[Section], *lists: tuple[str, Sequence[str]], anchors: bool = False) -> str:
    """Sentences, lists under a word, then tables: generated, never typed. With `anchors` every row can be linked to (`anchor`)."""
    lines = [" ".join(first)]
    for title, items in lists:
        lines += ["", f"{title}:", "", *(f"- {x}" for x in items)]
    for title, note, rows in sections:
        lines += ["", f"**{title}.** {note}", ""]
        cells = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
        if anchors:
            cells[1:] = [f'<a id="{anchor(title, k)}"></a>{row}' for k, row in enumerate(cells[1:], start=1)]
        lines += [f"| {cells[0]} |", "|" + "---|" * len(rows[0]), *(f"| {row} |" for row in cells[1:])]
    return "\n".join(lines) + "\n"
