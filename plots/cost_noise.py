"""Stability: how much likelihood is lost when an update is turned by a random angle, its length kept."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from bayesgen.cost.stability import FACTORS, UPDATE
from bayesgen.measure.intervals import over_seeds
from plots import style
from plots.style import Story

PANELS = {UPDATE: "Noise on the update", FACTORS: "Noise on each factor (as published)"}


def main(table: pl.DataFrame, _: Story) -> Figure:
    """One panel for what the noise is on, one line an arm; bars are 95% intervals over seeds."""
    style.use()
    noise = table.filter(pl.col("quantity") == "noise_rise").with_columns(sine=pl.col("probe").cast(pl.Float64))
    fig, axes = plt.subplots(1, len(PANELS), figsize=(8.6, 3.8), layout="constrained", sharey=True)
    for ax, (what, title) in zip(axes, PANELS.items(), strict=True):
        for arm in style.arms_in(noise):
            colour, marker, label = style.look(arm, [arm])
            here = noise.filter((pl.col("arm") == arm) & (pl.col("context") == what))
            sines = sorted(here["sine"].unique())
            mean, low, high = np.array([over_seeds(here.filter(pl.col("sine") == x)["value"].to_numpy()) for x in sines]).T
            ax.errorbar(sines, mean, [mean - low, high - mean], marker=marker, color=colour, ms=5, capsize=2, label=label)
        ax.set_xlabel("sine of the angle")
        ax.set_title(title)
    axes[0].set_ylabel("rise of the NLL (share of it)")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return fig
