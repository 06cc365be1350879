"""One table model, several renderings: HTML, Markdown, CSV and terminal carry the same numbers in the same order.

Builders (``performance``, ``complexity``, ``manual_optimum``, ``cost``, ``trial_list``) read ``Results``; renderings
(``to_html``, ``to_markdown``, ``to_csv``, ``to_terminal``) read a ``Table`` and know nothing of studies.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from reports.comparison import GAMMA, Comparison, compare, interval_of, seconds_of, spared_seconds
from reports.csv_fields import csv_text
from reports.pages import template
from reports.results import (
    LAMBDA,
    REFERENCES,
    STATES,
    Results,
    StudyCell,
    Trial,
    axis_label,
    axis_unit,
    value_label,
)
from reports.statistics import Interval, overlap
from study.result_files import printable
from study.selection import config_value

if TYPE_CHECKING:
    import rich.table

__all__ = [
    "Cell",
    "Column",
    "Table",
    "complexity",
    "cost",
    "describe_selection",
    "describe_split",
    "distance_decimals",
    "escape_markdown",
    "headline",
    "manual_optimum",
    "performance",
    "si_count",
    "to_csv",
    "to_html",
    "to_markdown",
    "to_terminal",
    "trial_list",
]

Value = float | int | str | None


@dataclass(frozen=True)
class Column:
    """A column; ``spread`` says that its cells carry an interval, which CSV writes into columns of their own."""

    name: str
    unit: str | None = None
    align: Literal["left", "right"] = "right"
    note: str | None = None
    spread: bool = False

    @property
    def header(self) -> str:
        """Name and unit: ``RMSE [m]``."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


@dataclass(frozen=True)
class Cell:
    """A cell: the text a reader sees, and the number behind it.

    Attributes:
        text: the number or word, rounded for reading.
        value: the unrounded number, or the word.
        interval: the interval as text, ``7.93 – 9.71``.
        low, high, n: the unrounded interval and the number of seeds.
        keys: the trials that the cell is made of.
        note: what a reader must know to read the cell: ``3 of 5 seeds``.
        hole: whether something is missing here that the study asks for.
    """

    text: str
    value: Value = None
    interval: str | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    keys: tuple[str, ...] = ()
    note: str | None = None
    hole: bool = False

    @property
    def full(self) -> str:
        """Text and interval in one line."""
        return f"{self.text} ({self.interval})" if self.interval else self.text


NOT_APPLICABLE = Cell("–", note="does not apply")


@dataclass(frozen=True)
class Table:
    """A table; ``breaks`` are the rows before which a new group begins."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    breaks: tuple[int, ...] = ()


# ------------------------------------------------------------------------------------------------- renderings


def to_markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown, with title, caption and notes."""
    lines = [f"**{escape_markdown(table.title)}.** {escape_markdown(table.caption)}", ""]
    lines.append("| " + " | ".join(escape_markdown(column.header) for column in table.columns) + " |")
    lines.append("|" + "|".join(" ---: " if column.align == "right" else " --- " for column in table.columns) + "|")
    lines.extend("| " + " | ".join(escape_markdown(cell.full) for cell in row) + " |" for row in table.rows)
    if table.notes:
        lines.extend(["", *(f"* {escape_markdown(note)}" for note in table.notes)])
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """The table as CSV with unrounded numbers; a missing number is an empty field, holes keep their words."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    header: list[str] = []
    for column in table.columns:
        header.append(column.header)
        if column.spread:
            unit = f" [{column.unit}]" if column.unit else ""
            header.extend([f"{column.name} low{unit}", f"{column.name} high{unit}", f"{column.name} n"])
    writer.writerow(header)
    for row in table.rows:
        fields: list[str] = []
        for column, cell in zip(table.columns, row, strict=True):
            text = _field(cell.value) if cell.value is not None or cell is NOT_APPLICABLE else cell.text
            fields.append(csv_text(text.replace("\u00a0", " ")))
            if column.spread:
                fields.extend([_field(cell.low), _field(cell.high), _field(cell.n)])
        writer.writerow(fields)
    return buffer.getvalue()


def to_html(table: Table) -> str:
    """The table as an HTML fragment; every text is escaped."""
    return template("table.html.j2").render(table=table, csv=to_csv(table), markdown=to_markdown(table))


def to_terminal(table: Table) -> rich.table.Table:
    """The table for a terminal."""
    # Imported here: rich costs time that a report without a terminal need not pay.
    from rich import box
    from rich.table import Table as Terminal
    from rich.text import Text

    # Eighty columns have to do: an interval goes under its mean, and a column that says nothing is left out.
    shown = [number for number in range(len(table.columns)) if any(row[number].text for row in table.rows)]
    headers, widths = {}, {}
    for number in shown:
        numeric = table.columns[number].align == "right"
        header = table.columns[number].header.replace(" [", "\n[")
        headers[number] = header.replace(" ", "\n", 1) if numeric and "\n" not in header else header
        texts = [headers[number], *(_terminal(row[number]) for row in table.rows)]
        parts = [part for text in texts for part in (text.splitlines() if numeric else text.split())]
        widths[number] = max(map(len, parts), default=1)
    roomy = sum(widths.values()) + 2 * (len(shown) - 1) <= 80
    # Text objects, not strings: a name such as "[red]" must not be read as markup.
    caption = Text("\n".join([table.caption, *(f"* {note}" for note in table.notes)]))
    terminal = Terminal(
        title=Text(table.title), caption=caption, box=box.SIMPLE_HEAD, caption_justify="left", title_justify="left",
        show_edge=False, pad_edge=False, padding=(0, int(roomy), 0, 0),
    )  # fmt: skip
    for number in shown:
        align = table.columns[number].align
        # Numbers are never broken or cut: in a narrow terminal the table is wider than it instead.
        terminal.add_column(
            Text(headers[number]), justify=align, no_wrap=align == "right", overflow="fold", min_width=widths[number]
        )
    for number, row in enumerate(table.rows):
        if number in table.breaks and number:
            terminal.add_section()
        terminal.add_row(*(Text(_terminal(row[item]), style="dim" if row[item].hole else "") for item in shown))
    return terminal


def _terminal(cell: Cell) -> str:
    if cell.hole and cell.text.startswith("—"):
        return cell.text.replace(", ", ",\n")
    text = re.sub(r"^([\d.]+) of ", r"\1/", cell.text)
    return f"{text}\n{cell.interval.replace(' ', '')}" if cell.interval else text


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no new column."""
    for character in "\\`*_[]|<>#~$":
        text = text.replace(character, f"\\{character}" if character not in "<>" else f"&{'lg'[character == '>']}t;")
    return " ".join(text.split())


def _field(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value)


# ------------------------------------------------------------------------------------------------- numbers


def si_count(value: float) -> str:
    """A count with three decimals and an SI prefix, as the paper prints it: ``207.378 K``, ``8.801 G``."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")):
        # 0.9999995 of a prefix would round up to 1000.000 of the one below.
        if abs(value) >= factor * (1 - 5e-7):
            return f"{value / factor:.3f} {prefix}"
    return f"{value:.0f}"


def distance_decimals(results: Results) -> int:
    """Decimals for every distance of the study: three significant digits of the smallest RMSE."""
    values = [trial.number("test_rmse_m") for trial in results.trials if trial.state == "done"]
    positive = [value for value in values if value is not None and value > 0]
    return _decimals(min(positive)) if positive else 2


def _decimals(value: float, digits: int = 3) -> int:
    return min(max(digits - 1 - math.floor(math.log10(value)), 0), 6) if value > 0 else digits - 1


def _spread(interval: Interval | None, write: Callable[[float], str], trials: Sequence[Trial]) -> Cell:
    if interval is None:
        return NOT_APPLICABLE
    band = None
    if interval.low is not None and interval.high is not None:
        band = f"{write(interval.low)} – {write(interval.high)}"
    keys = tuple(trial.key for trial in trials)
    note = f"n = {interval.n}" if band else "one seed, no interval"
    return Cell(write(interval.mean), interval.mean, band, interval.low, interval.high, interval.n, keys, note)


def _fixed(decimals: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{decimals}f}"


def _time_scale(seconds: Iterable[float]) -> tuple[float, str]:
    """Divisor and unit that keep a column of times readable."""
    largest = max(seconds, default=0.0)
    if largest >= 7200:
        return 3600.0, "h"
    return (60.0, "min") if largest >= 600 else (1.0, "s")


def _significant(value: float, digits: int = 3) -> str:
    return f"{value:.{_decimals(abs(value), digits)}f}" if value else "0"


# ------------------------------------------------------------------------------------------------- words


def describe_split(results: Results) -> str:
    """Site and split in a sentence or two; of split settings that are axes, their values."""
    base = f"Site {results.site}; {results.spec.base.split.describe()}."
    varying = [
        f"{axis_label(path).lower()}: {', '.join(map(value_label, values))}"
        for path, values in results.spec.axes.items()
        if path.startswith("split.")
    ]
    return f"{base} But varied: {'; '.join(varying)}." if varying else base


def describe_selection(results: Results) -> str:
    """The selection rule in one or two sentences."""
    select = results.spec.select
    words = "Each trial is tested once, at its epoch of lowest validation RMSE."
    if any(cell.searched for cell in results.cells):
        best = "lowest" if select.direction == "min" else "highest"
        name = select.metric.replace("_", " ").replace("rmse", "RMSE")
        words += (
            f" Searched settings are those with the {best} mean {name} over the search seeds,"
            " then repeated on all seeds."
        )
    return words


def _interval_words(results: Results) -> str:
    seeds = results.spec.seeds
    if seeds == 1:
        return "One seed: no interval."
    return f"Mean over {seeds} seeds with the 95 % Student t interval, cut at the range of possible values."


def _axis_columns(axes: Sequence[str]) -> list[Column]:
    return [Column(axis_label(path), axis_unit(path), "right" if axis_unit(path) else "left") for path in axes]


def _axis_cells(cell: StudyCell, axes: Sequence[str]) -> list[Cell]:
    return [_axis_cell(cell.axes[path]) for path in axes]


def _axis_cell(value: Any) -> Cell:
    if value is None:
        return NOT_APPLICABLE
    return Cell(value_label(value), value if isinstance(value, int | float | str) else value_label(value))


def _missing(cell: StudyCell) -> list[str]:
    """What did not finish, in words: ``diverged ×2``, ``1 seed not run``."""
    counts = cell.counts()
    words = [f"{_state(state)} ×{counts[state]}" for state in STATES if state != "done" and counts[state]]
    run = {trial.seed for trial in cell.reported}
    absent = cell.seeds - len(run)
    if cell.trials and absent > 0 and not (cell.searched and cell.winner is None):
        words.append(f"{absent} {'seed' if absent == 1 else 'seeds'} not run")
    if cell.searched and cell.trials:
        tried = len(cell.candidates)
        if tried < cell.planned_candidates:
            words.append(f"{tried} of {cell.planned_candidates} candidates run")
    return words


def _state(state: str) -> str:
    return state.replace("_", " ")


def _hole(cell: StudyCell) -> Cell:
    """The cell that stands where a number cannot: it says why."""
    keys = tuple(trial.key for trial in cell.trials)
    if not cell.trials:
        return Cell("— not run", hole=True, keys=keys)
    if cell.searched and cell.winner is None:
        return Cell("— no candidate finished", hole=True, keys=keys, note="; ".join(_missing(cell)) or None)
    return Cell("— " + (", ".join(_missing(cell)) or "no result"), hole=True, keys=keys)


def _candidate_words(cell: StudyCell) -> Cell:
    if not cell.searched:
        return NOT_APPLICABLE
    if cell.winner is None:
        return Cell("—", hole=True)
    words = ", ".join(
        f"{axis_label(path)} {value_label(cell.winner.values[path])}"
        for path in sorted(cell.searched, key=_weights_first)
    )
    return Cell(words, words, note=f"the best of {cell.winner.candidates} candidates")


def _weights_first(path: str) -> tuple[int, str]:
    return ((LAMBDA, GAMMA).index(path) if path in (LAMBDA, GAMMA) else 2, path)


def _breaks(cells: Sequence[StudyCell]) -> tuple[int, ...]:
    """A new group where the configuration changes, when groups have more than one row."""
    starts = [
        number
        for number in range(1, len(cells))
        if cells[number].configuration() != cells[number - 1].configuration()
        # Rows that lack a setting (references do) head the group that follows them.
        and None not in cells[number - 1].axes.values()
    ]
    return tuple(starts) if len(starts) < len(cells) - 1 else ()


def _damage_notes(results: Results) -> list[str]:
    notes = []
    if results.damaged:
        named = "; ".join(
            f"{printable(f'{item.path.parent.name}/{item.path.name}')}: {item.reason}" for item in results.damaged[:5]
        )
        more = f"; and {len(results.damaged) - 5} more" if len(results.damaged) > 5 else ""
        notes.append(f"{_plural(len(results.damaged), 'damaged file')} left out ({named}{more}). Run the study again.")
    if results.outside:
        notes.append(
            f"{_plural(len(results.outside), 'stored trial')} left out: not wanted by the spec as it stands now"
            " (other data or settings, more seeds, excluded combinations, or candidates of an earlier search)."
        )
    return notes


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


# ------------------------------------------------------------------------------------------------- builders


def performance(results: Results) -> Table:
    """The main table: one row per cell with errors, accuracy, best epoch and what is missing."""
    decimals = distance_decimals(results)
    metres = _fixed(decimals)
    selected = any(cell.searched for cell in results.cells)
    columns = [
        Column("Method", align="left"),
        *_axis_columns(results.axes),
        *(
            [Column("Selected", align="left", note="searched settings, chosen on the validation scenes")]
            if selected
            else []
        ),
        Column("RMSE", "m", spread=True, note="root mean square localization error on the test scenes"),
        Column("Median", "m", spread=True, note="median localization error"),
        Column("90th pct.", "m", spread=True, note="90th percentile of the localization error"),
        Column(
            "Accuracy", spread=True, note="share of test samples whose propagation condition is predicted correctly"
        ),
        Column("Best epoch", note="mean epoch of lowest validation RMSE, of the epochs run"),
        Column("Seeds", align="left", note="finished of wanted"),
        Column("Not finished", align="left"),
    ]
    rows: list[tuple[Cell, ...]] = []
    for cell in results.cells:
        row = [Cell(cell.method, cell.method), *_axis_cells(cell, results.axes)]
        if selected:
            row.append(_candidate_words(cell))
        done = cell.done
        missing = _missing(cell)
        if not done:
            row.extend([_hole(cell), *[Cell("", hole=True)] * 4])
        else:
            for column in ("test_rmse_m", "test_median_error_m", "test_p90_error_m"):
                row.append(_spread(interval_of(done, column), metres, done))
            row.append(_spread(interval_of(done, "test_accuracy", (0.0, 1.0)), _fixed(3), done))
            row.append(_best_epoch(done))
        keys = tuple(trial.key for trial in cell.reported)
        partial = len(done) < cell.seeds
        note = None
        if not any(trial.state == "done" for trial in cell.trials) and not cell.trials:
            missing = []
        elif partial:
            note = f"{len(done)} of {cell.seeds} seeds"
        row.append(
            Cell(f"{len(done)} of {cell.seeds}", f"{len(done)} of {cell.seeds}", keys=keys, note=note, hole=partial)
        )
        words = ", ".join(missing)
        row.append(Cell(words, words, hole=bool(missing)))
        rows.append(tuple(row))
    caption = " ".join([describe_split(results), describe_selection(results), _interval_words(results)])
    notes = [
        *(
            ["MEAN predicts the mean training position, KNN looks up the nearest fingerprints; both are deterministic."]
            if set(REFERENCES) & set(results.methods)
            else []
        ),
        *_damage_notes(results),
    ]
    return Table(
        "performance", "Localization error and condition accuracy", caption, tuple(columns), tuple(rows),
        tuple(notes), _breaks(results.cells),
    )  # fmt: skip


def _best_epoch(done: Sequence[Trial]) -> Cell:
    best = interval_of(done, "best_epoch")
    if best is None:
        return NOT_APPLICABLE
    run = sorted({int(count) for trial in done if (count := trial.number("epochs")) is not None})
    total = "" if not run else f" of {run[0]}" if len(run) == 1 else f" of {run[0]}–{run[-1]}"
    return Cell(f"{best.mean:.0f}{total}", best.mean, n=best.n, keys=tuple(trial.key for trial in done))


def complexity(results: Results) -> Table:
    """Parameters, operations and training time per cell."""
    trained = [cell for cell in results.cells if cell.method not in REFERENCES]
    counted = (
        ("Parameters, training", None, "parameters", "trainable parameters while training"),
        ("Parameters, deployed", None, "parameters_deployed", "in the branch that is deployed"),
        ("MACs per sample, training", None, "macs_per_sample", "of one sample while training"),
        ("MACs per sample, deployed", None, "macs_deployed", "of one sample in the deployed branch"),
        ("MACs, paper’s accounting", "per batch", "macs_paper",
         "one training forward pass over a batch and every branch, batch normalization counted at 4 per element;"
         " the paper prints it as FLOPs"),
        ("FLOPs", "per batch", "flops_batch", "2 × the MACs of convolutions and linear layers of the same pass"),
    )  # fmt: skip
    seconds = [interval_of(cell.done, "train_seconds") for cell in trained]
    scale, unit = _time_scale(interval.mean for interval in seconds if interval is not None)
    means = [interval.mean / scale for interval in seconds if interval is not None and interval.mean > 0]
    write = _fixed(_decimals(min(means)) if means else 1)
    columns = (
        Column("Method", align="left"),
        *_axis_columns(results.axes),
        *(Column(name, unit_, note=note) for name, unit_, _, note in counted),
        Column("Training", f"{unit} per trial", spread=True, note="training and validation epochs"),
        Column("Peak memory", "MB", note="mean over the seeds"),
    )
    rows: list[tuple[Cell, ...]] = []
    for cell, interval in zip(trained, seconds, strict=True):
        row = [Cell(cell.method, cell.method), *_axis_cells(cell, results.axes)]
        if not cell.done:
            row.extend([_hole(cell), *[Cell("", hole=True)] * (len(counted) + 1)])
        else:
            row.extend(_count(cell.done, column) for _, _, column, _ in counted)
            scaled = None if interval is None else _scaled(interval, scale)
            row.append(_spread(scaled, write, cell.done))
            memory = interval_of(cell.done, "peak_memory_mb")
            row.append(NOT_APPLICABLE if memory is None else Cell(f"{memory.mean:.0f}", memory.mean, n=memory.n))
        rows.append(tuple(row))
    caption = (
        "One FLOP is one floating-point operation; one multiply-accumulate (MAC) is two. "
        f"{_interval_words(results)} Times hold for the device named below."
    )
    return Table(
        "complexity", "Size, operations and training time", caption, columns, tuple(rows), (), _breaks(trained)
    )


def _count(done: Sequence[Trial], column: str) -> Cell:
    values = sorted({int(value) for trial in done if (value := trial.number(column)) is not None})
    if not values:
        return NOT_APPLICABLE
    if len(values) == 1:
        return Cell(si_count(values[0]), values[0], n=len(done))
    text = f"{si_count(values[0])} – {si_count(values[-1])}"
    return Cell(text, text, n=len(done), note="differs between the trials of this cell")


def _scaled(interval: Interval, scale: float) -> Interval:
    low, high = (None if limit is None else limit / scale for limit in (interval.low, interval.high))
    return Interval(interval.mean / scale, low, high, interval.n)


def manual_optimum(results: Results) -> Table | None:
    """Manual optimum against self-weighted, per system configuration; ``None`` when the study has no such pair."""
    comparisons = [pair for pair in compare(results) if pair.manual is not None and pair.learned is not None]
    if not comparisons:
        return None
    metres = _fixed(distance_decimals(results))
    sides = [side for pair in comparisons for side in (pair.learned, pair.manual) if side is not None]
    scale, unit = _time_scale(side.training_seconds for side in sides)
    totals = [side.training_seconds / scale for side in sides if side.training_seconds > 0]
    time = _fixed(_decimals(min(totals)) if totals else 1)
    axes = [path for path, _ in comparisons[0].configuration]
    columns = (
        *_axis_columns(axes),
        Column("Weights", align="left"),
        Column("RMSE", "m", spread=True),
        Column("Accuracy", spread=True),
        Column("Best epoch"),
        Column("λ", note="weight of coordinate regression"),
        Column("γ", note="focusing parameter of the focal loss"),
        Column("Seeds", align="left"),
        Column("Trials", note="every trial that was needed, search and repeats"),
        Column("Time", unit, note="training time of all these trials"),
        Column("Cost", "× HDA", note="training time over that of HDA"),
    )
    rows: list[tuple[Cell, ...]] = []
    breaks = []
    for pair in comparisons:
        if rows:
            breaks.append(len(rows))
        for side in (pair.learned, pair.manual):
            if side is None:
                continue
            row = [*(_axis_cell(value) for _, value in pair.configuration), Cell(side.name, side.name)]
            if side.done:
                row.append(_spread(interval_of(side.done, "test_rmse_m"), metres, side.done))
                row.append(_spread(interval_of(side.done, "test_accuracy", (0.0, 1.0)), _fixed(3), side.done))
                row.append(_best_epoch(side.done))
            else:
                reason = "— not run" if not side.spent else "— no result"
                row.extend([Cell(reason, hole=True), *[Cell("", hole=True)] * 2])
            learned = side is pair.learned
            lambda_ = Cell("learned", "learned") if learned else _axis_cell(side.weight(LAMBDA))
            row.extend([lambda_, _axis_cell(side.weight(GAMMA))])
            seeds = f"{len(side.done)} of {side.seeds}"
            row.append(Cell(seeds, seeds, hole=len(side.done) < side.seeds, keys=tuple(t.key for t in side.reported)))
            row.append(Cell(str(len(side.spent)), len(side.spent), keys=tuple(trial.key for trial in side.spent)))
            row.append(Cell(time(side.training_seconds / scale), side.training_seconds / scale))
            ratio = 1.0 if learned else pair.ratio
            row.append(Cell("— incomplete", hole=True) if ratio is None else Cell(_significant(ratio, 2), ratio))
            rows.append(tuple(row))
    caption = (
        f"{describe_split(results)} {describe_selection(results)} {_interval_words(results)} "
        "Trials and training time count every search trial, whatever its end, and the repeats on all seeds."
    )
    return Table(
        "manual_optimum",
        "Manually weighted (MDA) and self-weighted (HDA)",
        caption,
        columns,
        tuple(rows),
        (),
        tuple(breaks),
    )


def cost(results: Results) -> Table:
    """What the study cost, per method: trials planned and stored, how they ended, and hours."""
    groups: dict[str, list[StudyCell]] = {}
    for cell in results.cells:
        groups.setdefault(cell.method, []).append(cell)
    totals = [seconds_of((t for cell in cells for t in cell.trials), "trial_seconds") for cells in groups.values()]
    scale, unit = _time_scale([sum(totals)])
    write = _fixed(_decimals(max(totals, default=0.0) / scale) if any(totals) else 1)
    pruned = any(trial.state == "pruned" for trial in results.trials)
    columns = (
        Column("Method", align="left"),
        Column("Planned", note="trials that the spec asks for, repeats of winners included"),
        Column("Stored", note="trials that ran to an end, whatever it was"),
        *(Column(_state(state).capitalize()) for state in STATES),
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
    caption = "Times are summed over trials; trials that ran side by side took less time on the clock."
    if pruned:
        caption += f" {describe_early_stopping(results)}"
    return Table(
        "cost", "Trials and their time", caption, columns, tuple(rows), tuple(_damage_notes(results)), (len(rows) - 1,)
    )


def describe_early_stopping(results: Results) -> str:
    """How many trials were stopped early, and what that spared; empty if none was."""
    number = sum(trial.state == "pruned" for trial in results.trials)
    if not number:
        return ""
    spared = sum(map(spared_seconds, results.cells))
    whole = spared + seconds_of(results.trials)
    scale, unit = _time_scale([spared])
    share = f", {spared / whole:.0%} of what it would have taken" if whole else ""
    return (
        f"{_plural(number, 'trial')} {'was' if number == 1 else 'were'} stopped early, which spared about "
        f"{_significant(spared / scale, 2)} {unit} of training{share}."
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
    counts = Counter(trial.state for trial in trials)
    mean = interval_of(trials, "train_seconds")
    total = seconds_of(trials, "trial_seconds") / scale
    lost = seconds_of((trial for trial in trials if trial.state != "done"), "trial_seconds") / scale
    seconds = sum(map(spared_seconds, cells)) / scale
    return (
        Cell(name, name),
        Cell(str(planned), planned),
        Cell(str(len(trials)), len(trials), hole=len(trials) < planned),
        *(Cell(str(counts[state]), counts[state], hole=state != "done" and counts[state] > 0) for state in STATES),
        NOT_APPLICABLE if mean is None else Cell(_significant(mean.mean), mean.mean),
        Cell(write(total), total),
        Cell(write(lost), lost),
        *([Cell(write(seconds), seconds)] if spared else []),
    )


def trial_list(results: Results) -> Table:
    """Every stored trial of the study with its key, grouped by cell."""
    metres = _fixed(distance_decimals(results))
    searched = any(cell.searched for cell in results.cells)
    columns = (
        Column("Method", align="left"),
        *_axis_columns(results.axes),
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
            candidate = ", ".join(
                f"{axis_label(path)} {value_label(config_value(trial.config, path))}"
                for path in sorted(cell.searched, key=_weights_first)
            )
            error = trial.text("error")
            row = [
                Cell(cell.method, cell.method),
                *_axis_cells(cell, results.axes),
                *([Cell(candidate, candidate)] if searched else []),
                Cell(str(trial.seed), trial.seed),
                Cell(_state(trial.state), _state(trial.state), note=error, hole=trial.state != "done"),
            ]
            for column in ("validation_rmse_m", "test_rmse_m"):
                value = trial.number(column) if trial.state == "done" else None
                row.append(NOT_APPLICABLE if value is None else Cell(metres(value), value))
            seconds = trial.number("trial_seconds")
            row.append(NOT_APPLICABLE if seconds is None else Cell(_significant(seconds), seconds))
            command = f"study rerun {trial.key}"
            row.append(Cell(command, command, keys=(trial.key,)))
            rows.append(tuple(row))
    return Table("trials", "Every trial", "One row per stored trial.", columns, tuple(rows), (), tuple(breaks))


# ------------------------------------------------------------------------------------------------- headline


def headline(results: Results) -> str:
    """One sentence that the data support, made from results alone."""
    decimals = distance_decimals(results)
    pairs = [
        pair
        for pair in compare(results)
        if pair.manual is not None and pair.learned is not None and pair.manual.done and pair.learned.done
    ]
    if len(pairs) == 1:
        return _one_pair(pairs[0], decimals)
    if pairs:
        return _many_pairs(pairs, decimals)
    return _best_method(results, decimals)


def _one_pair(pair: Comparison, decimals: int) -> str:
    assert pair.manual is not None
    assert pair.learned is not None
    learned, manual = (interval_of(side.done, "test_rmse_m") for side in (pair.learned, pair.manual))
    if learned is None or manual is None:
        return "HDA and MDA finished, but no test RMSE was stored."
    # Only one pair can stand for a study of several configurations when the others are not finished: name it.
    where = f" ({pair.label})" if pair.label else ""
    name = "manual-optimum MDA" if pair.manual.tuned else "MDA with fixed weights"
    sofar = "" if pair.manual.complete and pair.learned.complete else "So far, "
    sentence = f"{sofar}HDA reached {_metres(learned, decimals)}; {name} {_metres(manual, decimals)}{where}"
    if pair.ratio is not None:
        # Trials first: seconds depend on what else the machine did.
        trials = f"{len(pair.manual.spent)} trials against {len(pair.learned.spent)}"
        sentence += f" after {trials} ({_significant(pair.ratio, 2)} × the training time)"
    together = overlap(learned, manual)
    if together is None:
        return f"{sentence}; with a single seed there is no interval to judge the difference by."
    return f"{sentence}; the intervals {'overlap' if together else 'do not overlap'}."


def remarks(results: Results) -> list[str]:
    """What a reader should know beside the headline: how the references did, and whether training still improved."""
    decimals = distance_decimals(results)
    sentences = []
    means: dict[str, list[float]] = {}
    for cell in results.cells:
        interval = interval_of(cell.done, "test_rmse_m")
        if cell.method in REFERENCES and interval is not None:
            means.setdefault(cell.method, []).append(interval.mean)
    if means:
        told = []
        for method, values in means.items():
            low, high = (f"{value:.{decimals}f}" for value in (min(values), max(values)))
            told.append(f"{method} {low} m" if low == high else f"{method} {low} to {high} m")
        sentences.append(f"References: {', '.join(told)}.")
    trained = [
        (trial.number("best_epoch"), trial.number("epochs"))
        for cell in results.cells
        for trial in cell.done
        if cell.method not in REFERENCES
    ]
    last = sum(best is not None and best == epochs for best, epochs in trained)
    if last * 2 > len(trained):
        sentences.append(
            f"In {last} of {len(trained)} trials the last epoch was the best: more epochs may change the numbers "
            "and their order."
        )
    return sentences


def _many_pairs(pairs: Sequence[Comparison], decimals: int) -> str:
    lower = touching = unknown = 0
    best: tuple[float, Comparison, Interval, Interval] | None = None
    ratios = [pair.ratio for pair in pairs if pair.ratio is not None]
    for pair in pairs:
        assert pair.manual is not None
        assert pair.learned is not None
        learned, manual = (interval_of(side.done, "test_rmse_m") for side in (pair.learned, pair.manual))
        if learned is None or manual is None:
            continue
        lower += learned.mean < manual.mean
        together = overlap(learned, manual)
        unknown += together is None
        touching += bool(together)
        # The spread of the manual optimum's weights is what matters; quote the configuration of the lowest error.
        smallest = min(learned.mean, manual.mean)
        if best is None or smallest < best[0]:
            best = (smallest, pair, learned, manual)
    if best is None:
        return "HDA and MDA finished, but no test RMSE was stored."
    tuned = all(pair.manual is not None and pair.manual.tuned for pair in pairs)
    name = "manual-optimum MDA" if tuned else "MDA"
    judged = f"the intervals overlap in {touching}" if not unknown else "without intervals everywhere (too few seeds)"
    _, pair, learned, manual = best
    unfinished = any(side is None or not side.complete for pair_ in pairs for side in (pair_.manual, pair_.learned))
    sentence = (
        f"{'So far, ' if unfinished else ''}HDA had a lower mean RMSE than {name} "
        f"in {lower} of {len(pairs)} system configurations ({judged}); where "
        f"errors were lowest ({pair.label}), HDA reached {_metres(learned, decimals)} and {name} "
        f"{_metres(manual, decimals)}"
    )
    if ratios:
        low, high = min(ratios), max(ratios)
        span = (
            _significant(low, 2)
            if f"{low:.2g}" == f"{high:.2g}"
            else f"{_significant(low, 2)} to {_significant(high, 2)}"
        )
        sentence += f", {name} after {span} × the training time"
    return sentence + "."


# Settings of the split that leave the test samples as they are.
_SAME_TEST = ("split.labelled_scenes", "split.target", "split.data_seed")


def _best_method(results: Results, decimals: int) -> str:
    ranked: list[tuple[float, StudyCell, Interval]] = []
    references: list[tuple[float, StudyCell, Interval]] = []
    for cell in results.cells:
        interval = interval_of(cell.done, "test_rmse_m")
        if interval is not None:
            (references if cell.method in REFERENCES else ranked).append((interval.mean, cell, interval))
    if not ranked and not references:
        counts = Counter(trial.state for trial in results.trials)
        ends = ", ".join(f"{counts[state]} {_state(state)}" for state in STATES if counts[state])
        return f"No trial of this study has a result yet{f' ({ends})' if ends else ''}."
    if not ranked:
        _, cell, interval = min(references, key=lambda entry: entry[0])
        return f"Only references have finished: {cell.method} reached {_metres(interval, decimals)}."
    _, cell, interval = min(ranked, key=lambda entry: entry[0])
    where = f" ({cell.label()})" if cell.label() else ""
    one = len({other.method for _, other, _ in ranked}) == 1 and len(ranked) == 1
    sentence = f"{cell.method} reached {_metres(interval, decimals)}{where}"
    if not one:
        sentence = f"{cell.method} had the lowest test RMSE of what was compared, {_metres(interval, decimals)}{where}"
        if any(path.startswith("split.") and path not in _SAME_TEST for path in results.spec.axes):
            sentence = f"Configurations are tested on different samples; {sentence}"
    wanted = cell.configuration()
    beside = [entry for entry in references if entry[1] in results.cells_of(wanted)]
    if beside:
        mean, reference, value = min(beside, key=lambda entry: entry[0])
        if mean < interval.mean and not one:
            # A network that a look-up or the mean beats is no finding.
            return (
                f"No method beat {reference.method} ({_metres(value, decimals)}){where}; the best of them, "
                f"{cell.method}, reached {_metres(interval, decimals)}."
            )
        sentence += (
            f"; the better reference, {reference.method}, {_metres(value, decimals)}"
            if len(beside) > 1
            else (f"; the reference {reference.method} {_metres(value, decimals)}")
        )
    return sentence + "."


def _metres(interval: Interval, decimals: int) -> str:
    write = _fixed(decimals)
    if interval.low is None or interval.high is None:
        return f"{write(interval.mean)} m (n = {interval.n})"
    return f"{write(interval.mean)} m ({write(interval.low)} – {write(interval.high)}, n = {interval.n})"
