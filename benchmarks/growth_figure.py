"""The figure of `benchmarks/growth.py`: processor time and peak memory against the size of what is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from reports.drawing import INK, drawing

if TYPE_CHECKING:
    from growth import Point

WIDTH, HEIGHT = 9.4, 5.4  # inches: 900 pixels on a page, with letters of 8 points
GUIDE, DOTS = "#9a9a9a", (0, (1, 2.5))
# Okabe and Ito's palette, as in the reports.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
MARKERS = ("o", "s", "^", "D", "v")


@dataclass(frozen=True)
class Column:
    """What is done, by size: two panels.

    Attributes:
        title, size: words for what is done, and for how much of it.
        series: (command, what it measured) → the words in the legend.
    """

    title: str
    size: str
    series: Mapping[tuple[str, str], str]


COLUMNS = (
    Column(
        "A run, without its trials",
        "trials or candidates",
        {
            ("trials", "trials, the driver"): "driver, trials",
            ("trials", "after the last trial"): "report at the end",
            ("searches", "tpe"): "search, TPE",
            ("searches", "grid"): "search, grid",
        },
    ),
    Column(
        "A study that is stored",
        "trials",
        {
            ("store", "run, nothing to do"): "run, nothing to do",
            ("store", "report, compacted"): "report, compacted",
            ("store", "status"): "status",
            ("store", "status, compacted"): "status, compacted",
        },
    ),
    Column(
        "A site: data, an epoch",
        "samples of the site",
        {
            ("samples", "an epoch, kept"): "epoch, kept",
            ("samples", "an epoch, per batch"): "epoch, per batch",
            ("samples", "open and prepare, kept"): "data, kept",
            ("samples", "open and prepare, per batch"): "data, per batch",
        },
    ),
    Column(
        "A batch of 64",
        "antennas × subcarriers",
        {
            ("antennas", "a training step on it"): "training step",
            ("antennas", "fingerprints of a batch"): "fingerprints",
        },
    ),
)


def draw(points: Mapping[str, Mapping[str, Sequence[Point]]], file: Path) -> None:
    """Write the figure of what was measured, as SVG or PNG by its name."""
    with drawing() as write:
        canvas = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        panels = canvas.subplots(2, len(COLUMNS), sharex="col", squeeze=False)
        for column, (above, below) in zip(COLUMNS, panels.T, strict=True):
            series = [
                (words, points[command][what])
                for (command, what), words in column.series.items()
                if points.get(command, {}).get(what)
            ]
            above.set_title(column.title, fontsize=8.5, fontweight="bold", loc="left", color=INK)
            panel(above, series, "processor_s")
            panel(below, series, "memory_mb")
            below.set_xlabel(column.size)
            legends(below, last=column is COLUMNS[-1])
        panels[0][0].set_ylabel("processor time [s]")
        panels[1][0].set_ylabel("peak memory of the process [MB]")
        svg, png = write(canvas, "growth")
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".png":
        file.write_bytes(png)
    else:
        file.write_text(svg + "\n", encoding="utf-8")


def legends(axes: Axes, *, last: bool) -> None:
    """What the lines of a column are; below the last one also what the dotted ones are."""
    handles, _ = axes.get_legend_handles_labels()
    if last:
        handles.append(Line2D([], [], color=GUIDE, linewidth=0.9, linestyle=DOTS, label="∝ size"))
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.27),
        frameon=False,
        handlelength=1.6,
        borderaxespad=0,
    )


def panel(axes: Axes, series: Sequence[tuple[str, Sequence[Point]]], value: str) -> None:
    """Both axes logarithmic; dotted lines double with the size."""
    styles = dict(zip(range(len(series)), zip(COLOURS, MARKERS, strict=True), strict=False))
    for i, (words, found) in enumerate(series):
        colour, marker = styles[i]
        axes.plot(
            [point.size for point in found], [getattr(point, value) for point in found],
            color=colour, marker=marker, markersize=3.5, label=words,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 30:  # one power of ten, and what is beside it
        middle = (low * high) ** 0.5
        low, high = min(low, middle / 5.5), max(high, middle * 5.5)
    guides(axes, low, high)
    axes.set_ylim(low, high)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(10, numticks=8))
        axis.set_major_formatter(FuncFormatter(short))
        axis.set_minor_formatter(NullFormatter())


def guides(axes: Axes, low: float, high: float) -> None:
    """Lines of y ∝ x through the panel."""
    left, right = axes.get_xlim()
    x = np.array([left, right])
    for decade in np.arange(np.floor(np.log10(low / right)), np.ceil(np.log10(high / left)) + 1):
        axes.plot(x, 10.0**decade * x, color=GUIDE, linewidth=0.6, linestyle=DOTS, zorder=0)
    axes.set_xlim(left, right)


def short(value: float, position: Any = None) -> str:
    """``0.01``, ``100``, ``10k``."""
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"
