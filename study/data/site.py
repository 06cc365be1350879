"""Sites: a folder with a path table and what belongs to it; docs/path-table.md is the contract.

    open_site, list_sites   find a site that ships with the project, or one in a folder
    Site.read_paths         the path table as arrays, checked
    SiteWriter              a site's folder, scene by scene, whole or not at all

Shapes: S scenes, L positions, P paths kept per row, B boxes.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.data.path_files import read_path_table, read_vehicles, write_path_rows, write_vehicles
from study.data.path_table import (
    CONDITIONS,
    CONTRACT,
    FORMAT,
    PER_PATH,
    ROW_TYPES,
    PathTable,
    ScenePaths,
    VehicleTable,
    scene_hash,
    site_hash,
)
from study.errors import DataError, nearest
from study.result_files import read_plain_file

if TYPE_CHECKING:
    from study.data.scenario import VehicleBoxes

__all__ = ["ScenePaths", "Site", "SiteWriter", "is_full", "list_sites", "open_site", "sync_folder"]

SITE_FOLDER = Path(__file__).parent / "sites"
_AGAIN = "restore the file, or trace or import the site again"


# Of site.json: a hash for each scene, and the buildings.
_MOST_BYTES = 100_000_000
# Rows per file: what a writer holds in memory, and what a reader has to read at least.
_ROWS_PER_FILE = 200_000


@dataclass(frozen=True)
class Site:
    """A site on disk. `metadata` is its site.json without the scenes' hashes."""

    name: str
    folder: Path
    carrier_hz: float
    base_station_m: tuple[float, float, float]
    data_hash: str
    scene_hashes: tuple[str, ...]
    positions: int
    scenes: int
    max_paths: int
    metadata: Mapping[str, Any]

    @property
    def reference(self) -> str:
        """What `open_site` finds it by on another machine: a shipped site's name, otherwise its absolute folder."""
        folder = self.folder.resolve()
        return self.name if folder.parent == SITE_FOLDER.resolve() else str(folder)

    def read_paths(self, scenes: Iterable[int] | None = None) -> PathTable:
        """Read and check the path table.

        Args:
            scenes: numbers of the scenes to read, in any order; all of them by default. Files without one of them are
                not touched.

        Raises:
            DataError: there is no such scene; or a file is missing, damaged, not a path table, or not the data that
                site.json describes.
        """
        wanted = range(self.scenes) if scenes is None else sorted(set(scenes))
        if not wanted or wanted[0] < 0 or wanted[-1] >= self.scenes:
            raise DataError(
                f"site {self.name!r} has no such scenes: {list(wanted)[:5]}", allowed=f"0 … {self.scenes - 1}"
            )
        folder = self.folder / "paths"
        table = read_path_table(folder, wanted, self.positions, self.max_paths, self.scene_hashes)
        found = site_hash(self.scene_hashes, table.position_m, self.carrier_hz, self.base_station_m)
        if found != self.data_hash:
            raise DataError(
                f"the positions, carrier, base station or scenes of site {self.name!r} are not those of its data_hash: "
                f"they hash to {found}",
                where=str(self.folder / "site.json"),
                allowed=f"data_hash {self.data_hash}",
                fix="restore the folder from where it came, or trace or import the site again",
            )
        return table

    def read_scenes(self, at_once: int) -> Iterator[PathTable]:
        """The whole path table, some scenes at a time."""
        for start in range(0, self.scenes, at_once):
            yield self.read_paths(range(start, min(start + at_once, self.scenes)))

    def read_vehicles(self) -> VehicleTable:
        """Read the vehicles' boxes; empty for a site that has none.

        Raises:
            DataError: the file is damaged or has other columns.
        """
        return read_vehicles(self.folder / "vehicles.parquet")


# --- Finding and opening ------------------------------------------------------------------------------------------


def list_sites(extra_folders: Iterable[str | Path] = ()) -> list[Site]:
    """The sites that ship with the project and those in the folders given, by name.

    Raises:
        DataError: one of them has an unusable site.json.
    """
    found: dict[str, Path] = {}
    for parent in (SITE_FOLDER, *map(Path, extra_folders)):
        for file in _site_files(parent):
            found.setdefault(file.parent.name, file.parent)
    return [_open_folder(found[name]) for name in sorted(found)]


def open_site(name_or_path: str | Path, extra_folders: Iterable[str | Path] = ()) -> Site:
    """Open a site by its name or by its folder; only site.json is read.

    Args:
        name_or_path: name of a shipped site, name of a folder in one of `extra_folders`, or path of a folder.
        extra_folders: where to look for sites besides the shipped ones.

    Raises:
        DataError: there is no such site, or its site.json cannot be used.
    """
    text = str(name_or_path)
    parents = [SITE_FOLDER, *map(Path, extra_folders)]
    if text and Path(text).name == text:
        for parent in parents:
            if (parent / text / "site.json").is_file():
                return _open_folder(parent / text)
    folder = Path(text)
    if text and folder.is_dir():
        return _open_folder(folder)
    known = sorted({file.parent.name for parent in parents for file in _site_files(parent)})
    from study.data.scenario import list_scenarios  # reads YAML, for which a site that is there needs no code

    fix = "check the name, trace a site with `study data trace` or import one"
    if folder.name in list_scenarios():
        fix = f"trace it, once: `study data trace {folder.name} --out {text}` (needs the extra 'trace')"
    raise DataError(
        f"unknown site {text!r}{nearest(text, known)}",
        where=None if Path(text).name == text else f"{Path(text).absolute()} is no folder",
        allowed=f"the folder of a site (from the current folder, or an absolute path), or one of: "
        f"{', '.join(known) or 'none is installed'}",
        fix=fix,
    )


def _site_files(parent: Path) -> list[Path]:
    """The site.json of each site in a folder; a site that is being written has a name with a dot."""
    return sorted(file for file in parent.glob("*/site.json") if not file.parent.name.startswith("."))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64


_KEYS = {
    "name": (lambda value: isinstance(value, str) and value != "", "a name"),
    "carrier_hz": (lambda value: _is_number(value) and value > 0, "a frequency greater than 0"),
    "base_station_m": (
        lambda value: isinstance(value, list) and len(value) == 3 and all(map(_is_number, value)),
        "[x, y, z]",
    ),
    "positions": (_is_count, "a whole number of at least 1"),
    "scenes": (_is_count, "a whole number of at least 1"),
    "max_paths": (_is_count, "a whole number of at least 1"),
    "conditions": (lambda value: value == list(CONDITIONS), json.dumps(list(CONDITIONS))),
    "condition_source": (lambda value: isinstance(value, str), "text"),
    "static_boxes": (lambda value: isinstance(value, list), "a list"),
    "solver": (lambda value: isinstance(value, dict), "a mapping"),
    "precision": (lambda value: isinstance(value, str), "text"),
    "data_hash": (_is_hash, "64 hexadecimal digits"),
    "scene_hashes": (
        lambda value: isinstance(value, list) and all(map(_is_hash, value)),
        "a list of 64 hexadecimal digits for each scene",
    ),
}


def _open_folder(folder: Path) -> Site:
    file = folder / "site.json"
    try:
        text = read_plain_file(file, _MOST_BYTES, follow=True)
    except FileNotFoundError:
        if (folder / "trace.json").exists():
            raise DataError(
                "this folder is an unfinished trace",
                where=str(folder),
                fix="finish it with the `study data trace` command that began it",
            ) from None
        raise DataError(
            "this folder is not a site: it has no site.json", where=str(folder), allowed=CONTRACT, fix=_AGAIN
        ) from None
    except OSError as error:
        raise DataError(f"site.json cannot be read: {error.strerror or error}", where=str(file), fix=_AGAIN) from None
    except ValueError as error:  # a pipe, or too large
        raise DataError(f"site.json cannot be read: {error}", where=str(file), fix=_AGAIN) from None
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise DataError(f"site.json is not JSON: {error}", where=str(file), allowed=CONTRACT, fix=_AGAIN) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise DataError(
            f"site.json has the format {found!r}",
            where=str(file),
            allowed=repr(FORMAT),
            fix="use the version of `study` that made the site, or trace or import it again",
        )
    problems = []
    for key, (fits, allowed) in _KEYS.items():
        if key not in content:
            problems.append(f"{key} is missing ({allowed})")
        elif not fits(content[key]):
            problems.append(f"{key} is {json.dumps(content[key])[:60]} (allowed: {allowed})")
    if not problems and len(content["scene_hashes"]) != content["scenes"]:
        problems.append(f"it has {len(content['scene_hashes'])} scene_hashes for {content['scenes']} scenes")
    if problems:
        raise DataError(
            f"site.json cannot be used: {'; '.join(problems)}", where=str(file), allowed=CONTRACT, fix=_AGAIN
        )
    x, y, z = map(float, content["base_station_m"])
    return Site(
        name=content["name"],
        folder=folder,
        carrier_hz=float(content["carrier_hz"]),
        base_station_m=(x, y, z),
        data_hash=content["data_hash"],
        scene_hashes=tuple(content.pop("scene_hashes")),
        positions=content["positions"],
        scenes=content["scenes"],
        max_paths=content["max_paths"],
        metadata=content,
    )


# --- Writing ------------------------------------------------------------------------------------------------------


class SiteWriter:
    """Writes a site's folder scene by scene, whole or not at all.

    Used as a context: the folder appears when `finish` returns, and nothing stays behind when the block is left without
    it. Memory does not grow with the number of scenes.

    Args:
        folder: the site's folder; must not exist.
        name: the site's name.
        carrier_hz: carrier frequency.
        base_station_m: [x, y, z] of the base station.
        position_m: user positions, [L, 3].
        max_paths: P of every scene.

    Raises:
        DataError: the folder exists or cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        name: str,
        carrier_hz: float,
        base_station_m: Sequence[float],
        position_m: ArrayLike,
        max_paths: int,
    ) -> None:
        self.folder = Path(folder)
        self._name, self._carrier_hz = name, float(carrier_hz)
        self._base_station_m = [float(value) for value in base_station_m]
        self._position_m: NDArray[np.float32] = np.ascontiguousarray(position_m, np.float32)
        self._max_paths = max_paths
        if self._position_m.ndim != 2 or self._position_m.shape[1] != 3 or not len(self._position_m):
            raise DataError(f"user positions have the shape {self._position_m.shape}", allowed="[L, 3] with L ≥ 1")
        if not np.isfinite(self._position_m).all():
            raise DataError("a user position is not finite", allowed="x, y and z in metres")
        self._hashes: list[str] = []
        self._time_s: list[float] = []
        self._waiting: list[ScenePaths] = []
        self._files = 0
        self._vehicles: list[tuple[int, VehicleBoxes]] = []
        self._folder_is_free()
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.", dir=self.folder.parent))
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            self._temporary.chmod(0o755)  # mkdtemp makes it private
            (self._temporary / "paths").mkdir()
        except OSError as error:
            shutil.rmtree(self._temporary, ignore_errors=True)
            raise self._unwritable(error) from None

    def __enter__(self) -> SiteWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        shutil.rmtree(self._temporary, ignore_errors=True)
        return False

    def add(
        self,
        scene: ScenePaths,
        time_s: float,
        vehicles: VehicleBoxes | None = None,
    ) -> None:
        """Add the next scene.

        Args:
            scene: its paths.
            time_s: its time, later than the scene before.
            vehicles: the vehicles' boxes.

        Raises:
            DataError: the scene breaks a law of the path table, or cannot be written.
        """
        number = len(self._hashes)
        try:
            scene.check(len(self._position_m), self._max_paths)
            if not math.isfinite(time_s) or (self._time_s and time_s <= self._time_s[-1]):
                raise DataError(
                    "the path table is inconsistent: time_s must rise from scene to scene", allowed=CONTRACT
                )
        except DataError as error:
            raise DataError(error.what, where=f"scene {number}", allowed=error.allowed, fix=error.fix) from None
        valid = scene.valid  # padding is +0 when it is read, and −0 has another hash
        scene = replace(
            scene, **{name: np.where(valid, getattr(scene, name), 0).astype(ROW_TYPES[name]) for name in PER_PATH}
        )
        self._hashes.append(scene_hash(scene, time_s))
        self._time_s.append(float(time_s))
        self._waiting.append(scene)
        if vehicles is not None:
            self._vehicles.append((number, vehicles))
        if (len(self._waiting) + 1) * len(self._position_m) > _ROWS_PER_FILE:
            self._write_waiting()

    def finish(
        self,
        *,
        condition_source: str,
        static_boxes: Sequence[Mapping[str, Any]] = (),
        solver: Mapping[str, Any] | None = None,
        precision: str = "float32 as computed",
        scenario_yaml: str | None = None,
    ) -> Site:
        """Write what is left and give the folder its name.

        Args:
            condition_source: how the conditions were found, in words.
            static_boxes: buildings, as {name, material, box}.
            solver: settings and package versions of what made the paths.
            precision: rounding that was applied to the values, in words.
            scenario_yaml: the scenario that was traced.

        Returns:
            The site, opened from what was written.

        Raises:
            DataError: there is no scene, or the folder cannot be written.
        """
        if not self._hashes:
            raise DataError("the new site has no scenes", where=str(self.folder), allowed="at least one scene")
        content = {
            "format": FORMAT,
            "name": self._name,
            "carrier_hz": self._carrier_hz,
            "base_station_m": self._base_station_m,
            "positions": len(self._position_m),
            "scenes": len(self._hashes),
            "max_paths": self._max_paths,
            "conditions": list(CONDITIONS),
            "condition_source": condition_source,
            "static_boxes": [dict(box) for box in static_boxes],
            "solver": dict(solver or {}),
            "precision": precision,
            "data_hash": site_hash(self._hashes, self._position_m, self._carrier_hz, self._base_station_m),
            "scene_hashes": self._hashes,
        }
        self._write_waiting()
        try:
            if self._vehicles:
                write_vehicles(self._temporary / "vehicles.parquet", self._vehicle_table())
            if scenario_yaml is not None:
                (self._temporary / "scenario.yaml").write_text(scenario_yaml, encoding="utf-8")
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            (self._temporary / "site.json").write_text(text, encoding="utf-8")
            for file in self._temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
            for written in (self._temporary / "paths", self._temporary):
                sync_folder(written)
            self._folder_is_free()  # an empty folder would be replaced without a word
            self._temporary.rename(self.folder)
            sync_folder(self.folder.parent)
        except OSError as error:
            raise self._unwritable(error) from None
        return _open_folder(self.folder)

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        first = len(self._hashes) - len(self._waiting)
        file = self._temporary / "paths" / f"part-{self._files:05d}.parquet"
        try:
            write_path_rows(file, first, self._waiting, self._time_s[first:], self._position_m)
        except OSError as error:
            raise self._unwritable(error, f"scenes {first} … {len(self._hashes) - 1}") from None
        self._files += 1
        self._waiting = []

    def _vehicle_table(self) -> VehicleTable:
        boxes = [found for _, found in self._vehicles]
        return VehicleTable(
            scene=np.concatenate([np.full(len(found.box), number, np.int32) for number, found in self._vehicles]),
            vehicle=np.concatenate([found.vehicle for found in boxes]).astype(np.int32),
            kind=tuple(str(kind) for found in boxes for kind in found.kind),
            box=np.concatenate([found.box for found in boxes]).astype(np.float32),
        )

    def _folder_is_free(self) -> None:
        if os.path.lexists(self.folder):
            raise DataError(
                "the folder of the new site exists",
                where=str(self.folder),
                fix="name another folder or remove this one",
            )

    def _unwritable(self, error: OSError, what: str = "the site") -> DataError:
        return DataError(
            f"{what} cannot be written: {error.strerror or error}",
            where=str(self.folder),
            fix="free space on the disk or name another folder" if is_full(error) else "name another folder",
        )


def _sync(file: Path) -> None:
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())


def is_full(error: OSError) -> bool:
    """Whether a file could not be written because the disk, the quota or the largest file size is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
