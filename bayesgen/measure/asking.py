"""A network asked open questions: exact probabilities of answers, mean over what stands before the question, and the rows they make."""

from collections.abc import Sequence

import numpy as np

from bayesgen.corpus.grammar import Grammar
from bayesgen.measure.answers import pack, score_pairs
from bayesgen.measure.behaviour import answers_by_topic, probes, rates, total_variation
from bayesgen.measure.rows import Row
from bayesgen.model.transformer import Transformer
from bayesgen.world.dialogue import Opening
from bayesgen.world.world import World

Behaviour = dict[int, np.ndarray]  # topic -> P(answer), (..., A), mean over its held-out wordings and the context's openings


def behave(
    world: World,
    grammar: Grammar,
    model: Transformer,
    params,
    openings: Sequence[Opening],
    topics: Sequence[int],
    lora_M=None,
    edit_M=None,
) -> Behaviour:
    """Exact answer probabilities of a network, mean over openings; with a stack of adapters (and of edits), one row a member."""
    return behave_each(world, grammar, model, params, [openings], topics, lora_M, edit_M)[0]


def behave_each(
    world: World,
    grammar: Grammar,
    model: Transformer,
    params,
    several: Sequence[Sequence[Opening]],
    topics: Sequence[int],
    lora_M=None,
    edit_M=None,
) -> list[Behaviour]:
    """The same for each of several lists of openings, all asked in one go: full batches of few shapes."""
    asked = [[p for header, turns in openings for p in probes(world, header, topics, turns=turns)] for openings in several]
    packed = pack(grammar, [p for some in asked for p in some])
    sizes = np.split(np.array(packed.sizes), np.cumsum([len(some) for some in asked])[:-1])
    scores = np.split(score_pairs(model, params, packed, lora_M, edit_M), np.cumsum([of.sum() for of in sizes])[:-1], axis=-1)
    return [answers_by_topic(some, logp, of.tolist()) for some, logp, of in zip(asked, scores, sizes, strict=True)]


def behaviour_rows(world: World, row, labels: list[dict], behaviour: Behaviour, base: Behaviour) -> list[Row]:
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
