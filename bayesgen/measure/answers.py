"""The network as a predictor: exact log P(answer | prompt) over a topic's finite answer set, by teacher forcing.

All answers of a prompt are scored in one pass: the prompt once, then every answer's tokens behind it, under a mask that
lets an answer see the prompt and itself only, at the positions it would have had alone. Long answer sets are cut into
rows. Same call as `world.observer.Observer`: a batch of prompts -> arrays of log-probabilities.

Axes: R rows, L tokens of a row, K scored positions of a row, M members of an ensemble.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bayesgen.corpus.grammar import Grammar
from bayesgen.model.transformer import Transformer, forward
from bayesgen.world.dialogue import Prompt

SUFFIX = 96  # tokens of answers in one row
ROWS = 32  # rows in one compiled call


@dataclass(frozen=True)
class Packed:
    """Prompts with their answers, laid out in rows of one length."""

    tokens: np.ndarray  # R L
    position: np.ndarray  # R L
    group: np.ndarray  # R L: 0 the prompt, i > 0 the i-th answer of the row, -1 padding
    where: np.ndarray  # R K: where the logits are read
    target: np.ndarray  # R K: the token scored there
    answer: np.ndarray  # R K: which (prompt, answer) pair it belongs to, in order; -1 unused
    sizes: tuple[int, ...]  # answers of each prompt


def pack(grammar: Grammar, prompts: Sequence[Prompt]) -> Packed:
    """Lay out prompts and all their answers. Rows are sorted by nothing: order follows the prompts."""
    rows: list[tuple[list[int], ...]] = []
    sizes: list[int] = []
    pair = 0
    for prompt in prompts:
        prefix, answers = grammar.prompt(prompt), grammar.answers[prompt.topic]
        sizes.append(len(answers))
        todo = list(enumerate(answers))
        while todo:
            tokens, position, group = list(prefix), list(range(len(prefix))), [0] * len(prefix)
            where, target, owner = [], [], []
            while todo and len(tokens) - len(prefix) + len(todo[0][1]) - 1 <= SUFFIX:
                i, answer = todo.pop(0)
                places = [len(prefix) - 1, *range(len(tokens), len(tokens) + len(answer) - 1)]
                tokens += answer[:-1]
                position += range(len(prefix), len(prefix) + len(answer) - 1)
                group += [max(group) + 1] * (len(answer) - 1)
                where += places
                target += answer
                owner += [pair + i] * len(answer)
            rows.append((tokens, position, group, where, target, owner))
        pair += len(answers)
    longest, most = (_round_up(max(len(r[i]) for r in rows), 16) for i in (0, 3))
    fill = ((0, longest), (0, longest), (-1, longest), (0, most), (0, most), (-1, most))
    arrays = [np.array([r[i] + [f] * (n - len(r[i])) for r in rows], np.int32) for i, (f, n) in enumerate(fill)]
    tokens, position, group, where, target, answer = arrays
    return Packed(tokens, position, group, where, target, answer, tuple(sizes))


def _round_up(n: int, to: int) -> int:
    return -(-n // to) * to


def _score(model: Transformer, params, lora, tokens, position, group, where, target) -> jax.Array:
    """Log P(target | what it may see) at `where`: (R, K)."""
    L = tokens.shape[1]
    own = group[:, :, None] == group[:, None, :]
    mask = (own | (group[:, None, :] == 0)) & jnp.tril(jnp.ones((L, L), bool))
    logits = forward(model, params, lora, tokens, where, position, mask[:, None])
    hit = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
    return hit - jax.nn.logsumexp(logits, axis=-1)


_score_base = jax.jit(_score, static_argnums=0)
_score_members = jax.jit(jax.vmap(_score, in_axes=(None, None, 0, None, None, None, None, None)), static_argnums=0)


def score_pairs(model: Transformer, params, packed: Packed, lora_M=None) -> np.ndarray:
    """Log P of every (prompt, answer) pair, flat in order: (pairs,), or (M, pairs) for a stack of adapters."""
    rows = (packed.tokens, packed.position, packed.group, packed.where, packed.target)
    pieces = []
    for start in range(0, len(packed.tokens), ROWS):
        piece = [np.pad(r[start : start + ROWS], ((0, max(0, start + ROWS - len(r))), (0, 0))) for r in rows]
        if lora_M is None:
            pieces.append(_score_base(model, params, None, *piece))
        else:
            pieces.append(_score_members(model, params, lora_M, *piece))
    logp = np.concatenate([np.asarray(p) for p in jax.device_get(pieces)], axis=-2)[..., : len(packed.tokens), :]
    flat, owner = logp.reshape(*logp.shape[:-2], -1).astype(np.float64), packed.answer.reshape(-1)
    out = np.zeros((*flat.shape[:-1], sum(packed.sizes)))
    used = owner >= 0
    for pairs, scores in zip(out.reshape(-1, out.shape[-1]), flat.reshape(-1, flat.shape[-1]), strict=True):
        pairs += np.bincount(owner[used], weights=scores[used], minlength=len(pairs))
    return out


class NetworkPredictor:
    """A base (and an adapter, if given) that answers the observer's call."""

    def __init__(self, model: Transformer, params, grammar: Grammar, lora=None):
        self.model, self.params, self.grammar = model, params, grammar
        self.lora_M = None if lora is None else jax.tree.map(lambda x: x[None], lora)

    def __call__(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Log P(answer | prompt), one array of the topic's answers for each prompt."""
        packed = pack(self.grammar, prompts)
        flat = score_pairs(self.model, self.params, packed, self.lora_M)
        return np.split(flat.reshape(-1), np.cumsum(packed.sizes)[:-1])
