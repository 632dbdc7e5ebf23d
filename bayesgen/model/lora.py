"""Low-rank adapters: W + s * a @ b on chosen matrices (Hu et al., arXiv 2106.09685).

An adapter is a pytree with the same paths as the parameters: {..., "qkv": {"a": (D, r), "b": (r, F)}}. `b` starts at
zero, so a new adapter is the identity. During training the scale s = alpha / rank and a rank mask are applied by
`effective`; whatever is stored or measured afterwards is the *effective* adapter, whose update is a @ b, nothing else.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import random
from jaxtyping import Array, Float

from bayesgen.errors import UserError, nearest

TARGETS = ("qkv", "out", "up", "down")
Norm = Literal["frobenius", "nuclear"]


def init_lora(key: Array, params: dict, rank: int, targets: tuple[str, ...]) -> dict:
    """A fresh adapter: a ~ U(-1/sqrt(D), 1/sqrt(D)), b = 0."""
    out = {}
    for path, leaf in sorted(flatten_dict(params).items()):
        if path[-1] == "kernel" and path[-2] in targets:
            key, k_a = random.split(key)
            bound = leaf.shape[0] ** -0.5
            out[(*path[:-1], "a")] = random.uniform(k_a, (leaf.shape[0], rank), minval=-bound, maxval=bound)
            out[(*path[:-1], "b")] = jnp.zeros((rank, leaf.shape[1]))
    return unflatten_dict(out)


def effective(lora: dict, scale: Float[Array, ""] | float, rank_mask: Float[Array, " r"] | None = None) -> dict:
    """The adapter whose update is a @ b: the scale, and the mask of unused ranks, folded into `a`."""

    def fold(path, leaf):
        if path[-1].key != "a":
            return leaf
        return leaf * scale if rank_mask is None else leaf * scale * rank_mask

    return jax.tree_util.tree_map_with_path(fold, lora)


def update_norm(lora: dict, norm: Norm) -> Float[Array, ""]:
    """Of an effective adapter: the Frobenius norm of its update, all matrices together; or for "nuclear" the sum of |a| |b| over the
    matrices, which is the nuclear norm where each pair of factors is `balanced` but for a scalar, and above it elsewhere. Both can be
    differentiated wherever the update is not zero, as the nuclear norm itself cannot where singular values are.
    """
    flat: dict[tuple[str, ...], Any] = dict(flatten_dict(lora))
    pairs = [(a, flat[(*path[:-1], "b")]) for path, a in flat.items() if path[-1] == "a"]
    tiny = jnp.finfo(pairs[0][0].dtype).tiny
    if norm == "frobenius":
        return jnp.sqrt(sum(((a.T @ a) * (b @ b.T)).sum() for a, b in pairs) + tiny)
    return sum((jnp.sqrt((a**2).sum() * (b**2).sum() + tiny) for a, b in pairs), jnp.zeros(()))


def within(lora: dict, scale: Float[Array, ""], rank_mask: Float[Array, " r"], bound: Float[Array, ""], norm: Norm) -> dict:
    """The adapter, its `a` made shorter until `update_norm` is at most `bound`. `b` stays as it is."""
    found = update_norm(effective(lora, scale, rank_mask), norm)
    share = jnp.minimum(1.0, bound / found)
    return jax.tree_util.tree_map_with_path(lambda path, x: x * share if path[-1].key == "a" else x, lora)


def balanced(lora: dict) -> dict:
    """The factors of an effective adapter's update for which (|a|^2 + |b|^2) / 2 is least: U sqrt(S) and sqrt(S) V' of a b = U S V'.

    What is least is the nuclear norm, so a penalty on the squares of the factors is one on it. Unlike the factors that training ends
    with, these are a function of the update, up to a rotation between them, which no isotropic noise sees.
    """
    flat: dict[tuple[str, ...], Any] = dict(flatten_dict(lora))
    for path in sorted({p[:-1] for p in flat}):
        (q_a, r_a), (q_b, r_b) = jnp.linalg.qr(flat[(*path, "a")]), jnp.linalg.qr(flat[(*path, "b")].T)
        u, s, v = jnp.linalg.svd(r_a @ r_b.T)
        flat[(*path, "a")], flat[(*path, "b")] = q_a @ u * jnp.sqrt(s), (q_b @ v.T * jnp.sqrt(s)).T
    return unflatten_dict(flat)


def dense(lora: dict) -> dict:
    """The update a @ b of an effective adapter, matrix by matrix: {..., "qkv": {"kernel": (D, F)}}."""
    flat: dict[tuple[str, ...], Any] = dict(flatten_dict(lora))
    return unflatten_dict({(*path[:-1], "kernel"): a @ flat[(*path[:-1], "b")] for path, a in flat.items() if path[-1] == "a"})


def add(params: dict, update: dict) -> dict:
    """Parameters with a dense update added to the matrices that it names."""
    flat: dict[tuple[str, ...], Any] = dict(flatten_dict(params))
    for path, change in flatten_dict(update).items():
        flat[path] += change
    return unflatten_dict(flat)


def merge(params: dict, lora: dict) -> dict:
    """Parameters with the update a @ b of an effective adapter added: for reading one member, never for training many."""
    return add(params, dense(lora))


def cut(lora_M: dict, rank: int) -> dict:
    """A stack of adapters without the columns of `a` and rows of `b` beyond a rank, which must be unused."""
    return jax.tree_util.tree_map_with_path(lambda path, x: x[:, :, :rank] if path[-1].key == "a" else x[:, :rank], lora_M)


def check_targets(targets: tuple[str, ...], rank: int, width: int):
    """One line for a target that does not exist or a rank that is no restriction."""
    for target in targets:
        if target not in TARGETS:
            raise UserError(f"finetune.targets: '{target}' is no matrix of the network{nearest(target, TARGETS)}")
    if rank > width:
        raise UserError(f"finetune.rank is {rank}, larger than model.width {width}; a rank above the width restricts nothing")
