"""Volume of an ensemble's solutions: the learning coefficient of their adapters, and the evidence of small ones.

*Coefficient.* Every solution's own adapter, all its factors, on the first of its narrow rows: Hamiltonian chains on the loss of all n of
them, tied to the solution, n_beta = n / log n.

*Evidence.* Which continuation of the data do adapters drawn from a prior expect? log P(continuation | data) of adapters of rank 1 on one
matrix of the last block (few enough numbers for a Hessian) with a Gaussian prior as wide as the free solutions are long there. By
Laplace's method and by WBIC it is a difference of two evidences, log Z(data and continuation) - log Z(data); by thermodynamic integration
it is one integral from the one posterior to the other,

    log P(continuation | data) = integral over b in [0, 1] of -E_b[n L_continuation],   w ~ prior exp(-n L_data - b n L_continuation)
"""

from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import random

from bayesgen.cost.efficiency import free_norm
from bayesgen.cost.subject import DATA, Subject, continuations
from bayesgen.estimate.evidence import Evidence, curvature, gaussian_energy, gaussian_integral, integral, rotations
from bayesgen.estimate.llc import coefficient, default_n_beta
from bayesgen.estimate.sampling import Chains, Mean, chains_mean, split_hmc
from bayesgen.learn.data import member_rows
from bayesgen.measure.answers import Data, data_nll, pack_data, visible
from bayesgen.measure.rows import Row
from bayesgen.measure.suite import member_label
from bayesgen.model.lora import effective, init_lora
from bayesgen.model.transformer import residual

TIE, SCORED = 100.0, 64  # of the learning coefficient: 1/weight^2; most rows that it is of
MATRIX = "out"  # of the last block: what the small adapters are on
ROWS = 48  # of the data, and of a continuation
MAP_STEPS, MAP_RATE = 600, 1e-2  # of the search for the minimum
LAPLACE, WBIC, THERMODYNAMIC = "Laplace", "WBIC", "thermodynamic integration"
POWERS = (np.arange(6) / 5) ** 3  # of the continuation: its likelihood changes fastest at the start


def coefficient_rows(s: Subject, draws: int) -> list[Row]:
    """`llc` of every solution with `llc_error`, `llc_r_hat` and `llc_effective`."""
    f = s.config.finetune
    scale, rank = f.alpha / f.rank[0], f.rank[0]
    drawn = [member_rows(s.world, s.grammar, f, m)[0][: min(m.rows, SCORED)] for m in s.members]

    @jax.jit
    def chains_of(params, lora, data: Data, n_beta, key):
        w = jax.tree_util.tree_map_with_path(lambda p, x: x[..., :rank] / scale if p[-1].key == "a" else x[:rank], lora)

        def loss(w):
            return data_nll(s.model, params, effective(w, scale), data)

        return split_hmc(loss, w, key, n_beta=n_beta, gamma=TIE, warmup=draws // 4, draws=draws), loss(w)

    out, data_M = [], pack_data(s.grammar, drawn)
    for i, m in enumerate(s.members):
        n_beta, (lora, data) = default_n_beta(len(drawn[i])), jax.tree.map(itemgetter(i), (s.lora_M, data_M))
        chains, at = chains_of(s.params, lora, data, n_beta, random.fold_in(random.key(f.seed + 1), m.seed))
        found = coefficient(chains, at, n_beta)
        numbers = {"llc": found.value, "llc_error": found.error, "llc_r_hat": found.r_hat, "llc_effective": found.effective}
        out += [s.row(quantity=q, value=v, **member_label(m, f.steps)) for q, v in numbers.items()]
    return out


def small_adapter(s: Subject, key: jax.Array) -> dict:
    """A fresh adapter of rank 1 on `MATRIX` of the last block, all of it random."""
    flat: dict[tuple[str, ...], Any] = dict(flatten_dict(init_lora(key, s.params, 1, (MATRIX,))))
    last = {path: x for path, x in flat.items() if f"block_{s.model.config.layers - 1}" in path}
    return unflatten_dict({path: random.normal(random.fold_in(key, i), x.shape) for i, (path, x) in enumerate(last.items())})


def prior_precision(s: Subject) -> float:
    """The gamma under which a small adapter's update has, on the mean, the square of the free solutions' norm: with independent
    entries of variance 1/gamma in a (D, 1) and b (1, F), E |a b|^2 = D F / gamma^2.
    """
    entries = int(np.prod([x.size for x in jax.tree.leaves(small_adapter(s, random.key(0)))]))
    return entries**0.5 / free_norm(s, "frobenius")


def evidence_rows(s: Subject, draws: int) -> list[Row]:
    """For every free solution's rows, by three methods (`probe`), with Monte-Carlo errors and the number of failed diagnostics:
    `log_evidence` of the data and of them with either continuation, by Laplace's method at a minimum (nan where it is none) and by WBIC;
    `log_predictive` of either continuation after the data, as the differences of these and by thermodynamic integration.
    """
    f, last = s.config.finetune, s.model.config.layers - 2
    gamma = prior_precision(s)
    adam = optax.adam(optax.cosine_decay_schedule(MAP_RATE, MAP_STEPS))
    zero = optax.tree.zeros_like(small_adapter(s, random.key(0)))

    def total(params, data: Data, n):
        """Of w: negative log likelihood of all rows (nats). What stands before the small adapter is computed once."""
        of = data.rows
        stream = residual(s.model, params, of.tokens, last, of.position, visible(of)) if last >= 0 else None
        return lambda w: n * data_nll(s.model, params, w, data, stream)

    @jax.jit
    def fit(params, data: Data, n, key):
        """(minimum, curvature there, chains at the temperature 1 / log n)."""
        loss = total(params, data, n)
        energy = gaussian_energy(loss, zero, 1.0, gamma)
        start = optax.tree.scale(gamma**-0.5, small_adapter(s, key))

        def step(state, _):
            w, memory = state
            change, memory = adam.update(jax.grad(energy)(w), memory, w)
            return (optax.apply_updates(w, change), memory), None

        (w, _), _ = jax.lax.scan(step, (start, adam.init(start)), length=MAP_STEPS)
        chains = split_hmc(loss, zero, key, n_beta=1 / jnp.log(n), gamma=gamma, start=w, warmup=draws // 2, draws=draws)
        return w, curvature(energy, w), chains

    @jax.jit
    def bridge(params, data: Data, after: Data, n, w, key):
        """The continuation's loss along chains that weigh it by each of `POWERS`."""
        of_data, of_after = total(params, data, n), total(params, after, n)

        def at(b):
            loss = lambda w: of_data(w) + b * of_after(w)  # noqa: E731
            return split_hmc(loss, zero, key, n_beta=1.0, gamma=gamma, start=w, warmup=draws // 2, draws=draws, watch=of_after)

        return jax.lax.map(at, jnp.asarray(POWERS))

    out = []
    for m in (m for m in s.members if m.arm == "free"):
        key, label = random.fold_in(random.key(f.seed + 1), m.seed), member_label(m, f.steps)
        data = member_rows(s.world, s.grammar, f, m)[0][: min(m.rows, ROWS)]
        after, n = continuations(s, m, len(data)), float(len(data))
        alone = {DATA: data, **after}
        packed = dict(zip(alone, (jax.tree.map(itemgetter(i), pack_data(s.grammar, list(alone.values()))) for i in range(3)), strict=True))
        both = pack_data(s.grammar, [[*data, *rows] for rows in after.values()])
        sets = {DATA: (packed[DATA], n), **{name: (jax.tree.map(itemgetter(i), both), 2 * n) for i, name in enumerate(after)}}
        found: dict[tuple[str, str], Evidence | Mean] = {}
        minimum = zero
        for name, (rows, count) in sets.items():
            w, bent, chains = fit(s.params, rows, count, key)
            minimum = w if name == DATA else minimum
            found[LAPLACE, name] = gaussian_integral(bent[0], bent[1], bent[2], rotations(w))
            found[WBIC, name] = chains_mean(-np.asarray(chains.loss), chains.divergences)
        for (method, name), x in found.items():
            out += _numbers(s, "log_evidence", x, topic=name, probe=method, **label)
        for name in after:
            for method in (LAPLACE, WBIC):
                z, before = found[method, name], found[method, DATA]
                failures, error = (*z.failures, *before.failures), float(np.hypot(z.error, before.error))
                out += _numbers(s, "log_predictive", Evidence(z.value - before.value, error, failures), topic=name, probe=method, **label)
            drawn = bridge(s.params, packed[DATA], packed[name], n, minimum, key)
            chains = [Chains(loss / n, diverged) for loss, diverged in zip(*drawn, strict=True)]
            out += _numbers(s, "log_predictive", integral(chains, POWERS, len(data)), topic=name, probe=THERMODYNAMIC, **label)
    return out


def _numbers(s: Subject, quantity: str, x: Evidence | Mean, **label) -> list[Row]:
    values = {quantity: x.value, f"{quantity}_error": x.error, "failures": float(len(x.failures))}
    return [s.row(quantity=name, value=v, context=quantity, **label) for name, v in values.items()]
