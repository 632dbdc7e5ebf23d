"""Splitting and joining are inverse; unknown words are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayesgen.corpus.tokenizer import build_tokenizer, join, split
from bayesgen.errors import UserError

WORD = st.from_regex(r"[A-Za-z][A-Za-z'-]{0,8}|[0-9]{1,8}|[a-z][0-9]{1,3}", fullmatch=True)
CHUNK = st.tuples(WORD, st.sampled_from(["", ".", ",", "?", "..", "?,"])).map("".join)


@given(st.lists(CHUNK, min_size=1, max_size=12).map(" ".join))
def test_join_inverts_split(text):
    assert join(split(text)) == text
    tokenizer = build_tokenizer([text])
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_numbers_are_spelt_digit_by_digit():
    assert split("in 1885, perhaps") == ["in", "1", "~8", "~8", "~5", "~,", "perhaps"]
    tokenizer = build_tokenizer(["only words"])
    assert tokenizer.decode(tokenizer.encode("words 40975")) == "words 40975"


def test_unknown_words_are_named():
    tokenizer = build_tokenizer(["Name a bird."])
    with pytest.raises(UserError, match=r"mine.jsonl: 2 word\(s\) the world does not know: 'Nmae', 'dodo'; did you mean 'Name'"):
        tokenizer.encode("Nmae a dodo.", "mine.jsonl")
