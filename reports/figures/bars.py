"""Fig. 7: error and accuracy side by side, over the values of the study's axis.

Where the means of a metric are close together, bars from zero would all look alike: points on an axis that is fitted
to them and their intervals take their place.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from reports.comparison import WEIGHTS, interval_of
from reports.drawing import WIDTH, Figure, as_csv, drawing
from reports.figures.common import (
    MAX_PANELS,
    Missing,
    Style,
    join,
    left_out,
    legend,
    logarithmic,
    method_styles,
    panel_title,
    panels,
    reference,
    selected,
    sentences,
    shortened,
    span,
    trained_for,
    untrained_words,
    weights_words,
)
from reports.results import Results, StudyCell, axis_label, axis_unit, configuration_label, value_label
from reports.statistics import Interval
from reports.tables import distance_decimals
from study.selection import canonical

__all__ = ["bars"]

_MAX_GROUPS = 12
_WIDE_RANGE = 8.0
_NARROW_RANGE = 2.0
_LEAST_SPAN = 0.04
_TOLD_GROUPS = 6
_RMSE, _ACCURACY = "test_rmse_m", "test_accuracy"
_LABELS: Mapping[str, str] = {_RMSE: "Test RMSE [m]", _ACCURACY: "Test accuracy"}
_NAMES: Mapping[str, str] = {_RMSE: "error", _ACCURACY: "accuracy"}
_BOUNDS: Mapping[str, tuple[float, float]] = {_RMSE: (0.0, math.inf), _ACCURACY: (0.0, 1.0)}


@dataclass(frozen=True)
class _Entry:
    """One method in one group; without a group it does not read the axis and is the same in all of them."""

    method: str
    group: int | None
    intervals: Mapping[str, Interval]


@dataclass(frozen=True)
class _Scale:
    """The y axis of a metric: bars from zero, points on a fitted axis, or points on a logarithmic one.

    Attributes:
        decimals: of the metric's numbers.
        beyond: entries whose mean does not lie on the axis: references far from the trained methods.
    """

    kind: Literal["bars", "points", "logarithmic"]
    limits: tuple[float, float]
    decimals: int
    beyond: tuple[_Entry, ...] = ()


@dataclass(frozen=True)
class _Panel:
    name: str
    entries: tuple[_Entry, ...]

    def methods(self, metric: str, *, grouped: bool) -> list[str]:
        """The methods that have a metric, with or without groups, in the order of the report."""
        found = [e.method for e in self.entries if metric in e.intervals and (e.group is not None) == grouped]
        return list(dict.fromkeys(found))


def bars(results: Results) -> Figure | Missing:
    """Mean and interval of test RMSE and accuracy of every method, grouped by the values of an axis."""
    path, groups = _grouping(results)
    built = _panels(results, path, groups[:_MAX_GROUPS])
    if not built:
        return Missing("bars", "no trial with a test RMSE is finished")
    shown, more = built[:MAX_PANELS], [panel.name for panel in built[MAX_PANELS:]]
    names = _group_names(path, groups[:_MAX_GROUPS])
    metrics = [
        metric for metric in (_RMSE, _ACCURACY) if any(metric in e.intervals for panel in shown for e in panel.entries)
    ]
    styles = method_styles(results.methods)
    entries = [entry for panel in shown for entry in panel.entries]
    decimals = {_RMSE: distance_decimals(results), _ACCURACY: 3}
    scales = {
        metric: _scale([e for e in entries if metric in e.intervals], metric, decimals[metric]) for metric in metrics
    }
    with drawing() as draw:
        canvas, grid = _canvas(len(shown), len(metrics), groups=min(len(groups), _MAX_GROUPS))
        for metric, axes in zip(metrics, grid, strict=True):
            for axis, panel in zip(axes, shown, strict=True):
                if path is None:
                    _draw_methods(axis, panel, metric, styles, scales[metric])
                else:
                    _draw_groups(axis, panel, metric, names, styles, scales[metric])
                    axis.set_xlabel(axis_label(path) + (f" [{axis_unit(path)}]" if axis_unit(path) else ""))
                axis.set_ylabel(_LABELS[metric])
                panel_title(axis, panel.name)
                _finish(axis, scales[metric])
        if path is not None:
            legend(canvas, [axis for axes in grid for axis in axes])
        svg, png = draw(canvas, "bars")
    left = left_out(_group_names(path, groups[_MAX_GROUPS:]), "value") + left_out(more)
    data = _data(shown, path, names)
    untrained = "".join(untrained_words(panels(results)[0], metric) for metric in metrics)
    caption = _caption(shown, path, scales) + untrained + weights_words(results) + left
    return Figure("bars", caption, _alt(results, shown, path, names), svg, png, as_csv(data))


# ------------------------------------------------------------------------------------------------- data


def _grouping(results: Results) -> tuple[str | None, list[object]]:
    """The axis of most values that trained methods read, and its values in order; none where nothing varies."""
    cells = [cell for cell in results.cells if not reference(cell.method)] or list(results.cells)
    values: dict[str, dict[str, object]] = {path: {} for path in results.axes}
    for cell in cells:
        for path in results.axes:
            value = cell.axes.get(path)
            if value is not None:
                values[path].setdefault(canonical(value), value)
    # Of task weights the selected ones are shown; they have a figure of their own.
    usual = [path for path in results.axes if len(values[path]) > 1 and path not in WEIGHTS]
    if not usual:
        return None, []
    path = max(usual, key=lambda item: len(values[item]))
    return path, list(values[path].values())


def _panels(results: Results, path: str | None, groups: Sequence[object]) -> list[_Panel]:
    without = WEIGHTS if path is None else (path, *WEIGHTS)
    places = {canonical(value): number for number, value in enumerate(groups)}
    built = []
    for configuration in results.configurations(without):
        by_group: dict[int | None, list[StudyCell]] = {}
        for cell in results.cells_of(configuration, without=without):
            value = None if path is None else cell.axes.get(path)
            if value is None or canonical(value) in places:
                by_group.setdefault(None if value is None else places[canonical(value)], []).append(cell)
        entries = [
            _Entry(cell.method, group, intervals)
            for group, cells in by_group.items()
            for cell in selected(results, cells)
            if (intervals := _intervals(cell))
        ]
        entries.sort(key=lambda entry: (results.methods.index(entry.method), entry.group or 0))
        if entries:
            built.append(_Panel(configuration_label(configuration), tuple(entries)))
    return built


def _intervals(cell: StudyCell) -> dict[str, Interval]:
    found = {metric: interval_of(trained_for(cell.done, metric), metric, bounds) for metric, bounds in _BOUNDS.items()}
    return {metric: interval for metric, interval in found.items() if interval is not None}


def _group_names(path: str | None, groups: Sequence[object]) -> list[str]:
    return [] if path is None else [value_label(value) for value in groups]


def _scale(entries: Sequence[_Entry], metric: str, decimals: int) -> _Scale:
    """The axis of a metric, fitted to the trained methods; references are on it where they do not squeeze these."""
    trained = [entry for entry in entries if not reference(entry.method)] or entries
    means = [entry.intervals[metric].mean for entry in trained]
    low = min(_low(entry.intervals[metric]) for entry in trained)
    high = max(_high(entry.intervals[metric]) for entry in trained)
    if metric == _RMSE and min(means) > 0 and max(means) > _WIDE_RANGE * min(means):
        every = [entry.intervals[metric] for entry in entries if entry.intervals[metric].mean > 0]
        lowest = min(interval.mean for interval in every)
        return _Scale("logarithmic", (lowest / 1.3, 1.3 * max(_high(interval) for interval in every)), decimals)
    if max(means) <= _NARROW_RANGE * min(means):
        # Differences that are nothing beside the means stay small.
        spare = max(0.0, _LEAST_SPAN * max(means) - (high - low)) / 2
        low, high = low - spare, high + spare
        reach = high - low
        near = [e.intervals[metric] for e in entries if low - reach <= e.intervals[metric].mean <= high + reach]
        low, high = min([low, *map(_low, near)]), max([high, *map(_high, near)])
        room = 0.08 * (high - low)
        limits = (max(low - room, 0.0), high + room)
        beyond = tuple(e for e in entries if not limits[0] <= e.intervals[metric].mean <= limits[1])
        return _Scale("points", limits, decimals, beyond)
    top = max((_high(entry.intervals[metric]) for entry in entries), default=1.0)
    top = 1.12 * high if top > 1.5 * high else 1.05 * top
    beyond = tuple(entry for entry in entries if entry.intervals[metric].mean > top)
    return _Scale("bars", (0.0, top or 1.0), decimals, beyond)


def _low(interval: Interval) -> float:
    return interval.mean if interval.low is None else interval.low


def _high(interval: Interval) -> float:
    return interval.mean if interval.high is None else interval.high


def _data(panels: Sequence[_Panel], path: str | None, names: Sequence[str]) -> pd.DataFrame:
    rows = [
        (panel.name, "" if path is None else path, "" if entry.group is None else names[entry.group], entry.method,
         metric, interval.mean, interval.low, interval.high, interval.n)
        for panel in panels
        for entry in panel.entries
        for metric, interval in entry.intervals.items()
    ]  # fmt: skip
    columns = ["configuration", "axis", "value", "method", "metric", "mean", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


# ------------------------------------------------------------------------------------------------- drawing


def _canvas(panels: int, metrics: int, *, groups: int) -> tuple[Canvas, list[list[Axes]]]:
    """Axes by metric, then by panel; of one panel with few groups the metrics stand side by side."""
    if panels == 1 and groups <= 4:
        canvas = Canvas(figsize=(WIDTH, 2.5), layout="constrained")
        return canvas, [[axis] for axis in canvas.subplots(1, metrics, squeeze=False).ravel().tolist()]
    columns = min(panels, 3 if groups <= 4 else 2)
    blocks = math.ceil(panels / columns)
    canvas = Canvas(figsize=(WIDTH, 1.9 * blocks * metrics + 0.45), layout="constrained")
    grid = canvas.subplots(blocks * metrics, columns, squeeze=False)
    by_metric: list[list[Axes]] = []
    for metric in range(metrics):
        axes = [grid[block * metrics + metric][column] for block in range(blocks) for column in range(columns)]
        for axis in axes[panels:]:
            axis.set_visible(False)
        by_metric.append(axes[:panels])
    return canvas, by_metric


def _draw_groups(
    axis: Axes, panel: _Panel, metric: str, names: Sequence[str], styles: Mapping[str, Style], scale: _Scale
) -> None:
    methods = panel.methods(metric, grouped=True)
    width = min(0.8 / max(len(methods), 1), 0.2)
    for number, method in enumerate(methods):
        own = [e for e in panel.entries if e.method == method and e.group is not None and metric in e.intervals]
        places = [(e.group or 0) + (number - (len(methods) - 1) / 2) * width for e in own]
        _draw_method(axis, places, [e.intervals[metric] for e in own], 0.9 * width, method, styles[method], scale)
    for method in panel.methods(metric, grouped=False):
        colour, line, _ = styles[method]
        for entry in panel.entries:
            drawn = metric in entry.intervals and entry not in scale.beyond
            if entry.method == method and entry.group is None and drawn:
                interval = entry.intervals[metric]
                axis.axhline(interval.mean, color=colour, linestyle=line, linewidth=1.2, label=method)
                if interval.low is not None and interval.high is not None:
                    axis.axhspan(interval.low, interval.high, color=colour, alpha=0.14, linewidth=0)
    room = max(5, 60 // max(len(names), 1))
    axis.set_xticks(range(len(names)), [textwrap.fill(shortened(name), room) for name in names])
    axis.set_xlim(-0.5, len(names) - 0.5)
    _plain_categories(axis)


def _draw_methods(axis: Axes, panel: _Panel, metric: str, styles: Mapping[str, Style], scale: _Scale) -> None:
    """Without an axis the methods themselves stand side by side."""
    own = [entry for entry in panel.entries if metric in entry.intervals]
    for number, entry in enumerate(own):
        _draw_method(axis, [number], [entry.intervals[metric]], 0.6, entry.method, styles[entry.method], scale)
    names = [textwrap.fill(shortened(entry.method, 24), 9) for entry in own]
    axis.set_xticks(range(len(own)), names, rotation=90 if len(own) > 10 else 0)
    axis.set_xlim(-0.6, max(len(own), 1) - 0.4)
    _plain_categories(axis)


def _draw_method(
    axis: Axes,
    places: Sequence[float],
    intervals: Sequence[Interval],
    width: float,
    method: str,
    style: Style,
    scale: _Scale,
) -> None:
    """A marker on the mean that a grey print tells apart, the interval, and a bar where the axis starts at zero."""
    colour, _, marker = style
    means = [interval.mean for interval in intervals]
    if scale.kind == "bars":
        axis.bar(places, means, width=width, color=colour, alpha=0.3, linewidth=0, zorder=1)
    size = 4.2 if width > 0.1 else 3.0
    axis.plot(places, means, color=colour, marker=marker, markersize=size, linestyle="none", label=method, zorder=3)
    for place, interval in zip(places, intervals, strict=True):
        if interval.low is not None and interval.high is not None:
            axis.plot([place, place], [interval.low, interval.high], color=colour, linewidth=1.2, zorder=2)
        low, high = scale.limits
        if not low <= interval.mean <= high:
            above = interval.mean > high
            axis.annotate(
                f"{interval.mean:.{scale.decimals}f} {'↑' if above else '↓'}", (place, high if above else low),
                xytext=(0, -2 if above else 2), textcoords="offset points", ha="center",
                va="top" if above else "bottom", rotation=90, fontsize=6.5,
            )  # fmt: skip


def _plain_categories(axis: Axes) -> None:
    axis.grid(visible=False, axis="x")
    axis.tick_params(axis="x", length=0)


def _finish(axis: Axes, scale: _Scale) -> None:
    """The y axis: the same in all panels of a metric."""
    if scale.kind == "logarithmic":
        logarithmic(axis)
    axis.set_ylim(*scale.limits)


# ------------------------------------------------------------------------------------------------- words


def _caption(panels: Sequence[_Panel], path: str | None, scales: Mapping[str, _Scale]) -> str:
    what = "Test RMSE and accuracy of condition prediction" if len(scales) == 2 else _LABELS[next(iter(scales))]
    what = what.removesuffix(" [m]")
    over = (
        "" if path is None else f" over {axis_label(path).lower() if len(axis_label(path)) > 1 else axis_label(path)}"
    )
    counts = [
        interval.n
        for panel in panels
        for entry in panel.entries
        if not reference(entry.method)
        for interval in entry.intervals.values()
    ]
    interval = "lines: its 95 % interval" if any(count > 1 for count in counts) else "one seed, no interval"
    flat = {entry.method for panel in panels for entry in panel.entries if entry.group is None} if path else set()
    return (
        f"{what}{over}. Markers: mean over seeds; {interval} (n = {span(counts)}"
        f"{'; references have one run' if any(reference(e.method) for p in panels for e in p.entries) else ''})."
        + (f" Horizontal lines: {', '.join(sorted(flat))}, which {'do' if len(flat) > 1 else 'does'} not read this "
           "setting." if flat else "")
        + _scale_words(scales)
    )  # fmt: skip


def _scale_words(scales: Mapping[str, _Scale]) -> str:
    """What a reader must know of the y axes."""
    words = ""
    fitted = [_NAMES[metric] for metric, scale in scales.items() if scale.kind == "points"]
    if fitted:
        words += f" The {join(fitted)} {'axis does' if len(fitted) == 1 else 'axes do'} not start at zero."
    if any(scale.kind == "logarithmic" for scale in scales.values()):
        words += " The error axis is logarithmic."
    for metric, scale in scales.items():
        values: dict[str, list[float]] = {}
        for entry in scale.beyond:
            values.setdefault(entry.method, []).append(entry.intervals[metric].mean)
        unit = " m" if metric == _RMSE else ""
        parts = [f"{method} ({_from_to(own, scale.decimals)}{unit})" for method, own in values.items()]
        if parts:
            words += f" Beyond the {_NAMES[metric]} axis {'lies' if len(parts) == 1 else 'lie'} {join(parts)}."
    return words


def _from_to(values: Sequence[float], decimals: int) -> str:
    ends = list(dict.fromkeys(f"{value:.{decimals}f}" for value in (min(values), max(values))))
    return " – ".join(ends)


def _alt(results: Results, panels: Sequence[_Panel], path: str | None, names: Sequence[str]) -> str:
    decimals = distance_decimals(results)
    few = len(panels) * max(len(names), 1) <= _TOLD_GROUPS  # nobody listens to more numbers
    parts = []
    for panel in panels:
        for group in range(len(names)) if path is not None else [None]:
            ranked = sorted(
                (entry.intervals[_RMSE].mean, entry.method)
                for entry in panel.entries
                if _RMSE in entry.intervals and (group is None or entry.group in (group, None))
            )
            if ranked:
                place = ", ".join(part for part in (panel.name, names[group] if group is not None else "") if part)
                told = ranked if few else ranked[:1]
                words = ", ".join(f"{method} {mean:.{decimals}f} m" for mean, method in told)
                parts.append(f"{place}: {words}" if place else words)
    return f"{'Test RMSE from low to high' if few else 'Lowest test RMSE'}. " + sentences(parts)
