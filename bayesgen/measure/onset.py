"""Onset: does a seed ever acquire a skill, and at which step; one seed at a time, from its learning curve.

A curve is taken to be one level and then another. The onset is the break that leaves the least squared error; a seed has
*converted* if its last value is above a threshold. The share of seeds that convert comes with a Beta interval.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from bayesgen.measure.intervals import Interval


def change_point(steps: Sequence[int], curve: Sequence[float]) -> int:
    """The first step of the second level: the split of the curve into two constants that leaves the least squared error."""
    y = np.asarray(curve, float)
    if len(y) < 2:
        raise ValueError(f"a curve of {len(y)} values has no break; expected at least 2")
    left = [((y[:i] - y[:i].mean()) ** 2).sum() + ((y[i:] - y[i:].mean()) ** 2).sum() for i in range(1, len(y))]
    return int(steps[1 + int(np.argmin(left))])


def share(converted: int, seeds: int, probability: float = 0.95) -> Interval:
    """Share of seeds that converted, with the Jeffreys interval: quantiles of Beta(k + 1/2, n - k + 1/2), 0 and 1 at the ends."""
    tail = (1 - probability) / 2
    low, high = stats.beta.ppf([tail, 1 - tail], converted + 0.5, seeds - converted + 0.5)
    return Interval(converted / seeds, float(low) if converted else 0.0, float(high) if converted < seeds else 1.0)
