"""How long the runs of a study took on the clock, from its event log."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from study.result_files import printable

__all__ = ["Clock", "read_clock"]

# Larger than the log of any study: one line of it is read as a whole.
_MOST_BYTES = 2**29
_MOST_SECONDS = 1e12


@dataclass(frozen=True)
class Clock:
    """The runs of a study.

    Attributes:
        seconds: from start to end of each, summed.
        runs: how many there were.
        cut: how many of them have no end, because they were killed or still go on: they count to their last event.
    """

    seconds: float
    runs: int
    cut: int


def read_clock(folder: Path) -> Clock | str:
    """The time on the clock of a results folder, or why it is not known."""
    # Imported here: it brings the search algorithms along, and most reports have no plan to compare with.
    from study.observers.event_log import read_events

    path = folder / "events.jsonl"
    try:
        found = path.lstat()  # a link may lead anywhere, and a pipe would never end
        if not stat.S_ISREG(found.st_mode):
            return "events.jsonl is not a plain file"
        if found.st_size > _MOST_BYTES:
            return f"events.jsonl has {found.st_size:,} bytes, more than is read of it"
        clock = _clock(read_events(path))
    except FileNotFoundError:
        return "there is no events.jsonl"
    except (OSError, ValueError, RecursionError) as error:
        return printable(f"events.jsonl cannot be read: {error}")[:200]
    return clock if clock.runs else "no run is in events.jsonl"


def _clock(events: Iterable[Mapping[str, Any]]) -> Clock:
    """Runs follow each other: one process at a time holds a results folder."""
    took: list[float] = []
    cut = 0
    running, began, last = False, None, None
    for event in events:
        now = _time(event["time"])
        if event["event"] == "run_started":
            if running:
                took.append(_between(began, last))
                cut += 1
            running, began, last = True, now, now
        elif event["event"] == "run_ended":
            seconds = _seconds(event.get("seconds"))
            # Its own seconds are of a clock that nobody sets.
            took.append(_between(began, now) if seconds is None else seconds)
            running, began = False, None
        last = now or last
    if running:
        took.append(_between(began, last))
        cut += 1
    return Clock(math.fsum(took), len(took), cut)


def _time(text: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _seconds(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_SECONDS:
        return None
    return float(value)


def _between(began: datetime | None, ended: datetime | None) -> float:
    # A clock that was set back counts nothing.
    return 0.0 if began is None or ended is None else max((ended - began).total_seconds(), 0.0)
