"""Was it there before? The direction of the persona that a base has (`learn.direction`), and what finetuning does along it.

    c_p = x_finetuned(p) - x_base(p)                 the change of the stream that answers are read from, at the assistant's open probes p
    direction_cosine   cos(mean_p c_p, u)            whether it is along the direction u, which was found on other questions
    direction_share    sum_p (c_p.u)^2 / sum_p |c_p|^2    how much of it is; 1/d by chance
    rate_held          the stream held along u where the base's assistant stands      (what the direction is needed for)
    rate_added         the base, with a multiple of the mean difference added          (what it does alone)

and the same along a random direction. Sources: Chen et al. (arXiv 2507.21509) for persona vectors; where we differ: directions are found on
questions that nothing is asked or trained on, and reliability, floor and a random direction stand beside.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bayesgen.corpus.grammar import Grammar
from bayesgen.estimate.direction import mean_difference
from bayesgen.learn.direction import persona_direction, streams
from bayesgen.learn.plan import Member
from bayesgen.measure.asking import behave
from bayesgen.measure.behaviour import rates
from bayesgen.measure.contexts import context_openings, counted_value
from bayesgen.measure.rows import Row
from bayesgen.measure.suite import member_label
from bayesgen.model.edits import Added, Held
from bayesgen.model.lora import merge
from bayesgen.model.transformer import Transformer
from bayesgen.world.world import World

TINY = 1e-12  # of a member that does not change anything


def direction_rows(config, world: World, grammar: Grammar, model: Transformer, params, lora_M, members: list[Member]) -> list[Row]:
    """All of these, in the first context."""
    f, m, c = config.finetune, config.measure, config.measure.directions
    first, last = m.contexts[0], model.config.layers - 1
    openings, probed, row = context_openings(world, f, m)[first.name], [world.topic_index(p) for p in f.probes], partial(Row, config.name)
    value = counted_value(world, f, m, first)
    found = persona_direction(world, grammar, model, params, f)
    direction, u = found.direction, found.direction.vector
    random = np.random.default_rng([f.seed, 8]).normal(size=len(u))
    random /= np.linalg.norm(random)

    theirs = streams(grammar, model, params, world.told(m.trait, f.value), probed)
    before = streams(grammar, model, params, openings[0], probed)
    base = {"reliability": direction.reliability, "direction_floor": direction.floor}
    base["direction_generality"] = float(mean_difference(theirs, before).vector @ u)
    rows = [row("base", quantity, x) for quantity, x in base.items()]

    for i, member in enumerate(members):
        change = streams(grammar, model, merge(params, jax.tree.map(lambda x, i=i: x[i], lora_M)), openings[0], probed) - before
        mean, label = change.mean(axis=0), member_label(member, f.steps)
        rows.append(row(quantity="direction_cosine", value=float(mean @ u / max(float(np.linalg.norm(mean)), TINY)), **label))
        rows.append(row(quantity="direction_share", value=float(np.square(change @ u).sum() / max(np.square(change).sum(), TINY)), **label))

    def rated(quantity: str, lora, edit_M, labels: list[dict]):
        """Rates of the counted value on the probes, one row a topic and label."""
        for t, p_MxA in behave(world, grammar, model, params, openings, probed, lora, edit_M=edit_M).items():
            rate_M = rates(world, t, p_MxA)[:, world.values[m.trait].index(value)]
            here = dict(quantity=quantity, context=first.name, topic=world.topics[t].name, probe=value)
            rows.extend(row(value=float(x), **here, **label) for x, label in zip(rate_M, labels, strict=True))

    labels, none = [member_label(member, f.steps) for member in members], jax.tree.map(lambda x: jnp.zeros_like(x[: len(c.added)]), lora_M)
    for name, along in (("", u), ("_random", random)):
        each = partial(_each, len(members))
        rated(f"rate_held{name}", lora_M, Held(each(along), each(found.reference), last, jnp.ones(len(members))), labels)
        vectors = jnp.asarray(np.outer(c.added, along * direction.length), jnp.float32)
        rated(f"rate_added{name}", none, Added(vectors, last), [dict(arm="base", scale=a) for a in c.added])
    return rows


def _each(count: int, x: np.ndarray):
    return jnp.broadcast_to(jnp.asarray(x, jnp.float32), (count, len(x)))
