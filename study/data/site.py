"""Sites and the path table; docs/path-table.md is the contract.

    open_site, list_sites   find a site that ships with the project, or one in a folder
    Site.read_paths         the path table as arrays, checked
    write_site              a site's folder, whole or not at all
    data_hash               the identity of the data, whatever files hold it
    site_summary            what is in a site, in numbers

Shapes: S scenes, L positions, P paths kept per row, R = S · L rows, K paths of all rows together, B boxes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from study.errors import DataError, nearest

__all__ = [
    "CONDITIONS",
    "PATH_SCHEMA",
    "VEHICLE_SCHEMA",
    "PathTable",
    "Site",
    "VehicleTable",
    "data_hash",
    "list_sites",
    "open_site",
    "power_beyond_window",
    "site_summary",
    "sync_folder",
    "write_site",
]

FORMAT = "study-site/1"
CONDITIONS = ("LOS", "DNLOS", "SNLOS")
SITE_FOLDER = Path(__file__).parent / "sites"
CONTRACT = "docs/path-table.md describes the format"

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

# Rows per file and per row group. Small files keep memory low while writing; readers take any split.
_ROWS_PER_FILE = 200_000
_ROWS_PER_GROUP = 50_000

# π with room for float32 and for values rounded in storage.
_PI = 3.1417

# Bandwidths at which the summary says how much power falls outside the delay window of 64 subcarriers.
_SUMMARY_BANDWIDTHS_HZ = (20e6, 100e6, 500e6)
_SUMMARY_SUBCARRIERS = 64


@dataclass(frozen=True)
class PathTable:
    """All paths of a site, padded with zeros to the same number in every row.

    Args:
        gain: complex path gains α_p with the carrier's phase, strongest first, complex64 [S, L, P].
        delay_s: path delays, float32 [S, L, P].
        zenith_rad: departure angles from +z, float32 [S, L, P].
        azimuth_rad: departure angles from +x in the x-y plane, float32 [S, L, P].
        interaction: 1 line of sight, 2 reflection only, 3 with diffraction, 0 padding, int8 [S, L, P].
        paths: number of paths that are not padding, int16 [S, L].
        condition: index into `CONDITIONS`, int8 [S, L].
        position_m: user positions, float32 [L, 3].
        time_s: time of each scene, float64 [S].
        paths_found: paths before the table kept the strongest, int16 [S, L].
        dropped_power: share of power in the paths that were not kept, float32 [S, L].
    """

    gain: NDArray[np.complex64]
    delay_s: NDArray[np.float32]
    zenith_rad: NDArray[np.float32]
    azimuth_rad: NDArray[np.float32]
    interaction: NDArray[np.int8]
    paths: NDArray[np.int16]
    condition: NDArray[np.int8]
    position_m: NDArray[np.float32]
    time_s: NDArray[np.float64]
    paths_found: NDArray[np.int16]
    dropped_power: NDArray[np.float32]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Which entries are paths and not padding, [S, L, P]."""
        result: NDArray[np.bool_] = np.arange(self.gain.shape[-1]) < self.paths[..., None]
        return result


_DTYPES = {
    "gain": np.complex64,
    "delay_s": np.float32,
    "zenith_rad": np.float32,
    "azimuth_rad": np.float32,
    "interaction": np.int8,
    "paths": np.int16,
    "condition": np.int8,
    "position_m": np.float32,
    "time_s": np.float64,
    "paths_found": np.int16,
    "dropped_power": np.float32,
}
_PER_PATH = ("gain", "delay_s", "zenith_rad", "azimuth_rad", "interaction")
_PER_ROW = ("paths", "condition", "paths_found", "dropped_power")


@dataclass(frozen=True)
class VehicleTable:
    """Boxes of the vehicles in every scene.

    Args:
        scene: int32 [B].
        vehicle: number of the vehicle, the same in every scene, int32 [B].
        kind: name of its kind, [B].
        box: x0, x1, y0, y1, z0, z1 in metres, float32 [B, 6].
    """

    scene: NDArray[np.int32]
    vehicle: NDArray[np.int32]
    kind: tuple[str, ...]
    box: NDArray[np.float32]


@dataclass(frozen=True)
class Site:
    """A site on disk. `metadata` is its site.json."""

    name: str
    folder: Path
    carrier_hz: float
    base_station_m: tuple[float, float, float]
    data_hash: str
    positions: int
    scenes: int
    max_paths: int
    metadata: Mapping[str, Any]

    def read_paths(self) -> PathTable:
        """Read and check the path table.

        Raises:
            DataError: a file is missing, damaged, not a path table, or not the data that site.json describes.
        """
        table = _read_path_table(self)
        found = data_hash(table, self.carrier_hz, self.base_station_m)
        if found != self.data_hash:
            raise DataError(
                f"the paths of site {self.name!r} are not those that site.json describes: their hash is {found}",
                where=str(self.folder / "paths"),
                allowed=f"data_hash {self.data_hash}",
                fix="restore the folder from where it came, or trace or import the site again",
            )
        return table

    def read_vehicles(self) -> VehicleTable:
        """Read the vehicles' boxes; empty for a site that has none.

        Raises:
            DataError: the file is damaged or has other columns.
        """
        file = self.folder / "vehicles.parquet"
        if not file.exists():
            return VehicleTable(np.zeros(0, np.int32), np.zeros(0, np.int32), (), np.zeros((0, 6), np.float32))
        table = _read_parquet(file, VEHICLE_SCHEMA)
        box = np.stack([_numbers(table, name, file) for name in VEHICLE_SCHEMA.names[3:]], 1)
        return VehicleTable(
            scene=_numbers(table, "scene", file),
            vehicle=_numbers(table, "vehicle", file),
            kind=tuple(table["kind"].to_pylist()),
            box=box.astype(np.float32),
        )


# --- Finding and opening ------------------------------------------------------------------------------------------


def list_sites(extra_folders: Iterable[str | Path] = ()) -> list[Site]:
    """The sites that ship with the project and those in the folders given, by name.

    Raises:
        DataError: one of them has an unusable site.json.
    """
    found: dict[str, Path] = {}
    for parent in (SITE_FOLDER, *map(Path, extra_folders)):
        for file in sorted(parent.glob("*/site.json")):
            found.setdefault(file.parent.name, file.parent)
    return [_open_folder(found[name]) for name in sorted(found)]


def open_site(name_or_path: str | Path, extra_folders: Iterable[str | Path] = ()) -> Site:
    """Open a site by its name or by its folder; only site.json is read.

    Args:
        name_or_path: name of a shipped site, name of a folder in one of `extra_folders`, or path of a folder.
        extra_folders: where to look for sites besides the shipped ones.

    Raises:
        DataError: there is no such site, or its site.json cannot be used.
    """
    text = str(name_or_path)
    parents = [SITE_FOLDER, *map(Path, extra_folders)]
    if text and Path(text).name == text:
        for parent in parents:
            if (parent / text / "site.json").is_file():
                return _open_folder(parent / text)
    folder = Path(text)
    if text and folder.is_dir():
        return _open_folder(folder)
    known = sorted({file.parent.name for parent in parents for file in parent.glob("*/site.json")})
    raise DataError(
        f"unknown site {text!r}{nearest(text, known)}",
        allowed=f"the folder of a site, or one of: {', '.join(known) or 'none is installed'}",
        fix="check the name, trace a site with `study data trace` or import one",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_KEYS = {
    "name": (lambda value: isinstance(value, str) and value != "", "a name"),
    "carrier_hz": (lambda value: _is_number(value) and value > 0, "a frequency greater than 0"),
    "base_station_m": (
        lambda value: isinstance(value, list) and len(value) == 3 and all(map(_is_number, value)),
        "[x, y, z]",
    ),
    "positions": (_is_count, "a whole number of at least 1"),
    "scenes": (_is_count, "a whole number of at least 1"),
    "max_paths": (_is_count, "a whole number of at least 1"),
    "conditions": (lambda value: value == list(CONDITIONS), json.dumps(list(CONDITIONS))),
    "condition_source": (lambda value: isinstance(value, str), "text"),
    "static_boxes": (lambda value: isinstance(value, list), "a list"),
    "solver": (lambda value: isinstance(value, dict), "a mapping"),
    "precision": (lambda value: isinstance(value, str), "text"),
    "data_hash": (lambda value: isinstance(value, str) and len(value) == 64, "64 hexadecimal digits"),
}


def _open_folder(folder: Path) -> Site:
    file = folder / "site.json"
    again = "restore the file, or trace or import the site again"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            "this folder is not a site: it has no site.json", where=str(folder), allowed=CONTRACT, fix=again
        ) from None
    except OSError as error:
        raise DataError(f"site.json cannot be read: {error.strerror or error}", where=str(file), fix=again) from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise DataError(f"site.json is not JSON: {error}", where=str(file), allowed=CONTRACT, fix=again) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise DataError(
            f"site.json has the format {found!r}",
            where=str(file),
            allowed=repr(FORMAT),
            fix="use the version of `study` that made the site, or trace or import it again",
        )
    problems = []
    for key, (fits, allowed) in _KEYS.items():
        if key not in content:
            problems.append(f"{key} is missing ({allowed})")
        elif not fits(content[key]):
            problems.append(f"{key} is {json.dumps(content[key])[:60]} (allowed: {allowed})")
    if problems:
        raise DataError(
            f"site.json cannot be used: {'; '.join(problems)}", where=str(file), allowed=CONTRACT, fix=again
        )
    x, y, z = map(float, content["base_station_m"])
    return Site(
        name=content["name"],
        folder=folder,
        carrier_hz=float(content["carrier_hz"]),
        base_station_m=(x, y, z),
        data_hash=content["data_hash"],
        positions=content["positions"],
        scenes=content["scenes"],
        max_paths=content["max_paths"],
        metadata=content,
    )


# --- Reading ------------------------------------------------------------------------------------------------------


def _read_parquet(file: Path, schema: pa.Schema) -> pa.Table:
    """One file as a table with the schema's columns in its order, without missing values."""
    again = "restore the file, or trace or import the site again"
    try:
        source = pq.ParquetFile(file)
        found = source.schema_arrow
        problems = _schema_problems(found, schema)
        if not problems:
            table = source.read().select(schema.names).combine_chunks()
    except (pa.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"the Parquet file is damaged or incomplete: {first}", where=str(file), allowed=CONTRACT, fix=again
        ) from None
    if problems:
        raise DataError(
            f"the Parquet file has other columns: {'; '.join(problems)}",
            where=str(file),
            allowed=", ".join(f"{field.name} {_type_name(field.type)}" for field in schema),
            fix=f"write the columns as {CONTRACT.split()[0]} says",
        )
    for name in schema.names:
        missing = table[name].null_count
        if pa.types.is_list(table[name].type):
            missing += sum(chunk.flatten().null_count for chunk in table[name].chunks)
        if missing:
            raise DataError(
                f"column {name!r} has {missing} missing values",
                where=str(file),
                allowed="a value in every row",
                fix=again,
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


def _numbers(table: pa.Table, name: str, file: Path) -> NDArray[Any]:
    """A column's values, those of a list column one after the other; every one finite."""
    column = table[name]
    if pa.types.is_list(column.type):
        chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
        values = np.concatenate(chunks) if chunks else np.zeros(0)
    else:
        values = column.to_numpy()
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(
            f"column {name!r} has {int((~np.isfinite(values)).sum())} values that are not finite",
            where=str(file),
            allowed="finite numbers",
            fix="restore the file, or trace or import the site again",
        )
    return values


def _lengths(table: pa.Table, name: str) -> NDArray[np.int64]:
    """Number of list entries in every row, [rows]."""
    chunks = [np.diff(chunk.offsets.to_numpy()) for chunk in table[name].chunks]
    return np.concatenate(chunks).astype(np.int64) if chunks else np.zeros(0, np.int64)


def _read_path_table(site: Site) -> PathTable:
    folder = site.folder / "paths"
    files = sorted(folder.glob("*.parquet"))
    again = "restore the folder from where it came, or trace or import the site again"
    if not files:
        raise DataError("the site has no path table", where=str(folder), allowed="paths/*.parquet", fix=again)
    tables = [(file, _read_parquet(file, PATH_SCHEMA)) for file in files]
    parts = [_read_rows(file, table, site) for file, table in tables]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    shape = (site.scenes, site.positions)
    cell = columns["scene"].astype(np.int64) * site.positions + columns["position"]  # [R]
    seen = np.bincount(cell, minlength=site.scenes * site.positions)
    if (seen != 1).any():
        missing, repeated = int((seen == 0).sum()), int((seen > 1).sum())
        scene, position = divmod(int(np.flatnonzero(seen != 1)[0]), site.positions)
        raise DataError(
            f"the path table lacks {missing:,} rows and repeats {repeated:,}; the first is scene {scene}, "
            f"position {position}",
            where=str(folder),
            allowed=f"one row for each of {site.scenes:,} scenes × {site.positions:,} positions",
            fix=again,
        )
    lengths = columns["paths"]  # [R]
    path_cell = np.repeat(cell, lengths)  # [K]
    slot = np.arange(len(path_cell)) - np.repeat(np.cumsum(lengths) - lengths, lengths)

    def spread(values: NDArray[Any], kind: type) -> NDArray[Any]:
        padded: NDArray[Any] = np.zeros((site.scenes * site.positions, site.max_paths), kind)
        padded[path_cell, slot] = values
        return padded.reshape(*shape, site.max_paths)

    def grid(values: NDArray[Any], kind: type) -> NDArray[Any]:
        ordered: NDArray[Any] = np.empty(len(values), kind)
        ordered[cell] = values
        return ordered.reshape(shape)

    gain = np.empty((*shape, site.max_paths), np.complex64)
    gain.real, gain.imag = spread(columns["gain_re"], np.float32), spread(columns["gain_im"], np.float32)
    place = np.stack([grid(columns[name], np.float32) for name in ("x_m", "y_m", "z_m")], -1)  # [S, L, 3]
    time_s = grid(columns["time_s"], np.float64)
    for what, values in (("position", place - place[:1]), ("time", time_s - time_s[:, :1])):
        if values.any():
            raise DataError(
                f"a {what} differs between rows of the same {'position' if what == 'position' else 'scene'}",
                where=str(folder),
                allowed="users stand still from scene to scene, and a scene has one time",
                fix=again,
            )
    return PathTable(
        gain=gain,
        delay_s=spread(columns["delay_s"], np.float32),
        zenith_rad=spread(columns["zenith_rad"], np.float32),
        azimuth_rad=spread(columns["azimuth_rad"], np.float32),
        interaction=spread(columns["interaction"], np.int8),
        paths=grid(lengths, np.int16),
        condition=grid(columns["condition"], np.int8),
        position_m=np.ascontiguousarray(place[0]),
        time_s=np.ascontiguousarray(time_s[:, 0]),
        paths_found=grid(columns["paths_found"], np.int16),
        dropped_power=grid(columns["dropped_power"], np.float32),
    )


def _read_rows(file: Path, table: pa.Table, site: Site) -> dict[str, NDArray[Any]]:
    """Columns of one file with its rows' numbers of paths as `paths`; everything checked but completeness."""
    columns = {name: _numbers(table, name, file) for name in PATH_SCHEMA.names}
    lengths = {name: _lengths(table, name) for name in _LISTS}
    columns["paths"] = lengths[_LISTS[0]]
    again = "restore the file, or trace or import the site again"
    for name in _LISTS:
        differ = lengths[name] != columns["paths"]
        if differ.any():
            row = int(differ.argmax())
            raise DataError(
                f"row {row} has {lengths[name][row]} values of {name} but {columns['paths'][row]} of {_LISTS[0]}",
                where=str(file),
                allowed="the same number of values in all lists of a row",
                fix=again,
            )
    limits = {
        "scene": (0, site.scenes - 1),
        "position": (0, site.positions - 1),
        "paths": (0, site.max_paths),
        "condition": (0, len(CONDITIONS) - 1),
        "interaction": (1, 3),
        "paths_found": (0, np.iinfo(np.int16).max),
        "dropped_power": (0.0, 1.0),
        "delay_s": (0.0, math.inf),
        "zenith_rad": (0.0, _PI),
        "azimuth_rad": (-_PI, _PI),
    }
    for name, (low, high) in limits.items():
        outside = (columns[name] < low) | (columns[name] > high)
        if outside.any():
            raise DataError(
                f"{name} has {int(outside.sum()):,} values outside its range, the first is "
                f"{columns[name][int(outside.argmax())]}",
                where=str(file),
                allowed=f"{low} … {high}" if math.isfinite(high) else f"at least {low}",
                fix=again,
            )
    return columns


# --- Writing ------------------------------------------------------------------------------------------------------


def data_hash(table: PathTable, carrier_hz: float, base_station_m: Sequence[float]) -> str:
    """SHA-256 over the table's values, the carrier and the base station.

    It does not depend on how the values are split into files, on the padding, or on the libraries' versions.
    """
    scenes, positions, _ = table.gain.shape
    digest = hashlib.sha256()
    head = {
        "format": FORMAT,
        "carrier_hz": float(carrier_hz),
        "base_station_m": [float(value) for value in base_station_m],
        "scenes": scenes,
        "positions": positions,
    }
    digest.update(json.dumps(head, sort_keys=True).encode())
    valid = table.valid
    for name, kind in _DTYPES.items():
        values = getattr(table, name)
        if name in _PER_PATH:
            values = values[valid]
        digest.update(f"|{name}|{values.size}|".encode())
        digest.update(np.ascontiguousarray(values, np.dtype(kind).newbyteorder("<")).tobytes())
    return digest.hexdigest()


def write_site(
    folder: str | Path,
    table: PathTable,
    *,
    name: str,
    carrier_hz: float,
    base_station_m: Sequence[float],
    condition_source: str,
    static_boxes: Sequence[Mapping[str, Any]] = (),
    solver: Mapping[str, Any] | None = None,
    precision: str = "float32 as computed",
    vehicles: VehicleTable | None = None,
    scenario_yaml: str | None = None,
) -> Site:
    """Write a site's folder, whole or not at all.

    Args:
        folder: the site's folder; must not exist.
        table: the paths.
        name: the site's name.
        carrier_hz: carrier frequency.
        base_station_m: [x, y, z] of the base station.
        condition_source: how the conditions were found, in words.
        static_boxes: buildings, as {name, material, box}.
        solver: settings and package versions of what made the paths.
        precision: rounding that was applied to the values, in words.
        vehicles: the vehicles' boxes.
        scenario_yaml: the scenario that was traced.

    Returns:
        The site, opened from what was written.

    Raises:
        DataError: the folder exists, cannot be written, or the table is inconsistent.
    """
    folder = Path(folder)
    _check_table(table)
    scenes, positions, max_paths = table.gain.shape
    content = {
        "format": FORMAT,
        "name": name,
        "carrier_hz": float(carrier_hz),
        "base_station_m": [float(value) for value in base_station_m],
        "positions": positions,
        "scenes": scenes,
        "max_paths": max_paths,
        "conditions": list(CONDITIONS),
        "condition_source": condition_source,
        "static_boxes": [dict(box) for box in static_boxes],
        "solver": dict(solver or {}),
        "precision": precision,
        "data_hash": data_hash(table, carrier_hz, base_station_m),
    }
    if folder.exists():
        raise DataError(
            "the folder of the new site exists", where=str(folder), fix="name another folder or remove this one"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise DataError(f"the site cannot be written: {error.strerror or error}", where=str(folder)) from None
    try:
        temporary.chmod(0o755)  # mkdtemp makes it private
        (temporary / "paths").mkdir()
        _write_paths(table, temporary / "paths")
        if vehicles is not None:
            _write_parquet(_vehicle_rows(vehicles), temporary / "vehicles.parquet")
        if scenario_yaml is not None:
            _write_text(temporary / "scenario.yaml", scenario_yaml)
        _write_text(temporary / "site.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        for written in (temporary / "paths", temporary):
            sync_folder(written)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise DataError(
            f"the site cannot be written: {error.strerror or error}",
            where=str(folder),
            fix="free space on the disk or name another folder",
        ) from None
    finally:
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)
    return _open_folder(folder)


def _check_table(table: PathTable) -> None:
    scenes, positions, width = table.gain.shape
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_PER_PATH, (scenes, positions, width))
    shapes |= dict.fromkeys(_PER_ROW, (scenes, positions))
    shapes |= {"position_m": (positions, 3), "time_s": (scenes,)}
    problems = []
    for name, shape in shapes.items():
        values = getattr(table, name)
        if values.shape != shape:
            problems.append(f"{name} has the shape {values.shape} instead of {shape}")
        elif values.dtype != _DTYPES[name]:
            problems.append(f"{name} is {values.dtype} instead of {np.dtype(_DTYPES[name])}")
        elif not np.isfinite(values).all():
            problems.append(f"{name} has values that are not finite")
    if not problems:
        if (table.paths < 0).any() or (table.paths > width).any():
            problems.append(f"paths must be 0 … {width}")
        if (table.condition < 0).any() or (table.condition >= len(CONDITIONS)).any():
            problems.append(f"condition must be 0 … {len(CONDITIONS) - 1}")
        if (np.diff(table.time_s) <= 0).any():
            problems.append("time_s must rise from scene to scene")
        power = np.abs(table.gain.astype(np.complex128)) ** 2
        # Readers take the first paths as the strongest; the tolerance is for rounded values.
        if (power[..., 1:] > power[..., :-1] * 1.001).any():
            problems.append("the paths of a row must stand strongest first")
        if any(getattr(table, name)[~table.valid].any() for name in _PER_PATH):
            problems.append("entries beyond the number of paths must be 0")
    if problems:
        raise DataError(f"the path table is inconsistent: {'; '.join(problems)}", allowed=CONTRACT)


def _write_paths(table: PathTable, folder: Path) -> None:
    scenes, positions, _ = table.gain.shape
    step = max(1, _ROWS_PER_FILE // positions)
    for number, start in enumerate(range(0, scenes, step)):
        rows = _path_rows(table, start, min(start + step, scenes))
        _write_parquet(rows, folder / f"part-{number:04d}.parquet")


def _path_rows(table: PathTable, start: int, stop: int) -> pa.Table:
    """Rows of the scenes start … stop − 1."""
    part = slice(start, stop)
    scenes, positions = stop - start, table.gain.shape[1]
    paths = table.paths[part].reshape(-1)  # [R]
    valid = table.valid[part]
    offsets = pa.array(np.concatenate([[0], np.cumsum(paths, dtype=np.int32)]).astype(np.int32))

    def lists(values: NDArray[Any]) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(values[part][valid]))

    place = np.tile(table.position_m, (scenes, 1))
    arrays = [
        np.repeat(np.arange(start, stop, dtype=np.int32), positions),
        np.tile(np.arange(positions, dtype=np.int32), scenes),
        np.repeat(table.time_s[part], positions),
        place[:, 0],
        place[:, 1],
        place[:, 2],
        table.condition[part].reshape(-1),
        lists(table.gain.real),
        lists(table.gain.imag),
        lists(table.delay_s),
        lists(table.zenith_rad),
        lists(table.azimuth_rad),
        lists(table.interaction),
        table.paths_found[part].reshape(-1),
        table.dropped_power[part].reshape(-1),
    ]
    return pa.Table.from_arrays([pa.array(values) for values in arrays], schema=PATH_SCHEMA)


def _vehicle_rows(vehicles: VehicleTable) -> pa.Table:
    box = np.asarray(vehicles.box, np.float32).reshape(-1, 6)
    arrays = [vehicles.scene, vehicles.vehicle, pa.array(list(vehicles.kind), pa.string()), *box.T.copy()]
    return pa.Table.from_arrays([pa.array(values) for values in arrays], schema=VEHICLE_SCHEMA)


def _write_parquet(rows: pa.Table, file: Path) -> None:
    floats: list[str] = []
    others: list[str] = []
    for field in rows.schema:
        is_list = pa.types.is_list(field.type)
        is_float = pa.types.is_floating(field.type.value_type if is_list else field.type)
        (floats if is_float else others).append(f"{field.name}.list.element" if is_list else field.name)
    # Equal bytes of neighbouring floats stand together and compress well, most of all after rounding.
    pq.write_table(
        rows,
        file,
        row_group_size=_ROWS_PER_GROUP,
        compression="zstd",
        compression_level=19,
        use_dictionary=others,
        use_byte_stream_split=floats,
        write_statistics=False,
    )
    _sync(file)


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    _sync(file)


def _sync(file: Path) -> None:
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Make the folder's entries survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- Summary ------------------------------------------------------------------------------------------------------


def site_summary(site: Site) -> dict[str, Any]:
    """What is in a site, in numbers that JSON can hold; spreads are over rows that have a path.

    Raises:
        DataError: the site cannot be read.
    """
    table = site.read_paths()
    valid = table.valid
    power = np.where(valid, np.abs(table.gain.astype(np.complex128)) ** 2, 0.0)  # [S, L, P]
    total = power.sum(-1)
    some = total > 0
    share = power[some] / total[some][:, None]  # [rows with a path, P]
    delay_ns = table.delay_s[some].astype(np.float64) * 1e9
    mean_ns = (share * delay_ns).sum(-1)
    spread_ns = np.sqrt(np.maximum((share * (delay_ns - mean_ns[:, None]) ** 2).sum(-1), 0))
    # Circular spread, so that −π and π are neighbours.
    resultant = np.clip(np.abs((share * np.exp(1j * table.azimuth_rad[some])).sum(-1)), 1e-12, 1)
    azimuth_deg = np.rad2deg(np.sqrt(-2 * np.log(resultant)))
    shares = np.stack([(table.condition == index).mean(1) for index in range(len(CONDITIONS))], 1)  # [S, 3]
    return {
        "name": site.name,
        "folder": str(site.folder),
        "carrier_hz": site.carrier_hz,
        "base_station_m": list(site.base_station_m),
        "positions": site.positions,
        "scenes": site.scenes,
        "max_paths": site.max_paths,
        "scene_spacing_s": _spread(np.diff(table.time_s)),
        "position_range_m": [table.position_m.min(0).tolist(), table.position_m.max(0).tolist()],
        "paths_per_row": _spread(table.paths),
        "paths_found_per_row": _spread(table.paths_found),
        "rows_without_paths": float((~some).mean()),
        "conditions": {
            name: {
                "share": float(shares[:, index].mean()),
                "lowest_scene": float(shares[:, index].min()),
                "highest_scene": float(shares[:, index].max()),
            }
            for index, name in enumerate(CONDITIONS)
        },
        "condition_source": site.metadata["condition_source"],
        "rms_delay_spread_ns": _spread(spread_ns),
        "azimuth_spread_deg": _spread(azimuth_deg),
        "strongest_path_delay_ns": _spread(delay_ns[:, 0]),
        "dropped_power": _spread(table.dropped_power),
        "delay_window": [_delay_window(table, _SUMMARY_SUBCARRIERS, bandwidth) for bandwidth in _SUMMARY_BANDWIDTHS_HZ],
        "solver": dict(site.metadata["solver"]),
        "precision": site.metadata["precision"],
        "data_hash": site.data_hash,
        "size_bytes": sum(file.stat().st_size for file in site.folder.rglob("*") if file.is_file()),
    }


def _spread(values: NDArray[Any]) -> dict[str, float] | None:
    """Minimum, median, 90th percentile and maximum; None of nothing."""
    if values.size == 0:
        return None
    numbers = np.asarray(values, np.float64)
    return {
        "min": float(numbers.min()),
        "median": float(np.median(numbers)),
        "p90": float(np.percentile(numbers, 90)),
        "max": float(numbers.max()),
    }


def power_beyond_window(table: PathTable, subcarriers: int, bandwidth_hz: float) -> NDArray[np.float64]:
    """Share of each channel's power at delays of N / bandwidth and more, which fold back or are dropped, [S, L].

    A row without paths has none.
    """
    power = np.abs(table.gain.astype(np.complex128)) ** 2
    late = np.where(table.delay_s * (bandwidth_hz / subcarriers) >= 1, power, 0.0).sum(-1)
    total = power.sum(-1)
    share: NDArray[np.float64] = np.divide(late, total, out=np.zeros_like(total), where=total > 0)
    return share


def _delay_window(table: PathTable, subcarriers: int, bandwidth_hz: float) -> dict[str, Any]:
    """How much power lies beyond the delays that the subcarriers can tell apart."""
    beyond = power_beyond_window(table, subcarriers, bandwidth_hz)
    return {
        "subcarriers": subcarriers,
        "bandwidth_mhz": bandwidth_hz / 1e6,
        "window_ns": subcarriers / bandwidth_hz * 1e9,
        "power_beyond": float(beyond.mean()),
        "rows_with_power_beyond": float((beyond > 0).mean()),
    }
