"""How much better than the best null each hypothesis foretells what was left out."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from plots import style

BEATS, NOT = "#0072B2", "#767676"
TICKS = [-10000.0, -1000.0, -100.0, -10.0, -5.0, 0.0, 5.0, 10.0, 100.0, 1000.0, 10000.0]  # nats


def main(beliefs: dict[str, Any]) -> Figure:
    """One line a hypothesis: score less that of the best null with two standard errors, best above; hollow where a diagnostic fails."""
    style.use()
    null = beliefs["verdict"]["null"]
    standings = [s for s in beliefs["verdict"]["standings"] if s["name"] != null][::-1]
    fig, ax = plt.subplots(figsize=(7.0, 0.9 + 0.36 * len(standings)), layout="constrained")
    for y, s in enumerate(standings):
        by, error = s["ahead"]
        beats = by > 2 * error
        colour = BEATS if beats else NOT
        ax.errorbar(by, y, xerr=2 * error, fmt="none", color=colour, lw=1.6)
        ax.plot(by, y, "o", color=colour, mfc="white" if s["failures"] else colour, ms=7)
    ax.set_xscale("symlog", linthresh=10)  # one that is far off leaves room for the others
    within = [t for t in TICKS if ax.get_xlim()[0] <= t <= ax.get_xlim()[1]]
    ax.set_xticks(within, [f"{t:+.0f}" if t else "0" for t in within])
    ax.set_xticks([], minor=True)
    ax.axvline(0, color="#000000", lw=0.8)
    ax.set_yticks(range(len(standings)), [f"{s['name']} · {s['weight']:.0%}" for s in standings])
    unit, count = beliefs["verdict"]["unit"], beliefs["verdict"]["left_out"]
    ax.set_xlabel(f"log score on {count} {unit}s left out, less that of {null} (nats, ± 2 standard errors)")
    ax.set_title("Who foretells what it has not seen? (share in stacking)")
    return fig
