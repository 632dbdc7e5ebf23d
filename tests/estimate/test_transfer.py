"""Exact on a linear model; the mixed random-effects twin moves a third; another optimiser goes another way."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from bayesgen.estimate.transfer import double_contrast, one_step_transfer

X, Y = random.normal(random.key(0), (20, 6)), random.normal(random.key(1), (20,))
PROBE = random.normal(random.key(2), (6,))
W = random.normal(random.key(3), (6,))


def train(w):
    return ((X @ w - Y) ** 2).mean() / 2


def target(w):
    return PROBE @ w


@pytest.mark.parametrize("optimizer", [optax.sgd(0.3), optax.adam(0.01)], ids=["plain", "adam"])
def test_on_a_linear_response_it_is_the_change_itself(optimizer):
    step, _ = optimizer.update(jax.grad(train)(W), optimizer.init(W))
    assert float(one_step_transfer(train, target, W, optimizer)) == pytest.approx(float(target(W + step) - target(W)), rel=1e-4)


def test_plain_and_preconditioned_disagree():
    plain = one_step_transfer(train, target, W, optax.sgd(1.0))
    adam = one_step_transfer(train, target, W, optax.adam(1.0))
    gradient = jax.grad(train)(W)
    assert float(plain) == pytest.approx(float(-PROBE @ gradient), rel=1e-5)
    assert float(adam) == pytest.approx(float(-PROBE @ jnp.sign(gradient)), rel=1e-4)  # its first step is the sign
    assert abs(float(plain) - float(adam)) > 0.1


def test_the_double_contrast_takes_away_what_any_answers_would_do():
    """The common part of two gradients drops out; without the contrast it decides the sign."""
    common, own = 5 * PROBE, -0.1 * PROBE
    persona = lambda w: -(common + own) @ w  # noqa: E731
    ordinary = lambda w: -common @ w  # noqa: E731
    assert float(one_step_transfer(persona, target, W, optax.sgd(1.0))) > 0
    assert float(double_contrast(persona, ordinary, target, W, optax.sgd(1.0))) == pytest.approx(float(own @ PROBE), rel=1e-3)


def test_the_linear_twin_moves_off_topic_a_third_of_on_topic():
    """Shared scale 1, specific scale sqrt 2: features (1, sqrt 2, 0) on and (1, 0, sqrt 2) off the topic; tau_g^2/(tau_g^2+tau_n^2)."""
    on, off = jnp.array([1.0, 2**0.5, 0.0]), jnp.array([1.0, 0.0, 2**0.5])
    loss = lambda w: (on @ w - 1) ** 2 / 2  # noqa: E731
    moved = [one_step_transfer(loss, lambda w, f=f: f @ w, jnp.zeros(3), optax.sgd(0.1)) for f in (off, on)]
    assert float(moved[0] / moved[1]) == pytest.approx(1 / 3, rel=1e-5)
    w = jnp.zeros(3)
    for _ in range(500):
        w = w - 0.1 * jax.grad(loss)(w)
    assert float(off @ w / (on @ w)) == pytest.approx(1 / 3, rel=1e-5)  # gradient descent to the end
    posterior = on / (on @ on + 1e-6)  # mean given on'w = 1 with little noise, prior N(0, I)
    assert float(off @ posterior / (on @ posterior)) == pytest.approx(1 / 3, rel=1e-5)
    sign = one_step_transfer(loss, lambda w: off @ w, jnp.zeros(3), optax.adam(0.1)) / one_step_transfer(
        loss, lambda w: on @ w, jnp.zeros(3), optax.adam(0.1)
    )
    assert np.abs(float(sign) - 1 / 3) > 0.05  # negative control: Adam's path is another
