"""Fingerprints that the trial processes of a machine share: one file for each system configuration, mapped by all.

    Sharing        what the processes of a run have to know
    SharedFiles    one process's view of its run's files
    remove_run     what the driver does on its own machine when a run has ended

The files are in ``study-fingerprints-<user id>/<run>/`` in a folder of the machine:

    <name>.f32     fingerprints of a system configuration, complete
    <name>.part    the same while a process writes them
    <name>.lock    there as long as that takes: the writer has its lock, and others wait for it
    room           its lock lets one process at a time see whether another file fits

Who lives is told by the operating system's locks (flock), which go with a process however it ends:

* A process of a run has a shared lock on the run's folder. A folder without one is of a run that is over, and goes.
* Who maps a file has a shared lock on it, also its writer before it gets its last name. A mapping keeps the open file,
  and with it the lock: both end together. To remove a file takes an exclusive lock, which nobody waits for.
* Who writes a file has an exclusive lock on ``<name>.lock``. Where that writer was killed, the next takes its place.

A name may be another file by the time that its lock is granted, so whoever locks looks again. A file is complete when
it gets its last name, and nothing is written to it or cut from it after that: where it is removed all the same, it
stays what it is for those that map it.

No Ray and no torch here: the driver imports this too.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import stat
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from study.errors import DataError

__all__ = ["SharedFiles", "Sharing", "remove_run", "shared_folder"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC
_RUN = re.compile(r"[0-9a-f]{32}")
_COMPLETE, _PART, _LOCK, _ROOM = ".f32", ".part", ".lock", "room"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Sharing:
    """What the trial processes of a run have to know.

    Attributes:
        run: names the run. Its trials alone share: they have the same code and the same data.
        folder: where each machine's shared folder is; None: the machine's folder for temporary files.
        processes: how many processes a machine runs at a time, at the least.
    """

    run: str
    folder: str | None
    processes: int

    @classmethod
    def of_a_new_run(cls, folder: str | None, processes: int) -> Sharing:
        """With a name that no other run has."""
        return cls(uuid.uuid4().hex, folder, processes)


def shared_folder(folder: str | None = None) -> Path:
    """This user's shared folder on this machine, which need not exist."""
    return Path(tempfile.gettempdir() if folder is None else folder) / f"study-fingerprints-{os.geteuid()}"


class SharedFiles:
    """The files of a run on this machine, for one of its processes. What runs that are over left behind is removed.

    Args:
        sharing: see there.

    Raises:
        DataError: the folder cannot be used.
    """

    def __init__(self, sharing: Sharing) -> None:
        self.place = shared_folder(sharing.folder)
        with self._explaining():
            with suppress(FileExistsError):
                self.place.mkdir(mode=0o700)
            shared = _open_own(self.place)
            try:
                _remove_dead_runs(shared)
                self._run = _open_run(shared, sharing.run)
            finally:
                os.close(shared)
        weakref.finalize(self, os.close, self._run)

    def fetch(
        self, name: str, size: int, make: Callable[[], Iterable[memoryview]], room_bytes: int
    ) -> mmap.mmap | None:
        """Map a file, which is made where no process has made it yet; another process that makes it is waited for.

        Files of the run that no process uses any more are removed.

        Args:
            name: what the file is found by; the same for the same content alone.
            size: its bytes, more than 0.
            make: makes the content, piece by piece; not called where the file is there.
            room_bytes: what all files of the run may take.

        Returns:
            The content, copied on write: writing there reaches neither the file nor other processes. None where a new
            file would take more than the room.

        Raises:
            DataError: the file cannot be made, such as on a full disk, or not be mapped.
        """
        with self._explaining():
            while True:
                mapped = self._map(name, size)
                self._remove_unused(but=name)
                if mapped is not None:
                    return mapped
                lock = self._claim(name)
                if lock is None:
                    continue
                try:
                    return self._make(name, size, make, room_bytes)
                finally:
                    self._remove(name + _LOCK)
                    os.close(lock)

    def _make(
        self, name: str, size: int, make: Callable[[], Iterable[memoryview]], room_bytes: int
    ) -> mmap.mmap | None:
        """A file that this process alone may make now, or None where there is no room for it."""
        self._remove(name + _PART)  # a killed process left it
        file = os.open(name + _PART, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=self._run)
        try:
            if not self._has_room(file, name, size, room_bytes):
                self._remove(name + _PART)
                return None
            _fill(file, size, make())
            fcntl.flock(file, fcntl.LOCK_SH)
            os.rename(name + _PART, name + _COMPLETE, src_dir_fd=self._run, dst_dir_fd=self._run)
            return mmap.mmap(file, size, access=mmap.ACCESS_COPY)
        except BaseException:
            self._remove(name + _PART)
            raise
        finally:
            os.close(file)

    def _map(self, name: str, size: int) -> mmap.mmap | None:
        """A complete file, or None where there is none. The mapping keeps its lock."""
        try:
            file = os.open(name + _COMPLETE, os.O_RDONLY | _FILE, dir_fd=self._run)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            if not _is_still(file, name + _COMPLETE, self._run):
                return None
            if os.fstat(file).st_size != size:  # somebody else's doing
                self._remove(name + _COMPLETE)
                return None
            return mmap.mmap(file, size, access=mmap.ACCESS_COPY)
        finally:
            os.close(file)

    def _claim(self, name: str) -> int | None:
        """The right to make a file, as soon as nobody else makes it; None where things have changed in the meantime."""
        lock = os.open(name + _LOCK, os.O_RDWR | os.O_CREAT | _FILE, 0o600, dir_fd=self._run)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_still(lock, name + _LOCK, self._run):
                if not self._exists(name + _COMPLETE):
                    return lock
                self._remove(name + _LOCK)
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    def _has_room(self, file: int, name: str, size: int, room_bytes: int) -> bool:
        """Whether all files fit, together with one that is about to be written. If so it has its size from now on."""
        room = os.open(_ROOM, os.O_RDWR | os.O_CREAT | _FILE, 0o600, dir_fd=self._run)
        try:
            fcntl.flock(room, fcntl.LOCK_EX)
            taken = 0
            for other in _names(self._run):
                if other.endswith((_COMPLETE, _PART)) and other != name + _PART:
                    with suppress(FileNotFoundError):
                        taken += os.stat(other, dir_fd=self._run, follow_symlinks=False).st_size
            if taken + size > room_bytes:
                return False
            os.ftruncate(file, size)
            return True
        finally:
            os.close(room)

    def _remove_unused(self, but: str) -> None:
        """Remove the files that no process maps or writes."""
        for entry in _names(self._run):
            name, kind = Path(entry).stem, Path(entry).suffix
            if name != but and kind == _COMPLETE:
                _remove_unlocked(entry, self._run)
            elif name != but and kind == _LOCK:  # its writer was killed
                _remove_unlocked(entry, self._run, name + _PART)

    def _exists(self, entry: str) -> bool:
        try:
            os.stat(entry, dir_fd=self._run, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _remove(self, entry: str) -> None:
        with suppress(OSError):
            os.unlink(entry, dir_fd=self._run)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turn what the operating system says into something that a user can mend.

        Raises:
            DataError: an operation of this class failed.
        """
        try:
            yield
        except OSError as error:
            raise DataError(
                f"the fingerprints cannot be shared by trials: {error.strerror or error}",
                where=str(self.place),
                allowed="a folder of this machine that this user alone can write to, with space for them",
                fix="free space there, or name another folder with fingerprint_cache in the cluster file"
                if error.errno in _FULL
                else "name another folder with fingerprint_cache in the cluster file, or write fingerprint_cache: off",
            ) from None


def remove_run(sharing: Sharing) -> None:
    """Remove a run's files from this machine, after its last trial, and those of other runs that are over.

    A process that is just being ended may still map one: its memory goes with the process.
    """
    with suppress(OSError, DataError):
        shared = _open_own(shared_folder(sharing.folder))
        try:
            with suppress(FileNotFoundError):
                _remove_folder(sharing.run, shared)
            _remove_dead_runs(shared)
        finally:
            os.close(shared)


def _open_own(place: Path) -> int:
    """A folder that only this user can have put something into.

    Raises:
        OSError: it cannot be opened, or is a link or a file.
        DataError: others can write to it.
    """
    folder = os.open(place, _FOLDER)
    status = os.fstat(folder)
    problem = None
    if status.st_uid != os.geteuid():
        problem = "belongs to another user"
    elif stat.S_IMODE(status.st_mode) & 0o022:
        problem = "can be written to by other users"
    if problem is not None:
        os.close(folder)
        raise DataError(
            f"the fingerprints cannot be shared by trials: their folder {problem}",
            where=str(place),
            allowed="a folder that this user alone can write to",
            fix="remove it, or name another folder with fingerprint_cache in the cluster file",
        )
    return folder


def _open_run(shared: int, run: str) -> int:
    """The folder of a run, with a shared lock; made where it is not there."""
    while True:
        with suppress(FileExistsError):
            os.mkdir(run, 0o700, dir_fd=shared)
        try:
            folder = os.open(run, _FOLDER, dir_fd=shared)
        except FileNotFoundError:  # taken for one that is over
            continue
        try:
            fcntl.flock(folder, fcntl.LOCK_SH)
            if _is_still(folder, run, shared):
                return folder
        except BaseException:
            os.close(folder)
            raise
        os.close(folder)


def _remove_dead_runs(shared: int) -> None:
    """Remove the folders of runs of which no process is left."""
    for run in _names(shared):
        if _RUN.fullmatch(run):
            with suppress(OSError):  # another process removes it as well
                folder = os.open(run, _FOLDER, dir_fd=shared)
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _is_still(folder, run, shared):
                        _remove_folder(run, shared)
                finally:
                    os.close(folder)


def _remove_folder(run: str, shared: int) -> None:
    folder = os.open(run, _FOLDER, dir_fd=shared)
    try:
        for entry in _names(folder):
            with suppress(FileNotFoundError):
                os.unlink(entry, dir_fd=folder)
        os.rmdir(run, dir_fd=shared)
    finally:
        os.close(folder)


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _remove_unlocked(entry: str, folder: int, *others: str) -> None:
    """Remove a file that no process has locked, and what may only be there while one has."""
    with suppress(FileNotFoundError):
        file = os.open(entry, os.O_RDWR | _FILE, dir_fd=folder)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(file, entry, folder):
                for other in others:
                    with suppress(FileNotFoundError):
                        os.unlink(other, dir_fd=folder)
                os.unlink(entry, dir_fd=folder)
        except BlockingIOError:
            pass
        finally:
            os.close(file)


def _is_still(opened: int, entry: str, folder: int) -> bool:
    """Whether a name stands for what was opened by it."""
    try:
        found = os.stat(entry, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(opened), found)


def _fill(file: int, size: int, pieces: Iterable[memoryview]) -> None:
    # A file with holes could be mapped, and kill its reader when the disk is full.
    os.posix_fallocate(file, 0, size)
    at = 0
    for piece in pieces:
        rest = piece.cast("B")
        while rest:
            written = os.pwrite(file, rest, at)
            at, rest = at + written, rest[written:]
    if at != size:
        raise ValueError(f"{at} bytes were made, and {size} were announced")
