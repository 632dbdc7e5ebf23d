"""Adoption and loss of the default obey their laws; intervals and gates do what they say."""

import numpy as np
import pytest

from bayesgen.measure.behaviour import decompose, rates
from bayesgen.measure.gate import base_gate, passed
from bayesgen.measure.intervals import equivalent, over_seeds
from bayesgen.world.observer import Observer

BASE, POPULATION, TOLD = np.array([0.05, 0.05, 0.05, 0.85]), np.array([0.2, 0.2, 0.2, 0.4]), np.array([0.05, 0.85, 0.05, 0.05])


def test_told_is_all_adoption_and_a_random_tag_all_loss():
    points = np.stack([BASE, TOLD, POPULATION, 0.5 * BASE + 0.2 * POPULATION + 0.3 * TOLD])
    adoption, loss, residual = decompose(points, BASE, POPULATION, TOLD)
    np.testing.assert_allclose(adoption, [0, 1, 0, 0.3], atol=1e-12)
    np.testing.assert_allclose(loss, [0, 0, 1, 0.2], atol=1e-12)
    np.testing.assert_allclose(residual, 0, atol=1e-12)


def test_another_persona_is_no_mixture_and_says_so():
    _, _, residual = decompose(np.array([0.85, 0.05, 0.05, 0.05])[None], BASE, POPULATION, TOLD)
    assert residual[0] > 0.2
    assert np.isnan(decompose(BASE[None], BASE, BASE, TOLD)[0]).all()


def test_rates_sum_to_the_mass_on_the_answer_set(world):
    p = np.random.default_rng(0).dirichlet(np.ones(len(world.answers[0]) + 1))[:-1]
    assert rates(world, 0, p).sum() == pytest.approx(p.sum(), rel=1e-12)


def test_gate_passes_the_observer_and_fails_one_who_ignores_the_dialogue(world):
    observer = Observer(world)
    assert passed(base_gate(world, observer, "time", 20, 0))

    def deaf(prompts):
        return [observer.predictive(p.header, (), p.topic) for p in prompts]

    assert not passed(base_gate(world, deaf, "time", 20, 0))


def test_intervals_cover_and_equivalence_needs_evidence():
    rng = np.random.default_rng(0)
    covered = [(i := over_seeds(rng.normal(size=10))).low < 0 < i.high for _ in range(2000)]
    assert abs(np.mean(covered) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)  # four standard errors
    assert equivalent(rng.normal(0, 0.01, 10), 0.05)
    assert not equivalent(rng.normal(0.2, 0.01, 10), 0.05)
    assert not equivalent([0.0], 0.05)
