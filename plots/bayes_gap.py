"""Persona inference by number of preceding turns: the base against the ideal observer, and the gap in nats."""

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from bayesgen.measure.rows import spell
from plots import style
from plots.style import Story

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def main(_: pl.DataFrame, story: Story) -> Figure:
    """From the base gate's table: undated dialogues, trained wordings.

    Of more values than there are colours, the six furthest from the observer are named.
    """
    style.use()
    gate = pl.DataFrame(story["gate"]).filter(~pl.col("heldout"), ~pl.col("dated")).sort("turns")
    off = gate.group_by("value", maintain_order=True).agg((pl.col("network") - pl.col("ideal")).abs().max().alias("off"))
    few = len(off) <= len(COLOURS)
    named = off["value"].to_list() if few else off.sort("off", descending=True)["value"].to_list()[: len(COLOURS)]
    fig, axes = plt.subplots(1, 2, figsize=(8.2, 3.6), layout="constrained")
    for value in sorted(off["value"], key=lambda v: v in named):  # the named ones on top
        here = gate.filter(pl.col("value") == value)
        colour = COLOURS[named.index(value)] if value in named else "#c8c8c8"
        label = spell(value) if value in named else None
        axes[0].plot(here["turns"], here["network"], "o-", color=colour, ms=4 if label else 2, lw=1.5 if label else 0.7)
        axes[0].plot(here["turns"], here["ideal"], "--", color=colour, lw=1.2 if label else 0.6)
        axes[1].plot(here["turns"], here["bayes_gap"], "o-", color=colour, ms=4 if label else 2, lw=1.5 if label else 0.7, label=label)
    axes[0].set_title("network (line), ideal (dashed)")
    axes[0].set_ylabel(f"probability of the speaker's own {story['trait']}")
    axes[0].set_ylim(0, 1)
    axes[1].set_title("Bayes gap")
    axes[1].set_ylabel("KL(ideal ‖ network), nats/answer")
    axes[1].set_ylim(bottom=0)
    for ax in axes:
        ax.set_xlabel("preceding turns")
    title = None if few else f"furthest from the observer; grey: the other {len(off) - len(named)}"
    fig.legend(loc="outside lower center", ncols=6, fontsize=8, title=title)
    return fig
