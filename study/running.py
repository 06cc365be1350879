"""From a spec to a finished results folder: run = wanted − stored."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from study.data.path_table import CONDITIONS, PathTable
from study.data.site import Site, open_site
from study.data.split import Split
from study.data.summary import power_beyond_window
from study.errors import ConfigurationError, ResultsError, SpecError
from study.locking import Owner
from study.observers import RunObserver, running_trials
from study.provenance import Provenance
from study.result_files import unwritable
from study.spec.expand import Cell, expand
from study.spec.model import StudySpec
from study.spec.trial import Trial
from study.store import Damaged, Store, StoredTrials

if TYPE_CHECKING:  # imported by the functions that use them: `study validate` does without
    from cluster.model import Cluster
    from study.search import CellProgress, Progress, StudyQueue

__all__ = [
    "RETRIED_STATES",
    "RunLimit",
    "RunPlan",
    "RunSummary",
    "SplitSize",
    "StudyStatus",
    "delay_windows",
    "plan_run",
    "prepare",
    "run_study",
    "split_sizes",
    "study_status",
]

# Stored trials that run again when they are asked to; one that is done has nothing to try again.
RETRIED_STATES = ("failed", "out_of_memory", "diverged", "pruned")
_FAILURES = ("failed", "out_of_memory", "diverged")


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        location: the results folder, or its URI.
        progress: counts at the end.
        stopped: it was asked to stop before all was done.
        outside: stored trials that the spec, as it is now, does not ask for.
        limit: the limit at which it handed out no more trials, in words; None where it did not come to one.
    """

    location: str
    progress: Progress
    stopped: bool
    outside: int
    limit: str | None = None

    @property
    def executed(self) -> int:
        """Trials that this run finished."""
        return sum(count for state, count in self.progress.finished.items() if state != "lost")


@dataclass
class RunLimit:
    """What a run may take. At the limit no further trial is handed out; those that run come to their end.

    Attributes:
        hours: on the clock, from the run's start.
        cost: money, at a rate per hour.
        rate_per_hour: what all machines cost.
        currency: of both.
        reached: the limit that was reached, in words.
    """

    hours: float | None = None
    cost: float | None = None
    rate_per_hour: float | None = None
    currency: str | None = None
    reached: str | None = None
    _began: float = field(default_factory=time.monotonic, repr=False)

    @property
    def is_set(self) -> bool:
        """Whether there is any."""
        return self.hours is not None or self.cost is not None

    def start(self) -> None:
        """The time counts from now."""
        self._began = time.monotonic()

    def allows_more(self) -> bool:
        """Whether another trial may be handed out."""
        hours = (time.monotonic() - self._began) / 3600
        if self.hours is not None and hours >= self.hours:
            self.reached = self.reached or f"--max-hours {self.hours:g}"
        if self.cost is not None and self.rate_per_hour is not None and hours * self.rate_per_hour >= self.cost:
            self.reached = self.reached or f"--max-cost {self.cost:g} {self.currency or ''}".rstrip()
        return self.reached is None


def prepare(spec: StudySpec) -> tuple[Site, PathTable]:
    """Open the site of a study, check the study against it and read the paths it needs; nothing is started or written.

    Returns:
        The site, and the paths of the scenes that some cell uses.

    Raises:
        DataError: the site is unknown, or its path table is damaged.
        SpecError: a cell, with one of its searched values, does not fit its network, or asks for more scenes, positions
            or paths than the site has; the message names the cell.
    """
    site = open_site(spec.site)
    name = f"site {site.name!r}"
    scenes: set[int] = set()
    splits: dict[Split, Cell] = {}
    for cell in expand(spec):
        with _blaming(cell):
            for config in cell.configurations():
                config.check_input()
                config.system.check_paths(site.max_paths, name)
                if config.split not in splits:
                    scenes.update(*config.split.scenes(site.scenes, name))
                    splits[config.split] = cell
    # A damaged table is one message here, and a failure of every trial later.
    table = site.read_paths(scenes)
    for split, cell in splits.items():
        with _blaming(cell):
            split.parts(site.scenes, table.position_m, name)
    return site, table


@contextmanager
def _blaming(cell: Cell) -> Iterator[None]:
    """Errors of a configuration as errors of the spec that name its cell."""
    try:
        yield
    except ConfigurationError as error:
        raise SpecError(
            f"{error.what} (cell {cell.label!r})", where=error.where, allowed=error.allowed, fix=error.fix
        ) from None


@dataclass(frozen=True)
class SplitSize:
    """What a split takes from a site.

    Attributes:
        words: the split in words.
        parts: name of a part → (scenes, positions, samples of each condition in the order of `CONDITIONS`).
    """

    words: str
    parts: dict[str, tuple[int, int, tuple[int, ...]]]


def split_sizes(cells: Iterable[Cell], table: PathTable, scenes: int) -> list[SplitSize]:
    """Sizes of the splits of a study, in the order of its cells."""
    sizes: dict[Split, SplitSize] = {}
    for cell in cells:
        for config in cell.configurations():
            if config.split in sizes:
                continue
            found = {}
            parts = config.split.parts(scenes, table.position_m)
            for name, part in (("training", parts.source), ("validation", parts.validation), ("test", parts.test)):
                rows = np.searchsorted(table.scene, sorted(part.scenes))
                counted = np.bincount(table.condition[rows][:, part.positions].ravel(), minlength=len(CONDITIONS))
                found[name] = (len(part.scenes), len(part.positions), tuple(counted.tolist()))
            sizes[config.split] = SplitSize(config.split.describe(), found)
    return list(sizes.values())


def delay_windows(cells: Iterable[Cell], table: PathTable) -> list[tuple[int, float, float]]:
    """(subcarriers, bandwidth in MHz, mean share of power beyond the delay window) of each system of a study."""
    systems = dict.fromkeys(
        (config.system.subcarriers, config.system.bandwidth_mhz) for cell in cells for config in cell.configurations()
    )
    return [(n, mhz, float(power_beyond_window(table, n, mhz * 1e6).mean())) for n, mhz in systems]


def run_study(
    spec: StudySpec,
    cluster: Cluster,
    store: Store,
    observer: RunObserver,
    *,
    cluster_source: str = "the cluster file",
    retry: Collection[str] = (),
    search_path: Sequence[str] = (),
    checkpoints: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    should_stop: Callable[[], bool] = lambda: False,
    limit: RunLimit | None = None,
    before: Callable[[Site, PathTable], AbstractContextManager[object]] = lambda site, table: nullcontext(),
) -> RunSummary:
    """Run what the spec wants and the store does not hold yet.

    Args:
        spec: the study.
        cluster: where to run.
        store: the results folder, or the mirror of one elsewhere.
        observer: told what happens.
        cluster_source: the cluster file, for messages.
        retry: states whose stored trials run again, of `RETRIED_STATES`.
        search_path: folders in which trial processes look for a user's own methods.
        checkpoints: folder or URI for the checkpoints of Ray Train trials; in the store's folder by default.
        say: told what the user may want to know of the cluster: machines that are waited for, the dashboard's address.
        should_stop: asked often; True ends the run cleanly.
        limit: what the run may take: no trial is handed out after it.
        before: entered before Ray starts, and left when the trials have ended: what is to be known or done meanwhile.

    Raises:
        StudyError: the site, the cluster or the folder cannot be used; nothing was started then.
    """
    from cluster.check import check_local, slots, this_machine

    site, table = prepare(spec)
    check_local(cluster, source=cluster_source)
    described = spec.model_dump(mode="json", by_alias=True)
    provenance = Provenance.here(described)
    # Before anything is written: a folder of another study stays as it is.
    _check_owner(store, described, site)
    with store.locked():
        _check_owner(store, described, site)
        store.write_site(
            {"name": site.name, "folder": str(site.folder.resolve()), "data_hash": site.data_hash, **site.metadata}
        )
        store.write_spec(described)  # after the site: a folder with a study.yaml says which data its trials are of
        stored = store.load()
        observer.damaged_files(stored.damaged)
        queue = _open_queue(spec, site.data_hash, stored, retry, store, observer)
        first = queue.next()
        if not isinstance(first, Trial):
            return _summary(store, queue, stored, stopped=False)
        from study.engine.run import execute  # Ray starts only when something has to run

        cells = expand(spec)

        def started(at_once: int) -> None:
            observer.run_started(queue, cells, at_once)

        here = cluster.address == "local"
        if here:  # known before Ray has started, which takes some seconds
            started(slots(cluster, cluster.cpus or this_machine().cpus, cluster.gpus, source=cluster_source))
        stopped = True
        limit = limit or RunLimit()
        limit.start()
        try:
            with before(site, table):
                del table
                stopped = execute(
                    queue,
                    first,
                    store,
                    site,
                    cluster,
                    provenance,
                    observer,
                    should_stop,
                    checkpoints=str((store.folder / "checkpoints").resolve()) if checkpoints is None else checkpoints,
                    search_path=search_path,
                    source=cluster_source,
                    on_connected=(lambda at_once: None) if here else started,
                    say=say,
                    limit=limit,
                )
        finally:
            observer.run_ended(stopped)
        return _summary(store, queue, stored, stopped, limit.reached)


@dataclass(frozen=True)
class RunPlan:
    """What a run would do.

    Attributes:
        cells: each cell with its wanted and stored trials.
        wanted: trials of the study, as far as is known; those that cells share count once.
        stored: those of them that would not run.
        retried: stored trials that would run again.
        outside: stored trials that the spec does not ask for.
        damaged: files that cannot be read.
    """

    cells: list[CellProgress]
    wanted: int
    stored: int
    retried: int
    outside: int
    damaged: list[Damaged]

    @property
    def to_run(self) -> int:
        """Trials that would run."""
        return self.wanted - self.stored


def plan_run(spec: StudySpec, cluster: Cluster, store: Store, *, retry: Collection[str] = ()) -> RunPlan:
    """What `run_study` would do now. Nothing is started, written or locked.

    Raises:
        StudyError: as `run_study`, as far as that is known without Ray.
    """
    from cluster.check import check_local
    from study.search import StudyQueue

    site, _ = prepare(spec)
    check_local(cluster)
    _check_owner(store, spec.model_dump(mode="json", by_alias=True), site)
    stored = store.load()
    rows, retried = _split(stored, retry)
    queue = StudyQueue(spec, site.data_hash, rows, epochs=_epochs_in(store), retried=retried)
    queue.next()  # lets a finished search name its winner
    progress = queue.progress()
    return RunPlan(
        queue.cells(),
        progress.wanted,
        progress.stored,
        len(retried.keys() & queue.known_keys()),
        len(stored.rows.keys() - queue.known_keys()),
        stored.damaged,
    )


def _split(stored: StoredTrials, retry: Collection[str]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The rows that count as finished, and those of trials that run again."""
    retried = {key: row for key, row in stored.rows.items() if row["state"] in retry}
    return {key: row for key, row in stored.rows.items() if key not in retried}, retried


def _summary(
    store: Store, queue: StudyQueue, stored: StoredTrials, stopped: bool, limit: str | None = None
) -> RunSummary:
    outside = len(set(stored.rows) - queue.known_keys())
    return RunSummary(store.location, queue.progress(), stopped, outside, limit)


def _epochs_in(store: Store) -> Callable[[str], Mapping[str, list[Any]] | None]:
    def epochs(key: str) -> Mapping[str, list[Any]] | None:
        table = store.read_epochs(key)
        return None if table is None or isinstance(table, Damaged) else table.to_pydict()

    return epochs


def _open_queue(
    spec: StudySpec,
    data_hash: str,
    stored: StoredTrials,
    retry: Collection[str],
    store: Store,
    observer: RunObserver,
) -> StudyQueue:
    """The queue, with Optuna's journal or, where that is damaged, with a new one: the rows hold all it said."""
    from study.search import StudyQueue

    journal = store.journal
    rows, retried = _split(stored, retry)
    try:
        if journal.is_symlink() or (journal.exists() and not journal.is_file()):
            raise ValueError("it is no plain file")
        return StudyQueue(spec, data_hash, rows, journal, _epochs_in(store), retried)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError, OSError) as error:
        # What Optuna raises depends on where its file is broken. A defect of ours would be raised again below.
        if not (journal.exists() or journal.is_symlink()):
            raise
        damaged = journal.with_name(f"{journal.name}.damaged")
        observer.damaged_files([Damaged(journal, f"{type(error).__name__}; kept as {damaged.name} and rebuilt")])
        try:
            journal.replace(damaged)
            return StudyQueue(spec, data_hash, rows, journal, _epochs_in(store), retried)
        except OSError as failure:
            raise unwritable(journal, failure) from None


def _check_owner(store: Store, described: dict[str, Any], site: Site) -> None:
    """Whether a results folder is new or belongs to this study: the same name, base values and data.

    Axes, searches and seeds may grow: trials are found by their content. Other base values would mix two studies in
    one report.
    """
    before = store.read_spec()
    if before is None:
        return
    # A lost site.json is written anew: the keys of the trials hold their data.
    known_site = store.read_site() or {"data_hash": site.data_hash}
    differences = [
        f"{path}: {_short(old)} there, {_short(new)} here"
        for path, old, new in _differences(
            {"study": before.get("study"), "base": before.get("base"), "data_hash": known_site.get("data_hash")},
            {"study": described["study"], "base": described["base"], "data_hash": site.data_hash},
        )
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise ResultsError(
            f"the results folder belongs to another spec ({'; '.join(differences[:3])}{more})",
            where=str(store.folder),
            allowed="a folder that is new or belongs to this study; axes, searches and seeds may change, "
            "the study's name, base values and data may not",
            fix="choose another folder with --results, or give the changed study another name",
        )


def _differences(old: Any, new: Any, path: str = "") -> Iterable[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, old, new


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 20 else text[:17] + "…"


@dataclass(frozen=True)
class StudyStatus:
    """What is known about a results folder without running anything.

    Attributes:
        study: its name.
        location: the results folder, or its URI.
        wanted: trials of the spec, as far as is known.
        cells: each cell with its wanted and stored trials.
        states: how many stored trials of the spec have each state.
        owner: who runs the study now; None when nobody does.
        running: its events of the trials that have a process now, with the epoch that they last told of.
        damaged: files that cannot be read.
        best: (cell label, validation RMSE in metres) of the best finished trial of a network.
        failed: rows of the spec's trials that failed, ran out of memory or diverged, latest first.
    """

    study: str
    location: str
    wanted: int
    cells: list[CellProgress] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    owner: Owner | None = None
    running: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)
    best: tuple[str, float] | None = None
    failed: list[Mapping[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "study": self.study,
            "folder": self.location,
            "running": self.owner is not None,
            "owner": None if self.owner is None else {"host": self.owner.host, "pid": self.owner.pid},
            "running_trials": self.running,
            "wanted": self.wanted,
            "stored": sum(self.states.values()),
            "states": dict(self.states),
            "cells": [asdict(cell) for cell in self.cells],
            "failed": [
                {name: row[name] for name in ("key", "method", "seed", "state", "error")} for row in self.failed
            ],
            "damaged": [{"file": str(item.path), "reason": item.reason} for item in self.damaged],
            "best": None if self.best is None else {"cell": self.best[0], "validation_rmse_m": self.best[1]},
        }


def study_status(store: Store) -> StudyStatus:
    """Read the state of a study from its results folder.

    Raises:
        ResultsError: there is no study, or its study.yaml or site.json is damaged.
    """
    from study.search import StudyQueue

    spec, stored = store.read_study(), store.load()
    queue = StudyQueue(spec, store.read_data_hash() if stored.rows else "", stored.rows, epochs=_epochs_in(store))
    queue.next()  # lets a finished search name its winner
    keys, owner = queue.known_keys(), store.owner()
    return StudyStatus(
        study=spec.study,
        location=store.location,
        wanted=queue.progress().wanted,
        cells=queue.cells(),
        states=Counter(row["state"] for key, row in stored.rows.items() if key in keys),
        owner=owner,
        running=[] if owner is None else running_trials(store.events),
        damaged=stored.damaged,
        best=queue.best(),
        failed=sorted(
            (row for key, row in stored.rows.items() if key in keys and row["state"] in _FAILURES),
            key=lambda row: str(row["started_at"]),
            reverse=True,
        ),
    )
