"""What a study is expected to take on clusters of several sizes: time against cost, for `study plan`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reports.drawing import INK, Figure, as_csv, drawing
from reports.figures.common import Style, join, logarithmic_x, sentences, shortened
from reports.tables.numbers import significant, time_scale
from study.planning.record import Spread

__all__ = ["ClusterPoint", "draw_cost_over_time"]

# Okabe and Ito's palette, as that of the methods: colour, line and marker of each cluster file, then again.
_STYLES: tuple[Style, ...] = (
    ("#0072b2", "solid", "o"),
    ("#d55e00", (0, (6, 1.8)), "s"),
    ("#009e73", (0, (6, 1.6, 1, 1.6)), "^"),
    ("#cc79a7", (0, (2.4, 1.2)), "D"),
    ("#e69f00", (0, (9, 1.4, 2, 1.4)), "v"),
    ("#56b4e9", (0, (1, 1.4)), "P"),
)
_WIDE_RANGE = 6.0
_TOLD_POINTS = 12


@dataclass(frozen=True)
class ClusterPoint:
    """A study on one cluster.

    Attributes:
        label: the cluster file; points of one label are joined to a curve.
        machines: how many there are.
        seconds: from start to report, on the clock.
        cost: money for the machines over that time; None where no price is known.
        node_hours: hours of machines over that time.
        chosen: whether it is the one that is proposed.
    """

    label: str
    machines: int
    seconds: Spread
    cost: Spread | None
    node_hours: Spread
    chosen: bool


def draw_cost_over_time(
    points: Sequence[ClusterPoint], *, deadline_s: float | None, budget: float | None, currency: str | None
) -> Figure:
    """Time on the clock against cost over cluster sizes, a curve for each cluster file.

    Args:
        points: at least one.
        deadline_s: seconds on the clock that are allowed, as a line.
        budget: money that is allowed, as a line; not shown where a point has no price.
        currency: of the costs.

    Returns:
        The figure; its cost is in node-hours where the price of a point is not known.
    """
    if not points:
        raise ValueError("there are no points to draw")
    priced = currency is not None and all(point.cost is not None for point in points)

    def amount(point: ClusterPoint) -> Spread:
        return point.cost if priced and point.cost is not None else point.node_hours

    unit = shortened(currency or "", 12) if priced else "node-hours"
    clock = time_scale([*(point.seconds.high for point in points), deadline_s or 0.0])
    curves: dict[str, list[ClusterPoint]] = {}
    for point in sorted(points, key=lambda point: point.machines):
        curves.setdefault(point.label, []).append(point)
    with drawing() as draw:
        canvas = Canvas(figsize=(5.6, 3.6), layout="constrained")
        axis = canvas.subplots()
        for number, (label, own) in enumerate(curves.items()):
            _draw_curve(axis, label, own, clock[0], amount, _STYLES[number % len(_STYLES)])
        _draw_limits(axis, deadline_s, clock, budget if priced else None, unit)
        axis.set_xlabel(f"Time on the clock [{clock[1]}]")
        axis.set_ylabel(f"Cost [{unit}]")
        times = [value for point in points for value in (point.seconds.low, point.seconds.high)]
        costs = [value for point in points for value in (amount(point).low, amount(point).high)]
        times += [] if deadline_s is None else [deadline_s]
        costs += [budget] if priced and budget is not None else []
        wide = [name for name, values in (("time", times), ("cost", costs)) if _is_wide(values)]
        _scale(axis, wide)
        canvas.legend(
            loc="outside upper left", ncols=3, frameon=False, handlelength=2.6, columnspacing=1.2, borderaxespad=0.2
        )
        svg, png = draw(canvas, "cost_over_time")
    ordered = [point for own in curves.values() for point in own]
    return Figure(
        "cost_over_time",
        _caption(deadline_s, clock, budget if priced else None, budget is not None and not priced, unit, wide),
        _alt(ordered, clock, amount, unit),
        svg,
        png,
        as_csv(_data(ordered, currency if priced else None)),
    )


def _draw_curve(
    axis: Axes,
    label: str,
    points: Sequence[ClusterPoint],
    scale: float,
    amount: Callable[[ClusterPoint], Spread],
    style: Style,
) -> None:
    colour, line, marker = style
    times = [point.seconds.times(1 / scale) for point in points]
    x, y = [time.median for time in times], [amount(point).median for point in points]
    axis.errorbar(
        x, y,
        xerr=[[time.median - time.low for time in times], [time.high - time.median for time in times]],
        yerr=[[amount(point).median - amount(point).low for point in points],
              [amount(point).high - amount(point).median for point in points]],
        color=colour, ecolor=colour, elinewidth=0.8, linestyle="none", zorder=2,
    )  # fmt: skip
    axis.plot(
        x,
        y,
        color=colour,
        linestyle=line,
        marker=marker,
        markersize=4.5,
        linewidth=1.1,
        label=shortened(label),
        zorder=3,
    )
    for point, left, bottom in zip(points, x, y, strict=True):
        # Below a curve that falls and flattens there is room; the ring needs it.
        beside, weight = ((-8, -6), "bold") if point.chosen else ((5, 4), "normal")
        axis.annotate(
            str(point.machines), (left, bottom), xytext=beside, textcoords="offset points", fontsize=7.5, color=INK,
            fontweight=weight, ha="right" if point.chosen else "left", va="top" if point.chosen else "baseline",
        )  # fmt: skip
        if point.chosen:
            axis.plot([left], [bottom], marker="o", markersize=12, fillstyle="none", color=INK, linestyle="none",
                      markeredgewidth=1.2, label="proposed", zorder=4)  # fmt: skip


def _draw_limits(
    axis: Axes, deadline_s: float | None, clock: tuple[float, str], budget: float | None, unit: str
) -> None:
    if deadline_s is not None:
        time = deadline_s / clock[0]
        axis.axvline(time, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), label=f"deadline {time:.3g} {clock[1]}")
    if budget is not None:
        words = f"budget {_limit(budget)} {unit}"
        axis.axhline(budget, color=INK, linewidth=0.9, linestyle=(0, (1, 1.4)), label=words)


def _is_wide(values: Sequence[float]) -> bool:
    """Whether values need a logarithmic axis, and can have one."""
    return min(values) > 0 and max(values) > _WIDE_RANGE * min(values)


def _scale(axis: Axes, wide: Sequence[str]) -> None:
    if "time" in wide:
        logarithmic_x(axis)
    else:
        axis.set_xlim(left=0)
    if "cost" in wide:
        axis.set_yscale("log")
        axis.margins(y=0.1)
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
        axis.yaxis.set_minor_locator(NullLocator())
    else:
        axis.set_ylim(bottom=0)


# ------------------------------------------------------------------------------------------------- words and data


def _caption(
    deadline_s: float | None,
    clock: tuple[float, str],
    budget: float | None,
    unpriced: bool,
    unit: str,
    wide: Sequence[str],
) -> str:
    limits = []
    if deadline_s is not None:
        limits.append(f"the deadline of {deadline_s / clock[0]:.3g} {clock[1]}")
    if budget is not None:
        limits.append(f"the budget of {_limit(budget)} {unit}")
    return (
        "Expected time on the clock and cost; numbers at the points: machines. Bars: 10 – 90 %."
        + (f" Lines: {join(limits)}." if limits else "")
        + (" Cost is in node-hours: not every price is known." if unit == "node-hours" else "")
        + (" The budget is not shown for that reason." if unpriced else "")
        + (f" The {join(wide)} {'axis is' if len(wide) == 1 else 'axes are'} logarithmic." if wide else "")
    )


def _alt(
    points: Sequence[ClusterPoint], clock: tuple[float, str], amount: Callable[[ClusterPoint], Spread], unit: str
) -> str:
    chosen = [point for point in points if point.chosen]
    told = points if len(points) <= _TOLD_POINTS else chosen or points[:1]
    parts = [
        f"{point.label}, {point.machines} machine{'s' if point.machines > 1 else ''}: "
        f"{significant(point.seconds.median / clock[0])} {clock[1]}, {_money(amount(point).median)} {unit}"
        f"{', proposed' if point.chosen else ''}"
        for point in told
    ]
    return f"Time on the clock and cost over cluster sizes. {sentences(parts)}"


def _limit(value: float) -> str:
    """A number as somebody gave it."""
    return f"{value:,.6g}"


def _money(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else significant(value)


def _data(points: Sequence[ClusterPoint], currency: str | None) -> pd.DataFrame:
    rows = []
    for point in points:
        row: dict[str, object] = {"cluster": point.label, "machines": point.machines}
        amounts = (("seconds", point.seconds), ("node_hours", point.node_hours), ("cost", point.cost))
        for name, spread in amounts:
            for part in ("median", "low", "high"):
                row[f"{name}_{part}"] = math.nan if spread is None else getattr(spread, part)
        rows.append(row | {"currency": currency or "", "chosen": point.chosen})
    return pd.DataFrame(rows)
