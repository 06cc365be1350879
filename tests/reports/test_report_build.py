from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_factory import Store, full_study, spec

from reports import build, html_page, tables
from reports.build import ReportFiles, build_report
from reports.claims import judge
from reports.figures import FIGURES, Missing
from reports.results import load_results
from reports.tables import Cell, Column, Table
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
    for name in ("claims", "performance", "complexity", "manual_optimum", "cost", "trials"):
        expected |= {f"tables/{name}.{suffix}" for suffix in ("csv", "md", "tex")}
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


def test_a_report_says_how_trials_were_computed_and_what_they_could_not_have(folder: Path) -> None:
    store = Store(folder, spec())
    note = "precision bfloat16 is not available, and float32 was used: the processor has no instructions for bfloat16"
    for seed in range(3):
        store.add("DCNN", seed, step="fused", precision="float32", notes=note if seed else None)
    written = build_report(folder)
    for text in (html.unescape(written.html.read_text()), written.markdown.read_text()):
        assert "fused steps, float32 (3 trials)" in text
        assert f"{note} (2 trials)" in text
        assert "under precision" not in text


def test_trials_under_a_precision_that_their_machine_lacks_are_told_of(folder: Path) -> None:
    """A table would show them as if they had been computed in it, and a search let it win."""
    described = spec()
    described["base"]["training"]["precision"] = "bfloat16"
    store = Store(folder, described)
    for seed in range(3):
        store.add("DCNN", seed, step="fused", precision="float32" if seed else "bfloat16")
    written = build_report(folder)
    for text in (html.unescape(written.html.read_text()), written.markdown.read_text()):
        assert "2 trials under precision bfloat16 were computed in float32" in text


def test_the_page_is_self_contained(page: str) -> None:
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r"https?://|//[a-z0-9.-]+\.[a-z]{2,}/", without_namespaces)
    assert not re.search(r"<script[^>]+src|<link|@import|<img|<iframe", page)
    assert "default-src 'none'" in page
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
    ):
        assert words in page


def test_columns_without_anything_are_in_the_files_only() -> None:
    dash, number = Cell("–"), Cell("1.0", 1.0)
    columns = (Column("Method"), Column("Paper"), Column("RMSE"), Column("Empty"), Column("Why"))
    hole = Cell("— not run", hole=True)
    table = Table("t", "T", "", columns, ((dash, dash, number, Cell(""), hole), (dash, dash, dash, dash, dash)))
    shown = html_page.without_empty_columns(table)
    assert [column.name for column in shown.columns] == ["Method", "RMSE", "Why"]
    assert shown.rows == ((dash, number, hole), (dash, dash, dash))
    assert tables.to_csv(table).startswith("Method,Paper,")


def test_the_page_says_once_what_every_file_says(report: ReportFiles, page: str) -> None:
    (said,) = re.findall(r'<p class="common">(.*?) This holds', page)
    split = said.partition(" Each trial")[0]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, flags=re.DOTALL)
    assert len(captions) > 5
    assert not any(split in caption for caption in captions)
    for path in report.tables:
        if path.suffix == ".md":
            assert html.unescape(split) in path.read_text(encoding="utf-8").replace("\\", ""), path
    assert "<dt>Axes</dt><dd>Method " in page


def _rows(part: str) -> set[int]:
    first, _, last = part.partition("-")
    return set(range(int(first), int(last or first) + 1))


def test_every_number_leads_to_the_trials_that_it_is_made_of(finished: Store, page: str) -> None:
    results = load_results(finished.folder)
    keys = [row[-1].keys[0] for row in tables.trial_list(results).rows]
    found = re.search(r'<script type="application/json" id="trial-sets">(.*?)</script>', page)
    assert found is not None
    sets = [set().union(*(_rows(part) for part in text.split(","))) for text in json.loads(found[1])]
    links = re.findall(r'<a id="of-(\w+)-(\d+)-(\d+)" data-of="(\d+)" href="#trial-(\w+)">', page)
    led: dict[str, dict[tuple[int, int], tuple[set[str], str]]] = {}
    for name, row, column, number, first in links:
        led.setdefault(name, {})[int(row), int(column)] = ({keys[place] for place in sets[int(number)]}, first)
    for build_table in (tables.performance, tables.complexity, tables.manual_optimum, tables.cost):
        table = build_table(results)
        assert table is not None
        # Links count the columns that the page shows: those with nothing in them are in the files only.
        table = html_page.without_empty_columns(table)
        expected = {
            (row, column): set(cell.keys)
            for row, cells in enumerate(table.rows)
            for column, cell in enumerate(cells)
            if cell.keys and cell.text
        }
        assert {place: made_of for place, (made_of, _) in led.get(table.name, {}).items()} == expected
        assert all(first in made_of for made_of, first in led.get(table.name, {}).values())
    assert len(led["performance"]) > 20
    (claim,) = judge(results)
    assert led["claims"][0, 0][0] == set(claim.keys)


def test_claims_come_first_with_their_verdict_in_word_and_shape(finished: Store, page: str) -> None:
    (claim,) = judge(load_results(finished.folder))
    row = page[page.index('id="claims"') : page.index('id="results"')]
    assert f'<span class="mark {claim.verdict}"><svg' in row
    assert f"</svg>{claim.verdict}</span>" in row
    assert html.escape(claim.finding.rstrip(".")) in row


def test_figures_have_text_alternatives_and_take_the_colours_of_the_page(page: str) -> None:
    drawings = re.findall(r"<svg [^>]*>", page)
    assert len([tag for tag in drawings if 'role="img"' in tag and 'aria-label="' in tag]) == 3
    assert all('role="img"' in tag or 'aria-hidden="true"' in tag for tag in drawings)
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
    assert page.count("<script>") == 1
    assert page.count("</script>") == page.count("<script")
    assert page.count("</svg>") == len(re.findall(r"<svg[ >]", page))
    assert "& <b>" not in page
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
    assert {path.stem for path in files.tables} == {"claims", "manual_optimum", "cost", "trials"}
    page = files.html.read_text(encoding="utf-8")
    assert "Localization error and condition accuracy" not in page
    assert "Manually weighted (MDA)" in page


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


def test_the_first_rows_of_a_large_table_are_markup_and_the_others_data(
    finished: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html_page, "STATIC_ROWS", 4)
    monkeypatch.setattr(html_page, "PAGE_ROWS", 10)
    page = build_report(finished.folder, tmp_path / "report").html.read_text(encoding="utf-8")
    table = tables.trial_list(load_results(finished.folder))
    assert f'The first 4 of {len(table.rows)} rows; all are in <a href="tables/trials.csv">' in page
    place = page[page.index('id="table-trials"') :]
    assert place[: place.index("</table>")].count("<code id=") == 4
    found = re.search(r'<script type="application/json" class="rest">(.*?)</script>', place)
    assert found is not None
    rest = json.loads(found[1])
    assert rest["total"] == len(table.rows)
    assert [[cell[0] for cell in row] for row in rest["rows"]] == [
        [cell.text for cell in row] for row in table.rows[4:10]
    ]
    assert [row[-1][2]["k"] for row in rest["rows"]] == [row[-1].keys[0] for row in table.rows[4:10]]
    # Where no script runs, a number whose trials are not among the first rows leads to the file.
    assert re.search(r'<a id="of-performance-\d-\d" data-of="\d+" href="tables/trials.csv">', page)


@pytest.mark.parametrize(
    "columns",
    [
        {"test_rmse_m": float("nan")},
        {"test_rmse_m": float("inf"), "test_accuracy": float("-inf")},
        {"test_accuracy": 7.0},
        {"test_rmse_m": -3.0, "validation_rmse_m": -1.0},
        {"best_epoch": 10**9, "train_seconds": float("nan"), "trial_seconds": -1.0},
    ],
)
def test_numbers_that_cannot_be_are_no_reason_to_stop(folder: Path, columns: dict[str, Any]) -> None:
    store = Store(folder, spec(search=[], axes={"method": ["DCNN", "HDA"]}))
    for method in ("DCNN", "HDA"):
        for seed in range(3):
            store.add(method, seed, details=seed != 1, **(columns if seed == 1 else {}))
    page = build_report(folder).html.read_text(encoding="utf-8")
    body = page[page.index("<main") : page.index("</main>")]
    assert not re.search(r">\s*(nan|inf|-inf)\b", body)
    assert 'data-value="nan"' not in page
    assert 'data-value="inf"' not in page


def test_repeated_epochs_are_no_reason_to_stop(folder: Path) -> None:
    store = Store(folder, spec(search=[], axes={"method": ["HDA"]}, references=[]))
    key = store.add("HDA", 0)
    path = folder / "epochs" / f"{key}.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table]), path)
    assert 'id="table-performance"' in build_report(folder).html.read_text(encoding="utf-8")


def test_a_site_with_half_a_character_in_its_name_has_a_report(folder: Path) -> None:
    Store(folder, spec(search=[])).add("DCNN", 0, details=False)
    (folder / "site.json").write_text('{"name": "\\ud800", "data_hash": "b9719d911017c592"}', encoding="utf-8")
    assert "Site ?" in build_report(folder).html.read_text(encoding="utf-8")


def test_foreign_files_beside_the_results_are_left_alone(folder: Path) -> None:
    Store(folder, spec(search=[])).add("DCNN", 0, details=False)
    (folder / "thesis.tex").write_text("years of work", encoding="utf-8")
    (folder / "trials" / "notes").mkdir()
    (folder / "trials" / "README.md").write_text("mine", encoding="utf-8")
    build_report(folder)
    assert (folder / "thesis.tex").read_text(encoding="utf-8") == "years of work"
    assert (folder / "trials" / "README.md").read_text(encoding="utf-8") == "mine"
