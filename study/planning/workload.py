"""A spec, minus what is stored → trials with their steps and samples, in the order in which the engine runs them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.data.path_table import PathTable
from study.data.site import Site
from study.data.split import Split
from study.planning.survivors import surviving_epochs
from study.planning.work import Samples, Work, WorkKey, work_of
from study.spec.expand import Cell
from study.spec.model import EarlyStopping, FloatDomain, IntDomain, Search, StudySpec
from study.spec.outline import PlannedCell, outline

__all__ = ["Group", "Jobs", "Workload", "samples_of", "workload"]

# Searched values that change what a trial costs; of others one candidate stands for all.
_COSTLY = (
    "training.epochs", "training.batch_size", "network.", "branches", "system.", "objective.knowledge_transfer",
)  # fmt: skip
# Small grids of them are taken whole, of others so many draws.
_MOST_POINTS, _DRAWN = 64, 8


@dataclass(frozen=True)
class Group:
    """Trials that the engine hands out one after the other: all of a cell, its candidates, or its winner's repeats.

    Attributes:
        cell: number of the cell in `Workload.cells`.
        works: what its trials do; where searched values change that, some draws, which its candidates take in turn.
        count: trials, of all seeds.
        seeds: seeds of each candidate; 1 where nothing is searched.
        rules: early stopping of its candidates.
        after: number of the group that has to end first.
        searched: these are candidates of a search.
    """

    cell: int
    works: tuple[Work, ...]
    count: int
    seeds: int = 1
    rules: EarlyStopping | None = None
    after: int | None = None
    searched: bool = False


@dataclass(frozen=True)
class Jobs:
    """Trials of one draw of what early stopping leaves, one entry each.

    Attributes:
        group: number of the group.
        work: number of the work in `Workload.works`.
        epochs: epochs that it runs.
    """

    group: NDArray[np.int64]
    work: NDArray[np.int64]
    epochs: NDArray[np.int64]


@dataclass(frozen=True)
class Workload:
    """What is to run.

    Attributes:
        cells: the cells that have trials of their own, in the order of the spec.
        groups: in the order in which the engine prefers them.
        works: all different works.
        examples: the configuration of a trial of each kind of work.
        stored: trials that are stored already.
    """

    cells: tuple[PlannedCell, ...]
    groups: tuple[Group, ...]
    works: tuple[Work, ...]
    examples: Mapping[WorkKey, dict[str, Any]]
    stored: int

    @property
    def trials(self) -> int:
        """Trials to run."""
        return sum(group.count for group in self.groups)

    @property
    def random(self) -> bool:
        """Whether early stopping leaves it open what is run."""
        return any(group.rules is not None for group in self.groups)

    def jobs(self, generator: np.random.Generator) -> Jobs:
        """Draw what early stopping leaves."""
        at = {work: number for number, work in enumerate(self.works)}
        group: list[int] = []
        work: list[int] = []
        epochs: list[int] = []
        for number, item in enumerate(self.groups):
            for chosen, ran in _trials_of(item, generator):
                group.append(number)
                work.append(at[chosen])
                epochs.append(ran)
        return Jobs(*(np.asarray(values, np.int64) for values in (group, work, epochs)))


def _trials_of(group: Group, generator: np.random.Generator) -> Iterator[tuple[Work, int]]:
    candidates = math.ceil(group.count / group.seeds)
    if group.rules is None:
        for number in range(group.count):
            work = group.works[(number // group.seeds) % len(group.works)]
            yield work, work.epochs
        return
    longest = max(work.epochs for work in group.works)
    ran = surviving_epochs(group.rules, candidates, longest, generator).tolist()
    for number, epochs in enumerate(ran):
        work = group.works[number % len(group.works)]
        yield work, min(epochs, work.epochs)
        # The other seeds of a candidate start when its first has come through.
        for _ in range(group.seeds - 1 if epochs == longest else 0):
            yield work, work.epochs


def workload(
    spec: StudySpec,
    site: Site,
    table: PathTable,
    *,
    fingerprint_budget_mb: float,
    workers: int = 1,
    stored: Mapping[str, int] | None = None,
) -> Workload:
    """What a study still has to run.

    Args:
        spec: the study.
        site: its site.
        table: the paths of the scenes that it uses.
        fingerprint_budget_mb: memory in which a process may keep fingerprints.
        workers: processes that train a trial together.
        stored: label of a cell → its trials that are stored.
    """
    planned = [cell for cell in outline(spec).cells if cell.same_as is None]
    known = dict(stored or {})
    sizes: dict[Split, Samples] = {}
    works: dict[Work, Work] = {}
    examples: dict[WorkKey, dict[str, Any]] = {}

    def work(cell: Cell, values: Mapping[str, Any]) -> Work:
        config = cell.resolve(values)
        split = Split.model_validate(config["split"])
        if split not in sizes:
            sizes[split] = samples_of(split, site, table)
        made = work_of(config, sizes[split], fingerprint_budget_mb=fingerprint_budget_mb, workers=workers)
        examples.setdefault(made.key, config)
        return works.setdefault(made, made)

    ranked: list[tuple[int, int, list[Group]]] = []
    for number, item in enumerate(planned):
        cell, search = item.cell, item.cell.search
        left = max(0, item.trials - known.get(cell.label, 0))
        repeats = min(item.repeats, left)
        rank = 1 if search else 4 - cell.settings.trained - cell.settings.adapts
        groups = []
        # Which candidate wins is not known either: its repeats are like the candidates.
        drawn = tuple(work(cell, values) for values in (_representatives(search, number) if search else [{}]))
        if search is not None and left - repeats:
            groups.append(Group(number, drawn, left - repeats, search.seeds, search.early_stopping, searched=True))
        if repeats:
            groups.append(Group(number, drawn, repeats))
        ranked.append((rank, number, groups))
    groups = []
    for _, _, own in sorted(ranked, key=lambda entry: entry[:2]):
        for place, group in enumerate(own):
            after = len(groups) - 1 if place else None
            groups.append(replace(group, after=after))
    distinct = tuple(dict.fromkeys(item for group in groups for item in group.works))
    counted = sum(min(known.get(cell.cell.label, 0), cell.trials) for cell in planned)
    return Workload(tuple(planned), tuple(groups), distinct, examples, counted)


def samples_of(split: Split, site: Site, table: PathTable) -> Samples:
    """How many samples a split takes from a site.

    Raises:
        ConfigurationError: the site has too few scenes or positions.
    """
    parts = split.parts(site.scenes, table.position_m, f"site {site.name!r}")
    source, validation, test, target, held_back = (
        len(part.scenes) * len(part.positions)
        for part in (parts.source, parts.validation, parts.test, parts.target, parts.held_back)
    )
    scenes = {scene for part in parts for scene in part.scenes}
    positions = np.unique(np.concatenate([part.positions for part in parts]))
    return Samples(source, validation, test, target, held_back or source, len(scenes) * len(positions))


def _representatives(search: Search, seed: int) -> Sequence[dict[str, Any]]:
    """Searched values that stand for all candidates: some of them, where they change what a trial costs."""
    costly = {path: domain for path, domain in search.space.items() if path.startswith(_COSTLY)}
    if not costly:
        return [{}]
    listed_values = [domain.values() for domain in costly.values()]
    if None not in listed_values and math.prod(len(values or []) for values in listed_values) <= _MOST_POINTS:
        points = itertools.product(*(values or [] for values in listed_values))
        return [dict(zip(costly, point, strict=True)) for point in points]
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(_DRAWN):
        values: dict[str, Any] = {}
        for path, domain in costly.items():
            listed = domain.values()
            if listed is not None:
                values[path] = listed[int(generator.integers(len(listed)))]
            elif isinstance(domain, FloatDomain | IntDomain):
                low, high = domain.bounds
                share = generator.random()
                value = low * (high / low) ** share if domain.log else low + (high - low) * share
                values[path] = round(value) if isinstance(domain, IntDomain) else value
        drawn.append(values)
    return drawn
