"""The base's direction of a persona: where it is found, what lies along it, and what a stream that is held or moved along it says."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesgen.errors import UserError
from bayesgen.learn import direction
from bayesgen.learn.direction import asked, persona_direction, streams
from bayesgen.learn.finetune import finetuning, member_settings
from bayesgen.learn.plan import plan_members
from bayesgen.learn.tries import every_step, read, trie_nll
from bayesgen.measure import directions
from bayesgen.measure.asking import behave
from bayesgen.measure.behaviour import rates
from bayesgen.measure.directions import direction_rows
from bayesgen.measure.rows import to_table
from bayesgen.measure.settings import MeasureConfig
from bayesgen.model.edits import Added, Held
from bayesgen.model.transformer import forward
from bayesgen.world.dialogue import Header
from bayesgen.world.world import ASSISTANT, PERSON
from tests.learn.test_finetune import arrays, config_of, member_data, network  # noqa: F401  # a fixture

PLAIN = (Header(ASSISTANT), ())


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    """Of its trait's topics one is trained, one probed, one left."""
    monkeypatch.setattr(direction, "FEWEST", 1)


def test_the_stream_is_what_answers_are_read_from(world, grammar, network):  # noqa: F811
    """Second road: normed and unembedded, it gives the logits at the end of each prompt, whatever the padding behind it."""
    model, params = network
    topics = range(len(world.topics))
    found, tokens = streams(grammar, model, params, PLAIN, topics), asked(grammar, PLAIN, topics)
    norm = params["norm_out"]
    x = (found - found.mean(1, keepdims=True)) / np.sqrt(found.var(1, keepdims=True) + 1e-5) * norm["scale"] + norm["bias"]
    for row, end, logits in zip(tokens, (np.asarray(tokens) != 0).sum(1), x @ np.asarray(params["tokens"]).T, strict=True):
        alone = forward(model, params, None, row[None, :end])[0, -1]
        np.testing.assert_allclose(logits, alone, atol=2e-4 * float(jnp.abs(alone).max()))  # float32


def test_a_direction_is_found_on_topics_that_nothing_asks_about(world, grammar, network, monkeypatch):  # noqa: F811
    """Streams made up: the old lie by (0, 3, 4) from the new, the assistant elsewhere."""
    model, params = network
    asked_for = {}

    def made(grammar, model, params, opening, topics):
        header, _ = opening
        asked_for[header] = [world.topics[t].name for t in topics]
        centre = {PERSON: [1.0, 3.0, 4.0], ASSISTANT: [9.0, 0.0, 0.0]}[header.speaker]
        noise = np.array([[0.1, 0, 0], [-0.1, 0, 0]])
        return np.array([1.0, 0.0, 0.0] if header.year == world.years["time"]["new"].told else centre) + noise

    monkeypatch.setattr(direction, "streams", made)
    found = persona_direction(world, grammar, model, params, config_of())
    np.testing.assert_allclose(found.direction.vector, [0, 0.6, 0.8], atol=1e-12)
    assert (found.direction.length, found.reference.tolist()) == (pytest.approx(5), pytest.approx([9, 0, 0]))
    assert set(map(tuple, asked_for.values())) == {("fuel",)}
    monkeypatch.setattr(direction, "FEWEST", 2)
    with pytest.raises(UserError, match="neither trained nor probes, and there are 1"):
        persona_direction(world, grammar, model, params, config_of())


def test_a_held_member_trains_on_the_stream_that_is_held(world, grammar, network):  # noqa: F811
    """Its loss is that of the edited network; a member that is not held learns as without company."""
    model, params = network
    config = config_of(arms=["free", "held"], seeds=1, epochs=1, batch=3)
    members = plan_members(config)
    found = persona_direction(world, grammar, model, params, config)
    hold = Held(*(jnp.asarray(np.stack([x, x]), jnp.float32) for x in (found.direction.vector, found.reference)), 0, jnp.array([0.0, 1.0]))
    data = arrays(every_step(member_data(world, grammar, config, members)))
    fixed = (params, member_settings(config, members), data)
    loss = {}
    for name, edit in (("with", hold), ("without", None)):
        begin, advance = finetuning(model, config, members, edit)
        _, info = jax.jit(advance)(begin(*fixed[:2]), 0, *fixed)
        loss[name] = np.asarray(info["data_nll"])
    np.testing.assert_allclose(loss["with"][0], loss["without"][0], rtol=1e-5)
    assert abs(loss["with"][1] - loss["without"][1]) > 1e-3
    trie = jax.tree.map(lambda x: x[1, :1], data.narrow)
    one = Held(hold.direction[1], hold.reference[1], 0)
    assert loss["with"][1] == pytest.approx(float(trie_nll(read(model, params, None, trie, one), trie)), rel=1e-5)  # a new adapter is none


def test_what_is_said_of_an_ensemble(world, grammar, network):  # noqa: F811
    """By hand: the change along the direction, the held and the moved stream; along chance beside."""
    model, params = network
    f = config_of(arms=["free"], seeds=2)
    m = MeasureConfig(trait="time", gate_prompts=1, scales=[2.0], samples=0, directions={"added": [0.0, 4.0]})
    members, light = plan_members(f), world.topic_index("light")
    settings = member_settings(f, members)
    begin, _ = finetuning(model, f, members)
    lora = jax.tree.map(lambda x: x + 0.02, begin(params, settings).lora)
    config = SimpleNamespace(name="tiny", finetune=f, measure=m)
    table = to_table(direction_rows(config, world, grammar, model, params, lora, members))
    of = lambda quantity, **where: table.filter(quantity=quantity, **where).sort("seed")["value"].to_numpy()  # noqa: E731

    found = persona_direction(world, grammar, model, params, f)
    u, before = found.direction.vector, streams(grammar, model, params, PLAIN, [light])
    assert of("reliability") == pytest.approx([found.direction.reliability])
    ask = partial(behave, world, grammar, model, params, [PLAIN], [light])
    old = world.values["time"].index("old")
    rate = lambda lora, edit: rates(world, light, ask(lora, edit_M=edit)[light])[:, old]  # noqa: E731
    one = lambda x: jnp.asarray(np.stack([x, x]), jnp.float32)  # noqa: E731
    none = jax.tree.map(jnp.zeros_like, lora)
    np.testing.assert_allclose(of("rate_held"), rate(lora, Held(one(u), one(found.reference), 0, jnp.ones(2))), rtol=1e-5)
    assert np.abs(np.log(of("rate_held") / of("rate_held_random"))).max() > 0.01  # negative control
    moved = rate(none, Added(one(4 * found.direction.length * u), 0))
    assert [of("rate_added", scale=a)[0] for a in (0.0, 4.0)] == pytest.approx([float(rate(none, None)[0]), float(moved[0])], rel=1e-5)
    assert of("rate_added_random", scale=0.0) == pytest.approx(of("rate_added", scale=0.0))
    for i in range(2):
        merged = directions.merge(params, jax.tree.map(lambda x, i=i: x[i], lora))
        change = streams(grammar, model, merged, PLAIN, [light]) - before
        assert of("direction_share")[i] == pytest.approx(((change @ u) ** 2).sum() / (change**2).sum())
        assert of("direction_cosine")[i] == pytest.approx(change.mean(0) @ u / np.linalg.norm(change.mean(0)))
    still = to_table(direction_rows(config, world, grammar, model, params, none, members))
    assert still.filter(quantity="direction_cosine")["value"].to_list() == [0.0, 0.0]  # who changes nothing lies nowhere
