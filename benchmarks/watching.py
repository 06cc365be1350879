"""What a process takes, seen from outside: wall time, processor time and peak resident memory. For the benchmarks."""

from __future__ import annotations

import os
import subprocess
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

LOOK_SECONDS = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")


class Look(NamedTuple):
    """What a process had taken at a time: seconds since 1970, processor seconds, peak memory in MB."""

    time_s: float
    processor_s: float
    memory_mb: float


@dataclass
class Usage:
    """What a process took, without its children.

    Attributes:
        wall_s: from its start to its end.
        processor_s: of all its threads.
        memory_mb: its peak resident memory.
        looks: what it had taken on the way.
    """

    wall_s: float
    processor_s: float
    memory_mb: float
    looks: list[Look] = field(default_factory=list, repr=False)

    def at(self, time_s: float) -> Look:
        """What it had taken at a time, from the looks before and after."""
        i = min(max(1, bisect_left(self.looks, time_s, key=lambda look: look.time_s)), len(self.looks) - 1)
        before, after = self.looks[i - 1], self.looks[i]
        share = min(max((time_s - before.time_s) / (after.time_s - before.time_s), 0.0), 1.0)
        return Look(time_s, before.processor_s + share * (after.processor_s - before.processor_s), after.memory_mb)


def watch(command: Sequence[str | Path], **settings: object) -> Usage:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **settings)  # type: ignore[call-overload]
    looks: list[Look] = []
    how = os.WEXITED | os.WNOHANG | os.WNOWAIT  # it stays as it ended: its processor time can still be read
    while os.waitid(os.P_PID, process.pid, how) is None:
        looks.append(look_at(process.pid))
        time.sleep(LOOK_SECONDS)
    wall, end = time.perf_counter() - began, look_at(process.pid)
    if process.wait():
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}")
    return Usage(wall, end.processor_s, max(look.memory_mb for look in looks), [*looks, end])


def look_at(pid: int) -> Look:
    """What a process has taken by now; its memory is 0 once it has ended."""
    # Its name is in brackets, and may hold anything.
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Look(time.time(), (int(numbers[11]) + int(numbers[12])) / _TICKS, peak_memory_mb(pid))


def peak_memory_mb(pid: int | str = "self") -> float:
    """Peak resident memory of a process so far, without what it was started from; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
