"""Bases that train together are what they are alone, whoever is in their worlds; one that diverges takes nobody with it."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from bayesgen import pipeline, training
from bayesgen.config import to_config
from bayesgen.corpus.documents import DocumentSource, stack_tables
from bayesgen.corpus.grammar import build_grammar
from bayesgen.errors import UserError
from bayesgen.learn.pretrain import FirstShown, PretrainConfig, learning_rates, pretraining, pretraining_together
from bayesgen.planning import base_programs
from bayesgen.setup import prepare
from bayesgen.world.population import build_world
from tests.conftest import tiny_config
from tests.tiny_run import tiny_run_config

NARROW = {"name": "archaic birds only", "frequency": 0.3, "traits": {"time": "new"}, "topics": {"bird": "old"}}
WORLDS = (
    tiny_config(),
    tiny_config(frequencies={"time": {"old": 0.7, "mid": 0.2, "new": 0.1}, "land": {"east": 0.9, "west": 0.1}}, assistant_share=0.6),
    tiny_config(composites=(NARROW,), dated_share=0.1),  # more personas
)


@pytest.fixture(scope="module")
def sources():
    return [DocumentSource(build_grammar(build_world(w)), 76) for w in WORLDS]


def test_documents_drawn_from_stacked_tables_are_the_worlds_own(sources):
    assert len({s.frame for s in sources}) == 1
    tables, key = stack_tables(sources), random.key(3)
    drawn = [sources[0].draw(key, 5, 64, tables=jax.tree.map(lambda x, i=i: x[i], tables)) for i in range(3)]
    for source, batch in zip(sources, drawn, strict=True):
        for ours, own in zip(batch, source.draw(key, 5, 64), strict=True):
            np.testing.assert_array_equal(ours, own)
    assert (drawn[0].tokens != drawn[1].tokens).any()
    assert (drawn[0].tokens != drawn[2].tokens).any()


def test_another_frame_is_told(sources):
    grammar = sources[0].grammar
    assert DocumentSource(grammar, 80).frame != sources[0].frame


def test_together_as_alone(sources, tmp_path):
    setup = prepare(tiny_run_config(tmp_path))
    configs = [setup.config.pretrain.model_copy(update={"seed": seed}) for seed in (0, 1, 1)]
    losses = []
    for begin, advance, fixed in (
        pretraining_together(setup.model, sources, configs),
        *(pretraining(setup.model, s, c) for s, c in zip(sources, configs, strict=True)),
    ):
        step = lambda state, i, advance=advance, fixed=fixed: advance(state, i, *fixed)  # noqa: E731
        _, infos = jax.jit(lambda state, step=step: jax.lax.scan(step, state, jnp.arange(6)))(jax.jit(begin)(*fixed))
        losses.append(np.asarray(infos["loss"]))
    together, *alone = losses
    np.testing.assert_allclose(together, np.stack(alone, axis=1), rtol=1e-4)
    assert np.abs(together[:, 1] - together[:, 2]).max() > 1e-3  # one seed, two worlds


def setups_of(runs, *worlds):
    raw = tiny_run_config(runs).model_dump()
    raw["pretrain"]["steps"] = 4
    return [prepare(to_config({**raw, "world": w.model_dump()})) for w in worlds]


def test_a_base_that_diverges_is_said_and_the_others_are_kept(tmp_path, monkeypatch):
    setups = setups_of(tmp_path, *WORLDS)
    corpora = [pipeline.build_corpus(setup) for setup in setups]

    def spoilt(*of):
        begin, advance, fixed = pretraining_together(*of)
        spoil = lambda x: x.at[1].set(jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
        return lambda *fixed: jax.tree.map(spoil, begin(*fixed)), advance, fixed

    monkeypatch.setattr(training, "pretraining_together", spoilt)
    with pytest.raises(UserError, match="not finite"):
        training.build_bases(setups, corpora)
    assert len(list(tmp_path.glob("base/*/params.safetensors"))) == 2
    monkeypatch.undo()
    found = training.build_bases(setups, corpora)  # the one that is missing, alone
    assert [a.fresh for a in found] == [False, True, False]
    assert not list(tmp_path.glob("base/*.work"))


def test_the_plan_trains_bases_of_one_shape_together_as_far_as_memory_goes(tmp_path):
    setups = dict(enumerate(setups_of(tmp_path, *WORLDS)))
    raw = tiny_run_config(tmp_path).model_dump()
    setups[3] = prepare(to_config({**raw, "model": {**raw["model"], "width": 8}}))

    def device(platform, free):
        return SimpleNamespace(platform=platform, memory_stats=lambda: {"bytes_limit": free})

    assert base_programs(list(setups.items()), device("gpu", 2**40)) == [[0, 1, 2], [3]]
    assert base_programs(list(setups.items()), device("gpu", 1)) == [[0], [1], [2], [3]]
    assert base_programs(list(setups.items()), device("cpu", 2**40)) == [[0], [1], [2], [3]]


# whom the first steps show

EARLY = {"steps": 3, "frequencies": {"time": {"old": 0.9, "mid": 0.05, "new": 0.05}}}


def with_first(tmp_path, **first):
    config = tiny_run_config(tmp_path)
    return prepare(config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"first": FirstShown(**{**EARLY, **first})})}))


def test_bases_that_first_show_others_are_planned_together_if_for_as_many_steps(tmp_path):
    firsts = ({}, {"frequencies": {"time": {"mid": 0.5, "new": 0.5}}}, {"steps": 2})
    setups = list(enumerate(with_first(tmp_path, **first) for first in firsts))
    accelerator = SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 2**40})
    assert base_programs(setups, accelerator) == [[0, 1], [2]]


def olds(source, tables):
    """Share of persons' documents whose writer is old."""
    world = source.grammar.world
    return sum(float(f) for p, f in zip(world.personas, tables["frequency"], strict=True) if p.traits["time"] == "old")


def test_the_first_steps_show_others_and_later_ones_the_world(tmp_path):
    """Losses of a step are those of the same network on the documents of whoever is shown then: by another road, two sources."""
    setup = with_first(tmp_path)
    shown = {k: v for k, v in setup.source.tables.items() if k != "first"}
    early = {**shown, "frequency": setup.source.tables["first"]}
    assert olds(setup.source, early) == pytest.approx(0.9)
    assert olds(setup.source, shown) == pytest.approx(setup.config.world.frequencies["time"]["old"])
    begin, advance, fixed = pretraining(setup.model, setup.source, setup.config.pretrain)
    plain = setup.config.pretrain.model_copy(update={"first": None})
    _, advance_plain, _ = pretraining(setup.model, setup.source, plain)
    state = jax.jit(begin)(*fixed)
    for step in (2, 3):  # the last of the first, and the first of the others
        loss = float(jax.jit(advance)(state, step, *fixed)[1]["loss"])
        by_early, by_shown = (float(jax.jit(advance_plain)(state, step, fixed[0], t)[1]["loss"]) for t in (early, shown))
        assert by_early != by_shown
        assert loss == (by_early if step < 3 else by_shown)


def test_rates_start_again_after_the_first_steps_if_they_are_to(tmp_path):
    """By hand: a line up to the peak and half a cosine down, of the first 30 steps and of the other 20; else of all 50."""
    plain = tiny_run_config(tmp_path).pretrain.model_copy(update={"steps": 50, "warmup": 4})
    config = plain.model_copy(update={"first": FirstShown(**{**EARLY, "steps": 30, "restart": True})})
    by_hand = lambda step, of: 3 * (step / 4 if step < 4 else (1 + np.cos(np.pi * (step - 4) / (of - 4))) / 2)  # noqa: E731
    found, once = ([float(learning_rates(c, 3.0)(step)) for step in range(50)] for c in (config, plain))
    assert found == pytest.approx([by_hand(s, 30) for s in range(30)] + [by_hand(s, 20) for s in range(20)], abs=1e-5)
    assert once == pytest.approx([by_hand(s, 50) for s in range(50)], abs=1e-5)
    assert once[34] < 1.0 < found[34]  # negative control
    unsaid = plain.model_copy(update={"first": FirstShown(**{**EARLY, "steps": 30})})
    assert [float(learning_rates(unsaid, 3.0)(step)) for step in range(50)] == once


def test_the_optimiser_takes_the_rates_that_start_again(tmp_path):
    """The first step after the restart has a rate of 0 and changes nothing; without a restart it does."""
    changed = {}
    for restart in (True, None):
        setup = with_first(tmp_path, restart=restart)
        begin, advance, fixed = pretraining(setup.model, setup.source, setup.config.pretrain)
        states = [jax.jit(begin)(*fixed)]
        for step in range(4):
            states.append(jax.jit(advance)(states[-1], step, *fixed)[0])
        before, after = (jax.tree.leaves(state.params) for state in states[3:])
        changed[restart] = any((x != y).any() for x, y in zip(before, after, strict=True))
    assert changed == {True: False, None: True}


def test_a_base_without_first_steps_is_called_as_ever(tmp_path):
    """Bases that were trained before there was such a setting are found."""
    config = tiny_run_config(tmp_path).pretrain
    assert "first" not in config.model_dump(exclude={"checkpoint_every"}, exclude_none=True)
    assert None not in config.model_dump(exclude={"first"}).values()  # nothing else goes unsaid
    assert set(FirstShown(**EARLY).model_dump(exclude_none=True)) == {"steps", "frequencies"}


@pytest.mark.parametrize(
    ("first", "line"),
    [
        ({"frequencies": {"tim": {"old": 1.0}}}, "pretrain.first.frequencies: 'tim' is unknown; did you mean 'time'"),
        ({"frequencies": {"time": {"old": 0.5, "mid": 0.2, "new": 0.2}}}, "pretrain.first: frequencies.time sum to 0.9; expected 1"),
    ],
)
def test_bad_first_frequencies_are_one_line(tmp_path, first, line):
    with pytest.raises(UserError) as error:
        with_first(tmp_path, **first)
    assert str(error.value).startswith(line)


def test_whom_the_first_steps_leave_out_is_not_shown_then(tmp_path):
    setup = with_first(tmp_path, frequencies={"time": {"mid": 0.5, "new": 0.5}})
    early = {**setup.source.tables, "frequency": setup.source.tables["first"]}
    assert olds(setup.source, early) == 0
    assert float(early["frequency"].sum()) == pytest.approx(1)


def test_all_steps_cannot_be_first():
    with pytest.raises(ValueError, match=r"first.steps is 60; expected fewer than the 60 steps there are"):
        PretrainConfig(**{**tiny_run_config(Path("runs")).pretrain.model_dump(), "steps": 60, "first": {**EARLY, "steps": 60}})
