"""What happened in a study, one JSON object per line: for scripts, log collectors, and the question of last night.

The format is documented in docs/observability.md.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.observers.base import Observer
from study.observers.record import key_paths
from study.result_files import DEEPEST, depth, open_plain_file
from study.selection import config_value
from study.spec.expand import Cell
from study.spec.trial import Trial, canonical_json
from study.store import Damaged, TrialTables

if TYPE_CHECKING:  # brings Optuna
    from study.search import StudyQueue

__all__ = ["EventLog", "read_events", "running_trials"]

# More than any event, any study's log and any cluster has.
_LONGEST_LINE = 2**20
_MOST_BYTES = 2**30
_MOST_RUNNING = 10_000


class EventLog(Observer):
    """Appends to a file of JSON lines. The file is opened for each line: it may be moved away at any time.

    Args:
        path: the file; lines of earlier runs stay.
        progress_every_s: a trial's epochs are logged at most this often.

    Raises:
        OSError: (from every method) the file cannot be written.
    """

    name = "the event log"

    def __init__(self, path: Path, progress_every_s: float = 10.0) -> None:
        self.path, self._progress_every_s = path, progress_every_s
        self._varying: list[str] = []
        self._told_at: dict[str, float] = {}  # running trials only
        self._states: Counter[str] = Counter()
        self._began = time.monotonic()

    def run_started(self, queue: StudyQueue, cells: list[Cell], slots: int) -> None:
        """Trials are about to run."""
        self._began = time.monotonic()
        self._varying = _varying(cells)
        progress = queue.progress()
        self._write(
            "run_started",
            host=socket.gethostname(),
            pid=os.getpid(),
            cells=len(cells),
            slots=slots or None,
            wanted=progress.wanted,
            stored=progress.stored,
        )

    def damaged_files(self, damaged: list[Damaged]) -> None:
        """Result files that cannot be read."""
        for item in damaged:
            self._write("damaged_file", file=str(item.path), reason=item.reason)

    def trial_started(self, trial: Trial) -> None:
        """A trial got a slot."""
        self._write("trial_started", **self._identity(trial.key, trial.method, trial.config, trial.seed))

    def trial_progressed(self, trial: Trial, epoch: int, validation_rmse_m: float) -> None:
        """A trial finished an epoch."""
        now = time.monotonic()
        if now - self._told_at.get(trial.key, -math.inf) < self._progress_every_s:
            return
        self._told_at[trial.key] = now
        self._write("trial_progressed", key=trial.key, epoch=epoch, validation_rmse_m=validation_rmse_m)

    def trial_finished(self, tables: TrialTables) -> None:
        """A trial is in the store."""
        row = tables.row
        self._told_at.pop(row["key"], None)
        self._states[row["state"]] += 1
        error = (row.get("error") or "").strip().splitlines()
        self._write(
            "trial_finished",
            **self._identity(row["key"], row["method"], json.loads(row["config"]), row["seed"]),
            state=row["state"],
            validation_rmse_m=row.get("validation_rmse_m"),
            test_rmse_m=row.get("test_rmse_m"),
            best_epoch=row.get("best_epoch"),
            epochs=row.get("epochs"),
            seconds=row.get("trial_seconds"),
            host=row.get("host"),
            error=error[-1] if error else None,
            finished=sum(self._states.values()) - self._states["lost"],
        )

    def trial_retried(self, trial: Trial, attempt: int, reason: str) -> None:
        """A trial's process was lost; the trial is handed out again."""
        self._told_at.pop(trial.key, None)
        identity = self._identity(trial.key, trial.method, trial.config, trial.seed)
        self._write("trial_retried", **identity, attempt=attempt, reason=reason)

    def trial_lost(self, trial: Trial, reason: str) -> None:
        """A trial's process is gone for good."""
        self._told_at.pop(trial.key, None)
        self._states["lost"] += 1
        self._write("trial_lost", **self._identity(trial.key, trial.method, trial.config, trial.seed), reason=reason)

    def run_ended(self, stopped: bool) -> None:
        """The last call."""
        self._told_at.clear()
        self._write("run_ended", stopped=stopped, seconds=time.monotonic() - self._began, states=dict(self._states))

    def _identity(self, key: str, method: str, config: dict[str, Any], seed: int) -> dict[str, Any]:
        values = {path: config_value(config, path) for path in self._varying}
        given = {path: value for path, value in values.items() if value is not None}
        return {"key": key, "method": method, "seed": seed, "values": given}

    def _write(self, event: str, **fields: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps(_plain({"time": now, "event": event, **fields}), ensure_ascii=False, allow_nan=False)
        # One unbuffered write: what is on the line is in the file when this returns.
        with self.path.open("a+b", buffering=0) as file:
            rest = f"{'' if _ends_its_line(file) else chr(10)}{line}\n".encode()
            while rest:
                rest = rest[file.write(rest) :]


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log in the order of its lines; lines that a killed run left broken are passed over.

    A log may come from a stranger: of one that is larger than any study's the end alone is read, and a line that is
    longer than any event is no event.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is a link, a pipe or a device.
    """
    with open_plain_file(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _MOST_BYTES))
        whole = True  # whether a line begins here
        for line in iter(lambda: file.readline(_LONGEST_LINE), b""):
            begins, whole = whole, line.endswith(b"\n")
            if not (begins and (whole or len(line) < _LONGEST_LINE)):
                continue
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and "time" in event and isinstance(event.get("event"), str):
                yield event


def running_trials(path: Path) -> list[dict[str, Any]]:
    """The trials that have a process now, if the study is running: their ``trial_started`` events.

    Those of which an epoch was told have its ``epoch`` and ``validation_rmse_m`` too. None where the log is missing, or
    is no log.
    """
    running: dict[str, dict[str, Any]] = {}
    try:
        for event in read_events(path):
            kind, key = event["event"], event.get("key")
            if kind == "run_started":
                running.clear()
            elif not isinstance(key, str):
                continue
            elif kind == "trial_started" and len(running) < _MOST_RUNNING and depth(event) <= DEEPEST:
                running[key] = event
            elif kind == "trial_progressed" and key in running:
                running[key] |= {name: event.get(name) for name in ("epoch", "validation_rmse_m")}
            elif kind in ("trial_finished", "trial_retried", "trial_lost"):
                running.pop(key, None)
    except (OSError, ValueError):
        return []
    return list(running.values())


def _ends_its_line(file: Any) -> bool:
    """Whether a file is empty or ends with a line break: a killed run may have left half a line."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def _varying(cells: list[Cell]) -> list[str]:
    """Key paths whose values differ between trials: the axes (but the method) and what is searched."""
    seen: dict[str, set[str]] = {}
    for cell in cells:
        for path, value in key_paths(cell.config):
            seen.setdefault(path, set()).add(canonical_json(value))
    searched = {path for cell in cells if cell.search is not None for path in cell.search.space}
    return sorted(({path for path, values in seen.items() if len(values) > 1} | searched) - {"method"})


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: they are null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
