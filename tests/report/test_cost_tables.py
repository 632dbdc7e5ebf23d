"""The cost tables on rows made by hand, whose signs, failures and missing numbers are known."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from bayesgen.corpus.documents import Batch, DocumentSource
from bayesgen.cost import stability
from bayesgen.cost.efficiency import FRONTIER, RAY, SHARES
from bayesgen.cost.narrowing import SCALED
from bayesgen.cost.stability import FACTORS, UPDATE, drift_config, drift_rows, penalty
from bayesgen.cost.subject import BROAD, DATA, NARROW, PROBES, TRAINED, Subject
from bayesgen.cost.volume import LAPLACE, THERMODYNAMIC
from bayesgen.learn.plan import plan_members
from bayesgen.measure.rows import Row, to_table
from bayesgen.measure.settings import COMPARED
from bayesgen.measure.suite import member_label
from bayesgen.model.transformer import ModelConfig, Transformer
from bayesgen.report.claims import claims
from bayesgen.report.costs import NORM_NAMES, cost_lines, drift_lines, frontier_lines, narrowing_lines
from bayesgen.report.volumes import evidence_lines
from tests.learn.test_finetune import config_of

SEEDS = range(3)
HIGH, LOW, EVEN = {"free": 2.0, "narrow": 3.0, "broad": 2.0}, {"free": 2.0, "narrow": 1.0, "broad": 2.0}, dict.fromkeys(COMPARED, 2.0)


def by_arm(values, quantity, **where):
    """A row an arm and seed, a hundredth apart by seed; arms of one value are apart by chance only."""
    chance = dict(zip(COMPARED, ([0.0, 0.01, 0.02], [0.02, 0.0, 0.01], [0.01, 0.02, 0.0]), strict=True))
    return [Row("x", arm, quantity, v + chance[arm][s], seed=s, **where) for arm, v in values.items() for s in SEEDS]


def free(value, quantity, **where):
    return [Row("x", "free", quantity, value + s / 100, seed=s, **where) for s in SEEDS]


def least(values, kind, norm):
    return [
        r
        for share in SHARES
        for quantity, of in (("least_norm", values), ("least_norm_rate", {"free": 0.4, "narrow": 0.1, "broad": 0.9}))
        for r in by_arm(of, quantity, context=kind, probe=f"{share:g}", norm=norm)
    ]


def table(**changes):
    """Every part: narrow dearer along its ray, cheaper on the frontier, noise even; broad more significant; chains well."""
    parts = {
        "rays": [*least(HIGH, RAY, "frobenius"), *least(HIGH, RAY, "nuclear")]
        + [r for t in (TRAINED, PROBES) for r in by_arm(EVEN, "rate", topic=t)]
        + [r for q in ("nll_train", "frobenius", "nuclear") for r in by_arm(EVEN, q)],
        "frontier-frobenius": least(LOW, FRONTIER, "frobenius"),
        "frontier-nuclear": least(LOW, FRONTIER, "nuclear"),
        "noise": [r for what in (UPDATE, FACTORS) for r in by_arm(EVEN, "noise_rise", context=what, probe="0.4")],
        "significance": by_arm(LOW, "kl_text", topic="assistant", probe="update")
        + by_arm(dict.fromkeys(COMPARED, 0.5), "kl_text", topic="assistant", probe="random")
        + by_arm(EVEN, "fisher_norm", topic="assistant")
        + by_arm(EVEN, "function_norm", topic="assistant")
        + by_arm(EVEN, "kl_slope", topic="assistant")
        + by_arm(dict.fromkeys(COMPARED, 1.0), "kl_law", topic="assistant"),
        "coefficient": by_arm(HIGH, "llc")
        + by_arm(dict.fromkeys(COMPARED, 30.0), "llc_tied")
        + by_arm(dict.fromkeys(COMPARED, 1.0), "llc_r_hat")
        + by_arm(dict.fromkeys(COMPARED, 900.0), "llc_effective")
        + by_arm(dict.fromkeys(COMPARED, 0.0), "llc_diverged")
        + by_arm(dict.fromkeys(COMPARED, 0.01), "llc_missed")
        + by_arm(dict.fromkeys(COMPARED, 0.05), "llc_moved")
        + [Row("x", arm, "failures", 0.0, seed=s) for arm in COMPARED for s in SEEDS]
        + by_arm(dict.fromkeys(COMPARED, 40.0), "llc_rows")
        + by_arm(dict.fromkeys(COMPARED, 12.0), "llc_n_beta"),
        "evidence": [
            r
            for method in (LAPLACE, THERMODYNAMIC)
            for name, value in ((NARROW, -9.0), (BROAD, -5.0))
            for q, v in (("log_predictive", value), ("log_predictive_error", 0.1))
            for r in free(v, q, context="log_predictive", topic=name, probe=method)
        ],
        "drift": [
            Row("x", "narrow", q, v + s / 100, seed=s, topic=PROBES, kl_from=a, kl_until=b, step=step)
            for (a, b), end in (((0.0, 1.0), 0.1), ((0.0, 0.5), 0.6), ((0.5, 1.0), 0.2), ((0.5, 0.5), 0.9))
            for s in SEEDS
            for step, at in ((1, 0.1), (2, end))
            for q, v in (("rate", at), ("nll_train", 1.0))
        ]
        + [Row("x", "narrow", "reverted", 1.0, seed=s, kl_from=a, kl_until=b, step=2) for a, b in ((0.0, 0.5), (0.5, 1.0)) for s in SEEDS],
        "bits": [
            r
            for name, value in ((DATA, 50.0), (NARROW, 40.0), (BROAD, 30.0))
            for q, v in (("bits", value), ("bits_spread", 2.0), ("bits_known", 20.0))
            for r in free(v, q, probe=name)
        ],
        **changes,
    }
    return pl.concat([to_table(rows).with_columns(part=pl.lit(name)) for name, rows in parts.items()])


def verdicts(cost):
    return {c.name: c.verdict for c in claims(cost)}


def said(cost, start):
    (found,) = (v for name, v in verdicts(cost).items() if name.startswith(start))
    return found


def test_every_claim_says_which_way_its_contrast_points():
    cost = table()
    for share in SHARES:
        assert said(cost, f"narrow needs the larger frobenius norm ({share:.0%} of the way down), along its ray") == "holds"
        for norm in NORM_NAMES:
            assert said(cost, f"narrow needs the larger {norm} norm ({share:.0%} of the way down), frontier") == "the opposite holds"
    assert said(cost, "broad is more stable") == "not told"
    assert said(cost, "broad is more significant on text of assistant") == "holds"
    assert said(cost, "narrow has the larger learning coefficient") == "holds"
    for method in (LAPLACE, THERMODYNAMIC):
        assert said(cost, f"small adapters that learnt the data expect the broad continuation ({method})") == "holds"
    assert said(cost, "narrow drifts towards broad") == "holds"
    assert said(cost, "the narrow continuation is the longer") == "holds"
    log = {c.name: c.contrast for c in claims(cost)}["narrow needs the larger frobenius norm (75% of the way down), along its ray"]
    assert log.mean == pytest.approx(np.log(1.5), abs=0.01)


def test_an_update_that_moves_text_no_more_than_chance_is_not_significant():
    chance = [*by_arm(LOW, "kl_text", topic="assistant", probe="update"), *by_arm(EVEN, "kl_text", topic="assistant", probe="random")]
    assert said(table(significance=chance), "broad is more significant on text of assistant").startswith("no answer")


def test_turned_round_they_say_the_opposite():
    even = by_arm(dict.fromkeys(COMPARED, 0.5), "kl_text", topic="assistant", probe="random")
    cost = table(
        significance=[*by_arm(HIGH, "kl_text", topic="assistant", probe="update"), *even],
        bits=[
            r for name, v in ((NARROW, 30.0), (BROAD, 40.0)) for q, x in (("bits", v), ("bits_known", 20.0)) for r in free(x, q, probe=name)
        ],
    )
    assert said(cost, "broad is more significant on text of assistant") == "the opposite holds"
    assert said(cost, "the narrow continuation is the longer") == "the opposite holds"


def test_a_number_whose_diagnostics_fail_is_no_finding():
    good = table()
    chains = good.filter(pl.col("part") == "coefficient")
    others = good.filter(pl.col("part") != "coefficient")

    def with_chains(quantity, value):
        changed = chains.with_columns(value=pl.when(pl.col("quantity") == quantity).then(value).otherwise(pl.col("value")))
        return pl.concat([others, changed])

    bad = with_chains("failures", 1.0)
    assert said(bad, "narrow has the larger").startswith("FAILED for 6 of 6")  # of those compared
    one = pl.concat([bad.filter(pl.col("arm") == "free"), good.filter(pl.col("arm") != "free")])
    assert said(one, "narrow has the larger") == "holds"
    notes = {x.name: x.note for x in cost_lines(one, "old")}
    assert notes["learning coefficient, of 40 rows at n_beta 12"].startswith("FAILED for 3 of 9")
    diverged = {x.name: x.note for x in cost_lines(with_chains("llc_diverged", 2.0), "old")}
    assert ", 18 divergent trajectories, " in diverged["learning coefficient, of 40 rows at n_beta 12"]
    assert (
        said(with_chains("llc_tied", 3.5), "narrow has the larger")
        == "FAILED: the tie decides, which alone gives no more than 1.16 times as much"
    )
    failure = [Row("x", "free", "failures", 1.0, context="log_predictive", topic=NARROW, probe=THERMODYNAMIC, seed=0)]
    bad = pl.concat([good, to_table(failure).with_columns(part=pl.lit("evidence"))])
    chains = [
        Row("x", "free", f"log_predictive_{q}", v, context="log_predictive", topic=NARROW, probe=THERMODYNAMIC, seed=0)
        for q, v in (("r_hat", 1.2), ("effective", 50.0))
    ]
    bad = pl.concat([bad, to_table(chains).with_columns(part=pl.lit("evidence"))])
    expects = "small adapters that learnt the data expect the broad continuation"
    assert said(bad, f"{expects} ({THERMODYNAMIC})") == "FAILED for 1 of 1: worst R-hat 1.2000, fewest effective draws 50"
    assert said(bad, f"{expects} ({LAPLACE})") == "holds"
    assert [line["failed"] for line in evidence_lines(bad)] == [False, True]


def test_a_seed_that_never_gets_there_leaves_no_contrast_and_is_counted():
    never = least({**HIGH, "narrow": np.inf}, FRONTIER, "frobenius")
    cost = table(**{"frontier-frobenius": never})
    assert said(cost, "narrow needs the larger frobenius norm (75% of the way down), frontier").startswith(
        "no answer: a seed never gets there"
    )
    (line,) = (x for x in cost_lines(cost, "old") if x.name.startswith("least frobenius norm for 75%") and x.name.endswith("frontier"))
    assert line.contrast is None
    assert line.note == "narrow: 3 of 3 seeds never"


def test_a_divergence_that_is_not_quadratic_is_said():
    def note(cost):
        return {x.name: x for x in cost_lines(cost, "old")}["Fisher norm a unit of norm, assistant"].note

    good = table()
    assert note(good) == "quadratic law: slope 2.00 to 2.02, size 1.00 to 1.02"
    for quantity, value, found in (("kl_slope", 1.5, "slope 1.50 to 2.02"), ("kl_law", 1.3, "size 1.00 to 1.30")):
        of = (pl.col("quantity") == quantity) & (pl.col("arm") == "broad")
        assert note(good.with_columns(value=pl.when(of).then(value).otherwise(pl.col("value")))).startswith("FAILED, quadratic law")
        assert found in note(good.with_columns(value=pl.when(of).then(value).otherwise(pl.col("value"))))


def test_every_way_to_stay_narrow_has_a_line_of_its_own():
    ways = [("free", None, None), ("narrow", 3.0, None), ("mixed", None, 0.25), ("mixed", None, 0.5), ("token", None, 0.25)]
    rows = [
        Row("x", arm, q, 10 * i + scale, seed=seed, topic=topic, scale=scale, kl_weight=weight, benign=share)
        for i, (arm, weight, share) in enumerate(ways)
        for seed in SEEDS
        for scale in SCALED
        for q, topic in (("rate", TRAINED), ("rate", PROBES), ("nll_train", "all"), ("frobenius", "all"))
    ]
    lines = narrowing_lines(to_table(rows).with_columns(part=pl.lit("narrowing")))
    assert [x["way"] for x in lines] == [
        "nothing",
        "KL, weight 3",
        "25% ordinary rows",
        "50% ordinary rows",
        "gating token, 25% ordinary rows",
    ]
    assert [[i.mean for i in x["off"]] for x in lines] == [[10 * i + c for c in SCALED] for i in range(5)]
    assert [x["nll"].mean for x in lines] == [10 * i + 1 for i in range(5)]


def test_the_frontier_is_compared_bound_by_bound_seed_by_seed():
    rows = [
        *by_arm({"free": 2.0, "narrow": 2.5, "broad": 2.0}, "nll_train", norm_bound=1.0),
        *by_arm(EVEN, "rate", topic=PROBES, norm_bound=1.0),
    ]
    cost = table(**{"frontier-frobenius": rows})
    (line,) = (x for x in frontier_lines(cost) if x["norm"] == "frobenius")
    assert line["bound"] == 1.0
    assert line["nll"]["narrow − broad"].mean == pytest.approx(0.5, abs=0.011)


@pytest.mark.parametrize(("free_at", "least_found"), [(2.1, False), (2.0, True)])
def test_a_frontier_on_which_the_free_arm_is_above_another_has_not_found_the_least(free_at, least_found):
    """The free arm's loss is the likelihood itself: whatever another arm finds within the bound is open to it."""
    rows = [
        Row("x", arm, "nll_train", v + s / 1000, seed=s, norm_bound=1.0) for arm, v in (("free", free_at), ("narrow", 2.0)) for s in SEEDS
    ]
    cost = table(**{"frontier-frobenius": [*least(LOW, FRONTIER, "frobenius"), *rows]})
    verdict = said(cost, "narrow needs the larger frobenius norm (50% of the way down), frontier")
    assert verdict == ("the opposite holds" if least_found else "FAILED: not the least, the free arm ends above another by 0.100 under 1")
    assert said(cost, "narrow needs the larger nuclear norm (50% of the way down), frontier") == "the opposite holds"
    notes = {x.note for x in cost_lines(cost, "old") if x.name.startswith("least frobenius") and x.name.endswith("frontier")}
    assert notes == ({""} if least_found else {verdict})


@pytest.mark.parametrize(("apart", "error", "fails"), [(3.0, 0.1, True), (3.0, 0.6, False), (0.5, 0.1, False)])
def test_laplace_fails_where_the_integral_says_otherwise(apart, error, fails):
    evidence = [
        r
        for method, shift in ((LAPLACE, apart), (THERMODYNAMIC, 0.0))
        for name, value in ((NARROW, -9.0), (BROAD, -5.0))
        for r in (
            *free(value + (shift if name == BROAD else 0), "log_predictive", context="log_predictive", topic=name, probe=method),
            *[Row("x", "free", "log_predictive_error", error, seed=s, context="log_predictive", topic=name, probe=method) for s in SEEDS],
        )
    ]
    one, other = evidence_lines(table(evidence=evidence))
    assert one["failed"] == fails
    assert not other["failed"]
    if fails:
        assert one["note"] == "FAILED: 3 of 6 more than a nat from the integral below"


CURVES = {  # rates on the probes at four snapshots, by history and seed: kept ends at .1, never at .9, the middle is .5
    "kept": ([0.1] * 4, [0.1] * 4),
    "never": ([0.9] * 4, [0.9] * 4),
    "dropped": ([0.1, 0.1, 0.6, 0.4], [0.1, 0.1, 0.6, 0.7]),  # the first goes past the middle and comes back
    "added": ([0.9, 0.9, 0.2, 0.1], [0.9, 0.9, 0.8, 0.8]),
}


def test_a_seed_has_drifted_if_it_ends_there(monkeypatch, world, grammar):
    f = drift_config(config_of(seeds=2, arms=["free", "narrow"], kl_weight=1.0), 2)
    members, steps = plan_members(f), [3, 6, 9, 12]
    model, source = Transformer(ModelConfig(width=16, layers=1, heads=1, context=80), 9), DocumentSource(grammar, 76)
    s = Subject(SimpleNamespace(name="x", finetune=f), world, grammar, model, source, {}, members, {}, Batch(0, 0, 0, 0))  # rates are given

    def rates(s, lora_M, step):
        at = steps.index(step)
        kinds = [(m, CURVES[penalty(m.kl_from, m.kl_until)][m.seed][at]) for m in members]
        return [Row("x", quantity=q, value=v, topic=PROBES, **member_label(m, step)) for m, v in kinds for q in ("rate", "nll_train")]

    monkeypatch.setattr(stability, "solution_rows", rates)
    rows = drift_rows(s, {step: {} for step in steps})
    reverted = {(penalty(r.kl_from, r.kl_until), r.seed): r.value for r in rows if r.quantity == "reverted"}
    assert reverted == {("dropped", 0): 0, ("dropped", 1): 1, ("added", 0): 1, ("added", 1): 0}
    after = {(penalty(r.kl_from, r.kl_until), r.seed): r.value for r in rows if r.quantity == "steps_to_revert"}
    assert after == {("dropped", 1): 3, ("added", 0): 3}
    lines = {x["penalty"]: x for x in drift_lines(to_table(rows).with_columns(part=pl.lit("drift")))}
    assert lines["dropped"]["reverted"] == "1 of 2"
    assert lines["dropped"]["moved"].mean == pytest.approx((0.3 + 0.6) / 2)  # less kept
    assert lines["added"]["moved"].mean == pytest.approx((-0.8 - 0.1) / 2)  # less never
    assert lines["kept"]["moved"] is None
    for curve in ("kept", "never"):
        monkeypatch.setitem(CURVES, curve, ([0.5] * 4, [0.5] * 4))
    assert not [r for r in drift_rows(s, {step: {} for step in steps}) if r.quantity.startswith(("reverted", "steps"))]  # no middle to pass
