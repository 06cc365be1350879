"""Import of DeepMIMO scenarios: laws of what is imported, everything that can be wrong, and the original packages."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from deepmimo_files import NAMES, Rays, Scenario, made_up, save_array, write_v2, write_v4
from hypothesis import given, settings
from hypothesis import strategies as st

from study.data import site as site_module
from study.data.channels import channel_response
from study.data.deepmimo import ImportProgress, import_deepmimo
from study.data.deepmimo.grid import take_every
from study.data.deepmimo.layout import GridShape
from study.data.deepmimo.mat_reader import MatReader
from study.data.path_table import PathTable
from study.data.site import Site
from study.errors import DataError

LAYOUTS: dict[str, Callable[..., Path]] = {"v2": write_v2, "v4": write_v4}
PROJECT = Path(__file__).parents[2]


@pytest.fixture(params=sorted(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def imported(folder: Path, write: Callable[..., Path], scenario: Scenario, **options: Any) -> tuple[Site, PathTable]:
    site = import_deepmimo(write(folder / "scenario", scenario), folder / "site", **options)
    return site, site.read_paths()


# --- What is imported ---------------------------------------------------------------------------------------------


def test_every_path_has_the_values_of_the_files(tmp_path: Path, layout: str) -> None:
    scenario = made_up()
    site, table = imported(tmp_path, LAYOUTS[layout], scenario)
    assert site.carrier_hz == 3.5e9
    np.testing.assert_allclose(site.base_station_m, scenario.base_station_m)
    np.testing.assert_allclose(table.position_m, scenario.position_m, rtol=1e-6)
    np.testing.assert_allclose(table.time_s, [0, 0.1, 0.2])
    for scene, rays in enumerate(scenario.scenes):
        for user, valid in enumerate(rays.valid):
            count = int(valid.sum())
            assert table.paths[scene, user] == table.paths_found[scene, user] == count
            order = np.argsort(-rays.power[user, :count])
            gain = (10 ** (rays.power / 20) * np.exp(1j * np.deg2rad(rays.phase)))[user, order]
            np.testing.assert_allclose(table.gain[scene, user, :count], gain, rtol=3e-6)
            for name, values in (
                ("delay_s", rays.delay),
                ("zenith_rad", np.deg2rad(rays.aod_el)),
                ("azimuth_rad", np.deg2rad(rays.aod_az)),
            ):
                np.testing.assert_allclose(getattr(table, name)[scene, user, :count], values[user, order], rtol=1e-5)


@given(seed=st.integers(0, 2**31), kind=st.sampled_from(["npz", "mat", "npy"]), per_scene=st.booleans())
@settings(max_examples=12)
def test_the_layouts_give_the_same_site(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kind: str, per_scene: bool
) -> None:
    folder = tmp_path_factory.mktemp("deepmimo")
    scenario = made_up(2, (3, 2), seed=seed)
    ours = import_deepmimo(write_v2(folder / "v2", scenario), folder / "ours").read_paths()
    other = write_v4(folder / "v4", scenario, kind=kind, params_in_scenes=per_scene)
    theirs = import_deepmimo(other, folder / "theirs").read_paths()
    for name, values in vars(ours).items():
        if name == "interaction":  # v2 only knows the line of sight
            np.testing.assert_array_equal(values == 1, theirs.interaction == 1)
            assert set(np.unique(values)) <= {0, 1, 5}
        else:
            np.testing.assert_allclose(values, getattr(theirs, name), rtol=2e-5, atol=1e-12, err_msg=name)


def test_conditions_are_inferred_over_the_imported_scenes(tmp_path: Path, layout: str) -> None:
    scenario = made_up(4)
    sees = np.stack([rays.line_of_sight for rays in scenario.scenes])
    site, table = imported(tmp_path, LAYOUTS[layout], scenario)
    expected = np.where(sees, 0, np.where(sees.any(0), 1, 2))
    np.testing.assert_array_equal(table.condition, expected)
    # Positions without any path are kept: the last but one has none in any scene, user 2 none in the last.
    assert (table.paths[:, -2] == 0).all()
    assert (table.condition[:, -2] == 2).all()
    assert table.paths[-1, 2] == 0
    source = site.metadata["condition_source"]
    assert "inferred" in source
    for count in (int((expected == kind).sum()) for kind in (0, 1, 2)):
        assert f"{count} " in source

    later = import_deepmimo(tmp_path / "scenario", tmp_path / "later", first_scene=2).read_paths()
    np.testing.assert_array_equal(later.condition, np.where(sees[1:], 0, np.where(sees[1:].any(0), 1, 2)))
    assert later.condition[0, 1] == 2  # its only line of sight was in the first scene


def test_the_strongest_paths_are_kept(tmp_path: Path, layout: str) -> None:
    scenario = made_up()
    _, whole = imported(tmp_path, LAYOUTS[layout], scenario)
    few = import_deepmimo(tmp_path / "scenario", tmp_path / "few", max_paths=2).read_paths()
    assert few.gain.shape[-1] == 2
    np.testing.assert_array_equal(few.gain, whole.gain[..., :2])
    np.testing.assert_array_equal(few.paths_found, whole.paths)
    power = np.abs(whole.gain.astype(np.complex128)) ** 2
    share = power[..., 2:].sum(-1) / np.maximum(power.sum(-1), 1e-300)
    np.testing.assert_allclose(few.dropped_power, share, atol=1e-6)


def test_interaction_codes(tmp_path: Path) -> None:
    scenario = made_up(1, (4, 2), paths=6)
    rays = scenario.scenes[0]
    codes = {0: 1, 1: 2, 111: 2, 2: 3, 121: 3, 3: 4, 13: 4, 4: 4, 241: 4, 1111111111: 2}
    users, slots = np.nonzero(rays.valid & (rays.inter != 0))
    for code, user, slot in zip(np.resize(list(codes), len(users)), users, slots, strict=True):
        rays.inter[user, slot] = code
    _, table = imported(tmp_path, write_v4, scenario)
    for user, valid in enumerate(rays.valid):
        order = np.argsort(-rays.power[user, : valid.sum()])
        expected = [codes[int(code)] for code in rays.inter[user, order]]
        np.testing.assert_array_equal(table.interaction[0, user, : len(order)], expected)


def test_angles_are_wrapped(tmp_path: Path, layout: str) -> None:
    scenario = made_up(1)
    _, table = imported(tmp_path, LAYOUTS[layout], scenario)
    turned = replace(scenario, scenes=[replace(rays, aod_az=rays.aod_az % 360 + 360) for rays in scenario.scenes])
    again = import_deepmimo(LAYOUTS[layout](tmp_path / "turned", turned), tmp_path / "again").read_paths()
    np.testing.assert_allclose(again.azimuth_rad, table.azimuth_rad, atol=2e-6)


def test_the_transmitted_power_is_taken_off(tmp_path: Path) -> None:
    scenario = made_up()
    tables = [
        import_deepmimo(
            write_v2(tmp_path / f"{power}", scenario, transmit_power_dbm=power), tmp_path / f"site_{power}"
        ).read_paths()
        for power in (0.0, 30.0)
    ]
    np.testing.assert_allclose(tables[0].gain, tables[1].gain, rtol=1e-6)


# --- Scenes -------------------------------------------------------------------------------------------------------


def test_scenes_go_by_number(tmp_path: Path, layout: str) -> None:
    scenario = made_up(11, (2, 2))
    write = LAYOUTS[layout](tmp_path / "scenario", scenario, numbers=range(2, 13))
    (write / "notes_7").mkdir()
    table = import_deepmimo(write, tmp_path / "site", scene_spacing_s=0.5).read_paths()
    np.testing.assert_allclose(table.time_s, 0.5 * np.arange(11))
    for scene, rays in enumerate(scenario.scenes):
        strongest = np.nanmax(rays.power[0])
        np.testing.assert_allclose(20 * np.log10(np.abs(table.gain[scene, 0, 0])), strongest, rtol=1e-5)

    some = import_deepmimo(write, tmp_path / "some", first_scene=4, scenes=3, scene_step=3).read_paths()
    np.testing.assert_array_equal(some.gain, table.gain[[2, 5, 8]])
    np.testing.assert_allclose(some.time_s, [0, 0.3, 0.6])


def test_a_single_scene_may_lie_in_the_folder_itself(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path / "scenario", made_up(1))
    for file in (tmp_path / "scenario" / "scene_1").iterdir():
        shutil.move(file, tmp_path / "scenario" / file.name)
    (tmp_path / "scenario" / "scene_1").rmdir()
    assert import_deepmimo(tmp_path / "scenario", tmp_path / "site").scenes == 1


def test_progress_is_told_for_both_passes(tmp_path: Path, layout: str) -> None:
    told: list[ImportProgress] = []
    imported(tmp_path, LAYOUTS[layout], made_up(), on_progress=told.append)
    assert [(step.step, step.done, step.scenes) for step in told] == [
        *(("checking", done, 3) for done in (1, 2, 3)),
        *(("writing", done, 3) for done in (1, 2, 3)),
    ]


def test_memory_does_not_grow_with_the_scenes(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "_ROWS_PER_FILE", 100)  # a site's files are otherwise larger than these scenes
    scenario = made_up(1, (40, 20), paths=20)
    peaks = {}
    for count in (3, 30):
        many = replace(scenario, scenes=scenario.scenes * count)
        LAYOUTS[layout](tmp_path / f"{count}", many)
        import_deepmimo(tmp_path / f"{count}", tmp_path / f"warm_{count}", scenes=1)
        tracemalloc.start()
        import_deepmimo(tmp_path / f"{count}", tmp_path / f"site_{count}")
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[30] < 1.3 * peaks[3]


# --- The grid -----------------------------------------------------------------------------------------------------


def test_every_second_user_in_both_directions(tmp_path: Path, layout: str) -> None:
    scenario = made_up(2, (7, 5))
    _, whole = imported(tmp_path, LAYOUTS[layout], scenario)
    site = import_deepmimo(tmp_path / "scenario", tmp_path / "half", grid_step=2)
    table = site.read_paths()
    users = np.arange(35).reshape(5, 7)[::2, ::2].ravel()
    assert site.metadata["solver"]["grid"] == [[4, 3]]
    np.testing.assert_array_equal(table.position_m, whole.position_m[users])
    np.testing.assert_array_equal(table.gain, whole.gain[:, users])
    np.testing.assert_array_equal(table.condition, whole.condition[:, users])


def test_the_papers_grid() -> None:
    along, across = np.meshgrid(np.arange(1891) * 0.2 - 100, np.arange(31) * 0.2)
    position = np.stack([along.ravel(), across.ravel(), np.ones(along.size)], 1).astype(np.float32)
    users, shapes = take_every(4, position.astype(np.float64), [GridShape(58_621, 1, 58_621)])
    assert shapes == [(473, 8)]
    assert len(users) == 3784
    assert np.diff(np.unique(np.round(position[users, 0], 3))) == pytest.approx(0.8, abs=1e-3)
    # Whichever corner the files begin with, it is taken.
    assert 0 in take_every(4, position[::-1].astype(np.float64), [GridShape(58_621)])[0]


@pytest.mark.parametrize("by_column", [False, True])
def test_a_turned_grid_needs_the_shape_of_the_files(by_column: bool) -> None:
    along, across = np.meshgrid(np.arange(7.0), np.arange(5.0))
    flat = np.stack([along.ravel(), across.ravel(), np.ones(35)], 1)
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    order = np.arange(35).reshape(5, 7).T.ravel() if by_column else np.arange(35)
    position = (flat @ turn.T)[order]
    users, shapes = take_every(2, position, [GridShape(35, 5, 7, by_column)])
    assert shapes == [(4, 3)]
    np.testing.assert_array_equal(np.sort(order[users]), np.arange(35).reshape(5, 7)[::2, ::2].ravel())
    with pytest.raises(DataError, match="no grid"):
        take_every(2, position, [GridShape(35)])
    np.testing.assert_array_equal(take_every(1, position, [GridShape(35)])[0], np.arange(35))


def test_two_grids_are_thinned_one_by_one(tmp_path: Path) -> None:
    scenario = made_up(2, (4, 6))
    apart = scenario.position_m + np.where(np.arange(24) >= 12, 100.3, 0)[:, None] * [1, 1, 0]
    # The made-up delays and angles no longer fit the second grid, so it is blocked.
    for rays in scenario.scenes:
        rays.inter[12:][rays.inter[12:] == 0] = 1
    scenario = replace(scenario, position_m=apart)
    _, two = imported(tmp_path, lambda *values: write_v4(*values, receiver_sets=2), scenario, grid_step=2)
    v2 = write_v2(tmp_path / "v2", scenario, user_grids=[[1, 3, 4], [4, 6, 4]])
    other = import_deepmimo(v2, tmp_path / "site_v2", grid_step=2)
    assert other.metadata["solver"]["grid"] == [[2, 2], [2, 2]]
    np.testing.assert_allclose(two.position_m, other.read_paths().position_m, rtol=1e-6)
    np.testing.assert_allclose(two.gain, other.read_paths().gain, rtol=1e-4)


# --- What can be wrong --------------------------------------------------------------------------------------------


def edit_mat(file: Path, variable: str, change: Callable[[Any], Any]) -> None:
    content = {name: values for name, values in scipy.io.loadmat(file).items() if not name.startswith("__")}
    content[variable] = change(content[variable])
    scipy.io.savemat(file, {name: values for name, values in content.items() if values is not None})


def edit_npz(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    file = folder / f"{name}_t000_tx000_r001.npz"
    values = change(np.load(file)[name])
    save_array(file, name, values)


def entry(index: int, value: float) -> Callable[[Any], Any]:
    """Change one value of a flat vector."""

    def change(values: Any) -> Any:
        values = np.array(values, np.float64)
        values.flat[index] = value
        return values

    return change


def v2_scene(folder: Path, number: int = 2) -> Callable[[str], Path]:
    return lambda name: folder / f"scene_{number}" / f"O2_dyn_3p5.{name}.mat"


V2_FAULTS: dict[str, tuple[Callable[[Callable[[str], Path]], Any], str]] = {
    "no CIR": (lambda file: file("1.CIR").unlink(), "1.CIR.mat is missing"),
    "no DoD": (lambda file: file("1.DoD").unlink(), "1.DoD.mat is missing"),
    "no LoS": (lambda file: file("1.LoS").unlink(), "1.LoS.mat is missing"),
    "no Loc": (lambda file: file("Loc").unlink(), "Loc.mat is missing"),
    "no TX_Loc": (lambda file: file("TX_Loc").unlink(), "TX_Loc.mat is missing"),
    "no params": (lambda file: file("params").unlink(), "params.mat is missing"),
    "cut off": (lambda file: os.truncate(file("1.CIR"), 300), "damaged or incomplete"),
    "empty": (lambda file: os.truncate(file("1.DoD"), 0), "damaged or incomplete"),
    "text": (lambda file: file("Loc").write_text("not found"), "damaged or incomplete"),
    "HDF5": (
        lambda file: file("1.CIR").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400)),
        "7.3",
    ),
    "other variable": (
        lambda file: scipy.io.savemat(file("1.CIR"), {"DoD_array_full": np.zeros(5)}),
        "no variable 'CIR_array_full'; it has DoD_array_full",
    ),
    "no transmit_power": (
        lambda file: edit_mat(file("params"), "transmit_power", lambda _: None),
        "no variable 'transmit_power'",
    ),
    "text as numbers": (lambda file: edit_mat(file("params"), "carrier_freq", lambda _: "3.5 GHz"), "of the type"),
    "carrier": (lambda file: edit_mat(file("params"), "carrier_freq", lambda _: 2.8e10), "the carrier is 2.8e+10 Hz"),
    "carrier is NaN": (lambda file: edit_mat(file("params"), "carrier_freq", lambda _: np.nan), "carrier_freq"),
    "base station elsewhere": (
        lambda file: edit_mat(file("TX_Loc"), "TX_Loc_array_full", lambda values: values + np.eye(7)[1]),
        "the base station is at [4.0, 10.0, 6.0] m, and at [3.0, 10.0, 6.0] m in scene 1",
    ),
    "user elsewhere": (
        lambda file: edit_mat(file("Loc"), "Loc_array_full", entry(1, 77.0)),
        "1 of 12 users stand elsewhere, the first is user 0: at [77.0,",
    ),
    "user nowhere": (lambda file: edit_mat(file("Loc"), "Loc_array_full", entry(1, np.nan)), "not finite"),
    "fewer users": (
        lambda file: edit_mat(file("Loc"), "Loc_array_full", lambda values: values[:-1]),
        "11 users and line-of-sight tags of 12",
    ),
    "tags": (lambda file: edit_mat(file("1.LoS"), "LOS_tag_array_full", entry(3, 7)), "12 tags for 12 users"),
    "no users": (lambda file: edit_mat(file("1.LoS"), "LOS_tag_array_full", lambda _: [[0]]), "0 tags for 0 users"),
    "phase is NaN": (lambda file: edit_mat(file("1.CIR"), "CIR_array_full", entry(4, np.nan)), "the phase of 1 path"),
    "power is infinite": (
        lambda file: edit_mat(file("1.CIR"), "CIR_array_full", entry(6, -np.inf)),
        "the power of 1 path cannot be used; the first is -inf of user 0, path 0",
    ),
    "delay below 0": (lambda file: edit_mat(file("1.CIR"), "CIR_array_full", entry(5, -1e-9)), "the delay of 1 path"),
    "zenith above 180": (
        lambda file: edit_mat(file("1.DoD"), "DoD_array_full", entry(5, 190.0)),
        "the zenith angle of departure of 1 path cannot be used; the first is 190",
    ),
    "azimuth is NaN": (
        lambda file: edit_mat(file("1.DoD"), "DoD_array_full", entry(4, np.nan)),
        "the azimuth of departure of 1 path",
    ),
    "number of paths": (lambda file: edit_mat(file("1.CIR"), "CIR_array_full", entry(2, 2.5)), "breaks off at user 0"),
    "too few values": (
        lambda file: edit_mat(file("1.CIR"), "CIR_array_full", lambda values: values[:, :-30]),
        "breaks off at user",
    ),
    "values left over": (
        lambda file: edit_mat(file("1.CIR"), "CIR_array_full", lambda values: np.append(values, [[1.0]], 1)),
        "values, and its numbers of paths say",
    ),
    "other number of users": (
        lambda file: edit_mat(file("1.CIR"), "CIR_array_full", entry(0, 11)),
        "is of 11 users, and the other files of the scene of 12",
    ),
    "files of two runs": (
        lambda file: edit_mat(file("1.DoD"), "DoD_array_full", entry(6, -3.0)),
        "another number or power",
    ),
    "DoD of another scene": (
        lambda file: shutil.copy(file("1.DoD").parents[1] / "scene_1" / file("1.DoD").name, file("1.DoD")),
        "different numbers of paths",
    ),
    "nanoseconds": (lambda file: scale_delays(file("1.CIR"), 1e9), "the delay of 45 paths"),
    "microseconds": (lambda file: scale_delays(file("1.CIR"), 1e6), "times as long as light takes"),
}


def scale_delays(file: Path, factor: float) -> None:
    values = scipy.io.loadmat(file)["CIR_array_full"].copy()
    place = 1
    while place < values.size:
        count = int(values[0, place + 1])
        values[0, place + 4 : place + 2 + 4 * count : 4] *= factor
        place += 2 + 4 * count
    scipy.io.savemat(file, {"CIR_array_full": values})


V4_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{
        f"no {name}": (
            lambda scene, name=name: (scene / f"{name}_t000_tx000_r001.npz").unlink(),
            f"{name}_t000_tx000_r001.npz is missing",
        )
        for name in (*NAMES, "inter", "rx_pos", "tx_pos")
    },
    "cut off": (lambda scene: os.truncate(scene / "power_t000_tx000_r001.npz", 200), "damaged or incomplete"),
    "empty": (lambda scene: os.truncate(scene / "inter_t000_tx000_r001.npz", 0), "damaged or incomplete"),
    "other variable": (
        lambda scene: np.savez(scene / "power_t000_tx000_r001.npz", phase=np.zeros((2, 2))),
        "no variable 'power'; it has phase",
    ),
    "objects": (
        lambda scene: np.savez(scene / "power_t000_tx000_r001.npz", power=np.array([{}], object)),
        "damaged or incomplete",
    ),
    "shape": (lambda scene: edit_npz(scene, "delay", lambda values: values[:, :-1]), "delay has the shape"),
    "one axis": (lambda scene: edit_npz(scene, "delay", lambda values: values[0]), "delay has the shape"),
    "fewer users": (lambda scene: edit_npz(scene, "rx_pos", lambda values: values[:-1]), "rx_pos has 11 users"),
    "users of two axes": (lambda scene: edit_npz(scene, "rx_pos", lambda values: values[:, :2]), "rx_pos has the"),
    "user elsewhere": (lambda scene: edit_npz(scene, "rx_pos", entry(0, 77.0)), "1 of 12 users stand elsewhere"),
    "base station elsewhere": (lambda scene: edit_npz(scene, "tx_pos", entry(0, 4.0)), "the base station is at"),
    "no base station": (lambda scene: edit_npz(scene, "tx_pos", lambda values: values[:, :2]), "tx_pos has the shape"),
    "hole in a path": (lambda scene: edit_npz(scene, "power", entry(0, np.nan)), "the power of 1 path cannot"),
    "infinite phase": (lambda scene: edit_npz(scene, "phase", entry(0, np.inf)), "the phase of 1 path cannot"),
    "delay below 0": (lambda scene: edit_npz(scene, "delay", entry(0, -1e-9)), "the delay of 1 path cannot"),
    "zenith": (
        lambda scene: edit_npz(scene, "aod_el", entry(0, -20.0)),
        "the zenith angle of departure of 1 path cannot",
    ),
    "interaction": (
        lambda scene: edit_npz(scene, "inter", entry(0, 15.0)),
        "unknown interaction code, the first is 15",
    ),
    "no interaction": (lambda scene: edit_npz(scene, "inter", entry(0, np.nan)), "unknown interaction code"),
    "microseconds": (lambda scene: edit_npz(scene, "delay", lambda values: values * 1e6), "times as long as light"),
}


def refused(folder: Path, out: Path, **options: Any) -> str:
    """The message of an import that must fail and leave nothing behind."""
    before = set(out.parent.iterdir())
    with pytest.raises(DataError) as caught:
        import_deepmimo(folder, out, **options)
    assert set(out.parent.iterdir()) == before
    return str(caught.value)


@pytest.mark.parametrize("fault", V2_FAULTS)
def test_v2_faults(tmp_path: Path, fault: str) -> None:
    folder = write_v2(tmp_path / "scenario", made_up())
    break_it, message = V2_FAULTS[fault]
    break_it(v2_scene(folder))
    text = refused(folder, tmp_path / "site")
    assert message in text
    assert "scene_2" in text
    assert "scene 2" in text
    assert "to do:" in text


@pytest.mark.parametrize("fault", V4_FAULTS)
def test_v4_faults(tmp_path: Path, fault: str) -> None:
    folder = write_v4(tmp_path / "scenario", made_up())
    break_it, message = V4_FAULTS[fault]
    break_it(folder / "scene_2")
    text = refused(folder, tmp_path / "site")
    assert message in text
    assert "scene_2" in text
    assert "scene 2" in text
    assert "to do:" in text


PARAMETER_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no carrier": (lambda content: content["rt_params"].clear(), "the carrier frequency is None"),
    "carrier below 0": (lambda content: content["rt_params"].update(frequency=-1), "carrier frequency is -1 Hz"),
    "no sets": (lambda content: content.pop("txrx_sets"), "no set with is_tx true"),
    "a set of nothing": (lambda content: content["txrx_sets"].update(txrx_set_9={}), "a set in txrx_sets is {}"),
    "no users": (lambda content: content["txrx_sets"].pop("txrx_set_1"), "no users"),
}


@pytest.mark.parametrize("fault", PARAMETER_FAULTS)
def test_faults_of_params_json(tmp_path: Path, fault: str) -> None:
    folder = write_v4(tmp_path / "scenario", made_up())
    content = json.loads((folder / "params.json").read_text())
    change, message = PARAMETER_FAULTS[fault]
    change(content)
    (folder / "params.json").write_text(json.dumps(content))
    text = refused(folder, tmp_path / "site")
    assert message in text
    if fault != "carrier below 0":
        assert "params.json" in text


@pytest.mark.parametrize(("content", "message"), [("{", "cannot be read"), ("[]", "not a mapping"), (None, "missing")])
def test_unreadable_params_json(tmp_path: Path, content: str | None, message: str) -> None:
    folder = write_v4(tmp_path / "scenario", made_up())
    (folder / "params.json").unlink()
    if content is not None:
        (folder / "params.json").write_text(content)
    assert message in refused(folder, tmp_path / "site")


def test_a_carrier_that_changes_between_scenes(tmp_path: Path) -> None:
    folder = write_v4(tmp_path / "scenario", made_up(), params_in_scenes=True)
    file = folder / "scene_3" / "params.json"
    file.write_text(file.read_text().replace("3500000000", "2800000000"))
    assert "the carrier is 2.8e+09 Hz, and 3.5e+09 Hz in scene 1" in refused(folder, tmp_path / "site")


def test_damaged_files_never_cause_another_error(tmp_path: Path, layout: str) -> None:
    folder = LAYOUTS[layout](tmp_path / "scenario", made_up(2, (3, 2), paths=4))
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    rng = np.random.default_rng(5)
    for attempt in range(150):
        file = files[rng.integers(len(files))]
        whole = file.read_bytes()
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.integers(1, 20)):
            damaged[place] = rng.integers(256)
        file.write_bytes(damaged)
        # Some bytes do not matter, or change a value into another one.
        with contextlib.suppress(DataError):
            import_deepmimo(folder, tmp_path / f"site_{attempt}")
        file.write_bytes(whole)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 0.95])
def test_files_cut_off_anywhere(tmp_path: Path, layout: str, part: float) -> None:
    folder = LAYOUTS[layout](tmp_path / "scenario", made_up())
    needed = [file for file in sorted((folder / "scene_2").iterdir()) if not any(x in file.name for x in UNUSED)]
    assert len(needed) >= 6
    for number, file in enumerate(needed):
        whole = file.read_bytes()
        file.write_bytes(whole[: int(part * len(whole))])
        text = refused(folder, tmp_path / f"site_{number}")
        assert file.name in text
        assert "scene 2" in text
        file.write_bytes(whole)


UNUSED = ("DoA", "PL.mat", "aoa_")


def test_a_gap_between_the_scenes(tmp_path: Path, layout: str) -> None:
    folder = LAYOUTS[layout](tmp_path / "scenario", made_up(6))
    shutil.rmtree(folder / "scene_3")
    shutil.rmtree(folder / "scene_5")
    text = refused(folder, tmp_path / "site")
    assert "2 of 6 scenes are missing: 3, 5" in text
    assert import_deepmimo(folder, tmp_path / "site", first_scene=2, scene_step=2).scenes == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_scene": 0}, "scenes between 1 and 3"),
        ({"first_scene": 4}, "scenes between 1 and 3"),
        ({"scenes": 4}, "scenes 1 … 4 are asked for"),
        ({"scenes": 2, "scene_step": 3}, "scenes 1 … 4 are asked for"),
        ({"scenes": 0}, "--scenes 0"),
        ({"scene_step": 0}, "--scene-step 0"),
        ({"max_paths": 0}, "--max-paths 0"),
        ({"grid_step": 0}, "--grid-step 0"),
        ({"base_station": 0}, "--base-station 0"),
        ({"scene_spacing_s": 0.0}, "--scene-spacing 0"),
        ({"scene_spacing_s": float("nan")}, "--scene-spacing nan"),
        ({"base_station": 3}, "base station 3 is"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, layout: str, options: dict[str, Any], message: str) -> None:
    folder = LAYOUTS[layout](tmp_path / "scenario", made_up())
    assert message in refused(folder, tmp_path / "site", **options)


def test_a_base_station_that_some_scenes_lack(tmp_path: Path) -> None:
    scenario = made_up()
    folder = write_v2(tmp_path / "v2", scenario)
    write_v2(tmp_path / "v2", replace(scenario, scenes=scenario.scenes[:2]), station=2)
    text = refused(folder, tmp_path / "site", base_station=2)
    assert "base station 2 is missing in 1 of 3 scenes, the first is scene 3" in text
    assert "base stations that occur: 1, 2" in text

    text = refused(folder, tmp_path / "site", first_scene=3, base_station=2)
    assert "base stations that occur: 1" in text
    for file in (folder / "scene_3").iterdir():
        file.unlink()
    assert "no ray files" in refused(folder, tmp_path / "site", first_scene=3)

    folder = write_v4(tmp_path / "v4", scenario)
    for file in (folder / "scene_3").glob("*"):
        file.unlink()
    text = refused(folder, tmp_path / "site")
    assert "no files of base station 1" in text
    assert "scene 3" in text


def test_one_of_several_base_stations(tmp_path: Path) -> None:
    scenario = made_up()
    stronger = replace(scenario, scenes=[replace(rays, power=rays.power + 6) for rays in scenario.scenes])
    v2 = write_v2(tmp_path / "v2", scenario)
    write_v2(v2, stronger, station=2)
    v4 = write_v4(tmp_path / "v4", stronger)
    for file in sorted(v4.rglob("*_tx000_*")):  # the second transmitter of a set that comes after another
        file.rename(file.with_name(file.name.replace("t000_tx000", "t010_tx001")))
    content = json.loads((v4 / "params.json").read_text())
    content["txrx_sets"]["txrx_set_10"] = {"id": 10, "is_tx": True, "is_rx": False, "num_points": 2}
    (v4 / "params.json").write_text(json.dumps(content))
    ours = import_deepmimo(v2, tmp_path / "site_v2", base_station=2).read_paths()
    theirs = import_deepmimo(v4, tmp_path / "site_v4", base_station=3).read_paths()
    np.testing.assert_allclose(ours.gain, theirs.gain, rtol=2e-5)
    assert "base stations of this scene: 3" in refused(v4, tmp_path / "site")


def test_folders_that_are_no_scenario(tmp_path: Path, layout: str) -> None:
    folder = LAYOUTS[layout](tmp_path / "download" / "scenario", made_up())
    assert "does not exist" in refused(tmp_path / "nowhere", tmp_path / "site")
    assert f"name the folder {folder}" in refused(tmp_path / "download", tmp_path / "site")
    (tmp_path / "empty").mkdir()
    assert "no DeepMIMO scenario" in refused(tmp_path / "empty", tmp_path / "site")
    (tmp_path / "empty" / "scene_0").mkdir()
    (tmp_path / "empty" / "scene_0" / "BS1_UE_0-1024.mat").write_bytes(b"")
    assert "DeepMIMO v3" in refused(tmp_path / "empty", tmp_path / "site")


def test_two_folders_of_one_scene(tmp_path: Path, layout: str) -> None:
    folder = LAYOUTS[layout](tmp_path / "scenario", made_up())
    shutil.copytree(folder / "scene_2", folder / "scene_02")
    assert "two folders have the scene number 2" in refused(folder, tmp_path / "site")


def test_two_scenarios_in_one_folder(tmp_path: Path) -> None:
    folder = write_v2(tmp_path / "scenario", made_up())
    write_v2(folder, made_up(), name="O1_60")
    assert "several scenarios: O1_60, O2_dyn_3p5" in refused(folder, tmp_path / "site")


def test_an_existing_folder_is_left_alone(tmp_path: Path, layout: str) -> None:
    folder = LAYOUTS[layout](tmp_path / "scenario", made_up())
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.txt").write_text("mine")
    assert "exists" in refused(folder, tmp_path / "site")
    assert (tmp_path / "site" / "mine.txt").read_text() == "mine"


# --- The command line ---------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, layout: str, cli: Callable[..., Any]) -> None:
    folder = LAYOUTS[layout](tmp_path / "O2_dyn_3p5", made_up(4, (5, 3)))
    options = ("--grid-step", 2, "--first-scene", 2, "--scenes", 2, "--scene-step", 2, "--max-paths", 3)
    result = cli("data", "import-deepmimo", folder, "--out", tmp_path / "site", *options, "--name", "second")
    assert (result.code, result.err) == (0, "")
    assert "site second" in result.out
    site = site_module.open_site(tmp_path / "site")
    assert (site.name, site.scenes, site.positions, site.max_paths) == ("second", 2, 6, 3)

    wrong = cli("data", "import-deepmimo", folder, "--out", tmp_path / "other", "--base-station", 9)
    assert wrong.code == 2
    assert wrong.err.startswith("study: base station 9")
    assert "Traceback" not in wrong.err
    assert not (tmp_path / "other").exists()


# --- The original packages ----------------------------------------------------------------------------------------


def reference_python() -> Path | None:
    """The interpreter that has deepmimo and DeepMIMOv3."""
    named = os.environ.get("STUDY_DEEPMIMO_PYTHON")
    python = Path(named) if named else PROJECT / ".venv-deepmimo" / "bin" / "python"
    return python if python.is_file() else None


@pytest.mark.skipif(
    reference_python() is None,
    reason="no interpreter with deepmimo: name one in STUDY_DEEPMIMO_PYTHON or make .venv-deepmimo",
)
def test_channels_are_those_of_the_original_packages(tmp_path: Path, layout: str) -> None:
    scenario = made_up(3, (4, 3), paths=8, seed=7)
    bandwidth_hz, subcarriers, antennas = 100e6, 64, (4, 2)
    # deepmimo 4 looks into a folder of this name, and makes the scenario's name small.
    folder = LAYOUTS[layout](tmp_path / "deepmimo_scenarios" / "o2_dyn_3p5", scenario, **REFERENCE_OPTIONS[layout])
    run = subprocess.run(
        [
            str(reference_python()),
            str(Path(__file__).with_name("deepmimo_reference.py")),
            *(layout, str(folder), str(tmp_path / "reference.npz")),
            *map(str, (bandwidth_hz, subcarriers, *antennas)),
        ],
        stdin=subprocess.DEVNULL,  # deepmimo asks for a download when it finds nothing
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    reference = np.load(tmp_path / "reference.npz")
    table = import_deepmimo(folder, tmp_path / "site").read_paths()
    np.testing.assert_allclose(table.position_m, reference["position_m"], rtol=1e-6)
    np.testing.assert_array_equal(table.condition == 0, reference["los"] == 1)
    np.testing.assert_array_equal(table.paths == 0, reference["los"] == -1)
    np.testing.assert_array_equal(table.paths, reference["num_paths"])
    beyond = 0
    for scene, theirs in enumerate(reference["channel"]):
        ours = channel_response(
            *(torch.from_numpy(getattr(table, name)[scene]) for name in CHANNEL_INPUT),
            bandwidth_hz=bandwidth_hz,
            subcarriers=subcarriers,
            antennas=antennas,
            excess_delay="drop",
        ).numpy()
        # Theirs counts antennas along y first, and has the factor 1/√N of an OFDM symbol.
        theirs = theirs.reshape(-1, antennas[1], antennas[0], subcarriers).swapaxes(1, 2).reshape(ours.shape)
        theirs = theirs * np.sqrt(subcarriers)
        difference = np.linalg.norm(ours - theirs, axis=(1, 2))
        assert (difference <= 1e-5 * np.linalg.norm(theirs, axis=(1, 2))).all()
        beyond += int((table.delay_s[scene] >= subcarriers / bandwidth_hz).sum())
    assert beyond > 0  # some paths were late enough to be dropped


CHANNEL_INPUT = ("gain", "delay_s", "zenith_rad", "azimuth_rad")
# What DeepMIMOv3 looks for: the files' prefix is the folder's name.
REFERENCE_OPTIONS: dict[str, dict[str, Any]] = {"v2": {"name": "o2_dyn_3p5"}, "v4": {}}


def test_made_up_paths_obey_geometry() -> None:
    """The helper itself: what is written as line of sight is one."""
    scenario = made_up()
    rays: Rays = scenario.scenes[0]
    sees = rays.line_of_sight
    distance = np.linalg.norm(scenario.position_m - scenario.base_station_m, axis=1)
    np.testing.assert_allclose(rays.delay[sees, 0] * 299_792_458.0, distance[sees])
    assert sees.any()
    assert not sees.all()


def test_a_file_that_ends_its_reader_is_an_error_and_the_next_is_read(tmp_path: Path) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "good.mat", {"power": np.arange(3.0)})
    reader = MatReader()
    assert reader.read(tmp_path / "good.mat", "other") == (None, ["power"])
    assert reader._process is not None
    reader._process.kill()  # as a damaged file does
    with pytest.raises(ValueError, match="ends the process that reads"):
        reader.read(tmp_path / "good.mat", "power")
    values, _ = reader.read(tmp_path / "good.mat", "power")
    assert values is not None
    assert values.ravel().tolist() == [0, 1, 2]
    reader.close()


@pytest.mark.parametrize(
    "options",
    [{"scenes": 10**12}, {"grid_step": 10**19}, {"max_paths": 10**8}, {"scene_step": 10**10}, {"first_scene": 10**15}],
)
def test_absurd_options_are_refused_at_once(tmp_path: Path, options: dict[str, int]) -> None:
    source = write_v4(tmp_path / "source", made_up())
    with pytest.raises(DataError):
        import_deepmimo(source, tmp_path / "site", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "site").exists()
