"""Evidence: the volume of parameters, weighed by prior and likelihood, that a solution stands for.

    Z = integral exp(-U(w)) dw,    U(w) = n L(w) - log prior(w)

Three roads to log Z, in nats:

    laplace       at a minimum w*: -U(w*) + (d - k)/2 log 2 pi - log det(H) / 2 + log(volume of the orbit)
    thermodynamic integral over b in [0, 1] of -n E_b[L], w ~ prior exp(-n b L)
    wbic          -n E_b[L] at the one temperature b = 1 / log n: equal to log Z up to O(sqrt(log n))

A low-rank update a @ b under a prior that sees only |a| and |b| does not change when both are turned, (a q, q' b) with q orthogonal. The
minimum is then a k-dimensional orbit of equal ones, along which the Hessian is flat and a Gaussian integral does not exist. `laplace`
takes the orbit as a whole: Gaussian across it, its exact volume along it (`rotations`). (Scalings (a g, g^-1 b) are no symmetry of the
prior, which picks the balanced one.)

Sources: Friel, Hurn and Wyse (2014) for the corrected trapezoid and Friel and Pettitt (2008) for the temperatures (k/K)^5;
Watanabe (JMLR 2013). Where we differ: the gauge is integrated out, where common Laplace code for low-rank updates adds a damping
to the flat directions and counts them as information.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree
from scipy.special import gammaln

from bayesgen.estimate import Number
from bayesgen.estimate.llc import default_n_beta
from bayesgen.estimate.sampling import Chains, chains_mean, hmc


class Orbit(NamedTuple):
    """The set of points a symmetry makes equal to w: its tangents there, one a row, and the log of its volume."""

    tangents: Float[np.ndarray, "k d"]
    log_volume: float


class Evidence(NamedTuple):
    """log Z in nats and what says whether to trust it."""

    value: float
    error: float  # Monte-Carlo standard error; 0 where nothing is drawn
    failures: tuple[str, ...]  # none: trust it
    r_hat: float = float("nan")  # the worst of its chains'
    effective: float = float("nan")  # the fewest


def rotations(factors: PyTree) -> Orbit:
    """The orbit of a low-rank update under (a q, q' b), q in O(r), for each pair of a tree {..., "a": (D, r), "b": (r, F)}.

    O(r) has volume 2 prod_{k=2}^{r} |S^{k-1}| when the generators E_ij - E_ji have length 1; their images have the Gram matrix G
    here, and the volume is sqrt(det G) times that. At rank 1 it is two points.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.evidence import rotations
    >>> round(rotations({"a": jnp.ones((3, 1)), "b": jnp.ones((1, 2))}).log_volume, 4)  # log 2
    0.6931
    """
    paths = jax.tree_util.tree_leaves_with_path(factors)
    leaves = {jax.tree_util.keystr(path): x for path, x in paths}
    zeros = [jnp.zeros_like(x) for _, x in paths]
    names, tangents, log_volume = list(leaves), [], 0.0
    for i, name in enumerate(names):
        if not name.endswith("['a']"):
            continue
        beside = name.removesuffix("['a']") + "['b']"
        if beside not in leaves:
            raise ValueError(f"{name} has no {beside} beside it; factors come in pairs, a (D, r) and b (r, F)")
        j = names.index(beside)
        a, b = leaves[name], leaves[beside]
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            raise ValueError(f"{name} is {a.shape} and {beside} is {b.shape}; expected (D, r) and (r, F), one adapter at a time")
        r = a.shape[1]
        if np.linalg.matrix_rank(np.concatenate([np.asarray(a), np.asarray(b).T])) < r:
            raise ValueError(f"{name}: the factors of rank {r} have fewer independent directions; drop the unused ones first")
        images = []
        for x in range(r):
            for y in range(x):
                generator = jnp.zeros((r, r)).at[x, y].set(1.0).at[y, x].set(-1.0)
                moved = list(zeros)
                moved[i], moved[j] = a @ generator, -generator @ b
                images.append(np.concatenate([np.ravel(m) for m in moved]).astype(np.float64))
        sphere = [np.log(2) + k / 2 * np.log(np.pi) - gammaln(k / 2) for k in range(2, r + 1)]  # log |S^(k-1)|
        log_volume += np.log(2) + float(sum(sphere))
        if images:
            gram = np.array(images) @ np.array(images).T
            log_volume += float(np.linalg.slogdet(gram)[1]) / 2
            tangents += images
    if not any(name.endswith("['a']") for name in names):
        raise ValueError(f'no pair of factors named "a" and "b" among {names}')
    size = sum(x.size for _, x in paths)
    return Orbit(np.array(tangents).reshape(-1, size), float(log_volume))


def laplace(energy: Callable[[PyTree], Array], w: PyTree, orbit: Orbit | None = None) -> Evidence:
    """Log Z by a Gaussian around the minimum `w` of the energy U (a sum over the data, prior included with its constant).

    Args:
        energy: U of any pytree; a scalar.
        w: a minimum of it.
        orbit: points equal to w by symmetry; none: w stands alone.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.evidence import laplace
    >>> round(laplace(lambda w: (w**2).sum() / 2, jnp.zeros(3)).value, 3)  # 3/2 log(2 pi)
    2.757
    """
    return gaussian_integral(*curvature(energy, w), orbit)


def curvature(energy: Callable[[PyTree], Array], w: PyTree) -> tuple[Array, Float[Array, " d"], Float[Array, "d d"]]:
    """The energy at `w`, its gradient and its Hessian, of all numbers in one row: the part of `laplace` that can be jitted.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.evidence import curvature
    >>> energy, gradient, hessian = curvature(lambda w: w["a"] ** 2 + w["a"] * w["b"], {"a": jnp.array(1.0), "b": jnp.array(0.0)})
    >>> float(energy), gradient.tolist(), hessian.tolist()
    (1.0, [2.0, 1.0], [[2.0, 1.0], [1.0, 0.0]])
    """
    flat, back = ravel_pytree(w)
    of = lambda v: energy(back(v))  # noqa: E731
    gradient = jax.grad(of)
    columns = jax.lax.map(lambda v: jax.jvp(gradient, (flat,), (v,))[1], jnp.eye(len(flat), dtype=flat.dtype), batch_size=16)
    return of(flat), gradient(flat), columns


def gaussian_integral(energy: Number, gradient: Float[Array, " d"], hessian: Float[Array, "d d"], orbit: Orbit | None = None) -> Evidence:
    """Log of the integral of exp(-U) from the `curvature` of U at its minimum.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.evidence import gaussian_integral
    >>> round(gaussian_integral(1.0, jnp.zeros(2), 4 * jnp.eye(2)).value, 4)  # log(2 pi) - log 4 - 1
    -0.5484
    """
    size, rounding = len(gradient), np.finfo(np.asarray(hessian).dtype).eps
    bend, slope = np.asarray(hessian, np.float64), np.asarray(gradient, np.float64)
    bend = (bend + bend.T) / 2
    k, log_volume = 0, 0.0
    if orbit is not None:
        k, log_volume = len(orbit.tangents), orbit.log_volume
        across = np.linalg.qr(orbit.tangents.T, mode="complete")[0][:, k:]
        bend, slope = across.T @ bend @ across, across.T @ slope
    value = -float(energy)
    if not (np.isfinite(value) and np.isfinite(bend).all() and np.isfinite(slope).all()):
        return Evidence(float("nan"), 0.0, ("the energy or its derivatives at w are not finite",))
    own = np.diag(bend)
    unit = np.sqrt(
        np.where(own > 0, own, 1.0)
    )  # directions in units of their own, that those of different units may be told from flat ones
    bend, slope = bend / np.outer(unit, unit), slope / unit
    eigenvalues = np.linalg.eigvalsh(bend)
    flat_below = rounding * size * abs(eigenvalues).max()  # no more than rounding
    failures = []
    if eigenvalues.min() <= flat_below:
        count = (eigenvalues <= flat_below).sum()
        failures.append(
            f"{count} of {size - k} directions do not curve upwards as far as {hessian.dtype} tells: w is no minimum, or a symmetry is "
            "missing, or parameters of very different sizes need other units"
        )
    decrement = float(slope @ np.linalg.pinv(bend, hermitian=True) @ slope) / 2
    if decrement > 0.1:
        failures.append(f"w is no minimum: a Newton step would lower the energy by {decrement:.2g} nats")
    log_det = float(np.log(np.maximum(eigenvalues, np.finfo(float).tiny)).sum() + 2 * np.log(unit).sum())
    value += (size - k) / 2 * np.log(2 * np.pi) - log_det / 2 + log_volume
    return Evidence(float(value) if not failures else float("nan"), 0.0, tuple(failures))


def thermodynamic_integration(
    loss: Callable[[PyTree], Array], mean: PyTree, key: Array, *, n: int, gamma: Number, temperatures: int = 20, **sampler
) -> Evidence:
    """Log Z of n data with mean loss `loss` (nats) under the prior N(mean, 1/gamma), along b_k = (k/K)^5.

    The integral over b of -n E_b[L] by trapezoids, corrected by the variances, which are the derivatives there. `sampler`: what else
    `sampling.hmc` takes.

    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from jax import random
    >>> from bayesgen.estimate.evidence import thermodynamic_integration
    >>> found = thermodynamic_integration(lambda w: w**2 / 2, jnp.array(0.0), random.key(0), n=10, gamma=1.0)
    >>> bool(abs(found.value + np.log(11) / 2) < 3 * found.error + 0.01)
    True
    """
    _proper(gamma)
    b = powers(temperatures)
    return integral(hmc(loss, mean, key, n_betas=(n * b).tolist(), gamma=gamma, **sampler), b, n)


def powers(temperatures: int) -> Float[np.ndarray, " K"]:
    """The inverse temperatures (k/K)^5, k = 0 ... K: dense where the energy changes fast.

    >>> from bayesgen.estimate.evidence import powers
    >>> powers(2).tolist()
    [0.0, 0.03125, 1.0]
    """
    return (np.arange(temperatures + 1) / temperatures) ** 5


def integral(found: Sequence[Chains], b: Float[np.ndarray, " K"], n: int) -> Evidence:
    """The thermodynamic integral from chains that were drawn already, at the inverse temperatures `b` on n data.

    Its error is that of the draws, and of the rule: a quarter of what leaving out every other temperature changes, of which a rule of the
    fourth order should leave a fifteenth.

    >>> import jax.numpy as jnp
    >>> from jax import random
    >>> from bayesgen.estimate.evidence import integral, powers
    >>> from bayesgen.estimate.sampling import split_hmc
    >>> b, stiff = powers(10), 2.0 ** -jnp.arange(8)
    >>> chains = lambda x, key: split_hmc(lambda w: stiff @ w**2 / 2, jnp.zeros(8), key, n_beta=10 * x, gamma=1.0, draws=1000)
    >>> z = integral([chains(x, key) for x, key in zip(b, random.split(random.key(0), 11))], b, 10)
    >>> bool(abs(z.value + jnp.log(1 + 10 * stiff).sum() / 2) < 3 * z.error), z.failures
    (True, ())
    """
    means = [chains_mean(n * np.asarray(chains.loss, float), chains.divergences) for chains in found]
    failures = [f"at b = {x:.2g}: {f}" for x, m in zip(b, means, strict=True) for f in m.failures]
    e, v = np.array([m.value for m in means]), np.array([np.var(n * np.asarray(chains.loss, float)) for chains in found])
    v_error = v * np.sqrt([2 / max(m.effective, 1.0) for m in means])  # as a Gaussian's
    of_e, of_v = _corrected_trapezoid(b)
    value, drawn = of_e @ e + of_v @ v, np.hypot(of_e * [m.error for m in means], of_v * v_error)
    few = sorted({*range(0, len(b), 2), len(b) - 1})
    coarse_e, coarse_v = _corrected_trapezoid(b[few])
    rule = (value - coarse_e @ e[few] - coarse_v @ v[few]) / 4
    worst = max(m.r_hat for m in means), min(m.effective for m in means)
    return Evidence(float(value), float(np.hypot(np.linalg.norm(drawn), rule)), tuple(failures), *worst)


def _corrected_trapezoid(b: Float[np.ndarray, " K"]) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """The weights of -E and of its slope -var E with which the integral is summed."""
    gap = np.diff(b)
    after, before = np.append(gap, 0), np.insert(gap, 0, 0)
    return -(after + before) / 2, (after**2 - before**2) / 12


def wbic(loss: Callable[[PyTree], Array], mean: PyTree, key: Array, *, n: int, gamma: Number, **sampler) -> Evidence:
    """-n E_b[L] at b = 1 / log n under the prior N(mean, 1/gamma): log Z up to O(sqrt(log n)), from one temperature.

    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from jax import random
    >>> from bayesgen.estimate.evidence import wbic
    >>> found = wbic(lambda w: w**2 / 2, jnp.array(0.0), random.key(0), n=100, gamma=1.0)
    >>> bool(abs(found.value + 100 / (2 * (100 / np.log(100) + 1))) < 3 * found.error)
    True
    """
    _proper(gamma)
    (found,) = hmc(loss, mean, key, n_betas=[default_n_beta(n)], gamma=gamma, **sampler)
    m = chains_mean(-n * found.loss, found.divergences)
    return Evidence(m.value, m.error, m.failures, m.r_hat, m.effective)


def _proper(gamma: Number):
    if not float(gamma) > 0:
        raise ValueError(f"gamma is {gamma}; a prior without a width has no evidence")


def gaussian_energy(loss: Callable[[PyTree], Array], mean: PyTree, n: Number, gamma: Number) -> Callable[[PyTree], Array]:
    """U of n data with mean loss `loss` (nats) under the prior N(mean, 1/gamma), constant included.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.evidence import gaussian_energy, laplace
    >>> round(laplace(gaussian_energy(lambda w: w**2 / 2, jnp.array(0.0), 3.0, 1.0), jnp.array(0.0)).value, 4)  # -log(1 + 3) / 2
    -0.6931
    """
    _proper(gamma)

    def energy(w):
        d = sum(x.size for x in jax.tree.leaves(w))
        away = optax.tree.norm(optax.tree.sub(w, mean), squared=True)
        return n * loss(w) + gamma * away / 2 + d / 2 * jnp.log(2 * jnp.pi / gamma)

    return energy
