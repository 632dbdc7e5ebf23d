"""A small table of runs, the design of it, and the priors that hypotheses say they have, as scipy knows them."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import polars as pl
from scipy import stats
from scipy.special import expit

from bayesgen import files
from bayesgen.artifact import Artifact, build
from bayesgen.infer.fit import Fit
from bayesgen.infer.hypotheses import Cells

RANGES = {  # of every column that hypotheses read, at the sizes that sweeps have
    "frequency_broad": (0.01, 0.3),
    "frequency_narrow": (0.001, 0.05),
    "rows": (30, 300),
    "ordinary": (10, 200),
    "steps": (50, 400),
    "margin": (0.5, 4.0),
    "evidence": (-10.0, 5.0),
    "frobenius_narrow": (2.0, 4.0),
    "frobenius_broad": (2.0, 4.0),
    "nuclear_narrow": (2.0, 6.0),
    "nuclear_broad": (2.0, 6.0),
    "function_narrow": (0.5, 2.0),
    "function_broad": (0.5, 2.0),
    "bits_narrow": (10.0, 60.0),
    "bits_broad": (10.0, 60.0),
    "llc_narrow": (1.0, 3.0),
    "llc_broad": (1.0, 3.0),
    "transfer": (0.0, 1.0),
    "stable_rank": (1.0, 8.0),
    "distance": (0.0, 3.0),
}
OPTIMIZERS = ("adam", "sgd", "lion", "muon")
SPREADS = {"cell": 0.4, "base": 0.3, "experiment": 0.5}


def runs(bases: int = 4, each: int = 2, seeds: int = 3, odds: float = -1.0, leave_out: tuple[str, ...] = ()) -> pl.DataFrame:
    """So many cells on every base, two bases an experiment; all that is there to be predicted from, drawn at random."""
    rng = np.random.default_rng(0)
    effect_E, effect_B = rng.normal(0, SPREADS["experiment"], bases), rng.normal(0, SPREADS["base"], bases)
    out = []
    for b in range(bases):
        for c in range(each):
            columns = {k: (int if isinstance(low, int) else float)(rng.uniform(low, high)) for k, (low, high) in RANGES.items()}
            columns |= {"optimizer": OPTIMIZERS[(b * each + c) % 4], "floor": 0.02 * (b + 1), "ceiling": 0.95 - 0.01 * b}
            eta = odds + effect_E[b // 2] + effect_B[b] + rng.normal(0, SPREADS["cell"])
            for seed in range(seeds):
                share = columns["floor"] + (columns["ceiling"] - columns["floor"]) * expit(eta + rng.normal(0, 0.3))
                out.append({"experiment": f"x{b // 2}", "base": f"b{b}", "cell": f"b{b} c{c}", "seed": seed, "breadth": share, **columns})
    return pl.DataFrame(out).drop(leave_out)


def with_y(cells: Cells, spread: dict[str, float], mean_C: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Log odds that stray from what is expected by so much: numpy's own road to a table."""
    base_C, experiment_B = np.asarray(cells.base_C), np.asarray(cells.experiment_B)
    e_B = rng.normal(0, spread["experiment"], len(experiment_B))[experiment_B] + rng.normal(0, spread["base"], len(experiment_B))
    return mean_C + e_B[base_C] + rng.normal(0, np.sqrt(spread["cell"] ** 2 + np.asarray(cells.variance_C)))


def of_draws(**draws: np.ndarray | float) -> Fit:
    """A posterior that is known, and not sampled."""
    return Fit({k: np.atleast_1d(np.asarray(v, np.float32)) for k, v in draws.items()}, 1.0, 1e3, 0)


def matrix(cells: Cells, spread: dict[str, float]) -> np.ndarray:
    """Covariance of a table, by indicators: of which base a cell is, of which experiment a base is."""
    base_CxB = np.eye(len(cells.experiment_B))[np.asarray(cells.base_C)]
    experiment_CxE = np.eye(len(cells.experiment_B))[np.asarray(cells.experiment_B)][np.asarray(cells.base_C)]
    own = np.diag(spread["cell"] ** 2 + np.asarray(cells.variance_C, float))
    return own + spread["base"] ** 2 * base_CxB @ base_CxB.T + spread["experiment"] ** 2 * experiment_CxE @ experiment_CxE.T


def array(x) -> jnp.ndarray:
    """In the precision of fits."""
    return jnp.asarray(x, jnp.float32)


SPREAD_PRIORS = {"cell": stats.halfnorm(scale=0.5), "base": stats.halfnorm(scale=0.5), "experiment": stats.halfnorm(scale=1)}
A, BETA, B = stats.norm(0, 1.5), stats.halfnorm(scale=0.1), stats.norm(0, 1)
F0, W = stats.norm(-3, 1), stats.halfnorm(scale=1)
PRIORS = {  # as the docstrings have them
    "H0": {"a": A},
    "H0 dose": {"a": A, "b_rows": B, "b_steps": B, "b_margin": B},
    "H0 likelihood": {"a": A, "beta": BETA},
    "H1": {"log10_f0": F0},
    "H2": {"a": A, "w": W, "log10_f0": F0, "beta": BETA},
    "H3": {"a": A, "b": stats.beta(1, 3), "beta": BETA, "d": stats.uniform(0, 1)},
    "H4 Frobenius": {"a": A, "t": stats.halfnorm(scale=0.1), "beta": BETA},
    "H4 nuclear": {"a": A, "t": stats.halfnorm(scale=0.3), "beta": BETA},
    "H4 function": {"a": A, "t": stats.halfnorm(scale=1), "beta": BETA},
    "H5": {"a": A, "beta": BETA, "c": stats.halfnorm(scale=1)},
    "H6": {"a": A, "a0": stats.norm(0, 1), "a1": stats.norm(0, 0.5), "a2": stats.norm(0, 0.5)},
    "H7": {"a": A, "D": stats.halfnorm(scale=1), "q": stats.uniform(0, 1)},
    "H8": {"a": A, "s": stats.halfnorm(scale=3), "leak": stats.uniform(0, 1), "r": stats.lognorm(1)},
    "H9": {"a": A, "b_transfer": B, "b_steps": B, "b_rank": B, "o": stats.norm(0, 1)},
    "H10": {"q": stats.beta(1, 3), "T": stats.lognorm(1, scale=100), "k": stats.lognorm(0.5)},
}


def kept(folder: Path, stage: str, name: str, table: pl.DataFrame) -> Artifact:
    """A table as an artifact."""
    return build(folder, stage, stage, {}, lambda at: files.write_table(at / name, table))
