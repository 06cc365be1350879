"""What a run tells while it goes on: the display listens, a test may too."""

from __future__ import annotations

from typing import Any, Protocol

from study.search import StudyQueue
from study.spec.expand import Cell
from study.spec.trial import Trial
from study.store import Damaged

__all__ = ["RunObserver"]


class RunObserver(Protocol):
    """Told in the driver's main thread what happens."""

    def run_started(self, queue: StudyQueue, cells: list[Cell], slots: int) -> None:
        """Trials are about to run."""

    def damaged_files(self, damaged: list[Damaged]) -> None:
        """Result files that cannot be read; their trials run again."""

    def trial_started(self, trial: Trial) -> None:
        """A trial got a slot."""

    def trial_progressed(self, trial: Trial, epoch: int, validation_rmse_m: float) -> None:
        """A trial finished an epoch."""

    def trial_finished(self, row: dict[str, Any]) -> None:
        """A trial is in the store."""

    def trial_lost(self, trial: Trial) -> None:
        """A trial's process is gone for good; a later run starts it again."""

    def tick(self) -> None:
        """Some time has passed."""
