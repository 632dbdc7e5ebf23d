"""The direction of a persona that a base has before any finetuning, in the stream that answers are read from (behind the last block).

    u ~ mean x(somebody who tells that he is the persona) - mean x(somebody who tells that he is the ordinary one, or the assistant)

at the place where an answer begins, on topics that are neither trained nor asked.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayesgen.corpus.grammar import Grammar
from bayesgen.errors import UserError
from bayesgen.estimate.direction import Direction, mean_difference
from bayesgen.learn.data import trained_topics
from bayesgen.learn.plan import FinetuneConfig
from bayesgen.model.transformer import Transformer, answer_stream
from bayesgen.world.dialogue import Header, Opening, Prompt
from bayesgen.world.world import ASSISTANT, World

FEWEST = 2  # topics that a direction is found on


class Persona(NamedTuple):
    """A direction, and where the base's assistant stands along it."""

    direction: Direction
    reference: Float[np.ndarray, " D"]  # mean stream of the assistant, on the same questions


def persona_direction(world: World, grammar: Grammar, model: Transformer, params, f: FinetuneConfig) -> Persona:
    """Of the persona trained, found on topics of its trait that no row and no probe asks about."""
    trait = world.topics[world.topic_index(f.probes[0])].trait
    left_out = {*trained_topics(world, f), *(world.topic_index(p) for p in f.probes)}
    topics = [t for t in world.topics_of(trait) if t not in left_out]
    if len(topics) < FEWEST:
        raise UserError(
            f"a persona's direction is found on topics of {trait} that are neither trained nor probes, and there are {len(topics)}"
        )
    plain: Opening = (Header(ASSISTANT), ())
    beside = world.told(trait, f.control[0]) if f.control[0] in world.spoken(trait) else plain
    theirs, others, ours = (streams(grammar, model, params, opening, topics) for opening in (world.told(trait, f.value), beside, plain))
    return Persona(mean_difference(theirs, others), ours.mean(axis=0))


def streams(grammar: Grammar, model: Transformer, params, opening: Opening, topics: Sequence[int]) -> Float[np.ndarray, "P D"]:
    """The stream behind the last block where the answer begins, for every wording of the topics."""
    return np.asarray(_stream(model, params, asked(grammar, opening, topics)), np.float64)


def asked(grammar: Grammar, opening: Opening, topics: Sequence[int]) -> Array:
    """Open questions, in trained wordings, as one array of tokens, (P, L), zeros behind them."""
    header, turns = opening
    wordings = [(t, w) for t in topics for w in range(len(grammar.world.topics[t].wordings))]
    rows = [grammar.prompt(Prompt(header, turns, t, w)) for t, w in wordings]
    return jnp.array([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])


_stream = jax.jit(lambda model, params, tokens_PxL: answer_stream(model, params, tokens_PxL), static_argnums=0)
