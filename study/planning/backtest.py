"""Plans of finished studies against what they took. Each plan rests on everything that was measured but the study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.machines import MachineKind, slots_of
from cluster.model import Cluster
from study.data.site import open_site
from study.errors import StudyError
from study.observers import runs_of
from study.planning.estimate import Planner
from study.planning.knowledge import Knowledge, studies_at
from study.planning.record import Basis, Spread, read_plan
from study.running import prepare
from study.search import StudyQueue
from study.store import Store

__all__ = ["Backtest", "Replay", "backtest"]

# What the aim is: of total hours, and of how many studies the interval holds.
AIM = 0.15
COVERED = 0.8


@dataclass(frozen=True)
class Replay:
    """A study's plan and what it took.

    Attributes:
        study: its name.
        trials: how many trials.
        planned: seconds of all trials.
        actual: the same as it was.
        planned_wall, actual_wall: on the clock, over all runs; the actual one is None where no log tells it.
        basis: what the plan rests on.
    """

    study: str
    trials: int
    planned: Spread
    actual: float
    planned_wall: Spread
    actual_wall: float | None
    basis: Basis

    @property
    def error(self) -> float:
        """How much more (or less) was planned, as a part of what it took."""
        return self.planned.median / self.actual - 1

    @property
    def covered(self) -> bool:
        """Whether the interval holds what it took."""
        return self.planned.low <= self.actual <= self.planned.high

    @property
    def wall_error(self) -> float | None:
        """As `error`, for the time on the clock."""
        return None if not self.actual_wall else self.planned_wall.median / self.actual_wall - 1


@dataclass(frozen=True)
class Backtest:
    """All of them.

    Attributes:
        replays: one for each finished study.
        skipped: the others, and why.
    """

    replays: tuple[Replay, ...]
    skipped: tuple[tuple[str, str], ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data, in seconds."""
        return {
            "studies": [
                {
                    "study": item.study,
                    "trials": item.trials,
                    "planned": item.planned.model_dump(),
                    "actual": item.actual,
                    "error": item.error,
                    "covered": item.covered,
                    "planned_wall": item.planned_wall.model_dump(),
                    "actual_wall": item.actual_wall,
                    "wall_error": item.wall_error,
                    "basis": item.basis,
                }
                for item in self.replays
            ],
            "within_15_percent": self.within,
            "covered": self.covered,
            "skipped": [{"study": name, "reason": reason} for name, reason in self.skipped],
        }

    @property
    def within(self) -> int:
        """Studies whose total hours were planned within `AIM`."""
        return sum(abs(replay.error) <= AIM for replay in self.replays)

    @property
    def covered(self) -> int:
        """Studies whose interval holds what they took."""
        return sum(replay.covered for replay in self.replays)


def backtest(
    results: Path, cluster: Cluster, kinds: Sequence[MachineKind], known: Knowledge, *, source: str = "the cluster file"
) -> Backtest:
    """Plan every finished study of a folder again.

    Args:
        results: the folder of one study or of several.
        cluster: where they ran; the trials at a time are those of each study's own log.
        kinds: its machines.
        known: what was measured, by these studies too.
        source: the cluster file, for messages.
    """
    replays, skipped = [], []
    for folder in studies_at(results):
        try:
            found = _replay(folder, cluster, kinds, known, source)
        except StudyError as error:
            found = error.what
        if isinstance(found, str):
            skipped.append((folder.name, found))
        else:
            replays.append(found)
    return Backtest(tuple(replays), tuple(skipped))


def _replay(
    folder: Path, cluster: Cluster, kinds: Sequence[MachineKind], known: Knowledge, source: str
) -> Replay | str:
    store = Store(folder)
    spec, stored = store.read_study(), store.load()
    queue = StudyQueue(spec, store.read_data_hash(), stored.rows)
    queue.next()  # lets a finished search name its winner
    progress = queue.progress()
    if progress.stored < progress.wanted:
        return f"it is not complete: {progress.stored} of {progress.wanted} trials are stored"
    if open_site(spec.site).data_hash != store.read_data_hash():
        return "its site has other data now"
    site, table = prepare(spec)
    plan = read_plan(folder)
    try:
        runs = runs_of(store.events)
    except (OSError, ValueError):
        runs = []
    slots = max((run.slots for run in runs), default=0)
    there = cluster
    if slots:
        most = slots_of(kinds, cluster.model_copy(update={"slots": None}), source=source)
        there = cluster.model_copy(update={"slots": min(slots, most)})
    if plan is not None and not isinstance(plan, str):
        there = there.model_copy(update={"trainer": plan.trainer})
    planner = Planner(spec, site, table, there, kinds, known.without(folder.name).observations, source=source)
    drawn = planner.draw()
    planned = planner.plan(drawn)
    keys = queue.known_keys()
    actual = sum(row["trial_seconds"] or 0.0 for key, row in stored.rows.items() if key in keys)
    if not 0 < actual < math.inf:
        return "its trials tell no seconds"
    wall = sum(run.wall_s + planned.beside_seconds * run.ended for run in runs) if runs else None
    return Replay(folder.name, planned.trials, planned.seconds, actual, planned.makespan_seconds, wall, planned.basis)
