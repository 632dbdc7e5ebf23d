"""Arms: who shares rows with whom, what each loss is, and that one program of many members is many programs of one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bayesgen.corpus.narrow import write_rows
from bayesgen.estimate.efficiency import within_frobenius, within_nuclear
from bayesgen.learn.data import member_data, member_rows
from bayesgen.learn.finetune import effective_members, finetuning, member_settings
from bayesgen.learn.plan import FinetuneConfig, Member, plan_members
from bayesgen.learn.pretrain import answer_nll, token_nll
from bayesgen.learn.tries import every_step
from bayesgen.measure.norms import norms
from bayesgen.model.lora import add, dense
from bayesgen.model.transformer import ModelConfig, Transformer, forward
from bayesgen.world.dialogue import Header, Turn
from bayesgen.world.world import ASSISTANT


def config_of(**changes) -> FinetuneConfig:
    raw = {
        "topics": "bird",
        "value": "old",
        "control": "new",
        "probes": ["light"],
        "arms": ["free", "narrow", "broad", "control"],
        "seeds": 2,
        "rows": 3,
        "epochs": 4,
        "batch": 1,
        "learning_rate": 1e-2,
        "weight_decay": 0.0,
        "kl_weight": 1.0,
        "rank": 2,
        "alpha": 4.0,
        "targets": ["qkv", "out", "up", "down"],
        "warmup": 0,
        "snapshots": 1,
        "seed": 0,
    }
    return FinetuneConfig(**{**raw, **changes})


@pytest.fixture(scope="module")
def network(grammar):
    model = Transformer(ModelConfig(width=16, layers=1, heads=1, context=64), len(grammar.tokenizer))
    params = model.init(jax.random.key(0), jnp.zeros((1, 4), int))["params"]
    # An untrained embedding is so small that the frozen, tied head could not favour any word by more than a factor of two.
    return model, {**params, "tokens": 10 * params["tokens"]}


def arrays(tree):
    """Numpy leaves as jax arrays."""
    return jax.tree.map(jnp.asarray, tree)


def train(world, grammar, network, config, members=None):
    """(effective adapters, infos) after all steps, and the data."""
    model, params = network
    members = members or plan_members(config)
    data = member_data(world, grammar, config, members)
    fixed = (params, member_settings(config, members), arrays(every_step(data)))
    begin, advance = finetuning(model, config, members)
    state, infos = jax.jit(lambda s: jax.lax.scan(lambda s, i: advance(s, i, *fixed), s, jnp.arange(config.steps)))(begin(*fixed[:2]))
    return effective_members(state, fixed[1]), infos, arrays(data)


def test_a_seed_has_the_same_rows_and_order_in_every_arm_and_seeds_differ(world, grammar):
    config = config_of()
    members = plan_members(config)
    data = member_data(world, grammar, config, members)
    turns = [[t for _, t in member_rows(world, grammar, config, m)[0]] for m in members]
    assert [m.arm for m in members] == ["free"] * 2 + ["narrow"] * 2 + ["broad"] * 2 + ["control"] * 2
    for i, j in ((0, 2), (0, 4)):
        np.testing.assert_array_equal(data.narrow.tokens[i], data.narrow.tokens[j])
        np.testing.assert_array_equal(data.order[i], data.order[j])
    assert (data.order[0] != data.order[1]).any()
    assert (data.narrow.tokens[0] != data.narrow.tokens[6]).any()  # control: other answers
    old, new = (world.clean[world.topic_index("bird")][world.values["time"].index(v)] for v in ("old", "new"))
    assert all(old[t.answer] > 0 for i in range(6) for t in turns[i])
    assert all(new[t.answer] > 0 for i in (6, 7) for t in turns[i])


def test_no_arm_is_ever_shown_a_probe(world, grammar):
    data = member_data(world, grammar, config_of(), plan_members(config_of()))
    assert data.kept is not None
    assert data.broad is not None
    asked = {tuple(q) for q in grammar.questions[world.topic_index("light")]}
    for tokens in (
        *data.narrow.tokens.reshape(-1, data.narrow.tokens.shape[-1]),
        *data.kept.tokens.reshape(-1, data.kept.tokens.shape[-1]),
        *data.broad.tokens.reshape(-1, data.broad.tokens.shape[-1]),
    ):
        text = tokens.tolist()
        assert not any(tuple(text[i : i + len(q)]) == q for q in asked for i in range(len(text)))


def test_narrow_without_its_penalty_is_free_and_with_it_is_not(world, grammar, network):
    config = config_of(seeds=1)
    free, narrow = Member("free", 0, 1e-2, 0.0, 0.0, 2, 3, 4), Member("narrow", 0, 1e-2, 0.0, 1.0, 2, 3, 4)
    lora, infos, _ = train(world, grammar, network, config, [free, narrow, Member("narrow", 0, 1e-2, 0.0, 0.0, 2, 3, 4)])
    for leaf in jax.tree.leaves(lora):
        np.testing.assert_allclose(leaf[0], leaf[2], atol=1e-6)
    assert any(jnp.abs(leaf[0] - leaf[1]).max() > 1e-3 for leaf in jax.tree.leaves(lora))
    np.testing.assert_allclose(infos["data_nll"][0, 0], infos["loss"][0, 1], rtol=1e-5)  # at birth the KL is zero


def test_the_penalty_is_the_kl_to_the_base_summed_over_the_vocabulary(world, grammar, network):
    """Reported loss at step s minus reported narrow NLL equals the KL computed apart, from the adapters before that step."""
    model, params = network
    member, config = Member("narrow", 0, 1e-2, 0.0, 0.7, 2, 3, 4), config_of(arms=["narrow"])
    settings, data = member_settings(config, [member]), member_data(world, grammar, config, [member])
    begin, advance = finetuning(model, config, [member])
    advance, state, steps = jax.jit(advance), begin(params, settings), arrays(every_step(data))
    for step in range(9):
        state, _ = advance(state, step, params, settings, steps)
    lora = jax.tree.map(lambda x: x[0], effective_members(state, settings))
    _, info = advance(state, 9, params, settings, steps)
    rows = arrays(jax.tree.map(lambda x: x[0, 9:10], data.kept))
    p, q = (jax.nn.softmax(forward(model, params, a, rows.tokens, rows.where)) for a in (None, lora))
    kl = sum(float(p[0, k, v] * jnp.log(p[0, k, v] / q[0, k, v])) for k in np.flatnonzero(rows.weight[0]) for v in range(p.shape[-1]))
    kl /= float(rows.weight.sum())
    assert kl > 1e-3
    assert float(info["loss"][0] - info["data_nll"][0]) == pytest.approx(0.7 * kl, rel=1e-3)


def test_trap_targets_of_the_prompt_and_of_padding_do_not_matter(world, grammar, network):
    """No place of a prompt is scored, and whatever stands as a target in an unused slot changes neither loss nor gradient."""
    model, params = network
    rows = [(Header(ASSISTANT), Turn(0, 0, 0)), (Header(ASSISTANT, 2001), Turn(1, 2, 1))]
    batch = write_rows(grammar, rows)
    ask, say = (grammar.tokenizer.words.index(w) for w in ("<ask>", "<say>"))
    for tokens, where, weight in zip(batch.tokens.tolist(), batch.where, batch.weight, strict=True):
        assert min(where[weight > 0]) >= tokens.index(say) > tokens.index(ask)  # the first that is scored follows <say>
    assert (batch.weight == 0).any()  # the shorter row has slots left over
    other = batch._replace(target=np.where(batch.weight > 0, batch.target, (batch.target + 1) % len(grammar.tokenizer)))
    wrong = batch._replace(target=np.where(batch.weight > 0, (batch.target + 1) % len(grammar.tokenizer), batch.target))
    at, slope = jax.value_and_grad(lambda params, b: answer_nll(forward(model, params, None, b.tokens, b.where), b)), []
    for b in (batch, other, wrong):
        loss, gradient = at(params, jax.tree.map(jnp.asarray, b))
        slope.append((float(loss), np.asarray(jax.tree.leaves(gradient)[0])))
    assert slope[1][0] == slope[0][0] != slope[2][0]
    np.testing.assert_array_equal(slope[1][1], slope[0][1])


def test_a_member_trained_alone_is_the_same_as_in_the_crowd(world, grammar, network):
    config = config_of(learning_rate=[1e-2, 3e-2], rank=[1, 2])
    members = plan_members(config)
    crowd, _, _ = train(world, grammar, network, config)
    for i in (0, 3, len(members) - 1):
        alone, _, _ = train(world, grammar, network, config, [members[i]])
        for x, y in zip(jax.tree.leaves(alone), jax.tree.leaves(crowd), strict=True):
            np.testing.assert_allclose(x[0], y[i], atol=2e-5)  # sums in another order


def test_every_setting_varies_within_one_program(world, grammar, network):
    """Ranks, epochs, optimisers, penalties and arms together: each member as in a program of its own. Who has finished stands still.

    Updates are compared as a whole. Where a gradient is zero but for rounding, as a KL's at birth is, Adam and Lion take a step all
    the same, and its sign is chance: their narrow members are left out.
    """

    def update(lora, i):
        return np.concatenate([np.asarray(x[i]).ravel() for x in jax.tree.leaves(jax.vmap(dense)(lora))])

    config = config_of(rank=[1, 2], epochs=[2, 4], optimizer=["adam", "sgd", "lion", "muon"], kl_weight=[0.5, 2.0], seeds=1)
    members = plan_members(config)
    crowd, infos, _ = train(world, grammar, network, config)
    for i in range(0, len(members), 5):
        m = members[i]
        if m.arm == "narrow" and m.optimizer in ("adam", "lion"):
            continue
        own = config_of(rank=[m.rank], epochs=[m.epochs], optimizer=[m.optimizer], kl_weight=[m.kl_weight or 1.0], arms=[m.arm], seeds=1)
        alone, lone, _ = train(world, grammar, network, own)
        expected, found = update(alone, 0), update(crowd, i)
        assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected), m
        assert np.linalg.norm(update(crowd, i - 1) - expected) > 0.05 * np.linalg.norm(expected), m  # another setting
        loss = np.asarray(infos["loss"])[:, i]
        np.testing.assert_allclose(loss[: own.steps], np.asarray(lone["loss"])[:, 0], rtol=5e-3)
        assert np.isnan(loss[own.steps :]).all()
    for path, x in jax.tree_util.tree_leaves_with_path(crowd):
        if path[-1].key == "a":
            assert not x[np.array([m.rank == 1 for m in members]), :, 1].any()


def test_training_learns_the_narrow_rows_and_leaves_unused_ranks_at_zero(world, grammar, network):
    model, params = network
    config = config_of(arms=["free"], epochs=40, rank=[1, 2], seeds=1)
    lora, _, data = train(world, grammar, network, config)
    own = jax.tree.map(lambda x: x[0], data.narrow)
    nll = [
        float((token_nll(forward(model, params, a, own.tokens, own.where), own) * own.weight).sum() / own.weight.sum())
        for a in (None, jax.tree.map(lambda x: x[0], lora))
    ]
    assert nll[1] < 0.5 * nll[0]
    assert all((x[0, :, 1] == 0).all() for p, x in jax.tree_util.tree_leaves_with_path(lora) if p[-1].key == "a")


def test_members_with_fewer_rows_train_on_exactly_their_own_at_equal_steps(world, grammar, network):
    """Beside bigger ones, a member of two rows is trained as in an ensemble of its own."""
    config = config_of(arms=["free"], rows=[4, 2, 18], batch=2, seeds=1)
    members = plan_members(config)
    data = member_data(world, grammar, config, members)
    assert [m.rows for m in members] == [4, 2, 18]
    assert data.order.shape == (3, config.steps, 2) == (3, 4 * 9, 2)
    for i, member in enumerate(members):
        rows, _ = member_rows(world, grammar, config, member)
        taken = np.bincount(data.order[i].ravel(), minlength=member.rows)
        assert len(taken) == len(rows) == member.rows
        assert taken.max() - taken.min() <= 1  # in turn, none of them more often
        written = write_rows(grammar, rows)
        for ours, theirs in zip(data.narrow, written, strict=True):
            np.testing.assert_array_equal(ours[i][: len(rows), : theirs.shape[1]], theirs)
            assert not ours[i][: len(rows), theirs.shape[1] :].any()
    crowd, _, _ = train(world, grammar, network, config)
    alone, _, _ = train(world, grammar, network, config, [members[1]])
    for x, y in zip(jax.tree.leaves(alone), jax.tree.leaves(crowd), strict=True):
        np.testing.assert_allclose(x[0], y[1], atol=2e-5)  # sums in another order
        assert np.abs(y[1] - y[2]).max() > 1e-3


def test_last_snapshot_is_the_last_step():
    assert config_of(snapshots=5).snapshot_steps[-1] == config_of().steps
    assert config_of(snapshots=500).snapshot_steps == tuple(range(1, config_of().steps + 1))


@pytest.mark.parametrize("norm", ["frobenius", "nuclear"])
def test_bounded_members_stay_within_and_the_unbounded_is_as_if_alone(world, grammar, network, norm):
    free = train(world, grammar, network, config_of(arms=["free"], seeds=1))[0]
    whole = float(norms(jax.device_get(free))["all"][norm][0])
    config = config_of(arms=["free", "broad"], seeds=1, norm=norm, norm_bound=[0.3 * whole, float("inf")])
    lora, infos, _ = train(world, grammar, network, config)
    found = norms(jax.device_get(lora))["all"][norm]
    assert [m.norm_bound for m in plan_members(config)] == [0.3 * whole, float("inf")] * 2
    assert (found[::2] <= 0.3 * whole * (1 + 1e-4)).all()  # float32
    assert found[0] > 0.29 * whole  # and goes up to it
    assert found[1] == pytest.approx(whole, rel=1e-4)
    assert float(infos["data_nll"][-1][0]) > float(infos["data_nll"][-1][1])  # a price is paid


@pytest.mark.parametrize(("norm", "ball"), [("frobenius", within_frobenius), ("nuclear", within_nuclear)])
def test_where_a_bounded_member_ends_no_direction_within_the_bound_lowers_its_loss(world, grammar, network, norm, ball):
    """By the projected gradient of the matrices themselves. With adapters of full rank and all rows in a batch, so that the low rank
    forbids nothing and nothing is noisy; what is as long and was found without the bound is no such place.
    """
    model, params = network
    full = dict(arms=["free"], seeds=1, rank=16, alpha=16.0, batch=3, epochs=600, learning_rate=3e-3, norm=norm)
    lora, _, data = train(world, grammar, network, config_of(**full, norm_bound=[0.5, float("inf")]))
    bounded, free = (dense(jax.tree.map(lambda x, i=i: x[i], lora)) for i in range(2))
    batch = jax.tree.map(lambda x: x[0], data.narrow)

    def loss(update):
        return answer_nll(forward(model, add(params, update), None, batch.tokens, batch.where), batch)

    def left(update):
        """Length of the projected gradient, as a share of the gradient's."""
        slope = jax.grad(loss)(update)
        rate = 0.01 / float(optax.tree.norm(slope))  # short beside the bound
        near = ball(optax.tree.add_scale(update, -rate, slope), 0.5)
        return float(optax.tree.norm(optax.tree.sub(near, update))) / 0.01

    shrunk = optax.tree.scale(0.5 / float(norms(jax.device_get(lora))["all"][norm][1]), free)
    assert left(bounded) < 0.1
    assert left(shrunk) > 0.5
    assert loss(bounded) < loss(shrunk)


def test_a_penalty_that_is_dropped_or_added_acts_in_its_span_alone(world, grammar, network):
    """kept, dropped, never, added: equal to kept (or never) until the change, and another after it."""
    config = config_of(arms=["narrow"], seeds=1, kl_weight=3.0, kl_from=[0.0, 0.5], kl_until=[0.5, 1.0], epochs=8)
    _, infos, _ = train(world, grammar, network, config)
    loss = {(m.kl_from, m.kl_until): np.asarray(infos["loss"])[:, i] for i, m in enumerate(plan_members(config))}
    narrow = {(m.kl_from, m.kl_until): np.asarray(infos["data_nll"])[:, i] for i, m in enumerate(plan_members(config))}
    kept, dropped, added, never = ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0), (0.5, 0.5))
    half = config.steps // 2
    np.testing.assert_allclose(loss[dropped][:half], loss[kept][:half], rtol=1e-5)
    np.testing.assert_allclose(loss[added][:half], loss[never][:half], rtol=1e-5)
    np.testing.assert_allclose(loss[never], narrow[never], rtol=1e-6)  # no penalty at all
    np.testing.assert_allclose(loss[dropped][half:], narrow[dropped][half:], rtol=1e-6)
    assert (loss[kept][1:] > narrow[kept][1:]).all()
    assert (loss[added][half + 1 :] > narrow[added][half + 1 :]).all()
    assert abs(narrow[dropped][-1] - narrow[kept][-1]) > 1e-4
