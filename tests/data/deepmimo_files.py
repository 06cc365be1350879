"""Writes small DeepMIMO scenarios in the layouts of v2 and v4, from the same made-up paths.

Shapes: N users, Q path slots.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

SPEED_OF_LIGHT = 299_792_458.0
NAMES = ("power", "phase", "delay", "aod_el", "aod_az")


@dataclass
class Rays:
    """Paths of one scene; empty slots are NaN, [N, Q] each. Codes are those of v4: a digit for each bounce."""

    power: NDArray[np.float64]  # dB relative to the transmitted power
    phase: NDArray[np.float64]  # degrees
    delay: NDArray[np.float64]  # s
    aod_el: NDArray[np.float64]  # degrees from +z
    aod_az: NDArray[np.float64]  # degrees
    inter: NDArray[np.float64]

    @property
    def valid(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.inter)

    @property
    def line_of_sight(self) -> NDArray[np.bool_]:
        return (self.inter == 0).any(1)


@dataclass
class Scenario:
    """A grid of users in two or more rows, one base station, and scenes."""

    scenes: list[Rays]
    position_m: NDArray[np.float64]  # [N, 3], a row after the other
    shape: tuple[int, int]  # users per row, rows
    base_station_m: NDArray[np.float64] = field(default_factory=lambda: np.array([3.0, 10.0, 6.0]))
    carrier_hz: float = 3.5e9


def made_up(scenes: int = 3, shape: tuple[int, int] = (4, 3), paths: int = 6, seed: int = 0) -> Scenario:
    """Line of sight as geometry and Friis have it, and random other paths that are later and weaker.

    User 0 sees the base station in every scene, the last user in none; user 1 sees it in the first scene only; user 2
    has no path in the last scene, and the last but one has none in any scene.
    """
    rng = np.random.default_rng(seed)
    along, across = np.meshgrid(np.arange(shape[0]) * 0.8 + 20, np.arange(shape[1]) * 0.8 + 3)
    position = np.stack([along.ravel(), across.ravel(), np.ones(along.size)], 1)
    scenario = Scenario([], position, shape)
    offset = position - scenario.base_station_m
    distance = np.linalg.norm(offset, axis=1)
    users = len(position)
    for scene in range(scenes):
        size = (users, paths)
        # Up to and beyond the 640 ns that 64 subcarriers over 100 MHz can tell apart.
        delay = distance[:, None] / SPEED_OF_LIGHT + np.sort(rng.uniform(1e-8, 8e-7, size), 1)
        power = -90 - 30 * np.sort(rng.random(size), 1)
        zenith, azimuth = rng.uniform(0, 180, size), rng.uniform(-180, 180, size)
        inter = rng.choice([1, 11, 21, 12, 3, 14], size).astype(np.float64)
        sees = rng.random(users) < 0.6
        sees[[0, 1]] = True, scene == 0
        sees[-2:] = False
        power[sees, 0] = 20 * np.log10(SPEED_OF_LIGHT / scenario.carrier_hz / (4 * np.pi * distance[sees]))
        delay[sees, 0] = distance[sees] / SPEED_OF_LIGHT
        zenith[sees, 0] = np.rad2deg(np.arccos(offset[sees, 2] / distance[sees]))
        azimuth[sees, 0] = np.rad2deg(np.arctan2(offset[sees, 1], offset[sees, 0]))
        inter[sees, 0] = 0
        counts = rng.integers(1, paths + 1, users)
        counts[-2] = 0
        counts[0] = paths
        if scene == scenes - 1:
            counts[2] = 0
        empty = np.arange(paths) >= counts[:, None]
        rays = Rays(power, rng.uniform(-180, 180, size), delay, zenith, azimuth, inter)
        for values in vars(rays).values():
            values[empty] = np.nan
        scenario.scenes.append(rays)
    return scenario


def rays_vector(columns: Sequence[NDArray[np.float64]], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The long vector of a v2 ray file: users, then number, n, n × (path, three values)."""
    vector: list[float] = [float(len(valid))]
    for user, row in enumerate(valid):
        vector += [user + 1, row.sum()]
        for path, slot in enumerate(np.flatnonzero(row)):
            vector += [path + 1, *(values[user, slot] for values in columns)]
    return np.array([vector])


def write_v2(
    folder: Path,
    scenario: Scenario,
    *,
    numbers: Sequence[int] | None = None,
    name: str = "O2_dyn_3p5",
    station: int = 1,
    transmit_power_dbm: float = 12.5,
    user_grids: Sequence[Sequence[float]] | None = None,
    compress: bool = True,
) -> Path:
    """Write a scenario as v2 has it; the base station's other neighbours are made up.

    Args:
        folder: the scenario's folder.
        scenario: what to write.
        numbers: of the scenes' folders; 1, 2, … by default.
        name: prefix of the files.
        station: number of the base station in names and in TX_Loc.
        transmit_power_dbm: received powers are written relative to 1 mW.
        user_grids: for params; one grid of rows by default.
        compress: as MATLAB does.
    """
    users = len(scenario.position_m)
    grids = user_grids or [[1, scenario.shape[1], scenario.shape[0]]]
    for number, rays in zip(numbers or range(1, len(scenario.scenes) + 1), scenario.scenes, strict=True):
        place = folder / f"scene_{number}"
        place.mkdir(parents=True, exist_ok=True)

        def save(file: str, values: dict[str, Any], place: Path = place) -> None:
            scipy.io.savemat(place / f"{name}.{file}.mat", values, do_compression=compress)

        received = rays.power + transmit_power_dbm
        angles = rays_vector([rays.aod_az, rays.aod_el, received], rays.valid)
        tags = np.where(rays.line_of_sight, 1.0, np.where(rays.valid.any(1), 0.0, -1.0))
        distance = np.linalg.norm(scenario.position_m - scenario.base_station_m, axis=1)
        stations = np.zeros((max(2, station), 7))
        stations[:, 0] = 1
        stations[:, 1:4] = 500.0 + np.arange(len(stations))[:, None]
        stations[station - 1, 1:4] = scenario.base_station_m
        save(f"{station}.DoD", {"DoD_array_full": angles})
        save(f"{station}.DoA", {"DoA_array_full": angles})
        save(
            f"{station}.CIR",
            {"CIR_array_full": rays_vector([rays.phase, rays.delay, received], rays.valid)},
        )
        save(f"{station}.LoS", {"LOS_tag_array_full": np.array([[users, *tags]])})
        save(f"{station}.PL", {"PL_array_full": np.stack([distance, np.full(users, 100.0)], 1)})
        row = np.arange(1, users + 1)[:, None]
        save("Loc", {"Loc_array_full": np.hstack([row, scenario.position_m, distance[:, None], np.ones((users, 2))])})
        save("TX_Loc", {"TX_Loc_array_full": stations})
        save(
            "params",
            {
                "carrier_freq": scenario.carrier_hz,
                "transmit_power": transmit_power_dbm,
                "num_BS": len(stations),
                "user_grids": np.array(grids, np.float64),
            },
        )
    return folder


def write_v4(
    folder: Path,
    scenario: Scenario,
    *,
    numbers: Sequence[int] | None = None,
    kind: str = "npz",
    params_in_scenes: bool = False,
    receiver_sets: int = 1,
) -> Path:
    """Write a scenario as v4 has it: transmitter set 0 with one base station, receiver sets 1, 2, …

    Args:
        folder: the scenario's folder.
        scenario: what to write.
        numbers: of the scenes' folders; 1, 2, … by default.
        kind: npz, mat or npy.
        params_in_scenes: put params.json into each scene's folder instead of beside them.
        receiver_sets: into how many sets the users are cut.
    """
    cuts = np.array_split(np.arange(len(scenario.position_m)), receiver_sets)
    content = {
        "version": "4.0.5",
        "rt_params": {"frequency": scenario.carrier_hz, "raytracer_name": "Remcom Wireless Insite"},
        "txrx_sets": {
            "txrx_set_0": {"name": "BS1", "id": 0, "is_tx": True, "is_rx": True, "num_points": 1},
            **{
                f"txrx_set_{number}": {
                    "name": f"users_{number}",
                    "id": number,
                    "is_tx": False,
                    "is_rx": True,
                    "num_points": len(cut),
                }
                for number, cut in enumerate(cuts, start=1)
            },
        },
        "materials": {},
        "scene": {"num_scenes": len(scenario.scenes)},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for number, rays in zip(numbers or range(1, len(scenario.scenes) + 1), scenario.scenes, strict=True):
        place = folder / f"scene_{number}"
        place.mkdir(exist_ok=True)
        for receivers, cut in enumerate(cuts, start=1):
            arrays = {name: getattr(rays, name)[cut] for name in (*NAMES, "inter")}
            # The package knows a path by its angle of arrival.
            arrays |= {"aoa_az": arrays["aod_az"], "aoa_el": arrays["aod_el"]}
            arrays |= {"rx_pos": scenario.position_m[cut], "tx_pos": scenario.base_station_m[None]}
            for name, values in arrays.items():
                save_array(place / f"{name}_t000_tx000_r{receivers:03d}.{kind}", name, values.astype(np.float32))
        if params_in_scenes:
            (place / "params.json").write_text(json.dumps(content), encoding="utf-8")
    if not params_in_scenes:
        (folder / "params.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def save_array(file: Path, name: str, values: NDArray[Any]) -> None:
    """One array as .npz, .mat or .npy, by the file's suffix."""
    if file.suffix == ".npz":
        np.savez_compressed(file, **{name: values})
    elif file.suffix == ".mat":
        scipy.io.savemat(file, {name: values})
    else:
        np.save(file, values)
