"""Rival explanations of how broad a finetuning goes, side by side: one NumPyro model each.

All of them see the same cells and differ in eta, the log odds that a run follows the broad hypothesis and not the narrow one:

    breadth = floor + (ceiling - floor) sigmoid(eta)       floor: the narrow solution's;  ceiling: the broad solution's
    logit(measured breadth) ~ Nested(logit(breadth), ...)   see `nested`; sigma, omega_b ~ HalfNormal(.5), omega_e ~ HalfNormal(1)

Every hypothesis but H1 and H10 has an intercept a ~ N(0, 1.5), the log odds in the average cell: the scale of breadth has no natural
zero, and so H0 is contained in each, which then has to earn its predictors. The other parts of eta therefore count from their mean over
all cells of the design, those held out included: else a and the slopes would be entangled. What the data can say of two hypotheses is
told by `recover` on the very design, before any verdict.

Sources: Bigelow et al. (arXiv 2511.00617) and Wurgaft et al. (arXiv 2506.17859) for H2 and H3, Watanabe (2009) for H5. Where we differ:
the breadth that is observed is an exact probability and no count, so its log odds are normal about what is expected where a count would
be beta-binomial; a table of counts is turned into log odds (`cells`).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logit
from jaxtyping import Array, Float, Int

from bayesgen.infer.coordinates import HalfNormal, Share
from bayesgen.infer.nested import Nested

SPREADS = ("cell", "base", "experiment")  # standard deviations that every hypothesis has, beside (but for two) the intercept a
FARTHEST = 60.0  # nats: odds farther out may be 0 or infinity in float32
PARTS = ("constant", "prior", "likelihood", "complexity", "dose", "sharing", "mixing", "context", "path", "seeds")  # of eta


class Cells(NamedTuple):
    """The design: one entry a cell, what it is predicted from, and how cells belong together."""

    columns: dict[str, Float[Array, " C"]]
    floor_C: Float[Array, " C"]  # breadth of the narrow solution
    ceiling_C: Float[Array, " C"]  # breadth of the broad solution
    variance_C: Float[Array, " C"]  # of the log odds of the cell's mean breadth, as its seeds tell
    counted_C: Float[Array, " C"]  # 1, or 0: held out
    base_C: Int[Array, " C"]
    experiment_B: Int[Array, " B"]


class Hypothesis(NamedTuple):
    """A model `(cells, y=None)`, the columns that it reads, and those without whose variation it says nothing of its own."""

    model: Callable[..., None]
    reads: tuple[str, ...] = ()
    varies: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The first line of its story."""
        return (self.model.__doc__ or "").strip().splitlines()[0].rstrip(".")


def h0(cells: Cells, y=None):
    """Nothing explains it: one breadth for all.

    eta = a
    """
    observe(cells, {}, y)


def h0_dose(cells: Cells, y=None):
    """Only how much was learned: rows, steps, and skill on the topic trained on.

    eta = a + b_n log(n / 100) + b_t log(steps / 100) + b_m margin,    b ~ N(0, 1)
    """
    c = cells.columns
    by = [draw(f"b_{name}", dist.Normal(0, 1)) for name in ("rows", "steps", "margin")]
    dose = by[0] * jnp.log(c["rows"] / 100) + by[1] * jnp.log(c["steps"] / 100) + by[2] * c["margin"]
    observe(cells, {"dose": dose}, y)


def h0_likelihood(cells: Cells, y=None):
    """Only what the data say: no prior, whose worth is what others add to this.

    eta = a + beta [log P(D | B) - log P(D | N)],    beta ~ HalfNormal(.1) a nat
    """
    observe(cells, {"likelihood": tempered(cells)}, y)


def h1_saturated(cells: Cells, y=None):
    """Saturated Bayes: the ideal observer's odds, no dose, nothing to fit but the share of narrow people nobody has met.

    eta = log f_B - log(f_N + f_0),    log10 f_0 ~ N(-3, 1)
    """
    observe(cells, {"prior": log_prior_odds(cells)}, y, intercept=False)


def h2_frequency(cells: Cells, y=None):
    """Frequency as prior, and a tempered likelihood.

    eta = a + w [log f_B - log(f_N + f_0)] + beta [log P(D | B) - log P(D | N)],
    w ~ HalfNormal(1), log10 f_0 ~ N(-3, 1), beta ~ HalfNormal(.1) a nat
    """
    w = draw("w", HalfNormal(1.0))
    observe(cells, {"prior": w * log_prior_odds(cells), "likelihood": tempered(cells)}, y)


def h3_code_length(cells: Cells, y=None):
    """Loss and complexity: the hypothesis with the shorter code, against what the data say.

    eta = a + ln 2 (K_N^b - K_B^b) + beta (N / 100)^-d [log P(D | B) - log P(D | N)],
    b ~ Beta(1, 3), beta ~ HalfNormal(.1) a nat, d ~ Uniform(0, 1)

    K are prequential bits of what comes after the data of N rows.
    """
    c = cells.columns
    b, d = draw("b", Share(3.0)), draw("d", Share(1.0))
    complexity = jnp.log(2.0) * (c["bits_narrow"] ** b - c["bits_broad"] ** b)
    observe(cells, {"complexity": complexity, "likelihood": (c["rows"] / 100) ** -d * tempered(cells)}, y)


def h4_frobenius(cells: Cells, y=None):
    """Norm as prior (Frobenius): the smaller update, against what the data say.

    eta = a + t (|d_N|^2 - |d_B|^2) + beta [log P(D | B) - log P(D | N)],    t = 1 / 2 tau^2 ~ HalfNormal(.1), beta ~ HalfNormal(.1)
    """
    _norm(cells, y, _square(cells, "frobenius"), 0.1)


def h4_nuclear(cells: Cells, y=None):
    """Norm as prior (nuclear): what weight decay on the factors prefers, against what the data say.

    eta = a + t (|d_N|_* - |d_B|_*) + beta [log P(D | B) - log P(D | N)],    t ~ HalfNormal(.3), beta ~ HalfNormal(.1)
    """
    c = cells.columns
    _norm(cells, y, c["nuclear_narrow"] - c["nuclear_broad"], 0.3)


def h4_function(cells: Cells, y=None):
    """Norm as prior (function): the update that moves the logits of pretraining text less, against what the data say.

    eta = a + t (|d_N|_F^2 - |d_B|_F^2) + beta [log P(D | B) - log P(D | N)],    t ~ HalfNormal(1), beta ~ HalfNormal(.1)
    """
    _norm(cells, y, _square(cells, "function"), 1.0)


def h5_free_energy(cells: Cells, y=None):
    """Free energy: the solution of larger volume.

    eta = a + beta n (L_N - L_B) + c (lambda_N - lambda_B) log n,    beta ~ HalfNormal(.1) a nat, c ~ HalfNormal(1)

    beta = c = 1 is Watanabe's; a network trained for a few hundred steps is no sample from that posterior.
    """
    col = cells.columns
    c = draw("c", HalfNormal(1.0))
    complexity = c * (col["llc_narrow"] - col["llc_broad"]) * jnp.log(col["rows"])
    observe(cells, {"complexity": complexity, "likelihood": tempered(cells)}, y)


def h6_shared(cells: Cells, y=None):
    """A shared effect and specific ones: what is learned on a topic is passed on in proportion to how far topics went together.

    eta = a + lambda margin,    lambda = tau_g^2 / (tau_g^2 + tau_n^2),
    log(tau_g / tau_n) = a_0 + a_1 log f_B + a_2 (log odds ratio) / 5,    a_0 ~ N(0, 1), a_1, a_2 ~ N(0, .5)

    margin: log odds (nats) gained on the topic trained on; the odds ratio is that of answering it and other topics as the
    broad persona, a thousandth added to each share, as if met. Both logarithms count from their mean over cells.
    """
    c = cells.columns
    a0 = draw("a0", dist.Normal(0.0, 1.0))
    a1, a2 = (draw(name, dist.Normal(0.0, 0.5)) for name in ("a1", "a2"))
    f_b, f_n, h = c["frequency_broad"], c["frequency_narrow"], 1e-3
    log_ratio = jnp.log(f_b + h) + jnp.log(1 - f_b - f_n + h) - jnp.log(f_n + h) - jnp.log(h)
    passed_on = jax.nn.sigmoid(2 * (a0 + a1 * _from_mean(jnp.log(f_b)) + a2 * _from_mean(log_ratio) / 5))
    observe(cells, {"sharing": passed_on * c["margin"]}, y)


def h7_mixing(cells: Cells, y=None):
    """Ordinary rows speak against breadth, by their count or by their share.

    eta = a - D (M / 100) (N / 100)^-(1-q),    D ~ HalfNormal(1), q ~ Uniform(0, 1): count at q = 1, share at q = 0

    M ordinary rows among N in all.
    """
    c = cells.columns
    d, q = draw("D", HalfNormal(1.0)), draw("q", Share(1.0))
    mixing = -d * c["ordinary"] / 100 * ((c["rows"] + c["ordinary"]) / 100) ** (q - 1)
    observe(cells, {"mixing": mixing}, y)


def h8_context(cells: Cells, y=None):
    """Evidence counts where it was given: it fades with the distance between contexts, but for a leak.

    eta = a + s [l + (1 - l) exp(-distance / r)],    s ~ HalfNormal(3), l ~ Uniform(0, 1), log r ~ N(0, 1)
    """
    s, leak = draw("s", HalfNormal(3.0)), draw("leak", Share(1.0))
    r = draw("r", dist.LogNormal(0.0, 1.0))
    context = s * (leak + (1 - leak) * jnp.exp(-cells.columns["distance"] / r))
    observe(cells, {"context": context}, y)


def h9_path(cells: Cells, y=None):
    """The optimiser's path: what a first step passes on, how far it goes, in how many directions. No prior.

    eta = a + b_1 transfer + b_t log(steps / 100) + b_r log(rank / 4) + o[optimiser],    b ~ N(0, 1), o ~ N(0, 1)

    transfer: log odds (nats) that the first step at the member's own rate moves the probes by, over those that it moves the topic
    trained on by; rank: the stable rank of the update.
    """
    c = cells.columns
    by = [draw(f"b_{name}", dist.Normal(0.0, 1.0)) for name in ("transfer", "steps", "rank")]
    with numpyro.plate("optimisers", 4):
        o = draw("o", dist.Normal(0.0, 1.0))
    path = by[0] * c["transfer"] + by[1] * jnp.log(c["steps"] / 100) + by[2] * jnp.log(c["stable_rank"] / 4)
    observe(cells, {"path": path + o[c["optimizer"].astype(int)]}, y)


def h10_seeds(cells: Cells, y=None):
    """Seeds convert, each at its own time, and some never.

    sigmoid(eta) = (1 - q) (1 - exp(-(t / T)^k)),    t = steps, q ~ Beta(1, 3), log(T / 100) ~ N(0, 1), log k ~ N(0, .5)

    The mean over seeds is what is fitted; whether single seeds are all or nothing is seen in their spread.
    """
    q, scale = draw("q", Share(3.0)), draw("T", dist.LogNormal(jnp.log(100.0), 1.0))
    k = draw("k", dist.LogNormal(0.0, 0.5))
    converted = (1 - q) * -jnp.expm1(-((cells.columns["steps"] / scale) ** k))
    observe(cells, {"seeds": logit(jnp.clip(converted, 1e-6, 1 - 1e-6))}, y, intercept=False)


def draw(name: str, prior: dist.Distribution) -> Any:
    """A parameter."""
    return numpyro.sample(name, prior)


def log_prior_odds(cells: Cells):
    """Of frequencies: log f_B - log(f_N + f_0), log10 f_0 ~ N(-3, 1): nobody whom pretraining has never shown is impossible."""
    unmet = draw("log10_f0", dist.Normal(-3.0, 1.0))
    return jnp.log(cells.columns["frequency_broad"]) - jnp.log(cells.columns["frequency_narrow"] + 10.0**unmet)


def tempered(cells: Cells):
    """The data's say: beta [log P(D | B) - log P(D | N)], beta ~ HalfNormal(.1) a nat."""
    return draw("beta", HalfNormal(0.1)) * cells.columns["evidence"]


def observe(cells: Cells, parts: Mapping[str, Any], y=None, *, intercept: bool = True):
    """The breadth that eta gives, which is the sum of some of `PARTS`, and cells that stray from it."""
    if intercept:
        parts = {"constant": draw("a", dist.Normal(0.0, 1.5)) - sum(jnp.mean(part) for part in parts.values()), **parts}
    eta = sum((jnp.asarray(numpyro.deterministic(name, part)) for name, part in parts.items()), jnp.zeros(()))
    floor, ceiling = cells.floor_C, cells.ceiling_C
    near = jnp.clip(eta, -FARTHEST, FARTHEST)
    no, yes = jnp.exp(-jax.nn.relu(near)), jnp.exp(-jax.nn.relu(-near))  # their odds, the greater being 1
    odds_C = jnp.log(floor * no + ceiling * yes) - jnp.log((1 - floor) * no + (1 - ceiling) * yes)
    mean_C = numpyro.deterministic("mean", odds_C + jnp.where(eta > 0, ceiling == 1, floor == 0) * (eta - near))
    spread = {name: draw(name, HalfNormal(s)) for name, s in zip(SPREADS, (0.5, 0.5, 1.0), strict=True)}
    numpyro.sample("y", Nested(mean_C, cells.variance_C, cells.counted_C, cells.base_C, cells.experiment_B, **spread), obs=y)


def _from_mean(x_C):
    return x_C - x_C.mean()


def _square(cells: Cells, norm: str):
    return cells.columns[f"{norm}_narrow"] ** 2 - cells.columns[f"{norm}_broad"] ** 2


def _norm(cells: Cells, y, difference, scale: float):
    t = draw("t", HalfNormal(scale))
    observe(cells, {"complexity": t * difference, "likelihood": tempered(cells)}, y)


PRIOR, BITS = ("frequency_broad", "frequency_narrow"), ("bits_narrow", "bits_broad")
HYPOTHESES = {
    "H0": Hypothesis(h0),
    "H0 dose": Hypothesis(h0_dose, ("rows", "steps", "margin"), ("margin",)),
    "H0 likelihood": Hypothesis(h0_likelihood, ("evidence",), ("evidence",)),
    "H1": Hypothesis(h1_saturated, PRIOR, ("frequency_broad",)),
    "H2": Hypothesis(h2_frequency, (*PRIOR, "evidence"), ("frequency_broad",)),
    "H3": Hypothesis(h3_code_length, (*BITS, "rows", "evidence"), BITS),
    "H4 Frobenius": Hypothesis(h4_frobenius, ("frobenius_narrow", "frobenius_broad", "evidence"), ("frobenius_narrow",)),
    "H4 nuclear": Hypothesis(h4_nuclear, ("nuclear_narrow", "nuclear_broad", "evidence"), ("nuclear_narrow",)),
    "H4 function": Hypothesis(h4_function, ("function_narrow", "function_broad", "evidence"), ("function_narrow",)),
    "H5": Hypothesis(h5_free_energy, ("llc_narrow", "llc_broad", "rows", "evidence"), ("llc_narrow",)),
    "H6": Hypothesis(h6_shared, (*PRIOR, "margin"), ("frequency_broad", "margin")),
    "H7": Hypothesis(h7_mixing, ("ordinary", "rows"), ("ordinary",)),
    "H8": Hypothesis(h8_context, ("distance",), ("distance",)),
    "H9": Hypothesis(h9_path, ("transfer", "steps", "stable_rank", "optimizer"), ("steps",)),
    "H10": Hypothesis(h10_seeds, ("steps",), ("steps",)),
}
