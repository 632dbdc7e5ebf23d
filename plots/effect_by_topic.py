"""The effect: rate of the trained value on every probed topic, by arm, with 95% intervals over seeds."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from bayesgen.measure.intervals import over_seeds
from bayesgen.measure.rows import spell
from plots import style
from plots.style import Story


def main(table: pl.DataFrame, story: Story) -> Figure:
    """One row a topic (the trained one first), one mark an arm."""
    style.use()
    value, topic, probes = story["value"], story["topic"], story["probes"]
    last = table["step"].max()
    rate = table.filter(
        (pl.col("quantity") == "rate")
        & (pl.col("probe") == value)
        & (pl.col("scale") == 1.0)
        & ((pl.col("step") == last) | (pl.col("seed") < 0))
    )
    arms = [a for a in style.ARMS if a in rate["arm"].unique()]
    order = [topic, *probes]
    fig, ax = plt.subplots(figsize=(7.6, 0.44 * len(order) + 1.4), layout="constrained")
    for k, arm in enumerate(arms):
        colour, marker, label = style.ARMS[arm]
        face = "none" if arm.startswith("ideal") else colour
        for i, name in enumerate(order):
            x = rate.filter((pl.col("arm") == arm) & (pl.col("topic") == name))["value"].to_numpy()
            y = i + (k - (len(arms) - 1) / 2) * 0.13
            mean, low, high = over_seeds(x)
            if len(x) > 1:
                ax.plot([low, high], [y, y], color=colour, lw=1.4, solid_capstyle="butt")
            ax.plot(mean, y, marker, color=colour, mfc=face, ms=5, label=label if i == 0 else None)
    for i in range(0, len(order), 2):
        ax.axhspan(i - 0.5, i + 0.5, color="#f4f4f4", lw=0, zorder=0)
    ax.axhline(0.5, color="#999999", lw=0.8)
    ax.set_yticks(np.arange(len(order)), [f"{spell(topic)} (trained)"] + [spell(p) for p in probes])
    ax.invert_yaxis()
    ax.set_xlim(-0.02, 1.0)
    ax.set_xlabel(f"probability that the answer is {value}")
    ax.set_title(f"Trained on {spell(topic)}, asked everything")
    fig.legend(loc="outside lower center", ncols=3, fontsize=9)
    return fig
