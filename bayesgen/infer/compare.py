"""How well hypotheses foretell what they were not fitted to, and how probable they are.

    evidence      log marginal likelihood by bridge sampling; its differences are log Bayes factors
    left out      one cell, all cells of a base, or a level of what was varied (an experiment, a frequency, an optimiser): the draws of
                  a fit to all cells are weighed (Pareto-smoothed importance sampling), and where the weights are not to be relied on
                  (k > .7) the rest is fitted anew, and the score is the evidence of all cells less that of the rest. (A mean over draws
                  of that fit is the same number, but of a hundred cells at once few of the draws carry it, and it strays by nats.)
    stacking      weights of the mixture that foretells what is left out best

All scores are log densities of what is left out, jointly, in nats of log odds. Cells are left out and not runs: nine seeds of a cell say
how the tenth does whatever is believed of the world, so that leaving out runs would tell nothing of hypotheses. The effects of bases and
experiments that are still represented are conditioned on, all others are drawn anew.

Sources: Vehtari, Gelman and Gabry (2017), Vehtari et al. (2024) for PSIS-LOO; Yao et al. (2018) for stacking; Meng and Wong (1996),
Gronau et al. (2017) for the bridge.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base.array import array_stats
from jax import random
from jaxtyping import Float, Real, Shaped
from scipy import optimize, stats
from scipy.special import expit, logsumexp, ndtr

from bayesgen.infer.cells import Table
from bayesgen.infer.fit import SHORT, Fit, Problem, fits, means_of, unconstrained
from bayesgen.infer.hypotheses import SPREADS, Cells
from bayesgen.infer.nested import Nested

K_HAT = 0.7  # above, importance weights are not to be relied on
THINNED = 300  # draws that intervals are of
BATCH = 50  # draws at a time
PROBABILITY = 0.9  # of the intervals whose coverage is told
ENDS = {"middle": 0.5, "low": 0.5 - PROBABILITY / 2, "high": 0.5 + PROBABILITY / 2}


class LeftOut(NamedTuple):
    """What a hypothesis says of some cells that it has not seen: their joint log density with its Monte-Carlo error (nats), some draws of
    the posterior that does not know them, the Pareto shape k of the weights, and what says not to trust these.
    """

    log_score: float
    error: float
    draws: dict[str, np.ndarray]
    k_hat: float
    failures: tuple[str, ...] = ()

    @property
    def refitted(self) -> bool:
        """Whether weights were not to be relied on, so that the rest was fitted anew."""
        return not self.k_hat <= K_HAT


class Evidence(NamedTuple):
    """Log marginal likelihood (nats), its Monte-Carlo standard error, and what says not to trust it."""

    value: float
    error: float
    failures: tuple[str, ...]


def log_score(name: str, draws: Mapping[str, np.ndarray], cells: Cells, y_C: Float[Any, " C"], out: Sequence[int]) -> float:
    """Joint log density of the cells `out`, of which `draws` know nothing, given all others: a mean over the draws, for a few cells."""
    density_SxG = _left_densities(name, draws, cells, y_C, jnp.asarray(_left_out(len(y_C), [out])))
    return float(logsumexp(density_SxG[:, 0]) - np.log(len(density_SxG)))


def interval(
    name: str, draws: Mapping[str, np.ndarray], cells: Cells, y_C: Float[Any, " C"], out: Sequence[int]
) -> dict[str, Float[np.ndarray, " O"]]:
    """Breadth of each of the cells `out`, of which `draws` know nothing, given all others: the middle, and the ends of an interval."""
    mean_SxC, variance_SxC = given_others(name, draws, cells, y_C, tuple(out))
    return {end: expit(np.array([quantile(q, mean_SxC[:, c], variance_SxC[:, c]) for c in out])) for end, q in ENDS.items()}


def left_out(
    name: str, found: Fit, whole: Evidence, table: Table, units: Mapping[str, Sequence[Sequence[int]]], key
) -> dict[str, list[LeftOut]]:
    """Groups of each unit left out in turn; `found` and `whole` are the fit to all cells and its evidence. All fits are made together."""
    out = {unit: loo(name, found, table, groups) for unit, groups in units.items()}
    again = [(unit, g) for unit, those in out.items() for g, x in enumerate(those) if x.refitted]
    held = held_out(name, whole, table, [units[unit][g] for unit, g in again], key)
    for (unit, g), said in zip(again, held, strict=True):
        out[unit][g] = said._replace(k_hat=out[unit][g].k_hat)
    return out


def loo(name: str, found: Fit, table: Table, groups: Sequence[Sequence[int]]) -> list[LeftOut]:
    """Leave one group of cells out, by weighing the draws of a fit to all."""
    left_GxC = jnp.asarray(_left_out(len(table.y_C), groups))
    density_SxG = _left_densities(name, found.draws, table.cells, table.y_C, left_GxC)
    log_weight_GxS, k_hat_G = array_stats.psislw(density_SxG.T)  # of log likelihoods: it turns their sign itself
    score_G, draws = np.asarray(logsumexp(log_weight_GxS + density_SxG.T, axis=-1)), len(density_SxG)
    out = []
    for score, log_weight_S, k_hat in zip(score_G, log_weight_GxS, np.asarray(k_hat_G), strict=True):
        weight_S = np.exp(log_weight_S)
        error = np.sqrt(max(0.0, (weight_S**2).sum() - 1 / draws))  # draws of the chains are taken as independent
        places = np.searchsorted(np.cumsum(weight_S), (np.arange(THINNED) + 0.5) / THINNED)
        some = {k: v[np.minimum(places, draws - 1)] for k, v in found.draws.items()}
        out.append(LeftOut(float(score), float(error), some, float(k_hat)))
    return out


def held_out(name: str, whole: Evidence, table: Table, groups: Sequence[Sequence[int]], key) -> list[LeftOut]:
    """A hypothesis fitted without the cells of each group in turn, and what it says of them; `whole`: its evidence of all cells."""
    k_fit, k_bridge = random.split(key)
    without_GxC = np.asarray(table.cells.counted_C) * (1 - _left_out(len(table.y_C), groups))
    found = fits(name, table.cells, [Problem(table.y_C, counted_C) for counted_C in without_GxC], k_fit, SHORT)
    out = []
    for g, (its, counted_C) in enumerate(zip(found, without_GxC, strict=True)):
        rest = table.cells._replace(counted_C=jnp.asarray(counted_C, jnp.float32))
        part = evidence(name, its, rest, table.y_C, random.fold_in(k_bridge, g))
        error = float(np.hypot(whole.error, part.error))
        out.append(LeftOut(whole.value - part.value, error, thinned(its), np.nan, part.failures))
    return out


def folds(table: Table) -> dict[tuple[str, str], list[int]]:
    """{(what is varied, level): its cells}, of everything with two levels or more; a level of more than two thirds of all cells is
    no fold: too little would be left.
    """
    out = {}
    for column, level_C in table.levels.items():
        levels = list(dict.fromkeys(level_C))
        for level in levels if len(levels) > 1 else ():
            fold = [i for i, x in enumerate(level_C) if x == level]
            if len(fold) <= 2 / 3 * len(level_C):
                out[column, level] = fold
    return out


def by_cell(table: Table) -> list[list[int]]:
    """Every cell a group."""
    return [[i] for i in range(len(table.y_C))]


def by_base(table: Table) -> list[list[int]]:
    """All cells on a pretrained network a group, whatever their experiment."""
    network_C = np.array(table.pretrained)[np.asarray(table.cells.base_C)]
    return [np.flatnonzero(network_C == name).tolist() for name in table.networks]


def stacking(scores: Mapping[str, Float[Any, " G"]]) -> dict[str, float]:
    """Weights w >= 0 that sum to 1 and make sum_g log sum_k w_k p_k(y_g) greatest (it is concave: expectation-maximisation finds it)."""
    log_p_KxG = np.stack([np.asarray(s, float) for s in scores.values()])
    p_KxG = np.exp(log_p_KxG - log_p_KxG.max(axis=0))
    w_K = np.full(len(p_KxG), 1 / len(p_KxG))
    for _ in range(20_000):
        new_K = (w_K[:, None] * p_KxG / (w_K @ p_KxG)).mean(axis=1)
        w_K, change = new_K, np.abs(new_K - w_K).max()
        if change < 1e-7:
            break
    return dict(zip(scores, w_K.tolist(), strict=True))


def difference(
    of_G: Float[Any, " G"], minus_G: Float[Any, " G"], cells_G: Real[Any, " G"], family_G: Shaped[np.ndarray, " G"] | None = None
) -> tuple[float, float]:
    """Sum over groups of the differences of two scores (nats), and its standard error, from groups of so many cells each.

    The error is the jackknife's, of the difference per cell when each group is left out in turn, times the cells: groups of many cells
    weigh more, and are not taken for noise because of that. Of groups that are all as large it is that of a sum of so many draws.
    Groups of one family are left out together: they vary together.
    """
    diff_G, cells_G = np.asarray(of_G, float) - np.asarray(minus_G, float), np.asarray(cells_G, float)
    if family_G is not None:
        place_G = np.unique(family_G, return_inverse=True)[1]
        diff_G, cells_G = (np.bincount(place_G, weights=x) for x in (diff_G, cells_G))
    groups, total, cells = len(diff_G), diff_G.sum(), cells_G.sum()
    if groups < 2:
        return float(total), float("inf")
    without_G = (total - diff_G) / (cells - cells_G)
    return float(total), float(cells * np.sqrt((groups - 1) * without_G.var()))


def evidence(name: str, found: Fit, cells: Cells, y_C: Float[Any, " C"], key, stretch: float = 1.0) -> Evidence:
    """Log marginal likelihood by bridge sampling from a normal fitted to half of the draws, in coordinates without bounds.

    `found`: the fit under priors so stretched.
    """
    plain, log_joint = (partial(f, cells, jnp.asarray(y_C, jnp.float32), stretch) for f in unconstrained(name))
    z = plain(_jax(found.draws))
    flat_SxP = np.concatenate([np.asarray(x, float).reshape(len(x), -1) for x in z.values()], axis=1)
    shapes = {k: x.shape[1:] for k, x in z.items()}
    first, second = flat_SxP[::2], flat_SxP[1::2]
    proposal = stats.multivariate_normal(first.mean(axis=0), np.atleast_2d(np.cov(first.T)))  # pyright: ignore[reportArgumentType]
    drawn = proposal.rvs(len(second), np.random.default_rng(np.asarray(random.key_data(key)).astype(np.uint32))).reshape(len(second), -1)

    def log_ratio(points: np.ndarray) -> np.ndarray:
        out, at = {}, 0
        for k, shape in shapes.items():
            size = int(np.prod(shape, dtype=int))
            out[k], at = jnp.asarray(points[:, at : at + size].reshape(-1, *shape), jnp.float32), at + size
        return np.asarray(log_joint(out), float) - np.atleast_1d(proposal.logpdf(points))

    value, error = bridge(log_ratio(second), log_ratio(drawn))
    return Evidence(value, error, found.failures + (() if error < 0.2 else (f"bridge error {error:.2f} nats",)))


def bridge(posterior_S: Float[np.ndarray, " S"], proposal_S: Float[np.ndarray, " S"]) -> tuple[float, float]:
    """Root of Meng and Wong's equation: log Z and its error, from log(q / g) at draws of the posterior q / Z and of the proposal g.

    >>> import numpy as np
    >>> from bayesgen.infer.compare import bridge
    >>> bridge(np.full(10, 3.0), np.full(10, 3.0))[0]  # q = e^3 g everywhere
    3.0
    """
    n, m = len(posterior_S), len(proposal_S)
    share = np.log(n / (n + m)), np.log(m / (n + m))

    def terms(log_z: float) -> tuple[np.ndarray, np.ndarray]:
        """Logs of what stands below and above: g / (s1 q/Z + s2 g) at posterior draws, q/Z / (...) at proposal draws."""
        below = -np.logaddexp(share[0] + posterior_S - log_z, share[1])
        above = proposal_S - log_z - np.logaddexp(share[0] + proposal_S - log_z, share[1])
        return below, above

    def gap(log_z: float) -> float:
        below, above = terms(log_z)
        return float(logsumexp(above) - np.log(m) - logsumexp(below) + np.log(n))

    lowest, highest = min(posterior_S.min(), proposal_S.min()) - 1, max(posterior_S.max(), proposal_S.max()) + 1
    log_z = _root(gap, lowest, highest)
    below, above = (np.exp(t - t.max()) for t in terms(log_z))
    spread = above.var() / above.mean() ** 2 / m + below.var() / below.mean() ** 2 / n  # draws of the chains are taken as independent
    return log_z, float(np.sqrt(spread))


def thinned(found: Fit, most: int = THINNED) -> dict[str, np.ndarray]:
    """Some of the draws, evenly."""
    total = len(next(iter(found.draws.values())))
    some = np.linspace(0, total - 1, min(most, total)).astype(int)
    return {k: v[some] for k, v in found.draws.items()}


def given_others(name: str, draws: Mapping[str, np.ndarray], cells: Cells, y_C, out: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (S, C) of what is measured of the cells `out`, given the other cells."""
    mean_SxC = means_of(name)(cells, _jax(draws))
    spread = {k: jnp.asarray(draws[k]) for k in SPREADS}
    known_C = jnp.ones(len(y_C)).at[jnp.asarray(out)].set(0)
    mean, variance = _conditional(mean_SxC, spread, cells, jnp.asarray(y_C, jnp.float32), known_C)
    return np.asarray(mean, float), np.asarray(variance, float)


def _jax(draws: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    return {k: jnp.asarray(v) for k, v in draws.items()}


@jax.jit
def _conditional(mean_SxC, spread, cells: Cells, y_C, counted_C):
    def one(x):
        mean_C, spread = x
        return Nested(mean_C, cells.variance_C, counted_C, cells.base_C, cells.experiment_B, **spread).given_counted(y_C)

    return jax.lax.map(one, (mean_SxC, spread), batch_size=BATCH)


def _left_out(cells: int, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """1 where a cell belongs to a group, (G, C)."""
    out = np.zeros((len(groups), cells), np.float32)
    for g, group in enumerate(groups):
        out[g, list(group)] = 1
    return out


def _left_densities(name: str, draws: Mapping[str, np.ndarray], cells: Cells, y_C, left_GxC) -> np.ndarray:
    """Of groups given all others, log p(y_g | y_others, draw), (S, G): the density of all, less that of all others."""
    mean_SxC = means_of(name)(cells, _jax(draws))
    spread = {k: jnp.asarray(draws[k]) for k in SPREADS}
    return np.asarray(_densities(mean_SxC, spread, cells, jnp.asarray(y_C, jnp.float32), left_GxC), float)


@jax.jit
def _densities(mean_SxC, spread, cells: Cells, y_C, left_GxC):
    def one(x):
        mean_C, spread = x

        def density(counted_C):
            return Nested(mean_C, cells.variance_C, counted_C, cells.base_C, cells.experiment_B, **spread).log_prob(y_C)

        counted_C = jnp.ones_like(y_C)
        return density(counted_C) - jax.vmap(lambda left_C: density(counted_C - left_C))(left_GxC)

    return jax.lax.map(one, (mean_SxC, spread))


def quantile(q: float, mean_S: np.ndarray, variance_S: np.ndarray, weight_S: np.ndarray | None = None) -> float:
    """Of a mixture of normals, of equal weights unless they are given (sum 1)."""
    sd = np.sqrt(variance_S)
    ends = (mean_S - 8 * sd).min(), (mean_S + 8 * sd).max()
    return _root(lambda x: np.average(ndtr((x - mean_S) / sd), weights=weight_S) - q, *ends)


def _root(of, low: float, high: float) -> float:
    return float(optimize.brentq(of, low, high))  # pyright: ignore[reportArgumentType]
