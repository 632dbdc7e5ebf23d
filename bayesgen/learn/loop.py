"""The one training loop. `step(state, batch) -> (state, info)` is pure; the driver around it is flat.

A training is a pure function of (state, step number), so any step can be redrawn and a killed run continues from its
last checkpoint with the same bits. Steps run in compiled chunks: the host is asked for nothing inside one, and only
between chunks are losses checked, progress shown and checkpoints written.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesgen.errors import UserError
from bayesgen.hosts import fetched

State = Any  # a pytree
Advance = Callable[..., tuple[State, dict[str, jax.Array]]]  # (state, step, *fixed) -> (state, info)


def run_steps(
    advance: Advance,
    state: State,
    first: int,
    last: int,
    *,
    chunk: int,
    name: str,
    save: Callable[[State, int, dict[str, np.ndarray]], None],
    fixed: tuple = (),
    stops: Iterable[int] = (),
) -> State:
    """Run steps first..last-1 of `advance(state, step, *fixed)`; call `save(state, steps done, infos)` after every chunk.

    `fixed` are arrays that training reads and does not change: as arguments rather than constants of the program, other
    values of them find the compiled program in the cache. Chunks end at multiples of `chunk` and at each of `stops`.
    Raises a `UserError` on a non-finite loss, naming the step and the last good checkpoint. `infos` stacks what each step
    of the chunk reported; it must hold `loss`, a scalar, or one for each of several who train together: who of them has
    left the finite numbers is the caller's to say, at the end, for the others go on.
    """
    bounds = sorted({b for b in (*range(0, last, chunk), *stops, last) if first < b <= last})
    many = jax.jit(partial(_scan, advance), static_argnums=2, donate_argnums=0)
    done, began, said = first, time.monotonic(), 0.0
    for bound in bounds:
        state, infos = many(state, jnp.asarray(done), bound - done, fixed)
        infos = fetched(infos)
        if infos["loss"].ndim == 1:
            _check(name, state, infos["loss"], done)
        save(state, bound, infos)
        done, now = bound, time.monotonic()
        if now - said > 5 or bound == last:
            rate = (done - first) / (now - began)
            loss = np.ma.masked_invalid(infos["loss"][-1]).mean()  # of those that are still going; "--" of nobody
            shown = f"{loss:.3f}" if np.isfinite(loss) else "--"
            print(f"  {name}: step {done}/{last}  loss {shown}  {rate:.1f} steps/s  {(last - done) / rate:.0f} s left", flush=True)
            said = now
    return state


def _check(name: str, state: State, loss_T: np.ndarray, done: int):
    """One line for a training of one that has left the finite numbers in a chunk that began at step `done`."""
    finite = np.isfinite(loss_T)
    if not finite.all():
        raise UserError(
            f"{name}: the loss is not finite at step {done + int(np.argmin(finite))}; the last good "
            f"checkpoint is step {done}; lower the learning rate"
        )
    if not _finite(state):  # the last update left them: its loss would be the next step's
        raise UserError(f"{name}: the parameters are not finite after step {done + len(loss_T)}; the last good checkpoint is step {done}")


def _finite(state: State) -> bool:
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating))


def _scan(advance: Advance, state: State, first: jax.Array, count: int, fixed: tuple) -> tuple[State, dict[str, jax.Array]]:
    return jax.lax.scan(lambda state, step: advance(state, step, *fixed), state, first + jnp.arange(count))
