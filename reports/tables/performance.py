"""The main table: errors and accuracy of every cell."""

from __future__ import annotations

from collections.abc import Sequence

from reports.comparison import CellIndex, interval_of
from reports.published import PublishedValues
from reports.results import Results, StudyCell, Trial
from reports.tables.judgement import bold_candidates, bold_rows, describe_bold, describe_interval
from reports.tables.model import NOT_APPLICABLE, Cell, Column, Table
from reports.tables.numbers import distance_decimals, fixed
from reports.tables.paper import PAPER_NOTE, PaperColumns
from reports.tables.words import (
    axis_cells,
    axis_columns,
    breaks_of,
    candidate_words,
    damage_notes,
    describe_selection,
    describe_split,
    hole,
    metric_cell,
    missing_words,
    not_finished_cell,
    reference_notes,
    seeds_cell,
    untrained_notes,
)

__all__ = ["best_epoch", "performance"]

# What may be bold, and whether less is better.
_JUDGED = (
    ("test_rmse_m", True),
    ("test_median_error_m", True),
    ("test_p90_error_m", True),
    ("test_accuracy", False),
)


def performance(results: Results) -> Table:
    """The main table: one row per cell with errors, accuracy, best epoch and what is missing."""
    cells = results.cells
    metres = fixed(distance_decimals(results))
    selected = any(cell.searched for cell in cells)
    published = PublishedValues(results)
    papers = [published.of_cell(cell) for cell in cells]
    paper_rmse = PaperColumns("RMSE", "m", "test_rmse", papers, fixed(4), None)
    paper_accuracy = PaperColumns("Accuracy", None, "test_accuracy", papers, fixed(4), fixed(3))
    groups = _same_samples(results)
    best = {column: bold_rows(groups, column, lower=lower) for column, lower in _JUDGED}
    columns = [
        Column("Method", align="left", names=True),
        *axis_columns(results.axes),
        *(
            [Column("Selected", align="left", note="searched settings, chosen on the validation scenes")]
            if selected
            else []
        ),
        Column("RMSE", "m", spread=True, note="root mean square localization error on the test scenes"),
        *paper_rmse.columns,
        Column("Median", "m", spread=True, note="median localization error"),
        Column("90th pct.", "m", spread=True, note="90th percentile of the localization error"),
        Column(
            "Accuracy", spread=True, note="share of test samples whose propagation condition is predicted correctly"
        ),
        *paper_accuracy.columns,
        Column("Best epoch", note="mean of the epochs that were tested, of the epochs run"),
        Column("Seeds", align="left", note="finished of wanted"),
        Column("Not finished", align="left"),
    ]
    rows: list[tuple[Cell, ...]] = []
    for number, (cell, paper) in enumerate(zip(cells, papers, strict=True)):
        row = [Cell(cell.method, cell.method), *axis_cells(cell, results.axes)]
        if selected:
            row.append(candidate_words(cell))
        done = cell.done
        if not done:
            empty = Cell("", hole=True)
            row.extend([hole(cell), *paper_rmse.cells(paper, None), empty, empty, empty])
            row.extend([*paper_accuracy.cells(paper, None), empty])
        else:
            means = {
                column: interval_of(done, column, (0.0, float("inf") if lower else 1.0)) for column, lower in _JUDGED
            }
            texts = [
                metric_cell(means[column], metres if lower else fixed(3), done, column, best=number in best[column])
                for column, lower in _JUDGED
            ]
            rmse, accuracy = means["test_rmse_m"], means["test_accuracy"]
            row.extend([texts[0], *paper_rmse.cells(paper, rmse), *texts[1:]])
            row.extend([*paper_accuracy.cells(paper, accuracy), best_epoch(done)])
        row.append(seeds_cell(cell.reported, cell.seeds))
        row.append(not_finished_cell(missing_words(cell)))
        rows.append(tuple(row))
    largest = max((len(bold_candidates(group, column)) for group in groups for column, _ in _JUDGED), default=0)
    caption = " ".join(
        [
            describe_split(results),
            describe_selection(results),
            describe_interval(results),
            describe_bold(results, largest),
        ]
    )
    notes = [
        *reference_notes(results),
        *untrained_notes(trial for cell in cells for trial in cell.done),
        *([PAPER_NOTE] if paper_rmse.shown or paper_accuracy.shown else []),
        *damage_notes(results),
    ]
    return Table(
        "performance", "Localization error and condition accuracy", caption, tuple(columns), tuple(rows),
        tuple(notes), breaks_of(cells),
    )  # fmt: skip


def _same_samples(results: Results) -> list[list[tuple[int, StudyCell]]]:
    """The rows that can be compared, by number: of one system and split, and so of the same test samples."""
    numbers = {id(cell): number for number, cell in enumerate(results.cells)}
    others = [path for path in results.axes if not path.startswith(("system.", "split."))]
    index = CellIndex(results.cells, without=others)
    return [
        [(numbers[id(cell)], cell) for cell in index.of(configuration)]
        for configuration in results.configurations(without=others)
    ]


def best_epoch(done: Sequence[Trial]) -> Cell:
    """The mean best epoch, and how many epochs were run."""
    best = interval_of(done, "best_epoch")
    if best is None:
        return NOT_APPLICABLE
    run = sorted({int(count) for trial in done if (count := trial.number("epochs")) is not None})
    total = "" if not run else f" of {run[0]}" if len(run) == 1 else f" of {run[0]}–{run[-1]}"
    return Cell(f"{best.mean:.0f}{total}", best.mean, n=best.n, keys=tuple(trial.key for trial in done))
