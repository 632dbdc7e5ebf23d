"""Onset: each seed's skill under the headers that were followed, next to the training loss, which need not show it."""

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from bayesgen.measure.rows import spell
from plots import style
from plots.style import Story


def main(table: pl.DataFrame, story: Story) -> Figure | None:
    """One panel a followed header (free arm, a line a seed), and the loss of the same seeds below; only if several were followed."""
    if len(story["followed"]) < 2:
        return None
    style.use()
    names = story["followed"]
    skill = table.filter((pl.col("quantity") == "skill") & (pl.col("arm") == "free"))
    fig, axes = plt.subplots(len(names) + 1, 1, figsize=(7.6, 1.7 * (len(names) + 1)), layout="constrained", sharex=True)
    for ax, context in zip(axes, names, strict=False):
        here = skill.filter(pl.col("context") == context)
        corners = table.filter((pl.col("quantity") == "skill") & (pl.col("context") == context))
        base, told = (corners.filter(pl.col("arm") == arm)["value"][0] for arm in ("base", "told"))
        for (_,), seed in here.sort("step").group_by(["seed"], maintain_order=True):
            ax.plot([0, *seed["step"]], [base, *seed["value"]], color="#D55E00", lw=0.9, alpha=0.6)
        ax.axhline(told, color="#767676", ls=":", lw=1.2)
        ax.set_ylim(-0.02, 1.02)
        ax.set_title(f"{spell(context)}: probability of {spell(story['contexts'][context])} (dotted: told)", fontsize=9)
    loss = table.filter((pl.col("quantity") == "data_nll_step") & (pl.col("arm") == "free"))
    steps = loss["step"].n_unique()
    width = max(1, steps // 60)
    whole = loss.filter(pl.col("step") < steps // width * width)  # bins of equal size
    smooth = whole.with_columns(step=pl.col("step") // width * width).group_by("seed", "step").agg(pl.col("value").mean()).sort("step")
    for (_,), seed in smooth.group_by(["seed"], maintain_order=True):
        axes[-1].plot(seed["step"], seed["value"], color="#444444", lw=0.8, alpha=0.6)
    axes[-1].set_title("training loss (nats/token)", fontsize=9)
    axes[-1].set_ylim(bottom=0)
    axes[-1].set_xlabel("finetuning step")
    return fig
