"""What a study was expected to cost, and what it did: by method, by axis, and on the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from reports.clock import Clock, read_clock
from reports.planned import PlannedCell, PlannedStudy, PlannedSum, Verdict, planned_study, verdict
from reports.results import Results, StudyCell, axis_label, axis_unit, value_label
from reports.tables.model import NOT_APPLICABLE, Cell, Column, Table
from reports.tables.numbers import decimals_of, fixed, time_scale
from reports.tables.words import TIME_NOTE, describe_split, plural
from study.planning.record import BASIS_WORDS, Plan, Spread
from study.result_files import printable
from study.selection import canonical

__all__ = ["describe_plan", "planned", "planned_axes", "planned_totals"]

_MOST_NOTES = 8
_INTERVAL = "the interval that holds it in 8 of 10 cases (10 – 90 %)"
_VERDICTS: dict[Verdict, str] = {
    "inside": "the actual value lies in the planned interval",
    "above": "more than the planned interval",
    "below": "less than the planned interval",
}


def describe_plan(results: Results) -> str:
    """Whether there is a plan to compare with, in a sentence; empty where there is."""
    study = planned_study(results)
    if study is None:
        return "No plan was made before the run."
    return f"The plan that was made before the run cannot be used: {study}." if isinstance(study, str) else ""


def planned(results: Results) -> Table | None:
    """Planned and actual hours by method; ``None`` without a plan."""
    study = planned_study(results)
    if study is None or isinstance(study, str):
        return None
    layout = _Layout(study)
    columns = (
        Column("Method", align="left", names=True),
        *layout.columns,
        Column("Basis", align="left", note="where the planned times come from"),
    )
    rows = [
        (Cell(name, name), *layout.cells(own), Cell(own.basis, own.basis, note=BASIS_WORDS[own.basis]))
        for name, own in (*study.by_method.items(), ("All", study.all))
    ]
    caption = (
        f"{describe_split(results)} What the plan expected before the first trial, and what the trials took, summed "
        f"over trials. Planned: the median, with {_INTERVAL}.{layout.words}"
    )
    notes = [
        "Medians add up. Intervals do as those of all cells to that of the whole plan, which says how far cells are "
        "slow or fast together.",
        *_basis_notes(study),
        TIME_NOTE,
        *_left_out(study),
        *_plan_notes(study.plan),
    ]
    return Table("planned", "Planned and actual", caption, columns, tuple(rows), tuple(notes), (len(rows) - 1,))


def planned_axes(results: Results) -> Table | None:
    """Planned and actual hours by value of each axis and by what is searched; ``None`` where nothing varies."""
    study = planned_study(results)
    if study is None or isinstance(study, str):
        return None
    groups = _groups(results, study)
    if not groups:
        return None
    layout = _Layout(study)
    columns = (
        Column("Axis", align="left", names=True),
        Column("Value", align="left", names=True),
        *layout.columns,
    )
    rows: list[tuple[Cell, ...]] = []
    breaks = []
    for axis, members in groups:
        if rows:
            breaks.append(len(rows))
        rows += [(Cell(axis, axis), Cell(value, value), *layout.cells(study.sum(own))) for value, own in members]
    told = [
        f"{_searched(own[0].cell)} takes {_percent(layout.planned_share(total))} % of the planned time"
        + (f" and took {_percent(share)} % of the actual one" if (share := layout.actual_share(total)) else "")
        for own in _searches(study)
        if (total := study.sum(own)).trials
    ]
    caption = (
        f"{describe_split(results)} The same by value of each axis: the values of one axis add up to the whole study."
        f"{layout.words}{''.join(f' {words}.' for words in told)}"
    )
    return Table(
        "planned_axes", "Planned and actual, by axis", caption, columns, tuple(rows), tuple(_left_out(study)),
        tuple(breaks),
    )  # fmt: skip


def planned_totals(results: Results) -> Table | None:
    """Time on the clock, money and energy, planned and actual; ``None`` without a plan."""
    study = planned_study(results)
    if study is None or isinstance(study, str):
        return None
    plan, clock = study.plan, read_clock(results.folder)
    if isinstance(clock, Clock):
        clock = replace(clock, seconds=clock.seconds + (clock.runs - clock.cut) * plan.beside_seconds)
    share = 1.0 if study.complete and not study.gone else study.share
    scale, unit = time_scale([plan.makespan_seconds.median])
    lines = [("Time on the clock", unit, plan.makespan_seconds.times(1 / scale), 1 / scale)]
    span = plan.makespan_seconds.median
    for name, own, spread in (
        ("Money", _short(plan.currency or "", 12), plan.cost),
        ("Energy", "kWh", plan.energy_kwh),
    ):
        if spread is not None:
            lines.append((name, own, spread, spread.median / span if span else 0.0))
    # Each has what a second of the planned machines has of it.
    rows = [_total_row(name, own, spread, rate, share, clock) for name, own, spread, rate in lines]
    columns = (
        Column("What", align="left", names=True),
        Column("Unit", align="left"),
        Column("Planned", spread=True, note=f"for the whole study: the median, with {_INTERVAL}"),
        *([] if share == 1.0 else [Column("Planned so far", spread=True, note=_SO_FAR)]),
        Column("Actual"),
        Column("Actual ÷ planned", "%"),
        Column("Interval", align="left", note=_VERDICT_NOTE),
    )
    caption = (
        f"{describe_split(results)} From each command to its report, summed: what the log tells of the run, and "
        f"{plan.beside_seconds:.0f} s for imports and the report."
    )
    if share != 1.0:
        caption += (
            " What is stored is not what was planned: actual values are compared with “planned so far”, the part that "
            "the stored trials have of the planned time of all."
        )
    if len(lines) > 1:
        caption += " Actual money and energy are those of the planned machines over the actual time on the clock."
    return Table(
        "planned_totals", "On the clock", caption, columns, tuple(rows), tuple(_total_notes(plan, clock)),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- columns

_SO_FAR = "of the stored trials: the planned time per trial of each cell, times its stored trials"
_VERDICT_NOTE = "; ".join(f"{word}: {words}" for word, words in _VERDICTS.items())


class _Layout:
    """The columns that the tables of hours share.

    Args:
        study: the study, whose whole the shares are of.
    """

    def __init__(self, study: PlannedStudy) -> None:
        self._all = study.all
        self._complete = study.complete
        self._scale, self._unit = time_scale([self._all.seconds.median, self._all.actual])
        largest = max(max(own.seconds.median, own.actual) for own in study.by_method.values()) / self._scale
        self._write = fixed(decimals_of(largest)) if largest else fixed(1)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What every row has after its name."""
        whole = "trials" if self._complete else "all planned trials"
        return (
            Column("Trials", note="planned"),
            Column("Stored", note="trials that ran to an end, whatever it was"),
            Column("Planned", self._unit, spread=True, note=f"time of the {whole}: the median, with {_INTERVAL}"),
            Column("Planned share", "%", extra=True, note="of the planned time of the whole study"),
            *([] if self._complete else [Column("Planned so far", self._unit, spread=True, note=_SO_FAR)]),
            Column("Actual", self._unit, note="everything the stored trials did: data, training, test"),
            Column("Actual share", "%", extra=True, note="of the actual time of all stored trials"),
            Column("Actual ÷ planned", "%", note=None if self._complete else "of what is planned so far"),
            Column("Interval", align="left", note=_VERDICT_NOTE),
        )

    def cells(self, own: PlannedSum) -> tuple[Cell, ...]:
        """A row after its name."""
        keys = tuple(trial.key for trial in own.stored)
        actual = own.actual / self._scale
        return (
            Cell(str(own.trials), own.trials),
            Cell(str(len(own.stored)), len(own.stored), keys=keys, hole=len(own.stored) < own.trials),
            self._spread(own.seconds),
            _share_cell(self.planned_share(own)),
            *([] if self._complete else [self._spread(own.expected)]),
            Cell(self._write(actual), actual, keys=keys) if own.timed else NOT_APPLICABLE,
            _share_cell(self.actual_share(own)),
            _share_cell(own.ratio),
            _verdict_cell(own.verdict),
        )

    def planned_share(self, own: PlannedSum) -> float | None:
        """Of the planned time of the whole study."""
        return own.seconds.median / self._all.seconds.median if self._all.seconds.median else None

    def actual_share(self, own: PlannedSum) -> float | None:
        """Of the actual time of all stored trials."""
        return own.actual / self._all.actual if self._all.actual else None

    @property
    def words(self) -> str:
        """How planned and actual are made comparable, for a caption; empty where they are."""
        if self._complete:
            return ""
        return (
            " Not every cell has as many stored trials as were planned. Actual times are compared with “planned so "
            "far”: the planned time per trial of each cell, times its stored trials."
        )

    def _spread(self, spread: Spread) -> Cell:
        return _spread_cell(spread.times(1 / self._scale), self._write)


def _spread_cell(spread: Spread, write: Callable[[float], str]) -> Cell:
    interval = f"{write(spread.low)} – {write(spread.high)}"
    return Cell(write(spread.median), spread.median, interval, spread.low, spread.high)


def _share_cell(share: float | None) -> Cell:
    return NOT_APPLICABLE if share is None else Cell(_percent(share), 100 * share)


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    # A share that is there is not nothing.
    return f"{100 * share:.0f}" if share >= 0.1 or not share else f"{100 * share:.1f}" if share >= 5e-4 else "< 0.1"


def _verdict_cell(found: Verdict | None) -> Cell:
    return NOT_APPLICABLE if found is None else Cell(found, found, note=_VERDICTS[found])


# ------------------------------------------------------------------------------------------------- groups


def _groups(results: Results, study: PlannedStudy) -> list[tuple[str, list[tuple[str, list[PlannedCell]]]]]:
    """Axis in words → its values in words, in the order of the spec, with their cells."""
    groups = []
    searches = _searches(study)
    if searches:
        others = [item for item in study.cells if not item.cell.searched]
        members = [(_search_value(own[0].cell), own) for own in searches]
        groups.append(("Search", members + ([("nothing searched", others)] if others else [])))
    for path in results.axes:
        by_value: dict[str, list[PlannedCell]] = {}
        for item in study.cells:
            by_value.setdefault(canonical(item.cell.axes.get(path)), []).append(item)
        if len(by_value) > 1:
            unit = axis_unit(path)
            # What does not read the axis comes last.
            ordered = sorted(by_value.values(), key=lambda own: own[0].cell.axes.get(path) is None)
            named = [(_value_words(own[0].cell.axes.get(path)), own) for own in ordered]
            groups.append((axis_label(path) + (f" [{unit}]" if unit else ""), named))
    return groups


def _searches(study: PlannedStudy) -> list[list[PlannedCell]]:
    """The searched cells, by method and by what is searched."""
    found: dict[tuple[str, tuple[str, ...]], list[PlannedCell]] = {}
    for item in study.cells:
        if item.cell.searched:
            found.setdefault((item.cell.method, item.cell.searched), []).append(item)
    return list(found.values())


def _searched(cell: StudyCell) -> str:
    return f"The search over {_paths(cell)} for {cell.method}, with the repeats of its winner,"


def _search_value(cell: StudyCell) -> str:
    return f"{_paths(cell)} for {cell.method}"


def _paths(cell: StudyCell) -> str:
    return ", ".join(map(axis_label, cell.searched))


def _value_words(value: Any) -> str:
    return "does not apply" if value is None else value_label(value)


# ------------------------------------------------------------------------------------------------- totals and notes


def _total_row(
    name: str, unit: str, spread: Spread, rate: float, share: float | None, clock: Clock | str
) -> tuple[Cell, ...]:
    """A row of what the whole study takes.

    Args:
        name: what it is.
        unit: its unit.
        spread: of the plan.
        rate: how much of it a second on the clock takes.
        share: the part of the plan that is comparable with what is stored.
        clock: the time that it took.
    """
    write = fixed(decimals_of(spread.median)) if spread.median else fixed(1)
    cells = [Cell(name, name), Cell(unit, unit), _spread_cell(spread, write)]
    comparable = None if share is None else spread.times(share)
    if share != 1.0:
        cells.append(NOT_APPLICABLE if comparable is None else _spread_cell(comparable, write))
    if isinstance(clock, str):
        return (*cells, Cell("— not known", hole=True, note=clock), NOT_APPLICABLE, NOT_APPLICABLE)
    actual = clock.seconds * rate
    ratio = actual / comparable.median if comparable is not None and comparable.median else None
    found = None if comparable is None else verdict(actual, comparable)
    return (*cells, Cell(write(actual), actual), _share_cell(ratio), _verdict_cell(found))


def _total_notes(plan: Plan, clock: Clock | str) -> list[str]:
    notes = []
    if isinstance(clock, str):
        notes.append(f"The time on the clock is not known: {clock}.")
    elif clock.cut:
        notes.append(
            f"{clock.cut} of {plural(clock.runs, 'run')} {'has' if clock.cut == 1 else 'have'} no end in events.jsonl "
            f"and {'counts to its' if clock.cut == 1 else 'count to their'} last event."
        )
    elif clock.runs > 1:
        notes.append(f"{clock.runs} runs, summed.")
    if plan.cost_note:
        notes.append(f"{'Price' if plan.cost is not None else 'No price'}: {_sentence(plan.cost_note)}")
    if plan.energy_kwh is None:
        notes.append("No energy: the plan does not know the watts of its machines.")
    return notes


def _basis_notes(study: PlannedStudy) -> list[str]:
    shown = {item.basis for item in study.cells}
    words = [f"“{name}” is {text}" for name, text in BASIS_WORDS.items() if name in shown]
    return [f"Basis, of several the worst: {'; '.join(words)}."]


def _left_out(study: PlannedStudy) -> list[str]:
    """What is in the plan or in the study alone."""
    notes = []
    stored = sum(len(cell.trials) for cell in study.unplanned)
    if study.unplanned:
        notes.append(
            f"Left out: {plural(len(study.unplanned), 'cell')} with {plural(stored, 'stored trial')} that the plan "
            "does not have."
        )
    if study.gone:
        notes.append(
            f"Left out: {plural(study.gone, 'planned cell')} that the study, as its spec stands now, does not have."
        )
    untimed = len(study.all.stored) - study.all.timed
    if untimed:
        notes.append(f"{plural(untimed, 'stored trial')} without a time, which are not compared.")
    return notes


def _plan_notes(plan: Plan) -> list[str]:
    """What the plan says of itself; its texts may be a stranger's, and of any length."""
    machines = _listed(plan.machines, _MOST_NOTES)
    made = f"Planned {_short(plan.made_at, 40)} by study {_short(plan.study_version, 40)}"
    notes = [
        f"{made} for {_short(plan.cluster)}{f' ({machines})' if machines else ''}, "
        f"{plural(plan.slots, 'trial')} at the same time."
    ]
    if plan.stored:
        notes.append(f"{plural(plan.stored, 'trial')} of the study were stored before, and are no part of the plan.")
    return notes + [_sentence(note) for note in plan.notes[:_MOST_NOTES]]


def _listed(texts: Sequence[str], most: int) -> str:
    more = f", and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(map(_short, texts[:most])) + more


def _sentence(text: str) -> str:
    text = _short(text)
    return text if text.endswith((".", "…")) else f"{text}."


def _short(text: str, most: int = 300) -> str:
    text = printable(" ".join(text[: 4 * most].split()))
    return text if len(text) <= most else f"{text[: most - 1]}…"
