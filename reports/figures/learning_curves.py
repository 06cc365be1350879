"""Learning curves: validation RMSE over epochs, and the standard deviations that HDA learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from reports.comparison import interval_of
from reports.drawing import WIDTH, Figure, as_csv, drawing
from reports.figures.common import (
    CURVE_POINTS,
    Missing,
    Style,
    epochs_by_cell,
    finite,
    left_out,
    legend,
    logarithmic,
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
from reports.results import Results, StudyCell, Trial
from reports.tables import distance_decimals

__all__ = ["learning_curves"]

_RMSE = "validation_rmse_m"
# Stored log σ² → the name of σ in the data, its legend entry and its line: both belong to one method and one colour.
_SIGMAS: dict[str, tuple[str, str, Any]] = {
    "log_var_position": ("sigma_position", "σ₁, coordinates", "solid"),
    "log_var_condition": ("sigma_condition", "σ₂, conditions", (0, (2, 1.2))),
}
_WIDE_RANGE = 8.0
_COLUMNS = 3


@dataclass(frozen=True)
class _Curves:
    """The epochs of one cell, thinned to what a figure can show: series → epochs × seeds."""

    cell: StudyCell
    runs: tuple[Trial, ...]
    series: dict[str, pd.DataFrame]


def learning_curves(results: Results) -> Figure | Missing:
    """Validation RMSE over epochs with best epochs, and HDA's learned standard deviations."""
    shown, more = panels(results)
    trained = [cell for cells in shown.values() for cell in cells if not reference(cell.method)]
    by_cell = {
        id(cell): curve
        for cell, stored in epochs_by_cell(results, trained, ["epoch", _RMSE, *_SIGMAS])
        if (curve := _curves(cell, stored)) is not None
    }
    curves = {
        name: found
        for name, cells in shown.items()
        if (found := [by_cell[id(cell)] for cell in cells if id(cell) in by_cell])
    }
    if not curves:
        return Missing("learning_curves", "no epochs are stored (epochs/)")
    learned = any(_sigmas(curve) for members in curves.values() for curve in members)

    styles = method_styles(results.methods)
    with drawing() as draw:
        canvas, left, right = _canvas(len(curves), learned=learned)
        for number, (name, members) in enumerate(curves.items()):
            _draw_errors(left[number], members, styles)
            panel_title(left[number], name)
            if right:
                _draw_sigmas(right[number], members, styles)
                if len(curves) > 2:
                    panel_title(right[number], name)
        legend(canvas, left)
        svg, png = draw(canvas, "learning_curves")

    every = [curve for members in curves.values() for curve in members]
    words = seeds_words((curve.cell for curve in every), (len(curve.runs) for curve in every))
    caption = (
        f"Validation RMSE over epochs: mean over {words} (line) and their range (shade); markers: the best epoch of "
        "each seed, whose network is tested."
        + (
            f" {'Right' if len(curves) <= 2 else 'Below'}: the standard deviations σ₁ (of the coordinates, in units of "
            "the coordinate scale) and σ₂ (of the conditions) that HDA learned; in its loss the coordinates weigh "
            "1/(2σ₁²) and the conditions 1/σ₂²."
            if learned
            else ""
        )
        + untrained_words(shown, _RMSE)
        + weights_words(results)
        + left_out(more)
    )
    decimals = distance_decimals(results)
    alt = "Validation RMSE over epochs. " + sentences(
        (f"{name}: " if name else "") + "; ".join(_best_words(curve, decimals) for curve in members)
        for name, members in curves.items()
    )
    return Figure("learning_curves", caption, alt, svg, png, as_csv(_data(curves)))


def _curves(cell: StudyCell, stored: Sequence[tuple[Trial, pd.DataFrame]]) -> _Curves | None:
    columns = [_RMSE, *_SIGMAS]
    found: dict[str, dict[str, pd.Series]] = {column: {} for column in columns}
    runs = []
    for trial, table in stored:
        table = table.set_index("epoch")
        for column in columns:
            values = pd.Series(finite(table[column].to_numpy(dtype=np.float64, na_value=np.nan)), index=table.index)
            if column in _SIGMAS:
                values = pd.Series(finite(np.exp(np.clip(values / 2, -300, 300))), index=table.index)
            if values.notna().any():
                found[column][trial.key] = values
        if trial.key in found[_RMSE]:
            runs.append(trial)
    if not runs:
        return None
    series = {
        (_SIGMAS[column][0] if column in _SIGMAS else column): _thinned(pd.DataFrame(own).sort_index())
        for column, own in found.items()
        if own
    }
    return _Curves(cell, tuple(runs), series)


def _thinned(wide: pd.DataFrame) -> pd.DataFrame:
    if len(wide) > CURVE_POINTS:
        wide = wide.iloc[np.unique(np.linspace(0, len(wide) - 1, CURVE_POINTS).round().astype(int))]
    return wide


def _sigmas(curve: _Curves) -> list[tuple[str, str, Any]]:
    return [sigma for sigma in _SIGMAS.values() if sigma[0] in curve.series]


def _best(curve: _Curves) -> list[tuple[Trial, float, float]]:
    """The best epoch of each seed and its validation RMSE."""
    pairs = [(trial, trial.number("best_epoch"), trial.number(_RMSE)) for trial in curve.runs]
    return [(trial, epoch, value) for trial, epoch, value in pairs if epoch is not None and value is not None]


def _canvas(count: int, *, learned: bool) -> tuple[Canvas, list[Axes], list[Axes]]:
    """Panels of errors, and beside each one of standard deviations where there are any."""
    height = 2.6 if count == 1 else 2.0
    if not learned:
        canvas, axes = panel_grid(count, height=height)
        return canvas, axes, []
    if count <= 2:
        canvas = Canvas(figsize=(WIDTH, height * count + 0.35), layout="constrained")
        grid = canvas.subplots(count, 2, squeeze=False, width_ratios=[1.5, 1.0])
        return canvas, grid[:, 0].tolist(), grid[:, 1].tolist()
    # Many: all errors, and below them all standard deviations.
    rows = math.ceil(count / _COLUMNS)
    canvas = Canvas(figsize=(WIDTH, 1.9 * 2 * rows + 0.35), layout="constrained")
    upper, lower = (half.ravel().tolist() for half in np.split(canvas.subplots(2 * rows, _COLUMNS, squeeze=False), 2))
    for axis in (*upper[count:], *lower[count:]):
        axis.set_visible(False)
    return canvas, upper[:count], lower[:count]


def _draw_errors(axis: Axes, members: Sequence[_Curves], styles: dict[str, Style]) -> None:
    for curve in members:
        colour, line, marker = styles[curve.cell.method]
        _draw_band(axis, curve.series[_RMSE], colour, line, curve.cell.method)
        if best := _best(curve):
            axis.plot(
                [epoch for _, epoch, _ in best], [value for _, _, value in best], color=colour, linestyle="none",
                marker=marker, markersize=4.5, fillstyle="none", markeredgewidth=0.9, clip_on=False,
            )  # fmt: skip
    _epoch_axis(axis)
    axis.set_ylabel("Validation RMSE [m]")


def _draw_sigmas(axis: Axes, members: Sequence[_Curves], styles: dict[str, Style]) -> None:
    several = sum(bool(_sigmas(curve)) for curve in members) > 1
    for curve in members:
        for name, label, line in _sigmas(curve):
            colour = styles[curve.cell.method][0]
            _draw_band(axis, curve.series[name], colour, line, f"{curve.cell.method}: {label}" if several else label)
    if not axis.get_lines():
        axis.set_visible(False)
        return
    _epoch_axis(axis)
    axis.set_ylabel("Learned σ")
    axis.legend(loc="best", frameon=False, fontsize=7, handlelength=2.2)


def _draw_band(axis: Axes, wide: pd.DataFrame, colour: str, line: Any, label: str) -> None:
    epochs = wide.index.to_numpy(dtype=float)
    axis.plot(epochs, wide.mean(axis=1).to_numpy(), color=colour, linestyle=line, label=label, linewidth=1.3)
    if wide.shape[1] > 1:
        low, high = wide.min(axis=1).to_numpy(), wide.max(axis=1).to_numpy()
        axis.fill_between(epochs, low, high, color=colour, alpha=0.13, linewidth=0)


def _epoch_axis(axis: Axes) -> None:
    axis.set(xlabel="Epoch", xlim=(0, None))
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axis.get_lines()])
    values = values[np.isfinite(values) & (values > 0)]
    if values.size and values.max() / values.min() > _WIDE_RANGE:
        logarithmic(axis)


def _data(curves: dict[str, list[_Curves]]) -> pd.DataFrame:
    """What is drawn: mean and range over seeds of each series at each epoch, and the best epoch of each seed."""
    parts = []
    for name, members in curves.items():
        for curve in members:
            about = {"configuration": name, "method": curve.cell.method}
            for series, wide in curve.series.items():
                numbers = {
                    "epoch": wide.index, "mean": wide.mean(axis=1), "lowest": wide.min(axis=1),
                    "highest": wide.max(axis=1), "seeds": wide.notna().sum(axis=1),
                }  # fmt: skip
                parts.append(pd.DataFrame(numbers).reset_index(drop=True).assign(**about, series=series, seed=None))
            if best := _best(curve):
                rows = [(epoch, value, value, value, 1, trial.seed) for trial, epoch, value in best]
                columns = ["epoch", "mean", "lowest", "highest", "seeds", "seed"]
                parts.append(pd.DataFrame(rows, columns=columns).assign(**about, series="best_epoch"))
    order = ["configuration", "method", "series", "seed", "epoch", "mean", "lowest", "highest", "seeds"]
    return pd.concat([part.astype(object) for part in parts], ignore_index=True)[order]


def _best_words(curve: _Curves, decimals: int) -> str:
    best, value = (interval_of(curve.cell.done, column) for column in ("best_epoch", _RMSE))
    if best is None or value is None:
        return curve.cell.method
    text = f"{curve.cell.method} lowest {value.mean:.{decimals}f} m at epoch {best.mean:.0f} on average"
    ends = {
        label.partition(",")[0]: curve.series[name].iloc[-1].mean()
        for name, label, _ in _sigmas(curve)
        if curve.series[name].iloc[-1].notna().any()
    }
    return text + (
        f", at the end {' and '.join(f'{label} = {end:.2g}' for label, end in ends.items())}" if ends else ""
    )
