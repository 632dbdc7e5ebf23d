"""Significance: how much a direction in weight space matters on text, by KL divergence from the base.

For small c the divergence along c * delta is quadratic, KL = c^2 delta' F delta / 2 + O(c^3), with F the Fisher information of
the predictive distribution: `fisher_norm` is sqrt(delta' F delta), `slope` checks the 2, and `function_norm` is for updates that are not
small what `fisher_norm` is for those that are. A direction is compared with random
ones of equal norm, because any update of that length does something.

Source: the comparison is that of Soligo et al. (arXiv 2602.07852). Where we differ: the divergence is summed over the vocabulary
and averaged over the tokens that count. A mean over the vocabulary too shrinks with words nobody can say; a mean over padding
shrinks with the length of the batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random
from jaxtyping import Array, Float, PyTree

from bayesgen.estimate import Numbers


def kl_divergence(p_logits: Float[Array, "... V"], q_logits: Float[Array, "... V"]) -> Float[Array, "..."]:
    """KL(p || q) in nats, summed over the vocabulary. Words at logit -inf under both (padding) contribute nothing.

    It is the sum of q - p - p log(q / p), of which no term is negative: that of p log(p / q) alone cancels, and where p and q are near
    each other nothing but rounding is left of it.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.significance import kl_divergence
    >>> a, b = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75]))
    >>> round(float(kl_divergence(a, b)), 4)
    0.1438
    """
    log_p, log_q = jax.nn.log_softmax(p_logits), jax.nn.log_softmax(q_logits)
    p = jnp.exp(log_p)
    log_ratio = jnp.where(p > 0, log_q, 0) - jnp.where(p > 0, log_p, 0)
    return jnp.where(p > 0, p * (jnp.expm1(log_ratio) - log_ratio), jnp.exp(log_q)).sum(axis=-1)


def weighted_mean(x: Float[Array, "..."], weight: Float[Array, "..."]) -> Float[Array, ""]:
    """Mean over the places of positive weight: padding, at weight 0, is in neither sum.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.significance import weighted_mean
    >>> float(weighted_mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([1.0, 1.0, 0.0])))
    2.0
    """
    weight = jnp.broadcast_to(weight, x.shape)
    return jnp.where(weight > 0, x * weight, 0).sum() / weight.sum()


def kl_along(
    logits: Callable[[PyTree], Float[Array, "*N V"]],
    delta: PyTree,
    scales: Numbers,
    weight: Float[Array, "*N"] | None = None,
) -> Float[Array, " S"]:
    """KL(base || base + c delta), nats a token, for every c of `scales`.

    Args:
        logits: of an update, any pytree; zeros are the base.
        delta: the direction.
        scales: its multiples.
        weight: of the tokens; none: all alike.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.significance import kl_along
    >>> logits = lambda w: jnp.stack([w, 0 * w])[None]  # one token, two words at even odds: KL = c^2 / 8 for small c
    >>> [round(float(x), 5) for x in kl_along(logits, jnp.array(1.0), [0.0, 0.1, 0.2])]
    [0.0, 0.00125, 0.00499]
    """
    base = logits(optax.tree.zeros_like(delta))
    weight = jnp.ones(base.shape[:-1]) if weight is None else weight
    of = lambda c: weighted_mean(kl_divergence(base, logits(optax.tree.scale(c, delta))), weight)  # noqa: E731
    return jax.lax.map(of, jnp.asarray(scales, dtype=float))


def fisher_norm(
    logits: Callable[[PyTree], Float[Array, "*N V"]], w: PyTree, delta: PyTree, weight: Float[Array, "*N"] | None = None
) -> Float[Array, ""]:
    """sqrt(delta' F delta) at w, F the Fisher information a token: the mean variance, under the model, of the logits' change.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.significance import fisher_norm
    >>> logits = lambda w: jnp.stack([w, 0 * w])[None]  # one token, two words at even odds: F = 1/4
    >>> float(fisher_norm(logits, jnp.array(0.0), jnp.array(2.0)))
    1.0
    """
    at, change = jax.jvp(logits, (w,), (delta,))
    return spread(at, change, weight)


def function_norm(logits: Callable[[PyTree], Float[Array, "*N V"]], delta: PyTree, weight: Float[Array, "*N"] | None = None) -> Array:
    """How far an update moves the function itself: the root of the mean variance, under the base, of the logits' whole change.

    To first order in delta it is the `fisher_norm` at the base.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.significance import function_norm
    >>> logits = lambda w: jnp.stack([w**3, 0 * w])[None]  # one token, two words at even odds
    >>> float(function_norm(logits, jnp.array(2.0)))  # a change of 8 and of 0
    4.0
    """
    base = logits(optax.tree.zeros_like(delta))
    return spread(base, logits(delta) - base, weight)


def spread(base: Float[Array, "*N V"], change: Float[Array, "*N V"], weight: Float[Array, "*N"] | None = None) -> Float[Array, ""]:
    """The root of the mean variance, under the base's words, of a change of their logits; what all words gain alike changes nothing.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.significance import spread
    >>> float(spread(jnp.zeros((1, 2)), jnp.array([[3.0, 1.0]])))
    1.0
    """
    p = jax.nn.softmax(base)
    change = jnp.where(p > 0, change, 0)
    mean = (p * change).sum(axis=-1, keepdims=True)
    variance = (p * (change - mean) ** 2).sum(axis=-1)
    return jnp.sqrt(weighted_mean(variance, jnp.ones(variance.shape) if weight is None else weight))


def slope(scales: Numbers, divergences: Numbers) -> float:
    """Slope of log divergence against log scale: 2 where the quadratic law holds.

    >>> from bayesgen.estimate.significance import slope
    >>> round(slope([0.1, 0.2], [0.01, 0.04]), 3)
    2.0
    """
    if not (np.asarray(divergences, float) > 0).all():
        raise ValueError("a divergence of 0 or less (no more than rounding?) has no logarithm; take larger scales")
    return float(np.polyfit(np.log(np.asarray(scales, float)), np.log(np.asarray(divergences, float)), 1)[0])


def random_like(key: Array, delta: PyTree) -> PyTree:
    """A random update whose every matrix has the singular values of delta's: same norm, same rank, other directions.

    Matrices (..., D, F) get random orthonormal singular vectors; every other leaf a random direction of its length.

    >>> import jax.numpy as jnp
    >>> from jax import random
    >>> from bayesgen.estimate.significance import random_like
    >>> other = random_like(random.key(0), {"w": jnp.diag(jnp.array([3.0, 4.0]))})["w"]
    >>> bool(jnp.allclose(jnp.linalg.svd(other, compute_uv=False), jnp.array([4.0, 3.0]), atol=1e-5))
    True
    """

    def turn(key, x):
        if x.ndim < 2:
            noise = random.normal(key, x.shape)
            return noise * jnp.linalg.norm(x) / jnp.linalg.norm(noise)
        s = jnp.linalg.svd(x, compute_uv=False)
        k_u, k_v, k_sign = random.split(key, 3)
        u, v = (jnp.linalg.qr(random.normal(k, (*x.shape[:-2], n, s.shape[-1])))[0] for k, n in ((k_u, x.shape[-2]), (k_v, x.shape[-1])))
        sign = random.rademacher(k_sign, s.shape, s.dtype)  # a QR fixes the signs of its columns
        return (u * (sign * s)[..., None, :]) @ jnp.swapaxes(v, -1, -2)

    leaves, tree = jax.tree.flatten(delta)
    return jax.tree.unflatten(tree, [turn(k, x) for k, x in zip(random.split(key, len(leaves)), leaves, strict=True)])
