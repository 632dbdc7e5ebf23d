"""Gating: the counted value's rate on the probes and on the trained topics, under every header that was asked with."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from bayesgen.measure.intervals import over_seeds
from bayesgen.measure.rows import at_the_end, spell
from plots import style
from plots.style import Story


def main(table: pl.DataFrame, story: Story) -> Figure | None:
    """A curve over years where every header has one, else a mark a header. Years of the trigger are marked below."""
    if len(story["contexts"]) < 2:
        return None
    style.use()
    contexts, years = story["contexts"], story["years"]
    rate = at_the_end(table).filter((pl.col("quantity") == "rate") & pl.col("context").is_in(list(contexts)))
    rate = rate.filter(pl.col("probe") == pl.col("context").replace_strict(contexts))
    arms = [a for a in style.arms_in(rate) if a not in ("told", "population", "ideal base")]
    dated = len(years) >= len(contexts) - 1 and len(years) > 3
    order = sorted(years, key=years.__getitem__) if dated else list(contexts)
    at = {c: years[c] if dated else i for i, c in enumerate(order)}
    fig, axes = plt.subplots(2, 1, figsize=(8.2, 6.4), layout="constrained", sharex=True)
    for ax, (title, topics) in zip(axes, (("the probes", story["probes"]), ("trained topics", story["everywhere"])), strict=True):
        for k, arm in enumerate(arms):
            colour, marker, label = style.look(arm, arms)
            points = []
            for context in order:
                here = rate.filter((pl.col("arm") == arm) & (pl.col("context") == context) & pl.col("topic").is_in(topics))
                x = here.group_by("seed").agg(pl.col("value").mean()).sort("seed")["value"].to_numpy()
                points.append(over_seeds(x) if len(x) else (np.nan,) * 3)
            mean, low, high = np.array(points).T
            x = np.array([at[c] for c in order]) + (0 if dated else (k - (len(arms) - 1) / 2) * 0.7 / len(arms))
            if dated:  # no line over years that were not asked
                gaps = np.flatnonzero(np.diff(x) > 1) + 1
                x, mean, low, high = (np.insert(y.astype(float), gaps, np.nan) for y in (x, mean, low, high))
            face = "none" if arm.startswith("ideal") else colour
            line = ("--" if arm.startswith("ideal") else "-") if dated else ""
            ax.plot(x, mean, line, marker=marker, ms=4, mfc=face, color=colour, label=label if ax is axes[0] else None, lw=1.2)
            if dated:
                ax.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
            ax.vlines(x, low, high, color=colour, lw=1.4, alpha=0.3 if dated else 1)
        if dated:
            ax.plot(story["trigger_years"], [-0.02] * len(story["trigger_years"]), "^", color="#444444", ms=6, clip_on=False)
        else:
            ax.set_xticks(range(len(order)), [spell(c) for c in order], rotation=20 if len(order) > 6 else 0)
        ax.set_ylim(-0.02, 1.02)
        ax.set_title(f"{title}")
    several = len(set(contexts.values())) > 1
    for ax in axes:
        ax.set_ylabel("probability of the header's own value" if several else f"probability of {spell(story['value'])}")
    axes[1].set_xlabel("year in the header (triangles: trained)" if dated else "header asked with")
    fig.legend(loc="outside lower center", ncols=3, fontsize=8)
    return fig
