"""A site that is being traced: its finished scenes wait in ``<site>.partial`` beside it, one file each.

Only the process that traces a site writes here. A file is whole or not there, so whatever ends a trace, the next one
goes on with the scenes that are missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from study.data.scenario import Scenario, static_boxes, user_positions
from study.data.site import Site, SiteWriter, is_full, sync_folder
from study.data.tracing import VARIANT, ProbeReport, TracedScene
from study.errors import DataError

__all__ = ["DamagedScene", "UnfinishedSite"]

_LOCK = ".lock"


@dataclass(frozen=True)
class DamagedScene:
    """A finished scene that cannot be read any more.

    Args:
        scene: its number.
        file: where it is.
        reason: what is wrong with the file.
    """

    scene: int
    file: Path
    reason: str


class UnfinishedSite:
    """The finished scenes of a site.

    Args:
        scenario: what is traced.
        out: folder of the site to be.
        report: the ray tracer's versions.
        scenes: how many of the scenario's scenes, from the first on; all by default.
    """

    def __init__(self, scenario: Scenario, out: Path, report: ProbeReport, scenes: int | None = None) -> None:
        self.scenario, self.out, self.report = scenario, Path(out), report
        self.scenes = scenario.scenes if scenes is None else scenes
        self.folder = self.out.with_name(f"{self.out.name}.partial")
        self.kept = 0  # scenes that are in the folder
        self._positions = user_positions(scenario)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder: no other process traces this site, and all its scenes are of this scenario and version.

        The lock is the operating system's: it goes with the process, however that ends.

        Raises:
            DataError: another process holds it, it holds something else, or it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = (self.folder / _LOCK).open("a")
        except OSError as error:
            raise self._unwritable(error, "the folder of the unfinished trace") from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    "another process is tracing this site",
                    where=str(self.folder),
                    fix="wait for it, or name another output folder",
                ) from None
            except OSError as error:  # some network file systems have no locks
                raise self._unwritable(error, "the lock of the unfinished trace") from None
            if os.path.lexists(self.out):  # another process has finished it since the command began
                with suppress(OSError):
                    (self.folder / _LOCK).unlink()
                    self.folder.rmdir()
                raise DataError(
                    "the folder of the new site exists", where=str(self.out), fix="name another folder or remove it"
                )
            self._claim()
            yield

    def _claim(self) -> None:
        content = {
            "scenario": self.scenario.model_dump(mode="json"),
            "scenes": self.scenes,
            "packages": self.report.packages,
            "llvm": self.report.llvm_version,
        }
        identity = json.dumps(content, sort_keys=True, indent=1)
        claim = self.folder / "trace.json"
        if not claim.exists():
            if {file.name for file in self.folder.iterdir()} - {_LOCK}:
                (self.folder / _LOCK).unlink()
                raise DataError(
                    "the working folder holds something else", where=str(self.folder), fix="name another output folder"
                )
            self._write(claim, identity.encode(), "the claim of the unfinished trace")
        elif not claim.is_file() or claim.read_text(encoding="utf-8", errors="replace") != identity:
            raise DataError(
                "the unfinished trace in this folder is of another scenario, number of scenes or package version",
                where=str(self.folder),
                allowed="the scenario, --scenes and versions it was started with",
                fix="remove the folder to start again, or name another output folder",
            )
        for leftover in self.folder.glob(".*.tmp"):  # of a process that was killed while it wrote
            with suppress(OSError):
                leftover.unlink()

    def forget(self) -> None:
        """Remove the folder if it holds no finished scene, so that nothing is in the way of another scenario."""
        if not any(self.folder.glob("scene_*.npz")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def missing(self) -> tuple[list[int], list[DamagedScene]]:
        """Numbers of the scenes that are to be traced, and those of them whose file is there and cannot be read."""
        wanted, damaged = [], []
        for scene in range(self.scenes):
            file = self._file(scene)
            if not file.exists():
                wanted.append(scene)
                continue
            try:
                self._read(scene)
            except _UNREADABLE as error:
                wanted.append(scene)
                damaged.append(DamagedScene(scene, file, _reason(error)))
        self.kept = self.scenes - len(wanted)
        return wanted, damaged

    def save(self, scene: int, traced: TracedScene) -> None:
        """Keep a finished scene.

        Raises:
            DataError: it cannot be written; the scenes before it are kept.
        """
        # Made in memory first: a file that cannot be written whole is one clean error then.
        content = io.BytesIO()
        np.savez_compressed(content, **vars(traced))
        self._write(self._file(scene), content.getvalue(), f"scene {scene}")
        self.kept += 1

    def finish(self) -> Site:
        """Write the site from its scenes and remove the working folder.

        Raises:
            DataError: the site cannot be written, or a scene was damaged meanwhile; the scenes are kept.
        """
        try:
            site = self._assemble()
        except DataError as error:
            again = "the traced scenes are kept, and the same command goes on"
            fix = f"{error.fix}; {again}" if error.fix else again
            raise DataError(error.what, where=error.where, allowed=error.allowed, fix=fix) from None
        shutil.rmtree(self.folder, ignore_errors=True)
        return site

    def _assemble(self) -> Site:
        scenario, storage = self.scenario, self.scenario.storage
        agreement = []
        with SiteWriter(
            self.out,
            # The first scenes are another site than all of them.
            name=scenario.name if self.scenes == scenario.scenes else f"{scenario.name}_first_{self.scenes}",
            carrier_hz=scenario.carrier_hz,
            base_station_m=scenario.base_station_m,
            position_m=self._positions,
            max_paths=scenario.max_paths,
        ) as writer:
            for number, time_s in enumerate(scenario.scene_times_s()[: self.scenes]):
                try:
                    scene = self._read(number)
                except _UNREADABLE as error:
                    raise DataError(
                        f"scene {number} cannot be read any more: {_reason(error)}", where=str(self._file(number))
                    ) from None
                writer.add(scene, float(time_s), scene.vehicles)
                agreement.append(float(scene.los_agreement))
            return writer.finish(
                condition_source="straight line to the base station against the boxes of houses, kiosks and vehicles",
                static_boxes=[box.model_dump(mode="json") for box in static_boxes(scenario)],
                solver={
                    **scenario.solver.model_dump(mode="json"),
                    **self.report.packages,
                    "llvm": self.report.llvm_version,
                    "variant": VARIANT,
                    "antennas": "isotropic, vertical polarization, at both ends",
                    "los_agreement": float(np.mean(agreement)),
                    "scenario_hash": _scenario_hash(scenario),
                },
                precision=(
                    f"mantissas rounded to {storage.gain_bits} bits (gain), {storage.delay_bits} bits (delay) and "
                    f"{storage.angle_bits} bits (angles); paths more than {storage.weakest_path_db:g} dB below the "
                    "strongest of their row are dropped and count as dropped power"
                ),
                scenario_yaml=_scenario_yaml(scenario),
            )

    def _read(self, scene: int) -> TracedScene:
        """One finished scene; raises one of `_UNREADABLE` for a damaged file (every array has a checksum)."""
        with np.load(self._file(scene)) as arrays:
            found = TracedScene(**{name: arrays[name] for name in arrays.files})
        found.check(len(self._positions), self.scenario.max_paths)
        return found

    def _file(self, scene: int) -> Path:
        return self.folder / f"scene_{scene:05d}.npz"

    def _write(self, file: Path, content: bytes, what: str) -> None:
        """Write a file whole or not at all."""
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(file)
            sync_folder(file.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise self._unwritable(error, what, file) from None

    def _unwritable(self, error: OSError, what: str, file: Path | None = None) -> DataError:
        kept = f"{self.kept} finished scene{'s are' if self.kept != 1 else ' is'} kept"
        return DataError(
            f"{what} cannot be written: {error.strerror or error}",
            where=str(file or self.folder),
            fix=f"free space on the disk; {kept}, and the same command goes on"
            if is_full(error)
            else "name another folder, or one that you may write to",
        )


# Zip files with changed bytes make the reader raise any of these.
_UNREADABLE = (
    OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, MemoryError, OverflowError, IndexError,
    AttributeError, struct.error, zipfile.BadZipFile, zlib.error, DataError,
)  # fmt: skip


def _reason(error: Exception) -> str:
    """Why a file cannot be read; NumPy's own words would advise to read a damaged one without its checks."""
    return error.strerror or str(error) if isinstance(error, OSError) else "it is damaged or incomplete"


def _scenario_hash(scenario: Scenario) -> str:
    return hashlib.sha256(json.dumps(scenario.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def _scenario_yaml(scenario: Scenario) -> str:
    import yaml

    return yaml.safe_dump(scenario.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
