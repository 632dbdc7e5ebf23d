"""Chains on a tempered posterior that is tied to a point w0.

    U(w) = n_beta L(w) + gamma |w - w0|^2 / 2,    target exp(-U)

Three samplers. `hmc` (numpyro's NUTS) takes the loss of the whole data and meets the target exactly. So does `split_hmc`, whose steps do
not shorten as parameters multiply: under the tie alone, a Gaussian, they are exact at any length. `sgld` takes noisy gradients,

    w' = w - (step / 2) P grad U(w) + sqrt(step P) xi,    xi ~ N(0, I),

costs a batch a step, and is biased by its step and by the noise of the batches: compare with half the step. The preconditioner P is a fixed
diagonal: it changes the speed and not the target.

Sources: Hoffman and Gelman (JMLR 2014); Neal (arXiv 1206.1901, 5.5.1) and Beskos et al. (Stoch. Proc. Appl. 2011) for the split; Welling
and Teh (ICML 2011); Li et al. (arXiv 1512.07666).
Where we differ from common SGLD code: P does not change while the chains run, and what is kept is the loss of the whole data at the
draws, not of the batches.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random
from jaxtyping import Array, Float, Int, PyTree
from numpyro import diagnostics
from numpyro.infer.hmc import hmc as kernel
from numpyro.infer.hmc_util import dual_averaging

from bayesgen.estimate import Number, Numbers

R_HAT, EFFECTIVE = 1.01, 400  # Vehtari et al. (arXiv 1903.08008)


class Chains(NamedTuple):
    """What the chains saw: C chains, T draws."""

    loss: Float[Array, "C T"]  # of the whole data, or what was watched in its place
    divergences: int | Int[Array, ""]  # trajectories that left the level set (not of sgld)


class Mean(NamedTuple):
    """The mean of a quantity over chains with what says whether to trust it."""

    value: float
    error: float  # Monte-Carlo standard error
    r_hat: float
    effective: float  # number of independent draws it is worth
    failures: tuple[str, ...]  # none: trust it


def chains_mean(x: Float[Array, "C T"] | Float[np.ndarray, "C T"], divergences: int | Int[Array, ""] = 0) -> Mean:
    """Mean over all draws, its error from the effective number of draws, and split R-hat over the chains.

    >>> import jax.numpy as jnp
    >>> from jax import random
    >>> from bayesgen.estimate.sampling import chains_mean
    >>> chains_mean(random.normal(random.key(0), (4, 500))).failures
    ()
    >>> chains_mean(random.normal(random.key(0), (4, 500)) + jnp.arange(4.0)[:, None]).failures[0]
    'R-hat 1.538 > 1.01'
    """
    x = np.asarray(x, float)
    if x.shape[1] < 4:
        raise ValueError(f"{x.shape[1]} draws of each chain; two halves need at least 4")
    if not np.isfinite(x).all():
        return Mean(float("nan"), float("nan"), float("nan"), 0.0, ("the chains left the finite numbers",))
    if np.ptp(x) == 0:
        return Mean(float(x.mean()), float("nan"), float("nan"), 0.0, ("the chains did not move",))
    r_hat, effective = float(diagnostics.split_gelman_rubin(x)), float(diagnostics.effective_sample_size(x))
    failures = [f"{int(divergences)} divergent trajectories"] if divergences else []
    if not r_hat <= R_HAT:
        failures.append(f"R-hat {r_hat:.4g} > {R_HAT}")
    if not effective >= EFFECTIVE:
        failures.append(f"{effective:.0f} effective draws < {EFFECTIVE}")
    return Mean(float(x.mean()), float(x.std() / np.sqrt(max(effective, 1.0))), r_hat, effective, tuple(failures))


def hmc(
    loss: Callable[[PyTree], Array],
    w0: PyTree,
    key: Array,
    *,
    n_betas: Numbers,
    gamma: Number,
    chains: int = 4,
    warmup: int = 500,
    draws: int = 1000,
    start: PyTree | None = None,
    accept: float = 0.95,
    max_tree_depth: int = 7,
) -> list[Chains]:
    """Hamiltonian chains for each of the temperatures, from one compiled program.

    Args:
        loss: mean loss of the whole data; a scalar of any pytree.
        w0: what the chains are tied to, and where they start if not told otherwise.
        key: of the noise.
        n_betas: inverse temperatures times the number of data; 0 is the prior N(w0, 1/gamma).
        gamma: strength of the tie, 1/weight^2; 0 for none.
        chains: how many, side by side.
        warmup: steps in which step size and mass matrix are adapted.
        draws: losses kept of each chain.
        start: where the chains start, all at the same place: wells that they never reach are not seen, and no diagnostic tells.
        accept: mean acceptance that the step size aims at; valleys that narrow, as singular losses have, need short steps.
        max_tree_depth: at most 2^depth gradients a draw.

    >>> import jax.numpy as jnp
    >>> from jax import random
    >>> from bayesgen.estimate.sampling import hmc
    >>> (found,) = hmc(lambda w: w**2 / 2, jnp.array(0.0), random.key(0), n_betas=[10.0], gamma=0)
    >>> bool(abs(found.loss.mean() - 0.05) < 0.01)  # E w^2 / 2 = 1 / (2 n_beta)
    True
    """
    first = w0 if start is None else start

    def chain(n_beta, key):
        def energy(w):
            return n_beta * loss(w) + gamma * optax.tree.norm(optax.tree.sub(w, w0), squared=True) / 2

        begin, advance = kernel(energy, algo="NUTS")
        state = begin(first, warmup, target_accept_prob=accept, max_tree_depth=max_tree_depth, rng_key=key)
        state, _ = jax.lax.scan(lambda s, _: (advance(s), None), state, length=warmup)

        def draw(state, _):
            state = advance(state)
            return state, (loss(state.z), state.diverging)

        return jax.lax.scan(draw, state, length=draws)[1]

    chains_of = jax.vmap(chain, (None, 0))
    keys = random.split(key, (len(n_betas), chains))
    losses, diverging = jax.jit(lambda n, k: jax.lax.map(lambda x: chains_of(*x), (n, k)))(jnp.asarray(n_betas, dtype=float), keys)
    return [Chains(x, d.sum()) for x, d in zip(losses, diverging, strict=True)]


def split_hmc(
    loss: Callable[[PyTree], Array],
    w0: PyTree,
    key: Array,
    *,
    n_beta: Number,
    gamma: Number,
    chains: int = 4,
    warmup: int = 100,
    draws: int = 250,
    leaps: int = 4,
    accept: float = 0.8,
    start: PyTree | None = None,
    watch: Callable[[PyTree], Array] | None = None,
) -> Chains:
    """Hamiltonian chains in which a leap is half a kick by n_beta grad L, a turn in the plane of position and momentum, which is what the
    tie alone would do, and half a kick again. Can be jitted.

    Args as in `hmc`, and
        gamma: strength of the tie, above 0.
        leaps: gradients of a draw; together they turn by a quarter of a circle at most.
        start: about which the chains start, each at a draw of the tie: further apart than the target, so that R-hat can tell whether
            they have come together.
        watch: what is kept of a draw in place of the loss.

    >>> import jax.numpy as jnp
    >>> from jax import random
    >>> from bayesgen.estimate.sampling import split_hmc
    >>> found = split_hmc(lambda w: (w**2).sum() / 2, jnp.zeros(1000), random.key(0), n_beta=10.0, gamma=10.0)
    >>> bool(abs(found.loss.mean() - 1000 / 40) < 0.3)  # E w^2 / 2 = 1 / (2 (n_beta + gamma))
    True
    """
    width, longest = jnp.asarray(gamma, float) ** -0.5, np.pi / 2 / leaps
    begin, adapt = dual_averaging()

    def of(u):
        return jax.tree.map(lambda x0, x: x0 + width * x, w0, u)

    value_and_slope = jax.value_and_grad(lambda u: loss(of(u)))

    def trajectory(state, key, step):
        """(state, mean acceptance, whether it diverged); a state is (u, loss and its gradient there)."""
        k_turn, k_step, k_accept = random.split(key, 3)
        u, value, slope = state
        v = optax.tree.random_like(k_turn, u, random.normal)
        step = jnp.minimum(step, longest) * random.uniform(
            k_step, minval=0.7
        )  # of one length, some directions would only swing from side to side
        turn, cross = jnp.cos(step), jnp.sin(step)

        def leap(state, _):
            u, v, _, slope = state
            v = jax.tree.map(lambda y, g: y - step / 2 * n_beta * g, v, slope)
            u, v = jax.tree.map(lambda x, y: turn * x + cross * y, u, v), jax.tree.map(lambda x, y: turn * y - cross * x, u, v)
            value, slope = value_and_slope(u)
            return (u, jax.tree.map(lambda y, g: y - step / 2 * n_beta * g, v, slope), value, slope), None

        (new_u, new_v, new_value, new_slope), _ = jax.lax.scan(leap, (u, v, value, slope), length=leaps)
        square = lambda x: optax.tree.norm(x, squared=True) / 2  # noqa: E731
        rise = n_beta * (new_value - value) + square(new_u) - square(u) + square(new_v) - square(v)
        rise = jnp.where(jnp.isfinite(rise), rise, jnp.inf)
        taken = random.uniform(k_accept) < jnp.exp(-rise)
        new = jax.tree.map(lambda x, y: jnp.where(taken, x, y), (new_u, new_value, new_slope), state)
        return new, jnp.exp(jnp.minimum(-rise, 0.0)), rise > 1000

    def chain(key):
        k_start, k_move = random.split(key)
        away = optax.tree.random_like(k_start, w0, random.normal)
        u = away if start is None else jax.tree.map(lambda x, x0, y: (x - x0) / width + y, start, w0, away)

        def move(carry, x):  # warming up and drawing in one loop: the loss is compiled once
            (state, tuned), (t, key) = carry, x
            state, accepted, diverged = trajectory(state, key, jnp.exp(jnp.where(t < warmup, tuned[0], tuned[1])))
            tuned = jax.tree.map(lambda new, old: jnp.where(t < warmup, new, old), adapt(accept - accepted, tuned), tuned)
            return (state, tuned), (state[1] if watch is None else watch(of(state[0])), diverged)

        every = jnp.arange(warmup + draws), random.split(k_move, warmup + draws)
        seen = jax.lax.scan(move, ((u, *value_and_slope(u)), begin(float(np.log(longest)))), every)[1]
        return jax.tree.map(lambda x: x[warmup:], seen)

    losses, diverging = jax.jit(jax.vmap(chain))(random.split(key, chains))
    return Chains(losses, diverging.sum())


def sgld(
    loss: Callable[[PyTree], Array],
    minibatch: Callable[[PyTree, Array], Array],
    w0: PyTree,
    key: Array,
    *,
    n_beta: Number,
    gamma: Number,
    step: Number,
    chains: int = 4,
    warmup: int = 1000,
    draws: int = 1000,
    thin: int = 10,
    preconditioner: PyTree | None = None,
) -> Chains:
    """Stochastic-gradient Langevin chains from w0: `warmup` steps to forget it, then `draws` draws, `thin` steps apart.

    Args as in `hmc`, and
        minibatch: (w, key) -> an unbiased estimate of `loss`, whose gradient is followed.
        step: size of the steps.
        preconditioner: positive, shaped like w0; none: ones.

    >>> import jax.numpy as jnp
    >>> from jax import random
    >>> from bayesgen.estimate.sampling import sgld
    >>> noisy = lambda w, key: (w + random.normal(key) / 10) ** 2 / 2
    >>> found = sgld(lambda w: w**2 / 2, noisy, jnp.array(0.0), random.key(0), n_beta=10, gamma=0, step=1e-2)
    >>> bool(abs(found.loss.mean() - 0.05) < 0.01)
    True
    """
    scale = optax.tree.ones_like(w0) if preconditioner is None else preconditioner

    def move(w, key):
        k_batch, k_move = random.split(key)
        gradient = jax.grad(minibatch)(w, k_batch)
        noise = optax.tree.random_like(k_move, w, random.normal)

        def each(x, x0, g, p, xi):
            return x - step / 2 * p * (n_beta * g + gamma * (x - x0)) + jnp.sqrt(step * p) * xi

        return jax.tree.map(each, w, w0, gradient, scale, noise), None

    def draw(w, keys):
        w, _ = jax.lax.scan(move, w, keys)
        return w, loss(w)

    def chain(key):
        k_warm, k_draw = random.split(key)
        w, _ = jax.lax.scan(move, w0, random.split(k_warm, warmup))
        return jax.lax.scan(draw, w, random.split(k_draw, (draws, thin)))[1]

    return Chains(jax.jit(jax.vmap(chain))(random.split(key, chains)), 0)


def rms_preconditioner(minibatch: Callable[[PyTree, Array], Array], w: PyTree, key: Array, batches: int, floor: float = 1e-2) -> PyTree:
    """1 / (floor + rms gradient), scaled to mean 1: the diagonal of RMSprop at w, held fixed so that the target stays what it is.

    `floor` is a share of the largest rms gradient.

    >>> import jax.numpy as jnp
    >>> from jax import random
    >>> from bayesgen.estimate.sampling import rms_preconditioner
    >>> steep = lambda w, key: (random.normal(key) + 1) * (3 * w[0] + w[1])
    >>> [round(float(x), 2) for x in rms_preconditioner(steep, jnp.zeros(2), random.key(0), 50, floor=0.0)]  # as 1/3 to 1, of mean 1
    [0.5, 1.5]
    """
    square = jax.lax.map(lambda k: jax.tree.map(jnp.square, jax.grad(minibatch)(w, k)), random.split(key, batches))
    rms = jax.tree.map(lambda x: jnp.sqrt(x.mean(axis=0)), square)
    most = jnp.max(jnp.stack([x.max() for x in jax.tree.leaves(rms)]))
    raw = jax.tree.map(lambda x: 1 / (floor * most + x), rms)
    mean = optax.tree.sum(raw) / sum(x.size for x in jax.tree.leaves(raw))
    return optax.tree.scale(1 / mean, raw)
