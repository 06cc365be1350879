"""Results on remote storage: a real S3 server in a process of its own, and pyarrow's local file system."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from command_process import CommandProcess
from conftest import LONG_BASE, Result

from study.errors import ResultsError
from study.locking import LockTimes
from study.observers import read_events
from study.spec.model import StudySpec
from study.storage import RemoteFolder, is_remote, local_path, open_results, study_location
from study.store import Owner, Store, TrialTables

KEYS = ["0123456789abcdef", "8888888888888888", "fedcba9876543210"]
# A busy machine may stand still for seconds, and whoever was silent for so long gives up.
QUICK = LockTimes(renew_s=0.3, stale_s=15, settle_s=1.5)

_SERVE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def _tables(key: str, **changes: Any) -> TrialTables:
    row = {"key": key, "state": "done", "method": "DCNN", "seed": 0, "config": "{}", "test_rmse_m": 1.5, **changes}
    epochs = {"epoch": [1, 2], "train_loss": [2.0, 1.0], "validation_rmse_m": [3.0, 2.5]}
    return TrialTables(row, epochs, {"scene": [0], "position": [3], "error_m": [1.5]})


class Server:
    """An S3 server that can be ended."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def uri(self, path: str, **more: str) -> str:
        query = {"scheme": "http", "endpoint_override": f"127.0.0.1:{self.port}", "region": "us-east-1", **more}
        return f"s3://{path}?{'&'.join(f'{name}={value}' for name, value in query.items())}"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module", autouse=True)
def credentials() -> Iterator[None]:
    names = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in names.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def server(credentials: None) -> Iterator[Server]:
    pytest.importorskip("moto", reason="the S3 server of the tests: pip install 'moto[server]'")
    running = Server()
    yield running
    running.end()


@pytest.fixture
def uri(server: Server, request: pytest.FixtureRequest) -> str:
    """A folder of its own for each test, in a bucket that exists."""
    with open_results(server.uri("bucket/made", allow_bucket_creation="true"), create=True):
        pass
    return server.uri(f"bucket/results/{request.node.name[:60].translate(str.maketrans('[]', '--'))}")


@pytest.fixture(params=["s3", "local"])
def remote_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], RemoteFolder]:
    """Makes the same remote folder, as each driver would: on the S3 server, and on pyarrow's local file system."""
    if request.param == "s3":
        found = request.getfixturevalue("uri")
        return lambda: RemoteFolder.open(found)
    return lambda: RemoteFolder(pafs.LocalFileSystem(), str(tmp_path / "remote"), "the remote folder")


def _mirror(remote: RemoteFolder, folder: Path) -> Store:
    folder.mkdir()
    remote.pull(folder)
    return Store(folder, remote, QUICK)


def test_locations() -> None:
    assert is_remote("s3://bucket/a")
    assert not is_remote("file:///tmp/a")
    assert not is_remote("results/a")
    assert not is_remote(Path("results"))
    assert local_path("file:///tmp/a%20b") == Path("/tmp/a b")
    assert study_location("results", "x") == Path("results/x")
    assert study_location("file:///tmp/a", "x") == Path("/tmp/a/x")
    assert study_location("s3://bucket/a/?region=b", "x") == "s3://bucket/a/x?region=b"
    with pytest.raises(ResultsError, match="three slashes"):
        local_path("file://host/tmp")


def test_a_file_uri_is_the_folder_itself(tmp_path: Path) -> None:
    with open_results(f"file://{tmp_path}/study") as store:
        assert store.folder == tmp_path / "study"
        store.write(_tables(KEYS[0]))
    assert Store(tmp_path / "study").keys() == [KEYS[0]]


def test_what_one_driver_stores_the_next_has(remote_of: Callable[[], RemoteFolder], tmp_path: Path) -> None:
    first = _mirror(remote_of(), tmp_path / "one")
    with first.locked():
        first.write_site({"name": "x", "data_hash": "y"})
        for key in KEYS:
            first.write(_tables(key))
        # Nothing is closed in order: what was written is there now.
        second = _mirror(remote_of(), tmp_path / "two")
    assert second.load().rows == first.load().rows
    assert set(second.load().rows) == set(KEYS)
    assert second.read_site() == {"name": "x", "data_hash": "y"}
    assert second.read_errors(KEYS[1]) == first.read_errors(KEYS[1])
    assert second.read_epochs(KEYS[1]) == first.read_epochs(KEYS[1])


def test_compaction_is_mirrored(remote_of: Callable[[], RemoteFolder], tmp_path: Path) -> None:
    store = _mirror(remote_of(), tmp_path / "one")
    for key in KEYS:
        store.write(_tables(key))
    rows = store.load().rows
    assert store.compact().trials == 3
    names = [name for name in remote_of().names() if name.endswith(".parquet")]
    assert sorted(names) == [f"{kind}/compacted-000001.parquet" for kind in ("epochs", "errors", "trials")]
    store.write(_tables(KEYS[0], state="failed"))
    again = _mirror(remote_of(), tmp_path / "two")
    assert again.find(KEYS[0])["state"] == "failed"
    assert again.load().rows[KEYS[1]] == rows[KEYS[1]]
    assert again.read_errors(KEYS[2]).num_rows == 1
    assert again.compact().trials == 3
    assert len([name for name in remote_of().names() if name.endswith(".parquet")]) == 3


def test_a_compaction_whose_storage_goes_away_removes_nothing(server: Server, tmp_path: Path) -> None:
    own = Server()
    try:
        place = own.uri("bucket/study", allow_bucket_creation="true")
        patient = LockTimes(renew_s=0.3, stale_s=600, settle_s=0.3)  # a silent driver gives up, and says that instead
        with open_results(place, create=True, lock_times=patient) as store, store.locked():
            for key in KEYS:
                store.write(_tables(key))
            own.end()
            with pytest.raises(ResultsError, match="cannot be reached"):
                store.compact()
            assert set(Store(store.folder).load().rows) == set(KEYS)
            with pytest.raises(ResultsError, match="cannot be reached") as caught:
                store.write(_tables("7777777777777777"))
            assert "what was stored before is kept" in str(caught.value)
            assert set(store.load().rows) == set(KEYS)  # what is not there does not count
    finally:
        own.end()


def test_the_mirror_has_what_a_command_needs(uri: str) -> None:
    with open_results(uri) as store:
        store.write(_tables(KEYS[0]))
    with open_results(uri, parts=("trials",)) as store:
        assert store.load().rows
        assert not list((store.folder).glob("e*/*.parquet"))
        assert store.read_errors(KEYS[0]).num_rows == 1  # brought when asked for
        folder = store.folder
    assert not folder.exists()


def test_logs_are_put_while_a_study_runs_and_at_its_end(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_results(uri) as store, store.locked():
        store.journal.write_text("one\n")
        store.sync()
        assert "optuna.journal" not in RemoteFolder.open(uri).names()  # half a minute has not passed
        monkeypatch.setattr("study.storage.SYNC_EVERY_S", 0.0)
        store.sync()
        deadline = time.monotonic() + 60
        while "optuna.journal" not in RemoteFolder.open(uri).names() and time.monotonic() < deadline:
            time.sleep(0.05)
        store.journal.write_text("one\ntwo\n")
        (store.folder / "events.jsonl").write_text("{}\n")
    with open_results(uri) as store:
        assert store.journal.read_text() == "one\ntwo\n"
        assert (store.folder / "events.jsonl").read_text() == "{}\n"


def test_a_driver_sees_what_happened_before_it_got_the_lock(
    remote_of: Callable[[], RemoteFolder], tmp_path: Path
) -> None:
    first = _mirror(remote_of(), tmp_path / "one")
    with first.locked():
        first.write(_tables(KEYS[0]))
        first.write(_tables(KEYS[1]))
        first.journal.write_text("one\n")
        first.sync(force=True)
        second = _mirror(remote_of(), tmp_path / "two")  # while the first one still runs
        first.compact()
        first.write(_tables(KEYS[2]))
        first.write(TrialTables(_tables(KEYS[1], state="failed").row))
        first.journal.write_text("one\ntwo\n")
        first.events.write_text("{}\n")
    with second.locked():
        assert second.journal.read_text() == "one\ntwo\n"
        assert second.events.read_text() == "{}\n"
        assert second.load().rows == first.load().rows
        assert second.read_epochs(KEYS[1]) is None
        assert not list(second.folder.glob(f"*/{KEYS[0]}.parquet"))
        assert second.compact().trials == 3
    third = _mirror(remote_of(), tmp_path / "three")
    assert {key: row["state"] for key, row in third.load().rows.items()} == dict(
        zip(KEYS, ("done", "failed", "done"), strict=True)
    )
    assert third.journal.read_text() == "one\ntwo\n"


def test_a_mirror_that_is_not_held_puts_no_logs(remote_of: Callable[[], RemoteFolder], tmp_path: Path) -> None:
    first, second = (_mirror(remote_of(), tmp_path / name) for name in ("one", "two"))
    second.journal.write_text("old\n")
    with first.locked():
        first.journal.write_text("new\n")
    second.sync(force=True)
    assert _mirror(remote_of(), tmp_path / "three").journal.read_text() == "new\n"
    with second.locked():
        assert second.journal.read_text() == "new\n"


class _Watched:
    """A file system (pyarrow's local one), with something that happens around a listing or an opening."""

    def __init__(self, real: pafs.FileSystem | None = None) -> None:
        self._real = real or pafs.LocalFileSystem()
        self.type_name = self._real.type_name
        self.after_listing: Callable[[str], None] = lambda folder: None
        self.before_opening: Callable[[str], None] = lambda path: None
        self.after_opening: Callable[[str], None] = lambda path: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_file_info(self, what: Any) -> Any:
        found = self._real.get_file_info(what)
        if isinstance(what, pafs.FileSelector):
            self.after_listing(what.base_dir)
        return found

    def open_input_stream(self, path: str) -> Any:
        self.before_opening(path)
        stream = self._real.open_input_stream(path)
        self.after_opening(path)
        return stream


def test_an_object_that_goes_between_its_size_and_its_content_is_not_there(uri: str, tmp_path: Path) -> None:
    """The S3 client calls an error message that is longer than the object a failure of its own, and gives up."""
    remote, name = RemoteFolder.open(uri), f"trials/{KEYS[0]}.parquet"
    watched = _Watched(remote.filesystem)
    reader = RemoteFolder(watched, remote.base, "there")  # type: ignore[arg-type]

    def go(path: str) -> None:
        remote.filesystem.delete_file(path)

    watched.after_opening = go
    remote.put(name, b"short")
    assert reader.read_small(name, 100) is None
    remote.put(name, b"short")
    assert not list(_mirror(reader, tmp_path / "mirror").folder.glob("trials/*"))

    def go_and_come(path: str) -> None:
        go(path)
        watched.before_opening = lambda path: remote.put(name, b"another")
        watched.after_opening = lambda path: None

    watched.after_opening = go_and_come
    remote.put(name, b"short")
    assert reader.read_small(name, 100) == b"another"


def test_a_mirror_that_is_filled_during_a_compaction_has_every_trial(tmp_path: Path) -> None:
    there = Store(tmp_path / "remote")
    for key in KEYS:
        there.write(_tables(key))
    watched = _Watched()

    def compact(folder: str) -> None:
        watched.after_listing = lambda folder: None
        there.compact()

    watched.after_listing = compact
    mirror = _mirror(RemoteFolder(watched, str(tmp_path / "remote"), "there"), tmp_path / "one")  # type: ignore[arg-type]
    assert mirror.load().rows == there.load().rows
    assert mirror.read_errors(KEYS[1]).num_rows == 1


def test_a_folder_that_never_stays_as_it_is_is_given_up(tmp_path: Path) -> None:
    there, watched = Store(tmp_path / "remote"), _Watched()
    there.write(_tables(KEYS[0]))

    def compact(folder: str) -> None:
        there.write(_tables(KEYS[1]))
        there.compact()

    watched.after_listing = compact
    with pytest.raises(ResultsError, match="change faster"):
        _mirror(RemoteFolder(watched, str(tmp_path / "remote"), "there"), tmp_path / "one")  # type: ignore[arg-type]


def test_names_from_there_become_paths_only_where_they_are_ours(tmp_path: Path) -> None:
    there = tmp_path / "remote"
    Store(there).write(_tables(KEYS[0]))
    for name in ("trials/deep/0.parquet", "trials/a b.parquet", "trials/.hidden.parquet", "other.txt", ".lock/x"):
        path = there / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    remote = RemoteFolder(pafs.LocalFileSystem(), str(there), "the remote folder")
    assert sorted(remote.names()) == [f"{kind}/{KEYS[0]}.parquet" for kind in ("epochs", "errors", "trials")]


# ------------------------------------------------------------------------------------------------- places that fail


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("ftp://host/path", ["scheme 'ftp'", "s3"]),
        ("s3:///path", ["no bucket"]),
        ("s3://bucket", ["no folder"]),
        ("s3://bucket/../x", ["no folder"]),
        ("s3://key:secret@bucket/x", ["credentials do not belong"]),
        ("s3://bucket/x?color=red", ["'color' is not known", "endpoint_override"]),
        ("s3://bucket/x?anonymous=maybe", ["true or false"]),
        ("s3://bucket/x?scheme=ftp", ["http or https"]),
        ("s3://bucket/x?scheme=http&endpoint_override=127.0.0.1:1", ["cannot be reached", "127.0.0.1:1"]),
        ("s3://bucket/x?endpoint_override=no-such-host.invalid", ["cannot be reached", "no-such-host.invalid"]),
        ("gs://bucket/x?scheme=http&endpoint_override=127.0.0.1:1", ["cannot be reached"]),
    ],
)
def test_a_place_that_cannot_be_used_is_a_clear_error(place: str, words: list[str]) -> None:
    with pytest.raises(ResultsError) as caught, open_results(place):
        pass
    for word in words:
        assert word in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_bucket_that_is_missing_is_named(server: Server) -> None:
    for create, more in ((True, {}), (False, {"allow_bucket_creation": "true"})):
        with pytest.raises(ResultsError, match="no bucket 'nowhere'"):
            RemoteFolder.open(server.uri("nowhere/x", **more), create=create)


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.storage._OPEN_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"s3://bucket/x?scheme=http&region=a&endpoint_override=127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ResultsError, match="does not answer within 2 s"):
            RemoteFolder.open(place)


# ------------------------------------------------------------------------------------------------- the lock


def test_a_second_driver_is_refused_and_told_who_holds_the_folder(
    remote_of: Callable[[], RemoteFolder], tmp_path: Path
) -> None:
    first, second = _mirror(remote_of(), tmp_path / "one"), _mirror(remote_of(), tmp_path / "two")
    assert second.owner() is None
    with first.locked():
        assert second.owner() == Owner(socket.gethostname(), os.getpid())
        with pytest.raises(ResultsError, match=f"process {os.getpid()} on"), second.locked():
            pass
    assert second.owner() is None
    with second.locked():
        pass


def test_of_takers_at_once_exactly_one_wins(remote_of: Callable[[], RemoteFolder], tmp_path: Path) -> None:
    stores = [_mirror(remote_of(), tmp_path / str(number)) for number in range(3)]
    _claim(stores[0].remote, host="elsewhere", holds=True)  # of a driver that is gone: all of them try to take it over
    time_left = QUICK.stale_s + 3

    def take(store: Store) -> str:
        deadline = time.monotonic() + time_left
        while store.owner() is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)  # object stores count whole seconds
        lock = store.locked()
        try:
            lock.__enter__()
        except ResultsError as error:
            return error.what
        won.append(lock)
        return "won"

    won: list[Any] = []
    with ThreadPoolExecutor(3) as threads:
        said = list(threads.map(take, stores))
    assert said.count("won") == 1, said
    # One that was too slow on a busy machine may know no name.
    assert all("is being run by" in text for text in said if text != "won"), said
    assert stores[0].owner() is not None
    won[0].__exit__(None, None, None)
    assert stores[0].owner() is None


def test_a_claim_keeps_its_size_when_it_becomes_a_holder_s(
    remote_of: Callable[[], RemoteFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size and content are asked for one after the other: of a claim that grew, a rival would see half and win, too."""
    store = _mirror(remote_of(), tmp_path / "one")
    assert store.remote is not None
    put, sizes = store.remote.put, []

    def watched(name: str, content: bytes) -> None:
        sizes.append(len(content))
        put(name, content)

    monkeypatch.setattr(store.remote, "put", watched)
    with store.locked():
        assert len(sizes) >= 2
    assert len(set(sizes)) == 1


def _claim(remote: RemoteFolder | None, **changes: Any) -> None:
    assert remote is not None
    record = {"host": "elsewhere", "pid": 7, "started": 1, "processes": "pid:[1]", "token": "t" * 32, "holds": True}
    remote.put(f".lock/{'t' * 32}", json.dumps({**record, **changes}).encode())


def test_a_driver_that_died_here_is_taken_over_at_once_and_one_elsewhere_is_not(
    remote_of: Callable[[], RemoteFolder], tmp_path: Path
) -> None:
    store = _mirror(remote_of(), tmp_path / "one")
    _claim(store.remote)
    with pytest.raises(ResultsError, match="process 7 on elsewhere"), store.locked():
        pass
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(60)
    space = str(Path("/proc/self/ns/pid").readlink())
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    _claim(store.remote, host=socket.gethostname(), pid=dead.pid, processes=space, boot="of another kernel")
    assert store.owner() is not None  # two hosts may have one name
    _claim(store.remote, host=socket.gethostname(), pid=dead.pid, processes=space, boot=boot)
    assert store.owner() is None
    with store.locked():
        pass
    # The number lives on in another process: this one.
    _claim(store.remote, host=socket.gethostname(), pid=os.getpid(), processes=space, boot=boot, started=1)
    with store.locked():
        assert store.owner() == Owner(socket.gethostname(), os.getpid())


def test_a_holder_renews_its_claim_and_notices_that_it_was_taken_over(
    remote_of: Callable[[], RemoteFolder], tmp_path: Path
) -> None:
    store = _mirror(remote_of(), tmp_path / "one")
    assert store.remote is not None
    with store.locked():
        (token,) = store.remote.times(".lock")
        renewed, deadline = store.remote.times(".lock")[token], time.monotonic() + 60
        while store.remote.times(".lock")[token] <= renewed and time.monotonic() < deadline:
            time.sleep(0.1)
        assert store.remote.times(".lock")[token] > renewed
        store.write(_tables(KEYS[0]))
        while time.monotonic() < deadline:
            # Again and again: a claim that is being renewed at this moment comes back once.
            store.remote.remove([f".lock/{token}"])
            if _refusal(store) is not None:
                break
            time.sleep(0.1)
        assert "taken the study over" in (_refusal(store) or "")


def _local_remote(tmp_path: Path, filesystem: Any = None) -> RemoteFolder:
    return RemoteFolder(filesystem or pafs.LocalFileSystem(), str(tmp_path / "remote"), "the remote folder")


@pytest.mark.parametrize("offset_s", [-3600, 3600])
def test_a_clock_that_is_wrong_here_does_not_decide_who_holds_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset_s: float
) -> None:
    store, right = _mirror(_local_remote(tmp_path), tmp_path / "one"), time.time
    monkeypatch.setattr("time.time", lambda: right() + offset_s)
    _claim(store.remote)
    with pytest.raises(ResultsError, match="process 7 on elsewhere"), store.locked():
        pass
    os.utime(tmp_path / "remote" / ".lock" / ("t" * 32), (right() - 20,) * 2)
    with store.locked():
        store.write(_tables(KEYS[0]))


def _take_over(store: Store) -> Any:
    """Hold a folder as soon as its holder is stale."""
    deadline = time.monotonic() + 60
    while True:
        lock = store.locked()
        try:
            lock.__enter__()
            return lock
        except ResultsError:
            assert time.monotonic() < deadline


def test_a_driver_that_was_silent_stores_nothing_before_its_next_heartbeat(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    silent = Store(tmp_path / "one", _local_remote(tmp_path), LockTimes(renew_s=600, stale_s=8, settle_s=0.2))
    (tmp_path / "two").mkdir()
    other = Store(tmp_path / "two", _local_remote(tmp_path), LockTimes(renew_s=0.2, stale_s=8, settle_s=0.2))
    with silent.locked():
        lock = _take_over(other)
        assert "taken the study over" in (_refusal(silent) or "")
        silent.journal.write_text("old\n")
    assert "optuna.journal" not in _local_remote(tmp_path).names()
    other.write(_tables(KEYS[0]))
    lock.__exit__(None, None, None)


def test_a_driver_that_was_suspended_while_it_renewed_its_claim_does_not_revive_it(tmp_path: Path) -> None:
    watched, times = _Watched(), LockTimes(renew_s=0.2, stale_s=8, settle_s=0.3)
    first, second = tmp_path / "one", tmp_path / "two"
    first.mkdir()
    second.mkdir()
    slept = Store(first, _local_remote(tmp_path, watched), times)
    other = Store(second, _local_remote(tmp_path), times)
    asleep, awake = threading.Event(), threading.Event()

    def sleep(folder: str) -> None:
        if folder.endswith(".lock"):
            asleep.set()
            awake.wait(60)

    with slept.locked():
        watched.after_listing = sleep
        assert asleep.wait(60)
        lock = _take_over(other)
        watched.after_listing = lambda folder: None
        awake.set()
        assert "taken the study over" in (_refusal(slept) or "")
    assert len(_local_remote(tmp_path).times(".lock")) == 1
    other.write(_tables(KEYS[0]))
    lock.__exit__(None, None, None)


def _refusal(store: Store) -> str | None:
    try:
        store.write(_tables(KEYS[1]))
    except ResultsError as error:
        return error.what
    return None


# ------------------------------------------------------------------------------------------------- commands


def test_commands_take_a_uri(cli: Callable[..., Result], uri: str, write_spec: Callable[..., Path]) -> None:
    from study.spec.loading import load_yaml

    spec = load_yaml(write_spec(), StudySpec, kind="study spec")
    refused = cli("status", uri)
    assert refused.code == 2
    assert "no study.yaml" in refused.err
    with open_results(uri) as store:
        store.write_site({"name": "canyon_small", "data_hash": "y"})
        store.write_spec(spec.model_dump(mode="json", by_alias=True))
        for key in KEYS:
            store.write(_tables(key))
    told = json.loads(cli("status", uri, "--json").out)
    assert told["folder"] == uri
    assert told["running"] is False
    assert "3 trials in one file" in cli("compact", uri).out
    assert len([name for name in RemoteFolder.open(uri).names() if name.endswith(".parquet")]) == 3
    missing = cli("rerun", "9999", "--study", uri)
    assert missing.code == 2
    assert KEYS[0] in missing.err


def test_the_report_is_put_beside_the_results(cli: Callable[..., Result], uri: str, tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "reports"))
    try:
        from store_factory import full_study
    finally:
        sys.path.pop(0)

    folder = full_study(tmp_path / "study", seeds=1).folder
    with open_results(uri) as store:
        shutil.copytree(folder, store.folder, dirs_exist_ok=True)
        names = [path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*") if path.is_file()]
        assert store.remote is not None
        store.remote.push(names, store.folder)
        store.remote.put("report/tables/old.csv", b"of an earlier report")
    result = cli("report", uri)
    assert result.code == 0, result.err
    remote = RemoteFolder.open(uri)
    assert "index.html" in remote.times("report")
    assert "performance.csv" in remote.times("report/tables")
    assert "old.csv" not in remote.times("report/tables")


@pytest.mark.slow
def test_a_study_on_s3_goes_on_after_its_driver_was_killed(
    uri: str, write_spec: Callable[..., Path], start_command: Callable[..., CommandProcess]
) -> None:
    spec = write_spec(base=LONG_BASE, axes={"method": ["DCNN", "HDA"]}, search=[], seeds=4)
    location = str(study_location(uri, "small"))

    def stored() -> set[str]:
        return {name for name in RemoteFolder.open(location).names() if name.startswith("trials/")}

    first = start_command("run", spec, "--results", uri)
    first.wait_for(lambda: len(stored()) >= 2, "two trials on the server")
    first.kill()
    kept = stored()
    assert 2 <= len(kept) < 10
    again = start_command("run", spec, "--results", uri)
    assert again.ended() == 0, again.output()
    assert f"{10 - len(kept)} trials executed, {len(kept)} were stored before" in again.output()
    names = set(RemoteFolder.open(location).names())
    assert len(stored()) == 10
    assert {"study.yaml", "site.json", "events.jsonl"} <= names
    assert RemoteFolder.open(location).read_small("report/index.html", 100)
    with open_results(location) as store:
        assert store.owner() is None
        assert {row["state"] for row in store.load().rows.values()} == {"done"}
        kinds = [event["event"] for event in read_events(store.folder / "events.jsonl")]
    assert kinds.count("trial_finished") >= 10 - len(kept)
    assert kinds[-1] == "run_ended"


@pytest.mark.slow
def test_a_trial_on_train_workers_goes_on_from_its_checkpoint_on_s3(
    uri: str, write_spec: Callable[..., Path], start_command: Callable[..., CommandProcess], tmp_path: Path
) -> None:
    spec = write_spec(base=LONG_BASE, axes={"method": ["HDA"]}, search=[], references=[], seeds=1)
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("trainer: ray_train\ncheckpoint_every_s: 0\n")
    location = str(study_location(uri, "small"))
    remote = RemoteFolder.open(location)

    def checkpoints() -> list[str]:
        found = pafs.FileSelector(f"{remote.base}/checkpoints", recursive=True, allow_not_found=True)
        return [item.path for item in remote.filesystem.get_file_info(found) if item.base_name == "state.pt"]

    first = start_command("run", spec, "--results", uri, "--cluster", cluster)
    first.wait_for(checkpoints, "a checkpoint on the server")
    first.kill()
    assert not [name for name in remote.names() if name.startswith("trials/")]
    again = start_command("run", spec, "--results", uri, "--cluster", cluster)
    assert again.ended() == 0, again.output()
    with open_results(location) as store:
        (row,) = store.load().rows.values()
        epochs = store.read_epochs(row["key"]).to_pydict()["epoch"]  # type: ignore[union-attr]
        events = list(read_events(store.events))
    assert row["state"] == "done"
    assert epochs == list(range(1, row["planned_epochs"] + 1))
    kinds = [event["event"] for event in events]
    last = events[len(kinds) - kinds[::-1].index("run_started") :]
    assert min(event["epoch"] for event in last if event["event"] == "trial_progressed") > 1
    assert not checkpoints()  # a stored trial needs none
