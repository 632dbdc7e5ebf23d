"""Over steps: the trained topic and the probes, by arm, with 95% intervals over seeds."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from bayesgen.measure.intervals import over_seeds
from bayesgen.measure.rows import spell
from plots import style
from plots.style import Story


def main(table: pl.DataFrame, story: Story) -> Figure:
    """Left: the trained topic; right: mean over the probes. Step 0 is the base."""
    style.use()
    value, topic, probes = story["value"], story["topic"], story["probes"]
    rate = table.filter((pl.col("quantity") == "rate") & (pl.col("probe") == value) & (pl.col("scale") == 1.0))
    fig, axes = plt.subplots(1, 2, figsize=(8.2, 3.4), layout="constrained", sharey=True)
    for ax, topics, title in zip(axes, ([topic], probes), (f"{spell(topic)} (trained)", "mean of the probes"), strict=True):
        here = rate.filter(pl.col("topic").is_in(topics)).group_by("arm", "seed", "step").agg(pl.col("value").mean())
        base = here.filter(pl.col("arm") == "base")["value"][0]
        for arm in (a for a in style.ARMS if a in here.filter(pl.col("seed") >= 0)["arm"].unique()):
            colour, marker, label = style.ARMS[arm]
            steps = sorted(here.filter(pl.col("arm") == arm)["step"].unique())
            bands = np.array([over_seeds(here.filter((pl.col("arm") == arm) & (pl.col("step") == s))["value"].to_numpy()) for s in steps])
            ax.plot([0, *steps], [base, *bands[:, 0]], marker=marker, ms=4, color=colour, label=label)
            ax.fill_between(steps, bands[:, 1], bands[:, 2], color=colour, alpha=0.2, lw=0)
        ax.set_title(title)
        ax.set_xlabel("finetuning step")
    axes[0].set_ylabel(f"probability of {value}")
    axes[0].set_ylim(-0.02, 1)
    axes[1].legend(fontsize=8)
    return fig
