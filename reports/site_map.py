"""The map of a site from above, as an SVG that a script can show other scenes in. No drawing library here.

Coordinates inside the street are metres, x to the right and y up (SVG's y points down, so it is −y). A long street is
cut into strips, one below the other, at the same scale along both axes. The strips show one and the same drawing, so
that a script has three outlines of users and one of vehicles to replace, however many users there are.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from study.data.path_table import VehicleTable
    from study.data.site_view import SiteView

__all__ = ["CONDITION_COLOURS", "Entry", "StreetMap", "street_map"]

# Okabe and Ito's palette, as in the report; grey prints tell the three by lightness and by shape.
CONDITION_COLOURS: Mapping[str, str] = {"LOS": "#0072b2", "DNLOS": "#d55e00", "SNLOS": "#cc79a7"}
_SHAPES = {"LOS": "circle", "DNLOS": "triangle", "SNLOS": "square"}

_WIDTH = 1040.0
_LEFT, _RIGHT, _TOP, _GAP, _BOTTOM = 46.0, 10.0, 6.0, 26.0, 40.0  # around the strips
_MOST_STRIPS = 4
_MOST_HEIGHT = 1100.0
_CLEAR_SPACING = 6.0  # pixels between users at which their shapes can be told apart
_LEAST_RADIUS = 1.3  # pixels


@dataclass(frozen=True)
class Entry:
    """A line of the legend: a class of users, how many there are in the scene shown, and its outline around (0, 0)."""

    condition: str
    colour: str
    count: int
    outline: str


@dataclass(frozen=True)
class StreetMap:
    """The map of the first scene, and what a script needs for the others.

    Args:
        svg: the drawing.
        data: JSON for a script element: shapes, positions and scenes.
        legend: classes with their counts in the first scene.
        title: scene and time of the first scene.
        alt_text: the first scene in words.
        strips: into how many strips the street is cut.
        has_boxes, has_vehicles: whether the site knows its buildings and vehicles.
    """

    svg: str
    data: str
    legend: tuple[Entry, ...]
    title: str
    alt_text: str
    strips: int
    has_boxes: bool
    has_vehicles: bool


@dataclass(frozen=True)
class _Frame:
    """The cut-out of the world: metres, and pixels per metre."""

    x: tuple[float, float]
    y: tuple[float, float]
    strips: int
    scale: float

    @property
    def strip_m(self) -> float:
        return (self.x[1] - self.x[0]) / self.strips

    @property
    def strip_px(self) -> tuple[float, float]:
        return self.strip_m * self.scale, (self.y[1] - self.y[0]) * self.scale

    def corner(self, strip: int) -> tuple[float, float]:
        """Upper left corner of a strip in pixels."""
        return _LEFT, _TOP + strip * (self.strip_px[1] + _GAP)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the drawing in pixels."""
        return _WIDTH, self.corner(self.strips - 1)[1] + self.strip_px[1] + _BOTTOM


def street_map(view: SiteView) -> StreetMap:
    """The map of a site with the propagation condition of every user."""
    places = view.rows.position_m.astype(np.float64)
    names = list(CONDITION_COLOURS)
    spacing = _spacing(places[:, :2])
    frame = _frame(places, view.site.base_station_m, spacing)
    radius = max(0.42 * spacing, _LEAST_RADIUS / frame.scale)
    outlines = [_outline(_SHAPES[name], radius) for name in names]
    points = [[_short(x), _short(-y)] for x, y in places[:, :2].tolist()]
    scenes = [
        {
            "title": f"scene {chosen.scene}, {chosen.time_s:g} s" + (f" ({chosen.reason})" if chosen.reason else ""),
            "reason": chosen.reason,
            "conditions": "".join(map(str, view.rows.condition[chosen.scene].tolist())),
            "vehicles": _vehicles(view.vehicles, chosen.scene),
        }
        for chosen in view.scenes
    ]
    first = scenes[0]
    counts = [first["conditions"].count(str(index)) for index in range(len(names))]
    boxes = _static_boxes(view.site.metadata["static_boxes"])
    users = [_users(points, first["conditions"], str(index), outline) for index, outline in enumerate(outlines)]
    vehicles = len(view.vehicles.scene) > 0
    alt = (
        f"The site from above, {first['title']}: "
        + ", ".join(f"{count} users {name}" for name, count in zip(names, counts, strict=True))
        + f". The base station stands at x {view.site.base_station_m[0]:g} m, y {view.site.base_station_m[1]:g} m."
    )
    return StreetMap(
        svg=_svg(frame, boxes, first["vehicles"], users, view.site.base_station_m, alt),
        data=_script_json({"outlines": outlines, "points": points, "scenes": scenes}),
        legend=tuple(
            Entry(name, CONDITION_COLOURS[name], count, "M0 0" + _outline(_SHAPES[name], 1.0))
            for name, count in zip(names, counts, strict=True)
        ),
        title=first["title"],
        alt_text=alt,
        strips=frame.strips,
        has_boxes=bool(boxes),
        has_vehicles=vehicles,
    )


# --- Where things lie ---------------------------------------------------------------------------------------------


def _spacing(places: NDArray[np.float64]) -> float:
    """The usual distance between neighbouring users in metres; users at the same place do not count."""
    distinct = np.unique(places, axis=0)
    if len(distinct) < 2:
        return 2.0
    distances, _ = cKDTree(distinct).query(distinct, k=[2])  # the nearest is the user itself
    return float(np.median(distances))


def _frame(places: NDArray[np.float64], base_station_m: Sequence[float], spacing: float) -> _Frame:
    """A cut-out around users and base station, in as few strips as show every user clearly."""
    shown = np.vstack([places[:, :2], np.asarray(base_station_m[:2])[None]])
    low, high = shown.min(0), shown.max(0)
    margin = float(np.clip(0.025 * (high - low).max(), 3.0, 9.0))
    low, high = low - margin, high + margin
    (x0, y0), (x1, y1) = low.tolist(), high.tolist()
    inner = _WIDTH - _LEFT - _RIGHT
    best = None
    for strips in range(1, _MOST_STRIPS + 1):
        frame = _Frame((x0, x1), (y0, y1), strips, inner * strips / (x1 - x0))
        if frame.size[1] > _MOST_HEIGHT:
            break
        best = frame
        if frame.scale * spacing >= _CLEAR_SPACING:
            break
    if best is None:  # higher than wide: the height decides
        return _Frame((x0, x1), (y0, y1), 1, (_MOST_HEIGHT - _TOP - _BOTTOM) / (y1 - y0))
    return best


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers within a range."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


# --- Outlines, in metres ------------------------------------------------------------------------------------------


def _outline(shape: str, radius: float) -> str:
    """A closed outline of about the same area for each shape, to be drawn after a move to its centre."""
    if shape == "circle":
        r = _short(radius)
        across = _short(2 * r)  # of the rounded radius: an arc over another chord is no half circle
        return f"m{-r} 0a{r} {r} 0 1 0 {across} 0a{r} {r} 0 1 0 {-across} 0z"
    if shape == "triangle":
        return f"m0 {_short(-1.25 * radius)}l{_short(1.2 * radius)} {_short(2.15 * radius)}h{_short(-2.4 * radius)}z"
    half, side = _short(0.88 * radius), _short(1.76 * radius)
    return f"m{-half} {-half}h{side}v{side}h{-side}z"


def _short(value: float) -> float | int:
    """To the centimetre, without a needless decimal point."""
    rounded = round(float(value), 2) + 0.0
    return int(rounded) if rounded == int(rounded) else rounded


def _users(points: Sequence[Sequence[float]], conditions: str, wanted: str, outline: str) -> str:
    """All users of a class as one outline; the page's script does the same."""
    return "".join(
        f"M{x} {y}{outline}" for (x, y), condition in zip(points, conditions, strict=True) if condition == wanted
    )


def _rectangle(box: Sequence[float]) -> str:
    x0, x1, y0, y1 = box[:4]
    return f"M{_short(x0)} {_short(-y1)}h{_short(x1 - x0)}v{_short(y1 - y0)}h{_short(x0 - x1)}z"


def _vehicles(vehicles: VehicleTable, scene: int) -> str:
    return "".join(_rectangle(box) for box in vehicles.box[vehicles.scene == scene].tolist())


def _static_boxes(boxes: Sequence[Any]) -> list[tuple[str, str]]:
    """Outline and name of each box; what is not a box of numbers is left out, because site.json leaves that open."""
    found = []
    for entry in boxes:
        box = entry.get("box") if isinstance(entry, Mapping) else None
        if not (isinstance(box, list) and len(box) == 6 and all(isinstance(value, int | float) for value in box)):
            continue
        words = [str(entry[key]).replace("_", " ") for key in ("name", "material") if entry.get(key)]
        found.append((_rectangle(box), ", ".join([*words, f"{box[5] - box[4]:g} m high"])))
    return found


# --- The drawing --------------------------------------------------------------------------------------------------


def _svg(
    frame: _Frame,
    boxes: Sequence[tuple[str, str]],
    vehicles: str,
    users: Sequence[str],
    base_station_m: Sequence[float],
    alt_text: str,
) -> str:
    width, height = (f"{value:.0f}" for value in frame.size)
    houses = "".join(
        f'<path class="house" d="{path}"><title>{html.escape(words)}</title></path>' for path, words in boxes
    )
    classes = "".join(
        f'<path data-users="{index}" style="fill:var(--c{colour[1:]},{colour})" d="{path}"/>'
        for index, (colour, path) in enumerate(zip(CONDITION_COLOURS.values(), users, strict=True))
    )
    # Back to front.
    street = f'{houses}<path class="vehicles" id="map-vehicles" d="{vehicles}"/>{classes}'
    strips = "".join(_strip(frame, strip, base_station_m) for strip in range(frame.strips))
    x, y = frame.corner(frame.strips - 1)
    middle, below = x + frame.strip_px[0] / 2, y + frame.strip_px[1] + 33
    foot = f'<text x="{middle:.1f}" y="{below:.1f}" text-anchor="middle">x [m]</text>'
    return (
        f'<svg class="map" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(alt_text)}" '
        f'xmlns="http://www.w3.org/2000/svg"><defs><g id="map-street">{street}</g></defs>{strips}{foot}</svg>'
    )


def _strip(frame: _Frame, strip: int, base_station_m: Sequence[float]) -> str:
    """One strip: what lies in it, its frame and its axes."""
    left, top = frame.corner(strip)
    width, height = frame.strip_px
    start, end = frame.x[0] + strip * frame.strip_m, frame.x[0] + (strip + 1) * frame.strip_m
    parts = [
        f'<svg x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'viewBox="{start:.3f} {-frame.y[1]:.3f} {frame.strip_m:.3f} {frame.y[1] - frame.y[0]:.3f}">'
        '<use href="#map-street"/></svg>',
        f'<rect class="frame" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"/>',
    ]
    for value in _ticks(start, end, max(2, round(width / 90))):
        x = left + (value - start) * frame.scale
        parts.append(f'<path class="tick" d="M{x:.1f} {top + height:.1f}v4"/>')
        parts.append(f'<text x="{x:.1f}" y="{top + height + 15:.1f}" text-anchor="middle">{_tick_words(value)}</text>')
    for value in _ticks(*frame.y, max(2, round(height / 55))):
        y = top + (frame.y[1] - value) * frame.scale
        parts.append(f'<path class="tick" d="M{left:.1f} {y:.1f}h-4"/>')
        parts.append(f'<text x="{left - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{_tick_words(value)}</text>')
    middle = top + height / 2
    parts.append(f'<text transform="translate(11 {middle:.1f}) rotate(-90)" text-anchor="middle">y [m]</text>')
    if start <= base_station_m[0] < end or (strip == frame.strips - 1 and base_station_m[0] == end):
        x, y = left + (base_station_m[0] - start) * frame.scale, top + (frame.y[1] - base_station_m[1]) * frame.scale
        parts.append(_base_station(x, y, right=x < left + width - 110))
    return "".join(parts)


def _base_station(x: float, y: float, *, right: bool) -> str:
    """A mast with its name beside it."""
    anchor, aside = ("start", 12) if right else ("end", -12)
    return (
        f'<g class="station"><path d="M{x:.1f} {y - 8:.1f}l8 8l-8 8l-8-8z"/>'
        f'<text x="{x + aside:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">base station</text></g>'
    )


def _tick_words(value: float) -> str:
    return f"{value + 0.0:g}".replace("-", "−")


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
