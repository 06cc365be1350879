"""Spec → cells → the trials that are fixed from the start. No torch here."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from models.settings import MethodSettings
from study.selection import canonical, config_value
from study.spec.model import Search, StudySpec, matches
from study.spec.trial import Trial, TrialConfiguration, UserMethod, canonical_json

__all__ = ["Cell", "StoredRows", "distinct", "expand", "owners", "show_value"]


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

    def resolve(self, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The configuration of a trial, with searched values set. It is shared, and not to be changed."""
        return self._resolved if not values else self._resolve(values)

    @cached_property
    def _resolved(self) -> dict[str, Any]:
        return self._resolve({})

    @cached_property
    def text(self) -> str:
        """The canonical JSON of `resolve`."""
        return canonical_json(self._resolved)

    def _resolve(self, values: Mapping[str, Any]) -> dict[str, Any]:
        config = self.config
        for path, value in values.items():
            config = _with(config, path, value)
        user_method = self.settings if isinstance(self.settings, UserMethod) else None
        return TrialConfiguration.model_validate_json(json.dumps(config), strict=True).resolved(user_method)

    def configurations(self) -> list[TrialConfiguration]:
        """What the cell can ask for: its own values, and each searched value (or bound of a range) set alone."""
        configs = [self.config]
        for path, domain in (self.search.space if self.search else {}).items():
            values = domain.values()
            for value in domain.bounds if values is None else values:  # type: ignore[union-attr]
                configs.append(_with(self.config, path, value))
        return [TrialConfiguration.model_validate_json(json.dumps(config), strict=True) for config in configs]

    def trial(self, seed: int, data_hash: str, values: Mapping[str, Any] | None = None) -> Trial:
        """A trial of this cell; reference rows know no seed but 0."""
        return Trial(self.resolve(values), seed if self.trained else 0, data_hash)

    def trials(self, seeds: int, data_hash: str, values: Mapping[str, Any] | None = None) -> list[Trial]:
        """The trials on all seeds; a reference row has one."""
        config = self.resolve(values)
        text = canonical_json(config) if values else self.text
        return [Trial(config, seed, data_hash, text) for seed in range(seeds if self.trained else 1)]

    def stored_candidates(self, rows: Iterable[Mapping[str, Any]] | StoredRows, data_hash: str) -> list[dict[str, Any]]:
        """The candidates of this cell's search that rows of the trial table are of, in the order of their start.

        A row counts when its configuration is the cell's but for the searched values, the search space as it is now
        has these values, and its seed and data are those of the search.

        Args:
            rows: the rows; as `StoredRows` where several cells ask.
            data_hash: identity of the data.

        Returns:
            The candidates, key path → value; none for a cell without a search.
        """
        if self.search is None:
            return []
        rows = rows if isinstance(rows, StoredRows) else StoredRows(rows)
        # What a configuration has can depend on the searched values; these settings come and go with them.
        others = (*self.search.space, "split.data_seed", "split.target", "network.batch_statistics")
        wanted = canonical_json(_without(self.resolve(), others))
        found: dict[str, dict[str, Any]] = {}
        refused: set[str] = set()  # configurations that were looked at, and are no candidates
        for seed, text, config in rows.like(self.method, data_hash, others, wanted):
            if seed >= self.search.seeds or text in refused:
                continue
            values = {path: config_value(config, path) for path in self.search.space}
            if (name := canonical(values)) in found:
                continue
            if self._proposes(values, config):
                found[name] = values
            else:
                refused.add(text)
        return list(found.values())

    def _proposes(self, values: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
        """Whether a configuration is that of the cell with these values, which its search has."""
        try:
            if self.search is None or not self.search.contains(values):
                return False
            return canonical_json(self.resolve(values)) == canonical_json(config)
        except (ValueError, ArithmeticError):  # a row of a stranger: values that no configuration can have
            return False


class StoredRows:
    """Rows of the trial table, found by what a search leaves open. Made once for all cells of a study.

    Args:
        rows: the rows, with the columns key, method, seed, config, data_hash and perhaps started_at.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows = sorted(rows, key=lambda row: (row.get("started_at") or "", row["key"]))
        self._configs: dict[str, dict[str, Any]] = {}  # the seeds of a candidate have one text
        self._groups: dict[tuple[str, ...], dict[tuple[str, str | None, str], list[Mapping[str, Any]]]] = {}

    def like(
        self, method: str, data_hash: str, others: tuple[str, ...], wanted: str
    ) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """(Seed, configuration as text and as data) of the rows of a method on the given data, in order of their start.

        Args:
            method: the method's name.
            data_hash: identity of the data.
            others: key paths that may have any value.
            wanted: the canonical JSON of the rest of the configuration.
        """
        if others not in self._groups:
            self._groups[others] = self._grouped(others)
        for row in self._groups[others].get((method, data_hash, wanted), ()):
            yield row["seed"], row["config"], self._configs[row["config"]]

    def _grouped(self, others: tuple[str, ...]) -> dict[tuple[str, str | None, str], list[Mapping[str, Any]]]:
        groups: dict[tuple[str, str | None, str], list[Mapping[str, Any]]] = {}
        rests: dict[str, str | None] = {}
        for row in self._rows:
            text = row["config"]
            if text not in rests:
                config = self._configs.setdefault(text, json.loads(text))
                try:
                    rests[text] = canonical_json(_without(config, others))
                except (ValueError, RecursionError):  # of a stranger: NaN, or nested without end
                    rests[text] = None
            if (rest := rests[text]) is not None:
                groups.setdefault((row["method"], row["data_hash"], rest), []).append(row)
        return groups


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
    shown = [
        [(path, value, f"{path.rsplit('.', 1)[-1]}={show_value(value)}") for value in values]
        for path, values in axes.items()
    ]
    searches: dict[tuple[int, tuple[str, ...]], Search] = {}
    cells = []
    for method in [*references, *methods]:
        settings = spec.settings_of(method)
        for combination in itertools.product(*shown):
            config = {**base, "method": method}
            for path, value, _ in combination:
                config = _with(config, path, value)
            if not excluded and any(matches(config, condition) for condition in spec.exclude):
                continue
            cell = Cell(" ".join([settings.name, *(words for _, _, words in combination)]), config, None, settings)
            search = _search_of(spec, cell, searches) if check and cell.trained else None
            cells.append(cell if search is None else replace(cell, search=search))
    return cells


def owners(cells: Iterable[Cell]) -> Iterator[tuple[Cell, Cell]]:
    """Each cell, and the first one that has its trials: itself, unless the two differ in what the method does not read
    alone."""
    first: dict[tuple[str, str | None], Cell] = {}
    described: dict[int, tuple[Search, str]] = {}  # cells share searches
    for cell in cells:
        search = cell.search
        if search is not None and id(search) not in described:
            described[id(search)] = search, canonical_json(search.model_dump(mode="json", by_alias=True))
        text = None if search is None else described[id(search)][1]
        yield cell, first.setdefault((cell.text, text), cell)


def distinct(cells: Iterable[Cell]) -> list[Cell]:
    """The cells that have trials of their own: of those that differ in what their method does not read, the first."""
    return [cell for cell, owner in owners(cells) if cell is owner]


def _search_of(spec: StudySpec, cell: Cell, known: dict[tuple[int, tuple[str, ...]], Search]) -> Search | None:
    """The search of a cell, with the key paths that its method reads; one object for all cells that it is equal in."""
    number = next((i for i, search in enumerate(spec.search) if matches(cell.config, search.when)), None)
    if number is None:
        return None
    search, config = spec.search[number], cell.resolve()
    paths = tuple(path for path in search.space if config_value(config, path) is not None)
    if paths and (number, paths) not in known:
        space = {path: search.space[path] for path in paths}
        known[number, paths] = search.model_copy(update={"space": space})
    return known[number, paths] if paths else None


def _with(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A nested configuration with another value at a key path; all else is shared with the given one."""
    first, _, rest = path.partition(".")
    return {**config, first: _with(config[first], rest, value) if rest else value}


def _without(config: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """A nested configuration without the given key paths; all else is shared with the given one."""
    result = dict(config)
    for path in paths:
        first, _, rest = path.partition(".")
        if not rest:
            result.pop(first, None)
        elif isinstance(result.get(first), dict):
            result[first] = _without(result[first], [rest])
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
