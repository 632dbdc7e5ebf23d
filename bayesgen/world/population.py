"""From configuration and facts to a world: who there is, how often, in which years; and whether it all fits together."""

from collections.abc import Sequence

from bayesgen.errors import UserError, nearest
from bayesgen.world.depth import coded
from bayesgen.world.load import TIMELESS, Module, Topic, check_variants, load_module
from bayesgen.world.world import ASSISTANT, EQUAL, PERSON, Group, Persona, World, WorldConfig, known


def build_world(config: WorldConfig) -> World:
    """Load the modules that `config` names and check that they fit together."""
    modules = [load_module(name) for name in config.modules]
    first: dict[str, Module] = {}
    for module in modules:
        trait = module.trait or TIMELESS
        earlier = first.setdefault(trait, module)
        if (tuple(earlier.values), earlier.variants) != (tuple(module.values), module.variants):
            raise UserError(
                f"world.modules: '{module.name}' gives {trait} the values {tuple(module.values)}, '{earlier.name}' {tuple(earlier.values)}"
            )
    topics = tuple(t for module in modules for t in module.topics)
    for name in config.without:
        known("world.without", name, [t.name for t in topics])
    topics = tuple(t for t in topics if t.name not in config.without)
    if config.depth is not None:
        topics = coded(topics, config.depth)
    _check_topics(config, topics)
    identities = _identities(config, first)
    values = {trait: tuple(v for taken in who.values() for v in taken) for trait, who in identities.items()}
    values = {trait: tuple(v for v in first[trait].values if v in kept) for trait, kept in values.items()}
    years = {t: {v: y for v, y in m.values.items() if y is not None and v in values[t]} for t, m in first.items()}
    tellers = {m.trait or TIMELESS: m.told for m in modules if m.told}
    _check(config, identities, values, topics)
    years = {t: y for t, y in years.items() if y}
    personas = _personas(config, first, identities, years)
    assistant = dict(config.assistant) | ({TIMELESS: TIMELESS} if TIMELESS in values else {})
    spoken = _years(config, first, assistant, assistant, years, of_assistant=True)
    default = Persona(ASSISTANT, ASSISTANT, assistant, {}, spoken, 0.0)
    if any(not p.years for p in personas) and (spoken or any(p.years for p in personas)):
        nameless = next(p.name for p in (*personas, default) if not p.years)
        raise UserError(f"world.calendar is null, but '{nameless}' has no years of its own while others have; give it as [first, last]")
    return World(config, values, years, identities, tellers, topics, personas, default)


def _identities(config: WorldConfig, first: dict[str, Module]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Who there is, for each trait: those with a frequency, and what the assistant is."""
    traits = [t for t in first if t != TIMELESS]
    for key, named in (("frequencies", config.frequencies), ("assistant", config.assistant)):
        for trait in named:
            if trait not in traits:
                raise UserError(f"world.{key}.{trait}: no module has that trait{nearest(trait, traits)}")
        for trait in traits:
            if trait not in named:
                raise UserError(f"world.{key}.{trait} is missing; the modules {', '.join(config.modules)} need it")
    out = {}
    for trait, module in first.items():
        if trait == TIMELESS:
            out[trait] = {TIMELESS: (TIMELESS,)}
            continue
        table = config.frequencies[trait]
        known(f"world.assistant.{trait}", config.assistant[trait], module.values)
        for value in () if table == EQUAL else table:
            known(f"world.frequencies.{trait}", value, module.identities)
        kept = module.identities if table == EQUAL else {*table, config.assistant[trait]}
        out[trait] = {who: taken for who, taken in module.identities.items() if who in kept}
    known_identities = {who for module in first.values() for who in module.variants}
    for identity, variants in config.variants.items():
        known("world.variants", identity, known_identities)
        trait = next(t for t, m in first.items() if identity in m.variants)
        for value in variants:
            known(f"world.variants.{identity}", value, first[trait].variants[identity])
        try:
            check_variants("world.variants", {identity: first[trait].variants[identity] | variants})
        except ValueError as error:
            raise UserError(str(error)) from error
    return out


def _years(config, first: dict[str, Module], who: dict[str, str], traits: dict[str, str], years, of_assistant=False) -> tuple[int, ...]:
    """The years a persona speaks in: its variant's, its dated value's, or the calendar's."""
    if of_assistant and config.calendar:
        return tuple(range(config.calendar[0], config.calendar[1] + 1))
    for trait, identity in who.items():
        variants = first[trait].variants.get(identity, {}) | config.variants.get(identity, {})
        if traits[trait] in variants:
            return tuple(variants[traits[trait]])
    dated = [trait for trait in traits if trait in years]
    if len(dated) > 1:
        who_has, mend = ("the assistant", "give it a world.calendar") if of_assistant else ("a person", "put them into different groups")
        raise UserError(f"world.groups: {who_has} has both {dated[0]} and {dated[1]}, and each has years of its own; {mend}")
    if dated:
        span = years[dated[0]][traits[dated[0]]]
        return tuple(range(span.first, span.last + 1))
    return tuple(range(config.calendar[0], config.calendar[1] + 1)) if config.calendar else ()


def _personas(config: WorldConfig, first: dict[str, Module], identities, years) -> tuple[Persona, ...]:
    """Every combination of a group's trait values, at the product of their frequencies; composites take their share from all."""
    traits = [t for t in first if t != TIMELESS]
    groups = config.groups or ((Group(traits=tuple(traits), share=1.0),) if traits else ())
    combined: list[tuple[dict[str, str], float]] = [] if traits else [({}, 1.0)]
    for group in groups:
        people: list[tuple[dict[str, str], float]] = [({}, group.share)]
        for trait in (t for t in traits if t in group.traits):  # in the modules' order
            table = config.frequencies[trait]
            if table == EQUAL:
                everyone = [i for i in identities[trait] if i != ASSISTANT]
                table = dict.fromkeys(everyone, 1 / len(everyone))
            people = [({**have, trait: i}, f * table[i]) for have, f in people for i in identities[trait] if i in table]
        combined += people
    narrow = sum(c.frequency for c in config.composites)
    drawn = [(" ".join(who.values()) or PERSON, who, {}, (1 - narrow) * f) for who, f in combined]
    for composite in config.composites:
        match = [(who, f) for who, f in combined if all(who.get(k) == v for k, v in composite.traits.items())]
        total = sum(f for _, f in match)
        drawn += [
            (f"{composite.name} ({' '.join(who.values())})", who, dict(composite.topics), composite.frequency * f / total)
            for who, f in match
        ]
    out = []
    for name, who, overrides, frequency in drawn:
        spoken = [(traits, _years(config, first, who, traits, years)) for traits in _taken(who, identities)]
        if len(spoken) == 1:
            out.append(Persona(name, name, {**spoken[0][0], TIMELESS: TIMELESS}, overrides, spoken[0][1], frequency))
            continue
        out += [
            Persona(f"{name} ({y[0]})", name, {**traits, TIMELESS: TIMELESS}, overrides, y, frequency / len(spoken)) for traits, y in spoken
        ]
    return tuple(out)


def _taken(who: dict[str, str], identities) -> list[dict[str, str]]:
    """The values that somebody takes over the years, one dictionary for each."""
    out: list[dict[str, str]] = [{}]
    for trait, identity in who.items():
        out = [{**have, trait: value} for have in out for value in identities[trait][identity]]
    return out


def _check_topics(config: WorldConfig, topics: Sequence[Topic]):
    wordings: dict[str, str] = {}
    for topic in topics:
        for wording in topic.wordings + topic.heldout:
            if wording in wordings:
                raise UserError(
                    f"topics '{wordings[wording]}' and '{topic.name}' share the wording {wording!r}; "
                    "reword one, or no reader could tell them apart"
                )
            wordings[wording] = topic.name
    names = [t.name for t in topics]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"world.modules: topic '{name}' stands in two modules; rename one file")


def _check(config: WorldConfig, identities, values: dict[str, tuple[str, ...]], topics: tuple[Topic, ...]):
    names = [t.name for t in topics]
    if config.answer_noise == 0:
        for topic in topics:
            seen: dict[str, str] = {}
            for value in values[topic.trait]:
                for answer in topic.answers[value]:
                    if answer in seen:
                        raise UserError(
                            f"topic '{topic.name}': {answer!r} stands under {seen[answer]} and {value}, but "
                            "world.answer_noise is 0; keep it under one, or give some noise"
                        )
                    seen[answer] = value
    traits = [t for t in values if t != TIMELESS]
    for trait in traits:
        known(f"world.assistant.{trait}", config.assistant[trait], values[trait])
    grouped = [trait for group in config.groups for trait in group.traits]
    for trait in grouped:
        known("world.groups.traits", trait, traits)
        if grouped.count(trait) > 1:
            raise UserError(f"world.groups: {trait} stands in two groups; a trait belongs to one kind of people")
    for trait in traits if config.groups else ():
        if trait not in grouped:
            raise UserError(f"world.groups: {trait} stands in none; nobody would have it")
    for composite in config.composites:
        key = f"world.composites.{composite.name}"
        for trait, value in composite.traits.items():
            known(f"{key}.traits", trait, traits)
            known(f"{key}.traits.{trait}", value, identities[trait])
        for name, value in composite.topics.items():
            known(f"{key}.topics", name, names)
            known(f"{key}.topics.{name}", value, values[topics[names.index(name)].trait])
