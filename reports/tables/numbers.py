"""Numbers as texts: as many decimals as a reader needs, the same ones down a column."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from reports.results import Results, Trial
from reports.statistics import Interval
from reports.tables.model import NOT_APPLICABLE, Cell

__all__ = [
    "decimals_of",
    "distance_decimals",
    "fixed",
    "scaled",
    "si_count",
    "signed",
    "significant",
    "spread",
    "time_scale",
]


def si_count(value: float) -> str:
    """A count with three decimals and an SI prefix, as the paper prints it: ``207.378 K``, ``8.801 G``."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")):
        # 0.9999995 of a prefix would round up to 1000.000 of the one below.
        if abs(value) >= factor * (1 - 5e-7):
            return f"{value / factor:.3f} {prefix}"
    return f"{value:.0f}"


def distance_decimals(results: Results) -> int:
    """Decimals for every distance of the study: three significant digits of the smallest RMSE."""
    values = [t.number("test_rmse_m") for t in results.trials if t.state == "done" and t.trains("test_rmse_m")]
    positive = [value for value in values if value is not None and value > 0]
    return decimals_of(min(positive)) if positive else 2


def decimals_of(value: float, digits: int = 3) -> int:
    """How many decimals show a number with this many significant digits; six at most."""
    return min(max(digits - 1 - math.floor(math.log10(value)), 0), 6) if value > 0 else digits - 1


def spread(
    interval: Interval | None,
    write: Callable[[float], str],
    trials: Sequence[Trial],
    *,
    sign: bool = False,
    best: bool = False,
) -> Cell:
    """A mean with its interval.

    Args:
        interval: the numbers, ``None`` where there are none.
        write: how they are written.
        trials: what they are made of.
        sign: whether they are differences, which have a sign.
        best: whether the mean is bold.
    """
    if interval is None:
        return NOT_APPLICABLE
    band = None
    if interval.low is not None and interval.high is not None:
        # A dash between numbers that may have a minus is hard to read.
        limits = [signed(limit, write) if sign else write(limit) for limit in (interval.low, interval.high)]
        band = (" to " if sign else " – ").join(limits)
    text = signed(interval.mean, write) if sign else write(interval.mean)
    return Cell(
        text,
        interval.mean,
        band,
        interval.low,
        interval.high,
        interval.n,
        tuple(trial.key for trial in trials),
        f"n = {interval.n}" if band else "one seed, no interval",
        best=best,
    )


def fixed(decimals: int) -> Callable[[float], str]:
    """A writer with a fixed number of decimals; what diverged may need powers of ten."""
    return lambda value: f"{value:.{decimals}f}" if abs(value) < 1e7 else f"{value:.3g}"


def signed(value: float, write: Callable[[float], str]) -> str:
    """A difference with its sign; what rounds to zero has none."""
    text = write(abs(value))
    if not text.strip("0."):
        return text
    return f"{'+' if value > 0 else '−'}{text}"


def time_scale(seconds: Iterable[float]) -> tuple[float, str]:
    """Divisor and unit that keep a column of times readable."""
    largest = max(seconds, default=0.0)
    if largest >= 7200:
        return 3600.0, "h"
    return (60.0, "min") if largest >= 600 else (1.0, "s")


def significant(value: float, digits: int = 3) -> str:
    """A number with this many significant digits."""
    return f"{value:.{decimals_of(abs(value), digits)}f}" if value else "0"


def scaled(interval: Interval, scale: float) -> Interval:
    """The interval in another unit."""
    low, high = (None if limit is None else limit / scale for limit in (interval.low, interval.high))
    return Interval(interval.mean / scale, low, high, interval.n)
