"""Could we tell? Tables made by each hypothesis, and what they were taken for."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from plots import style


def main(beliefs: dict[str, Any]) -> Figure | None:
    """A matrix: made by (rows), taken for (columns), in shares of tables; by evidence, and by foresight of bases left out."""
    tables = {k: t for k, t in beliefs["recovery"].items() if t}
    if not tables:
        return None
    style.use()
    names = list(next(iter(tables.values())))
    size = 1.6 + 0.36 * len(names)
    fig, axes = plt.subplots(1, len(tables), figsize=(size * len(tables), size), layout="constrained", squeeze=False)
    for ax, (title, table) in zip(axes[0], tables.items(), strict=True):
        shares = [[table[truth][name] for name in names] for truth in names]
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                if share:
                    ax.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color="white" if share > 0.5 else "black")
        ax.set_xticks(range(len(names)), names, rotation=90)
        ax.set_yticks(range(len(names)), names)
        ax.set_xlabel("taken for")
        ax.set_ylabel("made by")
        ax.set_title(f"By {title} (% of tables)")
        ax.spines[:].set_visible(False)
    return fig
