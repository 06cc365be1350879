"""Read a results folder: the cells that the spec wants, and the stored trials of each, found by their keys.

Results                 one results folder
├── cells               the cells of the spec, in the order of the report
│   ├── trials          every stored trial that the spec wants for the cell
│   └── reported        the trials that a table row is made of: all, or the winner's where the cell was searched
├── outside             stored trials that the spec, as it stands now, does not want
└── damaged             files and rows that could not be read or hold what no trial leaves, with the reason
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from models.settings import METHOD_SETTINGS, REFERENCE_NAMES
from study.errors import ResultsError
from study.planning.record import Plan, read_plan
from study.selection import Winner, candidate_label, canonical, config_value, is_trained, select_winner
from study.spec.expand import Cell, StoredRows, distinct, expand
from study.spec.model import StudySpec
from study.spec.trial import Trial as WantedTrial
from study.spec.trial import canonical_json
from study.store import STATES, Damaged, Store

__all__ = [
    "LAMBDA",
    "METHODS",
    "REFERENCES",
    "STATES",
    "Results",
    "StudyCell",
    "Trial",
    "axis_label",
    "axis_unit",
    "configuration_label",
    "load_results",
    "value_label",
]

LAMBDA = "objective.lambda"
REFERENCES = REFERENCE_NAMES
METHODS = tuple(METHOD_SETTINGS)

_EPOCHS = ("epoch", "validation_rmse_m", "log_var_position", "log_var_condition")
# Columns of the trial table that a trial that is done has as finite numbers, unless it has none.
_METRICS = (
    "validation_rmse_m",
    "validation_accuracy",
    "test_rmse_m",
    "test_median_error_m",
    "test_p90_error_m",
    "test_accuracy",
)

_AXES: Mapping[str, tuple[str, str | None]] = {
    "branches": ("Branches", None),
    "system.bandwidth_mhz": ("Bandwidth", "MHz"),
    "system.subcarriers": ("Subcarriers", None),
    "system.antennas": ("Antennas", None),
    "system.paths": ("Paths", None),
    "system.fingerprint": ("Fingerprint", None),
    "system.normalization": ("Normalization", None),
    "system.semantics": ("Semantics", None),
    "system.excess_delay": ("Excess delay", None),
    "split.train_scenes": ("Training scenes", None),
    "split.validation_scenes": ("Validation scenes", None),
    "split.test_scenes": ("Test scenes", None),
    "split.order": ("Scene order", None),
    "split.labelled_scenes": ("Labelled scenes", None),
    "split.target": ("Target data", None),
    "split.positions": ("Positions", None),
    "split.held_out.validation": ("Held out for validation", None),
    "split.held_out.test": ("Held out for test", None),
    "split.held_out.block_m": ("Held-out blocks", "m"),
    "split.area": ("Area", None),
    "network.preset": ("Network", None),
    "network.batch_statistics": ("Batch statistics", None),
    "objective.lambda": ("λ", None),
    "objective.gamma": ("γ", None),
    "objective.likelihood": ("Likelihood", None),
    "training.epochs": ("Epochs", None),
    "training.learning_rate": ("Learning rate", None),
    "training.batch_size": ("Batch size", None),
    "training.precision": ("Precision", None),
}


_Paths = tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One stored trial; ``row`` holds every column of the trial table."""

    key: str
    state: str
    method: str
    seed: int
    config: Mapping[str, Any]
    row: Mapping[str, Any]

    def number(self, column: str) -> float | None:
        """A finite number of the row, else ``None``."""
        value = self.row.get(column)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return float(value)

    def trains(self, column: str) -> bool:
        """Whether the trial was trained for a metric: what it has of another one is left to chance, and no result.

        Errors (columns in ``rmse_m`` and ``error_m``) need a trained position; accuracies and entropy, a trained
        condition: see `study.selection.is_trained`.
        """
        if column.endswith(("rmse_m", "error_m")):
            return is_trained(self.config, "position")
        return is_trained(self.config, "condition") if column.endswith(("accuracy", "entropy")) else True

    def text(self, column: str) -> str | None:
        """A text of the row, ``None`` when the row has none."""
        value = self.row.get(column)
        return None if value is None else str(value)


@dataclass(frozen=True)
class StudyCell:
    """One cell of the spec. Combinations that differ in what their method does not read are one cell.

    Attributes:
        axes: axis key path → value, without the method; ``None`` where the method does not have the setting.
        searched: the searched key paths, empty where nothing is searched.
        search_seeds: how many seeds each candidate of the search is run with.
        trials: the stored trials that the spec wants, by seed.
        candidates: candidate in words → its trials on the search seeds; empty without a search.
        winner: the selected candidate; ``None`` without a search or when no candidate is eligible.
        reported: the trials that a table row is made of, finished or not, by seed.
        seeds: how many seeds the spec asks for.
        planned: how many trials the spec asks for.
        planned_candidates: how many candidates the search asks for.
        name: the cell in words, by which a plan knows it.
    """

    method: str
    axes: Mapping[str, Any]
    trials: tuple[Trial, ...]
    reported: tuple[Trial, ...]
    seeds: int
    planned: int
    searched: tuple[str, ...] = ()
    search_seeds: int = 0
    candidates: Mapping[str, tuple[Trial, ...]] = field(default_factory=dict)
    planned_candidates: int = 0
    winner: Winner | None = None
    name: str = ""

    @property
    def done(self) -> tuple[Trial, ...]:
        """The reported trials that are done."""
        return tuple(trial for trial in self.reported if trial.state == "done")

    def counts(self) -> Counter[str]:
        """How many stored trials of the cell are in which state."""
        return Counter(trial.state for trial in self.trials)

    def place(self, without: Sequence[str] = ()) -> tuple[_Paths, tuple[str, ...]]:
        """The axes that the cell's method has, and its values there as comparable texts."""
        own = [(path, text) for path, text in self._texts if path not in without]
        return tuple(path for path, _ in own), tuple(text for _, text in own)

    @cached_property
    def _texts(self) -> tuple[tuple[str, str], ...]:
        return tuple((path, canonical(value)) for path, value in self.axes.items() if value is not None)

    def configuration(self, without: Sequence[str] = ()) -> tuple[tuple[str, Any], ...]:
        """The axis values without the method, as (key path, value)."""
        return tuple((path, value) for path, value in self.axes.items() if path not in without)

    def label(self, without: Sequence[str] = ()) -> str:
        """The configuration in words: ``Paths 10–25, Bandwidth 100 MHz``; empty when nothing varies."""
        return configuration_label(self.configuration(without))


@dataclass
class Results:
    """One results folder, read once; epochs and errors are read when asked for."""

    folder: Path
    spec: StudySpec
    site: str
    cells: tuple[StudyCell, ...]
    outside: tuple[Trial, ...] = ()
    damaged: list[Damaged] = field(default_factory=list)

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """The stored trials that the spec wants."""
        return tuple({trial.key: trial for cell in self.cells for trial in cell.trials}.values())

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods of the study in the order of the report: a user's own come last."""
        return tuple(sorted({cell.method for cell in self.cells}, key=_method_order(self.spec).index))

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The key paths of the axes without the method."""
        return tuple(path for path in self.spec.axes if path != "method")

    def configurations(self, without: Sequence[str] = ()) -> list[tuple[tuple[str, Any], ...]]:
        """The combinations of axis values, in the order of the report, methods left aside.

        A combination that only references have (they lack the settings of a network) is left out when a trained
        method covers it.
        """
        trained = [cell for cell in self.cells if cell.method not in REFERENCES] or list(self.cells)
        # By the paths that have a value: what covers a configuration has the same values and more paths.
        found: dict[_Paths, dict[tuple[str, ...], tuple[int, StudyCell]]] = {}
        for number, cell in enumerate(trained):
            paths, values = cell.place(without)
            found.setdefault(paths, {}).setdefault(values, (number, cell))
        kept = []
        for paths, members in found.items():
            covered = {
                tuple(value for path, value in zip(more, values, strict=True) if path in paths)
                for more, others in found.items()
                if len(more) > len(paths) and set(paths) <= set(more)
                for values in others
            }
            kept += [item for values, item in members.items() if values not in covered]
        return [cell.configuration(without) for _, cell in sorted(kept, key=lambda item: item[0])]

    def cells_of(
        self, configuration: Iterable[tuple[str, Any]], method: str | None = None, without: Sequence[str] = ()
    ) -> list[StudyCell]:
        """The cells that belong to a configuration: equal on every axis that the cell's method has."""
        wanted = {path: canonical(value) for path, value in configuration}
        found: list[int] = []
        for paths, members in self._index(tuple(without)).items():
            if all(path in wanted for path in paths):
                found += members.get(tuple(wanted[path] for path in paths), ())
        cells = [self.cells[number] for number in sorted(found)]
        return cells if method is None else [cell for cell in cells if cell.method == method]

    def epochs(self, key: str, columns: Sequence[str] = _EPOCHS) -> pd.DataFrame | None:
        """The epochs of a trial, ``None`` when they were not stored or cannot be used (then see ``damaged``).

        Args:
            key: the trial's key.
            columns: which of the epoch table's.
        """
        return self._one("epochs", key, columns)

    def errors(self, key: str, columns: Sequence[str] = ("error_m",)) -> pd.DataFrame | None:
        """The test samples of a trial, ``None`` when they were not stored or cannot be used."""
        return self._one("errors", key, columns)

    def epochs_of(self, keys: Iterable[str], columns: Sequence[str] = _EPOCHS) -> pd.DataFrame:
        """The epochs of many trials in one table, read together: of compacted files a row group is read once.

        Returns:
            ``key`` (categorical) and the columns. The rows of a trial stand together, trials in the order of the store;
            those without epochs, or with such that cannot be used (then see ``damaged``), have none.
        """
        return self._many("epochs", keys, columns)

    def errors_of(self, keys: Iterable[str], columns: Sequence[str] = ("error_m",)) -> pd.DataFrame:
        """The test samples of many trials in one table; see `epochs_of`."""
        return self._many("errors", keys, columns)

    @cached_property
    def not_finite(self) -> tuple[tuple[Trial, tuple[str, ...]], ...]:
        """Trials that are done and have a metric that is NaN or infinite, with these columns: no mean includes them."""
        found = []
        for trial in self.trials:
            columns = tuple(
                column
                for column in _METRICS
                if isinstance(value := trial.row.get(column), float) and not math.isfinite(value)
            )
            if trial.state == "done" and columns:
                found.append((trial, columns))
        return tuple(found)

    @cached_property
    def plan(self) -> Plan | str | None:
        """What the study was expected to take; None without a plan, and what is wrong with one that cannot be read."""
        return read_plan(self.folder)

    @cached_property
    def _store(self) -> Store:
        return Store(self.folder)

    @cached_property
    def _indices(self) -> dict[tuple[str, ...], dict[_Paths, dict[tuple[str, ...], list[int]]]]:
        return {}

    def _index(self, without: tuple[str, ...]) -> dict[_Paths, dict[tuple[str, ...], list[int]]]:
        """Paths that have a value → these values → numbers of the cells."""
        if without not in self._indices:
            index: dict[_Paths, dict[tuple[str, ...], list[int]]] = {}
            for number, cell in enumerate(self.cells):
                paths, values = cell.place(without)
                index.setdefault(paths, {}).setdefault(values, []).append(number)
            self._indices[without] = index
        return self._indices[without]

    def _one(self, kind: str, key: str, columns: Sequence[str]) -> pd.DataFrame | None:
        found = self._many(kind, [key], columns)
        return None if found.empty else found.drop(columns="key").reset_index(drop=True)

    def _many(self, kind: str, keys: Iterable[str], columns: Sequence[str]) -> pd.DataFrame:
        needed = dict.fromkeys([*columns, *(("epoch", "validation_rmse_m") if kind == "epochs" else ("error_m",))])
        table, damaged = self._store.read_many(kind, keys, list(needed))
        reasons = _unusable(kind, table)
        damaged += [Damaged(self._store.file_of(kind, key), reason) for key, reason in reasons.items()]
        self.damaged += [item for item in dict.fromkeys(damaged) if item not in self.damaged]
        frame = table.select(["key", *columns]).to_pandas()
        if reasons:
            frame = frame[~frame["key"].isin(list(reasons))].reset_index(drop=True)
        return frame


def load_results(folder: str | Path) -> Results:
    """Read ``study.yaml``, ``site.json`` and ``trials/`` of a results folder.

    Files and rows that cannot be read, or whose values no trial can have, are collected in ``Results.damaged`` and
    never used as a result.

    Raises:
        ResultsError: when the folder, its ``study.yaml``, ``site.json`` or its trials are missing or unusable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ResultsError(
            "there is no such results folder",
            where=str(folder),
            allowed="the folder that `study run` wrote, with study.yaml and trials/ in it",
            fix="check the path, or run the study first: study run SPEC",
        )
    store = Store(folder)
    spec, stored = store.read_study(), store.load()
    if not stored.rows:
        damaged = stored.damaged
        unreadable = f"; {len(damaged)} of its files cannot be read ({damaged[0].reason})" if damaged else ""
        raise ResultsError(
            f"the study has no finished trial yet{unreadable}",
            where=str(folder / "trials"),
            allowed="at least one trials/KEY.parquet",
            fix="run the study, or wait for its first trial: study run SPEC",
        )
    trials = {
        key: Trial(key, row["state"], row["method"], row["seed"], json.loads(row["config"]), row)
        for key, row in stored.rows.items()
    }
    data_hash = store.read_data_hash()
    finder = _Finder(store, spec, data_hash, trials)
    cells = _in_order(spec, [finder.study_cell(cell) for cell in distinct(expand(spec))])
    wanted = {trial.key for cell in cells for trial in cell.trials}
    outside = tuple(trial for trial in trials.values() if trial.key not in wanted and trial.key not in finder.foreign)
    site = str((store.read_site() or {}).get("name") or spec.site)
    damaged = sorted([*stored.damaged, *finder.foreign.values()], key=lambda item: item.path)
    return Results(folder, spec, site, cells, outside, damaged)


def axis_label(path: str) -> str:
    """The name of an axis in a table header."""
    if path in _AXES:
        return _AXES[path][0]
    return path.rpartition(".")[2].replace("_", " ").capitalize()


def axis_unit(path: str) -> str | None:
    """The unit of an axis."""
    return _AXES[path][1] if path in _AXES else None


def value_label(value: Any) -> str:
    """An axis value in words: ``{"uniform": [10, 25]}`` is ``10–25``, ``[8, 8]`` is ``8 × 8``, an area its ranges."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        if set(value) == {"uniform"} and isinstance(value["uniform"], list | tuple) and len(value["uniform"]) == 2:
            return "–".join(value_label(item) for item in value["uniform"])
        return ", ".join(f"{key} {value_label(item)}" for key, item in value.items())
    if isinstance(value, list | tuple) and any(isinstance(item, list | tuple) for item in value):
        return "; ".join(value_label(item) for item in value)
    if isinstance(value, list | tuple) and len(value) == 4:
        x0, x1, y0, y1 = (f"{item:g}".replace("-", "−") for item in value)
        return f"x\u00a0{x0}…{x1}, y\u00a0{y0}…{y1}\u00a0m"  # breaks between the two, and nowhere else
    if isinstance(value, list | tuple):
        return " × ".join(value_label(item) for item in value)
    return str(value).replace("_", " ")


def configuration_label(configuration: Iterable[tuple[str, Any]]) -> str:
    """A configuration in words, without the settings that do not apply."""
    parts = []
    for path, value in configuration:
        if value is not None:
            unit = axis_unit(path)
            parts.append(f"{axis_label(path)} {value_label(value)}{f' {unit}' if unit else ''}")
    return ", ".join(parts)


class _Finder:
    """Finds the stored trials of a cell. Which they are, the spec says: their keys are computed, never guessed.

    Attributes:
        foreign: key → the row that has the key of a wanted trial and is not of it.
    """

    def __init__(self, store: Store, spec: StudySpec, data_hash: str, trials: Mapping[str, Trial]) -> None:
        self._store, self._spec, self._hash, self._trials = store, spec, data_hash, trials
        self._rows = StoredRows(trial.row for trial in trials.values()) if spec.search else StoredRows(())
        self.foreign: dict[str, Damaged] = {}

    def study_cell(self, cell: Cell) -> StudyCell:
        """A cell with its stored trials."""
        spec = self._spec
        resolved = cell.resolve()
        axes = {path: config_value(resolved, path) for path in spec.axes if path != "method"}
        seeds = spec.seeds if cell.trained else 1
        search = cell.search
        if search is None:
            found = self._stored(cell, seeds)
            return StudyCell(cell.method, axes, found, found, seeds, planned=seeds, name=cell.label)

        searched = tuple(sorted(search.space))
        candidates = {
            candidate_label(values): self._stored(cell, search.seeds, values)
            for values in cell.stored_candidates(self._rows, self._hash)
        }
        candidates = {label: members for label, members in candidates.items() if members}
        tried = [trial for members in candidates.values() for trial in members]
        winner = select_winner(
            [trial.row for trial in tried], searched, spec.select.metric, spec.select.direction, search.seeds
        )
        reported = () if winner is None else self._stored(cell, seeds, winner.values)
        both = {trial.key: trial for trial in (*tried, *reported)}
        planned = max(search.points(), len(candidates))
        # With early stopping, a candidate that does not come through with its first seed is not run with the others.
        stopped = sum(any(t.seed == 0 and t.state != "done" for t in members) for members in candidates.values())
        spared = stopped * (search.seeds - 1) if search.early_stopping is not None else 0
        return StudyCell(
            cell.method, axes, tuple(sorted(both.values(), key=lambda trial: (trial.seed, trial.key))), reported, seeds,
            planned=planned * search.seeds - spared + max(0, seeds - search.seeds), searched=searched,
            search_seeds=search.seeds, candidates=candidates, planned_candidates=planned, winner=winner,
            name=cell.label,
        )  # fmt: skip

    def _stored(self, cell: Cell, seeds: int, values: Mapping[str, Any] | None = None) -> tuple[Trial, ...]:
        found = []
        for wanted in cell.trials(seeds, self._hash, values):
            trial = self._trials.get(wanted.key)
            if trial is None or trial.key in self.foreign:
                continue
            if _is_of(trial, wanted, cell.method):
                found.append(trial)
            else:
                reason = f"{trial.key}: its method, seed, data or configuration is not that of its key"
                self.foreign[trial.key] = Damaged(self._store.file_of("trials", trial.key), reason)
        return tuple(found)


def _is_of(trial: Trial, wanted: WantedTrial, method: str) -> bool:
    """Whether a stored row is of the trial whose key it has."""
    if (trial.method, trial.seed, trial.row["data_hash"]) != (method, wanted.seed, wanted.data_hash):
        return False
    if trial.row["config"] == wanted.text:
        return True
    try:
        return canonical_json(trial.config) == canonical_json(wanted.config)
    except (ValueError, RecursionError):  # NaN, or nested without end
        return False


def _unusable(kind: str, table: pa.Table) -> dict[str, str]:
    """Key → why its epochs or test samples cannot be used: they hold what no trial leaves."""
    if not table.num_rows:
        return {}
    column = table["key"].combine_chunks()
    codes = column.indices.to_numpy(zero_copy_only=False)
    found: dict[int, str] = {}

    def note(wrong: np.ndarray, reason: str) -> None:
        for code in np.unique(codes[wrong]):
            found.setdefault(int(code), reason)

    if kind == "epochs":
        epoch = table["epoch"].to_numpy().astype(np.float64)
        note(~(epoch >= 1), "it has an epoch without a number from 1 on")
        follows = (codes[1:] == codes[:-1]) & ~(epoch[1:] > epoch[:-1])
        note(np.append(False, follows), "its epochs are repeated or not in order")
        note(table["validation_rmse_m"].to_numpy() < 0, "it has a validation RMSE below 0")
    else:
        error = table["error_m"].to_numpy()
        note(error < 0, "it has a localization error below 0")
        note(~np.isfinite(error), "it has a localization error that is no finite number")
    keys = column.dictionary.to_pylist()
    return {keys[code]: reason for code, reason in found.items()}


def _method_order(spec: StudySpec) -> list[str]:
    """The names of all methods, a user's own after the project's."""
    return [*METHODS, *(method.name for method in spec.methods.values())]


def _in_order(spec: StudySpec, cells: Iterable[StudyCell]) -> tuple[StudyCell, ...]:
    """By the axes' values in the order of the spec, then by method."""
    ranks = {path: {canonical(value): rank for rank, value in enumerate(values)} for path, values in spec.axes.items()}
    methods = _method_order(spec)
    default = canonical(None)  # on an axis it stands for the method's own default

    def rank(path: str, value: Any) -> int:
        # A setting that a reference does not have comes first: references head their block.
        return -1 if value is None else ranks[path].get(canonical(value), ranks[path].get(default, 0))

    return tuple(
        sorted(
            cells,
            key=lambda cell: (
                [rank(path, value) for path, value in cell.axes.items()],
                methods.index(cell.method),
            ),
        )
    )
