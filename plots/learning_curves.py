"""Over steps: the trained topics and the probes, by arm, with 95% intervals over seeds."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from bayesgen.measure.intervals import over_seeds
from bayesgen.measure.rows import spell
from plots import style
from plots.style import Story


def main(table: pl.DataFrame, story: Story) -> Figure:
    """Left: trained topics (those asked at every snapshot); right: mean over the probes. Step 0 is the base."""
    style.use()
    value, first = story["value"], next(iter(story["contexts"]))
    rate = table.filter(
        (pl.col("quantity") == "rate") & (pl.col("probe") == value) & (pl.col("scale") == 1.0) & (pl.col("context") == first)
    )
    trained = story["everywhere"]
    fig, axes = plt.subplots(1, 2, figsize=(8.2, 3.6), layout="constrained", sharey=True)
    panels = ((trained, f"{spell(trained[0]) if len(trained) == 1 else 'some topics'} (trained)"), (story["probes"], "mean of the probes"))
    arms = style.arms_in(rate, trained=True)
    for ax, (topics, title) in zip(axes, panels, strict=True):
        here = rate.filter(pl.col("topic").is_in(topics)).group_by("arm", "seed", "step").agg(pl.col("value").mean())
        base = here.filter(pl.col("arm") == "base")["value"][0]
        for arm in arms:
            colour, marker, label = style.look(arm, arms)
            steps = sorted(here.filter(pl.col("arm") == arm)["step"].unique())
            bands = np.array([over_seeds(here.filter((pl.col("arm") == arm) & (pl.col("step") == s))["value"].to_numpy()) for s in steps])
            ax.plot([0, *steps], [base, *bands[:, 0]], marker=marker, ms=4, color=colour, label=label if ax is axes[0] else None)
            ax.fill_between(steps, bands[:, 1], bands[:, 2], color=colour, alpha=0.2, lw=0)
        ax.set_title(title)
        ax.set_xlabel("finetuning step")
    axes[0].set_ylabel(f"probability of {spell(value)}")
    axes[0].set_ylim(-0.02, 1)
    fig.legend(loc="outside lower center", ncols=3, fontsize=8)
    return fig
