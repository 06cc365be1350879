"""Files of DeepMIMO v1 and v2: <scenario>.<base station>.{DoD,CIR,LoS}.mat, <scenario>.{Loc,TX_Loc,params}.mat.

The ray files are one long vector: the number of users, then for each user its number, its number of paths n and n
groups of four.

    DoD     path, azimuth, zenith (degrees), received power (dBm)
    CIR     path, phase (degrees), time of arrival (s), received power (dBm)
    LoS     one tag per user: 1 line of sight, 0 blocked, −1 no path
    Loc     one row per user: number, x, y, z, …
    TX_Loc  one row per base station: number, x, y, z, …
    params  carrier_freq (Hz), transmit_power (dBm), user_grids (rows of: first row, last row, users per row and, in
            some scenarios, 1 where the users of a column stand together)

The files do not say what happened to a path. DoA and PL are not needed.

Shapes: N users in the files, L users that are imported, Q path slots per user.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.data.deepmimo.files import AGAIN, Scene, counted, names_in, read_array
from study.data.deepmimo.layout import GridShape, RawPaths, SceneFacts
from study.data.path_table import LINE_OF_SIGHT, UNKNOWN
from study.errors import DataError

__all__ = ["Version2"]

_RAY_FILE = re.compile(r"(?P<scenario>.+)\.(?P<station>\d+)\.(?:CIR|DoD|LoS)\.mat")
_GROUP = 4  # values per path
# Two files of one scene give the same received power to a path; text files were rounded on the way.
_SAME_DB = 0.01


class Version2:
    """The layout of v1 and v2; made for the base station that is imported.

    Args:
        folder: of the scenario.
        scenes: those that are imported.
        base_station: its number, from 1.

    Raises:
        DataError: the base station is missing in a scene.
    """

    title = "DeepMIMO v2 files"

    def __init__(self, folder: Path, scenes: Sequence[Scene], base_station: int) -> None:
        self._station = base_station
        matches = {scene.number: _ray_files(scene.folder) for scene in scenes}
        names = Counter(match["scenario"] for found in matches.values() for match in found)
        if not names:
            raise DataError(
                "the scenes have no ray files",
                where=scenes[0].place(),
                allowed="<scenario>.<base station>.CIR.mat and the like",
                fix=AGAIN,
            )
        self._scenario = names.most_common(1)[0][0]
        if len(names) > 1:
            raise DataError(
                f"the folder holds files of several scenarios: {', '.join(sorted(names))}",
                where=str(folder),
                allowed="one scenario",
                fix="keep the files of different scenarios in different folders",
            )
        stations = {number: {int(match["station"]) for match in found} for number, found in matches.items()}
        lacking = [number for number, found in stations.items() if base_station not in found]
        if lacking:
            there = ", ".join(str(number) for number in sorted(set().union(*stations.values())))
            raise DataError(
                f"base station {base_station} is missing in {len(lacking):,} of {len(scenes):,} scenes, the first is "
                f"scene {lacking[0]}",
                where=str(folder),
                allowed=f"files of base station {base_station} in every scene; base stations that occur: {there}",
                fix=f"name another one with --base-station, or {AGAIN}",
            )

    @staticmethod
    def fits(folder: Path) -> bool:
        """Whether the folder holds ray files of this layout."""
        return bool(_ray_files(folder))

    def facts(self, scene: Scene) -> SceneFacts:
        """Everything but the paths of one scene.

        Raises:
            DataError: a file is missing, damaged or does not fit the others.
        """
        position_m = self._rows(scene, "Loc.mat", "Loc_array_full", "user")
        stations = self._rows(scene, "TX_Loc.mat", "TX_Loc_array_full", "base station")
        if len(stations) < self._station:
            raise DataError(
                f"the file has {len(stations)} base stations, and number {self._station} is asked for",
                where=scene.place(self._name("TX_Loc.mat")),
                allowed=f"1 … {len(stations)}",
                fix=f"name another one with --base-station, or {AGAIN}",
            )
        tags = self._tags(scene)
        if len(tags) != len(position_m):
            raise DataError(
                f"the scene has positions of {len(position_m):,} users and line-of-sight tags of {len(tags):,}",
                where=scene.place(),
                allowed="the same users in all files",
                fix=AGAIN,
            )
        facts = SceneFacts(
            carrier_hz=self._scalar(scene, "carrier_freq"),
            base_station_m=stations[self._station - 1],
            position_m=position_m,
            grids=self._grids(scene, len(position_m)),
            line_of_sight=tags == 1,
            notes={"scenario": self._scenario, "transmit_power_dbm": self._scalar(scene, "transmit_power")},
        )
        facts.check(scene)
        for name in ("CIR.mat", "DoD.mat"):  # missing ones are told before hours of reading
            file = self._name(name, station=True)
            if not (scene.folder / file).is_file():
                raise DataError(f"the file {file} is missing", where=scene.place(), fix=AGAIN)
        return facts

    def paths(self, scene: Scene, users: NDArray[np.int64]) -> RawPaths:
        """Paths of some users in one scene.

        Raises:
            DataError: a file is missing, damaged or does not fit the others, or a value cannot be used.
        """
        tags = self._tags(scene)
        transmit_power_dbm = self._scalar(scene, "transmit_power")
        files = [self._name(name, station=True) for name in ("CIR.mat", "DoD.mat")]
        responses, counts, starts = self._rays(scene, files[0], "CIR_array_full", len(tags))
        departures, their_counts, _ = self._rays(scene, files[1], "DoD_array_full", len(tags))
        if responses.size != departures.size or (counts != their_counts).any():
            raise DataError(
                f"the files {files[0]} and {files[1]} have different numbers of paths",
                where=scene.place(),
                allowed="the same users and paths in both",
                fix=AGAIN,
            )
        slot = np.arange(max(1, int(counts[users].max())))
        valid = slot < counts[users][:, None]
        place = np.where(valid, starts[users][:, None] + _GROUP * slot, 0)  # [L, Q]
        # A file may end with a user without paths, so nothing lies beyond the place of an empty slot.
        response = np.stack([responses[np.where(valid, place + column, 0)] for column in range(_GROUP)])
        departure = np.stack([departures[np.where(valid, place + column, 0)] for column in range(_GROUP)])
        line_of_sight = tags[users] == 1
        raw = RawPaths(
            valid=valid,
            power_db=response[3] - transmit_power_dbm,
            phase_deg=response[1],
            delay_s=response[2],
            zenith_deg=departure[2],
            azimuth_deg=departure[1],
            interaction=_interaction(valid, response[2], line_of_sight),
            users=users,
            line_of_sight=line_of_sight,
        )
        raw.check(scene, [files[0], files[0], files[0], files[1], files[1]])
        other = valid & ~((response[0] == departure[0]) & (np.abs(response[3] - departure[3]) <= _SAME_DB))
        if other.any():
            raise DataError(
                f"{counted(int(other.sum()), 'path')} with another number or power in {files[0]} than in {files[1]}",
                where=scene.place(),
                allowed="two files of the same scene and base station",
                fix=AGAIN,
            )
        return raw

    def _name(self, name: str, station: bool = False) -> str:
        return f"{self._scenario}.{self._station}.{name}" if station else f"{self._scenario}.{name}"

    def _scalar(self, scene: Scene, variable: str) -> float:
        file = self._name("params.mat")
        values = read_array(scene, file, variable)
        if values.size != 1 or not np.isfinite(values).all():
            raise DataError(
                f"{variable} has the shape {values.shape} and begins with {values.ravel()[0]:g}",
                where=scene.place(file),
                allowed="one finite number",
                fix=AGAIN,
            )
        return float(values.item())

    def _rows(self, scene: Scene, name: str, variable: str, what: str) -> NDArray[np.float64]:
        """Coordinates from rows of number, x, y, z, …; [rows, 3]."""
        file = self._name(name)
        values = read_array(scene, file, variable)
        if values.ndim != 2 or values.shape[1] < 4:
            raise DataError(
                f"{variable} has the shape {values.shape}",
                where=scene.place(file),
                allowed=f"one row for each {what}: number, x, y, z",
                fix=AGAIN,
            )
        return values[:, 1:4].astype(np.float64)

    def _tags(self, scene: Scene) -> NDArray[np.float64]:
        """Line-of-sight tags, [N]."""
        file = self._name("LoS.mat", station=True)
        values = read_array(scene, file, "LOS_tag_array_full").ravel()
        tags = values[1:].astype(np.float64)
        if values[0] != len(tags) or not np.isin(tags, (-1, 0, 1)).all() or not len(tags):
            raise DataError(
                f"LOS_tag_array_full has {len(tags):,} tags for {values[0]:g} users",
                where=scene.place(file),
                allowed="the number of users, at least 1, then a tag 1, 0 or −1 for each",
                fix=AGAIN,
            )
        return tags

    def _grids(self, scene: Scene, users: int) -> tuple[GridShape, ...]:
        """The grids that params names where they fit the users, else one grid of unknown shape."""
        values = np.atleast_2d(read_array(scene, self._name("params.mat"), "user_grids"))
        if values.shape[1] in (3, 4) and np.isfinite(values).all():
            table = values.astype(np.int64)
            rows, per_row = table[:, 1] - table[:, 0] + 1, table[:, 2]
            if (rows > 0).all() and (per_row > 0).all() and int((rows * per_row).sum()) == users:
                by_column = table[:, 3] == 1 if table.shape[1] == 4 else np.zeros(len(table), bool)
                return tuple(
                    GridShape(int(count * width), int(count), int(width), bool(turned))
                    for count, width, turned in zip(rows, per_row, by_column, strict=True)
                )
        return (GridShape(users),)

    def _rays(
        self, scene: Scene, file: str, variable: str, users: int
    ) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
        """A ray file's vector, each user's number of paths, [N], and where its first path begins, [N]."""
        values = read_array(scene, file, variable).ravel()

        def broken(what: str) -> DataError:
            return DataError(
                f"{variable} {what}",
                where=scene.place(file),
                allowed=f"the number of users ({users:,}), then for each its number, n and n groups of {_GROUP} values",
                fix=AGAIN,
            )

        if values[0] != users:
            raise broken(f"is of {values[0]:g} users, and the other files of the scene of {users:,}")
        counts, starts = np.empty(users, np.int64), np.empty(users, np.int64)
        place = 1
        for user in range(users):
            number = values[place + 1] if place + 1 < values.size else np.nan
            # The negation refuses NaN too.
            if not (0 <= number <= values.size) or number != int(number):
                raise broken(f"breaks off at user {user:,} of {users:,}")
            counts[user], starts[user] = number, place + 2
            place += 2 + _GROUP * int(number)
        if place != values.size:
            raise broken(f"has {values.size:,} values, and its numbers of paths say {place:,}")
        return values, counts, starts


def _ray_files(folder: Path) -> list[re.Match[str]]:
    return [match for name in names_in(folder) if (match := _RAY_FILE.fullmatch(name))]


def _interaction(
    valid: NDArray[np.bool_], delay_s: NDArray[np.float64], line_of_sight: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """Unknown, but for the earliest path of a user with a line of sight, [L, Q]."""
    kinds = np.where(valid, UNKNOWN, 0).astype(np.int8)
    earliest = np.where(valid, delay_s, np.inf).argmin(1)
    rows = np.flatnonzero(line_of_sight & valid.any(1))
    kinds[rows, earliest[rows]] = LINE_OF_SIGHT
    return kinds
