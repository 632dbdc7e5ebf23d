"""The overview: every contrast of every experiment with its 95% interval over seeds; the verdict by colour and marker."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from plots import style

VERDICTS = {"agrees": ("#009E73", "o"), "disagrees": ("#D55E00", "X"), "not told": ("#767676", "d")}


def main(lines: list[dict[str, Any]]) -> Figure | None:
    """One row a contrast, experiments as bands; `lines` are those of `contrasts.json`. None where nothing was measured."""
    style.use()
    lines = [line for line in lines if line["mean"] is not None]
    if not lines:
        return None
    fig, ax = plt.subplots(figsize=(9.5, 0.3 * len(lines) + 1.4), layout="constrained")
    named: set[str] = set()
    for i, line in enumerate(lines):
        colour, marker = VERDICTS[line["verdict"]]
        if line["low"] is not None:
            ax.plot([line["low"], line["high"]], [i, i], color=colour, lw=1.6, solid_capstyle="butt")
        face = colour if line["passed"] else "white"  # open: the base did not pass its gate
        ax.plot(line["mean"], i, marker, color=colour, mfc=face, ms=5)
        if line["verdict"] not in named:
            ax.plot([], [], marker, color=colour, ms=5, label=line["verdict"])
        named.add(line["verdict"])
    experiments = list(dict.fromkeys(line["experiment"] for line in lines))
    for i, line in enumerate(lines):
        if experiments.index(line["experiment"]) % 2 == 0:
            ax.axhspan(i - 0.5, i + 0.5, color="#f4f4f4", lw=0, zorder=0)
    ax.axvline(0, color="#999999", lw=0.8)
    ax.set_yticks(range(len(lines)), [f"{line['experiment']}: {line['contrast']}" for line in lines], fontsize=8)
    ax.set_ylim(len(lines) - 0.5, -0.5)
    ax.set_xlabel("difference, with its 95% interval over seeds")
    fig.legend(loc="outside lower center", ncols=3, fontsize=9)
    return fig
