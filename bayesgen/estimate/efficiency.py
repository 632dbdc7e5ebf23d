"""Efficiency: the least norm that reaches a loss.

Two ways to ask it of an update w, both relative to a base at w = 0:

    along a ray           loss(c w), c >= 0: what is left of a trained update when it is shrunk (c = 0 the base, c = 1 the update)
    along the frontier    min loss(w) over |w| <= bound: what training finds when it may go no further

and rho*(l), the least norm at which a curve reaches the loss l. Two kinds of solution are compared by the gap
log rho*_narrow - log rho*_broad at the same loss.

Source: rays as in Turner et al. (arXiv 2506.11613). Where we differ: a ray says what its own endpoint costs, not what the
cheapest solution of that kind costs, so the frontier is given beside it; their norm of a low-rank update lacked its scale.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from bayesgen.estimate import Number, Numbers

ON = 1e-4  # share of a bound below it within which a norm is on it: float32, projected


def along_ray(loss: Callable[[PyTree], Array], w: PyTree, scales: Numbers) -> Float[Array, " S"]:
    """loss(c w) for every c of `scales`.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.efficiency import along_ray
    >>> along_ray(lambda w: jnp.sum((w - 2.0) ** 2), jnp.array([2.0]), [0.0, 0.5, 1.0]).tolist()
    [4.0, 1.0, 0.0]
    """
    return jax.lax.map(lambda c: loss(optax.tree.scale(c, w)), jnp.asarray(scales, dtype=float))


def shrink(s: Float[Array, "... n"], bound: float | int | Float[Array, "..."]) -> Float[Array, "... n"]:
    """The point nearest to `s` >= 0 whose sum is at most `bound`: max(s - t, 0), with the least t >= 0 that does it.

    Applied to singular values this is the projection onto a ball of the nuclear norm. Source: Duchi et al. (ICML 2008).

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.efficiency import shrink
    >>> shrink(jnp.array([3.0, 1.0]), 2.0).tolist()
    [2.0, 0.0]
    """
    bound = jnp.asarray(bound)[..., None]
    ordered = -jnp.sort(-s, axis=-1)
    excess = (jnp.cumsum(ordered, axis=-1) - bound) / jnp.arange(1, s.shape[-1] + 1)
    kept = (ordered > excess).sum(axis=-1, keepdims=True)  # how many stay above zero
    t = jnp.take_along_axis(excess, jnp.maximum(kept, 1) - 1, axis=-1)
    return jnp.maximum(s - jnp.maximum(t, 0), 0)


def within_frobenius(w: PyTree, bound: Number) -> PyTree:
    """The nearest point with Euclidean norm (Frobenius, over all leaves) of at most `bound`.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.efficiency import within_frobenius
    >>> within_frobenius(jnp.array([3.0, 4.0]), 2.5).tolist()
    [1.5, 2.0]
    """
    bound = jnp.maximum(bound, 0)  # nothing has a norm below 0
    norm = optax.tree.norm(w)
    return optax.tree.scale(jnp.minimum(1.0, bound / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)), w)


def within_nuclear(w: PyTree, bound: Number) -> PyTree:
    """The nearest point whose singular values, of all leaves (matrices) together, sum to at most `bound`.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.efficiency import within_nuclear
    >>> within_nuclear(jnp.diag(jnp.array([3.0, 1.0])), 2.0).round(5).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    leaves, tree = jax.tree.flatten(w)
    if any(x.ndim != 2 for x in leaves):
        shapes = [x.shape for x in leaves]
        raise ValueError(f"leaves of shapes {shapes}; a nuclear norm is of matrices: leave the others out, or reshape them")
    split = [jnp.linalg.svd(x, full_matrices=False) for x in leaves]
    kept = shrink(jnp.concatenate([s for _, s, _ in split]), bound)
    ends = np.cumsum([len(s) for _, s, _ in split])[:-1]
    return jax.tree.unflatten(tree, [(u * s) @ vt for (u, _, vt), s in zip(split, jnp.split(kept, ends), strict=True)])


class Frontier(NamedTuple):
    """The least loss found under each of N bounds."""

    w: PyTree  # leading axis N
    loss: Float[Array, " N"]
    residual: Float[Array, " N"]  # length of the projected gradient: near 0 where no direction within the bound lowers the loss


def frontier(
    loss: Callable[[PyTree], Array],
    w: PyTree,
    bounds: Numbers,
    rate: Number,
    steps: int,
    within: Callable[[PyTree, Array], PyTree] = within_frobenius,
) -> Frontier:
    """Gradient descent from `w` under each bound on the norm, projecting after every step: w' = within(w - rate grad L(w), bound).

    It takes no optimiser, since projected steps of Adam do not come to rest at the least loss (`lagrangian_gradient`).

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.efficiency import frontier
    >>> found = frontier(lambda w: jnp.sum((w - 3.0) ** 2), jnp.zeros(1), [0.0, 1.0, 5.0], 0.1, 200)
    >>> [round(x, 3) for x in found.loss.tolist()]
    [9.0, 4.0, 0.0]
    """
    _at_least_zero("bounds", bounds)
    w = jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.result_type(x, float)), w)

    def train(bound):
        def step(w, _):
            return within(optax.tree.add_scale(w, -rate, jax.grad(loss)(w)), bound), None

        found, _ = jax.lax.scan(step, within(w, bound), length=steps)
        left = optax.tree.norm(optax.tree.sub(step(found, None)[0], found)) / rate
        return Frontier(found, loss(found), left)

    return jax.vmap(train)(jnp.asarray(bounds, dtype=float))


def lagrangian_gradient(norm: Callable[[PyTree], Array], w: PyTree, gradient: PyTree, bound: Number) -> PyTree:
    """What an adaptive optimiser is given in place of the gradient g of a loss, that it may find the least loss with norm(w) <= bound.

        g                inside
        g + mu n         on the bound, with n = grad norm(w) and mu = max(0, -<g, n> / <n, n>)

    It vanishes where no direction within the bound lowers the loss, and there alone; so any optimiser that rests where its gradient
    vanishes rests there, if it is put back to the bound after every step. Projected steps P g of Adam, without mu, rest where P g
    points straight out, which is somewhere else.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.efficiency import lagrangian_gradient
    >>> w = jnp.array([1.0, 0.0])
    >>> of = lambda gradient: lagrangian_gradient(jnp.linalg.norm, w, jnp.array(gradient), 1.0).tolist()
    >>> of([-5.0, 2.0]), of([5.0, 2.0])  # what led out is gone; what leads in is not
    ([0.0, 2.0], [5.0, 2.0])
    """
    at, out = jax.value_and_grad(norm)(w)
    led = jnp.asarray(optax.tree.vdot(gradient, out))
    share = -led / jnp.maximum(optax.tree.vdot(out, out), jnp.finfo(at.dtype).tiny)
    mu = jnp.where(at >= bound * (1 - ON), jnp.maximum(share, 0), 0)
    return optax.tree.add_scale(gradient, mu, out)


def least_norm(norms: Numbers, losses: Numbers, target: Number) -> float:
    """rho*: the least norm at which a curve (norms ascending) has a loss of at most `target`; inf if it never does.

    Straight lines between the points; what comes after the first crossing does not matter.

    >>> from bayesgen.estimate.efficiency import least_norm
    >>> least_norm([0.0, 1.0, 2.0], [3.0, 2.0, 0.0], 1.0)
    1.5
    """
    norms, losses = np.asarray(norms, float), np.asarray(losses, float)
    if norms.shape != losses.shape or not norms.size:
        raise ValueError(f"{norms.size} norms and {losses.size} losses; expected one loss for each norm, and one norm at least")
    if (np.diff(norms) < 0).any():
        raise ValueError("norms must ascend")
    if np.isnan(target):
        raise ValueError("target is nan; expected a loss")
    if not np.isfinite(losses).all():
        raise ValueError("losses must be finite")
    reached = np.flatnonzero(losses <= target)
    if not reached.size:
        return float("inf")
    i = reached[0]
    if i == 0:
        return float(norms[0])
    share = (losses[i - 1] - target) / (losses[i - 1] - losses[i])
    return float(norms[i - 1] + share * (norms[i] - norms[i - 1]))


def _at_least_zero(name: str, values: Numbers):
    if not (np.asarray(values, float) >= 0).all():
        raise ValueError(f"{name} are {np.asarray(values).tolist()}; a norm is at least 0")
