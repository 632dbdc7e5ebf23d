"""Ideal learners against what defines them."""

import numpy as np
import pytest

from bayesgen.world.learners import product, saturated, tilted, transfer

PRIOR = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
LEARNED = np.array([0.1, 0.6, 0.3])


@pytest.mark.parametrize("learner", [saturated, product, tilted])
def test_all_agree_on_the_trained_topic_and_stay_distributions(learner):
    out = learner(PRIOR, 0, LEARNED)
    np.testing.assert_allclose(out[0], LEARNED, rtol=1e-12)
    np.testing.assert_allclose(out.sum(1), 1, rtol=1e-12)


def test_tilted_keeps_odds_ratios_and_the_others_do_not():
    def log_odds_ratio(p):
        return np.log(p[1, 0] * p[0, 1] / (p[1, 1] * p[0, 0]))

    before = log_odds_ratio(PRIOR)
    assert log_odds_ratio(tilted(PRIOR, 0, LEARNED)) == pytest.approx(before, abs=1e-12)
    assert abs(log_odds_ratio(saturated(PRIOR, 0, LEARNED)) - before) > 0.1
    assert abs(log_odds_ratio(product(PRIOR, 0, LEARNED)) - before) > 0.1


def test_transfer_is_zero_for_saturated_and_one_for_product():
    shifts = {f.__name__: f(PRIOR, 0, LEARNED)[1, 1] - PRIOR[1, 1] for f in (saturated, product, tilted)}
    ends = shifts["saturated"], shifts["product"]
    assert transfer(shifts["saturated"], *ends) == 0
    assert transfer(shifts["product"], *ends) == 1
    assert 0 < transfer(shifts["tilted"], *ends) != 1
