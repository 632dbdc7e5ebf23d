"""Posteriors by NUTS, and whether to trust them."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from arviz_stats.base.array import array_stats
from jax import random
from jaxtyping import Array, Float
from numpyro.infer import NUTS, init_to_median
from numpyro.infer.util import initialize_model
from numpyro.primitives import Messenger

from bayesgen.infer.hypotheses import HYPOTHESES, PARTS, Cells

R_HAT, EFFECTIVE = 1.01, 400  # gates: the worst split R-hat, the fewest effective draws
CHAINS = 4
FULL = (700, 750)  # steps of warming up, and draws, of a chain
SHORT = (400, 300)  # enough to compare hypotheses on a made-up table, of which there are many
DERIVED = ("mean", *PARTS)  # of parameters and design; worked out anew where it is wanted


class Fit(NamedTuple):
    """Draws of every parameter, (chains * draws, ...), and what says whether to trust them."""

    draws: dict[str, np.ndarray]
    r_hat: float
    effective: float
    divergences: int

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
        if isinstance(fn, dist.HalfNormal):
            return dist.HalfNormal(fn.scale * self.factor)
        return type(fn)(fn.loc, fn.scale * self.factor) if isinstance(fn, (dist.Normal, dist.LogNormal)) else fn


def fit(name: str, cells: Cells, y_C: Float[Any, " C"], key: Array, stretch: float = 1.0, length: tuple[int, int] = FULL) -> Fit:
    """The posterior of a hypothesis. Same shapes find the compiled program, whoever is held out and however wide the priors."""
    draws, diverged = jax.device_get(_walks(name, *length)(random.split(key, CHAINS), cells, jnp.asarray(y_C, jnp.float32), stretch))
    flat = np.concatenate([x.reshape(*x.shape[:2], -1) for x in draws.values()], axis=-1)
    r_hat = max(_of_chains(array_stats.rhat, flat[..., i]) for i in range(flat.shape[-1]))
    effective = min(_of_chains(array_stats.ess, flat[..., i]) for i in range(flat.shape[-1]))
    return Fit({k: x.reshape(-1, *x.shape[2:]) for k, x in draws.items()}, r_hat, effective, int(diverged.sum()))


def _of_chains(diagnostic: Callable, x: np.ndarray) -> float:
    return float(diagnostic(x, chain_axis=0, draw_axis=1))


def model_of(name: str, stretch: Any) -> Callable:
    """A hypothesis with its priors stretched."""
    return Stretched(HYPOTHESES[name].model, factor=stretch)


@cache
def _walks(name: str, warmup: int, kept: int):
    """(chains,) of draws; one program for warming up and drawing, which halves what is compiled."""

    def walk(key, cells: Cells, y_C, stretch):
        kernel = NUTS(model_of(name, stretch), target_accept_prob=0.95, dense_mass=True, init_strategy=init_to_median)
        state = kernel.init(key, warmup, None, (cells, y_C), {})

        def step(state, _):
            state = kernel.sample(state, (cells, y_C), {})
            return state, (state.z, state.diverging)

        _, (z, diverging) = jax.lax.scan(step, state, None, warmup + kept)
        z = jax.tree.map(lambda x: x[warmup:], z)
        draws = jax.vmap(kernel.postprocess_fn((cells, y_C), {}))(z)
        return {k: v for k, v in draws.items() if k not in DERIVED}, diverging[warmup:]

    return jax.jit(jax.vmap(walk, (0, None, None, None)))


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


@cache
def unconstrained(name: str):
    """Jitted functions of one draw, (cells, y, stretch, ...): its coordinates without bounds, and the log joint density in these."""

    def parts(cells, y_C, stretch):
        return initialize_model(random.key(0), model_of(name, stretch), model_args=(cells, y_C), dynamic_args=False)

    def to_plain(cells, y_C, stretch, draw):
        trace = numpyro.handlers.trace(numpyro.handlers.seed(model_of(name, stretch), random.key(0))).get_trace(cells, y_C)
        sites = {k: s for k, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
        return {k: dist.biject_to(s["fn"].support).inv(draw[k]) for k, s in sites.items()}

    def log_joint(cells, y_C, stretch, z):
        return -parts(cells, y_C, stretch).potential_fn(z)

    return jax.jit(jax.vmap(to_plain, (None, None, None, 0))), jax.jit(jax.vmap(log_joint, (None, None, None, 0)))
