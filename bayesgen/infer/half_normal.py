"""Half-normal priors in coordinates in which they are nearly standard normal.

    x = scale log(1 + e^u),    u = 1.25 z - max(-z, 0)^2 / 2

Half of a half-normal lies below z = 0, the tails are a normal's. NumPyro samples log x, whose prior has a long tail to the left that a
posterior near zero keeps: chains that take steps for that tail diverge where the data turn sharp, or need twice as many.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import Transform

SLOPE = 1.25  # of u at 0: there x grows with z as it would if z were normal


class _Positive(constraints.Constraint):
    """Above zero, of something of a certain scale."""

    def __init__(self, scale: Any):
        self.scale = scale
        super().__init__()

    def __call__(self, x):
        return x > 0

    def tree_flatten(self):
        return (self.scale,), (("scale",), {})


class FromCoordinate(Transform):
    """z to x."""

    domain = constraints.real  # pyright: ignore[reportAssignmentType]
    codomain = constraints.positive  # pyright: ignore[reportAssignmentType]

    def __init__(self, scale: Any):
        self.scale = scale

    def __call__(self, x):
        return self.scale * jax.nn.softplus(_bent(x))

    def _inverse(self, y):
        y = y / self.scale
        u = y + jnp.log(-jnp.expm1(-y))
        left = SLOPE - jnp.sqrt(SLOPE**2 + 2 * jax.nn.relu(-u))
        return jnp.where(u < 0, left, u / SLOPE)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return jnp.log(self.scale) + jax.nn.log_sigmoid(_bent(x)) + jnp.log(SLOPE + jax.nn.relu(-x))

    def tree_flatten(self):
        return (self.scale,), (("scale",), {})


def _bent(z):
    return SLOPE * z - jax.nn.relu(-z) ** 2 / 2


biject_to.register(_Positive)(lambda constraint: FromCoordinate(constraint.scale))


class HalfNormal(dist.HalfNormal):
    """A half-normal prior of a scale."""

    @constraints.dependent_property(is_discrete=False, event_dim=0)  # pyright: ignore[reportArgumentType]
    def support(self):
        """Above zero."""
        return _Positive(self.scale)
