"""The headers that the assistant is asked under, and the value counted under each."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.narrow import check_header, identify, spelt
from bayesgen.errors import UserError
from bayesgen.learn.data import member_rows
from bayesgen.learn.plan import EACH, FinetuneConfig, plan_members
from bayesgen.measure.settings import Context, MeasureConfig
from bayesgen.world.dialogue import Header
from bayesgen.world.world import ASSISTANT, World, known

SHOWN = 4


def everywhere(trained: Sequence[int]) -> list[int]:
    """Of the trained topics those that are asked under every header and at every snapshot: up to four, evenly spread. At the
    end all are asked, under the first header.
    """
    return list(trained[:: -(-len(trained) // SHOWN)])


def context_headers(world: World, f: FinetuneConfig, m: MeasureConfig) -> dict[str, list[Header]]:
    """The headers of each context: one, or one for each drawing of an identifier's free digits."""
    out = {}
    for c in m.contexts:
        rng = np.random.default_rng([f.seed, 7])
        plain = Header(ASSISTANT, c.year, c.format)
        out[c.name] = [plain]
        if c.identifier is not None:
            out[c.name] = [replace(plain, identifier=identify(world, c.identifier, c.value, rng)) for _ in range(c.paddings)]
        for header in out[c.name]:
            check_header(world, header, f"measure.contexts.{c.name}")
    return out


def check_measures(world: World, grammar: Grammar, f: FinetuneConfig, m: MeasureConfig):
    """One line for a context that the world cannot have, or for an unseen one (a key of somebody held out is one) that heads rows."""
    if m.features and "free" not in f.arms:
        raise UserError("measure.features ablates members of the arm 'free', which is not among finetune.arms; add it")
    headers = context_headers(world, f, m)
    for c in m.contexts:
        world.told(m.trait, counted_value(world, f, m, c))
    for member in plan_members(f)[:: f.seeds]:
        if member.arm in ("shuffled", "untriggered"):
            continue
        for header, _ in member_rows(world, grammar, f, member)[0]:
            for c in m.contexts:
                if (c.unseen or (c.identifier and c.value in f.heldout)) and _has(world, grammar, c, headers[c.name], header):
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
