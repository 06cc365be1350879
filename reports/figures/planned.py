"""What each method was expected to take, and what it took."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports.drawing import INK, WIDTH, Figure, as_csv, drawing
from reports.figures.common import Style, logarithmic_x, method_styles, sentences, shortened
from reports.planned import PlannedSum, planned_study
from reports.results import Results
from reports.tables.numbers import significant, time_scale

__all__ = ["planned"]

_WIDE_RANGE = 20.0
_TOLD_METHODS = 8
_UNITS = {"h": "hours", "min": "minutes", "s": "seconds"}


def planned(results: Results) -> Figure | None:
    """Planned interval and actual time of every method; ``None`` without a plan or without a stored trial of it."""
    study = planned_study(results)
    if study is None or isinstance(study, str):
        return None
    sums = {method: own for method, own in study.by_method.items() if own.timed}
    if not sums:
        return None
    styles = method_styles(results.methods)
    times = [time for own in sums.values() for time in (own.expected.low, own.expected.high, own.actual)]
    scale, unit = time_scale(times)
    with drawing() as draw:
        canvas = Canvas(figsize=(WIDTH, 0.75 + 0.27 * len(sums)), layout="constrained")
        axis = canvas.subplots()
        for place, (method, own) in enumerate(sums.items()):
            _draw(axis, place, own, styles[method], scale)
        axis.set_yticks(range(len(sums)), [shortened(method, 24) for method in sums])
        axis.set_ylim(len(sums) - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
        axis.grid(visible=False, axis="y")
        axis.set_xlabel(f"Time of all trials [{unit}]")
        wide = min(times) > 0 and max(times) > _WIDE_RANGE * min(times)
        if wide:
            logarithmic_x(axis)
        else:
            axis.set_xlim(left=0)
        _legend(canvas)
        svg, png = draw(canvas, "planned")
    data = pd.DataFrame(
        [
            (method, own.trials, len(own.stored), own.expected.median, own.expected.low, own.expected.high, own.actual,
             own.verdict, own.basis)
            for method, own in sums.items()
        ],
        columns=[
            "method", "trials", "stored", "planned_s", "planned_low_s", "planned_high_s", "actual_s", "interval",
            "basis",
        ],
    )  # fmt: skip
    kept = sum(own.verdict == "inside" for own in sums.values())
    caption = (
        f"Bars: planned interval, 10 – 90 %, with the median as a line. Markers: what the trials took, summed over "
        f"trials. {kept} of {len(sums)} {'lies' if kept == 1 else 'lie'} within the planned interval."
        + ("" if study.complete else " Planned is the time of as many trials as are stored.")
        + (" The time axis is logarithmic." if wide else "")
    )
    told = list(sums.items())[:_TOLD_METHODS]
    parts = [
        f"{method}: planned {significant(own.expected.median / scale)}, actual {significant(own.actual / scale)}, "
        f"{own.verdict}"
        for method, own in told
    ]
    alt = f"Planned and actual time by method in {_UNITS[unit]}, and where it lies beside the planned interval. "
    return Figure("planned", caption, alt + sentences(parts), svg, png, as_csv(data))


def _draw(axis: Axes, place: int, own: PlannedSum, style: Style, scale: float) -> None:
    colour, _, marker = style
    low, median, high, actual = (
        value / scale for value in (own.expected.low, own.expected.median, own.expected.high, own.actual)
    )
    axis.barh([place], [high - low], left=low, height=0.56, color=colour, alpha=0.3, linewidth=0)
    axis.plot([median, median], [place - 0.28, place + 0.28], color=colour, linewidth=1.6, solid_capstyle="butt")
    # Markers without a face, as those of references, have no edge of another colour.
    edge = {} if marker in ("x", "+") else {"markeredgecolor": INK, "markeredgewidth": 0.6}
    axis.plot([actual], [place], marker=marker, markersize=6, color=colour, linestyle="none", zorder=3, **edge)  # type: ignore[arg-type]


def _legend(canvas: Canvas) -> None:
    handles = [
        Patch(facecolor=INK, alpha=0.25, label="planned, 10 – 90 %"),
        Line2D([], [], color=INK, linewidth=1.6, marker="|", markersize=8, linestyle="none", label="planned, median"),
        Line2D([], [], color=INK, marker="o", markersize=5, linestyle="none", label="actual"),
    ]
    canvas.legend(
        handles=handles, loc="outside upper left", ncols=3, frameon=False, handlelength=1.6, columnspacing=1.2,
        borderaxespad=0.2,
    )  # fmt: skip
