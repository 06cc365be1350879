"""Tune's view of the study's queue: what comes next, what is stopped early, what has to run again."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import study.engine.environment  # noqa: F401 - before Ray

# isort: split

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from study.engine.attempt import Parcel, answer_deadline_s
from study.errors import ResultsError
from study.observers import RunObserver
from study.provenance import Provenance, trial_identity
from study.result_files import unwritable
from study.search import StudyQueue, Work
from study.spec.trial import Trial
from study.store import Store, TrialTables

__all__ = ["EarlyStopping", "Limits", "Observe", "QueueSearcher", "RunStopper"]

METRIC = "validation_rmse_m"


@dataclass(frozen=True)
class Limits:
    """How often a trial is handed out again after its process was lost, and when that was a hang.

    Attributes:
        max_retries: how often.
        time_limit_s: of a trial in one process, which ends itself when it hangs; None where there is no such process.
    """

    max_retries: int
    time_limit_s: float | None = None


class _NotPickled:
    """Tune pickles its whole set-up for a restart that never happens here; these parts live in the driver alone."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclass
class _Running:
    """A trial that Tune was given. Its start is when it got a process."""

    trial: Trial
    started: float | None = None
    so_far: TrialTables | None = None  # of a trial that falls behind
    reason: str = "its process was lost"


class QueueSearcher(_NotPickled, Searcher):
    """Hands trials to Tune and stores what comes back. Never restored by Tune: after a crash a new one is built.

    Args:
        queue: what is to run.
        first: the trial that the queue has handed out already.
        store: where tables are written, by this process alone.
        provenance: recorded in the rows of trials that cannot tell themselves what became of them.
        observer: told what happens.
        stopper: knows whether the run is ending.
        limits: see there.
        free: called with the key of each trial that is stored, to remove what it left elsewhere.
        may_go_on: whether another trial may be handed out; once it says no, those that run are the last.
    """

    def __init__(
        self,
        queue: StudyQueue,
        first: Trial,
        store: Store,
        provenance: Provenance,
        observer: RunObserver,
        stopper: RunStopper,
        limits: Limits,
        free: Callable[[str], None] = lambda key: None,
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(metric=METRIC, mode="min")
        self._queue, self._store, self._provenance, self._observer = queue, store, provenance, observer
        self._stopper, self._limits, self._free, self._may_go_on = stopper, limits, free, may_go_on
        self._ready = [first]  # handed out by the queue, and not running
        self._losses: Counter[str] = Counter()  # by trial key
        self._running: dict[str, _Running] = {}  # by Tune's id
        self.store_failure: ResultsError | None = None

    # --- what comes next ---

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial, None where a running one decides what comes, or that there is no more."""
        found: Trial | Work = Work.NONE
        if not self._may_go_on():
            return None if self._running else str(Searcher.FINISHED)
        with self._noticing_a_full_disk():
            found = self._ready.pop() if self._ready else self._queue.next()
        if self.store_failure is not None:
            return str(Searcher.FINISHED)
        if not isinstance(found, Trial):
            # Not finished while a trial runs: it may be lost, and has to run again.
            return None if self._running or found is Work.LATER else str(Searcher.FINISHED)
        self._running[trial_id] = _Running(found)
        return {"trial": json.dumps(asdict(found)), "competes": self._queue.competes(found.key)}

    def started(self, trial_id: str) -> None:
        """A trial got its process."""
        running = self._running.get(trial_id)
        if running is not None:
            running.started = time.monotonic()
            self._observer.trial_started(running.trial)

    # --- what comes back ---

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A report, but for the one on which a trial ended or was stopped."""
        running = self._running.get(trial_id)
        if running is None:
            return
        if "parcel" in result:
            self._take(trial_id, result["parcel"])
        elif "unwritable" in result:  # its checkpoints
            self.store_failure = self.store_failure or result["unwritable"]
        elif "epoch" in result:
            self._observer.trial_progressed(running.trial, result["epoch"], result[METRIC])

    def falls_behind(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial is to be stopped after this report; its tables are then stored as they are."""
        running, parcel = self._running.get(trial_id), result.get("so_far")
        if running is None or parcel is None:
            return False
        tables = parcel.unpack()
        if tables is None or tables.epochs is None:
            return False
        with self._noticing_a_full_disk():
            if self._queue.falls_behind(running.trial.key, tables.epochs):
                running.so_far = tables
        return running.so_far is not None

    def fails_with(self, trial_id: str, reason: str) -> None:
        """Why the process of a trial is gone, as far as Ray knows; followed by `on_trial_complete`."""
        running = self._running.get(trial_id)
        if running is not None:
            running.reason = reason

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended, was stopped, or has lost its process."""
        running = self._running.get(trial_id)
        if running is None:  # Tune tells twice when stopping a trial failed
            return
        if not error and result is not None and "parcel" in result:
            self._take(trial_id, result["parcel"])
        elif running.so_far is not None:
            self._store_tables(trial_id, running.so_far)
        elif error:
            self._process_is_gone(trial_id)
        else:  # the run is ending
            del self._running[trial_id]
            self._lose(running.trial.key)

    def _take(self, trial_id: str, parcel: Parcel) -> None:
        tables = parcel.unpack()
        if tables is not None:
            self._store_tables(trial_id, tables)

    def _process_is_gone(self, trial_id: str) -> None:
        running = self._running[trial_id]
        trial, limit = running.trial, self._limits.time_limit_s
        seconds = 0.0 if running.started is None else time.monotonic() - running.started
        # A process ends itself when its trial hangs; the clocks of two processes are not the same.
        if limit is not None and seconds > 0.9 * answer_deadline_s(limit):
            reason = f"the trial did not answer {seconds:.0f} s after its start (time limit {limit:g} s) and was ended"
            self._store_tables(trial_id, self._tables_of(trial, "failed", reason, seconds))
            return
        if self._losses[trial.key] < self._limits.max_retries and not self._is_ending():
            self._losses[trial.key] += 1
            del self._running[trial_id]
            self._ready.append(trial)
            self._observer.trial_retried(trial, self._losses[trial.key], running.reason)
        elif "memory" in running.reason and not self._is_ending():
            self._store_tables(trial_id, self._tables_of(trial, "out_of_memory", running.reason, seconds))
        else:
            del self._running[trial_id]
            self._lose(trial.key)
            self._observer.trial_lost(trial, running.reason)

    def _tables_of(self, trial: Trial, state: str, error: str, seconds: float) -> TrialTables:
        """The tables of a trial whose process cannot say what became of it."""
        began = datetime.now(UTC) - timedelta(seconds=seconds)
        row = {
            **trial_identity(trial, self._provenance, began),
            "state": state,
            "error": error,
            "trial_seconds": seconds,
        }
        return TrialTables(row)

    def _store_tables(self, trial_id: str, tables: TrialTables) -> None:
        key = tables.row["key"]
        tables.row["search_seed"] = self._queue.search_seed(key)
        del self._running[trial_id]
        try:
            self._store.write(tables)
        except ResultsError as error:
            self.store_failure = self.store_failure or error
            self._lose(key)
            return
        with self._noticing_a_full_disk():
            self._queue.finish(tables.row)
        self._observer.trial_finished(tables)
        self._free(key)

    def _lose(self, key: str) -> None:
        with self._noticing_a_full_disk():
            self._queue.lose(key)

    @contextmanager
    def _noticing_a_full_disk(self) -> Iterator[None]:
        """The queue writes too: Optuna's journal."""
        try:
            yield
        except OSError as error:
            self.store_failure = self.store_failure or unwritable(self._store.journal, error)

    def _is_ending(self) -> bool:
        return self.store_failure is not None or self._stopper.stopping

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the state is in the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class EarlyStopping(_NotPickled, FIFOScheduler):
    """Stops what the queue says falls behind. Its rules are Optuna's, one study for each cell: see `study.search`."""

    def __init__(self, searcher: QueueSearcher) -> None:
        super().__init__()
        self._searcher = searcher
        self._chosen: set[str] = set()

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The next trial that waits, a new one first. Ray's own looks through all trials of the study.

        A trial that was chosen before waits for a process that is starting for it. Chosen again, it would get the
        process of the trial that has just ended, and Tune would end the one that is starting: as long as trials take
        less than such a start, all of them would run in one process.
        """
        waiting = [trial for trial in tune_controller.get_live_trials() if trial.status in ("PENDING", "PAUSED")]
        order = lambda trial: (trial.trial_id in self._chosen, trial.status == "PAUSED", trial.trial_id)  # noqa: E731
        found = min(waiting, key=order, default=None)
        if found is not None:
            self._chosen.add(found.trial_id)
        return found

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE."""
        behind = self._searcher.falls_behind(trial.trial_id, result)
        return str(TrialScheduler.STOP if behind else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Called before the searcher hears of it, who is not told why."""
        text = str(trial.get_error() or "")
        reason = "its process was lost"
        # Ray muses about the kernel's out-of-memory killer for any lost process; these words it uses when it knows.
        if "OutOfMemoryError" in text or "low on memory" in text:
            reason = "its process was ended because the machine ran out of memory"
        elif "its node has died" in text or "node was terminated" in text or "node_death" in text.lower():
            reason = "its machine was lost"
        self._searcher.fails_with(trial.trial_id, reason)


class RunStopper(_NotPickled, Stopper):
    """Ends the run when it is asked to, or when results cannot be stored."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop
        self.stopping = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped alone."""
        return False

    def stop_all(self) -> bool:
        """Asked by Tune between two events."""
        self.stopping = self.stopping or self._should_stop()
        return self.stopping


class Observe(_NotPickled, tune.Callback):
    """Passes Tune's events on.

    Args:
        searcher: hears which trials got a process.
        stopper: ends the run when results cannot be stored.
        tick: called after each of Tune's steps.
    """

    def __init__(self, searcher: QueueSearcher, stopper: RunStopper, tick: Callable[[], None]) -> None:
        self._searcher, self._stopper, self._tick = searcher, stopper, tick

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial got its process."""
        self._searcher.started(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Some time has passed."""
        if self._searcher.store_failure is not None:
            self._stopper.stopping = True
        self._tick()
