"""Volume of an ensemble's solutions: the learning coefficient of their adapters, and the evidence of small ones.

*Coefficient.* Every solution's own adapter, all its factors, on its narrow rows: preconditioned Langevin chains with the loss of all
rows at every draw, n_beta = n / log n with n the number of rows.

*Evidence.* Which continuation of the data do adapters drawn from a prior expect? log P(continuation | data) is a difference of two
evidences, log Z(data and continuation) - log Z(data), of adapters of rank 1 on one matrix of the last block (few enough numbers for a
Hessian and for Hamiltonian chains) with a Gaussian prior as wide as the free solutions are long there.
"""

from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import random

from bayesgen.corpus.documents import Batch
from bayesgen.cost.efficiency import free_norm
from bayesgen.cost.subject import DATA, Subject, continuations
from bayesgen.estimate.evidence import curvature, gaussian_energy, gaussian_integral, rotations
from bayesgen.estimate.llc import coefficient, default_n_beta
from bayesgen.estimate.sampling import chains_mean, hmc, rms_preconditioner, sgld
from bayesgen.learn.data import member_rows
from bayesgen.learn.pretrain import token_nll
from bayesgen.measure.likelihood import stack_rows
from bayesgen.measure.rows import Row
from bayesgen.measure.suite import member_label
from bayesgen.model.lora import effective, init_lora
from bayesgen.model.transformer import forward, residual

MINI = 16  # rows in a batch of the Langevin chains
TIE, STEP, WARMUP, THIN, CHAINS = 100.0, 4e-3, 300, 4, 4  # of the Langevin chains
MATRIX = "out"  # of the last block: what the small adapters are on
ROWS = 48  # of the data, and of a continuation
MAP_STEPS, MAP_RATE = 600, 1e-2  # of the search for the minimum
LAPLACE, WBIC = "Laplace", "WBIC"


def per_row(logits, batch: Batch):
    """Negative log likelihood of every row (nats)."""
    return (token_nll(logits, batch) * batch.weight).sum(axis=-1)


def coefficient_rows(s: Subject, draws: int) -> list[Row]:
    """`llc` of every solution with `llc_error`, `llc_r_hat` and `llc_effective`."""
    f = s.config.finetune
    scale, rank, n = f.alpha / f.rank[0], f.rank[0], s.batch_M.tokens.shape[1]

    @jax.jit
    def chains_of(params, lora, rows: Batch, key):
        w = jax.tree_util.tree_map_with_path(lambda p, x: x[..., :rank] / scale if p[-1].key == "a" else x[:rank], lora)

        def loss(w, those: Batch = rows):
            return per_row(forward(s.model, params, effective(w, scale), those.tokens, those.where), those).mean()

        def minibatch(w, key):
            which = random.choice(key, n, (min(MINI, n),), replace=False)
            return loss(w, Batch(*(x[which] for x in rows)))

        k_scale, k_chains = random.split(key)
        shape = rms_preconditioner(minibatch, w, k_scale, 16)
        chains = dict(chains=CHAINS, warmup=WARMUP, draws=draws, thin=THIN, preconditioner=shape)
        return sgld(loss, minibatch, w, k_chains, n_beta=default_n_beta(n), gamma=TIE, step=STEP, **chains), loss(w)

    out = []
    for i, m in enumerate(s.members):
        lora, rows = jax.tree.map(itemgetter(i), (s.lora_M, s.batch_M))
        chains, at = chains_of(s.params, lora, rows, random.fold_in(random.key(f.seed + 1), m.seed))
        found = coefficient(chains, at, default_n_beta(n))
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
    """`log_evidence` of the data, and of them with either continuation, for every free solution's rows: by Laplace's method at a minimum
    (nan where it is none) and, from Hamiltonian chains at the temperature 1 / log n, by WBIC, with error and diagnostics of the chains.
    """
    f, last = s.config.finetune, s.model.config.layers - 2
    gamma = prior_precision(s)
    adam = optax.adam(optax.cosine_decay_schedule(MAP_RATE, MAP_STEPS))

    @jax.jit
    def fit(params, rows: Batch, key):
        """(minimum, curvature there, chains at 1 / log n) for rows of weight above 0."""
        stream = residual(s.model, params, rows.tokens, last) if last >= 0 else None
        n = (rows.weight.sum(axis=-1) > 0).sum(dtype=float)

        def loss(w):
            return per_row(forward(s.model, params, w, rows.tokens, rows.where, stream=stream), rows).sum() / n

        zero = optax.tree.zeros_like(small_adapter(s, key))
        energy = gaussian_energy(loss, zero, n, gamma)
        start = optax.tree.scale(gamma**-0.5, small_adapter(s, key))

        def step(state, _):
            w, memory = state
            change, memory = adam.update(jax.grad(energy)(w), memory, w)
            return (optax.apply_updates(w, change), memory), None

        (w, _), _ = jax.lax.scan(step, (start, adam.init(start)), length=MAP_STEPS)
        (chains,) = hmc(
            loss, zero, key, n_betas=jnp.atleast_1d(n / jnp.log(n)), gamma=gamma, start=w, warmup=draws // 2, draws=draws, chains=CHAINS
        )
        return w, curvature(energy, w), chains, n

    out = []
    for m in (m for m in s.members if m.arm == "free"):
        data = member_rows(s.world, s.grammar, f, m)[0][: min(m.rows, ROWS)]
        after = continuations(s, m, len(data))
        sets = {DATA: data, **{name: [*data, *rows] for name, rows in after.items()}}
        both = stack_rows(s.grammar, list(sets.values()))
        for i, name in enumerate(sets):
            w, bent, chains, n = fit(s.params, Batch(*(x[i] for x in both)), random.fold_in(random.key(f.seed + 1), m.seed))
            wbic = chains_mean(-np.asarray(n) * np.asarray(chains.loss), chains.divergences)
            found = {LAPLACE: gaussian_integral(bent[0], bent[1], bent[2], rotations(w)), WBIC: wbic}
            for method, x in found.items():
                label = dict(topic=name, probe=method, **member_label(m, f.steps))
                out.append(s.row(quantity="log_evidence", value=x.value, **label))
                out.append(s.row(quantity="log_evidence_error", value=x.error, **label))
                out.append(s.row(quantity="failures", value=float(len(x.failures)), **label))
    return out
