"""The path table: what a site holds, as arrays, with its laws and its identity; docs/path-table.md is the contract.

Shapes: S scenes, L positions, P paths kept per row, B boxes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from study.errors import DataError

__all__ = [
    "CONDITIONS",
    "CONTRACT",
    "DIFFRACTION",
    "DNLOS",
    "FORMAT",
    "INTERACTIONS",
    "LINE_OF_SIGHT",
    "LOS",
    "REFLECTION",
    "SCATTERING",
    "SNLOS",
    "UNKNOWN",
    "KeptPaths",
    "PathTable",
    "ScenePaths",
    "VehicleTable",
    "keep_strongest",
    "scene_hash",
    "site_hash",
]

FORMAT = "study-site/2"
CONTRACT = "docs/path-table.md describes the format"
CONDITIONS = ("LOS", "DNLOS", "SNLOS")
LOS, DNLOS, SNLOS = range(3)
# What happened to a path on its way; 0 is padding.
LINE_OF_SIGHT, REFLECTION, DIFFRACTION, SCATTERING, UNKNOWN = range(1, 6)
INTERACTIONS = ("line of sight", "reflection only", "with diffraction", "with scattering or transmission", "unknown")


@dataclass(frozen=True)
class ScenePaths:
    """All paths of one scene, padded with zeros to the same number in every row.

    Args:
        gain: complex path gains α_p with the carrier's phase, strongest first, complex64 [L, P].
        delay_s: path delays, float32 [L, P].
        zenith_rad: departure angles from +z, float32 [L, P].
        azimuth_rad: departure angles from +x in the x-y plane, float32 [L, P].
        interaction: number in `INTERACTIONS` from 1 on, 0 padding, int8 [L, P].
        paths: number of paths that are not padding, int16 [L].
        condition: index into `CONDITIONS`, int8 [L].
        paths_found: paths before the table kept the strongest, int16 [L].
        dropped_power: share of power in the paths that were not kept, float32 [L].
    """

    gain: NDArray[np.complex64]
    delay_s: NDArray[np.float32]
    zenith_rad: NDArray[np.float32]
    azimuth_rad: NDArray[np.float32]
    interaction: NDArray[np.int8]
    paths: NDArray[np.int16]
    condition: NDArray[np.int8]
    paths_found: NDArray[np.int16]
    dropped_power: NDArray[np.float32]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Which entries are paths and not padding, [L, P]."""
        result: NDArray[np.bool_] = np.arange(self.gain.shape[-1]) < self.paths[..., None]
        return result

    def check(self, positions: int, max_paths: int) -> None:
        """Whether the scene obeys the laws of the path table.

        Raises:
            DataError: it does not; the message lists how.
        """
        problems = []
        for name, kind in ROW_TYPES.items():
            values = getattr(self, name)
            shape = (positions, max_paths) if name in PER_PATH else (positions,)
            if values.shape != shape:
                problems.append(f"{name} has the shape {values.shape} instead of {shape}")
            elif values.dtype != kind:
                problems.append(f"{name} is {values.dtype} instead of {np.dtype(kind)}")
            elif not np.isfinite(values).all():
                problems.append(f"{name} has values that are not finite")
        if not problems:
            for name, (low, high) in RANGES.items():
                values = getattr(self, name)
                if name == "interaction":  # 0 is padding here
                    low = 0
                if (values < low).any() or (values > high).any():
                    problems.append(f"{name} has values outside {low:g} … {high:g}")
            if (self.paths < 0).any() or (self.paths > max_paths).any():
                problems.append(f"paths must be 0 … {max_paths}")
            power = np.abs(self.gain.astype(np.complex128)) ** 2
            # Readers take the first paths as the strongest; the tolerance is for rounded values.
            if (power[:, 1:] > power[:, :-1] * 1.001).any():
                problems.append("the paths of a row must stand strongest first")
            beyond = ~self.valid
            if any(getattr(self, name)[beyond].any() for name in PER_PATH):
                problems.append("entries beyond the number of paths must be 0")
            if (self.interaction[self.valid] == 0).any():
                problems.append("a path has no interaction number")
        if problems:
            raise DataError(f"the path table is inconsistent: {'; '.join(problems)}", allowed=CONTRACT)


ROW_TYPES: dict[str, type] = {
    "gain": np.complex64,
    "delay_s": np.float32,
    "zenith_rad": np.float32,
    "azimuth_rad": np.float32,
    "interaction": np.int8,
    "paths": np.int16,
    "condition": np.int8,
    "paths_found": np.int16,
    "dropped_power": np.float32,
}
PER_PATH = ("gain", "delay_s", "zenith_rad", "azimuth_rad", "interaction")

# π with room for float32 and for values rounded in storage.
_PI = 3.1417
RANGES: dict[str, tuple[float, float]] = {
    "condition": (0, len(CONDITIONS) - 1),
    "interaction": (1, len(INTERACTIONS)),
    "paths_found": (0, int(np.iinfo(np.int16).max)),
    "dropped_power": (0.0, 1.0),
    "delay_s": (0.0, float("inf")),
    "zenith_rad": (0.0, _PI),
    "azimuth_rad": (-_PI, _PI),
}


@dataclass(frozen=True)
class PathTable(ScenePaths):
    """Scenes of one site: the arrays of `ScenePaths` with a leading axis for the scene.

    Args:
        scene: scene numbers, rising, int32 [S].
        time_s: time of each scene, float64 [S].
        position_m: user positions, the same in every scene, float32 [L, 3].
    """

    scene: NDArray[np.int32]
    time_s: NDArray[np.float64]
    position_m: NDArray[np.float32]

    def one(self, index: int) -> ScenePaths:
        """The scene at an index of the scene axis (not the scene of that number)."""
        return ScenePaths(**{name: getattr(self, name)[index] for name in ROW_TYPES})


class KeptPaths(NamedTuple):
    """What `keep_strongest` keeps.

    Args:
        gain: complex64 [L, P].
        columns: the other columns in their order, [L, P] each.
        paths: int16 [L].
        paths_found: int16 [L].
        dropped_power: share of the power that was not kept, float32 [L].
    """

    gain: NDArray[np.complex64]
    columns: list[NDArray[Any]]
    paths: NDArray[np.int16]
    paths_found: NDArray[np.int16]
    dropped_power: NDArray[np.float32]


def keep_strongest(
    gain: NDArray[np.complex64],
    valid: NDArray[np.bool_],
    columns: Sequence[tuple[NDArray[Any], type]],
    max_paths: int,
    weakest_db: float = math.inf,
) -> KeptPaths:
    """Keep each row's strongest paths, strongest first, the rest zero; equal powers stay in the order they have.

    Args:
        gain: path gains [L, Q].
        valid: which entries are paths [L, Q].
        columns: other values of the paths [L, Q], each with the type it gets.
        max_paths: P.
        weakest_db: paths this far below the row's strongest are dropped.
    """
    width = gain.shape[1]
    if width < max_paths:  # padded first, so that a scene without any path needs no special case
        room = ((0, 0), (0, max_paths - width))
        gain, valid = np.pad(gain, room), np.pad(valid, room)
        columns = [(np.pad(values, room), kind) for values, kind in columns]
    power = np.where(valid, np.abs(gain.astype(np.complex128)) ** 2, 0.0)
    order = np.argsort(-power, axis=1, kind="stable")[:, :max_paths]
    ranked = np.take_along_axis(power, order, 1)
    keep = (ranked > 0) & (ranked >= ranked[:, :1] * 10 ** (-weakest_db / 10))
    total = power.sum(1)
    dropped = 1 - np.where(keep, ranked, 0).sum(1) / np.where(total > 0, total, 1)

    def pick(values: NDArray[Any], kind: type) -> NDArray[Any]:
        return np.where(keep, np.take_along_axis(values, order, 1), 0).astype(kind)

    return KeptPaths(
        pick(gain, np.complex64),
        [pick(values, kind) for values, kind in columns],
        keep.sum(1).astype(np.int16),
        valid.sum(1).astype(np.int16),
        np.where(total > 0, np.clip(dropped, 0, 1), 0).astype(np.float32),
    )


@dataclass(frozen=True)
class VehicleTable:
    """Boxes of the vehicles in every scene.

    Args:
        scene: int32 [B].
        vehicle: number of the vehicle, the same in every scene, int32 [B].
        kind: name of its kind, [B].
        box: x0, x1, y0, y1, z0, z1 in metres, float32 [B, 6].
    """

    scene: NDArray[np.int32]
    vehicle: NDArray[np.int32]
    kind: tuple[str, ...]
    box: NDArray[np.float32]


def scene_hash(scene: ScenePaths, time_s: float) -> str:
    """SHA-256 over one scene's values; it does not depend on files or on the libraries' versions."""
    digest = hashlib.sha256(json.dumps({"time_s": float(time_s)}).encode())
    for name, kind in ROW_TYPES.items():
        values = np.ascontiguousarray(getattr(scene, name), np.dtype(kind).newbyteorder("<"))
        digest.update(f"|{name}|{list(values.shape)}|".encode())
        digest.update(values.data if values.size else b"")
    return digest.hexdigest()


def site_hash(
    scene_hashes: Sequence[str],
    position_m: NDArray[np.float32],
    carrier_hz: float,
    base_station_m: Sequence[float],
) -> str:
    """The identity of a site's data: over the scenes' hashes, the positions, the carrier and the base station."""
    head: dict[str, Any] = {
        "format": FORMAT,
        "carrier_hz": float(carrier_hz),
        "base_station_m": [float(value) for value in base_station_m],
        "positions": hashlib.sha256(np.ascontiguousarray(position_m, "<f4").tobytes()).hexdigest(),
        "scenes": list(scene_hashes),
    }
    return hashlib.sha256(json.dumps(head, sort_keys=True).encode()).hexdigest()
