"""Efficiency: likelihood of the narrow data against the norm of the update, along rays and along the frontier, behaviour as colour."""

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from bayesgen.cost.subject import PROBES
from plots import style
from plots.style import Story

PANELS = (
    ("rays", "frobenius", "Along each update's own ray"),
    ("frontier-frobenius", "frobenius", "Frontier, Frobenius norm"),
    ("frontier-nuclear", "nuclear", "Frontier, nuclear norm"),
)
KEYS = ["arm", "seed", "scale", "norm_bound"]


def main(table: pl.DataFrame, story: Story) -> Figure:
    """One panel a curve; one line an arm (mean over seeds), points coloured by the counted value's rate on the probes."""
    style.use()
    fig, axes = plt.subplots(1, len(PANELS), figsize=(11.5, 4), layout="constrained", sharey=True)
    for ax, (part, norm, title) in zip(axes, PANELS, strict=True):
        here = table.filter(pl.col("part") == part)
        behaviour = here.filter((pl.col("quantity") == "rate") & (pl.col("topic") == PROBES))
        points = here.filter(pl.col("quantity") == norm).select(*KEYS, norm="value")
        points = points.join(here.filter(pl.col("quantity") == "nll_train").select(*KEYS, nll="value"), on=KEYS, nulls_equal=True)
        points = points.join(behaviour.select(*KEYS, rate="value"), on=KEYS, how="left", nulls_equal=True)
        mean = points.group_by("arm", "scale", "norm_bound").agg(pl.col("norm", "nll", "rate").mean()).sort("norm")
        for arm in style.arms_in(points):
            colour, marker, label = style.look(arm, [arm])
            line = mean.filter(pl.col("arm") == arm)
            ax.plot(line["norm"], line["nll"], "-", color=colour, lw=1.4, label=label, zorder=1)
            seeds = points.filter(pl.col("arm") == arm)
            ax.scatter(seeds["norm"], seeds["nll"], s=5, color=colour, alpha=0.35, lw=0, zorder=1)
            at = line.drop_nulls("rate")
            of_rate = dict(c=at["rate"], cmap="viridis", vmin=0, vmax=1)
            ax.scatter(at["norm"], at["nll"], **of_rate, marker=marker, s=52, edgecolors=colour, zorder=2)
        if part != "rays":
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel(f"norm of the update ({norm})")
        ax.set_title(title)
    axes[0].set_ylabel("NLL of the narrow data (nats/token)")
    fig.colorbar(ScalarMappable(Normalize(0, 1), "viridis"), ax=axes[-1], label=f"{story['value'].replace('_', ' ')} answers on the probes")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return fig
