"""The page of a site shows what is in the site's table, and opens from disk in a browser."""

from __future__ import annotations

import html
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from browser import Browser
from conftest import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from site_factory import random_table, write_site

from reports.site_figures import channels, free_space_db, power_over_distance, shares_over_time, spread_and_power
from reports.site_map import street_map
from reports.site_page import default_file, site_html, write_site_page
from study.data.channels import channel_response
from study.data.fingerprints import angle_delay_profile
from study.data.path_table import CONDITIONS, PathTable
from study.data.site import Site, open_site
from study.data.site_view import ANTENNAS, SiteView, beam_of, choose_scenes, view_site
from study.data.summary import BANDWIDTHS_HZ, SUBCARRIERS, read_rows
from study.errors import DataError

BOX = {"name": "house_<b>", "material": "brick", "box": [-30.0, 30.0, 20.0, 40.0, 0.0, 9.0]}


def single_path_table(scenes: int = 4, positions: int = 6, seed: int = 0) -> PathTable:
    table = random_table(scenes, positions, 1, seed)
    filled = random_table(scenes, positions, 1, seed + 1)
    rng = np.random.default_rng(seed)
    shape = table.gain.shape
    return replace(
        filled,
        gain=(1e-4 * np.exp(2j * np.pi * rng.random(shape)) * rng.uniform(0.5, 2, shape)).astype(np.complex64),
        delay_s=rng.uniform(1e-8, 2e-6, shape).astype(np.float32),
        zenith_rad=rng.uniform(0.1, 3, shape).astype(np.float32),
        azimuth_rad=rng.uniform(-3, 3, shape).astype(np.float32),
        interaction=np.ones(shape, np.int8),
        paths=np.ones(shape[:2], np.int16),
        condition=rng.integers(0, 3, shape[:2]).astype(np.int8),
    )


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> SiteView:
    table = random_table(scenes=20, positions=30, width=4)
    return view_site(write_site(tmp_path_factory.mktemp("sites") / "street", table, vehicles=True, boxes=[BOX]))


@pytest.fixture(scope="module")
def canyon() -> SiteView:
    return view_site(open_site("canyon_small"))


@pytest.fixture(scope="module")
def canyon_page(canyon: SiteView) -> str:
    return site_html(canyon)


def script_data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="map-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def counts(view: SiteView, scene: int) -> list[int]:
    return [int((view.rows.condition[scene] == index).sum()) for index in range(len(CONDITIONS))]


def legend(page: str) -> list[int]:
    return [int(found) for found in re.findall(r"<b data-count=\"\d\">(\d+)</b>", page)]


def drawn_users(page: str) -> list[int]:
    return [path.count("M") for path in re.findall(r'data-users="\d"[^>]* d="([^"]*)"', page)]


# --- What is chosen -----------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_named_scenes_are_among_at_most_twelve(
    tmp_path_factory: pytest.TempPathFactory, scenes: int, seed: int
) -> None:
    table = random_table(scenes, 5, 1, seed)
    rows = read_rows(write_site(tmp_path_factory.mktemp("sites") / "site", table))
    chosen = choose_scenes(rows)
    numbers = [each.scene for each in chosen]
    assert numbers == sorted(set(numbers))
    assert len(numbers) <= 12
    assert len(numbers) == scenes if scenes <= 10 else len(numbers) >= 10
    assert {0, scenes // 2, scenes - 1} <= set(numbers)
    assert all(each.time_s == table.time_s[each.scene] for each in chosen)
    most = rows.shares[:, 1]
    named = [each.scene for each in chosen if "most DNLOS" in each.reason]
    assert [most[scene] for scene in named] == ([most.max()] if most.max() > 0 else [])


def test_an_example_has_the_median_power_of_its_condition(view: SiteView) -> None:
    assert [each.condition for each in view.channels] == [0, 1, 2]
    for each in view.channels:
        power = view.rows.power[each.scene]
        own = np.sort(power[(view.rows.condition[each.scene] == each.condition) & (power > 0)])
        assert each.power_db == pytest.approx(10 * np.log10(own[(len(own) - 1) // 2]), abs=1e-4)
    most = next(chosen for chosen in view.scenes if "most DNLOS" in chosen.reason)
    assert view.channels[1].scene == most.scene


# --- The channels -------------------------------------------------------------------------------------------------


@given(st.floats(0.01, 3.13), st.floats(-3.14, 3.14), st.sampled_from([(8, 8), (4, 2), (1, 16)]))
@settings(max_examples=60, deadline=None)
def test_the_beam_of_a_direction_is_the_strongest(zenith: float, azimuth: float, antennas: tuple[int, int]) -> None:
    path = (
        torch.ones(1, 1, dtype=torch.complex64),
        torch.zeros(1, 1),
        torch.tensor([[zenith]]),
        torch.tensor([[azimuth]]),
    )
    csi = channel_response(*path, bandwidth_hz=1e8, subcarriers=4, antennas=antennas)
    beams = angle_delay_profile(csi, antennas)[0, :, 0]
    # Half way between two beams both are as strong.
    assert beams[beam_of(zenith, azimuth, antennas)] >= 0.999 * beams.max()


@given(st.integers(0, 200))
@settings(max_examples=15, deadline=None)
def test_a_profile_peaks_where_geometry_says(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    table = single_path_table(seed=seed)
    view = view_site(write_site(tmp_path_factory.mktemp("sites") / "site", table))
    for each in view.channels:
        delay = float(table.delay_s[each.scene, each.position, 0])
        assert each.strongest_delay_ns == pytest.approx(delay * 1e9)
        assert [profile.bandwidth_hz for profile in each.profiles] == list(BANDWIDTHS_HZ)
        for profile in each.profiles:
            assert profile.power.shape == (ANTENNAS[0] * ANTENNAS[1], SUBCARRIERS)
            cell = round(delay * profile.bandwidth_hz) % SUBCARRIERS
            assert profile.power[each.beam, cell] >= 0.99 * profile.power.max()
            assert -0.5 <= profile.strongest_bin < SUBCARRIERS - 0.5
            assert round(profile.strongest_bin) % SUBCARRIERS == cell
            assert profile.folded == (1 if delay * profile.bandwidth_hz >= SUBCARRIERS else 0)


def test_the_channels_of_the_embedded_site_peak_at_their_strongest_path(canyon: SiteView) -> None:
    for each in (canyon.channels[0], canyon.channels[2]):  # the paths of the DNLOS channel add up elsewhere
        widest = each.profiles[-1]
        beam, cell = np.unravel_index(int(widest.power.argmax()), widest.power.shape)
        assert beam == each.beam
        assert cell == round(widest.strongest_bin) % SUBCARRIERS


def test_the_folded_power_is_that_of_the_table(view: SiteView) -> None:
    for each in view.channels:
        told = [profile.folded for profile in each.profiles]
        np.testing.assert_allclose(told, view.rows.beyond[each.scene, each.position], rtol=1e-5)


def test_the_figure_of_the_channels_marks_what_the_view_holds(view: SiteView) -> None:
    figure = channels(view)
    assert figure is not None
    data = pd.read_csv(io.StringIO(figure.data))
    assert len(data) == len(view.channels) * len(BANDWIDTHS_HZ)
    assert figure.svg.count("<image") == len(data) + 1  # the colour bar is one more
    windows = SUBCARRIERS / data["bandwidth_mhz"] * 1e3
    assert (data["strongest_delay_ns"] < windows).all()
    for each in view.channels:
        assert f"scene {each.scene}, position {each.position} " in figure.caption


# --- The map ------------------------------------------------------------------------------------------------------


def test_the_legend_counts_the_users_of_the_table(view: SiteView) -> None:
    page = site_html(view)
    assert legend(page) == drawn_users(page) == counts(view, 0)
    data = script_data(page)
    assert [scene["title"].split(",")[0] for scene in data["scenes"]] == [f"scene {each.scene}" for each in view.scenes]
    for scene, chosen in zip(data["scenes"], view.scenes, strict=True):
        assert scene["conditions"] == "".join(map(str, view.rows.condition[chosen.scene]))
        assert scene["vehicles"] == f"M{3 * chosen.scene} 0h4.5v2h-4.5z"
    np.testing.assert_allclose(np.array(data["points"]) * [1, -1], view.rows.position_m[:, :2], atol=0.0051)


def test_the_map_has_one_scale_and_shows_every_user(canyon: SiteView) -> None:
    drawn = street_map(canyon)
    strips = re.findall(r'<svg x="[\d.]+" y="[\d.]+" width="([\d.]+)" height="([\d.]+)" viewBox="([^"]+)"', drawn.svg)
    assert len(strips) == drawn.strips == 2
    end = -np.inf
    for width, height, box in strips:
        x, y, wide, high = map(float, box.split())
        assert float(width) / wide == pytest.approx(float(height) / high, rel=1e-3)
        assert end == -np.inf or x == pytest.approx(end, abs=1e-2)  # one strip goes on where the other ends
        end = x + wide
        places = canyon.rows.position_m
        assert y < -places[:, 1].max()
        assert y + high > -places[:, 1].min()
    assert float(strips[0][2].split()[0]) < canyon.rows.position_m[:, 0].min()
    assert end > canyon.rows.position_m[:, 0].max()
    assert drawn.svg.count('class="house"') == len(canyon.site.metadata["static_boxes"])
    assert drawn.svg.count("base station</text>") == 1


@pytest.mark.parametrize(
    ("spread", "base_station_m"),
    [((1.0, 1.0), (0, 0, 5)), ((0.0, 0.0), (0, 0, 5)), ((1.0, 500.0), (3, 10, 6)), ((500.0, 0.0), (900, 0, 6))],
    ids=["square", "one place", "high", "one row"],
)
def test_any_outline_of_a_site_can_be_drawn(
    tmp_path: Path, spread: tuple[float, float], base_station_m: tuple[float, ...]
) -> None:
    table = random_table(positions=9)
    place = table.position_m * np.array([*spread, 1], np.float32) / 50
    view = view_site(write_site(tmp_path / "site", replace(table, position_m=place), base_station_m=base_station_m))
    drawn = street_map(view)
    width, height = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', drawn.svg)[0])
    assert width == 1040
    assert 50 < height <= 1100
    assert "base station" in drawn.svg
    assert "nan" not in drawn.svg


def test_a_site_without_boxes_vehicles_or_paths_has_a_page(tmp_path: Path) -> None:
    table = random_table(scenes=1)
    empty = {name: np.zeros_like(getattr(table, name)) for name in ("gain", "delay_s", "zenith_rad", "azimuth_rad")}
    empty |= {"interaction": np.zeros_like(table.interaction), "paths": np.zeros_like(table.paths)}
    page = site_html(view_site(write_site(tmp_path / "dark", replace(table, **empty))))
    assert "Where buildings stand is not" in page
    assert "Where vehicles are is not" in page
    assert "figure-channels" not in page
    assert "map-data" not in page  # one scene: nothing to switch


def test_boxes_that_are_no_boxes_are_left_out(tmp_path: Path) -> None:
    boxes = [BOX, {"name": "tower"}, {"name": "line", "box": [1, 2]}, {"box": ["a"] * 6}]
    drawn = street_map(view_site(write_site(tmp_path / "site", random_table(), boxes=boxes)))
    assert drawn.svg.count('class="house"') == 1


# --- The other figures --------------------------------------------------------------------------------------------


def test_the_shares_are_those_of_the_scenes(canyon: SiteView) -> None:
    data = pd.read_csv(io.StringIO(shares_over_time(canyon).data))
    np.testing.assert_allclose(data[list(CONDITIONS)], canyon.rows.shares)
    np.testing.assert_allclose(data["time_s"], canyon.rows.time_s)


def test_many_scenes_are_drawn_as_means(tmp_path: Path) -> None:
    view = view_site(write_site(tmp_path / "site", random_table(scenes=700, positions=2, width=1)))
    figure = shares_over_time(view)
    data = pd.read_csv(io.StringIO(figure.data))
    assert len(data) <= 300
    np.testing.assert_allclose(data[list(CONDITIONS)].iloc[0], view.rows.shares[:3].mean(0))
    np.testing.assert_allclose(data[list(CONDITIONS)].iloc[-1], view.rows.shares[699:].mean(0))
    assert "mean over 3 scenes" in figure.caption


def test_the_power_over_distance_is_that_of_the_rows(canyon: SiteView) -> None:
    own = canyon.rows.condition == 0
    table = power_over_distance(canyon, own)
    assert table["distance_m"].is_monotonic_increasing
    assert table["rows"].sum() <= own.sum()
    assert (table["p10_db"] <= table["median_db"]).all()
    # In line of sight on a street, power stays near that of free space.
    free = free_space_db(table["distance_m"].to_numpy(), canyon.site.carrier_hz)
    assert np.abs(table["median_db"] - free).max() < 8
    place = np.linalg.norm(canyon.rows.position_m - np.array(canyon.site.base_station_m), axis=1)
    nearest = np.broadcast_to(place, own.shape)[own].min()
    assert table["distance_m"].iloc[0] == pytest.approx(nearest, rel=0.15)


def test_free_space_at_100_m() -> None:
    # The wavelength at 2.99792458 GHz is 0.1 m.
    found = free_space_db(np.array([100.0]), 2.99792458e9)[0]
    assert found == pytest.approx(20 * np.log10(0.1 / (4 * np.pi * 100)))


def test_every_figure_has_words(canyon: SiteView, canyon_page: str) -> None:
    for figure in (channels(canyon), shares_over_time(canyon), spread_and_power(canyon)):
        assert figure is not None
        assert len(figure.alt_text) > 80
        assert html.escape(figure.alt_text) in canyon_page
        assert html.escape(figure.caption) in canyon_page


# --- The file -----------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_but_itself(canyon: SiteView, canyon_page: str) -> None:
    page = canyon_page
    assert "default-src 'none'" in page
    links = {link for link in re.findall(r"https?://[^\s\"'<>)]+", page) if not link.startswith("http://www.w3.org/")}
    assert links == set()
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert str(canyon.site.folder) not in page
    assert len(re.findall(r'\bid="([^"]+)"', page)) == len(set(re.findall(r'\bid="([^"]+)"', page)))


def test_what_a_site_is_called_is_text(tmp_path: Path) -> None:
    name = "</script><script>alert(1)</script>"
    view = view_site(write_site(tmp_path / "site", random_table(), name=name, boxes=[BOX]))
    page = site_html(view)
    assert "<script>alert" not in page
    assert "house &lt;b&gt;" in page
    assert default_file(name).name == str(default_file(name))
    assert default_file("../up").name == str(default_file("../up")) == "_up.html"


def test_a_large_site_has_a_small_page(tmp_path: Path) -> None:
    table = random_table(scenes=14, positions=3784, width=1)
    x, y = np.divmod(np.arange(3784), 8)
    place = np.stack([0.8 * x - 89, 0.8 * y - 16, 0 * x + 1], 1).astype(np.float32)
    view = view_site(write_site(tmp_path / "large", replace(table, position_m=place), vehicles=True, boxes=[BOX]))
    assert len(view.scenes) >= 10
    page = site_html(view)
    assert len(page.encode()) < 3e6
    assert legend(page) == drawn_users(page) == counts(view, 0)


def test_an_earlier_page_is_replaced_and_nothing_else(view: SiteView, tmp_path: Path) -> None:
    file = tmp_path / "new" / "page.html"
    write_site_page(view, file)
    before = file.read_text(encoding="utf-8")
    write_site_page(view, file)
    assert file.read_text(encoding="utf-8") == before
    assert [entry.name for entry in file.parent.iterdir()] == ["page.html"]
    thesis = tmp_path / "thesis.html"
    thesis.write_text("years of work", encoding="utf-8")
    with pytest.raises(DataError, match="not a page of a site"):
        write_site_page(view, thesis)
    assert thesis.read_text(encoding="utf-8") == "years of work"
    with pytest.raises(DataError, match="it is a folder"):
        write_site_page(view, tmp_path)
    with pytest.raises(DataError, match="cannot be written"):
        write_site_page(view, thesis / "page.html")


# --- The command --------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> Site:
    return write_site(tmp_path / "sites" / "tiny", random_table(), vehicles=True)


def test_the_command_says_where_the_page_is(
    cli: Callable[..., Result], tiny: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("data", "info", tiny.folder, "--html")
    assert result.code == 0, result
    assert result.out.splitlines()[-1] == "page: tiny.html"
    assert "tiny: site</title>" in (tmp_path / "tiny.html").read_text(encoding="utf-8")
    assert cli("data", "info", tiny.folder, "--html").code == 0

    result = cli("data", "info", tiny.folder, "--json", "--html", tmp_path / "other.html")
    assert json.loads(result.out)["name"] == "tiny"
    assert "other.html" in result.err
    assert (tmp_path / "other.html").is_file()


def test_a_page_that_cannot_be_written_is_refused(cli: Callable[..., Result], tiny: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file", tmp_path / "file" / "page.html"):
        result = cli("data", "info", tiny.folder, "--html", place)
        assert result.code == 2
        assert "cannot be written" in result.err
        assert str(place) in result.err
        assert result.out == ""
    result = cli("data", "info", tiny.folder, tmp_path / "page.html")
    assert result.code == 2
    assert "--html" in result.err


def test_the_command_prints_what_the_summary_says(cli: Callable[..., Result], tiny: Site) -> None:
    lines = cli("data", "info", tiny.folder).out.splitlines()
    told = json.loads(cli("data", "info", tiny.folder, "--json").out)
    assert lines[0] == "tiny"
    assert any(line.split() == ["Data", "hash", told["data_hash"]] for line in lines)
    assert any("settings" in line and "[1, 2]" in line for line in lines)
    assert read_rows(tiny).power.size == told["positions"] * told["scenes"]


def test_the_numbers_need_neither_torch_nor_matplotlib(tiny: Site) -> None:
    code = (
        "import sys; from study.cli import app; app(['data', 'info', sys.argv[1]], standalone_mode=False); "
        "assert not {'torch', 'matplotlib', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny.folder)], check=True, capture_output=True)


def test_the_page_itself_needs_no_torch() -> None:
    code = "import sys, reports.site_page; assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# --- In a browser -------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_another_scene_changes_the_map(canyon: SiteView, canyon_page: str, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(canyon_page, encoding="utf-8")
    assert '<div class="scenes" id="map-scenes" hidden>' in canyon_page
    with Browser(tmp_path / "profile") as browser:
        browser.open(file)
        plain = browser.run("document.documentElement.outerHTML")
        assert legend(plain) == drawn_users(plain) == counts(canyon, 0)
        assert re.search(r'<div class="scenes" id="map-scenes">', plain)  # no longer hidden
        assert plain.count('<button type="button">') == sum(each.reason != "" for each in canyon.scenes)
        for number in (3, len(canyon.scenes) - 1):
            browser.run(f"slider.value = {number}; slider.dispatchEvent(new Event('input'))")
            moved = browser.run("document.documentElement.outerHTML")
            chosen = canyon.scenes[number]
            assert legend(moved) == drawn_users(moved) == counts(canyon, chosen.scene)
            assert f">scene {chosen.scene}, {chosen.time_s:g} s" in moved
            vehicles = script_data(moved)["scenes"][number]["vehicles"]
            assert f'd="{vehicles}"' in moved
            assert f'd="{script_data(plain)["scenes"][0]["vehicles"]}"' not in moved
        # What the content security policy refuses, such as any request, would be told on the console.
        assert browser.console == []
        assert browser.requests == [file.as_uri()]
