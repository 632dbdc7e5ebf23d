"""Posteriors against brute force, what their gates catch, and priors that are stretched."""

import numpy as np
import numpyro
import pytest
from jax import random
from scipy import stats
from scipy.special import expit, logit

from bayesgen.infer.fit import CHAINS, FULL, Fit, fit, model_of, unconstrained
from bayesgen.infer.hypotheses import HYPOTHESES
from tests.infer.tables import PRIORS, SPREAD_PRIORS, A, array, matrix

DRAWS = FULL[1]


def test_the_posterior_is_what_brute_force_finds(found, brute):
    weight_S = brute.weights()
    assert brute.effective() > 5000
    for name, drawn in brute.draws.items():
        mine, x = found.draws[name], drawn if name == "a" else np.log(drawn)
        mine = mine if name == "a" else np.log(mine)
        mean, sd = weight_S @ x, np.sqrt(weight_S @ (x - weight_S @ x) ** 2)
        error = sd * np.sqrt(1 / found.effective + 1 / brute.effective())
        assert abs(mine.mean() - mean) < 4 * error  # standard errors
        assert abs(mine.std() - sd) < 4 * error  # that of a standard deviation is smaller, but for heavy tails


def test_trap_the_prior_is_no_posterior(found, brute):
    """Negative control: without the data the breadth that all have in common is far from known."""
    assert found.draws["a"].std() < 0.6 * brute.draws["a"].std()


def test_it_may_be_trusted(found):
    assert found.failures == ()
    assert {len(x) for x in found.draws.values()} == {CHAINS * DRAWS}
    assert set(found.draws) == {"a", *SPREAD_PRIORS}  # and nothing that follows from these


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"r_hat": 1.02}, "R-hat 1.020"),
        ({"r_hat": float("nan")}, "R-hat nan"),
        ({"effective": 399.0}, "399 effective draws"),
        ({"effective": float("nan")}, "nan effective draws"),
        ({"divergences": 1}, "1 divergent"),
    ],
)
def test_a_posterior_not_to_be_trusted_says_why(change, said):
    good = Fit({}, 1.009, 400.0, 0)
    assert good.failures == ()
    (reason,) = good._replace(**change).failures
    assert reason.startswith(said)


def test_every_gate_that_fails_is_said():
    assert len(Fit({}, 2.0, 3.0, 4).failures) == 3


def test_chains_that_disagree_are_caught(table, monkeypatch):
    """R-hat and effective draws are of the chains as they are: one of four that lies elsewhere is seen."""
    rng = np.random.default_rng(0)
    chains = {"a": rng.normal(size=(CHAINS, DRAWS)).astype(np.float32), "o": rng.normal(size=(CHAINS, DRAWS, 3)).astype(np.float32)}
    of = lambda draws: lambda *_: (draws, np.zeros((CHAINS, DRAWS), bool))  # noqa: E731
    monkeypatch.setattr("bayesgen.infer.fit._walks", lambda *_: of(chains))
    good = fit("H0", table.cells, table.y_C, random.key(0))
    assert good.failures == ()
    assert good.draws["o"].shape == (CHAINS * DRAWS, 3)
    chains["o"][1, :, 2] += 3.0
    assert len(fit("H0", table.cells, table.y_C, random.key(0)).failures) == 2


def test_cells_held_out_tell_nothing(table):
    """The same draws to the last bit, whatever was measured of them; of a cell that counts it matters."""
    held = table.cells._replace(counted_C=table.cells.counted_C.at[3].set(0))
    one, two, three = (
        fit("H0", held, table.y_C + shift, random.key(0)).draws for shift in (np.zeros(8), 5.0 * np.eye(8)[3], 5.0 * np.eye(8)[2])
    )
    assert all((one[k] == two[k]).all() for k in one)
    assert all((one[k] != three[k]).any() for k in one)


def stretched(prior, factor):
    """Of scipy's: normals of any kind have their scale multiplied; others stay."""
    if prior.dist.name == "norm":
        return stats.norm(prior.mean(), factor * prior.std())
    if prior.dist.name == "halfnorm":
        return stats.halfnorm(scale=factor * prior.kwds["scale"])
    if prior.dist.name == "lognorm":
        return stats.lognorm(factor * prior.args[0], scale=prior.median())
    return prior


@pytest.mark.parametrize("name", HYPOTHESES)
def test_stretched_priors_have_their_scale_multiplied(name, table):
    trace = numpyro.handlers.trace(numpyro.handlers.seed(model_of(name, 2.0), random.key(0))).get_trace(table.cells, array(table.y_C))
    for k, prior in {**PRIORS[name], **SPREAD_PRIORS}.items():
        fn, x = trace[k]["fn"], prior.ppf([0.1, 0.5, 0.9])
        log_prob = [np.asarray(fn.log_prob(array(np.full(fn.batch_shape, v)))).mean() for v in x]
        assert log_prob == pytest.approx(stretched(prior, 2.0).logpdf(x), abs=1e-4), k  # float32


@pytest.mark.parametrize("stretch", [1.0, 2.0])
def test_the_joint_density_without_bounds_is_prior_times_likelihood_times_slope(table, stretch):
    draw = {"a": -0.7, "cell": 0.3, "base": 0.2, "experiment": 0.9}
    to_plain, log_joint = unconstrained("H0")
    z = to_plain(table.cells, array(table.y_C), stretch, {k: array([v]) for k, v in draw.items()})
    floor, ceiling = np.asarray(table.cells.floor_C, float), np.asarray(table.cells.ceiling_C, float)
    likely = stats.multivariate_normal(logit(floor + (ceiling - floor) * expit(draw["a"])), matrix(table.cells, draw)).logpdf(table.y_C)
    prior = sum(stretched(p, stretch).logpdf(draw[k]) for k, p in {"a": A, **SPREAD_PRIORS}.items())
    slope = sum(np.log(draw[k]) for k in SPREAD_PRIORS)  # spreads are exponentials of their coordinates
    assert z["cell"].tolist() == pytest.approx([np.log(0.3)])
    found = float(log_joint(table.cells, array(table.y_C), stretch, z)[0])
    assert found == pytest.approx(likely + prior + slope, abs=1e-4)  # float32
