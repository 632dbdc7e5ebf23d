"""Posteriors against brute force, what their gates catch, and priors that are stretched."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from jax import random
from scipy import stats
from scipy.special import expit, logit

from bayesgen.infer.coordinates import FromCoordinate
from bayesgen.infer.fit import (
    CHAINS,
    FULL,
    SHORT,
    STRIDE,
    TOGETHER,
    Fit,
    Length,
    Problem,
    _first,
    _programs,
    fit,
    fits,
    model_of,
    unconstrained,
)
from bayesgen.infer.hypotheses import HYPOTHESES
from tests.infer.tables import PRIORS, SPREAD_PRIORS, A, array, matrix

DRAWS = FULL.kept * STRIDE


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


class Chains:
    """Stands in for compiled programs: draws that are the same in every stride, and how often they were asked for."""

    def __init__(self, draws):
        self.draws, self.strides = draws, 0

    def programs(self, *_):
        return self.begin, self.stride

    def begin(self, keys, *_):
        return np.zeros(keys.shape)

    def stride(self, state, *_):
        part = slice(STRIDE * self.strides, STRIDE * (1 + self.strides))
        self.strides += 1
        came = {k: np.repeat(x[:, part][None], len(state), axis=0) for k, x in self.draws.items()}
        return state, came, np.zeros((len(state), CHAINS, STRIDE), bool)


def white(shift=0.0):
    """Chains without memory, one of which lies elsewhere."""
    rng, long = np.random.default_rng(0), 10 * STRIDE
    draws = {"a": rng.normal(size=(CHAINS, long)).astype(np.float32), "o": rng.normal(size=(CHAINS, long, 3)).astype(np.float32)}
    draws["o"][1, :, 2] += shift
    return Chains(draws)


class Stumbling(Chains):
    """Of three problems, told apart by their data, the middle one's transitions diverge, one a stride, unless steps are made for a rate of
    acceptance of `sure`.
    """

    def __init__(self, draws, sure):
        super().__init__(draws)
        self.sure, self.asked = sure, []

    def programs(self, name, warmup, accepted):
        if accepted not in [rate for rate, _ in self.asked]:
            self.asked, self.strides = [*self.asked, (accepted, set())], 0

        def stride(state, cells, counted_C, y_C, stretch):
            which = np.asarray(y_C)[:, 0].astype(int)
            self.asked[-1][1].update(which.tolist())
            state, came, diverged = self.stride(state)
            came = {k: x + 100 * which.reshape(-1, *[1] * (x.ndim - 1)) for k, x in came.items()}
            diverged[:, 0, 7] = (which == 2) & (accepted < self.sure)
            return state, came, diverged

        return self.begin, stride


def test_fits_that_diverge_are_made_again_with_shorter_steps(table, monkeypatch):
    """And no others; what diverges still is shown as failed."""
    problems = [Problem(np.full_like(np.asarray(table.y_C), k), table.cells.counted_C) for k in (1, 2, 3)]
    for length, sure, diverged, asked in (
        (FULL, 0.9, 0, [(0.95, {1, 2, 3})]),
        (FULL, 0.99, 0, [(0.95, {1, 2, 3}), (0.99, {2})]),
        (FULL, 1.0, FULL.kept, [(0.95, {1, 2, 3}), (0.99, {2})]),
        (SHORT, 0.99, SHORT.kept, [(0.95, {1, 2, 3})]),
    ):
        chains = Stumbling(white().draws, sure)
        monkeypatch.setattr("bayesgen.infer.fit._programs", chains.programs)
        found = fits("H0", table.cells, problems, random.key(0), length)
        assert chains.asked == asked
        assert [of.divergences for of in found] == [0, diverged, 0]
        assert [bool(of.failures) for of in found] == [False, bool(diverged), False]
        assert [of.draws["a"].mean() for of in found] == pytest.approx([100, 200, 300], abs=0.5)  # each its own


def test_a_second_fit_that_is_worse_is_not_kept(table, monkeypatch):
    tries = iter([Fit({}, 1.0, 500.0, 1), Fit({}, 1.5, 3.0, 0)])
    monkeypatch.setattr("bayesgen.infer.fit._fits", lambda name, cells, problems, keys, length: [next(tries) for _ in problems])
    assert fits("H0", table.cells, [Problem(table.y_C, table.cells.counted_C)], random.key(0))[0].divergences == 1


def test_steps_for_a_higher_rate_of_acceptance_are_shorter(table):
    """After a stride of warm-up, every chain together."""
    size = []
    for accepted in FULL.accepted:
        begin, stride = _programs("H0 dose", STRIDE, accepted)
        problem = tuple(jnp.asarray(np.asarray(x, np.float32))[None] for x in (table.cells.counted_C, table.y_C, 1.0))
        state = begin(random.split(random.key(0), CHAINS)[None], table.cells, *problem)
        size.append(float(stride(state, table.cells, *problem)[0].adapt_state.step_size.mean()))
    assert size[1] < 0.8 * size[0]


def test_chains_that_disagree_are_caught(table, monkeypatch):
    """R-hat and effective draws are of the chains as they are: one of four that lies elsewhere is seen."""
    chains = white()
    monkeypatch.setattr("bayesgen.infer.fit._programs", chains.programs)
    good = fit("H0", table.cells, table.y_C, random.key(0))
    assert good.failures == ()
    assert good.draws["o"].shape == (CHAINS * DRAWS, 3)
    assert chains.strides == FULL.warmup + FULL.kept
    chains = white(3.0)
    monkeypatch.setattr("bayesgen.infer.fit._programs", chains.programs)
    assert len(fit("H0", table.cells, table.y_C, random.key(0)).failures) == 2
    assert chains.strides == FULL.warmup + FULL.kept + FULL.more  # they went on as long as they may


def test_chains_that_have_not_mixed_go_on_until_they_have(table, monkeypatch):
    """One that comes to where the others are after its first stride kept: more draws tell, as many are kept, the first among them."""
    chains = white()
    late = slice(STRIDE * FULL.warmup, STRIDE * (FULL.warmup + 1))
    chains.draws["a"][0, late] += 0.45
    monkeypatch.setattr("bayesgen.infer.fit._programs", chains.programs)
    found = fit("H0", table.cells, table.y_C, random.key(0))
    assert found.mixed
    more = chains.strides - FULL.warmup - FULL.kept
    assert 0 < more < FULL.more
    whole = chains.draws["a"][:, STRIDE * FULL.warmup : STRIDE * chains.strides]
    assert found.effective == pytest.approx(np.size(whole), rel=0.2)  # the white ones' are all
    assert len(found.draws["a"]) == CHAINS * DRAWS
    kept = found.draws["a"].reshape(CHAINS, -1)[0]
    assert set(kept) < set(whole[0])
    assert np.isin(kept, chains.draws["a"][0, late]).mean() == pytest.approx(1 / (FULL.kept + more), abs=0.01)


@pytest.fixture
def runaway(table):
    """Evidence of up to a hundred thousand nats, of which breadth follows a few thousandths of a percent."""
    evidence_C = np.linspace(-1e5, 1e5, 8)[[3, 0, 6, 2, 7, 1, 5, 4]]
    cells = table.cells._replace(columns={**table.cells.columns, "evidence": array(evidence_C)})
    floor_C, ceiling_C = np.asarray(cells.floor_C), np.asarray(cells.ceiling_C)
    return cells, logit(floor_C + (ceiling_C - floor_C) * expit(3e-5 * evidence_C))


def slope_by_chain(runaway):
    """Posterior means of the slope, chain by chain."""
    cells, y_C = runaway
    _programs.cache_clear()
    of_chains = fits("H0 likelihood", cells, [Problem(y_C, cells.counted_C)], random.key(2), Length(1, 1, 0, (0.95,)))[0].draws["beta"]
    _programs.cache_clear()
    return of_chains.reshape(CHAINS, -1).mean(axis=1)


def test_chains_begin_where_the_likelihood_is_not_flat(runaway):
    """Nearly all that the prior has, a tenth of a nat a nat, expects the floor or the ceiling in every cell."""
    assert slope_by_chain(runaway) == pytest.approx(3e-5, rel=0.3)


def test_trap_chains_that_begin_in_the_prior_begin_where_it_is_flat(runaway, monkeypatch):
    """Negative control: there, and not where they begin with the choice; whether a chain comes away from there is chance."""
    cells, y_C = runaway

    def begun() -> np.ndarray:
        of = jax.vmap(lambda key: _first("H0 likelihood", key, cells, cells.counted_C, jnp.asarray(y_C, jnp.float32), 1.0)["beta"])
        return np.asarray(of(random.split(random.key(5), 20)))

    assert (begun() < 1e-3).all()
    monkeypatch.setattr("bayesgen.infer.fit.NARROWER", (1.0,))
    monkeypatch.setattr("bayesgen.infer.fit.BEGUN", 1)
    assert (begun() > 1e-3).mean() > 0.8  # a half-normal of .1 has .8% below


def test_cells_held_out_tell_nothing(table):
    """The same draws to the last bit, whatever was measured of them; of a cell that counts it matters."""
    held = table.cells._replace(counted_C=table.cells.counted_C.at[3].set(0))
    one, two, three = (
        fit("H0", held, table.y_C + shift, random.key(0)).draws for shift in (np.zeros(8), 5.0 * np.eye(8)[3], 5.0 * np.eye(8)[2])
    )
    assert all((one[k] == two[k]).all() for k in one)
    assert all((one[k] != three[k]).any() for k in one)


def test_tables_fitted_together_are_fitted_each_by_itself(table, found):
    """More of them than go together, each moved by its number: so is what all cells have in common, and nothing else changes."""
    count = TOGETHER + 2
    calm = table.cells._replace(floor_C=0 * table.cells.floor_C, ceiling_C=0 * table.cells.ceiling_C + 1)
    problems = [Problem(table.y_C + 0.1 * i, calm.counted_C, 3.0) for i in range(count)]
    together = fits("H0", calm, problems, random.key(1), SHORT)
    assert len(together) == count
    means = np.array([f.draws["a"].mean() for f in together])
    error = np.array([f.draws["a"].std() / np.sqrt(f.effective) for f in together])
    slope, at_0 = np.polyfit(np.arange(count), means, 1)
    assert slope == pytest.approx(0.1, abs=0.02)  # the prior, three times as wide, draws little towards 0
    assert (np.abs(means - at_0 - slope * np.arange(count)) < 4.5 * error).all()
    assert len(set(means)) == count  # negative control


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
    of = {k: FromCoordinate(stretch * SPREAD_PRIORS[k].kwds["scale"]) for k in SPREAD_PRIORS}
    assert {k: float(of[k](z[k][0])) for k in SPREAD_PRIORS} == pytest.approx({k: draw[k] for k in SPREAD_PRIORS}, rel=1e-5)
    slope = sum(float(of[k].log_abs_det_jacobian(z[k][0], None)) for k in SPREAD_PRIORS)
    found = float(log_joint(table.cells, array(table.y_C), stretch, z)[0])
    assert found == pytest.approx(likely + prior + slope, abs=1e-4)  # float32
