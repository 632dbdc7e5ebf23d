"""Against integrals at the same temperature and tie; a sampler of another kind; and cases in which it must say that it failed."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from bayesgen.estimate.llc import coefficient, default_n_beta, llc, localised, tied
from bayesgen.estimate.sampling import chains_mean, hmc, rms_preconditioner, sgld, split_hmc

N_BETA, GAMMA = 145.0, 1.0
CASES = {
    "w^2": (1, lambda w: w[0] ** 2),
    "w^4": (1, lambda w: w[0] ** 4),
    "w1^2 w2^2": (2, lambda w: w[0] ** 2 * w[1] ** 2),
}


def quadrature(loss, d, n_beta=N_BETA, gamma=GAMMA, half=8.0, points=4001):
    """n_beta E[L] on a grid."""
    x = np.linspace(-half, half, points)
    w = np.stack(np.meshgrid(*[x] * d, indexing="ij"))
    at = loss(w)
    log_p = -n_beta * at - gamma * (w**2).sum(0) / 2
    p = np.exp(log_p - log_p.max())
    return float(n_beta * (p * at).sum() / p.sum())


@pytest.mark.parametrize("name", CASES)
def test_known_answers_at_the_same_temperature(name):
    d, loss = CASES[name]
    found = llc(loss, jnp.zeros(d), random.key(0), n_beta=N_BETA, gamma=GAMMA, chains=8, draws=5000, accept=0.999)
    # the arms of the cross narrow without end: some trajectories diverge there, and it says so
    assert not [f for f in found.failures if name != "w1^2 w2^2" or "divergent" not in f]
    assert found.value == pytest.approx(quadrature(loss, d), abs=4 * found.error)
    assert found.error < 0.01


def test_what_the_integrals_are():
    """The values of the docstrings and of the literature: not the asymptotic coefficients where n_beta is finite."""
    assert quadrature(CASES["w^2"][1], 1) == pytest.approx(localised([2.0], N_BETA, GAMMA), rel=1e-6)
    assert quadrature(CASES["w^2"][1], 1, gamma=0) == pytest.approx(0.5, rel=1e-6)
    assert quadrature(CASES["w^4"][1], 1, gamma=0) == pytest.approx(0.25, rel=1e-4)
    assert quadrature(CASES["w1^2 w2^2"][1], 2) == pytest.approx(0.361, abs=5e-4)
    assert quadrature(CASES["w1^2 w2^2"][1], 2, gamma=0, half=1.0) == pytest.approx(0.356, abs=5e-4)  # no tie, a square for a prior
    assert quadrature(CASES["w1^2 w2^2"][1], 2, n_beta=1e4, gamma=0, half=1.0) > 0.38  # on its way to the asymptotic half, not there


def test_the_tie_takes_away_what_the_closed_form_says():
    h = jnp.array([10.0, 1.0, 0.1, 0.01])
    loss = lambda w: (h * w**2).sum() / 2  # noqa: E731
    found = llc(loss, jnp.zeros(4), random.key(1), n_beta=100, gamma=5.0, draws=5000)
    assert not found.failures
    assert found.value == pytest.approx(localised(h, 100, 5.0), abs=4 * found.error)
    assert abs(found.value - 2) > 20 * found.error  # half the parameters is what it would be untied


def test_the_tie_alone_is_linear_in_n_beta_where_the_coefficient_is_not():
    h = jnp.array([10.0, 1.0, 0.1, 0.01])
    loss = lambda w: (h * w**2).sum() / 2  # noqa: E731
    of_tie = {n: float(tied(loss, jnp.zeros(4), random.key(0), n_beta=n, gamma=5.0, draws=20000)) for n in (100.0, 200.0)}
    error = 100 * np.sqrt((h**2).sum() / 2) / 5.0 / np.sqrt(20000)
    assert of_tie[100.0] == pytest.approx(100 * float(h.sum()) / 10, abs=4 * error)
    assert of_tie[200.0] == pytest.approx(2 * of_tie[100.0], rel=1e-5)  # the same draws
    assert localised(h, 200, 5.0) < 1.2 * localised(h, 100, 5.0)  # the coefficient's own answer to twice the data
    assert localised(h, 100, 5.0) < of_tie[100.0] - 4 * error


def regression(n=200, d=3):
    x, noise = random.normal(random.key(3), (n, d)), random.normal(random.key(4), (n,))
    y = x @ jnp.arange(1.0, d + 1) + noise
    per_row = lambda w, x, y: (x @ w - y) ** 2 / 2  # noqa: E731
    loss = lambda w: per_row(w, x, y).mean()  # noqa: E731

    def minibatch(w, key):
        rows = random.randint(key, (20,), 0, n)
        return per_row(w, x[rows], y[rows]).mean()

    return loss, minibatch, jnp.linalg.lstsq(x, y)[0], jnp.linalg.eigvalsh(x.T @ x / n), n


def test_minibatch_steps_agree_with_hamiltonian_ones_and_with_the_closed_form():
    loss, minibatch, w, h, n = regression()
    n_beta = default_n_beta(n)
    expected = localised(h, n_beta, 1.0)
    exact = llc(loss, w, random.key(0), n_beta=n_beta, draws=4000)
    scale = rms_preconditioner(minibatch, w, random.key(2), 50)
    noisy = llc(loss, w, random.key(0), n_beta=n_beta, step=1e-3, chains=8, draws=2000, thin=20, minibatch=minibatch, preconditioner=scale)
    assert not exact.failures
    assert not noisy.failures
    assert exact.value == pytest.approx(expected, abs=4 * exact.error)
    assert noisy.value == pytest.approx(expected, abs=4 * noisy.error + 0.03 * expected)  # bias of the step
    # negative control: steps forty times as long are visibly biased
    rough = llc(loss, w, random.key(0), n_beta=n_beta, step=4e-2, chains=8, draws=2000, minibatch=minibatch, preconditioner=scale)
    assert rough.value > 1.2 * expected
    (said,) = (f for f in rough.failures if "too long" in f)  # which no diagnostic of the chains tells
    assert expected < float(said.rsplit(" ", 1)[1]) < rough.value
    assert rough.r_hat < 1.01
    with pytest.raises(ValueError, match="needs a `step`"):
        llc(loss, w, random.key(0), n_beta=n_beta, minibatch=minibatch)


def test_the_preconditioner_changes_the_speed_and_not_the_target():
    loss, minibatch, w, *_ = regression()
    here = dict(n_beta=20.0, gamma=1.0, step=1e-2, chains=8, draws=2000)
    one, other = (sgld(loss, minibatch, w, random.key(1), preconditioner=p, **here).loss.mean() for p in (None, jnp.array([0.2, 1.0, 1.8])))
    assert float(one - loss(w)) == pytest.approx(float(other - loss(w)), rel=0.05)


@pytest.mark.parametrize("leaps", [4, 12])
@pytest.mark.parametrize("name", CASES)
def test_split_chains_meet_the_same_integrals(name, leaps):
    d, loss = CASES[name]
    here = dict(n_beta=N_BETA, chains=8, draws=4000, leaps=leaps, accept=0.99 if d == 2 else 0.8)  # the cross's arms narrow
    split = lambda gamma: split_hmc(loss, jnp.zeros(d), random.key(1), gamma=gamma, **here)  # noqa: E731
    found = chains_mean(N_BETA * split(GAMMA).loss)
    assert not found.failures or d == 2  # draws in the arms are few, and it says so
    assert found.value == pytest.approx(quadrature(loss, d), abs=4 * found.error)
    assert found.error < 0.05
    other = chains_mean(N_BETA * split(100.0).loss)  # negative control: another tie is another target
    assert abs(other.value - quadrature(loss, d)) > 5 * other.error
    assert other.value == pytest.approx(quadrature(loss, d, gamma=100.0), abs=4 * other.error)


def test_split_chains_need_no_shorter_steps_in_many_dimensions():
    """Forty directions that the data know among ten thousand that they do not, at four gradients a draw, started elsewhere."""
    h = jnp.concatenate([jnp.logspace(2, -3, 40), jnp.zeros(10_000)])
    loss = lambda w: (h * w**2).sum() / 2  # noqa: E731
    here = dict(n_beta=40.0, gamma=100.0, chains=8, draws=400, start=jnp.full(len(h), 0.1))
    found = chains_mean(40.0 * split_hmc(loss, jnp.zeros(len(h)), random.key(0), **here).loss)
    assert not found.failures
    assert found.value == pytest.approx(localised(h, 40, 100), abs=4 * found.error)
    first = split_hmc(loss, jnp.zeros(len(h)), random.key(0), watch=lambda w: w[0] ** 2, **here).loss
    assert float(first.mean()) == pytest.approx(1 / (40 * 100 + 100), rel=0.15)


def test_beside_a_minimum_the_coefficient_is_that_of_the_mode_of_the_target():
    """A quadratic tied to a point up its slope: against the loss at the mode it is the closed form. Tied to that mode in turn, the chains
    slide on, and it is too small by n_beta |slope|^2 n_beta / (n_beta h + gamma).
    """
    h, w0 = jnp.logspace(1, -1, 30), jnp.full(30, 0.5)
    loss = lambda w: (h * w**2).sum() / 2  # noqa: E731
    mode = 20.0 * w0 / (10.0 * h + 20.0)
    here = dict(n_beta=10.0, gamma=20.0, chains=8, draws=1000)
    right = coefficient(split_hmc(loss, w0, random.key(0), start=mode, **here), loss(mode), 10.0)
    assert right.value == pytest.approx(localised(h, 10, 20), abs=4 * right.error)
    wrong = coefficient(split_hmc(loss, mode, random.key(0), **here), loss(mode), 10.0)
    b, a = 10.0 * h * mode, 10.0 * h + 20.0  # n_beta times the slope at the mode, and the curvature of the target
    assert wrong.value == pytest.approx(
        float(right.value - (b**2 / a - 10.0 * h * b**2 / a**2 / 2).sum()), abs=4 * (right.error + wrong.error)
    )
    assert wrong.value < right.value - 1


def test_chains_that_start_apart_notice_a_second_well():
    """Two wells of unlike depth, nine nats times fifty apart: no chain crosses, and R-hat says so. From one place it would not."""

    def two(w):
        return jnp.minimum((w[0] - 3) ** 2, (w[0] + 3) ** 2 + 0.5)

    def one(w):
        return (w[0] - 3) ** 2

    here = dict(n_beta=50.0, gamma=0.1, chains=8, draws=1000)
    assert chains_mean(split_hmc(two, jnp.zeros(1), random.key(0), **here).loss).r_hat > 1.1
    assert not chains_mean(split_hmc(one, jnp.zeros(1), random.key(0), **here).loss).failures


def test_trap_the_temperature_comes_from_the_number_of_data():
    """At a batch's n_beta the coefficient is another; n of the data is an argument, a batch's size is not."""
    assert default_n_beta(208) == pytest.approx(208 / np.log(208))
    loss = CASES["w^4"][1]
    found = llc(loss, jnp.zeros(1), random.key(0), n_beta=default_n_beta(208), chains=8, draws=5000)
    assert found.value == pytest.approx(quadrature(loss, 1, n_beta=default_n_beta(208)), abs=4 * found.error)
    assert abs(found.value - quadrature(loss, 1, n_beta=default_n_beta(8))) > 4 * found.error
    with pytest.raises(ValueError, match="at least 2"):
        default_n_beta(1)


@pytest.mark.parametrize(("h", "gamma"), [(2.0, 1e5), (1e-4, 1.0)])
def test_a_coefficient_that_is_the_ties_says_so(h, gamma):
    """A strong tie, or a weak loss under the usual one; and a loss that overrules its tie does not."""
    found = llc(lambda w: h / 2 * (w**2).sum(), jnp.zeros(5), random.key(0), n_beta=N_BETA, gamma=gamma)
    assert any("the tie decides" in f for f in found.failures)
    assert found.value == pytest.approx(localised([h] * 5, N_BETA, gamma), abs=4 * found.error)
    free = llc(lambda w: (w**2).sum(), jnp.zeros(5), random.key(0), n_beta=N_BETA, gamma=1.0)
    assert not free.failures
    assert free.tied == pytest.approx(5 * N_BETA, rel=0.2)  # a hundred draws


def test_what_cannot_be_trusted_says_so():
    few = llc(lambda w: (w**2).sum(), jnp.zeros(1), random.key(0), n_beta=N_BETA, draws=50)
    assert [f.split(" ", 1)[1] for f in few.failures] == ["effective draws < 400"]
    slope = lambda w: (w[0] - 1) ** 2  # noqa: E731
    no_minimum = llc(slope, jnp.zeros(1), random.key(0), n_beta=N_BETA, draws=200)
    assert any("no minimum" in f for f in no_minimum.failures)
    quartic = lambda w: (w**4).sum()  # noqa: E731
    here = dict(step=1.0, chains=2, warmup=10, draws=20, minibatch=lambda w, k: quartic(w))
    away = llc(quartic, jnp.ones(1), random.key(0), n_beta=N_BETA, **here)
    assert away.failures == ("the chains left the finite numbers",)
    still = llc(lambda w: 0 * w.sum(), jnp.zeros(1), random.key(0), n_beta=N_BETA, gamma=0, warmup=0, draws=10)
    assert still.failures == ("the chains did not move",)
    cliff = lambda w: jnp.where(w[0] > 0, 1e6 * w[0], w[0] ** 2)  # noqa: E731
    (found,) = hmc(cliff, jnp.zeros(1), random.key(0), n_betas=[N_BETA], gamma=1.0, warmup=0, draws=200)
    assert found.divergences > 0
    nowhere = lambda w: jnp.where(w[0] > 0, jnp.nan, w[0] ** 2)  # noqa: E731
    split = split_hmc(nowhere, jnp.zeros(1), random.key(0), n_beta=N_BETA, gamma=1.0, start=-jnp.ones(1), warmup=0, draws=200)
    assert int(split.divergences) > 0  # what is no number is never gone to, and it says that it was tried
    with pytest.raises(ValueError, match="two halves need at least 4"):
        chains_mean(np.zeros((2, 3)))
