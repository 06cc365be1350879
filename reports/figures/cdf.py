"""Figs. 4 to 6: the cumulative distribution of the localization error."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from reports.drawing import INK, Figure, as_csv, drawing
from reports.figures.common import (
    CURVE_POINTS,
    Missing,
    Style,
    errors_by_cell,
    join,
    left_out,
    legend,
    method_styles,
    panel_grid,
    panel_title,
    panels,
    reference,
    seeds_words,
    sentences,
    untrained_words,
    weights_words,
)
from reports.results import METHODS, Results, StudyCell
from reports.tables import distance_decimals

__all__ = ["cdf"]

_MARKS = np.array([0.5, 0.9])
_END = 0.99
_STORED = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class _Curve:
    """The errors of one cell, pooled over its seeds, as quantiles at the shares that are drawn, marked and stored."""

    cell: StudyCell
    runs: int
    drawn: NDArray[np.float64]
    marks: NDArray[np.float64]
    stored: NDArray[np.float64]

    @property
    def largest(self) -> float:
        return float(self.stored[-1])

    @property
    def end(self) -> float:
        return float(self.drawn[-1])


def cdf(results: Results) -> Figure | Missing:
    """The share of test samples whose localization error is at most x, pooled over seeds."""
    shown, more = panels(results)
    every = [cell for cells in shown.values() for cell in cells]
    by_cell = {
        id(cell): curve
        for cell, stored in errors_by_cell(results, every, ["error_m"])
        if (curve := _curve(cell, [table for _, table in stored])) is not None
    }
    curves = {
        name: found
        for name, cells in shown.items()
        if (found := [by_cell[id(cell)] for cell in cells if id(cell) in by_cell])
    }
    untrained = untrained_words(shown, "error_m")
    if not curves:
        return Missing("cdf", "no errors of test samples are stored (errors/) of trials that learn to locate")
    styles = method_styles(results.methods)
    cut: set[str] = set()
    with drawing() as draw:
        canvas, axes = panel_grid(len(curves), height=2.75 if len(curves) == 1 else 2.1)
        for axis, (name, members) in zip(axes, curves.items(), strict=True):
            cut |= _draw(axis, members, styles)
            panel_title(axis, name)
        legend(canvas, axes)
        svg, png = draw(canvas, "cdf")

    decimals = distance_decimals(results)
    drawn = [curve for members in curves.values() for curve in members]
    trained = [curve for curve in drawn if not reference(curve.cell.method)] or drawn
    caption = (
        "Cumulative distribution of the localization error on the test scenes, samples of "
        f"{seeds_words((curve.cell for curve in trained), (curve.runs for curve in trained))} per method pooled. "
        "Markers: median and 90th percentile. Drawn to the 99th percentile of each curve; the remaining 1 % reaches up "
        f"to {max(curve.largest for curve in drawn):.{decimals}f} m. {_beyond(cut)}Further left is better."
        f"{untrained}{weights_words(results)}{left_out(more)}"
    )
    alt = "Cumulative distribution of the localization error. " + sentences(
        (f"{name}: " if name else "")
        + "; ".join(
            f"{curve.cell.method} median {curve.marks[0]:.{decimals}f} m, "
            f"90th percentile {curve.marks[1]:.{decimals}f} m"
            for curve in members
        )
        for name, members in curves.items()
    )
    data = pd.DataFrame(
        [
            (name, curve.cell.method, float(share), float(value))
            for name, members in curves.items()
            for curve in members
            for share, value in zip(_STORED, curve.stored, strict=True)
        ],
        columns=["configuration", "method", "share", "error_m"],
    )
    return Figure("cdf", caption, alt, svg, png, as_csv(data))


def _curve(cell: StudyCell, tables: Sequence[pd.DataFrame]) -> _Curve | None:
    parts = []
    for table in tables:
        values = table["error_m"].to_numpy(dtype=np.float32, na_value=np.nan)
        if np.isfinite(values).any():
            parts.append(values[np.isfinite(values)])
    if not parts:
        return None
    pooled = np.sort(np.concatenate(parts))
    return _Curve(
        cell, len(parts), _quantiles(pooled, np.linspace(0, _END, CURVE_POINTS)), _quantiles(pooled, _MARKS),
        _quantiles(pooled, _STORED),
    )  # fmt: skip


def _quantiles(ordered: NDArray[np.float32], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linearly interpolated quantiles of values in ascending order: millions of them are sorted once."""
    places = shares * (len(ordered) - 1)
    below = np.floor(places).astype(np.int64)
    low, high = ordered[below].astype(np.float64), ordered[np.minimum(below + 1, len(ordered) - 1)].astype(np.float64)
    result: NDArray[np.float64] = low + (places - below) * (high - low)
    return result


def _draw(axis: Axes, members: list[_Curve], styles: dict[str, Style]) -> set[str]:
    """One panel; returns the methods whose curves run beyond it."""
    for curve in members:
        colour, line, marker = styles[curve.cell.method]
        shares = np.linspace(0, _END, CURVE_POINTS)
        axis.plot(curve.drawn, shares, color=colour, linestyle=line, label=curve.cell.method)
        axis.plot(curve.marks, _MARKS, color=colour, linestyle="none", marker=marker, markersize=4.5)
    for share in _MARKS:
        axis.axhline(share, color=INK, linewidth=0.5, alpha=0.35, zorder=0)
    # A reference many times worse would squeeze the curves that the figure is about.
    trained = [curve.end for curve in members if not reference(curve.cell.method)]
    right = 1.08 * max(trained) if trained else 1.02 * max(curve.end for curve in members)
    axis.set(xlim=(0, right or 1.0), ylim=(0, 1.0), yticks=[0, 0.25, 0.5, 0.75, 0.9, 1.0])
    axis.set_xlabel("Localization error [m]")
    axis.set_ylabel("Share of test samples")
    return {curve.cell.method for curve in members if curve.end > right}


def _beyond(methods: Collection[str]) -> str:
    if not methods:
        return ""
    names = [*(name for name in METHODS if name in methods), *sorted(set(methods) - set(METHODS))]
    return f"The axis ends where the trained methods do; {join(names)} {'runs' if len(names) == 1 else 'run'} on. "
