"""A study before it runs: its cells, what each one asks for, and how many trials that makes. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from study.selection import config_value
from study.spec.expand import Cell, expand, owners, show_value
from study.spec.model import Domain, FloatDomain, GridDomain, IntDomain, Search, StudySpec, matches, parts_of

__all__ = ["Outline", "PlannedCell", "count_trials", "domain_in_words", "outline", "search_in_words", "without_cells"]


@dataclass(frozen=True)
class PlannedCell:
    """A cell and the trials it adds to the study.

    Attributes:
        cell: the cell.
        values: axis → value, in the order of the spec; the method is always there and stands last.
        config: the resolved configuration; searched key paths have the base's value.
        search_trials: trials of its search's candidates; 0 without a search.
        repeats: trials besides: all of a cell without a search, the winner's other seeds of one with a search.
        same_as: label of an earlier cell that has exactly these trials, because the two differ in what the method does
            not read; the counts are 0 then.
    """

    cell: Cell
    values: dict[str, Any]
    config: dict[str, Any]
    search_trials: int
    repeats: int
    same_as: str | None

    @property
    def trials(self) -> int:
        """All trials; an upper bound where a sampler does not find all the points of a finite space."""
        return self.search_trials + self.repeats

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        search = self.cell.search
        return {
            "label": self.cell.label,
            "values": self.values,
            "configuration": self.config,
            "trials": self.trials,
            "same_trials_as": self.same_as,
            "search": None
            if search is None
            else {
                **search.model_dump(mode="json", by_alias=True, exclude={"when", "trials"}),
                "candidates": search.points(),
                "search_trials": self.search_trials,
                "winner_repeats": self.repeats,
            },
        }


@dataclass(frozen=True)
class Outline:
    """All cells of a study.

    Attributes:
        cells: in the order of `expand`.
        excluded: how many combinations ``exclude`` leaves out.
        seeds: seeds of a cell without a search.
    """

    cells: tuple[PlannedCell, ...]
    excluded: int
    seeds: int

    @property
    def axes(self) -> tuple[str, ...]:
        """Key paths that tell the cells apart; the method is the last."""
        return tuple(self.cells[0].values)

    @property
    def trials(self) -> int:
        """All trials; an upper bound where a sampler does not find all the points of a finite space."""
        return sum(cell.trials for cell in self.cells)

    def as_json(self) -> dict[str, Any]:
        """Plain data: counts, and every cell."""
        return {
            "seeds": self.seeds,
            "trials": self.trials,
            "search_trials": sum(cell.search_trials for cell in self.cells),
            "excluded": self.excluded,
            "cells": [cell.as_json() for cell in self.cells],
        }


def outline(spec: StudySpec) -> Outline:
    """Expand a study and count what each cell adds."""
    axes = [*(path for path in spec.axes if path != "method"), "method"]
    planned = []
    for cell, owner in owners(expand(spec)):
        config, search = cell.resolve(), cell.search
        same_as = None if owner is cell else owner.label
        candidates, repeats = 0, spec.seeds if cell.trained else 1
        if search is not None:
            candidates, repeats = search.points() * search.seeds, max(0, spec.seeds - search.seeds)
        if same_as is not None:
            candidates = repeats = 0
        values = {path: config_value(cell.config, path) for path in axes}
        planned.append(PlannedCell(cell, values, config, candidates, repeats, same_as))
    methods = spec.axes.get("method", (spec.base.method,))
    rows = len(methods) + sum(name not in methods for name in spec.references)
    combinations = rows * math.prod(len(spec.axes[path]) for path in axes[:-1])
    return Outline(tuple(planned), combinations - len(planned), spec.seeds)


def without_cells(spec: StudySpec) -> list[str]:
    """The claims and published numbers that are about no cell of a study, in words.

    They may be meant for another one: whoever shares claims between studies keeps them.
    """
    cells = expand(spec)

    def reached(condition: Mapping[str, Any]) -> bool:
        for cell in cells:
            searched = cell.search.space if cell.search else {}
            if matches(cell.config, {path: value for path, value in condition.items() if path not in searched}):
                return True
        return False

    found = [
        f"claims[{i}] ({claim.name}): no cell of the study has what {key!r} says"
        for i, claim in enumerate(spec.claims)
        for key, condition, _ in parts_of(claim)
        if not reached(condition)
    ]
    return found + [
        f"published[{i}]: no cell of the study has what 'when' says"
        for i, published in enumerate(spec.published)
        if not reached(published.when)
    ]


def count_trials(cells: Iterable[PlannedCell]) -> str:
    """``5 cells, 24 trials (20 of them search)``."""
    cells = list(cells)
    trials, searched = sum(cell.trials for cell in cells), sum(cell.search_trials for cell in cells)
    text = f"{_plural(len(cells), 'cell')}, {_plural(trials, 'trial')}"
    return f"{text} ({searched:,} of them search)" if searched else text


def search_in_words(search: Search, seeds: int) -> list[str]:
    """What a search does, one line each: candidates and repeats, space, early stopping.

    Args:
        search: the search of a cell.
        seeds: seeds on which the winner is repeated.
    """
    repeats = max(0, seeds - search.seeds)
    then = f", then the winner on {repeats} more" if repeats else ""
    lines = [
        f"{search.sampler}: {_plural(search.points(), 'candidate')} × {_plural(search.seeds, 'seed')}{then}",
        *(f"{path}: {domain_in_words(domain)}" for path, domain in search.space.items()),
    ]
    stopping = search.early_stopping
    if stopping is not None:
        after = f"after {_plural(stopping.grace_epochs, 'epoch')}"
        rule = f"the best 1/{stopping.reduction_factor} go on"
        if stopping.rule == "median":
            rule = f"once {_plural(stopping.min_candidates, 'candidate')} came so far"
        lines.append(f"early stopping: {stopping.rule} {after}, {rule}")
    return lines


def domain_in_words(domain: Domain) -> str:
    """``0 … 1 in steps of 0.1``, ``adp, rcsi``, ``0.001 … 0.1 (log)`` or ``1 … 8, whole numbers``."""
    if isinstance(domain, GridDomain):
        low, high, step = domain.grid
        return f"{low:.12g} … {high:.12g} in steps of {step:.12g}"
    if isinstance(domain, FloatDomain | IntDomain):
        low, high = domain.bounds
        whole = ", whole numbers" if isinstance(domain, IntDomain) else ""
        return f"{low:.12g} … {high:.12g}{whole}{' (log)' if domain.log else ''}"
    return ", ".join(show_value(value) for value in domain.values())


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
