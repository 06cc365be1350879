"""Words that several tables share: site and split, selection, settings, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reports.comparison import GAMMA
from reports.results import LAMBDA, STATES, Results, StudyCell, Trial, axis_label, axis_unit, value_label
from reports.tables.model import NOT_APPLICABLE, Cell, Column
from study.result_files import printable

__all__ = [
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
    "missing_words",
    "plural",
    "reference_notes",
    "seeds_cell",
    "state_words",
    "weights_first",
]

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
    words = "Each trial is tested once, at its epoch of lowest validation RMSE."
    if any(cell.searched for cell in results.cells):
        best = "lowest" if select.direction == "min" else "highest"
        name = select.metric.replace("_", " ").replace("rmse", "RMSE")
        words += (
            f" Searched settings are those with the {best} mean {name} over the search seeds,"
            " then repeated on all seeds."
        )
    return words


def reference_notes(results: Results) -> list[str]:
    """What the reference rows of the study are."""
    words = [_REFERENCES[name] for name in results.methods if name in _REFERENCES]
    if not words:
        return []
    return [f"{'; '.join(words)}. {'It is' if len(words) == 1 else 'They are'} deterministic: one run, no interval."]


def axis_columns(axes: Sequence[str]) -> list[Column]:
    """A column for each axis."""
    return [Column(axis_label(path), axis_unit(path), "right" if axis_unit(path) else "left") for path in axes]


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
    """What did not finish, in words: ``diverged ×2``, ``1 seed not run``."""
    words = ends(cell.trials)
    run = {trial.seed for trial in cell.reported}
    absent = cell.seeds - len(run)
    if cell.trials and absent > 0 and not (cell.searched and cell.winner is None):
        words.append(f"{absent} {'seed' if absent == 1 else 'seeds'} not run")
    if cell.searched and cell.trials:
        tried = len(cell.candidates)
        if tried < cell.planned_candidates:
            words.append(f"{tried} of {cell.planned_candidates} candidates run")
    return words


def state_words(state: str) -> str:
    """``out_of_memory`` as a reader writes it."""
    return state.replace("_", " ")


def hole(cell: StudyCell) -> Cell:
    """The cell that stands where a number cannot: it says why."""
    keys = tuple(trial.key for trial in cell.trials)
    if not cell.trials:
        return Cell("— not run", hole=True, keys=keys)
    if cell.searched and cell.winner is None:
        return Cell("— no candidate finished", hole=True, keys=keys, note="; ".join(missing_words(cell)) or None)
    return Cell("— " + (", ".join(missing_words(cell)) or "no result"), hole=True, keys=keys)


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
