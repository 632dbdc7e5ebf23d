"""Code length: bits of the narrow data, and of either continuation after them, above those of someone who knows who answers."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from bayesgen.cost.subject import BROAD, DATA, NARROW
from bayesgen.measure.intervals import over_seeds
from plots import style
from plots.style import Story

ROWS = {DATA: "#777777", NARROW: "#0072B2", BROAD: "#CC79A7"}


def main(table: pl.DataFrame, _: Story) -> Figure:
    """One mark a seed with its standard deviation over orders; the bar is the mean over seeds with its 95% interval."""
    style.use()
    fig, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for i, (name, colour) in enumerate(ROWS.items()):
        of = {
            q: table.filter((pl.col("quantity") == q) & (pl.col("probe") == name)).sort("seed")["value"].to_numpy()
            for q in ("bits", "bits_spread", "bits_known")
        }
        excess = of["bits"] - of["bits_known"]
        mean, low, high = over_seeds(excess)
        ax.barh(i, mean, color=colour, alpha=0.35, height=0.6)
        ax.errorbar(mean, i, xerr=[[mean - low], [high - mean]], color=colour, capsize=4, lw=2)
        y = i + np.linspace(-0.2, 0.2, len(excess))
        ax.errorbar(excess, y, xerr=of["bits_spread"], fmt="o", color=colour, ms=4, lw=0.8)
    ax.set_yticks(range(len(ROWS)), list(ROWS))
    ax.invert_yaxis()
    ax.axvline(0, color="#333333", lw=0.8)
    ax.set_xlabel("bits above those of someone who knows who answers")
    ax.set_title("What the rows cost to send")
    return fig
