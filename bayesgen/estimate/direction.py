"""Directions in activation space: the mean difference between two sets of activations, and how much of it to believe.

A mean difference of n noisy activations in d dimensions always points somewhere. Two numbers say whether it points at anything: its
split-half reliability (cosine between the directions of two random halves), and the cosine that chance gives two random directions, about
1/sqrt(d).

Source: persona vectors of Chen et al. (arXiv 2507.21509), projection difference included. Where we differ: reliability and floor are
always computed.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Direction(NamedTuple):
    """A unit vector, its length before it was one, and what says whether to believe it."""

    vector: Float[np.ndarray, " d"]
    length: float  # of the mean difference
    reliability: float  # mean cosine between the directions of two random halves; 1 without noise, near 0 for noise
    floor: float  # 1/sqrt(d): the root mean square cosine of two random directions, if all directions are alike


def mean_difference(of: Float[np.ndarray, "n d"], beside: Float[np.ndarray, "m d"], splits: int = 20, seed: int = 0) -> Direction:
    """The direction from the mean of `beside` to the mean of `of`; at least two activations each.

    >>> import numpy as np
    >>> from bayesgen.estimate.direction import mean_difference
    >>> rng = np.random.default_rng(0)
    >>> found = mean_difference(rng.normal(size=(50, 4)) + [3, 0, 0, 0], rng.normal(size=(50, 4)))
    >>> bool(found.vector[0] > 0.99), found.reliability > 0.9, found.floor
    (True, True, 0.5)
    """
    of, beside = (np.asarray(x, np.float64) for x in (of, beside))
    if min(len(of), len(beside)) < 2:
        raise ValueError(f"{len(of)} and {len(beside)} activations; two halves need at least 2 of each")
    rng = np.random.default_rng(seed)
    whole = of.mean(axis=0) - beside.mean(axis=0)
    cosines = []
    for _ in range(splits):
        one, two = (np.array_split(rng.permutation(len(x)), 2) for x in (of, beside))
        a, b = (of[i].mean(axis=0) - beside[j].mean(axis=0) for i, j in zip(one, two, strict=True))
        cosines.append(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), np.finfo(float).tiny))
    length = float(np.linalg.norm(whole))
    if not length > 0:
        raise ValueError("the two means are the same: they have no direction")
    return Direction(whole / length, length, float(np.mean(cosines)), of.shape[1] ** -0.5)


def projection_difference(data: Float[np.ndarray, "n d"], reference: Float[np.ndarray, "m d"], vector: Float[np.ndarray, " d"]) -> float:
    """How much further along a unit vector the activations of a dataset lie than those of a reference (the base's own answers).

    >>> import numpy as np
    >>> from bayesgen.estimate.direction import projection_difference
    >>> projection_difference(np.array([[2.0, 5.0], [4.0, 5.0]]), np.array([[1.0, 5.0]]), np.array([1.0, 0.0]))
    2.0
    """
    return float((np.mean(data, axis=0, dtype=np.float64) - np.mean(reference, axis=0, dtype=np.float64)) @ vector)
