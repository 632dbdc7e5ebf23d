"""A planted direction is recovered; noise is told from it by reliability and floor."""

import numpy as np
import pytest

from bayesgen.estimate.direction import mean_difference, projection_difference

RNG = np.random.default_rng(0)
D = 64
PLANTED = np.eye(D)[3]


def test_a_planted_direction_is_recovered():
    of, beside = RNG.normal(size=(400, D)) + 2 * PLANTED, RNG.normal(size=(400, D))
    found = mean_difference(of, beside)
    # noise of the difference: sqrt(2 / 400) in each of 64 directions against 2
    assert found.vector @ PLANTED == pytest.approx(1 / np.sqrt(1 + D * 2 / 400 / 4), abs=0.02)
    assert found.length == pytest.approx(np.sqrt(4 + D * 2 / 400), abs=0.2)
    assert found.reliability == pytest.approx(1 / (1 + D * 2 / 200 / 4), abs=0.03)  # halves: twice the noise in each
    assert projection_difference(of, beside, PLANTED) == pytest.approx(2, abs=0.3)


def test_noise_has_a_direction_too_and_is_told_apart():
    found = mean_difference(RNG.normal(size=(400, D)), RNG.normal(size=(400, D)))
    assert np.linalg.norm(found.vector) == pytest.approx(1)
    assert found.floor == 1 / 8
    assert abs(found.reliability) < 0.3  # one dataset's halves are not independent across splits: near 0, within twice the floor
    cosines = RNG.normal(size=(500, D))
    cosines = cosines @ PLANTED / np.linalg.norm(cosines, axis=1)
    assert np.sqrt((cosines**2).mean()) == pytest.approx(found.floor, rel=0.1)


def test_one_activation_has_no_halves():
    with pytest.raises(ValueError, match="at least 2"):
        mean_difference(np.ones((1, 3)), np.ones((5, 3)))
