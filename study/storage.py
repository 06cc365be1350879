"""Results on remote storage: any file system that pyarrow knows, named by a URI.

A driver works on a local mirror; the remote folder is the truth. `open_results` brings the mirror, and hands out a
`Store` that puts every file there before it counts::

    with open_results("s3://bucket/results/my_study?region=eu-central-1") as store:
        ...

    s3://bucket/path    Amazon S3 and what speaks like it (?endpoint_override=HOST:PORT&scheme=http)
    gs://bucket/path    Google Cloud Storage
    abfs://, hdfs://    as pyarrow's ``FileSystem.from_uri`` takes them
    file:///path        a local folder: used as it is, without a mirror

Credentials come from the environment or the provider's own files, never from the URI, which is shown in messages.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.fs as pafs

from study.errors import ResultsError
from study.locking import LockTimes
from study.planning.record import PLAN_FILE
from study.result_files import KINDS
from study.store import Store

__all__ = ["RemoteFolder", "is_remote", "local_path", "open_results", "study_location"]

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "file")
# Files beside the three folders that belong to the results.
DOCUMENTS = ("study.yaml", "site.json", PLAN_FILE, "optuna.journal", "events.jsonl")
# What is written piece by piece while a study runs.
LOGS = ("optuna.journal", "events.jsonl")
SYNC_EVERY_S = 30.0

# pyarrow's own patience is minutes.
_CONNECT_S, _REQUEST_S, _ATTEMPTS = 5.0, 30.0, 3
# What the S3 client says when the answer is an error message longer than the object it had asked for: the object was
# removed since its size was asked, or the server is busy. It tells neither, and never repeats the request by itself.
_LOST_ANSWER = "Failed to flush response stream"
_AGAIN_S = 0.2
_OPEN_S = 60.0
_TRANSFERS = 16
# A compaction takes longer than a pull: more than two in a row are not in each other's way by chance.
_MOST_PULLS = 5
_PIECE_BYTES = 8 * 2**20
_STORED_NAME = re.compile(r"(?:trials|epochs|errors)/[0-9A-Za-z][0-9A-Za-z-]{0,79}\.parquet")
_S3_QUERY = {
    "scheme": str,
    "endpoint_override": str,
    "region": str,
    "allow_bucket_creation": bool,
    "force_virtual_addressing": bool,
    "anonymous": bool,
}

T = TypeVar("T")


def is_remote(location: str | Path) -> bool:
    """Whether a location is a URI of another place than this machine's file system."""
    return isinstance(location, str) and "://" in location and urlsplit(location).scheme != "file"


def local_path(location: str | Path) -> Path:
    """The path of a local location, which may be a ``file://`` URI.

    Raises:
        ResultsError: the URI names another machine.
    """
    if isinstance(location, str) and location.startswith("file://"):
        parts = urlsplit(location)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise _bad_uri(location, "a file URI has three slashes and a full path", "file:///home/me/results/NAME")
        return Path(unquote(parts.path))
    return Path(location)


def study_location(results: str | Path, study: str) -> str | Path:
    """Where a study's folder is in the place of all results: ``s3://bucket/a?x=1`` → ``s3://bucket/a/STUDY?x=1``."""
    if not is_remote(results):
        return local_path(results) / study
    parts = urlsplit(str(results))
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(study)}"))


@contextmanager
def open_results(
    location: str | Path, *, parts: Sequence[str] = KINDS, create: bool = False, lock_times: LockTimes = LockTimes()
) -> Iterator[Store]:
    """The store at a path or a URI.

    A path is used as it is. For a URI a temporary mirror is filled first, and removed afterwards. Who wants to write
    takes the lock (`Store.locked`), which brings the mirror up to date.

    Args:
        location: a path, or a URI of a folder.
        parts: which of ``trials``, ``epochs`` and ``errors`` the mirror needs.
        create: make a bucket that is missing, where the URI says allow_bucket_creation=true.
        lock_times: see `Store`.

    Raises:
        ResultsError: the URI cannot be used, or the storage cannot be reached.
    """
    if not is_remote(location):
        yield Store(local_path(location), lock_times=lock_times)
        return
    remote = RemoteFolder.open(str(location), create=create)
    with tempfile.TemporaryDirectory(prefix="study-results-") as scratch:
        folder = Path(scratch) / (remote.base.rpartition("/")[2] or "results")
        folder.mkdir()
        remote.pull(folder, parts)
        yield Store(folder, remote, lock_times)


class RemoteFolder:
    """A folder on a pyarrow file system.

    Args:
        filesystem: the file system.
        base: the folder's path on it.
        shown: its name in messages.
    """

    def __init__(self, filesystem: pafs.FileSystem, base: str, shown: str) -> None:
        self.filesystem, self.base, self.shown = filesystem, base.rstrip("/"), shown
        # An object appears whole or not at all; on file systems with a real rename that is what makes it so.
        self._renames = filesystem.type_name in ("local", "hdfs")
        self._listed: set[str] = set()
        self._parts: tuple[str, ...] = ()
        # Name → size and time of the Parquet files that the mirror has as they are there.
        self._mirrored: dict[str, tuple[int, int]] = {}
        self._synced: dict[str, str] = {}
        self._last_sync = time.monotonic()
        self._running: Future[None] | None = None
        self._threads = ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="results")

    @classmethod
    def open(cls, uri: str, *, create: bool = False) -> RemoteFolder:
        """The folder that a URI names.

        Raises:
            ResultsError: the URI cannot be used, or the storage does not answer within a bounded time.
        """
        parts = urlsplit(uri)
        if parts.scheme not in SCHEMES:
            raise _bad_uri(uri, f"the scheme {parts.scheme!r} is not known", f"one of {', '.join(SCHEMES)}")
        if "@" in parts.netloc and parts.scheme in ("s3", "gs", "gcs"):
            raise _bad_uri(
                uri.replace(parts.netloc, "…@" + parts.netloc.rpartition("@")[2]),
                "credentials do not belong into a URI, which is shown and stored",
                "credentials in the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            )
        if not parts.netloc and parts.scheme not in ("hdfs", "file"):
            raise _bad_uri(uri, "the URI names no bucket", f"{parts.scheme}://BUCKET/FOLDER")
        path = unquote(parts.path).strip("/")
        if not path or any(part in ("", ".", "..") for part in path.split("/")):
            raise _bad_uri(uri, "the URI names no folder", f"{parts.scheme}://{parts.netloc or 'BUCKET'}/FOLDER")
        make = _s3 if parts.scheme == "s3" else _other
        filesystem, base = _within(_OPEN_S, lambda: make(uri), uri)
        remote = cls(filesystem, base, uri)
        if parts.scheme != "hdfs":
            _within(_OPEN_S, lambda: remote._check_bucket(parts.netloc, create, parts.query), uri)
        return remote

    def _check_bucket(self, bucket: str, create: bool, query: str) -> None:
        if self.filesystem.type_name == "local":
            return
        try:
            if self.filesystem.get_file_info(bucket).type != pafs.FileType.NotFound:
                return
            if create and dict(parse_qsl(query)).get("allow_bucket_creation", "").lower() in ("1", "true"):
                self.filesystem.create_dir(bucket)
                return
        except (OSError, pa.ArrowException) as error:
            raise _explained(error, "the results cannot be read", self.shown) from None
        raise ResultsError(
            f"there is no bucket {bucket!r}",
            where=self.shown,
            allowed="a bucket that exists",
            fix="check its name, make it first, or let `study run` make it with ?allow_bucket_creation=true",
        )

    def names(self) -> list[str]:
        """The files of the results that are there: documents, and Parquet files of the three folders."""
        return list(self._list())

    def _list(self) -> dict[str, tuple[int, int]]:
        """Name → its size in bytes, and when it was changed (ns, by the storage's clock)."""
        selector = pafs.FileSelector(self.base, recursive=True, allow_not_found=True)
        with self._explaining("the results cannot be read"):
            found = self.filesystem.get_file_info(selector)
        files = [item for item in found if item.type == pafs.FileType.File and item.path.startswith(f"{self.base}/")]
        stamps = {item.path[len(self.base) + 1 :]: (item.size or 0, item.mtime_ns or 0) for item in files}
        # A name from there becomes a path here: only those that we write ourselves do.
        return {name: stamp for name, stamp in stamps.items() if name in DOCUMENTS or _STORED_NAME.fullmatch(name)}

    def times(self, folder: str) -> dict[str, float]:
        """Name → when it was changed (seconds, by the storage's clock) of the files in a folder."""
        selector = pafs.FileSelector(f"{self.base}/{folder}", allow_not_found=True)
        with self._explaining("the results cannot be read"):
            found = self.filesystem.get_file_info(selector)
        return {
            item.base_name: item.mtime.timestamp()
            for item in found
            if item.type == pafs.FileType.File and item.mtime is not None
        }

    def read_small(self, name: str, most_bytes: int) -> bytes | None:
        """The beginning of a file; None when it is not there."""
        with self._explaining("the results cannot be read"):
            try:
                return self._reading(name, lambda stream: bytes(stream.read(most_bytes)))
            except FileNotFoundError:
                return None

    def pull(self, folder: Path, parts: Sequence[str] = KINDS) -> None:
        """Make the mirror what is there: bring what is new or changed, and remove what is gone.

        Args:
            folder: the mirror.
            parts: the folders that it needs, beside the documents.

        Raises:
            ResultsError: the storage cannot be read, or its files never stay as they are.
        """
        self._parts = tuple(parts)
        for kind in ("trials", *parts):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for _ in range(_MOST_PULLS):
            # A compaction may go on meanwhile: its new file comes before what it replaces goes.
            if self._pull_once(folder, parts):
                break
        else:
            raise ResultsError(
                "the results change faster than they can be read",
                where=self.shown,
                fix="run the same command again when the study or its compaction has ended",
            )
        self._synced = {name: _digest((folder / name).read_bytes()) for name in LOGS if (folder / name).is_file()}

    def _pull_once(self, folder: Path, parts: Sequence[str]) -> bool:
        """Whether the mirror has all that was there at one moment."""
        listed = self._list()
        self._listed = set(listed)
        wanted = [name for name in sorted(listed) if name in DOCUMENTS or name.partition("/")[0] in parts]
        changed = [name for name in wanted if self._mirrored.get(name) != listed[name] or not (folder / name).exists()]
        vanished: list[str] = []

        def bring(name: str) -> None:
            if not self._pull(name, folder / name):
                vanished.append(name)

        self._each(bring, changed)
        # Object stores count whole seconds: what was changed in the last one may change again and look the same. The
        # documents are few, and may have been written here.
        newest = max((changed_ns for _, changed_ns in listed.values()), default=0)
        self._mirrored = {
            name: listed[name]
            for name in wanted
            if name not in DOCUMENTS and name not in vanished and listed[name][1] < newest - 10**9
        }
        here = [
            *(folder / name for name in DOCUMENTS),
            *(path for kind in KINDS for path in folder.glob(f"{kind}/*.parquet")),
        ]
        for path in here:
            if path.relative_to(folder).as_posix() not in listed:
                path.unlink(missing_ok=True)
        compacted = {name for name in listed if name.startswith("trials/compacted-")}
        now = {f"trials/{name}" for name in self.times("trials") if name.startswith("compacted-")}
        return not vanished and {name for name in now if _STORED_NAME.fullmatch(name)} == compacted

    def _pull(self, name: str, path: Path) -> bool:
        """Whether the file was there."""
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")

        def copy(stream: pa.NativeFile) -> None:
            with temporary.open("wb") as file:
                shutil.copyfileobj(stream, file, _PIECE_BYTES)

        with self._explaining("the results cannot be read", name):
            try:
                self._reading(name, copy)
                temporary.replace(path)
                return True
            except FileNotFoundError:  # a compaction has just replaced it
                path.unlink(missing_ok=True)
                return False
            finally:
                temporary.unlink(missing_ok=True)

    def fetch(self, name: str, folder: Path) -> None:
        """Bring a file that the mirror was not filled with, where there is one.

        Raises:
            ResultsError: the storage cannot be read.
        """
        if name in self._listed and not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if not self._pull(name, folder / name):
                self.pull(folder, self._parts)  # a compaction has moved it

    def push(self, names: Sequence[str], folder: Path, *, verify: bool = False) -> None:
        """Put files of a mirror, at the same time; they are there when this returns.

        Args:
            names: relative to the folder.
            folder: the mirror.
            verify: read them back, and compare.

        Raises:
            ResultsError: one could not be put.
        """

        def put(name: str) -> None:
            self._put(name, folder / name)
            if verify and not self._same(name, folder / name):
                raise ResultsError(
                    "a file does not read back as it was put", where=f"{self.shown}: {name}", fix="try again"
                )

        for name in names:
            self._mirrored.pop(name, None)
        self._each(put, names)

    def put(self, name: str, content: bytes) -> None:
        """Put a small file.

        Raises:
            ResultsError: it could not be put.
        """
        self._put(name, content)

    def push_folder(self, name: str, folder: Path) -> None:
        """Make a folder there what a folder here is: its files are put, and others there are removed.

        Args:
            name: the folder there.
            folder: the folder here.

        Raises:
            ResultsError: the storage cannot be written.
        """
        there = pafs.FileSelector(f"{self.base}/{name}", recursive=True, allow_not_found=True)
        with self._explaining("the results cannot be read"):
            found = [item.path for item in self.filesystem.get_file_info(there) if item.type == pafs.FileType.File]
        before = {path[len(self.base) + 1 :] for path in found}
        here = {
            f"{name}/{path.relative_to(folder).as_posix()}": path
            for path in folder.rglob("*")
            if path.is_file() and not path.is_symlink()
        }
        self._each(lambda item: self._put(item, here[item]), sorted(here))
        self.remove(sorted(before - set(here)))

    def remove(self, names: Iterable[str]) -> None:
        """Remove files that may be there."""

        def delete(name: str) -> None:
            with self._explaining("results cannot be removed", name), suppress(FileNotFoundError):
                self.filesystem.delete_file(f"{self.base}/{name}")

        self._each(delete, names)

    def sync(self, folder: Path, *, force: bool = False) -> None:
        """Put the logs that have changed. See `Store.sync`."""
        if force and self._running is not None:
            with suppress(ResultsError):  # it is tried again below
                self._running.result()
            self._running = None
        if not force and (
            time.monotonic() - self._last_sync < SYNC_EVERY_S
            or (self._running is not None and not self._running.done())
        ):
            return
        self._last_sync = time.monotonic()
        # Read here, in the driver's thread, which also writes them: a log is put as it was between two entries.
        changed = {}
        for name in LOGS:
            with suppress(OSError):
                content = (folder / name).read_bytes()
                if self._synced.get(name) != _digest(content):
                    changed[name] = content

        def put_all() -> None:
            for name, content in changed.items():
                self._put(name, content)
                self._synced[name] = _digest(content)

        if force:
            put_all()
        elif changed:
            self._running = self._threads.submit(put_all)

    def _put(self, name: str, source: bytes | Path) -> None:
        target = f"{self.base}/{name}"
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        with self._explaining("results cannot be stored", name):
            written = target
            if self._renames:
                self.filesystem.create_dir(target.rpartition("/")[0])
                written = f"{target}.{uuid.uuid4().hex}.tmp"
            try:
                with self.filesystem.open_output_stream(written) as stream:
                    if isinstance(source, bytes):
                        stream.write(source)
                    else:
                        with source.open("rb") as file:
                            shutil.copyfileobj(file, stream, _PIECE_BYTES)
                # A stream that failed half-way may have been closed as a shorter object.
                if self.filesystem.get_file_info(written).size != size:
                    raise OSError("the file there does not have the size that was put")
            except (OSError, pa.ArrowException):
                with suppress(OSError, pa.ArrowException):
                    self.filesystem.delete_file(written)
                raise
            if self._renames:
                self.filesystem.move(written, target)

    def _same(self, name: str, path: Path) -> bool:
        def compare(stream: pa.NativeFile) -> bool:
            with path.open("rb") as file:
                while True:
                    there, here = stream.read(_PIECE_BYTES), file.read(_PIECE_BYTES)
                    if bytes(there) != here:
                        return False
                    if not here:
                        return True

        with self._explaining("the results cannot be read", name):
            return self._reading(name, compare)

    def _reading(self, name: str, read: Callable[[pa.NativeFile], T]) -> T:
        """What a function makes of a file there; it is called again when the answer to a request was lost.

        Raises:
            FileNotFoundError: the file is not there.
            OSError: it cannot be read.
        """
        for attempt in range(_ATTEMPTS):
            try:
                with self.filesystem.open_input_stream(f"{self.base}/{name}") as stream:
                    return read(stream)
            except OSError as error:
                if _LOST_ANSWER not in str(error) or attempt == _ATTEMPTS - 1:
                    raise
            time.sleep(_AGAIN_S * 2**attempt)
        raise AssertionError("every attempt returns or raises")

    def _each(self, do: Callable[[str], None], names: Iterable[str]) -> None:
        """Do it for all names at the same time; the first error, when all have ended."""
        running = [self._threads.submit(do, name) for name in names]
        errors = [error for item in running if (error := item.exception()) is not None]
        if errors:
            raise errors[0]

    @contextmanager
    def _explaining(self, what: str, name: str = "") -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise _explained(error, what, f"{self.shown}: {name}" if name else self.shown) from None


def _s3(uri: str) -> tuple[pafs.FileSystem, str]:
    parts = urlsplit(uri)
    options: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _S3_QUERY:
            raise _bad_uri(uri, f"the parameter {name!r} is not known", ", ".join(_S3_QUERY))
        if _S3_QUERY[name] is bool and value.lower() not in ("true", "false", "1", "0"):
            raise _bad_uri(uri, f"the parameter {name!r} is not true or false", "true or false")
        options[name] = value.lower() in ("true", "1") if _S3_QUERY[name] is bool else value
    scheme = options.get("scheme", "https")
    if scheme not in ("http", "https"):
        raise _bad_uri(uri, f"the parameter scheme is {scheme!r}", "http or https")
    endpoint = (
        options.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    _probe(endpoint or "s3.amazonaws.com", scheme, uri)
    if "region" not in options and endpoint is None:
        options["region"] = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not options["region"]:
            try:
                options["region"] = pafs.resolve_s3_region(parts.netloc)
            except (OSError, pa.ArrowException) as error:
                raise _explained(error, "the results cannot be read", uri) from None
    try:
        filesystem = pafs.S3FileSystem(
            **options,
            connect_timeout=_CONNECT_S,
            request_timeout=_REQUEST_S,
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        )
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _explained(error, "the results cannot be read", uri) from None
    return filesystem, f"{parts.netloc}/{unquote(parts.path).strip('/')}"


def _other(uri: str) -> tuple[pafs.FileSystem, str]:
    parts = urlsplit(uri)
    query = dict(parse_qsl(parts.query))
    if parts.scheme in ("gs", "gcs"):
        _probe(query.get("endpoint_override", "storage.googleapis.com"), query.get("scheme", "https"), uri)
        query.setdefault("retry_limit_seconds", str(_REQUEST_S))
        uri = urlunsplit(parts._replace(scheme="gs", query=urlencode(query)))
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _explained(error, "the results cannot be read", uri) from None
    return filesystem, path


def _probe(endpoint: str, scheme: str, uri: str) -> None:
    """Whether somebody listens there: a second instead of the minutes that a client's retries take."""
    parts = urlsplit(endpoint if "://" in endpoint else f"{scheme}://{endpoint}")
    try:
        address = (parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))
        socket.create_connection(address, timeout=_CONNECT_S).close()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ResultsError(
            f"the storage at {endpoint} cannot be reached: {reason}",
            where=uri,
            allowed="a server that listens there",
            fix="check the network, the name and the port (endpoint_override)",
        ) from None


def _within(seconds: float, do: Callable[[], T], uri: str) -> T:
    """What a function returns or raises, for at most so long: clients of storage retry for minutes."""
    found: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(do())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="results-open")
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not found:
        raise ResultsError(
            f"the storage does not answer within {seconds:.0f} s",
            where=uri,
            fix="check the network and the credentials (AWS_EC2_METADATA_DISABLED=true spares a wait for them)",
        )
    return found[0]


def _bad_uri(uri: str, what: str, allowed: str) -> ResultsError:
    return ResultsError(
        f"the results cannot be there: {what}", where=uri, allowed=allowed, fix="mend the URI, or give a local folder"
    )


def _explained(error: BaseException, what: str, where: str) -> ResultsError:
    """An error of a file system, with what to do about it as far as its text tells."""
    text = str(error)
    lines = text.splitlines()
    first = (lines[0] if lines else type(error).__name__)[:300]
    known = text.upper().replace(" ", "_")

    def has(*words: str) -> bool:
        return any(word in known for word in words)

    if has("NO_SUCH_BUCKET", "NOSUCHBUCKET", "BUCKET_NOT_FOUND"):
        reason, fix = "the bucket does not exist", "check its name, or make it first"
    elif has("SIGNATURE", "INVALID_ACCESS_KEY", "INVALIDACCESSKEY", "EXPIRED", "CREDENTIALS", "INVALID_CLIENT_TOKEN"):
        reason, fix = "the credentials are not accepted", "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE"
    elif has("ACCESS_DENIED", "ACCESSDENIED", "FORBIDDEN", "HTTP_STATUS_403", "PERMISSION", "UNAUTHENTICATED"):
        reason = "access is denied"
        fix = "set credentials that may read and write there (AWS_ACCESS_KEY_ID, AWS_PROFILE, or the provider's own)"
    elif has("NETWORK_CONNECTION", "CONNECT", "TIMEOUT", "TIMED_OUT", "RESOLVE", "CURL", "UNAVAILABLE"):
        reason, fix = "the storage cannot be reached", "check the network, then run the same command again"
    else:
        reason, fix = first, "mend that, then run the same command again"
    detail = "" if reason == first else f" ({first})"
    return ResultsError(
        f"{what}: {reason}{detail}",
        where=where,
        allowed="storage that can be reached, with credentials to read and write",
        fix=f"{fix}; what was stored before is kept",
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
