"""Small sites for tests, made without a ray tracer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from study.data.path_table import PathTable
from study.data.scenario import VehicleBoxes
from study.data.site import Site, SiteWriter

BASE_STATION = (3.0, 10.0, 6.0)


def random_table(scenes: int = 3, positions: int = 4, width: int = 5, seed: int = 0) -> PathTable:
    """Random paths in lists of different lengths; some rows may have none."""
    rng = np.random.default_rng(seed)
    paths = rng.integers(0, width + 1, (scenes, positions)).astype(np.int16)
    paths[0, 0] = width
    valid = np.arange(width) < paths[..., None]
    shape = (scenes, positions, width)
    gain = 1e-4 * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    gain = np.take_along_axis(gain, np.argsort(-np.abs(gain), -1), -1)
    return PathTable(
        gain=np.where(valid, gain, 0).astype(np.complex64),
        delay_s=np.where(valid, rng.uniform(1e-8, 2e-6, shape), 0).astype(np.float32),
        zenith_rad=np.where(valid, rng.uniform(0, np.pi, shape), 0).astype(np.float32),
        azimuth_rad=np.where(valid, rng.uniform(-np.pi, np.pi, shape), 0).astype(np.float32),
        interaction=np.where(valid, rng.integers(1, 4, shape), 0).astype(np.int8),
        paths=paths,
        condition=rng.integers(0, 3, (scenes, positions)).astype(np.int8),
        paths_found=(paths + 2).astype(np.int16),
        dropped_power=rng.uniform(0, 0.1, (scenes, positions)).astype(np.float32),
        scene=np.arange(scenes, dtype=np.int32),
        time_s=2.0 * np.arange(scenes, dtype=np.float64),
        position_m=rng.uniform(-50, 50, (positions, 3)).astype(np.float32),
    )


def write_site(
    folder: Path, table: PathTable, *, vehicles: bool = False, boxes: list[dict[str, Any]] | None = None, **facts: Any
) -> Site:
    """A table as a site; with vehicles, one drives along x, three metres a scene."""
    told = {"name": folder.name, "carrier_hz": 3.5e9, "base_station_m": BASE_STATION} | facts
    with SiteWriter(folder, position_m=table.position_m, max_paths=table.gain.shape[-1], **told) as writer:
        for index, time_s in enumerate(table.time_s.tolist()):
            x = 3.0 * index
            box = np.array([[x, x + 4.5, -2.0, 0.0, 0.0, 1.5]])
            car = VehicleBoxes(vehicle=np.array([7], np.int32), kind=("sedan",), box=box)
            writer.add(table.one(index), time_s, car if vehicles else None)
        return writer.finish(condition_source="made up", static_boxes=boxes or (), solver={"settings": [1, 2]})
