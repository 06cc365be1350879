"""Everything that was measured before: calibrations, and all studies of the results folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.errors import ResultsError, StudyError
from study.planning.durations import Durations
from study.planning.observations import Device, Observation, Versions, of_study, read_calibrations
from study.store import Store, is_study, studies_in

__all__ = ["Knowledge", "calibration_folder", "check_devices", "gather", "studies_at"]


def calibration_folder(results: Path) -> Path:
    """Where calibrations are kept."""
    return results / "calibration"


@dataclass
class Knowledge:
    """What a plan may rest on.

    Attributes:
        observations: measurements with the installed versions.
        rows: rows of the trial tables of all studies, for their best epochs.
        studies: names of the studies that told something.
        notes: what was left out, and why.
    """

    observations: list[Observation] = field(default_factory=list)
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    studies: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def without(self, study: str) -> Knowledge:
        """All but what a study told."""
        return Knowledge(
            [item for item in self.observations if item.source != study],
            self.rows,
            [name for name in self.studies if name != study],
            self.notes,
        )


def studies_at(results: Path) -> list[Path]:
    """The results folders of studies in a folder, or that folder itself."""
    return [results] if is_study(results) else studies_in(results)


def gather(results: Path, calibration: Path | None = None) -> Knowledge:
    """Read what was measured.

    Args:
        results: folder of all results; its studies tell by themselves.
        calibration: a calibration, or a folder of some, that the user named; by default those beside the results.

    Raises:
        ResultsError: a named calibration is missing, damaged, or was measured with other versions.
    """
    known = Knowledge()
    here = Versions.here()
    place = calibration or calibration_folder(results)
    measured, damaged = read_calibrations(place, required=calibration is not None)
    known.notes += [f"A calibration cannot be read and was left out: {item}." for item in damaged]
    if calibration is not None and measured and all(item.versions != here for item in measured):
        theirs = "; ".join(sorted({str(item.versions) for item in measured}))
        raise ResultsError(
            f"the calibration was measured with other versions: {theirs}",
            where=str(calibration),
            allowed=str(here),
            fix="calibrate again with `study calibrate SPEC`, or leave --calibration out",
        )
    for folder in studies_at(results):
        try:
            store = Store(folder)
            found = of_study(store, folder.name)
            known.rows += store.load().rows.values()
        except (StudyError, OSError) as error:
            known.notes.append(f"The study {folder.name} cannot be read and was left out: {error}".splitlines()[0])
            continue
        if found:
            known.studies.append(folder.name)
            measured += found
    old = sorted({str(item.versions) for item in measured if item.versions != here})
    if old:
        known.notes.append(f"Measurements of other versions were left out ({'; '.join(old)}; this is {here}).")
    known.observations = [item for item in measured if item.versions == here]
    return known


def check_devices(durations: Sequence[Durations], calibration: Path, known: Knowledge) -> None:
    """Whether a calibration that the user named is of the devices of the cluster.

    Raises:
        ResultsError: nothing in it is.
    """
    if any(item.measured for item in durations):
        return
    theirs = sorted({f"{item.device.name} ({item.device.threads} threads)" for item in known.observations})
    asked = sorted(
        {f"{item.device.name or item.device.node_type} ({item.device.threads} threads)" for item in durations}
    )
    raise ResultsError(
        f"the calibration is of another device: {', '.join(theirs)}",
        where=str(calibration),
        allowed=f"a calibration of {', '.join(asked)}",
        fix="run `study calibrate` with this cluster file, or leave --calibration out to plan by counted operations",
    )


def _words(device: Device) -> str:
    return f"{device.name or device.node_type} ({device.threads} CPU threads)"
