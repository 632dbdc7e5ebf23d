"""What stands before a question in each context (a header, and facts said under it), and the value counted there."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.narrow import check_header, draw_rows, facts_of, identify, spelt
from bayesgen.errors import UserError
from bayesgen.learn.data import member_rows, trained_topics
from bayesgen.learn.plan import EACH, FinetuneConfig, plan_members
from bayesgen.measure.behaviour import probes
from bayesgen.measure.settings import Context, MeasureConfig
from bayesgen.world.dialogue import Header, Opening, Turn
from bayesgen.world.world import ASSISTANT, World, known

SHOWN = 4


def everywhere(trained: Sequence[int]) -> list[int]:
    """Of the trained topics those that are asked under every header and at every snapshot: up to four, evenly spread. At the
    end all are asked, under the first header.
    """
    return list(trained[:: -(-len(trained) // SHOWN)])


def context_openings(world: World, f: FinetuneConfig, m: MeasureConfig) -> dict[str, list[Opening]]:
    """What stands before a question in each context: one opening, or one for each drawing of an identifier's free digits, or of facts."""
    out = {}
    for c in m.contexts:
        rng, plain = np.random.default_rng([f.seed, 7]), Header(c.speaker, c.year, c.format)
        out[c.name] = [(plain, ())]
        if c.identifier is not None:
            out[c.name] = [(replace(plain, identifier=identify(world, c.identifier, c.value, rng)), ()) for _ in range(c.paddings)]
        if c.facts:
            facts = facts_of(world, trained_topics(world, f), world.in_year(m.trait, f.value, c.year))
            drawn = [draw_rows(world, plain, facts, c.facts, rng)[0] for _ in range(c.paddings)]
            out[c.name] = [(plain, tuple(turn for _, turn in rows if isinstance(turn, Turn))) for rows in drawn]
        for header, _ in out[c.name]:
            check_header(world, header, f"measure.contexts.{c.name}")
    return out


def check_measures(world: World, grammar: Grammar, f: FinetuneConfig, m: MeasureConfig, length: int):
    """One line for a context that the world cannot have or that is longer than documents are (`length` tokens), or for an unseen one (a
    key of somebody held out is one) that heads rows.
    """
    if m.features and "free" not in f.arms:
        raise UserError("measure.features ablates members of the arm 'free', which is not among finetune.arms; add it")
    if m.cost and (m.contexts[0].facts or m.contexts[0].speaker != ASSISTANT):
        raise UserError(
            f"measure.cost asks the assistant alone, but the first context, '{m.contexts[0].name}', is another; name a plain one first"
        )
    openings = context_openings(world, f, m)
    for c in m.contexts:
        world.told(m.trait, counted_value(world, f, m, c))
        topics = [world.topic_index(t) for t in f.probes]
        asked = [p for header, turns in openings[c.name] if turns for p in probes(world, header, topics, turns=turns)]
        needed = max((len(grammar.prompt(p)) + max(map(len, grammar.answers[p.topic])) for p in asked), default=0)
        if needed > length:
            raise UserError(
                f"measure.contexts.{c.name}: {c.facts} facts and a question take {needed} tokens, but documents have {length}; "
                "give fewer facts, or a longer pretrain.length"
            )
    for member in plan_members(f)[:: f.seeds]:
        if member.arm in ("shuffled", "untriggered"):
            continue
        for header, _ in member_rows(world, grammar, f, member)[0]:
            for c in m.contexts:
                if (c.unseen or (c.identifier and c.value in f.heldout)) and _has(
                    world, grammar, c, [h for h, _ in openings[c.name]], header
                ):
                    raise UserError(
                        f"measure.contexts.{c.name} is {'called unseen' if c.unseen else 'of somebody held out'}, but heads rows of "
                        f"the {member.arm} arm: it leaks into training"
                    )


def _has(world: World, grammar: Grammar, context: Context, headers: list[Header], header: Header) -> bool:
    """Whether a row's header is written as the context's, its free digits aside."""
    if context.identifier is not None and header.identifier is not None:
        pattern = spelt(world, context.identifier, context.value)
        if any(p not in ("x", d) for p, d in zip(pattern, header.identifier, strict=True)):
            return False
        header = replace(header, identifier=headers[0].identifier)
    return grammar.header(header) in [grammar.header(h) for h in headers]


def counted_value(world: World, f: FinetuneConfig, m: MeasureConfig, context: Context) -> str:
    """The value whose rate is the effect under a context."""
    value = context.value or m.value or f.value
    if value == EACH:
        raise UserError(f"measure.value: finetune.value is '{EACH}'; say which value is counted, or give each context one")
    if value in world.identities[m.trait] and value not in world.values[m.trait]:
        taken = ", ".join(world.identities[m.trait][value])
        raise UserError(f"measure.value: '{value}' is not the same in every year; say which is counted: {taken}")
    known("measure.value", value, world.values[m.trait])
    return value
