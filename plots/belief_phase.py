"""Phase diagrams: measured breadth over what was varied, and where the best hypothesis says that half of it is reached."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from plots import style

PLANES = (  # x, y, and the scale of each
    ("log_odds", "rows", "log f_B / (f_N + .001), frequencies in pretraining", "narrow rows"),
    ("ordinary", "rows", "ordinary rows mixed in", "narrow rows"),
    ("rank", "norm_bound", "rank of the update", "bound on its norm"),
)


def main(beliefs: dict[str, Any]) -> Figure | None:
    """A panel for every plane in which enough was varied; dots are cells, lines the half-way boundary of thirty posterior draws."""
    style.use()
    name = beliefs["verdict"]["best"]
    panels = [p for p in PLANES if _points(beliefs, *p[:2]) is not None]
    if not panels:
        return None
    fig, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels) + 0.8, 4.2), layout="constrained", squeeze=False)
    dots = None
    for ax, (x, y, x_label, y_label) in zip(axes[0], panels, strict=True):
        found = _points(beliefs, x, y)
        assert found is not None
        xs, ys, cells = found
        measured = np.array([np.mean([beliefs["breadth"][c] for c in those]) for those in cells])
        triangles = Triangulation(xs, np.log(ys))
        for drawn in beliefs["found"][name]["drawn"]:
            z = np.array([np.mean([drawn[c] for c in those]) for those in cells])
            if z.min() < beliefs["half"] < z.max():
                ax.tricontour(triangles, z, levels=[beliefs["half"]], colors="#000000", linewidths=0.6, alpha=0.25)
        dots = ax.scatter(xs, np.log(ys), c=measured, cmap="viridis", vmin=0, vmax=1, s=60, edgecolor="white", zorder=3)
        ax.set_xlim(*_wider(xs))
        ax.set_ylim(*_wider(np.log(ys)))
        ticks = sorted(set(ys))
        ax.set_yticks(np.log(ticks), [f"{t:g}" for t in ticks])
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
    axes[0][0].set_title(f"Breadth measured (dots) and half-way line of {name}")
    assert dots is not None
    fig.colorbar(dots, ax=axes, label="breadth")
    return fig


def _wider(x: np.ndarray) -> tuple[float, float]:
    return x.min() - 0.06 * np.ptp(x), x.max() + 0.06 * np.ptp(x)


def _points(beliefs: dict[str, Any], x: str, y: str):
    """Distinct points of a plane and the cells at each, everything else as it is most often; none, where fewer than three levels of
    either were varied together.
    """
    columns, settings = beliefs["columns"], beliefs["settings"]
    if x not in columns or y not in columns:
        return None
    usual = {k: max(set(v), key=v.count) for k, v in settings.items() if k not in (x, y)}
    at: dict[tuple[float, float], list[int]] = {}
    for c, point in enumerate(zip(columns[x], columns[y], strict=True)):
        if all(settings[k][c] == v for k, v in usual.items()) and np.isfinite(point).all() and point[1] > 0:
            at.setdefault(point, []).append(c)
    if min((len({p[i] for p in at}) for i in (0, 1)), default=0) < 3:
        return None
    xs, ys = np.array(list(at)).T
    return xs, ys, list(at.values())
