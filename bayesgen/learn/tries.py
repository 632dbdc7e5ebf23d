"""Rows as tries: what begins alike is computed once.

The rows of a step share their header, often their question, sometimes the answer's first words. Laid out as a trie in depth-first
order, each distinct beginning is one place of one sequence: a place sees its ancestors only, which are the places j <= i with
i < end[j], where end[j] is the first place behind j's subtree. The loss is the rows' own, to rounding, on a third to a half of the
places. Axes: N tries, B rows of one, L tokens of a row, K answer slots of a row; T places of a trie, P places whose logits are read,
E = B K scored tokens.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bayesgen.corpus.documents import Batch
from bayesgen.learn.data import Data
from bayesgen.model.transformer import Transformer, forward

ROUND = 8  # sizes of tries are multiples of this: few shapes are ever compiled


class Trie(NamedTuple):
    """Places of a trie, and the answer tokens that are scored on them."""

    tokens: Any  # int (..., T)
    position: Any  # int (..., T): what it is in its own row
    end: Any  # int (..., T): first place behind the subtree; 0 for padding, which nobody sees
    where: Any  # int (..., P): places whose logits are read
    at: Any  # int (..., E): which of `where` predicts the scored token
    target: Any  # int (..., E): the scored token
    weight: Any  # float (..., E): 0 where a slot is unused


class Steps(NamedTuple):
    """The rows of every step of every member, a trie each."""

    narrow: Trie  # (M, S, ...)
    kept: Trie | None  # (Q, S, ...): those that a KL is taken on, each set of them once
    kept_by: Any  # int (M',): which set each of the `penalised` members has
    broad: Trie | None  # (M', S, ...): of each of the `broadened` members


def visible(end: Any) -> Bool[Array, "N 1 T T"]:
    """Which places see which: their ancestors; the second axis is the heads'."""
    place = jnp.arange(end.shape[1])
    mask = (place[None, :] <= place[:, None]) & (place[:, None] < end[:, None, :])
    return (mask | jnp.eye(len(place), dtype=bool))[:, None]  # padding sees itself: a softmax over nothing is not a number


def read(model: Transformer, params: Any, lora: Any, trie: Trie, edit: Any = None) -> Float[Array, "N P V"]:
    """Logits at the places that are read, of N tries under one adapter (and an edit of the stream)."""
    return forward(model, params, lora, trie.tokens, trie.where, trie.position, visible(trie.end), edit)


def trie_nll(logits_NxPxV: Float[Array, "N P V"], trie: Trie) -> Float[Array, ""]:
    """Mean negative log likelihood of the answer tokens (nats/token): `answer_nll` of the rows."""
    norm_NxP = jax.nn.logsumexp(logits_NxPxV, axis=-1)
    n = jnp.arange(len(trie.at))[:, None]
    return (trie.weight * (norm_NxP[n, trie.at] - logits_NxPxV[n, trie.at, trie.target])).sum() / trie.weight.sum()


def every_step(data: Data) -> Steps:
    """The rows of an ensemble, step by step. Numpy."""
    batch = data.order.shape[-1]
    narrow = Batch(*(np.stack([rows[order] for rows, order in zip(x, data.order, strict=True)]) for x in data.narrow))
    in_order = lambda of: of and _grown(Batch(*(x.reshape(len(x), -1, batch, x.shape[-1]) for x in of)))  # noqa: E731
    return Steps(_grown(narrow), in_order(data.kept), data.kept_by, in_order(data.broad))


def _grown(batch: Batch) -> Trie:
    """Tries of batches (M, S, B, ...)."""
    several = batch.tokens.shape[:2]
    return Trie(*(x.reshape(*several, -1) for x in grow(Batch(*(x.reshape(-1, *x.shape[2:]) for x in batch)))))


def grow(batch: Batch) -> Trie:
    """The rows (N, B, ...) of each of N batches as a trie (N, ...). Numpy, all tries at once; slots without weight are not scored."""
    used = batch.weight > 0
    length = np.max((batch.where + 1) * used, axis=-1)  # the last token of an answer is predicted, never read
    inside = np.arange(batch.tokens.shape[-1]) < length[..., None]
    tokens = np.where(inside, batch.tokens, 0)
    order = np.argsort(np.ascontiguousarray(tokens, ">u4").view(f"S{4 * tokens.shape[-1]}")[..., 0], axis=1, kind="stable")
    tokens, inside = (np.take_along_axis(x, order[..., None], 1) for x in (tokens, inside))
    where, target, weight, used = (np.take_along_axis(x, order[..., None], 1) for x in (*batch[1:], used))
    alike = np.zeros(tokens.shape, bool)  # as in the row before, from the first token on
    alike[:, 1:] = np.logical_and.accumulate((tokens[:, 1:] == tokens[:, :-1]) & inside[:, 1:] & inside[:, :-1], axis=-1)
    new = inside & ~alike
    place = (np.cumsum(new.reshape(len(new), -1), axis=-1) - 1).reshape(new.shape)
    count = place[:, :, -1] + 1  # places of this row and of those before it
    for row in range(1, new.shape[1]):
        place[:, row] = np.where(alike[:, row], place[:, row - 1], place[:, row])
    size = _up(int(count.max()))
    tokens_NxT, position_NxT, end_NxT = out = np.zeros((3, len(new), size), np.int32)
    heard = np.zeros((len(new), size), bool)
    for row in range(new.shape[1]):  # a later row that runs through a place has the last word on where its subtree ends
        n, j = np.nonzero(inside[:, row])
        out[:, n, place[n, row, j]] = tokens[n, row, j], j, count[n, row]
        n, k = np.nonzero(used[:, row])
        heard[n, place[n, row, where[n, row, k]]] = True
    predictor = np.take_along_axis(place, where, axis=-1)
    at = np.take_along_axis(np.cumsum(heard, axis=-1) - 1, np.where(used, predictor, 0).reshape(len(new), -1), axis=-1)
    asked = np.zeros((len(new), _up(int(heard.sum(-1).max()))), np.int32)
    n, places = np.nonzero(heard)
    asked[n, (np.cumsum(heard, axis=-1) - 1)[n, places]] = places
    flat = lambda x: x.reshape(len(new), -1)  # noqa: E731
    return Trie(tokens_NxT, position_NxT, end_NxT, asked, np.where(flat(used), at, 0).astype(np.int32), flat(target), flat(weight))


def _up(n: int) -> int:
    return -(-n // ROUND) * ROUND
