"""`make bench`: ratios measured in one run on this machine, never a pass or a fail. `python -m tests.benchmarks NAME ...` for some.

What is compared takes turns, so that a busy neighbour slows both; medians are printed. Each benchmark has a process of its own, whose
peak memory is said; PyTorch and PEFT (extra `bench`) answer from processes of theirs. FLOPs are those of the matrix products that the
forward and backward pass really make (the last block and the logits at the answer slots only): the optimiser's own work counts as
time but not as use.
"""

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import optax.contrib
from flax.traverse_util import flatten_dict

from bayesgen.learn.data import member_data
from bayesgen.learn.devices import training_type
from bayesgen.learn.finetune import finetuning, member_settings
from bayesgen.learn.muon import muon
from bayesgen.learn.plan import plan_members
from bayesgen.learn.pretrain import pretraining, pretraining_together
from bayesgen.learn.tries import every_step
from bayesgen.setup import Setup, prepare, use_device
from tests.conftest import compose_config

ROUNDS, STEPS = 5, 10  # timings, and training steps in one
PEAK = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12}  # FLOP/s in bfloat16 by the data sheet, without sparsity
Line = tuple[str, str, str]  # what, ours, beside it


def birds(*overrides: str) -> Setup:
    """The birds at their defaults, on the best device there is."""
    config = compose_config("+exp=birds", *overrides)
    use_device(config)
    return prepare(config)


def matmul_rate() -> float:
    """FLOP/s of a large product, in the type that a base trains in."""
    n = 1536 if jax.default_backend() == "cpu" else 8192
    x = jax.random.normal(jax.random.key(0), (n, n), training_type())
    multiply = jax.jit(lambda a: a @ a)
    multiply(x).block_until_ready()
    began = time.perf_counter()
    jax.block_until_ready([multiply(x) for _ in range(8)])
    return 8 * 2 * n**3 / (time.perf_counter() - began)


def step_flops(setup: Setup) -> float:
    """FLOPs of the matrix products of one pretraining step."""
    m, L, K = setup.config.model, setup.config.pretrain.length, setup.source.slots
    D, V = m.width, len(setup.grammar.tokenizer)

    def block(read: int) -> int:
        """Multiply-adds of a block that is read at so many of L places: keys and values; the rest; attention."""
        return 2 * D * D * L + 10 * D * D * read + 2 * D * L * read

    return 6 * setup.config.pretrain.batch * ((m.layers - 1) * block(L) + block(K) + K * D * V)


def seconds(advance, state, steps: int, *fixed) -> Iterator[float]:
    """Seconds a step, again and again; the first time, which compiles, is thrown away."""
    many = jax.jit(lambda s, fixed: jax.lax.scan(lambda s, i: advance(s, i, *fixed), s, jnp.arange(steps)), donate_argnums=0)
    state, _ = jax.block_until_ready(many(state, fixed))
    while True:
        began = time.perf_counter()
        state, _ = jax.block_until_ready(many(state, fixed))
        yield (time.perf_counter() - began) / steps


@contextmanager
def beside(module: str, *words: str) -> Iterator[Callable[[int], float] | None]:
    """The other side: seconds of one of n of what it does; None where the extra `bench` is not installed."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("peft") is None:
        yield None
        return
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *words]
    alone = {**os.environ, "JAX_PLATFORMS": "cpu"}  # it draws with jax, and must not take hold of the accelerator
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=alone) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "ready\n":
            if not line:
                raise RuntimeError(f"{module} ended with {process.wait()}")

        def ask(n: int) -> float:
            print(n, file=process.stdin, flush=True)
            return float(process.stdout.readline())

        try:
            yield ask
        finally:
            process.stdin.close()


def bench_pretraining(*words: str) -> list[Line]:
    """One size of network, and the same work in compiled PyTorch: loss on answers alone, and on all tokens."""
    setup = birds(*words)
    begin, advance, fixed = pretraining(setup.model, setup.source, setup.config.pretrain)
    timed, turns = seconds(advance, jax.jit(begin)(*fixed), STEPS, *fixed), []
    with beside("torch_side", "serve", *words) as answers, beside("torch_side", "serve", "--all-tokens", *words) as tokens:
        for _ in range(ROUNDS):
            turns.append((matmul_rate(), next(timed), answers and answers(STEPS), tokens and tokens(STEPS)))
    rates, ours, *theirs = zip(*turns, strict=True)
    p, m = setup.config.pretrain, setup.config.model
    what = f"pretraining {m.width}x{m.layers}, {p.batch} documents of {p.length}"
    use = median(step_flops(setup) / s / rate for rate, s in zip(rates, ours, strict=True))
    of = f"{use:.0%} of the matrix product's {median(rates) / 1e12:.3g} TFLOP/s"
    if jax.devices()[0].device_kind in PEAK:
        of += f", {step_flops(setup) / median(ours) / PEAK[jax.devices()[0].device_kind]:.0%} of the peak"
    lines = [(what, f"{1000 * median(ours):.3g} ms a step, {p.batch * p.length / median(ours):,.0f} tokens/s", of)]
    for name, other in zip(("the same loss", "loss on all tokens"), theirs, strict=True):
        if other[0] is not None:
            ratio = median(o / s for o, s in zip(other, ours, strict=True))
            lines.append((f"  compiled PyTorch, {name}", f"{1000 * median(other):.3g} ms a step", f"{ratio:.2f} times ours"))
    return lines


def bench_bases(*counts: int) -> list[Line]:
    """Bases of one shape in one program, against one at a time."""
    lines, setup = [], birds("model=xs" if jax.default_backend() == "cpu" else "model=s")
    for count in counts:
        sources, configs = [setup.source] * count, [setup.config.pretrain.model_copy(update={"seed": seed}) for seed in range(count)]
        begin, advance, fixed = pretraining_together(setup.model, sources, configs)
        begin_1, advance_1, fixed_1 = pretraining(setup.model, sources[0], configs[0])
        timed = seconds(advance, jax.jit(begin)(*fixed), STEPS, *fixed)
        timed_1 = seconds(advance_1, jax.jit(begin_1)(*fixed_1), STEPS, *fixed_1)
        together, alone = zip(*((next(timed), next(timed_1)) for _ in range(ROUNDS)), strict=True)
        m, ratio = setup.config.model, median(count * a / t for t, a in zip(together, alone, strict=True))
        what = f"{count} bases {m.width}x{m.layers} in one program"
        lines.append((what, f"{1000 * median(together):.3g} ms a step", f"{ratio:.1f} times as fast as one at a time"))
    return lines


def bench_muon(*words: str) -> list[Line]:
    """Updates of the kernels by our Muon and by optax's, in turn."""
    setup = birds(*words)
    begin, _, fixed = pretraining(setup.model, setup.source, setup.config.pretrain)
    flat: dict = dict(flatten_dict(jax.jit(begin)(*fixed).params))
    kernels = {"/".join(path): x for path, x in flat.items() if path[-1] == "kernel"}
    timed = []
    for optimizer in (muon(1e-3, 0.0), optax.contrib.muon(1e-3)):

        def advance(state, step, optimizer=optimizer):
            grads, memory = state
            updates, memory = optimizer.update(grads, memory, grads)
            return (updates, memory), step

        timed.append(seconds(advance, (jax.tree.map(jnp.copy, kernels), optimizer.init(kernels)), STEPS))
    ours, theirs = zip(*((next(timed[0]), next(timed[1])) for _ in range(ROUNDS)), strict=True)
    ratio = median(t / o for t, o in zip(theirs, ours, strict=True))
    m = setup.config.model
    return [(f"Muon's update {m.width}x{m.layers}", f"{1000 * median(ours):.3g} ms", f"optax's takes {ratio:.1f} times as long")]


def bench_finetuning(size: str, *counts: int) -> list[Line]:
    """Ensembles of free members at the defaults, whole trainings a second once compiled, and one after the other with PEFT."""
    timed = {}
    for count in counts:
        setup = birds(f"model={size}", "finetune.arms=[free]", f"finetune.seeds={count}")
        config = setup.config.finetune
        members = plan_members(config)
        begin_base, _, of_base = pretraining(setup.model, setup.source, setup.config.pretrain)
        data = jax.tree.map(jnp.asarray, every_step(member_data(setup.world, setup.grammar, config, members)))
        fixed = (jax.jit(begin_base)(*of_base).params, member_settings(config, members), data)
        begin, advance = finetuning(setup.model, config, members)
        timed[count] = seconds(advance, begin(*fixed[:2]), STEPS, *fixed)
    with beside("peft_side", f"model={size}") as peft:
        turns = [({n: n / (next(t) * config.steps) for n, t in timed.items()}, peft and 1 / peft(1)) for _ in range(ROUNDS)]
    theirs = None if turns[0][1] is None else median(them for _, them in turns)
    m, lines = setup.config.model, []
    if theirs is not None:
        lines.append((f"PEFT, one adapter after the other, {m.width}x{m.layers}", f"{theirs:.3g} adapters/s", ""))
    for count in counts:
        ratio = "" if theirs is None else f"{median(us[count] / them for us, them in turns):.1f} times PEFT"
        lines.append((f"{count} members {m.width}x{m.layers}", f"{median(us[count] for us, _ in turns):.3g} adapters/s", ratio))
    return lines


def bench_start() -> list[Line]:
    """A tiny run of the whole pipeline: from nothing, with compiled programs kept, and asked again."""
    runs = Path(tempfile.mkdtemp())

    def run() -> float:
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "bayesgen", "+exp=birds", "scale=smoke", f"runs={runs}"], check=True, stdout=subprocess.DEVNULL
        )
        return time.perf_counter() - began

    cold = run()
    again = run()
    for folder in runs.iterdir():
        if folder.name != "compiled":
            shutil.rmtree(folder)
    warm = run()
    shutil.rmtree(runs)
    return [("scale=smoke, from nothing", f"{cold:.0f} s", f"{warm:.0f} s with compiled programs, {again:.1f} s asked again")]


CPU: dict[str, Callable[[], list[Line]]] = {
    **{f"pretraining-{m}": partial(bench_pretraining, f"model={m}") for m in ("xs", "s", "m")},
    **{f"muon-{m}": partial(bench_muon, f"model={m}") for m in ("s", "m")},
    **{f"finetuning-{m}": partial(bench_finetuning, m, 1, 8, 64, 512) for m in ("xs", "s")},
    "bases": partial(bench_bases, 8),
    "start": bench_start,
}
ACCELERATOR: dict[str, Callable[[], list[Line]]] = {
    "pretraining-xl": partial(bench_pretraining, "model=xl", "pretrain.batch=512"),
    "muon-xl": partial(bench_muon, "model=xl"),
    "bases": partial(bench_bases, 64, 256),
    "finetuning-s": partial(bench_finetuning, "s", 1, 8, 64, 512),
    "start": bench_start,
}


def suite() -> dict[str, Callable[[], list[Line]]]:
    """The benchmarks that suit the device."""
    return CPU if jax.default_backend() == "cpu" else ACCELERATOR


def alone(name: str) -> dict:
    """One benchmark and the memory it took."""
    lines = suite()[name]()
    stats = jax.devices()[0].memory_stats()
    return {"lines": lines, "peak": stats["peak_bytes_in_use"] if stats else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def machine() -> dict:
    """What is measured on and with what, and what there is to measure."""
    modules = [m for m in ("jax", "torch", "peft") if importlib.util.find_spec(m)]
    versions = ", ".join(f"{m} {importlib.metadata.version(m)}" for m in modules)
    where = f"{len(os.sched_getaffinity(0))} cores ({platform.machine()}), {jax.devices()[0].device_kind}"
    return {"machine": f"{where}, {datetime.date.today()}, Python {platform.python_version()}, {versions}", "names": list(suite())}


def child(*words: str) -> dict:
    """What a process of its own says: whoever looks at an accelerator takes hold of it."""
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks", *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Print the table, in Markdown."""
    if sys.argv[1:2] in (["--alone"], ["--machine"]):
        print(json.dumps(alone(sys.argv[2]) if sys.argv[1] == "--alone" else machine()))
        return
    here = child("--machine")
    print(f"{here['machine']}\n\n| what | | | peak memory |\n|---|---|---|---:|", flush=True)
    for name in sys.argv[1:] or here["names"]:
        try:
            found = child("--alone", name)
        except subprocess.CalledProcessError as error:  # its own output says why; the others go on
            print(f"| {name} | FAILED with {error.returncode} | | |", flush=True)
            continue
        for i, line in enumerate(found["lines"]):
            print(f"| {' | '.join(line)} | {'' if i else format(found['peak'] / 2**30, '.2f') + ' GiB'} |", flush=True)


if __name__ == "__main__":
    main()
