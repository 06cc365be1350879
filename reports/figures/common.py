"""What the figures share: styles of methods, panels, stored samples, axes, legends and words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogFormatter, LogLocator, NullLocator

from reports.comparison import WEIGHTS, side_of
from reports.drawing import WIDTH
from reports.results import METHODS, REFERENCES, Results, StudyCell, Trial, axis_label, configuration_label, value_label

__all__ = [
    "CURVE_POINTS",
    "MAX_PANELS",
    "MAX_RUNS",
    "METHOD_STYLES",
    "Missing",
    "Style",
    "epochs_by_cell",
    "errors_by_cell",
    "finite",
    "grey_readable",
    "join",
    "left_out",
    "legend",
    "logarithmic",
    "logarithmic_x",
    "mean_of",
    "mean_words",
    "method_colours",
    "method_styles",
    "panel_grid",
    "panel_title",
    "panels",
    "predicting",
    "reference",
    "runs_of",
    "seeds_words",
    "selected",
    "sentences",
    "shortened",
    "span",
    "trained_for",
    "untrained_words",
    "weights_words",
    "without_mean",
]

MAX_PANELS = 6
"""System configurations in one figure; the caption names those that it leaves out."""

MAX_RUNS = 20
"""Seeds of one method and configuration that are read for curves and maps; the caption says so."""

CURVE_POINTS = 240
"""Points of a curve: more than a page can show."""

_MOST_NAMES = 6
_MOST_ROWS = 4_000_000  # read together: about 100 MB

Style = tuple[str, Any, str]
"""Colour, line style and marker."""

# Okabe and Ito's palette, which colour-blind readers can tell apart; references are grey.
METHOD_STYLES: Mapping[str, Style] = {
    "MEAN": ("#9a9a9a", (0, (1, 1.4)), "x"),
    "KNN": ("#6b6b6b", (0, (1, 1.4)), "+"),
    "MODEL": ("#808080", (0, (1, 1.2, 1, 1.2, 4, 1.2)), "*"),
    "DCNN": ("#e69f00", (0, (4, 1.6)), "s"),
    "TL": ("#009e73", (0, (6, 1.6, 1, 1.6)), "^"),
    "RDA": ("#cc79a7", (0, (2.4, 1.2)), "v"),
    "MDA": ("#0072b2", (0, (7, 1.8)), "D"),
    "HDA": ("#d55e00", "solid", "o"),
}
# For a user's own methods, in the order of the study: none of the above, and to be read on white and on black.
_MORE_COLOURS = ("#56b4e9", "#b5763f", "#9a7be0", "#9aa81a")
_MORE_LINES = ((0, (5, 1.2, 1, 1.2, 1, 1.2)), (0, (9, 1.4, 2, 1.4)), (0, (3, 1.2, 3, 2.6)))
_MORE_MARKERS = ("P", "X", "p", "<", ">", "h", "d")


@dataclass(frozen=True)
class Missing:
    """A figure that the study has no data for, and why."""

    name: str
    reason: str


def method_colours(methods: Sequence[str]) -> dict[str, str]:
    """Method → colour, for the page to adapt to a dark background."""
    return {method: colour for method, (colour, _, _) in method_styles(methods).items()}


def method_styles(methods: Sequence[str]) -> dict[str, Style]:
    """Method → colour, line style and marker, the same in every figure of a study."""
    own = [method for method in methods if method not in METHOD_STYLES]
    more = {
        method: (
            _MORE_COLOURS[i % len(_MORE_COLOURS)],
            _MORE_LINES[i % len(_MORE_LINES)],
            _MORE_MARKERS[i % len(_MORE_MARKERS)],
        )
        for i, method in enumerate(own)
    }
    return {method: METHOD_STYLES.get(method) or more[method] for method in methods}


# ------------------------------------------------------------------------------------------------- data


def panels(results: Results, most: int | None = MAX_PANELS) -> tuple[dict[str, list[StudyCell]], list[str]]:
    """Configuration in words → its cells, at most so many (None: all); and the names of those left out.

    Task weights on an axis make no configurations: see `selected`.
    """
    configurations = results.configurations(WEIGHTS)
    most = len(configurations) if most is None else most
    shown = {
        configuration_label(configuration): selected(results, results.cells_of(configuration, without=WEIGHTS))
        for configuration in configurations[:most]
    }
    return shown, [configuration_label(configuration) for configuration in configurations[most:]]


def selected(results: Results, cells: Iterable[StudyCell]) -> list[StudyCell]:
    """Of cells that differ in task weights alone, the one whose weights the validation metric selected."""
    by_method: dict[str, list[StudyCell]] = {}
    for cell in cells:
        by_method.setdefault(cell.method, []).append(cell)
    found = []
    for members in by_method.values():
        if len(members) > 1:
            side = side_of(results, members)
            best = {trial.key for trial in side.reported} if side is not None else set()
            members = [cell for cell in members if any(trial.key in best for trial in cell.trials)][:1]
        found += members
    return sorted(found, key=lambda cell: results.methods.index(cell.method))


def weights_words(results: Results, methods: Sequence[str] | None = None) -> str:
    """What `selected` did for some methods (None: all), for a caption, with what was selected."""
    cells = [cell for cell in results.cells if methods is None or cell.method in methods]
    paths = [path for path in WEIGHTS if any(cell.axes.get(path) is not None for cell in cells)]
    if not paths:
        return ""
    shown, more = panels(results)
    chosen: dict[tuple[str, str], list[str]] = {}
    for name, members in shown.items():
        for cell in members:
            own = [(path, cell.axes.get(path)) for path in paths]
            words = ", ".join(f"{axis_label(path)} = {value_label(value)}" for path, value in own if value is not None)
            if words and cell.done and (methods is None or cell.method in methods):
                chosen.setdefault((cell.method, words), []).append(name)
    # Where it is the same everywhere, the configurations need no names.
    same = len({method for method, _ in chosen}) == len(chosen) and not more
    parts = [
        f"{method}: {words}" if same else f"{method}: {words} with {_listed(names)}"
        for (method, words), names in chosen.items()
    ]
    told = f" ({_listed(parts)})" if parts else ""
    return (
        f" Of several {join([axis_label(path) for path in paths])}, the one that the validation metric selected{told}."
    )


def trained_for(trials: Iterable[Trial], column: str) -> tuple[Trial, ...]:
    """The trials that were trained for a metric: what the others have of it is left to chance."""
    return tuple(trial for trial in trials if trial.trains(column))


def runs_of(cell: StudyCell) -> tuple[Trial, ...]:
    """The finished trials of a cell that a figure of errors reads: those that learn to locate, at most ``MAX_RUNS``."""
    return trained_for(cell.done, "error_m")[:MAX_RUNS]


def epochs_by_cell(
    results: Results, cells: Sequence[StudyCell], columns: Sequence[str]
) -> Iterator[tuple[StudyCell, list[tuple[Trial, pd.DataFrame]]]]:
    """Each of some cells with the stored epochs of its `runs_of`; trials without any are left out."""
    return _by_cell(cells, "epochs", lambda keys: results.epochs_of(keys, columns))


def errors_by_cell(
    results: Results, cells: Sequence[StudyCell], columns: Sequence[str]
) -> Iterator[tuple[StudyCell, list[tuple[Trial, pd.DataFrame]]]]:
    """Each of some cells with the stored test samples of its `runs_of`; trials without any are left out."""
    return _by_cell(cells, "test_samples", lambda keys: results.errors_of(keys, columns))


def _by_cell(
    cells: Sequence[StudyCell], rows: str, read: Callable[[list[str]], pd.DataFrame]
) -> Iterator[tuple[StudyCell, list[tuple[Trial, pd.DataFrame]]]]:
    """Cells that belong to several panels once, and as many together as a table of ``_MOST_ROWS`` holds."""
    together: list[StudyCell] = []
    expected = 0.0
    for cell in {id(cell): cell for cell in cells}.values():
        size = sum(trial.number(rows) or 1.0 for trial in runs_of(cell))
        if together and expected + size > _MOST_ROWS:
            yield from _split(together, read)
            together, expected = [], 0.0
        together.append(cell)
        expected += size
    yield from _split(together, read)


def _split(
    cells: Sequence[StudyCell], read: Callable[[list[str]], pd.DataFrame]
) -> Iterator[tuple[StudyCell, list[tuple[Trial, pd.DataFrame]]]]:
    table = read([trial.key for cell in cells for trial in runs_of(cell)])
    parts = {str(key): part for key, part in table.groupby("key", observed=True, sort=False)}
    for cell in cells:
        yield cell, [(trial, parts[trial.key]) for trial in runs_of(cell) if trial.key in parts]


def without_mean(cells: Sequence[StudyCell]) -> list[StudyCell]:
    """Without MEAN where there is anything else: it answers every sample alike, which needs no map and no matrix."""
    return [cell for cell in cells if cell.method != "MEAN"] or list(cells)


def mean_of(cell: StudyCell, column: str) -> float | None:
    """The mean of a column over the finished trials of a cell that have it and were trained for it."""
    values = [value for trial in trained_for(cell.done, column) if (value := trial.number(column)) is not None]
    return sum(values) / len(values) if values else None


def predicting(results: Results) -> list[str]:
    """The methods with a test accuracy that was trained for: they predict propagation conditions."""
    found = {cell.method for cell in results.cells if mean_of(cell, "test_accuracy") is not None}
    return [method for method in results.methods if method in found]


# ------------------------------------------------------------------------------------------------- drawing


def panel_grid(count: int, height: float) -> tuple[Canvas, list[Axes]]:
    """Panels of one height (inches) in up to three columns with a common y axis."""
    columns = 1 if count == 1 else 2 if count in (2, 4) else 3
    rows = math.ceil(count / columns)
    # One panel alone would be stretched over the whole width; five inches keep its shape.
    canvas = Canvas(figsize=(WIDTH if columns > 1 else 5.6, height * rows + 0.35), layout="constrained")
    axes = canvas.subplots(rows, columns, squeeze=False, sharey=True).ravel().tolist()
    for axis in axes[count:]:
        axis.set_visible(False)
    for number, axis in enumerate(axes[:count]):
        if number % columns:
            axis.yaxis.label.set_visible(False)
    return canvas, axes[:count]


def legend(canvas: Canvas, axes: Sequence[Axes], order: Sequence[str] = METHODS) -> None:
    """One legend above all panels, methods in their usual order."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    names = sorted(handles, key=lambda name: order.index(name) if name in order else len(order))
    if names:
        canvas.legend(
            [handles[name] for name in names], [shortened(name) for name in names], loc="outside upper left",
            ncols=min(len(names), 8), frameon=False, handlelength=2.6, columnspacing=1.2, borderaxespad=0.2,
        )  # fmt: skip


def grey_readable() -> Colormap:
    """A sequential colour map from light to dark, which a grey print keeps; its light end is no background's."""
    import seaborn

    colours = seaborn.color_palette("mako_r", as_cmap=True)
    return ListedColormap(colours(np.linspace(0.06, 0.97, 256)))


def logarithmic(axis: Axes) -> None:
    """A logarithmic y axis with plain numbers: the usual powers of ten are formulas, which are not typeset here."""
    axis.set_yscale("log")
    for formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))


def logarithmic_x(axis: Axes) -> None:
    """A logarithmic x axis with plain numbers: 1, 2 and 5 of each decade."""
    axis.set_xscale("log")
    axis.use_sticky_edges = False  # a bar would touch the y axis
    axis.margins(x=0.06)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.xaxis.set_minor_locator(NullLocator())


def panel_title(axis: Axes, name: str) -> None:
    """A configuration above its panel, wrapped to the panel's width."""
    if name:
        place = axis.get_subplotspec()
        columns = 1 if place is None else place.get_gridspec().ncols
        axis.set_title(textwrap.fill(shortened(name, 160), 96 // columns), loc="left", fontsize=8)


# ------------------------------------------------------------------------------------------------- words


def shortened(name: str, most: int = 40) -> str:
    """A name that a figure has room for."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def sentences(parts: Iterable[str]) -> str:
    """Parts as sentences; nothing for none."""
    text = ". ".join(parts)
    return f"{text}." if text else ""


def left_out(names: Sequence[str], what: str = "configuration") -> str:
    """What a figure leaves out, for its caption."""
    if not names:
        return ""
    return f" Not shown: {len(names)} further {what}{'' if len(names) == 1 else 's'} ({_listed(names)})."


def _listed(names: Sequence[str]) -> str:
    more = f"; and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{'; '.join(names[:_MOST_NAMES])}{more}"


def mean_words(cells: Iterable[StudyCell]) -> str:
    """That `without_mean` left MEAN out, for a caption."""
    done = {cell.method for cell in cells if cell.done}
    return " MEAN is not shown: it answers every sample alike." if "MEAN" in done and len(done) > 1 else ""


def untrained_words(shown: Mapping[str, Sequence[StudyCell]], column: str) -> str:
    """Which cells have a metric that was not trained, and for that reason is not shown; for a caption.

    Args:
        shown: configuration in words → its cells.
        column: a column of the trial table, of errors or of an accuracy.
    """
    found: dict[str, list[str]] = {}
    for name, cells in shown.items():
        for cell in cells:
            if cell.done and not trained_for(cell.done, column):
                found.setdefault(cell.method, []).append(name)
    what, end = ("condition prediction", 1) if column.endswith("accuracy") else ("localization", 0)
    return "".join(
        f" Not shown: {what} of {method} with λ = {end}{f' ({_listed(names)})' if any(names) else ''}, which does not "
        "train it."
        for method, names in found.items()
    )


def span(counts: Iterable[int]) -> str:
    """``3``, or ``2 – 5`` where counts differ."""
    numbers = sorted(set(counts))
    if not numbers:
        return "0"
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} – {numbers[-1]}"


def seeds_words(cells: Iterable[StudyCell], counts: Iterable[int], *, cut: bool = True) -> str:
    """``3 seeds``; with those of how many, where ``MAX_RUNS`` did ``cut``."""
    numbers = list(counts)
    text = f"{span(numbers)} seed{'' if set(numbers) == {1} else 's'}"
    most = max((len(cell.done) for cell in cells), default=0)
    return f"{text} (the first {MAX_RUNS} of {most})" if cut and most > MAX_RUNS else text


def join(names: Sequence[str]) -> str:
    """``A``, ``A and B``, ``A, B and C``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def reference(method: str) -> bool:
    """Whether a method is a reference row without training."""
    return method in REFERENCES


def finite(values: Any) -> np.ndarray:
    """Values as float64 with NaN where they are not finite."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)
