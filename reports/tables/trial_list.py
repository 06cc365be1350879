"""Every trial."""

from __future__ import annotations

from reports.results import Results
from reports.tables.model import NOT_APPLICABLE, Cell, Column, Table
from reports.tables.numbers import distance_decimals, fixed, significant
from reports.tables.words import axis_cells, axis_columns, candidate_text, describe_split, state_words
from study.selection import config_value

__all__ = ["trial_list"]


def trial_list(results: Results) -> Table:
    """Every stored trial of the study with its key, grouped by cell."""
    metres = fixed(distance_decimals(results))
    searched = any(cell.searched for cell in results.cells)
    columns = (
        Column("Method", align="left"),
        *axis_columns(results.axes),
        *([Column("Candidate", align="left")] if searched else []),
        Column("Seed"),
        Column("State", align="left"),
        Column("Validation RMSE", "m"),
        Column("Test RMSE", "m"),
        Column("Time", "s"),
        Column("Repeat with", align="left"),
    )
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
            for column in ("validation_rmse_m", "test_rmse_m"):
                value = trial.number(column) if trial.state == "done" else None
                row.append(NOT_APPLICABLE if value is None else Cell(metres(value), value))
            seconds = trial.number("trial_seconds")
            row.append(NOT_APPLICABLE if seconds is None else Cell(significant(seconds), seconds))
            command = f"study rerun {trial.key}"
            row.append(Cell(command, command, keys=(trial.key,)))
            rows.append(tuple(row))
    return Table(
        "trials",
        "Every trial",
        f"One row per stored trial, its epoch that of lowest validation RMSE. {describe_split(results)}",
        columns,
        tuple(rows),
        (),
        tuple(breaks),
    )
