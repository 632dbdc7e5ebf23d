"""Stability: how much the loss rises when an update is turned, at equal length, towards a random direction.

For w and a unit direction u orthogonal to it,

    w' = sqrt(1 - eps^2) w + eps |w| u,    |w'| = |w|,    cos(w, w') = sqrt(1 - eps^2).

On a quadratic L(w) = (w - w*)' H (w - w*) / 2 with minimum w*, of d dimensions, the mean rise at the minimum is

    ((1 - sqrt(1 - eps^2))^2 w*' H w* + eps^2 |w*|^2 (tr H - w*' H w* / |w*|^2) / (d - 1)) / 2.

Source: the measure is that of Turner et al. (arXiv 2506.11613) and Soligo et al. (arXiv 2602.07852).
Where we differ: they turn the two factors of a low-rank update a @ b each by itself. The product then has cosine 1 - eps^2 with the
update instead of sqrt(1 - eps^2), and what is measured depends on the gauge: (a g, g^-1 b) is the same update and gets other noise.
`noise_on_factors` is that variant, kept for comparison.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import random
from jaxtyping import Array, Float, PyTree

from bayesgen.estimate import Number


class Rise(NamedTuple):
    """Mean rise of a loss over draws of the noise, its Monte-Carlo standard error, and the loss itself."""

    mean: Float[Array, ""]
    error: Float[Array, ""]
    loss: Float[Array, ""]

    @property
    def relative(self) -> Float[Array, ""]:
        """The mean rise as a share of the loss; nan where the loss is not above zero and has no shares."""
        return jnp.where(self.loss > 0, self.mean / self.loss, jnp.nan)


def orthogonal_noise(key: Array, w: PyTree, eps: Number) -> PyTree:
    """`w` turned by noise of size `eps` in [0, 1], its length kept; all leaves together count as one vector, of two numbers or more.

    >>> import jax.numpy as jnp
    >>> from jax import random
    >>> from bayesgen.estimate.stability import orthogonal_noise
    >>> turned = orthogonal_noise(random.key(0), {"w": jnp.array([3.0, 4.0, 0.0])}, 0.6)["w"]
    >>> bool(jnp.allclose(turned @ jnp.array([3.0, 4.0, 0.0]) / 25, 0.8, atol=1e-6))
    True
    """
    w = jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.result_type(x, float)), w)
    if sum(x.size for x in jax.tree.leaves(w)) < 2:
        raise ValueError("one number has no orthogonal direction")
    noise = optax.tree.random_like(key, w, random.normal)
    along = optax.tree.vdot(noise, w) / jnp.maximum(optax.tree.vdot(w, w), jnp.finfo(jnp.result_type(float)).tiny)
    noise = optax.tree.add_scale(noise, -along, w)
    size = eps * optax.tree.norm(w) / optax.tree.norm(noise)
    return jax.tree.map(lambda x, u: jnp.sqrt(1 - eps**2) * x + size * u, w, noise)


def noise_on_factors(key: Array, factors: PyTree, eps: Number) -> PyTree:
    """The published variant: every leaf turned by itself. Depends on the gauge of a factorised update.

    >>> import jax.numpy as jnp
    >>> from jax import random
    >>> from bayesgen.estimate.stability import noise_on_factors
    >>> turned = noise_on_factors(random.key(0), {"a": jnp.array([[3.0], [4.0]]), "b": jnp.array([[0.0, 1.0]])}, 0.6)
    >>> [round(float(jnp.linalg.norm(x)), 4) for x in (turned["a"], turned["b"])]  # either keeps its length
    [5.0, 1.0]
    """
    leaves, tree = jax.tree.flatten(factors)
    return jax.tree.unflatten(tree, [orthogonal_noise(k, x, eps) for k, x in zip(random.split(key, len(leaves)), leaves, strict=True)])


def stability(loss: Callable[[PyTree], Array], w: PyTree, eps: Number, key: Array, draws: int, noise=orthogonal_noise) -> Rise:
    """Mean of loss(w') - loss(w) over `draws` of the noise.

    Args:
        loss: of the update, any pytree; a scalar.
        w: the update, relative to the base (its length is what the noise keeps).
        eps: size of the noise, the sine of the angle: from 0 to 1, above it nan.
        key: of the draws.
        draws: how many, at least 2.
        noise: `orthogonal_noise` or `noise_on_factors`.

    >>> import jax.numpy as jnp
    >>> from jax import random
    >>> from bayesgen.estimate.stability import stability
    >>> rise = stability(lambda w: jnp.sum((w - 1.0) ** 2) / 2, jnp.ones(4), 0.6, random.key(0), 100)
    >>> round(float(rise.mean), 3)  # (0.2**2 * 4 + 0.36 * 4) / 2, whatever the draw, since H is the identity
    0.8
    """
    if draws < 2:
        raise ValueError(f"draws is {draws}; an error needs at least 2")
    at = loss(w)
    rises = jax.lax.map(lambda k: loss(noise(k, w, eps)) - at, random.split(key, draws))
    return Rise(rises.mean(), rises.std(ddof=1) / jnp.sqrt(draws), at)
