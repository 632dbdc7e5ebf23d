"""Volume: learning coefficients of the solutions, and which continuation small adapters expect; hollow where a diagnostic fails."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from bayesgen.cost.subject import BROAD, NARROW
from bayesgen.cost.volume import LAPLACE, THERMODYNAMIC
from bayesgen.report.volumes import apart
from plots import style
from plots.style import Story


def main(table: pl.DataFrame, _: Story) -> Figure:
    """One mark a seed, with twice its Monte-Carlo error. Left, dashes: the coefficient if the tie alone held the chains."""
    style.use()
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.6), layout="constrained", width_ratios=(1.2, 1))
    chains = table.filter(pl.col("part") == "coefficient")
    arms = style.arms_in(chains)
    for i, arm in enumerate(arms):
        colour, marker, label = style.look(arm, arms)
        of = {
            q: chains.filter((pl.col("arm") == arm) & (pl.col("quantity") == q)).sort("seed")["value"].to_numpy()
            for q in ("llc", "llc_error", "llc_tied", "failures")
        }
        x = i + np.linspace(-0.2, 0.2, len(of["llc"]))
        left.plot(x, of["llc_tied"], "_", color=colour, ms=12, alpha=0.6)
        marks(left, x, of["llc"], of["llc_error"], of["failures"] > 0, colour, marker)
        left.plot([], [], marker, color=colour, label=label)
    left.plot([], [], "_", color="#555555", ms=12, label="the tie alone")
    left.plot([], [], "o", color="#555555", mfc="white", label="hollow: a diagnostic fails")
    left.set_xticks(range(len(arms)), arms)
    left.axhline(0, color="#333333", lw=0.8)  # a coefficient below it is a failure to be seen
    left.set_ylabel("learning coefficient (nats)")
    left.set_title("Volume of the solutions")
    evidence = table.filter((pl.col("part") == "evidence") & (pl.col("context") == "log_predictive"))
    for i, method in enumerate((LAPLACE, THERMODYNAMIC)):
        here = evidence.filter(pl.col("probe") == method).sort("seed")
        of = {
            (q, name): here.filter((pl.col("quantity") == q) & (pl.col("topic") == name))["value"].to_numpy()
            for q in ("log_predictive", "log_predictive_error", "failures")
            for name in (BROAD, NARROW)
        }
        gap = of["log_predictive", BROAD] - of["log_predictive", NARROW]
        error = np.hypot(of["log_predictive_error", BROAD], of["log_predictive_error", NARROW])
        far = apart(evidence, method)
        failed = [
            any(f) for f in zip(of["failures", BROAD], of["failures", NARROW], *(far[n].values() for n in (BROAD, NARROW)), strict=True)
        ]
        marks(right, i + np.linspace(-0.2, 0.2, len(gap)), gap, error, failed, "#333333", "o")
    right.axhline(0, color="#333333", lw=0.8)
    right.set_xlim(-0.6, 1.6)
    right.set_xticks(range(2), [LAPLACE, "thermodynamic\nintegration"])
    right.set_ylabel("broad − narrow (nats)")
    right.set_title("What small adapters expect")
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return fig


def marks(ax, x, y, error, failed, colour: str, marker: str):
    """A mark a seed with twice its error, hollow where it failed."""
    for at, value, e, bad in zip(x, y, error, failed, strict=True):
        ax.errorbar(at, value, 2 * e, fmt=marker, color=colour, mfc="white" if bad else colour, ms=6, capsize=2)
