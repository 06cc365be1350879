from __future__ import annotations

import math

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from reports.statistics import Interval, mean_interval, overlap

samples = st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=30)


@given(samples, st.floats(0.5, 0.999))
def test_interval_agrees_with_scipy(values: list[float], confidence: float) -> None:
    interval = mean_interval(values, confidence)
    assert interval is not None
    spread = scipy.stats.sem(values)
    assert interval.mean == pytest.approx(math.fsum(values) / len(values), rel=1e-9, abs=1e-9)
    assert interval.n == len(values)
    assert interval.low is not None
    assert interval.high is not None
    if spread > 1e-9:
        low, high = scipy.stats.t.interval(confidence, len(values) - 1, loc=interval.mean, scale=spread)
        assert interval.low == pytest.approx(low, rel=1e-7, abs=1e-7)
        assert interval.high == pytest.approx(high, rel=1e-7, abs=1e-7)


@given(samples, st.floats(-100, 100), st.floats(0.1, 100))
def test_interval_moves_and_scales_with_its_values(values: list[float], shift: float, scale: float) -> None:
    plain, moved = mean_interval(values), mean_interval([scale * value + shift for value in values])
    assert plain is not None
    assert moved is not None
    assert plain.low is not None
    assert moved.low is not None
    assert moved.mean == pytest.approx(scale * plain.mean + shift, rel=1e-6, abs=1e-5)
    assert moved.low == pytest.approx(scale * plain.low + shift, rel=1e-6, abs=1e-4)


@given(samples)
def test_more_confidence_is_never_narrower(values: list[float]) -> None:
    narrow, broad = mean_interval(values, 0.8), mean_interval(values, 0.99)
    assert narrow is not None
    assert broad is not None
    assert broad.low is not None
    assert narrow.low is not None
    assert broad.low <= narrow.low + 1e-9


def test_no_value_is_a_hole_and_one_value_has_no_limits() -> None:
    assert mean_interval([]) is None
    assert mean_interval([3.0]) == Interval(3.0, None, None, 1)


def test_limits_stay_in_the_range_of_possible_values() -> None:
    interval = mean_interval([0.97, 0.99], bounds=(0.0, 1.0))
    assert interval is not None
    assert interval.high == 1.0
    assert interval.mean == pytest.approx(0.98)


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.inf]])
def test_values_must_be_finite(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_interval(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        mean_interval([1.0, 2.0], confidence)


def test_overlap() -> None:
    assert overlap(Interval(1, 0, 2, 3), Interval(2, 1.5, 3, 3)) is True
    assert overlap(Interval(1, 0, 2, 3), Interval(5, 4, 6, 3)) is False
    assert overlap(Interval(1, None, None, 1), Interval(5, 4, 6, 3)) is None
