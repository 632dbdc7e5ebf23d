"""Connecting the dots: the counted value's rate on the probes as a function of the number of narrow rows, beside exact Bayes."""

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
    rate = at_the_end(table).filter(
        (pl.col("quantity") == "rate") & (pl.col("probe") == value) & (pl.col("context") == first) & pl.col("topic").is_in(story["probes"])
    )
    fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    arms = style.arms_in(rate)
    for arm in arms:
        colour, marker, label = style.look(arm, arms)
        here = rate.filter(pl.col("arm") == arm).group_by("rows", "seed").agg(pl.col("value").mean())
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
    ax.set_ylabel(f"probability of {spell(value)} on the probes")
    ax.set_title("How many rows until the dots are connected")
    fig.legend(loc="outside lower center", ncols=3, fontsize=8)
    return fig
