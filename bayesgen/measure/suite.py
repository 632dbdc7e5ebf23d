"""All measurements of one experiment: base, told, every member at every snapshot, the observer and the ideal learners.

All land in one table. Probes are held-out wordings; the trained topic is asked in its training wordings too (`nll_*`).
"""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
import polars as pl

from bayesgen.corpus.grammar import Grammar
from bayesgen.learn.finetune import FinetuneConfig, Member, member_parallel, member_rows, plan_members
from bayesgen.measure.answers import pack, score_pairs
from bayesgen.measure.behaviour import ASKED, POPULATION, answers_by_topic, decompose, persona_state, probes, rates, total_variation
from bayesgen.measure.ideal import ideal_answers
from bayesgen.measure.likelihood import likelihoods
from bayesgen.measure.norms import norms
from bayesgen.measure.rows import Row, to_table
from bayesgen.measure.samples import sample_dialogues
from bayesgen.model.transformer import Transformer
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.learners import product, saturated, transfer
from bayesgen.world.world import World

APART = 0.2  # least distance of the two ideal learners at which a transfer between them can be measured
Behaviour = dict[int, np.ndarray]  # topic -> P(answer), (..., A), mean over its held-out wordings


def measure_all(
    config, world: World, grammar: Grammar, model: Transformer, params, adapters: dict[int, dict], losses: np.ndarray
) -> tuple[pl.DataFrame, list[dict]]:
    """The table of an experiment and its sampled dialogues. `adapters` maps snapshot steps to stacks of effective adapters."""
    f, trait, last = config.finetune, config.measure.trait, max(adapters)
    members, everything = plan_members(f), range(len(world.topics))
    on, probed = world.topic_index(f.topic), [world.topic_index(p) for p in f.probes]
    ask = partial(behave, world, grammar, model, params)
    row = partial(Row, config.name)

    corners = {"base": ask(ASKED, everything), "population": ask(POPULATION, everything)}
    told = {v: ask(world.told(trait, v), everything if v == f.value else world.topics_of(trait)) for v in world.values[trait]}
    corners["told"] = told[f.value]
    ideal = ideal_answers(world, trait, f.value, on, rows_shown(world, f, members))
    rows: list[Row] = []
    for arms, base in ((corners, corners["base"]), (ideal, ideal["ideal base"])):
        for arm, behaviour in arms.items():
            rows += _behaviour_rows(world, row, [dict(arm=arm)], {t: p[None] for t, p in behaviour.items()}, base)

    told_rates = {t: np.stack([rates(world, t, told[v][t]) for v in world.values[trait]]) for t in world.topics_of(trait)}
    corner_rates = {t: [rates(world, t, corners[c][t]) for c in ("base", "population", "told")] for t in told_rates}
    for step, lora_M in adapters.items():
        # the learning curve needs the probes and the trained topic; only the last step is asked everything
        behaviour = ask(ASKED, everything if step == last else [on, *probed], lora_M)
        labels = [_label(m, f.rows, step) for m in members]
        rows += _behaviour_rows(world, row, labels, behaviour, corners["base"])
        rows += _split_rows(world, row, labels, f, on, behaviour, corner_rates, told_rates)
    narrow = [i for i, m in enumerate(members) if m.arm == "narrow"]
    for scale in config.measure.scales if narrow else ():
        labels = [_label(members[i], f.rows, last, scale) for i in narrow]
        rows += _behaviour_rows(world, row, labels, ask(ASKED, [on, *probed], scaled(adapters[last], narrow, scale)), corners["base"])

    labels = [_label(m, f.rows, last) for m in members]
    for quantity, nll_M in likelihoods(f, world, grammar, model, params, members, adapters[last]).items():
        rows += [row(quantity=quantity, topic=f.topic, value=float(v), **label) for label, v in zip(labels, nll_M, strict=True)]
    for module, table in norms(jax.device_get(adapters[last])).items():
        for quantity, norm_M in table.items():
            rows += [row(quantity=quantity, topic=module, value=float(v), **label) for label, v in zip(labels, norm_M, strict=True)]
    for s, loss_M in enumerate(losses):
        rows += [row(quantity="narrow_nll_step", value=float(v), **_label(m, f.rows, s)) for m, v in zip(members, loss_M, strict=True)]
    return to_table(rows), sample_dialogues(config, world, grammar, model, params, members, adapters[last])


def behave(world: World, grammar: Grammar, model: Transformer, params, header: Header, topics: Sequence[int], lora_M=None) -> Behaviour:
    """Exact answer probabilities of a network; with a stack of adapters, one row a member."""
    asked = probes(world, header, topics)
    packed = pack(grammar, asked)
    return answers_by_topic(asked, score_pairs(model, params, packed, lora_M), packed.sizes)


def rows_shown(world: World, config: FinetuneConfig, members: Sequence[Member]) -> dict[str, list[Turn]]:
    """The rows an arm is trained to *answer*, from its first seed. The narrow arm's are left out: its other rows are a penalty."""
    first = {m.arm: m for m in reversed(members) if m.arm != "narrow"}
    return {
        arm: [*member_rows(world, config, m)[0], *(member_parallel(world, config, m) if arm == "broad" else ())] for arm, m in first.items()
    }


def scaled(lora_M: dict, which: Sequence[int], scale: float) -> dict:
    """Some members, their updates a @ b times `scale`."""
    return jax.tree_util.tree_map_with_path(lambda p, x: x[np.array(which)] * (scale if p[-1].key == "a" else 1), lora_M)


def _label(m: Member, rows: int, step: int, scale: float = 1.0) -> dict:
    return dict(
        arm=m.arm,
        seed=m.seed,
        step=step,
        scale=scale,
        learning_rate=m.learning_rate,
        weight_decay=m.weight_decay,
        kl_weight=m.kl_weight if m.arm == "narrow" else None,
        rank=m.rank,
        rows=rows,
    )


def _behaviour_rows(world: World, row, labels: list[dict], behaviour: Behaviour, base: Behaviour) -> list[Row]:
    """`rate` by topic and value, `outside` and `moved` by topic, for each label (the leading axis)."""
    out = []
    for t, p_MxA in behaviour.items():
        topic, values = world.topics[t], world.values[world.topics[t].trait]
        moved_M, outside_M = total_variation(p_MxA, base[t]), 1 - p_MxA.sum(-1)
        for label, rate, moved, outside in zip(labels, rates(world, t, p_MxA), moved_M, outside_M, strict=True):
            out += [row(quantity="rate", topic=topic.name, probe=v, value=float(x), **label) for v, x in zip(values, rate, strict=True)]
            out.append(row(quantity="outside", topic=topic.name, value=float(outside), **label))
            out.append(row(quantity="moved", topic=topic.name, value=float(moved), **label))
    return out


def _split_rows(
    world: World, row, labels: list[dict], f: FinetuneConfig, on: int, behaviour: Behaviour, corner_rates, told_rates
) -> list[Row]:
    """Adoption, loss of the default, and transfer against the ideal learners, on each topic of the trait."""
    v = world.values[world.topics[on].trait].index(f.value)
    learned_MxV = persona_state(rates(world, on, behaviour[on]), told_rates[on])
    out = []
    for t in (t for t in behaviour if t in told_rates):
        p_MxV = rates(world, t, behaviour[t])
        split = decompose(p_MxV, *corner_rates[t])
        numbers: dict[str, np.ndarray] = dict(zip(("adoption", "loss_of_default", "mixture_residual"), split, strict=True))
        if t != on:
            prior_2xV = np.stack([persona_state(corner_rates[x][0], told_rates[x]) for x in (on, t)])
            here_M, start = persona_state(p_MxV, told_rates[t])[:, v], prior_2xV[1, v]
            ends = [[learner(prior_2xV, 0, learned)[1, v] - start for learned in learned_MxV] for learner in (saturated, product)]
            apart = np.abs(np.subtract(ends[1], ends[0])) > APART
            numbers["transfer"] = np.where(apart, transfer(here_M - start, *np.array(ends)), np.nan)
        for quantity, values_M in numbers.items():
            name = world.topics[t].name
            out += [row(quantity=quantity, topic=name, value=float(x), **label) for label, x in zip(labels, values_M, strict=True)]
    return out
