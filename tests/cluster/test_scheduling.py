"""List scheduling on simulated clusters: its laws, up to thousands of machines of different kinds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.scheduling import Schedule, list_schedule

TIMES = st.lists(st.floats(0, 1e4), min_size=1, max_size=60)
SLOTS = st.integers(1, 12)


def _busy(schedule: Schedule, slot: int) -> list[tuple[float, float]]:
    own = np.flatnonzero(schedule.slot == slot)
    return sorted(zip(schedule.start[own].tolist(), schedule.end[own].tolist(), strict=True))


@given(TIMES, SLOTS)
def test_each_job_runs_once_for_its_time_and_a_slot_runs_one_at_a_time(times: list[float], slots: int) -> None:
    schedule = list_schedule(times, [0] * slots)
    assert np.allclose(schedule.end - schedule.start, times, rtol=1e-9, atol=1e-6)
    for slot in range(slots):
        spans = _busy(schedule, slot)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


@given(TIMES, SLOTS)
def test_the_makespan_lies_between_both_lower_bounds_and_grahams_upper_one(times: list[float], slots: int) -> None:
    makespan = list_schedule(times, [0] * slots).makespan
    longest, mean = max(times), sum(times) / slots
    assert makespan >= max(longest, mean) * (1 - 1e-9)
    assert makespan <= (mean + longest * (1 - 1 / slots)) * (1 + 1e-9) + 1e-6


@given(st.floats(0, 1e4), st.integers(0, 80), SLOTS, st.integers(1, 5))
def test_more_slots_are_never_slower_for_identical_trials(seconds: float, jobs: int, slots: int, more: int) -> None:
    few, many = (list_schedule([seconds] * jobs, [0] * count).makespan for count in (slots, slots + more))
    assert many <= few
    assert few == pytest.approx(-(-jobs // slots) * seconds)


@given(TIMES, SLOTS)
def test_no_slot_waits_while_a_job_does(times: list[float], slots: int) -> None:
    schedule = list_schedule(times, [0] * slots)
    last_start = schedule.start.max()
    for slot in range(slots):
        spans = _busy(schedule, slot)
        ends = [0.0, *(end for _, end in spans)]
        starts = [*(start for start, _ in spans), schedule.makespan]
        # A gap can only come after the last job has started.
        assert all(start == end or end >= last_start for start, end in zip(starts, ends, strict=True))


@given(TIMES, SLOTS, st.floats(0.1, 10))
def test_time_in_another_unit_is_the_same_schedule(times: list[float], slots: int, factor: float) -> None:
    one = list_schedule(times, [0] * slots).makespan
    other = list_schedule([time * factor for time in times], [0] * slots).makespan
    assert other == pytest.approx(factor * one, rel=1e-6, abs=1e-6)


@given(TIMES, TIMES, SLOTS)
def test_repeats_wait_for_their_candidates_and_others_fill_the_gap(
    candidates: list[float], repeats: list[float], slots: int
) -> None:
    jobs = [*candidates, *repeats, 1.0, 1.0]
    group = [0] * len(candidates) + [1] * len(repeats) + [2, 2]
    schedule = list_schedule(jobs, [0] * slots, group=group, after=[None, 0, None])
    own = np.array(group)
    assert schedule.start[own == 1].min() >= schedule.end[own == 0].max()
    if slots > len(candidates):  # there is room beside the candidates: the third group does not wait
        assert schedule.start[own == 2].min() == 0


def test_a_slot_makes_its_context_once_until_another_comes() -> None:
    schedule = list_schedule([1.0] * 4, [0], context=[5, 5, 6, 5], context_seconds=[10.0, 10.0, 20.0, 10.0])
    assert schedule.fetched.tolist() == [True, False, True, True]
    assert schedule.makespan == 4 + 10 + 20 + 10


def test_a_slot_starts_its_process_once() -> None:
    assert list_schedule([1.0] * 6, [0, 0], first_seconds=3.0).makespan == 3 + 3


def test_a_faster_kind_of_machine_takes_more_of_the_jobs() -> None:
    seconds = np.array([[1.0, 4.0]] * 100)
    schedule = list_schedule(seconds, [0, 1])
    assert (schedule.slot == 0).sum() == 80
    assert schedule.makespan == 80


def test_thousands_of_machines_of_three_kinds() -> None:
    rng = np.random.default_rng(0)
    kinds = [0] * 4000 + [1] * 2000 + [2] * 1000
    base = rng.uniform(100, 1000, 20_000)
    seconds = base[:, None] * np.array([1.0, 2.5, 0.5])
    schedule = list_schedule(seconds, kinds)
    speed = 4000 / 1.0 + 2000 / 2.5 + 1000 / 0.5
    assert schedule.makespan >= base.sum() / speed
    assert schedule.makespan <= base.sum() / speed + 2.5 * 1000
    doubled = list_schedule(seconds, kinds * 2)
    assert doubled.makespan <= schedule.makespan


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": [1.0], "slot_kinds": []}, "no slot"),
        ({"seconds": [-1.0], "slot_kinds": [0]}, "negative"),
        ({"seconds": [float("nan")], "slot_kinds": [0]}, "finite"),
        ({"seconds": [1.0, 1.0], "slot_kinds": [0], "group": [0, 1], "after": [1, 0]}, "wait for each other"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list_schedule(**arguments)


def test_no_jobs_take_no_time() -> None:
    assert list_schedule([], [0, 0]).makespan == 0
