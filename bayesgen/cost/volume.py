"""Volume of an ensemble's solutions: the learning coefficient of their adapters, and the evidence of small ones.

*Coefficient.* Every solution's own adapter, all its factors, on its narrow rows: preconditioned Langevin chains with the loss of all
rows at every draw, n_beta = n / log n with n the number of rows.

*Evidence.* Which continuation of the data do adapters drawn from a prior expect? log P(continuation | data) is a difference of two
evidences, log Z(data and continuation) - log Z(data), of adapters of rank 1 on one matrix of the last block (few enough numbers for a
Hessian and for Hamiltonian chains) with a Gaussian prior as wide as the free solutions are long there.
"""

from operator import itemgetter

import jax
from jax import random

from bayesgen.corpus.documents import Batch
from bayesgen.cost.subject import Subject
from bayesgen.estimate.llc import coefficient, default_n_beta
from bayesgen.estimate.sampling import rms_preconditioner, sgld
from bayesgen.learn.pretrain import token_nll
from bayesgen.measure.rows import Row
from bayesgen.measure.suite import member_label
from bayesgen.model.lora import effective
from bayesgen.model.transformer import forward

MINI = 16  # rows in a batch of the Langevin chains
TIE, STEP, WARMUP, THIN, CHAINS = 100.0, 1e-5, 500, 4, 4  # of the Langevin chains
MATRIX = "out"  # of the last block: what the small adapters are on
ROWS = 48  # of the data, and of a continuation
MAP_STEPS, MAP_RATE = 600, 1e-2  # of the search for the minimum
DATA = "data"


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
        found = coefficient(*chains_of(s.params, lora, rows, random.fold_in(random.key(f.seed + 1), m.seed)), default_n_beta(n))
        numbers = {"llc": found.value, "llc_error": found.error, "llc_r_hat": found.r_hat, "llc_effective": found.effective}
        out += [s.row(quantity=q, value=v, **member_label(m, f.steps)) for q, v in numbers.items()]
    return out
