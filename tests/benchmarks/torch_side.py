"""The same network and the same documents in PyTorch, as one would train it there: what `make bench` compares with;
`python -m tests.benchmarks.torch_side gate` trains it until it passes the gate, or does not.

A GPT of our shape (pre-norm, learned positions, squared ReLU, tied output), compiled, with fused AdamW, warm-up and a cosine. The
loss falls on all tokens, the usual recipe, or on the answers alone, our work: then its last block, too, runs only where answers are.
Needs the extra `bench`.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bayesgen.measure.answers import NetworkPredictor
from bayesgen.measure.gate import base_gate
from bayesgen.setup import Setup, prepare
from tests.conftest import compose_config

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Block(nn.Module):
    """Attention and perceptron; with `where`, for those places alone."""

    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for linear, scale in ((self.qkv, 1.0), (self.out, (2 * layers) ** -0.5), (self.up, 1.0), (self.down, (2 * layers) ** -0.5)):
            nn.init.normal_(linear.weight, std=scale * linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)

    def forward(self, x, where=None):
        B, L, D = x.shape
        heads = lambda t: t.view(B, -1, self.heads, D // self.heads).transpose(1, 2)  # noqa: E731
        y = self.norm_1(x)
        if where is None:
            q, k, v = self.qkv(y).split(D, -1)
            attended = F.scaled_dot_product_attention(heads(q), heads(k), heads(v), is_causal=True)
        else:
            at = where[..., None].expand(-1, -1, D)
            q = F.linear(y.gather(1, at), self.qkv.weight[:D], self.qkv.bias[:D])
            k, v = F.linear(y, self.qkv.weight[D:], self.qkv.bias[D:]).split(D, -1)
            mask = (torch.arange(L, device=DEVICE)[None, None] <= where[..., None])[:, None]
            attended = F.scaled_dot_product_attention(heads(q), heads(k), heads(v), attn_mask=mask)
            x = x.gather(1, at)
        x = x + self.out(attended.transpose(1, 2).reshape(B, -1, D))
        return x + self.down(F.relu(self.up(self.norm_2(x))).square())


class GPT(nn.Module):
    """Tokens to logits."""

    def __init__(self, setup: Setup):
        super().__init__()
        m = setup.config.model
        self.tokens, self.positions = nn.Embedding(len(setup.grammar.tokenizer), m.width), nn.Embedding(m.context, m.width)
        nn.init.normal_(self.tokens.weight, std=0.05)
        nn.init.normal_(self.positions.weight, std=0.05)
        self.blocks = nn.ModuleList(Block(m.width, m.heads, m.layers) for _ in range(m.layers))
        self.norm = nn.LayerNorm(m.width)

    def forward(self, tokens, where=None):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks[:-1]:
            x = block(x)
        return self.norm(self.blocks[-1](x, where)) @ self.tokens.weight.T


class Training:
    """A network, its optimiser, and one compiled loss."""

    def __init__(self, setup: Setup, all_tokens: bool, learning_rate: float = 3e-3, steps: int = 1000):
        torch.manual_seed(0)
        self.model = GPT(setup).to(DEVICE)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        warm = min(100, steps)
        shape = lambda i: min((i + 1) / warm, 0.5 * (1 + np.cos(np.pi * i / steps)))  # noqa: E731
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, shape)

        def loss(tokens, where, target, weight):
            with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
                return plain(tokens, where, target, weight)

        def plain(tokens, where, target, weight):
            if all_tokens:
                logits = self.model(tokens)[:, :-1]
                return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1), ignore_index=0)
            logits = self.model(tokens, where)
            nll = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1), reduction="none")
            return (nll * weight.reshape(-1)).sum() / weight.sum()

        self.loss = torch.compile(loss)

    def step(self, batch) -> float:
        loss = self.loss(*batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())


def batches(setup: Setup, key, first: int, count: int) -> list[tuple]:
    """Documents of some steps, as tensors."""
    draw = jax.jit(jax.vmap(lambda step: setup.source.draw(key, step, setup.config.pretrain.batch)))
    drawn = jax.device_get(draw(jnp.arange(first, first + count)))
    tensors = [torch.from_numpy(np.array(x)).to(DEVICE) for x in drawn]
    return [tuple(t[i].long() if t.dtype == torch.int32 else t[i] for t in tensors) for i in range(count)]


def parameters(model: GPT) -> dict:
    """The network's parameters as ours."""
    array = lambda t: jnp.asarray(t.detach().cpu().numpy())  # noqa: E731
    norm = lambda n: {"scale": array(n.weight), "bias": array(n.bias)}  # noqa: E731
    linear = lambda n: {"kernel": array(n.weight).T, "bias": array(n.bias)}  # noqa: E731
    out = {"tokens": array(model.tokens.weight), "positions": array(model.positions.weight), "norm_out": norm(model.norm)}
    for i, b in enumerate(model.blocks):
        attention = {"qkv": linear(b.qkv), "out": linear(b.out)}
        out[f"block_{i}"] = {
            "attention": attention,
            **{name: norm(getattr(b, name)) for name in ("norm_1", "norm_2")},
            **{name: linear(getattr(b, name)) for name in ("up", "down")},
        }
    return out


def serve(setup: Setup, all_tokens: bool):
    """Time so many steps whenever a line asks for it: the other side of a pipe takes turns with it."""
    training, some = Training(setup, all_tokens), batches(setup, jax.random.key(0), 0, 10)
    for batch in some:
        training.step(batch)
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for i in range(int(line)):
            training.step(some[i % len(some)])
        print((time.perf_counter() - began) / int(line), flush=True)


def to_the_gate(setup: Setup, learning_rate: float, steps: int, where: Path):
    """Train by the usual recipe, and ask the gate at every quarter."""
    c, training, key = setup.config, Training(setup, True, learning_rate, steps), jax.random.key(7)
    losses, found = [], []
    for first in range(0, steps, 100):
        losses += [training.step(batch) for batch in batches(setup, key, first, min(100, steps - first))]
        if (first + 100) % 1000 == 0:
            print(f"  {first + 100}/{steps} loss {np.mean(losses[-100:]):.3f}", flush=True)
        if first + 100 >= steps or (first + 100) % (steps // 400 * 100) == 0:
            predictor = NetworkPredictor(setup.model, parameters(training.model), setup.grammar)
            gate = base_gate(setup.world, predictor, c.measure.trait, c.measure.gate_prompts, c.pretrain.seed + 1)
            found.append({"steps": first + 100, "failures": len(gate.failures), "lines": gate.lines})
            print("\n".join(gate.lines), flush=True)
            where.write_text(json.dumps({"learning_rate": learning_rate, "asked": found}, indent=1))


def main():
    """Serve timings, or train to the gate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["serve", "gate"])
    parser.add_argument("--all-tokens", action="store_true")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--out", type=Path, default=Path("torch_gate.json"))
    parser.add_argument("words", nargs="*")
    a = parser.parse_intermixed_args()
    setup = prepare(compose_config("+exp=birds", *a.words))
    if a.what == "serve":
        serve(setup, a.all_tokens)
    else:
        to_the_gate(setup, a.learning_rate, a.steps, a.out)


if __name__ == "__main__":
    main()
