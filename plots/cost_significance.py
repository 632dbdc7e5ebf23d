"""Significance: KL from base to update on pretraining text, every update at one norm, by who speaks; beside random directions."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from bayesgen.measure.intervals import over_seeds
from plots import style
from plots.style import Story


def main(table: pl.DataFrame, _: Story) -> Figure:
    """Marks by speaker and arm on a logarithmic axis, with 95% intervals of the mean logarithm over seeds; hollow, random directions."""
    style.use()
    kl = table.filter(pl.col("quantity") == "kl_text")
    who, arms = kl["topic"].unique(maintain_order=True).to_list(), style.arms_in(kl)
    fig, ax = plt.subplots(figsize=(7.6, 3.8), layout="constrained")
    width = 0.8 / len(arms)
    for i, arm in enumerate(arms):
        colour, marker, label = style.look(arm, arms)
        for probe, face in (("update", colour), ("random", "white")):
            here = kl.filter((pl.col("arm") == arm) & (pl.col("probe") == probe))
            logs = [np.log(here.filter(pl.col("topic") == t)["value"].to_numpy()) for t in who]
            mean, low, high = np.exp([over_seeds(x) for x in logs]).T
            x = np.arange(len(who)) + (i - (len(arms) - 1) / 2) * width
            named = label if probe == "update" else None
            ax.errorbar(x, mean, [mean - low, high - mean], fmt=marker, color=colour, mfc=face, ms=7, capsize=2, label=named)
    ax.plot([], [], "o", color="#555555", mfc="white", label="hollow: random directions, same singular values")
    ax.set_yscale("log")
    ax.set_xticks(range(len(who)), [t.replace("_", " ") for t in who])
    ax.set_ylabel("KL from the base (nats/token)")
    ax.set_title("Significance on pretraining text, at equal norm")
    fig.legend(loc="outside lower center", ncols=2, fontsize=9)
    return fig
