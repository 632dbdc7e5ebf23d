"""Adapters: identity at birth, the low-rank path equals a merged weight, norms know no gauge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from bayesgen.measure.norms import norms, singular_values
from bayesgen.model.lora import TARGETS, balanced, dense, effective, init_lora, merge, update_norm, within
from bayesgen.model.transformer import ModelConfig, Transformer, forward


@pytest.fixture(scope="module")
def setup():
    model = Transformer(ModelConfig(width=16, layers=2, heads=2, context=12), 20)
    tokens = jax.random.randint(jax.random.key(1), (2, 8), 0, 20)
    params = model.init(jax.random.key(0), tokens)["params"]
    lora = init_lora(jax.random.key(2), params, 3, TARGETS)
    grown = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), lora)
    return model, params, tokens, lora, grown


def test_identity_at_birth_and_not_after(setup):
    model, params, tokens, lora, grown = setup
    base = forward(model, params, None, tokens)
    np.testing.assert_array_equal(forward(model, params, effective(lora, 2.0), tokens), base)
    assert jnp.abs(forward(model, params, effective(grown, 2.0), tokens) - base).max() > 0.1


def test_low_rank_path_equals_merged_weights_with_the_scale(setup):
    model, params, tokens, _, grown = setup
    merged = forward(model, merge(params, effective(grown, 0.5)), None, tokens)
    np.testing.assert_allclose(forward(model, params, effective(grown, 0.5), tokens), merged, atol=1e-4)  # float32 sums


def test_trap_alpha_over_rank_is_in_the_norm_and_the_gauge_is_not(setup):
    *_, grown = setup
    one, two = norms(effective(grown, 1.0)), norms(effective(grown, 2.0))
    gauge = np.random.default_rng(0).normal(size=(3, 3)) + 2 * np.eye(3)
    flat = {p: (np.asarray(x) @ gauge if p[-1] == "a" else np.linalg.inv(gauge) @ np.asarray(x)) for p, x in flatten_dict(grown).items()}
    turned = norms(unflatten_dict(flat))
    for module in one:
        for kind in ("frobenius", "nuclear", "spectral"):
            assert two[module][kind] == pytest.approx(2 * one[module][kind], rel=1e-6)
            assert turned[module][kind] == pytest.approx(one[module][kind], rel=1e-5)  # float32 factors
        assert two[module]["stable_rank"] == pytest.approx(one[module]["stable_rank"], rel=1e-6)


def test_least_squares_of_the_factors_are_the_nuclear_norm(setup):
    """So weight decay on the factors is a nuclear prior on the update; any other way to write the update has larger factors."""
    *_, grown = setup

    def squares(lora):
        return sum(float((x**2).sum()) for x in jax.tree.leaves(lora)) / 2

    least, nuclear = balanced(grown), float(norms(grown)["all"]["nuclear"])
    for path, update in flatten_dict(dense(least)).items():
        np.testing.assert_allclose(update, flatten_dict(dense(grown))[path], atol=1e-4)  # float32, entries up to about 3
    assert squares(least) == pytest.approx(nuclear, rel=1e-5)
    assert squares(grown) > 1.1 * nuclear
    for seed in range(5):
        gauge = np.eye(3) + 0.3 * np.random.default_rng(seed).normal(size=(3, 3))
        flat = {p: (x @ gauge if p[-1] == "a" else np.linalg.inv(gauge) @ x) for p, x in flatten_dict(least).items()}
        assert squares(unflatten_dict(flat)) > nuclear
        assert squares(balanced(unflatten_dict(flat))) == pytest.approx(nuclear, rel=1e-4)


def test_singular_values_equal_those_of_the_full_update():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 30, 3)), rng.normal(size=(4, 3, 20))
    np.testing.assert_allclose(singular_values(a, b), np.linalg.svd(a @ b, compute_uv=False)[:, :3], rtol=1e-10)


def test_rank_mask_equals_a_smaller_rank(setup):
    model, params, tokens, _, grown = setup
    masked = effective(grown, 1.0, jnp.array([1.0, 1.0, 0.0]))
    cut = unflatten_dict({p: (x[:, :2] if p[-1] == "a" else x[:2]) for p, x in flatten_dict(grown).items()})
    np.testing.assert_allclose(forward(model, params, masked, tokens), forward(model, params, cut, tokens), atol=1e-5)


@pytest.mark.parametrize("norm", ["frobenius", "nuclear"])
def test_the_norm_that_training_is_bounded_in_is_that_of_the_update(setup, norm):
    """Scale and masked rank included. Of badly balanced factors the nuclear one is above; of balanced ones it is equal, gauge or not."""
    *_, grown = setup
    raw = effective(grown, 2.0, jnp.array([1.0, 1.0, 0.0]))
    exact = float(norms(raw)["all"][norm])
    if norm == "frobenius":
        assert float(update_norm(raw, norm)) == pytest.approx(exact, rel=1e-5)
    else:
        assert float(update_norm(raw, norm)) > 1.05 * exact
    stretched = {p: x * (3.0 if p[-1] == "a" else 1 / 3) for p, x in flatten_dict(balanced(raw)).items()}
    assert float(update_norm(unflatten_dict(stretched), norm)) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("norm", ["frobenius", "nuclear"])
def test_an_adapter_is_made_shorter_to_the_bound_and_not_below(setup, norm):
    *_, grown = setup
    scale, mask = jnp.array(2.0), jnp.array([1.0, 1.0, 0.0])
    whole = update_norm(effective(grown, scale, mask), norm)
    near = within(grown, scale, mask, 0.4 * whole, norm)
    assert float(update_norm(effective(near, scale, mask), norm)) == pytest.approx(0.4 * float(whole), rel=1e-5)
    for path, leaf in flatten_dict(near).items():
        before = flatten_dict(grown)[path]
        np.testing.assert_allclose(leaf, 0.4 * before if path[-1] == "a" else before, rtol=1e-5)
    for bound in (2 * whole, jnp.array(jnp.inf)):
        same = within(grown, scale, mask, bound, norm)
        assert all((x == y).all() for x, y in zip(jax.tree.leaves(same), jax.tree.leaves(grown), strict=True))


def test_a_new_adapter_is_within_any_bound(setup):
    *_, lora, _ = setup
    kept = within(lora, jnp.array(2.0), jnp.ones(3), jnp.array(1e-6), "nuclear")
    for leaf, before in zip(jax.tree.leaves(kept), jax.tree.leaves(lora), strict=True):
        np.testing.assert_array_equal(leaf, before)
