"""Causality by gradient, and parity with the published shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesgen.model.transformer import ModelConfig, Transformer, forward

CONFIG = ModelConfig(width=16, layers=2, heads=2, context=12)


@pytest.fixture(scope="module")
def network():
    model = Transformer(CONFIG, 20)
    params = model.init(jax.random.key(0), jnp.zeros((1, 4), int))["params"]
    noise = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    return model, noise


def test_no_position_sees_the_future(network):
    """The gradient of position i's logits with respect to the positional embedding of j is zero exactly when j > i."""
    model, params = network
    tokens = jax.random.randint(jax.random.key(1), (1, 8), 0, 20)

    def squared(positions, i):
        return jnp.sum(forward(model, {**params, "positions": positions}, None, tokens)[0, i] ** 2)

    for i in range(8):
        seen = jnp.abs(jax.grad(squared)(params["positions"], i)).sum(-1)[:8] > 0
        np.testing.assert_array_equal(seen, np.arange(8) <= i)


def test_where_picks_rows_of_the_full_logits(network):
    model, params = network
    tokens = jax.random.randint(jax.random.key(1), (3, 8), 0, 20)
    where = jnp.array([[0, 5], [7, 7], [3, 1]])
    full = forward(model, params, None, tokens)
    picked = forward(model, params, None, tokens, where)
    # the same products in another batch shape: float32 round-off only
    np.testing.assert_allclose(picked, jnp.take_along_axis(full, where[..., None], 1), atol=1e-5)


def gpt2(params, tokens):
    """GPT-2 as its paper and `transformers` define it, in plain float64 numpy, one sequence and one head at a time."""
    w = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(p, x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]

    def affine(p, x):
        return x @ p["kernel"] + p["bias"]

    x = w["tokens"][tokens] + w["positions"][: len(tokens)]
    for i in range(CONFIG.layers):
        block, heads = w[f"block_{i}"], []
        q, k, v = np.split(affine(block["attention"]["qkv"], norm(block["norm_1"], x)), 3, axis=-1)
        for h in np.split(np.arange(CONFIG.width), CONFIG.heads):
            scores = q[:, h] @ k[:, h].T / np.sqrt(len(h))
            scores[np.triu_indices(len(tokens), 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, h])
        x = x + affine(block["attention"]["out"], np.concatenate(heads, -1))
        x = x + affine(block["down"], np.maximum(affine(block["up"], norm(block["norm_2"], x)), 0) ** 2)
    return norm(w["norm_out"], x) @ w["tokens"].T


def test_it_is_gpt2_by_its_definition(network):
    model, params = network
    tokens = np.random.default_rng(0).integers(20, size=9)
    ours = forward(model, params, None, jnp.asarray(tokens[None]))[0]
    np.testing.assert_allclose(ours, gpt2(params, tokens), atol=1e-4)  # float32 against float64
    assert np.abs(gpt2(params, tokens[::-1])[::-1] - ours).max() > 0.1  # the comparison can fail


def test_it_is_gpt2_of_transformers(network):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, params = network
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=20,
            n_positions=12,
            n_embd=16,
            n_layer=2,
            n_head=2,
            activation_function="relu2",
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
        )
    ).eval()
    names = {
        "wte.weight": ("tokens",),
        "wpe.weight": ("positions",),
        "ln_f.weight": ("norm_out", "scale"),
        "ln_f.bias": ("norm_out", "bias"),
    }
    for i in range(2):
        for hf, ours in {
            "ln_1": "norm_1",
            "ln_2": "norm_2",
            "attn.c_attn": "attention/qkv",
            "attn.c_proj": "attention/out",
            "mlp.c_fc": "up",
            "mlp.c_proj": "down",
        }.items():
            kind = "scale" if "norm" in ours else "kernel"
            names |= {
                f"h.{i}.{hf}.weight": (f"block_{i}", *ours.split("/"), kind),
                f"h.{i}.{hf}.bias": (f"block_{i}", *ours.split("/"), "bias"),
            }
    state = theirs.transformer.state_dict()
    for hf, path in names.items():
        leaf = params
        for part in path:
            leaf = leaf[part]
        state[hf] = torch.tensor(np.asarray(leaf))
    theirs.transformer.load_state_dict(state)
    tokens = np.random.default_rng(0).integers(20, size=(2, 9))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(forward(model, params, None, jnp.asarray(tokens)), expected, atol=1e-4)  # float32, two frameworks


def test_heads_must_divide_width():
    with pytest.raises(ValueError, match="not divisible"):
        ModelConfig(width=10, layers=1, heads=3, context=4)
