"""Means and intervals over seeds, paired comparisons of two methods, and corrections for many of them.

The replication is the seed: the cells of one seed share initial weights and the order of batches, so two methods are
compared seed by seed, and several system configurations are averaged within a seed before anything is tested.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

# scipy.special instead of scipy.stats: the same distributions, a fraction of the import time.
from scipy.special import gammaln, ndtri, stdtr, stdtrit

__all__ = [
    "MIN_SEEDS",
    "SIGNIFICANCE",
    "Interval",
    "Paired",
    "Row",
    "common_seeds",
    "holm",
    "mean_interval",
    "overlap",
    "p_above",
    "paired",
    "pooled",
    "ratio_interval",
]

MIN_SEEDS = 5
"""Below this no p-value is given: three or four differences do not show whether a t-test may be trusted."""

SIGNIFICANCE = 0.05

_ENUMERATED = 7  # 1,716 multisets; of ten values there are 92,378
_RESAMPLES = 2000
_KEPT = 32  # up to so many values the drawn resamples are kept: 1 MB for each number of values
_AT_ONCE = 1_000_000  # of more values, so many numbers are drawn at once: some 20 MB

Row = Mapping[int, float] | float
"""The results of one table row: seed → value, or a single value of a method without a seed (a reference)."""

_Array = npt.NDArray[np.float64]


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
    """The mean and its bootstrap interval: percentiles of the resampled means, corrected for few values.

    Of n values the plain percentile interval is too narrow in two ways: resampling has the variance with n in its
    divisor, and its tails are a normal distribution's where Student's t with n − 1 degrees of freedom is right. Its two
    limits are therefore moved away from the mean by √(n / (n − 1)) · t / z; the skewness of the resampled means stays.
    Up to 7 values all resamples are enumerated, each with its probability; for more, 2,000 fixed ones and their mirror
    images stand for them, drawn in parts where there are many values. The result depends on nothing but the values.

    On normal data the 95 % interval covers the mean in 93 % of samples of 2 values and in 94 to 95 % of 3 to 10; on a
    gamma distribution of shape 2 in 91 to 93 %. The plain percentile interval and BCa cover it in 77 % of
    samples of 3 and 85 % of 5 normal values. The studentized bootstrap covers as well, but is a third wider for 5
    values, has no limits for 3, and none where most values are equal. (20,000 samples each; a test repeats it.)

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
    # In order, so that the sums do not depend on the order in which files were read.
    sample = np.sort(np.asarray(list(values), dtype=np.float64))
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, but got {confidence}")
    if not np.all(np.isfinite(sample)):
        raise ValueError("every value must be finite; leave out diverged trials before")
    if sample.size == 0:
        return None
    mean = float(sample.mean())
    if sample.size == 1:
        return Interval(mean, None, None, 1)
    deviations, probabilities = _resampled_means(sample - mean)
    order = np.argsort(deviations)
    deviations, probabilities = deviations[order], probabilities[order]
    # Resamples of equal means are one value of the distribution; rounding does not tell them apart.
    apart = np.diff(deviations) > 1e-9 * (sample[-1] - sample[0])
    starts = np.concatenate([[0], np.flatnonzero(apart) + 1])
    deviations, probabilities = deviations[starts], np.add.reduceat(probabilities, starts)
    # Half of a value's probability lies below it: quantiles between the values, mirrored for mirrored data.
    levels = np.cumsum(probabilities) - probabilities / 2
    tail = (1.0 - confidence) / 2
    low, high = np.interp([tail, 1.0 - tail], levels, deviations) * _stretch(sample.size, confidence)
    # A tail of 0.5 (no confidence at all) can land a rounding error beyond the mean.
    low, high = min(mean + float(low), mean), max(mean + float(high), mean)
    return Interval(mean, max(low, bounds[0]), min(high, bounds[1]), int(sample.size))


def overlap(first: Interval, second: Interval) -> bool | None:
    """Whether two intervals share a point; ``None`` when one of them has no limits.

    Overlap is a description, not a test: intervals that overlap can still differ significantly.
    """
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return None
    return first.low <= second.high and second.low <= first.high


def _resampled_means(values: _Array) -> tuple[_Array, _Array]:
    """The means of all resamples of n values, or of 4,000, and how probable each is: both (m,)."""
    n = len(values)
    if n <= _KEPT:
        shares, probabilities = _resamples(n)
        return shares @ values, probabilities
    random = np.random.default_rng(0)
    mirrored = values[::-1]
    means = []
    at_once = max(1, _AT_ONCE // n)
    for start in range(0, _RESAMPLES, at_once):
        drawn = random.integers(0, n, (min(at_once, _RESAMPLES - start), n))
        means += [values[drawn].mean(axis=1), mirrored[drawn].mean(axis=1)]
    return np.concatenate(means), np.full(2 * _RESAMPLES, 0.5 / _RESAMPLES)


@lru_cache(maxsize=_KEPT)
def _resamples(n: int) -> tuple[_Array, _Array]:
    """How often each value is in a resample, divided by n, and how probable the resample is: (m, n) and (m,)."""
    if n <= _ENUMERATED:
        drawn = np.array(list(itertools.combinations_with_replacement(range(n), n)))
    else:
        drawn = np.random.default_rng(0).integers(0, n, (_RESAMPLES, n))
        drawn = np.vstack([drawn, n - 1 - drawn])
    counts = np.stack([(drawn == i).sum(axis=1) for i in range(n)], axis=1).astype(np.float64)
    if n <= _ENUMERATED:
        probabilities = np.exp(gammaln(n + 1) - gammaln(counts + 1).sum(axis=1) - n * math.log(n))
    else:
        probabilities = np.full(len(counts), 1.0 / len(counts))
    return counts / n, probabilities


@cache
def _stretch(n: int, confidence: float) -> float:
    quantile = 0.5 + confidence / 2
    return math.sqrt(n / (n - 1)) * float(stdtrit(n - 1, quantile)) / float(ndtri(quantile))


# ------------------------------------------------------------------------------------------------- pairs


@dataclass(frozen=True)
class Paired:
    """Two rows compared over the seeds that both have.

    Attributes:
        difference: mean of first − second with the Student t interval, so that the interval and the test agree: 0 lies
            outside of the 95 % interval exactly when p < 0.05. ``None`` without a common seed.
        effect: mean difference over the standard deviation of the differences (Cohen's d_z) with Hedges' correction
            for few pairs; ``None`` for fewer than three, or where the differences are all equal but not 0.
        p: two-sided, of the paired t-test; ``None`` for fewer than five pairs, or where no seed is involved.
        n: number of seeds.
        exact: whether neither side has seeds, so that the difference is what it is.
    """

    difference: Interval | None
    effect: float | None
    p: float | None
    n: int
    exact: bool = False


def paired(first: Row, second: Row, bound: float = 0.0, confidence: float = 0.95) -> Paired:
    """Compare two rows over their common seeds; a row without seeds stands for each seed of the other.

    The test is the paired t-test of a mean difference equal to ``bound``. With five pairs the Wilcoxon signed-rank and
    the sign-flip test have no p-value below 2/32 = 0.0625, so that nothing could ever be significant at 5 %; the t-test
    pays for its power with the assumption that the differences of two trainings are about normally distributed, which
    a difference of two similarly distributed errors is more than the errors themselves. Values that are not finite are
    left out with their seed.

    Equal differences have no spread to test by: all equal to ``bound`` gives p = 1, otherwise p = 0, the limits of the
    test for a vanishing spread.

    Args:
        first, second: seed → value, or one value.
        bound: the difference that is tested against, in the values' unit.
        confidence: of the interval, between 0 and 1.
    """
    if isinstance(first, float | int) and isinstance(second, float | int):
        difference = float(first) - float(second)
        exact = Interval(difference, difference, difference, 1) if math.isfinite(difference) else None
        return Paired(exact, None, None, 0, exact=exact is not None)
    seeds = common_seeds([first, second])
    values = np.array([_difference(_value(first, seed), _value(second, seed)) for seed in seeds])
    n = len(values)
    if n == 0:
        return Paired(None, None, None, 0)
    mean = float(values.mean())
    if n == 1:
        return Paired(Interval(mean, None, None, 1), None, None, 1)
    deviation = float(_deviations(values[:, None])[0])
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * deviation / math.sqrt(n)
    interval = Interval(mean, mean - half, mean + half, n)
    effect = None
    if n > 2 and deviation > 0:
        effect = mean / deviation * _hedges(n - 1)
    elif n > 2 and mean == 0:
        effect = 0.0
    above = float(p_above(values[:, None], bound)[0])
    return Paired(interval, effect, 2 * min(above, 1 - above) if n >= MIN_SEEDS else None, n)


def ratio_interval(first: Row, second: Row, confidence: float = 0.95) -> Interval | None:
    """The mean of one row over the mean of another, with the interval of the paired t-test.

    The interval holds the factors f for which the test does not tell the mean of ``first - f * second`` from 0
    (Fieller's theorem). It has no limits for a single seed, nor where the mean of ``second`` itself cannot be told from
    0: every factor is possible then.

    Returns:
        ``None`` without a common seed, or where the mean of ``second`` is not above 0.
    """
    seeds = common_seeds([first, second])
    if not seeds:
        return None
    a, b = (np.array([_value(row, seed) for seed in seeds]) for row in (first, second))
    top, bottom, n = float(a.mean()), float(b.mean()), len(seeds)
    if bottom <= 0:
        return None
    ratio = top / bottom
    if n == 1:
        return Interval(ratio, None, None, 1)
    # With r for the ratio and d = f - r: (d * bottom)^2 = t^2 / n * var(first - r * second - d * second).
    rest = a - ratio * b
    scale = float(stdtrit(n - 1, 0.5 + confidence / 2)) ** 2 / n
    spread, both, own = float(rest.var(ddof=1)), float(np.cov(rest, b)[0, 1]), float(b.var(ddof=1))
    square = bottom**2 - scale * own
    if square <= 0:
        return Interval(ratio, None, None, n)
    centre = -scale * both / square
    half = math.sqrt(max(0.0, centre**2 + scale * spread / square))
    return Interval(ratio, ratio + centre - half, ratio + centre + half, n)


def p_above(differences: _Array, bound: float = 0.0) -> _Array:
    """One-sided p-values of the t-test that each column's mean is above a bound; 1 − p is that it is below.

    Args:
        differences: (n, m), n ≥ 2 seeds of m comparisons.
        bound: what the means are tested against.

    Returns:
        (m,); 0, 0.5 or 1 for a column whose values are all equal.
    """
    n = len(differences)
    excess = differences.mean(axis=0) - bound
    error = _deviations(differences) / math.sqrt(n)
    # Rounding apart, an excess is 0: 0.3 − 0.1 − 0.2 is no evidence.
    excess = np.where(np.abs(excess) <= 1e-12 * (np.abs(differences).max(axis=0) + abs(bound)), 0.0, excess)
    limit = np.where(excess == 0, 0.0, np.copysign(np.inf, excess))
    t = np.divide(excess, error, out=limit, where=error > 0)
    return np.asarray(stdtr(n - 1, -t), dtype=np.float64)


def pooled(rows: Sequence[Row]) -> Row:
    """Several configurations as one row: the mean over them for each seed that all have.

    The configurations of one seed share its draws, so they are no further replications: they are averaged first, and n
    stays the number of seeds. A seed that is missing anywhere is left out, since means over different configurations
    cannot be compared.
    """
    if not rows:
        raise ValueError("there is nothing to pool")
    if all(isinstance(row, float | int) for row in rows):
        return math.fsum(_value(row, 0) for row in rows) / len(rows)
    return {seed: math.fsum(_value(row, seed) for row in rows) / len(rows) for seed in common_seeds(rows)}


def common_seeds(rows: Iterable[Row]) -> list[int]:
    """The seeds for which every row has a finite value, in order; none where no row has seeds."""
    found: set[int] | None = None
    for row in rows:
        if isinstance(row, float | int):
            if not math.isfinite(row):
                return []
            continue
        seeds = {seed for seed, value in row.items() if math.isfinite(value)}
        found = seeds if found is None else found & seeds
    return sorted(found or ())


def _difference(first: float, second: float) -> float:
    """Without what rounding leaves of equal values."""
    return 0.0 if math.isclose(first, second, rel_tol=1e-12, abs_tol=1e-100) else first - second


def _value(row: Row, seed: int) -> float:
    return float(row) if isinstance(row, float | int) else float(row[seed])


def _deviations(values: _Array) -> _Array:
    """Sample standard deviation of each column (n − 1 in the divisor); rounding errors of equal values are 0."""
    deviations = values.std(axis=0, ddof=1)
    return np.where(deviations <= 1e-12 * np.abs(values).max(axis=0), 0.0, deviations)


def _hedges(df: int) -> float:
    """Hedges' correction of a standardized mean difference with ``df`` degrees of freedom (2 or more): 0.80 for 4."""
    return math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2) - math.log(df / 2) / 2)


# ------------------------------------------------------------------------------------------------- many comparisons


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction: the p-values of a family, each comparable with one level of significance.

    The i-th smallest of m is multiplied by m − i + 1, cut at 1, and never smaller than the corrected one before it.
    ``None`` (no test) stays, and is not counted.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        corrected[i] = largest
    return corrected
