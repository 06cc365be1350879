"""Table III: best epoch, size and operations, in the paper's accounting and in the usual one."""

from __future__ import annotations

from collections.abc import Sequence

from reports.comparison import interval_of
from reports.published import PublishedValues
from reports.results import REFERENCES, Results, Trial
from reports.tables.judgement import describe_interval
from reports.tables.model import NOT_APPLICABLE, Cell, Column, Table
from reports.tables.numbers import decimals_of, fixed, scaled, si_count, spread, time_scale
from reports.tables.paper import PAPER_NOTE, PaperColumns, planned_as_published
from reports.tables.performance import best_epoch
from reports.tables.words import (
    TIME_NOTE,
    axis_cells,
    axis_columns,
    breaks_of,
    describe_selection,
    describe_split,
    hole,
    missing_words,
    not_finished_cell,
    seeds_cell,
)

__all__ = ["complexity"]

# Name, unit, column of the trial table, factor, note.
_COUNTS = (
    ("MACs per sample, training", None, "macs_per_sample", 1, "of one sample in every branch while training"),
    ("MACs per sample, deployed", None, "macs_deployed", 1, "of one sample in the branch that is deployed"),
    ("FLOPs per sample, training", None, "macs_per_sample", 2, "2 × the MACs of one sample while training"),
    ("FLOPs per sample, deployed", None, "macs_deployed", 2, "2 × the MACs of one sample in the deployed branch"),
    ("FLOPs", "per batch", "flops_batch", 1, "2 × the MACs of the pass that the paper counts, without normalization"),
)
_PAPER_MACS = (
    "one training forward pass over a batch and every branch, batch normalization counted at 4 per element;"
    " the paper prints it as FLOPs"
)


def complexity(results: Results) -> Table | None:
    """Best epoch, parameters, operations and training time per trained cell; ``None`` without one."""
    trained = [cell for cell in results.cells if cell.method not in REFERENCES]
    if not trained:
        return None
    published = PublishedValues(results)
    papers = [published.of_cell(cell) for cell in trained]
    epochs = fixed(0) if planned_as_published(results) else None
    paper_epoch = PaperColumns("Best epoch", None, "best_epoch", papers, fixed(0), epochs)
    paper_size = PaperColumns("Parameters", None, "parameters", papers, si_count, fixed(2), relative=True)
    paper_macs = PaperColumns("MACs", "per batch", "macs_paper", papers, si_count, fixed(2), relative=True)
    seconds = [interval_of(cell.done, "train_seconds") for cell in trained]
    scale, unit = time_scale(interval.mean for interval in seconds if interval is not None)
    means = [interval.mean / scale for interval in seconds if interval is not None and interval.mean > 0]
    write = fixed(decimals_of(min(means)) if means else 1)
    columns = (
        Column("Method", align="left", names=True),
        *axis_columns(results.axes),
        Column("Best epoch", note="mean of the epochs that were tested, of the epochs run"),
        *paper_epoch.columns,
        Column("Parameters, training", note="trainable parameters while training"),
        *paper_size.columns,
        Column("Parameters, deployed", note="in the branch that is deployed"),
        *(Column(name, unit_, note=note) for name, unit_, _, _, note in _COUNTS),
        Column("MACs, paper’s accounting", "per batch", note=_PAPER_MACS),
        *paper_macs.columns,
        Column("Training", f"{unit} per trial", spread=True, note="training and validation epochs"),
        Column("Peak memory", "MB", note="mean over the seeds"),
        Column("Seeds", align="left", note="finished of wanted"),
        Column("Not finished", align="left"),
    )
    rows: list[tuple[Cell, ...]] = []
    for cell, paper, interval in zip(trained, papers, seconds, strict=True):
        done = cell.done
        epoch = interval_of(done, "best_epoch")
        size, macs = (_single(done, column) for column in ("parameters", "macs_paper"))
        empty = Cell("", hole=True)
        row = [Cell(cell.method, cell.method), *axis_cells(cell, results.axes)]
        row += [best_epoch(done) if done else hole(cell), *paper_epoch.cells(paper, epoch)]
        row += [_count(done, "parameters") if done else empty, *paper_size.cells(paper, size)]
        row += [_count(done, "parameters_deployed") if done else empty]
        row += [_count(done, column, factor) if done else empty for _, _, column, factor, _ in _COUNTS]
        row += [_count(done, "macs_paper") if done else empty, *paper_macs.cells(paper, macs)]
        row += [spread(None if interval is None else scaled(interval, scale), write, done) if done else empty]
        memory = interval_of(done, "peak_memory_mb")
        row += [NOT_APPLICABLE if memory is None else Cell(f"{memory.mean:.0f}", memory.mean, n=memory.n)]
        row += [seeds_cell(cell.reported, cell.seeds), not_finished_cell(missing_words(cell))]
        rows.append(tuple(row))
    caption = " ".join(
        [
            describe_split(results),
            describe_selection(results),
            describe_interval(results),
            "One FLOP is one floating-point operation; one multiply-accumulate (MAC) is two.",
            "Counts are exact, so there is nothing to test. Times hold for the device named under How it was made.",
        ]
    )
    notes = [
        TIME_NOTE,
        *([PAPER_NOTE] if paper_epoch.shown or paper_size.shown or paper_macs.shown else []),
        *_branch_notes(results),
    ]
    return Table(
        "complexity", "Best epoch, size, operations and training time", caption, columns, tuple(rows), tuple(notes),
        breaks_of(trained),
    )  # fmt: skip


def _branch_notes(results: Results) -> list[str]:
    """The paper writes one network for both domains and counts two: which of them this study counts."""
    twins = [name for name in results.methods if _twin(results, name)]
    if not twins or "branches" in results.axes:
        return []
    shared = results.spec.base.branches == "shared"
    words = (
        "one network for both domains (branches: shared)" if shared else "a network for each domain (branches: twin)"
    )
    return [f"{', '.join(twins)} train {words}; Table III of the paper counts a network for each domain."]


def _twin(results: Results, name: str) -> bool:
    paths = {settings.name: path for path, settings in results.spec.methods.items()}
    return results.spec.settings_of(paths.get(name, name)).twin


def _count(done: Sequence[Trial], column: str, factor: int = 1) -> Cell:
    values = sorted({factor * int(value) for trial in done if (value := trial.number(column)) is not None})
    if not values:
        return NOT_APPLICABLE
    keys = tuple(trial.key for trial in done)
    if len(values) == 1:
        return Cell(si_count(values[0]), values[0], n=len(done), keys=keys)
    text = f"{si_count(values[0])} – {si_count(values[-1])}"
    return Cell(text, text, n=len(done), keys=keys, note="differs between the trials of this cell")


def _single(done: Sequence[Trial], column: str) -> float | None:
    """The count, where all trials have the same."""
    values = {trial.number(column) for trial in done}
    return values.pop() if len(values) == 1 else None
