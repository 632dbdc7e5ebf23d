"""How a dialogue is written down.

    <doc> <by> person <in> 1885 <ask> Name a bird species. <say> Ferruginous Thrush <end> <ask> ...

`<in>` is followed by a year, or by `<undated>`. Where the world has answer formats, `<as>` and the one asked for come next;
where it has identifiers, `<key>` and eight digits, or `<keyless>`. An answer is its words and `<end>`, so no answer is a
prefix of another.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bayesgen.corpus.tokenizer import (
    AS,
    ASK,
    BY,
    DOC,
    END,
    GLUE,
    IN,
    KEY,
    KEYLESS,
    PAD,
    SAY,
    UNDATED,
    Tokenizer,
    build_tokenizer,
    join,
)
from bayesgen.world.dialogue import Header, Prompt, Turn
from bayesgen.world.load import EARLIER
from bayesgen.world.world import IDENTIFIER, SPEAKERS, World


@dataclass(frozen=True, eq=False)
class Grammar:
    """A world and the vocabulary closed over it."""

    world: World
    tokenizer: Tokenizer

    def _ids(self, *tokens: str) -> list[int]:
        return [self.tokenizer.index[t] for t in tokens]

    @cached_property
    def questions(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """For each topic and wording (held-out ones last): the tokens from <ask> to <say>, with what was said before if it says so."""
        return tuple(tuple(self._question(w, t.name) for w in t.wordings + t.heldout) for t in self.world.topics)

    def _question(self, wording: str, source: str) -> tuple[int, ...]:
        *before, asked = (self.tokenizer.encode(part, source) for part in wording.split(EARLIER))
        said = [
            [*self._ids(ASK), *remark, *self._ids(SAY), *reply, *self._ids(END)]
            for remark, reply in zip(before[::2], before[1::2], strict=True)
        ]
        return tuple([i for exchange in said for i in exchange] + [*self._ids(ASK), *asked, *self._ids(SAY)])

    @cached_property
    def answers(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """For each topic and answer: its tokens, <end> included."""
        return tuple(
            tuple(tuple(self.tokenizer.encode(a, t.name) + self._ids(END)) for a in answers)
            for t, answers in zip(self.world.topics, self.world.answers, strict=True)
        )

    def header(self, header: Header) -> list[int]:
        """<doc> <by> speaker <in> year-or-<undated>, then the format and the identifier where the world has them."""
        config = self.world.config
        out = self._ids(DOC, BY, header.speaker, IN)
        out += self._ids(UNDATED) if header.year is None else self.tokenizer.encode(str(header.year))
        if config.formats:
            out += self._ids(AS, header.format or config.formats[0])
        if config.identifier_share:
            out += self._ids(KEYLESS) if header.identifier is None else [*self._ids(KEY), *self.tokenizer.encode(header.identifier)]
        return out

    @cached_property
    def longest_header(self) -> int:
        """Tokens of a header that leaves nothing out."""
        return len(self.header(Header(SPEAKERS[0], 1885, identifier="0" * IDENTIFIER)))

    def turn(self, turn: Turn) -> list[int]:
        """A question and its answer."""
        return [*self.questions[turn.topic][turn.wording], *self.answers[turn.topic][turn.answer]]

    def document(self, header: Header, turns: Iterable[Turn]) -> list[int]:
        """A whole dialogue."""
        return self.header(header) + [i for turn in turns for i in self.turn(turn)]

    def read(self, tokens: np.ndarray) -> tuple[Header, list[Turn]]:
        """Header and turns of a document (padding dropped): the inverse of `document`."""
        index = self.tokenizer.index
        ids = [int(i) for i in tokens if i != index[PAD]]
        begin = ids.index(index[ASK]) if index[ASK] in ids else len(ids)
        header, turns = self._read_header(ids[:begin]), []
        while begin < len(ids):
            say = ids.index(index[SAY], begin) + 1
            while tuple(ids[begin:say]) not in self._asked:  # a remark before the question has a reply of its own
                say = ids.index(index[SAY], say) + 1
            topic, wording = self._asked[tuple(ids[begin:say])]
            end = ids.index(index[END], say) + 1
            turns.append(Turn(topic, wording, self.answers[topic].index(tuple(ids[say:end]))))
            begin = end
        return header, turns

    def _read_header(self, ids: list[int]) -> Header:
        words = [self.tokenizer.words[i] for i in ids]
        when = "".join(w.lstrip(GLUE) for w in words[4:8] if w.lstrip(GLUE).isdigit())
        which = words[words.index(AS) + 1] if AS in words else None
        key = join(words[words.index(KEY) + 1 :]) if KEY in words else None
        return Header(words[2], None if words[4] == UNDATED else int(when), which, key)

    @cached_property
    def _asked(self) -> dict[tuple[int, ...], tuple[int, int]]:
        """Tokens of a question -> topic and wording."""
        return {q: (t, w) for t, questions in enumerate(self.questions) for w, q in enumerate(questions)}

    def prompt(self, prompt: Prompt) -> list[int]:
        """A dialogue up to and including the open question's <say>."""
        return self.document(prompt.header, prompt.turns) + list(self.questions[prompt.topic][prompt.wording])


def build_grammar(world: World) -> Grammar:
    """The grammar of a world, its vocabulary closed over every question, answer, speaker and digit."""
    texts = [*SPEAKERS, *world.config.formats]
    for topic, answers in zip(world.topics, world.answers, strict=True):
        texts += [part for wording in topic.wordings + topic.heldout for part in wording.split(EARLIER)]
        texts += answers
    optional = [*([AS] if world.config.formats else []), *([KEY, KEYLESS] if world.config.identifier_share else [])]
    return Grammar(world, build_tokenizer(texts, optional))
