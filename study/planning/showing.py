"""Plans and backtests in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.console import show_table
from study.planning.advice import Limits, Share
from study.planning.answering import Answer
from study.planning.backtest import AIM, COVERED, Backtest
from study.planning.record import BASIS_WORDS, Plan, Spread
from study.result_files import printable

if TYPE_CHECKING:  # brings Ray
    from study.calibrating import Calibrated

__all__ = [
    "CalibrationDisplay",
    "duration",
    "show_answer",
    "show_backtest",
    "show_calibrated",
    "show_comparison",
]

_UNITS = ((1.0, "s"), (60.0, "min"), (3600.0, "h"))
_MOST_LINES = 12


def show_answer(console: Console, found: Answer) -> None:
    """The whole answer: figures, what they are made of, limits, and what to know."""
    plan = found.plan
    console.print(Text(f"{plan.study} on {plan.cluster}: {'; '.join(plan.machines)}", style="bold"))
    stored = f", {plan.stored:,} more are stored" if plan.stored else ""
    at_once = "one at a time" if plan.slots == 1 else f"{plan.slots:,} at a time"
    if not plan.trials:
        console.print(f"nothing to run: all {plan.stored:,} trials are stored; --whole plans them nevertheless")
        return
    console.print(f"{_count(plan.trials, 'trial')} to run{stored}; {at_once}")
    console.print()
    _show_figures(console, plan)
    _show_shares(console, "by method", found.methods, plan.currency)
    for axis in dict.fromkeys(share.axis for share in found.axes):
        _show_shares(console, axis, [share for share in found.axes if share.axis == axis], plan.currency)
    if sentence := _what_costs(found.methods):
        console.print(sentence)
    _show_convergence(console, found)
    _show_limits(console, found)
    console.print()
    rests = f"; rests also on {_list(found.studies)}" if found.studies else ""
    for basis, words in BASIS_WORDS.items():
        share = sum(item.share for item in found.methods if item.axis == "method" and item.basis == basis)
        if any(item.basis == basis for item in found.methods):
            console.print(Text(f"{basis} ({share:.0%} of the time): {words}{rests if basis == 'measured' else ''}."))
    console.print(Text(f"Money: {plan.cost_note}." if plan.cost is not None else f"No money: {plan.cost_note}."))
    for note in (*plan.notes, *found.notes):
        console.print(Text(printable(f"note: {note}"), style="yellow"))


def show_comparison(console: Console, answers: Sequence[Answer], limits: Limits) -> None:
    """A study on several clusters, side by side."""
    first = answers[0].plan
    console.print(Text(f"{first.study}: {_count(first.trials, 'trial')}", style="bold"))
    table = _table("cluster", "machines", "at a time", "on the clock", "trial time", "money", "energy", "fits", "known")
    limited = limits.seconds is not None or limits.cost is not None
    if limited:
        table.add_column("limits")
    for found in answers:
        plan = found.plan
        cells = [
            plan.cluster,
            "; ".join(plan.machines),
            f"{plan.slots:,}",
            duration(plan.makespan_seconds),
            duration(plan.seconds),
            _money(plan.cost, plan.currency),
            _energy(plan.energy_kwh),
            "no" if found.memory_problems else "yes",
            plan.basis,
        ]
        table.add_row(*map(Text, [*cells, *([_met(found.met)] if limited else [])]))
    show_table(console, table, whole=True)
    console.print("Medians, in brackets what eight of ten futures lie between.")
    for found in answers:
        for note in (f"money: {found.plan.cost_note}", *found.plan.notes):
            console.print(Text(f"{found.plan.cluster}: {note}"))


def show_backtest(console: Console, found: Backtest) -> None:
    """Planned against actual, for each finished study."""
    table = _table("study", "trials", "planned", "actual", "error", "in interval", "clock planned", "actual", "error")
    for item in found.replays:
        wall = "–" if item.actual_wall is None else _one(item.actual_wall)
        wall_error = "–" if item.wall_error is None else f"{item.wall_error:+.0%}"
        table.add_row(
            *map(
                Text,
                [
                    item.study, f"{item.trials:,}", duration(item.planned), _one(item.actual), f"{item.error:+.0%}",
                    "yes" if item.covered else "no", duration(item.planned_wall), wall, wall_error,
                ],
            )
        )  # fmt: skip
    if found.replays:
        show_table(console, table, whole=True)
        number = len(found.replays)
        console.print(
            f"trial time within ±{AIM:.0%}: {found.within} of {number}; inside the 10–90 % interval: {found.covered} "
            f"of {number} (aim: {COVERED:.0%})"
        )
    else:
        console.print("no finished study to plan again")
    for name, reason in found.skipped:
        console.print(Text(printable(f"left out: {name}: {reason}"), style="yellow"))


class CalibrationDisplay:
    """A line for each thing that is measured."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def about_to(self, what: str, done: int, total: int) -> None:
        """Something is about to be measured."""
        self._console.print(Text(f"{done + 1} of {total}: {what}"))

    def failed(self, what: str, reason: str) -> None:
        """Something could not be measured."""
        self._console.print(Text(f"  not measured: {reason}", style="red"))


def show_calibrated(console: Console, found: Calibrated) -> None:
    """What a calibration found."""
    table = _table("work", "at a time", "step", "evaluation of 1,000", "memory")
    rows: dict[tuple[str, str, int], dict[str, str]] = {}
    for item in found.observations:
        if item.work is None or item.quantity not in ("step_s", "evaluation_s", "base_memory_mb", "predict_s"):
            continue
        values = rows.setdefault((str(item.work), item.device.name, item.device.trials), {})
        spread = Spread(median=item.value, low=item.low, high=item.high)
        if item.quantity == "step_s":
            values["step"] = _milliseconds(spread)
        elif item.quantity in ("evaluation_s", "predict_s"):
            values["evaluation"] = _milliseconds(spread.times(1000))
        elif item.quantity == "base_memory_mb":
            values["memory"] = f"{item.value:,.0f} MB"
    for (work, _, trials), values in rows.items():
        table.add_row(Text(work), f"{trials}", *(values.get(name, "–") for name in ("step", "evaluation", "memory")))
    if rows:
        console.print()
        show_table(console, table, whole=True)
        console.print(
            "Medians, in brackets the quartiles. Memory is that of a process beside its data; KNN's evaluation is for "
            "each labelled sample."
        )
    for what, reason in found.failures:
        console.print(Text(f"not measured: {what}: {reason}", style="red"))
    if found.path is not None:
        console.print(Text(f"calibration: {found.path}"))


def _milliseconds(spread: Spread) -> str:
    low, middle, high = (_rounded(value * 1000) for value in (spread.low, spread.median, spread.high))
    return f"{middle} ms ({low} – {high})"


def duration(spread: Spread) -> str:
    """``4.2 min (3.9 – 4.6)``."""
    size, unit = _unit(spread.median)
    low, middle, high = (_rounded(value / size) for value in (spread.low, spread.median, spread.high))
    return f"{middle} {unit} ({low} – {high})"


def _one(seconds: float) -> str:
    size, unit = _unit(seconds)
    return f"{_rounded(seconds / size)} {unit}"


def _unit(seconds: float) -> tuple[float, str]:
    return next(((size, unit) for size, unit in reversed(_UNITS) if seconds >= 1.5 * size), _UNITS[0])


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _show_figures(console: Console, plan: Plan) -> None:
    table = _table("", "median", "10 – 90 %")
    memory = max((cell.memory_mb for cell in plan.cells if cell.memory_mb is not None), default=None)
    for name, spread in (("on the clock", plan.makespan_seconds), ("time of all trials", plan.seconds)):
        middle, _, interval = duration(spread).partition(" (")
        table.add_row(name, middle, interval.rstrip(")"))
    if plan.cost is not None:
        middle, _, interval = _money(plan.cost, plan.currency).partition(" (")
        table.add_row("money", middle, interval.rstrip(")"))
    if plan.energy_kwh is not None:
        middle, _, interval = _energy(plan.energy_kwh).partition(" (")
        table.add_row("energy", middle, interval.rstrip(")"))
    if memory is not None:
        table.add_row("memory of the largest trial", f"{memory:,.0f} MB", "")
    show_table(console, table, whole=True)


def _show_shares(console: Console, title: str, shares: Sequence[Share], currency: str | None) -> None:
    if not shares:
        return
    priced = any(share.cost is not None for share in shares)
    table = _table(title, "trials", "time of trials", "share", *(["money"] if priced else []), "known")
    for share in shares:
        inner = share.axis in ("search", "repeats")
        name = f"  {share.value}" if inner else share.value
        money = [_money(share.cost, currency)] if priced else []
        cells = [name, f"{share.trials:,}", duration(share.seconds), f"{share.share:.0%}", *money, share.basis]
        table.add_row(*(Text(cell, style="dim" if inner else "") for cell in cells))
    console.print()
    show_table(console, table, whole=True)


def _what_costs(shares: Sequence[Share]) -> str:
    """The most expensive search beside the method that needs none."""
    searches = [share for share in shares if share.axis == "search"]
    if not searches:
        return ""
    largest = max(searches, key=lambda share: share.share)
    method, _, search = largest.value.partition(": ")
    others = [share for share in shares if share.axis == "method" and share.value == "HDA" and method != "HDA"]
    beside = f"; HDA takes {others[0].share:.0%}" if others else ""
    return f"\nThe {search} of {method} is {largest.share:.0%} of the time of all trials{beside}."


def _show_convergence(console: Console, found: Answer) -> None:
    cells = found.convergence.cells
    if not cells:
        return
    console.print("\nepochs that were worth it so far")
    for cell in cells[:_MOST_LINES]:
        at = f"{cell.lowest}" if cell.lowest == cell.highest else f"{cell.lowest} – {cell.highest}"
        more = "" if cell.settled else "; more may help"
        console.print(Text(f"  {cell.label}: best epoch {at} of {cell.planned} ({_count(cell.trials, 'trial')}){more}"))
    if len(cells) > _MOST_LINES:
        console.print(f"  … and {len(cells) - _MOST_LINES} more cells")


def _show_limits(console: Console, found: Answer) -> None:
    currency = found.plan.currency
    if found.met is not None:
        asked = []
        if found.limits.seconds is not None:
            asked.append(f"a deadline in {_one(found.limits.seconds)}")
        if found.limits.cost is not None:
            asked.append(f"a budget of {found.limits.cost:,g} {currency or ''}".rstrip())
        verdict = "is met" if found.met else "is not met"
        console.print(f"\n{' and '.join(asked)} {verdict} by this cluster (nine futures of ten have to)")
    if found.sizes:
        limited = ["limits"] if found.met is not None else []
        table = _table("machines", "at a time", "on the clock", "money" if currency else "machine hours", *limited, "")
        for size in found.sizes:
            paid = _money(size.cost, currency) if size.cost is not None else _hours(size.node_hours)
            marks = ["this cluster"] if (size.machines, size.slots) == (found.machines, found.plan.slots) else []
            marks += ["the smallest that meets them"] if size is found.chosen else []
            met = [_met(size.met)] if limited else []
            cells = [f"{size.machines:,}", f"{size.slots:,}", duration(size.makespan), paid, *met]
            table.add_row(*cells, f"← {', '.join(marks)}" if marks else "")
        console.print()
        show_table(console, table, whole=True)
        if found.chosen is not None and found.met is not None:
            console.print(f"the smallest cluster that meets it: {_count(found.chosen.machines, 'machine')}")
        elif found.met is not None:
            console.print("no number of these machines meets it")
    if found.savings:
        title = "what to leave out" + (" (of the whole study)" if found.plan.stored else "")
        table = _table(title, "trials", "saves trial time", "on the clock", "money", "limits")
        for saving in found.savings:
            table.add_row(
                Text(saving.what), f"{saving.trials:,}", _one(saving.saved_seconds), duration(saving.makespan),
                _money(saving.cost, currency), _met(saving.met),
            )  # fmt: skip
        console.print()
        show_table(console, table, whole=True)
        for doubt in dict.fromkeys(saving.doubt for saving in found.savings if saving.doubt):
            console.print(Text(f"  {doubt}", style="dim"))


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    left = ("", "cluster", "machines", "study", "known")
    for number, title in enumerate(titles):
        table.add_column(title, justify="left" if number == 0 or title in left else "right")
    return table


def _money(spread: Spread | None, currency: str | None) -> str:
    if spread is None:
        return "–"
    low, middle, high = (
        f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}" if value >= 0.001 else "0.00"
        for value in (spread.low, spread.median, spread.high)
    )
    return f"{middle} {currency} ({low} – {high})"


def _energy(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    low, middle, high = (_rounded(value) for value in (spread.low, spread.median, spread.high))
    return f"{middle} kWh ({low} – {high})"


def _hours(spread: Spread) -> str:
    low, middle, high = (_rounded(value) for value in (spread.low, spread.median, spread.high))
    return f"{middle} h ({low} – {high})"


def _met(met: bool | None) -> str:
    return "–" if met is None else "met" if met else "not met"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
