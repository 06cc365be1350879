"""The runs of a study on the clock, as its event log tells them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from study.observers.event_log import read_events

__all__ = ["Run", "runs_of"]

_MOST_SECONDS = 1e12


@dataclass
class Run:
    """A run of a study.

    Attributes:
        began: ISO 8601.
        ended: whether it came to its end, and was not killed.
        slots: trials at the same time; 0 where that was not known.
        start_s: until the first trial started.
        end_s: after the last trial.
        wall_s: all of it, from the start of Ray to its end; of a run that was killed, to its last event.
        trials: key → seconds that it had a process, in the order of their start.
    """

    began: str
    ended: bool = False
    slots: int = 0
    start_s: float = 0.0
    end_s: float = 0.0
    wall_s: float = 0.0
    trials: dict[str, float] = field(default_factory=dict)


def runs_of(log: Path) -> list[Run]:
    """The runs of a study, oldest first: one process at a time holds a results folder.

    Args:
        log: ``events.jsonl``, perhaps a stranger's: times that are none are passed over.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is a link, a pipe or a device.
    """
    runs: list[Run] = []
    began = last = last_finished = 0.0
    starts: dict[str, float] = {}
    for event in read_events(log):
        now, kind = _time(event["time"]), event["event"]
        if kind == "run_started":
            runs.append(Run(str(event["time"]), slots=_count(event.get("slots"))))
            began = last = last_finished = now or 0.0
            starts = {}
            continue
        if not runs or runs[-1].ended:
            continue
        run, key = runs[-1], str(event.get("key"))
        # A clock that was set back counts nothing, and neither does a time that is none.
        last = max(last, now or last)
        began = began or last
        run.wall_s = last - began
        if kind == "trial_started":
            if not starts:
                run.start_s = run.wall_s
            starts[key] = last
            run.trials.setdefault(key, -1.0)  # keeps its place
        elif kind == "trial_finished" and key in starts:
            run.trials[key], last_finished = last - starts[key], last
        elif kind == "run_ended":
            run.ended, run.end_s = True, last - last_finished
            seconds = event.get("seconds")
            # Its own seconds are of a clock that nobody sets.
            if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds <= _MOST_SECONDS:
                run.wall_s = float(seconds)
    for run in runs:
        run.trials = {key: seconds for key, seconds in run.trials.items() if seconds >= 0}
    return runs


def _time(text: Any) -> float | None:
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1_000_000 else 0
