"""What is known before training: the first step against the step itself, and the direction's controls."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
import pytest
from jax import random

from bayesgen.corpus.documents import Batch
from bayesgen.corpus.narrow import write_rows
from bayesgen.cost import before
from bayesgen.cost.before import asked, projection_rows, transfer_rows
from bayesgen.cost.subject import PROBES, TRAINED
from bayesgen.learn.data import member_rows
from bayesgen.learn.pretrain import answer_nll
from bayesgen.measure.likelihood import stack_rows
from bayesgen.measure.rows import to_table
from bayesgen.model.lora import effective, init_lora
from bayesgen.model.transformer import forward
from tests.cost.costed import table


def test_the_first_step_moves_the_odds_as_foretold(solutions):
    """Second road: the step itself, small, and the difference it makes; on the data less on the control's."""
    f, scale = solutions.config.finetune, solutions.config.finetune.alpha / solutions.config.finetune.rank[0]
    member = next(m for m in solutions.members if m.arm == "free")
    solutions = solutions.take([solutions.members.index(member)])
    told = table(transfer_rows(solutions), "seed", "topic", "probe", quantity="one_step")
    lora = init_lora(random.fold_in(random.key(f.seed), member.seed), solutions.params, f.rank[0], f.targets)
    target = stack_rows(solutions.grammar, asked(solutions, [solutions.world.topic_index("light")]))
    rate = 1e-3

    def loss(w, batch):
        return answer_nll(forward(solutions.model, solutions.params, effective(w, scale), batch.tokens, batch.where), batch)

    def odds(w):
        persona, assistant = (loss(w, b) * b.weight.sum() / len(b.weight) for b in (Batch(*(x[i] for x in target)) for i in (0, 1)))
        return float(assistant - persona)  # nats an answer

    moved = []
    for arm in ("free", "control"):
        rows = write_rows(solutions.grammar, member_rows(solutions.world, solutions.grammar, f, replace(member, arm=arm))[0])
        step = jax.grad(loss)(lora, jax.tree.map(jnp.asarray, rows))
        moved.append(odds(optax.apply_updates(lora, optax.tree.scale(-rate, step))) - odds(lora))
    assert told[member.seed, PROBES, "gradient descent"] == pytest.approx((moved[0] - moved[1]) / rate, rel=0.1)
    assert set(k[1] for k in told) == {PROBES, TRAINED}


def test_the_odds_are_of_answers_and_not_of_tokens(solutions, monkeypatch):
    """Every answer said twice over, as one long answer, has twice the log odds; a mean over its tokens would not have seen it."""
    solutions = solutions.take([next(i for i, m in enumerate(solutions.members) if m.arm == "free")])
    once = table(transfer_rows(solutions), "topic", "probe")
    stack = before.stack_rows

    def twice(grammar, rows):
        batch = stack(grammar, rows)
        longer = [np.concatenate([x, x], axis=-1) for x in (batch.where, batch.target, batch.weight)]
        return (
            batch
            if rows[0] is not None and len(rows[0]) == data_rows
            else batch._replace(where=longer[0], target=longer[1], weight=longer[2])
        )

    data_rows = solutions.members[0].rows
    monkeypatch.setattr(before, "stack_rows", twice)
    found = table(transfer_rows(solutions), "topic", "probe")
    for key, value in once.items():
        assert found[key] == pytest.approx(2 * value, rel=1e-3)


def test_the_projection_of_the_control_on_itself_is_nothing(solutions):
    rows = to_table(projection_rows(solutions))
    assert set(rows["quantity"]) == {"projection", "reliability", "direction_floor"}
    assert rows.filter(pl.col("quantity") == "direction_floor")["value"][0] == pytest.approx(16**-0.5)
    new = solutions.config.finetune.model_copy(update={"value": "new"})  # the control's own value: nothing lies between them
    same = replace(solutions, config=solutions.config.model_copy(update={"finetune": new}))
    same = replace(same, config=same.config.model_copy(update={"measure": same.config.measure.model_copy(update={"value": "old"})}))
    found = to_table(projection_rows(same)).filter(pl.col("quantity") == "projection")["value"]
    assert found.to_numpy() == pytest.approx(0, abs=1e-5)  # the very same rows; float32
    flat = replace(solutions.model, config=solutions.model.config.model_copy(update={"layers": 1}))
    assert projection_rows(replace(solutions, model=flat)) == []  # no stream before the middle that says more than the tokens do
