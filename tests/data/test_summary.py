"""What a site's summary says, and that it does not depend on how the site is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from site_factory import random_table, write_site

from study.data.path_table import CONDITIONS, PathTable
from study.data.site import Site, open_site
from study.data.summary import (
    BANDWIDTHS_HZ,
    SUBCARRIERS,
    SiteRows,
    power_beyond_window,
    read_rows,
    site_summary,
    summary_facts,
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return write_site(tmp_path / "tiny", random_table())


@given(st.integers(1, 7), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_the_rows_do_not_depend_on_the_scenes_read_at_once(
    tmp_path_factory: pytest.TempPathFactory, scenes: int, positions: int, width: int, seed: int, at_once: int
) -> None:
    table = random_table(scenes, positions, width, seed)
    site = write_site(tmp_path_factory.mktemp("sites") / "site", table)
    whole, parts = read_rows(site, scenes), read_rows(site, at_once)
    for field in fields(SiteRows):
        np.testing.assert_array_equal(getattr(whole, field.name), getattr(parts, field.name), err_msg=field.name)
    assert site_summary(site, whole) == site_summary(site, parts) == site_summary(site)


def test_a_site_is_read_some_scenes_at_a_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.data.summary._ROWS_AT_ONCE", 9)
    asked = []
    read = Site.read_scenes

    def read_scenes(self: Site, at_once: int) -> Iterator[PathTable]:
        asked.append(at_once)
        return read(self, at_once)

    monkeypatch.setattr(Site, "read_scenes", read_scenes)
    site_summary(site)
    assert asked == [2]  # scenes of 4 rows


def test_spreads_and_powers_of_channels_that_can_be_worked_out(tmp_path: Path) -> None:
    def rows(*values: list[float]) -> np.ndarray:
        return np.array([values], np.float32)

    table = PathTable(
        gain=np.array([[[0.1, 0.1], [0.2, 0.0], [0.0, 0.0]]], np.complex64),
        delay_s=rows([100e-9, 300e-9], [700e-9, 0], [0, 0]),
        zenith_rad=rows([np.deg2rad(80), np.deg2rad(100)], [1.0, 0], [0, 0]),
        azimuth_rad=rows([np.pi - 0.1, -np.pi + 0.1], [2.0, 0], [0, 0]),
        interaction=np.array([[[1, 2], [2, 0], [0, 0]]], np.int8),
        paths=np.array([[2, 1, 0]], np.int16),
        condition=np.array([[0, 1, 2]], np.int8),
        paths_found=np.array([[2, 1, 0]], np.int16),
        dropped_power=np.zeros((1, 3), np.float32),
        scene=np.zeros(1, np.int32),
        time_s=np.zeros(1),
        position_m=np.arange(9, dtype=np.float32).reshape(3, 3),
    )
    site = write_site(tmp_path / "known", table)
    rows_read = read_rows(site)
    np.testing.assert_allclose(rows_read.delay_spread_ns, [[100, 0, np.nan]], rtol=1e-5)
    np.testing.assert_allclose(rows_read.zenith_spread_deg, [[10, 0, np.nan]], rtol=1e-5)
    # Two directions 0.2 rad apart across ±π, not 2π − 0.2.
    np.testing.assert_allclose(
        rows_read.azimuth_spread_deg, [[np.rad2deg(np.sqrt(-2 * np.log(np.cos(0.1)))), 0, np.nan]], rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(rows_read.power, [[0.02, 0.04, 0]], rtol=1e-6)
    np.testing.assert_allclose(rows_read.strongest_delay_ns, [[100, 700, np.nan]], rtol=1e-6)
    np.testing.assert_allclose(rows_read.beyond, [[[0, 0, 0.5], [0, 1, 1], [0, 0, 0]]], rtol=1e-6)

    summary = site_summary(site, rows_read)
    assert summary["scene_spacing_s"] is None
    assert summary["rows_without_paths"] == pytest.approx(1 / 3)
    powers = [part["received_power_db"] for part in summary["conditions"].values()]
    assert powers[0]["median"] == pytest.approx(10 * np.log10(0.02))
    assert powers[2] is None
    assert summary["delay_window"][1]["power_beyond"] == pytest.approx(1 / 3)


@given(st.integers(0, 99), st.sampled_from(BANDWIDTHS_HZ))
@settings(max_examples=20, deadline=None)
def test_the_power_beyond_the_window_is_that_of_late_paths(seed: int, bandwidth_hz: float) -> None:
    table = random_table(seed=seed)
    share = power_beyond_window(table, SUBCARRIERS, bandwidth_hz)
    for scene, position in np.ndindex(table.paths.shape):
        power = np.abs(table.gain[scene, position].astype(complex)) ** 2
        late = power[table.delay_s[scene, position] >= np.float32(SUBCARRIERS / bandwidth_hz)].sum()
        assert share[scene, position] == pytest.approx(late / power.sum() if power.sum() else 0)


def test_the_summary_holds_plain_numbers(site: Site) -> None:
    summary = site_summary(site)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert sum(part["share"] for part in summary["conditions"].values()) == pytest.approx(1)
    assert summary["size_bytes"] > 0


def test_the_summary_of_a_site_without_any_path(tmp_path: Path) -> None:
    table = random_table()
    empty = {name: np.zeros_like(getattr(table, name)) for name in ("gain", "delay_s", "zenith_rad", "azimuth_rad")}
    empty |= {"interaction": np.zeros_like(table.interaction), "paths": np.zeros_like(table.paths)}
    summary = site_summary(write_site(tmp_path / "dark", replace(table, **empty)))
    assert summary["rows_without_paths"] == 1
    assert summary["rms_delay_spread_ns"] is None
    json.dumps(summary, allow_nan=False)
    words = [text for facts in summary_facts(summary).values() for _, text in facts]
    assert "no channel has a path" in words


def test_the_words_say_what_the_numbers_are() -> None:
    summary = site_summary(open_site("canyon_small"))
    facts = {what: text for group in summary_facts(summary).values() for what, text in group}
    assert facts["Scenes"] == "120, 4 s apart"
    assert facts["Positions"].startswith("160: x −89.0 … 285.4,")
    for name in CONDITIONS:
        assert facts[name].startswith(f"{100 * summary['conditions'][name]['share']:.1f} %")
        assert (
            f"{name} −{-summary['conditions'][name]['received_power_db']['median']:.1f} dB"
            in (facts["Median received power"])
        )
    assert facts["RMS delay spread"].startswith(f"median {summary['rms_delay_spread_ns']['median']:.0f} ns")
    assert facts["100 MHz"].startswith("27.8 % of the power lies beyond 640 ns")
    assert facts["Data hash"] == summary["data_hash"]
    assert facts["Solver: seed"] == "1"
    assert facts["Source"] == summary["condition_source"]
    assert not any("{" in text or "None" in text for text in facts.values())
