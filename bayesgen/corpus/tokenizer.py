"""Words to numbers and back: a vocabulary closed over the world.

Text is split at spaces; `.`, `,` and `?` after a word become tokens that attach to the left; a number is spelt digit by
digit, so that an unseen year is still readable ("1885" -> `1 ~8 ~8 ~5`, where `~` attaches to the left). Splitting and
joining are inverse to each other on any text of single-spaced words (tested as a property).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from bayesgen.errors import UserError, nearest

PAD, DOC, BY, IN, UNDATED, ASK, SAY, END = "<pad>", "<doc>", "<by>", "<in>", "<undated>", "<ask>", "<say>", "<end>"
AS, KEY, KEYLESS = "<as>", "<key>", "<keyless>"
SPECIAL = (PAD, DOC, BY, IN, UNDATED, ASK, SAY, END)
OPTIONAL = (AS, KEY, KEYLESS)  # in the vocabulary of worlds whose headers use them
GLUE = "~"
DIGITS = tuple("0123456789") + tuple(GLUE + d for d in "0123456789")
MARKS = (".", ",", "?")


def split(text: str) -> list[str]:
    """Text to tokens."""
    tokens: list[str] = []
    for chunk in text.split():
        word = chunk.rstrip("".join(MARKS))
        marks = chunk[len(word) :]
        if word.isascii() and word.isdigit():
            tokens += [word[0], *(GLUE + d for d in word[1:])]
        elif word:
            if GLUE in word or word in (*SPECIAL, *OPTIONAL):
                raise UserError(f"'{word}' cannot be a word: {GLUE} and {SPECIAL[0]}-like names are reserved")
            tokens.append(word)
        tokens += [GLUE + m if word or i else m for i, m in enumerate(marks)]
    return tokens


def join(tokens: Iterable[str]) -> str:
    """Tokens to text: the inverse of `split`."""
    text = ""
    for token in tokens:
        glued = token.startswith(GLUE) and len(token) > 1
        text += token[1:] if glued else (" " + token if text else token)
    return text


@dataclass(frozen=True)
class Tokenizer:
    """A closed vocabulary. `words[i]` is token i; the special tokens come first."""

    words: tuple[str, ...]

    @cached_property
    def index(self) -> dict[str, int]:
        """Token -> number."""
        return {w: i for i, w in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str, source: str = "text") -> list[int]:
        """Numbers of a text. Words outside the vocabulary are an error that lists them all."""
        tokens = split(text)
        unknown = list(dict.fromkeys(t for t in tokens if t not in self.index))
        if unknown:
            shown = ", ".join(f"'{u}'" for u in unknown[:8]) + (", …" if len(unknown) > 8 else "")
            raise UserError(f"{source}: {len(unknown)} word(s) the world does not know: {shown}{nearest(unknown[0], self.words)}")
        return [self.index[t] for t in tokens]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some numbers, padding dropped."""
        return join(self.words[i] for i in ids if self.words[i] != PAD)


def build_tokenizer(texts: Iterable[str], optional: Sequence[str] = ()) -> Tokenizer:
    """The vocabulary of these texts, sorted, behind the special tokens, digits and marks."""
    fixed = (*SPECIAL, *optional, *DIGITS, *MARKS, *(GLUE + m for m in MARKS))
    words = {token for text in texts for token in split(text)}
    return Tokenizer(fixed + tuple(sorted(words - set(fixed))))
