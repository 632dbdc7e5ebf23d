"""Priors in coordinates in which they are standard normals, or nearly.

    half-normal       x = scale log(1 + e^u),    u = 1.25 z - max(-z, 0)^2 / 2
    Beta(1, n)        x = 1 - Phi(-z)^(1/n)      (uniform: n = 1)

Half of a half-normal lies below z = 0, the tails are a normal's. NumPyro samples log x, and the log odds of a share, whose priors have
long tails that a posterior near an end keeps: chains that take steps for the tail diverge where the data turn sharp, or need many times as
many.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr, ndtri
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
    """z to x above zero."""

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


class _Share(constraints.Constraint):
    """Between zero and one, of a prior Beta(1, n)."""

    def __init__(self, n: Any):
        self.n = n
        super().__init__()

    def __call__(self, x):
        return (x >= 0) & (x <= 1)

    def tree_flatten(self):
        return (self.n,), (("n",), {})


class ShareFromCoordinate(Transform):
    """z to x between zero and one."""

    domain = constraints.real  # pyright: ignore[reportAssignmentType]
    codomain = constraints.unit_interval  # pyright: ignore[reportAssignmentType]

    def __init__(self, n: Any):
        self.n = n

    def __call__(self, x):
        return -jnp.expm1(log_ndtr(-x) / self.n)

    def _inverse(self, y):
        below = -jnp.expm1(self.n * jnp.log1p(-y))  # the prior's mass
        return ndtri(jnp.clip(below, 1e-30, 1 - 6e-8))

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        log_normal = -0.5 * (x**2 + jnp.log(2 * jnp.pi))
        return log_normal - jnp.log(self.n) - (1 - 1 / self.n) * log_ndtr(-x)

    def tree_flatten(self):
        return (self.n,), (("n",), {})


biject_to.register(_Share)(lambda constraint: ShareFromCoordinate(constraint.n))


class Share(dist.Beta):
    """A prior Beta(1, n) of a share: flat at n = 1, the smaller the likelier above."""

    def __init__(self, n: float):
        self.n = n
        super().__init__(1.0, n)

    @constraints.dependent_property(is_discrete=False, event_dim=0)  # pyright: ignore[reportArgumentType]
    def support(self):
        """From zero to one."""
        return _Share(self.n)
