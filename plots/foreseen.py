"""Breadth as it was foretold, and as it came."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from plots import style


def main(prediction: dict[str, Any]) -> Figure:
    """A line a setting: the mixture's middle and 90% interval, the narrow and the broad solution's breadth, and what was measured."""
    style.use()
    cells, mixture, came = prediction["cells"], prediction["mixture"], prediction["outcome"]
    y = np.arange(len(cells))[::-1]
    fig, ax = plt.subplots(figsize=(7.6, 1.3 + 0.32 * len(cells)), layout="constrained")
    for arm, end in (("narrow", "floor"), ("broad", "ceiling")):
        colour, marker, label = style.ARMS[arm]
        ax.plot(prediction[end], y, marker, color=colour, ms=5, label=label)
    middle, low, high = (np.array(mixture[k]) for k in ("middle", "low", "high"))
    ax.errorbar(middle, y, xerr=[middle - low, high - middle], fmt="o", color="#000000", ms=4, capsize=3, label="foretold, 90% interval")
    if came:
        colour, marker, label = style.ARMS["free"]
        ax.plot(came["breadth"], y, marker, color=colour, ms=6, label="measured afterwards")
    ax.set_yticks(y, [c.partition(", ")[2] or c for c in cells])
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.6, len(cells) - 0.4)
    ax.set_xlabel("breadth: share of answers on the probes as the trained persona")
    ax.set_title(f"{prediction['experiment']}: foretold {prediction['made']}")
    fig.legend(loc="outside lower center", ncols=2, fontsize=8)
    return fig
