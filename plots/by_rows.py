"""Connecting the dots: the counted value's rate on the probes as a function of the number of narrow rows, beside exact Bayes;
and how often the answer is none of the topic's, for a few rows repeated many times break more than they teach.
"""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from bayesgen.measure.intervals import over_seeds
from bayesgen.measure.rows import at_the_end, spell
from plots import style
from plots.style import Story


def main(table: pl.DataFrame, story: Story) -> Figure | None:
    """One curve an arm, number of rows on a logarithmic axis; only if several numbers were trained."""
    if len(story["rows"]) < 2:
        return None
    style.use()
    value, first = story["value"], next(iter(story["contexts"]))
    now = at_the_end(table).filter((pl.col("context") == first) & pl.col("topic").is_in(story["probes"]))
    asked = {"rate": (pl.col("quantity") == "rate") & (pl.col("probe") == value), "outside": pl.col("quantity") == "outside"}
    fig, axes = plt.subplots(1, 2, figsize=(8.6, 4), layout="constrained", width_ratios=(3, 2), sharey=True)
    arms = style.arms_in(now)
    for ax, which in zip(axes, asked.values(), strict=True):
        for arm in arms:
            colour, marker, label = style.look(arm, arms)
            here = now.filter(which & (pl.col("arm") == arm)).group_by("rows", "seed").agg(pl.col("value").mean())
            if here["rows"].null_count():
                ax.axhline(here["value"][0], color=colour, lw=1, ls=":", label=label)
                continue
            counts = sorted(here["rows"].unique())
            mean, low, high = np.array([over_seeds(here.filter(pl.col("rows") == n)["value"].to_numpy()) for n in counts]).T
            face, line = ("none", "--") if arm.startswith("ideal") else (colour, "-")
            ax.plot(counts, mean, line, marker=marker, mfc=face, ms=5, color=colour, label=label)
            ax.fill_between(counts, low, high, color=colour, alpha=0.2, lw=0)
        ax.set_xscale("log")
        ax.set_xticks(story["rows"], [str(n) for n in story["rows"]])
        ax.minorticks_off()
        ax.set_ylim(-0.02, 1.02)
        ax.set_xlabel("rows trained on, at equal steps")
    axes[0].set_ylabel("probability, on the probes")
    axes[0].set_title(f"Connecting the dots: {spell(value)}")
    axes[1].set_title("Damage: no answer at all")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return fig
