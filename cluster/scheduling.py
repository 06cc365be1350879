"""List scheduling: who runs when, if each free slot takes the next trial that may start.

That is what the engine does: trials are handed out in a fixed order, and a searched cell's repeats wait for its
candidates.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Schedule", "list_schedule"]


@dataclass(frozen=True)
class Schedule:
    """When each job runs, in seconds from the first.

    Attributes:
        start, end: of each job.
        slot: of each job.
        fetched: whether it had to get its context.
    """

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    slot: NDArray[np.int64]
    fetched: NDArray[np.bool_]

    @property
    def makespan(self) -> float:
        """When the last job ends; 0 without jobs."""
        return float(self.end.max(initial=0.0))


def list_schedule(
    seconds: ArrayLike,
    slot_kinds: Sequence[int],
    *,
    group: Sequence[int] | None = None,
    after: Sequence[int | None] | None = None,
    context: Sequence[int] | None = None,
    context_seconds: ArrayLike | None = None,
    first_seconds: float = 0.0,
) -> Schedule:
    """Schedule jobs in the order of their groups.

    Args:
        seconds: how long each job takes, [J], or [J, K] on each kind of slot.
        slot_kinds: the kind of each slot, [S].
        group: the group of each job, [J]; all in one by default. A smaller number comes first.
        after: for each group the group whose jobs must have ended before it starts, or None.
        context: what each job needs to have at hand, [J]; a slot keeps that of its last job.
        context_seconds: what it takes to get it, as `seconds`; nothing for a job after one with the same context.
        first_seconds: what a slot takes before its first job.

    Raises:
        ValueError: no slot, a negative time, or groups that wait for each other.
    """
    if not len(slot_kinds):
        raise ValueError("there is no slot")
    times = _by_kind(seconds, slot_kinds)
    jobs = len(times)
    extra = np.zeros_like(times) if context_seconds is None else _by_kind(context_seconds, slot_kinds)
    if not all(np.isfinite(values).all() and (values >= 0).all() for values in (times, extra, np.array(first_seconds))):
        raise ValueError("times must be finite and not negative")
    groups = [0] * jobs if group is None else list(group)
    waits = list(after) if after is not None else [None] * (max(groups, default=-1) + 1)

    members: dict[int, list[int]] = {}
    for job, number in enumerate(groups):
        members.setdefault(number, []).append(job)
    for numbers in members.values():
        numbers.reverse()  # the next one is the last of the list
    left = {number: len(numbers) for number, numbers in members.items()}
    last_end = dict.fromkeys(members, 0.0)
    followers: dict[int, list[int]] = {}
    ready: list[int] = []  # groups that may start
    coming: list[tuple[float, int]] = []  # groups whose start is known
    for number in members:
        before = waits[number]
        if before is None or before not in members:
            ready.append(number)
        else:
            followers.setdefault(before, []).append(number)
    heapq.heapify(ready)

    start, end, slot = np.zeros(jobs), np.zeros(jobs), np.zeros(jobs, np.int64)
    fetched = np.zeros(jobs, np.bool_)
    free = [(0.0, number) for number in range(len(slot_kinds))]
    has: list[int | None] = [None] * len(slot_kinds)
    fresh = [True] * len(slot_kinds)
    scheduled = 0
    table, costs = times.tolist(), extra.tolist()
    while scheduled < jobs:
        now, number = heapq.heappop(free)
        while coming and coming[0][0] <= now:
            heapq.heappush(ready, heapq.heappop(coming)[1])
        if not ready:
            if not coming:
                raise ValueError("groups wait for each other")
            heapq.heappush(free, (coming[0][0], number))
            continue
        chosen = ready[0]
        job = members[chosen].pop()
        if not members[chosen]:
            heapq.heappop(ready)
        took = table[job][slot_kinds[number]]
        if context is not None and (fresh[number] or has[number] != context[job]):
            took += costs[job][slot_kinds[number]]
            has[number], fetched[job] = context[job], True
        if fresh[number]:
            took += first_seconds
            fresh[number] = False
        start[job], end[job], slot[job] = now, now + took, number
        heapq.heappush(free, (now + took, number))
        scheduled += 1
        last_end[chosen] = max(last_end[chosen], now + took)
        left[chosen] -= 1
        if not left[chosen]:
            for follower in followers.pop(chosen, ()):
                heapq.heappush(coming, (last_end[chosen], follower))
    return Schedule(start, end, slot, fetched)


def _by_kind(seconds: ArrayLike, slot_kinds: Sequence[int]) -> NDArray[np.float64]:
    """Times on each kind of slot, [J, K]."""
    times = np.asarray(seconds, float)
    return times if times.ndim == 2 else np.repeat(times[:, None], max(slot_kinds) + 1, axis=1)
