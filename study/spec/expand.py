"""Spec → cells → the trials that are fixed from the start. No torch here."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from models.settings import MethodSettings
from study.selection import canonical, config_value
from study.spec.model import Search, StudySpec, matches, set_path
from study.spec.trial import Trial, TrialConfiguration, UserMethod, canonical_json

__all__ = ["Cell", "StudySize", "distinct", "expand", "show_value", "size"]


@dataclass(frozen=True)
class Cell:
    """One combination of the exhaustive axes.

    Attributes:
        label: the method and the values of the other axes, for people.
        config: the base values with the axes' values set; not yet cut down to what the method reads.
        search: the search within this cell, over those of its key paths that the method reads; None without one.
        settings: what the method is and reads.
    """

    label: str
    config: dict[str, Any]
    search: Search | None
    settings: MethodSettings | UserMethod

    @property
    def method(self) -> str:
        """The method's name, as tables show it."""
        return self.settings.name

    @property
    def trained(self) -> bool:
        """Whether the method has a network; otherwise it is a deterministic reference row."""
        return self.settings.trained

    def resolve(self, values: dict[str, Any] | None = None) -> dict[str, Any]:
        """The configuration of a trial, with searched values set."""
        config = copy.deepcopy(self.config)
        for path, value in (values or {}).items():
            set_path(config, path, value)
        user_method = self.settings if isinstance(self.settings, UserMethod) else None
        return TrialConfiguration.model_validate_json(json.dumps(config), strict=True).resolved(user_method)

    def configurations(self) -> list[TrialConfiguration]:
        """What the cell can ask for: its own values, and each searched value (or bound of a range) set alone."""
        configs = [self.config]
        for path, domain in (self.search.space if self.search else {}).items():
            values = domain.values()
            for value in domain.bounds if values is None else values:  # type: ignore[union-attr]
                configs.append(copy.deepcopy(self.config))
                set_path(configs[-1], path, value)
        return [TrialConfiguration.model_validate_json(json.dumps(config), strict=True) for config in configs]

    def trial(self, seed: int, data_hash: str, values: dict[str, Any] | None = None) -> Trial:
        """A trial of this cell; reference rows know no seed but 0."""
        return Trial(self.resolve(values), seed if self.trained else 0, data_hash)

    def trials(self, seeds: int, data_hash: str, values: dict[str, Any] | None = None) -> list[Trial]:
        """The trials on all seeds; a reference row has one."""
        config = self.resolve(values)
        return [Trial(config, seed, data_hash) for seed in range(seeds if self.trained else 1)]

    def stored_candidates(self, rows: Iterable[Mapping[str, Any]], data_hash: str) -> list[dict[str, Any]]:
        """The candidates of this cell's search that rows of the trial table are of, in the order of their start.

        A row counts when its configuration is the cell's but for the searched values, the search space as it is now
        has these values, and its seed and data are those of the search.

        Returns:
            The candidates, key path → value; none for a cell without a search.
        """
        if self.search is None:
            return []
        # What a configuration has can depend on the searched values; these settings come and go with them.
        others = [*self.search.space, "split.data_seed", "split.target"]
        wanted = canonical_json(_without(self.resolve(), others))
        found: dict[str, dict[str, Any]] = {}
        for row in sorted(rows, key=lambda row: (row.get("started_at") or "", row["key"])):
            if row["method"] != self.method or row["seed"] >= self.search.seeds or row["data_hash"] != data_hash:
                continue
            config = json.loads(row["config"])
            values = {path: config_value(config, path) for path in self.search.space}
            if not self.search.contains(values) or canonical_json(_without(config, others)) != wanted:
                continue
            if canonical_json(self.resolve(values)) == canonical_json(config):
                found.setdefault(canonical(values), values)
        return list(found.values())


@dataclass(frozen=True)
class StudySize:
    """How much a study is, before anything is stored.

    Attributes:
        cells: number of cells.
        search_trials: trials of all searches.
        trials: all trials, the winners' repeats included; an upper bound where a sampler does not find all the points
            of a finite space.
    """

    cells: int
    search_trials: int
    trials: int


def expand(spec: StudySpec, *, check: bool = True, excluded: bool = False) -> list[Cell]:
    """The cells of a study, reference rows first.

    Args:
        spec: the study.
        check: look for the search of each cell (the spec's own validation turns it off).
        excluded: keep what ``exclude`` leaves out.
    """
    base = spec.base.model_dump(mode="json", by_alias=True)
    axes = dict(spec.axes)
    methods = [str(value) for value in axes.pop("method", (base["method"],))]
    references = [name for name in spec.references if name not in methods]
    cells = []
    for method in [*references, *methods]:
        for values in itertools.product(*axes.values()):
            config = copy.deepcopy(base)
            config["method"] = method
            for path, value in zip(axes, values, strict=True):
                set_path(config, path, value)
            if not excluded and any(matches(config, condition) for condition in spec.exclude):
                continue
            parts = [f"{path.rsplit('.', 1)[-1]}={show_value(value)}" for path, value in zip(axes, values, strict=True)]
            settings = spec.settings_of(method)
            cell = Cell(" ".join([settings.name, *parts]), config, None, settings)
            cells.append(replace(cell, search=_search_of(spec, cell)) if check and cell.trained else cell)
    return cells


def distinct(cells: Iterable[Cell]) -> list[Cell]:
    """The cells that have trials of their own: of those that differ in what their method does not read, the first."""
    found: dict[str, Cell] = {}
    for cell in cells:
        search = None if cell.search is None else cell.search.model_dump(mode="json", by_alias=True)
        found.setdefault(canonical_json([cell.resolve(), search]), cell)
    return list(found.values())


def size(spec: StudySpec) -> StudySize:
    """Count cells and trials."""
    cells = expand(spec)
    fixed: set[str] = set()
    searched = repeats = 0
    for cell in distinct(cells):
        if cell.search is None:
            fixed |= {trial.key for trial in cell.trials(spec.seeds, "")}
        else:
            searched += cell.search.points() * cell.search.seeds
            repeats += max(0, spec.seeds - cell.search.seeds)
    return StudySize(len(cells), searched, len(fixed) + searched + repeats)


def _search_of(spec: StudySpec, cell: Cell) -> Search | None:
    search = next((search for search in spec.search if matches(cell.config, search.when)), None)
    if search is None:
        return None
    config = cell.resolve()
    space = {path: domain for path, domain in search.space.items() if config_value(config, path) is not None}
    return search.model_copy(update={"space": space}) if space else None


def _without(config: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """A copy of a nested configuration without the given key paths."""
    result: dict[str, Any] = copy.deepcopy(dict(config))
    for path in paths:
        *parents, last = path.split(".")
        level: Any = result
        for parent in parents:
            level = level.get(parent)
            if not isinstance(level, dict):
                break
        else:
            level.pop(last, None)
    return result


def show_value(value: Any) -> str:
    """A value of a key path, short, for labels."""
    if isinstance(value, dict) and set(value) == {"uniform"}:
        return "–".join(str(bound) for bound in value["uniform"])
    if isinstance(value, list | tuple) and any(isinstance(item, list | tuple) for item in value):
        return ",".join(show_value(item) for item in value)
    if isinstance(value, list | tuple) and len(value) == 4:  # an area
        return "{:g}…{:g}×{:g}…{:g}".format(*value)
    if isinstance(value, list | tuple):
        return "×".join(str(item) for item in value)
    if value is None:
        return "default"
    return str(value) if not isinstance(value, dict) else canonical_json(value)
