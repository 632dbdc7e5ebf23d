"""What the tests of beliefs share: one table of eight cells, and what is true of H0 on it by brute force. One shape, compiled once."""

from functools import cache

import jax
import numpy as np
import pytest
from jax import random
from scipy.special import expit, logit, logsumexp

from bayesgen.infer.cells import Table, to_cells
from bayesgen.infer.fit import Fit, fit
from bayesgen.infer.nested import Nested
from tests.infer.tables import SPREAD_PRIORS, A, array, runs

DRAWS = 200_000


@pytest.fixture(scope="session")
def table() -> Table:
    """Eight cells on four bases of two experiments."""
    return to_cells(runs())


@pytest.fixture(scope="session")
def found(table) -> Fit:
    """H0's posterior by NUTS."""
    return fit("H0", table.cells, table.y_C, random.key(1))


class Brute:
    """Many draws of H0's priors, scales times `stretch`, and how likely each makes the cells that are counted."""

    def __init__(self, table: Table, stretch: float = 1.0):
        rng = np.random.default_rng(1)
        self.table = table
        self.draws = {k: stretch * p.rvs(DRAWS, random_state=rng) for k, p in {"a": A, **SPREAD_PRIORS}.items()}
        floor_C, ceiling_C = np.asarray(table.cells.floor_C, float), np.asarray(table.cells.ceiling_C, float)
        self.mean_SxC = logit(floor_C + (ceiling_C - floor_C) * expit(self.draws["a"][:, None]))
        self.likely = cache(self._likely)

    def _likely(self, out: tuple[int, ...] = ()) -> np.ndarray:
        """Log likelihood of every draw, (S,), some cells left out."""
        cells = self.table.cells
        counted_C, y_C = array(np.isin(np.arange(len(self.table.y_C)), out, invert=True)), array(self.table.y_C)
        spread = {k: array(self.draws[k]) for k in SPREAD_PRIORS}

        def one(mean_C, spread):
            return Nested(mean_C, cells.variance_C, counted_C, cells.base_C, cells.experiment_B, **spread).log_prob(y_C)

        return np.asarray(jax.jit(jax.vmap(one))(array(self.mean_SxC), spread), float)

    def log_mean(self, out: tuple[int, ...] = ()) -> float:
        """Log evidence of what is not left out."""
        return float(logsumexp(self.likely(out)) - np.log(DRAWS))

    def weights(self, out: tuple[int, ...] = ()) -> np.ndarray:
        """Of the draws as draws of the posterior, (S,), sum 1."""
        return np.exp(self.likely(out) - logsumexp(self.likely(out)))

    def effective(self, out: tuple[int, ...] = ()) -> float:
        """Independent draws that these weights are worth."""
        return 1 / float((self.weights(out) ** 2).sum())

    def simulation_error(self, out: list[int], draws: float, weighed: bool) -> float:
        """Relative standard error of a mean of p(out | rest) over so many draws of the posterior without `out`; or, of its reciprocal,
        over draws of the posterior with it.
        """
        log_p = self.likely() - self.likely(tuple(out))
        x, weight_S = (np.exp(-log_p), self.weights()) if weighed else (np.exp(log_p), self.weights(tuple(out)))
        mean = weight_S @ x
        return float(np.sqrt(weight_S @ (x / mean - 1) ** 2 / draws))


@pytest.fixture(scope="session")
def brute(table) -> Brute:
    """H0 on the table by brute force."""
    return Brute(table)
