"""What a study cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from reports.comparison import seconds_of, spared_seconds
from reports.results import STATES, Results, StudyCell, Trial
from reports.tables.model import NOT_APPLICABLE, Cell, Column, Table
from reports.tables.numbers import decimals_of, fixed, significant, time_scale
from reports.tables.planned import describe_plan
from reports.tables.words import TIME_NOTE, damage_notes, describe_split, plural, state_words

__all__ = ["cost", "describe_early_stopping"]


def cost(results: Results) -> Table:
    """What the study cost, per method: trials planned and stored, how they ended, and hours."""
    groups: dict[str, list[StudyCell]] = {}
    for cell in results.cells:
        groups.setdefault(cell.method, []).append(cell)
    totals = [seconds_of((t for cell in cells for t in cell.trials), "trial_seconds") for cells in groups.values()]
    scale, unit = time_scale([sum(totals)])
    write = fixed(decimals_of(max(totals, default=0.0) / scale) if any(totals) else 1)
    pruned = any(trial.state == "pruned" for trial in results.trials)
    columns = (
        Column("Method", align="left", names=True),
        Column("Planned", note="trials that the spec asks for, repeats of winners included"),
        Column("Stored", note="trials that ran to an end, whatever it was"),
        *(Column(state_words(state).capitalize()) for state in STATES),
        Column("Mean training", "s per trial", note="of the trials that are done"),
        Column("Total", unit, note="everything the trials did: data, training, test"),
        Column("Without result", unit, note="the part spent in trials that are not done"),
        *([Column("Spared", unit, note="training that early stopping spared, estimated")] if pruned else []),
    )
    rows: list[tuple[Cell, ...]] = []
    for method in results.methods:
        trials = [t for cell in groups[method] for t in cell.trials]
        rows.append(_cost_row(method, trials, groups[method], scale, write, spared=pruned))
    rows.append(_cost_row("All", results.trials, results.cells, scale, write, spared=pruned))
    caption = (
        f"{describe_split(results)} Times are summed over trials; trials that ran side by side took less time on the "
        "clock."
    )
    if pruned:
        caption += f" {describe_early_stopping(results)}"
    if plan := describe_plan(results):
        caption += f" {plan}"
    return Table(
        "cost", "Trials and their time", caption, columns, tuple(rows), (TIME_NOTE, *damage_notes(results)),
        (len(rows) - 1,),
    )  # fmt: skip


def describe_early_stopping(results: Results) -> str:
    """How many trials were stopped early, and what that spared; empty if none was."""
    number = sum(trial.state == "pruned" for trial in results.trials)
    if not number:
        return ""
    spared = sum(map(spared_seconds, results.cells))
    whole = spared + seconds_of(results.trials)
    scale, unit = time_scale([spared])
    share = f", {spared / whole:.0%} of what it would have taken" if whole else ""
    return (
        f"{plural(number, 'trial')} {'was' if number == 1 else 'were'} stopped early, which spared about "
        f"{significant(spared / scale, 2)} {unit} of training{share}."
    )


def _cost_row(
    name: str,
    trials: Sequence[Trial],
    cells: Sequence[StudyCell],
    scale: float,
    write: Callable[[float], str],
    *,
    spared: bool,
) -> tuple[Cell, ...]:
    planned = sum(cell.planned for cell in cells)
    # No interval: these are thousands of trials of different settings, not draws of one.
    by_state = {state: tuple(trial for trial in trials if trial.state == state) for state in STATES}
    done = by_state["done"]
    times = [value for trial in done if (value := trial.number("train_seconds")) is not None]
    mean = math.fsum(times) / len(times) if times else None
    total = seconds_of(trials, "trial_seconds") / scale
    wasted = [trial for trial in trials if trial.state != "done"]
    lost = seconds_of(wasted, "trial_seconds") / scale
    seconds = sum(map(spared_seconds, cells)) / scale
    return (
        Cell(name, name),
        Cell(str(planned), planned),
        Cell(str(len(trials)), len(trials), keys=_keys(trials), hole=len(trials) < planned),
        *(
            Cell(str(len(ended)), len(ended), keys=_keys(ended), hole=state != "done" and bool(ended))
            for state, ended in by_state.items()
        ),
        NOT_APPLICABLE if mean is None else Cell(significant(mean), mean, keys=_keys(done)),
        Cell(write(total), total, keys=_keys(trials)),
        Cell(write(lost), lost, keys=_keys(wasted)),
        *([Cell(write(seconds), seconds)] if spared else []),
    )


def _keys(trials: Sequence[Trial]) -> tuple[str, ...]:
    return tuple(trial.key for trial in trials)
