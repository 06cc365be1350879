"""Files of DeepMIMO v4: params.json, and <array>_t<transmitter set>_tx<number>_r<receiver set>.npz (.mat, .npy).

    power       received power relative to the transmitted, dB
    phase       degrees
    delay       s
    aod_az      azimuth of departure, degrees from +x
    aod_el      zenith angle of departure, degrees from +z (its name says elevation)
    inter       what happened on the way, a digit for each bounce: 0 line of sight, 1 reflection, 2 diffraction,
                3 scattering, 4 transmission; NaN or −1 for no path
    rx_pos      users, [N, 3]
    tx_pos      base station, [1, 3] or [3]

Arrays of paths are [N, Q], empty slots are NaN. Receiver sets that only receive are the users; a set is a grid. Base
stations are counted from 1 over the transmitters in the order of set and number. params.json lies beside the scenes or
in each of them.

Shapes: N users in the files, L users that are imported, Q path slots per user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.data.deepmimo.files import AGAIN, Scene, counted, names_in, read_array
from study.data.deepmimo.layout import GridShape, RawPaths, SceneFacts
from study.data.path_table import DIFFRACTION, LINE_OF_SIGHT, REFLECTION, SCATTERING
from study.errors import DataError

__all__ = ["Version4"]

_ARRAY_FILE = re.compile(r"(?P<array>[a-z_]+)_t(?P<set>\d{3})_tx(?P<number>\d{3})_r(?P<users>\d{3})\.(?:npz|mat|npy)")
_SUFFIXES = (".npz", ".mat", ".npy")
_VALUES = ("power", "phase", "delay", "aod_el", "aod_az")
_PARAMS = "params.json"


class Version4:
    """The layout of v4; made for the base station that is imported.

    Args:
        folder: of the scenario.
        scenes: those that are imported.
        base_station: its number, from 1.

    Raises:
        DataError: there is no params.json, or it does not have the base station or users, or a scene lacks them.
    """

    title = "DeepMIMO v4 files"

    def __init__(self, folder: Path, scenes: Sequence[Scene], base_station: int) -> None:
        self._folder = folder
        self._wanted = base_station
        content, file = self._parameters(scenes[0])
        sets = _sets(content, file)
        before: dict[int, int] = {}  # base stations in the sets before this one
        total = 0
        for key, members in sorted(sets["is_tx"].items()):
            before[key] = total
            total += members
        if base_station > total:
            raise DataError(
                f"base station {base_station} is asked for, and the scenario has {total}",
                where=file,
                allowed=f"1 … {total}",
                fix="name another one with --base-station",
            )
        own = max(key for key in before if before[key] < base_station)
        self._station = (own, base_station - 1 - before[own])
        self._users = sorted(key for key in sets["is_rx"] if key not in sets["is_tx"])
        if not self._users:
            raise DataError(
                "no receiver set is only a receiver, so there are no users",
                where=file,
                allowed="a set in txrx_sets with is_rx true and is_tx false",
                fix=AGAIN,
            )
        for scene in scenes:
            found = {(int(match["set"]), int(match["number"])) for match in _array_files(scene.folder)}
            if self._station not in found:
                there = ", ".join(str(before[key] + number + 1) for key, number in sorted(found) if key in before)
                raise DataError(
                    f"the scene has no files of base station {base_station} (transmitter set {self._station[0]}, "
                    f"number {self._station[1]})",
                    where=scene.place(),
                    allowed=f"files of it in every scene; base stations of this scene: {there or 'none'}",
                    fix=f"name another one with --base-station, or {AGAIN}",
                )

    @staticmethod
    def fits(folder: Path) -> bool:
        """Whether the folder holds arrays of this layout."""
        return bool(_array_files(folder))

    def facts(self, scene: Scene) -> SceneFacts:
        """Everything but the paths of one scene.

        Raises:
            DataError: a file is missing, damaged or does not fit the others.
        """
        content, file = self._parameters(scene)
        carrier = content.get("rt_params", {}).get("frequency") if isinstance(content.get("rt_params"), dict) else None
        if not isinstance(carrier, (int, float)) or isinstance(carrier, bool):
            raise DataError(
                f"the carrier frequency is {carrier!r}", where=file, allowed="rt_params.frequency in Hz", fix=AGAIN
            )
        positions = [self._positions(scene, users) for users in self._users]
        kinds = [self._array(scene, "inter", users) for users in self._users]
        for users, position, kind in zip(self._users, positions, kinds, strict=True):
            if len(position) != len(kind):
                raise DataError(
                    f"rx_pos has {len(position):,} users and inter {len(kind):,}",
                    where=scene.place(self._file("inter", users)[0]),
                    allowed="the same users in all files",
                    fix=AGAIN,
                )
        facts = SceneFacts(
            carrier_hz=float(carrier),
            base_station_m=self._base_station(scene),
            position_m=np.concatenate(positions),
            grids=tuple(GridShape(len(position)) for position in positions),
            line_of_sight=np.concatenate([(kind == 0).any(1) for kind in kinds]),
            notes={"scenario": self._folder.resolve().name, "version": str(content.get("version", "unknown"))},
        )
        facts.check(scene)
        return facts

    def paths(self, scene: Scene, users: NDArray[np.int64]) -> RawPaths:
        """Paths of some users in one scene.

        Raises:
            DataError: a file is missing, damaged or does not fit the others, or a value cannot be used.
        """
        columns: dict[str, list[NDArray[np.float64]]] = {name: [] for name in (*_VALUES, "inter")}
        start = 0
        for receivers in self._users:
            shape: tuple[int, ...] = ()
            for name, parts in columns.items():
                values = self._array(scene, name, receivers)
                if shape and values.shape != shape:
                    raise DataError(
                        f"{name} has the shape {values.shape} and {_VALUES[0]} {shape}",
                        where=scene.place(self._file(name, receivers)[0]),
                        allowed="the same shape for all arrays of paths",
                        fix=AGAIN,
                    )
                shape = values.shape
                mine = users[(users >= start) & (users < start + shape[0])] - start
                with np.errstate(invalid="ignore"):  # damaged files may hold NaNs that signal
                    parts.append(values[mine].astype(np.float64))
            start += shape[0]
        width = max(part.shape[1] for part in columns["inter"])
        joined = {
            name: np.concatenate(
                [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=np.nan) for part in parts]
            )
            for name, parts in columns.items()
        }
        kinds = joined.pop("inter")
        coded = np.isfinite(kinds) & (kinds >= 0)
        # A slot is empty where everything is missing; a path with a part missing is found by the check.
        valid = coded | ~np.isnan(np.stack(list(joined.values()))).all(0)
        files = [self._file(name, self._users[0])[0] for name in _VALUES]
        raw = RawPaths(
            valid=valid,
            power_db=joined["power"],
            phase_deg=joined["phase"],
            delay_s=joined["delay"],
            zenith_deg=joined["aod_el"],
            azimuth_deg=joined["aod_az"],
            interaction=_interaction(kinds, coded, scene, self._file("inter", self._users[0])[0], valid),
            users=users,
            line_of_sight=(coded & (kinds == 0)).any(1),
        )
        raw.check(scene, files)
        return raw

    def _parameters(self, scene: Scene) -> tuple[dict[str, Any], str]:
        """params.json of a scene or of the scenario, and where it is."""
        for file in (scene.folder / _PARAMS, self._folder / _PARAMS):
            if not file.is_file():
                continue
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise DataError(f"{_PARAMS} cannot be read: {error}", where=str(file), fix=AGAIN) from None
            if not isinstance(content, dict):
                raise DataError(f"{_PARAMS} is not a mapping", where=str(file), fix=AGAIN)
            return content, str(file)
        raise DataError(
            f"{_PARAMS} is missing",
            where=f"{scene.place()} and {self._folder}",
            allowed=f"{_PARAMS} beside the scenes or in each of them",
            fix=AGAIN,
        )

    def _file(self, array: str, users: int) -> list[str]:
        transmitters, number = self._station
        return [f"{array}_t{transmitters:03d}_tx{number:03d}_r{users:03d}{suffix}" for suffix in _SUFFIXES]

    def _array(self, scene: Scene, name: str, users: int) -> NDArray[Any]:
        """An array of paths, [N, Q]."""
        files = self._file(name, users)
        values = read_array(scene, files, name)
        if values.ndim != 2:
            raise DataError(
                f"{name} has the shape {values.shape}",
                where=scene.place(files[0]),
                allowed="one row for each user and one column for each path",
                fix=AGAIN,
            )
        return values

    def _positions(self, scene: Scene, users: int) -> NDArray[np.float64]:
        values = self._array(scene, "rx_pos", users)
        if values.shape[1] != 3:
            raise DataError(
                f"rx_pos has the shape {values.shape}",
                where=scene.place(self._file("rx_pos", users)[0]),
                allowed="x, y, z for each user",
                fix=AGAIN,
            )
        return values.astype(np.float64)

    def _base_station(self, scene: Scene) -> NDArray[np.float64]:
        """Position of the base station, [3]."""
        files = self._file("tx_pos", self._users[0])
        values = read_array(scene, files, "tx_pos").astype(np.float64)
        rows = values.reshape(-1, 3) if values.size % 3 == 0 else np.zeros((0, 3))
        # One row for this transmitter, or one for each of its set.
        row = 0 if len(rows) == 1 else self._station[1]
        if row >= len(rows):
            raise DataError(
                f"tx_pos has the shape {values.shape}", where=scene.place(files[0]), allowed="x, y, z", fix=AGAIN
            )
        return rows[row]


def _array_files(folder: Path) -> list[re.Match[str]]:
    return [match for name in names_in(folder) if (match := _ARRAY_FILE.fullmatch(name))]


def _sets(content: dict[str, Any], file: str) -> dict[str, dict[int, int]]:
    """Members of each set that transmits, and of each that receives, by the set's number."""
    listed = content.get("txrx_sets")
    found: dict[str, dict[int, int]] = {"is_tx": {}, "is_rx": {}}
    for entry in listed.values() if isinstance(listed, dict) else ():
        number, members = (entry.get("id"), entry.get("num_points")) if isinstance(entry, dict) else (None, None)
        if not isinstance(number, int) or not isinstance(members, int) or members < 0:
            raise DataError(
                f"a set in txrx_sets is {json.dumps(entry)[:80]}",
                where=file,
                allowed="id, is_tx, is_rx and num_points",
                fix=AGAIN,
            )
        for role, those in found.items():
            if entry.get(role) is True:
                those[number] = members
    if not found["is_tx"]:
        raise DataError("txrx_sets has no set with is_tx true", where=file, allowed="a base station", fix=AGAIN)
    return found


def _interaction(
    kinds: NDArray[np.float64], coded: NDArray[np.bool_], scene: Scene, file: str, valid: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """Digits of the bounces → numbers of the path table, [L, Q]."""
    codes = np.where(coded, kinds, 0)
    wrong = valid & (~coded | (codes != np.floor(codes)))
    # Files hold float32: of more than seven digits the last are rounding, and the first six say enough.
    digits = np.floor(np.log10(np.maximum(codes, 1)))
    left = (codes // 10.0 ** np.where(digits > 6, digits - 5, 0)).astype(np.int64)
    reflected, diffracted = np.zeros(codes.shape, bool), np.zeros(codes.shape, bool)
    other = np.zeros(codes.shape, bool)
    while left.any():
        digit = left % 10
        bounced = left > 0
        reflected |= bounced & (digit == 1)
        diffracted |= bounced & (digit == 2)
        other |= bounced & ((digit == 3) | (digit == 4))
        wrong |= bounced & ((digit == 0) | (digit > 4))
        left //= 10
    if wrong.any():
        row, slot = (int(index) for index in np.argwhere(wrong)[0])
        raise DataError(
            f"{counted(int(wrong.sum()), 'path')} with an unknown interaction code, the first is {kinds[row, slot]:g}",
            where=scene.place(file),
            allowed="0 for the line of sight, or a digit 1 … 4 for each bounce; NaN for no path",
            fix=AGAIN,
        )
    numbers = np.select([other, diffracted, reflected], [SCATTERING, DIFFRACTION, REFLECTION], LINE_OF_SIGHT)
    return np.where(valid, numbers, 0).astype(np.int8)
