"""What the plan of a study expected, against what its trials took.

Like is compared with like, also while trials are missing: a cell's planned time per trial times as many trials as are
stored, with the time of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from reports.results import Results, StudyCell, Trial
from study.planning.record import Basis, Plan, Spread, worst

__all__ = ["PlannedCell", "PlannedStudy", "PlannedSum", "Verdict", "planned_study", "verdict"]

Verdict = Literal["inside", "above", "below"]

# Of seconds, money and trials alike. Sums and ratios of what is below it are numbers.
_MOST = 1e12
_LARGEST_FACTOR = 5.0


@dataclass(frozen=True)
class PlannedCell:
    """A cell of the study that its plan has.

    Attributes:
        cell: the cell, with its stored trials.
        trials: how many were planned.
        seconds: of these trials together; medians of all cells of the plan add up to its total.
        basis: where the seconds come from.
    """

    cell: StudyCell
    trials: int
    seconds: Spread
    basis: Basis

    @property
    def timed(self) -> list[Trial]:
        """The stored trials whose time was stored with them."""
        return [trial for trial in self.cell.trials if trial.number("trial_seconds") is not None]

    @property
    def expected(self) -> Spread:
        """Seconds that the plan has for as many trials as are timed."""
        return self.seconds.times(len(self.timed) / self.trials)


@dataclass(frozen=True)
class PlannedSum:
    """Some cells together.

    Attributes:
        trials: how many were planned.
        stored: the stored trials.
        timed: how many of them have their time stored with them.
        seconds: planned for all planned trials.
        expected: planned for as many trials as are timed.
        actual: seconds that these took.
        basis: where the planned seconds come from, at worst.
    """

    trials: int
    stored: tuple[Trial, ...]
    timed: int
    seconds: Spread
    expected: Spread
    actual: float
    basis: Basis

    @property
    def ratio(self) -> float | None:
        """Actual over planned; None where there is nothing to compare."""
        return self.actual / self.expected.median if self.timed and self.expected.median else None

    @property
    def verdict(self) -> Verdict | None:
        """Where the actual time lies; None where there is nothing to compare."""
        return verdict(self.actual, self.expected) if self.timed else None


@dataclass(frozen=True)
class PlannedStudy:
    """A plan and the study that it is of.

    Attributes:
        plan: the plan.
        methods: the methods of the study in the order of the report.
        cells: the cells that both have, in the order of the report.
        unplanned: cells of the study that the plan does not have.
        gone: how many cells of the plan the study does not have.
        together: how far cells vary together: 0 of independent ones, 1 where all are slow or fast at once. Halves of
            the interval below and above the median.
    """

    plan: Plan
    methods: tuple[str, ...]
    cells: tuple[PlannedCell, ...]
    unplanned: tuple[StudyCell, ...]
    gone: int
    together: tuple[float, float]

    @property
    def complete(self) -> bool:
        """Whether every cell has as many stored trials as were planned, so that plan and results are of the same."""
        return all(len(item.timed) == item.trials for item in self.cells)

    @property
    def all(self) -> PlannedSum:
        """Every cell that both have."""
        return self.sum(self.cells)

    @property
    def by_method(self) -> dict[str, PlannedSum]:
        """The methods that both have, in the order of the report."""
        cells: dict[str, list[PlannedCell]] = {method: [] for method in self.methods}
        for item in self.cells:
            cells[item.cell.method].append(item)
        return {method: self.sum(own) for method, own in cells.items() if own}

    @property
    def share(self) -> float | None:
        """Expected time of what is stored, over that of the whole plan; None for a plan without time."""
        whole = self.plan.seconds.median
        return self.all.expected.median / whole if whole else None

    def sum(self, cells: Sequence[PlannedCell]) -> PlannedSum:
        """Some cells together. Medians add up; intervals, as those of all cells do to the interval of the plan."""
        stored = tuple(trial for item in cells for trial in item.cell.trials)
        return PlannedSum(
            sum(item.trials for item in cells),
            stored,
            sum(len(item.timed) for item in cells),
            _summed([item.seconds for item in cells], self.together),
            _summed([item.expected for item in cells], self.together),
            math.fsum(trial.number("trial_seconds") or 0.0 for trial in stored),
            worst(item.basis for item in cells),
        )


def planned_study(results: Results) -> PlannedStudy | str | None:
    """A study beside its plan; None without a plan, and why not where it cannot be used."""
    plan = results.plan
    if plan is None or isinstance(plan, str):
        return plan
    if _amount_beyond(plan):
        return "it has amounts that no study can take"
    whole = math.fsum(cell.seconds.median for cell in plan.cells)
    # The median of a sum is a little more than the sum of the medians, where long times are likelier than short ones.
    factor = plan.seconds.median / whole if whole else 1.0
    if not 1 / _LARGEST_FACTOR <= factor <= _LARGEST_FACTOR:
        return "its cells do not add up to its total"
    seconds = [cell.seconds.times(factor) for cell in plan.cells]
    by_name = {cell.label: (cell, part) for cell, part in zip(plan.cells, seconds, strict=True) if cell.trials}
    found, unplanned = [], []
    for cell in results.cells:
        if cell.name in by_name:
            planned, part = by_name[cell.name]
            found.append(PlannedCell(cell, planned.trials, part, planned.basis))
        else:
            unplanned.append(cell)
    if not found:
        return "it is of another study: none of its cells is one of this study"
    together = _together(seconds, plan.seconds)
    return PlannedStudy(plan, results.methods, tuple(found), tuple(unplanned), len(by_name) - len(found), together)


def verdict(actual: float, planned: Spread) -> Verdict:
    """Where a value lies beside an interval."""
    return "below" if actual < planned.low else "above" if actual > planned.high else "inside"


def _amount_beyond(plan: Plan) -> bool:
    """Whether a plan has numbers that would not stay numbers in a sum."""
    spreads = [plan.seconds, plan.makespan_seconds, plan.cost, plan.energy_kwh, *(cell.seconds for cell in plan.cells)]
    highest = max(spread.high for spread in spreads if spread is not None)
    return max(highest, plan.trials, plan.stored, plan.slots, *(cell.trials for cell in plan.cells)) > _MOST


def _together(parts: Sequence[Spread], whole: Spread) -> tuple[float, float]:
    """How far parts vary together, that their sum has the interval that it has."""
    found = []
    for widths, width in ((_below(parts), whole.median - whole.low), (_above(parts), whole.high - whole.median)):
        independent, together = math.fsum(w * w for w in widths), math.fsum(widths) ** 2
        room = together - independent
        found.append(min(max((width * width - independent) / room, 0.0), 1.0) if room > 0 else 1.0)
    return found[0], found[1]


def _summed(parts: Sequence[Spread], together: tuple[float, float]) -> Spread:
    median = math.fsum(part.median for part in parts)
    below, above = (
        math.sqrt((1 - share) * math.fsum(w * w for w in widths) + share * math.fsum(widths) ** 2)
        for widths, share in ((_below(parts), together[0]), (_above(parts), together[1]))
    )
    return Spread(median=median, low=max(median - below, 0.0), high=median + above)


def _below(parts: Iterable[Spread]) -> list[float]:
    return [part.median - part.low for part in parts]


def _above(parts: Iterable[Spread]) -> list[float]:
    return [part.high - part.median for part in parts]
