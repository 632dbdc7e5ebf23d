"""Every hypothesis against its own docstring, written anew; and where they must agree, or go flat."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from jax import random
from scipy.special import expit, logit

from bayesgen.infer.cells import COLUMNS
from bayesgen.infer.fit import means_of
from bayesgen.infer.hypotheses import HYPOTHESES
from tests.infer.tables import PRIORS, SPREAD_PRIORS, array


def odds(c, p):
    """log f_B - log(f_N + f_0)."""
    return np.log(c["frequency_broad"]) - np.log(c["frequency_narrow"] + 10 ** p["log10_f0"])


def norm(name, power):
    return lambda c, p: p["t"] * (c[f"{name}_narrow"] ** power - c[f"{name}_broad"] ** power) + p["beta"] * c["evidence"]


def code_length(c, p):
    complexity = np.log(2) * (c["bits_narrow"] ** p["b"] - c["bits_broad"] ** p["b"])
    per_row = c["evidence"] / c["rows"]  # L_N - L_B
    return complexity + p["beta"] * 100 ** p["d"] * c["rows"] ** (1 - p["d"]) * per_row


def shared(c, p):
    """The odds ratio of a two by two table of people: both, neither, the topic alone, others alone; each a thousandth more, as if met."""
    both, topic, h = c["frequency_broad"], c["frequency_narrow"], 1e-3
    ratio = (both + h) * (1 - both - topic + h) / ((topic + h) * h)
    log_f, log_ratio = (x - x.mean(axis=0) for x in (np.log(both), np.log(ratio)))
    tau_g_to_n = np.exp(p["a0"] + p["a1"] * log_f + p["a2"] * log_ratio / 5)
    return c["margin"] * tau_g_to_n**2 / (tau_g_to_n**2 + 1)


def path(c, p):
    by = p["b_transfer"] * c["transfer"] + p["b_steps"] * np.log(c["steps"] / 100) + p["b_rank"] * np.log(c["stable_rank"] / 4)
    return by + p["o"][c["optimizer"].astype(int)]


def dose(c, p):
    return p["b_rows"] * np.log(c["rows"] / 100) + p["b_steps"] * np.log(c["steps"] / 100) + p["b_margin"] * c["margin"]


def in_the_average_cell(varying):
    """Parts count from their mean over cells; what eta is there is a."""
    return lambda c, p: p["a"] + varying(c, p) - varying(c, p).mean()


EQUATIONS = {
    "H0": lambda c, p: 0 * c["rows"],
    "H0 dose": dose,
    "H0 likelihood": lambda c, p: p["beta"] * c["evidence"],
    "H2": lambda c, p: p["w"] * odds(c, p) + p["beta"] * c["evidence"],
    "H3": code_length,
    "H4 Frobenius": norm("frobenius", 2),
    "H4 nuclear": norm("nuclear", 1),
    "H4 function": norm("function", 2),
    "H5": lambda c, p: p["beta"] * c["evidence"] + p["c"] * (c["llc_narrow"] - c["llc_broad"]) * np.log(c["rows"]),
    "H6": shared,
    "H7": lambda c, p: -p["D"] * (c["ordinary"] / 100) / ((c["rows"] + c["ordinary"]) / 100) ** (1 - p["q"]),
    "H8": lambda c, p: p["s"] * (p["leak"] + (1 - p["leak"]) * np.exp(-c["distance"] / p["r"])),
    "H9": path,
}
EQUATIONS = {name: in_the_average_cell(varying) for name, varying in EQUATIONS.items()} | {
    "H1": odds,
    "H10": lambda c, p: logit((1 - p["q"]) * (1 - np.exp(-((c["steps"] / p["T"]) ** p["k"])))),
}


def drawn(name, n, seed=0):
    """Draws of the documented priors."""
    rng = np.random.default_rng(seed)
    return {k: p.rvs((n, 4) if k == "o" else n, random_state=rng) for k, p in PRIORS[name].items()}


def means(name, cells, draws):
    """(S, C) of expected log odds."""
    return np.asarray(means_of(name)(cells, {k: array(np.atleast_1d(v)) for k, v in draws.items()}), float)


def eta(name, cells, **draws):
    """(S, C), on cells whose floor and ceiling are 0 and 1: there it is what is expected."""
    return means(name, cells._replace(floor_C=0 * cells.floor_C, ceiling_C=0 * cells.ceiling_C + 1), draws)


def with_columns(cells, **columns):
    return cells._replace(columns={**cells.columns, **{k: array(v) for k, v in columns.items()}})


@pytest.mark.parametrize("name", HYPOTHESES)
def test_the_mean_is_the_docstrings(name, table):
    draws, cells = drawn(name, 5), table.cells
    columns = {k: np.asarray(v, float) for k, v in cells.columns.items()}
    floor, ceiling = np.asarray(cells.floor_C, float), np.asarray(cells.ceiling_C, float)
    expected = [EQUATIONS[name](columns, {k: v[s] for k, v in draws.items()}) for s in range(5)]
    expected = logit(floor + (ceiling - floor) * expit(np.array(expected)))
    assert means(name, cells, draws) == pytest.approx(expected, abs=2e-4)  # float32, of powers and exponentials
    assert np.ptp(expected) > 0.05  # negative control: what is compared is no constant


@pytest.mark.parametrize("name", HYPOTHESES)
def test_priors_are_the_docstrings(name, table):
    trace = numpyro.handlers.trace(numpyro.handlers.seed(HYPOTHESES[name].model, random.key(0))).get_trace(table.cells)
    sites = {k: s["fn"] for k, s in trace.items() if s["type"] == "sample" and k != "y"}
    expected = {**PRIORS[name], **SPREAD_PRIORS}
    assert set(sites) == set(expected)
    for k, prior in expected.items():
        x = prior.ppf([0.1, 0.5, 0.9])
        found = [np.asarray(sites[k].log_prob(array(np.full(sites[k].batch_shape, v)))).mean() for v in x]
        assert found == pytest.approx(prior.logpdf(x), abs=1e-4), k  # float32


@pytest.mark.parametrize("name", HYPOTHESES)
def test_what_is_read_is_declared_and_nothing_else_is_read(name, table):
    h = HYPOTHESES[name]
    assert set(h.varies) <= set(h.reads) <= set(COLUMNS)

    def works(columns):
        cells = table.cells._replace(columns={k: v for k, v in table.cells.columns.items() if k in columns})
        try:
            numpyro.handlers.seed(h.model, random.key(0))(cells)
        except KeyError:
            return False
        return True

    assert works(h.reads)
    assert not any(works(set(h.reads) - {column}) for column in h.reads)


@pytest.mark.parametrize("name", HYPOTHESES)
def test_every_hypothesis_says_what_it_is(name):
    story = HYPOTHESES[name].model.__doc__
    assert HYPOTHESES[name].title == story.split("\n")[0].removesuffix(".")
    assert any("eta" in line and " = " in line for line in story.splitlines())


def test_no_two_hypotheses_share_a_title():
    titles = [h.title for h in HYPOTHESES.values()]
    assert len(set(titles)) == len(titles)


def test_saturated_bayes_is_tempered_bayes_with_full_odds_and_nothing_else(table):
    h1 = eta("H1", table.cells, log10_f0=-3.0)
    assert eta("H2", table.cells, log10_f0=-3.0, a=h1.mean(), w=1.0, beta=0.0) == pytest.approx(h1, abs=1e-5)
    assert np.abs(eta("H2", table.cells, log10_f0=-3.0, a=h1.mean(), w=0.5, beta=0.0) - h1).max() > 0.1  # negative control


@pytest.mark.parametrize(("q", "kept"), [(1.0, "count"), (0.0, "share")])
def test_ordinary_rows_tell_by_their_count_or_by_their_share(table, q, kept):
    ordinary = np.array([50, 50, 100, 100, 50, 50, 100, 100])
    rows = np.array([50, 150, 100, 300, 50, 150, 100, 300])  # counts of 50 and 100 at shares of 1/2 and 1/4
    (found,) = eta("H7", with_columns(table.cells, ordinary=ordinary, rows=rows), a=0.5, D=1.5, q=q)
    by = ordinary if kept == "count" else ordinary / (rows + ordinary)
    for value in np.unique(by):
        assert np.ptp(found[by == value]) < 1e-5  # float32
    assert abs(found[by == by.min()].mean() - found[by == by.max()].mean()) > 0.2  # negative control


def test_what_leaks_all_over_does_not_fade(table):
    (flat,), (fading,) = (eta("H8", table.cells, a=-1.0, s=2.0, leak=leak, r=1.0) for leak in (1.0, 0.2))
    assert flat == pytest.approx(-1.0, abs=1e-5)  # a; float32
    assert np.ptp(fading) > 0.2


def test_evidence_fades_with_distance_but_for_a_leak(table):
    (found,) = eta("H8", with_columns(table.cells, distance=np.repeat([0.0, 1.0], 4)), a=-1.0, s=2.0, leak=0.2, r=0.5)
    assert found[0] - found[4] == pytest.approx(2 * 0.8 * (1 - np.exp(-2)), abs=1e-5)


def test_seeds_that_have_time_convert_but_for_those_that_never_do(table):
    never, late = (expit(eta("H10", with_columns(table.cells, steps=np.full(8, steps)), q=0.3, T=100.0, k=2.0)) for steps in (1e4, 50.0))
    assert never == pytest.approx(0.7, abs=1e-5)
    assert late == pytest.approx(0.7 * (1 - np.exp(-1 / 4)), abs=1e-5)


def test_nobody_narrow_ever_shown_leaves_odds_by_the_unmet_share(table):
    cells = with_columns(table.cells, frequency_narrow=np.zeros(8), frequency_broad=np.full(8, 0.1))
    assert eta("H1", cells, log10_f0=-3.0) == pytest.approx(np.log(100), abs=1e-4)


@pytest.mark.parametrize(("a", "end"), [(60.0, "ceiling"), (-60.0, "floor")])
def test_breadth_ends_at_the_floor_and_the_ceiling(table, a, end):
    breadth = np.asarray(getattr(table.cells, f"{end}_C"), float)
    assert expit(means("H0", table.cells, {"a": a}))[0] == pytest.approx(breadth, abs=1e-6)


@pytest.mark.parametrize("a", [-120.0, -12.0, 3.0, 12.0, 120.0])
def test_without_floor_and_ceiling_what_is_expected_is_eta(table, a):
    """However sure a hypothesis is: a table need not have either, and evidence is easily a hundred nats. So is its slope, for NUTS."""
    cells = table.cells._replace(floor_C=0 * table.cells.floor_C, ceiling_C=0 * table.cells.ceiling_C + 1)
    found, slope = jax.value_and_grad(lambda a: means_of("H0")(cells, {"a": a[None]})[0, 0])(jnp.float32(a))
    assert float(found) == pytest.approx(a, rel=1e-4)  # float32
    assert float(slope) == pytest.approx(1, rel=1e-3)


def test_an_unknown_column_is_not_made_up(table):
    cells = table.cells._replace(columns={"rows": jnp.ones(8)})
    with pytest.raises(KeyError, match="steps"):
        numpyro.handlers.seed(HYPOTHESES["H10"].model, random.key(0))(cells)
