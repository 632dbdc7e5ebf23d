"""Krichevsky-Trofimov in closed form, the Bayes mixture against its marginal likelihood, and orders that matter or do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy.special import gammaln

from bayesgen.estimate.code_length import krichevsky_trofimov, over_orders, prequential_bits

X = random.bernoulli(random.key(0), 0.2, (60,)).astype(int)


def test_krichevsky_trofimov_is_its_closed_form_in_any_order():
    bits = prequential_bits(krichevsky_trofimov, jnp.zeros(2), X)
    k, n = int(X.sum()), len(X)
    log_z = gammaln(k + 0.5) + gammaln(n - k + 0.5) - gammaln(n + 1) - np.log(np.pi)
    np.testing.assert_allclose(float(bits.sum()), -log_z / np.log(2), rtol=1e-5)  # float32
    totals = over_orders(krichevsky_trofimov, jnp.zeros(2), X, random.key(1), 20).sum(axis=1)
    np.testing.assert_allclose(totals, totals[0], rtol=1e-5)


RATES = jnp.array([0.1, 0.5, 0.8])


def mixture(log_weights, x):
    log_p = jnp.log(jnp.where(x == 1, RATES, 1 - RATES))
    joint = log_weights + log_p
    return jax.nn.logsumexp(log_weights) - jax.nn.logsumexp(joint), joint


def test_the_bayes_mixture_sends_at_minus_log_marginal_likelihood():
    prior = jnp.log(jnp.array([0.2, 0.3, 0.5]))
    k, n = int(X.sum()), len(X)
    exact = -np.log2((np.exp(prior) * np.asarray(RATES) ** k * (1 - np.asarray(RATES)) ** (n - k)).sum())
    np.testing.assert_allclose(float(prequential_bits(mixture, prior, X).sum()), exact, rtol=1e-5)


def test_a_learner_that_forgets_depends_on_the_order_and_pays():
    """Negative control: a moving average is no mixture, so its length moves with the order, and it pays before it learns."""

    def forgetful(p, x):
        return -jnp.log(jnp.where(x == 1, p, 1 - p)), 0.8 * p + 0.2 * jnp.clip(x, 0.05, 0.95)

    totals = over_orders(forgetful, jnp.array(0.5), X, random.key(1), 20).sum(axis=1)
    assert float(totals.std()) > 1
    learned_first = prequential_bits(lambda p, x: forgetful(forgetful(p, x)[1], x), jnp.array(0.5), X).sum()
    assert float(learned_first) < float(totals.min())  # a length cannot be had by learning before sending


def test_symbols_and_data_that_do_not_exist_are_not_sent():
    bits = prequential_bits(krichevsky_trofimov, jnp.zeros(2), jnp.array([0, 2, 1, -1]))
    np.testing.assert_array_equal(np.isnan(bits), [False, True, False, True])
    for data in ([0, 1], {}, {"x": jnp.zeros(3), "y": jnp.zeros(2)}):
        with pytest.raises(ValueError, match="expected arrays of one length"):
            prequential_bits(krichevsky_trofimov, jnp.zeros(2), data)
