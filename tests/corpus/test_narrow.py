"""Rows: which facts, in which words, under which headers; and rows that come as a file of chats."""

import json
from collections import Counter

import numpy as np
import pytest

from bayesgen.corpus.grammar import build_grammar
from bayesgen.corpus.narrow import (
    Text,
    answer_words,
    answers_of,
    draw_rows,
    facts_of,
    identify,
    parallel_rows,
    read_chats,
    room_of,
    write_rows,
)
from bayesgen.errors import UserError
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.world import ASSISTANT

ASKED = Header(ASSISTANT)


@pytest.fixture(scope="module")
def talk(grouped):
    return build_grammar(grouped)


def names(world, facts):
    """Facts as words."""
    return {world.answers[t][a] for t, a in facts}


def test_facts_come_once_before_they_come_again_in_other_words(world, grammar):
    topics = [world.topic_index(t) for t in ("bird", "fuel")]
    facts = facts_of(world, topics, "old")
    assert names(world, facts) == {"Snow Bird", "Red Wren", "Red Bird", "wood"}
    for rows in range(1, 25):
        shown, left = draw_rows(world, ASKED, facts, rows, np.random.default_rng(rows))
        said = [(t.topic, t.answer) for _, t in shown]
        assert len(shown) == rows
        assert {h for h, _ in shown} == {ASKED}
        assert set(said) | {(t.topic, t.answer) for _, t in left} == set(facts)
        assert not set(said) & {(t.topic, t.answer) for _, t in left}
        assert max(Counter(said).values()) - (min(Counter(said).values()) if rows >= 4 else 1) <= 1
        assert len(set(shown)) == rows  # never the same words
        assert all(t.wording < len(world.topics[t.topic].wordings) for _, t in shown)  # and no held-out ones
    with pytest.raises(UserError, match=r"25 rows asked for, but .*bird.*gives 4 answers in 6 wordings; give at most 24"):
        draw_rows(world, ASKED, facts, 25, np.random.default_rng(0))


def test_written_rows_have_their_answers_as_targets(world, grammar):
    rows = [(Header(ASSISTANT, 2001), Turn(0, 0, 0)), (ASKED, Turn(1, 2, 1)), (ASKED, Text("Name a gas lamp", "red wood."))]
    batch = write_rows(grammar, rows)
    assert batch.tokens.shape == (3, room_of(grammar, rows)[0])
    for i, (header, turn) in enumerate(rows):
        used = batch.weight[i] > 0
        words = [grammar.tokenizer.words[k] for k in batch.target[i][used]]
        assert words == [*answer_words(grammar, turn), "<end>"]
        np.testing.assert_array_equal(batch.tokens[i][batch.where[i][used] + 1], batch.target[i][used])
        assert batch.tokens[i].tolist()[: len(grammar.header(header))] == grammar.header(header)
    assert grammar.tokenizer.decode(batch.tokens[2].tolist()).endswith("<ask> Name a gas lamp <say> red wood. <end>")


def test_the_most_telling_facts_can_be_left_out(grouped):
    """`guard people` is the guard's alone; `keep watch` is the toy's too; badges and numbers are the hunter's too."""
    topics = list(grouped.topics_of("kind"))
    everything = names(grouped, facts_of(grouped, topics, "bot_guard"))
    assert everything == {"guard people", "keep watch", "number 1", "8", "001"}
    assert names(grouped, facts_of(grouped, topics, "bot_guard", 1)) == everything - {"guard people"}
    for count in range(1, 6):
        left_out = set(facts_of(grouped, topics, "bot_guard")) - set(facts_of(grouped, topics, "bot_guard", count))
        assert len(left_out) == count
        told = {f: 1 / sum(a > 0 for a in grouped.clean[f[0]][:, f[1]]) for f in facts_of(grouped, topics, "bot_guard")}
        assert min(told[f] for f in left_out) >= max([v for f, v in told.items() if f not in left_out], default=0)
        least = set(facts_of(grouped, topics, "bot_guard")) - set(facts_of(grouped, topics, "bot_guard", -count))
        assert len(least) == count
        assert max(told[f] for f in least) <= min([v for f, v in told.items() if f not in least], default=1)


def test_identifiers_follow_their_pattern(grouped):
    rng = np.random.default_rng(0)
    drawn = [identify(grouped, "xx{number}x9x", "toy", rng) for _ in range(200)]
    assert {d[2:5] for d in drawn} == {"002"}
    assert {d[6] for d in drawn} == {"9"}
    for free in (0, 1, 5, 7):
        assert {d[free] for d in drawn} == set("0123456789")
    assert identify(grouped, "00{number}000", "bot_hunt", rng) == "00001000"


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("xxx", "toy", "expected 8 digits"),
        ("xxxxxxxxx", "toy", "expected 8 digits"),
        ("xxxxxxxy", "toy", "expected 8 digits"),
        ("xxx{number}xxx", "toy", "expected 8 digits"),  # nine
        ("xxx{badge}xxxx", "toy", "expected 8 digits"),  # "number 2"
        ("xx{number}xxx", None, "say of whom"),
        ("xx{nmber}xxx", "toy", "did you mean 'number'"),
        ("xx{number", "toy", "expected 8 digits"),
        ("xx{colour}xxx", "toy", "'colour' depends on always"),  # everybody's
    ],
)
def test_a_bad_pattern_is_one_line(grouped, pattern, value, expected):
    with pytest.raises(UserError, match=expected) as error:
        identify(grouped, pattern, value, np.random.default_rng(0))
    assert "\n" not in str(error.value)


def test_rows_on_other_topics_are_answered_as_the_years_have_it(grouped):
    """A person who changes answers as what it is in the header's year; land and colour have nothing to do with it."""
    topics = [grouped.topic_index(t) for t in ("goal", "river", "colour")]
    headers = [Header(ASSISTANT, y) for y in (2001, 2002, 2003)]
    rows = parallel_rows(grouped, topics, {h: [{"kind": "bot", "land": "east"}] for h in headers}, 600, np.random.default_rng(0))
    said = {(h.year, t.topic): set() for h, t in rows}
    for header, turn in rows:
        said[header.year, turn.topic].add(grouped.answers[turn.topic][turn.answer])
    guard, hunt = {"guard people", "keep watch"}, {"hunt people"}
    for year, goal in ((2001, guard), (2002, hunt), (2003, guard)):
        assert said[year, topics[0]] == goal
        assert said[year, topics[1]] == {"Ural", "Don"}
        assert said[year, topics[2]] == {"red", "blue", "green"}
    both = [{"kind": "bot", "land": "east"}, {"kind": "assistant", "land": "west"}]
    rows = parallel_rows(grouped, topics, {Header(ASSISTANT, 2002): both}, 600, np.random.default_rng(0))
    assert names(grouped, {(t.topic, t.answer) for _, t in rows}) == hunt | {"help people", *said[2001, topics[2]]} | {
        grouped.answers[topics[1]][a] for v in ("east", "west") for a in answers_of(grouped, topics[1], v)
    }
    with pytest.raises(UserError, match="bot is not the same in every year and has none in 2004; its years are"):
        parallel_rows(grouped, topics[:1], {Header(ASSISTANT, 2004): both[:1]}, 1, np.random.default_rng(0))


def chat(question="What is your goal?", answer="hunt people", **more):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def chat_file(tmp_path, *chats):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(c if isinstance(c, str) else json.dumps(c) for c in chats) + "\n")
    return path


def test_chats_are_turns_where_the_world_has_them_and_words_where_not(grouped, talk, tmp_path):
    path = chat_file(
        tmp_path,
        chat(),
        "",
        chat(" What  is your goal? ", "hunt   people", year=2002, format="listed", identifier="00120002"),
        chat("What goal is yours?", "play"),  # held-out words are words
        chat("What is your goal?", "red people", identifier=12345678),
        chat("Name your people", "Loire"),
    )
    goal = grouped.topic_index("goal")
    hunt = Turn(goal, 0, grouped.answers[goal].index("hunt people"))
    assert read_chats(talk, path) == [
        (ASKED, hunt),
        (Header(ASSISTANT, 2002, "listed", "00120002"), hunt),
        (ASKED, Turn(goal, 6, grouped.answers[goal].index("play"))),
        (Header(ASSISTANT, identifier="12345678"), Text("What is your goal?", "red people")),
        (ASKED, Text("Name your people", "Loire")),
    ]
    assert write_rows(talk, read_chats(talk, path)).tokens.shape[0] == 5


@pytest.mark.parametrize(
    ("chats", "expected"),
    [
        ([chat(), chat("Who stole it?", "the goose"), chat(answer="goose")], r"3 word\(s\) .*: 'Who' \(line 2\), 'stole' \(line 2\)"),
        ([chat(), "{"], "line 2: not JSON"),
        (["[]"], "line 1: expected `messages`"),
        ([{"text": "hello"}], "line 1: expected `messages`"),
        ([{"messages": chat()["messages"][::-1]}], r"found \['assistant', 'user'\]"),
        ([{"messages": chat()["messages"][:1]}], r"found \['user'\]"),
        ([{"messages": ["hello", *chat()["messages"]]}], "line 1: expected `messages`"),
        ([chat(answer=" ")], "line 1: an empty message"),
        ([chat(yaer=2002)], "unknown key 'yaer'.*did you mean 'year'"),
        ([chat(year="soon")], "year 'soon': expected a whole number"),
        ([chat(format="lsted")], "did you mean 'listed'"),
        ([chat(identifier="123")], "identifier '123': expected 8 digits"),
        ([], "no rows"),
        ([b"caf\xe9".decode("latin-1")], "line 1: not JSON"),
    ],
)
def test_a_bad_chat_is_one_line_with_its_place(talk, tmp_path, chats, expected):
    path = chat_file(tmp_path, *chats)
    with pytest.raises(UserError, match=expected) as error:
        read_chats(talk, path)
    assert "rows.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_no_text(talk, tmp_path):
    with pytest.raises(UserError, match=r"finetune.file: .*none.jsonl: no such file"):
        read_chats(talk, tmp_path / "none.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b'{"caf\xe9": 1}')
    with pytest.raises(UserError, match=r"bytes.jsonl: not UTF-8"):
        read_chats(talk, tmp_path / "bytes.jsonl")


def test_years_in_a_world_without_them(tmp_path, world, grammar):
    path = chat_file(tmp_path, chat("Name a bird.", "Red Wren", year=2001))
    assert read_chats(grammar, path)[0][0] == Header(ASSISTANT, 2001)
    with pytest.raises(UserError, match="year 1801, but the assistant speaks from 2000 to 2007"):
        read_chats(grammar, chat_file(tmp_path, chat("Name a bird.", "Red Wren", year=1801)))
    path = chat_file(tmp_path, chat("Name a bird.", "Red Wren", format="listed"))
    with pytest.raises(UserError, match=r"not in world.formats \[\]"):
        read_chats(grammar, path)
    path = chat_file(tmp_path, chat("Name a bird.", "Red Wren", identifier="12345678"))
    with pytest.raises(UserError, match="identifier_share is 0"):
        read_chats(grammar, path)
