"""Manually weighted against self-weighted: MDA at the best weights of a search, HDA with the weights it learned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.results import LAMBDA, Results, StudyCell, Trial, configuration_label
from reports.statistics import Interval, mean_interval
from study.selection import candidate_label, canonical, config_value, select_winner

__all__ = [
    "GAMMA",
    "WEIGHTS",
    "CellIndex",
    "Comparison",
    "Side",
    "SweepPoint",
    "compare",
    "interval_of",
    "seconds_of",
    "side_of",
    "spared_seconds",
]

GAMMA = "objective.gamma"
WEIGHTS = (LAMBDA, GAMMA)
_MANUAL, _LEARNED = "MDA", "HDA"


class CellIndex:
    """Finds the cells that belong to a system configuration: equal on every axis that the cell's method has.

    Args:
        cells: the cells, in the order in which they are found.
        without: key paths that are no part of a configuration.
    """

    def __init__(self, cells: Iterable[StudyCell], without: Sequence[str] = ()) -> None:
        # By the axes that a cell has: there are few such sets, however many cells.
        self._cells: dict[tuple[str, ...], dict[tuple[str, ...], list[tuple[int, StudyCell]]]] = {}
        for number, cell in enumerate(cells):
            settings = [(path, value) for path, value in cell.configuration(without) if value is not None]
            paths, values = tuple(path for path, _ in settings), tuple(canonical(value) for _, value in settings)
            self._cells.setdefault(paths, {}).setdefault(values, []).append((number, cell))

    def of(self, configuration: Iterable[tuple[str, Any]]) -> list[StudyCell]:
        """The cells of one configuration."""
        wanted = {path: canonical(value) for path, value in configuration}
        found = [
            entry
            for paths, by_values in self._cells.items()
            if wanted.keys() >= set(paths)
            for entry in by_values.get(tuple(wanted[path] for path in paths), ())
        ]
        return [cell for _, cell in sorted(found, key=lambda entry: entry[0])]


@dataclass(frozen=True)
class SweepPoint:
    """The trials of one candidate on the seeds that selected."""

    values: Mapping[str, Any]
    trials: tuple[Trial, ...]
    won: bool


@dataclass(frozen=True)
class Side:
    """One method in one system configuration.

    Attributes:
        method: the method's name.
        name: what the weights are: ``MDA, manual optimum``, ``MDA, fixed weights``, ``HDA, self-weighted``.
        reported: the trials that its numbers are made of: the winner's where weights were searched.
        spent: every trial that was needed to get there.
        sweep: the candidates, empty where nothing was searched.
        tuned: whether weights were searched.
        seeds: how many seeds the spec asks for.
        planned: how many trials the spec asks for.
        selecting: how many seeds every candidate is run with, 0 where nothing was searched.
        planned_candidates: how many candidates the spec asks for, 0 where nothing was searched.
    """

    method: str
    name: str
    reported: tuple[Trial, ...]
    spent: tuple[Trial, ...]
    sweep: tuple[SweepPoint, ...]
    tuned: bool
    seeds: int
    planned: int
    selecting: int = 0
    planned_candidates: int = 0

    @property
    def candidates(self) -> tuple[int, int] | None:
        """How many candidates were run, and how many are wanted; ``None`` where nothing was searched."""
        return (len(self.sweep), self.planned_candidates) if self.planned_candidates else None

    @property
    def complete(self) -> bool:
        """Whether every trial that the spec asks for is stored, whatever its end."""
        return len(self.spent) >= self.planned

    @property
    def done(self) -> tuple[Trial, ...]:
        """The reported trials that are done."""
        return tuple(trial for trial in self.reported if trial.state == "done")

    @property
    def training_seconds(self) -> float:
        """Training time of every trial that was needed."""
        return seconds_of(self.spent)

    @property
    def mixes(self) -> bool:
        """Whether any candidate learns both tasks: choosing between λ = 0 and λ = 1 alone is no choice of weights."""
        tried = [point.values[LAMBDA] for point in self.sweep if point.values.get(LAMBDA) is not None]
        return not tried or any(0 < value < 1 for value in tried)

    def weight(self, path: str) -> Any:
        """The value of a weight in the reported trials, ``None`` where there is none."""
        return config_value(self.reported[0].config, path) if self.reported else None


@dataclass(frozen=True)
class Comparison:
    """Both sides in one system configuration."""

    configuration: tuple[tuple[str, Any], ...]
    manual: Side | None
    learned: Side | None

    @property
    def label(self) -> str:
        """The configuration in words."""
        return configuration_label(self.configuration)

    @property
    def ratio(self) -> float | None:
        """Training time of the manual side over that of the learned side; ``None`` until both are complete."""
        if self.manual is None or self.learned is None or self.learned.training_seconds <= 0:
            return None
        # Half a search against half of the seeds would say nothing about the cost of either.
        if not (self.manual.complete and self.learned.complete):
            return None
        return self.manual.training_seconds / self.learned.training_seconds


def compare(results: Results) -> list[Comparison]:
    """One comparison for each system configuration that has MDA or HDA; weights on an axis count as a search.

    Axes that neither of the two reads make no configurations of their own.
    """
    ours = [cell for cell in results.cells if cell.method in (_MANUAL, _LEARNED)]
    read = {path for cell in ours for path, value in cell.axes.items() if value is not None}
    unread = [path for path in results.axes if path not in read]
    indices = [
        CellIndex((cell for cell in ours if cell.method == method), without=WEIGHTS) for method in (_MANUAL, _LEARNED)
    ]
    comparisons = []
    for configuration in results.configurations(without=(*WEIGHTS, *unread)):
        manual, learned = (side_of(results, index.of(configuration)) for index in indices)
        if manual is not None and not manual.mixes:
            manual = None
        if manual is not None or learned is not None:
            comparisons.append(Comparison(configuration, manual, learned))
    return comparisons


def interval_of(
    trials: Iterable[Trial], column: str, bounds: tuple[float, float] = (0.0, float("inf"))
) -> Interval | None:
    """Mean and interval of a column over the trials that are done, were trained for it and have it."""
    values = [trial.number(column) for trial in trials if trial.state == "done" and trial.trains(column)]
    return mean_interval([value for value in values if value is not None], bounds=bounds)


def seconds_of(trials: Iterable[Trial], column: str = "train_seconds") -> float:
    """Sum of a time column; a trial without it (it failed before) counts nothing."""
    return sum(trial.number(column) or 0.0 for trial in trials)


def spared_seconds(cell: StudyCell) -> float:
    """Training time that early stopping spared in a cell, by what the epochs of each stopped trial took.

    The other search seeds of a stopped candidate, which were not run at all, count with all their epochs.
    """
    spared = 0.0
    for trial in cell.trials:
        planned, run, seconds = (trial.number(name) for name in ("planned_epochs", "epochs", "train_seconds"))
        if trial.state == "pruned" and planned and run and seconds:
            spared += (planned * max(cell.search_seeds, 1) - run) * seconds / run
    return spared


def side_of(results: Results, cells: Sequence[StudyCell]) -> Side | None:
    """What one method has to show in one configuration, over the cells that differ in its weights alone.

    Weights on an axis count as a search. ``None`` for no cells.
    """
    if not cells:
        return None
    method = cells[0].method
    swept = sorted({path for path in WEIGHTS for cell in cells if len(cells) > 1 and cell.axes.get(path) is not None})
    searched = sorted({path for cell in cells for path in cell.searched} | set(swept))
    trials = tuple({trial.key: trial for cell in cells for trial in cell.trials}.values())
    planned = sum(cell.planned for cell in cells)
    seeds = cells[0].seeds
    if not searched:
        return Side(method, _name(method, tuned=False), trials, trials, (), False, seeds, planned)
    reported, sweep = _swept(results, cells, trials, searched) if swept else _searched(cells[0])
    tuned = any(path in searched for path in WEIGHTS)
    selecting = cells[0].search_seeds if cells[0].searched else results.spec.seeds
    wanted = sum(max(cell.planned_candidates, 1) for cell in cells)
    return Side(method, _name(method, tuned=tuned), reported, trials, sweep, tuned, seeds, planned, selecting, wanted)


def _searched(cell: StudyCell) -> tuple[tuple[Trial, ...], tuple[SweepPoint, ...]]:
    """The winner's trials and the candidates of one searched cell."""
    won = None if cell.winner is None else cell.winner.label
    sweep = tuple(
        SweepPoint({path: config_value(members[0].config, path) for path in cell.searched}, members, label == won)
        for label, members in cell.candidates.items()
    )
    return cell.reported, sweep


def _swept(
    results: Results, cells: Sequence[StudyCell], trials: Sequence[Trial], searched: Sequence[str]
) -> tuple[tuple[Trial, ...], tuple[SweepPoint, ...]]:
    """The same over cells: on an axis every value has run on all seeds, so all of them select."""
    select = results.spec.select
    seeds = cells[0].search_seeds if cells[0].searched else results.spec.seeds
    winner = select_winner([trial.row for trial in trials], searched, select.metric, select.direction, seeds)
    by_label: dict[str, list[Trial]] = {}
    for trial in trials:
        by_label.setdefault(candidate_label({path: config_value(trial.config, path) for path in searched}), []).append(
            trial
        )
    sweep = tuple(
        SweepPoint(
            {path: config_value(members[0].config, path) for path in searched},
            tuple(trial for trial in members if trial.seed < seeds),
            winner is not None and label == winner.label,
        )
        for label, members in by_label.items()
    )
    return (() if winner is None else tuple(by_label[winner.label])), sweep


def _name(method: str, *, tuned: bool) -> str:
    if method == _LEARNED:
        return f"{method}, self-weighted"
    return f"{method}, {'manual optimum' if tuned else 'fixed weights'}"
