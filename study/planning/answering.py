"""The whole answer of `study plan`: the plan, what it is made of, and what meets the limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cluster.machines import machine_kinds
from cluster.model import Cluster
from cluster.prices import Prices
from study.data.path_table import PathTable
from study.data.site import Site
from study.errors import SpecError
from study.planning.advice import Limits, Saving, Share, Size, axis_shares, method_shares, savings, sizes
from study.planning.convergence import Convergence, convergence
from study.planning.estimate import Planner
from study.planning.knowledge import Knowledge, check_devices, gather
from study.planning.record import Plan, Spread
from study.search import StudyQueue
from study.spec.model import StudySpec
from study.spec.outline import outline
from study.store import Store

__all__ = ["Answer", "answer", "stored_trials"]


@dataclass(frozen=True)
class Answer:
    """What is known of a study on a cluster before it runs.

    Attributes:
        plan: the plan.
        machines: how many machines the cluster has.
        methods, axes: what it is made of.
        convergence: epochs that were worth it so far.
        limits: what was asked for.
        sizes: other numbers of machines; empty where nobody asked.
        chosen: the smallest of them that meets the limits; None where none does.
        savings: what less to run would save; empty where nobody asked.
        memory_problems: where trials do not fit.
        studies: finished studies that the plan rests on.
        notes: what was left out.
    """

    plan: Plan
    machines: int
    methods: tuple[Share, ...]
    axes: tuple[Share, ...]
    convergence: Convergence
    limits: Limits
    sizes: tuple[Size, ...]
    chosen: Size | None
    savings: tuple[Saving, ...]
    memory_problems: tuple[str, ...]
    studies: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def met(self) -> bool | None:
        """Whether the cluster as it is meets the limits; None where there are none."""
        if self.limits.seconds is None and self.limits.cost is None:
            return None
        return self.limits.met(self.plan.makespan_seconds, self.plan.cost)

    def as_json(self) -> dict[str, Any]:
        """Plain data: seconds, and money in the plan's currency."""
        return {
            **self.plan.model_dump(mode="json"),
            "basis": self.plan.basis,
            "methods": [_plain(item) for item in self.methods],
            "axes": [_plain(item) for item in self.axes],
            "convergence": {
                "cells": [asdict(cell) for cell in self.convergence.cells],
                "cells_without_history": self.convergence.unknown,
            },
            "limits": asdict(self.limits),
            "met": self.met,
            "sizes": [{**_plain(item), "machines": item.machines} for item in self.sizes],
            "chosen_machines": None if self.chosen is None else self.chosen.machines,
            "savings": [_plain(item) for item in self.savings],
            "memory_problems": list(self.memory_problems),
            "rests_on_studies": list(self.studies),
            "left_out": list(self.notes),
        }


def _plain(item: Any) -> dict[str, Any]:
    values = {part.name: getattr(item, part.name) for part in fields(item)}
    return {name: value.model_dump() if isinstance(value, Spread) else value for name, value in values.items()}


def answer(
    spec: StudySpec,
    site: Site,
    table: PathTable,
    cluster: Cluster,
    prices: Prices,
    results: Path,
    *,
    source: str = "the cluster file",
    calibration: Path | None = None,
    known: Knowledge | None = None,
    stored: Mapping[str, int] | None = None,
    limits: Limits = Limits(),
    look_for_sizes: bool = False,
) -> Answer:
    """Plan a study.

    Args:
        spec: the study.
        site: its site.
        table: the paths of the scenes that it uses.
        cluster: where it would run.
        prices: what machines cost.
        results: folder of all results; what its studies took is known.
        source: the cluster file, for messages.
        calibration: a calibration that the user named.
        known: what was measured, where it was gathered before.
        stored: label of a cell → trials that are stored, and not planned.
        limits: a deadline, a budget.
        look_for_sizes: whether other numbers of machines are looked at although there are no limits.

    Raises:
        StudyError: the cluster, a price list or a calibration cannot be used.
    """
    kinds = machine_kinds(cluster, prices, source=source)
    known = known or gather(results, calibration)
    planner = Planner(spec, site, table, cluster, kinds, known.observations, stored=stored, source=source)
    if calibration is not None:
        check_devices(planner.durations, calibration, known)
    if limits.cost is not None and planner.rate_per_hour is None:
        raise SpecError(
            f"a budget needs prices: {planner.price_note}",
            where=f"--budget {limits.cost:g}, {source}",
            allowed="machines whose price is known, all in one currency",
            fix="write price_per_hour and currency beside them under nodes, name a price list with --prices, or plan "
            "with a --deadline",
        )
    drawn = planner.draw()
    plan = planner.plan(drawn)
    converged = convergence(planner.load, known.rows)
    limited = limits.seconds is not None or limits.cost is not None
    looked: Sequence[Size] = ()
    chosen: Size | None = None
    less: tuple[Saving, ...] = ()
    if plan.trials and (limited or look_for_sizes):
        looked, chosen = sizes(planner, limits, drawn)
        chosen = chosen if limited else None
    if plan.trials and limited and not limits.met(plan.makespan_seconds, plan.cost):
        less = tuple(savings(planner, limits, converged))
    return Answer(
        plan,
        planner.machine_count,
        tuple(method_shares(planner, drawn)),
        tuple(axis_shares(planner, drawn)),
        converged,
        limits,
        tuple(looked),
        chosen,
        less,
        tuple(planner.memory_problems()),
        tuple(name for name in known.studies if any(name in item.sources for item in planner.durations)),
        tuple(known.notes),
    )


def stored_trials(spec: StudySpec, data_hash: str, store: Store) -> dict[str, int]:
    """Label of a cell → its trials that a run would not run: stored ones, and those that early stopping spared."""
    rows = store.load().rows
    if not rows:
        return {}
    queue = StudyQueue(spec, data_hash, rows)
    queue.next()  # lets a finished search name its winner
    found = Counter({cell.cell.label: cell.trials for cell in outline(spec).cells if cell.same_as is None})
    for cell in queue.cells():
        found[cell.label] -= cell.wanted - cell.stored
    return dict(found)
