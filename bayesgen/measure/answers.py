"""The network as a predictor: exact log P(answer | prompt) over a topic's finite answer set, by teacher forcing.

All answers of a prompt are scored in one pass. The prompt stands once; behind it stands the tree of the answers' beginnings
in depth-first order, so that answers which begin alike share their tokens. A token sees its ancestors: with `end[j]` the
first place behind j's subtree, i sees j if j <= i < end[j] (the prompt's subtree ends where the next prompt begins). Large trees are
cut, and several short prompts with their trees share a row. Same call as `world.observer.Observer`: a batch of prompts -> arrays of
log-probabilities.

Axes: R rows, L tokens of a row, K places whose logits are read, E scored answer tokens, M members of an ensemble.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.narrow import Row as DataRow
from bayesgen.corpus.narrow import prompt_and_answer
from bayesgen.learn.tries import visible
from bayesgen.model.lora import merge
from bayesgen.model.transformer import Transformer, forward
from bayesgen.world.dialogue import Prompt

TREE = 96  # most tokens of answers behind one prompt
ROW = 128  # tokens of a row that prompts of narrow data share, about
ROWS = 32  # most rows in one compiled call


class Rows(NamedTuple):
    """Rows of one padded length, as arrays."""

    tokens: np.ndarray  # R L
    position: np.ndarray  # R L: what it would be if the answer stood alone
    end: np.ndarray  # R L: first place behind the token's subtree; 0 for padding, which nobody sees
    where: np.ndarray  # R K: places whose logits are read
    at: np.ndarray  # R E: which of `where` predicts the scored token
    target: np.ndarray  # R E: the scored token
    pair: np.ndarray  # R E: the (prompt, answer) pair it belongs to, counted over all prompts; -1 unused


@dataclass(frozen=True)
class Packed:
    """Prompts with their answers, in blocks of at most `ROWS` rows of like length."""

    blocks: tuple[Rows, ...]
    sizes: tuple[int, ...]  # answers of each prompt


class _Tree:
    """Answers to one question, as a tree that grows: they come sorted, so that those which begin alike are neighbours.

    Node 0 is the prompt's last token, nodes 1, 2, ... the tokens of the tree.
    """

    def __init__(self):
        self.tokens: list[int] = []
        self.depth: list[int] = []  # tokens of the answer before this one
        self.end: list[int] = []  # first token behind the subtree
        self.path: list[tuple[int, int]] = []  # (token, place) from the first to the last
        self.at: list[int] = []  # the node that predicts the scored token
        self.target: list[int] = []
        self.answer: list[int] = []

    def shared(self, answer: Sequence[int]) -> int:
        """Tokens that the answer's beginning has in common with the current path."""
        n = 0
        while n < min(len(self.path), len(answer) - 1) and self.path[n][0] == answer[n]:
            n += 1
        return n

    def fits(self, answer: Sequence[int]) -> bool:
        return not self.target or len(self.tokens) + len(answer) - 1 - self.shared(answer) <= TREE

    def add(self, answer: Sequence[int], index: int):
        for token in answer[self.leave(self.shared(answer)) : -1]:
            self.depth.append(len(self.path))
            self.path.append((token, len(self.tokens)))
            self.tokens.append(token)
            self.end.append(-1)
        self.at += [0, *(place + 1 for _, place in self.path)]
        self.target += answer
        self.answer += [index] * len(answer)

    def leave(self, depth: int) -> int:
        """Shorten the path to `depth`: the subtrees left are complete."""
        while len(self.path) > depth:
            self.end[self.path.pop()[1]] = len(self.tokens)
        return depth


_Asked = tuple[list[int], _Tree, int]  # prompt, answers, and the pair of the prompt with its first answer


def _trees(answers: Sequence[tuple[int, ...]]) -> list[_Tree]:
    """All answers to a question, in as few trees of at most `TREE` tokens as their order gives."""
    trees = [_Tree()]
    for i in sorted(range(len(answers)), key=answers.__getitem__):
        if not trees[-1].fits(answers[i]):
            trees.append(_Tree())
        trees[-1].add(answers[i], i)
    for tree in trees:
        tree.leave(0)
    return trees


def pack(grammar: Grammar, prompts: Sequence[Prompt]) -> Packed:
    """Lay out prompts and all their answers."""
    trees = {topic: _trees(grammar.answers[topic]) for topic in {p.topic for p in prompts}}
    sizes = [len(grammar.answers[p.topic]) for p in prompts]
    first = (np.cumsum(sizes) - sizes).tolist()  # pair of each prompt with its first answer
    asked = [(grammar.prompt(p), tree, pair) for p, pair in zip(prompts, first, strict=True) for tree in trees[p.topic]]
    alike: dict[tuple[int, int], list[list[_Asked]]] = {}
    for one in asked:
        alike.setdefault(_shape(one), []).append([one])
    return Packed(tuple(block for shape, rows in sorted(alike.items()) for block in _blocks(rows, shape)), tuple(sizes))


def _shape(one: _Asked) -> tuple[int, int]:
    """Tokens of a row, and places whose logits are read, rounded up: few shapes are ever compiled."""
    _, tree, _ = one
    length = _up(_length(one), 32)
    return length, min(length, _up(len(tree.tokens) + 1, 64))


def _length(one: _Asked) -> int:
    prompt, tree, _ = one
    return len(prompt) + len(tree.tokens)


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def _blocks(rows: Sequence[Sequence[_Asked]], shape: tuple[int, int]) -> Iterator[Rows]:
    """Rows of one shape, `ROWS` at a time."""
    scored = _up(max(_scored(row) for row in rows), 64)
    for i in range(0, len(rows), ROWS):
        some = rows[i : i + ROWS]
        yield _block(some, _up(len(some), 4), *shape, scored)


def _scored(row: Sequence[_Asked]) -> int:
    return sum(len(tree.target) for _, tree, _ in row)


def _block(rows: Sequence[Sequence[_Asked]], count: int, length: int, read: int, scored: int) -> Rows:
    """Rows as arrays, padded."""
    tokens, position, end = (np.zeros((count, length), np.int32) for _ in range(3))
    where = np.zeros((count, read), np.int32)
    at, target, pair = (np.full((count, scored), fill, np.int32) for fill in (0, 0, -1))
    for i, row in enumerate(rows):
        place, reads, scores = 0, 0, 0  # so far
        for prompt, tree, first in row:
            answers, whole = place + len(prompt), place + len(prompt) + len(tree.tokens)
            tokens[i, place:answers], tokens[i, answers:whole] = prompt, tree.tokens
            position[i, place:answers], position[i, answers:whole] = range(len(prompt)), np.add(len(prompt), tree.depth)
            end[i, place:answers], end[i, answers:whole] = whole, np.add(answers, tree.end)
            where[i, reads : reads + whole - answers + 1] = range(answers - 1, whole)
            said = slice(scores, scores + len(tree.target))
            at[i, said], target[i, said], pair[i, said] = np.add(reads, tree.at), tree.target, np.add(first, tree.answer)
            place, reads, scores = whole, reads + whole - answers + 1, said.stop
    return Rows(tokens, position, end, where, at, target, pair)


def _score(model: Transformer, params, rows: Rows, edit=None, lora=None, stream=None) -> jax.Array:
    """Log P(target | what its predecessor sees): (R, E)."""
    logits_RxKxV = forward(model, params, lora, rows.tokens, rows.where, rows.position, visible(rows.end), edit, stream)
    norm_RxK = jax.nn.logsumexp(logits_RxKxV, axis=-1)
    row = jnp.arange(len(rows.tokens))[:, None]
    return logits_RxKxV[row, rows.at, rows.target] - norm_RxK[row, rows.at]


def _score_members(model: Transformer, params, lora_M, rows: Rows, edit_M=None) -> jax.Array:
    """(M, R, E): members one after the other, each with its update merged, which is faster here than the low-rank path."""
    return jax.lax.map(lambda member: _score(model, merge(params, member[0]), rows, member[1]), (lora_M, edit_M))


_score_base = jax.jit(_score, static_argnums=0)
_score_stack = jax.jit(_score_members, static_argnums=0)


def score_pairs(model: Transformer, params, packed: Packed, lora_M=None, edit_M=None) -> np.ndarray:
    """Log P of every (prompt, answer) pair, flat in order: (pairs,), or (M, pairs) for a stack of effective adapters.

    `edit_M` changes the members' residual streams: a pytree that is called as `Transformer`'s `edit`, stacked as they are, so
    that other edits of the same kind find the compiled program.
    """
    if lora_M is None:
        scores = [_score_base(model, params, rows)[None] for rows in packed.blocks]
    else:
        scores = [_score_stack(model, params, lora_M, rows, edit_M) for rows in packed.blocks]
    scores = [np.asarray(s, np.float64) for s in jax.device_get(scores)]
    out = np.zeros((len(scores[0]), sum(packed.sizes)))
    for rows, score in zip(packed.blocks, scores, strict=True):
        used = rows.pair >= 0
        for pairs, member in zip(out, score, strict=True):
            pairs += np.bincount(rows.pair[used], weights=member[used], minlength=out.shape[1])
    return out[0] if lora_M is None else out


class Data(NamedTuple):
    """Narrow rows as answers to score: those which ask the same share their prompt, and prompts share rows of the network."""

    rows: Rows
    weight: np.ndarray  # R E: share of the narrow rows that the scored token belongs to; 0 for padding


def pack_data(grammar: Grammar, data_M: Sequence[Sequence[DataRow]]) -> Data:
    """The narrow rows of several members, stacked (M, R, ...)."""
    packed_M, share_M = [], []
    for data in data_M:
        counts: dict[tuple[int, ...], Counter[tuple[int, ...]]] = {}
        for prompt, answer in (prompt_and_answer(grammar, row) for row in data):
            counts.setdefault(prompt, Counter())[answer] += 1
        share = [count / len(data) for answers in counts.values() for count in answers.values()]
        first = np.cumsum([0, *(len(answers) for answers in counts.values())]).tolist()
        asked = [(list(p), tree, pair) for (p, answers), pair in zip(counts.items(), first, strict=False) for tree in _trees(list(answers))]
        packed_M.append(_together(asked))
        share_M.append(np.array([*share, 0.0], np.float32))  # the last for padding, whose pair is -1
    every = [row for rows in packed_M for row in rows]
    length, read = max(sum(map(_length, row)) for row in every), max(sum(len(t.tokens) + 1 for _, t, _ in row) for row in every)
    scored, count = max(map(_scored, every)), max(map(len, packed_M))
    rows_M = [_block(rows, count, length, read, scored) for rows in packed_M]
    weight = np.stack([share[rows.pair] for share, rows in zip(share_M, rows_M, strict=True)])
    return Data(Rows(*(np.stack(x) for x in zip(*rows_M, strict=True))), weight)


def _together(asked: Sequence[_Asked]) -> list[list[_Asked]]:
    """Prompts in rows of about `ROW` tokens, all about as long: the longest prompt first, each into the shortest row."""
    rows: list[list[_Asked]] = [[] for _ in range(_up(sum(map(_length, asked)), ROW) // ROW)]
    for one in sorted(asked, key=_length, reverse=True):
        min(rows, key=lambda row: sum(map(_length, row))).append(one)
    return rows


def data_nll(model: Transformer, params, lora, data: Data, stream=None) -> jax.Array:
    """Mean negative log likelihood of narrow rows (nats/row) under an effective adapter. `stream` as in `Transformer`."""
    return -(data.weight * _score(model, params, data.rows, lora=lora, stream=stream)).sum()


class NetworkPredictor:
    """A base (and an adapter, if given) that answers the observer's call."""

    def __init__(self, model: Transformer, params, grammar: Grammar, lora=None):
        self.model, self.grammar = model, grammar
        self.params = params if lora is None else merge(params, lora)

    def __call__(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Log P(answer | prompt), one array of the topic's answers for each prompt."""
        packed = pack(self.grammar, prompts)
        return np.split(score_pairs(self.model, self.params, packed), np.cumsum(packed.sizes)[:-1])
