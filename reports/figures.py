"""The figures of a report as SVG, PNG and CSV.

A method has one colour, line style and marker in every figure; line styles differ, so that a grey print can be read.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogFormatter, MaxNLocator

from reports.comparison import Comparison, Side, compare, interval_of
from reports.drawing import INK, WIDTH, Figure, as_csv, drawing
from reports.results import LAMBDA, METHODS, REFERENCES, Results, StudyCell, Trial, configuration_label
from reports.tables import distance_decimals
from study.selection import config_value

__all__ = ["FIGURES", "Missing", "cdf", "lambda_sweep", "learning_curves", "method_colours"]

_MAX_PANELS = 6
_CURVE_POINTS = 240

# Okabe and Ito's palette, which colour-blind readers can tell apart; references are grey.
_STYLES: Mapping[str, tuple[str, Any, str]] = {
    "MEAN": ("#9a9a9a", (0, (1, 1.4)), "x"),
    "KNN": ("#6b6b6b", (0, (1, 1.4)), "+"),
    "DCNN": ("#e69f00", (0, (4, 1.6)), "s"),
    "TL": ("#009e73", (0, (6, 1.6, 1, 1.6)), "^"),
    "RDA": ("#cc79a7", (0, (2.4, 1.2)), "v"),
    "MDA": ("#0072b2", (0, (7, 1.8)), "D"),
    "HDA": ("#d55e00", "solid", "o"),
}
# For a user's own methods, in the order of the study: none of the above, and to be read on white and on black.
_MORE_COLOURS = ("#56b4e9", "#b5763f", "#9a7be0", "#9aa81a")
_MORE_LINES = ((0, (5, 1.2, 1, 1.2, 1, 1.2)), (0, (9, 1.4, 2, 1.4)), (0, (3, 1.2, 3, 2.6)))
_MORE_MARKERS = ("P", "X", "*", "<", ">", "p", "h")


@dataclass(frozen=True)
class Missing:
    """A figure that the study has no data for, and why."""

    name: str
    reason: str


def method_colours(methods: Sequence[str]) -> dict[str, str]:
    """Method → colour, for the page to adapt to a dark background."""
    return {method: colour for method, (colour, _, _) in _styles(methods).items()}


def _styles(methods: Sequence[str]) -> dict[str, tuple[str, Any, str]]:
    """Method → colour, line style and marker, the same in every figure of a study."""
    own = [method for method in methods if method not in _STYLES]
    more = {
        method: (
            _MORE_COLOURS[i % len(_MORE_COLOURS)],
            _MORE_LINES[i % len(_MORE_LINES)],
            _MORE_MARKERS[i % len(_MORE_MARKERS)],
        )
        for i, method in enumerate(own)
    }
    return {method: _STYLES.get(method) or more[method] for method in methods}


# ------------------------------------------------------------------------------------------------- the figures


def cdf(results: Results) -> Figure | Missing:
    """The share of test samples whose localization error is at most x, pooled over seeds."""
    panels, left_out = _panels(results)
    curves: dict[str, list[tuple[StudyCell, np.ndarray, int]]] = {}
    for name, cells in panels.items():
        for cell in cells:
            pooled, runs = _pooled_errors(results, cell)
            if pooled is not None:
                curves.setdefault(name, []).append((cell, pooled, runs))
    if not curves:
        return Missing("cdf", "no errors of test samples are stored (errors/)")

    styles = _styles(results.methods)
    rows: list[tuple[str, str, float, float]] = []
    worst = 0.0
    cut: set[str] = set()
    with drawing() as draw:
        canvas, axes = _grid(len(curves), height=2.75 if len(curves) == 1 else 2.1)
        for axis, (name, members) in zip(axes, curves.items(), strict=True):
            for cell, errors, _ in members:
                colour, line, marker = styles[cell.method]
                shares = np.linspace(0.0, 0.99, _CURVE_POINTS)
                values = np.quantile(errors, shares)
                axis.plot(values, shares, color=colour, linestyle=line, label=cell.method)
                marks = np.quantile(errors, [0.5, 0.9])
                axis.plot(marks, [0.5, 0.9], color=colour, linestyle="none", marker=marker, markersize=4.5)
                worst = max(worst, float(errors.max()))
                rows.extend(
                    (name, cell.method, float(share), float(value))
                    for share, value in zip(
                        np.linspace(0, 1, 101), np.quantile(errors, np.linspace(0, 1, 101)), strict=True
                    )
                )
            for share in (0.5, 0.9):
                axis.axhline(share, color=INK, linewidth=0.5, alpha=0.35, zorder=0)
            # A reference many times worse would squeeze the curves that the figure is about.
            trained = [np.quantile(errors, 0.99) for cell, errors, _ in members if cell.method not in REFERENCES]
            ends = [(cell.method, float(np.quantile(errors, 0.99))) for cell, errors, _ in members]
            right = 1.08 * float(max(trained)) if trained else 1.02 * max(end for _, end in ends)
            cut |= {method for method, end in ends if end > right}
            axis.set(xlim=(0, right), ylim=(0, 1.0), yticks=[0, 0.25, 0.5, 0.75, 0.9, 1.0])
            axis.set_xlabel("Localization error [m]")
            axis.set_ylabel("Share of test samples")
            _panel_title(axis, name)
        _legend(canvas, axes, curves_of=[cell.method for members in curves.values() for cell, _, _ in members])
        svg, png = draw(canvas, "cdf")

    decimals = distance_decimals(results)
    pooled_seeds = sorted({count for members in curves.values() for _, _, count in members})
    caption = (
        "Cumulative distribution of the localization error on the test scenes, samples of "
        f"{_range(pooled_seeds)} seed{'' if pooled_seeds == [1] else 's'} per method pooled. Markers: "
        f"median and 90th percentile. Drawn to the 99th percentile of each curve; the remaining 1 % reaches up to "
        f"{worst:.{decimals}f} m. "
        f"{_beyond(cut)}Further left is better.{_left_out(left_out)}"
    )
    alt = "Cumulative distribution of the localization error. " + _sentences(
        (f"{name}: " if name else "")
        + "; ".join(
            f"{cell.method} median {np.quantile(errors, 0.5):.{decimals}f} m, "
            f"90th percentile {np.quantile(errors, 0.9):.{decimals}f} m"
            for cell, errors, _ in members
        )
        for name, members in curves.items()
    )
    data = pd.DataFrame(rows, columns=["configuration", "method", "share", "error_m"])
    return Figure("cdf", caption, alt, svg, png, as_csv(data))


def lambda_sweep(results: Results) -> Figure | Missing:
    """MDA over the weight λ, HDA as a band, and what each cost."""
    pairs = [pair for pair in compare(results) if pair.manual is not None and _sweep(pair.manual)]
    if not pairs:
        return Missing("lambda_sweep", "the study does not vary the weight λ of MDA (objective.lambda)")
    shown, left_out = pairs[:_MAX_PANELS], [pair.label for pair in pairs[_MAX_PANELS:]]
    accuracy = any(trial.number("test_accuracy") is not None for pair in shown for trial in _trials_of(pair))
    metrics = [
        ("validation_rmse_m", "Validation RMSE [m]"),
        ("test_rmse_m", "Test RMSE [m]"),
        *([("test_accuracy", "Test accuracy")] if accuracy else []),
    ]
    rows: list[dict[str, object]] = []
    with drawing() as draw:
        # One configuration: four roomy panels. Several: one row each, so that columns compare.
        columns = 2 if len(shown) == 1 else len(metrics) + 1
        lines = math.ceil((len(metrics) + 1) / columns) * len(shown)
        canvas = Canvas(figsize=(WIDTH, 2.05 * lines + 0.35), layout="constrained")
        axes = canvas.subplots(lines, columns, squeeze=False).ravel().tolist()
        per_pair = len(axes) // len(shown)
        for number, pair in enumerate(shown):
            own = axes[number * per_pair : (number + 1) * per_pair]
            for axis, (column, label) in zip(own, metrics, strict=False):
                _draw_sweep(axis, pair, column, label, rows)
            _draw_cost(own[len(metrics)], pair, rows)
            for axis in own[len(metrics) + 1 :]:
                axis.set_visible(False)
            if pair.label:
                _panel_title(own[0], pair.label)
        _legend(canvas, axes)
        svg, png = draw(canvas, "lambda_sweep")
    seeds = sorted({_sweep_seeds(pair) for pair in shown})
    caption = (
        "MDA over λ, the weight of coordinate regression against condition prediction. Points: candidates on "
        f"{_range(seeds)} search seed{'' if seeds == [1] else 's'}; ring: the one that the validation metric selected; "
        f"bar: its repeats on all seeds, {_counts(shown, 'manual')}. Horizontal line and band: HDA, "
        f"{_counts(shown, 'learned')}. Last panel: the trials that each method needed and their training time. "
        f"The test scenes did not take part in the selection.{_left_out(left_out)}"
    )
    decimals = distance_decimals(results)
    data = pd.DataFrame(rows)
    return Figure("lambda_sweep", caption, _sweep_words(shown, decimals), svg, png, as_csv(data))


def learning_curves(results: Results) -> Figure | Missing:
    """Validation RMSE over epochs with best epochs, and HDA's learned log variances."""
    panels, left_out = _panels(results)
    curves: dict[str, list[tuple[StudyCell, list[tuple[Trial, pd.DataFrame]]]]] = {}
    for name, cells in panels.items():
        for cell in cells:
            stored = [(trial, table) for trial in cell.done if (table := results.epochs(trial.key)) is not None]
            if stored:
                curves.setdefault(name, []).append((cell, stored))
    if not curves:
        return Missing("learning_curves", "no epochs are stored (epochs/)")
    learned = any(_variances(table) for members in curves.values() for _, stored in members for _, table in stored)

    styles = _styles(results.methods)
    tables: list[pd.DataFrame] = []
    with drawing() as draw:
        columns = 2 if learned else 1
        if learned:
            canvas = Canvas(
                figsize=(WIDTH, (2.6 if len(curves) == 1 else 2.0) * len(curves) + 0.35), layout="constrained"
            )
            grid = canvas.subplots(len(curves), columns, squeeze=False, width_ratios=[1.5, 1.0])
            axes = grid.ravel().tolist()
        else:
            canvas, axes = _grid(len(curves), height=2.75 if len(curves) == 1 else 2.1)
        for number, (name, members) in enumerate(curves.items()):
            axis = axes[number * columns]
            for cell, stored in members:
                colour, line, marker = styles[cell.method]
                wide = _wide(stored, "validation_rmse_m")
                _draw_band(axis, wide, colour, line, cell.method)
                bests = [(trial.number("best_epoch"), trial.number("validation_rmse_m")) for trial, _ in stored]
                points = [(epoch, value) for epoch, value in bests if epoch is not None and value is not None]
                if points:
                    axis.plot(*zip(*points, strict=True), color=colour, linestyle="none", marker=marker, markersize=4)
                for trial, table in stored:
                    tables.append(table.assign(configuration=name, method=cell.method, seed=trial.seed))
            low, high = axis.get_ylim()
            if low > 0 and high / low > 8:
                _logarithmic(axis)
            axis.set(xlabel="Epoch", ylabel="Validation RMSE [m]", xlim=(0, None))
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            _panel_title(axis, name)
            if learned:
                _draw_variances(axes[number * columns + 1], members, styles)
        _legend(canvas, [axes[number * columns] for number in range(len(curves))])
        svg, png = draw(canvas, "learning_curves")

    runs = sorted({len(stored) for members in curves.values() for _, stored in members})
    caption = (
        f"Validation RMSE over epochs: mean over {_range(runs)} seed{'' if runs == [1] else 's'} (line) and their "
        "range (shade); markers: the best epoch of each seed."
        + (" Right: the log variances that HDA learned; the task of lower variance weighs more." if learned else "")
        + _left_out(left_out)
    )
    alt = "Validation RMSE over epochs. " + _sentences(
        (f"{name}: " if name else "") + "; ".join(_best_words(cell) for cell, _ in members)
        for name, members in curves.items()
    )
    data = pd.concat(tables, ignore_index=True)
    order = ["configuration", "method", "seed", "epoch", "validation_rmse_m", "log_var_position", "log_var_condition"]
    data = data[[column for column in order if column in data.columns and not data[column].isna().all()]]
    return Figure("learning_curves", caption, alt, svg, png, as_csv(data))


FIGURES: Mapping[str, Callable[[Results], Figure | Missing]] = {
    "lambda_sweep": lambda_sweep,
    "cdf": cdf,
    "learning_curves": learning_curves,
}


# ------------------------------------------------------------------------------------------------- data


def _panels(results: Results) -> tuple[dict[str, list[StudyCell]], list[str]]:
    """Configuration in words → its cells, at most ``_MAX_PANELS``; and the names of those left out."""
    named = {
        configuration_label(configuration): results.cells_of(configuration)
        for configuration in results.configurations()
    }
    names = list(named)
    return {name: named[name] for name in names[:_MAX_PANELS]}, names[_MAX_PANELS:]


def _pooled_errors(results: Results, cell: StudyCell) -> tuple[np.ndarray | None, int]:
    tables = [table for trial in cell.done if (table := results.errors(trial.key)) is not None]
    if not tables:
        return None, 0
    errors = np.concatenate([table["error_m"].to_numpy(dtype=np.float64) for table in tables])
    errors = errors[np.isfinite(errors)]
    return (errors, len(tables)) if errors.size else (None, 0)


def _wide(stored: Sequence[tuple[Trial, pd.DataFrame]], column: str) -> pd.DataFrame:
    """Epochs × seeds of one column, thinned to what a figure can show."""
    series = {trial.key: table.set_index("epoch")[column].astype(float) for trial, table in stored}
    wide = pd.DataFrame(series).sort_index()
    if len(wide) > _CURVE_POINTS:
        wide = wide.iloc[np.unique(np.linspace(0, len(wide) - 1, _CURVE_POINTS).round().astype(int))]
    return wide


def _variances(table: pd.DataFrame) -> bool:
    return "log_var_position" in table.columns and bool(table["log_var_position"].notna().any())


def _sweep(side: Side) -> bool:
    """Whether the trials of a side differ in λ."""
    return len({point.values.get(LAMBDA) for point in side.sweep if _number(point.values.get(LAMBDA)) is not None}) > 1


def _sweep_seeds(pair: Comparison) -> int:
    assert pair.manual is not None
    return max((len(point.trials) for point in pair.manual.sweep), default=0)


def _counts(pairs: Sequence[Comparison], which: str) -> str:
    sides = [side for pair in pairs if (side := getattr(pair, which)) is not None and side.done]
    counts = sorted({len(side.done) for side in sides})
    if counts in ([], [1]):
        return "one seed, no interval" if counts else "not finished"
    return f"mean and 95 % interval (n = {_range(counts)})"


def _trials_of(pair: Comparison) -> list[Trial]:
    return [trial for side in (pair.manual, pair.learned) if side is not None for trial in side.spent]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


# ------------------------------------------------------------------------------------------------- drawing


def _draw_sweep(axis: Axes, pair: Comparison, column: str, label: str, rows: list[dict[str, object]]) -> None:
    assert pair.manual is not None
    bounds = (0.0, 1.0) if column == "test_accuracy" else (0.0, math.inf)
    colour, line, marker = _STYLES[pair.manual.method]
    points: list[tuple[float, float, bool]] = []
    for point in pair.manual.sweep:
        weight, interval = _number(point.values.get(LAMBDA)), interval_of(point.trials, column, bounds)
        if weight is not None and interval is not None:
            points.append((weight, interval.mean, point.won))
            rows.append(_sweep_row(pair, pair.manual.method, column, weight, interval.mean, None, None, interval.n))
    points.sort()
    # With further searched settings several candidates share a λ: a line through them would mean nothing.
    alone = len({weight for weight, _, _ in points}) == len(points)
    axis.plot(
        [x for x, _, _ in points], [y for _, y, _ in points], color=colour, marker=marker, markersize=3.5,
        linestyle=line if alone else "none", label=f"{pair.manual.method}, search over λ",
    )  # fmt: skip
    for weight, value, won in points:
        if won:
            axis.plot([weight], [value], marker="o", markersize=10, fillstyle="none", color=colour, linestyle="none",
                      label="selected on validation")  # fmt: skip
    repeated = interval_of(pair.manual.done, column, bounds)
    weight = _number(pair.manual.weight(LAMBDA))
    if repeated is not None and weight is not None and repeated.n > _sweep_seeds(pair):
        rows.append(
            _sweep_row(pair, pair.manual.name, column, weight, repeated.mean, repeated.low, repeated.high, repeated.n)
        )
        if repeated.low is not None and repeated.high is not None:
            axis.errorbar(
                [weight], [repeated.mean], [[repeated.mean - repeated.low], [repeated.high - repeated.mean]],
                color=colour, marker="_", markersize=7, capsize=2.5, linewidth=1.1, label="selected, all seeds",
            )  # fmt: skip
    learned = None if pair.learned is None else interval_of(pair.learned.done, column, bounds)
    if learned is not None and pair.learned is not None:
        colour, line, _ = _STYLES[pair.learned.method]
        axis.axhline(learned.mean, color=colour, linestyle=line, linewidth=1.3, label=pair.learned.method)
        if learned.low is not None and learned.high is not None:
            axis.axhspan(learned.low, learned.high, color=colour, alpha=0.14, linewidth=0)
        rows.append(
            _sweep_row(pair, pair.learned.name, column, None, learned.mean, learned.low, learned.high, learned.n)
        )
    axis.set_xlabel("λ (weight of coordinate regression)" if axis.get_subplotspec() is None or _roomy(axis) else "λ")
    axis.set_ylabel(label)
    axis.margins(x=0.04, y=0.1)
    # A weight of 0 can be an order of magnitude worse than the rest.
    lowest = axis.get_ylim()[0]
    if (
        column != "test_accuracy"
        and points
        and max(y for _, y, _ in points) > 5 * min(y for _, y, _ in points)
        and lowest > 0
    ):
        _logarithmic(axis)


def _roomy(axis: Axes) -> bool:
    place = axis.get_subplotspec()
    return place is not None and place.get_gridspec().ncols <= 2


def _sweep_row(
    pair: Comparison, series: str, column: str, weight: float | None, mean: float, low: float | None,
    high: float | None, n: int,
) -> dict[str, object]:  # fmt: skip
    return {
        "configuration": pair.label, "series": series, "metric": column, "lambda": weight, "mean": mean, "low": low,
        "high": high, "n": n,
    }  # fmt: skip


def _draw_cost(axis: Axes, pair: Comparison, rows: list[dict[str, object]]) -> None:
    sides = [side for side in (pair.learned, pair.manual) if side is not None]
    unit, scale = _time_unit(max(side.training_seconds for side in sides))
    values = [side.training_seconds / scale for side in sides]
    bars = axis.barh(
        [side.method for side in sides],
        values,
        height=0.55,
        color=[_STYLES[side.method][0] for side in sides],
    )
    for side, bar, value in zip(sides, bars, values, strict=True):
        trials = f"{len(side.spent)} trial{'' if len(side.spent) == 1 else 's'}"
        axis.annotate(
            f"{trials}, {value:.3g} {unit}", (0, bar.get_y() + bar.get_height()), xytext=(2, 1.5),
            textcoords="offset points", va="bottom", ha="left", fontsize=7,
        )  # fmt: skip
        for metric, number in (("trials", len(side.spent)), ("training_seconds", side.training_seconds)):
            rows.append(_sweep_row(pair, side.name, metric, None, float(number), None, None, len(side.spent)))
    axis.set_xlabel(f"Training time [{unit}]")
    axis.set_ylim(-0.5, len(sides) - 0.25)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(MaxNLocator(4))


def _time_unit(seconds: float) -> tuple[str, float]:
    if seconds >= 7200:
        return "h", 3600.0
    return ("min", 60.0) if seconds >= 600 else ("s", 1.0)


def _draw_band(axis: Axes, wide: pd.DataFrame, colour: str, line: Any, label: str) -> None:
    x = wide.index.to_numpy(dtype=float)
    axis.plot(x, wide.mean(axis=1).to_numpy(), color=colour, linestyle=line, label=label)
    if wide.shape[1] > 1:
        axis.fill_between(
            x, wide.min(axis=1).to_numpy(), wide.max(axis=1).to_numpy(), color=colour, alpha=0.13, linewidth=0
        )


def _draw_variances(
    axis: Axes,
    members: Sequence[tuple[StudyCell, list[tuple[Trial, pd.DataFrame]]]],
    styles: Mapping[str, tuple[str, Any, str]],
) -> None:
    for cell, stored in members:
        learned = [(trial, table) for trial, table in stored if _variances(table)]
        if not learned:
            continue
        colour, _, _ = styles[cell.method]
        # Not by colour: both belong to one method.
        for column, label, line in (
            ("log_var_position", "log σ₁², position", "solid"),
            ("log_var_condition", "log σ₂², condition", (0, (2, 1.2))),
        ):
            if all(column in table.columns for _, table in learned):
                wide = _wide(learned, column)
                _draw_band(axis, wide, colour, line, f"{cell.method}: {label}" if cell.method != "HDA" else label)
    axis.set(xlabel="Epoch", ylabel="Learned log variance", xlim=(0, None))
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="best", frameon=False, fontsize=7, handlelength=2.2)
    else:
        axis.set_visible(False)


def _grid(count: int, height: float) -> tuple[Canvas, list[Axes]]:
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


def _legend(canvas: Canvas, axes: Sequence[Axes], curves_of: Sequence[str] = ()) -> None:
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    names = sorted(handles, key=lambda name: METHODS.index(name) if name in METHODS else len(METHODS))
    if names:
        canvas.legend(
            [handles[name] for name in names], names, loc="outside upper left", ncols=min(len(names), 7),
            frameon=False, handlelength=2.8, columnspacing=1.4, borderaxespad=0.2,
        )  # fmt: skip


def _logarithmic(axis: Axes) -> None:
    """A logarithmic y axis with plain numbers: the usual powers of ten are formulas, which are not typeset here."""
    axis.set_yscale("log")
    for formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))


def _panel_title(axis: Axes, name: str) -> None:
    if name:
        place = axis.get_subplotspec()
        columns = 1 if place is None else place.get_gridspec().ncols
        axis.set_title(textwrap.fill(name, 100 // columns), loc="left", fontsize=8)


# ------------------------------------------------------------------------------------------------- words


def _sweep_words(pairs: Sequence[Comparison], decimals: int) -> str:
    sentences = []
    for pair in pairs:
        assert pair.manual is not None
        values = [
            (interval.mean, _number(point.values.get(LAMBDA)) or 0.0)
            for point in pair.manual.sweep
            if (interval := interval_of(point.trials, "validation_rmse_m")) is not None
        ]
        if not values:
            continue
        (best, at_best), (worst, at_worst) = min(values), max(values)
        words = (
            f"validation RMSE of MDA between {best:.{decimals}f} m at λ = {at_best:g} and {worst:.{decimals}f} m at "
            f"λ = {at_worst:g}"
        )
        chosen = _number(config_value(pair.manual.reported[0].config, LAMBDA)) if pair.manual.reported else None
        if chosen is not None:
            words += f"; selected λ = {chosen:g}"
        learned = None if pair.learned is None else interval_of(pair.learned.done, "validation_rmse_m")
        if learned is not None:
            words += f"; HDA {learned.mean:.{decimals}f} m"
        if pair.ratio is not None:
            words += f"; MDA took {pair.ratio:.2g} times the training time of HDA"
        sentences.append((f"{pair.label}: " if pair.label else "") + words)
    return "RMSE and accuracy over the weight λ. " + _sentences(sentences)


def _best_words(cell: StudyCell) -> str:
    best = interval_of(cell.done, "best_epoch")
    value = interval_of(cell.done, "validation_rmse_m")
    if best is None or value is None:
        return cell.method
    return f"{cell.method} lowest {value.mean:.2f} m at epoch {best.mean:.0f} on average"


def _sentences(parts: Iterator[str] | Sequence[str]) -> str:
    text = ". ".join(parts)
    return f"{text}." if text else ""


def _left_out(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f" Not shown: {len(names)} further configuration{'' if len(names) == 1 else 's'} ({'; '.join(names)})."


def _beyond(methods: set[str]) -> str:
    if not methods:
        return ""
    names = [*(name for name in METHODS if name in methods), *sorted(methods - set(METHODS))]
    return (
        f"The axis ends where the trained methods do; {' and '.join(names)} {'runs' if len(names) == 1 else 'run'} on. "
    )


def _range(counts: Sequence[int]) -> str:
    if not counts:
        return "0"
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} – {counts[-1]}"
