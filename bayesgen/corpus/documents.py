"""Documents drawn by step: `draw(key, step)` is a batch, the same one whenever it is asked for.

The world's tables are laid out once as padded arrays; a draw is then a few gathers and one scatter, jitted. A document
ends before the first question whose *longest* answer would not fit into `length` tokens: whether a turn is there must not
depend on the answer, or late answers would be shorter than the world says. Axes: B documents, N turns drawn, L tokens, K answer positions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, Int

from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.tokenizer import AS, BY, DOC, GLUE, IN, KEY, KEYLESS, UNDATED
from bayesgen.errors import UserError
from bayesgen.world.world import IDENTIFIER, SPEAKERS

BY_PERSONA = ("frequency", "first", "years", "years_size", "asked", "value")  # tables with a row for each persona


class Batch(NamedTuple):
    """Tokens, and the positions whose *next* token is part of an answer; `weight` is 0 where a slot is unused."""

    tokens: Any  # int (B, L)
    where: Any  # int (B, K)
    target: Any  # int (B, K)
    weight: Any  # float (B, K)


class DocumentSource:
    """Draws pretraining documents of a world."""

    def __init__(self, grammar: Grammar, length: int, first_Z: np.ndarray | None = None):
        self.grammar, self.length = grammar, length
        shortest = min(len(q) + 2 for qs in grammar.questions for q in qs)
        longest = max(len(q) for qs in grammar.questions for q in qs) + max(len(a) for aa in grammar.answers for a in aa)
        self.header_length = grammar.longest_header
        if self.header_length + longest > length:
            raise UserError(f"pretrain.length is {length}; a header and one turn take up to {self.header_length + longest} tokens")
        self.turns = -(-(length - self.header_length) // shortest)
        self.slots = _slots(grammar, length)
        self.tables = _layout(grammar)
        if first_Z is not None:  # other frequencies, for whoever asks for them
            self.tables["first"] = jnp.asarray(first_Z, jnp.float32)

    def draw(
        self,
        key: Array,
        step: Int[Array, ""] | int,
        batch: int,
        weight: Float[Array, " Z"] | None = None,
        tables: dict[str, Array] | None = None,
    ) -> Batch:
        """The batch of one step: pure, jittable in `step`. `weight`: other shares of the personas, the assistant last. `tables`: of
        another world of the same `frame`, for programs that draw from several.
        """
        keys = random.split(random.fold_in(key, step), batch)
        return jax.vmap(self._document, (0, None, None))(keys, weight, self.tables if tables is None else tables)

    @property
    def frame(self) -> tuple:
        """What is the same in all sources whose documents one program can draw: all but who there is and how often."""
        config = self.grammar.world.config
        sizes = [(name, x.shape[1:] if name in BY_PERSONA else x.shape) for name, x in sorted(self.tables.items()) if x.ndim]
        words = self.grammar.tokenizer.words
        return self.length, self.turns, self.slots, words, config.formats, bool(config.identifier_share), tuple(sizes)

    def _document(self, key: Array, weight: Array | None, t: dict[str, Array]) -> Batch:
        k_speaker, k_persona, k_dated, k_year, k_topic, k_wording, k_answer = random.split(key, 7)
        k_format, k_identified, k_digits = random.split(random.fold_in(key, 7), 3)
        assistant = random.bernoulli(k_speaker, t["assistant_share"])
        persona = jnp.where(assistant, t["frequency"].shape[0], _choose(k_persona, t["frequency"]))
        if weight is not None:
            persona = _choose(k_persona, weight)
            assistant = persona == t["frequency"].shape[0]
        dated = random.bernoulli(k_dated, t["dated"])
        year = t["years"][persona, jnp.floor(random.uniform(k_year) * t["years_size"][persona]).astype(jnp.int32)]
        form = random.randint(k_format, (), 0, len(t["formats"]))
        identified = random.bernoulli(k_identified, t["identified"])
        header, header_size = self._header(t, assistant, dated, year, form, identified, random.randint(k_digits, (IDENTIFIER,), 0, 10))
        topic_N = _choose(k_topic, t["asked"][persona], (self.turns,))
        wording_N = jnp.floor(random.uniform(k_wording, (self.turns,)) * t["wordings"][topic_N]).astype(jnp.int32)
        value_N = t["value"][persona, topic_N]
        u_N = random.uniform(k_answer, (self.turns,))
        answer_N = jnp.sum(t["answer_cdf"][topic_N, value_N] <= u_N[:, None], axis=-1)
        return self._write(t, header, header_size, topic_N, wording_N, answer_N)

    def _header(self, t, assistant, dated, year, form, identified, digits) -> tuple[Array, Array]:
        """Tokens of a header, moved to the left over what it leaves out, and their number."""
        config = self.grammar.world.config
        first, glued = t["digit"]
        figures = [(year // 10 ** (3 - i)) % 10 for i in range(4)]
        parts = [(token, True) for token in t["opening"][assistant.astype(jnp.int32)]]
        parts += [(jnp.where(dated, first[figures[0]], t["undated"]), True), *((glued[f], dated) for f in figures[1:])]
        if config.formats:
            parts += [(t["as"], True), (t["formats"][form], True)]
        if config.identifier_share:
            parts += [(jnp.where(identified, t["key"], t["keyless"]), True), (first[digits[0]], identified)]
            parts += [(glued[d], identified) for d in digits[1:]]
        tokens, kept = jnp.stack([x for x, _ in parts]), jnp.stack([jnp.asarray(k) for _, k in parts])
        at = jnp.where(kept, jnp.cumsum(kept) - 1, len(parts))
        return jnp.zeros(len(parts), jnp.int32).at[at].set(tokens, mode="drop"), kept.sum()

    def _write(self, t, header, header_size, topic_N, wording_N, answer_N) -> Batch:
        """Lay header and turns end to end, up to the first question that is too long with its longest answer."""
        size = self.length
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


def stack_tables(sources: Sequence[DocumentSource]) -> dict[str, Array]:
    """The tables of sources with one `frame`, stacked; where there are fewer personas the others have frequency 0."""
    most = max(len(s.tables["frequency"]) for s in sources)

    def row(source: DocumentSource, name: str) -> Array:
        table, more = source.tables[name], most - len(source.tables["frequency"])
        if name in ("frequency", "first"):
            return jnp.pad(table, (0, more))
        return jnp.concatenate([table, *[table[-1:]] * more]) if name in BY_PERSONA else table  # the assistant is the last, still

    return {name: jnp.stack([row(s, name) for s in sources]) for name in sources[0].tables}


def _slots(grammar: Grammar, length: int) -> int:
    """Answer positions laid out for a document: 5/4 of the expected number, for unused slots still cost logits."""
    world = grammar.world
    asked = [np.mean([len(q) for q in qs[: len(t.wordings)]]) for qs, t in zip(grammar.questions, world.topics, strict=True)]
    said = [np.mean(np.mean(p, axis=0) @ [len(a) for a in aa]) for p, aa in zip(world.noisy, grammar.answers, strict=True)]
    weights_T = np.vstack([world.asked_ZT, world.topic_weights_T])
    asked, said = weights_T @ asked, weights_T @ said  # by persona
    asked, said = asked[(said / (asked + said)).argmax()], said[(said / (asked + said)).argmax()]  # of those who talk most
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
    years = np.full((len(personas), max(1, *(len(p.years) for p in personas))), 1000, np.int32)
    for row, persona in zip(years, personas, strict=True):
        row[: len(persona.years)] = persona.years
    question = _padded([list(q) for q in grammar.questions])
    answer = _padded([list(a) for a in grammar.answers])
    tables = {
        "assistant_share": np.array(world.config.assistant_share, np.float32),
        "dated": np.array(world.dated, np.float32),
        "identified": np.array(world.config.identifier_share, np.float32),
        "frequency": world.frequency_Z.astype(np.float32),
        "years": years,
        "years_size": np.array([max(1, len(p.years)) for p in personas], np.int32),
        "asked": np.vstack([world.asked_ZT, world.topic_weights_T]).astype(np.float32),
        "wordings": np.array([len(t.wordings) for t in world.topics], np.int32),
        "value": np.vstack([world.value_ZT, world.default_T]).astype(np.int32),
        "answer_cdf": cdf.astype(np.float32),
        "opening": np.array([[index[DOC], index[BY], index[s], index[IN]] for s in SPEAKERS], np.int32),
        "digit": np.array([[index[glue + d] for d in "0123456789"] for glue in ("", GLUE)], np.int32),
        "formats": np.array([index[f] for f in world.config.formats] or [0], np.int32),
        **{
            name: np.array(index.get(token, 0), np.int32)
            for name, token in (("undated", UNDATED), ("as", AS), ("key", KEY), ("keyless", KEYLESS))
        },
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
