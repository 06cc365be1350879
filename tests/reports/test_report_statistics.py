"""Laws of the statistics, held against scipy and against direct implementations."""

from __future__ import annotations

import itertools
import math
import tracemalloc
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from reports.statistics import (
    Interval,
    common_seeds,
    holm,
    mean_interval,
    overlap,
    p_above,
    paired,
    pooled,
    ratio_interval,
)

numbers = st.floats(-1e4, 1e4)
samples = st.lists(numbers, min_size=2, max_size=12)
rows = st.dictionaries(st.integers(0, 8), numbers, min_size=5, max_size=9)
p_values = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8)


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def limits(values: list[float], confidence: float = 0.95) -> tuple[float, float]:
    interval = mean_interval(values, confidence)
    assert interval is not None
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


# --- intervals ------------------------------------------------------------------------------------------------------


def test_the_interval_of_three_values_is_what_all_27_resamples_say() -> None:
    values, confidence = [1.0, 2.0, 6.0], 0.8
    means = sorted(sum(resample) / 3 - 3.0 for resample in itertools.product(values, repeat=3))
    # Quantiles between the values of the distribution, each of which has half of its probability on either side.
    distinct = sorted({round(mean * 3) / 3 for mean in means})
    shares = [sum(abs(mean - value) < 1e-6 for mean in means) / 27 for value in distinct]
    levels = [sum(shares[:i]) + share / 2 for i, share in enumerate(shares)]
    factor = math.sqrt(3 / 2) * scipy.stats.t.ppf(0.9, 2) / scipy.stats.norm.ppf(0.9)
    expected = [3.0 + factor * np.interp(tail, levels, distinct) for tail in (0.1, 0.9)]
    assert limits(values, confidence) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [3, 5, 8, 10])
def test_the_interval_covers_the_mean_of_normal_data_as_often_as_it_says(n: int) -> None:
    drawn = np.random.default_rng(n).normal(9.0, 0.5, (3000, n)).tolist()
    covered = [low <= 9.0 <= high for low, high in map(limits, drawn)]
    # 3,000 draws: a standard error of 0.004.
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@given(samples, st.floats(-100, 100), st.floats(0.1, 100))
def test_an_interval_moves_and_scales_with_its_values(values: list[float], shift: float, scale: float) -> None:
    low, high = limits(values)
    moved = limits([scale * value + shift for value in values])
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), rel=1e-6, abs=1e-4)


@given(samples)
def test_an_interval_is_mirrored_with_its_values_and_knows_no_order(values: list[float]) -> None:
    low, high = limits(values)
    assert limits([-value for value in values]) == pytest.approx((-high, -low), rel=1e-6, abs=1e-6)
    assert limits(values[::-1]) == (low, high)


@given(samples)
def test_more_confidence_is_never_narrower(values: list[float]) -> None:
    (low, high), (broad_low, broad_high) = limits(values, 0.8), limits(values, 0.99)
    assert broad_low <= low + 1e-9
    assert high <= broad_high + 1e-9


@given(samples)
def test_an_interval_holds_its_mean(values: list[float]) -> None:
    interval = mean_interval(values)
    assert interval is not None
    assert interval.mean == pytest.approx(math.fsum(values) / len(values), rel=1e-9, abs=1e-9)
    low, high = limits(values)
    assert low <= interval.mean <= high
    if len(set(values)) == 1:
        assert high - low <= 1e-9 * abs(values[0])


def test_many_values_need_little_memory_and_have_the_interval_of_a_t_test() -> None:
    values = np.random.default_rng(3).normal(9.0, 0.5, 1000)
    tracemalloc.start()
    try:
        low, high = limits(values.tolist())
        _, peak = tracemalloc.get_traced_memory()
        for n in range(101, 111):  # nothing is kept for each number of values
            limits(values[:n].tolist())
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50e6
    assert kept < 2e6
    test = scipy.stats.t.interval(0.95, 999, values.mean(), scipy.stats.sem(values))
    assert (low, high) == pytest.approx(test, abs=0.003)
    assert limits(values.tolist()) == (low, high)


def test_kept_and_drawn_resamples_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [9.0, 8.0, 8.5, 12.0, 9.4, 9.9, 10.2, 7.1, 8.8]
    kept = limits(values)
    monkeypatch.setattr("reports.statistics._KEPT", 7)
    assert limits(values) == pytest.approx(kept, rel=1e-12)
    monkeypatch.setattr("reports.statistics._AT_ONCE", 900)  # 100 resamples at a time
    assert limits(values) == pytest.approx(kept, rel=1e-12)


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


# --- pairs ----------------------------------------------------------------------------------------------------------


@given(rows, st.floats(-10, 10), st.integers(0, 2**32 - 1))
def test_a_paired_comparison_agrees_with_scipy(first: dict[int, float], bound: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    second = {number: value + random.normal(1, 2) for number, value in first.items()}
    result = paired(first, second, bound)
    differences = np.array([first[number] - second[number] for number in sorted(first)])
    test = scipy.stats.ttest_1samp(differences, bound)
    assert result.n == len(first)
    assert result.p == pytest.approx(test.pvalue, rel=1e-6, abs=1e-12)
    interval = test.confidence_interval()
    assert result.difference is not None
    assert (result.difference.low, result.difference.high) == pytest.approx(tuple(interval), rel=1e-6, abs=1e-6)
    df = len(first) - 1
    gamma = scipy.special.gamma
    hedges = gamma(df / 2) / (math.sqrt(df / 2) * gamma((df - 1) / 2))
    assert result.effect == pytest.approx(hedges * differences.mean() / differences.std(ddof=1), rel=1e-6)
    one_sided = scipy.stats.ttest_1samp(differences, bound, alternative="greater").pvalue
    assert p_above(differences[:, None], bound)[0] == pytest.approx(one_sided, rel=1e-6, abs=1e-12)


@given(rows, rows)
def test_exchanging_the_sides_changes_the_sign_and_nothing_else(a: dict[int, float], b: dict[int, float]) -> None:
    one, other = paired(a, b), paired(b, a)
    assert one.n == other.n == len(set(a) & set(b))
    assert one.p == pytest.approx(other.p)
    assert (one.p is None) == (one.n < 5)
    if one.difference is not None and other.difference is not None:
        assert one.difference.mean == -other.difference.mean
    if one.effect is not None and other.effect is not None:
        assert one.effect == pytest.approx(-other.effect)


def test_five_pairs_can_be_significant() -> None:
    result = paired({i: 9.0 + 0.1 * i for i in range(5)}, {i: 8.5 + 0.12 * i for i in range(5)})
    assert result.p is not None
    assert result.p < 0.001
    signed = scipy.stats.wilcoxon([0.5, 0.48, 0.46, 0.44, 0.42]).pvalue
    assert signed == 0.0625  # the test that is not used


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
def test_fewer_than_five_pairs_have_no_p_value(n: int) -> None:
    result = paired({i: 2.0 + i * i for i in range(n)}, dict.fromkeys(range(n), 1.0))
    assert result.p is None
    assert result.n == n
    assert (result.difference is None) == (n == 0)
    assert (result.effect is None) == (n < 3)


def test_differences_without_spread_have_the_limits_of_the_test() -> None:
    same = {i: 0.1 * i for i in range(5)}
    assert (paired(same, same).p, paired(same, same).effect) == (1.0, 0.0)
    shifted = {i: 0.1 * i + 0.3 for i in range(5)}
    assert (paired(shifted, same).p, paired(shifted, same).effect) == (0.0, None)
    assert paired(shifted, same, bound=0.3).p == 1.0


def test_what_is_not_finite_is_left_out_with_its_seed() -> None:
    values = {i: float(i * i) for i in range(7)}
    broken = values | {2: math.nan, 4: math.inf}
    assert common_seeds([values, broken]) == [0, 1, 3, 5, 6]
    assert paired(values, broken).n == 5
    assert paired(values, math.nan).n == 0
    assert paired(1.0, math.nan).difference is None


def test_a_row_without_seeds_stands_for_each_seed() -> None:
    values = {i: 9 + 0.1 * i for i in range(5)}
    assert paired(values, 12.0) == paired(values, dict.fromkeys(values, 12.0))
    both = paired(8.0, 12.0)
    assert (both.exact, both.p, both.n) == (True, None, 0)
    assert both.difference == Interval(-4.0, -4.0, -4.0, 1)


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 3.0), st.integers(5, 9))
def test_a_ratio_has_the_factors_that_the_paired_test_does_not_reject(seed: int, factor: float, n: int) -> None:
    random = np.random.default_rng(seed)
    second = dict(enumerate(random.normal(10.0, 1.0, n).tolist()))
    first = {i: factor * value + random.normal(0, 0.5) for i, value in second.items()}
    ratio = ratio_interval(first, second)
    assert ratio is not None
    assert ratio.mean == pytest.approx(sum(first.values()) / sum(second.values()))
    for limit in (ratio.low, ratio.high):
        assert limit is not None
        # At its limits the test has p = 0.05 exactly, whether the factor is on the one side or the other.
        assert paired(first, {i: limit * value for i, value in second.items()}).p == pytest.approx(0.05, rel=1e-5)


def test_a_ratio_without_limits_or_meaning() -> None:
    few = ratio_interval({0: 3.0}, {0: 2.0})
    assert few == Interval(1.5, None, None, 1)
    wide = ratio_interval({0: 1.0, 1: 2.0, 2: 1.5}, {0: -5.0, 1: 0.1, 2: 9.0})  # the second may be 0
    assert wide is not None
    assert (wide.low, wide.high) == (None, None)
    assert ratio_interval({0: 1.0}, {0: -1.0}) is None
    assert ratio_interval({0: 1.0}, {1: 1.0}) is None
    constant = ratio_interval(dict.fromkeys(range(5), 2.0), 4.0)
    assert constant == Interval(0.5, 0.5, 0.5, 5)


def test_configurations_are_averaged_within_a_seed() -> None:
    assert pooled([{0: 1.0, 1: 3.0, 2: 5.0}, {0: 3.0, 2: 9.0}, 2.0]) == {0: 2.0, 2: 16 / 3}
    assert pooled([2.0, 4.0]) == 3.0
    # Twelve configurations of five seeds are five draws, not sixty.
    configurations = [{seed: 9 + 0.3 * seed + 0.01 * c for seed in range(5)} for c in range(12)]
    assert paired(pooled(configurations), pooled([10.0] * 12)).n == 5


# --- many comparisons -----------------------------------------------------------------------------------------------


def direct_holm(values: list[float]) -> list[float]:
    """As the definition has it: p̃(i) = max over j ≤ i of min(1, (m − j + 1) p(j))."""
    order = sorted(range(len(values)), key=values.__getitem__)
    result = [0.0] * len(values)
    for rank, i in enumerate(order):
        result[i] = max(min(1.0, (len(values) - j) * values[order[j]]) for j in range(rank + 1))
    return result


@given(p_values)
def test_holm_is_its_definition_and_skips_what_was_not_tested(values: list[float | None]) -> None:
    corrected = holm(values)
    tested = [p for p in values if p is not None]
    assert [p for p in corrected if p is not None] == pytest.approx(direct_holm(tested))
    assert [p is None for p in corrected] == [p is None for p in values]


@given(p_values)
def test_holm_keeps_the_order_and_is_never_below_a_p_value(values: list[float | None]) -> None:
    both = [(p, q) for p, q in zip(values, holm(values), strict=True) if p is not None and q is not None]
    assert all(p <= q <= 1 for p, q in both)
    assert all(q1 <= q2 for (p1, q1), (p2, q2) in itertools.product(both, both) if p1 < p2)
