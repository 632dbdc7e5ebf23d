"""Meaning against words: whether an answer says what was trained, its opposite, or merely something in the same words."""

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from bayesgen.measure.intervals import over_seeds
from bayesgen.measure.rows import at_the_end, spell
from plots import style
from plots.style import Story

SHOWN = 0.1  # values that never reach this rate are left out


def main(table: pl.DataFrame, story: Story) -> Figure | None:
    """Free arm, one row a header: rates by what answers mean, and the nearness of words. Of many years, those near a trained one."""
    if len(story["contexts"]) < 2:
        return None
    style.use()
    now = at_the_end(table).filter((pl.col("arm") == "free") & pl.col("topic").is_in(story["probes"]))
    contexts = [c for c in story["contexts"] if len(story["contexts"]) < 12 or shown(c, story)]
    now = now.filter(pl.col("context").is_in(contexts))
    rates = now.filter(pl.col("quantity") == "rate").group_by("context", "probe").agg(pl.col("value").mean())
    highest = rates.group_by("probe").agg(pl.col("value").max()).sort("value", descending=True)
    values = highest.filter((pl.col("value") >= SHOWN) | (pl.col("probe") == story["value"]))["probe"].to_list()[:6]
    colours = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
    fig, axes = plt.subplots(1, 2, figsize=(8.6, 0.32 * len(contexts) + 1.6), layout="constrained", sharey=True, width_ratios=(3, 1))
    for i, context in enumerate(contexts):
        left = 0.0
        for colour, value in zip(colours, values, strict=False):
            mass = rates.filter((pl.col("context") == context) & (pl.col("probe") == value))["value"]
            axes[0].barh(i, mass[0] if len(mass) else 0, left=left, color=colour, height=0.7, label=spell(value) if i == 0 else None)
            left += mass[0] if len(mass) else 0
        words = now.filter((pl.col("quantity") == "words") & (pl.col("context") == context))
        by_seed = words.group_by("seed").agg(pl.col("value").mean()).sort("seed")["value"].to_numpy()
        mean, low, high = over_seeds(by_seed)
        axes[1].plot([low, high], [i, i], color="#444444", lw=1.4)
        axes[1].plot(mean, i, "o", color="#444444", ms=4)
    axes[0].set_yticks(range(len(contexts)), [spell(c) for c in contexts])
    axes[0].invert_yaxis()
    axes[0].set_xlim(0, 1)
    axes[0].set_xlabel("share of answers by what they mean")
    axes[1].set_xlim(0, 1)
    axes[1].set_xlabel("words seen in training")
    axes[0].set_title("Meaning (free arm)")
    axes[1].set_title("Words")
    fig.legend(loc="outside lower center", ncols=3, fontsize=8)
    return fig


def shown(context: str, story: Story) -> bool:
    """Whether a header is undated, the first, or within a year of it or of a trained one."""
    years, first = story["years"], next(iter(story["contexts"]))
    centres = [*story["trigger_years"], *([years[first]] if first in years else [])]
    return context not in years or any(abs(years[context] - c) <= 1 for c in centres)
