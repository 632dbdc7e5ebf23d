"""Muon's steps on Gram matrices are those on the matrices themselves, and its updates those of optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from bayesgen.learn.muon import STEPS, A, B, C, muon, orthogonalize

SHAPES = {"qkv": (16, 48), "out": (16, 16), "down": (64, 16), "head": (24, 40)}  # two of sixteen rows when wide, one of 24


def matrices(seed: int, decades: float = 1.0) -> dict:
    """Singular values over so many decades."""
    rng, out = np.random.default_rng(seed), {}
    for name, (m, n) in SHAPES.items():
        u, v = (np.linalg.qr(rng.normal(size=(k, min(m, n))))[0] for k in (m, n))
        out[name] = jnp.asarray(u * np.logspace(0, -decades, min(m, n)) @ v.T, jnp.float32)
    return out


@pytest.mark.parametrize("decades", [1, 5])
def test_every_singular_value_goes_through_the_quintic_and_the_vectors_stay(decades):
    given = matrices(0, decades)
    for name, ours in orthogonalize(given).items():
        u, s, vh = np.linalg.svd(np.asarray(given[name], np.float64), full_matrices=False)
        s = s / np.linalg.norm(s)
        for _ in range(STEPS):
            s = A * s + B * s**3 + C * s**5
        np.testing.assert_allclose(ours, u * s @ vh, atol=2e-3)


def test_updates_are_optaxs_but_for_the_start_of_the_momentum():
    """The same gradient all along: then the momentum's start changes its length alone, which the steps do not see."""
    params, grads = matrices(1), matrices(2)
    theirs = optax.contrib.muon(0.1, weight_decay=0.2)
    ours = muon(0.1, 0.2)
    state, their_state = ours.init(params), theirs.init(params)
    for _ in range(3):
        update, state = ours.update(grads, state, params)
        their_update, their_state = theirs.update(grads, their_state, params)
        for name in SHAPES:
            np.testing.assert_allclose(update[name], their_update[name], atol=1e-4)
    other, _ = ours.update(matrices(3), state, params)
    assert max(float(jnp.abs(other[n] - update[n]).max()) for n in SHAPES) > 0.01


def test_a_matrix_of_zeros_stays_zero():
    assert not jax.tree.reduce(lambda found, x: found or bool(x.any()), orthogonalize({"a": jnp.zeros((4, 8))}), False)
