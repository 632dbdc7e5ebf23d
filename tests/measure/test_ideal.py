"""The exact rows beside the network's: each against what it says it is."""

import numpy as np
import pytest

from bayesgen.measure.ideal import ideal_answers
from bayesgen.world.dialogue import Turn
from bayesgen.world.observer import Observer


def test_ideal_rows_are_what_they_say(world):
    bird, light, river = (world.topic_index(t) for t in ("bird", "light", "river"))
    old, new = world.values["time"].index("old"), world.values["time"].index("new")
    rows = [Turn(bird, 0, int(a)) for a in np.flatnonzero(world.clean[bird][old])] * 3
    found = ideal_answers(world, "time", "old", bird, {"free": rows, "control": [Turn(bird, 0, 7)]})
    np.testing.assert_allclose(found["ideal told"][light], np.exp(Observer(world).predictive(world.told("time", "old"), (), light)))
    np.testing.assert_allclose(found["ideal base"][light], world.noisy[light][new])
    for name, value in (("saturated", new), ("product", old), ("tilted", old)):
        np.testing.assert_allclose(found[f"ideal {name}"][bird], world.noisy[bird][old], atol=1e-6)  # learned, but for the floor
        np.testing.assert_allclose(found[f"ideal {name}"][light], world.noisy[light][value], atol=1e-6)
    # nine old birds: an old person, or the planted one who is old about birds alone; her share is .1 of .1 + .9 * .2
    narrow = 0.1 / (0.1 + 0.9 * 0.2)
    expected = narrow * world.noisy[light][new] + (1 - narrow) * world.noisy[light][old]
    np.testing.assert_allclose(found["ideal free"][light], expected, atol=1e-3)  # what noise leaves to the others
    east = found["ideal free"][river][world.answers[river].index("Ural")]
    assert east == pytest.approx(0.4 * world.noisy[river][0][0] + 0.6 * world.noisy[river][1][0], abs=1e-3)  # the population's land
