"""The street from above, for maps: a cut-out in metres with one scale along both axes, buildings and base station.

A long street is cut into strips, one below the other, as on the page of a site. Panels have a light background of their
own, because their layer of users is an image, which cannot follow the colours of a page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from reports.drawing import INK, WIDTH
from reports.results import Results
from study.store import Store

__all__ = ["PAPER", "Site", "Street", "site_of", "street_of"]

PAPER = "#f7f7f4"
"""The background of a map, also on a dark page."""

_HOUSE, _HOUSE_EDGE = "#dcdcd7", "#b9b9b2"
_LEFT, _RIGHT, _TOP, _TITLE, _GAP, _STRIP_GAP, _BOTTOM = 0.5, 0.08, 0.3, 0.24, 0.16, 0.24, 0.42  # inches
_MOST_STRIPS = 4
_MOST_HEIGHT = 8.6  # inches
_CLEAR_SPACING = 0.07  # inches between users at which their shapes can be told apart
_MOST_BOXES = 2000
_MOST_WIDENING = 1.6


@dataclass(frozen=True)
class Site:
    """What a results folder says of its site: boxes [n, 4] as x0, x1, y0, y1, and the base station; metres."""

    boxes: NDArray[np.float64]
    station: tuple[float, float] | None


def site_of(results: Results) -> Site:
    """The site as site.json of the results folder describes it: the site itself need not be there.

    A description that has no boxes, or none that make sense, gives none: it may be anybody's.
    """
    content = Store(results.folder).read_site() or {}
    places = [content, *(value for value in content.values() if isinstance(value, Mapping))]
    listed, station = _listed(places, "static_boxes"), _listed(places, "base_station_m")
    boxes = [box for entry in listed[:_MOST_BOXES] if (box := _box(entry)) is not None]
    known = len(station) >= 2 and all(_is_number(value) for value in station[:2])
    return Site(np.array(boxes, dtype=np.float64).reshape(-1, 4), (station[0], station[1]) if known else None)


def _listed(places: Iterable[Mapping[str, Any]], key: str) -> list[Any]:
    return next((place[key] for place in places if isinstance(place.get(key), list)), [])


def _box(entry: Any) -> list[float] | None:
    box = entry.get("box") if isinstance(entry, Mapping) else None
    if not (isinstance(box, list) and len(box) == 6 and all(_is_number(value) for value in box)):
        return None
    return [float(value) for value in box[:4]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e7


@dataclass(frozen=True)
class Street:
    """A cut-out of the world and how panels of it are laid out.

    Attributes:
        x, y: limits in metres.
        spacing: usual distance between neighbouring users in metres.
        strips: into how many strips each panel is cut.
        columns: panels side by side.
        scale: inches per metre.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    spacing: float
    strips: int
    columns: int
    scale: float

    @property
    def marker_points(self) -> float:
        """Diameter in points at which neighbouring users just do not touch, within what can be seen."""
        return float(np.clip(0.8 * self.spacing * self.scale * 72, 1.3, 7.0))

    @property
    def strip_inches(self) -> tuple[float, float]:
        """Width and height of one strip."""
        return (self.x[1] - self.x[0]) / self.strips * self.scale, (self.y[1] - self.y[0]) * self.scale

    def _panel_height(self) -> float:
        return _TITLE + self.strips * self.strip_inches[1] + (self.strips - 1) * _STRIP_GAP

    def height(self, panels: int) -> float:
        """Inches of a figure with so many panels."""
        rows = math.ceil(panels / self.columns)
        return _TOP + rows * self._panel_height() + (rows - 1) * (_GAP + _STRIP_GAP) + _BOTTOM

    def canvas(self, titles: Sequence[str], site: Site, below: float = 0.0) -> tuple[Canvas, list[list[Axes]]]:
        """An empty map for each title: its strips. ``below`` leaves inches for a colour bar."""
        wide, high = self.strip_inches
        total = self.height(len(titles)) + below
        canvas = Canvas(figsize=(WIDTH, total))
        rows = math.ceil(len(titles) / self.columns)
        step = wide + _LEFT + _RIGHT
        maps = []
        for number, title in enumerate(titles):
            row, column = divmod(number, self.columns)
            top = total - _TOP - row * (self._panel_height() + _GAP + _STRIP_GAP)
            strips = []
            for strip in range(self.strips):
                bottom = top - _TITLE - (strip + 1) * high - strip * _STRIP_GAP
                place = ((column * step + _LEFT) / WIDTH, bottom / total, wide / WIDTH, high / total)
                strips.append(self._strip(canvas.add_axes(place), strip, site, named=column == 0))
            strips[0].set_title(title, loc="left", fontsize=8, pad=4)
            if row == rows - 1 or number + self.columns >= len(titles):
                strips[-1].set_xlabel("x [m]")
            maps.append(strips)
        return canvas, maps

    def _strip(self, axis: Axes, strip: int, site: Site, *, named: bool) -> Axes:
        length = (self.x[1] - self.x[0]) / self.strips
        axis.set(xlim=(self.x[0] + strip * length, self.x[0] + (strip + 1) * length), ylim=self.y, facecolor=PAPER)
        axis.grid(visible=False)
        axis.spines[["top", "right"]].set_visible(True)
        wide, high = self.strip_inches
        axis.xaxis.set_major_locator(MaxNLocator(max(2, round(wide / 0.7))))
        axis.yaxis.set_major_locator(MaxNLocator(max(1, round(high / 0.35)), min_n_ticks=2))
        minus = FuncFormatter(lambda value, _: f"{value + 0.0:g}".replace("-", "−"))
        axis.xaxis.set_major_formatter(minus)
        axis.yaxis.set_major_formatter(minus)
        if named:
            axis.set_ylabel("y [m]")
        if len(site.boxes):
            x0, x1, y0, y1 = site.boxes.T
            corners = np.stack([np.stack(corner, -1) for corner in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], 1)
            (left, right), (low, top) = axis.get_xlim(), self.y
            inside = (x0 < right) & (x1 > left) & (y0 < top) & (y1 > low)
            axis.add_collection(
                PolyCollection(list(corners[inside]), facecolor=_HOUSE, edgecolor=_HOUSE_EDGE, linewidth=0.5, zorder=1),
                autolim=False,
            )
        self._draw_station(axis, site)
        return axis

    def _draw_station(self, axis: Axes, site: Site) -> None:
        """The base station; one that lies above or below the cut-out as an arrow on its edge."""
        left, right = axis.get_xlim()
        if site.station is None or not left <= site.station[0] < right:
            return
        x, y = site.station
        label, marker, size = "base station", "D", 6.0
        if not self.y[0] <= y <= self.y[1]:
            label = f"base station (outside, y = {y:g} m)".replace("-", "−")
            y, marker, size = (self.y[1], "^", 7.0) if y > self.y[1] else (self.y[0], "v", 7.0)
        axis.plot(
            [x], [y], marker=marker, markersize=size, color=INK, markerfacecolor=PAPER, markeredgewidth=1.1,
            linestyle="none", zorder=5, label=label, clip_on=False, rasterized=True,
        )  # fmt: skip


def street_of(places: NDArray[np.float64], panels: int, site: Site) -> Street:
    """The cut-out around users, and the layout of so many panels of it.

    Args:
        places: users [n, 2] in metres, finite, n ≥ 1.
        panels: how many maps the figure has.
        site: the base station lies in the cut-out unless the cut-out would grow a lot.
    """
    distinct = np.unique(places, axis=0)
    spacing = 2.0
    if len(distinct) > 1:
        distances, _ = cKDTree(distinct).query(distinct, k=[2])  # the nearest is the user itself
        spacing = float(np.median(distances))
    low, high = distinct.min(0), distinct.max(0)
    margin = float(np.clip(0.025 * (high - low).max(), spacing, max(spacing, 5.0)))
    if site.station is not None:
        wider = np.minimum(low, site.station), np.maximum(high, site.station)
        if np.prod(wider[1] - wider[0] + 2 * margin) <= _MOST_WIDENING * np.prod(high - low + 2 * margin):
            low, high = wider
    low, high = low - margin, high + margin
    best: tuple[tuple[bool, float], Street] | None = None
    for street in _layouts((low[0], high[0]), (low[1], high[1]), spacing, panels):
        clear = street.scale * spacing >= _CLEAR_SPACING
        # Clear ones before others; of those the lowest figure, else the largest scale.
        rank = (clear, -street.height(panels) if clear else street.scale)
        if street.height(panels) <= _MOST_HEIGHT and (best is None or rank > best[0]):
            best = (rank, street)
    if best is not None:
        return best[1]
    # Higher than wide: the height decides.
    columns = min(panels, 3)
    rows = math.ceil(panels / columns)
    room = (_MOST_HEIGHT - _TOP - _BOTTOM - rows * (_TITLE + _GAP + _STRIP_GAP)) / rows
    scale = min(max(room, 0.5) / (high[1] - low[1]), _room(columns) / (high[0] - low[0]))
    return Street((low[0], high[0]), (low[1], high[1]), spacing, 1, columns, float(scale))


def _layouts(x: tuple[float, float], y: tuple[float, float], spacing: float, panels: int) -> Iterator[Street]:
    for columns in range(1, min(panels, 3) + 1):
        for strips in range(1, _MOST_STRIPS + 1):
            yield Street(x, y, spacing, strips, columns, _room(columns) * strips / (x[1] - x[0]))


def _room(columns: int) -> float:
    """Inches of width that a panel has."""
    return WIDTH / columns - _LEFT - _RIGHT
