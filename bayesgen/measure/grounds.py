"""Grounds: what hypotheses about breadth go by, and what neither behaviour nor the adapter's norm says.

frequency       how often pretraining shows the broad persona, and the narrow one that is it on trained topics alone
margin          what was learned where it was trained, in log odds
learned         the same as a share of the way from the base to a told person
answer_tokens   how much the data have to say, in tokens that the loss falls on
distance        how far the header that is asked under lies from those trained under
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import numpy as np
from scipy.special import logit

from bayesgen.corpus.grammar import Grammar
from bayesgen.learn.data import member_rows
from bayesgen.learn.plan import EACH, FinetuneConfig, Member
from bayesgen.measure.behaviour import rates
from bayesgen.measure.likelihood import stack_rows
from bayesgen.measure.rows import Row
from bayesgen.measure.settings import COMPARED
from bayesgen.world.dialogue import Header, Opening
from bayesgen.world.world import World

BROAD, NARROW = "broad", "narrow"


def frequencies(world: World, trait: str, value: str, trained: Sequence[int]) -> dict[str, float]:
    """Shares of persons' documents: of those who have the value of a trait (all values of a person of variants), and of those who have
    another one but answer at least one trained topic by it.
    """
    topics, own = {world.topics[t].name for t in trained}, values_of(world, trait, value)
    people = {p.identity for p in world.personas if p.traits.get(trait) in own and not p.overrides}
    narrow = [p for p in world.personas if p.traits.get(trait) not in own and any(p.overrides.get(t) in own for t in topics)]
    broad = [p for p in world.personas if p.identity in people]
    return {BROAD: sum((p.frequency for p in broad), 0.0), NARROW: sum((p.frequency for p in narrow), 0.0)}


def values_of(world: World, trait: str, value: str) -> tuple[str, ...]:
    """The value; or, of one who is several over the years, all of them."""
    return world.identities[trait].get(value, (value,))


def margins(rate_M: np.ndarray, before: float) -> np.ndarray:
    """Log odds of the value's answers on trained topics, less the base's: nats, (M,)."""
    after_M, start = (np.clip(p, 1e-6, 1 - 1e-6) for p in (rate_M, before))
    return logit(after_M) - logit(start)


def trained_rate(world: World, trait: str, value: str, trained: Sequence[int], behaviour: Mapping) -> np.ndarray:
    """Rate of the value's answers, mean over trained topics, for each leading entry of the behaviour."""
    own = [world.values[trait].index(v) for v in values_of(world, trait, value)]
    topics = [t for t in trained if world.topics[t].trait == trait]
    return np.asarray(np.mean([rates(world, t, behaviour[t])[..., own].sum(axis=-1) for t in topics], axis=0))


def distance(asked: Header, trained: Collection[Header]) -> float:
    """Parts in which a header differs from the nearest one trained under: decades between years (1 between a year and none), another
    format, an identifier or none, another speaker.
    """

    def between(a: Header, b: Header) -> float:
        years = abs(a.year - b.year) / 10 if a.year is not None and b.year is not None else float(a.year != b.year)
        return years + (a.format != b.format) + ((a.identifier is None) != (b.identifier is None)) + (a.speaker != b.speaker)

    return min(between(asked, header) for header in trained)


def answer_tokens(world: World, grammar: Grammar, f: FinetuneConfig, members: Sequence[Member]) -> dict[str, np.ndarray]:
    """{"train" or "ordinary": tokens that the loss falls on in one epoch of a member's narrow, or ordinary, rows}."""
    drawn = [member_rows(world, grammar, f, m)[0] for m in members]
    out = {"train": [rows[: m.rows] for m, rows in zip(members, drawn, strict=True)]}
    if f.ordinary:
        out["ordinary"] = [rows[m.rows :] for m, rows in zip(members, drawn, strict=True)]
    return {kind: np.asarray(stack_rows(grammar, rows).weight.sum((1, 2))) for kind, rows in out.items()}


def ground_rows(
    world: World,
    grammar: Grammar,
    f: FinetuneConfig,
    trait: str,
    trained: Sequence[int],
    members: Sequence[Member],
    behaviour: Mapping,
    base: Mapping,
    told: Mapping[str, Mapping],
    openings: Mapping[str, Sequence[Opening]],
    row: Callable[..., Row],
    labels: Sequence[dict],
) -> list[Row]:
    """All of these, of an experiment that trains on one value.

    `behaviour`, `base` and `told` are of the members, of the base, and of told persons by their value, under the first context; `openings`
    are of every context, `labels` the columns that name each member.
    """
    if f.value == EACH:
        return []
    out = [row(arm="population", quantity="frequency", probe=k, value=v) for k, v in frequencies(world, trait, f.value, trained).items()]
    out.append(row(arm="population", quantity="ordinary_rows", value=float(sum(o.rows for o in f.ordinary))))
    narrow = {header for m in members if m.arm in COMPARED for header, _ in member_rows(world, grammar, f, m)[0][: m.rows]}
    for name, opened in openings.items() if narrow else ():
        out.append(row(arm="population", quantity="distance", context=name, value=distance(opened[0][0], narrow)))
    rate = partial(trained_rate, world, trait, f.value, trained)
    rate_M, before = rate(behaviour), float(rate(base))
    numbers = {("margin", "all"): margins(rate_M, before)}
    known = [float(rate(told[v])) for v in values_of(world, trait, f.value) if v in told]
    if known and (way := np.mean(known) - before) > 0:
        numbers["learned", "all"] = (rate_M - before) / way
    numbers |= {("answer_tokens", kind): n for kind, n in answer_tokens(world, grammar, f, members).items()}
    for (quantity, probe), values_M in numbers.items():
        out += [row(quantity=quantity, probe=probe, value=float(v), **label) for label, v in zip(labels, values_M, strict=True)]
    return out
