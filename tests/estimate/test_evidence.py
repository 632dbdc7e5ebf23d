"""Linear-Gaussian evidence in closed form by all roads; the orbit of a factorised update against integrals; what must fail does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import integrate, stats

from bayesgen.estimate.evidence import Orbit, gaussian_energy, laplace, rotations, thermodynamic_integration, wbic
from bayesgen.estimate.sampling import hmc

N, D, GAMMA = 40, 3, 2.0
X = np.random.default_rng(0).normal(size=(N, D))
Y = X @ np.array([1.0, -0.5, 0.2]) + np.random.default_rng(1).normal(size=N)
EXACT = float(stats.multivariate_normal(np.zeros(N), np.eye(N) + X @ X.T / GAMMA).logpdf(Y))


def loss(w):
    """Mean negative log likelihood, noise of variance 1."""
    return ((jnp.asarray(Y) - jnp.asarray(X) @ w["w"]) ** 2).mean() / 2 + jnp.log(2 * jnp.pi) / 2


ZERO = {"w": jnp.zeros(D)}
BEST = {"w": jnp.asarray(np.linalg.solve(X.T @ X + GAMMA * np.eye(D), X.T @ Y))}


def test_laplace_is_exact_on_a_linear_gaussian_model():
    energy = gaussian_energy(loss, ZERO, N, GAMMA)
    assert laplace(energy, BEST).value == pytest.approx(EXACT, abs=1e-3)  # float32 sums of 60 nats
    off = laplace(energy, {"w": BEST["w"] + 0.3})
    assert np.isnan(off.value)
    assert "Newton" in off.failures[0]
    saddle = laplace(lambda w: w["w"][0] ** 2 - w["w"][1] ** 2 + w["w"][2] ** 2, ZERO)
    assert "curve upwards" in saddle.failures[0]


def test_laplace_tells_directions_of_unlike_units_from_flat_ones():
    """Ten million times as steep one way as the other: in float32 that is no flat direction, but a missing parameter is."""
    h = jnp.array([1e5, 1e-2])
    found = laplace(lambda w: h @ w**2 / 2, jnp.zeros(2))
    assert not found.failures
    assert found.value == pytest.approx(np.log(2 * np.pi) - np.log(1e3) / 2, abs=1e-4)
    turned = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    flat = jnp.asarray(turned @ np.diag([3.0, 1.0, 0.0]) @ turned.T)
    assert "1 of 3 directions" in laplace(lambda w: w @ flat @ w / 2, jnp.zeros(3)).failures[0]
    off = laplace(lambda w: h @ w**2 / 2, jnp.array([0.0, 10.0]))  # half a nat up the flat side
    assert "0.5 nats" in off.failures[0]


def test_thermodynamic_integration_is_exact_on_it_too():
    found = thermodynamic_integration(loss, ZERO, random.key(0), n=N, gamma=GAMMA, temperatures=12)
    assert not found.failures
    assert found.value == pytest.approx(EXACT, abs=4 * found.error + 0.05)  # the trapezoids' own error
    assert found.error < 0.1
    # negative control: the posterior mean of the log likelihood alone is another number
    assert abs(float(-N * loss(BEST)) - EXACT) > 2


def test_wbic_is_the_integral_at_its_temperature():
    b = 1 / np.log(N)
    precision = N * b * (X.T @ X / N) + GAMMA * np.eye(D)
    mean = np.linalg.solve(precision, b * X.T @ Y)
    expected = float(N * loss({"w": jnp.asarray(mean)}) + np.trace(X.T @ X @ np.linalg.inv(precision)) / 2)
    found = wbic(loss, ZERO, random.key(0), n=N, gamma=GAMMA, draws=2000)
    assert not found.failures
    assert found.value == pytest.approx(-expected, abs=4 * found.error)
    assert abs(found.value - EXACT) < 2 * np.sqrt(np.log(N))  # and the evidence up to that
    colder = hmc(loss, ZERO, random.key(0), n_betas=[float(N)], gamma=GAMMA, draws=2000)[0]  # negative control: at b = 1 it is not
    assert abs(float(-N * colder.loss.mean()) + expected) > 10 * found.error


def test_the_error_of_an_integral_is_that_of_its_rule_too():
    """Three temperatures are too few for a prior as wide as this, however many draws there are; the error must cover what is missing."""
    wide = dict(n=N, gamma=0.05, draws=1000)
    exact = float(stats.multivariate_normal(np.zeros(N), np.eye(N) + X @ X.T / 0.05).logpdf(Y))
    rough, fine = (thermodynamic_integration(loss, ZERO, random.key(0), temperatures=k, **wide) for k in (3, 16))
    assert abs(rough.value - exact) > 5
    assert rough.error > abs(rough.value - exact) / 4
    assert fine.value == pytest.approx(exact, abs=4 * fine.error)
    assert fine.error < 0.3
    assert not fine.failures
    assert fine.effective >= 400
    assert fine.r_hat < 1.01


def factorised(r, m=3, n=4, gamma=1.0, sharp=400.0, seed=0):
    """The evidence of m x n data near rank r under y = a b + noise of variance 1/sharp, and a Gaussian prior on a and b."""
    rng = np.random.default_rng(seed)
    y = jnp.asarray(rng.normal(size=(m, r)) @ rng.normal(size=(r, n)))

    def energy(w):
        fit = sharp * ((w["a"] @ w["b"] - y) ** 2).sum() / 2 + m * n / 2 * jnp.log(2 * jnp.pi / sharp)
        prior = gamma * sum((x**2).sum() for x in w.values()) / 2 + (m + n) * r / 2 * jnp.log(2 * jnp.pi / gamma)
        return fit + prior

    u, s, vt = np.linalg.svd(np.asarray(y))
    s = np.maximum(s[:r] - gamma / sharp, 0)  # balanced, and shrunk by the prior: the minimum in closed form
    return y, energy, {"a": jnp.asarray(u[:, :r] * np.sqrt(s)), "b": jnp.asarray(np.sqrt(s)[:, None] * vt[:r])}


@pytest.mark.parametrize("r", [1, 2])
def test_the_orbit_of_a_factorised_update_is_counted_whole(r):
    """Against a proposal spread over the orbit: a = centre q + noise, q uniform in O(r); b integrated out in closed form."""
    gamma, sharp = 1.0, 400.0
    y, energy, w = factorised(r, gamma=gamma, sharp=sharp)
    found = laplace(energy, w, rotations(w))
    assert not found.failures
    rng, (m, n), centre = np.random.default_rng(1), y.shape, np.asarray(w["a"], float)
    turns = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    rotated = np.array([[np.cos(turns), -np.sin(turns)], [np.sin(turns), np.cos(turns)]]).transpose(2, 0, 1)
    orbit = np.array([[[1.0]], [[-1.0]]]) if r == 1 else np.concatenate([rotated, rotated @ np.diag([1.0, -1.0])])
    centres, draws, width = centre @ orbit, 80_000, 0.25
    a = centres[rng.integers(len(centres), size=draws)] + width * rng.standard_t(5, size=(draws, m, r))
    log_q = np.logaddexp.reduce([stats.t(5, scale=width).logpdf(a - c).sum((1, 2)) for c in centres], axis=0) - np.log(len(centres))
    cov = np.eye(m) / sharp + a @ a.transpose(0, 2, 1) / gamma  # of a column of y, given a
    y64 = np.asarray(y, float)
    log_given = -(n * np.linalg.slogdet(2 * np.pi * cov)[1] + (y64 * np.linalg.solve(cov, y64)).sum((1, 2))) / 2
    log_w = log_given + stats.norm(0, gamma**-0.5).logpdf(a).sum((1, 2)) - log_q
    weight = np.exp(log_w - log_w.max())
    exact = float(np.log(weight.mean()) + log_w.max())
    error = float(weight.std() / weight.mean() / np.sqrt(draws))
    assert error < 0.05
    assert found.value == pytest.approx(exact, abs=4 * error + 0.15)  # Laplace's own error at this sharpness
    if r == 2:  # negative controls: the flat direction left in, and one of the orbit's two pieces forgotten
        assert laplace(energy, w).failures
        half = rotations(w)
        lost = laplace(energy, w, Orbit(half.tangents, half.log_volume - np.log(2)))
        assert abs(lost.value - exact) > 4 * error + 0.15


def test_what_has_no_orbit_or_no_evidence_says_so():
    with pytest.raises(ValueError, match="fewer independent"):
        rotations({"a": jnp.zeros((3, 2)).at[:, 0].set(1.0), "b": jnp.zeros((2, 4)).at[0].set(1.0)})
    with pytest.raises(ValueError, match="no pair"):
        rotations((jnp.ones((3, 1)), jnp.ones((1, 2))))
    with pytest.raises(ValueError, match="without a width"):
        wbic(loss, ZERO, random.key(0), n=N, gamma=0.0)
    assert "not finite" in laplace(lambda w: jnp.inf + w["w"].sum(), ZERO).failures[0]


def test_an_orbit_beside_a_sharp_direction_is_not_taken_for_flat():
    """Curvature of a million across, nothing along: rounding there says nothing about the orbit."""
    w = {"a": jnp.eye(4)[:, :2], "b": jnp.eye(4)[:2]}
    energy = lambda w: 1e6 * ((w["a"] @ w["b"] - jnp.diag(jnp.array([1.0, 1.0, 0, 0]))) ** 2).sum() / 2  # noqa: E731
    tied = lambda v: energy(v) + 1e4 * ((v["a"].T @ v["a"] - v["b"] @ v["b"].T) ** 2).sum() / 8  # noqa: E731
    found = laplace(tied, w, rotations(w))
    assert not found.failures
    assert laplace(tied, w).failures


def test_the_volume_of_an_orbit_by_going_along_it():
    """Rank 2: the circle's length, step by step, twice (reflections). Rank 3 against 8 pi^2, the volume of SO(3)."""
    a, b = random.normal(random.key(0), (5, 2)), random.normal(random.key(1), (2, 4))
    t = np.linspace(0, 2 * np.pi, 2001)
    turn = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]).transpose(2, 0, 1)
    turned = np.asarray(a) @ turn, turn.transpose(0, 2, 1) @ np.asarray(b)
    path = np.concatenate([x.reshape(len(t), -1) for x in turned], axis=1)
    length = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
    assert rotations({"a": a, "b": b}).log_volume == pytest.approx(np.log(2 * length), abs=1e-4)
    eye = {"a": jnp.eye(3) / np.sqrt(2), "b": jnp.zeros((3, 1))}  # the generators' images have length 1
    assert rotations(eye).log_volume == pytest.approx(np.log(2 * 8 * np.pi**2), abs=1e-5)
    two = {"one": {"a": a, "b": b}, "two": {"a": a, "b": b}}
    assert rotations(two).log_volume == pytest.approx(2 * np.log(2 * length), abs=1e-4)
    assert rotations(two).tangents.shape == (2, 36)


def test_evidence_of_a_curved_posterior_by_quadrature():
    """One weight, not Gaussian: integration is right where Laplace is off by a known amount."""
    f = lambda w: w**2 / 2 + w**4  # noqa: E731
    exact = np.log(integrate.quad(lambda w: np.exp(-5 * f(w)) * stats.norm.pdf(w), -np.inf, np.inf)[0])
    found = thermodynamic_integration(f, jnp.array(0.0), random.key(1), n=5, gamma=1.0, temperatures=8)
    assert not found.failures
    assert found.value == pytest.approx(exact, abs=4 * found.error + 0.01)
    assert abs(laplace(gaussian_energy(f, jnp.array(0.0), 5, 1.0), jnp.array(0.0)).value - exact) > 0.1
    assert jax.numpy.isfinite(found.error)


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ({"a": jnp.ones((3, 1))}, r"\['a'\] has no \['b'\] beside it"),
        ({"a": jnp.ones((2, 3, 1)), "b": jnp.ones((2, 1, 4))}, "one adapter at a time"),
        ({"a": jnp.array(1.0), "b": jnp.array(1.0)}, r"expected \(D, r\) and \(r, F\)"),
        ({"w": jnp.ones((3, 1))}, "no pair of factors"),
    ],
)
def test_what_has_no_orbit_is_told_in_a_line(factors, said):
    with pytest.raises(ValueError, match=said):
        rotations(factors)
