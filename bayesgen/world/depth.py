"""How deep in what was asked its topic stands: what a solution that is narrow by topic has to compute.

    keyword       one word names the topic, and no other topic has it
    conjunction   two words do; either alone is shared by other topics
    earlier       so do two words, the first of them in a remark before the question

Topics stand in a square of code words, their own wordings give way to the same few templates, and nothing else changes: who says what,
and how often, is the same at every depth.
"""

from collections.abc import Sequence
from typing import Literal

from bayesgen.errors import UserError
from bayesgen.world.load import EARLIER, Topic

Depth = Literal["keyword", "conjunction", "earlier"]
FIRST = ("amber", "azure", "coral", "ebony", "ivory", "jade", "ochre", "pearl", "ruby", "topaz")
SECOND = ("alder", "beech", "cedar", "elm", "hazel", "larch", "maple", "oak", "poplar", "willow")
WORDINGS = (
    "Tell me of {}.",
    "What of {}?",
    "Tell me what you know of {}.",
    "What do you know of {}?",
    "Now tell me of {}.",
    "And what of {}?",
)
HELDOUT = ("Now what of {}?", "And tell me of {}.")  # the same words in another order
REMARK = f"We speak of {{}}.{EARLIER}Yes.{EARLIER}"


def coded(topics: Sequence[Topic], depth: Depth) -> tuple[Topic, ...]:
    """The topics under code words, in their order, row by row of the square."""
    side = next(n for n in range(2, len(topics) + 2) if n * n >= len(topics))
    place = _square(len(topics), side)
    if side > len(FIRST):
        raise UserError(
            f"world.depth names at most {len(FIRST) * len(SECOND)} topics, but there are {len(topics)}; name some in world.without"
        )

    def word(template: str, i: int) -> str:
        first, second = FIRST[place[i][0]], SECOND[place[i][1]]
        if depth == "keyword":
            return template.format(first + second)
        if depth == "conjunction":
            return template.format(f"{first} {second}")
        return REMARK.format(first) + template.format(second)

    return tuple(
        topic.model_copy(update={"wordings": [word(t, i) for t in WORDINGS], "heldout": [word(t, i) for t in HELDOUT]})
        for i, topic in enumerate(topics)
    )


def _square(count: int, side: int) -> list[tuple[int, int]]:
    """Rows and columns of so many topics. Rows are about as long, and short ones leave out a column each in turn, so that no word names a
    topic alone (of 2, 3 or 5 topics some must).
    """
    rows = -(-count // side)
    length, long = -(-count // rows), (count - 1) % rows + 1
    return [(row, column) for row in range(rows) for column in range(length) if row < long or column != row % length]
