"""Means and intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

__all__ = ["Interval", "mean_interval", "overlap"]


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` values and its confidence interval; ``low`` and ``high`` are ``None`` for a single value."""

    mean: float
    low: float | None
    high: float | None
    n: int


def mean_interval(
    values: Iterable[float], confidence: float = 0.95, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Interval | None:
    """The mean and its Student t interval, mean ± t · s / √n with the sample deviation s (n − 1 in its divisor).

    It treats the seeds as independent draws from a normal distribution; with two or three seeds it is wide, and
    that is what two or three seeds can say.

    Args:
        values: finite values, one per seed.
        confidence: between 0 and 1, both excluded.
        bounds: the range of possible values (an RMSE is not negative, an accuracy at most 1); the interval is cut
            there.

    Returns:
        ``None`` for no values; no limits for a single one.

    Raises:
        ValueError: for a value that is not finite or a confidence outside its range.
    """
    sample = np.asarray(list(values), dtype=np.float64)
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, but got {confidence}")
    if not np.all(np.isfinite(sample)):
        raise ValueError("every value must be finite; leave out diverged trials before")
    if sample.size == 0:
        return None
    mean = float(sample.mean())
    if sample.size == 1:
        return Interval(mean, None, None, 1)
    # scipy.special instead of scipy.stats: the same quantile, a fraction of the import time.
    t = float(stdtrit(sample.size - 1, 0.5 + confidence / 2))
    half = t * float(sample.std(ddof=1)) / math.sqrt(sample.size)
    return Interval(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]), int(sample.size))


def overlap(first: Interval, second: Interval) -> bool | None:
    """Whether two intervals share a point; ``None`` when one of them has no limits.

    Overlap is a description, not a test: intervals that overlap can still differ significantly.
    """
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return None
    return first.low <= second.high and second.low <= first.high
