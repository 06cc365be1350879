"""Read a results folder and group its trials into the cells of the study.

Results                 one results folder
├── cells               one per combination of axis values and method, in the order of the report
│   ├── trials          every stored trial of the cell
│   └── reported        the trials that a table row is made of: all, or the winner's where the cell was searched
├── outside             stored trials that the spec, as it stands now, does not ask for
└── damaged             files that could not be read, with the reason
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from models.settings import METHOD_SETTINGS
from study.errors import ResultsError, SpecError
from study.selection import Winner, candidate_label, canonical, config_value, select_winner

__all__ = [
    "LAMBDA",
    "METHODS",
    "REFERENCES",
    "STATES",
    "Damaged",
    "Results",
    "StudyCell",
    "Trial",
    "axis_label",
    "axis_unit",
    "load_results",
    "value_label",
]

LAMBDA = "objective.lambda"
REFERENCES = ("MEAN", "KNN")
METHODS = (*REFERENCES, "DCNN", "TL", "RDA", "MDA", "HDA")
STATES = ("done", "diverged", "failed", "out_of_memory", "pruned")

_REQUIRED = {"key", "state", "method", "seed", "config"}
_AXES: Mapping[str, tuple[str, str | None]] = {
    "site": ("Site", None),
    "branches": ("Branches", None),
    "system.bandwidth_mhz": ("Bandwidth", "MHz"),
    "system.carrier_ghz": ("Carrier", "GHz"),
    "system.subcarriers": ("Subcarriers", None),
    "system.antennas": ("Antennas", None),
    "system.paths": ("Paths", None),
    "system.fingerprint": ("Fingerprint", None),
    "system.normalization": ("Normalization", None),
    "system.semantics": ("Semantics", None),
    "system.excess_delay": ("Excess delay", None),
    "split.target": ("Target data", None),
    "split.positions": ("Positions", None),
    "network.preset": ("Network", None),
    "objective.lambda": ("λ", None),
    "objective.gamma": ("γ", None),
    "objective.likelihood": ("Likelihood", None),
    "training.epochs": ("Epochs", None),
    "training.learning_rate": ("Learning rate", None),
    "training.batch_size": ("Batch size", None),
}
_DIRECTIONS = {"validation_rmse": "min", "validation_accuracy": "max"}


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

    def text(self, column: str) -> str | None:
        """A text of the row, ``None`` when the row has none."""
        value = self.row.get(column)
        return None if value is None else str(value)


@dataclass(frozen=True)
class Damaged:
    """A file that could not be read; ``name`` is relative to the results folder."""

    name: str
    reason: str


@dataclass(frozen=True)
class StudyCell:
    """One combination of axis values and method.

    Attributes:
        axes: axis key path → value, without the method; ``None`` where the method does not have the setting.
        searched: the searched key paths, empty where nothing is searched.
        search: the entry of the spec's ``search`` list that applies.
        winner: the selected candidate; ``None`` without a search or when no candidate is eligible.
        seeds: how many seeds the spec asks for.
        planned: how many trials the spec asks for, ``None`` where that cannot be told.
        planned_candidates: how many candidates the search asks for.
    """

    method: str
    axes: Mapping[str, Any]
    searched: tuple[str, ...]
    search: Mapping[str, Any] | None
    trials: tuple[Trial, ...]
    winner: Winner | None
    seeds: int
    planned: int | None = None
    planned_candidates: int | None = None

    @property
    def search_seeds(self) -> int:
        """How many seeds each candidate of the search is run with."""
        return _search_seeds(self.search)

    @property
    def reported(self) -> tuple[Trial, ...]:
        """The trials that a table row is made of, finished or not, by seed."""
        if not self.searched:
            return self.trials
        if self.winner is None:
            return ()
        return tuple(trial for trial in self.trials if self.label_of(trial) == self.winner.label)

    @property
    def done(self) -> tuple[Trial, ...]:
        """The reported trials that are done."""
        return tuple(trial for trial in self.reported if trial.state == "done")

    @property
    def candidates(self) -> dict[str, list[Trial]]:
        """Candidate label → its trials on the search seeds."""
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            if trial.seed < self.search_seeds:
                found.setdefault(self.label_of(trial), []).append(trial)
        return found

    def label_of(self, trial: Trial) -> str:
        """The candidate that a trial belongs to, in words."""
        return candidate_label({path: config_value(trial.config, path) for path in self.searched})

    def counts(self) -> Counter[str]:
        """How many stored trials of the cell are in which state."""
        return Counter(trial.state for trial in self.trials)

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
    spec: Mapping[str, Any]
    trials: tuple[Trial, ...]
    outside: tuple[Trial, ...]
    cells: tuple[StudyCell, ...]
    damaged: list[Damaged] = field(default_factory=list)
    site: str = "–"

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.spec.get("study", self.folder.name))

    @property
    def seeds(self) -> int:
        """How many seeds the spec asks for."""
        return _count(self.spec.get("seeds"), 1)

    @property
    def selection(self) -> tuple[str, str]:
        """The selection metric and its mode."""
        return _selection(self.spec)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods of the study in the order of the report."""
        return tuple(sorted({cell.method for cell in self.cells}, key=_method_order))

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The key paths of the axes without the method."""
        return tuple(path for path in _axes(self.spec) if path != "method")

    def configurations(self, without: Sequence[str] = ()) -> list[tuple[tuple[str, Any], ...]]:
        """The combinations of axis values, in the order of the report, methods left aside.

        A combination that only references have (they lack the settings of a network) is left out when a trained
        method covers it.
        """
        trained = [cell for cell in self.cells if cell.method not in REFERENCES] or list(self.cells)
        found: dict[str, tuple[tuple[str, Any], ...]] = {}
        for cell in trained:
            configuration = cell.configuration(without)
            if not any(_covers(other, configuration) for other in found.values()):
                found = {name: other for name, other in found.items() if not _covers(configuration, other)}
                found[canonical(dict(configuration))] = configuration
        return list(found.values())

    def cells_of(
        self, configuration: Iterable[tuple[str, Any]], method: str | None = None, without: Sequence[str] = ()
    ) -> list[StudyCell]:
        """The cells that belong to a configuration: equal on every axis that the cell's method has."""
        wanted = tuple(configuration)
        return [
            cell
            for cell in self.cells
            if (method is None or cell.method == method) and _covers(wanted, cell.configuration(without))
        ]

    def epochs(self, key: str) -> pd.DataFrame | None:
        """The epochs of a trial, ``None`` when they were not stored or cannot be read (then see ``damaged``)."""
        columns = {"epoch", "validation_rmse_m"}
        return self._side_table("epochs", key, columns, ["log_var_position", "log_var_condition"])

    def errors(self, key: str) -> pd.DataFrame | None:
        """The test samples of a trial, ``None`` when they were not stored or cannot be read."""
        return self._side_table("errors", key, {"error_m"}, [])

    def _side_table(self, kind: str, key: str, columns: set[str], optional: list[str]) -> pd.DataFrame | None:
        path = self.folder / kind / f"{key}.parquet"
        if not path.is_file():
            return None
        try:
            names = set(pq.read_schema(path).names)
            if missing := sorted(columns - names):
                raise ValueError(f"no column {', '.join(missing)}")
            wanted = [*sorted(columns), *(name for name in optional if name in names)]
            return pq.read_table(path, columns=wanted).to_pandas()
        except (OSError, ValueError, pa.ArrowException) as error:
            entry = Damaged(f"{kind}/{path.name}", _first_line(error))
            if entry not in self.damaged:
                self.damaged.append(entry)
            return None


def load_results(folder: str | Path) -> Results:
    """Read ``study.yaml`` and ``trials/`` of a results folder.

    Files that cannot be read are collected in ``Results.damaged`` and never used as a result.

    Raises:
        ResultsError: when the folder, its ``study.yaml`` or its trials are missing or unusable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ResultsError(
            "there is no such results folder",
            where=str(folder),
            allowed="the folder that `study run` wrote, with study.yaml and trials/ in it",
            fix="check the path, or run the study first: study run SPEC",
        )
    spec = _read_spec(folder)
    trials, damaged = _read_trials(folder)
    if not trials:
        unreadable = f"; {len(damaged)} of its files cannot be read ({damaged[0].reason})" if damaged else ""
        raise ResultsError(
            f"the study has no finished trial yet{unreadable}",
            where=str(folder / "trials"),
            allowed="at least one trials/KEY.parquet",
            fix="run the study, or wait for its first trial: study run SPEC",
        )
    cells, outside = _group(spec, trials)
    return Results(folder, spec, tuple(trials), tuple(outside), tuple(cells), damaged, _site_name(folder, spec))


def axis_label(path: str) -> str:
    """The name of an axis in a table header."""
    if path in _AXES:
        return _AXES[path][0]
    return path.rpartition(".")[2].replace("_", " ").capitalize()


def axis_unit(path: str) -> str | None:
    """The unit of an axis."""
    return _AXES[path][1] if path in _AXES else None


def value_label(value: Any) -> str:
    """An axis value in words: ``{"uniform": [10, 25]}`` is ``10–25``, ``[8, 8]`` is ``8 × 8``."""
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
    if isinstance(value, list | tuple):
        return " × ".join(value_label(item) for item in value)
    return str(value)


def configuration_label(configuration: Iterable[tuple[str, Any]]) -> str:
    """A configuration in words, without the settings that do not apply."""
    parts = []
    for path, value in configuration:
        if value is not None:
            unit = axis_unit(path)
            parts.append(f"{axis_label(path)} {value_label(value)}{f' {unit}' if unit else ''}")
    return ", ".join(parts)


def _read_spec(folder: Path) -> Mapping[str, Any]:
    path = folder / "study.yaml"
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(
            "the folder has no study.yaml, so it is not a results folder",
            where=str(folder),
            allowed="the folder that `study run` wrote: study.yaml, trials/, epochs/, errors/",
            fix="name the folder of one study, such as results/NAME",
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ResultsError(
            f"study.yaml cannot be read: {_first_line(error)}",
            where=str(path),
            allowed="the resolved spec as `study run` writes it",
            fix="run `study run SPEC` again; it writes the file anew and repeats no finished trial",
        ) from error
    problem = _spec_problem(spec)
    if problem is not None:
        where, allowed = problem
        raise ResultsError(
            "study.yaml is not a resolved spec",
            where=f"{path}, {where}" if where else str(path),
            allowed=allowed,
            fix="run `study run SPEC` again; it writes the file anew and repeats no finished trial",
        )
    try:
        metric, mode = _selection(spec)
        select_winner([], [], metric, mode, 1)
    except SpecError as error:
        raise ResultsError(error.what, where=f"{path}, {error.where}", allowed=error.allowed, fix=error.fix) from None
    return spec


def _site_name(folder: Path, spec: Mapping[str, Any]) -> str:
    """The site's own name (the spec may give a folder instead), from what the run recorded."""
    try:
        recorded = json.loads((folder / "site.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        recorded = None
    name = recorded.get("name") if isinstance(recorded, dict) else None
    return str(name or spec.get("site") or "–")


def _spec_problem(spec: object) -> tuple[str, str] | None:
    if not isinstance(spec, Mapping):
        return "", "a mapping with the keys study, site, axes, seeds, search, select"
    for key, kind, words in (
        ("axes", Mapping, "a mapping of key path to a list of values"),
        ("base", Mapping, "a mapping of settings"),
        ("search", list, "a list of searches"),
        ("select", Mapping, "{metric: …, mode: …}"),
        ("references", list, "a list of methods"),
        ("exclude", list, "a list of {key path: value}"),
        ("claims", list, "a list of claims"),
    ):
        if spec.get(key) is not None and not isinstance(spec[key], kind):
            return key, words
    for path, values in (spec.get("axes") or {}).items():
        if not isinstance(values, list):
            return f"axes.{path}", "a list of values"
    for number, search in enumerate(spec.get("search") or []):
        if not isinstance(search, Mapping) or not isinstance(search.get("space") or {}, Mapping):
            return f"search[{number}]", "{when: …, space: …, trials: …, seeds: …}"
    return None


def _read_trials(folder: Path) -> tuple[list[Trial], list[Damaged]]:
    trials: list[Trial] = []
    damaged: list[Damaged] = []
    for path in sorted((folder / "trials").glob("*.parquet")):
        try:
            trials.append(_read_trial(path))
        except (OSError, ValueError, TypeError, pa.ArrowException) as error:
            damaged.append(Damaged(f"trials/{path.name}", _first_line(error)))
    return trials, damaged


def _read_trial(path: Path) -> Trial:
    # A file handle instead of a data set: a folder of hundreds of small files is read several times faster.
    with path.open("rb") as handle:
        rows = pq.ParquetFile(handle).read().to_pylist()
    if len(rows) != 1:
        raise ValueError(f"a trial file has one row, this one has {len(rows)}")
    row = rows[0]
    if missing := sorted(_REQUIRED - row.keys()):
        raise ValueError(f"no column {', '.join(missing)}")
    if row["key"] != path.stem:
        raise ValueError(f"the file holds the trial {row['key']}")
    if row["state"] not in STATES:
        raise ValueError(f"unknown state {row['state']!r}; known are {', '.join(STATES)}")
    config = json.loads(row["config"])
    if not isinstance(config, dict):
        raise ValueError("its config is not a mapping")
    return Trial(row["key"], row["state"], str(row["method"]), int(row["seed"]), config, row)


def _group(spec: Mapping[str, Any], trials: Sequence[Trial]) -> tuple[list[StudyCell], list[Trial]]:
    """Cells in the order of the report, and the trials that the spec does not ask for."""
    axes = _axes(spec)
    paths = [path for path in axes if path != "method"]
    grouped: dict[tuple[str, str], list[Trial]] = {}
    values_of: dict[tuple[str, str], dict[str, Any]] = {}
    outside: list[Trial] = []
    for trial in trials:
        values = {path: config_value(trial.config, path) for path in paths}
        if not _wanted(spec, axes, trial, values):
            outside.append(trial)
            continue
        name = (trial.method, canonical(values))
        grouped.setdefault(name, []).append(trial)
        values_of[name] = values

    cells = []
    for name, members in grouped.items():
        cell, left_out = _cell(spec, name[0], values_of[name], members)
        cells.append(cell)
        outside.extend(left_out)
    cells.extend(_holes(spec, axes, cells))
    ranks = {path: {canonical(value): rank for rank, value in enumerate(axes[path])} for path in paths}

    def order(cell: StudyCell) -> tuple[list[tuple[int, str]], tuple[int, str]]:
        # A setting that a reference does not have comes first: references head their block.
        places = [
            (-1 if cell.axes[path] is None else ranks[path].get(canonical(cell.axes[path]), 10_000)) for path in paths
        ]
        texts = [canonical(cell.axes[path]) for path in paths]
        return list(zip(places, texts, strict=True)), _method_order(cell.method)

    return sorted(cells, key=order), outside


def _wanted(spec: Mapping[str, Any], axes: Mapping[str, list[Any]], trial: Trial, values: Mapping[str, Any]) -> bool:
    """Whether the spec, as it stands, asks for a trial of this cell and seed."""
    reference = trial.method in REFERENCES
    if not reference and trial.seed >= max(
        _count(spec.get("seeds"), 1), _search_seeds(_search(spec, trial.config, _base(spec)))
    ):
        return False
    if "method" in axes and not reference and trial.method not in axes["method"]:
        return False
    for path, value in values.items():
        if value is not None and canonical(value) not in {
            canonical(_axis_value(trial.method, path, item)) for item in axes[path]
        }:
            return False
    return True


def _cell(
    spec: Mapping[str, Any], method: str, values: Mapping[str, Any], members: Sequence[Trial]
) -> tuple[StudyCell, list[Trial]]:
    reference = method in REFERENCES
    search = None if reference else _search(spec, {"method": method}, members[0].config, _base(spec))
    searched = tuple(sorted((search or {}).get("space") or {}))
    kept, outside = _current(members, searched)
    metric, mode = _selection(spec)
    winner = None
    if searched:
        winner = select_winner([trial.row for trial in kept], searched, metric, mode, _search_seeds(search))
    seeds = 1 if reference else _count(spec.get("seeds"), 1)
    planned_candidates, planned = _plan(search, seeds)
    kept.sort(key=lambda trial: (trial.seed, trial.key))
    return StudyCell(method, values, searched, search, tuple(kept), winner, seeds, planned, planned_candidates), outside


def _current(members: Sequence[Trial], searched: Sequence[str]) -> tuple[list[Trial], list[Trial]]:
    """Trials of the newest configuration of each candidate, and the others.

    After an edit of the spec (more epochs, say) the folder holds trials of both versions. Two configurations in one
    mean would be wrong, so only the one that ran last is reported.
    """
    versions: dict[str, dict[str, list[Trial]]] = {}
    for trial in members:
        candidate = candidate_label({path: config_value(trial.config, path) for path in searched})
        content = {key: value for key, value in trial.config.items() if key != "seed"}
        version = canonical([content, trial.text("data_hash")])
        versions.setdefault(candidate, {}).setdefault(version, []).append(trial)
    kept: list[Trial] = []
    outside: list[Trial] = []
    for by_version in versions.values():
        newest = max(
            by_version, key=lambda version: (max(t.text("started_at") or "" for t in by_version[version]), version)
        )
        for version, trials in by_version.items():
            (kept if version == newest else outside).extend(trials)
    return kept, outside


def _holes(spec: Mapping[str, Any], axes: Mapping[str, list[Any]], found: Sequence[StudyCell]) -> list[StudyCell]:
    """Cells that the spec asks for and of which nothing is stored."""
    holes: dict[str, StudyCell] = {}
    paths = [path for path in axes if path != "method"]
    default = _base(spec).get("method")
    methods = axes.get("method") or ([default] if default else sorted({cell.method for cell in found} - {*REFERENCES}))
    references = [method for method in spec.get("references") or [] if method not in methods]
    for method, *values in itertools.product([*references, *methods], *(axes[path] for path in paths)):
        flat = {**dict(zip(paths, values, strict=True)), "method": method}
        if any(_matches(entry, flat, _base(spec)) for entry in spec.get("exclude") or []):
            continue
        cell = {path: _axis_value(str(method), path, flat[path]) for path in paths}
        if not any(other.method == method and _covers(tuple(cell.items()), other.configuration()) for other in found):
            # Combinations that differ in what the method does not read are one cell.
            holes.setdefault(canonical([method, cell]), _hole(spec, str(method), cell))
    return list(holes.values())


def _axis_value(method: str, path: str, value: Any) -> Any:
    """The value of an axis in a trial of a method: ``None`` where the method does not read the setting."""
    settings = METHOD_SETTINGS.get(method)
    if settings is None:
        return value
    if path.startswith("objective."):
        defaults = settings.objective_defaults()
        name = path.removeprefix("objective.")
        return None if name not in defaults else defaults[name] if value is None else value
    if path == "branches":
        return value if settings.twin else None
    return None if path.startswith(("network.", "training.")) and not settings.trained else value


def _hole(spec: Mapping[str, Any], method: str, values: Mapping[str, Any]) -> StudyCell:
    reference = method in REFERENCES
    search = None if reference else _search(spec, {**values, "method": method}, _base(spec))
    seeds = 1 if reference else _count(spec.get("seeds"), 1)
    candidates, planned = _plan(search, seeds)
    searched = tuple(sorted((search or {}).get("space") or {}))
    return StudyCell(method, values, searched, search, (), None, seeds, planned, candidates)


def _search(spec: Mapping[str, Any], *sources: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first search whose condition holds."""
    for search in spec.get("search") or []:
        if _matches(search.get("when") or {}, *sources):
            return search
    return None


def _matches(condition: Mapping[str, Any], *sources: Mapping[str, Any]) -> bool:
    """Whether every key path has the value, or one of the listed values, of the condition.

    A value is taken from the first source that has it; a source is a nested configuration or has key paths as keys.
    """
    for path, wanted in condition.items():
        values = (source[path] if path in source else config_value(source, path) for source in sources)
        value = canonical(next((item for item in values if item is not None), None))
        if value != canonical(wanted) and not (
            isinstance(wanted, list) and value in {canonical(item) for item in wanted}
        ):
            return False
    return True


def _plan(search: Mapping[str, Any] | None, seeds: int) -> tuple[int | None, int | None]:
    """How many candidates and how many trials a cell asks for; ``None`` where the spec does not say."""
    if not search or not search.get("space"):
        return None, seeds
    sizes = [_domain_size(domain) for domain in search["space"].values()]
    known = [size for size in sizes if size is not None]
    points = math.prod(known) if len(known) == len(sizes) else None
    # A sampler tries no candidate of a finite space twice.
    limits = [limit for limit in (points, _count(search.get("trials"), 0)) if limit]
    if not limits:
        return None, None
    candidates = min(limits)
    repeats = max(seeds - _search_seeds(search), 0)
    return candidates, candidates * _search_seeds(search) + repeats


def _domain_size(domain: object) -> int | None:
    """How many values a domain has; ``None`` for a continuous one."""
    if not isinstance(domain, Mapping):
        return None
    values, grid, whole = domain.get("values"), domain.get("grid"), domain.get("int")
    if isinstance(values, list):
        return len(values)
    if isinstance(grid, list) and len(grid) == 3 and all(isinstance(item, int | float) for item in grid):
        low, high, step = grid
        return math.floor((high - low) / step + 1e-9) + 1 if step > 0 and high >= low else None
    if isinstance(whole, list) and len(whole) == 2 and all(isinstance(item, int) for item in whole):
        return max(whole[1] - whole[0] + 1, 0)
    return None


def _covers(configuration: Iterable[tuple[str, Any]], other: Iterable[tuple[str, Any]]) -> bool:
    """Whether ``other`` equals the configuration on every axis that it has a value for."""
    wanted = dict(configuration)
    return all(
        value is None or (path in wanted and canonical(wanted[path]) == canonical(value)) for path, value in other
    )


def _axes(spec: Mapping[str, Any]) -> Mapping[str, list[Any]]:
    return spec.get("axes") or {}


def _selection(spec: Mapping[str, Any]) -> tuple[str, str]:
    select = spec.get("select") or {}
    metric = str(select.get("metric") or "validation_rmse")
    return metric, str(select.get("mode") or _DIRECTIONS.get(metric, "min"))


def _base(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    return spec.get("base") or {}


def _search_seeds(search: Mapping[str, Any] | None) -> int:
    return _count((search or {}).get("seeds"), 1)


def _count(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def _method_order(method: str) -> tuple[int, str]:
    return (METHODS.index(method) if method in METHODS else len(METHODS), method)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
