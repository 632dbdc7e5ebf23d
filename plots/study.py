"""A study's lines: some of its columns against a setting, an axis of its grid, or another column."""

from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from bayesgen.measure.rows import spell
from plots import style

DASHES = ("-", "--", ":", "-.")


def main(study: dict[str, Any]) -> Figure:
    """A panel for each column asked for; curves where x is a number, frontiers where it is another column, marks where it is a word."""
    style.use()
    x, by, lines, panels = study["x"], study["by"], study["lines"], study["y"]
    if x == "columns":
        return _side_by_side(lines, panels)
    of_column = x in lines[0]["values"]
    groups = list(dict.fromkeys(_of(line, by) for line in lines))
    kind = (lambda line: line["arm"]) if of_column else (lambda line: _rest(line, x, by))
    kinds = list(dict.fromkeys(map(kind, lines)))  # a curve each; of another column a frontier, from weaker to stronger
    words = list(dict.fromkeys(w for line in lines if (w := _of(line, x)))) if not of_column else []
    numbers = not of_column and all(_number(w) for w in words)
    fig, axes = plt.subplots(1, len(panels), figsize=(2.2 + 3.4 * len(panels), 4.4), layout="constrained", sharey=True, squeeze=False)
    for ax, column in zip(axes[0], panels, strict=True):
        for (k, group), (r, rest) in product(enumerate(groups), enumerate(kinds if numbers or of_column else [None])):
            colour, marker, label = style.look(group, groups) if by == "arm" else (*style.distinct(k), spell(group))
            label += f", {rest}" if rest and len(kinds) > 1 and not (of_column and by == "arm") else ""
            those = [line for line in lines if _of(line, by) == group and line["values"][column] and (not of_column or line["values"][x])]
            those = [line for line in those if rest is None or kind(line) == rest]
            if those and not of_column and not _of(those[0], x):  # trained on nothing
                ax.axhline(those[0]["values"][column][0], color=colour, lw=1, ls=":", label=label)
                continue
            if not those:
                continue
            mean, low, high = _values(those, column)
            if of_column:
                at, left, right = _values(those, x)
                ax.hlines(mean, left, right, color=colour, lw=1, alpha=0.5)
                if by != "arm":  # else lines of many cells would be joined
                    own = list(dict.fromkeys(kind(line) for line in lines if _of(line, by) == group)).index(rest)
                    _, marker = style.distinct(k + 2 * len(style.COLOURS) * own)  # so many that none is a later group's
                    ax.plot(at, mean, color=colour, lw=1, alpha=0.5)
            else:
                at = np.array([float(_of(line, x)) if numbers else words.index(_of(line, x)) for line in those])
            if numbers:
                order = np.argsort(at, kind="stable")
                at, mean, low, high = (v[order] for v in (at, mean, low, high))
                ax.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)
            ax.plot(at, mean, ls=DASHES[r % len(DASHES)] if numbers else "none", marker=marker, ms=5, color=colour, label=label)
            ax.vlines(at, low, high, color=colour, lw=1)
        if study["log"] and (numbers or of_column):
            ax.set_xscale("symlog" if any(float(w) == 0 for w in words) else "log")
            if numbers:
                ax.set_xticks(sorted(map(float, words)), [f"{x:g}" for x in sorted(map(float, words))])
                ax.minorticks_off()
        if not numbers and not of_column:
            ax.set_xticks(range(len(words)), [spell(w) for w in words], rotation=30, ha="right")
        ax.set_xlabel(spell(x))
        ax.set_title(column)
    ends = [line["values"][column][1] for line in lines for column in panels if line["values"][column]]
    axes[0][0].set_ylim(min([-0.03, *(low - 0.03 for low in ends if low == low)]), 1.03)  # exact ones have no ends
    axes[0][0].set_ylabel("mean over seeds, 95% interval")
    return _with_legend(fig, axes[0], None if by == "arm" else spell(by))


def _side_by_side(lines: list[dict[str, Any]], columns: list[str]) -> Figure:
    """Columns along x, a curve a line; open marks and dashes for what is exact."""
    fig, ax = plt.subplots(figsize=(2.6 + 0.75 * len(columns), 4.6), layout="constrained")
    for k, line in enumerate(lines):
        there = [c for c in columns if line["values"][c]]
        colour, marker = style.distinct(k)
        exact = line["arm"].startswith("ideal")
        look = {"color": colour, "marker": marker, "ms": 5, "mfc": "none" if exact else colour, "ls": "--" if exact else "-"}
        for first in dict.fromkeys(c.partition(",")[0] for c in there):  # no line from one kind of column to another
            those = [c for c in there if c.partition(",")[0] == first]
            at, (mean, low, high) = [columns.index(c) for c in those], np.array([line["values"][c] for c in those], float).T
            ax.plot(at, mean, label=spell(line["name"]), **look)
            ax.vlines(at, low, high, color=colour, lw=1.2)
    ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel("probability")
    return _with_legend(fig, [ax])


def _with_legend(fig: Figure, axes, title: str | None = None) -> Figure:
    entries = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3, fontsize=8, title=title, title_fontsize=8)
    return fig


def _values(lines: list[dict[str, Any]], column: str) -> np.ndarray:
    """Mean and ends of the intervals, (3, lines)."""
    return np.array([line["values"][column] for line in lines], float).T


def _of(line: dict[str, Any], key: str) -> str:
    """A line's arm, its level on an axis, or its setting; as a word."""
    return str(line["arm"] if key == "arm" else line["levels"].get(key, line["setting"].get(key, "")))


def _rest(line: dict[str, Any], x: str, by: str) -> str:
    """What else tells a line from others: settings and axes that are neither along x nor told by colour, and the arm."""
    of = {k: v for k, v in {**line["levels"], **line["setting"]}.items() if k not in (x, by)}
    return ", ".join([*([line["arm"]] if by != "arm" else []), *(f"{spell(k)} {v}" for k, v in of.items())])


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
