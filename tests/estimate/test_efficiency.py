"""Rays through known points, projections by a second road, and the frontier of a quadratic against ridge regression."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from bayesgen.estimate.efficiency import along_ray, frontier, lagrangian_gradient, least_norm, shrink, within_frobenius, within_nuclear

positive = st.lists(st.floats(0, 10, width=32, allow_subnormal=False), min_size=1, max_size=6)


@settings(deadline=None, max_examples=50)
@given(positive, st.floats(0, 20, width=32))
def test_shrinking_is_the_nearest_point_of_that_sum(values, bound):
    s = np.array(values)
    found = np.asarray(shrink(jnp.asarray(s), bound), float)
    assert found.sum() <= bound * (1 + 1e-5) + 1e-5  # float32
    if s.sum() <= bound:
        np.testing.assert_allclose(found, s, rtol=1e-6, atol=1e-6)
        return
    threshold = optimize.brentq(lambda t: np.maximum(s - t, 0).sum() - bound, 0, s.max()) if bound > 0 else s.max()
    np.testing.assert_allclose(found, np.maximum(s - threshold, 0), atol=1e-4)  # float32, sums of up to 60


def test_projections_are_nearest_points_and_leave_the_inside_alone():
    rng = np.random.default_rng(0)
    w = {"a": jnp.asarray(rng.normal(size=(3, 4))), "b": jnp.asarray(rng.normal(size=(2, 2)))}
    nuclear = lambda t: sum(float(jnp.linalg.svd(x, compute_uv=False).sum()) for x in t.values())  # noqa: E731
    frobenius = lambda t: float(optax.tree.norm(t))  # noqa: E731
    for within, norm in ((within_frobenius, frobenius), (within_nuclear, nuclear)):
        bound = 0.5 * norm(w)
        near = within(w, bound)
        assert norm(near) == pytest.approx(bound, rel=1e-5)
        distance = float(optax.tree.norm(optax.tree.sub(w, near)))
        for seed in range(200):  # nothing else inside is nearer: points beside it, pulled back in
            r = np.random.default_rng(seed)
            beside = jax.tree.map(lambda x, r=r: x + 0.1 * r.normal(size=x.shape), near)
            beside = optax.tree.scale(min(1.0, bound / norm(beside)), beside)
            assert float(optax.tree.norm(optax.tree.sub(w, beside))) > distance - 1e-5
        for same, x in zip(jax.tree.leaves(within(w, 2 * norm(w))), jax.tree.leaves(w), strict=True):
            np.testing.assert_allclose(same, x, atol=1e-5)
    # negative control: scaling alone, which is the projection for Frobenius, is not the nearest of that nuclear norm
    scaled = optax.tree.scale(0.5, w)
    apart = lambda other: float(optax.tree.norm(optax.tree.sub(w, other)))  # noqa: E731
    assert apart(scaled) > apart(within_nuclear(w, 0.5 * nuclear(w))) + 0.01


H, T = np.diag([4.0, 1.0, 0.25]), np.random.default_rng(1).normal(size=3)
BOUNDS = [0.0, 0.3 * np.linalg.norm(T), 0.8 * np.linalg.norm(T), 2 * np.linalg.norm(T)]


def quadratic(w):
    return (w - T) @ jnp.asarray(H) @ (w - T) / 2


def ridge(bound):
    """Its minimum within a length, by the multiplier that has it."""
    if bound == 0:
        return np.zeros(3)
    of = lambda k: np.linalg.solve(H + k * np.eye(3), H @ T)  # noqa: E731
    if np.linalg.norm(of(0)) <= bound:
        return of(0)
    return of(optimize.brentq(lambda k: np.linalg.norm(of(k)) - bound, 0, 1e4))


def test_the_frontier_of_a_quadratic_is_ridge_regression():
    found = frontier(quadratic, jnp.zeros(3), BOUNDS, 0.2, 2000)
    for w, bound, loss in zip(found.w, BOUNDS, found.loss, strict=True):
        np.testing.assert_allclose(w, ridge(bound), atol=1e-4)  # float32
        assert float(loss) == pytest.approx(float(quadratic(jnp.asarray(ridge(bound)))), abs=1e-4)
    assert (found.residual < 1e-4).all()
    assert (frontier(quadratic, jnp.zeros(3), BOUNDS, 0.2, 3).residual[2:] > 0.01).all()  # too few steps are seen
    # the ray through the minimum is dearer than the frontier in between: it may not choose its direction
    ray = along_ray(quadratic, jnp.asarray(T), [0.3, 0.8])
    assert (np.asarray(ray) > 1.1 * np.asarray(found.loss[1:3])).all()


def test_the_nuclear_frontier_of_a_distance_is_the_projection():
    """|W - T|^2 / 2 within a nuclear norm: T with its singular values shrunk, computed by bisection in float64."""
    t = np.random.default_rng(2).normal(size=(4, 3))
    u, s, v = np.linalg.svd(t, full_matrices=False)
    bounds = [0.3 * s.sum(), 0.7 * s.sum(), 2 * s.sum()]
    found = frontier(lambda w: ((w - t) ** 2).sum() / 2, jnp.zeros((4, 3)), bounds, 0.3, 100, within_nuclear)
    for w, bound in zip(found.w, bounds, strict=True):
        cut = optimize.brentq(lambda x, bound=bound: np.maximum(s - x, 0).sum() - bound, 0, s.max()) if bound < s.sum() else 0.0
        np.testing.assert_allclose(w, u * np.maximum(s - cut, 0) @ v, atol=1e-4)  # float32
    assert (found.residual < 1e-4).all()


def test_trap_adam_under_a_bound_ends_at_the_least_loss_only_with_the_multiplier():
    """Projected steps of Adam come to rest where their steps, and not the gradient, point out of the ball."""
    adam = optax.adam(optax.cosine_decay_schedule(0.1, 2000))

    def end(bound, held):
        def step(state, _):
            w, memory = state
            gradient = jax.grad(quadratic)(w)
            gradient = lagrangian_gradient(jnp.linalg.norm, w, gradient, bound) if held else gradient
            change, memory = adam.update(gradient, memory, w)
            return (within_frobenius(w + change, bound), memory), None

        start = 0.1 * jnp.ones(3)
        return jax.lax.scan(step, (start, adam.init(start)), length=2000)[0][0]

    for bound in BOUNDS[1:]:
        np.testing.assert_allclose(end(bound, True), ridge(bound), atol=2e-3)  # steps of Adam end no nearer
    assert all(quadratic(end(bound, False)) > 1.1 * quadratic(ridge(bound)) for bound in BOUNDS[1:3])


def test_trap_scale_one_is_the_trained_update_and_zero_the_base():
    w = {"a": jnp.array([1.0, 2.0])}
    losses = along_ray(lambda u: ((u["a"] - 1) ** 2).sum(), w, [0.0, 1.0])
    assert losses.tolist() == [2.0, 1.0]


def test_least_norm_interpolates_takes_the_first_crossing_and_says_never():
    assert least_norm([0, 1, 2, 3], [4, 2, 3, 0], 2.5) == pytest.approx(0.75)
    assert least_norm([0, 1], [4, 2], 5) == 0
    assert least_norm([0, 1], [4, 2], 1.9) == float("inf")
    with pytest.raises(ValueError, match="ascend"):
        least_norm([1, 0], [1, 1], 0)
    with pytest.raises(ValueError, match="2 norms and 1 losses"):
        least_norm([0, 1], [1], 0)
    with pytest.raises(ValueError, match="target is nan"):
        least_norm([0, 1], [1, 0], float("nan"))
    with pytest.raises(ValueError, match="at least 0"):
        frontier(quadratic, jnp.zeros(3), [-1.0], 0.1, 5)
