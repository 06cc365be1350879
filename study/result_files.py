"""The Parquet files of a results folder: their columns, and how they are read, checked and written.

A results folder may come from a stranger. A file is looked at before it is read (a plain file, its number of rows and
bytes), its columns are taken by name and type, and nothing that it says becomes a path or code.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from study.errors import ResultsError

__all__ = [
    "DEEPEST",
    "EPOCH_SCHEMA",
    "ERROR_SCHEMA",
    "FINISHED_STATES",
    "KINDS",
    "READ_ERRORS",
    "SCHEMAS",
    "STATES",
    "TRIAL_SCHEMA",
    "CompactedFile",
    "Damaged",
    "Listing",
    "checked_rows",
    "damage",
    "depth",
    "fits",
    "list_files",
    "new_file",
    "open_plain_file",
    "printable",
    "read_plain_file",
    "read_single",
    "sync_folder",
    "unwritable",
    "valid_key",
    "write_single",
]

STATES = ("done", "diverged", "failed", "out_of_memory", "pruned")
# A failed trial is finished too: its failure is a result, and it runs again only when asked for.
FINISHED_STATES = frozenset(STATES)

_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()

TRIAL_SCHEMA = pa.schema(
    [
        pa.field("key", _TEXT, nullable=False),
        pa.field("state", _TEXT, nullable=False),
        ("error", _TEXT),
        pa.field("method", _TEXT, nullable=False),
        pa.field("seed", _INT, nullable=False),
        ("data_seed", _INT),
        ("search_seed", _INT),
        pa.field("config", _TEXT, nullable=False),
        ("validation_rmse_m", _FLOAT),
        ("validation_accuracy", _FLOAT),
        ("best_epoch", _INT),
        ("epochs", _INT),
        ("planned_epochs", _INT),
        ("source_rmse_m", _FLOAT),
        ("source_held_out", pa.bool_()),
        ("target_entropy", _FLOAT),
        ("test_rmse_m", _FLOAT),
        ("test_mean_error_m", _FLOAT),
        ("test_median_error_m", _FLOAT),
        ("test_p90_error_m", _FLOAT),
        ("test_accuracy", _FLOAT),
        ("test_recall", pa.list_(_FLOAT)),
        ("confusion", pa.list_(_INT)),
        ("classes", pa.list_(_TEXT)),
        ("test_samples", _INT),
        ("train_samples", _INT),
        ("validation_samples", _INT),
        ("fingerprints", _TEXT),
        ("precision", _TEXT),
        ("step", _TEXT),
        ("notes", _TEXT),
        ("parameters", _INT),
        ("parameters_deployed", _INT),
        ("macs_paper", _INT),
        ("flops_batch", _INT),
        ("macs_per_sample", _INT),
        ("macs_deployed", _INT),
        ("train_seconds", _FLOAT),
        ("validation_seconds", _FLOAT),
        ("data_seconds", _FLOAT),
        ("setup_seconds", _FLOAT),
        ("trial_seconds", _FLOAT),
        ("peak_memory_mb", _FLOAT),
        ("started_at", _TEXT),
        ("device", _TEXT),
        ("processor", _TEXT),
        ("threads", _INT),
        ("device_trials", _INT),
        ("workers", _INT),
        ("host", _TEXT),
        ("torch_version", _TEXT),
        ("ray_version", _TEXT),
        ("study_version", _TEXT),
        ("git_commit", _TEXT),
        ("spec_hash", _TEXT),
        ("data_hash", _TEXT),
    ]
)
EPOCH_SCHEMA = pa.schema(
    [
        ("key", _TEXT),
        ("epoch", _INT),
        ("train_loss", _FLOAT),
        ("validation_rmse_m", _FLOAT),
        ("validation_accuracy", _FLOAT),
        ("learning_rate", _FLOAT),
        ("seconds", _FLOAT),
        ("log_var_position", _FLOAT),
        ("log_var_condition", _FLOAT),
        ("validation_seconds", _FLOAT),
    ]
)
ERROR_SCHEMA = pa.schema(
    [
        ("key", _TEXT),
        ("scene", pa.int32()),
        ("position", pa.int32()),
        ("x_m", pa.float32()),
        ("y_m", pa.float32()),
        ("x_hat_m", pa.float32()),
        ("y_hat_m", pa.float32()),
        ("error_m", pa.float32()),
        ("condition", pa.int8()),
        ("condition_hat", pa.int8()),
    ]
)
# The order in which they are written: a row in trials/ says that the other two are there.
KINDS = ("epochs", "errors", "trials")
SCHEMAS = {"trials": TRIAL_SCHEMA, "epochs": EPOCH_SCHEMA, "errors": ERROR_SCHEMA}
# What reading a damaged or foreign file raises.
READ_ERRORS = (OSError, pa.ArrowException, ValueError, KeyError, RecursionError)

# Without these a file is not what its folder says. Others were added over time: older files read with nulls there.
_ESSENTIAL = {
    "trials": ("key", "state", "method", "seed", "config"),
    "epochs": ("key", "epoch", "validation_rmse_m"),
    "errors": ("key", "error_m"),
}
# What no trial leaves below 0, and above 1.
_SHARES = ("validation_accuracy", "test_accuracy")
_NOT_NEGATIVE = tuple(
    item.name
    for item in TRIAL_SCHEMA
    # An entropy of 0 may be rounded below it.
    if item.type in (_INT, _FLOAT) and item.name not in ("target_entropy", "data_seed", "search_seed")
)
# Levels of a configuration: the settings have five, a user's description of a method one more.
DEEPEST = 32
_KEY = re.compile(r"[0-9A-Za-z]{1,64}")
_COMPACTED = re.compile(r"compacted-([0-9]{6,12})\.parquet")


@dataclass(frozen=True)
class _Bounds:
    """What a table may hold at most, so that a small file cannot fill the memory.

    Attributes:
        rows: rows of a row group (of the one trial, in a trial's own file).
        values_per_row: entries of a list, and its neighbours in the row group, on average.
        uncompressed: bytes of a row group.
    """

    rows: int
    values_per_row: int
    uncompressed: int


_SINGLE_BOUNDS = {
    "trials": _Bounds(1, 10_000, 2**24),
    "epochs": _Bounds(2_000_000, 1, 2**29),
    "errors": _Bounds(20_000_000, 1, 2**30),
}
_COMPACTED_BOUNDS = {**_SINGLE_BOUNDS, "trials": _Bounds(100_000, 1_000, 2**29)}
_MOST_SINGLE_BYTES = 2**30
_MOST_BYTES_AT_ONCE = 2**31


@dataclass(frozen=True)
class Damaged:
    """A file that could not be read as a result."""

    path: Path
    reason: str

    def __str__(self) -> str:
        # A terminal would act upon control characters in a stranger's file names.
        return f"{printable(str(self.path))} ({self.reason})"


@dataclass
class Listing:
    """The files of one of the three folders.

    Attributes:
        single: key → the file of one trial.
        compacted: generation → a file of many trials; of two rows of a key the later generation's counts.
        strangers: Parquet files whose names are neither.
    """

    single: dict[str, Path] = field(default_factory=dict)
    compacted: dict[int, Path] = field(default_factory=dict)
    strangers: list[Path] = field(default_factory=list)


def valid_key(key: object) -> bool:
    """Whether a text can be a trial's key. A key becomes part of a file's name: it has letters and digits alone."""
    return isinstance(key, str) and _KEY.fullmatch(key) is not None


def list_files(folder: Path, kind: str) -> Listing:
    """What a results folder holds of a kind (``trials``, ``epochs``, ``errors``)."""
    listing = Listing()
    try:
        with os.scandir(folder / kind) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".parquet") and entry.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return listing
    for name in names:
        path = folder / kind / name
        if matched := _COMPACTED.fullmatch(name):
            listing.compacted[int(matched[1])] = path
        elif valid_key(path.stem):
            listing.single[path.stem] = path
        else:
            listing.strangers.append(path)
    return listing


def damage(path: Path, error: BaseException) -> Damaged:
    """A damaged file with its reason in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return Damaged(path, printable(line)[:300])


def printable(text: str) -> str:
    """A text without control characters, those that turn the direction of writing included."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def read_plain_file(path: Path, most_bytes: int, *, follow: bool = False) -> bytes:
    """The content of a plain file.

    Args:
        path: the file.
        most_bytes: its largest size.
        follow: whether it may be a link to a plain file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a link, a pipe or a device, or larger than ``most_bytes``.
    """
    with open_plain_file(path, follow=follow) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise ValueError(f"it has {size:,} bytes, more than the {most_bytes:,} that such a file may have")
        return file.read(most_bytes)


@contextmanager
def open_plain_file(path: Path, *, follow: bool = False) -> Iterator[IO[bytes]]:
    """A plain file to read from.

    Args:
        path: the file.
        follow: whether it may be a link to a plain file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is a link, a pipe or a device.
    """
    # Not followed and not waited for: a link may lead anywhere, and a pipe would never end.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("it is a link, not a file") from None
        raise
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a plain file")
        yield file


def read_single(path: Path, kind: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The file of one trial, with the columns of its kind in their order; those that it lacks are null.

    Raises:
        One of `READ_ERRORS`: it cannot be read as what its folder and its name say.
    """
    file = _open(pa.BufferReader(read_plain_file(path, _MOST_SINGLE_BYTES)), kind)
    if kind == "trials" and file.metadata.num_rows != 1:
        raise ValueError(f"{file.metadata.num_rows} rows instead of one")
    _check_bounds(file.metadata, range(file.metadata.num_row_groups), _SINGLE_BOUNDS[kind])
    if file.metadata.num_rows > _SINGLE_BOUNDS[kind].rows:
        raise ValueError(f"{file.metadata.num_rows:,} rows are more than a trial can have")
    table = _conform(file.read(_present(file, kind, columns), use_threads=False), kind, columns)
    if kind != "trials" and table.num_rows and _distinct(table["key"]) != [path.stem]:
        raise ValueError("the file's name is not the key of its rows")
    return table


def checked_rows(table: pa.Table) -> Iterator[dict[str, Any] | ValueError]:
    """The rows of a table of trials; instead of a row that is no result, what is wrong with it."""
    names = table.schema.names
    for values in zip(*(_values(column) for column in table.columns), strict=True):
        row = dict(zip(names, values, strict=True))
        try:
            _check_row(row)
        except (ValueError, RecursionError) as error:
            yield ValueError(str(error))
        else:
            yield row


def write_single(path: Path, table: pa.Table) -> None:
    """Write the file of one trial, whole or not at all.

    Raises:
        ResultsError: the folder cannot be written; nothing half-written remains.
    """
    sink = pa.BufferOutputStream()
    # A row needs no dictionaries or statistics: without them the file is a third as large, and opens faster.
    small = {"use_dictionary": False, "write_statistics": False} if table.num_rows == 1 else {}
    pq.write_table(table, sink, compression="zstd", store_schema=False, write_page_checksum=True, **small)
    with new_file(path) as file:
        file.write(sink.getvalue())


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when it is whole: under a temporary name, synchronized to disk, renamed.

    Raises:
        ResultsError: it cannot be written; nothing half-written remains.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.is_symlink():
            raise ResultsError(
                "a folder of the results is a link to another place, where nothing is written",
                where=str(path.parent),
                allowed="trials/, epochs/ and errors/ as folders",
                fix="move the whole results folder there, and name it with --results",
            )
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk: a rename or a removal lasts only then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path, error: OSError) -> ResultsError:
    """Results that cannot be written, as an error for the user."""
    reason = error.strerror or str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return ResultsError(
        f"results cannot be written: {reason}",
        where=str(path),
        allowed="a folder that this user can write to, with free space",
        fix="free some space (or raise the limit on the size of files) and run the same command again; finished "
        "trials are kept"
        if full
        else "choose another folder with --results",
    )


class CompactedFile:
    """A file of many trials, sorted by key; the rows of a key lie in one row group.

    Args:
        path: the file.
        kind: ``trials``, ``epochs`` or ``errors``.

    Raises:
        One of `READ_ERRORS`: it cannot be read.
    """

    def __init__(self, path: Path, kind: str) -> None:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError("it is not a plain file")
        self.path, self.kind = path, kind
        self._file = _open(pa.OSFile(str(path), "rb"), kind)
        metadata = self._file.metadata
        _check_bounds(metadata, range(metadata.num_row_groups), _COMPACTED_BOUNDS[kind])
        key = self._file.schema_arrow.get_field_index("key")
        self._ranges: list[tuple[str, str]] = []
        for number in range(metadata.num_row_groups):
            statistics = metadata.row_group(number).column(key).statistics
            if statistics is None or not statistics.has_min_max:
                raise ValueError("its row groups do not say which keys they hold")
            self._ranges.append((statistics.min, statistics.max))
        # Rows are asked for in order while files are merged: the last row group is kept.
        self._last: tuple[int, tuple[str, ...] | None, pa.Table] | None = None
        self._keys: frozenset[str] | None = None

    @property
    def extra_columns(self) -> bool:
        """Whether a later version wrote it, with columns or types that this one does not know."""
        return not fits(self._file.schema_arrow, self.kind)

    @property
    def groups(self) -> int:
        """How many row groups there are."""
        return len(self._ranges)

    def keys(self) -> list[str]:
        """The keys in the file, each once."""
        found: list[str] = []
        for number in range(self.groups):
            found += _distinct(self.group(number, ("key",))["key"])
        if len(set(found)) != len(found) or not all(map(valid_key, found)):
            raise ValueError("its keys are not those of trials, each in one place")
        return found

    def holds(self, key: str) -> bool:
        """Whether a key is in the file."""
        if self._keys is None:
            groups = range(self.groups)
            self._keys = frozenset(key for number in groups for key in _distinct(self.group(number, ("key",))["key"]))
        return key in self._keys

    def rows(self) -> dict[str, dict[str, Any]]:
        """Key → row, of a file of trials.

        Raises:
            One of `READ_ERRORS`: a row is no result.
        """
        found, damaged = self.usable_rows()
        if damaged:
            raise ValueError(damaged[0].reason)
        return found

    def usable_rows(self) -> tuple[dict[str, dict[str, Any]], list[Damaged]]:
        """Key → row, of a file of trials; and the rows that are no results.

        Raises:
            One of `READ_ERRORS`: the file cannot be read, or a key is there twice.
        """
        found: dict[str, dict[str, Any]] = {}
        damaged: list[Damaged] = []
        for number in range(self.groups):
            table = self.group(number)
            for place, row in enumerate(checked_rows(table)):
                if isinstance(row, ValueError):
                    key = table["key"][place].as_py()
                    name = f"{key}: " if valid_key(key) else ""
                    damaged.append(damage(self.path, ValueError(f"{name}{row}")))
                else:
                    found[row["key"]] = row
        if len(found) + len(damaged) != self._file.metadata.num_rows:
            raise ValueError("a key is there twice")
        return found, damaged

    def group(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """One row group."""
        wanted = None if columns is None else tuple(columns)
        if self._last is None or self._last[:2] != (number, wanted):
            table = self._file.read_row_group(number, _present(self._file, self.kind, wanted), use_threads=False)
            self._last = (number, wanted, _conform(table, self.kind, wanted))
        return self._last[2]

    def rows_of(self, key: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        """The rows of a key, read from its row group alone; None when there are none."""
        for number, (low, high) in enumerate(self._ranges):
            if low <= key <= high:
                table = self.group(number, columns)
                # Dictionary indices are compared, not texts.
                found = table.filter(pc.equal(table["key"], key))
                if found.num_rows:
                    return found
        return None

    def rows_of_many(self, keys: Iterable[str], columns: Sequence[str]) -> pa.Table:
        """The rows of some keys: each row group that may hold one of them is read once.

        Raises:
            One of `READ_ERRORS`: a row group cannot be read, or the rows are too many.
        """
        wanted = sorted(keys)
        found: list[pa.Table] = []
        size = 0
        for number, (low, high) in enumerate(self._ranges):
            inside = wanted[bisect_left(wanted, low) : bisect_right(wanted, high)]
            if inside:
                table = self.group(number, columns)
                names = table["key"].cast(_TEXT)
                found.append(table.filter(pc.is_in(names, pa.array(inside, _TEXT))))
                size += found[-1].nbytes
                if size > _MOST_BYTES_AT_ONCE:
                    raise ValueError("it holds more than such a file can have")
        return pa.concat_tables(found) if found else _conform(SCHEMAS[self.kind].empty_table(), self.kind, columns)


def fits(schema: pa.Schema, kind: str) -> bool:
    """Whether the schema of a file has columns of this version alone, with their types."""
    known = SCHEMAS[kind]
    return all(item.name in known.names and _plain(item.type) == known.field(item.name).type for item in schema)


def _open(source: Any, kind: str) -> pq.ParquetFile:
    # Repeated texts are read once each, which also bounds the memory that a small file can ask for.
    texts = [item.name for item in SCHEMAS[kind] if item.type == _TEXT]
    try:
        # Nothing is read ahead: the source is in memory, or one row group of it is asked for.
        file = pq.ParquetFile(source, read_dictionary=texts, page_checksum_verification=True, pre_buffer=False)
    except KeyError:  # an older file, without some of them
        source.seek(0)
        there = pq.ParquetFile(source)
        texts = [name for name in texts if name in there.schema_arrow.names]
        file = pq.ParquetFile(source, metadata=there.metadata, read_dictionary=texts, page_checksum_verification=True)
    names = file.schema_arrow.names
    if len(set(names)) != len(names) or not set(_ESSENTIAL[kind]) <= set(names):
        missing = [name for name in _ESSENTIAL[kind] if name not in names]
        raise ValueError(
            f"the columns are not those of {kind}: no {', '.join(missing)}" if missing else "a column is there twice"
        )
    return file


def _check_bounds(metadata: pq.FileMetaData, groups: Iterable[int], bounds: _Bounds) -> None:
    for number in groups:
        group = metadata.row_group(number)
        columns = [group.column(index) for index in range(group.num_columns)]
        if (
            group.num_rows > bounds.rows
            or sum(column.total_uncompressed_size for column in columns) > bounds.uncompressed
            or any(column.num_values > bounds.values_per_row * max(1, group.num_rows) for column in columns)
        ):
            raise ValueError("it holds more than such a file can have")


def _present(file: pq.ParquetFile, kind: str, columns: Sequence[str] | None) -> list[str]:
    """The columns to read: the known ones that the file has, and the key in any case."""
    wanted = SCHEMAS[kind].names if columns is None else ["key", *columns]
    return [name for name in file.schema_arrow.names if name in wanted]


def _conform(table: pa.Table, kind: str, columns: Sequence[str] | None) -> pa.Table:
    """A table with the columns of its kind in their order, lacking ones null and others left out."""
    arrays, fields = [], []
    for item in SCHEMAS[kind]:
        if columns is not None and item.name not in columns and item.name != "key":
            continue
        index = table.schema.get_field_index(item.name)
        if index < 0:
            column = pa.nulls(table.num_rows, item.type)
        else:
            column = table.column(index)
            if _plain(column.type) != item.type:
                column = column.cast(item.type)
        arrays.append(column)
        fields.append(pa.field(item.name, column.type))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _values(column: pa.ChunkedArray) -> list[Any]:
    if not pa.types.is_dictionary(column.type):
        return list(column.to_pylist())
    found: list[Any] = []
    for chunk in column.chunks:
        words = chunk.dictionary.to_pylist()
        found += [None if index is None else words[index] for index in chunk.indices.to_pylist()]
    return found


def _distinct(column: pa.ChunkedArray) -> list[Any]:
    return list(dict.fromkeys(value for chunk in column.chunks for value in chunk.unique().to_pylist()))


def _check_row(row: dict[str, Any]) -> None:
    """Whether a row is a result.

    Raises:
        ValueError: it is not.
    """
    if not valid_key(row["key"]):
        raise ValueError("its key is not that of a trial")
    if row["state"] not in FINISHED_STATES:
        raise ValueError(f"unknown state {row['state']!r:.40}")
    if not (isinstance(row["method"], str) and isinstance(row["seed"], int) and isinstance(row["config"], str)):
        raise ValueError("its method, seed or config is missing")
    config = json.loads(row["config"], parse_constant=_no_number)
    if not isinstance(config, dict):
        raise ValueError("its config is not a mapping")
    if row["config"].count("[") + row["config"].count("{") > DEEPEST and depth(config) > DEEPEST:
        raise ValueError("its config is nested too deeply")
    _check_values(row)


def _check_values(row: dict[str, Any]) -> None:
    """Whether a trial can have left these values. NaN and infinity are results too: of one that diverged.

    Raises:
        ValueError: it cannot.
    """
    for name in _NOT_NEGATIVE:
        if (value := row[name]) is not None and value < 0:
            raise ValueError(f"its {name} is {value:.6g}, and cannot be below 0")
    for name in _SHARES:
        if (value := row[name]) is not None and value > 1 and math.isfinite(value):
            raise ValueError(f"its {name} is {value:.6g}, and cannot be above 1")
    best, run, planned = row["best_epoch"], row["epochs"], row["planned_epochs"]
    if best is not None and not 1 <= best <= (best if run is None else run):
        raise ValueError(f"its best epoch is {best} of {run}")
    if None not in (run, planned) and run > planned:
        raise ValueError(f"it has {run} epochs of {planned} planned")
    classes, recall, confusion = row["classes"], row["test_recall"], row["confusion"]
    count = len(classes or ())
    if classes is not None and None in classes:
        raise ValueError("one of its classes has no name")
    if recall is not None and len(recall) != count:
        raise ValueError(f"it has {len(recall)} recalls of {count} classes")
    if any(value is not None and (value < 0 or value > 1) for value in recall or ()):
        raise ValueError("one of its recalls is not between 0 and 1")
    if confusion is not None and len(confusion) != count * count:
        raise ValueError(f"its confusion matrix has {len(confusion)} entries for {count} classes")
    if any(value is None or value < 0 for value in confusion or ()):
        raise ValueError("an entry of its confusion matrix is no count")


def _no_number(name: str) -> None:
    raise ValueError(f"its config holds {name}, which is no value of a setting")


def depth(content: Any) -> int:
    """How deeply lists and mappings are nested."""
    level, deepest = [content], 0
    while level:
        level = [
            part
            for item in level
            if isinstance(item, dict | list)
            for part in (item.values() if isinstance(item, dict) else item)
        ]
        deepest += 1
    return deepest
