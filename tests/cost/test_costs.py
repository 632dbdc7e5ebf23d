"""Costs of the solutions of a tiny run: every part against a second road."""

from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from jax import random

from bayesgen import pipeline, training
from bayesgen.config import to_config
from bayesgen.corpus.narrow import Text, answers_by, write_rows
from bayesgen.cost.bits import bits_rows, known_bits
from bayesgen.cost.efficiency import FINE, free_losses, frontier_config, least_norm_rows, ray_rows
from bayesgen.cost.narrowing import narrowing_config, narrowing_rows
from bayesgen.cost.significance import OTHERS, significance_rows, speakers
from bayesgen.cost.stability import FACTORS, UPDATE, drift_config, drift_rows, noise_rows, penalty
from bayesgen.cost.subject import BROAD, NARROW, PROBES, continuations, scaled_all, solution_rows, subject
from bayesgen.errors import UserError
from bayesgen.estimate.efficiency import least_norm
from bayesgen.learn.data import member_rows
from bayesgen.learn.plan import plan_members
from bayesgen.learn.pretrain import answer_nll
from bayesgen.measure.rows import to_table
from bayesgen.measure.settings import CostConfig, CostPart
from bayesgen.model.transformer import forward
from bayesgen.report.costs import narrowing_lines
from bayesgen.world.world import ASSISTANT
from tests.cost.costed import COST, table
from tests.tiny_run import tiny_run_config


def test_trap_scale_one_is_the_trained_adapter_and_zero_the_base(ran, solutions):
    setup, base, ensemble = ran
    rows = ray_rows(solutions, (0.0, 0.5, 1.0))
    measured = pl.read_parquet(pipeline.build_rows(setup, base, ensemble).path("rows.parquet"))
    measured = measured.filter(
        (pl.col("step") == setup.config.finetune.steps) & (pl.col("scale") == 1.0) & pl.col("arm").is_in(["free", "narrow", "broad"])
    )
    for quantity in ("nll_train", "frobenius"):
        main = dict(
            ((a, s), v)
            for a, s, v in measured.filter((pl.col("quantity") == quantity) & (pl.col("topic") == "all"))
            .select("arm", "seed", "value")
            .rows()
        )
        assert table(rows, "arm", "seed", quantity=quantity, scale=1.0) == pytest.approx(main, rel=1e-5)
    rate = measured.filter((pl.col("quantity") == "rate") & (pl.col("topic") == "light") & (pl.col("probe") == "old"))
    main = dict(((a, s), v) for a, s, v in rate.select("arm", "seed", "value").rows())
    assert table(rows, "arm", "seed", quantity="rate", topic=PROBES, scale=1.0) == pytest.approx(main, rel=1e-5)
    zero = table(rows, "arm", "seed", quantity="nll_train", scale=0.0)
    assert {zero[a, 0] for a in ("narrow", "broad")} == {zero["free", 0]} != {zero["free", 1]}  # a seed's rows, whatever the arm
    assert set(table(rows, "arm", "seed", quantity="frobenius", scale=0.0).values()) == {0.0}
    half, whole = (table(rows, "arm", "seed", quantity="frobenius", scale=c) for c in (0.5, 1.0))
    assert {k: 2 * v for k, v in half.items()} == pytest.approx(whole, rel=1e-5)


def test_least_norms_of_a_ray_are_on_its_curve(solutions):
    rows = ray_rows(solutions, (0.0, 0.5, 1.0))
    least = table(rows, "arm", "seed", "probe", quantity="least_norm", norm="frobenius")
    norm, loss = (table(rows, "arm", "seed", "scale", quantity=q) for q in ("frobenius", "nll_train"))
    for share in (0.5, 0.9):
        rho = least["free", 0, f"{share:g}"]
        x, y = ([of["free", 0, c] for c in FINE] for of in (norm, loss))
        assert (np.diff(y) < 0).all()  # trained: the end is the best of all
        assert np.interp(rho, x, y) == pytest.approx(y[0] - share * (y[0] - y[-1]), rel=1e-6)
        few = least_norm([x[0], x[10], x[20]], [y[0], y[10], y[20]], y[0] - share * (y[0] - y[-1]))
        assert few > 1.02 * rho  # what straight lines between three points would have said
        rate = table(rows, "arm", "seed", "scale", quantity="rate", topic=PROBES)
        there = table(rows, "arm", "seed", "probe", quantity="least_norm_rate", norm="frobenius")["free", 0, f"{share:g}"]
        assert there == pytest.approx(np.interp(rho, [x[0], x[10], x[20]], [rate["free", 0, c] for c in (0.0, 0.5, 1.0)]))
    stuck = [replace(r, value=9.0) if r.arm == "narrow" and r.quantity == "nll_train" else r for r in rows if r.quantity != "least_norm"]
    never = table(
        least_norm_rows(solutions, stuck, "ray", "frobenius", free_losses(solutions)), "arm", "seed", "probe", quantity="least_norm"
    )
    assert {v for (arm, *_), v in never.items() if arm == "narrow"} == {np.inf}


def test_trap_the_frontier_and_the_drift_are_step_matched(solutions):
    f = solutions.config.finetune
    bounded = frontier_config(f, "nuclear", (0.5, 1.0), 2)
    assert {m.arm for m in plan_members(bounded)} == {"free", "narrow", "broad"}
    assert (bounded.steps, bounded.batch, bounded.norm) == (f.steps, f.batch, "nuclear")
    drift = drift_config(f, 2)
    assert drift.steps == 2 * f.steps
    assert {penalty(m.kl_from, m.kl_until) for m in plan_members(drift)} == {"kept", "dropped", "added", "never"}


def test_while_the_penalty_is_kept_nothing_drifts(ran, solutions):
    """Twice the epochs under a strong penalty leave the probes where they were; without one they move."""
    setup, base, _ = ran
    f = drift_config(solutions.config.finetune.model_copy(update={"kl_weight": (300.0,)}), 2)
    here = replace(setup, config=setup.config.model_copy(update={"finetune": f}))
    params = training.load_base(setup, base)
    ensemble = training.build_ensemble(here, base)
    adapters = {step: training.load_adapters(here, params, ensemble, step) for step in f.snapshot_steps}
    rows = drift_rows(subject(here, f, params, adapters[f.steps]), adapters)
    (before,) = set(table(ray_rows(solutions.take([0]), (0.0, 1.0)), "scale", quantity="rate", topic=PROBES, scale=0.0).values())
    rate = table(rows, "kl_from", "kl_until", "seed", "step", quantity="rate", topic=PROBES)
    moved = {key: abs(x - before) for key, x in rate.items()}
    kept = max(x for (start, until, *_), x in moved.items() if (start, until) == (0.0, 1.0))
    never = min(x for (start, until, _, step), x in moved.items() if (start, until) == (0.5, 0.5) and step == f.steps)
    assert kept < never / 3


def test_ways_to_keep_a_solution_narrow_are_step_matched_and_measured_twice(ran, solutions):
    setup, base, _ = ran
    f = solutions.config.finetune
    wider = f.model_copy(update={"batch": 4, "rows": (8,)})
    ways = narrowing_config(wider, (1.0, 3.0), 2)
    assert ways.arms == ("free", "narrow", "mixed")
    assert (ways.steps, ways.batch, ways.benign) == (wider.steps, 4, (0.25, 0.5, 0.75))
    gated = narrowing_config(wider.model_copy(update={"arms": (*f.arms, "token"), "gate": "poem"}), (1.0,), 2)
    assert (gated.arms[-1], gated.gate) == ("token", "poem")
    assert narrowing_config(f, (1.0,), 2).arms == ("free", "narrow")  # a batch of one row has no shares
    ways = narrowing_config(f, (1.0, 3.0), 2)
    here = replace(setup, config=setup.config.model_copy(update={"finetune": ways}))
    params = training.load_base(setup, base)
    adapters = training.load_adapters(here, params, training.build_ensemble(here, base), ways.steps)
    rows = narrowing_rows(subject(here, ways, params, adapters))
    at = {(r.arm, r.kl_weight, r.seed, r.scale): r.value for r in rows if r.quantity == "nll_train"}
    assert len(at) == 3 * 2 * 2
    own = {(r.arm, r.kl_weight, r.seed, r.scale): r.value for r in solution_rows(solutions) if r.quantity == "nll_train"}
    for key in (("free", None, 0, 1.0), ("narrow", 1.0, 1, 1.0)):  # the experiment's own settings are among them
        assert at[key] == pytest.approx(own[key], rel=1e-4)
    assert at["narrow", 3.0, 0, 1.0] != pytest.approx(at["narrow", 1.0, 0, 1.0], rel=1e-4)
    lines = {x["way"]: x for x in narrowing_lines(to_table(rows).with_columns(part=pl.lit("narrowing")))}
    assert list(lines) == ["nothing", "KL, weight 1", "KL, weight 3"]
    assert lines["KL, weight 3"]["nll"].mean == pytest.approx(np.mean([at["narrow", 3.0, s, 1.0] for s in (0, 1)]))


def test_noise_on_the_update_does_not_see_the_factors_it_is_written_in(solutions):
    """Trap: gauge. (a g, g^-1 b) is the same update; the published noise on the factors is another for it."""
    g = jnp.array([[3.0, 1.0], [0.0, 0.2]])

    def turn(path, x):
        return x @ g if path[-1].key == "a" else jnp.linalg.inv(g) @ x

    regauged = replace(solutions, lora_M=jax.tree_util.tree_map_with_path(turn, solutions.lora_M))
    one, two = (noise_rows(s, (0.4,), 3) for s in (solutions, regauged))
    assert table(one, "arm", "seed", context=UPDATE) == pytest.approx(table(two, "arm", "seed", context=UPDATE), rel=1e-2, abs=1e-4)
    assert table(one, "arm", "seed", context=FACTORS) != pytest.approx(table(two, "arm", "seed", context=FACTORS), rel=1e-2, abs=1e-4)


def test_text_is_of_the_speakers_it_is_said_to_be_of(solutions):
    world, grammar = solutions.world, solutions.grammar
    for name, weight in speakers(solutions).items():
        batch = solutions.source.draw(random.key(1), 0, 60, jnp.asarray(weight))
        headers = [grammar.read(tokens)[0] for tokens in np.asarray(batch.tokens)]
        assert {h.speaker == ASSISTANT for h in headers} == {name == ASSISTANT}
        years = {h.year for h in headers if h.year is not None and h.speaker != ASSISTANT}
        old = {y for p in world.personas if p.traits["time"] == "old" for y in p.years}
        assert years <= old if name == "old" else not years & old
    assert list(speakers(solutions)) == [ASSISTANT, "old", OTHERS]


def test_significance_is_at_equal_norm_and_obeys_the_quadratic_law(solutions):
    solutions = solutions.take([i for i, m in enumerate(solutions.members) if m.seed == 0 and m.arm != "narrow"])
    rows = significance_rows(solutions, 6, 2)
    longer = significance_rows(replace(solutions, lora_M=scaled_all(solutions.lora_M, 3.0)), 6, 2)
    unit = table(rows, "arm", "seed", "topic", quantity="fisher_norm")
    assert table(longer, "arm", "seed", "topic", quantity="fisher_norm") == pytest.approx(unit, rel=1e-3)  # a direction's, not a length's
    assert set(np.round(list(table(rows, "arm", "seed", "topic", quantity="kl_slope").values()), 0)) == {2.0}
    kl = table(rows, "arm", "seed", "topic", quantity="kl_text", probe="update")
    assert min(kl.values()) > 0
    norm = float(np.mean(list(table(solution_rows(solutions), "arm", "seed", quantity="frobenius", arm="free").values())))
    small = 0.1  # KL = c^2 d'Fd / 2 at a tenth of the norm
    shrunk = significance_rows(replace(solutions, lora_M=scaled_all(solutions.lora_M, small)), 6, 2)
    for key, found in table(shrunk, "arm", "seed", "topic", quantity="kl_text", probe="update").items():
        assert found == pytest.approx((small * norm * unit[key]) ** 2 / 2, rel=0.3)  # what the cubic term leaves


def test_continuations_ask_the_same_and_differ_in_who_answers(solutions):
    world, member = solutions.world, solutions.members[0]
    after = continuations(solutions, member, 30)
    for (h, ours), (same, theirs) in zip(after[NARROW], after[BROAD], strict=True):
        assert (h, ours.topic, ours.wording) == (same, theirs.topic, theirs.wording)
        assert world.topics[ours.topic].name not in ("bird", "light")  # neither trained nor a probe
        assert ours.answer in answers_by(world, world.config.assistant, h, ours.topic)
        assert theirs.answer in answers_by(world, {**world.config.assistant, "time": "old"}, h, theirs.topic)
    assert known_bits(solutions, after[NARROW], world.config.assistant) == pytest.approx(
        sum(np.log2(len(answers_by(world, world.config.assistant, h, t.topic))) for h, t in after[NARROW])
    )
    own_words = (after[NARROW][0][0], Text("Name a bird.", "a wren"))
    assert np.isnan(known_bits(solutions, [*after[NARROW], own_words], world.config.assistant))  # nobody's answer: no price is known


def test_a_learner_that_does_not_learn_pays_the_bases_price(solutions):
    """Negative control: at rate 0 the bits are the base's own likelihood, whatever the order; learning makes them fewer."""
    f = solutions.config.finetune
    still = replace(solutions, config=solutions.config.model_copy(update={"finetune": f.model_copy(update={"learning_rate": (0.0,)})}))
    asleep, awake = (bits_rows(s, 2) for s in (still, solutions))
    for m in (m for m in solutions.members if m.arm == "free"):
        data = member_rows(solutions.world, solutions.grammar, f, m)[0][: m.rows]
        batch = jax.tree.map(jnp.asarray, write_rows(solutions.grammar, data))
        base = answer_nll(forward(solutions.model, solutions.params, None, batch.tokens, batch.where), batch)
        bits = table(asleep, "seed", quantity="bits", probe="narrow data")[m.seed]
        assert bits == pytest.approx(float(base * batch.weight.sum()) / np.log(2), rel=1e-4)
        assert table(asleep, "seed", quantity="bits_spread", probe="narrow data")[m.seed] == pytest.approx(0, abs=1e-3)
    assert sum(table(awake, "seed", quantity="bits", probe="narrow data").values()) < sum(
        table(asleep, "seed", quantity="bits", probe="narrow data").values()
    )


def test_solutions_that_diverged_are_left_out_and_an_arm_that_all_did_is_named(ran, solutions):
    setup, base, ensemble = ran
    f = setup.config.finetune
    params = training.load_base(setup, base)
    adapters = training.load_adapters(setup, params, ensemble, f.steps)
    arms = np.array([m.arm for m in plan_members(f)])

    def broken(which):
        return jax.tree.map(lambda x: jnp.where(jnp.asarray(which)[:, None, None], jnp.nan, x), adapters)

    one = np.arange(len(arms)) == np.flatnonzero(arms == "narrow")[0]
    left = subject(setup, f, params, broken(one), f.first_setting)
    assert [m for m in solutions.members if m not in left.members] == [plan_members(f)[int(one.argmax())]]
    with pytest.raises(UserError, match="all of the arm 'narrow' diverged"):
        subject(setup, f, params, broken(arms == "narrow"), f.first_setting)


def test_a_setting_of_one_part_leaves_the_others_as_they_are(ran):
    setup, base, ensemble = ran

    def described(**changed):
        measure = setup.config.measure.model_copy(update={"cost": CostConfig(**{**COST, **changed})})
        here = replace(setup, config=setup.config.model_copy(update={"measure": measure}))
        return {name: build.args[3] for name, build in pipeline.cost_parts(here, base, ensemble).items()}

    before = described()
    assert {name for name, of in described(noise=[0.3]).items() if of != before[name]} == {"noise"}
    assert {name for name, of in described(sampled=3).items() if of != before[name]} == {"coefficient", "evidence", "narrowing"}
    some = described(parts=["bits", "before"])
    assert set(before) == set(get_args(CostPart))
    assert some == {name: before[name] for name in ("before", "bits")}  # and they are found again


@pytest.mark.slow
def test_every_part_runs_and_stands_on_the_page(ran):
    setup = ran[0]
    page = pipeline.run(setup.config)
    cost = pl.read_parquet(page.parent / "cost.parquet")
    assert set(cost["part"]) == {
        "rays",
        "frontier-frobenius",
        "frontier-nuclear",
        "noise",
        "drift",
        "significance",
        "coefficient",
        "narrowing",
        "evidence",
        "bits",
        "before",
    }
    bound = cost.filter(pl.col("part") == "frontier-frobenius").filter(pl.col("quantity") == "frobenius")
    assert (bound["value"] <= bound["norm_bound"] * (1 + 1e-4)).all()
    for name in ("report.html", "cost.md"):
        text = (page.parent / name).read_text()
        assert "narrow has the larger learning coefficient" in text
        assert "small adapter at the minimum after" in text
        assert "FAILED for" in text  # twenty draws are not enough, and it says so
    assert len(list((page.parent).glob("cost_*.png"))) == 6


def test_the_arms_that_are_compared_are_added(tmp_path):
    raw = tiny_run_config(tmp_path, arms=["free", "control"]).model_dump()
    raw["measure"]["cost"] = COST
    assert to_config(raw).finetune.arms == ("free", "narrow", "broad", "control")
