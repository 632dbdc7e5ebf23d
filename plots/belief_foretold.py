"""What the best hypothesis said of cells that it had not seen, beside what was measured."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from plots import style


def main(beliefs: dict[str, Any]) -> Figure:
    """Measured against foretold breadth with 90% intervals; one look for everything that was left out together."""
    style.use()
    name = beliefs["verdict"]["best"]
    folds = [f for f in beliefs["found"][name]["folds"] if f["varied"] == "experiment"]
    what = "experiment" if folds else "level"
    folds = folds or beliefs["found"][name]["folds"]
    fig, ax = plt.subplots(figsize=(6.8, 4.6), layout="constrained")
    for k, f in enumerate(folds):
        y = [beliefs["breadth"][c] for c in f["cells"]]
        error = np.abs(np.array([f["low"], f["high"]]) - np.array(f["middle"]))
        label = f"{f['level']}" if what == "experiment" else f"{f['varied'].replace('_', ' ')} {f['level']}"
        colour, marker = style.distinct(k)
        ax.errorbar(f["middle"], y, xerr=error, fmt=marker, ms=4, lw=0.7, alpha=0.6, color=colour, label=label)
    ax.plot([0, 1], [0, 1], color="#000000", lw=0.8)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_xlabel(f"breadth that {name} foretells, 90% interval")
    ax.set_ylabel("breadth measured")
    ax.set_title(f"Each {what} left out in turn")
    fig.legend(loc="outside right upper", fontsize=8, ncols=1 if len(folds) < 25 else 2)
    return fig
