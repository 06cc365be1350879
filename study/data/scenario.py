"""Scenarios: a street canyon with moving vehicles, described by numbers and made from a seed.

    Scenario          what to trace: buildings, traffic, users, base station, solver
    static_boxes      everything that does not move
    Traffic           where every vehicle is at a time
    user_positions    the user grid
    classify          line of sight, blocked by a vehicle, or blocked by a building

The frame: x along the street, y across it, z up, in metres. A box is (x0, x1, y0, y1, z0, z1).

Shapes: L user positions, B boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from study.data.path_table import DNLOS, LOS, SNLOS
from study.errors import SpecError, nearest
from study.spec.loading import InvalidValue, InvalidValues, load_yaml

__all__ = [
    "BuildingRows",
    "Lane",
    "Scenario",
    "SolverSettings",
    "StaticBox",
    "StorageSettings",
    "Traffic",
    "TrafficSettings",
    "UserGrid",
    "VehicleBoxes",
    "VehicleKind",
    "classify",
    "list_scenarios",
    "load_scenario",
    "static_boxes",
    "user_positions",
]

SCENARIO_FOLDER = Path(__file__).parent / "scenarios"

# Highest frequency of the materials that have no data up to 100 GHz (ITU-R P.2040).
_HIGHEST_HZ: dict[str, float] = {"brick": 40e9, "marble": 60e9}

# Less than this is rounding: 3.7 − 0.2 is not 3.5.
_TINY_M = 1e-9

# The tracer gives these names to what it adds to the boxes: ground, vehicles, transmitter and receivers.
_TRACER_NAMES = ("study_", "user_", "base_station")

FloatArray = NDArray[np.float64]


# A street longer than this is a mistake of units.
_FARTHEST_M = 100_000.0


def _near(values: tuple[float, ...]) -> tuple[float, ...]:
    if max(map(abs, values)) > _FARTHEST_M:
        raise ValueError(f"coordinates are in metres and at most {_FARTHEST_M:g}, but are {list(values)}")
    return values


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    low, high = interval
    if low > high:
        raise ValueError(f"[low, high] needs low ≤ high, but is [{low:g}, {high:g}]")
    return interval


def _solid(box: tuple[float, ...]) -> tuple[float, ...]:
    if any(low >= high for low, high in zip(box[0::2], box[1::2], strict=True)):
        raise ValueError(f"a box is [x0, x1, y0, y1, z0, z1] with x0 < x1, y0 < y1 and z0 < z1, but is {list(box)}")
    return box


Interval = Annotated[tuple[float, float], AfterValidator(_near), AfterValidator(_ordered)]
Box = Annotated[tuple[float, float, float, float, float, float], AfterValidator(_near), AfterValidator(_solid)]
Positive = Annotated[float, Field(gt=0)]
Point = Annotated[tuple[float, float, float], AfterValidator(_near)]
Material = Literal["concrete", "brick", "glass", "marble", "metal", "wood"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StaticBox(_Frozen):
    """Something that stands: a building or a kiosk."""

    name: str = Field(min_length=1)
    material: Material
    box: Box


class BuildingRows(_Frozen):
    """Two rows of generated houses, one on each side of the street, with gaps for cross streets."""

    seed: int = Field(ge=0, lt=2**32)
    x_range_m: Interval
    facade_y_m: Positive = Field(description="distance of the building line from the street's centre")
    depth_m: Positive
    width_m: Interval
    height_m: Interval
    setbacks_m: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)
    materials: tuple[Material, ...] = Field(min_length=1)
    cross_streets_m: tuple[Interval, ...] = ()

    @model_validator(mode="after")
    def _has_width(self) -> BuildingRows:
        if self.width_m[0] < 1 or self.height_m[0] <= 0:
            raise ValueError("width_m must be at least 1 m and height_m greater than 0")
        return self


class VehicleKind(_Frozen):
    """One kind of vehicle. `parts` are its boxes as [front-to-back share from, to, height from, to]."""

    name: str = Field(min_length=1)
    share: Positive
    length_m: Positive
    width_m: Positive
    parts: tuple[tuple[float, float, float, float], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _parts_fit(self) -> VehicleKind:
        for start, end, bottom, top in self.parts:
            if not (0 <= start < end <= 1 and 0 <= bottom < top):
                raise ValueError(
                    f"a part of {self.name!r} is [from, to, bottom_m, top_m] with 0 ≤ from < to ≤ 1 and "
                    f"0 ≤ bottom < top, but is {[start, end, bottom, top]}"
                )
        return self

    @property
    def height_m(self) -> float:
        """Height of its highest part above the ground."""
        return max(top for _, _, _, top in self.parts)


class Lane(_Frozen):
    """One lane; all its vehicles drive at one speed, so they never meet."""

    y_m: float
    direction: Literal[1, -1]
    speed_m_s: Positive


class TrafficSettings(_Frozen):
    """Vehicles stream through the lanes: none comes back, so that no scene repeats an earlier one."""

    seed: int = Field(ge=0, lt=2**32)
    x_range_m: Interval = Field(description="vehicles outside this part of the street are not in the scene")
    lanes: tuple[Lane, ...] = Field(min_length=1)
    kinds: tuple[VehicleKind, ...] = Field(min_length=1)
    min_gap_m: Positive = Field(description="smallest distance between two bumpers")
    mean_gap_m: Positive
    lateral_m: float = Field(ge=0, description="a vehicle keeps within this distance of its lane's centre")
    lane_width_m: Positive = Field(3.5, description="nothing but vehicles may stand in this strip about a lane's y_m")

    @model_validator(mode="after")
    def _vehicles_have_room(self) -> TrafficSettings:
        if self.mean_gap_m < self.min_gap_m:
            raise ValueError(f"mean_gap_m must be at least min_gap_m = {self.min_gap_m:g}, but is {self.mean_gap_m:g}")
        problems = []
        names = [kind.name for kind in self.kinds]
        for index, name in enumerate(names):
            if name in names[:index]:
                problems.append(
                    InvalidValue("two kinds have this name", "a name of its own", at=("kinds", index, "name"))
                )
        length_m = self.x_range_m[1] - self.x_range_m[0]
        longest = max(self.kinds, key=lambda kind: kind.length_m)
        if longest.length_m > length_m:
            problems.append(
                InvalidValue(
                    f"the street's part is {length_m:g} m long, and a {longest.name!r} is {longest.length_m:g} m long",
                    f"at least {longest.length_m:g} m from low to high",
                    at=("x_range_m",),
                )
            )
        widest = max(self.kinds, key=lambda kind: kind.width_m)
        needed = widest.width_m + 2 * self.lateral_m
        if needed > self.lane_width_m + _TINY_M:
            problems.append(
                InvalidValue(
                    f"a {widest.name!r} of {widest.width_m:g} m that keeps within {self.lateral_m:g} m of the centre "
                    f"needs {needed:g} m, and the lanes are {self.lane_width_m:g} m wide",
                    "at most (lane_width_m − width_m of the widest kind) / 2",
                    at=("lateral_m",),
                )
            )
        order = sorted(range(len(self.lanes)), key=lambda index: self.lanes[index].y_m)
        for left, right in pairwise(order):
            apart = self.lanes[right].y_m - self.lanes[left].y_m
            if apart < self.lane_width_m - _TINY_M:
                problems.append(
                    InvalidValue(
                        f"the lanes at y = {self.lanes[left].y_m:g} and {self.lanes[right].y_m:g} m overlap: their "
                        f"centres are {apart:g} m apart",
                        f"at least lane_width_m = {self.lane_width_m:g} m",
                        at=("lanes", max(left, right), "y_m"),
                    )
                )
        if problems:
            raise InvalidValues(problems)
        return self

    @property
    def clearance_m(self) -> float:
        """Height below which nothing may stand in a lane: that of the highest vehicle."""
        return max(kind.height_m for kind in self.kinds)


class UserGrid(_Frozen):
    """Positions x_start + i · x_step, y_start + j · y_step at one height."""

    x_start_m: float
    x_step_m: Positive
    columns: int = Field(ge=1, le=100_000)
    y_start_m: float
    y_step_m: Positive
    rows: int = Field(ge=1, le=1000)
    height_m: Positive


class SolverSettings(_Frozen):
    """Settings of the ray tracer; see docs/data.md for what they do to the result."""

    samples_per_source: int = Field(ge=1000)
    max_depth: int = Field(ge=0, le=10)
    # Also the size of the table in which found paths are told apart: too small a table loses paths silently.
    max_paths_per_source: int = Field(2_000_000, ge=100_000)
    receivers_per_solve: int = Field(240, ge=1, le=240)
    seed: int = Field(ge=0, lt=2**32)
    diffraction: bool = True


class StorageSettings(_Frozen):
    """What of the found paths is kept, and how exactly."""

    weakest_path_db: Positive = Field(description="paths this far below the row's strongest are dropped")
    gain_bits: int = Field(23, ge=8, le=23, description="bits of the mantissa that are kept; 23 keeps all")
    delay_bits: int = Field(23, ge=8, le=23)
    angle_bits: int = Field(23, ge=8, le=23)


class Scenario(_Frozen):
    """A site to be traced."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str = ""
    carrier_hz: Annotated[float, Field(ge=1e9, le=1e11)]
    base_station_m: Point
    ground_material: Material = "concrete"
    vehicle_material: Material = "metal"
    buildings: BuildingRows
    boxes: tuple[StaticBox, ...] = ()
    traffic: TrafficSettings
    users: UserGrid
    scenes: int = Field(ge=1, le=10_000)
    scene_spacing_s: Positive
    max_paths: int = Field(ge=1, le=1000)
    solver: SolverSettings
    storage: StorageSettings

    @model_validator(mode="after")
    def _everything_has_room(self) -> Scenario:
        boxes = static_boxes(self)
        problems = [
            *_material_problems(self, boxes),
            *_name_problems(self.boxes, boxes),
            *_point_problems(self, boxes),
            *_lane_problems(self, boxes),
        ]
        if problems:
            raise InvalidValues(problems)
        return self

    def scene_times_s(self) -> FloatArray:
        """Time of every scene, [S]."""
        return self.scene_spacing_s * np.arange(self.scenes, dtype=np.float64)


def _material_problems(scenario: Scenario, boxes: list[StaticBox]) -> Iterator[InvalidValue]:
    """Materials that ITU-R P.2040 does not describe at the carrier."""
    used = {box.material for box in boxes} | {scenario.ground_material, scenario.vehicle_material}
    for name in sorted(used & set(_HIGHEST_HZ)):
        if scenario.carrier_hz > _HIGHEST_HZ[name]:
            yield InvalidValue(
                f"{name} is not known at {scenario.carrier_hz / 1e9:g} GHz",
                f"at most {_HIGHEST_HZ[name] / 1e9:g} GHz with {name}, or another material",
                at=("carrier_hz",),
            )


def _name_problems(own: tuple[StaticBox, ...], boxes: list[StaticBox]) -> Iterator[InvalidValue]:
    """Boxes of the file whose name another box or the tracer has."""
    taken = [box.name for box in boxes[: len(boxes) - len(own)]]
    for index, box in enumerate(own):
        at = ("boxes", index, "name")
        if box.name.startswith(_TRACER_NAMES):
            allowed = f"a name that does not begin with {', '.join(_TRACER_NAMES)}"
            yield InvalidValue("the tracer gives such names to its own objects", allowed, at=at)
        if box.name in taken:
            yield InvalidValue("two boxes have this name", "a name of its own; houses are house_north_0 …", at=at)
        taken.append(box.name)


def _point_problems(scenario: Scenario, boxes: list[StaticBox]) -> Iterator[InvalidValue]:
    """A base station or user positions below the ground or inside a box."""
    walls = np.array([box.box for box in boxes], float).reshape(-1, 6)
    if scenario.base_station_m[2] <= 0:
        yield InvalidValue("the base station is not above the ground", "z greater than 0", at=("base_station_m",))
    inside = _inside(np.array([scenario.base_station_m]), walls)[0]
    if inside.any():
        yield InvalidValue(
            f"the base station is inside {boxes[int(inside.argmax())].name!r}",
            "a point outside all boxes",
            at=("base_station_m",),
        )
    positions = user_positions(scenario)
    hit = _inside(positions, walls)  # [L, B]
    if hit.any():
        first = int(hit.any(1).argmax())
        yield InvalidValue(
            f"{_count(int(hit.any(1).sum()), 'user position')} inside a box, the first at "
            f"{np.round(positions[first], 2).tolist()} in {boxes[int(hit[first].argmax())].name!r}",
            "positions outside all boxes",
            at=("users",),
        )


def _lane_problems(scenario: Scenario, boxes: list[StaticBox]) -> Iterator[InvalidValue]:
    """Lanes with a box, user positions or the base station in them."""
    traffic = scenario.traffic
    low, high = traffic.x_range_m
    half, top = traffic.lane_width_m / 2 - _TINY_M, traffic.clearance_m
    points = np.vstack([user_positions(scenario), scenario.base_station_m])  # the last one is the base station
    for number, lane in enumerate(traffic.lanes):
        at = ("traffic", "lanes", number, "y_m")
        standing = [
            box.name
            for box, (x0, x1, y0, y1, z0, _) in zip(boxes, (box.box for box in boxes), strict=True)
            if x0 < high and x1 > low and y0 < lane.y_m + half and y1 > lane.y_m - half and z0 < top
        ]
        if standing:
            more = f" and {len(standing) - 1} more boxes stand" if len(standing) > 1 else " stands"
            yield InvalidValue(
                f"{standing[0]!r}{more} in this lane", f"{traffic.lane_width_m:g} m without boxes", at=at
            )
        within = (
            (np.abs(points[:, 1] - lane.y_m) < half)
            & (low < points[:, 0])
            & (points[:, 0] < high)
            & (points[:, 2] < top)
        )
        if within[-1]:
            yield InvalidValue("the base station stands in this lane", "a point beside or above the lanes", at=at)
        if within[:-1].any():
            users = _count(int(within[:-1].sum()), "user position")
            yield InvalidValue(f"{users} in this lane", "positions beside the lanes", at=at)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun} is" if number == 1 else f"{number} {noun}s are"


def list_scenarios() -> list[str]:
    """Names of the scenarios that ship with the project."""
    return sorted(path.stem for path in SCENARIO_FOLDER.glob("*.yaml"))


def load_scenario(path_or_name: str | Path) -> Scenario:
    """Read a scenario file, or a shipped scenario by its name.

    Raises:
        SpecError: there is none, or it cannot be used.
    """
    return load_yaml(scenario_file(path_or_name), Scenario, kind="scenario")


def scenario_file(path_or_name: str | Path) -> Path:
    """The file of a scenario given by path or by shipped name.

    Raises:
        SpecError: neither exists.
    """
    known = list_scenarios()
    if str(path_or_name) in known:
        return SCENARIO_FOLDER / f"{path_or_name}.yaml"
    path = Path(path_or_name)
    if not path.exists():
        raise SpecError(
            f"unknown scenario {str(path_or_name)!r}{nearest(str(path_or_name), known)}",
            allowed=f"a YAML file, or one of the shipped scenarios: {', '.join(known)}",
            fix="check the name or the path",
        )
    return path


def static_boxes(scenario: Scenario) -> list[StaticBox]:
    """Generated houses, north row first, then the explicit boxes."""
    rows = scenario.buildings
    rng = np.random.default_rng(rows.seed)
    houses: list[StaticBox] = []
    for side, label in ((1, "north"), (-1, "south")):
        number = 0
        for start, end in _stretches(rows):
            for x0, x1 in _lots(start, end, rows.width_m, rng):
                setback = rows.setbacks_m[rng.integers(len(rows.setbacks_m))]
                height = float(rng.uniform(*rows.height_m))
                material = rows.materials[rng.integers(len(rows.materials))]
                near = rows.facade_y_m + setback
                y0, y1 = sorted((side * near, side * (near + rows.depth_m)))
                box = tuple(round(float(value), 3) for value in (x0, x1, y0, y1, 0.0, height))
                houses.append(StaticBox(name=f"house_{label}_{number}", material=material, box=box))  # type: ignore[arg-type]
                number += 1
    return [*houses, *scenario.boxes]


def _stretches(rows: BuildingRows) -> list[tuple[float, float]]:
    """The parts of the street between its cross streets."""
    start, end = rows.x_range_m
    stretches = []
    for gap_start, gap_end in sorted(rows.cross_streets_m):
        if gap_start > start:
            stretches.append((start, min(gap_start, end)))
        start = max(start, gap_end)
    if start < end:
        stretches.append((start, end))
    return stretches


def _lots(
    start: float, end: float, width_m: tuple[float, float], rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Cut a stretch into lots of random width; the last one takes what would be too narrow to stand alone."""
    lots = []
    while start < end:
        stop = start + float(rng.uniform(*width_m))
        if end - stop < width_m[0]:
            stop = end
        lots.append((start, stop))
        start = stop
    return lots


@dataclass(frozen=True)
class VehicleBoxes:
    """Boxes of the vehicles in one scene; a vehicle has one or more.

    Args:
        vehicle: number of the vehicle, the same in every scene, int32 [B].
        kind: name of its kind, [B].
        box: float64 [B, 6].
    """

    vehicle: NDArray[np.int32]
    kind: tuple[str, ...]
    box: FloatArray


@dataclass(frozen=True)
class _Vehicle:
    number: int
    kind: VehicleKind
    lane: Lane
    centre_x_m: float  # at time 0
    centre_y_m: float


class Traffic:
    """Where every vehicle of a scenario is at any time up to the last scene.

    A lane is filled from the downstream end of the street against the driving direction, as far back as vehicles
    enter the street before the last scene. More scenes therefore leave the first ones unchanged.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.settings = scenario.traffic
        self.duration_s = (scenario.scenes - 1) * scenario.scene_spacing_s
        self._vehicles: list[_Vehicle] = []
        for index, lane in enumerate(self.settings.lanes):
            self._fill(lane, index)

    def _fill(self, lane: Lane, index: int) -> None:
        settings = self.settings
        rng = np.random.default_rng((settings.seed, index))
        shares = np.array([kind.share for kind in settings.kinds])
        low, high = settings.x_range_m
        reach = (high - low) + lane.speed_m_s * self.duration_s
        # Distance of the next free place behind the downstream end of the street.
        behind = float(rng.uniform(0, settings.mean_gap_m))
        number = 0
        while behind < reach:
            kind = settings.kinds[rng.choice(len(shares), p=shares / shares.sum())]
            centre = behind + kind.length_m / 2
            x = high - centre if lane.direction > 0 else low + centre
            y = lane.y_m + float(rng.uniform(-settings.lateral_m, settings.lateral_m))
            # Numbered by lane, so that a longer simulation keeps the numbers.
            self._vehicles.append(_Vehicle(index * 1_000_000 + number, kind, lane, x, y))
            gap = settings.min_gap_m + float(rng.exponential(settings.mean_gap_m - settings.min_gap_m))
            behind += kind.length_m + gap
            number += 1

    def boxes(self, time_s: float) -> VehicleBoxes:
        """Boxes of the vehicles that are wholly inside the street's part at a time."""
        low, high = self.settings.x_range_m
        numbers, kinds, boxes = [], [], []
        for vehicle in self._vehicles:
            lane, kind = vehicle.lane, vehicle.kind
            x = vehicle.centre_x_m + lane.direction * lane.speed_m_s * time_s
            half = kind.length_m / 2
            if x - half < low or x + half > high:
                continue
            y0, y1 = vehicle.centre_y_m - kind.width_m / 2, vehicle.centre_y_m + kind.width_m / 2
            for start, end, bottom, top in kind.parts:
                # Parts are listed from the rear to the front; driving towards −x mirrors them.
                ends = sorted(lane.direction * (share - 0.5) * kind.length_m for share in (start, end))
                numbers.append(vehicle.number)
                kinds.append(kind.name)
                boxes.append((x + ends[0], x + ends[1], y0, y1, bottom, top))
        return VehicleBoxes(np.array(numbers, np.int32), tuple(kinds), np.array(boxes, float).reshape(-1, 6))


def user_positions(scenario: Scenario) -> FloatArray:
    """The user grid, [L, 3]; the row (y) varies fastest."""
    grid = scenario.users
    x = grid.x_start_m + grid.x_step_m * np.arange(grid.columns)
    y = grid.y_start_m + grid.y_step_m * np.arange(grid.rows)
    return np.stack([np.repeat(x, grid.rows), np.tile(y, grid.columns), np.full(x.size * y.size, grid.height_m)], 1)


def classify(
    positions: ArrayLike,
    base_station: ArrayLike,
    static: Iterable[StaticBox],
    vehicles: ArrayLike,
) -> NDArray[np.int8]:
    """Propagation condition of every position, int8 [L]: 0 LOS, 1 DNLOS, 2 SNLOS.

    A position whose straight line to the base station meets a static box is SNLOS, whatever vehicles do.

    Args:
        positions: [L, 3].
        base_station: [3].
        static: boxes that stand.
        vehicles: boxes of the vehicles, [B, 6].
    """
    walls = np.array([box.box for box in static], float)
    by_wall = _blocked(positions, base_station, walls).any(1)
    by_vehicle = _blocked(positions, base_station, vehicles).any(1)
    return np.where(by_wall, SNLOS, np.where(by_vehicle, DNLOS, LOS)).astype(np.int8)


def _blocked(positions: ArrayLike, origin: ArrayLike, boxes: ArrayLike) -> NDArray[np.bool_]:
    """Whether the open segment from the origin to a position passes through a box's interior, [L, B]."""
    start = np.asarray(origin, float)
    boxes = np.asarray(boxes, float).reshape(1, -1, 3, 2)
    direction = (np.asarray(positions, float) - start)[:, None]  # [L, 1, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        cuts = (boxes - start[:, None]) / direction[..., None]  # [L, B, 3, 2]
    enter, leave = cuts.min(-1), cuts.max(-1)
    # A segment parallel to a pair of faces is between them along its whole length, or never.
    parallel = np.broadcast_to(direction == 0, enter.shape)
    between = np.broadcast_to((boxes[..., 0] < start) & (start < boxes[..., 1]), enter.shape)
    enter = np.where(parallel, np.where(between, -np.inf, np.inf), enter)
    leave = np.where(parallel, np.where(between, np.inf, -np.inf), leave)
    return np.asarray(np.maximum(enter.max(-1), 0.0) < np.minimum(leave.min(-1), 1.0))


def _inside(positions: FloatArray, boxes: FloatArray) -> NDArray[np.bool_]:
    """Whether positions [L, 3] are in boxes [B, 6], borders included; [L, B]."""
    limits = boxes.reshape(1, -1, 3, 2)
    point = positions[:, None]
    return np.asarray(((limits[..., 0] <= point) & (point <= limits[..., 1])).all(-1))
