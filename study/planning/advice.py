"""What a plan is made of, and what meets a deadline or a budget: more machines, or less to run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.errors import ClusterError
from study.planning.convergence import Convergence
from study.planning.estimate import Draws, Planner
from study.planning.record import Basis, Spread, worst
from study.selection import canonical
from study.spec.expand import show_value
from study.spec.model import GridDomain, Search, StudySpec

__all__ = ["Limits", "Saving", "Share", "Size", "axis_shares", "method_shares", "savings", "sizes"]

# Draws of each size and each saving: they are compared with each other, and need not be as smooth as the plan.
_DRAWS = 40
_MOST_MACHINES = 100_000
# Of the epochs that were needed so far, to be on the safe side.
_EPOCH_MARGIN = 1.25
_LEAST_SEEDS = 3


@dataclass(frozen=True)
class Limits:
    """What a study may take. A plan meets a limit if nine of ten of its futures do.

    Attributes:
        seconds: from the command to the report; None: as long as it takes.
        cost: money, in the currency of the plan; None: whatever it costs.
    """

    seconds: float | None = None
    cost: float | None = None

    def met(self, makespan: Spread, cost: Spread | None) -> bool:
        """Whether both limits are met."""
        in_time = self.seconds is None or makespan.high <= self.seconds
        return in_time and (self.cost is None or (cost is not None and cost.high <= self.cost))


@dataclass(frozen=True)
class Share:
    """A part of the trials.

    Attributes:
        axis: the key path that the part has a value of; ``method``, or a method's ``search`` or ``repeats``.
        value: the value, in words.
        trials: how many.
        seconds: of all of them.
        cost: their part of the money; None where no price is known.
        share: of the seconds of all trials, 0 … 1.
        basis: where the seconds come from, at worst.
    """

    axis: str
    value: str
    trials: int
    seconds: Spread
    cost: Spread | None
    share: float
    basis: Basis


@dataclass(frozen=True)
class Size:
    """A cluster of so many machines.

    Attributes:
        counts: machines of each kind.
        slots: trials at the same time.
        makespan: seconds from the command to the report.
        cost: money; None where no price is known.
        node_hours: machines × hours.
        met: whether the limits are met.
    """

    counts: tuple[int, ...]
    slots: int
    makespan: Spread
    cost: Spread | None
    node_hours: Spread
    met: bool

    @property
    def machines(self) -> int:
        """Machines in all."""
        return sum(self.counts)


@dataclass(frozen=True)
class Saving:
    """The study with something left out.

    Attributes:
        what: in words.
        trials: trials that are left.
        seconds: of all of them.
        saved_seconds: seconds of trials that are saved, in the median.
        makespan, cost: as of a plan.
        met: whether the limits are met then.
        doubt: what speaks against it; empty where nothing is known to.
    """

    what: str
    trials: int
    seconds: Spread
    saved_seconds: float
    makespan: Spread
    cost: Spread | None
    met: bool
    doubt: str = ""


# ------------------------------------------------------------------------------------------------- shares


def method_shares(planner: Planner, drawn: Draws) -> list[Share]:
    """Each method, and of a searched one its search and its repeats; in the order of the spec."""
    load = planner.load
    found = []
    for method in dict.fromkeys(cell.cell.method for cell in load.cells):
        own = [number for number, group in enumerate(load.groups) if load.cells[group.cell].cell.method == method]
        if not own:
            continue
        found.append(_share(planner, drawn, "method", method, own))
        candidates = [number for number in own if load.groups[number].searched]
        if candidates:
            paths = dict.fromkeys(path for number in candidates for path in _search(planner, number).space)
            found.append(_share(planner, drawn, "search", f"{method}: search over {', '.join(paths)}", candidates))
            repeats = [number for number in own if number not in candidates]
            if repeats:
                found.append(_share(planner, drawn, "repeats", f"{method}: repeats of the winner", repeats))
    return found


def axis_shares(planner: Planner, drawn: Draws) -> list[Share]:
    """Each value of each axis but the method, in the order of the spec."""
    load, found = planner.load, []
    for path, values in planner.spec.axes.items():
        if path == "method" or len(values) < 2:
            continue
        for value in values:
            own = [
                number
                for number, group in enumerate(load.groups)
                if canonical(load.cells[group.cell].values[path]) == canonical(value)
            ]
            if own:
                found.append(_share(planner, drawn, path, show_value(value), own))
    return found


def _search(planner: Planner, group: int) -> Search:
    search = planner.load.cells[planner.load.groups[group].cell].cell.search
    assert search is not None
    return search


def _share(planner: Planner, drawn: Draws, axis: str, value: str, groups: Sequence[int]) -> Share:
    seconds: NDArray[np.float64] = drawn.seconds[:, list(groups)].sum(axis=1)
    part = seconds / np.maximum(drawn.total, 1e-9)
    rate = planner.rate_per_hour
    return Share(
        axis,
        value,
        sum(planner.load.groups[number].count for number in groups),
        Spread.of(seconds),
        None if rate is None else Spread.of(part * drawn.makespan / 3600 * rate),
        float(np.median(part)),
        worst(planner.basis(work) for number in groups for work in planner.load.groups[number].works),
    )


# ------------------------------------------------------------------------------------------------- more machines


def sizes(planner: Planner, limits: Limits, drawn: Draws | None = None) -> tuple[list[Size], Size | None]:
    """The study on clusters of one and more machines of the same kinds.

    Args:
        planner: of the cluster as it is.
        limits: what has to be met.
        drawn: its draws, where they are made already.

    Returns:
        The sizes that were looked at, the smallest first; and the smallest that meets the limits, None where none
        does. Where the file has several kinds of machines, their shares stay the same.
    """
    looked: dict[int, Size] = {}
    if drawn is not None:
        counts = tuple(machine.count for machine in planner.machines)
        looked[sum(counts)] = _size_of(planner, counts, drawn, limits)

    def look(number: int) -> Size:
        if number not in looked:
            looked[number] = _size(planner, _scaled(planner, number), limits)
        return looked[number]

    def in_time(number: int) -> bool:
        return limits.seconds is None or look(number).makespan.high <= limits.seconds

    smallest = _smallest(planner)
    number, last = smallest, math.inf
    while True:
        found = look(number)
        # More machines than trials, or none that makes it shorter, and money is all that they take.
        if found.slots >= planner.load.trials or found.makespan.median > 0.98 * last or number >= _MOST_MACHINES:
            break
        last, number = found.makespan.median, min(2 * number, _MOST_MACHINES)
    look(planner.machine_count)
    # The fewest machines that are in time; more of them cost more.
    above = next((number for number in sorted(looked) if in_time(number)), None)
    if above is not None and above > smallest:
        below = max(number for number in looked if number < above)
        while above - below > 1:
            middle = (below + above) // 2
            below, above = (below, middle) if in_time(middle) else (middle, above)
    met = [number for number in sorted(looked) if looked[number].met]
    return [looked[number] for number in sorted(looked)], looked[met[0]] if met else None


def _smallest(planner: Planner) -> int:
    """The fewest machines on which a trial fits: with several workers it may need more than one."""
    for number in range(1, planner.machine_count + 1):
        try:
            planner.of_size(_scaled(planner, number))
        except ClusterError:
            continue
        return number
    return planner.machine_count


def _scaled(planner: Planner, total: int) -> tuple[int, ...]:
    """So many machines, of each kind about the share that it has now."""
    counts = [machine.count for machine in planner.machines]
    exact = [total * count / sum(counts) for count in counts]
    found = [int(value) for value in exact]
    for number in sorted(range(len(counts)), key=lambda at: found[at] - exact[at])[: total - sum(found)]:
        found[number] += 1
    return tuple(found)


def _size(planner: Planner, counts: tuple[int, ...], limits: Limits) -> Size:
    other = planner.of_size(counts)
    return _size_of(other, counts, other.draw(_DRAWS), limits)


def _size_of(planner: Planner, counts: tuple[int, ...], drawn: Draws, limits: Limits) -> Size:
    makespan, cost = Spread.of(drawn.makespan), _cost(planner, drawn)
    return Size(counts, planner.slots, makespan, cost, Spread.of(drawn.node_hours), limits.met(makespan, cost))


def _cost(planner: Planner, drawn: Draws) -> Spread | None:
    rate = planner.rate_per_hour
    return None if rate is None else Spread.of(drawn.makespan / 3600 * rate)


# ------------------------------------------------------------------------------------------------- less to run


def savings(planner: Planner, limits: Limits, convergence: Convergence) -> list[Saving]:
    """The study with fewer seeds, a coarser search or fewer epochs, each alone and all together; the best first."""
    whole = planner.of_spec(planner.spec)
    before = float(np.median(whole.draw(_DRAWS).total))
    found, together = [], planner.spec
    for change in _changes(planner.spec, convergence):
        found.append(_saving(planner, change.what, change.spec, before, limits, change.doubt))
        repeated = next((other for other in _changes(together, convergence) if other.kind == change.kind), None)
        if repeated is not None:
            together = repeated.spec
    found.sort(key=lambda saving: -saving.saved_seconds)
    if len(found) > 1:
        found.append(_saving(planner, "all of these together", together, before, limits, ""))
    return found


@dataclass(frozen=True)
class _Change:
    kind: str
    what: str
    spec: StudySpec
    doubt: str = ""


def _changes(spec: StudySpec, convergence: Convergence) -> Iterable[_Change]:
    least = max([search.seeds for search in spec.search] or [1])
    fewer = max(least, _LEAST_SEEDS, spec.seeds // 2)
    if fewer < spec.seeds:
        doubt = "Fewer seeds mean wider intervals" + ("; no p value is given below five." if fewer < 5 else ".")
        what = f"seeds: {fewer} instead of {spec.seeds}"
        yield _Change("seeds", what, spec.model_copy(update={"seeds": fewer}), doubt)
    thinner, what = _thinner(spec)
    if what:
        yield _Change("axis", what, thinner, "What happens between the values that are left is not seen.")
    coarser, what = _coarser(spec)
    if what:
        yield _Change("search", what, coarser, "An optimum between the points that are left is missed.")
    searched = any("training.epochs" in search.space for search in spec.search)
    if "training.epochs" not in spec.axes and not searched:
        now = spec.base.training.epochs
        needed = convergence.needed_epochs(_EPOCH_MARGIN)
        fewer = max(1, now // 2) if needed is None else needed
        if fewer < now:
            training = spec.base.training.model_copy(update={"epochs": fewer})
            other = spec.model_copy(update={"base": spec.base.model_copy(update={"training": training})})
            doubt = "" if needed is not None else "Nothing is known about how many epochs are needed."
            if needed is None and any(not cell.settled for cell in convergence.cells):
                doubt = "Best epochs came late so far: with fewer of them errors will grow."
            yield _Change("epochs", f"training.epochs: {fewer} instead of {now}", other, doubt)


def _thinner(spec: StudySpec) -> tuple[StudySpec, str]:
    """Every second value of the longest axis of numbers, the first and the last among them."""
    axes = {
        path: values
        for path, values in spec.axes.items()
        if len(values) >= 5 and all(isinstance(value, int | float) for value in values)
    }
    if not axes:
        return spec, ""
    path = max(axes, key=lambda name: len(axes[name]))
    values = axes[path]
    kept = values[::2] if len(values) % 2 else (*values[:-1:2], values[-1])
    what = f"{path}: {len(kept)} of its {len(values)} values"
    return spec.model_copy(update={"axes": {**spec.axes, path: kept}}), what


def _coarser(spec: StudySpec) -> tuple[StudySpec, str]:
    """Searches with steps twice as wide, or half as many draws."""
    words, searches = [], []
    for search in spec.search:
        space, update = dict(search.space), {}
        for path, domain in space.items():
            if search.trials is None and isinstance(domain, GridDomain):
                low, high, step = domain.grid
                if (high - low) / (2 * step) >= 1:
                    space[path] = domain.model_copy(update={"grid": (low, high, float(f"{2 * step:.12g}"))})
                    words.append(f"{path} in steps of {2 * step:.12g} instead of {step:.12g}")
        if search.trials is not None and search.trials > 1:
            update["trials"] = search.trials // 2
            words.append(f"{update['trials']} draws over {', '.join(space)} instead of {search.trials}")
        searches.append(search.model_copy(update={"space": space, **update}))
    return spec.model_copy(update={"search": tuple(searches)}), "; ".join(dict.fromkeys(words))


def _saving(planner: Planner, what: str, spec: StudySpec, before: float, limits: Limits, doubt: str) -> Saving:
    other = planner.of_spec(spec)
    drawn = other.draw(_DRAWS)
    makespan, cost = Spread.of(drawn.makespan), _cost(other, drawn)
    saved = max(0.0, before - float(np.median(drawn.total)))
    return Saving(
        what, other.load.trials, Spread.of(drawn.total), saved, makespan, cost, limits.met(makespan, cost), doubt
    )
