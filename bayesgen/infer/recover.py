"""Could we tell? What hypotheses say before any data, whether fits find the parameters that data came from, and whether comparisons find
the hypothesis: all on the very design that is to be judged, before any verdict.

Parameters are drawn from their priors; how far cells, bases and experiments stray is drawn from what was found of the real table, so that
the question is asked at the noise that there is.

Sources: Talts et al. (2018) and Modrak et al. (2023) for simulation-based calibration.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import random
from jaxtyping import Float, Int
from numpyro.infer import Predictive
from scipy import stats
from scipy.special import expit

from bayesgen.infer.cells import Table
from bayesgen.infer.compare import by_base, evidence, loo, thinned
from bayesgen.infer.fit import DERIVED, SHORT, Problem, fits
from bayesgen.infer.hypotheses import HYPOTHESES, SPREADS, Cells

RANKS = 99  # draws that a true value is ranked among
BAND = 0.05  # probability that a calibrated hypothesis leaves its bands


class Calibration(NamedTuple):
    """Ranks of the true values among posterior draws, (simulations,) by parameter, and how often 90% intervals held them."""

    ranks: dict[str, Int[np.ndarray, " L"]]
    covered: dict[str, float]
    failed: int  # simulations whose fit failed a gate

    @property
    def p_value(self) -> float:
        """Of uniform ranks: the least of the parameters' (Kolmogorov and Smirnov), times their number."""
        return min(1.0, len(self.ranks) * min(_uniform(r) for r in self.ranks.values()))


class Guess(NamedTuple):
    """What a hypothesis says of one simulated table: its log evidence, and its score on bases left out (nats)."""

    evidence: float
    left_out: float


def simulate(name: str, cells: Cells, key, spreads: Mapping[str, np.ndarray] | None = None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Parameters and log odds of breadth of a table that a hypothesis might have made; spreads are one of those given, if any are."""
    given = {}
    if spreads is not None:
        which = int(random.randint(key, (), 0, len(spreads["cell"])))
        given = {k: jnp.asarray(spreads[k][which]) for k in SPREADS}
    drawn = _simulator(name)(random.fold_in(key, 1), cells, given)
    y = np.asarray(drawn.pop("y"), float)
    return {k: np.asarray(v) for k, v in drawn.items() if k not in DERIVED}, y


@cache
def _simulator(name: str):
    def draw(key, cells, given):
        model = numpyro.handlers.substitute(HYPOTHESES[name].model, given)
        trace = numpyro.handlers.trace(numpyro.handlers.seed(model, key)).get_trace(cells)
        return {k: s["value"] for k, s in trace.items() if s["type"] in ("sample", "deterministic")}

    return jax.jit(draw)


def prior_breadth(name: str, cells: Cells, key, draws: int = 500) -> Float[np.ndarray, "S C"]:
    """Breadth of every cell that a hypothesis expects before any data."""
    found = Predictive(HYPOTHESES[name].model, num_samples=draws, return_sites=["mean"])(key, cells)
    return expit(np.asarray(found["mean"], float))


def calibrate(name: str, cells: Cells, key, simulations: int) -> Calibration:
    """Simulation-based calibration of a hypothesis, all of its parameters from their priors."""
    ranks: dict[str, list[int]] = {}
    covered: dict[str, list[bool]] = {}
    k_draw, k_fit = random.split(key)
    made = [simulate(name, cells, random.fold_in(k_draw, i)) for i in range(simulations)]
    found = fits(name, cells, [Problem(y, cells.counted_C) for _, y in made], k_fit, SHORT)
    for (truth, _), its in zip(made, found, strict=True):
        for parameter, value in _flat(thinned(its, RANKS)).items():
            true = _flat({k: v[None] for k, v in truth.items()})[parameter][0]
            ranks.setdefault(parameter, []).append(int((value < true).sum()))
            low, high = np.quantile(value, (0.05, 0.95))
            covered.setdefault(parameter, []).append(bool(low <= true <= high))
    failed = sum(bool(its.failures) for its in found)
    return Calibration({k: np.array(r) for k, r in ranks.items()}, {k: float(np.mean(c)) for k, c in covered.items()}, failed)


def tables_of(found: Mapping[str, Mapping[str, np.ndarray]], cells: Cells, key, count: int) -> dict[str, list[Float[np.ndarray, " C"]]]:
    """Log odds of breadth in tables that each hypothesis might have made, at the spreads that its fit to the real one `found` (draws)."""
    keys = zip(found, random.split(key, len(found)), strict=True)
    return {truth: [simulate(truth, cells, random.fold_in(k, i), found[truth])[1] for i in range(count)] for truth, k in keys}


def guess(name: str, made: Mapping[str, Sequence[Float[np.ndarray, " C"]]], table: Table, key) -> dict[str, list[Guess]]:
    """What a hypothesis says of simulated tables, {who made them: of each}."""
    every = [y for tables in made.values() for y in tables]
    found = fits(name, table.cells, [Problem(y, table.cells.counted_C) for y in every], key, SHORT)
    out = []
    for i, (y, its) in enumerate(zip(every, found, strict=True)):
        left = loo(name, its, table._replace(y_C=y), by_base(table))
        out.append(Guess(evidence(name, its, table.cells, y, random.fold_in(key, i)).value, sum(x.log_score for x in left)))
    ends = np.cumsum([0, *(len(tables) for tables in made.values())])
    return {truth: out[a:b] for truth, a, b in zip(made, ends, ends[1:], strict=False)}


def of_tables(trials: Mapping[str, Mapping[str, Any]], score: str) -> dict[str, list[dict[str, float]]]:
    """{who made them: {hypothesis: score} of each table}, from the trials of all hypotheses (`weigh.trial`)."""
    by_truth = {truth: zip(*(t[score][truth] for t in trials.values()), strict=True) for truth in trials}
    return {truth: [dict(zip(trials, of, strict=True)) for of in tables] for truth, tables in by_truth.items()}


def confusion(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """{truth: {guessed: share}} of the scores of simulated tables (`of_tables`), the greatest being the guess; none without tables."""
    out = {}
    for truth, tables in scores.items():
        if not tables:
            continue
        best = [max(of, key=of.__getitem__) for of in tables]
        out[truth] = {name: best.count(name) / len(best) for name in scores}
    return out


def confused(table: dict[str, dict[str, float]], share: float = 0.2) -> list[tuple[str, str, float]]:
    """Pairs (truth, taken for, how often) that are taken for each other at least so often, the worst first."""
    pairs = [(a, b, x) for a, row in table.items() for b, x in row.items() if a != b and x >= share]
    return sorted(pairs, key=lambda p: -p[2])


def _uniform(ranks: Int[np.ndarray, " L"]) -> float:
    """p-value of ranks 0 to RANKS being uniform: twice the lesser one of the ranks, which sees posteriors that are shifted, and of their
    distance from the middle, which sees those that are too narrow or too wide. Ties are broken evenly, which keeps the distributions.
    """
    spread = (ranks + np.random.default_rng(0).uniform(size=len(ranks))) / (RANKS + 1)
    return min(1.0, 2 * min(float(stats.kstest(x, "uniform").pvalue) for x in (spread, np.abs(2 * spread - 1))))


def _flat(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters of several entries as one each."""
    return {
        f"{k}[{i}]" if v.ndim > 1 else k: v.reshape(len(v), -1)[:, i]
        for k, v in draws.items()
        for i in range(int(np.prod(v.shape[1:], dtype=int)))
    }
