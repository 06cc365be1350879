"""Physics of the site that ships: what the stored paths must be, whatever made them."""

from __future__ import annotations

import numpy as np
import pytest

from study.data.scenario import Traffic, classify, load_scenario, scenario_file, static_boxes, user_positions
from study.data.site import PathTable, Site, open_site

SPEED_OF_LIGHT = 299_792_458.0


@pytest.fixture(scope="module")
def site() -> Site:
    return open_site("canyon_small")


@pytest.fixture(scope="module")
def table(site: Site) -> PathTable:
    return site.read_paths()


class Straight:
    """The lines of sight: stored values and what the geometry says, one entry per row with such a path."""

    def __init__(self, site: Site, table: PathTable) -> None:
        self.is_straight = table.interaction == 1
        scene, position, path = np.nonzero(self.is_straight)
        line = table.position_m[position].astype(float) - np.array(site.base_station_m)
        self.gain = table.gain[scene, position, path]
        self.delay_s = table.delay_s[scene, position, path]
        self.zenith_rad = table.zenith_rad[scene, position, path]
        self.azimuth_rad = table.azimuth_rad[scene, position, path]
        self.distance_m = np.linalg.norm(line, axis=1)
        self.geometric_zenith_rad = np.arccos(line[:, 2] / self.distance_m)
        self.geometric_azimuth_rad = np.arctan2(line[:, 1], line[:, 0])


@pytest.fixture(scope="module")
def straight(site: Site, table: PathTable) -> Straight:
    return Straight(site, table)


def test_line_of_sight_exists_exactly_where_the_condition_says(table: PathTable, straight: Straight) -> None:
    np.testing.assert_array_equal(straight.is_straight.any(-1), table.condition == 0)
    assert straight.is_straight.sum(-1).max() == 1


def test_line_of_sight_gain_is_friis(site: Site, straight: Straight) -> None:
    # Isotropic antennas, both vertically polarized: their fields are parallel along the straight line.
    wavelength = SPEED_OF_LIGHT / site.carrier_hz
    expected = wavelength / (4 * np.pi * straight.distance_m)
    np.testing.assert_allclose(np.abs(straight.gain), expected, rtol=1e-4)


def test_line_of_sight_phase_is_the_carriers(site: Site, straight: Straight) -> None:
    turn = np.exp(-2j * np.pi * straight.distance_m * site.carrier_hz / SPEED_OF_LIGHT)
    # The solver computes delays in float32: up to 0.15 mm, or 0.01 rad, over this street.
    assert np.abs(np.angle(straight.gain / turn)).max() < 0.01


def test_line_of_sight_delay_and_angles_are_geometry(straight: Straight) -> None:
    np.testing.assert_allclose(straight.delay_s * SPEED_OF_LIGHT, straight.distance_m, atol=1e-3)
    np.testing.assert_allclose(straight.zenith_rad, straight.geometric_zenith_rad, atol=1e-4)
    np.testing.assert_allclose(straight.azimuth_rad, straight.geometric_azimuth_rad, atol=1e-4)


def test_no_path_is_shorter_than_the_straight_line(site: Site, table: PathTable) -> None:
    distance = np.linalg.norm(table.position_m - np.array(site.base_station_m), axis=1)
    length = table.delay_s * SPEED_OF_LIGHT
    assert (length - distance[None, :, None])[table.valid].min() > -1e-3


def test_no_path_is_stronger_than_free_space_over_its_length(site: Site, table: PathTable) -> None:
    # A reflection or diffraction never amplifies; 5 % for diffraction coefficients near a shadow's edge.
    length = table.delay_s[table.valid] * SPEED_OF_LIGHT
    limit = SPEED_OF_LIGHT / site.carrier_hz / (4 * np.pi * length)
    assert (np.abs(table.gain[table.valid]) / limit).max() < 1.05


def test_paths_stand_strongest_first(table: PathTable) -> None:
    power = np.abs(table.gain.astype(np.complex128)) ** 2
    assert (np.diff(power, axis=-1) <= 0).all()
    assert ((power > 0) == table.valid).all()


def test_padding_is_zero(table: PathTable) -> None:
    for name in ("gain", "delay_s", "zenith_rad", "azimuth_rad", "interaction"):
        assert not getattr(table, name)[~table.valid].any(), name


def test_blocked_users_receive_less(table: PathTable) -> None:
    power = (np.abs(table.gain) ** 2).sum(-1)
    median = [np.median(power[table.condition == index]) for index in range(3)]
    assert median[0] > 2 * median[1]
    assert median[0] > 2 * median[2]


def test_what_stands_keeps_its_shadow_and_traffic_does_not(table: PathTable) -> None:
    by_wall = table.condition == 2
    assert (by_wall == by_wall[0]).all()
    by_vehicle = (table.condition == 1).mean(0)
    assert ((by_vehicle > 0) & (by_vehicle < 1)).mean() > 0.4


def test_the_stored_scenario_is_the_shipped_one(site: Site, table: PathTable) -> None:
    scenario = load_scenario(scenario_file(site.folder / "scenario.yaml"))
    assert scenario == load_scenario("canyon_small")
    np.testing.assert_array_equal(table.position_m, user_positions(scenario).astype(np.float32))
    np.testing.assert_array_equal(table.time_s, scenario.scene_times_s())


def test_conditions_and_vehicles_follow_from_the_scenario(site: Site, table: PathTable) -> None:
    scenario = load_scenario("canyon_small")
    traffic, walls = Traffic(scenario), static_boxes(scenario)
    vehicles = site.read_vehicles()
    for scene in (0, 59, 119):
        boxes = traffic.boxes(float(table.time_s[scene]))
        np.testing.assert_allclose(vehicles.box[vehicles.scene == scene], boxes.box, atol=1e-4)
        conditions = classify(user_positions(scenario), scenario.base_station_m, walls, boxes.box)
        np.testing.assert_array_equal(table.condition[scene], conditions)
