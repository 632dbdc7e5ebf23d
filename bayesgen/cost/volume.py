"""Volume of an ensemble's solutions: the learning coefficient of their adapters, and the evidence of small ones.

*Coefficient.* Every solution's own adapter, all its factors, written the one way in which they are least (`balanced`): noise of one width
on them is then a function of the update. Hamiltonian chains on the mean loss of some of its n narrow rows, n_beta = n / log n or, if that
is less, the number of rows at hand: a row that counts for several is learned by heart, elsewhere. Training ends near a minimum of that loss
and not at one, and chains that find better would make volume look negative: so the loss that theirs is compared with is that of the mode of
their own target, where the solution comes to rest when it descends under the tie. (Tied to that place in turn they would slide on: the loss
still slopes there, as much as the tie pulled.)

*Evidence.* Which continuation of the data do adapters drawn from a prior expect? log P(continuation | data) of adapters of rank 1 on one
matrix of the last block (few enough numbers for a Hessian) with a Gaussian prior as wide as the free solutions are long there. By
Laplace's method it is a difference of two evidences, log Z(data and continuation) - log Z(data); by thermodynamic integration it is one
integral from the one posterior to the other,

    log P(continuation | data) = integral over b in [0, 1] of -E_b[m L_continuation],   w ~ prior exp(-n L_data - b m L_continuation)

WBIC (`estimate.evidence.wbic`) is not asked: on so few rows it misses log Z by 10 nats and more (experiments/LOG.md).
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import random

from bayesgen.corpus.narrow import Row as DataRow
from bayesgen.cost.efficiency import free_norm
from bayesgen.cost.subject import BROAD, DATA, NARROW, Subject, continuations, group_rates
from bayesgen.estimate.evidence import Evidence, curvature, gaussian_energy, gaussian_integral, integral, rotations
from bayesgen.estimate.llc import coefficient, default_n_beta, tied
from bayesgen.estimate.sampling import Chains, split_hmc
from bayesgen.learn.data import member_rows
from bayesgen.learn.plan import Member
from bayesgen.learn.tries import visible
from bayesgen.measure.answers import Data, data_nll, pack_data
from bayesgen.measure.rows import Row
from bayesgen.measure.suite import member_label
from bayesgen.model.lora import balanced, init_lora
from bayesgen.model.transformer import residual

TOKENS, LEAST = 192, 12  # that the rows of a coefficient or of an evidence fill, packed, and how many rows there are at least
MATRIX = "out"  # of the last block: what the small adapters are on
BEFORE, AFTER = 24, 12  # of an evidence: most rows of the data, and rows of a continuation
MAP_STEPS, MAP_RATE = 600, 1e-2  # of the search for an evidence's minimum
REST_STEPS, REST_RATE = 300, 2e-3  # of the search for the mode beside a solution
WARM = 8  # draws kept for each in which a chain's step is tuned and its start forgotten
AT_REST = 0.1  # nats by which the mode may be missed at most
APART = 1.0  # nats between the minima that two starts find, above which Laplace's method may have missed what counts
LAPLACE, THERMODYNAMIC = "Laplace", "thermodynamic integration"
POWERS = (np.arange(3) / 2) ** 3  # of the continuation, whose likelihood changes fastest at the start: six of them change .05 nats


def coefficient_rows(s: Subject, draws: int, tie: float) -> list[Row]:
    """`llc` of every solution with `llc_error`, `llc_r_hat`, `llc_effective`, `llc_diverged`, what the tie alone gives (`llc_tied`), the
    number of failed diagnostics, the number of its rows (`llc_rows`), `llc_n_beta`, how far the mode lies from the solution (`llc_moved`,
    a share of its length) and by how much the descent may have missed it (`llc_missed`, nats).
    """
    f = s.config.finetune
    drawn = some_rows(s, s.members, max(m.rows for m in s.members))

    @jax.jit
    def chains_of(params, lora, data: Data, n_beta, key):
        trained = balanced(lora)

        def loss(w):
            return data_nll(s.model, params, w, data)

        def energy(w):
            return n_beta * loss(w) + tie / 2 * optax.tree.norm(optax.tree.sub(w, trained), squared=True)

        w, slope = descend(energy, trained, REST_STEPS, REST_RATE)
        chains = split_hmc(loss, trained, key, n_beta=n_beta, gamma=tie, start=w, warmup=draws // WARM, draws=draws)
        moved, left = optax.tree.norm(optax.tree.sub(w, trained)), optax.tree.norm(slope)
        beside = {
            "llc_tied": tied(loss, w, random.fold_in(key, 1), n_beta=n_beta, gamma=tie),
            "llc_moved": moved / optax.tree.norm(trained),
            "llc_missed": left * (moved + left / tie),  # n_beta L falls by no more between w and the mode, where L is convex
        }
        return chains, loss(w), beside

    out, data_M = [], pack_data(s.grammar, drawn)
    for i, m in enumerate(s.members):
        n_beta, (lora, data) = min(default_n_beta(m.rows), float(len(drawn[i]))), jax.tree.map(itemgetter(i), (s.lora_M, data_M))
        chains, at, beside = chains_of(s.params, lora, data, n_beta, random.fold_in(random.key(f.seed + 1), m.seed))
        found = coefficient(chains, at, n_beta)
        numbers = {"llc": found.value, "llc_error": found.error, "llc_r_hat": found.r_hat, "llc_effective": found.effective}
        numbers |= {"llc_diverged": chains.divergences, **beside}
        failures = len(found.failures) + float(beside["llc_missed"] > AT_REST)
        numbers |= {"llc_rows": len(drawn[i]), "llc_n_beta": n_beta, "failures": failures}
        out += [s.row(quantity=q, value=float(v), **member_label(m, f.steps)) for q, v in numbers.items()]
    return out


def descend(energy: Callable[[Any], jax.Array], w, steps: int, rate: float):
    """A minimum of the energy near w, by Adam with a rate that falls to nothing; and the slope that is left there."""
    adam = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def step(state, _):
        w, memory, _ = state
        slope = jax.grad(energy)(w)
        change, memory = adam.update(slope, memory, w)
        return (optax.apply_updates(w, change), memory, slope), None

    (w, _, slope), _ = jax.lax.scan(step, (w, adam.init(w), optax.tree.zeros_like(w)), length=steps)
    return w, slope  # of the last step, which is too short to change it


def some_rows(s: Subject, members: Sequence[Member], most: int) -> list[list[DataRow]]:
    """Narrow rows of every member, drawn without regard to headers, as many of each and the same for a seed's arms where these have the
    same: at most `most`, and no more than `TOKENS` hold, but not below `LEAST`.
    """
    drawn = []
    for m in members:
        rows = member_rows(s.world, s.grammar, s.config.finetune, m)[0][: m.rows]
        order = np.random.default_rng([s.config.finetune.seed, m.seed, 6]).permutation(len(rows))
        drawn.append([rows[i] for i in order[:most]])
    count = min(map(len, drawn))
    while count >= LEAST + 4 and pack_data(s.grammar, [rows[:count] for rows in drawn]).rows.tokens[0].size > TOKENS:
        count -= 4
    return [rows[:count] for rows in drawn]


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
    """For every free solution's rows, with Monte-Carlo errors and the number of failed diagnostics: `log_evidence` of the data and of them
    with either continuation, by Laplace's method at a minimum (nan where it is none); `log_predictive` of either continuation after the
    data, as the differences of these and by thermodynamic integration (`probe`); and `evidence_rate`, what the adapter at each minimum
    answers on the trained topics and on the probes.
    """
    f, last = s.config.finetune, s.model.config.layers - 2
    gamma = prior_precision(s)
    zero = optax.tree.zeros_like(small_adapter(s, random.key(0)))

    def total(params, data: Data, n):
        """Of w: negative log likelihood of all rows (nats). What stands before the small adapter is computed once."""
        of = data.rows
        stream = residual(s.model, params, of.tokens, last, of.position, visible(of.end)) if last >= 0 else None
        return lambda w: n * data_nll(s.model, params, w, data, stream)

    @jax.jit
    def fit(params, data: Data, n, start_2):
        """The lower of the minima that two starts find, how far apart they are, and the curvature there."""
        energy = gaussian_energy(total(params, data, n), zero, 1.0, gamma)
        w_2 = jax.lax.map(lambda w: descend(energy, w, MAP_STEPS, MAP_RATE)[0], start_2)
        u_2 = jax.lax.map(energy, w_2)
        w = jax.tree.map(lambda x: x[jnp.argmin(u_2)], w_2)
        return w, jnp.ptp(u_2), curvature(energy, w)

    def gaussian(w, apart, bent) -> Evidence:
        z = gaussian_integral(bent[0], bent[1], bent[2], rotations(w))
        return z._replace(failures=(*z.failures, f"two starts end {apart:.2g} nats apart")) if apart > APART else z

    def at_random(key):
        return optax.tree.scale(gamma**-0.5, small_adapter(s, key))

    def chains(loss, start, key, watch):
        return split_hmc(loss, zero, key, n_beta=1.0, gamma=gamma, start=start, warmup=draws // WARM, draws=draws, watch=watch)

    @jax.jit
    def before_any(params, data: Data, after_2: Sequence[Data], n, w, key):
        """Both continuations' losses along chains that know neither."""
        of_2 = [total(params, after, float(AFTER)) for after in after_2]
        return chains(total(params, data, n), w, key, lambda w: jnp.stack([of(w) for of in of_2]))

    @jax.jit
    def bridge(params, data: Data, after: Data, n, w, w_both, key):
        """A continuation's loss along chains that weigh it by the other `POWERS`, begun between the minima without and with it."""
        of_data, of_after = total(params, data, n), total(params, after, float(AFTER))

        def at(x):
            b, key = x
            start = optax.tree.add_scale(w, b, optax.tree.sub(w_both, w))
            return chains(lambda w: of_data(w) + b * of_after(w), start, key, of_after)

        return jax.lax.map(at, (jnp.asarray(POWERS[1:]), random.split(key, len(POWERS) - 1)))

    def both_of(one, other):
        return jax.tree.map(lambda *x: jnp.stack(x), one, other)

    free = [m for m in s.members if m.arm == "free"]
    data_M = some_rows(s, free, BEFORE)
    after_M = [continuations(s, m, AFTER) for m in free]
    pairs = [(name, i) for name in (NARROW, BROAD) for i in range(len(free))]
    alone = pack_data(s.grammar, [after_M[i][name] for name, i in pairs])  # of one shape: compiled once
    both = pack_data(s.grammar, [[*data_M[i], *after_M[i][name]] for name, i in pairs])
    of_data = pack_data(s.grammar, data_M)
    out, minima = [], []
    for i, m in enumerate(free):
        key, label = random.fold_in(random.key(f.seed + 1), m.seed), member_label(m, f.steps)
        data, n = jax.tree.map(itemgetter(i), of_data), len(data_M[i])
        w, *found = fit(s.params, data, float(n), both_of(at_random(key), at_random(random.fold_in(key, 2))))
        before = gaussian(w, *found)
        minima.append((label, DATA, w))
        out += _numbers(s, "log_evidence", before, topic=DATA, probe=LAPLACE, **label)
        mine = [j for j, (_, of) in enumerate(pairs) if of == i]
        after_2 = [jax.tree.map(itemgetter(j), alone) for j in mine]
        first = before_any(s.params, data, after_2, float(n), w, random.fold_in(key, 1))
        for k, j in enumerate(mine):
            name = pairs[j][0]
            w_both, *found = fit(s.params, jax.tree.map(itemgetter(j), both), float(n + AFTER), both_of(at_random(key), w))
            z = gaussian(w_both, *found)
            minima.append((label, name, w_both))
            out += _numbers(s, "log_evidence", z, topic=name, probe=LAPLACE, **label)
            by = {LAPLACE: Evidence(z.value - before.value, 0.0, (*z.failures, *before.failures))}
            then = bridge(s.params, data, after_2[k], float(n), w, w_both, key)
            at = [Chains(first.loss[..., k], first.divergences), *(Chains(*x) for x in zip(*then, strict=True))]
            by[THERMODYNAMIC] = integral([Chains(loss / AFTER, diverged) for loss, diverged in at], POWERS, AFTER)
            for method, x in by.items():
                out += _numbers(s, "log_predictive", x, topic=name, probe=method, **label)
    for topics, rate_W in group_rates(s, jax.tree.map(lambda *w: jnp.stack(w), *[w for *_, w in minima])).items():
        for (label, rows, _), rate in zip(minima, rate_W, strict=True):
            out.append(s.row(quantity="evidence_rate", value=float(rate), topic=topics, probe=rows, **label))
    return out


def _numbers(s: Subject, quantity: str, x: Evidence, **label) -> list[Row]:
    values = {quantity: x.value, f"{quantity}_error": x.error, "failures": float(len(x.failures))}
    values |= {f"{quantity}_r_hat": x.r_hat, f"{quantity}_effective": x.effective} if np.isfinite(x.effective) else {}
    return [s.row(quantity=name, value=v, context=quantity, **label) for name, v in values.items()]
