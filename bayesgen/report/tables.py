"""A page's tables as data, and as Markdown."""

from collections.abc import Sequence

Section = tuple[str, str, list[list[str]]]  # title, a line to read it by, a table whose first row is its head


def as_markdown(first: Sequence[str], sections: Sequence[Section], *lists: tuple[str, Sequence[str]]) -> str:
    """Sentences, lists under a word, then tables: generated, never typed."""
    lines = [" ".join(first)]
    for title, items in lists:
        lines += ["", f"{title}:", "", *(f"- {x}" for x in items)]
    for title, note, rows in sections:
        lines += ["", f"**{title}.** {note}", ""]
        cells = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
        lines += [f"| {cells[0]} |", "|" + "---|" * len(rows[0]), *(f"| {row} |" for row in cells[1:])]
    return "\n".join(lines) + "\n"
