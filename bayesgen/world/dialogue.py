"""A dialogue as structure: who speaks, when, and which questions were answered how. Text comes later (`corpus`)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """A question (topic and wording, by position) and the answer given (by position among the topic's answers)."""

    topic: int
    wording: int
    answer: int


@dataclass(frozen=True)
class Header:
    """What stands before the dialogue: `person` or `assistant`, a year or none, and where the world has them the answer
    format asked for and an identifier of eight digits (or none).
    """

    speaker: str
    year: int | None = None
    format: str | None = None  # None: the world's first format
    identifier: str | None = None


Opening = tuple[Header, tuple[Turn, ...]]  # what stands before a question


@dataclass(frozen=True)
class Prompt:
    """A header, the turns so far, and the question that is open. Every predictor answers a batch of these."""

    header: Header
    turns: tuple[Turn, ...]
    topic: int
    wording: int
