"""Coordinates of half-normal priors and of shares: there and back, how much they stretch, and what the prior looks like in them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.special import logit

from bayesgen.infer.coordinates import FromCoordinate, HalfNormal, Share, ShareFromCoordinate
from tests.infer.tables import array

Z = np.linspace(-6, 6, 49)


def by_hand(z, scale):
    """The docstring's."""
    u = 1.25 * z - np.maximum(-z, 0) ** 2 / 2
    return scale * np.log1p(np.exp(u))


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_there_and_back(scale):
    of = FromCoordinate(scale)
    x = of(array(Z))
    assert np.asarray(x) == pytest.approx(by_hand(Z, scale), rel=1e-5)  # float32
    assert np.asarray(of.inv(x)) == pytest.approx(Z, abs=1e-5)
    assert np.asarray(of.inv(array([90.0 * scale]))) == pytest.approx([90 / 1.25], rel=1e-6)  # where e^x would be infinite


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_how_much_it_stretches(scale):
    """By central differences, in double precision; at -z and z it is not the same, so that a sign would be seen."""
    slope = (by_hand(Z + 1e-5, scale) - by_hand(Z - 1e-5, scale)) / 2e-5
    z = array(Z)
    found = FromCoordinate(scale).log_abs_det_jacobian(z, by_hand(Z, scale))
    assert np.asarray(found) == pytest.approx(np.log(slope), abs=1e-4)
    assert np.abs(np.log(slope) - np.log(slope[::-1])).max() > 1


def test_the_prior_is_a_half_normal_and_its_coordinate_nearly_a_normal():
    prior = HalfNormal(0.5)
    x = np.array([0.01, 0.3, 2.0])
    assert np.asarray(prior.log_prob(array(x))) == pytest.approx(stats.halfnorm(scale=0.5).logpdf(x), abs=1e-5)
    drawn = prior.sample(jax.random.key(0), (20_000,))
    z = np.asarray(dist.biject_to(prior.support).inv(drawn))
    assert abs(np.median(z)) < 0.05
    assert z.std() == pytest.approx(1, abs=0.15)
    assert abs(stats.skew(z)) < 0.2
    assert stats.skew(np.log(drawn)) < -1  # negative control: NumPyro's own has the long tail


def test_gradients_are_finite_far_out():
    energy = lambda z: HalfNormal(0.1).log_prob(FromCoordinate(0.1)(z)) + FromCoordinate(0.1).log_abs_det_jacobian(z, None)  # noqa: E731
    slopes = jax.vmap(jax.grad(energy))(jnp.linspace(-40.0, 40.0, 9))
    assert np.isfinite(np.asarray(slopes)).all()
    assert (np.sign(slopes) == [1, 1, 1, 1, np.sign(slopes[4]), -1, -1, -1, -1]).all()  # all lead back


@pytest.mark.parametrize("n", [1.0, 3.0])
def test_a_share_there_and_back(n):
    """By scipy's quantiles."""
    of, z = ShareFromCoordinate(n), Z[np.abs(Z) <= 5]
    x = of(array(z))
    assert np.asarray(x) == pytest.approx(-np.expm1(stats.norm.logsf(z) / n), rel=1e-4, abs=1e-7)
    assert np.asarray(x[z < 4]) == pytest.approx(stats.beta(1, n).ppf(stats.norm.cdf(z[z < 4])), rel=1e-3, abs=2e-8)
    there = np.abs(z) <= 3  # farther to the right 1 - x is of float32's last digits
    assert np.asarray(of.inv(x))[there] == pytest.approx(z[there], abs=1e-3)
    assert np.isfinite(np.asarray(of.inv(array([0.0, 1.0])))).all()


@pytest.mark.parametrize("n", [1.0, 3.0])
def test_how_much_the_coordinate_of_a_share_stretches(n):
    """In it the prior is a standard normal: the densities say the same."""
    z = array(np.linspace(-4, 3, 29))
    of, prior = ShareFromCoordinate(n), Share(n)
    found = prior.log_prob(of(z)) + of.log_abs_det_jacobian(z, None)
    assert np.asarray(found) == pytest.approx(stats.norm.logpdf(np.asarray(z)), abs=1e-3)


@pytest.mark.parametrize("n", [1.0, 3.0])
def test_a_share_is_a_beta_and_its_coordinate_a_normal(n):
    x = np.array([0.01, 0.3, 0.9])
    assert np.asarray(Share(n).log_prob(array(x))) == pytest.approx(stats.beta(1, n).logpdf(x), abs=1e-5)
    drawn = Share(n).sample(jax.random.key(0), (20_000,))
    z = np.asarray(dist.biject_to(Share(n).support).inv(drawn))
    assert stats.kstest(z, "norm").pvalue > 0.01
    assert stats.kstest(logit(np.asarray(drawn, float)), "norm").pvalue < 1e-6  # negative control: NumPyro's own
