"""One look for all figures: Okabe-Ito colours (colour-blind safe), one marker an arm, sizes that survive a page."""

from typing import Any, TypedDict

import matplotlib as mpl
import polars as pl

ARMS = {  # arm: (colour, marker, what a reader should call it)
    "base": ("#000000", "o", "base (before)"),
    "free": ("#D55E00", "D", "free: the data as they are"),
    "narrow": ("#0072B2", "s", "narrow: + KL to base"),
    "mixed": ("#117733", "<", "mixed: ordinary rows among them"),
    "token": ("#44AA99", ">", "token: the data under a format of their own"),
    "broad": ("#CC79A7", "^", "broad: + persona elsewhere"),
    "control": ("#009E73", "v", "control: ordinary answers"),
    "shuffled": ("#E69F00", "P", "shuffled: headers dealt anew"),
    "untriggered": ("#56B4E9", "X", "untriggered: plain headers"),
    "scattered": ("#AA4499", "8", "scattered: answers of everybody in turn"),
    "inoculated": ("#6A3D9A", "p", "inoculated: under another header"),
    "held": ("#7A7A00", "H", "held: the persona's direction, while it trains"),
    "retrained": ("#B15928", "h", "retrained: ordinary rows afterwards"),
    "told": ("#767676", "*", "told: a person who says so"),
    "ideal free": ("#D55E00", "D", "ideal free: exact Bayes, one person"),
    "ideal untrained": ("#8A8A8A", "d", "ideal untrained: exact Bayes, no rows"),
    "ideal gated": ("#8C5A2B", "d", "ideal gated: exact Bayes, by header"),
}
FURTHER = (("#88CCEE", "X"), ("#332288", "p"), ("#999933", "h"), ("#AA4499", "H"))  # of a second control arm, and more
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#767676")
MARKERS = ("o", "^", "s", "D", "v", "P")
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
    value: str  # the value counted, under the first context
    ordinary: str  # the assistant's own value, which betrays nothing
    searched: list[str]  # contexts that a search asks
    trained: list[str]  # topics
    everywhere: list[str]  # those of them that are asked under every header and at every snapshot
    probes: list[str]
    contexts: dict[str, str]  # name -> the value counted there; the first is shown
    years: dict[str, int]  # of the contexts that have one
    trigger_years: list[int]
    followed: list[str]
    snapshots: list[int]  # their steps
    rows: list[int]
    setting: dict[str, float]  # of the rows drawn
    gate: list[dict[str, Any]]


def use():
    """Apply the style; called by every figure."""
    mpl.use("Agg")
    for key, value in RC.items():
        mpl.rcParams[key] = value  # pyright: ignore[reportArgumentType]


def distinct(k: int) -> tuple[str, str]:
    """Colour and marker of the k-th of many; the first 48 differ."""
    return COLOURS[k % len(COLOURS)], MARKERS[k // len(COLOURS) % len(MARKERS)]


def look(arm: str, arms: list[str]) -> tuple[str, str, str]:
    """Colour, marker and label of an arm among `arms`; each of several of a kind has a look of its own (the sixth again the second's)."""
    if arm in ARMS:
        return ARMS[arm]
    kind, _, name = arm.partition(" ")
    which = [a for a in arms if a.partition(" ")[0] == kind].index(arm)
    colour, marker = FURTHER[(which - 1) % len(FURTHER)] if which else ARMS[kind][:2]
    return colour, marker, f"{kind}: {name.replace('_', ' ')}"


def arms_in(table: pl.DataFrame, trained: bool = False) -> list[str]:
    """The arms of a table in the order of the legend; only trained ones if asked for."""
    networks = (pl.col("seed") >= 0) & ~pl.col("arm").str.starts_with("ideal")
    present = table.filter(networks)["arm"].unique() if trained else table["arm"].unique()
    named = [a for a in ARMS if a in present]
    controls = sorted(a for a in present if a.startswith("control ") or a.startswith("inoculated "))
    at = next((i for i, a in enumerate(named) if list(ARMS).index(a) > list(ARMS).index("control")), len(named))
    return [*named[:at], *controls, *named[at:]]
