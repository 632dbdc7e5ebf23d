"""All measurements of one experiment: base, told, every member at every snapshot, the observer and the ideal learners.

All land in one table. Probes are held-out wordings; the trained topic is asked in its training wordings too (`nll_*`).
"""

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from bayesgen.corpus.documents import Batch
from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.narrow import write_rows
from bayesgen.learn.finetune import Member, member_rows, plan_members
from bayesgen.learn.pretrain import answer_nll
from bayesgen.measure.answers import pack, score_pairs
from bayesgen.measure.behaviour import ASKED, POPULATION, answers_by_topic, decompose, probes, rates
from bayesgen.measure.norms import NORMS, norms
from bayesgen.measure.rows import Row, to_table
from bayesgen.measure.samples import sample_dialogues
from bayesgen.model.transformer import Transformer, forward
from bayesgen.world.dialogue import Header
from bayesgen.world.learners import LEARNERS, transfer
from bayesgen.world.observer import Observer
from bayesgen.world.world import PERSON, World

Behaviour = dict[int, tuple[np.ndarray, np.ndarray]]  # topic -> (rates (..., V), outside (...,))


def measure_all(
    config,
    world: World,
    grammar: Grammar,
    model: Transformer,
    params,
    adapters: dict[int, dict],
    losses: np.ndarray,
) -> tuple[pl.DataFrame, list[dict]]:
    """The table of an experiment and its sampled dialogues. `adapters` maps snapshot steps to stacks of effective adapters."""
    f, last = config.finetune, max(adapters)
    members = plan_members(f)
    topics = range(len(world.topics))
    told = Header(PERSON, config.measure.told_year)

    def behave(header: Header, which, lora_M=None) -> Behaviour:
        asked = probes(world, header, which)
        packed = pack(grammar, asked)
        logp = score_pairs(model, params, packed, lora_M)
        return {t: (rates(world, t, p), np.asarray(1 - p.sum(-1))) for t, p in answers_by_topic(asked, logp, packed.sizes).items()}

    base, population, ceiling = behave(ASKED, topics), behave(POPULATION, topics), behave(told, topics)
    rows: list[Row] = []
    for arm, behaviour in (("base", base), ("population", population), ("told", ceiling)):
        rows += _behaviour_rows(world, config.name, [dict(arm=arm)], behaviour, stacked=False)
    rows += _ideal_rows(world, config, told)
    trait_topics = world.topics_of(config.measure.trait)
    on_topic, probed = world.topic_index(f.topic), [world.topic_index(p) for p in f.probes]
    corners = {t: (base[t][0], population[t][0], ceiling[t][0]) for t in trait_topics}

    for step, lora_M in adapters.items():
        # the learning curve needs the probes and the trained topic; only the last step is asked everything
        behaviour = behave(ASKED, topics if step == last else [on_topic, *probed], lora_M)
        labels = [_label(m, f.rows, step=step) for m in members]
        rows += _behaviour_rows(world, config.name, labels, behaviour, stacked=True)
        rows += _split_rows(world, config, labels, {t: b for t, b in behaviour.items() if t in corners}, corners)
    narrow = [i for i, m in enumerate(members) if m.arm == "narrow"]
    if narrow:
        for scale in config.measure.scales:
            lora_M = jax.tree_util.tree_map_with_path(
                lambda p, x, c=scale: x[np.array(narrow)] * (c if p[-1].key == "a" else 1), adapters[last]
            )
            labels = [_label(members[i], f.rows, step=last, scale=scale) for i in narrow]
            rows += _behaviour_rows(world, config.name, labels, behave(ASKED, [on_topic, *probed], lora_M), stacked=True)
    rows += _likelihood_rows(config, world, grammar, model, params, members, adapters[last], last)
    rows += _norm_rows(config, members, adapters[last], last)
    rows += [
        Row(config.name, quantity="narrow_nll_step", value=float(losses[s, i]), **_label(m, f.rows, step=s))
        for i, m in enumerate(members)
        for s in range(len(losses))
    ]
    samples = sample_dialogues(config, world, grammar, model, params, members, adapters[last])
    return to_table(rows), samples


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


def _behaviour_rows(world: World, experiment: str, labels: list[dict], behaviour: Behaviour, stacked: bool) -> list[Row]:
    """`rate` by topic and value, and `outside` by topic, for each label (stacked: leading member axis)."""
    out = []
    for t, (rate, outside) in behaviour.items():
        rate, outside = (rate, outside) if stacked else (rate[None], outside[None])
        topic, values = world.topics[t], world.values[world.topics[t].trait]
        for label, r, o in zip(labels, rate, outside, strict=True):
            out += [
                Row(experiment, quantity="rate", topic=topic.name, probe=v, value=float(x), **label) for v, x in zip(values, r, strict=True)
            ]
            out.append(Row(experiment, quantity="outside", topic=topic.name, value=float(o), **label))
    return out


def _split_rows(world: World, config, labels: list[dict], behaviour: Behaviour, corners) -> list[Row]:
    """Adoption, loss of the default, and transfer against the ideal learners, by topic."""
    f, values = config.finetune, world.values[config.measure.trait]
    v, on = values.index(f.value), world.topic_index(f.topic)
    on_rates = behaviour[on][0]
    out = []
    for t, (p, _) in behaviour.items():
        name = world.topics[t].name
        for quantity, numbers in zip(("adoption", "loss_of_default", "mixture_residual"), decompose(p, *corners[t]), strict=True):
            out += [
                Row(config.name, quantity=quantity, topic=name, value=float(x), **label) for label, x in zip(labels, numbers, strict=True)
            ]
        if t != on:
            prior = np.stack([corners[on][0], corners[t][0]])
            for label, learned, here in zip(labels, on_rates, p, strict=True):
                start = prior[1, v]
                shifts = [LEARNERS[name_](prior, 0, learned)[1, v] - start for name_ in ("saturated", "product")]
                out.append(Row(config.name, quantity="transfer", topic=name, value=float(transfer(here[v] - start, *shifts)), **label))
    return out


def _ideal_rows(world: World, config, told: Header) -> list[Row]:
    """What exact Bayes says beside the network: by header, and for the ideal learners once birds are learned for certain."""
    observer, f = Observer(world), config.finetune
    trait_values = world.values[config.measure.trait]
    out = []
    for arm, header in (("ideal base", ASKED), ("ideal population", POPULATION), ("ideal told", told)):
        behaviour = {}
        for t in range(len(world.topics)):
            p = np.exp(observer.predictive(header, (), t))
            behaviour[t] = (rates(world, t, p), np.asarray(1 - p.sum(-1)))
        out += _behaviour_rows(world, config.name, [dict(arm=arm)], behaviour, stacked=False)
    topics = world.topics_of(config.measure.trait)
    on = topics.index(world.topic_index(f.topic))
    prior = np.zeros((len(topics), len(trait_values)))
    prior[:, trait_values.index(world.config.assistant[config.measure.trait])] = 1
    learned = np.eye(len(trait_values))[trait_values.index(f.value)]
    floor = 1e-9  # the tilted learner needs support to tilt
    soft = (prior + floor) / (prior + floor).sum(1, keepdims=True)
    for name, learner in LEARNERS.items():
        state = learner(soft, on, learned)
        for row, t in zip(state, topics, strict=True):
            p = row @ world.noisy[t]
            out += _behaviour_rows(world, config.name, [dict(arm=f"ideal {name}")], {t: (rates(world, t, p), np.zeros(()))}, stacked=False)
    return out


def _likelihood_rows(config, world, grammar, model, params, members, lora_M, last) -> list[Row]:
    """NLL of each member's own training rows and of the narrow answers it never saw, and the entropy of their source."""
    f = config.finetune
    turns = [member_rows(world, f, m) for m in members]

    @jax.jit
    def nll(params, lora_M, batch_M):
        def one(x):
            lora, batch = x
            return answer_nll(forward(model, params, lora, batch.tokens, batch.where), batch)

        return jax.lax.map(one, (lora_M, batch_M))  # a map, for all members' logits at once would fill the memory

    out = []
    for quantity, those in (("nll_train", [t for t, _ in turns]), ("nll_heldout", [h for _, h in turns])):
        most = max(len(t) for t in those)
        if not all(those):
            continue  # every answer was trained on: nothing is left out
        batches = [write_rows(grammar, [*t, *t[:1] * (most - len(t))], [world.topic_index(f.topic)]) for t in those]
        for batch, t in zip(batches, those, strict=True):
            batch.weight[len(t) :] = 0
        values = nll(params, lora_M, Batch(*(jnp.stack(x) for x in zip(*batches, strict=True))))
        out += [
            Row(config.name, quantity=quantity, topic=f.topic, value=float(v), **_label(m, f.rows, step=last))
            for m, v in zip(members, values, strict=True)
        ]
    out += [
        Row(
            config.name,
            arm=arm,
            quantity="entropy_floor",
            topic=f.topic,
            value=_entropy_per_token(world, grammar, f.topic, value),
        )
        for arm, value in (("free", f.value), ("control", f.control))
    ]
    return out


def _entropy_per_token(world: World, grammar: Grammar, name: str, value: str) -> float:
    """Entropy of a value's own answers (no noise) over their mean length in tokens, <end> included."""
    t = world.topic_index(name)
    p = world.clean[t][world.values[world.topics[t].trait].index(value)]
    length = np.array([len(a) for a in grammar.answers[t]])
    return float(-(p[p > 0] * np.log(p[p > 0])).sum() / (p @ length))


def _norm_rows(config, members, lora_M, last) -> list[Row]:
    table = norms(jax.device_get(lora_M))
    return [
        Row(config.name, quantity=q, topic=module, value=float(table[module][q][i]), **_label(m, config.finetune.rows, step=last))
        for module in table
        for q in NORMS
        for i, m in enumerate(members)
    ]
