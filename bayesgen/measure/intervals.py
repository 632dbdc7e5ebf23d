"""Means with intervals over training seeds (never over probes)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean and its two-sided Student interval; nan bounds for a single seed."""

    mean: float
    low: float
    high: float


def over_seeds(values: Sequence[float] | np.ndarray, probability: float = 0.95) -> Interval:
    """Student's t interval of the mean of one value a seed."""
    x = np.asarray(values, float)
    mean = float(x.mean())
    if len(x) < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf(0.5 + probability / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half)


def equivalent(values: Sequence[float] | np.ndarray, margin: float, level: float = 0.05) -> bool:
    """Two one-sided tests: is the mean within +-margin of zero at this level? One seed proves nothing."""
    interval = over_seeds(values, 1 - 2 * level)
    return bool(interval.low > -margin and interval.high < margin)
