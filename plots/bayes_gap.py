"""Persona inference by number of preceding turns: the base against the ideal observer, and the gap in nats."""

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from plots import style
from plots.style import Story

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def main(_: pl.DataFrame, story: Story) -> Figure:
    """From the base gate's table."""
    style.use()
    gate = pl.DataFrame(story["gate"])
    fig, axes = plt.subplots(1, 2, figsize=(8.2, 3.4), layout="constrained")
    for i, value in enumerate(gate["value"].unique(maintain_order=True)):
        colour = COLOURS[i % len(COLOURS)]
        here = gate.filter((pl.col("value") == value) & ~pl.col("heldout")).sort("turns")
        axes[0].plot(here["turns"], here["network"], "o-", color=colour, ms=4, label=value)
        axes[0].plot(here["turns"], here["ideal"], "--", color=colour, lw=1.2)
        axes[1].plot(here["turns"], here["bayes_gap"], "o-", color=colour, ms=4, label=value)
    axes[0].set_title("network (line), ideal (dashed)")
    axes[0].set_ylabel(f"probability of the speaker's own {story['trait']}")
    axes[0].set_ylim(0, 1)
    axes[1].set_title("Bayes gap")
    axes[1].set_ylabel("KL(ideal ‖ network), nats/answer")
    axes[1].set_ylim(bottom=0)
    for ax in axes:
        ax.set_xlabel("preceding turns")
    axes[1].legend(fontsize=8)
    return fig
