"""The network as a predictor: exact log P(answer | prompt) over a topic's finite answer set, by teacher forcing.

All answers of a prompt are scored in one pass. The prompt stands once; behind it stands the tree of the answers' beginnings
in depth-first order, so that answers which begin alike share their tokens. A token sees its ancestors: with `end[j]` the
first place behind j's subtree, i sees j if j <= i < end[j] (the prompt's subtree is the whole row). Large trees are cut into
rows. Same call as `world.observer.Observer`: a batch of prompts -> arrays of log-probabilities.

Axes: R rows, L tokens of a row, K places whose logits are read, E scored answer tokens, M members of an ensemble.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesgen.corpus.grammar import Grammar
from bayesgen.model.lora import merge
from bayesgen.model.transformer import Transformer, forward
from bayesgen.world.dialogue import Prompt

TREE = 96  # tokens of answers in one row
ROWS = 32  # rows in one compiled call


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


class _Row:
    """A row as it grows: answers must come sorted, so that those which begin alike are neighbours."""

    def __init__(self, prefix: list[int]):
        self.prefix, self.path = len(prefix), []  # path: (token, place) from the prompt to the last node
        self.tokens, self.position = list(prefix), list(range(len(prefix)))
        self.end: list[int] = [-1] * len(prefix)
        self.at: list[int] = []
        self.target: list[int] = []
        self.pair: list[int] = []

    def shared(self, answer: Sequence[int]) -> int:
        """Tokens that the answer's beginning has in common with the current path."""
        n = 0
        while n < min(len(self.path), len(answer) - 1) and self.path[n][0] == answer[n]:
            n += 1
        return n

    def fits(self, answer: Sequence[int]) -> bool:
        return len(self.tokens) - self.prefix + len(answer) - 1 - self.shared(answer) <= TREE

    def add(self, answer: Sequence[int], pair: int):
        for token in answer[self.leave(self.shared(answer)) : -1]:
            self.path.append((token, len(self.tokens)))
            self.tokens.append(token)
            self.position.append(self.prefix + len(self.path) - 1)
            self.end.append(-1)
        self.at += [0, *(place - self.prefix + 1 for _, place in self.path)]
        self.target += answer
        self.pair += [pair] * len(answer)

    def leave(self, depth: int) -> int:
        """Shorten the path to `depth`: the subtrees left are complete."""
        while len(self.path) > depth:
            self.end[self.path.pop()[1]] = len(self.tokens)
        return depth

    def close(self) -> "_Row":
        self.leave(0)
        self.end[: self.prefix] = [len(self.tokens)] * self.prefix
        return self


def pack(grammar: Grammar, prompts: Sequence[Prompt]) -> Packed:
    """Lay out prompts and all their answers."""
    rows: list[_Row] = []
    pair, sizes = 0, []
    for prompt in prompts:
        answers = grammar.answers[prompt.topic]
        row = _Row(grammar.prompt(prompt))
        for i in sorted(range(len(answers)), key=answers.__getitem__):
            if not row.fits(answers[i]) and row.target:
                rows.append(row.close())
                row = _Row(grammar.prompt(prompt))
            row.add(answers[i], pair + i)
        rows.append(row.close())
        sizes.append(len(answers))
        pair += len(answers)
    rows.sort(key=lambda r: len(r.tokens))
    return Packed(tuple(_block(rows[i : i + ROWS]) for i in range(0, len(rows), ROWS)), tuple(sizes))


def _block(rows: list[_Row]) -> Rows:
    """Rows as arrays, padded to multiples of 32 so that few shapes are ever compiled."""
    length, scored = (-(-max(map(len, x)) // 32) * 32 for x in ([r.tokens for r in rows], [r.target for r in rows]))
    read = min(length, -(-max(len(r.tokens) - r.prefix + 1 for r in rows) // 32) * 32)
    tokens, position, end = (np.zeros((ROWS, length), np.int32) for _ in range(3))
    where = np.zeros((ROWS, read), np.int32)
    at, target, pair = (np.full((ROWS, scored), fill, np.int32) for fill in (0, 0, -1))
    for i, r in enumerate(rows):
        for array, values in ((tokens, r.tokens), (position, r.position), (end, r.end), (at, r.at), (target, r.target), (pair, r.pair)):
            array[i, : len(values)] = values
        nodes = np.arange(r.prefix - 1, len(r.tokens))
        where[i, : len(nodes)] = nodes
    return Rows(tokens, position, end, where, at, target, pair)


def _score(model: Transformer, params, rows: Rows, edit=None) -> jax.Array:
    """Log P(target | what its predecessor sees): (R, E)."""
    place = jnp.arange(rows.tokens.shape[1])
    mask = (place[None, :] <= place[:, None]) & (place[:, None] < rows.end[:, None, :])
    mask |= jnp.eye(len(place), dtype=bool)  # padding sees itself: a softmax over nothing is not a number
    logits_RxKxV = forward(model, params, None, rows.tokens, rows.where, rows.position, mask[:, None], edit)
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


class NetworkPredictor:
    """A base (and an adapter, if given) that answers the observer's call."""

    def __init__(self, model: Transformer, params, grammar: Grammar, lora=None):
        self.model, self.grammar = model, grammar
        self.params = params if lora is None else merge(params, lora)

    def __call__(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Log P(answer | prompt), one array of the topic's answers for each prompt."""
        packed = pack(self.grammar, prompts)
        return np.split(score_pairs(self.model, self.params, packed), np.cumsum(packed.sizes)[:-1])
