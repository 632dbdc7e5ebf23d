"""Documents drawn by step: `draw(key, step)` is a batch, the same one whenever it is asked for.

The world's tables are laid out once as padded arrays; a draw is then a few gathers and one scatter, jitted. A document
ends before the first question whose *longest* answer would not fit into `length` tokens: whether a turn is there must not
depend on the answer, or late answers would be shorter than the world says. Axes: B documents, N turns drawn, L tokens, K answer positions.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Int

from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.tokenizer import BY, DOC, IN, UNDATED
from bayesgen.errors import UserError
from bayesgen.world.dialogue import Header
from bayesgen.world.world import SPEAKERS


class Batch(NamedTuple):
    """Tokens, and the positions whose *next* token is part of an answer; `weight` is 0 where a slot is unused."""

    tokens: Any  # int (B, L)
    where: Any  # int (B, K)
    target: Any  # int (B, K)
    weight: Any  # float (B, K)


class DocumentSource:
    """Draws pretraining documents of a world."""

    def __init__(self, grammar: Grammar, length: int):
        self.grammar, self.length = grammar, length
        world = grammar.world
        shortest = min(len(q) + 2 for qs in grammar.questions for q in qs)
        longest = max(len(q) for qs in grammar.questions for q in qs) + max(len(a) for aa in grammar.answers for a in aa)
        self.header_length = len(grammar.header(Header(SPEAKERS[0], 1885)))
        if self.header_length + longest > length:
            raise UserError(f"pretrain.length is {length}; a header and one turn take up to {self.header_length + longest} tokens")
        self.turns = -(-(length - self.header_length) // shortest)
        self.slots = _slots(grammar, length)
        self._tables = _layout(grammar)
        self._share = world.config.assistant_share
        self._dated = world.config.dated_share if world.dated_trait else 0.0

    def draw(self, key: Array, step: Int[Array, ""] | int, batch: int) -> Batch:
        """The batch of one step: pure, jittable in `step`."""
        keys = random.split(random.fold_in(key, step), batch)
        return jax.vmap(self._document)(keys)

    def _document(self, key: Array) -> Batch:
        t = self._tables
        k_speaker, k_persona, k_dated, k_year, k_topic, k_wording, k_answer = random.split(key, 7)
        assistant = random.bernoulli(k_speaker, self._share)
        persona = jnp.where(assistant, t["frequency"].shape[0], _choose(k_persona, t["frequency"]))
        dated = random.bernoulli(k_dated, self._dated)
        first, last = t["years"][persona]
        year = first + jnp.floor(random.uniform(k_year) * (last - first + 1)).astype(jnp.int32)
        topic_N = _choose(k_topic, t["topic_weight"], (self.turns,))
        wording_N = jnp.floor(random.uniform(k_wording, (self.turns,)) * t["wordings"][topic_N]).astype(jnp.int32)
        value_N = t["value"][persona, topic_N]
        u_N = random.uniform(k_answer, (self.turns,))
        answer_N = jnp.sum(t["answer_cdf"][topic_N, value_N] <= u_N[:, None], axis=-1)
        return self._write(assistant, dated, year, topic_N, wording_N, answer_N)

    def _write(self, assistant, dated, year, topic_N, wording_N, answer_N) -> Batch:
        """Lay header and turns end to end, up to the first question that is too long with its longest answer."""
        t, size = self._tables, self.length
        digits = jnp.array([t["digit"][i][(year // 10 ** (3 - i)) % 10] for i in range(4)])
        undated = jnp.zeros(4, jnp.int32).at[0].set(t["undated"])
        header = jnp.concatenate([t["opening"][assistant.astype(jnp.int32)], jnp.where(dated, digits, undated)])
        header_size = t["opening"].shape[1] + jnp.where(dated, 4, 1)
        question_NxQ, asked_N = t["question"][topic_N, wording_N], t["question_size"][topic_N, wording_N]
        answer_NxA, said_N = t["answer"][topic_N, answer_N], t["answer_size"][topic_N, answer_N]
        begin_N = header_size + jnp.cumsum(asked_N + said_N) - asked_N - said_N
        before_N, longest_N = jnp.cumsum(said_N) - said_N, t["answer_longest"][topic_N]
        fits_N = (begin_N + asked_N + longest_N <= size) & (before_N + longest_N <= self.slots)
        fits_N = jnp.cumprod(fits_N).astype(bool)  # nothing follows the first that is too long
        tokens = jnp.zeros(size, jnp.int32).at[jnp.arange(header.shape[0])].set(header)  # <pad> is token 0
        question_at = begin_N[:, None] + jnp.arange(question_NxQ.shape[1])
        used = (jnp.arange(question_NxQ.shape[1]) < asked_N[:, None]) & fits_N[:, None]
        tokens = tokens.at[jnp.where(used, question_at, size)].set(question_NxQ, mode="drop")
        said_at = (begin_N + asked_N)[:, None] + jnp.arange(answer_NxA.shape[1])
        used = (jnp.arange(answer_NxA.shape[1]) < said_N[:, None]) & fits_N[:, None]
        tokens = tokens.at[jnp.where(used, said_at, size)].set(answer_NxA, mode="drop")
        answered = jnp.zeros(size, bool).at[jnp.where(used, said_at, size)].set(True, mode="drop")
        target_at = jnp.nonzero(answered, size=self.slots, fill_value=0)[0]
        weight = (jnp.arange(self.slots) < answered.sum()).astype(jnp.float32)
        where = jnp.maximum(target_at - 1, 0)
        return Batch(tokens, where, tokens[target_at], weight)


def _slots(grammar: Grammar, length: int) -> int:
    """Answer positions laid out for a document: 5/4 of the expected number, for unused slots still cost logits."""
    world = grammar.world
    asked = [np.mean([len(q) for q in qs[: len(t.wordings)]]) for qs, t in zip(grammar.questions, world.topics, strict=True)]
    said = [np.mean(np.mean(p, axis=0) @ [len(a) for a in aa]) for p, aa in zip(world.noisy, grammar.answers, strict=True)]
    asked, said = world.topic_weights_T @ asked, world.topic_weights_T @ said
    longest = max(len(a) for aa in grammar.answers for a in aa)
    return min(length, max(longest, int(np.ceil(1.25 * length * said / (asked + said)))))


def _choose(key: Array, probability: Array, shape: tuple[int, ...] = ()) -> Array:
    """Index drawn from a distribution, by its cumulative sum."""
    cdf = jnp.cumsum(probability)
    u = random.uniform(key, shape) * cdf[-1]
    return jnp.minimum(jnp.sum(cdf <= u[..., None], axis=-1), probability.shape[0] - 1)


def _layout(grammar: Grammar) -> dict[str, Array]:
    """The world's tables as padded arrays; the assistant is persona Z (the last)."""
    world, index = grammar.world, grammar.tokenizer.index
    topics = len(world.topics)
    sizes = [len(a) for a in world.answers]
    values = max(len(world.values[t.trait]) for t in world.topics)
    cdf = np.ones((topics, values, max(sizes)))
    for i, table in enumerate(world.noisy):
        cumulative = np.cumsum(table, axis=1)
        cumulative[:, -1] = 1.0
        cdf[i, : table.shape[0], : table.shape[1]] = cumulative
    personas = (*world.personas, world.default)
    dated = world.dated_trait
    spans = [world.years[dated][p.traits[dated]] if dated else None for p in personas]
    years = [(y.first, y.last) if y else (1000, 1000) for y in spans]
    question = _padded([list(q) for q in grammar.questions])
    answer = _padded([list(a) for a in grammar.answers])
    tables = {
        "frequency": world.frequency_Z.astype(np.float32),
        "years": np.array(years, np.int32),
        "topic_weight": world.topic_weights_T.astype(np.float32),
        "wordings": np.array([len(t.wordings) for t in world.topics], np.int32),
        "value": np.vstack([world.value_ZT, world.default_T]).astype(np.int32),
        "answer_cdf": cdf.astype(np.float32),
        "opening": np.array([[index[DOC], index[BY], index[s], index[IN]] for s in SPEAKERS], np.int32),
        "digit": np.array([[index[d if i == 0 else "~" + d] for d in "0123456789"] for i in range(4)], np.int32),
        "undated": np.array(index[UNDATED], np.int32),
        "question": question,
        "question_size": _sizes(grammar.questions, question.shape[1]),
        "answer": answer,
        "answer_size": _sizes(grammar.answers, answer.shape[1]),
        "answer_longest": np.array([max(map(len, aa)) for aa in grammar.answers], np.int32),
    }
    return {name: jnp.asarray(table) for name, table in tables.items()}


def _padded(groups) -> np.ndarray:
    """Ragged (topic, item, token) to a zero-padded array."""
    items, tokens = max(len(g) for g in groups), max(len(s) for g in groups for s in g)
    out = np.zeros((len(groups), items, tokens), np.int32)
    for i, group in enumerate(groups):
        for j, sequence in enumerate(group):
            out[i, j, : len(sequence)] = sequence
    return out


def _sizes(groups, items: int) -> np.ndarray:
    out = np.zeros((len(groups), items), np.int32)
    for i, group in enumerate(groups):
        out[i, : len(group)] = [len(s) for s in group]
    return out
