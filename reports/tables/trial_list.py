"""Every trial."""

from __future__ import annotations

from collections.abc import Callable

from reports.results import Results
from reports.tables.model import NOT_APPLICABLE, Cell, Column, Table
from reports.tables.numbers import distance_decimals, fixed, significant
from reports.tables.words import (
    axis_cells,
    axis_columns,
    candidate_text,
    describe_split,
    state_words,
    tested_epoch,
    untrained_cell,
    untrained_notes,
)
from study.selection import config_value

__all__ = ["trial_list"]


def trial_list(results: Results) -> Table:
    """Every stored trial of the study with its key, grouped by cell."""
    metres = fixed(distance_decimals(results))
    searched = any(cell.searched for cell in results.cells)
    columns = (
        Column("Method", align="left", names=True),
        *axis_columns(results.axes),
        *([Column("Candidate", align="left", names=True)] if searched else []),
        Column("Seed", names=True),
        Column("State", align="left"),
        Column("Validation RMSE", "m"),
        Column("Test RMSE", "m"),
        Column("Median", "m", extra=True),
        Column("90th pct.", "m", extra=True),
        Column("Accuracy"),
        Column("Best epoch"),
        Column("Parameters", extra=True),
        Column("Time", "s"),
        Column("Repeat with", align="left"),
    )
    shown: dict[str, Callable[[float], str]] = {
        "validation_rmse_m": metres,
        "test_rmse_m": metres,
        "test_median_error_m": metres,
        "test_p90_error_m": metres,
        "test_accuracy": fixed(3),
        "best_epoch": fixed(0),
        "parameters": lambda value: f"{value:,.0f}",
    }
    rows: list[tuple[Cell, ...]] = []
    breaks = []
    for cell in results.cells:
        if cell.trials and rows:
            breaks.append(len(rows))
        for trial in cell.trials:
            candidate = candidate_text({path: config_value(trial.config, path) for path in cell.searched})
            error = trial.text("error")
            row = [
                Cell(cell.method, cell.method),
                *axis_cells(cell, results.axes),
                *([Cell(candidate, candidate)] if searched else []),
                Cell(str(trial.seed), trial.seed),
                Cell(state_words(trial.state), state_words(trial.state), note=error, hole=trial.state != "done"),
            ]
            for column, written in shown.items():
                value = trial.number(column) if trial.state == "done" else None
                cell_of = NOT_APPLICABLE if value is None else Cell(written(value), value)
                row.append(cell_of if value is None else untrained_cell([trial], column) or cell_of)
            seconds = trial.number("trial_seconds")
            row.append(NOT_APPLICABLE if seconds is None else Cell(significant(seconds), seconds))
            command = f"study rerun {trial.key}"
            row.append(Cell(command, command, keys=(trial.key,)))
            rows.append(tuple(row))
    return Table(
        "trials",
        "Every trial",
        f"One row per stored trial, its epoch that of {tested_epoch(results)}. {describe_split(results)}",
        columns,
        tuple(rows),
        tuple(untrained_notes(results.trials)),
        tuple(breaks),
    )
