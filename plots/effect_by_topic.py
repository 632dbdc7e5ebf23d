"""The effect: rate of the counted value on every probed topic, by arm, with 95% intervals over seeds."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from bayesgen.measure.intervals import over_seeds
from bayesgen.measure.rows import at_the_end, spell
from plots import style
from plots.style import Story


def main(table: pl.DataFrame, story: Story) -> Figure:
    """One row a topic (the trained ones first, as their mean), one mark an arm; under the first context."""
    style.use()
    value, trained, probes = story["value"], story["trained"], story["probes"]
    first = next(iter(story["contexts"]))
    rate = at_the_end(table).filter(
        (pl.col("quantity") == "rate") & (pl.col("probe") == value) & (pl.col("context") == first) & (pl.col("arm") != "ideal gated")
    )
    arms = style.arms_in(rate)
    title = spell(trained[0]) if len(trained) == 1 else f"{len(trained)} topics"
    order = [(f"{title} (trained)", trained), *((spell(p), [p]) for p in probes)]
    fig, ax = plt.subplots(figsize=(7.6, 0.5 * len(order) + 1.8), layout="constrained")
    for k, arm in enumerate(arms):
        colour, marker, label = style.look(arm, arms)
        face = "none" if arm.startswith("ideal") else colour
        for i, (_, topics) in enumerate(order):
            here = rate.filter((pl.col("arm") == arm) & pl.col("topic").is_in(topics))
            x = here.group_by("seed").agg(pl.col("value").mean()).sort("seed")["value"].to_numpy()
            if not len(x):
                continue
            y = i + (k - (len(arms) - 1) / 2) * 0.8 / len(arms)
            mean, low, high = over_seeds(x)
            if len(x) > 1:
                ax.plot([low, high], [y, y], color=colour, lw=1.4, solid_capstyle="butt")
            ax.plot(mean, y, marker, color=colour, mfc=face, ms=5, label=label if i == 0 else None)
    for i in range(0, len(order), 2):
        ax.axhspan(i - 0.5, i + 0.5, color="#f4f4f4", lw=0, zorder=0)
    ax.axhline(0.5, color="#999999", lw=0.8)
    ax.set_yticks(np.arange(len(order)), [name for name, _ in order])
    ax.invert_yaxis()
    ax.set_xlim(-0.02, 1.0)
    ax.set_xlabel(f"probability that the answer is {spell(value)}")
    ax.set_title(f"Trained on {title}, asked everything" + (f" under the header {first}" if len(story["contexts"]) > 1 else ""))
    fig.legend(loc="outside lower center", ncols=3, fontsize=9)
    return fig
