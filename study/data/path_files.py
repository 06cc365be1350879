"""The path table's Parquet files; docs/path-table.md is the contract.

Shapes: S scenes, L positions, R rows, K paths of all rows together, P paths kept per row.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from study.data.path_table import CONTRACT, PER_PATH, RANGES, ROW_TYPES, PathTable, ScenePaths, VehicleTable, scene_hash
from study.errors import DataError, nearest

__all__ = ["PATH_SCHEMA", "VEHICLE_SCHEMA", "read_path_table", "read_vehicles", "write_path_rows", "write_vehicles"]

PATH_SCHEMA = pa.schema(
    [
        ("scene", pa.int32()),
        ("position", pa.int32()),
        ("time_s", pa.float64()),
        ("x_m", pa.float32()),
        ("y_m", pa.float32()),
        ("z_m", pa.float32()),
        ("condition", pa.int8()),
        ("gain_re", pa.list_(pa.float32())),
        ("gain_im", pa.list_(pa.float32())),
        ("delay_s", pa.list_(pa.float32())),
        ("zenith_rad", pa.list_(pa.float32())),
        ("azimuth_rad", pa.list_(pa.float32())),
        ("interaction", pa.list_(pa.int8())),
        ("paths_found", pa.int16()),
        ("dropped_power", pa.float32()),
    ]
)
VEHICLE_SCHEMA = pa.schema(
    [("scene", pa.int32()), ("vehicle", pa.int32()), ("kind", pa.string())]
    + [(name, pa.float32()) for name in ("x0_m", "x1_m", "y0_m", "y1_m", "z0_m", "z1_m")]
)
_LISTS = tuple(field.name for field in PATH_SCHEMA if pa.types.is_list(field.type))
_AGAIN = "restore the folder from where it came, or trace or import the site again"

_ROWS_PER_GROUP = 50_000
_COMPRESSION_LEVEL = 9

# Reading is short and waits for the disk; the trials' own threads are not running yet.
_THREADS = min(4, os.cpu_count() or 1)


# --- Reading ------------------------------------------------------------------------------------------------------


def read_path_table(
    folder: Path, scenes: Sequence[int], positions: int, max_paths: int, scene_hashes: Sequence[str]
) -> PathTable:
    """The rows of some scenes, checked.

    Args:
        folder: holds the Parquet files.
        scenes: numbers of the scenes to read, rising.
        positions: L; every scene has a row for each.
        max_paths: P.
        scene_hashes: what `scene_hash` must give for each scene of the site, by its number.

    Raises:
        DataError: a file is missing, damaged or not a path table; a row is missing or there twice; or a scene is not
            the one that was hashed.
    """
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise DataError("the site has no path table", where=str(folder), allowed="paths/*.parquet", fix=_AGAIN)
    rows = len(scenes) * positions
    index_of = np.full(len(scene_hashes), -1)
    index_of[list(scenes)] = np.arange(len(scenes))
    out: dict[str, NDArray[Any]] = {
        name: np.zeros((rows, max_paths) if name in PER_PATH else rows, kind) for name, kind in ROW_TYPES.items()
    }
    place = np.zeros((rows, 3), np.float32)
    time_s = np.zeros(rows)
    seen = np.zeros(rows, np.int64)

    def fill(file: Path) -> None:
        for table in _tables(file, scenes):
            columns = _columns(file, table, (len(scene_hashes), positions, max_paths))
            index = index_of[columns["scene"]]
            wanted = index >= 0
            cell = index[wanted] * positions + columns["position"][wanted]
            np.add.at(seen, cell, 1)
            if len(cell) and (np.diff(cell) == 1).all():  # as `study` writes it; a slice is copied much faster
                cell = slice(cell[0], cell[0] + len(cell))
            _spread(columns, wanted, cell, out)
            for axis, name in enumerate(("x_m", "y_m", "z_m")):
                place[cell, axis] = columns[name][wanted]
            time_s[cell] = columns["time_s"][wanted]

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(fill, files))
    _check_complete(seen.reshape(len(scenes), positions), scenes, folder)
    per_scene = (len(scenes), positions)
    places, times = place.reshape(*per_scene, 3), time_s.reshape(per_scene)
    for what, differ, owner in (("position", places - places[:1], "position"), ("time", times - times[:, :1], "scene")):
        if differ.any():
            raise DataError(
                f"a {what} differs between rows of the same {owner}",
                where=str(folder),
                allowed="users stand still from scene to scene, and a scene has one time",
                fix=_AGAIN,
            )
    table = PathTable(
        **{name: values.reshape(*per_scene, *values.shape[1:]) for name, values in out.items()},
        scene=np.array(scenes, np.int32),
        time_s=np.ascontiguousarray(times[:, 0]),
        position_m=np.ascontiguousarray(places[0]),
    )
    _check_hashes(table, scene_hashes, folder)
    return table


def _check_complete(seen: NDArray[np.int64], scenes: Sequence[int], folder: Path) -> None:
    wrong = np.argwhere(seen != 1)
    if len(wrong):
        scene, position = scenes[wrong[0, 0]], wrong[0, 1]
        raise DataError(
            f"the path table lacks {int((seen == 0).sum()):,} rows and repeats {int((seen > 1).sum()):,}; the first is "
            f"scene {scene}, position {position}",
            where=str(folder),
            allowed=f"one row for each of {seen.shape[0]:,} scenes × {seen.shape[1]:,} positions",
            fix=_AGAIN,
        )


def _check_hashes(table: PathTable, scene_hashes: Sequence[str], folder: Path) -> None:
    times = table.time_s.tolist()
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda index: scene_hash(table.one(index), times[index]), range(len(times)))
        wrong = [int(n) for n, digest in zip(table.scene, found, strict=True) if digest != scene_hashes[n]]
    if wrong:
        named = ", ".join(map(str, wrong[:5])) + (" …" if len(wrong) > 5 else "")
        raise DataError(
            f"the paths of {len(wrong)} scenes ({named}) are not those that site.json describes: their hashes differ",
            where=str(folder),
            allowed="the data that site.json was written for",
            fix=_AGAIN,
        )


def _tables(file: Path, scenes: Collection[int]) -> list[pa.Table]:
    """Those row groups of a file that may hold one of the scenes, as one table or none."""
    with _Opened(file, PATH_SCHEMA) as source:
        column = source.schema_arrow.names.index("scene")
        low, high = min(scenes), max(scenes)
        groups = []
        for group in range(source.num_row_groups):
            known = source.metadata.row_group(group).column(column).statistics
            if known is None or not known.has_min_max or (known.max >= low and known.min <= high):
                groups.append(group)
        if not groups:
            return []
        return [_checked(source.read_row_groups(groups), PATH_SCHEMA, file)]


class _Opened:
    """A Parquet file of a schema; whatever is wrong with it becomes a DataError."""

    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._file, self._schema = file, schema

    def __enter__(self) -> pq.ParquetFile:
        try:
            if self._file.exists() and not self._file.is_file():
                raise ValueError("it is not a plain file")  # opening a pipe would never end
            self._source = pq.ParquetFile(self._file)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from None
        if problems := _schema_problems(self._source.schema_arrow, self._schema):
            raise DataError(
                f"the Parquet file has other columns: {'; '.join(problems)}",
                where=str(self._file),
                allowed=", ".join(f"{field.name} {_type_name(field.type)}" for field in self._schema),
                fix=f"write the columns as {CONTRACT.split()[0]} says",
            )
        return self._source

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._source.close()
        if isinstance(error, (pa.ArrowException, OSError, ValueError)) and not isinstance(error, DataError):
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> DataError:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return DataError(
            f"the Parquet file is damaged or incomplete: {first}",
            where=str(self._file),
            allowed=CONTRACT,
            fix=_AGAIN,
        )


def _checked(table: pa.Table, schema: pa.Schema, file: Path) -> pa.Table:
    """The schema's columns in its order, in one piece, without missing values."""
    table = table.select(schema.names).combine_chunks()
    for name in schema.names:
        missing = table[name].null_count
        if pa.types.is_list(table[name].type):
            missing += sum(chunk.flatten().null_count for chunk in table[name].chunks)
        if missing:
            raise DataError(
                f"column {name!r} has {missing} missing values",
                where=str(file),
                allowed="a value in every row",
                fix=_AGAIN,
            )
    return table


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{kind.value_type}>"
    return str(kind)


def _schema_problems(found: pa.Schema, wanted: pa.Schema) -> list[str]:
    problems = []
    missing = [name for name in wanted.names if name not in found.names]
    extra = [name for name in found.names if name not in wanted.names]
    twice = sorted({name for name in found.names if found.names.count(name) > 1})
    if missing:
        problems.append(f"missing {', '.join(missing)}")
    if extra:
        problems.append("unknown " + ", ".join(f"{name}{nearest(name, missing)}" for name in extra))
    if twice:
        problems.append(f"twice {', '.join(twice)}")
    for field in wanted:
        # Names of the lists' inner fields differ between writers and mean nothing, so types are compared by words.
        if field.name in missing or field.name in twice:
            continue
        kind = found.field(field.name).type
        if _type_name(kind) != _type_name(field.type) or pa.types.is_list(kind) != pa.types.is_list(field.type):
            problems.append(f"{field.name} is {kind} instead of {_type_name(field.type)}")
    return problems


def _numbers(table: pa.Table, name: str, limits: tuple[float, float], file: Path) -> NDArray[Any]:
    """A column's values, those of a list column one after the other; every one finite and within the limits."""
    column = table[name].combine_chunks()
    # Arrow's own `to_numpy` would load pandas, which takes longer than to read a small site.
    values = np.from_dlpack(column.flatten() if pa.types.is_list(column.type) else column)
    if not values.size:
        return values
    low, high = limits
    least, most = values.min(), values.max()  # one of them is NaN or infinite if any value is
    if values.dtype.kind == "f" and not (math.isfinite(least) and math.isfinite(most)):
        raise DataError(
            f"column {name!r} has {int((~np.isfinite(values)).sum())} values that are not finite",
            where=str(file),
            allowed="finite numbers",
            fix=_AGAIN,
        )
    if least < low or most > high:
        outside = (values < low) | (values > high)
        raise DataError(
            f"{name} has {int(outside.sum()):,} values outside its range, the first is {values[int(outside.argmax())]}",
            where=str(file),
            allowed=f"{low:g} … {high:g}" if math.isfinite(high) else f"at least {low:g}",
            fix=_AGAIN,
        )
    return values


def _columns(file: Path, table: pa.Table, size: tuple[int, int, int]) -> dict[str, NDArray[Any]]:
    """Columns of a table of (scenes, positions, max_paths) with its rows' numbers of paths as `paths`.

    Everything is checked but completeness.
    """
    scenes, positions, max_paths = size
    limits = RANGES | {"scene": (0, scenes - 1), "position": (0, positions - 1)}
    everything = (-math.inf, math.inf)
    columns = {name: _numbers(table, name, limits.get(name, everything), file) for name in PATH_SCHEMA.names}
    lengths = {name: np.diff(np.from_dlpack(table[name].combine_chunks().offsets)) for name in _LISTS}
    columns["paths"] = lengths[_LISTS[0]]
    for name in _LISTS:
        differ = lengths[name] != columns["paths"]
        if differ.any():
            row = int(differ.argmax())
            raise DataError(
                f"row {row} has {lengths[name][row]} values of {name} but {columns['paths'][row]} of {_LISTS[0]}",
                where=str(file),
                allowed="the same number of values in all lists of a row",
                fix=_AGAIN,
            )
    if (columns["paths"] > max_paths).any():
        raise DataError(
            f"a row has {int(columns['paths'].max())} paths",
            where=str(file),
            allowed=f"at most the {max_paths} of site.json's max_paths",
            fix=_AGAIN,
        )
    return columns


def _spread(
    columns: dict[str, NDArray[Any]], wanted: NDArray[np.bool_], cell: Any, out: dict[str, NDArray[Any]]
) -> None:
    """Put the wanted rows where they belong, their paths padded with zeros."""
    valid = np.arange(out["gain"].shape[1]) < columns["paths"][:, None]
    everything = bool(wanted.all())
    for name in ROW_TYPES:
        if name not in PER_PATH:
            out[name][cell] = columns[name][wanted]
            continue
        block = np.zeros(valid.shape, out[name].dtype)
        if name == "gain":
            block.real[valid], block.imag[valid] = columns["gain_re"], columns["gain_im"]
        else:
            block[valid] = columns[name]
        out[name][cell] = block if everything else block[wanted]


def read_vehicles(file: Path) -> VehicleTable:
    """The vehicles' boxes; empty where there is no file.

    Raises:
        DataError: the file is damaged or has other columns.
    """
    if not file.exists():
        return VehicleTable(np.zeros(0, np.int32), np.zeros(0, np.int32), (), np.zeros((0, 6), np.float32))
    with _Opened(file, VEHICLE_SCHEMA) as source:
        table = _checked(source.read(), VEHICLE_SCHEMA, file)
    everything = (-math.inf, math.inf)
    box = np.stack([_numbers(table, name, everything, file) for name in VEHICLE_SCHEMA.names[3:]], 1)
    return VehicleTable(
        scene=_numbers(table, "scene", everything, file),
        vehicle=_numbers(table, "vehicle", everything, file),
        kind=tuple(table["kind"].to_pylist()),
        box=box.astype(np.float32),
    )


# --- Writing ------------------------------------------------------------------------------------------------------


def write_path_rows(
    file: Path, first_scene: int, scenes: Sequence[ScenePaths], time_s: Sequence[float], position_m: NDArray[np.float32]
) -> None:
    """One Parquet file with consecutive scenes, whole scenes in a row group."""
    rows = pa.concat_tables(
        _path_rows(number, scene, time, position_m)
        for number, (scene, time) in enumerate(zip(scenes, time_s, strict=True), start=first_scene)
    )
    group = max(1, _ROWS_PER_GROUP // len(position_m)) * len(position_m)
    with _parquet_writer(file, PATH_SCHEMA) as writer:
        writer.write_table(rows, row_group_size=group)


def _path_rows(number: int, scene: ScenePaths, time_s: float, position_m: NDArray[np.float32]) -> pa.Table:
    valid = scene.valid
    positions = len(position_m)
    offsets = pa.array(np.concatenate([[0], np.cumsum(scene.paths, dtype=np.int32)]).astype(np.int32))

    def lists(values: NDArray[Any]) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(values[valid]))

    arrays = [
        np.full(positions, number, np.int32),
        np.arange(positions, dtype=np.int32),
        np.full(positions, time_s, np.float64),
        *np.ascontiguousarray(position_m.T),
        scene.condition,
        lists(scene.gain.real),
        lists(scene.gain.imag),
        lists(scene.delay_s),
        lists(scene.zenith_rad),
        lists(scene.azimuth_rad),
        lists(scene.interaction),
        scene.paths_found,
        scene.dropped_power,
    ]
    return pa.Table.from_arrays([pa.array(values) for values in arrays], schema=PATH_SCHEMA)


def write_vehicles(file: Path, vehicles: VehicleTable) -> None:
    """The vehicles' boxes."""
    box = np.asarray(vehicles.box, np.float32).reshape(-1, 6)
    arrays = [vehicles.scene, vehicles.vehicle, pa.array(list(vehicles.kind), pa.string()), *box.T.copy()]
    rows = pa.Table.from_arrays([pa.array(values) for values in arrays], schema=VEHICLE_SCHEMA)
    with _parquet_writer(file, VEHICLE_SCHEMA) as writer:
        writer.write_table(rows)


def _parquet_writer(file: Path, schema: pa.Schema) -> pq.ParquetWriter:
    floats: list[str] = []
    others: list[str] = []
    for field in schema:
        is_list = pa.types.is_list(field.type)
        is_float = pa.types.is_floating(field.type.value_type if is_list else field.type)
        (floats if is_float else others).append(f"{field.name}.list.element" if is_list else field.name)
    # Equal bytes of neighbouring floats stand together and compress well, most of all after rounding.
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=_COMPRESSION_LEVEL,
        use_dictionary=others,
        use_byte_stream_split=floats,
        write_statistics=["scene"],  # lets a reader leave out what it does not want
    )
