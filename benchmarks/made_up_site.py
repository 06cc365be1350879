"""A made-up site of any size: paths at random, written as a traced site is. For the benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from study.data.path_table import ScenePaths
from study.data.site import Site, SiteWriter

CARRIER_HZ = 3.5e9
BASE_STATION_M = (3.0, 10.0, 6.0)


def write_site(folder: Path, positions: int, scenes: int, paths: int = 25) -> Site:
    """Scenes with up to so many paths at each position, rounded as traced ones are."""
    random = np.random.default_rng(0)
    place = random.uniform((-120, -15, 1.5), (120, 15, 1.5), (positions, 3)).astype(np.float32)
    told = {"name": folder.name, "carrier_hz": CARRIER_HZ, "base_station_m": BASE_STATION_M}
    with SiteWriter(folder, position_m=place, max_paths=paths, **told) as writer:
        for number in range(scenes):
            writer.add(scene_of(random, positions, paths), 2.0 * number)
        return writer.finish(condition_source="made up")


def scene_of(random: np.random.Generator, positions: int, most: int) -> ScenePaths:
    shape = (positions, most)
    paths = random.integers(1, most + 1, positions).astype(np.int16)
    valid = np.arange(most) < paths[:, None]
    gain = 1e-5 * np.exp(-np.arange(most) / 5) * np.exp(2j * np.pi * random.integers(0, 4096, shape) / 4096)

    def rounded(low: float, high: float) -> np.ndarray:
        steps = random.integers(0, 4096, shape).astype(np.float32) / 4096
        return np.where(valid, low + (high - low) * steps, 0).astype(np.float32)

    return ScenePaths(
        gain=np.where(valid, gain, 0).astype(np.complex64),
        delay_s=rounded(1e-8, 1e-6),
        zenith_rad=rounded(1.4, 1.8),
        azimuth_rad=rounded(-1.5, 1.5),
        interaction=np.where(valid, random.integers(1, 4, shape), 0).astype(np.int8),
        paths=paths,
        condition=random.integers(0, 3, positions).astype(np.int8),
        paths_found=paths,
        dropped_power=np.zeros(positions, np.float32),
    )
