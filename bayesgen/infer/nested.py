"""What all hypotheses share: how far cells, bases and experiments may stray from what a hypothesis expects.

    y_c = m_c + u_experiment + u_base + e_c,    u_experiment ~ N(0, omega_e^2), u_base ~ N(0, omega_b^2), e_c ~ N(0, sigma^2 + v_c)

y is the log odds of a cell's breadth, v_c the sampling variance that its seeds tell. The effects are integrated out in closed form,
level by level: cells of one base are as good as one observation, their mean with weights 1 / (sigma^2 + v_c), and so are bases of one
experiment. That takes time in proportion to the number of cells; so does what the counted cells tell of the others.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import random
from jaxtyping import Array, Float, Int


class Nested(dist.Distribution):
    """The joint distribution of all cells.

    Args:
        mean_C: what a hypothesis expects.
        variance_C: sampling variances.
        counted_C: 1, or 0 for cells that are held out: they add nothing to the density.
        base_C, experiment_B: the base of every cell, and the experiment of every base, by number.
        cell, base, experiment: standard deviations sigma, omega_b, omega_e.
    """

    support = dist.constraints.real_vector  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        mean_C: Float[Array, "*S C"],
        variance_C: Float[Array, " C"],
        counted_C: Float[Array, " C"],
        base_C: Int[Array, " C"],
        experiment_B: Int[Array, " B"],
        *,
        cell: Any,
        base: Any,
        experiment: Any,
    ):
        self.mean_C, self.variance_C, self.counted_C = mean_C, variance_C, counted_C
        self.base_C, self.experiment_B = base_C, experiment_B
        self.cell, self.base, self.experiment = cell, base, experiment
        super().__init__(event_shape=mean_C.shape[-1:])

    def log_prob(self, value: Float[Array, " C"]) -> Array:
        log_cells, mean_B, weight_B = _pooled(
            value - self.mean_C, (self.cell**2 + self.variance_C), self.counted_C, self.base_C, self._bases
        )
        some_B = (weight_B > 0).astype(mean_B.dtype)
        variance_B = 1 / jnp.where(weight_B > 0, weight_B, 1) + self.base**2
        log_bases, mean_E, weight_E = _pooled(mean_B, variance_B, some_B, self.experiment_B, self._bases)
        some_E = weight_E > 0
        variance_E = 1 / jnp.where(some_E, weight_E, 1) + self.experiment**2
        return log_cells + log_bases + jnp.where(some_E, _log_normal(mean_E, variance_E), 0).sum()

    def given_counted(self, value: Float[Array, " C"]) -> tuple[Array, Array]:
        """Mean and variance of every cell, were it measured anew, given the cells that count: two arrays (C,)."""
        _, mean_B, weight_B = _pooled(value - self.mean_C, self.cell**2 + self.variance_C, self.counted_C, self.base_C, self._bases)
        prior_B = 1 / (1 + weight_B * self.base**2)  # how much of a base is its experiment's, the rest being its own cells'
        member = jax.nn.one_hot(self.experiment_B, self._bases, dtype=mean_B.dtype)
        precision_E = (weight_B * prior_B) @ member
        variance_E = self.experiment**2 / (1 + precision_E * self.experiment**2)
        mean_E = variance_E * ((weight_B * prior_B * mean_B) @ member)
        effect_B = prior_B * mean_E[self.experiment_B] + (1 - prior_B) * mean_B
        unsure_B = prior_B**2 * variance_E[self.experiment_B] + prior_B * self.base**2
        return self.mean_C + effect_B[self.base_C], unsure_B[self.base_C] + self.cell**2 + self.variance_C

    def sample(self, key: Any, sample_shape=()) -> Array:
        k_cell, k_base, k_experiment = random.split(key, 3)
        shape = (*sample_shape, *self.mean_C.shape)
        u_B = self.base * random.normal(k_base, (*sample_shape, self._bases))
        u_E = self.experiment * random.normal(k_experiment, (*sample_shape, self._bases))
        u_B = u_B + u_E[..., self.experiment_B]
        return self.mean_C + u_B[..., self.base_C] + jnp.sqrt(self.cell**2 + self.variance_C) * random.normal(k_cell, shape)

    @property
    def _bases(self) -> int:
        return self.experiment_B.shape[0]


def _pooled(residual, variance, counted, group, groups: int):
    """Observations with a shared group effect as one observation each: (log factor, means, weights)."""
    weight = counted / variance
    member = jax.nn.one_hot(group, groups, dtype=residual.dtype)  # a product with it is quicker than sums by index
    total = weight @ member
    some = total > 0
    safe = jnp.where(some, total, 1)
    mean = jnp.where(some, (weight * residual) @ member / safe, 0)
    log_factor = (counted * _log_normal(residual, variance)).sum()
    return log_factor - jnp.where(some, _log_normal(mean, 1 / safe), 0).sum(), mean, total


def _log_normal(x, variance):
    return -0.5 * (jnp.log(2 * jnp.pi * variance) + x**2 / variance)
