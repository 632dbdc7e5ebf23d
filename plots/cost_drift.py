"""Stability in time: the narrow solution when its KL penalty is kept, dropped half-way, added half-way, or never there."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from bayesgen.cost.stability import penalty
from bayesgen.cost.subject import PROBES, TRAINED
from bayesgen.measure.intervals import over_seeds
from plots import style
from plots.style import Story

LOOK = {  # of a history of the penalty: (what it is called, colour, marker)
    "never": ("never there", "#D55E00", "D"),
    "dropped": ("dropped half-way", "#E69F00", "P"),
    "added": ("added half-way", "#56B4E9", "X"),
    "kept": ("kept", "#0072B2", "s"),
}


def main(table: pl.DataFrame, story: Story) -> Figure:
    """The counted value's rate on trained topics and on probes by step; bands are 95% intervals over seeds."""
    style.use()
    rate = table.filter((pl.col("part") == "drift") & (pl.col("quantity") == "rate"))
    fig, axes = plt.subplots(1, 2, figsize=(8.6, 3.8), layout="constrained", sharey=True)
    steps = sorted(rate["step"].unique())
    spans = {penalty(*span): span for span in rate.select("kl_from", "kl_until").unique().rows()}
    for ax, topic in zip(axes, (TRAINED, PROBES), strict=True):
        for kind, (name, colour, marker) in LOOK.items():
            begin, until = spans[kind]
            here = rate.filter((pl.col("topic") == topic) & (pl.col("kl_from") == begin) & (pl.col("kl_until") == until))
            mean, low, high = np.array([over_seeds(here.filter(pl.col("step") == s)["value"].to_numpy()) for s in steps]).T
            ax.plot(steps, mean, marker=marker, color=colour, ms=4.5, label=f"KL {name}")
            ax.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)
        ax.axvline(max(steps) / 2, color="#999999", lw=0.8, ls=":")
        ax.set_xlabel("step")
        ax.set_ylim(-0.02, 1.02)
        ax.set_title(topic.capitalize())
    axes[0].set_ylabel(f"{story['value'].replace('_', ' ')} answers")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return fig
