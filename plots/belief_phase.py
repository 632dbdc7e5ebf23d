"""Phase diagrams: breadth that the best hypothesis expects, breadth measured, and the line where half of it is reached."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from plots import style

PLANES = (  # x, y, the scale of x (none: as it is), and what each is
    ("log_odds", "rows", None, "log f_B / (f_N + .001), frequencies in pretraining", "narrow rows"),
    ("ordinary", "rows", lambda x: np.log1p(x / 10), "ordinary rows mixed in", "narrow rows"),
    ("rank", "norm_bound", np.log2, "rank of the update", "bound on its norm"),
)
SHADES = np.linspace(0, 1, 21)
BESIDE = 0.03  # of a panel's width: values of x that are nearer to each other are one column of dots, side by side
WIDE, ABOVE = 5, 0.045  # dots in a line, and how far lines are apart, of a panel's height


def main(beliefs: dict[str, Any]) -> Figure | None:
    """A panel for every plane in which enough was varied. Colour behind: expected; dots: measured, cells of like x and y side by side;
    lines: half-way, of the mean and of the ends of the 90% interval.
    """
    style.use()
    name = beliefs["verdict"]["best"]
    expected = np.array(beliefs["found"][name]["expected"])  # mean, low, high of every cell
    panels = [(p, cells) for p in PLANES if (cells := _cells(beliefs, *p[:2]))]
    if not panels:
        return None
    fig, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels) + 0.8, 4.2), layout="constrained", squeeze=False)
    look = {"cmap": "viridis", "vmin": 0, "vmax": 1}
    dots = None
    for ax, ((x, y, scale, x_label, y_label), cells) in zip(axes[0], panels, strict=True):
        xs, ys = (np.array(beliefs["columns"][k])[cells] for k in (x, y))
        if scale:
            levels = np.unique(xs)
            ax.set_xticks(scale(levels), [f"{t:g}" for t in levels])
            xs = scale(xs)
        xs, ys = _together(xs), np.log(ys)
        points, at = np.unique(np.stack([xs, ys], axis=1), axis=0, return_inverse=True)
        of = np.array([expected[cells][at == i].mean(axis=0) for i in range(len(points))])
        triangles = Triangulation(*points.T)
        ax.tricontourf(triangles, of[:, 0], levels=SHADES, alpha=0.55, **look)
        for z, line in zip(of.T, ("-", ":", ":"), strict=True):
            if z.min() < beliefs["half"] < z.max():
                ax.tricontour(triangles, z, levels=[beliefs["half"]], colors="#000000", linewidths=1.2, linestyles=line)
        aside, above = np.zeros((2, len(cells)))
        for i in range(len(points)):
            same = np.flatnonzero(at == i)
            lines, places = np.divmod(np.arange(len(same)), WIDE)
            aside[same] = places - (min(WIDE, len(same)) - 1) / 2
            above[same] = lines - lines.max() / 2
        measured = np.array(beliefs["breadth"])[cells]
        dots = ax.scatter(
            xs + BESIDE * np.ptp(xs) * aside,
            ys + ABOVE * np.ptp(ys) * above,
            c=measured,
            s=48,
            edgecolor="white",
            linewidth=0.8,
            zorder=3,
            **look,
        )
        for limits, values in ((ax.set_xlim, xs), (ax.set_ylim, ys)):
            limits(values.min() - 0.12 * np.ptp(values), values.max() + 0.12 * np.ptp(values))
        ticks = np.unique(ys)
        ax.set_yticks(ticks, [f"{t:g}" for t in np.exp(ticks).round(3)])
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
    axes[0][0].set_title(f"Breadth measured (dots), and as {name} has it")
    assert dots is not None
    fig.colorbar(dots, ax=axes, label="breadth")
    return fig


def _together(x: np.ndarray) -> np.ndarray:
    """Each value as the mean of its neighbours on the line, who are nearer to the next than dots are wide."""
    order = np.argsort(x)
    column = np.concatenate([[0], np.cumsum(np.diff(x[order]) > BESIDE * np.ptp(x))])
    means = np.array([x[order][column == i].mean() for i in range(column[-1] + 1)])
    out = np.empty(len(x))
    out[order] = means[column]
    return out


def _cells(beliefs: dict[str, Any], x: str, y: str) -> list[int]:
    """Cells of a plane, all other settings as they are most often; none, where fewer than three levels of either were varied, or the two
    only together.
    """
    columns, settings = beliefs["columns"], beliefs["settings"]
    if x not in columns or y not in columns:
        return []
    usual = {k: max(set(v), key=v.count) for k, v in settings.items() if k not in (x, y)}
    points = list(zip(columns[x], columns[y], strict=True))
    out = [c for c, p in enumerate(points) if all(settings[k][c] == v for k, v in usual.items()) and np.isfinite(p).all() and p[1] > 0]
    varied = min(len({points[c][i] for c in out}) for i in (0, 1)) if out else 0
    return out if varied >= 3 and np.linalg.matrix_rank(np.cov(np.array([points[c] for c in out]).T)) == 2 else []
