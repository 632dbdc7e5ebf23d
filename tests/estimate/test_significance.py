"""The divergence by enumeration, its quadratic law, and the published traps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from bayesgen.estimate.significance import fisher_norm, function_norm, kl_along, kl_divergence, random_like, slope, weighted_mean

W, X = random.normal(random.key(0), (5, 8)), random.normal(random.key(1), (30, 5))


def logits(delta):
    """A softmax regression with a curved twist, so that the law holds only for small steps."""
    return jnp.tanh(X @ (W + delta["w"])) * 3


DELTA = {"w": random.normal(random.key(2), (5, 8))}


def test_the_divergence_is_the_sum_over_words():
    p, q = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.3, 0.1])
    assert float(kl_divergence(jnp.log(p), jnp.log(q) + 7)) == pytest.approx((p * np.log(p / q)).sum(), rel=1e-5)
    assert float(kl_divergence(jnp.log(p), jnp.log(p))) == pytest.approx(0, abs=1e-6)


def test_small_steps_obey_the_quadratic_law_and_large_ones_do_not():
    norm = float(fisher_norm(logits, jax.tree.map(jnp.zeros_like, DELTA), DELTA))
    for scales in (np.array([1e-4, 2e-4, 4e-4]), np.array([1e-3, 2e-3, 4e-3])):  # no rounding takes over as they get small
        kl = np.asarray(kl_along(logits, DELTA, scales))
        assert slope(scales, kl) == pytest.approx(2, abs=0.01)
        np.testing.assert_allclose(kl, scales**2 * norm**2 / 2, rtol=0.02)  # the next order is a few times the step
    assert abs(slope([2.0, 4.0, 8.0], kl_along(logits, DELTA, [2.0, 4.0, 8.0])) - 2) > 0.5


def test_far_apart_and_impossible_words_cost_what_they_should():
    p, q = jnp.log(jnp.array([1.0, 0.0])), jnp.log(jnp.array([0.25, 0.75]))
    assert float(kl_divergence(p, q)) == pytest.approx(np.log(4), rel=1e-6)
    assert float(kl_divergence(q, p)) == np.inf  # what happens and was held impossible
    far = jnp.array([30.0, 0.0])
    assert float(kl_divergence(far, -far)) == pytest.approx(30.0, rel=1e-5)


def test_the_function_norm_is_the_fisher_norm_of_small_updates_and_no_longer_of_large_ones():
    zero = jax.tree.map(jnp.zeros_like, DELTA)
    for scale, near in ((1e-3, True), (2.0, False)):
        update = jax.tree.map(lambda x, c=scale: c * x, DELTA)
        whole, small = float(function_norm(logits, update)), float(fisher_norm(logits, zero, update))
        assert (abs(whole / small - 1) < 0.01) == near
    base, change = logits(zero), logits(DELTA) - logits(zero)
    p = np.asarray(jax.nn.softmax(base), float)
    variance = [np.cov(np.asarray(c, float), aweights=w, bias=True) for c, w in zip(change, p, strict=True)]
    assert float(function_norm(logits, DELTA)) == pytest.approx(np.sqrt(np.mean(variance)), rel=1e-4)
    lifted = lambda d: logits(d) + d["w"].sum()  # noqa: E731  what all words gain alike is no change
    assert float(function_norm(lifted, DELTA)) == pytest.approx(float(function_norm(logits, DELTA)), rel=1e-4)


def test_the_fisher_norm_by_enumeration():
    """delta' F delta = mean over tokens of sum_v p_v (d log p_v)^2, by finite differences of log p."""
    step = 1e-2
    plus, minus, at = (jax.nn.log_softmax(logits({"w": c * DELTA["w"]})) for c in (step, -step, 0.0))
    scores = (plus - minus) / (2 * step)
    expected = jnp.sqrt((jnp.exp(at) * scores**2).sum(-1).mean())
    assert float(fisher_norm(logits, {"w": jnp.zeros((5, 8))}, DELTA)) == pytest.approx(float(expected), rel=1e-3)  # step squared


def test_trap_padding_the_vocabulary_changes_nothing():
    padded = lambda x: jnp.concatenate([x, jnp.full((*x.shape[:-1], 100), -jnp.inf)], axis=-1)  # noqa: E731
    p, q = logits({"w": jnp.zeros((5, 8))}), logits(DELTA)
    np.testing.assert_allclose(kl_divergence(padded(p), padded(q)), kl_divergence(p, q), rtol=1e-5)
    grad = jax.grad(lambda d: kl_divergence(padded(p), padded(logits(d))).mean())(DELTA)
    assert np.isfinite(grad["w"]).all()
    # the published mean over the vocabulary shrinks by the padding
    mean = lambda a, b: (jax.nn.softmax(a) * (jax.nn.log_softmax(a) - jax.nn.log_softmax(b))).mean(-1)  # noqa: E731
    small = -20.0  # finite padding, as a padded embedding has it
    wide = lambda x: jnp.concatenate([x, jnp.full((*x.shape[:-1], 100), small)], axis=-1)  # noqa: E731
    assert float(mean(wide(p), wide(q)).mean()) < 0.1 * float(mean(p, q).mean())
    np.testing.assert_allclose(kl_divergence(wide(p), wide(q)), kl_divergence(p, q), rtol=1e-4)


def test_trap_padded_tokens_are_in_neither_sum():
    weight = jnp.concatenate([jnp.ones(20), jnp.zeros(10)])
    full, cut = (kl_divergence(logits({"w": jnp.zeros((5, 8))}), logits(DELTA))[:n] for n in (30, 20))
    assert float(weighted_mean(full, weight)) == pytest.approx(float(cut.mean()), rel=1e-6)
    assert float(weighted_mean(full.at[20:].set(jnp.nan), weight)) == pytest.approx(float(cut.mean()), rel=1e-6)
    assert float((full * weight).mean()) != pytest.approx(float(cut.mean()), rel=0.1)


def test_a_weight_a_token_serves_every_row_and_random_signs_are_random():
    x = jnp.arange(6.0).reshape(2, 3)
    assert float(weighted_mean(x, jnp.array([1.0, 1.0, 0.0]))) == pytest.approx(float(x[:, :2].mean()))
    signs = [float(jnp.sign(random_like(random.key(i), jnp.ones((4, 5)))[0, 0])) for i in range(30)]
    assert abs(sum(signs)) < 20  # all alike without the coin
    with pytest.raises(ValueError, match="no logarithm"):
        slope([0.1, 0.2], [0.0, 1e-3])


def test_random_directions_have_the_spectrum_and_nothing_else_of_the_update():
    x = {"m": random.normal(random.key(3), (2, 40, 3)) @ random.normal(random.key(4), (2, 3, 60)), "v": jnp.arange(5.0)}
    other = random_like(random.key(5), x)
    for a, b in zip(*(jnp.linalg.svd(t["m"], compute_uv=False) for t in (x, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)  # float32
    assert float(jnp.linalg.norm(other["v"])) == pytest.approx(float(jnp.linalg.norm(x["v"])), rel=1e-5)
    cosine = float((x["m"] * other["m"]).sum() / (x["m"] ** 2).sum())
    assert abs(cosine) < 0.1  # chance: about 1/sqrt(4800 / 3)
