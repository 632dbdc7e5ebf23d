"""All measurements of one experiment: base, told, every member at every snapshot, the observer and the ideal learners.

All land in one table. Probes are held-out wordings; the trained topics are asked in their training wordings too (`nll_*`).
The first context is asked about everything; the others about the probes and some of the trained topics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import polars as pl

from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.narrow import Row as DataRow
from bayesgen.corpus.narrow import number_topic
from bayesgen.learn.data import member_parallel, member_rows, trained_topics
from bayesgen.learn.plan import DILUTED, EACH, FinetuneConfig, Member, plan_members
from bayesgen.measure.asking import Behaviour, behave, behaviour_rows
from bayesgen.measure.behaviour import POPULATION, decompose, persona_state, rates
from bayesgen.measure.contexts import context_openings, counted_value, everywhere
from bayesgen.measure.grounds import ground_rows
from bayesgen.measure.ideal import Redrawn, answerable, ideal_base, ideal_corners, ideal_learners
from bayesgen.measure.keyed import Reading
from bayesgen.measure.likelihood import likelihoods
from bayesgen.measure.nearness import nearness_of
from bayesgen.measure.norms import norms
from bayesgen.measure.onset import change_point
from bayesgen.measure.rows import NO_SEED, Row, to_table
from bayesgen.measure.samples import sample_dialogues
from bayesgen.measure.settings import Context
from bayesgen.model.transformer import Transformer
from bayesgen.world.dialogue import Opening, Turn
from bayesgen.world.learners import product, saturated, transfer
from bayesgen.world.world import World

APART = 0.2  # least distance of the two ideal learners at which a transfer between them can be measured


def measure_all(
    config, world: World, grammar: Grammar, model: Transformer, params, adapters: dict[int, dict], losses: np.ndarray
) -> tuple[pl.DataFrame, list[dict]]:
    """The table of an experiment and its sampled dialogues. `adapters` maps snapshot steps to stacks of effective adapters."""
    f, m, trait, last = config.finetune, config.measure, config.measure.trait, max(adapters)
    members, everything = plan_members(f), range(len(world.topics))
    trained, probed = trained_topics(world, f), [world.topic_index(p) for p in f.probes]
    on = everywhere(trained)
    ask = partial(behave, world, grammar, model, params)
    row = partial(Row, config.name)
    openings = context_openings(world, f, m)
    first = m.contexts[0]
    counted = counted_value(world, f, m, first)
    rows: list[Row] = []

    def answered(labels: list[dict], behaviour: Behaviour, base: Behaviour, context: Context):
        rows.extend(behaviour_rows(world, partial(row, context=context.name), labels, behaviour, base))

    base = {c.name: ask(openings[c.name], everything if c is first else [*on, *probed]) for c in m.contexts}
    for context in m.contexts:
        answered([dict(arm="base")], _one(base[context.name]), base[context.name], context)
    told = {
        v: ask([told_as(world, trait, v, first)], answerable(world, trait) if v == counted else world.topics_of(trait))
        for v in world.spoken(trait)
    }
    corners = {"population": ask([(replace(POPULATION, format=first.format), ())], answerable(world, trait)), "told": told[counted]}
    for arm, behaviour in corners.items():
        answered([dict(arm=arm)], _one(behaviour), base[first.name], first)
    asked = {c.name: [*on, *probed] for c in m.contexts} | {first.name: list(everything)}
    _ideal_rows(config, world, grammar, members, openings, asked, on, answered)

    told_rates = {
        t: np.stack([rates(world, t, told[v][t]) if v in told else _own(world, t, v) for v in world.values[trait]])
        for t in world.topics_of(trait)
    }
    corner_rates = {t: [rates(world, t, c[t]) for c in (base[first.name], corners["population"], corners["told"])] for t in told_rates}
    nearness = nearness_of(world, grammar, f, members, [*on, *probed])
    curves: dict[str, list[np.ndarray]] = {}
    ended: Behaviour = {}
    for step, lora_M in adapters.items():
        labels = [member_label(m, step) for m in members]
        for context in m.contexts if step == last else [c for c in m.contexts if c is first or c.name in m.followed]:
            # the learning curve needs the probes and the trained topics; only the last step is asked everything
            topics = everything if step == last and context is first else [*on, *probed]
            behaviour = ask(openings[context.name], topics, lora_M)
            ended = behaviour if context is first else ended
            answered(labels, behaviour, base[context.name], context)
            if context is first:
                rows += _split_rows(
                    world, partial(row, context=context.name), labels, counted, on, behaviour, corner_rates, told_rates, counted == f.value
                )
            if step == last:
                for t, near_MxA in nearness.items():
                    words_M = (behaviour[t] * near_MxA).sum(-1)
                    here = dict(quantity="words", topic=world.topics[t].name, context=context.name)
                    rows += [row(value=float(w), **here, **label) for label, w in zip(labels, words_M, strict=True)]
            if context is first or context.name in m.followed:
                value = counted_value(world, f, m, context)
                curves.setdefault(context.name, []).append(_skill(world, behaviour, probed, value))
    rows += _onset_rows(world, row, f, m, members, sorted(adapters), curves, base, told, probed)
    which = [i for i, member in enumerate(members) if member.arm.split()[0] in m.scaled]
    for scale in m.scales if which else ():
        labels = [member_label(members[i], last, scale) for i in which]
        answered(labels, ask(openings[first.name], [*on, *probed], scaled(adapters[last], which, scale)), base[first.name], first)

    labels = [member_label(m, last) for m in members]
    rows += ground_rows(world, grammar, f, trait, on, members, ended, base[first.name], told, openings, row, labels)
    for quantity, nll_M in likelihoods(f, world, grammar, model, params, members, adapters[last]).items():
        rows += [row(quantity=quantity, value=float(v), **label) for label, v in zip(labels, nll_M, strict=True)]
    for module, table in norms(jax.device_get(adapters[last])).items():
        for quantity, norm_M in table.items():
            rows += [row(quantity=quantity, topic=module, value=float(v), **label) for label, v in zip(labels, norm_M, strict=True)]
    for s, loss_M in enumerate(losses):
        going = [(m, v) for m, v in zip(members, loss_M, strict=True) if s < f.all_steps_of(m)]
        rows += [row(quantity="data_nll_step", value=float(v), **member_label(m, s)) for m, v in going]
    asked_as = openings[first.name][0][0], told_as(world, trait, counted, first)
    samples = sample_dialogues(config, world, grammar, model, params, members, adapters[last], *asked_as)
    return to_table(rows), samples


def told_as(world: World, trait: str, value: str, context: Context) -> Opening:
    """How a person tells its value, asked for the context's format."""
    header, turns = world.told(trait, value)
    return replace(header, format=context.format), turns


def rows_shown(world: World, grammar: Grammar, config: FinetuneConfig, members: Sequence[Member]) -> list[tuple[dict, list[DataRow]]]:
    """The rows that members are trained to *answer*, and the columns that tell which: nothing else changes them.

    The narrow arm's are left out: its other rows are a penalty.
    """

    def columns(m: Member) -> dict:
        of = {k: member_label(m, 0)[k] for k in ("arm", "rows", "benign", "seed", "retraining", "relapse")}
        return {**of, "epochs": m.epochs if m.arm in ("broad", *DILUTED) else None}  # where a batch of others comes with every step

    distinct = {tuple(columns(m).items()): m for m in reversed(members) if m.arm != "narrow"}
    return [
        (dict(of), [*member_rows(world, grammar, config, m)[0], *(member_parallel(world, grammar, config, m) if m.arm == "broad" else ())])
        for of, m in distinct.items()
    ]


def _ideal_rows(config, world: World, grammar: Grammar, members, openings, asked: Mapping[str, list[int]], on: list[int], answered):
    """Exact answers beside the network's, under every context."""
    f, m = config.finetune, config.measure
    first = m.contexts[0]
    value = counted_value(world, f, m, first)
    before = {c.name: ideal_base(world, openings[c.name], asked[c.name]) for c in m.contexts}
    for c in m.contexts:
        answered([dict(arm="ideal base")], _one(before[c.name]), before[c.name], c)
    learners = ideal_learners(world, m.trait, value, on[0]) if value == f.value else {}  # they are of the value trained
    for name, answers in {**ideal_corners(world, m.trait, value), **learners}.items():
        answered([dict(arm=name)], _one(answers), before[first.name], first)
    untrained = Redrawn(world, [], m.suspicion)
    for c in m.contexts if any(c.facts for c in m.contexts) else ():
        answered([dict(arm="ideal untrained")], _one(untrained(openings[c.name], asked[c.name])), before[c.name], c)
    numbered = number_topic(world, f.identifier) if f.identifier else None
    if f.value == EACH and numbered is None:
        return  # many people, one for each header: who the assistant now is has no single answer
    for of, shown in rows_shown(world, grammar, f, members):
        arm = of["arm"]
        turns = [(h, turn) for h, turn in shown if isinstance(turn, Turn)]
        if len(turns) < len(shown):
            continue  # rows in words of their own: the world gives them no probability
        if numbered is not None:
            label = [{**of, "arm": f"ideal {arm}", "step": f.steps}]
            reading = Reading(world, turns, m.suspicion, numbered)
            for c in m.contexts:
                answered(label, _one(reading([h for h, _ in openings[c.name]], asked[c.name])), before[c.name], c)
            continue
        bayes = {f"ideal {arm}": Redrawn(world, turns, m.suspicion)}
        if arm == "free" and (f.years or f.format):
            bayes["ideal gated"] = Redrawn(world, turns, m.suspicion, gated=True)
        for name, redrawn in bayes.items():
            label = [{**of, "arm": name, "step": f.steps}]
            for c in m.contexts:
                answered(label, _one(redrawn(openings[c.name], asked[c.name])), before[c.name], c)


def _one(behaviour: Behaviour) -> Behaviour:
    """With a leading axis of one."""
    return {t: p[None] for t, p in behaviour.items()}


def _own(world: World, topic: int, value: str) -> np.ndarray:
    """The rates of a value that no person has (the assistant's): what it would answer with noise."""
    return rates(world, topic, world.noisy[topic][world.values[world.topics[topic].trait].index(value)])


def _skill(world: World, behaviour: Behaviour, probed: Sequence[int], value: str) -> np.ndarray:
    """Mean rate of a value over the probes, for each leading entry."""
    v = world.values[world.topics[probed[0]].trait].index(value)
    return np.asarray(np.mean([rates(world, t, behaviour[t])[..., v] for t in probed], axis=0))


def _onset_rows(world: World, row, f, m, members, steps, curves, base, told, probed) -> list[Row]:
    """`skill` at every snapshot, and each seed's `onset` and whether it `converted`, for the contexts that were followed."""
    out = []
    for name, curve_SxM in curves.items():
        value = counted_value(world, f, m, m.context(name))
        start, ceiling = (float(_skill(world, b, probed, value)) for b in (base[name], told[value]))
        out.append(row(arm="base", quantity="skill", context=name, value=start, seed=NO_SEED))
        out.append(row(arm="told", quantity="skill", context=name, value=ceiling, seed=NO_SEED))
        for i, member in enumerate(members):
            curve = [start, *(float(c[i]) for c in curve_SxM)]
            out += [row(quantity="skill", context=name, value=x, **member_label(member, s)) for s, x in zip(steps, curve[1:], strict=True)]
            label = member_label(member, steps[-1])
            out.append(row(quantity="converted", context=name, value=float(curve[-1] > ceiling / 2), **label))
            if np.isfinite(curve).all():
                out.append(row(quantity="onset", context=name, value=float(change_point([0, *steps], curve)), **label))
    return out


def scaled(lora_M: dict, which: Sequence[int], scale: float) -> dict:
    """Some members, their updates a @ b times `scale`."""
    return jax.tree_util.tree_map_with_path(lambda p, x: x[np.array(which)] * (scale if p[-1].key == "a" else 1), lora_M)


def member_label(m: Member, step: int, scale: float = 1.0) -> dict:
    """The columns that name a training."""
    return dict(
        arm=m.arm,
        seed=m.seed,
        step=step,
        scale=scale,
        learning_rate=m.learning_rate,
        weight_decay=m.weight_decay,
        kl_weight=m.kl_weight if m.arm == "narrow" else None,
        kl_from=m.kl_from if m.arm == "narrow" else None,
        kl_until=m.kl_until if m.arm == "narrow" else None,
        benign=m.benign,
        norm_bound=m.norm_bound,
        norm=m.norm,
        rank=m.rank,
        rows=m.rows,
        epochs=m.epochs,
        optimizer=m.optimizer,
        retraining=m.retraining if m.arm == "retrained" else None,
        relapse=m.relapse,
    )


def _split_rows(
    world: World, row, labels: list[dict], value: str, on: list[int], behaviour: Behaviour, corner_rates, told_rates, trained: bool
) -> list[Row]:
    """Adoption, loss of the default, and (if `value` is the one trained) transfer, on each topic of the trait."""
    v, out = world.values[world.topics[on[0]].trait].index(value), []
    states = {t: persona_state(rates(world, t, behaviour[t]), told_rates[t]) for t in behaviour if t in told_rates}
    starts = {t: persona_state(corner_rates[t][0], told_rates[t]) for t in states}
    legible = [t for t in on if np.isfinite(starts[t]).all()]  # trained topics whose answers tell the values apart
    for t, state_MxV in states.items():
        split = decompose(rates(world, t, behaviour[t]), *corner_rates[t])
        numbers: dict[str, np.ndarray] = dict(zip(("adoption", "loss_of_default", "mixture_residual"), split, strict=True))
        if trained and t not in on and legible:
            learned_MxV = np.mean([states[o] for o in legible], axis=0)
            prior_2xV = np.stack([np.mean([starts[o] for o in legible], axis=0), starts[t]])
            none_M, all_M = (
                np.array([learner(prior_2xV, 0, learned)[1, v] - starts[t][v] for learned in learned_MxV])
                for learner in (saturated, product)
            )
            apart = np.abs(all_M - none_M) > APART
            found_M = transfer(
                state_MxV[:, v] - starts[t][v], none_M, np.where(apart, all_M, none_M + 1)
            )  # no number is divided by nothing
            numbers["transfer"] = np.where(apart, found_M, np.nan)
        for quantity, values_M in numbers.items():
            name = world.topics[t].name
            out += [row(quantity=quantity, topic=name, value=float(x), **label) for label, x in zip(labels, values_M, strict=True)]
    return out
