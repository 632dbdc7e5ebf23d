"""`make bench`: ratios measured in one run on this machine, never a pass or a fail.

Matrix multiplication and training take turns, so that a busy neighbour slows both; medians are printed. FLOPs are those of
the matrix products that the forward and backward pass really make (the last block and the logits at the answer slots only):
the optimiser's own work counts as time but not as use.
"""

import platform
import time
from functools import partial
from statistics import median

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax.traverse_util import flatten_dict

from bayesgen.learn.data import member_data
from bayesgen.learn.finetune import finetuning, member_settings
from bayesgen.learn.muon import muon
from bayesgen.learn.plan import plan_members
from bayesgen.learn.pretrain import pretraining
from bayesgen.pipeline import Setup, prepare
from tests.conftest import compose_config

ROUNDS = 5
STEPS = 10  # training steps in one timing


def birds(*overrides: str) -> Setup:
    """The birds at their defaults."""
    return prepare(compose_config("+exp=birds", *overrides))


def matmul_rate(n: int = 1536) -> float:
    """FLOP/s of an n x n float32 product."""
    x = jnp.ones((n, n))
    multiply = jax.jit(lambda a: a @ a)
    multiply(x).block_until_ready()
    began = time.perf_counter()
    for _ in range(8):
        multiply(x).block_until_ready()
    return 8 * 2 * n**3 / (time.perf_counter() - began)


def step_flops(setup: Setup) -> float:
    """FLOPs of the matrix products of one pretraining step."""
    m, L, K = setup.config.model, setup.config.pretrain.length, setup.source.slots
    D, V = m.width, len(setup.grammar.tokenizer)

    def block(read: int) -> int:
        """Multiply-adds of a block that is read at so many of L places: keys and values; the rest; attention."""
        return 2 * D * D * L + 10 * D * D * read + 2 * D * L * read

    return 6 * setup.config.pretrain.batch * ((m.layers - 1) * block(L) + block(K) + K * D * V)


def seconds(advance, state, steps: int, *fixed):
    """Generator of seconds a step; the first, which compiles, is thrown away."""
    many = jax.jit(lambda s, fixed: jax.lax.scan(lambda s, i: advance(s, i, *fixed), s, jnp.arange(steps)), donate_argnums=0)
    state, _ = jax.block_until_ready(many(state, fixed))
    while True:
        began = time.perf_counter()
        state, _ = jax.block_until_ready(many(state, fixed))
        yield (time.perf_counter() - began) / steps


def bench_pretraining(*overrides: str) -> dict[str, str]:
    """One size of network."""
    setup = birds(*overrides)
    begin, advance = pretraining(setup.model, setup.source, setup.config.pretrain)
    timed, pairs = seconds(advance, begin(), STEPS), []
    for _ in range(ROUNDS):
        pairs.append((matmul_rate(), next(timed)))
    step = median(s for _, s in pairs)
    use = median(step_flops(setup) / s / rate for rate, s in pairs)
    p = setup.config.pretrain
    return {
        "what": f"pretraining {setup.config.model.width}x{setup.config.model.layers}",
        "ms/step": f"{1000 * step:.0f}",
        "rate": f"{p.batch * p.length / step:,.0f} tokens/s",
        "of matmul": f"{use:.0%} of {median(r for r, _ in pairs) / 1e9:.0f} GFLOP/s",
    }


def bench_muon(*overrides: str) -> dict[str, str]:
    """Updates of the kernels by our Muon and by optax's, in turn."""
    setup = birds(*overrides)
    begin, _ = pretraining(setup.model, setup.source, setup.config.pretrain)
    flat: dict = dict(flatten_dict(begin().params))
    kernels = {"/".join(path): x for path, x in flat.items() if path[-1] == "kernel"}
    timed = []
    for optimizer in (muon(1e-3, 0.0), optax.contrib.muon(1e-3)):

        def advance(state, step, optimizer=optimizer):
            grads, memory = state
            updates, memory = optimizer.update(grads, memory, grads)
            return (updates, memory), step

        timed.append(seconds(advance, (jax.tree.map(jnp.copy, kernels), optimizer.init(kernels)), STEPS))
    ours, theirs = zip(*((next(timed[0]), next(timed[1])) for _ in range(ROUNDS)), strict=True)
    return {
        "what": f"Muon {setup.config.model.width}x{setup.config.model.layers}",
        "ms/step": f"{1000 * median(ours):.1f}",
        "rate": f"optax's {1000 * median(theirs):.1f} ms, {median(t / o for t, o in zip(theirs, ours, strict=True)):.1f} times as long",
        "of matmul": "",
    }


def bench_finetuning(seeds: int) -> dict[str, str]:
    """One ensemble of free members at the defaults: whole trainings a second, once compiled."""
    setup = birds("finetune.arms=[free]", f"finetune.seeds={seeds}")
    config = setup.config.finetune
    members = plan_members(config)
    begin_base, _ = pretraining(setup.model, setup.source, setup.config.pretrain)
    data = jax.tree.map(jnp.asarray, member_data(setup.world, setup.grammar, config, members))
    fixed = (begin_base().params, member_settings(config, members), data)
    begin, advance = finetuning(setup.model, config, members)
    timed = seconds(advance, begin(*fixed[:2]), STEPS, *fixed)
    step = median(next(timed) for _ in range(3))
    return {
        "what": f"finetuning, {seeds} members",
        "ms/step": f"{1000 * step:.0f}",
        "rate": f"{seeds / (step * config.steps):.2f} adapters/s",
        "of matmul": "",
    }


def main():
    """Print the table."""
    print(f"{platform.processor() or platform.machine()}, {jax.default_backend()} x{jax.device_count()}, jax {jax.__version__}")
    jobs = [partial(bench, f"model={m}") for m in ("xs", "s", "m") for bench in (bench_pretraining, bench_muon)] + [
        partial(bench_finetuning, n) for n in (1, 8, 40)
    ]
    for job in jobs:
        row = job()
        print(f"  {row['what']:<26}{row['ms/step']:>8} ms/step   {row['rate']:<20}{row['of matmul']}", flush=True)


if __name__ == "__main__":
    main()
