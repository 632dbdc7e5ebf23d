"""The local learning coefficient: how fast the volume of parameters about as good as w* grows with the loss allowed.

    llc = n_beta (E[L(w)] - L(w*)),    w ~ exp(-n_beta L(w) - gamma |w - w*|^2 / 2)

Half the number of parameters where the loss is a full-rank quadratic, less where it is flatter. The usual n_beta is n / log n,
with n the number of *data* (not of a batch) that L is the mean of.

At finite n_beta this is not the asymptotic coefficient: w1^2 w2^2 has 1/2 (with a logarithm) and gives .361 at n_beta = 145 and gamma = 1.
Known answers must be integrals at the same n_beta and gamma. The tie of strength gamma takes away from it: on a quadratic with
eigenvalues h what remains is `localised` = sum n_beta h / (n_beta h + gamma) / 2.

A tie that is stronger than the data (gamma above n_beta h) leaves sum n_beta h / gamma / 2, which grows with n_beta, depends on how the
parameters are written and counts no volume. `tied` is that number, from draws of the tie alone: a coefficient near it is the tie's, and
fails. Choose gamma well below n_beta times the curvatures that are to count.

Source: Lau et al. (arXiv 2308.12108). Where we differ: L(w*) and L(w) are of the whole data, the chains are Hamiltonian where the full
loss is affordable, and a value comes with the reasons not to trust it.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random
from jaxtyping import Array, Float, PyTree

from bayesgen.estimate import Number, Numbers
from bayesgen.estimate.sampling import Chains, chains_mean, hmc, sgld

TIED = 0.5  # share of what the tie alone gives above which a coefficient is the tie's
BIAS = 0.025  # share that a coefficient may change when a Langevin step is halved: its bias is about twice that


class LLC(NamedTuple):
    """The coefficient and what says whether to trust it."""

    value: float
    error: float  # Monte-Carlo standard error
    r_hat: float
    effective: float  # independent draws
    failures: tuple[str, ...]  # none: trust it
    tied: float = float("nan")  # what the tie alone gives, where it was asked


def default_n_beta(n: int) -> float:
    """N / log n: the number of data, at the temperature 1 / log n (Watanabe 2013).

    >>> from bayesgen.estimate.llc import default_n_beta
    >>> round(default_n_beta(208), 2)
    38.97
    """
    if n < 2:
        raise ValueError(f"n is {n}; the temperature 1 / log n needs at least 2 data")
    return float(n / np.log(n))


def llc(
    loss: Callable[[PyTree], Array],
    w: PyTree,
    key: Array,
    *,
    n_beta: Number,
    gamma: Number = 1.0,
    minibatch: Callable[[PyTree, Array], Array] | None = None,
    **sampler,
) -> LLC:
    """The local learning coefficient of `loss` at `w`.

    Args:
        loss: the mean over n data; a scalar of any pytree.
        w: the point whose surroundings are measured.
        key: of the chains.
        n_beta: number of data times inverse temperature; `default_n_beta(n)` is the usual one.
        gamma: strength of the tie to w.
        minibatch: (w, key) -> an unbiased estimate of `loss`; none: the full loss and Hamiltonian chains.
        sampler: what else `sampling.hmc`, or with a minibatch `sampling.sgld`, takes.

    It fails where its chains' diagnostics fail, where w is no minimum, where the tie decides, and with a minibatch where half the step
    gives another value, which no diagnostic of the chains shows (this takes three times as long).

    >>> import jax.numpy as jnp
    >>> from jax import random
    >>> from bayesgen.estimate.llc import llc
    >>> found = llc(lambda w: (w**2).sum(), jnp.zeros(2), random.key(0), n_beta=145)
    >>> bool(abs(found.value - 2 * 0.498) < 3 * found.error), found.failures  # two quadratics, less what the tie takes
    (True, ())
    >>> noisy = lambda w, key: ((w + random.normal(key, (2,)) / 30) ** 2).sum()  # as of a batch: unbiased, but for a constant
    >>> found = llc(lambda w: (w**2).sum(), jnp.zeros(2), random.key(0), n_beta=145, minibatch=noisy, step=1e-4, draws=4000)
    >>> bool(abs(found.value - 2 * 0.498) < 3 * found.error + 0.02), found.failures
    (True, ())
    """
    if minibatch is None:
        (found,) = hmc(loss, w, key, n_betas=jnp.asarray([n_beta], dtype=float), gamma=gamma, **sampler)
        return _against_the_tie(coefficient(found, loss(w), n_beta), loss, w, key, n_beta, gamma)

    def langevin(step, key, **more):
        of = {**sampler, **more, "step": step}
        return coefficient(sgld(loss, minibatch, w, key, n_beta=n_beta, gamma=gamma, **of), loss(w), n_beta)

    if "step" not in sampler:
        raise ValueError("a minibatch needs a `step`: the size of the Langevin steps, well below 1 / (n_beta times the largest curvature)")
    step, defaults = sampler["step"], inspect.signature(sgld).parameters
    longer = {k: 2 * sampler.get(k, defaults[k].default) for k in ("warmup", "thin")}  # as far in half the steps
    found, half = langevin(step, key), langevin(step / 2, random.fold_in(key, 1), **longer)
    apart = abs(found.value - half.value)
    if np.isfinite(found.value) and not apart <= max(3 * float(np.hypot(found.error, half.error)), BIAS * abs(half.value)):
        found = found._replace(failures=(*found.failures, f"the step is too long: half of it gives {half.value:.3g}"))
    return _against_the_tie(found, loss, w, key, n_beta, gamma)


def _against_the_tie(found: LLC, loss, w, key, n_beta, gamma) -> LLC:
    if not float(gamma) > 0:
        return found
    alone = float(tied(loss, w, key, n_beta=n_beta, gamma=gamma))
    said = f"the tie decides, which alone gives {alone:.3g}: lower gamma"
    return found._replace(tied=alone, failures=(*found.failures, *([said] if found.value > TIED * alone else [])))


def coefficient(found: Chains, at: Number, n_beta: Number) -> LLC:
    """The coefficient from chains that were drawn already; `at` is the loss at w.

    >>> import jax.numpy as jnp
    >>> from jax import random
    >>> from bayesgen.estimate.llc import coefficient
    >>> from bayesgen.estimate.sampling import split_hmc
    >>> chains = split_hmc(lambda w: (w**2).sum(), jnp.zeros(10), random.key(0), n_beta=145, gamma=1.0, draws=1000)
    >>> found = coefficient(chains, 0.0, 145)
    >>> bool(abs(found.value - 10 * 0.498) < 3 * found.error), found.failures
    (True, ())
    """
    mean = chains_mean(np.asarray(n_beta) * (np.asarray(found.loss, float) - np.asarray(at)), found.divergences)
    failures = list(mean.failures)
    if mean.value + 2 * mean.error < 0:
        failures.append("below zero: w is no minimum, the chains found better")
    return LLC(mean.value, mean.error, mean.r_hat, mean.effective, tuple(failures))


def localised(eigenvalues: Numbers, n_beta: Number, gamma: Number) -> float:
    """The coefficient of a quadratic with these eigenvalues under the tie: sum n_beta h / (n_beta h + gamma) / 2.

    >>> from bayesgen.estimate.llc import localised
    >>> round(localised([2.0], 145, 1.0), 3)
    0.498
    """
    h = np.asarray(eigenvalues, float)
    return float((n_beta * h / (n_beta * h + gamma)).sum() / 2)


def tied(loss: Callable[[PyTree], Array], w: PyTree, key: Array, *, n_beta: Number, gamma: Number, draws: int = 100) -> Float[Array, ""]:
    """The coefficient if the tie alone held the draws: n_beta (E[L(w')] - L(w)) with w' ~ N(w, 1 / gamma). On a quadratic above the
    coefficient, by a factor of 1 + n_beta h / gamma in each direction. Can be jitted.

    >>> import jax.numpy as jnp
    >>> from jax import random
    >>> from bayesgen.estimate.llc import localised, tied
    >>> for gamma in (1.0, 1e4):  # a tie that the data overrule, and one that overrules them
    ...     of_tie = tied(lambda w: (w**2).sum(), jnp.zeros(1000), random.key(0), n_beta=145, gamma=gamma)
    ...     print(round(localised([2.0], 145, gamma) * 1000 / float(of_tie), 2))
    0.0
    0.97
    """
    away = jax.vmap(lambda k: loss(optax.tree.add_scale(w, gamma**-0.5, optax.tree.random_like(k, w, random.normal))))
    return n_beta * (away(random.split(key, draws)).mean() - loss(w))
