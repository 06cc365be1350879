"""The store: whole rows or none, and nothing damaged is read."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from study.errors import ResultsError
from study.store import EPOCH_SCHEMA, ERROR_SCHEMA, TRIAL_SCHEMA, Store, TrialTables


def _tables(key: str = "0123456789abcdef", **changes: Any) -> TrialTables:
    row = {"key": key, "state": "done", "method": "DCNN", "seed": 0, "config": "{}", "test_rmse_m": 1.5, **changes}
    epochs = {"epoch": [1, 2], "train_loss": [2.0, 1.0], "validation_rmse_m": [3.0, 2.5]}
    errors = {"scene": [0], "position": [3], "error_m": [1.5]}
    return TrialTables(row, epochs, errors)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "study")
    store.write(_tables(test_recall=[0.5, 1.0], classes=["LOS", "NLOS"], error=None))
    stored = store.load()
    assert not stored.damaged
    row = stored.rows["0123456789abcdef"]
    assert (row["test_rmse_m"], row["test_recall"], row["classes"]) == (1.5, [0.5, 1.0], ["LOS", "NLOS"])
    assert set(row) == set(TRIAL_SCHEMA.names)


def test_documented_columns_are_the_columns() -> None:
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    for schema in (TRIAL_SCHEMA, EPOCH_SCHEMA, ERROR_SCHEMA):
        for name in schema.names:
            assert f"`{name}`" in text, name


@pytest.mark.parametrize("keep", [0, 1, 4, 100, -1, -8])
def test_a_file_cut_short_is_reported_and_is_no_result(tmp_path: Path, keep: int) -> None:
    store = Store(tmp_path)
    store.write(_tables())
    store.write(_tables("fedcba9876543210"))
    path = tmp_path / "trials" / "0123456789abcdef.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    stored = store.load()
    assert list(stored.rows) == ["fedcba9876543210"]
    assert [item.path for item in stored.damaged] == [path]
    assert stored.damaged[0].reason


def test_every_flipped_block_is_noticed_or_changes_nothing_of_the_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(_tables())
    path = tmp_path / "trials" / "0123456789abcdef.parquet"
    whole = path.read_bytes()
    for start in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:start] + b"\x00" * 64 + whole[start + 64 :])
        stored = store.load()
        assert stored.damaged or set(stored.rows) == {"0123456789abcdef"}


def test_foreign_files_are_no_results(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(_tables())
    good = tmp_path / "trials" / "0123456789abcdef.parquet"
    (tmp_path / "trials" / "renamed.parquet").write_bytes(good.read_bytes())
    (tmp_path / "trials" / "epochs.parquet").write_bytes((tmp_path / "epochs" / good.name).read_bytes())
    (tmp_path / "trials" / "text.parquet").write_text("hello")
    (tmp_path / "trials" / ".half.parquet.1.tmp").write_bytes(good.read_bytes()[:50])
    stored = store.load()
    assert list(stored.rows) == ["0123456789abcdef"]
    assert {item.path.name for item in stored.damaged} == {"renamed.parquet", "epochs.parquet", "text.parquet"}


@pytest.mark.parametrize("config", ["[]", "3", "null", '"text"', "{", ""])
def test_a_configuration_that_is_no_mapping_is_no_result(tmp_path: Path, config: str) -> None:
    store = Store(tmp_path)
    store.write(_tables(config=config))
    assert not store.load().rows
    assert store.load().damaged[0].reason
    with pytest.raises(ResultsError, match="damaged"):
        store.find("0123")


def test_leftovers_of_a_killed_driver_are_removed_by_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(_tables())
    leftover = tmp_path / "trials" / ".0123.parquet.1.tmp"
    leftover.write_bytes(b"half")
    with store.locked():
        assert not leftover.exists()
    assert len(store.load().rows) == 1


def _kill_while_writing(folder: str) -> None:
    store = Store(Path(folder))
    real = os.fsync

    def fsync(handle: int) -> None:
        real(handle)
        os._exit(9)  # the power goes after the content is on disk and before the rename

    os.fsync = fsync
    store.write(_tables())


def test_a_writer_that_dies_leaves_no_row(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_kill_while_writing, args=(str(tmp_path),))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    stored = Store(tmp_path).load()
    assert not stored.rows
    assert not stored.damaged


def test_a_second_driver_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    code = "import sys, pathlib; from study.store import Store\nwith Store(pathlib.Path(sys.argv[1])).locked(): pass"
    with store.locked():
        assert store.is_locked()
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert f"process {os.getpid()} on" in done.stderr
    assert not store.is_locked()
    with store.locked():
        pass


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(ResultsError, match="No space left") as caught:
        Store(tmp_path).write(_tables())
    assert "free some space" in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_key_is_found_by_its_first_digits(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(_tables())
    store.write(_tables("0123ffffffffffff"))
    assert store.find("01234")["key"] == "0123456789abcdef"
    with pytest.raises(ResultsError, match="2 trials have"):
        store.find("0123")
    with pytest.raises(ResultsError, match="no trial has"):
        store.find("9")


def test_the_site_is_remembered(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.read_site() is None
    store.write_site({"name": "x", "data_hash": "y"})
    assert store.read_site() == {"name": "x", "data_hash": "y"}
    (tmp_path / "site.json").write_text(json.dumps([1]))
    assert store.read_site() is None
