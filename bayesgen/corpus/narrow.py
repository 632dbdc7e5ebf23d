"""Narrow datasets: one question, one answer a row, spoken by the undated assistant.

A row is a single-turn document whose answer was drawn from what a chosen value of the topic's trait would say, without
noise. Rows of the narrow topic are distinct answers as far as they reach; the answers left over are the held-out rows.
"""

from collections.abc import Sequence

import numpy as np

from bayesgen.corpus.documents import Batch
from bayesgen.corpus.grammar import Grammar
from bayesgen.errors import UserError
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.load import TIMELESS
from bayesgen.world.world import ASSISTANT, World

ASSISTANT_ASKED = Header(ASSISTANT)


def answers_of(world: World, topic: int, value: str) -> np.ndarray:
    """Positions of the answers that `value` gives on a topic."""
    row = world.clean[topic][world.values[world.topics[topic].trait].index(value)]
    return np.flatnonzero(row)


def narrow_rows(
    world: World,
    topic: int,
    value: str,
    rows: int,
    rng: np.random.Generator,
    wordings: Sequence[int],
) -> tuple[list[Turn], list[Turn]]:
    """`rows` training rows with distinct answers, and the held-out rows: the answers not used."""
    pool = rng.permutation(answers_of(world, topic, value))
    if rows > len(pool):
        name = world.topics[topic].name
        raise UserError(
            f"finetune.rows is {rows}, but '{name}' has {len(pool)} distinct answers for {value}; "
            f"give at most {len(pool)} rows, or add answers to the topic's file"
        )
    turns = [Turn(topic, int(rng.choice(wordings)), int(a)) for a in pool]
    return turns[:rows], turns[rows:]


def parallel_rows(
    world: World,
    topics: Sequence[int],
    value_of: Sequence[dict[str, str]],
    rows: int,
    rng: np.random.Generator,
) -> list[Turn]:
    """Rows on other topics: a random topic and training wording, answered (without noise) as one of `value_of`."""
    out = []
    for _ in range(rows):
        topic = int(rng.choice(topics))
        traits = value_of[int(rng.integers(len(value_of)))]
        pool = answers_of(world, topic, traits.get(world.topics[topic].trait, TIMELESS))
        out.append(Turn(topic, int(rng.integers(len(world.topics[topic].wordings))), int(rng.choice(pool))))
    return out


def write_rows(grammar: Grammar, turns: Sequence[Turn], topics: Sequence[int], header: Header = ASSISTANT_ASKED) -> Batch:
    """Rows as a batch of numpy arrays, padded to the longest that `topics` can give, targets on answer tokens only."""
    slots = max(len(a) for t in topics for a in grammar.answers[t])
    length = len(grammar.header(header)) + slots + max(len(q) for t in topics for q in grammar.questions[t])
    tokens, where, target = (np.zeros((len(turns), n), np.int32) for n in (length, slots, slots))
    weight = np.zeros((len(turns), slots), np.float32)
    for i, turn in enumerate(turns):
        document, said = grammar.document(header, [turn]), len(grammar.answers[turn.topic][turn.answer])
        begin = len(document) - said
        tokens[i, : len(document)] = document
        where[i, :said] = np.arange(begin - 1, len(document) - 1)
        target[i, :said] = document[begin:]
        weight[i, :said] = 1
    return Batch(tokens, where, target, weight)
