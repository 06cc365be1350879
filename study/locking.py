"""Who may write to a results folder: one driver at a time.

FolderLock      the operating system's lock on ``.lock``; it goes with the process that holds it, however that ends.
                Where it does not reach across hosts (some network file systems), a heartbeat on the file does.
RemoteLock      on object stores, which have no locks: every taker puts a claim of its own, waits, and looks at all
                claims. Holders renew theirs; a claim that is not renewed is stale.

Ages are differences of times that the file system itself gave to files, so that clocks may differ between hosts. A
holder that was silent for too long, also because its machine slept, gives up: another may hold the folder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from study.errors import ResultsError
from study.result_files import printable, unwritable

if TYPE_CHECKING:
    from study.storage import RemoteFolder

__all__ = ["FolderLock", "LockTimes", "Owner", "RemoteLock"]

_LOCK = ".lock"
_MOST_BYTES = 4096
# All claims of an object store have one size: an object's size and its content are asked for one after the other, so
# that a reader would see half of a claim that has just become longer, and take it for none.
_CLAIM_BYTES = 1024
# A lock file is empty for a moment while its new owner writes its name, and `study status` holds it for a moment.
_PATIENCE_S = 2.0
_POLL_S = 0.05


@dataclass(frozen=True)
class LockTimes:
    """How long things may take, in seconds.

    Attributes:
        renew_s: how often a holder says that it lives.
        stale_s: after how long without that it counts as gone.
        settle_s: how long a taker on an object store waits for others that take at the same moment; longer than
            putting a small object takes.
    """

    renew_s: float = 10.0
    stale_s: float = 60.0
    settle_s: float = 2.0


@dataclass(frozen=True)
class Owner:
    """The driver that holds a results folder; host and process id are None where they are not known."""

    host: str | None = None
    pid: int | None = None

    def __str__(self) -> str:
        return "another process" if self.pid is None else f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class _Record:
    """What a lock says about its owner.

    Attributes:
        host, pid: where it runs.
        boot: of the host's kernel: two hosts may have one name. Empty where the system does not tell.
        started: when its process started, in the kernel's ticks; None where the system does not tell.
        processes: the space that the process id is of: two containers with one host name are two spaces.
        token: of this one holding.
        holds: on an object store: it has won, and is no mere claim.
        since_s: on an object store: when it claimed, by the storage's clock. Of two holders the later one counts.
    """

    host: str
    pid: int
    started: int | None
    processes: str
    token: str
    holds: bool = True
    since_s: float = 0.0
    boot: str = ""

    @staticmethod
    def of_this_process(token: str, holds: bool = True, since_s: float = 0.0) -> _Record:
        pid = os.getpid()
        return _Record(socket.gethostname(), pid, _started(pid), _process_space(), token, holds, since_s, _boot())

    @staticmethod
    def parse(content: bytes) -> _Record | None:
        """A record; None when it is not (yet) one."""
        try:
            read = json.loads(content)
            record = _Record(**read)
        except (ValueError, TypeError, RecursionError):
            return None
        numbers = (record.pid, 0 if record.started is None else record.started)
        words = (record.host, record.processes, record.token, record.boot)
        whole = all(type(item) is int for item in numbers) and all(isinstance(item, str) for item in words)
        whole = whole and type(record.since_s) in (int, float)
        return record if whole and record.pid > 0 and type(record.holds) is bool else None

    def content(self) -> bytes:
        return json.dumps(self.__dict__).encode()

    @property
    def owner(self) -> Owner:
        return Owner(printable(self.host)[:100], self.pid)

    @property
    def here(self) -> bool:
        """Whether this process can see whether that one lives."""
        there, here = (self.host, self.boot, self.processes), (socket.gethostname(), _boot(), _process_space())
        return there == here

    @property
    def gone(self) -> bool:
        """Whether it is known to have ended."""
        if not self.here:
            return False
        try:
            os.kill(self.pid, 0)  # asks, and sends nothing
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            pass  # it lives, and is another user's
        return self.started != _started(self.pid)  # the number was given to another process


def refusal(owner: Owner, where: str) -> ResultsError:
    """A folder that another driver holds."""
    return ResultsError(
        f"the study is being run by {owner}",
        where=where,
        allowed="one driver for each results folder",
        fix="wait for it, or choose another folder with --results",
    )


class FolderLock:
    """The lock of a local results folder.

    Args:
        folder: the results folder.
        times: for file systems whose locks do not reach across hosts.
    """

    def __init__(self, folder: Path, times: LockTimes = LockTimes()) -> None:
        self._folder, self._path, self._times = folder, folder / _LOCK, times
        self._token = uuid.uuid4().hex
        self._file: IO[bytes] | None = None
        self._beat: _Heartbeat | None = None
        self._lost = False

    @property
    def lost(self) -> bool:
        """Whether another driver has taken the folder, also if it has given it back since.

        The kernel's lock does not tell where it does not reach across hosts; the file does. It is opened anew, since a
        network file system brings what another host wrote only then.
        """
        if not self._lost and self._file is not None:
            with suppress(OSError), _open_lock(self._path, os.O_RDONLY) as file:
                record = _read(file)
                self._lost = record is None or record.token != self._token
        return self._lost

    def take(self) -> None:
        """Take the lock.

        Raises:
            ResultsError: another driver holds it, or the folder cannot be written.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                file = _open_lock(self._path, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                raise unwritable(self._folder, error) from None
            try:
                taken = self._try(file)
            except BaseException:
                file.close()
                raise
            if taken:
                break
            record = _read(file)
            file.close()
            late = time.monotonic() > deadline
            if late or (record is not None and not record.gone):
                raise refusal(Owner() if record is None or record.gone else record.owner, str(self._folder))
            time.sleep(_POLL_S)
        self._file = file
        self._beat = _Heartbeat(self._times.renew_s, self._renew)

    def release(self) -> None:
        """Give the lock back."""
        if self._beat is not None:
            self._beat.stop()
        if self._file is not None:
            if not self.lost:
                with suppress(OSError):
                    self._file.truncate(0)  # another host need not wait until its time is up
            self._file.close()
        self._file = self._beat = None

    def owner(self) -> Owner | None:
        """The driver that holds the folder now."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                file = _open_lock(self._path, os.O_RDONLY)
            except OSError:
                return None
            with file:
                record = _read(file)
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    if record is not None and not record.gone:
                        return record.owner
                    if time.monotonic() > deadline:
                        return Owner()
                except OSError:
                    return None
                else:
                    # Nobody holds it on this host; of another host the kernel may not know.
                    if record is None or record.here:
                        return None
                    return record.owner if self._age_s(file, write=False) < self._times.stale_s else None
            time.sleep(_POLL_S)

    def _try(self, file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise unwritable(self._path, error) from None
        try:
            mine, there = os.fstat(file.fileno()), self._path.stat()
        except FileNotFoundError:
            return False  # removed in between: the lock of a file that nobody else sees
        if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
            return False
        before = _read(file)
        # The kernel gave us the lock, so its owner on this host is gone; of another host the kernel may not know.
        if before is not None and not before.here and self._age_s(file, write=True) < self._times.stale_s:
            raise refusal(before.owner, str(self._folder))
        try:
            file.seek(0)
            file.truncate(0)
            file.write(_Record.of_this_process(self._token).content())
            file.flush()
        except OSError as error:
            raise unwritable(self._path, error) from None
        return True

    def _age_s(self, file: IO[bytes], write: bool) -> float:
        """Seconds since the last heartbeat, by the file system's clock where one may write, else by this host's."""
        now = time.time()
        if write:
            probe = self._path.with_name(f".lock.{uuid.uuid4().hex}.tmp")
            with suppress(OSError):
                probe.touch(exist_ok=False)
                now = probe.stat().st_mtime
                probe.unlink()
        return now - os.fstat(file.fileno()).st_mtime

    def _renew(self) -> None:
        if self._file is not None and not self.lost:  # the file may be another's, who has to renew it
            with suppress(OSError):
                os.utime(self._file.fileno())


class RemoteLock:
    """The lock of a results folder on an object store.

    Args:
        remote: the folder.
        times: how often and how long.
    """

    def __init__(self, remote: RemoteFolder, times: LockTimes = LockTimes()) -> None:
        self._remote, self._times = remote, times
        self._token = uuid.uuid4().hex
        self._name = f"{_LOCK}/{self._token}"
        self._beat: _Heartbeat | None = None
        self._since_s = 0.0
        self._renewed = 0.0
        self._lost = False

    @property
    def lost(self) -> bool:
        """Whether another driver has taken the folder, or may have because this one was silent for too long."""
        if self._beat is not None and _now_s() - self._renewed > self._times.stale_s:
            self._lost = True
        return self._lost

    def take(self) -> None:
        """Take the lock.

        Of drivers that take at the same time exactly one gets it: each sees the claims of all that came before it had
        waited, and they all prefer a holder, then the oldest claim.

        Raises:
            ResultsError: another driver holds it, or the storage cannot be written.
        """
        self._put(holds=False)
        claimed = _now_s()
        try:
            # Whoever is there already refuses at once.
            claims, mine, now = self._others(claimed)
            self._refuse_if(self._holder(claims, now))
            time.sleep(self._times.settle_s)
            claims, mine, now = self._others(claimed)
            self._refuse_if(self._holder(claims, now))
            rivals = [
                (modified, token, record)
                for token, (record, modified) in claims.items()
                if not self._stale(record, modified, now)
            ]
            if first := min((item for item in rivals if item[:2] < (mine, self._token)), default=None):
                raise refusal(first[2].owner, self._remote.shown)
            self._since_s = mine
            self._put(holds=True)
            if _now_s() - claimed > self._times.stale_s:  # it was stale for others in between
                raise self._refused_by(self._claims())
        except BaseException:
            with suppress(ResultsError):
                self._remote.remove([self._name])
            raise
        stale = [token for token, (record, modified) in claims.items() if self._stale(record, modified, now)]
        with suppress(ResultsError):  # they are stale for everybody
            self._remote.remove([f"{_LOCK}/{token}" for token in stale])
        self._beat = _Heartbeat(self._times.renew_s, self._renew)

    def release(self) -> None:
        """Give the lock back."""
        if self._beat is not None:
            self._beat.stop()
            self._beat = None
            with suppress(ResultsError):  # it is stale in a minute
                self._remote.remove([self._name])

    def owner(self) -> Owner | None:
        """The driver that holds the folder now, as far as this host's clock can tell."""
        record = self._holder(self._claims(), time.time())
        return None if record is None else record.owner

    def _others(self, claimed: float) -> tuple[dict[str, tuple[_Record, float]], float, float]:
        """The claims of others, when ours came and what time it is, both by the storage's clock.

        Args:
            claimed: when ours came, by the clock of this process.
        """
        claims = self._claims()
        mine = claims.pop(self._token, None)
        if mine is None:
            raise self._refused_by(claims)
        return claims, mine[1], mine[1] + _now_s() - claimed

    def _holder(self, claims: dict[str, tuple[_Record, float]], now: float) -> _Record | None:
        for record, modified in claims.values():
            if record.holds and not self._stale(record, modified, now):
                return record
        return None

    def _refused_by(self, claims: dict[str, tuple[_Record, float]]) -> ResultsError:
        """Of a taker that was too slow: another has taken the folder meanwhile."""
        holders = [record for record, _ in claims.values() if record.holds and record.token != self._token]
        owner = max(holders, key=lambda record: record.since_s).owner if holders else Owner()
        return refusal(owner, self._remote.shown)

    def _refuse_if(self, record: _Record | None) -> None:
        if record is not None:
            raise refusal(record.owner, self._remote.shown)

    def _stale(self, record: _Record, modified: float, now: float) -> bool:
        return record.gone or now - modified > self._times.stale_s

    def _claims(self) -> dict[str, tuple[_Record, float]]:
        """Token → its claim, and when it was renewed by the storage's clock."""
        found = {}
        for name, modified in self._remote.times(_LOCK).items():
            content = self._remote.read_small(f"{_LOCK}/{name}", _MOST_BYTES)
            record = None if content is None else _Record.parse(content)
            if record is not None and record.token == name:
                found[name] = (record, modified)
        return found

    def _put(self, holds: bool) -> None:
        began = _now_s()
        record = _Record.of_this_process(self._token, holds, self._since_s)
        self._remote.put(self._name, record.content().ljust(_CLAIM_BYTES))
        # It may have come at any time since then: what counts is the least that the storage can say.
        self._renewed = began

    def _renew(self) -> None:
        if self.lost:
            return  # a claim that comes now would stand beside that of a new holder
        with suppress(ResultsError):  # the network may come back in time
            claims = self._claims()
            # Whoever took the lock over has claimed it later, and removes our claim.
            later = any(record.holds and record.since_s > self._since_s for record, _ in claims.values())
            self._lost = self._lost or later or self._token not in claims
            if self.lost:  # listing may have taken long
                return
            self._put(holds=True)
            if self.lost:  # so may putting
                self._remote.remove([self._name])


class _Heartbeat:
    """Calls a function every so many seconds until it is stopped."""

    def __init__(self, every_s: float, beat: Callable[[], None]) -> None:
        self._every_s, self._beat = every_s, beat
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="results-lock", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self._beat()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=60)


def _open_lock(path: Path, flags: int) -> IO[bytes]:
    """The lock file; a link or a pipe of its name is not one."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "the lock is not a plain file", str(path))
    return os.fdopen(descriptor, "r+b" if flags & os.O_RDWR else "rb")


def _read(file: IO[bytes]) -> _Record | None:
    return _Record.parse(os.pread(file.fileno(), _MOST_BYTES, 0))


def _now_s() -> float:
    """A clock that never jumps, and goes on while the machine sleeps where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _boot() -> str:
    """Which start of which kernel this is; empty where the system does not tell."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _started(pid: int) -> int | None:
    """When a process started, in the kernel's ticks; None where /proc does not tell."""
    with suppress(OSError, ValueError, IndexError):
        # The second field is the program's name in brackets, and may hold anything.
        return int(
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        )
    return None


def _process_space() -> str:
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""
