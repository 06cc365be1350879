"""Scenarios: traffic laws, labels from geometry, and mistakes in scenario files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from study.data.scenario import (
    Scenario,
    StaticBox,
    Traffic,
    classify,
    list_scenarios,
    load_scenario,
    static_boxes,
    user_positions,
)
from study.errors import SpecError
from study.spec.loading import parse_yaml

DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "scenario.md").read_text(encoding="utf-8")

CANYON = load_scenario("canyon_small")
TRAFFIC = Traffic(CANYON)


def changed(**values: object) -> Scenario:
    return Scenario.model_validate(CANYON.model_dump() | values)


@given(st.floats(0, TRAFFIC.duration_s))
@settings(max_examples=60, deadline=None)
def test_vehicles_never_overlap_and_stay_in_their_lane(time_s: float) -> None:
    boxes = TRAFFIC.boxes(time_s)
    half = max(kind.width_m for kind in CANYON.traffic.kinds) / 2 + CANYON.traffic.lateral_m
    centre = boxes.box[:, 2:4].mean(1)
    lanes = np.array([lane.y_m for lane in CANYON.traffic.lanes])
    lane = np.abs(centre[:, None] - lanes).argmin(1)
    assert (boxes.box[:, 2] >= lanes[lane] - half - 1e-9).all()
    assert (boxes.box[:, 3] <= lanes[lane] + half + 1e-9).all()
    assert (boxes.box[:, 0] >= CANYON.traffic.x_range_m[0]).all()
    assert (boxes.box[:, 1] <= CANYON.traffic.x_range_m[1]).all()
    for index in range(len(lanes)):
        numbers = boxes.vehicle[lane == index]
        ends = np.array(
            [
                (boxes.box[boxes.vehicle == number, 0].min(), boxes.box[boxes.vehicle == number, 1].max())
                for number in np.unique(numbers)
            ]
        )
        ends = ends[ends[:, 0].argsort()]
        assert (ends[1:, 0] - ends[:-1, 1] >= CANYON.traffic.min_gap_m - 1e-6).all()


def test_vehicles_do_not_touch_what_stands() -> None:
    standing = np.array([box.box for box in static_boxes(CANYON)])
    for time_s in CANYON.scene_times_s()[::10]:
        moving = TRAFFIC.boxes(time_s).box
        low = np.maximum(moving[:, None, 0::2], standing[None, :, 0::2])
        high = np.minimum(moving[:, None, 1::2], standing[None, :, 1::2])
        assert not (low < high).all(-1).any()


def test_every_scene_has_traffic_in_every_lane() -> None:
    lanes = np.array([lane.y_m for lane in CANYON.traffic.lanes])
    for time_s in CANYON.scene_times_s():
        lane = np.abs(TRAFFIC.boxes(time_s).box[:, 2:4].mean(1)[:, None] - lanes).argmin(1)
        assert set(lane) == set(range(len(lanes)))


def test_more_scenes_leave_the_first_ones_unchanged() -> None:
    short = Traffic(changed(scenes=3))
    for time_s in (0.0, 4.0, 8.0):
        ours, theirs = short.boxes(time_s), TRAFFIC.boxes(time_s)
        np.testing.assert_array_equal(np.sort(ours.vehicle), np.sort(theirs.vehicle))
        np.testing.assert_array_equal(np.sort(ours.box, 0), np.sort(theirs.box, 0))


def test_no_two_scenes_have_the_same_traffic() -> None:
    seen = {TRAFFIC.boxes(time_s).box.tobytes() for time_s in CANYON.scene_times_s()}
    assert len(seen) == CANYON.scenes


def test_consecutive_scenes_are_decorrelated() -> None:
    positions, walls = user_positions(CANYON), static_boxes(CANYON)
    blocked = np.stack(
        [
            classify(positions, CANYON.base_station_m, walls, TRAFFIC.boxes(time_s).box) == 1
            for time_s in CANYON.scene_times_s()
        ]
    )
    deviation = blocked - blocked.mean(0)
    assert abs((deviation[1:] * deviation[:-1]).mean() / (deviation**2).mean()) < 0.15


@pytest.mark.parametrize("name", list_scenarios())
def test_users_and_base_station_are_outside_all_buildings(name: str) -> None:
    scenario = load_scenario(name)
    points = np.vstack([user_positions(scenario), scenario.base_station_m])
    for box in static_boxes(scenario):
        limits = np.array(box.box).reshape(3, 2)
        assert not ((limits[:, 0] <= points) & (points <= limits[:, 1])).all(1).any(), box.name


def test_the_canyon_has_the_papers_size_and_every_condition() -> None:
    canyon = load_scenario("canyon")
    positions, walls, traffic = user_positions(canyon), static_boxes(canyon), Traffic(canyon)
    assert positions.shape == (3784, 3)
    assert (canyon.scenes, canyon.max_paths, canyon.carrier_hz) == (120, 25, 3.5e9)
    conditions = np.stack(
        [
            classify(positions, canyon.base_station_m, walls, traffic.boxes(time_s).box)
            for time_s in canyon.scene_times_s()[::6]  # a quarter of a second each
        ]
    )
    assert 0.05 < (conditions == 1).mean() < 0.25
    assert 0.10 < (conditions == 2).mean() < 0.40
    assert (conditions == 0).mean() > 0.4


def test_the_two_canyons_differ_in_their_users_and_how_they_are_solved_alone() -> None:
    small, large = CANYON.model_dump(), load_scenario("canyon").model_dump()
    assert {key for key in small if small[key] != large[key]} == {"name", "users", "solver"}


def test_generated_houses_leave_the_cross_streets_open() -> None:
    rows = CANYON.buildings
    for box in static_boxes(CANYON):
        if box.name.startswith("house_"):
            x0, x1, y0, y1, _, _ = box.box
            assert all(x1 <= start or x0 >= end for start, end in rows.cross_streets_m)
            assert min(abs(y0), abs(y1)) >= rows.facade_y_m


coordinate = st.floats(-10, 10).map(lambda value: round(value, 2))
point = st.tuples(coordinate, coordinate, coordinate)


@st.composite
def box(draw: st.DrawFn) -> tuple[float, ...]:
    low = draw(point)
    size = draw(st.tuples(*[st.floats(0.2, 8).map(lambda value: round(value, 2))] * 3))
    return tuple(value for start, length in zip(low, size, strict=True) for value in (start, start + length))


def depth_inside(start: np.ndarray, end: np.ndarray, limits: np.ndarray) -> float:
    """Largest distance to the box's faces that a densely sampled point of the segment reaches inside it."""
    points = start + np.linspace(0, 1, 4001)[:, None] * (end - start)
    return float(np.minimum(points - limits[:, 0], limits[:, 1] - points).min(1).max())


@given(point, point, box())
@example((-1.0, 0.0, 0.0), (0.12, 0.5, 1.0), (0.12, 1.12, 0.0, 1.0, 0.0, 2.0))  # ends on a face
@settings(max_examples=300, deadline=None)
def test_classify_agrees_with_points_along_the_segment(start, end, limits) -> None:  # type: ignore[no-untyped-def]
    depth = depth_inside(np.array(start), np.array(end), np.array(limits).reshape(3, 2))
    blocked = classify([end], start, [], [limits])[0] == 1
    if depth > 1e-12:  # a segment that only touches a face is inside it by rounding alone, here or there
        assert blocked
    elif depth < -0.02:  # nearer than that, the points may step over a grazed edge
        assert not blocked


@pytest.mark.parametrize(
    ("target", "expected"),
    [((10, 0, 0), 1), ((10, 5, 0), 0), ((0, 10, 0), 0), ((3, 0, 0), 0), ((5, 0, 0), 1)],
    ids=["through", "beside", "away", "before", "into"],
)
def test_classify_of_segments_along_an_axis(target: tuple[float, ...], expected: int) -> None:
    assert classify([target], (0, 0, 0), [], [(4, 6, -1, 1, -1, 1)])[0] == expected


def test_a_wall_outranks_a_vehicle() -> None:
    wall = StaticBox(name="wall", material="brick", box=(4, 5, -1, 1, -1, 1))
    conditions = classify([(10, 0, 0), (2.5, 0, 0), (-5, 0, 0)], (0, 0, 0), [wall], [(1, 2, -1, 1, -1, 1)])
    np.testing.assert_array_equal(conditions, [2, 1, 0])


def test_shipped_scenarios_are_listed() -> None:
    assert "canyon_small" in list_scenarios()


def test_unknown_scenario_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="canyon_small"):
        load_scenario("canyon_smal")


def part(name: str, **values: object) -> dict[str, object]:
    """A change of some keys of one part of the scenario."""
    return {name: CANYON.model_dump(mode="json")[name] | values}


def lanes(*y_m: float) -> list[dict[str, object]]:
    return [{"y_m": y, "direction": 1, "speed_m_s": 9} for y in y_m]


def brick(name: str, *box: float) -> dict[str, object]:
    return {"name": name, "material": "brick", "box": list(box)}


LORRY = {"name": "lorry", "share": 1, "length_m": 10, "width_m": 2.5, "parts": [[0, 1, 0.5, 3.8]]}


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"base_station_m": (33.0, 10.0, 6.0)}, "base_station_m", "base station is inside 'protruding_house'"),
        ({"base_station_m": (3.0, 10.0, 0.0)}, "base_station_m", "not above the ground"),
        ({"base_station_m": (3.0, 2.5, 3.0)}, "traffic.lanes[2].y_m: 1.9", "the base station stands in this lane"),
        (part("users", y_start_m=-30.0), "users", "inside a box, the first at [-89.0, -30.0, 1.0] in 'house_south_2'"),
        (
            part("users", y_start_m=-9.0, rows=1),
            "users",
            "user positions are inside a box, the first at [-69.8, -9.0, 1.0] in 'kiosk_0'",
        ),
        (part("users", y_start_m=-7.5, rows=2), "traffic.lanes[0].y_m: -5.6", "40 user positions are in this lane"),
        ({"scenes": 0}, "scenes", "0"),
        ({"speed": 3}, "speed", "speed"),
        (
            part("traffic", lanes=lanes(-8.5)),
            "traffic.lanes[0].y_m: -8.5",
            "'kiosk_0' and 4 more boxes stand in this lane",
        ),
        (part("traffic", lanes=lanes(0.0, 30.0)), "traffic.lanes[1].y_m: 30", "'house_north_"),
        (part("traffic", lanes=lanes(1.0, 0.0)), "traffic.lanes[1].y_m", "at y = 0 and 1 m overlap"),
        (part("traffic", lane_width_m=3.75), "traffic.lanes[1].y_m", "at least lane_width_m = 3.75 m"),
        (part("traffic", lane_width_m=2.9), "traffic.lateral_m: 0.25", "needs 3 m, and the lanes are 2.9 m wide"),
        (part("traffic", lateral_m=0.6), "traffic.lateral_m: 0.6", "needs 3.7 m"),
        (part("traffic", x_range_m=[0, 11.5]), "traffic.x_range_m", "is 11.5 m long, and a 'bus' is 12 m long"),
        (part("traffic", kinds=[LORRY, LORRY]), "traffic.kinds[1].name: 'lorry'", "two kinds have this name"),
        ({"boxes": [brick("a", 1, 0, 0, 1, 0, 1)]}, "boxes[0].box", "x0 < x1"),
        ({"carrier_hz": 5e10}, "carrier_hz", "brick is not known at 50 GHz"),
        ({"boxes": [brick("a", 0, 1, 9, 10, 0, 1)] * 2}, "boxes[1].name: 'a'", "two boxes have this name"),
        ({"boxes": [brick("house_north_0", 0, 1, 9, 10, 0, 1)]}, "boxes[0].name", "two boxes have this name"),
        ({"boxes": [brick("study_ground", 0, 1, 9, 10, 0, 1)]}, "boxes[0].name", "the tracer gives such names"),
    ],
)
def test_impossible_scenarios_are_refused(change: dict[str, object], key: str, words: str, tmp_path: Path) -> None:
    values = CANYON.model_dump(mode="json") | change
    file = tmp_path / "scenario.yaml"
    file.write_text(json.dumps(values))  # JSON is YAML
    with pytest.raises(SpecError) as caught:
        load_scenario(file)
    assert f"scenario.yaml:1  {key}" in str(caught.value)
    assert words in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    change = {"base_station_m": (33.0, 10.0, 6.0), **part("traffic", lanes=lanes(-8.5))}
    file = tmp_path / "scenario.yaml"
    file.write_text(json.dumps(CANYON.model_dump(mode="json") | change))
    with pytest.raises(SpecError) as caught:
        load_scenario(file)
    assert [problem.key_path for problem in caught.value.problems] == ["base_station_m", "traffic.lanes[0].y_m"]


def test_a_bridge_may_cross_the_lanes() -> None:
    height = CANYON.traffic.clearance_m
    assert height == 3.8
    over = [{"name": "bridge", "material": "concrete", "box": (0, 4, -8, 8, height, height + 1)}]
    assert changed(boxes=over).boxes[0].name == "bridge"


def key_paths(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key path of a model with its field; `[]` stands for each entry of a list of models."""
    for name, field in model.model_fields.items():
        path, kind = prefix + name, field.annotation
        entry = get_args(kind)[0] if get_args(kind) else None
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from key_paths(kind, f"{path}.")
            continue
        yield path, field
        if isinstance(entry, type) and issubclass(entry, BaseModel):
            yield from key_paths(entry, f"{path}[].")


def test_every_key_and_its_default_is_in_the_documentation() -> None:
    lines = [line for line in DOCUMENTATION.partition("## Every key")[2].splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(row) for row in rows} == {6}
    told = {row[0].strip("`"): row[2] for row in rows}
    fields = dict(key_paths(Scenario))
    assert {"name", "boxes[].box", "traffic.kinds[].parts", "solver.seed"} <= set(fields)
    assert set(told) == set(fields)
    words = {"": "empty", (): "none", True: "true"}
    for path, field in fields.items():
        assert told[path] == ("–" if field.is_required() else words.get(field.default, str(field.default))), path


def test_the_documentations_example_is_a_street_with_every_condition() -> None:
    (example,) = re.findall(r"```yaml\n(# my_street\.yaml\n.*?)```", DOCUMENTATION, re.DOTALL)
    scenario = parse_yaml(example, Scenario, "scenario")
    positions, boxes, traffic = user_positions(scenario), static_boxes(scenario), Traffic(scenario)
    assert positions.shape == (40, 3)
    assert [box.name.startswith("house_") for box in boxes] == [True] * 18 + [False]
    conditions = np.stack(
        [
            classify(positions, scenario.base_station_m, boxes, traffic.boxes(time_s).box)
            for time_s in scenario.scene_times_s()
        ]
    )
    assert conditions.shape == (12, 40)
    # The shares that the page tells.
    np.testing.assert_array_equal(np.round(100 * np.bincount(conditions.ravel()) / conditions.size), [51, 36, 12])
    assert (conditions == 2).sum(1).tolist() == [5] * 12
