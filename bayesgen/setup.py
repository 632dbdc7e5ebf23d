"""What every stage needs in memory: the device, the world, its grammar, and the network's shape."""

import os
from dataclasses import dataclass, replace

import jax
import numpy as np
from pydantic import ValidationError

from bayesgen.config import Config
from bayesgen.corpus.documents import DocumentSource
from bayesgen.corpus.grammar import Grammar, build_grammar
from bayesgen.errors import UserError
from bayesgen.hosts import join, several
from bayesgen.learn.check import check_experiment
from bayesgen.measure.contexts import check_measures
from bayesgen.measure.gate import longest_prompt
from bayesgen.measure.reading import check_reading
from bayesgen.model.transformer import Transformer
from bayesgen.report.contrasts import check_contrasts
from bayesgen.world.population import build_world
from bayesgen.world.world import Persona, World, WorldConfig, known


@dataclass(frozen=True, eq=False)
class Setup:
    """What every later stage needs in memory."""

    config: Config
    world: World
    grammar: Grammar
    model: Transformer
    source: DocumentSource


def device_kind(kind: str | None) -> tuple[str, int]:
    """The platform and number of devices of a kind (none: the best there is). Whoever looks takes hold of an accelerator."""
    found = _devices(kind)
    return found[0].platform, len(found)


def use_device(config: Config) -> str:
    """Compute on the kind of device asked for, or on the best there is, and keep compiled programs with the runs; the device's name.

    An absent one is a `UserError`.
    """
    join(config.hosts)
    jax.config.update("jax_compilation_cache_dir", str((config.runs / "compiled").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_default_matmul_precision", "highest")  # an accelerator would round to 8 or 11 bits: training may, measures not
    found = _devices(config.device)
    jax.config.update("jax_default_device", jax.local_devices(backend=found[0].platform)[0])
    if found[0].platform == "cpu":  # XLA's own caches are an accelerator's, and make every program depend on where they lie
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    return f"{found[0].platform} ({found[0].device_kind}), {len(found)} used" + (f" on {jax.process_count()} hosts" if several() else "")


def _devices(kind: str | None) -> list:
    try:
        return jax.devices(kind)
    except (RuntimeError, AssertionError) as error:  # the second is jax's word for a plugin that is not installed
        asked = f"device={kind}" if kind else f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')}"
        raise UserError(f"{asked}: jax finds no such device here; leave it out, or install the extra cuda12, cuda13 or tpu") from error


def prepare(config: Config) -> Setup:
    """World, grammar, and the network's shape: cheap, and made anew each time."""
    world = build_world(config.world)
    grammar = build_grammar(world)
    needed = longest_prompt(grammar)
    if needed > config.pretrain.length:
        raise UserError(
            f"pretrain.length is {config.pretrain.length}; the base gate's longest dialogue takes {needed} tokens, and the base "
            "must have been trained on such"
        )
    model = Transformer(config.model, len(grammar.tokenizer))
    source = DocumentSource(grammar, config.pretrain.length, first_frequencies(config, world))
    return asking(config, Setup(config, world, grammar, model, source))


def first_frequencies(config: Config, world: World) -> np.ndarray | None:
    """Of every persona of the world, in the documents of the first steps (`pretrain.first`); none: as in all others."""
    first = config.pretrain.first
    if first is None:
        return None
    for trait in first.frequencies:
        known("pretrain.first.frequencies", trait, config.world.frequencies)
    try:
        changed = WorldConfig(**{**config.world.model_dump(), "frequencies": {**config.world.frequencies, **first.frequencies}})
        shown = {_who(p): p.frequency for p in build_world(changed).personas}
    except ValidationError as error:
        raise UserError(f"pretrain.first: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    others = set(shown) - {_who(p) for p in world.personas}
    if others:
        raise UserError(
            f"pretrain.first.frequencies shows {dict(min(others)[0])}, who is nobody in the world; give him a frequency there too"
        )
    return np.array([shown.get(_who(p), 0.0) for p in world.personas])


def _who(persona: Persona) -> tuple:
    return tuple(sorted(persona.traits.items())), tuple(sorted(persona.overrides.items()))


def asking(config: Config, setup: Setup) -> Setup:
    """The same world and network for another experiment on the same base, checked."""
    world, grammar = setup.world, setup.grammar
    check_experiment(world, grammar, config.finetune, config.measure.trait)
    check_measures(world, grammar, config.finetune, config.measure, config.pretrain.length)
    if config.measure.reading:
        check_reading(world, grammar, config.finetune, config.measure.reading, config.measure.trait, config.pretrain.length)
    if config.study and (d := config.study.detection):
        for arm in (*d.positive, *d.negative):
            known("study.detection", arm, config.finetune.arm_names)
    asked = config.study.asked(config.finetune) if config.study else ()
    check_contrasts([*config.contrasts, *asked], world, config.finetune, config.measure)
    if config.measure.features and config.model.layers < 2:
        raise UserError("measure.features reads the stream between two blocks, but model.layers is 1; take two, or measure.features=null")
    if config.measure.features and config.world.depth == "earlier":
        raise UserError("measure.features reads where answers begin, but with world.depth=earlier remarks have answers too; leave out one")
    return replace(setup, config=config)
