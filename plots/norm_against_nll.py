"""Likelihood against norm: what each arm's solution costs and what it buys, one mark a seed."""

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from bayesgen.measure.rows import at_the_end
from plots import style
from plots.style import Story


def main(table: pl.DataFrame, _: Story) -> Figure:
    """Frobenius norm of the update against NLL of the training rows, at equal steps."""
    style.use()
    now = at_the_end(table).filter(pl.col("seed") >= 0)
    rows = now.filter((pl.col("topic") == "all") & (pl.col("quantity") == "frobenius"))
    nll = now.filter(pl.col("quantity") == "nll_train")
    keys = ["arm", "seed", "learning_rate", "weight_decay", "rank", "rows"]
    both = rows.join(nll, on=keys, suffix="_nll")
    fig, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    arms = style.arms_in(both)
    for arm in arms:
        colour, marker, label = style.look(arm, arms)
        here = both.filter(pl.col("arm") == arm)
        ax.plot(here["value"], here["value_nll"], marker, color=colour, ms=5, alpha=0.85, label=label)
    ax.set_xlabel("norm of the update, ‖ΔW‖ (Frobenius, all matrices)")
    ax.set_ylabel("NLL of the training rows (nats/token)")
    ax.set_title("Likelihood against norm")
    fig.legend(loc="outside right upper", fontsize=9)
    return fig
