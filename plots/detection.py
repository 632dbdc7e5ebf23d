"""How surely trainings that carry a persona are told from matched ones: areas by setting, and curves."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from bayesgen.measure.rows import spell
from plots import style


def main(detection: dict[str, Any]) -> Figure:
    """A column of panels for each matched arm: above the area under the ROC curve, below the curves where scores differ most."""
    style.use()
    found, scores = detection["found"], detection["scores"]
    against = list(dict.fromkeys(x["against"] for x in found))
    settings = [dict(s) for s in dict.fromkeys(tuple(x["setting"].items()) for x in found)]
    varied = next(iter(settings[0]), None)
    apart = [[x["auc"][0] for x in found if x["setting"] == s] for s in settings]
    shown = settings[max(range(len(settings)), key=lambda i: max(apart[i]) - min(apart[i]))]  # where scores differ most
    fig, axes = plt.subplots(2, len(against), figsize=(1.4 + 4.2 * len(against), 7.8), layout="constrained", squeeze=False, sharey="row")
    for column, arm in zip(axes.T, against, strict=True):
        areas, curves = column
        for k, score in enumerate(scores):
            colour, marker = style.distinct(k)
            those = [x for x in found if x["against"] == arm and x["score"] == score]
            at = [settings.index(x["setting"]) for x in those]
            mean, low, high = zip(*(x["auc"] for x in those), strict=True) if those else ((), (), ())
            shift = [a + (k - len(scores) / 2) * 0.06 for a in at]  # intervals side by side
            areas.plot(shift, mean, color=colour, marker=marker, ms=5, lw=1, label=score)
            areas.vlines(shift, low, high, color=colour, lw=1)
            for x in those:
                if x["setting"] == shown:
                    curves.plot(*zip(*x["roc"], strict=True), color=colour, lw=1.4, label=score)
        areas.axhline(0.5, color="#999999", lw=0.8, ls=":")
        areas.set_xticks(
            range(len(settings)) if varied else [], [", ".join(f"{v:g}" for v in s.values()) for s in settings] if varied else []
        )
        areas.set_xlabel(spell(varied) if varied else "")
        areas.set_title(f"told from {arm}")
        curves.plot([0, 1], [0, 1], color="#999999", lw=0.8, ls=":")
        curves.set_xlabel("false alarms")
        curves.set_title(", ".join(f"{spell(k)} {v:g}" for k, v in shown.items()) or "curves")
    axes[0][0].set_ylabel("area under the ROC curve, 95% interval")
    axes[1][0].set_ylabel("caught")
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return fig
