"""Words that several tables share: site and split, selection, settings, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reports.comparison import GAMMA
from reports.results import LAMBDA, STATES, Results, StudyCell, Trial, axis_label, axis_unit, value_label
from reports.statistics import Interval
from reports.tables.model import NOT_APPLICABLE, Cell, Column
from reports.tables.numbers import spread
from study.result_files import printable

__all__ = [
    "TIME_NOTE",
    "axis_cell",
    "axis_cells",
    "axis_columns",
    "breaks_of",
    "candidate_text",
    "candidate_words",
    "damage_notes",
    "describe_selection",
    "describe_split",
    "ends",
    "hole",
    "hole_of",
    "metric_cell",
    "missing_words",
    "not_finished",
    "not_finished_cell",
    "plural",
    "reference_notes",
    "seeds_cell",
    "state_words",
    "tested_epoch",
    "untrained_cell",
    "untrained_notes",
    "weights_first",
]

TIME_NOTE = (
    "Times depend on the machine and on what else it did meanwhile: those of identical networks can differ several "
    "times over. Counts of trials and operations do not."
)

_REFERENCES = {
    "MEAN": "MEAN predicts the mean training position",
    "KNN": "KNN looks up the nearest training fingerprints",
    "MODEL": "MODEL computes the position from the first path's delay and angles, without a network",
}


def describe_split(results: Results) -> str:
    """Site and split in a sentence or two; of split settings that are axes, their values."""
    base = f"Site {results.site}; {results.spec.base.split.describe()}."
    varying = [
        f"{axis_label(path).lower()}: {', '.join(map(value_label, values))}"
        for path, values in results.spec.axes.items()
        if path.startswith("split.")
    ]
    return f"{base} But varied: {'; '.join(varying)}." if varying else base


def describe_selection(results: Results) -> str:
    """The selection rule in one or two sentences."""
    select = results.spec.select
    words = f"Each trial is tested once, at its epoch of {tested_epoch(results)}."
    if any(cell.searched for cell in results.cells):
        best = "lowest" if select.direction == "min" else "highest"
        name = select.metric.replace("_", " ").replace("rmse", "RMSE")
        words += (
            f" Searched settings are those with the {best} mean {name} over the search seeds,"
            " then repeated on all seeds."
        )
    return words


def tested_epoch(results: Results) -> str:
    """By what the epoch of a trial is chosen."""
    words = "lowest validation RMSE"
    if all(trial.trains("validation_rmse_m") for trial in results.trials):
        return words
    return f"{words} (with λ = 0, which does not train coordinates, of highest validation accuracy)"


def untrained_notes(trials: Iterable[Trial]) -> list[str]:
    """What MDA does not learn at either end of λ, where there are such trials."""
    trials = list(trials)
    told = []
    if not all(trial.trains("test_rmse_m") for trial in trials):
        told.append("with λ = 0 it does not train coordinates, so its errors are no result")
    if not all(trial.trains("test_accuracy") for trial in trials):
        told.append("with λ = 1 it does not train conditions, so its accuracy is none")
    return [f"“–” at MDA: {'; '.join(told)}."] if told else []


def metric_cell(
    interval: Interval | None,
    write: Callable[[float], str],
    trials: Sequence[Trial],
    column: str,
    *,
    best: bool = False,
) -> Cell:
    """A metric's mean with its interval; of trials that were not trained for it, that."""
    return untrained_cell(trials, column) or spread(interval, write, trials, best=best)


def untrained_cell(trials: Sequence[Trial], column: str) -> Cell | None:
    """The cell of trials that were not trained for a metric; ``None`` of others."""
    if not trials or any(trial.trains(column) for trial in trials):
        return None
    weight = "1" if column.endswith("accuracy") else "0"
    return replace(NOT_APPLICABLE, note=f"not trained at λ = {weight}", keys=tuple(trial.key for trial in trials))


def reference_notes(results: Results) -> list[str]:
    """What the reference rows of the study are."""
    words = [_REFERENCES[name] for name in results.methods if name in _REFERENCES]
    if not words:
        return []
    return [f"{'; '.join(words)}. {'It is' if len(words) == 1 else 'They are'} deterministic: one run, no interval."]


def axis_columns(axes: Sequence[str]) -> list[Column]:
    """A column for each axis."""
    return [
        Column(axis_label(path), axis_unit(path), "right" if axis_unit(path) else "left", names=True) for path in axes
    ]


def axis_cells(cell: StudyCell, axes: Sequence[str]) -> list[Cell]:
    """A study cell's values on the axes."""
    return [axis_cell(cell.axes[path]) for path in axes]


def axis_cell(value: Any) -> Cell:
    """A value of an axis; ``None`` where the method does not read it."""
    if value is None:
        return NOT_APPLICABLE
    return Cell(value_label(value), value if isinstance(value, int | float | str) else value_label(value))


def ends(trials: Sequence[Trial]) -> list[str]:
    """How the trials ended that did not finish: ``diverged ×2``."""
    counts = Counter(trial.state for trial in trials)
    return [f"{state_words(state)} ×{counts[state]}" for state in STATES if state != "done" and counts[state]]


def missing_words(cell: StudyCell) -> list[str]:
    """What did not finish in a cell; see `not_finished`."""
    return not_finished(cell.trials, cell.reported, cell.seeds, _candidates(cell))


def not_finished(
    stored: Sequence[Trial], reported: Sequence[Trial], seeds: int, candidates: tuple[int, int] | None = None
) -> list[str]:
    """What did not finish, in words: ``diverged ×2``, ``1 seed not run``.

    Args:
        stored: every stored trial that belongs to the row.
        reported: those that its numbers are made of.
        seeds: how many of these are wanted.
        candidates: how many were run and how many are wanted, where something was searched.
    """
    words = ends(stored)
    absent = seeds - len({trial.seed for trial in reported})
    if stored and absent > 0 and (reported or candidates is None):
        words.append(f"{plural(absent, 'seed')} not run")
    if stored and candidates is not None and candidates[0] < candidates[1]:
        words.append(f"{candidates[0]} of {candidates[1]} candidates run")
    return words


def not_finished_cell(words: Sequence[str]) -> Cell:
    """The cell for what `not_finished` says."""
    text = ", ".join(words)
    return Cell(text, text, hole=bool(text))


def _candidates(cell: StudyCell) -> tuple[int, int] | None:
    return (len(cell.candidates), cell.planned_candidates) if cell.searched else None


def state_words(state: str) -> str:
    """``out_of_memory`` as a reader writes it."""
    return state.replace("_", " ")


def hole(cell: StudyCell) -> Cell:
    """The cell that stands where a number of a study cell cannot: it says why."""
    return hole_of(cell.trials, cell.reported, cell.seeds, _candidates(cell))


def hole_of(
    stored: Sequence[Trial], reported: Sequence[Trial], seeds: int, candidates: tuple[int, int] | None = None
) -> Cell:
    """The cell that stands where a number cannot; the arguments are those of `not_finished`."""
    keys = tuple(trial.key for trial in stored)
    if not stored:
        return Cell("— not run", hole=True)
    words = not_finished(stored, reported, seeds, candidates)
    if candidates is not None and not reported:
        return Cell("— no candidate finished", hole=True, keys=keys, note="; ".join(words) or None)
    return Cell("— " + (", ".join(words) or "no result"), hole=True, keys=keys)


def seeds_cell(reported: Sequence[Trial], wanted: int) -> Cell:
    """How many of the wanted seeds finished."""
    done = sum(trial.state == "done" for trial in reported)
    text = f"{done} of {wanted}"
    return Cell(text, text, keys=tuple(trial.key for trial in reported), hole=done < wanted)


def candidate_text(values: Mapping[str, Any]) -> str:
    """A candidate in words, its weights first: ``λ 0.3, γ 2``; of long decimals four digits."""
    return ", ".join(f"{axis_label(path)} {_short(values[path])}" for path in sorted(values, key=weights_first))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value_label(value)


def candidate_words(cell: StudyCell) -> Cell:
    """The winner of a searched cell."""
    if not cell.searched:
        return NOT_APPLICABLE
    if cell.winner is None:
        return Cell("—", hole=True)
    words = candidate_text(cell.winner.values)
    return Cell(words, words, note=f"the best of {plural(cell.winner.candidates, 'candidate')}")


def weights_first(path: str) -> tuple[int, str]:
    """Sort key of searched key paths: λ, γ, then the others by name."""
    return ((LAMBDA, GAMMA).index(path) if path in (LAMBDA, GAMMA) else 2, path)


def breaks_of(cells: Sequence[StudyCell]) -> tuple[int, ...]:
    """A new group where the configuration changes, when groups have more than one row."""
    starts = [
        number
        for number in range(1, len(cells))
        if cells[number].configuration() != cells[number - 1].configuration()
        # Rows that lack a setting (references do) head the group that follows them.
        and None not in cells[number - 1].axes.values()
    ]
    return tuple(starts) if len(starts) < len(cells) - 1 else ()


def damage_notes(results: Results) -> list[str]:
    """What was stored and is in no table."""
    notes = []
    if results.damaged:
        named = "; ".join(
            f"{printable(f'{item.path.parent.name}/{item.path.name}')}: {item.reason}" for item in results.damaged[:5]
        )
        more = f"; and {len(results.damaged) - 5} more" if len(results.damaged) > 5 else ""
        notes.append(f"{plural(len(results.damaged), 'damaged file')} left out ({named}{more}). Run the study again.")
    if results.not_finite:
        named = "; ".join(f"{trial.key}: {', '.join(columns)}" for trial, columns in results.not_finite[:5])
        more = f"; and {len(results.not_finite) - 5} more" if len(results.not_finite) > 5 else ""
        trials = plural(len(results.not_finite), "finished trial")
        notes.append(f"{trials} with a metric that is NaN or infinite, which no mean includes ({named}{more}).")
    if results.outside:
        notes.append(
            f"{plural(len(results.outside), 'stored trial')} left out: not wanted by the spec as it stands now"
            " (other data or settings, more seeds, excluded combinations, or candidates of an earlier search)."
        )
    return notes


def plural(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
