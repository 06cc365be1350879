"""The path table's laws, and every way in which a site's folder can be unusable."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from site_factory import BASE_STATION, random_table

from study.data.path_files import PATH_SCHEMA
from study.data.path_table import CONDITIONS, PathTable, scene_hash, site_hash
from study.data.scenario import VehicleBoxes
from study.data.site import Site, SiteWriter, list_sites, open_site
from study.data.summary import site_summary
from study.errors import DataError


def write(
    folder: Path, table: PathTable | None = None, vehicles: list[VehicleBoxes] | None = None, **values: Any
) -> Site:
    table = random_table() if table is None else table
    facts = {"name": "tiny", "carrier_hz": 3.5e9, "base_station_m": BASE_STATION} | values
    width = table.gain.shape[-1]
    with SiteWriter(folder, position_m=table.position_m, max_paths=width, **facts) as writer:
        for index, time_s in enumerate(table.time_s):
            writer.add(table.one(index), time_s, None if vehicles is None else vehicles[index])
        return writer.finish(condition_source="made up")


def data_hash(table: PathTable, carrier_hz: float = 1e9, base_station_m: tuple[float, ...] = BASE_STATION) -> str:
    hashes = [scene_hash(table.one(index), time_s) for index, time_s in enumerate(table.time_s)]
    return site_hash(hashes, table.position_m, carrier_hz, base_station_m)


def assert_equal_tables(ours: PathTable, theirs: PathTable) -> None:
    for name, values in vars(ours).items():
        other = getattr(theirs, name)
        assert values.dtype == other.dtype, name
        np.testing.assert_array_equal(values, other, err_msg=name)


finite = st.floats(-1e3, 1e3, width=32)


@st.composite
def tables(draw: st.DrawFn) -> PathTable:
    scenes, positions, width = (draw(st.integers(1, 4)) for _ in range(3))
    paths = draw(hnp.arrays(np.int16, (scenes, positions), elements=st.integers(0, width)))
    valid = np.arange(width) < paths[..., None]
    shape = (scenes, positions, width)

    def array(low: float, high: float) -> np.ndarray:
        return np.where(valid, draw(hnp.arrays(np.float32, shape, elements=st.floats(low, high, width=32))), 0)

    gain = (array(-1, 1) + 1j * array(-1, 1)).astype(np.complex64)
    gain = np.take_along_axis(gain, np.argsort(-np.abs(gain.astype(np.complex128)), -1, kind="stable"), -1)
    return PathTable(
        gain=gain,
        delay_s=array(0, 1).astype(np.float32),
        zenith_rad=array(0, 3.140625).astype(np.float32),
        azimuth_rad=array(-3.140625, 3.140625).astype(np.float32),
        interaction=np.where(valid, draw(hnp.arrays(np.int8, shape, elements=st.integers(1, 3))), 0).astype(np.int8),
        paths=paths,
        scene=np.arange(scenes, dtype=np.int32),
        condition=draw(hnp.arrays(np.int8, (scenes, positions), elements=st.integers(0, 2))),
        position_m=draw(hnp.arrays(np.float32, (positions, 3), elements=finite)),
        time_s=np.cumsum(draw(hnp.arrays(np.float64, (scenes,), elements=st.floats(0.1, 1e3)))),
        paths_found=draw(hnp.arrays(np.int16, (scenes, positions), elements=st.integers(0, 999))),
        dropped_power=draw(hnp.arrays(np.float32, (scenes, positions), elements=st.floats(0, 1, width=32))),
    )


@given(tables())
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, table: PathTable) -> None:
    site = write(tmp_path_factory.mktemp("sites") / "tiny", table)
    assert_equal_tables(site.read_paths(), table)
    assert_equal_tables(open_site(site.folder).read_paths(), table)


def rewrite(site: Site, files: int, order: int, group: int, **options: Any) -> None:
    """Store the same rows in other files, another order and other row groups."""
    folder = site.folder / "paths"
    rows = pa.concat_tables([pq.read_table(file) for file in sorted(folder.glob("*.parquet"))])
    for file in folder.glob("*.parquet"):
        file.unlink()
    rows = rows.take(np.random.default_rng(order).permutation(len(rows)))
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        pq.write_table(rows.take(part), folder / f"{number}.parquet", row_group_size=group, **options)


@given(st.integers(1, 12), st.integers(0, 99), st.integers(1, 12), st.sampled_from(["snappy", "none", "zstd"]))
@settings(max_examples=20, deadline=None)
def test_the_hash_does_not_depend_on_the_files(
    tmp_path_factory: pytest.TempPathFactory, files: int, order: int, group: int, compression: str
) -> None:
    site = write(tmp_path_factory.mktemp("sites") / "tiny")
    expected = site.read_paths()
    rewrite(site, files, order, group, compression=compression)
    assert_equal_tables(open_site(site.folder).read_paths(), expected)


@given(st.sets(st.integers(0, 5), min_size=1), st.integers(1, 30), st.integers(0, 99), st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_some_scenes_are_those_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, scenes: set[int], files: int, order: int, group: int
) -> None:
    site = write(tmp_path_factory.mktemp("sites") / "tiny", random_table(6))
    whole = site.read_paths()
    rewrite(site, files, order, group)
    some = site.read_paths(scenes)
    assert some.scene.tolist() == sorted(scenes)
    expected = {name: values if name == "position_m" else values[some.scene] for name, values in vars(whole).items()}
    assert_equal_tables(some, PathTable(**expected))


def test_files_without_a_wanted_scene_are_not_read(tmp_path: Path) -> None:
    table = random_table(6)
    site = write(tmp_path / "tiny", table)
    rows = pq.read_table(only_file(site))
    only_file(site).unlink()
    for scene in range(6):
        pq.write_table(rows.slice(4 * scene, 4), site.folder / "paths" / f"{scene}.parquet")
    damaged = site.folder / "paths" / "0.parquet"
    content = damaged.read_bytes()
    damaged.write_bytes(bytes(200) + content[200:])  # the values, not the description at the end
    assert site.read_paths([1, 5]).time_s.tolist() == [2, 10]
    with pytest.raises(DataError, match="damaged"):
        site.read_paths([0])


def test_scenes_in_parts_are_the_whole(tmp_path: Path) -> None:
    site = write(tmp_path / "tiny", random_table(5))
    parts = list(site.read_scenes(2))
    assert [part.scene.tolist() for part in parts] == [[0, 1], [2, 3], [4]]
    np.testing.assert_array_equal(np.concatenate([part.gain for part in parts]), site.read_paths().gain)


@pytest.mark.parametrize("scenes", [[], [3], [-1, 0]])
def test_scenes_that_a_site_does_not_have(tmp_path: Path, scenes: list[int]) -> None:
    with pytest.raises(DataError, match="no such scenes"):
        write(tmp_path / "tiny").read_paths(scenes)


@pytest.mark.parametrize("name", sorted(set(PathTable.__dataclass_fields__) - {"scene"}))
def test_the_hash_depends_on_every_value(name: str) -> None:
    table = random_table()
    values = getattr(table, name).copy()
    values.flat[0] = values.flat[0] - 1 if name == "paths" else values.flat[0] + 1
    changed = replace(table, **{name: values})
    assert data_hash(changed) != data_hash(table)


def test_the_hash_depends_on_the_order_of_the_scenes() -> None:
    table = random_table()
    turned = {name: values[::-1] for name, values in vars(table).items() if name not in ("position_m", "time_s")}
    assert data_hash(replace(table, **turned)) != data_hash(table)


def test_the_hash_depends_on_carrier_and_base_station() -> None:
    table = random_table()
    assert len({data_hash(table, carrier, (x, 0, 0)) for carrier in (1e9, 2e9) for x in (0.0, 1.0)}) == 4


def test_vehicles_are_read_as_written(tmp_path: Path) -> None:
    boxes = np.arange(12.0).reshape(2, 6)
    bus = VehicleBoxes(np.array([7, 7], np.int32), ("bus", "bus"), boxes)
    none = VehicleBoxes(np.zeros(0, np.int32), (), np.zeros((0, 6)))
    found = write(tmp_path / "tiny", vehicles=[bus, none, bus]).read_vehicles()
    np.testing.assert_array_equal(found.box, np.concatenate([boxes, boxes]))
    assert found.scene.tolist() == [0, 0, 2, 2]
    assert found.vehicle.tolist() == [7] * 4
    assert found.kind == ("bus",) * 4


def test_a_site_without_vehicles_has_none(tmp_path: Path) -> None:
    assert len(write(tmp_path / "tiny").read_vehicles().box) == 0


# --- Writing ------------------------------------------------------------------------------------------------------


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="exists"):
        write(tmp_path / "tiny")
    assert [file.name for file in tmp_path.rglob("*")] == ["tiny", "mine.txt"]


def test_a_block_left_early_leaves_nothing(tmp_path: Path) -> None:
    table = random_table()
    with SiteWriter(
        tmp_path / "tiny",
        name="x",
        carrier_hz=1e9,
        base_station_m=BASE_STATION,
        position_m=table.position_m,
        max_paths=5,
    ) as writer:
        writer.add(table.one(0), 0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_site_needs_a_scene_and_positions(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"name": "x", "carrier_hz": 1e9, "base_station_m": BASE_STATION, "max_paths": 5}
    with SiteWriter(tmp_path / "tiny", position_m=np.zeros((1, 3)), **facts) as writer:
        with pytest.raises(DataError, match="no scenes"):
            writer.finish(condition_source="made up")
    for positions in (np.zeros((0, 3)), np.zeros((2, 2)), np.full((1, 3), np.nan)):
        with pytest.raises(DataError, match="position"):
            SiteWriter(tmp_path / "tiny", position_m=positions, **facts)
    assert list(tmp_path.iterdir()) == []


def test_negative_zeros_in_the_padding_change_nothing(tmp_path: Path) -> None:
    table = random_table()
    gain = np.where(table.valid, table.gain, np.complex64(complex(-0.0, -0.0)))
    assert np.signbit(gain.real).any()
    site = write(tmp_path / "tiny", replace(table, gain=gain))
    assert_equal_tables(site.read_paths(), table)
    assert site.data_hash == write(tmp_path / "plain", table).data_hash


def test_many_scenes_are_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.data.site._ROWS_PER_FILE", 8)  # two scenes of four positions
    table = random_table(7)
    site = write(tmp_path / "tiny", table)
    assert len(list((site.folder / "paths").iterdir())) == 4
    assert_equal_tables(site.read_paths(), table)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(DataError, match="No space left"):
        write(tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"condition": np.full((3, 4), 3, np.int8)}, "condition has values outside 0 … 2"),
        ({"paths": np.full((3, 4), 6, np.int16)}, "paths must be 0 … 5"),
        ({"delay_s": np.zeros((3, 4, 4), np.float32)}, r"delay_s has the shape \(4, 4\) instead of \(4, 5\)"),
        ({"delay_s": np.zeros((3, 4, 5))}, "delay_s is float64"),
        ({"gain": random_table().gain * np.complex64(np.nan)}, "gain has values that are not finite"),
        ({"delay_s": -random_table().delay_s}, "delay_s has values outside"),
        ({"interaction": np.zeros((3, 4, 5), np.int8)}, "no interaction number"),
        ({"time_s": np.array([0, 1, np.nan])}, "time_s must rise"),
        ({"time_s": np.array([0.0, 2.0, 2.0])}, "time_s must rise"),
        ({"gain": random_table().gain[..., ::-1]}, "strongest first"),
        ({"zenith_rad": np.ones((3, 4, 5), np.float32)}, "beyond the number of paths must be 0"),
    ],
)
def test_an_inconsistent_table_is_not_written(tmp_path: Path, change: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(DataError, match=words):
        write(tmp_path / "tiny", replace(random_table(), **change))
    assert list(tmp_path.iterdir()) == []


# --- Opening and reading what cannot be used ----------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return write(tmp_path / "tiny")


def edit_json(site: Site, **values: Any) -> None:
    file = site.folder / "site.json"
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no site.json"),
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[]", "format None"),
        ('{"format": "study-site/9"}', "study-site/9"),
        ('{"format": "study-site/1"}', "study-site/1"),
        ('{"format": "study-site/2"}', "carrier_hz is missing.*max_paths is missing"),
    ],
)
def test_an_unusable_site_json(site: Site, content: str | None, words: str) -> None:
    file = site.folder / "site.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        open_site(site.folder)
    assert caught.value.where
    assert caught.value.allowed
    assert caught.value.fix


@pytest.mark.parametrize(
    "values",
    [
        {"scenes": 0},
        {"positions": "4"},
        {"max_paths": True},
        {"carrier_hz": -1},
        {"base_station_m": [1, 2]},
        {"conditions": ["LOS", "NLOS"]},
        {"data_hash": "abc"},
        {"scene_hashes": ["abc"]},
        {"scene_hashes": ["a" * 64] * 4},
        {"name": None},
    ],
)
def test_an_unusable_key_of_site_json_is_named(site: Site, values: dict[str, Any]) -> None:
    edit_json(site, **values)
    with pytest.raises(DataError, match=next(iter(values))):
        open_site(site.folder)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(site: Site) -> None:
    part = next((site.folder / "paths").iterdir())
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(DataError, match="not a plain file"):
        site.read_paths()
    (site.folder / "site.json").unlink()
    os.mkfifo(site.folder / "site.json")
    with pytest.raises(DataError, match="not a plain file"):
        open_site(site.folder)


def test_site_json_that_is_not_utf8(site: Site) -> None:
    (site.folder / "site.json").write_bytes(b'{"format": "\xff"}')
    with pytest.raises(DataError, match="not JSON"):
        open_site(site.folder)


def only_file(site: Site) -> Path:
    (file,) = (site.folder / "paths").glob("*.parquet")
    return file


def edit_rows(site: Site, change: Callable[[pa.Table], pa.Table]) -> None:
    file = only_file(site)
    pq.write_table(change(pq.read_table(file)), file)


def replaced(name: str, values: Any, kind: pa.DataType | None = None) -> Callable[[pa.Table], pa.Table]:
    def change(rows: pa.Table) -> pa.Table:
        column = pa.array(values(rows[name].to_pylist()), kind or PATH_SCHEMA.field(name).type)
        return rows.set_column(rows.schema.get_field_index(name), name, column)

    return change


def first(value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [value(values[0]) if callable(value) else value, *values[1:]]


BAD_ROWS = {
    "missing column": (lambda rows: rows.drop_columns(["delay_s"]), "missing delay_s"),
    "extra column": (lambda rows: rows.append_column("power", rows["time_s"]), "unknown power"),
    "misspelt column": (
        lambda rows: rows.rename_columns({"delay_s": "delay"}),
        "unknown delay; did you mean 'delay_s'",
    ),
    "wrong type": (replaced("scene", list, pa.int64()), "scene is int64 instead of int32"),
    "wrong list type": (replaced("delay_s", list, pa.list_(pa.float64())), "delay_s is list.*instead of list<float>"),
    "list instead of value": (
        replaced("condition", lambda values: [[value] for value in values], pa.list_(pa.int8())),
        "condition is list",
    ),
    "missing row": (lambda rows: rows.slice(1), "lacks 1 rows and repeats 0; the first is scene 0, position 0"),
    "repeated row": (lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), "repeats 1"),
    "no rows": (lambda rows: rows.slice(0, 0), "lacks 12 rows"),
    "lists of different lengths": (
        replaced("delay_s", first(lambda value: value[1:])),
        "row 0 has 4 values of delay_s but 5",
    ),
    "longer lists than max_paths": (
        lambda rows: _longer(rows),
        "a row has 6 paths",
    ),
    "null": (replaced("condition", first(None)), "'condition' has 1 missing values"),
    "null list": (replaced("delay_s", first(None)), "'delay_s' has 1 missing values"),
    "null in a list": (replaced("delay_s", first(lambda value: [None, *value[1:]])), "'delay_s' has 1 missing values"),
    "not a number": (
        replaced("gain_re", first(lambda value: [np.nan, *value[1:]])),
        "'gain_re' has 1 values that are not finite",
    ),
    "infinite": (replaced("time_s", first(np.inf)), "'time_s' has 1 values that are not finite"),
    "scene out of range": (replaced("scene", first(99)), "scene has 1 values outside its range"),
    "condition out of range": (replaced("condition", first(7)), "condition has 1 values outside its range"),
    "angle out of range": (replaced("zenith_rad", first(lambda value: [4.0, *value[1:]])), "zenith_rad has 1"),
    "moving position": (replaced("x_m", first(1e3)), "a position differs"),
    "two times in a scene": (replaced("time_s", first(1e3)), "a time differs"),
    "another value": (
        replaced("dropped_power", first(0.75)),
        "paths of 1 scenes .0. are not those that site.json describes",
    ),
}


def _longer(rows: pa.Table) -> pa.Table:
    for name in ("gain_re", "gain_im", "delay_s", "zenith_rad", "azimuth_rad", "interaction"):
        rows = replaced(name, first(lambda value: [*value, value[-1]]))(rows)
    return rows


@pytest.mark.parametrize("case", BAD_ROWS)
def test_unusable_rows(site: Site, case: str) -> None:
    change, words = BAD_ROWS[case]
    edit_rows(site, change)
    with pytest.raises(DataError, match=words) as caught:
        site.read_paths()
    assert str(site.folder) in (caught.value.where or "")
    assert caught.value.allowed
    assert caught.value.fix


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file(site: Site, share: float) -> None:
    file = only_file(site)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="damaged or incomplete"):
        site.read_paths()


@pytest.mark.parametrize("place", [0.2, 0.4, 0.6, 0.8])
def test_a_file_with_changed_bytes_is_never_read_as_good(site: Site, place: float) -> None:
    file = only_file(site)
    content = bytearray(file.read_bytes())
    start = int(place * len(content))
    content[start : start + 64] = bytes(255 - byte for byte in content[start : start + 64])
    file.write_bytes(content)
    expected = random_table()
    try:
        found = site.read_paths()
    except DataError:
        return
    assert_equal_tables(found, expected)  # the bytes were padding or a description


def test_a_site_without_a_path_table(site: Site) -> None:
    shutil.rmtree(site.folder / "paths")
    with pytest.raises(DataError, match="no path table"):
        site.read_paths()


def test_damaged_vehicles(site: Site) -> None:
    (site.folder / "vehicles.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="damaged"):
        site.read_vehicles()


def test_a_changed_hash(site: Site) -> None:
    edit_json(site, data_hash="0" * 64)
    with pytest.raises(DataError, match="not those of its data_hash"):
        open_site(site.folder).read_paths()


# --- Finding sites ------------------------------------------------------------------------------------------------


def test_an_unknown_site_names_the_known_and_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean 'canyon_small'") as caught:
        open_site("canyon_smal")
    assert "canyon_small" in (caught.value.allowed or "")


def test_sites_are_found_by_name_in_extra_folders(site: Site) -> None:
    parent = site.folder.parent
    assert open_site("tiny", [parent]).folder == site.folder
    assert {found.name for found in list_sites([parent])} >= {"canyon_small", "tiny"}
    with pytest.raises(DataError, match="tiny"):
        open_site("tiny2", [parent])


def test_an_empty_name_is_no_site() -> None:
    with pytest.raises(DataError, match="unknown site"):
        open_site("")


# --- The site that ships ------------------------------------------------------------------------------------------


def test_the_embedded_site_is_whole_and_small() -> None:
    site = open_site("canyon_small")
    summary = site_summary(site)
    assert (site.scenes, site.max_paths) == (120, 25)
    assert 140 <= site.positions <= 200
    assert summary["size_bytes"] <= 10e6
    assert summary["scene_spacing_s"]["min"] >= 2
    assert 0.05 <= summary["conditions"]["DNLOS"]["share"] <= 0.25
    assert 0.10 <= summary["conditions"]["SNLOS"]["share"] <= 0.40
    assert summary["rows_without_paths"] == 0
    assert summary["solver"]["los_agreement"] == 1


@pytest.mark.parametrize("scenes", [slice(0, 50), slice(50, 70), slice(70, 120)], ids=["train", "validation", "test"])
def test_every_part_of_the_embedded_site_has_every_condition(scenes: slice) -> None:
    condition = open_site("canyon_small").read_paths().condition[scenes]
    for index in range(len(CONDITIONS)):
        assert (condition == index).mean() > 0.04
