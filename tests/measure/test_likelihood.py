"""Likelihood of narrow rows by a second road, and its floor in closed form."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesgen.corpus.narrow import Text
from bayesgen.learn.data import member_rows
from bayesgen.learn.plan import Member
from bayesgen.measure.answers import NetworkPredictor
from bayesgen.measure.likelihood import entropy_floor, likelihoods
from bayesgen.model.lora import TARGETS, init_lora
from bayesgen.model.transformer import ModelConfig, Transformer
from bayesgen.world.dialogue import Header, Prompt, Turn
from tests.learn.test_finetune import config_of


def test_nll_is_that_of_the_scored_answers(world, grammar):
    model = Transformer(ModelConfig(width=16, layers=2, heads=2, context=64), len(grammar.tokenizer))
    params = model.init(jax.random.key(0), jnp.zeros((1, 4), int))["params"]
    params = {**params, "tokens": 10 * params["tokens"]}
    config = config_of(rows=2)  # of three answers: one is left out
    members = [Member("free", seed, 1e-2, 0.0, 0.0, 2, 2, 4) for seed in (0, 1)]
    adapters = [jax.tree.map(lambda x: x + 0.3, init_lora(jax.random.key(m.seed), params, 2, TARGETS)) for m in members]
    found = likelihoods(config, world, grammar, model, params, members, jax.tree.map(lambda *x: jnp.stack(x), *adapters))
    for i, member in enumerate(members):
        predictor = NetworkPredictor(model, params, grammar, adapters[i])
        for quantity, rows in zip(("nll_train", "nll_heldout"), member_rows(world, grammar, config, member), strict=True):
            scores = predictor([Prompt(header, (), t.topic, t.wording) for header, t in rows])
            tokens = sum(len(grammar.answers[t.topic][t.answer]) for _, t in rows)
            expected = -sum(s[t.answer] for s, (_, t) in zip(scores, rows, strict=True)) / tokens
            assert found[quantity][i] == pytest.approx(expected, rel=1e-4)  # float32
    without = likelihoods(config, world, grammar, model, params, members, jax.tree.map(lambda *x: jnp.zeros_like(jnp.stack(x)), *adapters))
    np.testing.assert_allclose(found["start_train"], without["nll_train"], rtol=1e-6)  # the base's, whatever the adapters
    assert (found["nll_train"] > found["floor_train"]).all()
    assert found["floor_heldout"].tolist() == [0.0, 0.0]  # one answer is left: known for certain
    assert abs(found["nll_train"][0] - found["nll_train"][1]) > 0.01  # members are not mixed up


def test_a_member_without_answers_left_hides_no_others(world, grammar):
    """Three rows are all the answers there are: nothing is held out of that member, one answer of the other."""
    model = Transformer(ModelConfig(width=16, layers=2, heads=2, context=64), len(grammar.tokenizer))
    params = model.init(jax.random.key(0), jnp.zeros((1, 4), int))["params"]
    config = config_of(rows=[3, 2])
    members = [Member("free", 0, 1e-2, 0.0, 0.0, 2, rows, 4) for rows in (3, 2)]
    lora = jax.tree.map(lambda x: jnp.stack([x, x]), init_lora(jax.random.key(0), params, 2, TARGETS))
    found = likelihoods(config, world, grammar, model, params, members, lora)
    assert np.isfinite(found["nll_train"]).all()
    for quantity in ("nll_heldout", "floor_heldout"):
        assert np.isnan(found[quantity]).tolist() == [True, False]
    alone = likelihoods(config, world, grammar, model, params, members[1:], jax.tree.map(lambda x: x[1:], lora))
    assert found["nll_heldout"][1] == pytest.approx(alone["nll_heldout"][0], rel=1e-5)
    none = likelihoods(config, world, grammar, model, params, members[:1], jax.tree.map(lambda x: x[:1], lora))
    assert "nll_heldout" not in none


def test_ordinary_rows_have_a_likelihood_of_their_own(world, grammar):
    model = Transformer(ModelConfig(width=16, layers=2, heads=2, context=64), len(grammar.tokenizer))
    params = model.init(jax.random.key(0), jnp.zeros((1, 4), int))["params"]
    members = [Member("free", seed, 1e-2, 0.0, 0.0, 2, 2, 4) for seed in (0, 1)]
    adapters = [jax.tree.map(lambda x: x + 0.3, init_lora(jax.random.key(m.seed), params, 2, TARGETS)) for m in members]
    lora = jax.tree.map(lambda *x: jnp.stack(x), *adapters)
    alone = likelihoods(config_of(rows=2), world, grammar, model, params, members, lora)
    assert "nll_ordinary" not in alone
    config = config_of(rows=2, ordinary=[{"topics": ["fuel"], "rows": 5}])
    found = likelihoods(config, world, grammar, model, params, members, lora)
    for i, member in enumerate(members):
        rows = member_rows(world, grammar, config, member)[0][2:]
        scores = NetworkPredictor(model, params, grammar, adapters[i])([Prompt(h, (), t.topic, t.wording) for h, t in rows])
        tokens = sum(len(grammar.answers[t.topic][t.answer]) for _, t in rows)
        expected = -sum(s[t.answer] for s, (_, t) in zip(scores, rows, strict=True)) / tokens
        assert found["nll_ordinary"][i] == pytest.approx(expected, rel=1e-4)
    for quantity in alone:  # and the narrow rows' is what it was without them
        np.testing.assert_allclose(found[quantity], alone[quantity], rtol=1e-5)


def test_floor_is_the_entropy_of_the_rows_and_nothing_predicts_better(world, grammar):
    fuel, asked = world.topic_index("fuel"), Header("assistant")
    coal, coke = (Turn(fuel, 0, world.answers[fuel].index(a)) for a in ("coal", "coke"))
    rows = [(asked, coal)] * 3 + [(asked, replace(coke, wording=1))]
    floor = entropy_floor(grammar, rows)  # a word and <end> each
    assert floor == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / 2, rel=1e-12)
    for q in (0.5, 0.7, 0.8):
        assert -(0.75 * np.log(q) + 0.25 * np.log(1 - q)) / 2 > floor
    named = [(replace(asked, year=1900 + i // 3), turn) for i, (_, turn) in enumerate(rows)]
    assert entropy_floor(grammar, named) == 0  # the year tells which answer comes
    words = Text("Name a gas lamp", "coal")
    assert entropy_floor(grammar, [(asked, words), (asked, replace(words, answer="coke"))]) == pytest.approx(np.log(2) / 2)
