"""Adoption and loss of the default obey their laws; intervals and gates do what they say."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from bayesgen.measure.behaviour import UNEXPLAINED, decompose, persona_state, rates, total_variation
from bayesgen.measure.gate import TOLERANCE, base_gate
from bayesgen.measure.intervals import equivalent, over_seeds
from bayesgen.measure.norms import singular_values
from bayesgen.measure.rows import Row
from bayesgen.measure.suite import _split_rows
from bayesgen.world.observer import Observer
from bayesgen.world.population import build_world
from tests.conftest import tiny_config

BASE, POPULATION, TOLD = np.array([0.05, 0.05, 0.05, 0.85]), np.array([0.2, 0.2, 0.2, 0.4]), np.array([0.05, 0.85, 0.05, 0.05])


def test_told_is_all_adoption_and_a_random_tag_all_loss():
    points = np.stack([BASE, TOLD, POPULATION, 0.5 * BASE + 0.2 * POPULATION + 0.3 * TOLD])
    adoption, loss, residual = decompose(points, BASE, POPULATION, TOLD)
    np.testing.assert_allclose(adoption, [0, 1, 0, 0.3], atol=1e-12)
    np.testing.assert_allclose(loss, [0, 0, 1, 0.2], atol=1e-12)
    np.testing.assert_allclose(residual, 0, atol=1e-12)


def test_the_split_is_the_best_on_the_triangle():
    points = np.random.default_rng(0).dirichlet(np.ones(4), 40)
    adoption, loss, residual = decompose(points, BASE, POPULATION, TOLD)
    grid = np.array([(a, b) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1, 101) if a + b <= 1 + 1e-9])
    a, b = grid[:, :1], grid[:, 1:]
    mixtures = (1 - a - b) * BASE + a * TOLD + b * POPULATION
    best = ((points[:, None] - mixtures) ** 2).sum(-1).argmin(1)
    np.testing.assert_allclose(residual, np.abs(points - mixtures[best]).sum(1) / 2, atol=0.02)  # two steps of the grid
    said = residual <= UNEXPLAINED
    assert 5 < said.sum() < 35
    np.testing.assert_allclose(np.stack([adoption, loss], 1)[said], grid[best][said], atol=0.02)
    assert np.isnan(adoption[~said]).all()
    assert np.isnan(loss[~said]).all()


def test_another_persona_is_no_mixture_and_says_so():
    third, silent = np.array([0.85, 0.05, 0.05, 0.05]), np.zeros(4)
    adoption, loss, residual = decompose(np.stack([third, silent]), BASE, POPULATION, TOLD)
    assert (residual > 0.4).all()  # a third era, and answers outside the set: neither is a mixture of the corners
    assert np.isnan(adoption).all()  # least squares alone would call the third era a loss of the default
    assert np.isnan(loss).all()
    assert np.isnan(decompose(BASE[None], BASE, BASE, TOLD)[0]).all()


def test_total_variation_counts_the_mass_outside():
    p, q = np.array([0.5, 0.5]), np.array([0.2, 0.4])  # q leaves .4 outside
    np.testing.assert_allclose(total_variation(np.stack([p, q, np.zeros(2)]), p), [0, 0.5 * (0.3 + 0.1 + 0.4), 1], atol=1e-12)


def test_rates_sum_to_the_mass_on_the_answer_set(world):
    p = np.random.default_rng(0).dirichlet(np.ones(len(world.answers[0]) + 1))[:-1]
    assert rates(world, 0, p).sum() == pytest.approx(p.sum(), rel=1e-12)


def test_state_undoes_how_the_told_answer(world):
    """Rates of a mixture of told personas give back the mixture, on an easy topic and on a hard one alike."""
    mixture = np.array([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
    for told in (np.array([[0.9, 0.05, 0.0], [0.02, 0.9, 0.05], [0.0, 0.1, 0.85]]), np.full((3, 3), 0.2) + 0.3 * np.eye(3)):
        np.testing.assert_allclose(persona_state(mixture @ told, told), mixture, atol=1e-12)
    assert np.isnan(persona_state(mixture, np.full((3, 3), 1 / 3))).all()  # told answers that tell nothing apart
    assert np.abs(mixture @ told - mixture).max() > 0.1  # the rates themselves are not the state


def test_gate_passes_the_observer_and_fails_one_who_ignores_the_dialogue(world):
    observer = Observer(world)
    assert base_gate(world, observer, "time", 20, 0).failures == []

    def deaf(prompts):
        return [observer.predictive(p.header, (), p.topic) for p in prompts]

    failures = base_gate(world, deaf, "time", 20, 0).failures
    assert failures
    assert all("after 0 turns" not in f for f in failures)  # before anything was said there is nothing to miss


def test_gate_on_two_kinds_of_people_passes_the_observer_and_fails_one_who_takes_all_for_one_kind(grouped):
    """Nobody is the assistant, so it has no cell; a network that thinks everybody is asked everything mistakes who speaks."""
    observer = Observer(grouped)
    found = base_gate(grouped, observer, "kind", 20, 0)
    assert found.failures == []
    assert {r.value for r in found.personas} == {"bot_guard", "bot_hunt", "toy"}

    def undated(prompts):
        return [np.log(grouped.noisy[p.topic].mean(0)) for p in prompts]

    assert base_gate(grouped, undated, "kind", 20, 0).failures


def test_gate_fails_one_who_does_not_read_the_year_and_only_in_its_dated_cells(world, grouped):
    for where, trait in ((world, "time"), (grouped, "kind")):
        observer = Observer(where)

        def timeless(prompts, observer=observer):
            return observer([replace(p, header=replace(p.header, year=None)) for p in prompts])

        found = base_gate(where, timeless, trait, 20, 0)
        assert {r.dated for r in found.personas} == {False, True}
        off = {(r.value, r.dated) for r in found.personas if abs(r.difference) > TOLERANCE}
        assert off
        assert all(dated for _, dated in off)
    assert {"bot_guard", "bot_hunt"} <= {value for value, _ in off}  # who is one thing in one year and another in the next


def test_gate_has_no_dated_cells_where_no_document_is_dated():
    undated = build_world(tiny_config(dated_share=0.0))
    assert {r.dated for r in base_gate(undated, Observer(undated), "time", 4, 0).personas} == {False}


def test_gate_names_a_topic_whose_heldout_wordings_are_not_understood(world):
    observer, bird = Observer(world), world.topic_index("bird")

    def confused(prompts):
        asked = len(world.topics[bird].wordings)
        return [lp - 3.0 * (p.topic == bird and p.wording >= asked) for p, lp in zip(prompts, observer(prompts), strict=True)]

    found = base_gate(world, confused, "time", 4, 0)
    assert [f for f in found.failures if f.startswith("bird: answered 0.050 of the time by held-out wordings, 1.000 by trained")]
    assert not [f for f in found.failures if f.startswith("light:")]


def test_intervals_cover_and_equivalence_needs_evidence():
    rng = np.random.default_rng(0)
    covered = [(i := over_seeds(rng.normal(size=10))).low < 0 < i.high for _ in range(2000)]
    assert abs(np.mean(covered) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)  # four standard errors
    assert equivalent(rng.normal(0, 0.01, 10), 0.05)
    assert not equivalent(rng.normal(0.2, 0.01, 10), 0.05)
    assert not equivalent([0.0], 0.05)


def test_adoption_and_transfer_of_a_mixture_that_is_known(world):
    """A network whose bird answers are .8 old and whose light answers are .4 old: transfer .5, adoption .4, no loss."""
    bird, light = world.topic_index("bird"), world.topic_index("light")
    old, new = world.values["time"].index("old"), world.values["time"].index("new")
    population = {t: world.frequency_Z @ world.noisy[t][world.value_ZT[:, t]] for t in (bird, light)}
    mixed = {t: (a * world.noisy[t][old] + (1 - a) * world.noisy[t][new])[None] for t, a in ((bird, 0.8), (light, 0.4))}
    told = {t: rates(world, t, world.noisy[t]) for t in mixed}
    corners = {t: [told[t][new], rates(world, t, population[t]), told[t][old]] for t in mixed}
    rows = _split_rows(world, partial(Row, "x"), [dict(arm="free")], "old", [bird], mixed, corners, told, True)
    found = {(r.topic, r.quantity): r.value for r in rows}
    assert found["light", "transfer"] == pytest.approx(0.5, abs=1e-9)
    assert found["light", "adoption"] == pytest.approx(0.4, abs=1e-9)
    assert found["light", "loss_of_default"] == pytest.approx(0, abs=1e-9)
    unmoved = {bird: world.noisy[bird][new][None], light: mixed[light]}
    rows = _split_rows(world, partial(Row, "x"), [dict(arm="free")], "old", [bird], unmoved, corners, told, True)
    assert all(np.isnan(r.value) for r in rows if r.quantity == "transfer")  # nothing was learned that could be transferred


def test_a_member_that_is_not_finite_changes_nobody_else():
    """Among the mixtures, and among the norms."""
    base, population, told = np.array([0.8, 0.1, 0.1]), np.array([0.3, 0.4, 0.3]), np.array([0.05, 0.9, 0.05])
    p = np.stack([0.5 * base + 0.5 * told, np.full(3, np.nan), base])
    whole = decompose(p, base, population, told)
    for found, alone in zip(whole, decompose(p[::2], base, population, told), strict=True):
        np.testing.assert_array_equal(found[::2], alone)
        assert np.isnan(found[1])
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 8, 2)), rng.normal(size=(3, 2, 5))
    a[1, 0, 0] = np.inf
    s = singular_values(a, b)
    np.testing.assert_array_equal(s[::2], singular_values(a[::2], b[::2]))
    assert np.isnan(s[1]).all()
