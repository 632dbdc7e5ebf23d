"""A decoder-only transformer of exactly GPT-2's shape (pre-norm, learned positions, biases, tied output).

It maps one to one onto transformers' `GPT2LMHeadModel` with `activation_function="relu2"` (parity in
`tests/model/test_transformer.py`). Layers are unrolled and heads stand ahead of positions, which is what XLA's CPU
backend multiplies fastest. Low-rank adapters live in a second variable collection, `lora`, beside each matrix:
`x @ W + (x @ a) @ b`, never a merged weight. Axes: B sequences, L tokens, D width, H heads, C head width, K positions.
"""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
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
    def __call__(self, x: Float[Array, "*axes D"]) -> Float[Array, "*axes F"]:
        axes, x = x.shape[:-1], x.reshape(-1, x.shape[-1])  # one flat product: 1.5x faster on a CPU than a batched one
        # fan-in, not GPT-2's fixed 0.02: that leaves a network of width 64 to 256 all but linear, and on a plateau
        kernel = self.param("kernel", nn.initializers.normal(self.scale * x.shape[-1] ** -0.5), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = x @ kernel + bias
        if self.has_variable("lora", "a"):
            y += (x @ self.get_variable("lora", "a")) @ self.get_variable("lora", "b")
        return y.reshape(*axes, self.features)


class Attention(nn.Module):
    """Multi-head self-attention under a mask."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxLxD: Float[Array, "B L D"], mask: Bool[Array, "..."]) -> Float[Array, "B L D"]:
        B, L, D = x_BxLxD.shape
        H, C = self.config.heads, D // self.config.heads
        qkv = Linear(3 * D, name="qkv")(x_BxLxD).reshape(B, L, 3, H, C)
        q, k, v = jnp.moveaxis(qkv, (2, 3), (0, 2))  # each B H L C
        logits_BxHxLxL = q @ jnp.swapaxes(k, -1, -2) / jnp.sqrt(C).astype(q.dtype)
        logits_BxHxLxL = jnp.where(mask, logits_BxHxLxL, jnp.finfo(logits_BxHxLxL.dtype).min)
        out_BxHxLxC = jax.nn.softmax(logits_BxHxLxL, axis=-1) @ v
        out_BxLxD = jnp.swapaxes(out_BxHxLxC, 1, 2).reshape(B, L, D)
        return Linear(D, scale=(2 * self.config.layers) ** -0.5, name="out")(out_BxLxD)


class Block(nn.Module):
    """Attention, then a squared-ReLU perceptron, each behind its layer norm and added to the stream."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxLxD: Float[Array, "B L D"], mask: Bool[Array, "..."]) -> Float[Array, "B L D"]:
        D = x_BxLxD.shape[-1]
        x_BxLxD += Attention(self.config, name="attention")(_norm("norm_1")(x_BxLxD), mask)
        hidden = jnp.square(nn.relu(Linear(4 * D, name="up")(_norm("norm_2")(x_BxLxD))))
        return x_BxLxD + Linear(D, scale=(2 * self.config.layers) ** -0.5, name="down")(hidden)


class Transformer(nn.Module):
    """Tokens to next-token logits, at all positions or only at `where`."""

    config: ModelConfig
    vocabulary: int

    @nn.compact
    def __call__(
        self,
        tokens_BxL: Int[Array, "B L"],
        where_BxK: Int[Array, "B K"] | None = None,
        positions_BxL: Int[Array, "B L"] | None = None,
        mask: Bool[Array, "..."] | None = None,
    ) -> Float[Array, "B K V"]:
        L, D = tokens_BxL.shape[1], self.config.width
        embedding = self.param("tokens", nn.initializers.normal(0.05), (self.vocabulary, D))
        places = self.param("positions", nn.initializers.normal(0.05), (self.config.context, D))
        if mask is None:
            mask = jnp.tril(jnp.ones((L, L), bool))
        x_BxLxD = embedding[tokens_BxL] + (places[None, :L] if positions_BxL is None else places[positions_BxL])
        for layer in range(self.config.layers):
            x_BxLxD = Block(self.config, name=f"block_{layer}")(x_BxLxD, mask)
        if where_BxK is not None:  # logits are the dearest product of a small network: only where they are wanted
            x_BxLxD = jnp.take_along_axis(x_BxLxD, where_BxK[..., None], axis=1)
        return _norm("norm_out")(x_BxLxD) @ embedding.T


def forward(model: Transformer, params: Any, lora: Any, tokens: Any, where: Any = None, positions: Any = None, mask: Any = None) -> Array:
    """Logits of the network with an adapter (effective, or None): the one call everything else makes."""
    variables = {"params": params} if lora is None else {"params": params, "lora": lora}
    return cast(Array, model.apply(variables, tokens, where, positions, mask))


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)


def count_parameters(params) -> int:
    """Number of scalars in a pytree."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))
