"""The loop: chunks do not change what is computed, and a loss that is no number stops it, named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesgen.errors import UserError
from bayesgen.learn.loop import run_steps


def advance(state, step):
    """A chain whose state depends on every step so far."""
    state = state * 1.1 + jax.random.normal(jax.random.fold_in(jax.random.key(0), step))
    return state, {"loss": state}


def collect(chunk, stops=(), first=0, state=0.0):
    seen = []
    last = run_steps(
        advance,
        jnp.asarray(state),
        first,
        10,
        chunk=chunk,
        name="x",
        save=lambda s, n, i: seen.append((n, float(s), i["loss"])),
        stops=stops,
    )
    return float(last), seen


def test_chunks_stops_and_resumption_change_nothing():
    whole, _ = collect(10)
    in_chunks, seen = collect(4, stops=(5,))
    assert whole == in_chunks
    assert [n for n, _, _ in seen] == [4, 5, 8, 10]
    np.testing.assert_array_equal(np.concatenate([i for *_, i in seen]), collect(10)[1][0][2])
    resumed, _ = collect(4, first=seen[1][0], state=seen[1][1])
    assert resumed == whole


def test_a_loss_that_is_no_number_names_step_and_checkpoint():
    def breaks(state, step):
        return state, {"loss": jnp.where(step == 6, jnp.nan, 1.0)}

    saved = []
    with pytest.raises(UserError, match=r"base: the loss is not finite at step 6; the last good checkpoint is step 4"):
        run_steps(breaks, jnp.zeros(()), 0, 10, chunk=4, name="base", save=lambda s, n, i: saved.append(n))
    assert saved == [4]


def test_one_broken_member_does_not_stop_the_others():
    def one_breaks(state, step):
        return state, {"loss": jnp.array([jnp.nan, 1.0])}

    saved = []
    run_steps(one_breaks, jnp.zeros(()), 0, 4, chunk=4, name="x", save=lambda s, n, i: saved.append(n))
    assert saved == [4]
