"""The store: whole rows or none, and nothing damaged is read."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study.errors import ResultsError
from study.locking import LockTimes
from study.result_files import list_files
from study.store import EPOCH_SCHEMA, ERROR_SCHEMA, TRIAL_SCHEMA, Damaged, Owner, Store, TrialTables

KEY, OTHER, THIRD = "0123456789abcdef", "fedcba9876543210", "8888888888888888"


def _tables(key: str = KEY, **changes: Any) -> TrialTables:
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


def test_what_a_trial_leaves_is_not_printed_value_by_value() -> None:
    """Ray puts the results of every trial into log lines."""

    def words(samples: int) -> str:
        return repr(TrialTables({"key": "0" * 16}, {"epoch": [1] * samples}, {"error_m": [0.5] * samples}))

    assert words(900) == words(1)


def test_many_trials_are_read_with_one_look_at_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder where some trials are merged and others are not: looking for each of them anew takes long."""
    store = Store(tmp_path)
    keys = [f"{number:016x}" for number in range(40)]
    for key in keys[:20]:
        store.write(_tables(key))
    store.compact()
    for key in keys[20:]:
        store.write(_tables(key))
    looks = []
    monkeypatch.setattr("study.store.list_files", lambda *place: looks.append(place) or list_files(*place))
    table, damaged = Store(tmp_path).read_many("errors", keys, ["error_m"])
    assert sorted(table["key"].to_pylist()) == keys
    assert not damaged
    assert len(looks) == 1


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
        assert store.owner() is not None
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert f"process {os.getpid()} on" in done.stderr
    assert store.owner() is None
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


# ------------------------------------------------------------------------------------------------- older files


def test_files_from_before_a_column_was_added_are_read_with_nulls(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(_tables())
    for kind, dropped in (("trials", ["workers", "data_seed", "host"]), ("epochs", ["log_var_position"])):
        path = tmp_path / kind / f"{KEY}.parquet"
        pq.write_table(pq.read_table(path).drop_columns(dropped), path)
    row = store.load().rows[KEY]
    assert (row["workers"], row["data_seed"], row["test_rmse_m"]) == (None, None, 1.5)
    assert store.find(KEY) == row
    epochs = store.read_epochs(KEY)
    assert epochs["log_var_position"].null_count == 2
    store.write(_tables(OTHER, workers=2))
    before = _everything(store)
    assert store.compact().trials == 2
    assert _everything(Store(tmp_path)) == before


@pytest.mark.parametrize("column", ["key", "state", "method", "seed", "config"])
def test_a_file_without_an_essential_column_is_damaged(tmp_path: Path, column: str) -> None:
    store = Store(tmp_path)
    store.write(_tables())
    path = tmp_path / "trials" / f"{KEY}.parquet"
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    stored = store.load()
    assert not stored.rows
    assert column in stored.damaged[0].reason


def test_a_file_of_a_later_version_is_read_and_keeps_its_columns(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in (KEY, OTHER, THIRD):
        store.write(_tables(key))
    path = tmp_path / "trials" / f"{KEY}.parquet"
    pq.write_table(pq.read_table(path).append_column("of_tomorrow", [[1.0]]), path)
    assert store.load().rows[KEY]["test_rmse_m"] == 1.5
    assert store.compact().trials == 2
    assert "of_tomorrow" in pq.read_schema(path).names
    assert set(store.load().rows) == {KEY, OTHER, THIRD}


def test_a_pruned_trial_has_epochs_and_no_errors(tmp_path: Path) -> None:
    store = Store(tmp_path)
    pruned = _tables(state="pruned", epochs=2, planned_epochs=50)
    store.write(TrialTables(pruned.row, pruned.epochs))
    for _ in range(2):
        assert store.find(KEY)["planned_epochs"] == 50
        assert store.read_epochs(KEY)["epoch"].to_pylist() == [1, 2]
        assert store.read_errors(KEY) is None
        store.compact()


def test_a_trial_that_fails_when_retried_keeps_nothing_of_the_attempt_before(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(_tables())
    store.write(TrialTables(_tables(state="failed").row))
    assert store.read_epochs(KEY) is None
    assert store.read_errors(KEY) is None


# ------------------------------------------------------------------------------------------------- compaction


def _everything(store: Store) -> dict[str, Any]:
    """All that a folder says, as plain text: NaN is equal to NaN."""
    rows = store.load().rows
    sides = {key: [store.read_epochs(key), store.read_errors(key)] for key in rows}
    return {
        key: repr((row, [None if table is None else table.to_pylist() for table in sides[key]]))
        for key, row in rows.items()
    }


def _fill(store: Store, count: int, offset: int = 0) -> None:
    for number in range(offset, offset + count):
        changes = {"seed": number, "config": json.dumps({"number": number % 3}), "error": "ü" if number % 2 else None}
        changes |= {"classes": ["LOS", "NLOS"], "confusion": [number, 1, 0, 0], "test_accuracy": float("nan")}
        tables = _tables(f"{number * 7919:016x}", **changes)
        if number % 5 == 4:
            tables = TrialTables({**tables.row, "state": "failed"})
        elif number % 5 == 3:
            tables = TrialTables(
                {**tables.row, "state": "pruned"}, {**tables.epochs, "train_loss": [1.0, float("nan")]}
            )
        store.write(tables)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))


def test_compaction_changes_files_and_no_result(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _fill(store, 23)
    before, row = _everything(store), store.find(f"{7919:016x}")
    done = store.compact()
    assert done.trials == 23
    assert _files(tmp_path) == [f"{kind}/compacted-000001.parquet" for kind in ("epochs", "errors", "trials")]
    assert done.files_after == len(_files(tmp_path))
    for again in (store, Store(tmp_path)):
        assert _everything(again) == before
        assert again.keys() == sorted(before)
        assert again.keys("0" * 15) == [key for key in sorted(before) if key.startswith("0" * 15)]
        assert repr(again.find(row["key"])) == repr(row)
        assert again.read_epochs("f" * 16) is None
    assert store.compact().trials == 0
    _fill(store, 4, offset=23)
    grown = _everything(store)
    assert store.compact().trials == 27
    assert len(_files(tmp_path)) == 3  # generations merge again
    assert _everything(Store(tmp_path)) == grown


def test_a_retried_trial_comes_before_its_compacted_row(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(_tables(state="diverged"))
    store.write(_tables(OTHER))
    store.compact()
    store.write(TrialTables(_tables(state="failed", error="again").row))
    for _ in range(2):
        for reader in (store, Store(tmp_path)):
            assert reader.load().rows[KEY]["state"] == "failed"
            assert reader.find(KEY)["error"] == "again"
            assert reader.read_epochs(KEY) is None
            assert reader.read_epochs(OTHER).num_rows == 2
            assert reader.keys() == sorted([KEY, OTHER])
        store.compact()


def test_a_later_generation_comes_before_an_earlier_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(_tables(state="failed"))
    store.write(_tables(OTHER))
    store.compact()
    old = {name: (tmp_path / name).read_bytes() for name in _files(tmp_path)}
    store.write(_tables())
    store.compact()
    for name, content in old.items():  # as after a crash before the old files went
        (tmp_path / name).write_bytes(content)
    before = _everything(Store(tmp_path))
    assert Store(tmp_path).find(KEY)["state"] == "done"
    assert Store(tmp_path).compact().trials == 2
    assert _everything(Store(tmp_path)) == before
    assert len(_files(tmp_path)) == 3


_COMPACT_AND_DIE = """
import os, signal, sys
from pathlib import Path
import study.store
limit, seen = int(sys.argv[2]), 0
def count(event, arguments):
    global seen
    if event in ("open", "os.rename", "os.remove", "os.mkdir"):
        seen += 1
        if seen == limit:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
study.store.Store(Path(sys.argv[1])).compact()
print(seen)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_of_a_compaction_loses_and_doubles_nothing(tmp_path: Path) -> None:
    template = tmp_path / "template"
    store = Store(template)
    _fill(store, 4)
    store.compact()
    store.write(_tables(f"{7919:016x}", state="diverged"))  # retried
    _fill(store, 2, offset=4)
    before = _everything(store)

    def killed_at(limit: int) -> tuple[int, Path]:
        folder = tmp_path / str(limit)
        shutil.copytree(template, folder)
        done = subprocess.run(
            [sys.executable, "-c", _COMPACT_AND_DIE, str(folder), str(limit)], capture_output=True, timeout=120
        )
        return (0 if done.returncode == -9 else int(done.stdout)), folder

    steps, whole = killed_at(10**9)
    assert len(_files(whole)) == 3
    # Every step would take minutes; the last ones rename and remove, the others read.
    points = sorted({*range(1, steps, max(1, steps // 8)), *range(steps - 26, steps + 1)})
    with ThreadPoolExecutor(2) as threads:
        for died, folder in threads.map(killed_at, points):
            assert died == 0
            after = Store(folder).load()
            assert not after.damaged
            assert _everything(Store(folder)) == before, folder.name
            Store(folder).compact()
            assert _everything(Store(folder)) == before, folder.name
            assert len(_files(folder)) == 3, folder.name
            assert not list(folder.rglob("*.tmp"))
            shutil.rmtree(folder)


def test_a_compaction_that_runs_into_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _fill(store, 20)
    before, files = _everything(store), _files(tmp_path)
    code = (
        "import resource, sys; from pathlib import Path; from study.store import Store\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "Store(Path(sys.argv[1])).compact()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "free some space" in done.stderr
    assert _files(tmp_path) == files
    assert not list(tmp_path.rglob("*.tmp"))
    assert _everything(Store(tmp_path)) == before


def test_a_compaction_that_does_not_read_back_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    _fill(store, 5)
    files, before = _files(tmp_path), _everything(store)
    real = os.fsync

    def fsync(handle: int) -> None:
        real(handle)

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr("study.compaction._digest", lambda table, numbers=iter(range(100)): next(numbers))
    with pytest.raises(ResultsError, match="does not read back"):
        store.compact()
    assert _files(tmp_path) == files
    assert _everything(store) == before


def test_damaged_files_are_never_merged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _fill(store, 6)
    keys = store.keys()
    damaged = [tmp_path / "trials" / f"{keys[0]}.parquet", tmp_path / "errors" / f"{keys[1]}.parquet"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:200])
    done = store.compact()
    assert {item.path for item in done.damaged} == set(damaged)
    assert done.trials == 4
    assert all(path.exists() for path in damaged)
    assert set(store.load().rows) == set(keys[1:])
    assert [item.path for item in store.load().damaged] == damaged[:1]
    assert isinstance(store.read_errors(keys[1]), Damaged)
    assert store.read_errors(keys[2]).num_rows == 1


@pytest.mark.parametrize("kind", ["trials", "epochs", "errors"])
def test_a_damaged_compacted_file_is_reported_and_stays(tmp_path: Path, kind: str) -> None:
    store = Store(tmp_path)
    _fill(store, 6)
    store.compact()
    path = tmp_path / kind / "compacted-000001.parquet"
    whole, keys = path.read_bytes(), store.keys()
    noticed = 0
    for start in range(0, len(whole), max(1, len(whole) // 25)):
        path.write_bytes(
            whole[:start] + bytes(letter ^ 0xFF for letter in whole[start : start + 64]) + whole[start + 64 :]
        )
        fresh = Store(tmp_path)
        stored = fresh.load()
        assert bool(stored.rows) != (kind == "trials" and bool(stored.damaged))
        found = [fresh.read_epochs(key) if kind == "epochs" else fresh.read_errors(key) for key in keys]
        noticed += bool(stored.damaged) or any(isinstance(item, Damaged) for item in found)
    assert noticed > 20
    path.write_bytes(whole[:100])
    fresh = Store(tmp_path)
    fresh.write(_tables())  # a trial that ran again
    fresh.write(_tables(OTHER))
    done = fresh.compact()
    assert [item.path for item in done.damaged] == [path]
    assert {KEY, OTHER} <= set(fresh.load().rows)
    path.write_bytes(whole)  # brought back from a copy
    assert len(Store(tmp_path).load().rows) == 8


def test_reading_one_trial_of_many_reads_one_row_group(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(8):
        count = 5000
        errors = {"scene": [number] * count, "position": list(range(count)), "error_m": [1.5] * count}
        tables = _tables(f"{number:016x}")
        store.write(TrialTables(tables.row, tables.epochs, errors))
    store.compact()
    metadata = pq.read_metadata(tmp_path / "errors" / "compacted-000001.parquet")
    assert metadata.num_row_groups == 3
    assert store.read_errors(f"{5:016x}", ["scene"])["scene"].unique().to_pylist() == [5]
    assert store.read_errors(f"{5:016x}").num_rows == 5000


# ------------------------------------------------------------------------------------------------- strangers' files


def test_a_row_whose_key_is_a_path_is_no_result_and_makes_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    store = Store(folder)
    store.write(_tables())
    table = pq.read_table(folder / "trials" / f"{KEY}.parquet")
    for key in ("../../escaped", "a/b", "", "..", "x\x00y", "compacted-000001"):
        other = table.set_column(0, pa.field("key", pa.string(), nullable=False), [[key]])
        store.write(_tables())
        pq.write_table(other, folder / "trials" / "compacted-000007.parquet")
        for kind in ("epochs", "errors"):
            pq.write_table(pq.read_table(folder / kind / f"{KEY}.parquet"), folder / kind / "compacted-000007.parquet")
        fresh = Store(folder)
        assert set(fresh.load().rows) == {KEY}
        assert [item.path.name for item in fresh.load().damaged] == ["compacted-000007.parquet"]
        assert fresh.read_errors(key) is None
        fresh.compact()
        with pytest.raises(ValueError, match="cannot be the key"):
            fresh.write(_tables(key))
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_links_are_neither_read_nor_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "results"
    Store(outside).write(_tables())
    victim = outside / "trials" / f"{KEY}.parquet"
    content = victim.read_bytes()
    store = Store(folder)
    store.write(_tables(OTHER))
    (folder / "trials" / f"{KEY}.parquet").symlink_to(victim)
    stored = store.load()
    assert set(stored.rows) == {OTHER}
    assert "link" in stored.damaged[0].reason
    store.compact()
    assert victim.read_bytes() == content
    store.write(_tables(state="failed"))  # replaces the link
    assert victim.read_bytes() == content
    assert store.find(KEY)["state"] == "failed"
    (folder / "errors").rename(tmp_path / "away")
    (folder / "errors").symlink_to(outside / "errors")
    with pytest.raises(ResultsError, match="a link"):
        store.write(_tables(THIRD))
    assert not list((outside / "errors").glob(f"{THIRD}*"))


def test_a_pipe_or_a_huge_table_does_not_hold_a_reader_up(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(_tables())
    os.mkfifo(tmp_path / "trials" / "aaaa.parquet")
    table = pq.read_table(tmp_path / "trials" / f"{KEY}.parquet")
    many = pa.concat_tables([table] * 3000)
    pq.write_table(many, tmp_path / "trials" / "bbbb.parquet", compression="zstd")
    entries = pa.array([[0.5] * 2_000_000])
    position = table.schema.get_field_index("test_recall")
    bomb = table.set_column(position, "test_recall", entries)
    pq.write_table(bomb, tmp_path / "trials" / f"{OTHER}.parquet", compression="zstd")
    reasons = {item.path.stem: item.reason for item in store.load().damaged}
    assert set(reasons) == {"aaaa", "bbbb", OTHER}
    assert "3000 rows" in reasons["bbbb"]
    assert "more than such a file can have" in reasons[OTHER]


@pytest.mark.parametrize(
    "content",
    [
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{n}: &{n} [*{m}, *{m}, *{m}, *{m}, *{m}, *{m}, *{m}, *{m}]\n"
            for m, n in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "&a [*a]",
        "[" * 100_000,
        "!!python/object/apply:os.system ['touch gotcha']",
        "x" * 5_000_000,
        "a: 2026-01-01",
    ],
    ids=["bomb", "cycle", "deep", "code", "huge", "date"],
)
def test_a_spec_of_a_stranger_is_refused_quietly(tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path)
    store.spec_file.write_text(content)
    with pytest.raises(ResultsError):
        store.read_study()
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


# ------------------------------------------------------------------------------------------------- the lock


def test_the_owner_is_known_while_a_driver_runs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.owner() is None
    with store.locked():
        owner = Store(tmp_path).owner()
        assert owner == Owner(socket.gethostname(), os.getpid())
        with pytest.raises(ResultsError, match=f"process {os.getpid()} on"):
            Store(tmp_path).compact()
    assert store.owner() is None


_HOLD = """
import sys, time
from pathlib import Path
from study.store import Store
with Store(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_driver_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert Store(tmp_path).owner() == Owner(socket.gethostname(), holder.pid)
    holder.kill()
    holder.wait(60)
    assert Store(tmp_path).owner() is None
    with Store(tmp_path).locked():
        pass


_TAKE = """
import sys, time
from pathlib import Path
from study.errors import ResultsError
from study.store import Store
start = float(sys.argv[2])
time.sleep(max(0, start - time.time()))
try:
    with Store(Path(sys.argv[1])).locked():
        print("taken", flush=True)
        sys.stdin.read()
except ResultsError as error:
    print(error.what, flush=True)
"""


def test_of_drivers_that_start_at_once_one_gets_the_folder_and_the_others_are_told_its_name(tmp_path: Path) -> None:
    start = str(time.time() + 3)
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", _TAKE, str(tmp_path), start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    said = {taker.pid: taker.stdout.readline().strip() for taker in takers}  # type: ignore[union-attr]
    for taker in takers:
        taker.communicate("", timeout=60)
    (winner,) = [pid for pid, text in said.items() if text == "taken"]
    others = [text for pid, text in said.items() if pid != winner]
    assert all(f"process {winner} on" in text for text in others), said


def test_the_lock_of_a_file_that_was_removed_is_no_lock(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.locked():
        (tmp_path / ".lock").unlink()
        with Store(tmp_path).locked():  # as an operator asked for who removed it
            assert store.owner() is not None


def _foreign(folder: Path, age_s: float, **changes: Any) -> None:
    """A lock file that a driver on another host keeps, where locks do not reach across hosts."""
    record = {"host": "elsewhere", "pid": 7, "started": 1, "processes": "pid:[1]", "token": "t", "holds": True}
    path = folder / ".lock"
    path.write_text(json.dumps({**record, **changes}))
    os.utime(path, (time.time() - age_s,) * 2)


def test_a_driver_on_another_host_counts_until_its_heartbeat_stops(tmp_path: Path) -> None:
    _foreign(tmp_path, age_s=20)
    store = Store(tmp_path)
    assert store.owner() == Owner("elsewhere", 7)
    with pytest.raises(ResultsError, match="process 7 on elsewhere"), store.locked():
        pass
    impatient = Store(tmp_path, lock_times=LockTimes(stale_s=10))
    assert impatient.owner() is None
    with impatient.locked():
        assert store.owner() == Owner(socket.gethostname(), os.getpid())


def test_another_host_of_the_same_name_is_another_host(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(60)
    space = str(Path("/proc/self/ns/pid").readlink())
    _foreign(tmp_path, age_s=5, host=socket.gethostname(), pid=dead.pid, processes=space, boot="of another kernel")
    store = Store(tmp_path)
    assert store.owner() == Owner(socket.gethostname(), dead.pid)
    with pytest.raises(ResultsError, match="is being run by"), store.locked():
        pass


@pytest.mark.parametrize("ended", [False, True])
def test_a_driver_that_another_host_took_over_stores_nothing_any_more(tmp_path: Path, ended: bool) -> None:
    """A file system whose locks do not reach across hosts: the other one has written its name over ours."""
    store, lock = Store(tmp_path, lock_times=LockTimes(renew_s=0.05)), tmp_path / ".lock"
    with store.locked():
        store.write(_tables())
        store.write(_tables(OTHER))
        _foreign(tmp_path, age_s=20)
        if ended:
            lock.write_bytes(b"")
            os.utime(lock, (time.time() - 20,) * 2)
        there, files = (lock.read_bytes(), lock.stat().st_mtime), _files(tmp_path)
        for store_something in (
            lambda: store.write(_tables(THIRD)),
            lambda: store.write_site({}),
            store.compact,
        ):
            with pytest.raises(ResultsError, match="taken the study over"):
                store_something()
        assert _files(tmp_path) == files
        assert not list(tmp_path.rglob("*.tmp"))
    # Neither the heartbeat nor the end of the lock touched what is the other one's.
    assert (lock.read_bytes(), lock.stat().st_mtime) == there


def test_a_holder_renews_its_lock(tmp_path: Path) -> None:
    with Store(tmp_path, lock_times=LockTimes(renew_s=0.05)).locked():
        path = tmp_path / ".lock"
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 2


def test_a_lock_file_that_is_no_lock_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    store = Store(tmp_path)
    assert store.owner() is None
    with pytest.raises(ResultsError), store.locked():
        pass


def test_a_limit_on_file_sizes_is_a_full_disk(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from study.store import Store, TrialTables\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "row = {'key': 'k', 'state': 'done', 'method': 'm', 'seed': 0, 'config': '{}'}\n"
        "Store(Path(sys.argv[1])).write(TrialTables(row))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert "free some space" in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
