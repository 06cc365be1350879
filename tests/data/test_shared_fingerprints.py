"""Processes of a machine that share one copy of their fingerprints, and what becomes of it when they end in any way."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from study.data.dataset import DomainData, SiteData
from study.data.shared_fingerprints import SharedFiles, Sharing, remove_run, shared_folder
from study.data.site import open_site
from study.data.split import Split
from study.data.system import SystemConfiguration
from study.errors import DataError

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")

SPLIT = Split(train_scenes=16, validation_scenes=2, test_scenes=2)
ALL = 20 * 160  # samples
A = SystemConfiguration(bandwidth_mhz=100, subcarriers=64, antennas=(8, 8), paths=25)
B = A.model_copy(update={"bandwidth_mhz": 20})
TINY = A.model_copy(update={"subcarriers": 16, "antennas": (2, 2)})
A_BYTES = ALL * 64 * 64 * 4
PLENTY = 2**32


# --- Processes --------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What a process has of a system configuration.

    Attributes:
        where: as its row tells it.
        note: see `SiteData`.
        digest: of all its fingerprints.
        own_bytes: by how much the memory grew that it shares with nobody.
        mapped: the files that it maps, by their inodes.
    """

    where: str
    note: str | None
    digest: str
    own_bytes: int
    mapped: set[int]


def digest(parts: DomainData) -> str:
    found = hashlib.sha256()
    for part in (parts.training.source, parts.training.target, parts.validation, parts.test):
        for some in part.fingerprint.split(256):
            found.update(some.numpy().data)
    return found.hexdigest()


def prepared(data: SiteData, system: SystemConfiguration) -> DomainData:
    return data.prepare(system, SPLIT, coordinate_scale_m=10.0)


def own_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def mapped(pid: int | str = "self") -> set[int]:
    """Inodes of the shared files that a process maps."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {int(line.split()[4]) for line in lines if "study-fingerprints-" in line}


def serve(connection: Connection, sharing: Sharing | None, largest_file: int | None) -> None:
    """A trial process, as far as its data go."""
    torch.set_num_threads(1)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    data = SiteData(open_site("canyon_small"), fingerprint_bytes=PLENTY, sharing=sharing)
    while (system := connection.recv()) is not None:
        before = own_bytes()
        parts = prepared(data, system)
        connection.send(Seen(parts.fingerprints, data.note, digest(parts), own_bytes() - before, mapped()))
        del parts


# A process without torch: each line on its input is a name to fetch, and whether to stop in the middle of making it,
# until another line says that it may go on. One that hangs is ended, so that a test does not wait for ever.
FETCH = """
import signal, sys
from study.data.shared_fingerprints import SharedFiles, Sharing
signal.alarm(300)
files, content = SharedFiles(Sharing(sys.argv[1], sys.argv[2], 2)), None
print("ready", flush=True)
for line in iter(sys.stdin.readline, ""):
    name, *stop = line.split()
    made = []
    def pieces():
        made.append(True)
        yield memoryview(bytes([2]) * 1000)
        if stop:
            print("writing", flush=True)
            sys.stdin.readline()
        yield memoryview(bytes([2]) * 1000)
    content = None
    content = files.fetch(name, 2000, pieces, 2**30)
    assert set(content[:]) == {2}
    print("made" if made else "found", flush=True)
"""


class Fetcher:
    """A process that runs `FETCH`."""

    def __init__(self, sharing: Sharing) -> None:
        command = [sys.executable, "-c", FETCH, sharing.run, str(sharing.folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.hear() == "ready"

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, name: str) -> str:
        self.tell(name)
        return self.hear()

    def is_made_to_wait(self) -> bool:
        """Until it waits for another process's lock; False where it ended instead."""
        pid = f" {self.process.pid} "
        while not any("->" in line and pid in line for line in Path("/proc/locks").read_text().splitlines()):
            if self.process.poll() is not None:
                return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        """As a process ends by itself."""
        self.process.communicate()
        assert self.process.returncode == 0


class Process:
    """Another process with a connection to it."""

    def __init__(self, run: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=run, args=(other, *arguments))
        self.process.start()
        other.close()

    def ask(self, question: object) -> Any:
        self.connection.send(question)
        return self.connection.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


Start = Callable[..., Process]
Fetch = Callable[[Sharing], Fetcher]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(sharing: Sharing | None, largest_file: int | None = None) -> Process:
            process = Process(serve, sharing, largest_file)
            stack.callback(process.kill)
            return process

        yield begin


@pytest.fixture
def fetch() -> Iterator[Fetch]:
    with ExitStack() as stack:

        def begin(sharing: Sharing) -> Fetcher:
            process = Fetcher(sharing)
            stack.callback(process.kill)
            return process

        yield begin


@pytest.fixture
def sharing(tmp_path: Path) -> Sharing:
    return Sharing.of_a_new_run(str(tmp_path), processes=2)


def files(sharing: Sharing) -> dict[str, int]:
    """The files of a run and their inodes."""
    folder = shared_folder(sharing.folder) / sharing.run
    return {path.name: path.stat().st_ino for path in folder.glob("*.*")} if folder.exists() else {}


@pytest.fixture(scope="module")
def alone() -> dict[str, str]:
    """Digests of fingerprints that a process keeps for itself."""
    data = SiteData(open_site("canyon_small"), fingerprint_bytes=PLENTY)
    found = {name: prepared(data, system) for name, system in (("A", A), ("B", B))}
    assert {parts.fingerprints for parts in found.values()} == {"kept"}
    return {name: digest(parts) for name, parts in found.items()}


# --- One copy ---------------------------------------------------------------------------------------------------------


def test_two_processes_have_one_copy_of_the_same_values(start: Start, sharing: Sharing, alone: dict[str, str]) -> None:
    first, second, private = start(sharing), start(sharing), start(None)
    for process in (first, second, private):
        process.ask(TINY)  # reads the paths, which each process has of its own
    made, found, kept = first.ask(A), second.ask(A), private.ask(A)
    assert (made.where, found.where, kept.where) == ("shared", "shared", "kept")
    assert made.note is found.note is None
    assert made.digest == found.digest == kept.digest == alone["A"]
    (inode,) = files(sharing).values()
    assert made.mapped == found.mapped == {inode}
    assert kept.own_bytes > 0.9 * A_BYTES
    assert kept.own_bytes - found.own_bytes > 0.75 * A_BYTES  # batches take some in both
    # Nobody but this user.
    folder = shared_folder(sharing.folder)
    assert {path.stat().st_mode & 0o077 for path in (folder, *folder.rglob("*"))} == {0}


def test_values_are_bit_for_bit_those_of_a_private_tensor_and_writing_reaches_nobody(sharing: Sharing) -> None:
    site = open_site("canyon_small")
    own = prepared(SiteData(site, fingerprint_bytes=PLENTY), A)
    data, other = (SiteData(site, fingerprint_bytes=PLENTY, sharing=sharing) for _ in range(2))
    shared = prepared(data, A)
    rows = torch.arange(len(own.training.source.fingerprint))
    assert torch.equal(own.training.source.fingerprint[rows], shared.training.source.fingerprint[rows])
    # Semantics name the labels: the channels are the same.
    assert prepared(other, A.model_copy(update={"semantics": "binary"})).fingerprints == "shared"
    assert len(files(sharing)) == 1
    source = data._source.samples  # type: ignore[union-attr]
    assert isinstance(source, Tensor)
    source.zero_()
    assert torch.equal(own.test.fingerprint[rows[:9]], prepared(other, A).test.fingerprint[rows[:9]])


def test_only_trials_of_one_run_share(sharing: Sharing) -> None:
    """They have the same code; others may not."""
    runs = [sharing, Sharing.of_a_new_run(sharing.folder, 2)]
    views = [SiteData(open_site("canyon_small"), fingerprint_bytes=PLENTY, sharing=run) for run in runs]
    first, second = (digest(prepared(view, TINY)) for view in views)
    assert first == second
    assert len(mapped()) == 2


def test_what_makes_other_fingerprints_is_another_file(sharing: Sharing) -> None:
    site = open_site("canyon_small")
    drawn = A.model_copy(update={"paths": SystemConfiguration(paths={"uniform": [10, 25]}).paths})
    asked = [(A, SPLIT), (B, SPLIT), (drawn, SPLIT), (drawn, SPLIT.model_copy(update={"data_seed": 5}))]
    asked += [(A, SPLIT.model_copy(update={"train_scenes": 4}))]
    datas = [SiteData(site, fingerprint_bytes=PLENTY, sharing=sharing) for _ in asked]
    parts = [
        data.prepare(system, split, coordinate_scale_m=10.0) for data, (system, split) in zip(datas, asked, strict=True)
    ]
    assert {part.fingerprints for part in parts} == {"shared"}
    assert len(files(sharing)) == len(asked)


def test_those_that_need_what_another_makes_wait_for_it(fetch: Fetch, sharing: Sharing) -> None:
    writer, *waiting = [fetch(sharing) for _ in range(3)]
    assert writer.ask("name stop") == "writing"
    for process in waiting:
        process.tell("name")
        assert process.is_made_to_wait()
    # Another configuration is nobody's business.
    assert fetch(sharing).ask("other") == "made"
    writer.tell("go on")
    assert writer.hear() == "made"
    # They find it while its writer uses it.
    assert [process.hear() for process in waiting] == ["found", "found"]
    assert "name.f32" in files(sharing)
    assert not any(name.endswith((".part", ".lock")) for name in files(sharing))


def test_many_that_begin_at_once_make_it_once(fetch: Fetch, sharing: Sharing) -> None:
    """Again and again, for they meet at another moment each time."""
    processes = [fetch(sharing) for _ in range(4)]
    for number in range(50):
        for process in processes:
            process.tell(f"name{number}")
        assert sorted(process.hear() for process in processes) == ["found", "found", "found", "made"]
    assert f"name{number}.f32" in files(sharing)


# --- What is left, and who removes it ---------------------------------------------------------------------------------


def test_a_configuration_that_the_last_process_leaves_is_removed_and_made_again(
    start: Start, sharing: Sharing, alone: dict[str, str]
) -> None:
    first, second = start(sharing), start(sharing)
    assert first.ask(A).digest == second.ask(A).digest == alone["A"]
    of_a = files(sharing)
    assert first.ask(B).digest == alone["B"]
    both = files(sharing)
    assert len(both) == 2  # the second still uses A
    assert of_a.items() <= both.items()
    assert second.ask(B).mapped == set(both.values()) - set(of_a.values())
    assert len(files(sharing)) == 1
    again = first.ask(A)
    assert (again.where, again.digest) == ("shared", alone["A"])


def test_a_file_that_is_removed_stays_what_it_is_for_those_that_map_it(sharing: Sharing, alone: dict[str, str]) -> None:
    data = SiteData(open_site("canyon_small"), fingerprint_bytes=PLENTY, sharing=sharing)
    parts = prepared(data, A)
    remove_run(sharing)
    assert list(shared_folder(sharing.folder).iterdir()) == []
    assert digest(parts) == alone["A"]
    # The run is over: what would still be made is not left there.
    late = prepared(data, B)
    assert (late.fingerprints, digest(late)) == ("kept", alone["B"])
    assert list(shared_folder(sharing.folder).iterdir()) == []


def test_who_waits_for_a_killed_writer_takes_its_place(fetch: Fetch, sharing: Sharing) -> None:
    writer, waiting = fetch(sharing), fetch(sharing)
    assert writer.ask("name stop") == "writing"
    assert set(files(sharing)) == {"name.part", "name.lock"}
    waiting.tell("name")
    assert waiting.is_made_to_wait()
    writer.kill()
    assert waiting.hear() == "made"
    assert list(files(sharing)) == ["name.f32"]


def test_what_killed_processes_leave_goes_when_the_next_run_starts(fetch: Fetch, sharing: Sharing) -> None:
    alive = Sharing.of_a_new_run(sharing.folder, 2)
    writer, holder, living = fetch(sharing), fetch(sharing), fetch(alive)
    assert writer.ask("half stop") == "writing"
    assert holder.ask("whole") == living.ask("whole") == "made"
    assert set(files(sharing)) == {"half.part", "half.lock", "whole.f32"}
    writer.kill()
    holder.kill()
    folder = shared_folder(sharing.folder)
    (folder / "something else").mkdir()
    after = Sharing.of_a_new_run(sharing.folder, 2)
    fetch(after)
    assert {path.name for path in folder.iterdir()} == {alive.run, after.run, "something else"}
    assert list(files(alive)) == ["whole.f32"]
    living.end()
    remove_run(after)
    assert {path.name for path in folder.iterdir()} == {"something else"}


def test_a_killed_holder_does_not_keep_its_file_from_the_others_of_its_run(fetch: Fetch, sharing: Sharing) -> None:
    holder, other = fetch(sharing), fetch(sharing)
    assert (holder.ask("first"), other.ask("second")) == ("made", "made")
    holder.kill()
    assert set(files(sharing)) == {"first.f32", "second.f32"}
    assert other.ask("third") == "made"
    assert set(files(sharing)) == {"third.f32"}


def test_a_half_written_file_of_a_killed_process_goes_when_another_leaves_its_configuration(
    fetch: Fetch, sharing: Sharing
) -> None:
    writer, other = fetch(sharing), fetch(sharing)
    assert writer.ask("half stop") == "writing"
    assert other.ask("first") == "made"
    assert set(files(sharing)) == {"half.part", "half.lock", "first.f32"}
    writer.kill()
    assert other.ask("second") == "made"
    assert set(files(sharing)) == {"second.f32"}


def test_a_file_of_another_size_is_made_anew(sharing: Sharing) -> None:
    view = SharedFiles(sharing)
    (shared_folder(sharing.folder) / sharing.run / "name.f32").write_bytes(b"short")
    content = view.fetch("name", 2000, lambda: [np.full(2000, 3, np.uint8).data], PLENTY)
    assert content is not None
    assert set(content[:]) == {3}


def test_content_that_is_not_what_was_announced_is_never_found(sharing: Sharing) -> None:
    view = SharedFiles(sharing)
    with pytest.raises(ValueError, match="1000 bytes were made"):
        view.fetch("name", 2000, lambda: [np.zeros(1000, np.uint8).data], PLENTY)
    assert files(sharing) == {}


# --- How much --------------------------------------------------------------------------------------------------------


def test_together_they_may_take_what_all_processes_may(sharing: Sharing) -> None:
    """A copy for two may be twice what each may take; of two such copies the second is made when the first is gone."""
    site = open_site("canyon_small")
    large, small = (
        [SiteData(site, fingerprint_bytes=limit, sharing=sharing) for _ in range(2)]
        for limit in (A_BYTES // 2, A_BYTES // 2 - 1)
    )
    assert prepared(SiteData(site, fingerprint_bytes=A_BYTES // 2), A).fingerprints == "per batch"
    assert prepared(small[0], A).fingerprints == "per batch"
    assert [prepared(data, A).fingerprints for data in large] == ["shared", "shared"]
    # What is there costs nobody anything.
    assert prepared(small[0], A).fingerprints == "shared"
    del small
    assert prepared(large[0], B).fingerprints == "per batch"
    large.pop()
    assert prepared(large[0], B).fingerprints == "shared"
    assert large[0].note is None


def test_without_a_limit_it_is_a_part_of_what_the_machine_has(
    sharing: Sharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_site("canyon_small")
    for free, where in ((2 * A_BYTES, "shared"), (2 * A_BYTES - 2, "per batch")):
        monkeypatch.setattr("study.data.dataset.free_memory_bytes", lambda device, free=free: free)
        data = SiteData(site, device_share=0.5, sharing=Sharing.of_a_new_run(sharing.folder, 2))
        assert prepared(data, A).fingerprints == where


# --- Where it cannot be used ------------------------------------------------------------------------------------------


def foreign(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(folder, 12345, 12345)


def linked(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to("elsewhere")


def open_to_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def a_file(folder: Path) -> None:
    folder.write_text("")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (foreign, "belongs to another user"),
        (linked, "Not a directory"),
        (open_to_others, "can be written to by other users"),
        (a_file, "Not a directory"),
    ],
)
def test_a_folder_that_is_not_this_users_alone_is_not_used(
    sharing: Sharing, make: Callable[[Path], None], words: str
) -> None:
    folder = shared_folder(sharing.folder)
    make(folder)
    data = SiteData(open_site("canyon_small"), fingerprint_bytes=PLENTY, sharing=sharing)
    assert prepared(data, A).fingerprints == "kept"
    assert data.note is not None
    assert words in data.note
    assert str(folder) in data.note
    assert "fingerprint_cache" in data.note
    remove_run(sharing)
    if folder.is_dir():
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("folder", ["/sys", "/proc/nowhere", "missing"])
def test_a_folder_that_cannot_be_written_or_is_not_there(tmp_path: Path, folder: str) -> None:
    sharing = Sharing.of_a_new_run(str(tmp_path / folder), 2)
    data = SiteData(open_site("canyon_small"), fingerprint_bytes=PLENTY, sharing=sharing)
    assert prepared(data, A).fingerprints == "kept"
    assert "cannot be shared" in str(data.note)
    remove_run(sharing)


def test_without_room_on_the_disk_each_process_has_its_own(
    start: Start, sharing: Sharing, alone: dict[str, str]
) -> None:
    """A file must not be larger than the process may write: the operating system refuses it as a full disk would."""
    process = start(sharing, A_BYTES // 2)
    seen = process.ask(A)
    assert (seen.where, seen.digest, seen.mapped) == ("kept", alone["A"], set())
    assert "File too large" in str(seen.note)
    assert "free space there" in str(seen.note)
    assert files(sharing) == {}


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_a_full_disk_is_noticed_before_a_file_is_mapped(tmp_path: Path, alone: dict[str, str]) -> None:
    place = tmp_path / "small"
    place.mkdir()
    size = f"size={A_BYTES // 2}"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", place], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"file systems cannot be mounted here: {made.stderr.strip()}")
    try:
        sharing = Sharing.of_a_new_run(str(place), 2)
        data = SiteData(open_site("canyon_small"), fingerprint_bytes=PLENTY, sharing=sharing)
        parts = prepared(data, A)
        assert (parts.fingerprints, digest(parts)) == ("kept", alone["A"])
        assert "No space left on device" in str(data.note)
        assert files(sharing) == {}
        # What fits is shared, and nothing is said any more.
        small = SPLIT.model_copy(update={"train_scenes": 2})
        assert data.prepare(A, small, coordinate_scale_m=10.0).fingerprints == "shared"
        assert data.note is None
        del data, parts
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_without_locks_nothing_is_shared(sharing: Sharing, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems."""

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("study.data.shared_fingerprints.fcntl.flock", refuse)
    with pytest.raises(DataError, match="Operation not supported"):
        SharedFiles(sharing)
    data = SiteData(open_site("canyon_small"), fingerprint_bytes=PLENTY, sharing=sharing)
    assert prepared(data, A).fingerprints == "kept"
    assert "Operation not supported" in str(data.note)
