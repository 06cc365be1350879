"""Measurements on disk, and what finished studies tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up import DEVICE, KEY, observation

from study.data.dataset import SiteData
from study.data.site import open_site
from study.errors import ResultsError
from study.execution import run_trial
from study.methods import load_study
from study.observers import runs_of
from study.planning.durations import Durations
from study.planning.knowledge import calibration_folder, check_devices, gather
from study.planning.observations import (
    CALIBRATION_SCHEMA,
    Observation,
    Versions,
    is_sound,
    of_engine,
    of_study,
    read_calibrations,
    write_calibration,
)
from study.provenance import Provenance
from study.spec.expand import expand
from study.store import Store, TrialTables


def test_a_calibration_reads_as_it_was_written(tmp_path: Path) -> None:
    found = [
        observation(),
        observation("synthesis_s", 1e-5, None, detail="adp 25 16 32"),
        observation("gap_s", 0.1, None, detail="tune", device=replace(DEVICE, node_type="box")),
    ]
    write_calibration(tmp_path, found)
    write_calibration(tmp_path, [observation(session="two")])
    read, damaged = read_calibrations(tmp_path, required=True)
    assert sorted(map(repr, read)) == sorted(map(repr, [*found, observation(session="two")]))
    assert damaged == []


def _damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def _other_format(path: Path) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata({"format": "study-calibration/9"}), path)


def _other_columns(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns(["count"]), path)


def _negative(path: Path) -> None:
    table = pq.read_table(path)
    values = pa.array([-1.0] * table.num_rows)
    pq.write_table(
        table.set_column(table.schema.get_field_index("value"), CALIBRATION_SCHEMA.field("value"), values), path
    )


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_damage, "cannot be read"),
        (_other_format, "study-calibration/9"),
        (_other_columns, "other columns"),
        (_negative, "impossible step_s"),
    ],
)
def test_a_calibration_that_cannot_be_used(tmp_path: Path, spoil: Callable[[Path], None], reason: str) -> None:
    path = write_calibration(tmp_path, [observation()])
    spoil(path)
    with pytest.raises(ResultsError, match=reason):
        read_calibrations(path, required=True)
    read, damaged = read_calibrations(tmp_path, required=False)
    assert read == []
    assert [item.path for item in damaged] == [path]


@pytest.mark.parametrize(
    "found",
    [
        observation(value=1e308),
        observation(value=float("nan")),
        observation(device=replace(DEVICE, trials=0)),
        observation(device=replace(DEVICE, threads=-4)),
        observation(value=1.0, work=replace(KEY, network="huge")),
        observation(value=1.0, work=replace(KEY, rows=0)),
        observation(value=1.0, work=replace(KEY, rows=1)),
        observation(value=1.0, work=replace(KEY, batch=0)),
        observation(value=1.0, work=replace(KEY, workers=None)),  # type: ignore[arg-type]
        observation(value=1.0, work=replace(KEY, branches="many")),
        observation("synthesis_s", 1e-5, None, detail="adp nan 64 64"),
        observation("synthesis_s", 1e-5, None, detail="adp 1e999 64 64"),
        observation("synthesis_s", 1e-5, None, detail="adp -5 64 64"),
    ],
)
def test_what_no_measurement_can_say_is_left_out(tmp_path: Path, found: Observation) -> None:
    write_calibration(calibration_folder(tmp_path), [found])
    known = gather(tmp_path)
    assert known.observations == []
    assert "was left out" in known.notes[0]


def test_a_missing_calibration_is_an_error_only_where_it_was_named(tmp_path: Path) -> None:
    assert gather(tmp_path).observations == []
    with pytest.raises(ResultsError, match="no such calibration"):
        gather(tmp_path, tmp_path / "nowhere")


def test_measurements_of_another_version_are_left_out_or_refused(tmp_path: Path) -> None:
    old = observation(versions=Versions("0.0.1", "1.13.0"))
    place = calibration_folder(tmp_path)
    write_calibration(place, [old])
    known = gather(tmp_path)
    assert known.observations == []
    assert "study 0.0.1 with torch 1.13.0" in known.notes[0]
    with pytest.raises(ResultsError, match="other versions"):
        gather(tmp_path, place)


def test_a_named_calibration_of_another_device_is_refused(tmp_path: Path) -> None:
    write_calibration(tmp_path, [observation()])
    known = gather(tmp_path, tmp_path)
    own = Durations(known.observations, DEVICE, None, gpu=False)
    check_devices([own], tmp_path, known)
    other = Durations(known.observations, replace(DEVICE, name="Another"), None, gpu=False)
    with pytest.raises(ResultsError, match="another device: Test processor"):
        check_devices([other], tmp_path, known)


# --- finished studies ---------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path, write_spec: Callable[..., Path]) -> Store:
    """Three real trials of one process: a network on two seeds, and a reference row."""
    spec = load_study(write_spec(axes={"method": ["HDA"]}, references=["KNN"], search=None))
    store = Store(tmp_path / "small")
    site = open_site("canyon_small")
    data = SiteData(site, "cpu")
    with store.locked():
        store.write_site({"name": site.name, "data_hash": site.data_hash})
        store.write_spec(spec.model_dump(mode="json", by_alias=True))
        for cell in expand(spec):
            for trial in cell.trials(spec.seeds, site.data_hash):
                run = run_trial(trial, data, Provenance.here(), device_trials=2)
                try:
                    while True:
                        next(run)
                except StopIteration as end:
                    store.write(end.value)
    return store


def test_trials_tell_what_their_steps_took(study: Store) -> None:
    rows = [row for row in study.load().rows.values() if row["method"] == "HDA"]
    found = of_study(study, "small")
    assert all(isinstance(item, Observation) for item in found)
    (step,) = [item for item in found if item.quantity == "step_s"]
    assert step.count == 2
    assert step.source == "small"
    assert (step.device.threads, step.device.trials) == (rows[0]["threads"], 2)
    assert step.work is not None
    assert (step.work.method, step.work.batch, step.work.target, step.work.conditions) == ("HDA", 128, True, 3)
    each = sorted((row["train_seconds"] - row["validation_seconds"]) / (2 * 3) for row in rows)
    assert each[0] <= step.value <= each[1]
    (look,) = [item for item in found if item.quantity == "evaluation_s"]
    assert look.value == pytest.approx(sum(row["validation_seconds"] for row in rows) / 2 / (2 * 160), rel=0.5)
    assert {item.quantity for item in found} == {
        "step_s", "evaluation_s", "setup_s", "fit_s", "predict_s", "base_memory_mb", "synthesis_s",
    }  # fmt: skip
    (made,) = [item for item in found if item.quantity == "synthesis_s"]
    assert made.detail == "adp 25 16 16"
    assert made.value == pytest.approx(max(row["data_seconds"] for row in study.load().rows.values()) / 960)


def test_parts_of_a_trial_are_all_of_it(study: Store) -> None:
    for row in study.load().rows.values():
        parts = [row[name] or 0.0 for name in ("data_seconds", "setup_seconds", "train_seconds")]
        assert sum(parts) < row["trial_seconds"]
        if row["method"] == "HDA":
            assert 0 < row["validation_seconds"] < row["train_seconds"]
            assert row["validation_samples"] == 160


def test_rows_of_before_tell_nothing(study: Store) -> None:
    row = dict(next(row for row in study.load().rows.values() if row["method"] == "HDA"))
    old = Store(study.folder.parent / "old")
    with old.locked():
        old.write(TrialTables({**row, "validation_seconds": None}))
    assert of_study(old, "old") == []


@pytest.mark.parametrize(("threads", "counts"), [(1, False), (2, True)])
def test_trials_that_were_slower_than_they_had_to_be_tell_nothing(study: Store, threads: int, counts: bool) -> None:
    """Without a compiler, say: layer by layer, which with several threads is the only way."""
    row = dict(next(row for row in study.load().rows.values() if row["method"] == "HDA"))
    slow = Store(study.folder.parent / f"slow{threads}")
    with slow.locked():
        slow.write(TrialTables({**row, "step": "eager", "threads": threads}))
    assert any(item.quantity == "step_s" for item in of_study(slow, "slow")) == counts


@pytest.mark.parametrize(
    "change",
    [
        {"validation_samples": 0},
        {"train_samples": 2**62},
        {"train_samples": 1},
        {"epochs": 0},
        {"train_seconds": 1e308},
        {"trial_seconds": 0.0},
        {"config": "{}"},
        {"device_trials": 0},
    ],
)
def test_impossible_rows_tell_nothing_odd(study: Store, change: dict[str, Any]) -> None:
    odd = Store(study.folder.parent / "odd")
    with odd.locked():
        for row in study.load().rows.values():
            odd.write(TrialTables({**row, **change}))
    assert all(is_sound(item) for item in of_study(odd, "odd"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("training", "batch_size"), 0),
        (("network", "preset"), "huge"),
        (("network", "preset"), ["small"]),
        (("branches",), ["shared"]),
        (("objective",), []),
        (("system", "antennas"), "many"),
    ],
)
def test_odd_configurations_tell_nothing(study: Store, path: tuple[str, ...], value: Any) -> None:
    row = dict(next(row for row in study.load().rows.values() if row["method"] == "HDA"))
    config = json.loads(row["config"])
    place = config
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    odd = Store(study.folder.parent / "odd")
    with odd.locked():
        odd.write(TrialTables({**row, "config": json.dumps(config)}))
    assert all(item.work is None for item in of_study(odd, "odd"))


def test_a_folder_of_studies_tells_by_itself(study: Store) -> None:
    known = gather(study.folder.parent)
    assert known.studies == ["small"]
    assert known.without("small").observations == []
    assert len(known.rows) == 3


def _log(store: Store, events: list[tuple[float, str, dict[str, Any]]]) -> None:
    began = datetime(2026, 3, 1, 10, tzinfo=UTC)
    lines = [
        json.dumps({"time": (began + timedelta(seconds=at)).isoformat(), "event": kind, **rest})
        for at, kind, rest in events
    ]
    store.folder.mkdir(exist_ok=True)
    store.events.write_text("\n".join([*lines, "{broken"]) + "\n")


def test_the_engines_time_is_what_trials_did_not_take(study: Store) -> None:
    rows = list(study.load().rows.values())
    keys = [row["key"] for row in rows]
    seconds = [row["trial_seconds"] for row in rows]
    events: list[tuple[float, str, dict[str, Any]]] = [(0, "run_started", {"slots": 1})]
    clock = 5.0
    for number, (key, took) in enumerate(zip(keys, seconds, strict=True)):
        events.append((clock, "trial_started", {"key": key}))
        clock += took + (3.0 if number == 0 else 0.25)
        events.append((clock, "trial_finished", {"key": key}))
    events.append((clock + 2, "run_ended", {}))
    events += [(clock + 100, "run_started", {"slots": 1}), (clock + 110, "trial_started", {"key": "x"})]
    _log(study, events)
    finished, killed = runs_of(study.events)
    assert (finished.ended, killed.ended) == (True, False)
    assert finished.wall_s == pytest.approx(clock + 2, abs=0.01)
    assert killed.wall_s == pytest.approx(10, abs=0.01)
    found = {item.quantity: item.value for item in of_engine(study, "small", rows, "tune")}
    assert found["start_s"] == pytest.approx(5, abs=0.01)
    assert found["gap_s"] == pytest.approx(0.25, abs=0.01)
    assert found["first_s"] == pytest.approx(2.75, abs=0.01)
    assert found["end_s"] == pytest.approx(2, abs=0.01)


def test_work_is_known_by_what_decides_its_time() -> None:
    assert replace(KEY, method="HDA") != KEY
    assert "batch 128" in str(KEY)
    assert "made per batch (adp 25)" in str(replace(KEY, making="adp 25"))
