"""Volume of the solutions of a tiny run: which rows chains are of, and the coefficient by several roads."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from bayesgen.corpus.documents import Batch
from bayesgen.corpus.narrow import write_rows
from bayesgen.cost import volume
from bayesgen.cost.subject import BROAD, DATA, NARROW, PROBES, TRAINED, continuations, scaled_all
from bayesgen.cost.volume import coefficient_rows, descend, evidence_rows, prior_precision, small_adapter, some_rows
from bayesgen.estimate.llc import coefficient, default_n_beta, llc
from bayesgen.estimate.sampling import rms_preconditioner, split_hmc
from bayesgen.learn.data import member_rows
from bayesgen.learn.pretrain import token_nll
from bayesgen.measure.answers import data_nll, pack_data
from bayesgen.model.transformer import forward
from bayesgen.world.dialogue import Header, Turn
from tests.cost.costed import table


def test_the_coefficient_does_not_see_the_factors_an_update_is_written_in(solutions, monkeypatch):
    """Trap: gauge. With the factors as they come it would be another number."""
    g = jnp.array([[4.0, 1.0], [0.0, 0.1]])

    def turn(path, x):
        return x @ g if path[-1].key == "a" else jnp.linalg.inv(g) @ x

    solutions = solutions.take([0])
    here = dict(draws=200, tie=50.0)
    regauged = replace(solutions, lora_M=jax.tree_util.tree_map_with_path(turn, solutions.lora_M))
    one, two = (table(coefficient_rows(s, **here), "quantity") for s in (solutions, regauged))
    assert (one["llc_rows"], one["llc_n_beta"]) == (3, pytest.approx(default_n_beta(3)))  # of its rows; the batch is one
    assert one["llc"] == pytest.approx(two["llc"], abs=4 * (one["llc_error"] + two["llc_error"]))
    assert one["llc_tied"] == pytest.approx(two["llc_tied"], rel=0.2)  # a hundred draws
    assert one["llc_moved"] == pytest.approx(two["llc_moved"], rel=0.02)
    monkeypatch.setattr(volume, "balanced", lambda lora: lora)
    as_it_comes = table(coefficient_rows(regauged, **here), "quantity")
    assert abs(as_it_comes["llc"] - one["llc"]) > 4 * (as_it_comes["llc_error"] + one["llc_error"])


def test_the_chains_are_compared_with_the_mode_of_their_own_target(solutions, monkeypatch):
    """Half-way up a slope the coefficient would be too small by what the descent gains, and the part says that it is not at rest."""
    solutions = solutions.take([0])
    solutions = replace(solutions, lora_M=scaled_all(solutions.lora_M, 0.5))  # half-trained: the loss slopes there
    found = table(coefficient_rows(solutions, 200, 10.0), "quantity")
    assert 0 < found["llc_moved"] < 1
    assert found["llc"] > 3 * found["llc_error"]
    monkeypatch.setattr(volume, "descend", lambda energy, w, *_: (w, jax.grad(energy)(w)))
    here = table(coefficient_rows(solutions, 200, 10.0), "quantity")
    assert here["llc"] < found["llc"]
    assert here["llc_missed"] > volume.AT_REST > found["llc_missed"]  # which is counted among the failures
    assert here["failures"] >= 1


def test_chains_take_as_many_rows_of_every_member_as_the_budget_holds(solutions, monkeypatch):
    asked = [(Header("assistant"), Turn(t, w, 0)) for t in range(len(solutions.world.topics)) for w in (0, 1)]
    monkeypatch.setattr(volume, "member_rows", lambda *_: (asked, []))
    members = [replace(m, rows=len(asked)) for m in solutions.members]
    monkeypatch.setattr(volume, "TOKENS", 10**6)
    every = some_rows(solutions, members, len(asked))
    assert all(len(rows) == len(asked) and set(rows) == set(asked) for rows in every)
    of = {}
    assert all(of.setdefault(m.seed, rows) == rows for m, rows in zip(members, every, strict=True))  # a seed's arms: the same
    assert of[0] != of[1]
    assert asked not in of.values()  # not the first, which stand under one header
    assert some_rows(solutions, members, 5) == [rows[:5] for rows in every]
    size = pack_data(solutions.grammar, every).rows.tokens[0].size
    monkeypatch.setattr(volume, "LEAST", 4)
    monkeypatch.setattr(volume, "TOKENS", size - 1)
    fewer = some_rows(solutions, members, len(asked))
    assert fewer == [rows[: len(fewer[0])] for rows in every]
    assert pack_data(solutions.grammar, fewer).rows.tokens[0].size < size
    monkeypatch.setattr(volume, "LEAST", len(asked) - 3)
    assert some_rows(solutions, members, len(asked)) == every  # four fewer would be too few


def test_trap_the_temperature_comes_from_the_rows_and_counts_none_twice(solutions, monkeypatch):
    """No more than the chains have at hand; n / log n of all rows, and not of the batch of one, where they have as many (above)."""
    monkeypatch.setattr(volume, "some_rows", lambda s, members, most: [rows[:2] for rows in some_rows(s, members, most)])
    assert table(coefficient_rows(solutions.take([0]), 8, 50.0), "quantity")["llc_n_beta"] == 2


def test_the_evidence_of_a_line_is_the_closed_form_by_both_roads(solutions, monkeypatch):
    """With a loss that is a square in the sum of all numbers of the adapter, what comes after the data has a probability in closed form."""

    def square(model, params, w, data, stream=None):
        z = sum(x.sum() for x in jax.tree.leaves(w))
        return (data.weight * (z - data.rows.target / 50) ** 2).sum() / 2

    monkeypatch.setattr(volume, "data_nll", square)
    solutions = solutions.take([i for i, m in enumerate(solutions.members) if m.arm == "free" and m.seed == 0])
    rows = evidence_rows(solutions, 300)
    numbers = sum(x.size for x in jax.tree.leaves(small_adapter(solutions, random.key(0))))
    width = numbers / prior_precision(solutions)  # variance of the sum before any data

    def moments(rows):
        data = pack_data(solutions.grammar, [rows])
        weight, t = len(rows) * data.weight, data.rows.target / 50
        return np.array([(weight * t**k).sum() for k in range(3)])

    def log_z(m):
        return -np.log1p(m[0] * width) / 2 - (m[2] - m[1] ** 2 / (m[0] + 1 / width)) / 2

    (data,) = some_rows(solutions, solutions.members, 24)
    of_data = moments(data)
    for name, after in continuations(solutions, solutions.members[0], volume.AFTER).items():
        exact = log_z(of_data + moments(after)) - log_z(of_data)
        found = table(rows, "probe", "quantity", topic=name)
        assert found[volume.LAPLACE, "log_predictive"] == pytest.approx(exact, abs=0.01)
        road, error = (found[volume.THERMODYNAMIC, q] for q in ("log_predictive", "log_predictive_error"))
        assert road == pytest.approx(exact, abs=4 * error)
        m = moments(after)
        mean, variance = of_data[1] / (of_data[0] + 1 / width), 1 / (of_data[0] + 1 / width)
        alone = -(m[0] * (mean**2 + variance) - 2 * m[1] * mean + m[2]) / 2  # negative control: the first temperature by itself
        assert abs(alone - exact) > 8 * error
    answered = {(r.topic, r.probe): r.value for r in rows if r.quantity == "evidence_rate"}
    assert set(answered) == {(t, name) for t in (TRAINED, PROBES) for name in (DATA, NARROW, BROAD)}
    assert all(0 < x < 1 for x in answered.values())


@pytest.mark.slow
def test_three_samplers_agree_on_the_coefficient_of_a_small_adapter(solutions):
    """NUTS on the loss of all rows, split Hamiltonian chains, preconditioned Langevin chains on batches; another tie is another number."""
    m = solutions.members[0]
    rows = member_rows(solutions.world, solutions.grammar, solutions.config.finetune, m)[0][: m.rows] * 8
    data = jax.tree.map(lambda x: jnp.asarray(x[0]), pack_data(solutions.grammar, [rows]))
    batch = jax.tree.map(jnp.asarray, write_rows(solutions.grammar, rows))
    start, n_beta = optax.tree.scale(0.3, small_adapter(solutions, random.key(0))), default_n_beta(len(rows))

    def loss(w):
        return data_nll(solutions.model, solutions.params, w, data)

    def minibatch(w, key):
        some = Batch(*(x[random.choice(key, len(rows), (8,), replace=False)] for x in batch))
        logits = forward(solutions.model, solutions.params, w, some.tokens, some.where)
        return (token_nll(logits, some) * some.weight).sum(axis=-1).mean()

    tied_to_start = lambda w: 15 * optax.tree.norm(optax.tree.sub(w, start), squared=True)  # noqa: E731
    w, _ = descend(lambda w: n_beta * loss(w) + tied_to_start(w), start, 500, 1e-2)
    shape = rms_preconditioner(minibatch, start, random.key(2), 50)
    found = {
        "NUTS": llc(loss, w, random.key(1), n_beta=n_beta, gamma=30.0, warmup=300, draws=1000),
        "split": coefficient(split_hmc(loss, w, random.key(1), n_beta=n_beta, gamma=30.0, draws=2000), loss(w), n_beta),
        "Langevin": llc(
            loss, w, random.key(1), n_beta=n_beta, gamma=30.0, minibatch=minibatch, preconditioner=shape, step=2e-3, draws=2000, thin=5
        ),
        "split, ten times the tie": coefficient(split_hmc(loss, w, random.key(1), n_beta=n_beta, gamma=300.0, draws=2000), loss(w), n_beta),
    }
    exact = found["NUTS"]
    assert not (*exact.failures, *found["split"].failures)
    assert found["split"].value == pytest.approx(exact.value, abs=4 * (exact.error + found["split"].error))
    assert found["Langevin"].value == pytest.approx(exact.value, abs=4 * (exact.error + found["Langevin"].error) + 0.05 * abs(exact.value))
    other = found["split, ten times the tie"]
    assert abs(other.value - exact.value) > 4 * (other.error + exact.error)
