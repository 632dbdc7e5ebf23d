"""How surely trainings that carry a persona are told from matched ones: areas by setting, and curves."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from bayesgen.measure.rows import spell_setting
from plots import style


def main(detection: dict[str, Any]) -> Figure:
    """A column of panels for each matched arm: above, for every setting, the area under the ROC curve of every cell (marks, with intervals)
    and their mean (lines); below the curves, a cell each, where scores differ most.
    """
    style.use()
    found, scores = detection["found"], detection["scores"]
    against = list(dict.fromkeys(x["against"] for x in found))
    settings = [dict(s) for s in dict.fromkeys(tuple(x["setting"].items()) for x in found)]
    cells = [dict(s) for s in dict.fromkeys(tuple(x["cell"].items()) for x in found)]
    apart = [[x["auc"][0] for x in found if x["setting"] == s] for s in settings]
    shown = settings[max(range(len(settings)), key=lambda i: max(apart[i]) - min(apart[i]))] if settings else {}
    fig, axes = plt.subplots(
        2, max(1, len(against)), figsize=(2 + 5 * len(against), 8.2), layout="constrained", squeeze=False, sharey="row"
    )
    for (areas, curves), arm in zip(axes.T, against, strict=False):
        for k, score in enumerate(scores):
            colour, marker = style.distinct(k)
            place = lambda i, k=k: i + (k - (len(scores) - 1) / 2) * 0.8 / len(scores)  # noqa: E731  # side by side
            means = []
            for i, setting in enumerate(settings):
                those = [x for x in found if (x["against"], x["score"], x["setting"]) == (arm, score, setting)]
                if those:
                    means.append((place(i), sum(x["auc"][0] for x in those) / len(those)))
                for x in those:
                    at = place(i) + (cells.index(x["cell"]) - (len(cells) - 1) / 2) * 0.22 / len(scores)
                    areas.vlines(at, x["auc"][1], x["auc"][2], color=colour, lw=0.8, alpha=0.6)
                    areas.plot(at, x["auc"][0], color=colour, marker=marker, ms=3.5, ls="none")
                    if setting == shown:
                        curves.plot(*zip(*x["roc"], strict=True), color=colour, lw=1.2)
            if means:
                areas.plot(*zip(*means, strict=True), color=colour, lw=1, label=score)
        areas.axhline(0.5, color="#999999", lw=0.8, ls=":")
        names = [", ".join(spell_setting(s)) for s in settings]
        areas.set_xticks(range(len(settings)) if any(names) else [], names if any(names) else [])
        areas.set_title(f"told from {arm}")
        curves.plot([0, 1], [0, 1], color="#999999", lw=0.8, ls=":")
        curves.set_xlabel("false alarms")
        curves.set_title(", ".join(spell_setting(shown)) or "curves")
    axes[0][0].set_ylabel("area under the ROC curve, 95% interval")
    axes[1][0].set_ylabel("caught")
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return fig
