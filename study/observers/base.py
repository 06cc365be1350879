"""The interface of whoever listens to a run, and how several listen without harming it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from study.spec.expand import Cell
from study.spec.trial import Trial
from study.store import Damaged, TrialTables

if TYPE_CHECKING:  # brings Optuna
    from study.search import StudyQueue

__all__ = ["Observer", "Observers", "RunObserver"]

# An observer may take a tenth of the run's time. Before it has taken half a minute its share says nothing: the first
# calls connect and create tables.
SLOW_SHARE = 0.1
SLOW_SECONDS = 30.0
_LONGEST_REASON = 300


class RunObserver(Protocol):
    """Told in the driver's main thread what happens."""

    def run_started(self, queue: StudyQueue, cells: list[Cell], slots: int) -> None:
        """Trials are about to run, so many at a time (0: the cluster decides)."""

    def damaged_files(self, damaged: list[Damaged]) -> None:
        """Result files that cannot be read; their trials run again. Told before `run_started`, also without any."""

    def trial_started(self, trial: Trial) -> None:
        """A trial got a slot."""

    def trial_progressed(self, trial: Trial, epoch: int, validation_rmse_m: float) -> None:
        """A trial finished an epoch."""

    def trial_finished(self, tables: TrialTables) -> None:
        """A trial is in the store, in whatever state: its row, and its epochs and errors if it has any."""

    def trial_retried(self, trial: Trial, attempt: int, reason: str) -> None:
        """A trial's process was lost; the trial is handed out again. The first retry is attempt 1."""

    def trial_lost(self, trial: Trial, reason: str) -> None:
        """A trial's process is gone for good; a later run starts it again."""

    def run_ended(self, stopped: bool) -> None:
        """The last call, also when the run fails (``stopped`` is True then)."""

    def tick(self) -> None:
        """Some time has passed."""


class Observer:
    """Listens to nothing: a subclass writes the methods that it wants, see `RunObserver`.

    Attributes:
        name: for messages.
    """

    name = "an observer"

    def run_started(self, queue: StudyQueue, cells: list[Cell], slots: int) -> None:  # noqa: D102
        pass

    def damaged_files(self, damaged: list[Damaged]) -> None:  # noqa: D102
        pass

    def trial_started(self, trial: Trial) -> None:  # noqa: D102
        pass

    def trial_progressed(self, trial: Trial, epoch: int, validation_rmse_m: float) -> None:  # noqa: D102
        pass

    def trial_finished(self, tables: TrialTables) -> None:  # noqa: D102
        pass

    def trial_retried(self, trial: Trial, attempt: int, reason: str) -> None:  # noqa: D102
        pass

    def trial_lost(self, trial: Trial, reason: str) -> None:  # noqa: D102
        pass

    def run_ended(self, stopped: bool) -> None:  # noqa: D102
        pass

    def tick(self) -> None:  # noqa: D102
        pass


class Observers:
    """Tells several observers; itself one.

    An observer never ends a study, and never slows it for long: one that fails, or that takes more than `SLOW_SECONDS`
    and more than `SLOW_SHARE` of the run's time, is told nothing more. A message says so; the study goes on.

    Args:
        observers: whom to tell, in this order.
        warn: called with the message, once for each observer that is dropped.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        observers: Iterable[RunObserver],
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observers, self._warn, self._clock = list(observers), warn, clock
        self._seconds: dict[int, float] = {id(observer): 0.0 for observer in self._observers}
        self._began = clock()

    def run_started(self, queue: StudyQueue, cells: list[Cell], slots: int) -> None:
        """See `RunObserver`, as for all methods."""
        self._tell("run_started", queue, cells, slots)

    def damaged_files(self, damaged: list[Damaged]) -> None:  # noqa: D102
        self._tell("damaged_files", damaged)

    def trial_started(self, trial: Trial) -> None:  # noqa: D102
        self._tell("trial_started", trial)

    def trial_progressed(self, trial: Trial, epoch: int, validation_rmse_m: float) -> None:  # noqa: D102
        self._tell("trial_progressed", trial, epoch, validation_rmse_m)

    def trial_finished(self, tables: TrialTables) -> None:  # noqa: D102
        self._tell("trial_finished", tables)

    def trial_retried(self, trial: Trial, attempt: int, reason: str) -> None:  # noqa: D102
        self._tell("trial_retried", trial, attempt, reason)

    def trial_lost(self, trial: Trial, reason: str) -> None:  # noqa: D102
        self._tell("trial_lost", trial, reason)

    def run_ended(self, stopped: bool) -> None:  # noqa: D102
        self._tell("run_ended", stopped)

    def tick(self) -> None:  # noqa: D102
        self._tell("tick")

    def _tell(self, event: str, *arguments: Any) -> None:
        for observer in list(self._observers):
            began = self._clock()
            try:
                getattr(observer, event)(*arguments)
            except Exception as error:  # whatever its library raises: a study does not end for it
                text = (str(error).strip().splitlines() or [""])[0]
                self._drop(observer, f"{type(error).__name__}: {text}")
                continue
            now = self._clock()
            self._seconds[id(observer)] += now - began
            spent = self._seconds[id(observer)]
            if spent > SLOW_SECONDS and spent > SLOW_SHARE * (now - self._began):
                self._drop(observer, f"it took {spent:.0f} s of the {now - self._began:.0f} s of this run")

    def _drop(self, observer: RunObserver, reason: str) -> None:
        self._observers.remove(observer)
        name = getattr(observer, "name", type(observer).__name__)
        with suppress(Exception):  # the terminal may be what has failed
            self._warn(f"{name} is told nothing more in this run; the study goes on ({reason[:_LONGEST_REASON]})")
