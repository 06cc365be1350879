"""Fig. 2: error and accuracy of MDA over the weight λ beside HDA, and what each cost."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from reports.comparison import Comparison, Side, SweepPoint, compare, interval_of
from reports.drawing import WIDTH, Figure, as_csv, drawing
from reports.figures.common import (
    MAX_PANELS,
    METHOD_STYLES,
    Missing,
    join,
    left_out,
    legend,
    sentences,
    shortened,
    span,
    trained_for,
)
from reports.results import LAMBDA, Results, Trial
from reports.statistics import Interval
from reports.tables import distance_decimals
from study.selection import config_value

__all__ = ["lambda_sweep"]

_VALIDATION, _TEST, _ACCURACY = "validation_rmse_m", "test_rmse_m", "test_accuracy"


def lambda_sweep(results: Results) -> Figure | Missing:
    """MDA over the weight λ, HDA as a band, and what each cost."""
    pairs = [pair for pair in compare(results) if pair.manual is not None and _varies(pair.manual)]
    pairs = [pair for pair in pairs if any(_metric(point.trials, _VALIDATION) for point in _points(pair))]
    if not pairs:
        return Missing("lambda_sweep", "no trials of MDA that differ in the weight λ (objective.lambda) are finished")
    shown, more = pairs[:MAX_PANELS], [pair.label for pair in pairs[MAX_PANELS:]]
    accuracy = any(_metric(_trials_of(pair), _ACCURACY) for pair in shown)
    metrics = [
        (_VALIDATION, "Validation RMSE [m]"),
        (_TEST, "Test RMSE [m]"),
        *([(_ACCURACY, "Test accuracy")] if accuracy else []),
    ]
    weights = [_number(point.values.get(LAMBDA)) or 0.0 for pair in shown for point in _points(pair)]
    rows: list[dict[str, object]] = []
    with drawing() as draw:
        # One configuration: four roomy panels. Several: one row each, so that columns compare.
        columns = 2 if len(shown) == 1 else len(metrics) + 1
        lines = math.ceil((len(metrics) + 1) / columns)
        heights = [1.95 * lines + (0.17 * _title_lines(pair) if pair.label else 0) for pair in shown]
        canvas = Canvas(figsize=(WIDTH, sum(heights) + 0.3), layout="constrained")
        blocks = canvas.subfigures(len(shown), 1, squeeze=False, height_ratios=heights).ravel()
        axes: list[Axes] = []
        for pair, block in zip(shown, blocks, strict=True):
            own: list[Axes] = block.subplots(lines, columns, squeeze=False).ravel().tolist()
            for axis, (column, label) in zip(own, metrics, strict=False):
                _draw_sweep(axis, pair, column, label, rows, (min(weights), max(weights)), roomy=columns == 2)
            _draw_cost(own[len(metrics)], pair, rows)
            for axis in own[len(metrics) + 1 :]:
                axis.set_visible(False)
            if pair.label:
                block.suptitle(_title(pair), x=0.01, ha="left", fontsize=8)
            axes += own
        legend(canvas, axes)
        svg, png = draw(canvas, "lambda_sweep")
    decimals = distance_decimals(results)
    data = pd.DataFrame(rows)
    caption = _caption(results, shown, [column for column, _ in metrics]) + left_out(more)
    return Figure("lambda_sweep", caption, _alt(shown, decimals), svg, png, as_csv(data))


# ------------------------------------------------------------------------------------------------- data


def _varies(side: Side) -> bool:
    """Whether the trials of a side differ in λ."""
    weights = {_number(point.values.get(LAMBDA)) for point in side.sweep}
    return len(weights - {None}) > 1


def _points(pair: Comparison) -> Sequence[SweepPoint]:
    return () if pair.manual is None else pair.manual.sweep


def _sweep_seeds(pair: Comparison) -> int:
    assert pair.manual is not None
    return max((len(point.trials) for point in pair.manual.sweep), default=0)


def _trials_of(pair: Comparison) -> list[Trial]:
    return [trial for side in (pair.manual, pair.learned) if side is not None for trial in side.spent]


def _metric(trials: Sequence[Trial], column: str) -> Interval | None:
    """Mean and interval over the trials that were trained for a metric."""
    return interval_of(trained_for(trials, column), column, (0.0, 1.0) if column == _ACCURACY else (0.0, math.inf))


def _on_all_seeds(pair: Comparison) -> bool:
    """Whether every candidate runs on all seeds: so it is where λ is on an axis. A search repeats its winner alone."""
    return pair.manual is not None and pair.manual.selecting >= pair.manual.seeds


def _repeats(pair: Comparison, column: str) -> Interval | None:
    """The selected candidate on all seeds, where they are more than the search has had."""
    if pair.manual is None or _on_all_seeds(pair):
        return None
    repeated = _metric(pair.manual.done, column)
    return repeated if repeated is not None and repeated.n > _sweep_seeds(pair) else None


def _searched(results: Results) -> bool:
    """Whether a search chose which λ to run; else they are the values of an axis."""
    return any(LAMBDA in cell.searched for cell in results.cells)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _row(
    pair: Comparison, series: str, column: str, weight: float | None, mean: float, low: float | None,
    high: float | None, n: int,
) -> dict[str, object]:  # fmt: skip
    return {
        "configuration": pair.label, "series": series, "metric": column, "lambda": weight, "mean": mean, "low": low,
        "high": high, "n": n,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------- drawing


def _draw_sweep(
    axis: Axes,
    pair: Comparison,
    column: str,
    label: str,
    rows: list[dict[str, object]],
    ends: tuple[float, float],
    *,
    roomy: bool,
) -> None:
    """One metric over λ; the axis of λ has the same ``ends`` in all panels, also where a panel has no point."""
    manual = pair.manual
    assert manual is not None
    colour, line, marker = METHOD_STYLES[manual.method]
    points: list[tuple[float, Interval, bool]] = []
    for point in manual.sweep:
        weight, interval = _number(point.values.get(LAMBDA)), _metric(point.trials, column)
        if weight is not None and interval is not None:
            points.append((weight, interval, point.won))
            rows.append(
                _row(pair, manual.method, column, weight, interval.mean, interval.low, interval.high, interval.n)
            )
    points.sort(key=lambda entry: (entry[0], entry[1].mean))
    # With further searched settings several candidates share a λ: a line through them would mean nothing.
    alone = len({weight for weight, _, _ in points}) == len(points)
    axis.plot(
        [x for x, _, _ in points], [y.mean for _, y, _ in points], color=colour, marker=marker, markersize=3.5,
        linestyle=line if alone else "none", linewidth=1.1, label=f"{manual.method} over λ", clip_on=False, zorder=3,
    )  # fmt: skip
    for weight, interval, won in points:
        if _on_all_seeds(pair):
            _draw_interval(axis, weight, interval, colour)
        if won:
            axis.plot([weight], [interval.mean], marker="o", markersize=10, fillstyle="none", color=colour,
                      linestyle="none", label="selected on validation", clip_on=False, zorder=4)  # fmt: skip
    repeated, weight = _repeats(pair, column), _number(manual.weight(LAMBDA))
    if repeated is not None and weight is not None:
        rows.append(_row(pair, manual.name, column, weight, repeated.mean, repeated.low, repeated.high, repeated.n))
        _draw_interval(axis, weight, repeated, colour, label="selected, all seeds")
    _draw_learned(axis, pair, column, rows)
    axis.set_xlabel("λ (weight of coordinate regression)" if roomy else "λ")
    axis.set_ylabel(label)
    axis.margins(y=0.12)
    room = 0.06 * (ends[1] - ends[0])
    axis.set_xlim(ends[0] - room, ends[1] + room)


def _draw_interval(axis: Axes, weight: float, interval: Interval, colour: str, label: str = "") -> None:
    """A bar; with a label also the mean, as a dash, for it is not that of the point."""
    if interval.low is None or interval.high is None:
        return
    sides = [[max(interval.mean - interval.low, 0.0)], [max(interval.high - interval.mean, 0.0)]]
    _, caps, lines = axis.errorbar(
        [weight], [interval.mean], sides, color=colour, marker="_" if label else "none", markersize=7, capsize=2.5,
        linewidth=1.1, label=label or None,
    ).lines  # fmt: skip
    for part in (*caps, *lines):
        part.set_clip_on(False)


def _draw_learned(axis: Axes, pair: Comparison, column: str, rows: list[dict[str, object]]) -> None:
    """HDA as a horizontal line with its interval as a band: it has no λ."""
    learned = None if pair.learned is None else _metric(pair.learned.done, column)
    if learned is None or pair.learned is None:
        return
    colour, line, _ = METHOD_STYLES[pair.learned.method]
    axis.axhline(learned.mean, color=colour, linestyle=line, linewidth=1.3, label=pair.learned.method)
    if learned.low is not None and learned.high is not None:
        axis.axhspan(learned.low, learned.high, color=colour, alpha=0.14, linewidth=0)
    rows.append(_row(pair, pair.learned.name, column, None, learned.mean, learned.low, learned.high, learned.n))


def _draw_cost(axis: Axes, pair: Comparison, rows: list[dict[str, object]]) -> None:
    """A bar of the training time of each side, with its trials in words."""
    sides = [side for side in (pair.learned, pair.manual) if side is not None and side.spent]
    unit, scale = _time_unit(max(side.training_seconds for side in sides))
    values = [side.training_seconds / scale for side in sides]
    colours = [METHOD_STYLES[side.method][0] for side in sides]
    bars = axis.barh([side.method for side in sides], values, height=0.5, color=colours)
    for side, bar, value in zip(sides, bars, values, strict=True):
        trials = f"{len(side.spent)} trial{'' if len(side.spent) == 1 else 's'}"
        axis.annotate(
            f"{trials}, {value:.3g} {unit}", (0, bar.get_y() + bar.get_height()), xytext=(2, 1.5),
            textcoords="offset points", va="bottom", ha="left", fontsize=7,
        )  # fmt: skip
        for metric, number in (("trials", len(side.spent)), ("training_seconds", side.training_seconds)):
            rows.append(_row(pair, side.name, metric, None, float(number), None, None, len(side.spent)))
    axis.set_xlabel(f"Training time [{unit}]")
    axis.set_ylim(-0.5, len(sides) - 0.2)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(MaxNLocator(4))


def _time_unit(seconds: float) -> tuple[str, float]:
    if seconds >= 7200:
        return "h", 3600.0
    return ("min", 60.0) if seconds >= 600 else ("s", 1.0)


def _title(pair: Comparison) -> str:
    return textwrap.fill(shortened(pair.label, 300), 110)


def _title_lines(pair: Comparison) -> int:
    return _title(pair).count("\n") + 1


# ------------------------------------------------------------------------------------------------- words


def _caption(results: Results, shown: Sequence[Comparison], columns: Sequence[str]) -> str:
    """What is drawn, and nothing else."""
    sides = [side for pair in shown for side in (pair.manual, pair.learned) if side is not None]
    points = [point for pair in shown for point in _points(pair)]
    repeats = [found.n for pair in shown for column in columns if (found := _repeats(pair, column)) is not None]
    seeds = {len(trained_for(point.trials, _VALIDATION)) for point in points} - {0}
    plural = "" if seeds == {1} else "s"
    bars = ", bars: 95 % intervals" if seeds != {1} and any(map(_on_all_seeds, shown)) else ""
    return (
        "MDA over λ, the weight of coordinate regression against condition prediction. Points: "
        + (f"candidates of the search on {span(seeds)} search seed{plural}" if _searched(results) and not bars
           else f"mean over {span(seeds)} seed{plural}" if seeds != {1} else "one seed each")
        + bars
        + ("; ring: the one that the validation metric selected" if any(point.won for point in points) else "")
        + (f"; bar: its repeats on all seeds, mean and 95 % interval (n = {span(repeats)})" if repeats else "")
        + f".{_untrained(points, columns)}{_learned_words(shown)} Last panel: the trials of each method and their "
        f"training time{'' if all(side.complete for side in sides) else ' so far: the study is not complete'}. "
        "Only the axis of the training time starts at zero. The test scenes did not take part in the selection."
    )  # fmt: skip


def _untrained(points: Sequence[SweepPoint], columns: Sequence[str]) -> str:
    """Which ends of λ have no point, and why."""
    parts = []
    for column, words in ((_VALIDATION, "errors at λ = 0 (no coordinates are trained)"),
                          (_ACCURACY, "the accuracy at λ = 1 (no conditions are trained)")):  # fmt: skip
        if column in columns and any(not trial.trains(column) for point in points for trial in point.trials):
            parts.append(words)
    return f" Not shown: {join(parts)}." if parts else ""


def _learned_words(shown: Sequence[Comparison]) -> str:
    learned = [pair.learned for pair in shown if pair.learned is not None]
    counts = {len(side.done) for side in learned if side.done}
    if not learned:
        return ""
    if not counts:
        return " HDA has no finished trial yet."
    if counts == {1}:
        return " Horizontal line: HDA, one seed, no interval."
    return f" Horizontal line and band: HDA, mean and 95 % interval (n = {span(counts)})."


def _alt(pairs: Sequence[Comparison], decimals: int) -> str:
    parts = []
    for pair in pairs:
        assert pair.manual is not None
        values = [
            (interval.mean, weight)
            for point in pair.manual.sweep
            if (interval := _metric(point.trials, _VALIDATION)) is not None
            and (weight := _number(point.values.get(LAMBDA))) is not None
        ]
        if not values:
            continue
        (best, at_best), (worst, at_worst) = min(values), max(values)
        words = f"validation RMSE of MDA {best:.{decimals}f} m at λ = {at_best:g}"
        if len(values) > 1:
            words = words.replace("MDA", "MDA between") + f" and {worst:.{decimals}f} m at λ = {at_worst:g}"
        chosen = _number(config_value(pair.manual.reported[0].config, LAMBDA)) if pair.manual.reported else None
        if chosen is not None:
            words += f"; selected λ = {chosen:g}"
        learned = None if pair.learned is None else _metric(pair.learned.done, _VALIDATION)
        if learned is not None:
            words += f"; HDA {learned.mean:.{decimals}f} m"
        if pair.ratio is not None:
            words += f"; MDA took {pair.ratio:.2g} times the training time of HDA"
        parts.append((f"{pair.label}: " if pair.label else "") + words)
    return "RMSE and accuracy over the weight λ. " + sentences(parts)
