"""Low-rank adapters: W + s * a @ b on chosen matrices (Hu et al., arXiv 2106.09685).

An adapter is a pytree with the same paths as the parameters: {..., "qkv": {"a": (D, r), "b": (r, F)}}. `b` starts at
zero, so a new adapter is the identity. During training the scale s = alpha / rank and a rank mask are applied by
`effective`; whatever is stored or measured afterwards is the *effective* adapter, whose update is a @ b, nothing else.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import random
from jaxtyping import Array, Float

from bayesgen.errors import UserError, nearest

TARGETS = ("qkv", "out", "up", "down")


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


def merge(params: dict, lora: dict) -> dict:
    """Parameters with the update a @ b of an effective adapter added: for reading one member, never for training many."""
    flat: dict[tuple[str, ...], Any] = dict(flatten_dict(params))
    adapter: dict[tuple[str, ...], Any] = dict(flatten_dict(lora))
    for path in adapter:
        if path[-1] == "a":
            flat[(*path[:-1], "kernel")] += adapter[path] @ adapter[(*path[:-1], "b")]
    return unflatten_dict(flat)


def check_targets(targets: tuple[str, ...], rank: int, width: int):
    """One line for a target that does not exist or a rank that is no restriction."""
    for target in targets:
        if target not in TARGETS:
            raise UserError(f"finetune.targets: '{target}' is no matrix of the network{nearest(target, TARGETS)}")
    if rank > width:
        raise UserError(f"finetune.rank is {rank}, larger than model.width {width}; a rank above the width restricts nothing")
