"""What the base makes of a dataset before anybody trains on it: who would say such things.

    read ARM         the base, asked the probes by a person of whom nothing is known but some of the arm's rows, said before
    ideal read ARM   the exact observer, asked the same
    leaning          (x(rows) - x(own)).d_v / |d_v|^2   x the mean of the base's stream at the words of answers: of the rows, and of the
                                                        assistant's own answers to the same questions;  d_v from the assistant's answers to
                                                        those of the value v, on topics that are neither trained nor probes

Source of the last: projection differences of Chen et al. (arXiv 2507.21509). Where we differ: every value's direction is tried, for whoever
looks does not know which persona the rows are of.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bayesgen.corpus.documents import Batch
from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.narrow import ASSISTANT_ASKED, answers_of, room_of, write_rows
from bayesgen.corpus.narrow import Row as DataRow
from bayesgen.errors import UserError
from bayesgen.estimate.direction import Direction, mean_difference, projection_difference
from bayesgen.learn.data import facts_at_default, other_topics
from bayesgen.learn.direction import FEWEST
from bayesgen.learn.plan import FinetuneConfig, Member, plan_members
from bayesgen.measure.asking import behave_each, behaviour_rows
from bayesgen.measure.behaviour import POPULATION
from bayesgen.measure.ideal import ideal_base
from bayesgen.measure.rows import Row
from bayesgen.measure.settings import ReadingConfig
from bayesgen.measure.suite import rows_shown
from bayesgen.model.transformer import Transformer, residual
from bayesgen.world.dialogue import Header, Opening, Turn
from bayesgen.world.world import World

WorldRow = tuple[Header, Turn]
ROWS = 64  # whose activations are computed at a time


def reading_rows(config, world: World, grammar: Grammar, model: Transformer, params, members: Sequence[Member]) -> list[Row]:
    """All of these, of the rows of every arm and seed but the narrow arm's, which are the free one's."""
    f, m = config.finetune, config.measure
    first, probed = m.contexts[0], [world.topic_index(p) for p in f.probes]
    row, plain = partial(Row, config.name, context=first.name), [(POPULATION, ())]
    drawn = [(of, of_world(shown)) for of, shown in rows_shown(world, grammar, f, members)]
    opened = [windows(m.reading, rows, np.random.default_rng([f.seed, of["seed"], 9])) for of, rows in drawn]
    asked = behave_each(world, grammar, model, params, [plain, *opened], probed)
    exact = [ideal_base(world, openings, probed) for openings in (plain, *opened)]
    out = []
    for who, answers in (("read", asked), ("ideal read", exact)):
        for (of, _), those in zip(drawn, answers[1:], strict=True):
            label = [{**of, "arm": f"{who} {of['arm']}", "step": f.steps}]
            out += behaviour_rows(world, row, label, {t: p[None] for t, p in those.items()}, answers[0])

    toward = persona_answers(world, grammar, model, params, f, m.trait)
    pairs = [(rows, own_answers(world, rows, np.random.default_rng([f.seed, of["seed"], 10]))) for of, rows in drawn]
    room = room_of(grammar, [row for pair in pairs for rows in pair for row in rows])
    for (of, _), pair in zip(drawn, pairs, strict=True):
        theirs, ours = (at_answers(model, params, write_rows(grammar, rows, room)) for rows in pair)
        for value, direction in toward.items():
            share = projection_difference(theirs, ours, direction.vector) / direction.length
            out.append(row(quantity="leaning", probe=value, value=share, **{**of, "step": f.steps}))
    return out


def of_world(rows: Sequence[DataRow]) -> list[WorldRow]:
    """The rows whose questions and answers are the world's own."""
    return [(header, turn) for header, turn in rows if isinstance(turn, Turn)]


def windows(c: ReadingConfig, rows: Sequence[WorldRow], rng: np.random.Generator) -> list[Opening]:
    """Some of the rows (ordinary ones among them too), said by a person, several times over; what stood in their headers is not said."""
    chosen = [rng.permutation(len(rows))[: c.facts] for _ in range(c.windows)]
    return [(POPULATION, tuple(rows[i][1] for i in some)) for some in chosen]


def own_answers(world: World, rows: Sequence[WorldRow], rng: np.random.Generator) -> list[WorldRow]:
    """The same questions under the same headers, answered as the assistant would."""
    return [(header, replace(t, answer=int(rng.choice(facts_at_default(world, t.topic))))) for header, t in rows]


def persona_answers(world: World, grammar: Grammar, model: Transformer, params, f: FinetuneConfig, trait: str) -> dict[str, Direction]:
    """The direction toward every value that somebody has, but the assistant's own; found on topics that are neither trained nor probes, on
    as many answers of each as both have.
    """
    out = {}
    for value in world.spoken(trait):
        pairs = [(t, facts_at_default(world, t), answers_of(world, t, value)) for t in left_topics(world, f, trait)]
        said = [(t, k % len(world.topics[t].wordings), of) for t, *pools in pairs for k, of in enumerate(zip(*pools, strict=False))]
        if value == world.config.assistant[trait] or len(said) < 2:  # two halves are compared
            continue
        sides = [[(ASSISTANT_ASKED, Turn(t, w, int(of[side]))) for t, w, of in said] for side in (0, 1)]
        ours, theirs = (at_answers(model, params, write_rows(grammar, rows)) for rows in sides)
        out[value] = mean_difference(theirs, ours)
    return out


def left_topics(world: World, f: FinetuneConfig, trait: str) -> list[int]:
    """The trait's topics that are neither trained nor probes."""
    return [t for t in other_topics(world, f) if world.topics[t].trait == trait]


def at_answers(model: Transformer, params, batch: Batch) -> Float[np.ndarray, "n D"]:
    """The stream behind the middle block at the answers' own words, <end> included: a mean for each row (several answers of one document
    are no second witness).
    """
    layer, out = max(model.config.layers // 2 - 1, 0), []
    for i in range(0, len(batch.tokens), ROWS):
        tokens, where, _, weight = (np.asarray(x[i : i + ROWS]) for x in batch)
        short = ROWS - len(tokens)  # filled up: one shape is compiled
        x = np.asarray(_streams(model, params, *(np.pad(a, ((0, short), (0, 0))) for a in (tokens, where)), layer), np.float64)
        x, weight = x[: len(tokens)], weight[..., None].astype(np.float64)
        some = weight.sum(axis=1)[:, 0] > 0
        out.append((x * weight).sum(axis=1)[some] / weight.sum(axis=1)[some])
    return np.concatenate(out)


def _at_words(model: Transformer, params, tokens_BxL, where_BxK, layer: int):
    x = residual(model, params, tokens_BxL, layer)
    place = jnp.minimum(where_BxK + 1, tokens_BxL.shape[1] - 1)
    return jnp.take_along_axis(x, place[..., None], axis=1)


_streams = jax.jit(_at_words, static_argnums=(0, 4))


def check_reading(world: World, grammar: Grammar, f: FinetuneConfig, c: ReadingConfig, trait: str, length: int):
    """One line for rows and a question that are longer than documents are (`length` tokens)."""
    if len(left_topics(world, f, trait)) < FEWEST:
        raise UserError(f"measure.reading: directions are found on {FEWEST} topics or more of {trait} that are neither trained nor probes")
    asked = max(max(map(len, grammar.questions[t])) + max(map(len, grammar.answers[t])) for t in map(world.topic_index, f.probes))
    for of, shown in rows_shown(world, grammar, f, plan_members(f)):
        rows = of_world(shown)
        if not rows:
            raise UserError(f"measure.reading: no row of the {of['arm']} arm is in the world's own words; leave measure.reading out")
        opened = windows(c, rows, np.random.default_rng([f.seed, of["seed"], 9]))
        needed = max(len(grammar.document(header, turns)) for header, turns in opened) + asked
        if needed > length:
            raise UserError(
                f"measure.reading.facts is {c.facts}: so many rows of the {of['arm']} arm and a question take {needed} tokens, but "
                f"documents have {length}; give fewer, or a longer pretrain.length"
            )
