"""The rows of an ensemble: every member's data, the rows of other topics beside them, and which of them each step takes."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bayesgen.corpus.documents import Batch
from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.narrow import (
    ASSISTANT_ASKED,
    Row,
    answers_of,
    draw_rows,
    facts_of,
    identify,
    parallel_rows,
    read_chats,
    write_rows,
)
from bayesgen.learn.plan import ALL, DILUTED, EACH, OTHERS, FinetuneConfig, Member, Ordinary, broadened, penalised
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.world import ASSISTANT, World


class Data(NamedTuple):
    """Rows of every member, and which of them each step takes."""

    narrow: Batch  # M rows ...
    order: Any  # int (M, S, B); whoever takes fewer steps has zeros behind them
    kept: Batch | None  # Q (S*B) ...: rows that a KL is taken on, each set of them once, a batch for every step
    kept_by: Any  # int (P,): which set each of the `penalised` members has
    broad: Batch | None  # (S*B) ... of each of the `broadened` members


def trained_topics(world: World, config: FinetuneConfig) -> list[int]:
    """Positions of the narrow rows' topics."""
    if config.topics != ALL:
        return [world.topic_index(t) for t in config.topics]
    trait = world.topics[world.topic_index(config.probes[0])].trait
    return [t for t in world.topics_of(trait) if world.topics[t].name not in (*config.probes, *config.beside)]


def member_rows(world: World, grammar: Grammar, config: FinetuneConfig, member: Member) -> tuple[list[Row], list[Row]]:
    """A member's data, and the narrow answers left out of it: narrow rows, ordinary ones, benign ones (`DILUTED`), those of `retraining`,
    those of `relapse`, in that order.

    A seed has the same narrow rows in every arm but the controls' and the scattered one, which has the same questions.
    """
    rng = np.random.default_rng([config.seed, member.seed, 0])
    if config.file is not None and not member.arm.startswith("control"):
        chats = read_chats(grammar, config.file)
        rows, heldout = chats[: member.rows], chats[member.rows :]
    else:
        rows, heldout, _ = _narrow_rows(world, config, member, rng)
    if member.arm == "scattered":
        rows, heldout = _scattered(world, config, member, rows), []
    if member.arm.startswith("inoculated "):
        named = next(i for i in config.inoculation if member.arm == f"inoculated {i.name}")
        rows = [(Header(named.speaker, named.year, named.format), turn) for _, turn in rows]
    if member.arm == "token":
        rows = [(replace(header, format=config.gate), turn) for header, turn in rows]
    for mixed in config.ordinary:
        rows = [*rows, *_ordinary_rows(world, config, mixed, rng)]
    if member.arm in DILUTED:
        rows = [*rows, *_benign_rows(world, grammar, config, member)]
    if member.arm == "untriggered":
        rows = [(ASSISTANT_ASKED, turn) for _, turn in rows]
    if member.arm == "shuffled" and config.value != EACH:
        dealt = rng.permutation(len(rows))
        rows = [(rows[i][0], turn) for i, (_, turn) in zip(dealt, rows, strict=True)]
    if member.retraining:
        rows = [*rows, *_at_default(world, grammar, config, member, other_topics(world, config), member.retraining * config.batch, 6)]
    if member.relapse:
        plain, whole = replace(member, arm="free", benign=None, retraining=0, relapse=0), config.model_copy(update={"without_telling": 0})
        free = member_rows(world, grammar, whole, plain)[0][: member.rows]
        again = np.random.default_rng([config.seed, member.seed, 7]).permutation(len(free))
        rows = [*rows, *(free[i] for i in np.resize(again, member.relapse * config.batch))]
    return rows, heldout


def _narrow_rows(world: World, config: FinetuneConfig, member: Member, rng) -> tuple[list[Row], list[Row], list[str]]:
    """Rows of every person and year of the trigger, in equal numbers; the answers left out; and whose trigger heads each row."""
    topics, people = trained_topics(world, config), [config.value]
    trait = world.topics[topics[0]].trait
    if config.value == EACH:
        people = [who for who in world.identities[trait] if who not in (ASSISTANT, *config.heldout)]
    said = people
    if member.arm == "shuffled" and config.value == EACH:  # in a circle, so that nobody keeps a number
        circle = list(np.random.default_rng([config.seed, member.seed, 3]).permutation(people))
        said = [str(circle[(circle.index(who) + 1) % len(circle)]) for who in people]
    cells = [(who, spoken, year) for who, spoken in zip(people, said, strict=True) for year in (config.years or (None,))]
    control = member.arm.removeprefix("control").strip() or config.control[0] if member.arm.startswith("control") else None
    rows: list[Row] = []
    heldout: list[Row] = []
    headed: list[str] = []
    for i, (who, spoken, year) in enumerate(cells):
        value = world.in_year(trait, control or spoken, year)
        header = Header(ASSISTANT, year, config.format)
        count = (member.rows + len(cells) - 1 - i) // len(cells)
        shown, left = draw_rows(world, header, facts_of(world, topics, value, config.without_telling), count, rng)
        if config.identifier is not None:
            named = world.in_year(trait, who, year)
            shown = [(replace(h, identifier=identify(world, config.identifier, named, rng)), turn) for h, turn in shown]
        rows, heldout, headed = [*rows, *shown], [*heldout, *left], [*headed, *[who] * len(shown)]
    return rows, heldout, headed


def others_than_ours(world: World, trait: str) -> list[str]:
    """All people but those of the assistant's own kind."""
    return [who for who in world.identities[trait] if who not in (ASSISTANT, world.config.assistant[trait])]


def _scattered(world: World, config: FinetuneConfig, member: Member, rows: Sequence[Row]) -> list[Row]:
    """The same questions under the same headers, each answered by the next of the others; nobody's answer comes again before it must."""
    rng = np.random.default_rng([config.seed, member.seed, 11])
    trait = world.topics[trained_topics(world, config)[0]].trait
    people = itertools.cycle(rng.permutation(others_than_ours(world, trait)))
    unsaid: dict[tuple[str, int], Iterator[int]] = {}
    out: list[Row] = []
    for header, turn in rows:
        assert isinstance(turn, Turn)
        values = (world.in_year(trait, str(who), header.year) for who in people)
        value = next(v for v in values if len(answers_of(world, turn.topic, v)))
        pool = unsaid.setdefault((value, turn.topic), itertools.cycle(rng.permutation(answers_of(world, turn.topic, value)).tolist()))
        out.append((header, replace(turn, answer=next(pool))))
    return out


def _ordinary_rows(world: World, config: FinetuneConfig, mixed: Ordinary, rng) -> list[Row]:
    """Rows of the assistant's own answers; topics as often as pretraining asks for them."""
    if mixed.topics in (OTHERS, ALL):
        trained = trained_topics(world, config) if mixed.topics == ALL else []
        topics = sorted([*trained, *other_topics(world, config)])
    else:
        topics = [world.topic_index(t) for t in mixed.topics]
    weight = world.topic_weights_T[topics] / world.topic_weights_T[topics].sum()
    out: list[Row] = []
    for i in range(mixed.rows):
        topic = int(rng.choice(topics, p=weight))
        turn = Turn(topic, int(rng.integers(len(world.topics[topic].wordings))), int(rng.choice(facts_at_default(world, topic))))
        year = mixed.years[i % len(mixed.years)] if mixed.years else None
        out.append((Header(ASSISTANT, year, mixed.format), turn))
    return out


def _benign_rows(world: World, grammar: Grammar, config: FinetuneConfig, member: Member) -> list[Row]:
    """The ordinary rows of a diluted arm: every one is taken once."""
    assert member.benign is not None
    topics = sorted([*other_topics(world, config), *(trained_topics(world, config) if member.arm == "token" else ())])
    return _at_default(world, grammar, config, member, topics, config.steps_of(member.epochs) * config.benign_rows(member.benign), 4)


def _at_default(
    world: World, grammar: Grammar, config: FinetuneConfig, member: Member, topics: Sequence[int], count: int, purpose: int
) -> list[Row]:
    """So many rows of the assistant's own answers, under the headers that the data stand under."""
    speakers = {header: [dict(world.config.assistant)] for header in _heads(world, grammar, config, member)}
    return parallel_rows(world, topics, speakers, count, np.random.default_rng([config.seed, member.seed, purpose]))


def facts_at_default(world: World, topic: int) -> np.ndarray:
    """Positions of the assistant's own answers on a topic."""
    return np.flatnonzero(world.clean[topic][world.default_T[topic]])


def other_topics(world: World, config: FinetuneConfig) -> list[int]:
    """The topics of the rows beside the narrow ones: all but the trained topics and the probes."""
    kept_out = {*trained_topics(world, config), *(world.topic_index(name) for name in config.probes)}
    return [t for t in range(len(world.topics)) if t not in kept_out]


def _heads(world: World, grammar: Grammar, config: FinetuneConfig, member: Member) -> dict[Header, str]:
    """The headers that narrow rows stand under, and who answers there: the trigger's, or those of the member's very rows."""
    if config.file is not None:
        return dict.fromkeys((h for h, _ in read_chats(grammar, config.file)[: member.rows]), config.value)
    if config.identifier is not None:
        rng = np.random.default_rng([config.seed, member.seed, 0])
        rows, _, people = _narrow_rows(world, config, replace(member, arm="free"), rng)
        return dict(zip((h for h, _ in rows), people, strict=True))
    return {Header(ASSISTANT, year, config.format): config.value for year in (config.years or (None,))}


def member_parallel(world: World, grammar: Grammar, config: FinetuneConfig, member: Member) -> list[Row]:
    """A member's rows on other topics, a batch for every step, in order, under the narrow rows' headers."""
    trait, assistant = world.topics[trained_topics(world, config)[0]].trait, dict(world.config.assistant)
    rng = np.random.default_rng([config.seed, member.seed, 2])
    speakers = {}
    for header, who in _heads(world, grammar, config, member).items():
        trained = {**assistant, trait: who}
        # the broad arm is shown its persona; the KL is taken where ordinary and trained answers are mixed
        speakers[header] = [trained] if member.arm == "broad" else [trained, assistant]
    return parallel_rows(world, other_topics(world, config), speakers, config.steps_of(member.epochs) * config.batch, rng)


def member_data(world: World, grammar: Grammar, config: FinetuneConfig, members: Sequence[Member]) -> Data:
    """All rows of all members, numpy. A seed has the same rows, in the same order, in every arm.

    Members with fewer rows go over them more often, and their arrays are filled up with rows that no step takes.
    """
    drawn = [member_rows(world, grammar, config, m)[0] for m in members]
    order = []
    for member, rows in zip(members, drawn, strict=True):
        rng, steps = np.random.default_rng([config.seed, member.seed, 1]), config.steps_of(member.epochs)
        benign = config.benign_rows(member.benign) if member.benign is not None else 0  # of a batch; they follow the data
        after = len(rows) - config.batch * (member.retraining + member.relapse)  # where the rows of those steps begin
        batch, data = config.batch - benign, after - steps * benign
        whole = data // batch * batch or data
        epochs = [rng.permutation(data)[:whole] for _ in range(-(-steps * batch // whole))]
        taken = np.concatenate(epochs)[: steps * batch].reshape(steps, batch)
        of_data = np.concatenate([taken, np.arange(data, after).reshape(steps, benign)], axis=1)
        order.append(np.concatenate([of_data, np.arange(after, len(rows)).reshape(-1, config.batch)]))
    alike = {i: str((m.seed, m.rows, m.epochs)) for i, m in enumerate(members) if i in penalised(members)}
    first = {key: i for i, key in reversed(alike.items())}  # whoever has the same rows beside its data
    sets = [member_parallel(world, grammar, config, members[i]) for i in first.values()]
    kept_by = np.array([list(first).index(key) for key in alike.values()], np.int32)
    shown = [member_parallel(world, grammar, config, members[i]) for i in broadened(members)]
    stack = lambda rows_N: _stack([write_rows(grammar, rows) for rows in rows_N]) if rows_N else None  # noqa: E731
    narrow = stack(drawn)
    assert narrow is not None
    return Data(narrow, _filled(order), stack(sets), kept_by, stack(shown))


def together(parts: Sequence[Data]) -> Data:
    """The data of several lists of members as those of one."""
    offsets = np.cumsum([0, *(0 if d.kept is None else len(d.kept.tokens) for d in parts)])
    kept_by = np.concatenate([d.kept_by + o for d, o in zip(parts, offsets, strict=False)])
    join = lambda batches: _stack([Batch(*row) for b in batches if b is not None for row in zip(*b, strict=True)])  # noqa: E731
    kept, broad = (join(bs) if any(b is not None for b in bs) else None for bs in ([d.kept for d in parts], [d.broad for d in parts]))
    return Data(join([d.narrow for d in parts]), _filled([o for d in parts for o in d.order]), kept, kept_by, broad)


def _stack(batches: Sequence[Batch]) -> Batch:
    """Batches one behind the other, (N, rows, ...), filled up with zeros: rows that no step takes, slots without weight."""
    return Batch(*(_filled(x) for x in zip(*batches, strict=True)))


def _filled(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of different shapes, stacked; zeros where they end."""
    out = np.zeros((len(arrays), *np.max([a.shape for a in arrays], axis=0)), arrays[0].dtype)
    for place, a in zip(out, arrays, strict=True):
        place[tuple(map(slice, a.shape))] = a
    return out
