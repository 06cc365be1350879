"""Merge the files of many trials into one file of each kind.

A generation is three files, ``compacted-NUMBER.parquet`` in ``epochs/``, ``errors/`` and ``trials/``. It counts from
the moment its file in ``trials/`` has its name. That comes last, after all three were written, synchronized and read
back. Only then are the merged files removed, trial rows first. Whatever the moment at which that ends, every trial is
there once or twice, and twice has one meaning: a trial's own file comes before all generations, a later generation
before an earlier one, and epochs and errors are taken from where the trial's row is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from study.result_files import (
    KINDS,
    READ_ERRORS,
    SCHEMAS,
    CompactedFile,
    Damaged,
    Listing,
    checked_rows,
    damage,
    fits,
    list_files,
    new_file,
    read_single,
)

__all__ = ["Compaction", "merge"]

# Reading the epochs or errors of one trial reads one row group: a few trials' worth.
_ROWS_PER_GROUP = {"trials": 4096, "epochs": 16_384, "errors": 16_384}


@dataclass(frozen=True)
class Compaction:
    """What a compaction did.

    Attributes:
        trials: trials in the new file; 0 when there was nothing to merge.
        files_before, files_after: Parquet files of the folder.
        damaged: files that were left as they are because they cannot be read.
    """

    trials: int
    files_before: int
    files_after: int
    damaged: list[Damaged] = field(default_factory=list)


@dataclass
class _Plan:
    """What is merged.

    Attributes:
        singles: key → the row of a trial's own file.
        generations: generation → its three open files.
        winners: key → the generation that counts; None for the trial's own file.
    """

    singles: dict[str, pa.Table]
    generations: dict[int, Mapping[str, CompactedFile]]
    winners: dict[str, int | None]


class _DamagedGenerationError(Exception):
    """A generation turned out to be damaged while it was merged."""

    def __init__(self, generation: int, found: Damaged) -> None:
        super().__init__(generation)
        self.generation, self.found = generation, found


def merge(
    folder: Path,
    read_singles: Callable[[Iterable[Path]], Iterator[tuple[Path, pa.Table | Exception]]],
    check_held: Callable[[], None],
    keep: Callable[[str], None],
    remove: Callable[[list[str]], None],
) -> Compaction:
    """Merge what can be read; the caller holds the folder's lock.

    Args:
        folder: the results folder.
        read_singles: reads trials' own files.
        check_held: raises once the folder is another driver's; asked before a file takes its name.
        keep: told the name (``trials/compacted-000001.parquet``) of each file once it is whole on disk.
        remove: removes files, in this order.

    Raises:
        ResultsError: the new files cannot be written; nothing was removed then.
    """
    before = {kind: list_files(folder, kind) for kind in KINDS}
    counted = sum(len(item.single) + len(item.compacted) + len(item.strangers) for item in before.values())
    damaged: list[Damaged] = []
    skipped: set[int] = set()
    singles = {}
    for path, read in read_singles(before["trials"].single.values()):
        row = next(checked_rows(read)) if isinstance(read, pa.Table) else read
        if isinstance(row, Exception):
            damaged.append(damage(path, row))
        elif row["key"] != path.stem:
            damaged.append(Damaged(path, "the file's name is not the key of its row"))
        elif isinstance(read, pa.Table) and _mergeable(path, "trials"):
            singles[path.stem] = read
    while True:
        plan = _plan(folder, singles, set(before["trials"].compacted) - skipped, damaged, skipped)
        if not plan.singles and len(plan.generations) < 2:
            gone = _leftovers(before, set(plan.winners) - set(before["trials"].single), set())
            remove(gone)
            return Compaction(0, counted, counted - len(gone), damaged)
        number = 1 + max((item for listing in before.values() for item in listing.compacted), default=0)
        try:
            left_alone = _write(folder, plan, number, damaged, check_held)
            break
        except _DamagedGenerationError as error:
            damaged.append(error.found)
            skipped.add(error.generation)
    for kind in KINDS:
        keep(f"{kind}/{_name(number)}")
    merged = set(plan.singles) - left_alone
    gone = [f"trials/{_name(item)}" for item in plan.generations] + [f"trials/{key}.parquet" for key in sorted(merged)]
    own = set(before["trials"].single) - merged
    gone += _leftovers(before, set(plan.winners) - own, set(plan.generations))
    remove(gone)
    return Compaction(len(plan.winners) - len(left_alone), counted, counted + len(KINDS) - len(gone), damaged)


def _leftovers(before: Mapping[str, Listing], merged: set[str], generations: set[int]) -> list[str]:
    """Epochs and errors whose rows are elsewhere: of merged trials and generations, and what a killed process left."""
    gone = []
    for kind in ("epochs", "errors"):
        gone += [f"{kind}/{key}.parquet" for key in before[kind].single if key in merged]
        gone += [
            f"{kind}/{_name(number)}"
            for number in before[kind].compacted
            if number in generations or number not in before["trials"].compacted
        ]
    return gone


def _plan(
    folder: Path, singles: dict[str, pa.Table], numbers: set[int], damaged: list[Damaged], skipped: set[int]
) -> _Plan:
    plan = _Plan(singles, {}, {})
    for number in sorted(numbers):
        files: dict[str, CompactedFile] = {}
        for kind in KINDS:
            path = folder / kind / _name(number)
            try:
                files[kind] = CompactedFile(path, kind)
                keys = list(files[kind].rows()) if kind == "trials" else files[kind].keys()
            except READ_ERRORS as error:
                damaged.append(damage(path, error))
                skipped.add(number)
                break
        else:
            if any(item.extra_columns for item in files.values()):
                continue  # a later version's, which merges it without losing columns
            plan.generations[number] = files
            plan.winners |= dict.fromkeys(keys, number)
    plan.winners |= dict.fromkeys(singles, None)
    return plan


def _mergeable(path: Path, kind: str) -> bool:
    """Whether nothing of a trial's own file is lost in the columns of this version."""
    return fits(pq.ParquetFile(pa.OSFile(str(path), "rb")).schema_arrow, kind)


def _write(folder: Path, plan: _Plan, number: int, damaged: list[Damaged], check_held: Callable[[], None]) -> set[str]:
    """Write a generation; the keys whose own files were left as they are."""
    left_alone: set[str] = set()
    written: list[str] = []
    try:
        for kind in ("epochs", "errors"):
            _write_kind(folder, kind, number, _side_tables(folder, kind, plan, left_alone, damaged), check_held)
            written.append(kind)
        _write_kind(folder, "trials", number, _trial_tables(plan, left_alone), check_held)
    except BaseException:
        # Without its trials a generation counts for nothing. A file that is not ours may be another driver's.
        for kind in written:
            with suppress(OSError):
                (folder / kind / _name(number)).unlink(missing_ok=True)
        raise
    return left_alone


def _side_tables(
    folder: Path, kind: str, plan: _Plan, left_alone: set[str], damaged: list[Damaged]
) -> Iterator[pa.Table]:
    for key in sorted(plan.winners):
        number = plan.winners[key]
        if number is not None:
            table = _from_generation(plan, number, kind, key)
            if table is not None:
                yield table
            continue
        path = folder / kind / f"{key}.parquet"
        if key in left_alone or not path.exists():
            continue
        try:
            table = read_single(path, kind)
            if not _mergeable(path, kind):
                raise ValueError("it has columns that this version does not know")
        except READ_ERRORS as error:
            damaged.append(damage(path, error))
            left_alone.add(key)
        else:
            yield table


def _from_generation(plan: _Plan, number: int, kind: str, key: str) -> pa.Table | None:
    file = plan.generations[number][kind]
    try:
        return file.rows_of(key)
    except READ_ERRORS as error:
        raise _DamagedGenerationError(number, damage(file.path, error)) from None


def _trial_tables(plan: _Plan, left_alone: set[str]) -> Iterator[pa.Table]:
    for key in sorted(plan.winners):
        number = plan.winners[key]
        if number is not None:
            table = _from_generation(plan, number, "trials", key)
            if table is not None:
                yield table
        elif key not in left_alone:
            yield plan.singles[key]


def _write_kind(
    folder: Path, kind: str, number: int, tables: Iterable[pa.Table], check_held: Callable[[], None]
) -> None:
    """Write one file, and compare it with what was to be written before it takes its name."""
    path = folder / kind / _name(number)
    schema = SCHEMAS[kind]
    with new_file(path) as file:
        digests = []
        with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
            for group in _groups(tables, schema, _ROWS_PER_GROUP[kind]):
                writer.write_table(group, row_group_size=group.num_rows)
                digests.append(_digest(group))
        file.flush()
        with open(file.name, "rb") as written:  # noqa: PTH123 - the name of an open file
            back = pq.ParquetFile(written, page_checksum_verification=True)
            same = back.num_row_groups == len(digests) and all(
                _digest(back.read_row_group(index)) == digest for index, digest in enumerate(digests)
            )
        if not same:
            raise OSError(f"{path.name} does not read back as it was written")
        check_held()


def _groups(tables: Iterable[pa.Table], schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """Tables of about so many rows; the rows of one key stay together."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        if count and count + table.num_rows > rows:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, count = [], 0
        waiting.append(_plain_text(table, schema))
        count += table.num_rows
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


def _plain_text(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in the types of a schema, without dictionaries."""
    return pa.Table.from_arrays(
        [column.cast(item.type) for column, item in zip(table.columns, schema, strict=True)], schema=schema
    )


def _digest(table: pa.Table) -> bytes:
    """A hash of the values: equal for equal bits, NaN included, whatever lies under a null."""
    digest = hashlib.sha256()
    for column in table.columns:
        for part in _bytes_of(column.combine_chunks()):
            digest.update(part)
    return digest.digest()


def _bytes_of(values: Any) -> Iterator[bytes]:
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    yield np.asarray(values.is_valid()).tobytes()
    if pa.types.is_list(values.type):
        yield np.asarray(pc.list_value_length(values).fill_null(0)).tobytes()
        yield from _bytes_of(values.flatten())
    elif pa.types.is_string(values.type):
        coded = values.dictionary_encode()
        yield repr(coded.dictionary.to_pylist()).encode()
        yield np.asarray(coded.indices.fill_null(-1)).tobytes()
    else:
        yield np.asarray(values.fill_null(pa.scalar(0).cast(values.type))).tobytes()


def _name(number: int) -> str:
    return f"compacted-{number:06d}.parquet"
