"""The closed form on a quadratic; lengths and angles; the published variant's wrong angle and its dependence on the gauge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from bayesgen.estimate.stability import noise_on_factors, orthogonal_noise, stability


def quadratic(d=7, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d))
    h, t = jnp.asarray(root @ root.T), jnp.asarray(rng.normal(size=d))
    return h, t, lambda w: (w["x"] - t) @ h @ (w["x"] - t) / 2


def expected(h, t, eps):
    tht, tt = t @ h @ t, t @ t
    return float(((1 - np.sqrt(1 - eps**2)) ** 2 * tht + eps**2 * tt * (jnp.trace(h) - tht / tt) / (len(t) - 1)) / 2)


@pytest.mark.parametrize("eps", [0.1, 0.5, 0.9])
def test_the_rise_on_a_quadratic_is_the_closed_form(eps):
    h, t, loss = quadratic()
    rise = jax.jit(lambda: stability(loss, {"x": t}, eps, random.key(1), 20_000))()
    assert abs(float(rise.mean) - expected(h, t, eps)) < 4 * float(rise.error)  # Monte Carlo
    assert float(rise.error) < 0.01 * expected(h, t, eps)
    # negative control: noise of that size in any direction, orthogonal or not, has another mean
    free = float((eps**2 * (t @ t) * jnp.trace(h) / len(t)) / 2)
    assert abs(float(rise.mean) - free) > 20 * float(rise.error)


@pytest.mark.parametrize("eps", [0.0, 0.3, 1.0])
def test_noise_keeps_the_length_and_has_the_angle(eps):
    w = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.array([1.0, -2.0])}
    turned = orthogonal_noise(random.key(0), w, eps)
    x, y = (np.concatenate([np.ravel(v) for v in jax.tree.leaves(t)]) for t in (w, turned))
    assert np.linalg.norm(y) == pytest.approx(np.linalg.norm(x), rel=1e-5)  # float32
    assert x @ y / (x @ x) == pytest.approx(np.sqrt(1 - eps**2), abs=1e-5)


def test_whole_numbers_and_nothing_at_all_are_turned_too():
    turned = orthogonal_noise(random.key(0), {"w": jnp.array([3, 4])}, 0.6)["w"]
    assert float(jnp.linalg.norm(turned)) == pytest.approx(5, rel=1e-5)
    assert not np.asarray(orthogonal_noise(random.key(0), jnp.zeros(3), 0.5)).any()
    with pytest.raises(ValueError, match="one number"):
        orthogonal_noise(random.key(0), jnp.ones(1), 0.5)


def cosine(x, y):
    return float((x * y).sum() / jnp.sqrt((x**2).sum() * (y**2).sum()))


def test_trap_noise_on_the_factors_turns_the_update_further_and_depends_on_the_gauge():
    eps, key = 0.5, random.key(2)
    a, b = random.normal(random.key(0), (200, 4)), random.normal(random.key(1), (4, 300))
    whole = orthogonal_noise(key, a @ b, eps)
    assert cosine(whole, a @ b) == pytest.approx(np.sqrt(1 - eps**2), abs=1e-5)
    turned = noise_on_factors(key, (a, b), eps)
    # the four terms are near orthogonal at this size: cosine (1 - eps^2), up to the overlap of random 4-planes in 200 dimensions
    assert cosine(turned[0] @ turned[1], a @ b) == pytest.approx(1 - eps**2, abs=0.02)
    gauge = jnp.diag(jnp.array([8.0, 1.0, 1.0, 1.0]))
    other = (a @ gauge, jnp.linalg.inv(gauge) @ b)  # the same update
    np.testing.assert_allclose(other[0] @ other[1], a @ b, rtol=1e-4, atol=1e-4)
    loss = lambda f: ((f[0] @ f[1] - a @ b) ** 2).mean()  # noqa: E731
    one, two = (stability(loss, f, eps, key, 50, noise_on_factors) for f in ((a, b), other))
    assert abs(float(one.mean - two.mean)) > 10 * float(one.error + two.error)
    whole_one, whole_two = (stability(lambda w: ((w - a @ b) ** 2).mean(), f[0] @ f[1], eps, key, 50) for f in ((a, b), other))
    assert float(whole_one.mean) == pytest.approx(float(whole_two.mean), rel=1e-4)  # float32


def test_a_loss_that_is_not_above_zero_has_no_shares():
    for floor, known in ((1.0, True), (0.0, False), (-1.0, False)):
        rise = stability(lambda w, c=floor: jnp.sum((w - 1.0) ** 2) + c, jnp.ones(3), 0.5, random.key(0), 4)
        assert np.isfinite(rise.relative) == known
        assert np.isfinite(rise.mean)
    with pytest.raises(ValueError, match="at least 2"):
        stability(lambda w: w.sum(), jnp.ones(3), 0.5, random.key(0), 1)
