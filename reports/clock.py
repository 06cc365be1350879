"""How long the runs of a study took on the clock, from its event log."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from study.result_files import printable

__all__ = ["Clock", "read_clock"]


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
    from study.observers import runs_of

    try:
        runs = runs_of(folder / "events.jsonl")
    except FileNotFoundError:
        return "there is no events.jsonl"
    except (OSError, ValueError) as error:
        return printable(f"events.jsonl cannot be read: {error}")[:200]
    if not runs:
        return "no run is in events.jsonl"
    return Clock(math.fsum(run.wall_s for run in runs), len(runs), sum(not run.ended for run in runs))
