"""What a study still has to run: wanted − stored. Optuna proposes candidates within a searched cell. No Ray here.

`StudyQueue` hands out trials and takes back rows. The Parquet rows are the truth: Optuna's journal is brought in line
with them at the start, and rebuilt from them when it is lost.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from models.settings import METHOD_SETTINGS
from study.selection import canonical, select_winner
from study.spec.expand import Cell, distinct, expand
from study.spec.model import FloatDomain, GridDomain, IntDomain, Search, Select, StudySpec
from study.spec.trial import Trial, canonical_json

__all__ = ["Progress", "StudyQueue", "Work"]

# A sampler on a discrete space repeats itself; after this many repeats in a row the space counts as exhausted.
MAX_REPEATS = 200


class Work(Enum):
    """What `StudyQueue.next` says when there is no trial to hand out."""

    LATER = "a running trial decides what comes next"
    NONE = "everything is handed out"


@dataclass
class Progress:
    """Counts of a study's trials.

    Attributes:
        wanted: trials that the spec asks for, as far as is known.
        stored: of these, in the store when the run began.
        running: handed out now.
        finished: states of the trials that this run finished.
    """

    wanted: int = 0
    stored: int = 0
    running: int = 0
    finished: Counter[str] = field(default_factory=Counter)


Rows = Mapping[str, Mapping[str, Any]]


class StudyQueue:
    """Hands out the trials of a study.

    Args:
        spec: the study.
        data_hash: identity of the site's data.
        rows: stored rows by key that count as finished.
        journal: Optuna's journal file; None keeps Optuna's studies in memory.
    """

    def __init__(
        self, spec: StudySpec, data_hash: str, rows: Mapping[str, dict[str, Any]], journal: Path | None = None
    ) -> None:
        self.rows: dict[str, dict[str, Any]] = dict(rows)
        self._live: dict[str, Trial] = {}
        self._finished: Counter[str] = Counter()
        storage = _open_journal(journal)
        cells = distinct(expand(spec))
        self._cells: list[_FixedCell | _SearchedCell] = [
            _FixedCell(cell, spec.seeds, data_hash)
            if cell.search is None
            else _SearchedCell(cell, cell.search, spec.seeds, spec.select, data_hash, storage, self.rows)
            for cell in cells
        ]
        self._initial = frozenset(self.rows)

    def next(self) -> Trial | Work:
        """The next trial to run, which is then expected back in `finish` or `lose`.

        Searched cells come first, because their repeats wait for their candidates; then the methods that take longest;
        reference rows come last.
        """
        later = False
        for cell in sorted(self._cells, key=lambda cell: cell.rank):
            found = cell.next(self.rows, self._live)
            if isinstance(found, Trial):
                self._live[found.key] = found
                return found
            later = later or found is Work.LATER
        return Work.LATER if later else Work.NONE

    def finish(self, row: dict[str, Any]) -> None:
        """Take the stored row of a trial that was handed out."""
        self._live.pop(row["key"], None)
        self.rows[row["key"]] = row
        self._finished[row["state"]] += 1
        for cell in self._cells:
            cell.settle(self.rows)

    def lose(self, key: str) -> None:
        """A trial that was handed out is gone without a row. It is not handed out again by this queue."""
        trial = self._live.pop(key, None)
        if trial is not None:
            self._finished["lost"] += 1
            for cell in self._cells:
                cell.forget(key)

    def progress(self) -> Progress:
        """Counts as of now. ``wanted`` is an estimate until every searched cell has chosen its winner."""
        keys = [set(cell.known_keys(self.rows)) for cell in self._cells]
        known = set().union(*keys)
        repeated = sum(map(len, keys)) - len(known)  # trials that cells share count once
        wanted = sum(cell.expected() for cell in self._cells) - repeated
        return Progress(wanted, len(known & self._initial), len(self._live), Counter(self._finished))

    def known_keys(self) -> set[str]:
        """Keys of all trials that the study is known to want by now."""
        return {key for cell in self._cells for key in cell.known_keys(self.rows)}

    def best(self) -> tuple[str, float] | None:
        """(cell label, validation RMSE) of the best finished trial of a trained method."""
        found = [
            (float(row["validation_rmse_m"]), cell.cell.label)
            for cell in self._cells
            if cell.cell.trained
            for key in cell.known_keys(self.rows)
            if (row := self.rows.get(key)) is not None
            and row["state"] == "done"
            and row["validation_rmse_m"] is not None
        ]
        if not found:
            return None
        value, label = min(found)
        return label, value


class _FixedCell:
    """A cell without a search: one trial for each seed."""

    def __init__(self, cell: Cell, seeds: int, data_hash: str) -> None:
        self.cell = cell
        # The longest first: what runs last should not leave the other slots idle for long.
        settings = METHOD_SETTINGS[cell.method]
        self.rank = 4 - settings.trained - settings.adapts
        self._trials = {trial.key: trial for trial in cell.trials(seeds, data_hash)}
        self._lost: set[str] = set()

    def next(self, rows: Rows, live: Mapping[str, Trial]) -> Trial | Work:
        for key, trial in self._trials.items():
            if key not in rows and key not in live and key not in self._lost:
                return trial
        return Work.NONE

    def settle(self, rows: Rows) -> None:
        """Nothing follows from a result."""

    def forget(self, key: str) -> None:
        self._lost.add(key)

    def expected(self) -> int:
        return len(self._trials)

    def known_keys(self, rows: Rows) -> Iterable[str]:
        return self._trials


class _SearchedCell:
    """A cell with a search: candidates from Optuna, then the winner's repeats.

    One Optuna trial is one candidate; its value is the mean of the selection metric over the search seeds.
    """

    rank = 1

    def __init__(
        self,
        cell: Cell,
        search: Search,
        seeds: int,
        select: Select,
        data_hash: str,
        storage: optuna.storages.BaseStorage,
        rows: Rows,
    ) -> None:
        self.cell, self._search, self._seeds, self._select, self._hash = cell, search, seeds, select, data_hash
        self._space = {path: _distribution(domain) for path, domain in search.space.items()}
        self._candidates: dict[str, _Candidate] = {}  # by canonical values
        self._lost: set[str] = set()
        self._exhausted = False
        self._winner: list[Trial] | None = None
        self._leader: list[Trial] | None = None  # trials of the best by now; None after a candidate has finished
        self._grid = self._points() if search.sampler == "grid" else None
        self._optuna = optuna.create_study(
            study_name=f"{cell.label} [{_space_label(search)}]",
            storage=storage,
            sampler=_sampler(search),
            direction="minimize" if select.direction == "min" else "maximize",
            load_if_exists=True,
        )
        self._align(rows)
        self.settle(rows)

    # --- handing out ---

    def next(self, rows: Rows, live: Mapping[str, Trial]) -> Trial | Work:
        for candidate in self._candidates.values():
            for trial in candidate.trials:
                if trial.key not in rows and trial.key not in live and trial.key not in self._lost:
                    return trial
        if self._propose(rows) is not None:
            return self.next(rows, live)
        if any(not candidate.told for candidate in self._candidates.values()):
            return Work.LATER
        for trial in self._repeats(rows):
            if trial.key not in rows and trial.key not in live and trial.key not in self._lost:
                return trial
        return Work.NONE

    def _propose(self, rows: Rows) -> _Candidate | None:
        """A new candidate, or None when the search has all it asked for."""
        if len(self._candidates) >= self._search.points() or self._exhausted:
            return None
        if self._grid is not None:
            for values in self._grid:
                if canonical(values) not in self._candidates:
                    self._optuna.enqueue_trial(values)
                    return self._add(values, self._optuna.ask(self._space).number, rows)
            self._exhausted = True
            return None
        for _ in range(MAX_REPEATS):
            trial = self._optuna.ask(self._space)
            values = _rounded(trial.params)
            known = self._candidates.get(canonical(values))
            if known is None:
                return self._add(values, trial.number, rows)
            # The sampler repeats itself: tell it what is known, and ask for another.
            value = known.value(rows, self._select)
            if value is None:
                self._optuna.tell(trial.number, state=TrialState.FAIL)
            else:
                self._optuna.tell(trial.number, value)
        self._exhausted = True
        return None

    def _add(self, values: dict[str, Any], number: int | None, rows: Rows) -> _Candidate:
        candidate = _Candidate(values, self.cell.trials(self._search.seeds, self._hash, values), number)
        self._candidates[canonical(values)] = candidate
        self._tell(candidate, rows)
        return candidate

    # --- taking back ---

    def settle(self, rows: Rows) -> None:
        """Tell Optuna about candidates whose trials are all finished."""
        for candidate in self._candidates.values():
            self._tell(candidate, rows)

    def _tell(self, candidate: _Candidate, rows: Rows) -> None:
        if candidate.told or not all(trial.key in rows or trial.key in self._lost for trial in candidate.trials):
            return
        candidate.told = True
        self._leader = None
        if candidate.number is None:
            return
        value = candidate.value(rows, self._select)
        if value is None:
            self._optuna.tell(candidate.number, state=TrialState.FAIL)
        else:
            self._optuna.tell(candidate.number, value)

    def forget(self, key: str) -> None:
        self._lost.add(key)

    def _repeats(self, rows: Rows) -> list[Trial]:
        """The winner's trials on all seeds; none without a winner. Called when every candidate is finished."""
        if self._winner is None:
            self._winner = self._trials_of_the_best(rows)
        return self._winner

    def _trials_of_the_best(self, rows: Rows) -> list[Trial]:
        """Trials on all seeds of the candidate that is best by now."""
        keys = {trial.key for candidate in self._candidates.values() for trial in candidate.trials}
        winner = select_winner(
            [rows[key] for key in keys if key in rows],
            list(self._search.space),
            self._select.metric,
            self._select.direction,
            self._search.seeds,
        )
        return [] if winner is None else self.cell.trials(self._seeds, self._hash, dict(winner.values))

    # --- counts ---

    def expected(self) -> int:
        tried = len(self._candidates)
        candidates = tried if self._exhausted else max(tried, self._search.points())
        return candidates * self._search.seeds + max(0, self._seeds - self._search.seeds)

    def known_keys(self, rows: Rows) -> Iterable[str]:
        found = {trial.key for candidate in self._candidates.values() for trial in candidate.trials}
        if self._winner is not None:
            return found | {trial.key for trial in self._winner}
        # Until the search has ended, stored repeats belong to the candidate that is best so far, as in the report.
        if self._leader is None:
            self._leader = self._trials_of_the_best(rows)
        return found | {trial.key for trial in self._leader if trial.key in rows}

    # --- the journal and the store ---

    def _align(self, rows: Rows) -> None:
        """Bring Optuna's study in line with the store.

        Candidates of the store that Optuna does not know are added to it. Optuna's unfinished trials belong to a driver
        that is gone: they are closed, and handed out again as new ones.
        """
        told: set[str] = set()
        again: list[dict[str, Any]] = []
        for trial in self._optuna.get_trials(deepcopy=False):
            if set(trial.params) != set(self._space):
                if not trial.state.is_finished():
                    self._optuna.tell(trial.number, state=TrialState.FAIL)
                continue
            values = _rounded(trial.params)
            if trial.state.is_finished():
                if trial.state == TrialState.COMPLETE:
                    told.add(canonical(values))
            else:
                self._optuna.tell(trial.number, state=TrialState.FAIL)
                again.append(values)
        for values in self.cell.stored_candidates(rows.values(), self._hash):
            candidate = self._add(values, None, rows)
            value = candidate.value(rows, self._select)
            if candidate.told and value is not None and canonical(values) not in told:
                self._optuna.add_trial(optuna.trial.create_trial(params=values, distributions=self._space, value=value))
        for values in again:
            if canonical(values) not in self._candidates and self._search.contains(values):
                self._optuna.enqueue_trial(values)
                self._add(values, self._optuna.ask(self._space).number, rows)

    def _points(self) -> list[dict[str, Any]]:
        points: list[dict[str, Any]] = [{}]
        for path, domain in self._search.space.items():
            points = [{**point, path: value} for point in points for value in domain.values() or []]
        return points


@dataclass
class _Candidate:
    """One combination of searched values.

    Attributes:
        values: key path → value.
        trials: one for each search seed.
        number: Optuna's trial; None for a candidate that was in the store before.
        told: its trials are finished, and Optuna knows.
    """

    values: dict[str, Any]
    trials: list[Trial]
    number: int | None
    told: bool = False

    def value(self, rows: Rows, select: Select) -> float | None:
        """Mean of the selection metric over the search seeds; None if a trial is missing, failed or diverged."""
        scores = []
        for trial in self.trials:
            row = rows.get(trial.key)
            score = row.get(select.column) if row is not None and row["state"] == "done" else None
            if score is None or not math.isfinite(score):
                return None
            scores.append(float(score))
        return math.fsum(scores) / len(scores)


def _open_journal(path: Path | None) -> optuna.storages.BaseStorage:
    # Optuna's own log lines would run into the progress display.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if path is None:
        return optuna.storages.InMemoryStorage()
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.storages.JournalStorage(backend)


def _sampler(search: Search) -> optuna.samplers.BaseSampler:
    if search.sampler == "tpe":
        # constant_liar: trials run side by side, and must not all go to the same place.
        return optuna.samplers.TPESampler(seed=search.sampler_seed, constant_liar=True, n_startup_trials=5)
    return optuna.samplers.RandomSampler(seed=search.sampler_seed)


def _distribution(domain: Any) -> BaseDistribution:
    if isinstance(domain, GridDomain):
        values = domain.values()
        low, step = values[0], domain.grid[2]
        return FloatDistribution(low, values[-1], step=step) if len(values) > 1 else CategoricalDistribution(values)
    if isinstance(domain, FloatDomain):
        return FloatDistribution(*domain.bounds, log=domain.log)
    if isinstance(domain, IntDomain):
        return IntDistribution(*domain.bounds, log=domain.log)
    return CategoricalDistribution(list(domain.choices))


def _rounded(params: Mapping[str, Any]) -> dict[str, Any]:
    """Optuna's float grids give 0.30000000000000004 for 0.3, which would be another configuration."""
    return {key: float(f"{value:.12g}") if isinstance(value, float) else value for key, value in params.items()}


def _space_label(search: Search) -> str:
    # A changed space is another Optuna study: its distributions would not fit the old one.
    return canonical_json({path: domain.model_dump(by_alias=True) for path, domain in search.space.items()})
