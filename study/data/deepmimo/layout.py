"""What the layouts have in common: the facts of a scene, its paths in the files' units, and checks of both.

Shapes: N users in the files, L users that are imported, Q path slots per user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from study.data.deepmimo.files import AGAIN, Scene, counted
from study.errors import DataError

__all__ = [
    "GridShape",
    "Layout",
    "RawPaths",
    "SceneFacts",
]

_FARTHEST_M = 1e9


@dataclass(frozen=True)
class GridShape:
    """Users that stand together in the files' order.

    Args:
        users: how many.
        rows, per_row: its shape where the files name it.
        by_column: the users of a column stand together, not those of a row.
    """

    users: int
    rows: int | None = None
    per_row: int | None = None
    by_column: bool = False


@dataclass(frozen=True)
class SceneFacts:
    """What one scene says besides its paths.

    Args:
        carrier_hz: carrier frequency.
        base_station_m: [x, y, z].
        position_m: users, float64 [N, 3].
        grids: the users' grids in order; their users sum to N.
        line_of_sight: whether a user has a line of sight, bool [N].
        notes: what the site's metadata should keep.
    """

    carrier_hz: float
    base_station_m: NDArray[np.float64]
    position_m: NDArray[np.float64]
    grids: tuple[GridShape, ...]
    line_of_sight: NDArray[np.bool_]
    notes: dict[str, Any]

    def check(self, scene: Scene) -> None:
        """Whether carrier and positions are usable.

        Raises:
            DataError: they are not.
        """
        problems = []
        if not 1e6 <= self.carrier_hz <= 1e13:  # not a number neither
            problems.append(f"the carrier frequency is {self.carrier_hz:g} Hz")
        # The negation refuses NaN too.
        if not (np.abs(self.base_station_m) < _FARTHEST_M).all():
            problems.append("the position of the base station is not finite")
        bad = ~(np.abs(self.position_m) < _FARTHEST_M).all(1)
        if bad.any():
            number = counted(int(bad.sum()), "user position")
            problems.append(f"{number} not finite, the first of user {int(bad.argmax())}")
        if problems:
            raise DataError("; ".join(problems), where=scene.place(), allowed="finite numbers", fix=AGAIN)


@dataclass(frozen=True)
class RawPaths:
    """Paths of the imported users in the units of the files; empty slots hold anything.

    Args:
        valid: which slots hold a path, bool [L, Q].
        power_db: received power relative to the transmitted, [L, Q].
        phase_deg: phase with the carrier's phase of the delay, [L, Q].
        delay_s: [L, Q].
        zenith_deg: departure angle from +z, [L, Q].
        azimuth_deg: departure angle from +x in the x-y plane, [L, Q].
        interaction: number of the path table, int8 [L, Q].
        users: number of each user in the files, counted from 0, [L].
        line_of_sight: whether a user has a line of sight, bool [L].
    """

    valid: NDArray[np.bool_]
    power_db: NDArray[np.float64]
    phase_deg: NDArray[np.float64]
    delay_s: NDArray[np.float64]
    zenith_deg: NDArray[np.float64]
    azimuth_deg: NDArray[np.float64]
    interaction: NDArray[np.int8]
    users: NDArray[np.int64]
    line_of_sight: NDArray[np.bool_]

    def check(self, scene: Scene, files: Sequence[str]) -> None:
        """Whether every path's values are usable; empty slots may hold anything.

        Args:
            scene: for the message.
            files: names of the files the values are from, in the order power, phase, delay, zenith, azimuth.

        Raises:
            DataError: a value is not.
        """
        # In float32 a gain beyond these powers is infinite; real ones are far below 0 dB.
        laws = [
            ("power", self.power_db, -np.inf, 20.0, "finite numbers in dB, relative to the transmitted power"),
            ("phase", self.phase_deg, -np.inf, np.inf, "finite numbers in degrees"),
            ("delay", self.delay_s, 0.0, 1.0, "seconds, 0 … 1"),
            ("zenith angle of departure", self.zenith_deg, -0.01, 180.01, "0 … 180 degrees, from the +z axis"),
            ("azimuth of departure", self.azimuth_deg, -np.inf, np.inf, "finite numbers in degrees"),
        ]
        for (name, values, low, high, allowed), file in zip(laws, files, strict=True):
            bad = self.valid & ~(np.isfinite(values) & (values >= low) & (values <= high))
            if bad.any():
                row, slot = (int(index) for index in np.argwhere(bad)[0])
                raise DataError(
                    f"the {name} of {counted(int(bad.sum()), 'path')} cannot be used; the first is "
                    f"{values[row, slot]:g} of user {int(self.users[row])}, path {slot}",
                    where=scene.place(file),
                    allowed=allowed,
                    fix=AGAIN,
                )


class Layout(Protocol):
    """How one version of DeepMIMO keeps a scenario on disk."""

    title: str

    def facts(self, scene: Scene) -> SceneFacts:
        """Everything but the paths of one scene, checked."""

    def paths(self, scene: Scene, users: NDArray[np.int64]) -> RawPaths:
        """Paths of some users in one scene, checked."""
