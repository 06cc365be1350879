"""Scene folders, and arrays in .mat, .npz and .npy files; whatever is wrong with them is a `DataError`."""

from __future__ import annotations

import atexit
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from study.data.deepmimo.mat_reader import MatReader
from study.errors import DataError

__all__ = ["AGAIN", "Scene", "counted", "names_in", "numbered_folders", "read_array", "select_scenes"]

T = TypeVar("T")

AGAIN = "unpack or download the scenario again"


@dataclass(frozen=True)
class Scene:
    """One scene of a scenario.

    Args:
        number: as in the name of its folder; 0 for a scenario that has a single scene.
        folder: where its files are.
    """

    number: int
    folder: Path

    def place(self, file: Path | str | None = None) -> str:
        """Where in words: the file and the scene."""
        return f"{self.folder if file is None else self.folder / file}, scene {self.number}"


def counted(count: int, noun: str) -> str:
    """A count with its noun: 1 path, 2,000 paths."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def names_in(folder: Path) -> list[str]:
    """Names of the files in a folder, sorted.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise DataError(
            f"the folder cannot be read: {error.strerror or error}", where=str(folder), fix="check its name and rights"
        ) from None


# --- Scenes -------------------------------------------------------------------------------------------------------


def numbered_folders(folder: Path) -> list[Scene]:
    """The folders of the scenes, by number and not by name (scene_2 comes before scene_10).

    Raises:
        DataError: the folder cannot be read, or two folders have the same number.
    """
    found: dict[str, dict[int, Path]] = {}
    try:
        entries = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise DataError(
            f"the folder cannot be read: {error.strerror or error}", where=str(folder), fix="check its name and rights"
        ) from None
    for entry in entries:
        match = re.fullmatch(r"(.*?)(\d{1,9})", entry.name)
        if match:
            numbers = found.setdefault(match[1].lower(), {})
            if int(match[2]) in numbers:
                raise DataError(
                    f"two folders have the scene number {int(match[2])}",
                    where=f"{numbers[int(match[2])]} and {entry}",
                    allowed="one folder for each scene",
                    fix="remove one of them",
                )
            numbers[int(match[2])] = entry
    if not found:
        return []
    # Folders that are not scenes may end in a number too: those called "scene" win, then the larger group.
    group = max(found, key=lambda prefix: (prefix.startswith("scene"), len(found[prefix])))
    return [Scene(number, found[group][number]) for number in sorted(found[group])]


def select_scenes(
    folder: Path, present: Sequence[Scene], first: int | None, count: int | None, step: int
) -> list[Scene]:
    """Scenes first, first + step, … as far as there are any, or as many as asked for.

    Args:
        folder: of the scenario, for messages.
        present: all scenes by number; at least one.
        first: number of the first scene to take; None for the lowest.
        count: how many to take; None for all.
        step: take every step-th.

    Raises:
        DataError: a scene that is asked for, or that lies between two others, is missing.
    """
    by_number = {scene.number: scene for scene in present}
    lowest, highest = present[0].number, present[-1].number
    start = lowest if first is None else first
    wanted = range(start, highest + 1, step) if count is None else range(start, start + count * step, step)
    there = f"{counted(len(present), 'scene')}, {present[0].folder.name} … {present[-1].folder.name}"
    if not len(wanted) or start < lowest or wanted[-1] > highest:
        last = wanted[-1] if len(wanted) else start
        raise DataError(
            f"scenes {start} … {last} are asked for, and the folder has {there}",
            where=str(folder),
            allowed=f"scenes between {lowest} and {highest}",
            fix="change --first-scene, --scenes or --scene-step",
        )
    missing = len(wanted) - sum(number in wanted for number in by_number)
    if missing:
        first_ones = islice((number for number in wanted if number not in by_number), 5)
        names = ", ".join(map(str, first_ones)) + (" …" if missing > 5 else "")
        raise DataError(
            f"{missing:,} of {len(wanted):,} scenes are missing: {names}",
            where=str(folder),
            allowed=f"a folder for each scene ({there})",
            fix=f"{AGAIN}, or take the scenes that are whole with --first-scene, --scenes and --scene-step",
        )
    return [by_number[number] for number in wanted]


# --- Arrays -------------------------------------------------------------------------------------------------------


def read_array(scene: Scene, file_name: str | Iterable[str], variable: str) -> NDArray[Any]:
    """A real array of numbers from one file.

    Args:
        scene: where the file is.
        file_name: its name, or names of which the first that exists is read.
        variable: name of the array in the file.

    Raises:
        DataError: the file is missing, damaged or of an unknown kind, or does not hold that array.
    """
    names = [file_name] if isinstance(file_name, str) else list(file_name)
    file = next((scene.folder / name for name in names if (scene.folder / name).is_file()), None)
    if file is None:
        raise DataError(
            f"the file {names[0]} is missing",
            where=scene.place(),
            allowed=" or ".join(names),
            fix=f"{AGAIN}, or leave this scene out with --first-scene, --scenes and --scene-step",
        )
    values, others = _READERS[file.suffix](file, variable, scene)
    if values is None:
        raise DataError(
            f"the file has no variable {variable!r}; it has {', '.join(others) or 'none'}",
            where=scene.place(file.name),
            allowed=variable,
            fix=AGAIN,
        )
    if values.dtype.kind not in "fiu" or not values.size:
        raise DataError(
            f"{variable} is of the type {values.dtype} and the shape {values.shape}",
            where=scene.place(file.name),
            allowed="real numbers, at least one",
            fix=AGAIN,
        )
    return values


def _read_mat(file: Path, variable: str, scene: Scene) -> tuple[NDArray[Any] | None, list[str]]:
    def begins() -> bytes:
        with file.open("rb") as handle:
            return handle.read(10)

    if _read(begins, file, scene) == b"MATLAB 7.3":
        raise DataError(
            "the file is in MATLAB's format 7.3 (HDF5)",
            where=scene.place(file.name),
            allowed="MATLAB format 5 to 7.2",
            fix="load it in MATLAB and save it with the option -v7",
        )
    return _read(lambda: _mat_reader().read(file, variable), file, scene)


@functools.cache
def _mat_reader() -> MatReader:
    reader = MatReader()
    atexit.register(reader.close)
    return reader


def _read_npz(file: Path, variable: str, scene: Scene) -> tuple[NDArray[Any] | None, list[str]]:
    def read() -> tuple[NDArray[Any] | None, list[str]]:
        with np.load(file, allow_pickle=False) as content:
            return (np.asarray(content[variable]), []) if variable in content.files else (None, list(content.files))

    return _read(read, file, scene)


def _read_npy(file: Path, variable: str, scene: Scene) -> tuple[NDArray[Any] | None, list[str]]:
    return _read(lambda: (np.asarray(np.load(file, allow_pickle=False)), []), file, scene)


def _read(read: Callable[[], T], file: Path, scene: Scene) -> T:
    try:
        return read()
    except Exception as error:  # damaged files make the readers raise anything, a MemoryError included
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"the file cannot be read, it is damaged or incomplete: {first[:200]}",
            where=scene.place(file.name),
            allowed=f"a whole {file.suffix} file",
            fix=AGAIN,
        ) from None


_READERS = {".mat": _read_mat, ".npz": _read_npz, ".npy": _read_npy}
