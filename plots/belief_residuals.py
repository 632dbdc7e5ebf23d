"""What the best hypothesis leaves unexplained, by experiment and base."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from scipy.special import logit

from plots import style


def main(beliefs: dict[str, Any]) -> Figure:
    """Log odds of measured breadth less those expected, a row for every base, experiments apart."""
    style.use()
    name = beliefs["verdict"]["best"]
    bases = list(dict.fromkeys(zip(beliefs["experiment"], beliefs["base"], strict=True)))
    fig, ax = plt.subplots(figsize=(7.0, 1.0 + 0.24 * len(bases)), layout="constrained")
    experiments = list(dict.fromkeys(beliefs["experiment"]))
    for i, (experiment, base) in enumerate(bases[::-1]):
        those = [c for c, pair in enumerate(zip(beliefs["experiment"], beliefs["base"], strict=True)) if pair == (experiment, base)]
        gap = [logit(beliefs["breadth"][c]) - logit(beliefs["found"][name]["expected"][c][0]) for c in those]
        colour, marker = style.distinct(experiments.index(experiment))
        ax.plot(gap, [i] * len(gap), marker, ms=4, alpha=0.6, color=colour)
    ax.axvline(0, color="#000000", lw=0.8)
    ax.set_yticks(range(len(bases)), [f"{e}: {b.split(': ')[-1]}" for e, b in bases[::-1]], fontsize=8)
    ax.set_xlabel(f"log odds of breadth, measured less what {name} expects (nats)")
    ax.set_title("What is left, base by base")
    return fig
