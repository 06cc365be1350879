"""What was measured: from calibrations, which are files of their own, and from the rows of finished studies.

A measurement is one quantity of one kind of work on one kind of device, in one session: a calibration, or a day of a
study. Sessions matter because a machine is not equally fast on all days. docs/planning.md lists the columns.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.settings import BACKBONES, InputTooSmallError
from study import __version__
from study.data.system import SystemConfiguration
from study.errors import ResultsError
from study.observers import Run, runs_of
from study.planning.record import read_plan
from study.planning.work import WorkKey, making_of, operations_of, work_key
from study.result_files import READ_ERRORS, Damaged, damage, new_file, read_plain_file
from study.store import Store

__all__ = [
    "CALIBRATION_SCHEMA",
    "Device",
    "Observation",
    "Quantity",
    "Versions",
    "is_sound",
    "making_size",
    "of_engine",
    "of_study",
    "read_calibrations",
    "write_calibration",
]

CALIBRATION_FORMAT = "study-calibration/1"
_MOST_BYTES = 100_000_000
_MOST_ROWS = 1_000_000
# No quantity is smaller or larger, in its unit.
_LEAST, _MOST = 1e-12, 1e9
_MOST_COUNT = 100_000_000

Quantity = Literal[
    "step_s",  # a training step
    "evaluation_s",  # a sample of an evaluation
    "setup_s",  # building a network, and what else comes before the first step
    "synthesis_s",  # making the fingerprint of a sample
    "fit_s",  # a reference row: a labelled sample
    "predict_s",  # a reference row: a sample; of KNN, and a labelled sample
    "base_memory_mb",  # peak memory of a process beside its fingerprints and paths
    "start_s",  # from the start of a run to its first trial
    "first_s",  # what the first trial of a process takes longer, beside itself
    "gap_s",  # beside any trial, until its process has the next one
    "end_s",  # from the last trial to the end of Ray
]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)


@dataclass(frozen=True, order=True)
class Device:
    """What was measured on.

    Attributes:
        name: the GPU, or the processor where there is none.
        threads: CPU threads of a process.
        trials: processes that shared it: the GPU, or the machine.
        node_type: the machine's name in the cluster file; empty where that has none.
    """

    name: str
    threads: int
    trials: int
    node_type: str = ""


@dataclass(frozen=True)
class Versions:
    """Software that the seconds depend on."""

    study: str
    torch: str

    @classmethod
    def here(cls) -> Versions:
        """Of this installation; torch is not imported for it."""
        try:
            torch = metadata.version("torch")
        except metadata.PackageNotFoundError:
            torch = ""
        return cls(__version__, _public(torch))

    def __str__(self) -> str:
        return f"study {self.study} with torch {self.torch}"


@dataclass(frozen=True)
class Observation:
    """A measurement.

    Attributes:
        quantity: what was measured.
        value: its median, in the unit that the quantity's name ends with.
        low, high: quartiles of the single values.
        count: how many single values there were.
        session: which calibration, or which day of which study.
        source: ``calibration``, or the study's name.
        measured_at: ISO 8601.
        device: on what.
        work: of what; None for the quantities of the engine and of fingerprints.
        detail: ``tune`` or ``ray_train`` for the engine's, what is made for ``synthesis_s``; otherwise empty.
        versions: of the software.
    """

    quantity: Quantity
    value: float
    low: float
    high: float
    count: int
    session: str
    source: str
    measured_at: str
    device: Device
    work: WorkKey | None
    detail: str
    versions: Versions

    @property
    def calibrated(self) -> bool:
        """Whether a calibration measured it, with a few steps; otherwise whole trials did."""
        return self.source == "calibration"

    @classmethod
    def of(
        cls,
        quantity: Quantity,
        values: Iterable[float],
        *,
        session: str,
        source: str,
        measured_at: str,
        device: Device,
        work: WorkKey | None = None,
        detail: str = "",
        versions: Versions | None = None,
    ) -> Observation | None:
        """The median and quartiles of single values; None where there is none that a logarithm can be taken of."""
        usable = sorted(value for value in values if math.isfinite(value) and value > 0)
        if not usable:
            return None
        low, middle, high = np.quantile(usable, (0.25, 0.5, 0.75)).tolist()
        return cls(
            quantity, middle, low, high, len(usable), session, source, measured_at, device, work, detail,
            versions or Versions.here(),
        )  # fmt: skip


def is_sound(item: Observation) -> bool:
    """Whether a measurement can be one: files and results folders may come from a stranger, or from another version."""
    numbers = (item.low, item.value, item.high)
    if not all(isinstance(number, float) and _LEAST <= number <= _MOST for number in numbers):
        return False
    if not (item.low <= item.value <= item.high and item.count >= 1):
        return False
    device = item.device
    if not (_is_count(device.threads) and _is_count(device.trials) and isinstance(device.name, str)):
        return False
    if item.quantity == "synthesis_s" and not 0 < making_size(item.detail) < _MOST:
        return False
    return item.work is None or _is_sound_work(item.work)


def _is_sound_work(key: WorkKey) -> bool:
    counts = (key.channels, key.rows, key.columns, key.workers, key.conditions + 1, key.batch + 1)
    words = (key.method, key.branches, key.network, key.making, key.precision)
    if not all(map(_is_count, counts)) or not all(isinstance(word, str) for word in words):
        return False
    if key.branches not in ("", "shared", "twin") or key.network not in ("", *BACKBONES):
        return False
    try:
        return not key.trained or (key.batch > 0 and operations_of(key).step > 0)
    except InputTooSmallError:
        return False


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_COUNT


def making_size(detail: str) -> float:
    """How much there is to compute for a fingerprint: ``adp 25 64 64`` → paths × rows × columns; 0 where unknown."""
    try:
        _, paths, rows, columns = detail.split()
        return float(paths) * float(rows) * float(columns)
    except (ValueError, AttributeError):
        return 0.0


def _column_type(annotation: Any) -> pa.DataType:
    return {"int": pa.int64(), "bool": pa.bool_()}.get(str(annotation), pa.string())


CALIBRATION_SCHEMA = pa.schema(
    [
        pa.field("quantity", pa.string(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in ("value", "low", "high")),
        pa.field("count", pa.int64(), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in ("session", "source", "measured_at", "detail")),
        *(pa.field(f"device_{item.name}", _column_type(item.type), nullable=False) for item in fields(Device)),
        *(pa.field(f"work_{item.name}", _column_type(item.type)) for item in fields(WorkKey)),
        *(pa.field(f"{item.name}_version", pa.string(), nullable=False) for item in fields(Versions)),
    ]
)


# ------------------------------------------------------------------------------------------------- calibrations


def write_calibration(folder: Path, found: Iterable[Observation]) -> Path:
    """Write what a calibration measured into a file of its own, whole or not at all.

    Raises:
        ResultsError: the folder cannot be written.
    """
    rows = []
    for item in found:
        work = {item.name: None for item in fields(WorkKey)} if item.work is None else asdict(item.work)
        rows.append(
            {
                **{name: getattr(item, name) for name in ("quantity", "value", "low", "high", "count")},
                **{name: getattr(item, name) for name in ("session", "source", "measured_at", "detail")},
                **{f"device_{name}": value for name, value in asdict(item.device).items()},
                **{f"work_{name}": value for name, value in work.items()},
                **{f"{name}_version": value for name, value in asdict(item.versions).items()},
            }
        )
    schema = CALIBRATION_SCHEMA.with_metadata({"format": CALIBRATION_FORMAT})
    table = pa.Table.from_pylist(rows, schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.parquet"
    with new_file(path) as file:
        file.write(sink.getvalue())
    return path


def read_calibrations(place: Path, *, required: bool) -> tuple[list[Observation], list[Damaged]]:
    """All calibrations of a folder, or of one file.

    Args:
        place: the folder, or the file.
        required: whether the user named it: what cannot be used is an error then, and not passed over.

    Returns:
        The measurements, and the files that cannot be read.

    Raises:
        ResultsError: a required one is missing, damaged or of another format.
    """
    if place.is_file():
        files = [place]
    else:
        files = sorted(path for path in place.glob("*.parquet") if not path.name.startswith("."))
    if required and not files:
        raise ResultsError(
            "there is no calibration" if place.exists() else "there is no such calibration",
            where=str(place),
            allowed="a file that `study calibrate` wrote, or a folder of such files",
            fix="run `study calibrate SPEC --cluster FILE`, or leave --calibration out",
        )
    found: list[Observation] = []
    damaged: list[Damaged] = []
    for path in files:
        try:
            found += _read(path)
        except (*READ_ERRORS, TypeError) as error:
            if required:
                raise ResultsError(
                    f"the calibration cannot be read: {damage(path, error).reason}",
                    where=str(path),
                    allowed=f"a file that `study calibrate` of study {__version__} wrote",
                    fix="calibrate again, or leave this file out",
                ) from None
            damaged.append(damage(path, error))
    return found, damaged


def _read(path: Path) -> list[Observation]:
    file = pq.ParquetFile(pa.BufferReader(read_plain_file(path, _MOST_BYTES, follow=True)))
    form = (file.schema_arrow.metadata or {}).get(b"format", b"").decode(errors="replace")
    if form != CALIBRATION_FORMAT:
        raise ValueError(f"its format is {form or 'unknown'}, not {CALIBRATION_FORMAT}")
    if file.metadata.num_rows > _MOST_ROWS:
        raise ValueError(f"{file.metadata.num_rows:,} rows are more than a calibration can have")
    if file.schema_arrow.remove_metadata() != CALIBRATION_SCHEMA:
        raise ValueError("it has other columns than a calibration")
    return [_observation(row) for row in file.read().to_pylist()]


def _observation(row: Mapping[str, Any]) -> Observation:
    numbers = [row[name] for name in ("value", "low", "high")]
    if row["quantity"] not in QUANTITIES:
        raise ValueError(f"it has an unknown quantity: {row['quantity']!r}")
    work = {item.name: row[f"work_{item.name}"] for item in fields(WorkKey)}
    found = Observation(
        **{name: row[name] for name in ("quantity", "value", "low", "high", "count")},
        **{name: row[name] for name in ("session", "source", "measured_at", "detail")},
        device=Device(**{item.name: row[f"device_{item.name}"] for item in fields(Device)}),
        work=None if work["method"] is None else WorkKey(**work),
        versions=Versions(**{item.name: row[f"{item.name}_version"] for item in fields(Versions)}),
    )
    if not is_sound(found):
        raise ValueError(f"it has an impossible {row['quantity']}: {numbers}, {found.work or found.detail}")
    return found


# ------------------------------------------------------------------------------------------------- finished studies


def of_study(store: Store, name: str) -> list[Observation]:
    """What the trials of a study tell: seconds of steps, evaluations and set-up, memory, and the engine's overhead.

    Rows that were written before these were recorded tell nothing, and neither do trials that did not end well, nor
    those that were slower than trials are, such as for want of a compiler.
    """
    rows = [
        row for row in store.load().rows.values() if row["state"] == "done" and _is_timed(row) and not _is_slowed(row)
    ]
    plan = read_plan(store.folder)
    trainer = "tune" if plan is None or isinstance(plan, str) else plan.trainer
    values: dict[tuple[Quantity, str, Device, WorkKey | None, str, Versions], list[float]] = defaultdict(list)
    made: dict[tuple[Any, ...], float] = {}
    started: dict[str, str] = {}
    for row in rows:
        try:
            config = json.loads(row["config"])
            key = work_key(
                config, row["train_samples"], kept=row["fingerprints"] != "per batch", workers=row["workers"] or 1
            )
            system = SystemConfiguration.model_validate(config["system"])
            hash(key)  # a list where a word should stand
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, RecursionError):
            continue  # of a stranger, or of another version
        day = str(row["started_at"])[:10]
        device = Device(
            row["processor"] if row["device"] == "cpu" else row["device"], row["threads"], row["device_trials"]
        )
        versions = Versions(row["study_version"] or "", _public(row["torch_version"] or ""))
        started[day] = min(started.get(day, "9"), str(row["started_at"]))

        def add(
            quantity: Quantity,
            value: float,
            work: WorkKey | None = key,
            detail: str = "",
            *,
            at: tuple[str, Device, Versions] = (day, device, versions),
        ) -> None:
            values[quantity, at[0], at[1], work, detail, at[2]].append(value)

        seen = row["train_samples"] + row["validation_samples"] + row["test_samples"]
        if min(row["train_samples"], row["validation_samples"], row["test_samples"]) < 1 or seen > _MOST_COUNT:
            continue
        if key.trained and not (row["epochs"] and row["train_samples"] >= key.batch >= 1):
            continue
        if key.trained:
            epochs, steps = row["epochs"], row["train_samples"] // key.batch
            add("step_s", (row["train_seconds"] - row["validation_seconds"]) / (epochs * steps))
            add("evaluation_s", row["validation_seconds"] / (epochs * row["validation_samples"]))
            add("setup_s", row["setup_seconds"])
        else:
            rest = row["trial_seconds"] - row["data_seconds"] - row["train_seconds"]
            add("fit_s", row["train_seconds"] / row["train_samples"])
            pairs = row["train_samples"] if key.method == "KNN" else 1
            add("predict_s", rest / ((row["validation_samples"] + row["test_samples"]) * pairs))
        if key.making == "":
            add("base_memory_mb", row["peak_memory_mb"] - seen * key.elements * 4 / 2**20)
            # The slowest of those that share fingerprints has made them, the others found them made.
            making = (day, device, versions, f"{making_of(system)} {key.rows} {key.columns}", seen)
            made[making] = max(made.get(making, 0.0), row["data_seconds"] / seen)
    for (day, device, versions, detail, _), seconds in made.items():
        values["synthesis_s", day, device, None, detail, versions].append(seconds)
    found = [
        Observation.of(
            quantity, numbers, session=f"{name} {day}", source=name, measured_at=started[day],
            device=device, work=work, detail=detail, versions=versions,
        )
        for (quantity, day, device, work, detail, versions), numbers in values.items()
    ]  # fmt: skip
    told = [item for item in found if item is not None] + of_engine(store, name, rows, trainer)
    return [item for item in told if is_sound(item)]


def _is_slowed(row: Mapping[str, Any]) -> bool:
    """Whether a trial was computed in a slower way than its device has; with several threads there is no other."""
    return row.get("step") == "eager" and row["device"] == "cpu" and row["threads"] == 1


def _is_timed(row: Mapping[str, Any]) -> bool:
    needed = ["train_samples", "validation_samples", "test_samples", "train_seconds", "trial_seconds", "data_seconds"]
    needed += ["device", "processor", "threads", "device_trials", "fingerprints", "peak_memory_mb"]
    needed += ["epochs", "validation_seconds", "setup_seconds"] if row.get("epochs") is not None else []
    return all(row.get(name) is not None for name in needed) and row["train_samples"] > 0


def of_engine(
    store: Store, source: str, rows: Iterable[Mapping[str, Any]], trainer: str, node_type: str = ""
) -> list[Observation]:
    """Seconds before the first trial, between trials and after the last one, of each run that came to its end.

    Args:
        store: the study, with its event log.
        source: ``calibration`` or the study's name.
        rows: its trials that tell their seconds.
        trainer: ``tune`` or ``ray_train``.
        node_type: of the machines.
    """
    inside = {row["key"]: row for row in rows}
    found: list[Observation] = []
    if not inside:
        return found
    any_row = next(iter(inside.values()))
    device = Device(
        any_row["processor"] if any_row["device"] == "cpu" else any_row["device"],
        any_row["threads"],
        any_row["device_trials"],
        node_type,
    )
    versions = Versions(any_row["study_version"] or "", _public(any_row["torch_version"] or ""))
    for number, run in enumerate(_runs(store)):
        shared: dict[str, Any] = {
            "session": f"{source} {run.began[:10]}", "source": source, "measured_at": run.began, "device": device,
            "detail": trainer, "versions": versions,
        }  # fmt: skip
        if not run.ended or number > 1000:
            continue
        gaps = [seconds - inside[key]["trial_seconds"] for key, seconds in run.trials.items() if key in inside]
        # The first trials start processes, which the others find running.
        firsts, others = gaps[: run.slots], gaps[run.slots :]
        usual = statistics.median(others) if others else 0.0
        found += [
            item
            for item in (
                Observation.of("start_s", [run.start_s], **shared),
                Observation.of("first_s", [statistics.fmean(firsts) - usual] if firsts and others else [], **shared),
                Observation.of("gap_s", [usual], **shared),
                Observation.of("end_s", [run.end_s], **shared),
            )
            if item is not None
        ]
    return found


def _runs(store: Store) -> list[Run]:
    try:
        return runs_of(store.events)
    except (OSError, ValueError):  # no log, or no plain file
        return []


def _public(version: str) -> str:
    """A version without what names the build: ``2.13.0`` of ``2.13.0+cpu``."""
    return re.split(r"\+", version, maxsplit=1)[0]
