"""Spec → cells → the trials that are fixed from the start. No torch here."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import dataclass
from typing import Any

from models.settings import METHOD_SETTINGS
from study.spec.model import Search, StudySpec, matches, set_path
from study.spec.trial import Trial, TrialConfiguration, canonical_json

__all__ = ["Cell", "StudySize", "expand", "size"]


@dataclass(frozen=True)
class Cell:
    """One combination of the exhaustive axes.

    Attributes:
        label: the method and the values of the other axes, for people.
        config: the base values with the axes' values set; not yet cut down to what the method reads.
        search: the search within this cell, if any.
    """

    label: str
    config: dict[str, Any]
    search: Search | None

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.config["method"])

    @property
    def trained(self) -> bool:
        """Whether the method has a network; otherwise it is a deterministic reference row."""
        return METHOD_SETTINGS[self.method].trained

    def resolve(self, values: dict[str, Any] | None = None) -> dict[str, Any]:
        """The configuration of a trial, with searched values set."""
        config = copy.deepcopy(self.config)
        for path, value in (values or {}).items():
            set_path(config, path, value)
        return TrialConfiguration.model_validate_json(json.dumps(config), strict=True).resolved()

    def trial(self, seed: int, data_hash: str, values: dict[str, Any] | None = None) -> Trial:
        """A trial of this cell; reference rows know no seed but 0."""
        return Trial(self.resolve(values), seed if self.trained else 0, data_hash)


@dataclass(frozen=True)
class StudySize:
    """How much a study is, before anything is stored.

    Attributes:
        cells: number of cells.
        search_trials: trials of all searches.
        trials: all trials, the winners' repeats included. Candidates whose trials coincide are counted once each, so
            that this is an upper bound where a sampler repeats itself.
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
            parts = [f"{path.rsplit('.', 1)[-1]}={_show(value)}" for path, value in zip(axes, values, strict=True)]
            label = " ".join([method, *parts])
            search = _search_of(spec, config) if check and METHOD_SETTINGS[method].trained else None
            cells.append(Cell(label, config, search))
    return cells


def size(spec: StudySpec) -> StudySize:
    """Count cells and trials."""
    cells = expand(spec)
    fixed: set[str] = set()
    searched = repeats = 0
    for cell in cells:
        if cell.search is None:
            fixed |= {cell.trial(seed, "").key for seed in range(spec.seeds)}
        else:
            searched += cell.search.points() * cell.search.seeds
            repeats += max(0, spec.seeds - cell.search.seeds)
    return StudySize(len(cells), searched, len(fixed) + searched + repeats)


def _search_of(spec: StudySpec, config: dict[str, Any]) -> Search | None:
    return next((search for search in spec.search if matches(config, search.when)), None)


def _show(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"uniform"}:
        return "–".join(str(bound) for bound in value["uniform"])
    if isinstance(value, list | tuple):
        return "×".join(str(item) for item in value)
    return str(value) if not isinstance(value, dict) else canonical_json(value)
