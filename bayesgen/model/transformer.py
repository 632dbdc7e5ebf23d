"""A decoder-only transformer of exactly GPT-2's shape (pre-norm, learned positions, biases, tied output).

It maps one to one onto transformers' `GPT2LMHeadModel` with `activation_function="relu2"` (parity in
`tests/model/test_transformer.py`). Layers are unrolled and heads stand ahead of positions, which is what XLA's CPU
backend multiplies fastest. Low-rank adapters live in a second variable collection, `lora`, beside each matrix:
`x @ W + (x @ a) @ b`, never a merged weight. Parameters are float32; products and the stream are of the network's `dtype`, sums of
softmax, norms and logits float32 whatever that is. Axes: B sequences, L tokens, D width, H heads, C head width, K positions.
"""

from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped
from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelConfig(BaseModel):
    """Shape of the network. `vocabulary` is filled in from the world."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = Field(ge=1)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    context: int = Field(ge=2)

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        return self


class Linear(nn.Module):
    """x @ W + bias, plus the low-rank path where the `lora` collection has one for this matrix."""

    features: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "*axes D"], columns: slice = slice(None)) -> Float[Array, "*axes F"]:
        axes, x = x.shape[:-1], x.reshape(-1, x.shape[-1])  # one flat product: 1.5x faster on a CPU than a batched one
        # fan-in, not GPT-2's fixed 0.02: that leaves a network of width 64 to 256 all but linear, and on a plateau
        kernel = self.param("kernel", nn.initializers.normal(self.scale * x.shape[-1] ** -0.5), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = x @ kernel[:, columns].astype(x.dtype) + bias[columns].astype(x.dtype)
        if self.has_variable("lora", "a"):
            a, b = (self.get_variable("lora", name).astype(x.dtype) for name in "ab")
            y += (x @ a) @ b[:, columns]
        return y.reshape(*axes, -1)


class Attention(nn.Module):
    """Multi-head self-attention under a mask (K rows, L columns; none: of what stands before), for all places or only `where`."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, x_BxLxD: Float[Array, "B L D"], mask: Bool[Array, "..."] | None, where_BxK: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B K D"]:
        (B, L, D), H = x_BxLxD.shape, self.config.heads
        qkv, out = Linear(3 * D, name="qkv"), Linear(D, scale=(2 * self.config.layers) ** -0.5, name="out")
        if mask is None and _fused(x_BxLxD.dtype):
            q_BxLxHxC, k_BxLxHxC, v_BxLxHxC = (x.reshape(B, L, H, D // H) for x in jnp.split(qkv(x_BxLxD), 3, axis=-1))
            attended = jax.nn.dot_product_attention(q_BxLxHxC, k_BxLxHxC, v_BxLxHxC, is_causal=True, implementation="cudnn")
            return out(attended.reshape(B, L, D))
        if mask is None:
            mask = jnp.tril(jnp.ones((L, L), bool))
        heads = lambda x: jnp.swapaxes(x.reshape(*x.shape[:2], H, D // H), 1, 2)  # noqa: E731
        q_BxHxKxC = heads(qkv(_rows(x_BxLxD, where_BxK), slice(0, D)))
        k_BxHxLxC, v_BxHxLxC = map(heads, jnp.split(qkv(x_BxLxD, slice(D, 3 * D)), 2, axis=-1))
        logits_BxHxKxL = q_BxHxKxC @ jnp.swapaxes(k_BxHxLxC, -1, -2) * (D // H) ** -0.5
        logits_BxHxKxL = jnp.where(mask, logits_BxHxKxL, jnp.finfo(logits_BxHxKxL.dtype).min)
        weight_BxHxKxL = jax.nn.softmax(logits_BxHxKxL.astype(jnp.float32), axis=-1).astype(v_BxHxLxC.dtype)
        out_BxHxKxC = weight_BxHxKxL @ v_BxHxLxC
        out_BxKxD = jnp.swapaxes(out_BxHxKxC, 1, 2).reshape(x_BxLxD.shape[0], -1, D)
        return out(out_BxKxD)


class Block(nn.Module):
    """Attention, then a squared-ReLU perceptron, each behind its layer norm and added to the stream, at all places or `where`."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, x_BxLxD: Float[Array, "B L D"], mask: Bool[Array, "..."] | None, where_BxK: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B K D"]:
        D, dtype = x_BxLxD.shape[-1], x_BxLxD.dtype
        attended = Attention(self.config, name="attention")(_norm("norm_1", dtype)(x_BxLxD), mask, where_BxK)
        x_BxKxD = _rows(x_BxLxD, where_BxK) + attended
        hidden = jnp.square(nn.relu(Linear(4 * D, name="up")(_norm("norm_2", dtype)(x_BxKxD))))
        return x_BxKxD + Linear(D, scale=(2 * self.config.layers) ** -0.5, name="down")(hidden)


class Transformer(nn.Module):
    """Tokens to next-token logits, at all positions or only at `where`. `edit` is given the residual stream behind each block (behind the
    last, which does not run everywhere, at the places that are read), and returns the stream that goes on. `stream_BxLxD`, the stream
    behind the last block but one, goes straight to the last.
    """

    config: ModelConfig
    vocabulary: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens_BxL: Int[Array, "B L"],
        where_BxK: Int[Array, "B K"] | None = None,
        positions_BxL: Int[Array, "B L"] | None = None,
        mask: Bool[Array, "..."] | None = None,
        edit: Callable[[int, Array], Array] | None = None,
        stream_BxLxD: Float[Array, "B L D"] | None = None,
    ) -> Float[Array, "B K V"]:
        L, D, last = tokens_BxL.shape[1], self.config.width, self.config.layers - 1
        embedding = self.param("tokens", nn.initializers.normal(0.05), (self.vocabulary, D))
        places = self.param("positions", nn.initializers.normal(0.05), (self.config.context, D))
        if stream_BxLxD is None:  # added up before they are rounded, and so is the gradient: rows of bfloat16 would wait for each other
            x_BxLxD = embedding[tokens_BxL] + (places[None, :L] if positions_BxL is None else places[positions_BxL])
            x_BxLxD = x_BxLxD.astype(self.dtype)
        else:
            x_BxLxD = stream_BxLxD
        for layer in range(last if stream_BxLxD is None else 0):
            x_BxLxD = Block(self.config, name=f"block_{layer}")(x_BxLxD, mask)
            if edit is not None:
                x_BxLxD = edit(layer, x_BxLxD)
        # the last block, too, is asked only where logits are wanted: half its work, and all of that of the dear unembedding
        if where_BxK is not None:
            mask = jnp.tril(jnp.ones((L, L), bool)) if mask is None else mask
            mask = _rows(jnp.broadcast_to(mask, (len(tokens_BxL), 1, L, L))[:, 0], where_BxK)[:, None]
        x_BxKxD = Block(self.config, name=f"block_{last}")(x_BxLxD, mask, where_BxK)
        if edit is not None:
            x_BxKxD = edit(last, x_BxKxD)
        said = _norm("norm_out", self.dtype)(x_BxKxD)
        return jnp.matmul(said, embedding.astype(self.dtype).T, preferred_element_type=jnp.float32)


def forward(
    model: Transformer,
    params: Any,
    lora: Any,
    tokens: Any,
    where: Any = None,
    positions: Any = None,
    mask: Any = None,
    edit: Any = None,
    stream: Any = None,
) -> Array:
    """Logits of the network with an adapter (effective, or None): the one call everything else makes."""
    variables = {"params": params} if lora is None else {"params": params, "lora": lora}
    return cast(Array, model.apply(variables, tokens, where, positions, mask, edit, stream))


def residual(
    model: Transformer, params: Any, tokens_BxL: Any, layer: int, positions: Any = None, mask: Any = None
) -> Float[Array, "B L D"]:
    """The residual stream behind block `layer`, which is not the last. Jitted, the rest of the network is never run."""
    block = f"block_{layer}"
    keep = lambda module, _: module.name == block  # noqa: E731
    _, kept = model.apply({"params": params}, tokens_BxL, None, positions, mask, capture_intermediates=keep)
    return cast(Any, kept)["intermediates"][block]["__call__"][0]


def answer_stream(model: Transformer, params: Any, tokens_BxL: Any) -> Float[Array, "B D"]:
    """The residual stream behind the last block at the last token of each prompt (zeros behind it): what the next token is read from."""
    last, end_Bx1 = f"block_{model.config.layers - 1}", (tokens_BxL != 0).sum(axis=1, keepdims=True) - 1
    keep = lambda module, _: module.name == last  # noqa: E731
    _, kept = model.apply({"params": params}, tokens_BxL, end_Bx1, capture_intermediates=keep)
    return cast(Any, kept)["intermediates"][last]["__call__"][0][:, 0]


def _rows(x_BxLxD: Shaped[Array, "B L D"], where_BxK: Int[Array, "B K"] | None) -> Shaped[Array, "B K D"]:
    """The rows `where`, or all."""
    return x_BxLxD if where_BxK is None else jnp.take_along_axis(x_BxLxD, where_BxK[..., None], axis=1)


def _norm(name: str, dtype: Any) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)


def _fused(dtype: Any) -> bool:
    """Whether cuDNN's attention can be had: it never writes the weights down, and wants the half precision of a GPU."""
    return dtype == jnp.bfloat16 and jax.default_backend() == "gpu"


def count_parameters(params) -> int:
    """Number of scalars in a pytree."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))
