"""What a study still has to run: wanted − stored. Optuna proposes candidates within a searched cell. No Ray here.

`StudyQueue` hands out trials and takes back rows. The Parquet rows are the truth: Optuna's journal is brought in line
with them at the start, and rebuilt from them when it is lost.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from study.selection import can_win, canonical, select_winner
from study.spec.expand import Cell, StoredRows, distinct, expand
from study.spec.model import EarlyStopping, FloatDomain, GridDomain, IntDomain, Search, Select, StudySpec
from study.spec.trial import Trial, canonical_json

__all__ = ["CellProgress", "Progress", "StudyQueue", "Work"]

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


@dataclass(frozen=True)
class CellProgress:
    """How far a cell is.

    Attributes:
        label: the cell in words.
        wanted: trials that it asks for, as far as is known.
        stored: those of them that are stored.
    """

    label: str
    wanted: int
    stored: int


Rows = Mapping[str, Mapping[str, Any]]
Epochs = Callable[[str], Mapping[str, list[Any]] | None]


class StudyQueue:
    """Hands out the trials of a study.

    Args:
        spec: the study.
        data_hash: identity of the site's data.
        rows: stored rows by key that count as finished.
        journal: Optuna's journal file; None keeps Optuna's studies in memory.
        epochs: gives the stored epochs of a trial by its key, as columns; asked only for candidates of a search with
            early stopping that the journal does not know.
        retried: stored rows that do not count as finished: their trials run again, as candidates of their searches.
    """

    def __init__(
        self,
        spec: StudySpec,
        data_hash: str,
        rows: Mapping[str, dict[str, Any]],
        journal: Path | None = None,
        epochs: Epochs = lambda key: None,
        retried: Rows = MappingProxyType({}),
    ) -> None:
        self.rows: dict[str, dict[str, Any]] = dict(rows)
        self._live: dict[str, Trial] = {}
        self._finished: Counter[str] = Counter()
        storage = _open_journal(journal)
        cells = distinct(expand(spec))
        found = StoredRows([*self.rows.values(), *retried.values()] if spec.search else ())
        self._tally = tally = _Tally(self.rows)
        self._cells: list[_FixedCell | _SearchedCell] = [
            _FixedCell(cell, spec.seeds, data_hash)
            if cell.search is None
            else _SearchedCell(
                cell, cell.search, spec.seeds, spec.select, data_hash, storage, self.rows, epochs, found, tally
            )
            for cell in cells
        ]
        for cell in self._cells:
            if isinstance(cell, _FixedCell):
                for key in cell.known_keys(self.rows):
                    tally.add(key, cell.has_stored(key, self.rows))
        self._cells.sort(key=lambda cell: cell.rank)
        self._active = list(self._cells)  # those that may still have a trial to hand out
        self._searches = [cell for cell in self._cells if isinstance(cell, _SearchedCell)]
        self._searched: dict[str, _SearchedCell] = {}  # trial key → the search that proposed it
        self._best: tuple[str, float] | Literal["unknown"] | None = "unknown"

    def next(self) -> Trial | Work:
        """The next trial to run, which is then expected back in `finish` or `lose`.

        Searched cells come first, because their repeats wait for their candidates; then the methods that take longest;
        reference rows come last.
        """
        later = False
        for cell in list(self._active):
            found = cell.next(self.rows, self._live)
            if isinstance(found, Trial):
                self._live[found.key] = found
                if isinstance(cell, _SearchedCell):
                    self._searched[found.key] = cell
                return found
            later = later or found is Work.LATER
            if found is Work.NONE:  # nothing comes after that
                self._active.remove(cell)
        return Work.LATER if later else Work.NONE

    def search_seed(self, key: str) -> int | None:
        """The sampler's seed of the search that handed a trial out; None for other trials."""
        cell = self._searched.get(key)
        return None if cell is None else cell.sampler_seed

    def competes(self, key: str) -> bool:
        """Whether a trial that was handed out may be stopped early: its epochs are then told to `falls_behind`."""
        cell = self._searched.get(key)
        return cell is not None and cell.competes(key)

    def falls_behind(self, key: str, epochs: Mapping[str, list[Any]]) -> bool:
        """Take the epochs of a running trial, all of them so far; whether it is to be stopped.

        Args:
            key: the trial.
            epochs: columns of the epoch table.
        """
        cell = self._searched.get(key)
        return cell is not None and cell.falls_behind(key, epochs)

    def finish(self, row: dict[str, Any]) -> None:
        """Take the stored row of a trial that was handed out."""
        self._live.pop(row["key"], None)
        self._tally.finished(row["key"])
        self.rows[row["key"]] = row
        self._finished[row["state"]] += 1
        self._best = "unknown"
        for cell in self._searches:
            cell.settle(self.rows)

    def lose(self, key: str) -> None:
        """A trial that was handed out is gone without a row. It is not handed out again by this queue."""
        trial = self._live.pop(key, None)
        if trial is not None:
            self._finished["lost"] += 1
            for cell in self._cells:
                cell.forget(key)
            for search in self._searches:
                search.settle(self.rows)  # it may have been what a candidate waited for

    def progress(self) -> Progress:
        """Counts as of now. ``wanted`` is an estimate until every searched cell has chosen its winner."""
        tally = self._tally
        repeats: dict[str, bool] = {}  # key → whether it is stored as every search wants it
        for cell in self._searches:
            for trial in cell.known_repeats(self.rows):
                repeats[trial.key] = repeats.get(trial.key, True) and cell.has_stored(trial.key, self.rows)
        # Trials that cells share count once; those that a search has not proposed yet are known by number alone.
        unknown = sum(cell.unknown(self.rows) for cell in self._searches)
        wanted = len(tally.known) + len(repeats.keys() - tally.known) + unknown
        stored = tally.stored_with(repeats)
        return Progress(wanted, stored, len(self._live), Counter(self._finished))

    def cells(self) -> list[CellProgress]:
        """Each cell by itself; trials that cells share count in each of them."""
        return [
            CellProgress(
                cell.cell.label,
                cell.expected(self.rows),
                sum(cell.has_stored(key, self.rows) for key in set(cell.known_keys(self.rows))),
            )
            for cell in self._cells
        ]

    def known_keys(self) -> set[str]:
        """Keys of all trials that the study is known to want by now."""
        return {key for cell in self._cells for key in cell.known_keys(self.rows)}

    def best(self) -> tuple[str, float] | None:
        """(cell label, validation RMSE) of the best finished trial of a trained method."""
        if self._best != "unknown":
            return self._best
        found = [
            (float(row["validation_rmse_m"]), cell.cell.label)
            for cell in self._cells
            if cell.cell.trained
            for key in cell.known_keys(self.rows)
            if (row := self.rows.get(key)) is not None
            and row["state"] == "done"
            and row["validation_rmse_m"] is not None
            and math.isfinite(row["validation_rmse_m"])
        ]
        value, label = min(found, default=(0.0, ""))
        self._best = (label, value) if found else None
        return self._best


class _Tally:
    """The trials that a study is known to want, and those of them that were stored when the run began.

    Counted as they become known: a study of many thousands is asked for its progress after each trial.

    Attributes:
        known: keys of the trials that cells want, but for the repeats of searches, which change with their leaders.
    """

    def __init__(self, rows: Rows) -> None:
        self.known: set[str] = set()
        self._before = set(rows)  # but for those that have run again
        self._stored: set[str] = set()
        self._wanted_again: set[str] = set()  # stopped early, where some cell lets nothing compete

    def add(self, key: str, stored: bool) -> None:
        """A cell wants a trial, for which what is stored counts or not."""
        self.known.add(key)
        if key not in self._before or key in self._wanted_again:
            return
        if stored:
            self._stored.add(key)
        else:
            self._wanted_again.add(key)
            self._stored.discard(key)

    def finished(self, key: str) -> None:
        """A trial has run now, whatever was stored before."""
        self._before.discard(key)
        self._stored.discard(key)

    def stored_with(self, repeats: Mapping[str, bool]) -> int:
        """How many were stored, with more keys of which each is stored as it is wanted or not."""
        again = sum(key in self._stored for key, stored in repeats.items() if not stored)
        more = sum(key in self._before and key not in self.known for key, stored in repeats.items() if stored)
        return len(self._stored) - again + more


class _FixedCell:
    """A cell without a search: one trial for each seed."""

    def __init__(self, cell: Cell, seeds: int, data_hash: str) -> None:
        self.cell = cell
        # The longest first: what runs last should not leave the other slots idle for long.
        settings = cell.settings
        self.rank = 4 - settings.trained - settings.adapts
        self._trials = {trial.key: trial for trial in cell.trials(seeds, data_hash)}
        self._lost: set[str] = set()

    def next(self, rows: Rows, live: Mapping[str, Trial]) -> Trial | Work:
        for key, trial in self._trials.items():
            if not _is_whole(rows, key) and key not in live and key not in self._lost:
                return trial
        return Work.NONE

    def forget(self, key: str) -> None:
        self._lost.add(key)

    def expected(self, rows: Rows) -> int:
        return len(self._trials)

    def has_stored(self, key: str, rows: Rows) -> bool:
        return _is_whole(rows, key)

    def known_keys(self, rows: Rows) -> Iterable[str]:
        return self._trials


class _SearchedCell:
    """A cell with a search: candidates from Optuna, then the winner's repeats.

    One Optuna trial is one candidate; its value is the mean of the selection metric over the search seeds (NSGA-II: of
    RMSE and accuracy). With early stopping the first seed of a candidate competes, through Optuna's pruner of this
    cell's own study: candidates of other cells are unknown to it.
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
        epochs: Epochs,
        found: StoredRows,
        tally: _Tally,
    ) -> None:
        self.cell, self._search, self._seeds, self._select, self._hash = cell, search, seeds, select, data_hash
        self._space = {path: _distribution(domain) for path, domain in search.space.items()}
        self._tally, self._points = tally, search.points()
        self._candidates: dict[str, _Candidate] = {}  # by canonical values
        self._keys: set[str] = set()  # of their trials
        self._open: dict[str, _Candidate] = {}  # those of them that Optuna has not been told of
        self._lost: set[str] = set()
        self._fallen = 0  # candidates whose first trial was stopped early or failed, where that spares the others
        self._exhausted = False
        self._winner: list[Trial] | None = None
        self._leading: tuple[float, int] = (math.inf, 0)  # the best mean by now, the lower the better, and whose it is
        self._leader: list[Trial] = []  # trials of that candidate on all seeds
        self._grid = iter(self._grid_points()) if search.sampler == "grid" else None
        stored = cell.stored_candidates(found, data_hash)
        self._metrics = ("validation_rmse_m", "validation_accuracy") if search.sampler == "nsga2" else (select.column,)
        self._optuna = optuna.create_study(
            study_name=_study_name(cell, search, self._metrics),
            storage=storage,
            sampler=_sampler(search, len(stored)),
            pruner=_pruner(search.early_stopping),
            directions=["maximize" if metric == "validation_accuracy" else "minimize" for metric in self._metrics],
            load_if_exists=True,
        )
        self._align(stored, rows, epochs)
        self.settle(rows)

    @property
    def sampler_seed(self) -> int:
        return self._search.sampler_seed

    # --- handing out ---

    def next(self, rows: Rows, live: Mapping[str, Trial]) -> Trial | Work:
        for candidate in self._open.values():
            for trial in self._wanted(candidate, rows):
                if not self._is_finished(trial, rows) and trial.key not in live:
                    return trial
        if self._propose(rows) is not None:
            return self.next(rows, live)
        if self._open:
            return Work.LATER
        for trial in self._repeats(rows):
            if not _is_whole(rows, trial.key) and trial.key not in live and trial.key not in self._lost:
                return trial
        return Work.NONE

    def _wanted(self, candidate: _Candidate, rows: Rows) -> list[Trial]:
        """A candidate's trials as far as they are known to be wanted: one that falls behind needs no other seeds."""
        first = rows.get(candidate.trials[0].key)
        if self._search.early_stopping is not None and (first is None or first["state"] != "done"):
            return candidate.trials[:1]
        return candidate.trials

    def _is_finished(self, trial: Trial, rows: Rows) -> bool:
        return self.has_stored(trial.key, rows) or trial.key in self._lost

    def _propose(self, rows: Rows) -> _Candidate | None:
        """A new candidate, or None when the search has all it asked for."""
        if len(self._candidates) >= self._points or self._exhausted:
            return None
        if self._grid is not None:
            for values in self._grid:
                if canonical(values) not in self._candidates:
                    return self._ask_for(values, rows)
            self._exhausted = True
            return None
        for _ in range(MAX_REPEATS):
            trial = self._optuna.ask(self._space)
            values = _rounded(trial.params)
            known = self._candidates.get(canonical(values))
            if known is None:
                return self._add(values, trial, rows)
            # The sampler repeats itself: tell it what is known, and ask for another.
            self._tell_optuna(trial, known, rows)
        self._exhausted = True
        return None

    def _ask_for(self, values: dict[str, Any], rows: Rows) -> _Candidate:
        """A candidate with given values."""
        self._optuna.enqueue_trial(values)
        return self._add(values, self._optuna.ask(self._space), rows)

    def _add(self, values: dict[str, Any], trial: optuna.trial.Trial | None, rows: Rows) -> _Candidate:
        trials = self.cell.trials(self._search.seeds, self._hash, values)
        candidate = _Candidate(values, trials, trial, number=len(self._candidates))
        self._candidates[canonical(values)] = self._open[canonical(values)] = candidate
        for key in (item.key for item in trials):
            self._keys.add(key)
            self._tally.add(key, self.has_stored(key, rows))
        self._settle(candidate, rows)
        return candidate

    # --- early stopping ---

    def competes(self, key: str) -> bool:
        return self._search.early_stopping is not None and self._candidate_of(key) is not None

    def falls_behind(self, key: str, epochs: Mapping[str, list[Any]]) -> bool:
        candidate = self._candidate_of(key)
        if candidate is None or candidate.trial is None:
            return False
        return self._compete(candidate.trial, epochs, after=candidate.seen_epochs, seen=candidate)

    def _candidate_of(self, key: str) -> _Candidate | None:
        """The candidate whose first trial this is, while it is open."""
        return next((candidate for candidate in self._open.values() if candidate.trials[0].key == key), None)

    def _compete(
        self,
        trial: optuna.trial.Trial,
        epochs: Mapping[str, list[Any]],
        after: int = 0,
        seen: _Candidate | None = None,
    ) -> bool:
        """Tell the pruner of a trial's epochs later than ``after``, one by one, until it would stop it."""
        minimize = self._select.direction == "min"
        best: float | None = None
        for epoch, value in zip(epochs["epoch"], epochs[self._select.column], strict=True):
            if value is None or not math.isfinite(value):
                continue  # a trial that diverges says so itself
            best = value if best is None else min(best, value) if minimize else max(best, value)
            if epoch <= after:
                continue
            if seen is not None:
                seen.seen_epochs = epoch
            if self._is_rung(epoch):
                trial.report(best, epoch)
                if trial.should_prune():
                    return True
        return False

    def _is_rung(self, epoch: int) -> bool:
        """Whether anything is decided at an epoch; what is reported at others would only fill the journal."""
        rules = self._search.early_stopping
        assert rules is not None
        if rules.rule == "median":
            return True
        rung = rules.grace_epochs
        while rung < epoch:
            rung *= rules.reduction_factor
        return rung == epoch

    # --- taking back ---

    def settle(self, rows: Rows) -> None:
        """Tell Optuna about candidates whose trials are all finished."""
        for candidate in list(self._open.values()):
            self._settle(candidate, rows)

    def _settle(self, candidate: _Candidate, rows: Rows) -> None:
        if not all(self._is_finished(trial, rows) for trial in self._wanted(candidate, rows)):
            return
        del self._open[canonical(candidate.values)]
        self._lead(candidate, rows)
        first = rows.get(candidate.trials[0].key)
        self._fallen += self._search.early_stopping is not None and first is not None and first["state"] != "done"
        if candidate.trial is not None:
            self._tell_optuna(candidate.trial, candidate, rows)

    def _tell_optuna(self, trial: optuna.trial.Trial, candidate: _Candidate, rows: Rows) -> None:
        means = candidate.means(rows, self._metrics)
        first = rows.get(candidate.trials[0].key)
        if means is not None:
            self._optuna.tell(trial, means)
        elif first is not None and first["state"] == "pruned":
            self._optuna.tell(trial, state=TrialState.PRUNED)
        else:
            self._optuna.tell(trial, state=TrialState.FAIL)

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

    def _lead(self, candidate: _Candidate, rows: Rows) -> None:
        """Take a finished candidate for the leader if its mean is the best so far; cheaper than to choose a winner."""
        if not can_win(candidate.trials[0].config, self._select.metric):
            return
        mean = candidate.means(rows, (self._select.column,))
        sign = 1 if self._select.direction == "min" else -1
        if mean is not None and (found := (sign * mean[0], candidate.number)) < self._leading:
            self._leading = found
            self._leader = self.cell.trials(self._seeds, self._hash, dict(candidate.values))

    # --- counts ---

    def expected(self, rows: Rows) -> int:
        tried = len(self._candidates)
        candidates = tried if self._exhausted else max(tried, self._points)
        spared = self._fallen * (self._search.seeds - 1)
        return candidates * self._search.seeds - spared + max(0, self._seeds - self._search.seeds)

    def has_stored(self, key: str, rows: Rows) -> bool:
        return key in rows if self._search.early_stopping is not None else _is_whole(rows, key)

    def known_keys(self, rows: Rows) -> Iterable[str]:
        return self._keys.union(trial.key for trial in self.known_repeats(rows))

    def known_repeats(self, rows: Rows) -> list[Trial]:
        """The trials on all seeds of the winner, which are trials of a candidate in part.

        Until the search has ended, stored repeats belong to the candidate that is best so far, as in the report.
        """
        if self._winner is not None:
            return self._winner
        return [trial for trial in self._leader if trial.key in rows]

    def unknown(self, rows: Rows) -> int:
        """How many trials it asks for that are known by number alone."""
        return self.expected(rows) - len(self._keys) - sum(t.key not in self._keys for t in self.known_repeats(rows))

    # --- the journal and the store ---

    def _align(self, stored: Iterable[dict[str, Any]], rows: Rows, epochs: Epochs) -> None:
        """Bring Optuna's study in line with the store.

        Candidates of the store that Optuna does not know are told to it. Optuna's unfinished trials belong to a driver
        that is gone: they are closed, and handed out again as new ones.

        Args:
            stored: values of the candidates that the store has rows of.
            rows: the rows that count as finished.
            epochs: see `StudyQueue`.
        """
        told: set[str] = set()
        again: list[dict[str, Any]] = []
        for _ in self._optuna.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            # It was enqueued, and the driver died before it asked for it. A waiting one is what `ask` returns first.
            self._optuna.tell(self._optuna.ask(), state=TrialState.FAIL)
        for trial in self._optuna.get_trials(deepcopy=False):
            if set(trial.params) != set(self._space):
                if not trial.state.is_finished():
                    self._optuna.tell(trial.number, state=TrialState.FAIL)
                continue
            values = _rounded(trial.params)
            if trial.state.is_finished():
                if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                    told.add(canonical(values))
            else:
                self._optuna.tell(trial.number, state=TrialState.FAIL)
                again.append(values)
        for values in stored:
            candidate = self._add(values, None, rows)
            if canonical(values) in self._open:  # some of its trials are still wanted
                self._optuna.enqueue_trial(values)
                candidate.trial = self._optuna.ask(self._space)
            elif canonical(values) not in told:
                self._replay(candidate, rows, epochs)
        for values in again:
            if canonical(values) not in self._candidates and self._search.contains(values):
                self._ask_for(values, rows)

    def _replay(self, candidate: _Candidate, rows: Rows, epochs: Epochs) -> None:
        """Tell Optuna about a finished candidate as if it ran now, so that later ones have it to compete with."""
        first = candidate.trials[0].key
        pruned = first in rows and rows[first]["state"] == "pruned"
        if candidate.means(rows, self._metrics) is None and not pruned:
            return  # Optuna learns nothing from a failure
        self._optuna.enqueue_trial(candidate.values)
        trial = self._optuna.ask(self._space)
        if self._search.early_stopping is not None and (columns := epochs(first)) is not None:
            self._compete(trial, columns)
        self._tell_optuna(trial, candidate, rows)

    def _grid_points(self) -> list[dict[str, Any]]:
        points: list[dict[str, Any]] = [{}]
        for path, domain in self._search.space.items():
            points = [{**point, path: value} for point in points for value in domain.values() or []]
        return points


def _is_whole(rows: Rows, key: str) -> bool:
    """Whether a trial is stored and was not stopped early: where nothing competes, such a trial is still wanted."""
    row = rows.get(key)
    return row is not None and row["state"] != "pruned"


@dataclass
class _Candidate:
    """One combination of searched values.

    Attributes:
        values: key path → value.
        trials: one for each search seed.
        trial: Optuna's; None for a candidate that was finished before.
        number: how many came before it.
        seen_epochs: epochs of the first trial that the pruner knows.
    """

    values: dict[str, Any]
    trials: list[Trial]
    trial: optuna.trial.Trial | None
    number: int
    seen_epochs: int = 0

    def means(self, rows: Rows, metrics: Iterable[str]) -> list[float] | None:
        """Mean of each metric over the search seeds; None if a trial is missing, failed, diverged or pruned."""
        found = [rows.get(trial.key) for trial in self.trials]
        means = []
        for metric in metrics:
            scores = [row.get(metric) if row is not None and row["state"] == "done" else None for row in found]
            if any(score is None or not math.isfinite(score) for score in scores):
                return None
            means.append(math.fsum(float(score) for score in scores if score is not None) / len(scores))
        return means


def _open_journal(path: Path | None) -> optuna.storages.BaseStorage:
    # Optuna's own log lines would run into the progress display.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # It keeps lists and mappings as choices all the same.
    warnings.filterwarnings("ignore", message="Choices for a categorical distribution")
    if path is None:
        return optuna.storages.InMemoryStorage()
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.storages.JournalStorage(backend)


def _sampler(search: Search, stored: int) -> optuna.samplers.BaseSampler:
    """The sampler of a search that has so many candidates already: with the same seed it would draw them again."""
    seed = (search.sampler_seed + 1_000_003 * stored) % 2**32
    if search.sampler == "tpe":
        # constant_liar: trials run side by side, and must not all go to the same place.
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=5)
    if search.sampler == "nsga2":
        # Optuna's populations of 50 would leave a search of 30 candidates at random draws.
        population = max(4, min(50, search.points() // 4))
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=population)
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(rules: EarlyStopping | None) -> optuna.pruners.BasePruner:
    if rules is None:
        return optuna.pruners.NopPruner()
    if rules.rule == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=rules.grace_epochs, reduction_factor=rules.reduction_factor, min_early_stopping_rate=0
        )
    return optuna.pruners.MedianPruner(
        n_startup_trials=0, n_warmup_steps=rules.grace_epochs, n_min_trials=rules.min_candidates
    )


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


def _study_name(cell: Cell, search: Search, metrics: Iterable[str]) -> str:
    """The name of a cell's Optuna study; another space, sampler, metric or code of a user's method is another study."""
    space = canonical_json({path: domain.model_dump(by_alias=True) for path, domain in search.space.items()})
    user = cell.resolve().get("user_method")
    source = f" {user['source']}" if isinstance(user, dict) else ""
    return f"{cell.label} [{space}] {search.sampler} {' '.join(metrics)}{source}"
