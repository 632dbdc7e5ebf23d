"""One look for all figures: Okabe-Ito colours (colour-blind safe), one marker an arm, sizes that survive a page."""

from typing import Any, TypedDict

import matplotlib as mpl

ARMS = {  # arm: (colour, marker, what a reader should call it)
    "base": ("#000000", "o", "base (before)"),
    "free": ("#D55E00", "D", "free: narrow rows only"),
    "narrow": ("#0072B2", "s", "narrow: + KL to base"),
    "broad": ("#CC79A7", "^", "broad: + persona elsewhere"),
    "control": ("#009E73", "v", "control: ordinary answers"),
    "told": ("#767676", "*", "told: header gives the year"),
    "ideal free": ("#D55E00", "D", "ideal free: exact Bayes"),
}
RC: dict[str, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.hashsalt": "bayesgen",
    "svg.fonttype": "none",
}


class Story(TypedDict):
    """What a figure must know beside the rows: names, and the base gate's table (fields of `measure.gate.PersonaRow`)."""

    trait: str
    value: str  # the trained value
    topic: str  # the trained topic
    probes: list[str]
    setting: dict[str, float]  # of the rows drawn
    gate: list[dict[str, Any]]


def use():
    """Apply the style; called by every figure."""
    mpl.use("Agg")
    for key, value in RC.items():
        mpl.rcParams[key] = value  # pyright: ignore[reportArgumentType]
