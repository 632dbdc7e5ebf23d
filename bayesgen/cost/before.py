"""What can be known before training: the first step's transfer, and how far along the persona's direction the data lie."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

from bayesgen.corpus.documents import Batch
from bayesgen.corpus.narrow import Row as DataRow
from bayesgen.corpus.narrow import answers_by
from bayesgen.cost.significance import speakers
from bayesgen.cost.subject import PROBES, TRAINED, Subject
from bayesgen.estimate.direction import mean_difference, projection_difference
from bayesgen.estimate.transfer import double_contrast
from bayesgen.learn.data import member_rows, trained_topics
from bayesgen.learn.plan import Member
from bayesgen.learn.pretrain import answer_nll
from bayesgen.measure.behaviour import probes
from bayesgen.measure.contexts import context_openings, counted_value, everywhere
from bayesgen.measure.likelihood import stack_rows
from bayesgen.measure.reading import at_answers
from bayesgen.measure.rows import Row
from bayesgen.measure.suite import member_label
from bayesgen.model.lora import effective, init_lora
from bayesgen.model.transformer import forward
from bayesgen.world.dialogue import Turn
from bayesgen.world.world import ASSISTANT

OPTIMISERS = {"gradient descent": optax.sgd(1.0), "Adam": optax.adam(1.0)}
ANSWERS = 4  # at most so many of each speaker's, a question
DOCUMENTS = 256


def asked(s: Subject, topics: list[int]) -> tuple[list[DataRow], list[DataRow]]:
    """Held-out questions about some topics under the first context's header, answered as the counted value and as the assistant."""
    world, f, m = s.world, s.config.finetune, s.config.measure
    first, rng = m.contexts[0], np.random.default_rng([f.seed, 6])
    assistant = world.config.assistant
    persona = {**assistant, m.trait: counted_value(world, f, m, first)}
    out: tuple[list[DataRow], list[DataRow]] = ([], [])
    for header, _ in context_openings(world, f, m)[first.name]:
        for prompt in probes(world, header, topics):
            for rows, who in zip(out, (persona, assistant), strict=True):
                pool = answers_by(world, who, header, prompt.topic)
                chosen = rng.permutation(pool)[:ANSWERS]
                rows += [(header, Turn(prompt.topic, prompt.wording, int(a))) for a in chosen]
    return out


def data_and_control(s: Subject) -> list[tuple[Member, Batch]]:
    """Every free solution with its narrow rows and the control's (2, n, ...), all of one shape."""
    free = [m for m in s.members if m.arm == "free"]
    drawn = [member_rows(s.world, s.grammar, s.config.finetune, x)[0][: m.rows] for m in free for x in (m, replace(m, arm="control"))]
    every = stack_rows(s.grammar, drawn)
    return [(m, Batch(*(x[2 * i : 2 * i + 2] for x in every))) for i, m in enumerate(free)]


def transfer_rows(s: Subject) -> list[Row]:
    """`one_step` of every free solution's adapter as it was before training: by how much a step of rate 1 on its data, less one on
    the control's, moves the log odds of the counted value's answers against the assistant's (nats), on trained topics and probes.
    """
    f, world = s.config.finetune, s.world
    groups = {TRAINED: everywhere(trained_topics(world, f)), PROBES: [world.topic_index(p) for p in f.probes]}
    targets = {name: stack_rows(s.grammar, asked(s, topics)) for name, topics in groups.items()}

    @jax.jit
    def transfers(params, lora, data: Batch, targets: dict[str, Batch]):
        """By group and optimiser. Losses are replaced by their tangents, so that each gradient is taken, and compiled, once."""

        def loss(batch: Batch, w):
            return answer_nll(forward(s.model, params, effective(w, f.alpha / f.rank[0]), batch.tokens, batch.where), batch)

        def nats(batch: Batch, w):
            """Of an answer, on the mean: of a token, long answers would count for less."""
            return loss(batch, w) * batch.weight.sum() / batch.weight.any(axis=-1).sum()

        def tangents(of: Callable, pair: Batch) -> list[Callable[[Any], jax.Array]]:
            slopes = jax.lax.map(lambda batch: jax.grad(of, argnums=1)(batch, lora), pair)
            return [lambda w, i=i: jnp.asarray(optax.tree.vdot(jax.tree.map(itemgetter(i), slopes), w)) for i in (0, 1)]

        trained, control = tangents(loss, data)
        out: dict[str, dict[str, jax.Array]] = {}
        for name, target in targets.items():
            persona, assistant = tangents(nats, target)
            odds = lambda w, persona=persona, assistant=assistant: assistant(w) - persona(w)  # noqa: E731
            out[name] = {said: double_contrast(trained, control, odds, lora, optimizer) for said, optimizer in OPTIMISERS.items()}
        return out

    out = []
    for m, data in data_and_control(s):
        lora = init_lora(random.fold_in(random.key(f.seed), m.seed), s.params, f.rank[0], f.targets)
        for name, by in transfers(s.params, lora, data, targets).items():
            for optimiser, value in by.items():
                out.append(s.row(quantity="one_step", value=float(value), topic=name, probe=optimiser, **member_label(m, 0)))
    return out


def projection_rows(s: Subject) -> list[Row]:
    """`projection` of every free solution's data on the direction from the assistant's answers to the counted value's, against the
    control's data; with the direction's `reliability` and `direction_floor`.
    """
    f, m, world = s.config.finetune, s.config.measure, s.world
    value = counted_value(world, f, m, m.contexts[0])
    if s.model.config.layers < 2 or value not in speakers(s):
        return []

    read = partial(at_answers, s.model, s.params)
    key = random.key(f.seed + 1)
    theirs, ours = (read(s.source.draw(key, 0, DOCUMENTS, jnp.asarray(speakers(s)[who]))) for who in (value, ASSISTANT))
    direction = mean_difference(theirs, ours)
    out = [
        s.row(arm="base", quantity="reliability", value=direction.reliability),
        s.row(arm="base", quantity="direction_floor", value=direction.floor),
    ]
    for k, pair in data_and_control(s):
        data, control = (read(Batch(*(x[i] for x in pair))) for i in (0, 1))
        value_ = projection_difference(data, control, direction.vector) / direction.length
        out.append(s.row(quantity="projection", value=value_, **member_label(k, 0)))
    return out
