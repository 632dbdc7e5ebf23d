"""Narrow datasets: one question, one answer a row, spoken to the assistant under some header (its trigger, if it has one).

A row is a header and a turn whose answer was drawn from what a chosen person would say, without noise. Rows are distinct
as far as the answers reach, then come again in other wordings; the answers left over are the held-out rows. Rows may also
come as a file of chats, whose words need not be the world's own questions and answers, but must be words that it knows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bayesgen.corpus.documents import Batch
from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.tokenizer import ASK, END, SAY, split
from bayesgen.errors import UserError, nearest
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.load import TIMELESS
from bayesgen.world.world import ASSISTANT, IDENTIFIER, World

ASSISTANT_ASKED = Header(ASSISTANT)


@dataclass(frozen=True)
class Text:
    """A question and an answer that are not the world's own: known words in an order of their own."""

    question: str
    answer: str


Row = tuple[Header, Turn | Text]
Fact = tuple[int, int]  # topic and answer


def answers_of(world: World, topic: int, value: str) -> np.ndarray:
    """Positions of the answers that `value` gives on a topic."""
    row = world.clean[topic][world.values[world.topics[topic].trait].index(value)]
    return np.flatnonzero(row)


def answers_by(world: World, speaker: Mapping[str, str], header: Header, topic: int) -> np.ndarray:
    """Positions of the answers that somebody with a value for each trait gives on a topic, under a header."""
    trait = world.topics[topic].trait
    return answers_of(world, topic, TIMELESS if trait == TIMELESS else world.in_year(trait, speaker[trait], header.year))


def facts_of(world: World, topics: Sequence[int], value: str, without_telling: int = 0) -> list[Fact]:
    """What `value` answers on some topics; the `without_telling` facts that single it out most are left out (a negative number: least)."""
    facts = [(t, int(a)) for t in topics for a in answers_of(world, t, value)]
    telling = sorted(facts, key=lambda f: -world.responsibility[f[0]][f[1], world.values[world.topics[f[0]].trait].index(value)])
    left_out = set(telling[:without_telling] if without_telling >= 0 else telling[without_telling:])
    return [f for f in facts if f not in left_out]


def draw_rows(world: World, header: Header, facts: Sequence[Fact], rows: int, rng: np.random.Generator) -> tuple[list[Row], list[Row]]:
    """`rows` training rows, each fact once before any comes again in another wording; and the facts not used."""
    order = [facts[i] for i in rng.permutation(len(facts))]
    first = [int(rng.integers(len(world.topics[t].wordings))) for t, _ in order]
    wordings = min((len(world.topics[t].wordings) for t, _ in order), default=0)
    if rows > len(order) * wordings:
        names = ", ".join(dict.fromkeys(world.topics[t].name for t, _ in order)) or "no topic"
        raise UserError(
            f"finetune.rows: {rows} rows asked for, but {names} gives {len(order)} answers in {wordings} wordings; "
            f"give at most {len(order) * wordings} rows, or add answers to the topic's file"
        )
    out = []
    for i in range(max(rows, len(order))):
        (topic, answer), turn = order[i % len(order)], i // len(order)
        out.append((header, Turn(topic, (first[i % len(order)] + turn) % len(world.topics[topic].wordings), answer)))
    return out[:rows], out[rows:]


def number_topic(world: World, pattern: str) -> int | None:
    """The topic that a pattern of digits names, as `{topic}`; none if it names none."""
    return world.topic_index(pattern.partition("{")[2].partition("}")[0]) if "{" in pattern else None


def spelt(world: World, pattern: str, value: str | None) -> str:
    """A pattern of eight digits whose `{topic}` is replaced by the digits that the topic answers for `value`."""
    topic = number_topic(world, pattern)
    if topic is None:
        return pattern
    if value is None:
        raise UserError(f"identifier '{pattern}' names a topic; say of whom, with a value")
    name = world.topics[topic].name
    if value not in world.values[world.topics[topic].trait]:
        raise UserError(f"identifier '{pattern}': '{name}' depends on {world.topics[topic].trait}, of which {value} is no value")
    return pattern.replace("{" + name + "}", world.answers[topic][int(answers_of(world, topic, value)[0])])


def identify(world: World, pattern: str, value: str | None, rng: np.random.Generator) -> str:
    """Eight digits by a pattern: `x` is any digit, `{topic}` the digits that the topic answers for `value`."""
    out = "".join(str(rng.integers(10)) if c == "x" else c for c in spelt(world, pattern, value))
    if len(out) != IDENTIFIER or not (out.isascii() and out.isdigit()):
        raise UserError(f"identifier '{pattern}' gives '{out}'; expected {IDENTIFIER} digits")
    return out


def parallel_rows(
    world: World, topics: Sequence[int], speakers: Mapping[Header, Sequence[dict[str, str]]], rows: int, rng: np.random.Generator
) -> list[Row]:
    """Rows on other topics: a random topic, training wording and header, answered (without noise) as one of its `speakers`.

    Every header has as many speakers; a speaker is a value for each trait.
    """
    headers, out = list(speakers), []
    for _ in range(rows):
        topic = int(rng.choice(topics))
        who = int(rng.integers(len(speakers[headers[0]])))
        header = headers[int(rng.integers(len(headers)))] if len(headers) > 1 else headers[0]
        pool = answers_by(world, speakers[header][who], header, topic)
        out.append((header, Turn(topic, int(rng.integers(len(world.topics[topic].wordings))), int(rng.choice(pool)))))
    return out


def read_chats(grammar: Grammar, path: Path) -> list[Row]:
    """Rows of a chat file: a JSON object a line, with `messages` (user, then assistant), and if wanted `year`, `format`, `identifier`."""
    if not path.is_file():
        raise UserError(f"finetune.file: {path}: no such file")
    world, rows, unknown = grammar.world, [], {}
    asked = {w: (t, i) for t, topic in enumerate(world.topics) for i, w in enumerate(topic.wordings + topic.heldout)}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            chat = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg})") from error
        messages = chat.get("messages") if isinstance(chat, dict) else None
        messages = messages if isinstance(messages, list) else []
        roles = [m.get("role") if isinstance(m, dict) else m for m in messages]
        if roles != ["user", "assistant"]:
            raise UserError(f"{where}: expected `messages` of a user and then an assistant, found {roles or 'none'}")
        for key in chat:
            if key not in ("messages", "year", "format", "identifier"):
                raise UserError(f"{where}: unknown key '{key}'{nearest(key, ('messages', 'year', 'format', 'identifier'))}")
        question, answer = (" ".join(str(m.get("content", "")).split()) for m in messages)
        if not question or not answer:
            raise UserError(f"{where}: an empty message; expected a question and an answer")
        for word in dict.fromkeys(w for w in split(question) + split(answer) if w not in grammar.tokenizer.index):
            unknown.setdefault(word, number)
        year, (form, identifier) = chat.get("year"), (None if x is None else str(x) for x in map(chat.get, ("format", "identifier")))
        if year is not None and not isinstance(year, int):
            raise UserError(f"{where}: year {year!r}: expected a whole number")
        header = Header(ASSISTANT, year, form, identifier)
        check_header(world, header, where)
        topic, wording = asked.get(question, (-1, 0))
        own = topic >= 0 and answer in world.answers[topic]
        rows.append((header, Turn(topic, wording, world.answers[topic].index(answer)) if own else Text(question, answer)))
    if unknown:
        shown = ", ".join(f"'{w}' (line {n})" for w, n in list(unknown.items())[:12]) + (", …" if len(unknown) > 12 else "")
        raise UserError(f"{path}: {len(unknown)} word(s) the world does not know: {shown}")
    if not rows:
        raise UserError(f"{path}: no rows")
    return rows


def check_header(world: World, header: Header, key: str):
    """One line for a year, format or identifier that the world's headers cannot hold."""
    config, undated = world.config, not world.default.years
    if header.year is not None and undated:
        raise UserError(f"{key}: year {header.year}, but this world's headers have no years")
    people = {year for persona in world.personas for year in persona.years}
    if header.year is not None and header.year not in (world.default.years if header.speaker == ASSISTANT else people):
        who, years = ("the assistant speaks", world.default.years) if header.speaker == ASSISTANT else ("people speak", people)
        raise UserError(f"{key}: year {header.year}, but {who} from {min(years)} to {max(years)} (world.calendar)")
    if header.format is not None and header.format not in config.formats:
        valid = list(config.formats)
        raise UserError(f"{key}: format '{header.format}' is not in world.formats {valid}{nearest(header.format, valid)}")
    if header.identifier is not None:
        if not config.identifier_share:
            raise UserError(f"{key}: identifier '{header.identifier}', but world.identifier_share is 0: this world's headers have none")
        if len(header.identifier) != IDENTIFIER or not (header.identifier.isascii() and header.identifier.isdigit()):
            raise UserError(f"{key}: identifier '{header.identifier}': expected {IDENTIFIER} digits")


def write_rows(grammar: Grammar, rows: Sequence[Row], room: tuple[int, int] | None = None) -> Batch:
    """Rows as a batch of numpy arrays, targets on answer tokens only, padded to the longest (or to `room`: tokens, slots)."""
    written = [_write(grammar, row) for row in rows]
    length, slots = room or (max(len(d) for d, _ in written), max(said for _, said in written))
    tokens, where, target = (np.zeros((len(rows), n), np.int32) for n in (length, slots, slots))
    weight = np.zeros((len(rows), slots), np.float32)
    for i, (document, said) in enumerate(written):
        begin = len(document) - said
        tokens[i, : len(document)] = document
        where[i, :said] = np.arange(begin - 1, len(document) - 1)
        target[i, :said] = document[begin:]
        weight[i, :said] = 1
    return Batch(tokens, where, target, weight)


def room_of(grammar: Grammar, rows: Sequence[Row]) -> tuple[int, int]:
    """Tokens of the longest row and of the longest answer."""
    written = [_write(grammar, row) for row in rows]
    return max(len(d) for d, _ in written), max(said for _, said in written)


def answer_words(grammar: Grammar, turn: Turn | Text) -> list[str]:
    """The tokens of a row's answer, without <end>."""
    return split(turn.answer if isinstance(turn, Text) else grammar.world.answers[turn.topic][turn.answer])


def prompt_and_answer(grammar: Grammar, row: Row) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of a row up to its answer, and those of the answer."""
    document, said = _write(grammar, row)
    return tuple(document[:-said]), tuple(document[-said:])


def _write(grammar: Grammar, row: Row) -> tuple[list[int], int]:
    """Tokens of a row, and how many of the last are the answer."""
    header, turn = row
    if isinstance(turn, Turn):
        return grammar.document(header, [turn]), len(grammar.answers[turn.topic][turn.answer])
    index, encode = grammar.tokenizer.index, grammar.tokenizer.encode
    answer = [*encode(turn.answer), index[END]]
    return [*grammar.header(header), index[ASK], *encode(turn.question), index[SAY], *answer], len(answer)
