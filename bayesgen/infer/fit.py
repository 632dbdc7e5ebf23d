"""Posteriors by NUTS, and whether to trust them."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from arviz_stats.base.array import array_stats
from jax import random
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float
from numpyro.infer import NUTS
from numpyro.infer.util import log_density, potential_energy
from numpyro.primitives import Messenger

from bayesgen.infer.coordinates import HalfNormal
from bayesgen.infer.hypotheses import HYPOTHESES, PARTS, SPREADS, Cells

R_HAT, EFFECTIVE = 1.01, 400  # gates: the worst split R-hat, the fewest effective draws
CHAINS = 4
BEGUN = 1000  # draws that a chain's first state is chosen from
NARROWER = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)  # times the scale of the priors that they are from
TOGETHER = 5  # fits in one program, which is compiled once; more take as long as one after the other
STRIDE = 350  # steps of all chains at a time


class Length(NamedTuple):
    """How long chains are, in strides: those that warm up, those whose draws are kept, and how many more while a gate fails; and the rates
    of acceptance that steps are made for, the next one if transitions diverged under the one before.
    """

    warmup: int
    kept: int
    more: int
    accepted: tuple[float, ...]


FULL = Length(1, 2, 6, (0.95, 0.99))
SHORT = Length(1, 1, 6, (0.95,))  # enough where few draws are used: of tables without some cells, and of made-up ones; there are many
DERIVED = ("mean", *PARTS)  # of parameters and design; worked out anew where it is wanted


class Fit(NamedTuple):
    """Draws of every parameter, (chains * draws, ...), and what says whether to trust them."""

    draws: dict[str, np.ndarray]
    r_hat: float
    effective: float
    divergences: int

    @property
    def mixed(self) -> bool:
        """Whether its chains are long enough."""
        return self.r_hat < R_HAT and self.effective >= EFFECTIVE

    @property
    def failures(self) -> tuple[str, ...]:
        """The gates that it fails; none: trust it."""
        out = []
        if not self.r_hat < R_HAT:
            out.append(f"R-hat {self.r_hat:.3f}, not below {R_HAT}")
        if not self.effective >= EFFECTIVE:
            out.append(f"{self.effective:.0f} effective draws, fewer than {EFFECTIVE}")
        if self.divergences:
            out.append(f"{self.divergences} divergent transitions")
        return tuple(out)


class Stretched(Messenger):
    """Every normal, half-normal and log-normal prior, its scale times `factor`: to see how far conclusions hang on them."""

    def __init__(self, fn: Callable | None = None, *, factor: Any):
        self.factor = factor
        super().__init__(fn)

    def process_message(self, msg):
        if msg["type"] == "sample" and not msg["is_observed"]:
            msg["fn"] = self._stretched(msg["fn"])

    def _stretched(self, fn):
        if isinstance(fn, dist.ExpandedDistribution):  # within a plate
            return self._stretched(fn.base_dist).expand(fn.batch_shape)
        if isinstance(fn, HalfNormal):
            return HalfNormal(fn.scale * self.factor)
        return type(fn)(fn.loc, fn.scale * self.factor) if isinstance(fn, (dist.Normal, dist.LogNormal)) else fn


class Problem(NamedTuple):
    """What a hypothesis is fitted to, on a given design: log odds of breadth, which cells count, and by how much priors are stretched."""

    y_C: Float[Any, " C"]
    counted_C: Float[Any, " C"]
    stretch: float = 1.0


def fit(name: str, cells: Cells, y_C: Float[Any, " C"], key: Array) -> Fit:
    """The posterior of a hypothesis."""
    return fits(name, cells, [Problem(y_C, cells.counted_C)], key)[0]


def fits(name: str, cells: Cells, problems: Sequence[Problem], key: Array, length: Length = FULL) -> list[Fit]:
    """Posteriors on tables of one design, `TOGETHER` at a time. Chains that have not mixed go on; fits whose transitions diverged are made
    again with shorter steps, and the one that fails fewer gates is kept.
    """
    keys = [random.fold_in(key, i) for i in range(len(problems))]
    out = _fits(name, cells, problems, keys, length)
    for rate in length.accepted[1:]:
        again = [i for i, found in enumerate(out) if found.divergences]
        finer = length._replace(accepted=(rate,))
        made = _fits(name, cells, [problems[i] for i in again], [random.fold_in(keys[i], 1) for i in again], finer)
        for i, found in zip(again, made, strict=True):
            out[i] = min(found, out[i], key=lambda of: (len(of.failures), of.divergences))
    return out


def _fits(name: str, cells: Cells, problems: Sequence[Problem], keys: Sequence[Array], length: Length) -> list[Fit]:
    """With steps for the first of the rates of acceptance."""
    out: dict[int, Fit] = {}
    walks = [_Walk(problem, random.split(key, CHAINS)) for problem, key in zip(problems, keys, strict=True)]
    going = list(range(len(walks)))
    for more in range(1 + length.more):
        for first in range(0, len(going), TOGETHER):
            some = going[first : first + TOGETHER]
            lanes = TOGETHER if len(problems) > 1 else 1  # so that one program does for all
            _walk_on(name, length, cells, [walks[i] for i in some], lanes, 1 if more else length.warmup + length.kept)
            out |= {i: walks[i].fit(length) for i in some}
        going = [i for i in going if not out[i].mixed]
        if not going:
            break
    return [out[i] for i in range(len(walks))]


class _Walk:
    """The chains of a problem: where they are, and where they were in every stride."""

    def __init__(self, problem: Problem, keys: Array):
        self.problem, self.keys, self.state = problem, keys, None
        self.strides: list[tuple[dict[str, np.ndarray], np.ndarray]] = []

    def fit(self, length: Length) -> Fit:
        """What they found; of chains that went on as many draws as of others, evenly."""
        draws, diverged = zip(*self.strides[length.warmup :], strict=True)
        of_chains = {k: np.concatenate([d[k] for d in draws], axis=1) for k in draws[0]}
        flat = np.concatenate([x.reshape(*x.shape[:2], -1) for x in of_chains.values()], axis=-1)
        r_hat = max(_of_chains(array_stats.rhat, flat[..., i]) for i in range(flat.shape[-1]))
        effective = min(_of_chains(array_stats.ess, flat[..., i]) for i in range(flat.shape[-1]))
        some = np.linspace(0, flat.shape[1] - 1, length.kept * STRIDE).astype(int)
        kept = {k: x[:, some].reshape(-1, *x.shape[2:]) for k, x in of_chains.items()}
        return Fit(kept, r_hat, effective, sum(int(d.sum()) for d in diverged))


def _walk_on(name: str, length: Length, cells: Cells, walks: Sequence[_Walk], lanes: int, strides: int):
    """All of them by so many strides; lanes that are left are filled with the last."""
    begin, stride = _programs(name, length.warmup * STRIDE, length.accepted[0])
    filled = [*walks, *[walks[-1]] * (lanes - len(walks))]
    of = ([w.problem.counted_C for w in filled], [w.problem.y_C for w in filled], [w.problem.stretch for w in filled])
    problems = tuple(jnp.asarray(np.stack([np.asarray(x, np.float32) for x in xs])) for xs in of)
    if walks[0].state is None:
        state = begin(jnp.stack([w.keys for w in filled]), cells, *problems)
    else:
        state = jax.tree.map(lambda *x: jnp.stack(x), *(w.state for w in filled))
    for _ in range(strides):
        state, *came = stride(state, cells, *problems)
        draws, diverged = jax.device_get(came)
        for i, w in enumerate(walks):
            w.strides.append(({k: x[i] for k, x in draws.items()}, diverged[i]))
    for i, w in enumerate(walks):
        w.state = jax.tree.map(lambda x, i=i: x[i], state)


def _of_chains(diagnostic: Callable, x: np.ndarray) -> float:
    return float(diagnostic(x, chain_axis=0, draw_axis=1))


def model_of(name: str, stretch: Any) -> Callable:
    """A hypothesis with its priors stretched."""
    return Stretched(HYPOTHESES[name].model, factor=stretch)


@cache
def _programs(name: str, warmup: int, accepted: float):
    """Jitted functions of (problems, chains): the states that chains begin in; and a stride, with its draws."""

    def kernel_of(cells: Cells, counted_C, y_C, stretch):
        args = (cells._replace(counted_C=counted_C), y_C)
        energy = partial(potential_energy, model_of(name, stretch), args, {})
        return NUTS(potential_fn=energy, target_accept_prob=accepted, dense_mass=True), _parameters(name, *args, stretch)

    def begin(key, *problem):
        kernel, parameters = kernel_of(*problem)
        key, its = random.split(key)
        return kernel.init(key, warmup, _without_bounds(parameters, _first(name, its, *problem)))

    def stride(state, *problem):
        kernel, parameters = kernel_of(*problem)
        kernel.init(random.key(0), warmup, state.z)  # for what it sets up: chains are under way

        def step(state, _):
            state = kernel.sample(state, (), {})
            return state, (state.z, state.diverging)

        state, (z, diverging) = jax.lax.scan(step, state, None, STRIDE)
        return state, {k: dist.biject_to(site["fn"].support)(z[k]) for k, site in parameters.items()}, diverging

    of_chains, of_problems = (0, None, None, None, None), (0, None, 0, 0, 0)
    return tuple(jax.jit(jax.vmap(jax.vmap(f, of_chains), of_problems)) for f in (begin, stride))


def _first(name: str, key: Array, cells: Cells, counted_C, y_C, stretch) -> dict[str, Array]:
    """Where a chain begins: one of many draws, chosen in proportion to posterior over proposal (sampling importance resampling).

    What is a hypothesis' own is drawn from its prior or from one that is narrower. Where a prior lets a part of eta run to thousands,
    most of its draws expect breadths of 0 or 1 alone; there the likelihood is flat, and a chain that began there would stay, whatever
    the data say.
    """
    args = (cells._replace(counted_C=counted_C), y_C)
    priors = [_parameters(name, *args, stretch * by) for by in NARROWER]

    def propose(key):
        draw, log_q = {}, jnp.zeros(())
        for i, k in enumerate(priors[0]):
            which, its = random.split(random.fold_in(key, i))
            of = [p[k]["fn"] for p in (priors[:1] if k in ("a", *SPREADS) else priors)]
            draw[k] = jnp.stack([fn.sample(its) for fn in of])[random.randint(which, (), 0, len(of))]
            log_q += logsumexp(jnp.stack([fn.log_prob(draw[k]).sum() for fn in of]))
        log_p, _ = log_density(model_of(name, stretch), args, {}, draw)
        return draw, log_p - log_q

    k_draw, k_choice = random.split(key)
    draws, log_weight = jax.lax.map(propose, random.split(k_draw, BEGUN), batch_size=50)
    chosen = random.categorical(k_choice, jnp.where(jnp.isfinite(log_weight), log_weight, -jnp.inf))
    return {k: x[chosen] for k, x in draws.items()}


@cache
def derived_of(name: str):
    """A jitted function (cells, {parameter: (S, ...)}) -> {name: (S, C)}: the parts of eta and the `mean`, all in log odds."""

    def derived(cells: Cells, draw: dict[str, Array]) -> dict[str, Array]:
        seeded = numpyro.handlers.seed(numpyro.handlers.substitute(HYPOTHESES[name].model, draw), random.key(0))
        trace = numpyro.handlers.trace(seeded).get_trace(cells)
        return {k: jnp.broadcast_to(trace[k]["value"], cells.floor_C.shape) for k in DERIVED if k in trace}

    return jax.jit(jax.vmap(derived, (None, 0)))


def means_of(name: str):
    """A function (cells, {parameter: (S, ...)}) -> (S, C): what a hypothesis expects in every cell, in log odds."""
    return lambda cells, draws: derived_of(name)(cells, draws)["mean"]


def _parameters(name: str, cells: Cells, y_C, stretch) -> dict[str, Any]:
    """NumPyro's sites of the parameters."""
    trace = numpyro.handlers.trace(numpyro.handlers.seed(model_of(name, stretch), random.key(0))).get_trace(cells, y_C)
    return {k: site for k, site in trace.items() if site["type"] == "sample" and not site["is_observed"]}


def _without_bounds(parameters: dict[str, Any], draw: dict[str, Array]) -> dict[str, Array]:
    """A draw in the coordinates in which it is sampled."""
    return {k: dist.biject_to(site["fn"].support).inv(draw[k]) for k, site in parameters.items()}


@cache
def unconstrained(name: str):
    """Jitted functions of one draw, (cells, y, stretch, ...): its coordinates without bounds, and the log joint density in these."""

    def coordinates(cells, y_C, stretch, draw):
        return _without_bounds(_parameters(name, cells, y_C, stretch), draw)

    def log_joint(cells, y_C, stretch, z):
        return -potential_energy(model_of(name, stretch), (cells, y_C), {}, z)

    return jax.jit(jax.vmap(coordinates, (None, None, None, 0))), jax.jit(jax.vmap(log_joint, (None, None, None, 0)))
