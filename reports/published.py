"""What a publication printed for the rows of a table: the entries of a spec's ``published`` that match a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.results import Results, StudyCell
from study.selection import canonical, config_value
from study.spec.claims import Published

__all__ = ["FIELDS", "PublishedValues"]

FIELDS = ("test_rmse", "test_accuracy", "best_epoch", "parameters", "macs_paper")
"""The numbers that an entry can have."""


class PublishedValues:
    """The published values of a study, looked up by configuration."""

    def __init__(self, results: Results) -> None:
        self._spec = results.spec
        # The entry with the most conditions first: it is meant where two of them match.
        self._entries: Sequence[Published] = sorted(results.spec.published, key=lambda entry: -len(entry.when))
        self._base: dict[str, Any] = results.spec.base.model_dump(mode="json", by_alias=True)
        self._methods = {settings.name: path for path, settings in results.spec.methods.items()}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def of_cell(self, cell: StudyCell) -> dict[str, float]:
        """The values for a cell's own row; of a searched cell, for the row of its best candidate."""
        if not self._entries or (cell.searched and cell.winner is None):
            return {}
        searched = {} if cell.winner is None else cell.winner.values
        config = cell.reported[0].config if cell.reported else {}
        return self.of(cell.method, {**cell.axes, **searched}, config, optimum=bool(cell.searched))

    def of(
        self, method: str, settings: Mapping[str, Any], config: Mapping[str, Any], *, optimum: bool
    ) -> dict[str, float]:
        """The values for a configuration, by field.

        Args:
            method: the method's name.
            settings: key path → value, what the row is known by beside the base values.
            config: the configuration of one of its trials, empty when there is none.
            optimum: whether the row is that of the best candidate.
        """
        if not self._entries:
            return {}
        found: dict[str, float] = {}
        # An entry for the optimum comes before one for the configuration that happens to be the best.
        for wanted in (True, False) if optimum else (False,):
            for entry in self._entries:
                if entry.optimum is wanted and self._matches(entry.when, method, settings, config):
                    values = {name: getattr(entry, name) for name in FIELDS}
                    found = {name: value for name, value in values.items() if value is not None} | found
        return found

    def _matches(
        self, when: Mapping[str, Any], method: str, settings: Mapping[str, Any], config: Mapping[str, Any]
    ) -> bool:
        for path, wanted in when.items():
            value = self._value(path, method, settings, config)
            choices = [wanted, *(wanted if isinstance(wanted, list) else ())]
            if canonical(value) not in map(canonical, choices):
                return False
        return True

    def _value(self, path: str, method: str, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
        if path == "method":
            return self._methods.get(method, method)
        if settings.get(path) is not None:
            return settings[path]
        value = config_value(config, path)
        if value is None:
            value = config_value(self._base, path)
        if value is None and path.startswith("objective."):
            key = self._methods.get(method, method)
            value = self._spec.settings_of(key).objective_defaults().get(path.removeprefix("objective."))
        return value
