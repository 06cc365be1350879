from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from store_factory import Store, full_study, spec

from reports import build
from reports.build import ReportFiles, build_report
from reports.drawing import Figure
from reports.figures import FIGURES, Missing
from reports.results import load_results
from study.errors import ResultsError

NASTY = "</svg><script>alert(1)</script> | $x$ & <b>"


@pytest.fixture(scope="module")
def report(finished: Store, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return build_report(finished.folder, tmp_path_factory.mktemp("out") / "report")


@pytest.fixture(scope="module")
def page(report: ReportFiles) -> str:
    return report.html.read_text(encoding="utf-8")


def test_the_report_has_its_files(report: ReportFiles) -> None:
    expected = {"index.html", "report.md"}
    for name in ("performance", "complexity", "manual_optimum", "cost", "trials"):
        expected |= {f"tables/{name}.csv", f"tables/{name}.md"}
    for name in ("cdf", "lambda_sweep", "learning_curves"):
        expected |= {f"figures/{name}.{suffix}" for suffix in ("svg", "png", "csv")}
    written = {path.relative_to(report.folder).as_posix() for path in report.folder.rglob("*") if path.is_file()}
    assert written == expected
    assert {path.relative_to(report.folder).as_posix() for path in (*report.tables, *report.figures)} == {
        name for name in expected if "/" in name
    }
    assert report.missing == ()
    assert all(path.stat().st_size for path in report.folder.rglob("*") if path.is_file())


def test_the_terminal_gets_headline_and_main_tables(report: ReportFiles) -> None:
    assert report.headline.startswith("HDA reached")
    assert [len(table.rows) for table in report.terminal_tables] == [7, 2]


def test_the_page_is_self_contained(page: str) -> None:
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r"https?://|//[a-z0-9.-]+\.[a-z]{2,}/", without_namespaces)
    assert not re.search(r"<script[^>]+src|<link|@import|<img|<iframe", page)
    assert re.findall(r"url\((?!#)", page) == []


def test_sections_come_in_the_order_of_the_design(page: str) -> None:
    places = [
        page.index(mark)
        for mark in (
            'class="headline"', 'id="claims"', 'id="table-performance"', 'id="table-manual_optimum"',
            'id="figure-lambda_sweep"', 'id="figure-cdf"', 'id="figure-learning_curves"', 'id="cost"', 'id="method"',
        )
    ]  # fmt: skip
    assert places == sorted(places)


def test_ids_are_unique_and_local_links_lead_somewhere(page: str) -> None:
    ids = re.findall(r'(?<=[\s])id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert targets <= set(ids)


def test_every_trial_can_be_repeated_by_its_key(finished: Store, page: str) -> None:
    for trial in load_results(finished.folder).trials:
        assert f"study rerun {trial.key}" in page
    for words in (
        "study run study/study.yaml --results .",
        "b9719d911017c592",
        "2.13.0",
        "3f2a91c",
        "not evaluated in this version",
    ):
        assert words in page


def test_figures_have_text_alternatives_and_take_the_colours_of_the_page(page: str) -> None:
    drawings = re.findall(r"<svg [^>]*>", page)
    assert len(drawings) == 3
    assert all('role="img"' in tag and 'aria-label="' in tag for tag in drawings)
    assert "currentColor" in page
    assert "var(--cd55e00, #d55e00)" in page


def test_figure_files_are_well_formed(report: ReportFiles) -> None:
    for path in report.figures:
        if path.suffix == ".svg":
            assert ET.parse(path).getroot().tag.endswith("svg")
        elif path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        else:
            assert len(pd.read_csv(path)) > 10


def test_building_twice_gives_the_same_files(finished: Store, report: ReportFiles, tmp_path: Path) -> None:
    again = build_report(finished.folder, tmp_path / "report")
    for path in report.folder.rglob("*"):
        if path.is_file():
            assert (again.folder / path.relative_to(report.folder)).read_bytes() == path.read_bytes(), path.name


def test_names_from_a_spec_are_escaped(folder: Path) -> None:
    content = spec(
        site=NASTY,
        description=NASTY,
        axes={"method": ["HDA", "DCNN"], "system.fingerprint": ["adp", "rcsi"]},
        claims=[{"name": NASTY, "better": {"method": "HDA"}, "than": {"method": "DCNN"}}],
        search=[],
    )
    store = Store(folder, content, site=NASTY)
    for fingerprint in ("adp", "rcsi"):
        for method in ("HDA", "DCNN"):
            store.add(method, 0, system={"fingerprint": fingerprint}, device=NASTY)
    store.add("HDA", 1, state="failed", error=NASTY)
    (folder / "trials" / f"{NASTY.replace('/', '')}.parquet").write_bytes(b"x")
    files = build_report(folder)
    page = files.html.read_text(encoding="utf-8")
    assert page.count("<script>") == page.count("</script>") == 1
    assert page.count("</svg>") == 2
    assert "<b>" not in re.sub(r"<figcaption><b>", "", page)
    # Description, claim, the damaged file, site and device; the site is in captions too.
    assert page.count("&lt;script&gt;alert(1)&lt;") > 5
    markdown = files.markdown.read_text(encoding="utf-8")
    assert "<script>" not in markdown
    assert "<b>" not in markdown
    assert markdown.count(r"&lt;script&gt;alert(1)&lt;/script&gt; \| \$x\$ &") > 3
    table = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert all(line.count("|") > 5 for line in table)
    for figure in files.figures:
        if figure.suffix == ".svg":
            ET.parse(figure)


def test_a_figure_without_data_says_why(folder: Path) -> None:
    store = Store(folder, spec(search=[], references=[]))
    store.add("DCNN", 0, details=False)
    files = build_report(folder)
    assert {item.name for item in files.missing} == {"cdf", "lambda_sweep", "learning_curves"}
    page = files.html.read_text(encoding="utf-8")
    for item in files.missing:
        assert item.reason in page
        assert item.reason in files.markdown.read_text(encoding="utf-8").replace("\\", "")
    assert files.figures == ()


def test_a_spec_chooses_its_tables_and_figures(folder: Path) -> None:
    full_study(folder, report={"tables": ["manual_optimum"], "figures": ["cdf"]})
    files = build_report(folder)
    assert {path.stem for path in files.figures} == {"cdf"}
    assert {path.stem for path in files.tables} == {"manual_optimum", "cost", "trials"}
    page = files.html.read_text(encoding="utf-8")
    assert "Localization error and condition accuracy" not in page
    assert "Manually weighted (MDA)" in page


def test_more_configurations_than_panels_are_named(folder: Path) -> None:
    full_study(folder, paths=tuple(range(5, 13)))
    results = load_results(folder)
    for draw in FIGURES.values():
        figure = draw(results)
        assert isinstance(figure, Figure)
        assert "Not shown: 2 further configurations (Paths 11; Paths 12)" in figure.caption


def test_the_cdf_holds_the_quantiles_of_the_pooled_errors(finished: Store) -> None:
    results = load_results(finished.folder)
    figure = FIGURES["cdf"](results)
    assert isinstance(figure, Figure)
    data = pd.read_csv(io.StringIO(figure.data))
    (cell,) = (cell for cell in results.cells if cell.method == "HDA")
    stored = [table for trial in cell.done if (table := results.errors(trial.key)) is not None]
    assert len(stored) == 3
    pooled = pd.concat(stored)["error_m"]
    hda = data[data["method"] == "HDA"].set_index("share")["error_m"]
    assert hda.loc[0.5] == pytest.approx(pooled.quantile(0.5))
    assert hda.loc[0.9] == pytest.approx(pooled.quantile(0.9))
    assert "1 % reaches up to" in figure.caption


def test_a_search_over_several_settings_is_drawn(folder: Path) -> None:
    space = {"objective.lambda": {"grid": [0.0, 1.0, 0.5]}, "objective.gamma": {"float": [0.0, 5.0]}}
    search = {"when": {"method": "MDA"}, "space": space, "sampler": "tpe", "trials": 6, "seeds": 1}
    store = Store(folder, spec(search=[search]))
    for weight in (0.0, 0.5, 1.0):
        for gamma in (1.0, 2.5):
            store.add("MDA", 0, objective={"lambda": weight, "gamma": gamma})
    assert isinstance(FIGURES["lambda_sweep"](load_results(folder)), Figure)


def test_damaged_files_are_shown(folder: Path) -> None:
    store = Store(folder, spec())
    key = store.add("DCNN", 0)
    (folder / "trials" / "dead.parquet").write_bytes(b"x")
    (folder / "errors" / f"{key}.parquet").write_bytes(b"x")
    page = build_report(folder).html.read_text(encoding="utf-8")
    assert "2 damaged files were left out" in page
    assert "trials/dead.parquet" in page
    assert f"errors/{key}.parquet" in page


def test_a_report_replaces_an_earlier_report(folder: Path) -> None:
    store = Store(folder, spec())
    store.add("DCNN", 0, details=False)
    first = build_report(folder).html.read_text(encoding="utf-8")
    store.add("DCNN", 1, details=False)
    assert build_report(folder).html.read_text(encoding="utf-8") != first
    assert [path.name for path in folder.iterdir() if path.name.startswith(".report-")] == []


def test_a_failed_build_leaves_the_earlier_report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(folder, spec()).add("DCNN", 0, details=False)
    files = build_report(folder)
    before = files.html.read_bytes()

    def full_disk(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "_markdown", full_disk)
    with pytest.raises(ResultsError, match="No space left"):
        build_report(folder)
    assert files.html.read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [
        "epochs",
        "errors",
        "report",
        "site.json",
        "study.yaml",
        "trials",
    ]


def test_a_report_never_replaces_other_files(folder: Path, tmp_path: Path) -> None:
    Store(folder, spec()).add("DCNN", 0, details=False)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(ResultsError, match=r"thesis\.tex"):
        build_report(folder, other)
    with pytest.raises(ResultsError, match="is a file"):
        build_report(folder, other / "thesis.tex")
    assert (other / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_a_study_of_other_methods_has_no_sweep(folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["DCNN"]}, search=[]))
    store.add("DCNN", 0)
    results = load_results(folder)
    assert isinstance(FIGURES["lambda_sweep"](results), Missing)
    assert 'id="weights"' not in build_report(folder).html.read_text(encoding="utf-8")


@pytest.mark.browser
def test_the_page_opens_in_a_browser(report: ReportFiles, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs chromium to open the report")
        pytest.skip("chromium is not installed")
    done = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--log-level=0",
            "--virtual-time-budget=4000", "--dump-dom", report.html.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    # Scripts ran: they add the buttons. The tables and drawings are in the document.
    assert done.stdout.count("Copy as CSV") == 5
    assert re.search(r'<th[^>]*scope="col"[^>]*><button type="button">', done.stdout)
    assert 'id="table-performance"' in done.stdout
    assert done.stdout.count("<svg") == 3
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
