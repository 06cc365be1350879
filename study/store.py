"""The Parquet store: what is true about a study.

One file per trial in each of ``trials/``, ``epochs/`` and ``errors/``, written whole or not at all: under a temporary
name, synchronized to disk, renamed. ``trials/`` comes last, so a row there means that the trial is complete. `compact`
merges the files of many trials; a trial's own file always comes before a merged row. The columns are documented in
docs/results.md.

Where the results live on remote storage, the folder is a mirror of it: whatever is written here is put there before it
counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml
from pydantic import ValidationError

from study import __version__
from study.compaction import Compaction, merge
from study.errors import ResultsError
from study.locking import FolderLock, LockTimes, Owner, RemoteLock
from study.planning.record import PLAN_FILE
from study.result_files import (
    EPOCH_SCHEMA,
    ERROR_SCHEMA,
    FINISHED_STATES,
    KINDS,
    READ_ERRORS,
    SCHEMAS,
    STATES,
    TRIAL_SCHEMA,
    CompactedFile,
    Damaged,
    Listing,
    checked_rows,
    damage,
    list_files,
    new_file,
    printable,
    read_plain_file,
    read_single,
    sync_folder,
    unwritable,
    valid_key,
    write_single,
)
from study.spec.document import Document
from study.spec.model import StudySpec
from study.spec.problems import UNKNOWN_KEY, problems_of

if TYPE_CHECKING:
    from study.storage import RemoteFolder

__all__ = [
    "EPOCH_SCHEMA",
    "ERROR_SCHEMA",
    "FINISHED_STATES",
    "STATES",
    "TRIAL_SCHEMA",
    "Compaction",
    "Damaged",
    "Owner",
    "Store",
    "StoredTrials",
    "TrialTables",
    "is_study",
    "studies_in",
]

# Opening a file is waiting and parsing; more threads than this get into each other's way.
_READERS = 4
_SHOWN_KEYS = 5
_KEYS = pa.dictionary(pa.int32(), pa.string())
_MOST_DOCUMENT_BYTES = 4_000_000
_MOST_DOCUMENT_NODES = 200_000


@dataclass(frozen=True)
class TrialTables:
    """What a finished trial leaves.

    Attributes:
        row: the columns of `TRIAL_SCHEMA`; absent ones are null.
        epochs: columns of `EPOCH_SCHEMA` without the key, as lists; None when no epoch was finished.
        errors: columns of `ERROR_SCHEMA` without the key, as arrays; None when there was no test.
    """

    row: dict[str, Any]
    # No part of its words: Ray puts each result into log lines, and to print arrays takes longer than to store them.
    epochs: dict[str, Any] | None = field(default=None, repr=False)
    errors: dict[str, Any] | None = field(default=None, repr=False)


@dataclass
class StoredTrials:
    """The readable rows by key, and the files that were not read."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    damaged: list[Damaged] = field(default_factory=list)


def is_study(folder: Path) -> bool:
    """Whether a folder is, or once was, the results folder of a study."""
    return (folder / "study.yaml").exists() or (folder / "trials").exists()


def studies_in(folder: Path) -> list[Path]:
    """The results folders that lie in a folder such as ``results/``; other folders are nobody's business here."""
    with suppress(OSError):
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and is_study(entry))
    return []


class Store:
    """The results folder of one study.

    Args:
        folder: the folder, or the mirror of a remote one.
        remote: where the results live, when that is not the folder itself.
        lock_times: how often a lock is renewed, and when it is stale.
    """

    def __init__(self, folder: Path, remote: RemoteFolder | None = None, lock_times: LockTimes = LockTimes()) -> None:
        self.folder, self.remote = folder, remote
        self._lock_times = lock_times
        self._held: FolderLock | RemoteLock | None = None
        # Compacted files never change: they are opened once, and known by their identity on disk.
        self._opened: dict[tuple[Path, int, int, int], CompactedFile] = {}

    @property
    def spec_file(self) -> Path:
        """The resolved spec."""
        return self.folder / "study.yaml"

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.folder / "optuna.journal"

    @property
    def events(self) -> Path:
        """The event log."""
        return self.folder / "events.jsonl"

    @property
    def location(self) -> str:
        """Where the results live, for messages."""
        return str(self.folder) if self.remote is None else self.remote.shown

    def write(self, tables: TrialTables) -> None:
        """Store a finished trial. The one way in; only the driver that holds the folder calls it.

        Raises:
            ResultsError: the folder cannot be written (permissions, a full disk, a network that is down), or another
                driver has taken it over; nothing half-written remains.
        """
        key = tables.row["key"]
        if not valid_key(key):
            raise ValueError(f"{key!r} cannot be the key of a trial")
        self._check_held()
        written, absent = [], []
        for name, columns in (("epochs", tables.epochs), ("errors", tables.errors)):
            file, schema = f"{name}/{key}.parquet", SCHEMAS[name]
            if columns is None:
                absent.append(file)
                continue
            length = len(next(iter(columns.values())))
            full = {item: columns.get(item, [None] * length) for item in schema.names if item != "key"}
            write_single(self.folder / file, pa.table({"key": [key] * length, **full}, schema=schema))
            written.append(file)
        if self.remote is not None:
            self.remote.push(written, self.folder)
        self._check_held()
        file = f"trials/{key}.parquet"
        row = pa.table({item: [tables.row.get(item)] for item in TRIAL_SCHEMA.names}, schema=TRIAL_SCHEMA)
        write_single(self.folder / file, row)
        if self.remote is not None:
            try:
                self.remote.push([file], self.folder)
            except ResultsError:
                (self.folder / file).unlink(missing_ok=True)  # it does not count before it is there
                raise
        # An earlier attempt may have left epochs that this one, which failed at once, does not have.
        self._remove([name for name in absent if (self.folder / name).is_file()])

    def load(self) -> StoredTrials:
        """All rows that can be read. A damaged file is listed, and is no result: its trials run again."""
        while True:
            # A compaction may go on beside a reader: its new file comes before what it replaces goes.
            before = set(list_files(self.folder, "trials").compacted)
            stored, complete = self._load()
            if complete and before == set(list_files(self.folder, "trials").compacted):
                return stored

    def _load(self) -> tuple[StoredTrials, bool]:
        """Everything once, and whether no listed file had gone before it was read."""
        listing = list_files(self.folder, "trials")
        stored, complete = StoredTrials(), True
        for number in sorted(listing.compacted):
            path = listing.compacted[number]
            try:
                rows, unusable = self._compacted(path, "trials").usable_rows()
                stored.rows |= rows
                stored.damaged += unusable
            except FileNotFoundError:
                complete = False
            except READ_ERRORS as error:
                stored.damaged.append(damage(path, error))
        for path, read in _read_trials(listing.single.values()):
            row = next(checked_rows(read)) if isinstance(read, pa.Table) else read
            if isinstance(row, FileNotFoundError):
                complete = False
                continue
            # It is about this key, or says so: an older merged row is no answer to it.
            stored.rows.pop(path.stem, None)
            if isinstance(row, Exception):
                stored.damaged.append(damage(path, row))
            elif row["key"] != path.stem:
                stored.damaged.append(Damaged(path, "the file's name is not the key of its row"))
            else:
                stored.rows[path.stem] = row
        stored.damaged += [Damaged(path, "its name is not the key of a trial") for path in listing.strangers]
        stored.damaged.sort(key=lambda item: item.path)
        stored.rows = dict(sorted(stored.rows.items()))
        return stored, complete

    def keys(self, prefix: str = "") -> list[str]:
        """Keys of all stored trials, readable or not, that start with the given text."""
        listing = list_files(self.folder, "trials")
        found = set(listing.single)
        for path in listing.compacted.values():
            with suppress(*READ_ERRORS):
                found.update(self._compacted(path, "trials").keys())
        return sorted(key for key in found if key.startswith(prefix))

    def find(self, prefix: str) -> dict[str, Any]:
        """The row whose key starts with the given text.

        Raises:
            ResultsError: none or several do, or its file is damaged.
        """
        known = self.keys()
        found = [key for key in known if key.startswith(prefix)]
        if len(found) != 1 or not prefix:
            listed = found or known
            more = f" … ({len(listed)} in all)" if len(listed) > _SHOWN_KEYS else ""
            raise ResultsError(
                f"{'no trial has' if not found else f'{len(found)} trials have'} a key that starts with {prefix!r}",
                where=f"{self.location}/trials",
                allowed=", ".join(listed[:_SHOWN_KEYS]) + more if listed else "this folder holds no trial yet",
                fix="copy a key from the report",
            )
        try:
            return self._row(found[0])
        except READ_ERRORS as error:
            raise ResultsError(
                f"the result file is damaged: {damage(self.folder, error).reason}",
                where=found[0],
                fix="run the study again to replace it",
            ) from None

    def read_epochs(self, key: str, columns: Sequence[str] | None = None) -> pa.Table | Damaged | None:
        """The epochs of a trial.

        Args:
            key: the trial's key.
            columns: what to read of `EPOCH_SCHEMA`; everything by default. The key comes along.

        Returns:
            The table, columns that the file lacks null; the file, where it cannot be read; None when none is stored.
        """
        return self._side("epochs", key, columns)

    def read_errors(self, key: str, columns: Sequence[str] | None = None) -> pa.Table | Damaged | None:
        """The test samples of a trial; see `read_epochs`."""
        return self._side("errors", key, columns)

    def read_many(self, kind: str, keys: Iterable[str], columns: Sequence[str]) -> tuple[pa.Table, list[Damaged]]:
        """The epochs or test samples of many trials in one table. Of a compacted file a row group is read once.

        Args:
            kind: ``epochs`` or ``errors``.
            keys: the trials' keys.
            columns: what to read besides the key.

        Returns:
            The key (a dictionary of texts) and the columns, the rows of a trial together and trials in no order that
            is promised; and the files that cannot be read. A trial without a file has no rows.
        """
        tables: list[pa.Table] = []
        damaged: list[Damaged] = []
        merged: dict[Path, list[str]] = {}
        listing = list_files(self.folder, "trials")
        for key in dict.fromkeys(filter(valid_key, keys)):
            # A remote folder's files are fetched one by one; and a file that has just gone is looked for again.
            generation = None if self.remote is not None else self._generation(key, listing)
            if generation is not None:
                merged.setdefault(self.folder / kind / generation.name, []).append(key)
                continue
            table = self._side(kind, key, columns)
            if isinstance(table, Damaged):
                damaged.append(table)
            elif table is not None:
                tables.append(table)
        for path, members in merged.items():
            try:
                tables.append(self._compacted(path, kind).rows_of_many(members, columns))
            except FileNotFoundError:  # a compaction has just replaced it
                found = [self._side(kind, key, columns) for key in members]
                tables += [table for table in found if isinstance(table, pa.Table)]
                damaged += [table for table in found if isinstance(table, Damaged)]
            except READ_ERRORS as error:
                damaged.append(damage(path, error))
        names = ["key", *(name for name in SCHEMAS[kind].names if name in columns)]
        schema = pa.schema([(name, _KEYS if name == "key" else SCHEMAS[kind].field(name).type) for name in names])
        plain = [
            pa.Table.from_arrays(
                [
                    column if column.type == wanted.type else column.cast(wanted.type)
                    for column, wanted in zip(table.select(names).columns, schema, strict=True)
                ],
                schema=schema,
            )
            for table in tables
        ]
        return pa.concat_tables([schema.empty_table(), *plain]).unify_dictionaries().combine_chunks(), damaged

    def file_of(self, kind: str, key: str) -> Path:
        """The file that a stored trial's row, epochs or test samples are in, for messages."""
        generation = self._generation(key)
        return self.folder / kind / (f"{key}.parquet" if generation is None else generation.name)

    def compact(self) -> Compaction:
        """Merge the files of all trials that can be read into one file of each kind.

        Whatever ends it, and when: no trial is lost and none counts twice. See study/compaction.py.

        Raises:
            ResultsError: a driver holds the folder, or it cannot be written; nothing was removed then.
        """
        if self._held is None:
            with self.locked():
                return self.compact()
        return merge(self.folder, _read_trials, self._check_held, self._keep, self._remove)

    def sync(self, *, force: bool = False) -> None:
        """Put Optuna's journal and the events on remote storage, about every half minute; nothing for a local folder.

        Called by the driver that holds the folder now and then; from another, whose mirror may be old, nothing is put.
        It does not wait for the network, and what could not be put is put later; with ``force`` it waits.

        Raises:
            ResultsError: they could not be put; only with ``force``.
        """
        if self.remote is not None and self._held is not None and not self._held.lost:
            self.remote.sync(self.folder, force=force)

    def _check_held(self) -> None:
        """Refuse to store anything once another driver has the folder."""
        if self._held is not None and self._held.lost:
            raise ResultsError(
                "another driver has taken the study over, because this one was silent for too long",
                where=self.location,
                allowed="one driver for each results folder",
                fix="leave it to the other one; finished trials are kept",
            )

    def _keep(self, name: str) -> None:
        self._check_held()
        if self.remote is not None:
            self.remote.push([name], self.folder, verify=True)

    def _remove(self, names: Sequence[str]) -> None:
        """Remove files, rows of trials before their epochs and errors."""
        self._check_held()
        for group in ([n for n in names if n.startswith("trials/")], [n for n in names if not n.startswith("trials/")]):
            if self.remote is not None:
                self.remote.remove(group)
            for name in group:
                path = self.folder / name
                try:
                    path.unlink(missing_ok=True)  # a link goes, and not what it leads to
                except OSError as error:
                    raise unwritable(path, error) from None
            for kind in {name.partition("/")[0] for name in group}:
                with suppress(OSError):
                    sync_folder(self.folder / kind)

    def _compacted(self, path: Path, kind: str) -> CompactedFile:
        found = path.lstat()
        identity = (path, found.st_ino, found.st_size, found.st_mtime_ns)
        if identity not in self._opened:
            self._opened[identity] = CompactedFile(path, kind)
        return self._opened[identity]

    def _row(self, key: str) -> dict[str, Any]:
        """The row of a stored key, or one of `READ_ERRORS`."""
        path = self.folder / "trials" / f"{key}.parquet"
        generation = self._generation(key)
        if generation is None:
            table = read_single(path, "trials")
        else:
            table = self._compacted(generation, "trials").rows_of(key)
        row = next(checked_rows(table), None)
        if isinstance(row, ValueError):
            raise row
        if row is None or row["key"] != key:
            raise ValueError("the file's name is not the key of its row")
        return row

    def _generation(self, key: str, listing: Listing | None = None) -> Path | None:
        """The compacted trials that a key's row is in; None when it has a file of its own, or is not stored.

        Args:
            key: the trial's key.
            listing: of the folder's trials, for many keys; it may be a little old, and then None says less.
        """
        path = self.folder / "trials" / f"{key}.parquet"
        if path.exists() or path.is_symlink():
            return None
        listing = listing or list_files(self.folder, "trials")
        for number in sorted(listing.compacted, reverse=True):
            with suppress(*READ_ERRORS):
                if self._compacted(listing.compacted[number], "trials").holds(key):
                    return listing.compacted[number]
        return None

    def _side(self, kind: str, key: str, columns: Sequence[str] | None) -> pa.Table | Damaged | None:
        if not valid_key(key):
            return None
        for last in (False, True):
            # Where the row is, there are its epochs and errors; a compaction may just be moving them.
            generation = self._generation(key)
            name = f"{key}.parquet" if generation is None else generation.name
            path = self.folder / kind / name
            if self.remote is not None:
                self.remote.fetch(f"{kind}/{name}", self.folder)
            try:
                if generation is None:
                    if not path.is_symlink() and not path.exists():
                        if last:
                            return None
                        continue
                    return read_single(path, kind, columns)
                return self._compacted(path, kind).rows_of(key, columns)
            except READ_ERRORS as error:
                if last or not isinstance(error, FileNotFoundError):
                    return damage(path, error)
        return None

    def read_spec(self) -> dict[str, Any] | None:
        """The resolved spec of the study that this folder belongs to; None for a new folder.

        Raises:
            ResultsError: study.yaml is damaged.
        """
        try:
            text = read_plain_file(self.spec_file, _MOST_DOCUMENT_BYTES).decode()
            content = yaml.safe_load(text)
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise unwritable(self.folder, error) from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            raise self._bad_spec(f"study.yaml cannot be read: {type(error).__name__}") from None
        except ValueError as error:
            raise self._bad_spec(f"study.yaml cannot be read: {error}") from None
        if _too_large(content):
            raise self._bad_spec("study.yaml cannot be read: its aliases make it too large")
        if not isinstance(content, dict):
            raise self._bad_spec("study.yaml is not a resolved spec")
        return content

    def read_study(self) -> StudySpec:
        """The study that this folder belongs to.

        Raises:
            ResultsError: there is no study.yaml, or it is damaged.
        """
        content = self.read_spec()
        if content is None:
            raise ResultsError(
                "the folder has no study.yaml, so it is not a results folder",
                where=str(self.folder),
                allowed="the folder that `study run` wrote: study.yaml, site.json, trials/, epochs/, errors/",
                fix="name the folder of one study, such as results/NAME",
            )
        try:
            return StudySpec.model_validate_json(json.dumps(content), strict=True)
        except (ValidationError, TypeError) as error:  # TypeError: a date, which JSON does not have
            problem = self._bad_spec("study.yaml is not a resolved spec")
            if isinstance(error, ValidationError):
                found = problems_of(error, StudySpec, Document(str(self.spec_file), content, {(): 1}), ())
                unknown = [item for item in found if item.what == UNKNOWN_KEY]
                first = (unknown or found)[0]
                problem.where = f"{self.spec_file}, {first.key_path}" if first.key_path else problem.where
                problem.allowed = f"{first.what}; allowed: {first.allowed}" if first.allowed else first.what
                if unknown:
                    problem = ResultsError(
                        "study.yaml is not a resolved spec of this version of study: it has a key that this one does "
                        "not know",
                        where=problem.where,
                        allowed=problem.allowed,
                        fix=f"use the version that wrote it{self._versions()}; this is {__version__}",
                    )
            raise problem from None

    def _versions(self) -> str:
        """The versions of study that the trials were run by, in words."""
        found = sorted({str(row["study_version"]) for row in self.load().rows.values()} - {"None"})
        return f" (its trials are of {', '.join(printable(version[:40]) for version in found[:3])})" if found else ""

    def _bad_spec(self, what: str) -> ResultsError:
        return ResultsError(
            what,
            where=str(self.spec_file),
            allowed="the resolved spec as `study run` wrote it",
            fix="restore the file, or delete it and run the study again: that writes it anew and repeats no finished "
            "trial",
        )

    def write_spec(self, spec: Mapping[str, Any]) -> None:
        """Write the resolved spec.

        Raises:
            ResultsError: the folder cannot be written.
        """
        text = yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True)
        self._write_document("study.yaml", text.encode())

    def read_site(self) -> dict[str, Any] | None:
        """Name, folder and hash of the site that the study runs on; None when that is not known."""
        try:
            content = json.loads(read_plain_file(self.folder / "site.json", _MOST_DOCUMENT_BYTES))
        except (OSError, ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) else None

    def read_data_hash(self) -> str:
        """The identity of the data that the study runs on.

        Raises:
            ResultsError: site.json is missing or damaged.
        """
        data_hash = (self.read_site() or {}).get("data_hash")
        if not isinstance(data_hash, str):
            raise ResultsError(
                "the results folder does not say which data its trials are of",
                where=str(self.folder / "site.json"),
                allowed="the file as `study run` wrote it, with a data_hash",
                fix="restore the file, or delete it and run the study again: that writes it anew and repeats no "
                "finished trial",
            )
        return data_hash

    def write_site(self, site: Mapping[str, Any]) -> None:
        """Record the site.

        Raises:
            ResultsError: the folder cannot be written.
        """
        self._write_document("site.json", json.dumps(site, indent=1, ensure_ascii=False).encode())

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Write what the study was expected to take, see `study.planning.record`.

        Raises:
            ResultsError: the folder cannot be written.
        """
        self._write_document(PLAN_FILE, json.dumps(plan, indent=1, ensure_ascii=False).encode())

    def owner(self) -> Owner | None:
        """The driver that holds the folder now; None when none does.

        Raises:
            ResultsError: the remote storage cannot be read.
        """
        return self._new_lock().owner()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one driver.

        A local lock is the operating system's: it goes with the process that holds it, however that process ends.
        See study/locking.py. A mirror is brought up to date once the lock is there, and the logs are put before it
        goes: in between nobody else writes.

        Raises:
            ResultsError: another driver holds it, or the folder cannot be read or written.
        """
        lock = self._new_lock()
        lock.take()
        try:
            if self.remote is not None:
                self.remote.pull(self.folder)
            self._held = lock
            self._remove_leftovers()
            try:
                yield
            except BaseException:
                with suppress(ResultsError):  # the first error is what the user has to know
                    self.sync(force=True)
                raise
            self.sync(force=True)
        finally:
            self._held = None
            lock.release()

    def _new_lock(self) -> FolderLock | RemoteLock:
        if self.remote is None:
            return FolderLock(self.folder, self._lock_times)
        return RemoteLock(self.remote, self._lock_times)

    def _remove_leftovers(self) -> None:
        # Only the holder of the lock may: no other driver can be writing now.
        for place in (self.folder, *(self.folder / name for name in KINDS)):
            if place.is_symlink() and place != self.folder:
                continue
            for path in place.glob(".*.tmp"):
                with suppress(OSError):
                    path.unlink()

    def _write_document(self, name: str, content: bytes) -> None:
        self._check_held()
        with new_file(self.folder / name) as file:
            file.write(content)
        if self.remote is not None:
            self.remote.push([name], self.folder)


def _read_trials(paths: Iterable[Path]) -> Iterator[tuple[Path, pa.Table | Exception]]:
    """Trials' own files in their order, each as a table of one row, or what reading it raised."""

    def read(path: Path) -> tuple[Path, pa.Table | Exception]:
        try:
            return path, read_single(path, "trials")
        except READ_ERRORS as error:
            return path, error

    with ThreadPoolExecutor(_READERS) as threads:
        yield from threads.map(read, paths)


def _too_large(content: Any) -> bool:
    """Whether data from YAML, whose aliases may repeat a part without end, has too many values."""
    waiting, seen = [content], 0
    while waiting:
        item = waiting.pop()
        seen += 1
        if seen > _MOST_DOCUMENT_NODES:
            return True
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return False
