"""A DeepMIMO scenario → a site, scene by scene: memory does not grow with the number of scenes.

The first pass reads what is small: who has a line of sight in which scene, and whether all scenes are of one carrier,
base station and set of users. The second reads the paths of one scene at a time and writes them.

Shapes: N users in the files, L users that are imported, Q path slots per user, P kept paths.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from study.data.deepmimo.files import AGAIN, Scene, names_in, numbered_folders, select_scenes
from study.data.deepmimo.grid import take_every
from study.data.deepmimo.layout import Layout, RawPaths, SceneFacts
from study.data.deepmimo.version2 import Version2
from study.data.deepmimo.version4 import Version4
from study.data.path_table import CONDITIONS, DNLOS, LINE_OF_SIGHT, LOS, SNLOS, ScenePaths, keep_strongest
from study.data.site import Site, SiteWriter
from study.errors import DataError

__all__ = ["ImportProgress", "import_deepmimo"]

_LAYOUTS: tuple[type[Version2] | type[Version4], ...] = (Version2, Version4)
_VERSION3 = re.compile(r"BS\d+_(?:UE_\d+-\d+|BS)\.mat")
_MOST, _MOST_PATHS = 1_000_000_000, 1000
# Positions of the same user in two scenes; files hold rounded ones.
_SAME_M = 1e-3


class ImportProgress(NamedTuple):
    """Handed to `on_progress` after every scene.

    Args:
        step: what is done: "checking" or "writing".
        done: scenes that are finished in this step.
        scenes: scenes in all.
        seconds: time since this step began.
    """

    step: str
    done: int
    scenes: int
    seconds: float


class _Reporter:
    """Tells `on_progress` about a step."""

    def __init__(self, on_progress: Callable[[ImportProgress], None] | None, scenes: int) -> None:
        self._call, self._scenes = on_progress, scenes
        self._started: dict[str, float] = {}

    def begin(self, step: str) -> None:
        self._started[step] = time.monotonic()

    def finished(self, step: str, done: int) -> None:
        if self._call is not None:
            self._call(ImportProgress(step, done, self._scenes, time.monotonic() - self._started[step]))


def import_deepmimo(
    folder: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    base_station: int = 1,
    grid_step: int = 1,
    first_scene: int | None = None,
    scenes: int | None = None,
    scene_step: int = 1,
    max_paths: int = 25,
    scene_spacing_s: float = 0.1,
    on_progress: Callable[[ImportProgress], None] | None = None,
) -> Site:
    """Read a DeepMIMO scenario and write it as a site.

    Args:
        folder: the scenario's folder, which holds a folder for each scene, or the files of its only scene.
        out: folder of the site; must not exist.
        name: the site's name; the scenario's folder's by default.
        base_station: number of the base station, from 1.
        grid_step: take every grid_step-th user in both directions of the grid.
        first_scene: number of the first scene to take, as its folder has it; the lowest by default.
        scenes: how many scenes to take; all by default.
        scene_step: take every scene_step-th scene.
        max_paths: how many of the strongest paths to keep.
        scene_spacing_s: time between two scenes of consecutive numbers.
        on_progress: called after every scene of both passes.

    Raises:
        DataError: the folder is of no known layout, a file is missing, damaged or contradicts another, an option does
            not fit the scenario, or the site cannot be written; nothing is left behind.
    """
    folder, out = Path(folder), Path(out)
    _check_options(base_station, grid_step, scenes, scene_step, max_paths, scene_spacing_s)
    if out.exists():  # told before hours of reading
        raise DataError("the folder of the new site exists", where=str(out), fix="name another folder or remove it")
    layout_type, present = _find(folder)
    chosen = select_scenes(folder, present, first_scene, scenes, scene_step)
    layout = layout_type(folder, chosen, base_station)
    reporter = _Reporter(on_progress, len(chosen))
    common = _check_scenes(layout, chosen, reporter)
    users, shapes = take_every(grid_step, common.facts.position_m, common.facts.grids)
    tally = _Tally(common.facts.base_station_m, common.facts.position_m[users], common.seen[users])
    with SiteWriter(
        out,
        name=name or folder.resolve().name,
        carrier_hz=common.facts.carrier_hz,
        base_station_m=common.facts.base_station_m.tolist(),
        position_m=tally.position_m.astype(np.float32),
        max_paths=max_paths,
    ) as writer:
        reporter.begin("writing")
        for done, scene in enumerate(chosen, start=1):
            paths = _scene_paths(layout.paths(scene, users), tally.seen, max_paths)
            tally.add(scene, paths)
            writer.add(paths, (scene.number - chosen[0].number) * scene_spacing_s)
            reporter.finished("writing", done)
        return writer.finish(
            condition_source=tally.condition_source(len(chosen)),
            solver={
                "source": layout.title,
                **common.facts.notes,
                "base_station": base_station,
                "first_scene": chosen[0].number,
                "last_scene": chosen[-1].number,
                "scene_step": scene_step,
                "scene_spacing_s": scene_spacing_s,
                "grid_step": grid_step,
                "grid": [list(shape) for shape in shapes],
                "users_in_files": len(common.facts.position_m),
                "antennas": "as traced; phases include the carrier's phase of the delay",
                **tally.agreement(),
            },
            precision="float32 of the values in the files",
        )


def _check_options(
    base_station: int, grid_step: int, scenes: int | None, scene_step: int, max_paths: int, scene_spacing_s: float
) -> None:
    counts = {
        "--base-station": base_station,
        "--grid-step": grid_step,
        "--scenes": 1 if scenes is None else scenes,
        "--scene-step": scene_step,
        "--max-paths": max_paths,
    }
    most = dict.fromkeys(counts, _MOST) | {"--max-paths": _MOST_PATHS}
    wrong = [f"{option} {value}" for option, value in counts.items() if not 1 <= value <= most[option]]
    if not (math.isfinite(scene_spacing_s) and scene_spacing_s > 0):
        wrong.append(f"--scene-spacing {scene_spacing_s:g}")
    if wrong:
        raise DataError(
            f"{', '.join(wrong)} cannot be used",
            allowed=f"numbers from 1 to {_MOST:,} (--max-paths: {_MOST_PATHS:,}); a time greater than 0",
            fix="change the option",
        )


def _find(folder: Path) -> tuple[type[Version2] | type[Version4], list[Scene]]:
    """The layout of a scenario, and its scenes by number."""
    if not folder.is_dir():
        raise DataError("the folder does not exist", where=str(folder), fix="check its name")
    scenes = numbered_folders(folder)
    for group in (scenes, [Scene(0, folder)]):
        for scene in group:
            for layout in _LAYOUTS:
                if layout.fits(scene.folder):
                    return layout, group
    third = next((scene.folder for scene in [*scenes, Scene(0, folder)] if _is_version3(scene.folder)), None)
    if third is not None:
        raise DataError(
            "the folder holds files of DeepMIMO v3 (BS1_UE_0-….mat)",
            where=str(third),
            allowed="the layouts of v2 and v4",
            fix="download the scenario in one of these",
        )
    inside = [entry.name for entry in sorted(folder.iterdir()) if entry.is_dir() and _holds_scenario(entry)]
    raise DataError(
        "the folder is no DeepMIMO scenario",
        where=str(folder),
        allowed="scene_<number>/<scenario>.<base station>.CIR.mat and the like (v2), or params.json and "
        "scene_<number>/power_t000_tx000_r001.npz and the like (v4)",
        fix=f"name the folder {folder / inside[0]}" if inside else "check its name, and unpack the scenario there",
    )


def _is_version3(folder: Path) -> bool:
    return any(_VERSION3.fullmatch(name) for name in names_in(folder))


def _holds_scenario(folder: Path) -> bool:
    try:
        places = [folder, *(scene.folder for scene in numbered_folders(folder)[:1])]
        return any(layout.fits(place) for layout in _LAYOUTS for place in places)
    except DataError:  # something else is in there
        return False


# --- First pass ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Common:
    facts: SceneFacts  # of the first scene; the others agree with it
    seen: NDArray[np.bool_]  # whether a user has a line of sight in at least one scene, [N]


def _check_scenes(layout: Layout, scenes: list[Scene], reporter: _Reporter) -> _Common:
    """Read what is small of every scene, and compare it with the first."""
    reporter.begin("checking")
    first = layout.facts(scenes[0])
    seen = first.line_of_sight.copy()
    reporter.finished("checking", 1)
    for done, scene in enumerate(scenes[1:], start=2):
        facts = layout.facts(scene)
        _compare(first, facts, scenes[0], scene)
        seen |= facts.line_of_sight
        reporter.finished("checking", done)
    return _Common(first, seen)


def _compare(first: SceneFacts, facts: SceneFacts, first_scene: Scene, scene: Scene) -> None:
    here, there = len(facts.position_m), len(first.position_m)
    station = [np.round(values.base_station_m, 3).tolist() for values in (facts, first)]
    difference = ""
    if not math.isclose(facts.carrier_hz, first.carrier_hz, rel_tol=1e-9):
        difference = f"the carrier is {facts.carrier_hz:g} Hz, and {first.carrier_hz:g} Hz"
    elif (np.abs(facts.base_station_m - first.base_station_m) > _SAME_M).any():
        difference = f"the base station is at {station[0]} m, and at {station[1]} m"
    elif facts.notes != first.notes:  # the transmitted power is one of them
        difference = f"it says {facts.notes}, and {first.notes}"
    elif here != there:
        difference = f"there are {here:,} users, and {there:,}"
    else:
        moved = (np.abs(facts.position_m - first.position_m) > _SAME_M).any(1)
        if moved.any():
            user = int(moved.argmax())
            places = [np.round(values.position_m[user], 3).tolist() for values in (facts, first)]
            difference = (
                f"{int(moved.sum()):,} of {here:,} users stand elsewhere, the first is user {user}: at {places[0]} m, "
                f"and at {places[1]} m"
            )
    if difference:
        raise DataError(
            f"{difference} in scene {first_scene.number}",
            where=scene.place(),
            allowed="the same carrier, base station and users in every scene",
            fix=f"{AGAIN}, and keep different scenarios in different folders",
        )


# --- Second pass --------------------------------------------------------------------------------------------------


def _scene_paths(raw: RawPaths, seen: NDArray[np.bool_], max_paths: int) -> ScenePaths:
    """Files' units → the path table's: complex gains, radians, strongest first.

    DeepMIMO's channels are Σ √power · e^(j·phase) · e^(−j2πkBτ/N) · array response: the phase has the carrier's phase
    of the delay in it, its elevation is the angle from +z, and its arrays lie in the y-z plane, as ours do.
    """
    valid = raw.valid
    amplitude = 10.0 ** (np.where(valid, raw.power_db, 0.0) / 20)
    # Whole turns are taken off in float64: phases of traced paths may be many.
    turns = np.remainder(np.where(valid, raw.phase_deg, 0.0) / 360, 1.0)
    gain = np.where(valid, amplitude * np.exp(2j * np.pi * turns), 0).astype(np.complex64)
    azimuth_deg = np.remainder(np.where(valid, raw.azimuth_deg, 0.0) + 180, 360) - 180
    zenith_deg = np.clip(np.where(valid, raw.zenith_deg, 0.0), 0, 180)
    kept = keep_strongest(
        gain,
        valid,
        [
            (np.where(valid, raw.delay_s, 0.0), np.float32),
            (np.deg2rad(zenith_deg), np.float32),
            (np.deg2rad(azimuth_deg), np.float32),
            (raw.interaction, np.int8),
        ],
        max_paths,
    )
    blocked = np.where(seen, DNLOS, SNLOS)
    return ScenePaths(
        gain=kept.gain,
        delay_s=kept.columns[0],
        zenith_rad=kept.columns[1],
        azimuth_rad=kept.columns[2],
        interaction=kept.columns[3],
        paths=kept.paths,
        condition=np.where(raw.line_of_sight, LOS, blocked).astype(np.int8),
        paths_found=kept.paths_found,
        dropped_power=kept.dropped_power,
    )


class _Tally:
    """Counts the conditions, and compares paths in line of sight with the positions."""

    def __init__(
        self, base_station_m: NDArray[np.float64], position_m: NDArray[np.float64], seen: NDArray[np.bool_]
    ) -> None:
        self.position_m, self.seen = position_m, seen
        offset = position_m - base_station_m  # [L, 3]
        self._distance_m = np.linalg.norm(offset, axis=1)
        self._direction = offset / np.maximum(self._distance_m, 1e-9)[:, None]
        self._conditions = np.zeros(len(CONDITIONS), np.int64)
        self._without_paths = 0
        self._worst_delay, self._worst_angle_deg = 1.0, 0.0

    def add(self, scene: Scene, paths: ScenePaths) -> None:
        """Count a scene.

        Raises:
            DataError: delays in line of sight are not those of the distance, so their unit is another one.
        """
        self._conditions += np.bincount(paths.condition, minlength=len(CONDITIONS))
        self._without_paths += int((paths.paths == 0).sum())
        straight = paths.interaction == LINE_OF_SIGHT
        rows = np.flatnonzero(straight.any(1) & (self._distance_m > 1))
        if not len(rows):
            return
        slots = straight[rows].argmax(1)
        delay = float(np.median(paths.delay_s[rows, slots] * speed_of_light / self._distance_m[rows]))
        if not 0.5 < delay < 2:
            raise DataError(
                f"paths in line of sight take {delay:.3g} times as long as light takes over the distance",
                where=scene.place(),
                allowed="delays in seconds and positions in metres",
                fix=AGAIN,
            )
        zenith, azimuth = (values[rows, slots].astype(np.float64) for values in (paths.zenith_rad, paths.azimuth_rad))
        leaving = np.stack([np.sin(zenith) * np.cos(azimuth), np.sin(zenith) * np.sin(azimuth), np.cos(zenith)], 1)
        angle = np.rad2deg(np.arccos(np.clip((leaving * self._direction[rows]).sum(1), -1, 1)))
        self._worst_delay = max(self._worst_delay, delay, key=lambda value: abs(value - 1))
        self._worst_angle_deg = max(self._worst_angle_deg, float(np.median(angle)))

    def agreement(self) -> dict[str, Any]:
        """How well paths in line of sight fit the positions, in the worst scene's median."""
        return {
            "line_of_sight_delay_ratio": round(self._worst_delay, 6),
            "line_of_sight_direction_error_deg": round(self._worst_angle_deg, 4),
        }

    def condition_source(self, scenes: int) -> str:
        """How the conditions were found, with counts."""
        los, dynamic, static = (int(count) for count in self._conditions)
        return (
            f"line of sight as the files say ({los:,} rows); whether a vehicle or a building blocks is inferred: "
            f"{int(self.seen.sum()):,} of {len(self.seen):,} positions have a line of sight in at least one of the "
            f"{scenes:,} imported scenes, and their {dynamic:,} blocked rows are DNLOS; the {static:,} rows of the "
            f"other positions are SNLOS; {self._without_paths:,} rows have no path and are labelled in the same way"
        )
