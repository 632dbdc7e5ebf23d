"""Code length: the bits it takes to send data to someone who learns as they come (prequential, Dawid 1984).

Each datum is sent with the model learned from those before it, at -log2 p bits, and then learned from. The sum is a description length of
the data under that learner, parameters included, without a prior on them. For the Bayes mixture it is -log2 of the marginal likelihood,
whatever the order; for a network it depends on the order, so it is given over permutations.

Sources: Blier and Ollivier (arXiv 1802.07044); Bornschein et al. (arXiv 2210.07931). Where we differ: nothing; the learner is the caller's.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, PyTree


def prequential_bits(learn: Callable[[PyTree, PyTree], tuple[Array, PyTree]], state: PyTree, data: PyTree) -> Float[Array, " T"]:
    """Bits of each datum in turn; their sum is the code length.

    Args:
        learn: (state, datum) -> (nats of the datum *before* it is learned from, the state after); JAX must be able to trace it.
        state: of the learner who has seen nothing.
        data: an array with a leading axis T, or a pytree of such.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.code_length import prequential_bits
    >>> def laplace_rule(counts, x):
    ...     return -jnp.log(counts[x] / counts.sum()), counts.at[x].add(1.0)
    >>> prequential_bits(laplace_rule, jnp.ones(2), jnp.array([0, 0])).sum()  # p = 1/2 * 2/3
    Array(1.5849625, dtype=float32)
    """
    _length(data)

    def send(state, datum):
        nats, state = learn(state, datum)
        return state, nats

    return jax.lax.scan(send, state, data)[1] / jnp.log(2.0)


def over_orders(
    learn: Callable[[PyTree, PyTree], tuple[Array, PyTree]], state: PyTree, data: PyTree, key: Array, orders: int
) -> Float[Array, "P T"]:
    """`prequential_bits` of the data in random orders, one a row: sum the rows, then take mean and spread.

    >>> import jax.numpy as jnp
    >>> from jax import random
    >>> from bayesgen.estimate.code_length import krichevsky_trofimov, over_orders
    >>> bits = over_orders(krichevsky_trofimov, jnp.zeros(2), jnp.array([0, 0, 1]), random.key(0), 4)
    >>> bits.sum(axis=1).round(3).tolist()  # 1/2 * 3/4 * 1/6 or the like: whatever the order
    [4.0, 4.0, 4.0, 4.0]
    """
    n = _length(data)

    def one(key):
        order = random.permutation(key, n)
        return prequential_bits(learn, state, jax.tree.map(lambda x: jnp.asarray(x)[order], data))

    return jax.lax.map(one, random.split(key, orders))


def krichevsky_trofimov(counts: Array, x: Array) -> tuple[Array, Array]:
    """The learner of independent draws from V symbols: p(x) = (count + 1/2) / (n + V/2). A yardstick; a `learn` as above.
    A symbol that is none of 0 ... V-1 costs nan.

    >>> import jax.numpy as jnp
    >>> from bayesgen.estimate.code_length import krichevsky_trofimov
    >>> nats, after = krichevsky_trofimov(jnp.array([1.0, 0.0]), jnp.array(0))
    >>> round(float(jnp.exp(-nats)), 4), after.tolist()
    (0.75, [2.0, 0.0])
    """
    p = (counts[x] + 0.5) / (counts.sum() + counts.shape[0] / 2)
    return jnp.where((x >= 0) & (x < counts.shape[0]), -jnp.log(p), jnp.nan), counts.at[x].add(1)


def _length(data: PyTree) -> int:
    shapes = [np.shape(x) for x in jax.tree.leaves(data)]
    if not shapes or () in shapes or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"data has leaves of shapes {shapes[:5]}; expected arrays of one length, a datum a place")
    return shapes[0][0]
