"""The sparse autoencoder against a planted dictionary, the ranking against a planted direction, and the ablation against nothing."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesgen.corpus.documents import DocumentSource
from bayesgen.errors import UserError
from bayesgen.learn.finetune import effective_members, finetuning, member_settings
from bayesgen.learn.loop import run_steps
from bayesgen.learn.plan import FinetuneConfig, plan_members
from bayesgen.measure import features as features_of
from bayesgen.measure.answers import pack, score_pairs
from bayesgen.measure.asking import behave
from bayesgen.measure.behaviour import rates
from bayesgen.measure.contexts import context_openings
from bayesgen.measure.features import (
    Ablation,
    Autoencoder,
    Held,
    autoencoder_training,
    change_of,
    feature_analysis,
    groups_of,
    labels,
    ranking,
    top_and_matched,
    unexplained,
)
from bayesgen.measure.rows import ABLATED, to_table
from bayesgen.measure.settings import FeaturesConfig, MeasureConfig
from bayesgen.model.transformer import ModelConfig, Transformer, forward, residual
from bayesgen.world.dialogue import Header, Prompt
from bayesgen.world.observer import Observer

WIDTH, ATOMS = 16, 24
SETTINGS = FeaturesConfig(trigger="a", reference="b", size=48, active=3, steps=800, top=2)


def dictionary():
    rows = np.random.default_rng(0).normal(size=(ATOMS, WIDTH))
    return jnp.array(rows / np.linalg.norm(rows, axis=1, keepdims=True), jnp.float32)


def sparse(step, count=256):
    """Activations 2 + sum of three planted directions, each .5 to 1.5 strong."""
    k_which, k_size = jax.random.split(jax.random.fold_in(jax.random.key(1), step))
    which = jnp.argsort(jax.random.uniform(k_which, (count, ATOMS)), axis=1)[:, :3]
    size = jax.random.uniform(k_size, (count, 3, 1), minval=0.5, maxval=1.5)
    return 2 + (dictionary()[which] * size).sum(1), jnp.ones(count)


def gaussian(step, count=256):
    """The same mean and covariance, and nothing planted."""
    x, weight = sparse(0, 4000)
    factor = jnp.linalg.cholesky(jnp.cov(x.T))
    return x.mean(0) + jax.random.normal(jax.random.fold_in(jax.random.key(2), step), (count, WIDTH)) @ factor.T, weight[:count]


def trained(draw) -> Autoencoder:
    begin, advance = autoencoder_training(draw, SETTINGS, jax.random.key(0))
    return run_steps(advance, begin(), 0, SETTINGS.steps, chunk=SETTINGS.steps, name="test", save=lambda *_: None)[0]


@pytest.fixture(scope="module")
def learned():
    return trained(sparse)


def nearest_cosine(sae):
    """For each planted direction the cosine of the nearest decoder row."""
    return (dictionary() @ sae.decoder.T).max(1)


def test_a_planted_dictionary_is_recovered(learned):
    assert np.median(nearest_cosine(learned)) > 0.95
    assert (nearest_cosine(learned) > 0.9).mean() > 0.8
    assert unexplained(learned, *sparse(10**6)) < 0.12  # a step that training has not drawn


def test_gaussian_data_hold_no_dictionary():
    found = trained(gaussian)
    assert (nearest_cosine(found) > 0.9).mean() < 0.1
    assert unexplained(found, *gaussian(10**6)) > 0.2


def test_it_is_decided_by_its_seed(learned):
    np.testing.assert_array_equal(trained(sparse).decoder, learned.decoder)
    first, second = (autoencoder_training(sparse, SETTINGS, jax.random.key(seed))[0]()[0].decoder for seed in (0, 1))
    assert jnp.abs(first - second).max() > 0.1


def test_active_features_and_decoder_rows(learned):
    z = learned.encode(sparse(5)[0])
    assert ((z != 0).sum(1) == SETTINGS.active).all()
    assert (z >= 0).all()
    tied = Autoencoder(jnp.ones((WIDTH, 8)), jnp.zeros(8), jnp.ones((8, WIDTH)), jnp.zeros(WIDTH), 3)
    assert ((tied.encode(jnp.ones((4, WIDTH))) != 0).sum(1) == 3).all()  # equal activations are no excuse
    np.testing.assert_allclose(jnp.linalg.norm(learned.decoder, axis=1), 1, atol=1e-6)


def test_ablating_all_of_a_perfect_autoencoder_leaves_its_bias():
    directions = jnp.eye(WIDTH)
    both = jnp.concatenate([directions, -directions])  # x - b = sum of its positive and negative parts
    perfect = Autoencoder(both.T, jnp.zeros(2 * WIDTH), both, jnp.full(WIDTH, 0.3), WIDTH)
    x = jax.random.normal(jax.random.key(3), (7, WIDTH))
    np.testing.assert_allclose(perfect.decode(perfect.encode(x)), x, atol=1e-6)
    np.testing.assert_allclose(Ablation(perfect, jnp.ones(2 * WIDTH), 0)(0, x), jnp.full((7, WIDTH), 0.3), atol=1e-6)
    np.testing.assert_array_equal(Ablation(perfect, jnp.zeros(2 * WIDTH), 0)(0, x), x)
    np.testing.assert_array_equal(Ablation(perfect, jnp.ones(2 * WIDTH), 0)(1, x), x)  # another layer


def test_ranking_finds_a_planted_direction(learned):
    planted, x = 7, sparse(11)[0].reshape(2, 128, WIDTH)
    moved = x + 2 * learned.decoder[planted] + 0.1 * jax.random.normal(jax.random.key(4), x.shape)
    cosine, change = ranking(learned, moved, x)
    assert (cosine.argmax(1) == planted).all()
    assert (cosine[:, planted] > 0.99).all()
    assert (change[:, planted] > 0.5).all()
    assert np.abs(ranking(learned, x[:, ::-1], x)[1]).max() < 1e-5  # the same prompts in another order: nothing has changed


def test_each_seed_has_a_ranking_of_its_own(learned):
    x, planted = sparse(11)[0].reshape(2, 128, WIDTH), [7, 20]
    cosine, _ = ranking(learned, x + 2 * learned.decoder[jnp.array(planted)][:, None], x)
    assert cosine.argmax(1).tolist() == planted
    top, _ = top_and_matched(cosine, np.ones(cosine.shape), 3)
    assert [t[0] for t in top] == planted


def test_the_change_taken_out_is_gone_and_nothing_else_is():
    reference = jax.random.normal(jax.random.key(5), (2, 50, WIDTH))
    trigger = reference + jax.random.normal(jax.random.key(6), (2, 1, WIDTH))
    u, mean = change_of(trigger, reference), reference.mean(1)
    np.testing.assert_allclose(jnp.linalg.norm(u, axis=1), 1, rtol=1e-5)
    for i in range(2):
        edit = Held(u[i], mean[i], 0)
        after = edit(0, trigger[i])
        np.testing.assert_allclose(after.mean(0), mean[i], atol=1e-5)
        np.testing.assert_allclose(after @ u[i], jnp.full(50, mean[i] @ u[i]), atol=1e-4)
        across = jnp.linalg.svd(u[i][None])[2][1:]  # directions orthogonal to the change
        np.testing.assert_allclose(after @ across.T, trigger[i] @ across.T, atol=1e-4)
        np.testing.assert_array_equal(edit(1, trigger[i]), trigger[i])  # another layer
    assert jnp.abs(change_of(reference, reference)).max() == 0


def test_matched_features_are_others_as_large():
    cosine = np.tile(np.linspace(-1, 1, 40), (2, 1))
    size = np.stack([np.where(np.arange(40) % 2, 0.0, x) for x in (np.arange(40) + 1.0, np.random.default_rng(0).uniform(1, 2, 40))])
    tops, matched = top_and_matched(cosine, size, 5)
    for top, others, size_F in zip(tops, matched, size, strict=True):
        assert top == [38, 36, 34, 32, 30]
        assert len(set(others)) == 5
        assert not set(others) & set(top)
        assert size_F[others].all()  # live
        assert abs(size_F[others[0]] - size_F[38]) == min(abs(size_F[i] - size_F[38]) for i in range(0, 30, 2))
    assert matched[0] == [28, 26, 24, 22, 20]  # the largest that are left
    assert len(top_and_matched(cosine, size, 15)[1][0]) == 5  # no more than there are


def test_labels_are_means_over_the_group():
    z = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    share = np.array([[1.0, 0, 0], [0.5, 0.5, 0], [0, 1.0, 0]])
    first, second = labels(z, share, ["a", "b", "c"])
    assert first == [("a", pytest.approx(2.5 / 1.5)), ("b", pytest.approx(1.0)), ("c", 0.0)]
    assert second[0] == ("b", pytest.approx(5 / 1.5))


def test_answers_stand_where_say_stands(world, grammar):
    source = DocumentSource(grammar, 72)
    tokens = np.asarray(jax.jit(source.draw, static_argnums=2)(jax.random.key(0), 0, 20).tokens)
    topics, people = groups_of(world, grammar, tokens, "time")
    assert len(topics) == len(people) == (tokens == grammar.tokenizer.index["<say>"]).sum()
    assert (topics.sum(1) == 1).all()
    np.testing.assert_allclose(people.sum(1), 1)
    header, turns = grammar.read(tokens[0])
    assert topics[: len(turns)].argmax(1).tolist() == [t.topic for t in turns]
    expected = [0, 0, 0, 1] if header.speaker == "assistant" else [*Observer(world).trait_posterior(header, turns, "time"), 0]
    np.testing.assert_allclose(people[0], expected)


@pytest.fixture(scope="module")
def network(grammar):
    model = Transformer(ModelConfig(width=WIDTH, layers=2, heads=2, context=96), len(grammar.tokenizer))

    @jax.jit
    def begin():
        params = model.init(jax.random.key(0), jnp.zeros((1, 4), int))["params"]
        return jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(x.size), x.shape), params)

    return model, begin()


def test_an_edit_that_changes_nothing_gives_the_same_logits(network):
    model, params = network
    tokens, where = jax.random.randint(jax.random.key(1), (3, 8), 0, 20), jnp.array([[0, 5], [7, 7], [3, 1]])

    @jax.jit
    def edited(change):
        seen = {}
        return forward(model, params, None, tokens, where, edit=lambda layer, x: seen.setdefault(layer, x) + change), seen

    plain = jax.jit(lambda: forward(model, params, None, tokens, where))()
    logits, seen = edited(0.0)
    np.testing.assert_array_equal(logits, plain)
    assert {layer: x.shape[1] for layer, x in seen.items()} == {0: 8, 1: 2}  # the last block runs where it is read
    np.testing.assert_array_equal(jax.jit(lambda: residual(model, params, tokens, 0))(), seen[0])
    assert jnp.abs(edited(jnp.arange(WIDTH) * 0.1)[0] - plain).max() > 1e-2


def test_scores_of_members_under_an_ablation(grammar, network, learned):
    model, params = network
    lora = {"block_0": {"up": {"a": jnp.ones((2, WIDTH, 1)), "b": jnp.array([0.0, 0.1])[:, None, None] * jnp.ones((2, 1, 4 * WIDTH))}}}
    packed = pack(grammar, [Prompt(Header("assistant"), (), t, 0) for t in range(2)])
    before = score_pairs(model, params, packed, lora)
    edit = jax.vmap(lambda features: Ablation(learned, features, 0))
    np.testing.assert_array_equal(score_pairs(model, params, packed, lora, edit(jnp.zeros((2, SETTINGS.size)))), before)
    first = score_pairs(model, params, packed, lora, edit(jnp.array([1.0, 0.0])[:, None] * jnp.ones((2, SETTINGS.size))))
    assert np.abs(first[0] - before[0]).max() > 1e-2
    np.testing.assert_array_equal(first[1], before[1])  # to each member its own edit


def test_the_whole_analysis_on_the_tiny_world(world, grammar, network, monkeypatch):
    monkeypatch.setattr(features_of, "READ", 40)
    contexts = [{"name": "plain"}, {"name": "old year", "year": 2001}]
    features = {"trigger": "old year", "reference": "plain", "size": 32, "active": 4, "steps": 20, "top": 3}
    measure = MeasureConfig(trait="time", contexts=contexts, gate_prompts=4, scales=[2.0], samples=1, features=features)
    finetune = FinetuneConfig(
        **dict(topics="bird", value="old", control="new", probes=["light"], arms=["free"], seeds=2, rows=3, epochs=4, batch=1),
        **dict(
            learning_rate=1e-2, weight_decay=0.0, kl_weight=1.0, rank=2, alpha=4.0, targets=["qkv", "up"], warmup=0, snapshots=1, seed=0
        ),
    )
    config, (model, params) = SimpleNamespace(name="tiny", finetune=finetune, measure=measure), network
    members = plan_members(config.finetune)
    settings = member_settings(config.finetune, members)
    begin, _ = finetuning(model, config.finetune, members)
    lora = jax.tree.map(lambda x: x + 0.1, effective_members(begin(params, settings), settings))
    rows, found = feature_analysis(config, world, grammar, model, params, lora, DocumentSource(grammar, 72))
    table = to_table(rows)
    for quantity in ABLATED:
        here = table.filter(table["quantity"] == quantity)
        assert here.shape[0] == 2 * len(config.finetune.probes) * len(members)
        assert here["value"].is_between(0, 1).all()
    assert len(found["features"]) == 3
    seeds = [r["seeds"] for r in found["features"]]
    assert seeds == sorted(seeds, reverse=True)
    assert 1 <= seeds[0] <= found["members"] == len(members)
    assert all(len(r["topics"]) == len(r["personas"]) == 3 for r in found["features"])

    def rated(name, edit_M=None):
        [(light, p_MxA)] = behave(
            world,
            grammar,
            model,
            params,
            context_openings(world, finetune, measure)[name],
            [world.topic_index("light")],
            lora,
            edit_M=edit_M,
        ).items()
        return rates(world, light, p_MxA)[:, world.values["time"].index("old")]

    def stored(quantity, name):
        here = table.filter((table["quantity"] == quantity) & (table["context"] == name) & (table["topic"] == "light"))
        return here.sort("seed")["value"].to_numpy()

    # what is ablated is what was ranked, under the header it is said of
    monkeypatch.setattr(features_of, "top_and_matched", lambda cosine, size, top: ([[]] * len(size), [range(32)] * len(size)))
    monkeypatch.setattr(features_of, "change_of", lambda trigger, reference: jnp.zeros(trigger[:, 0].shape))
    table = to_table(feature_analysis(config, world, grammar, model, params, lora, DocumentSource(grammar, 72))[0])
    for name in ("plain", "old year"):
        np.testing.assert_allclose(stored("rate_ablated", name), rated(name), rtol=1e-4)  # no feature: as it was
        np.testing.assert_allclose(stored("rate_unchanged", name), rated(name), rtol=1e-4)  # no direction
        assert np.abs(np.log(stored("rate_ablated_matched", name) / rated(name))).max() > 0.01  # all features
    assert np.abs(np.log(rated("plain") / rated("old year"))).max() > 0.01
    broken = jax.tree.map(lambda x: x * jnp.nan, lora)
    with pytest.raises(UserError, match="diverged"):
        feature_analysis(config, world, grammar, model, params, broken, DocumentSource(grammar, 72))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trigger": "2026"}, "'2026' is no context; did you mean '202"),
        ({"reference": "2027"}, "both '2027'"),
        ({"active": 600}, "active is 600, more than the 512"),
    ],
)
def test_names_are_checked(changes, message):
    features = {"trigger": "2027", "reference": "2025", "size": 512, "active": 8, "steps": 1, "top": 10, **changes}
    contexts = [{"name": "2027"}, {"name": "2025"}]
    with pytest.raises(ValueError, match=message):
        MeasureConfig(trait="t", contexts=contexts, gate_prompts=1, scales=[2.0], samples=0, features=features)
