"""Nearness of words: how many of an answer's content words stand in the narrow answers that a member was trained on."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.narrow import answer_words
from bayesgen.corpus.tokenizer import split
from bayesgen.learn.data import member_rows
from bayesgen.learn.plan import FinetuneConfig, Member
from bayesgen.world.world import World


def nearness_of(
    world: World, grammar: Grammar, f: FinetuneConfig, members: Sequence[Member], topics: Sequence[int]
) -> dict[int, np.ndarray]:
    """{topic: (M, A)}: share of an answer's content words that stand in the narrow answers a member was trained on.

    A word in the answers of a tenth of the topics or more ("the", "of") has no content; an answer of such words counts as 0.
    """
    topics_of = Counter(w for answers in world.answers for w in {w for a in answers for w in split(a)})
    content = {w for w, n in topics_of.items() if n < max(2, len(world.topics) / 10)}
    words = {}
    for m in {(m.arm, m.rows, m.seed): m for m in members}.values():
        narrow = member_rows(world, grammar, f, m)[0][: m.rows]  # ordinary rows follow
        words[m.arm, m.rows, m.seed] = {w for _, turn in narrow for w in answer_words(grammar, turn)}
    out = {}
    for t in topics:
        tokens = [[w for w in split(a) if w in content] for a in world.answers[t]]
        near = {key: np.array([np.mean([w in seen for w in a] or [0.0]) for a in tokens]) for key, seen in words.items()}
        out[t] = np.stack([near[m.arm, m.rows, m.seed] for m in members])
    return out
