"""Manual optimum against self-weighted."""

from __future__ import annotations

from reports.comparison import GAMMA, Comparison, Side, compare, interval_of
from reports.published import PublishedValues
from reports.results import LAMBDA, Results
from reports.statistics import Paired, paired
from reports.tables.judgement import (
    corrected,
    describe_interval,
    describe_test,
    effect_cell,
    p_cell,
    p_columns,
    values_of,
)
from reports.tables.model import NOT_APPLICABLE, Cell, Column, Table
from reports.tables.numbers import decimals_of, distance_decimals, fixed, significant, time_scale
from reports.tables.paper import PAPER_NOTE, PaperColumns, planned_as_published
from reports.tables.performance import best_epoch
from reports.tables.words import (
    TIME_NOTE,
    axis_cell,
    axis_columns,
    damage_notes,
    describe_selection,
    describe_split,
    hole_of,
    metric_cell,
    not_finished,
    not_finished_cell,
    seeds_cell,
    untrained_notes,
)

__all__ = ["manual_optimum"]


def manual_optimum(results: Results) -> Table | None:
    """Manual optimum against self-weighted, per system configuration; ``None`` when the study has no such pair."""
    comparisons = [pair for pair in compare(results) if pair.manual is not None and pair.learned is not None]
    if not comparisons:
        return None
    metres = fixed(distance_decimals(results))
    entries = [(pair, side) for pair in comparisons for side in (pair.learned, pair.manual) if side is not None]
    scale, unit = time_scale(side.training_seconds for _, side in entries)
    totals = [side.training_seconds / scale for _, side in entries if side.training_seconds > 0]
    time = fixed(decimals_of(min(totals)) if totals else 1)
    published = PublishedValues(results)
    papers = [_published(published, pair, side) for pair, side in entries]
    paper_rmse = PaperColumns("RMSE", "m", "test_rmse", papers, fixed(4), None)
    paper_accuracy = PaperColumns("Accuracy", None, "test_accuracy", papers, fixed(4), fixed(3))
    epochs = fixed(0) if planned_as_published(results) else None
    paper_epoch = PaperColumns("Best epoch", None, "best_epoch", papers, fixed(0), epochs)
    differences = corrected([_against_learned(pair, side) for pair, side in entries])
    axes = [path for path, _ in comparisons[0].configuration]
    columns = (
        *axis_columns(axes),
        Column("Weights", align="left", names=True),
        Column("RMSE", "m", spread=True),
        *paper_rmse.columns,
        Column("Accuracy", spread=True),
        *paper_accuracy.columns,
        Column("Best epoch"),
        *paper_epoch.columns,
        Column("λ", note="weight of coordinate regression"),
        Column("γ", note="focusing parameter of the focal loss"),
        Column("RMSE − HDA", "m", spread=True, extra=True, note="paired over the seeds; above zero, HDA is better"),
        *p_columns(),
        Column("Seeds", align="left"),
        Column("Not finished", align="left", extra=True),
        Column("Trials", note="every trial that was needed, search and repeats"),
        Column("Time", unit, note="training time of all these trials"),
        Column("Cost", "× HDA", note="training time over that of HDA"),
    )
    rows: list[tuple[Cell, ...]] = []
    breaks = []
    for (pair, side), paper, difference in zip(entries, papers, differences, strict=True):
        learned = side is pair.learned
        if learned and rows:
            breaks.append(len(rows))
        row = [*(axis_cell(value) for _, value in pair.configuration), Cell(side.name, side.name)]
        rmse, accuracy, epoch = (
            interval_of(side.done, "test_rmse_m"),
            interval_of(side.done, "test_accuracy", (0.0, 1.0)),
            interval_of(side.done, "best_epoch"),
        )
        if side.done:
            row += [metric_cell(rmse, metres, side.done, "test_rmse_m"), *paper_rmse.cells(paper, rmse)]
            row += [
                metric_cell(accuracy, fixed(3), side.done, "test_accuracy"),
                *paper_accuracy.cells(paper, accuracy),
            ]
            row += [best_epoch(side.done), *paper_epoch.cells(paper, epoch)]
        else:
            empty = Cell("", hole=True)
            row += [
                hole_of(side.spent, side.reported, side.seeds, side.candidates),
                *paper_rmse.cells(paper, None),
            ]
            row += [empty, *paper_accuracy.cells(paper, None), empty, *paper_epoch.cells(paper, None)]
        row += [
            Cell("learned", "learned") if learned else axis_cell(side.weight(LAMBDA)),
            axis_cell(side.weight(GAMMA)),
        ]
        row += [
            NOT_APPLICABLE if difference is None else difference.cell(metres, side.done),
            p_cell(difference),
            effect_cell(difference),
        ]
        row.append(seeds_cell(side.reported, side.seeds))
        row.append(not_finished_cell(not_finished(side.spent, side.reported, side.seeds, side.candidates)))
        spent = tuple(trial.key for trial in side.spent)
        row.append(Cell(str(len(spent)), len(spent), keys=spent))
        row.append(Cell(time(side.training_seconds / scale), side.training_seconds / scale, keys=spent))
        ratio = (1.0 if side.spent else None) if learned else pair.ratio
        row.append(Cell("— incomplete", hole=True) if ratio is None else Cell(significant(ratio, 2), ratio))
        rows.append(tuple(row))
    caption = " ".join(
        [
            describe_split(results),
            describe_selection(results),
            describe_interval(results),
            describe_test(results, "HDA"),
            "Trials and training time count every search trial, whatever its end, and the repeats on all seeds.",
        ]
    )
    shown = paper_rmse.shown or paper_accuracy.shown or paper_epoch.shown
    return Table(
        "manual_optimum",
        "Manually weighted (MDA) and self-weighted (HDA)",
        caption,
        columns,
        tuple(rows),
        (
            *untrained_notes(t for _, side in entries for t in side.done),
            TIME_NOTE,
            *([PAPER_NOTE] if shown else []),
            *damage_notes(results),
        ),
        tuple(breaks),
    )


def _against_learned(pair: Comparison, side: Side) -> Paired | None:
    if side is pair.learned or pair.learned is None:
        return None
    return paired(values_of(side.done, "test_rmse_m"), values_of(pair.learned.done, "test_rmse_m"))


def _published(published: PublishedValues, pair: Comparison, side: Side) -> dict[str, float]:
    config = side.reported[0].config if side.reported else {}
    if side.tuned and not config:
        return {}  # which weights are the best, nobody knows yet
    return published.of(side.method, dict(pair.configuration), config, optimum=side.tuned)
