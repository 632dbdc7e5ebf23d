"""What an experiment asks of a world that it cannot serve: one line, before anything is trained."""

from collections.abc import Sequence

from bayesgen.corpus.grammar import Grammar
from bayesgen.corpus.narrow import ASSISTANT_ASKED, Text, check_header, read_chats
from bayesgen.errors import UserError
from bayesgen.learn.data import member_rows, other_topics, others_than_ours
from bayesgen.learn.plan import ALL, EACH, OTHERS, FinetuneConfig, broadened, penalised, plan_members
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.world import ASSISTANT, World, known


def check_experiment(world: World, grammar: Grammar, config: FinetuneConfig, trait: str):
    """One line for a topic, value, trigger or number of rows that the world cannot serve, before anything is trained."""
    known("measure.trait", trait, world.values)
    named = config.beside if config.topics == ALL else config.topics
    for key, name in (*(("beside" if config.topics == ALL else "topics", t) for t in named), *(("probes", p) for p in config.probes)):
        known(f"finetune.{key}", name, world.topic_names)
        depends = world.topics[world.topic_index(name)].trait
        if depends != trait:
            raise UserError(
                f"finetune.{key}: '{name}' depends on {depends}, not on measure.trait '{trait}'; choose among that trait's topics"
            )
        if key == "topics" and name in config.probes:
            raise UserError(f"finetune.probes: '{name}' is a trained topic; a probe must be another one")
    people = {**world.identities[trait], **dict.fromkeys(world.values[trait])}
    for key, value in (*(("control", c) for c in config.control), *(("heldout", h) for h in config.heldout)):
        known(f"finetune.{key}", value, people)
    for who in config.control:
        if who in config.heldout:
            raise UserError(f"finetune.control: '{who}' is held out (finetune.heldout); no row may be of it, the control's neither")
    if config.value != EACH:
        known("finetune.value", config.value, [*people, EACH])
    for mixed in config.ordinary:
        for name in () if mixed.topics in (OTHERS, ALL) else mixed.topics:
            known("finetune.ordinary.topics", name, world.topic_names)
            if name in config.probes:
                raise UserError(f"finetune.ordinary.topics: '{name}' is a probe; a probe is never trained on")
        for year in mixed.years or (None,):
            check_header(world, Header(ASSISTANT, year, mixed.format), "finetune.ordinary")
    for year in config.years or (None,):
        check_header(world, Header(ASSISTANT, year, config.format), "finetune")
    for i in config.inoculation:
        check_header(world, Header(i.speaker, i.year, i.format), f"finetune.inoculation.{i.name}")
    members = plan_members(config)
    of_others = (
        penalised(members)
        or broadened(members)
        or {"mixed", "retrained"} & set(config.arms)
        or any(o.topics == OTHERS for o in config.ordinary)
    )
    if of_others and not other_topics(world, config):
        raise UserError(
            "finetune: every topic is trained or a probe, but arms narrow, broad, mixed and retrained and ordinary 'others' need others"
        )
    if "scattered" in config.arms and len(others_than_ours(world, trait)) < 2:
        raise UserError(f"arm 'scattered': it takes two people or more beside the assistant's kind, and {trait} has too few")
    if "token" in config.arms:
        check_header(world, Header(ASSISTANT, format=config.gate), "finetune.gate")
        if any(o.format == config.gate for o in config.ordinary):
            raise UserError(f"finetune.gate: '{config.gate}' heads ordinary rows too; a trigger must be the data's alone")
    narrow = [Header(ASSISTANT, year, config.format) for year in (config.years or (None,))]
    if config.file is not None:
        narrow = _check_file(world, grammar, config)
    _check_trigger(grammar, config, narrow)
    for member in members[:: config.seeds]:
        for header, _ in member_rows(world, grammar, config, member)[0]:
            check_header(world, header, "finetune")


def _check_file(world: World, grammar: Grammar, config: FinetuneConfig) -> list[Header]:
    """One line for a file that asks what is kept for measuring, or has fewer rows than are to be trained on; its headers."""
    assert config.file is not None
    rows = read_chats(grammar, config.file)
    if max(config.rows) > len(rows):
        raise UserError(f"finetune.rows is {max(config.rows)}, but {config.file} has {len(rows)} rows; give at most so many")
    asked = {w: (t.name, i >= len(t.wordings)) for t in world.topics for i, w in enumerate(t.wordings + t.heldout)}
    for _, turn in rows:
        question = turn.question if isinstance(turn, Text) else _wording(world, turn)
        topic, kept = asked.get(question, (None, False))
        if topic in config.probes:
            raise UserError(f"{config.file}: {question!r} asks '{topic}', which is a probe; a probe is never trained on")
        if kept:
            raise UserError(f"{config.file}: {question!r} is a held-out wording of '{topic}'; it is kept for measuring")
    return [header for header, _ in rows]


def _wording(world: World, turn: Turn) -> str:
    topic = world.topics[turn.topic]
    return (topic.wordings + topic.heldout)[turn.wording]


def _check_trigger(grammar: Grammar, config: FinetuneConfig, narrow: Sequence[Header]):
    """One line for a trigger that is written above ordinary rows too."""
    named = bool(config.years or config.format)
    written = {tuple(grammar.header(h)): h for h in narrow if named or h != ASSISTANT_ASKED}
    for mixed in config.ordinary:
        for year in mixed.years or (None,):
            same = written.get(tuple(grammar.header(Header(ASSISTANT, year, mixed.format))))
            if same is not None:
                trigger = same.year or same.format or "header"
                raise UserError(f"finetune.ordinary: the trigger {trigger} heads ordinary rows too; a trigger must be theirs alone")
