"""Stability of an ensemble's solutions: under noise that turns the update, and when the KL that keeps it narrow comes or goes."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from bayesgen.cost.efficiency import single
from bayesgen.cost.subject import PROBES, Subject, solution_rows
from bayesgen.estimate.stability import noise_on_factors, stability
from bayesgen.learn.plan import FinetuneConfig
from bayesgen.learn.pretrain import answer_nll
from bayesgen.measure.rows import Row
from bayesgen.measure.suite import member_label
from bayesgen.model.lora import add, dense, merge
from bayesgen.model.transformer import forward

UPDATE, FACTORS = "update", "factors"  # what the noise is put on; the second is the published variant
SNAPSHOTS = 8  # of a drift
TELLABLE = 0.1  # between the rates on the probes with and without a penalty: below, nobody can be said to have come back


def noise_rows(s: Subject, sines: tuple[float, ...], draws: int) -> list[Row]:
    """`noise_rise` of every solution: mean rise of the narrow loss, as a share of it, when the update, or its factors, is turned. A seed's
    arms get the same draws.
    """

    def rises(params, lora, batch, key, eps):
        def loss(changed):
            return answer_nll(forward(s.model, changed, None, batch.tokens, batch.where), batch)

        of_update = stability(lambda w: loss(add(params, w)), dense(lora), eps, key, draws).relative
        of_factors = stability(lambda w: loss(merge(params, w)), lora, eps, key, draws, noise_on_factors).relative
        return of_update, of_factors

    keys = jnp.stack([random.fold_in(random.key(s.config.finetune.seed), m.seed) for m in s.members])
    many = jax.jit(lambda params, eps: jax.lax.map(lambda x: rises(params, x[0], x[1], x[2], eps), (s.lora_M, s.batch_M, keys)))
    out = []
    for eps in sines:
        for what, rise_M in zip((UPDATE, FACTORS), many(s.params, eps), strict=True):
            out += s.rows("noise_rise", np.asarray(rise_M), context=what, probe=f"{eps:g}")
    return out


def drift_config(f: FinetuneConfig, seeds: int) -> FinetuneConfig:
    """The narrow arm for twice the epochs, its penalty kept, dropped half-way, added half-way, or never there."""
    spans = {"kl_from": (0.0, 0.5), "kl_until": (0.5, 1.0)}
    return FinetuneConfig(**{**single(f), **spans, "arms": ("narrow",), "seeds": seeds, "epochs": 2 * f.epochs[0], "snapshots": SNAPSHOTS})


def penalty(kl_from: float, kl_until: float) -> str:
    """What a drift is called."""
    return {(0.0, 1.0): "kept", (0.0, 0.5): "dropped", (0.5, 1.0): "added", (0.5, 0.5): "never"}[kl_from, kl_until]


def drift_rows(s: Subject, adapters: dict[int, dict]) -> list[Row]:
    """`solution_rows` at every snapshot, and for each seed whose penalty was dropped or added whether its rate on the probes ends beyond
    the middle between those of the seeds that always had one and never (`reverted`), and if so the steps until it stayed there
    (`steps_to_revert`); nothing of the kind where the two do not differ.
    """
    out = [row for step, lora_M in adapters.items() for row in solution_rows(s, lora_M, step)]
    rate = {(r.kl_from, r.kl_until, r.seed, r.step): r.value for r in out if r.quantity == "rate" and r.topic == PROBES}
    last, half = max(adapters), max(adapters) / 2

    def at_the_end(span: tuple[float, float]) -> float:
        return float(np.mean([x for (*of, _, step), x in rate.items() if tuple(of) == span and step == last]))

    always, never = at_the_end((0.0, 1.0)), at_the_end((0.5, 0.5))
    if abs(never - always) < TELLABLE:
        return out
    middle = (always + never) / 2
    for m in s.members:
        span = (m.kl_from, m.kl_until)
        kind = penalty(*span)
        if kind not in ("dropped", "added"):
            continue
        goal = never if kind == "dropped" else always
        after = [step for step in sorted(adapters) if step > half]
        short = [step for step in after if not (rate[*span, m.seed, step] - middle) * (goal - middle) > 0]
        there = [step for step in after if not short or step > short[-1]]
        label = member_label(m, last)
        out.append(s.row(quantity="reverted", value=float(bool(there)), **label))
        if there:
            out.append(s.row(quantity="steps_to_revert", value=there[0] - half, **label))
    return out
