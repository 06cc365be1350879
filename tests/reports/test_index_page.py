"""Several studies at once: reports, the index over them, and what becomes of the broken ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import Result
from store_factory import Store, spec

from reports.index_page import build_index
from study.errors import ResultsError
from study.store import studies_in

SMALL = {
    "search": [],
    "axes": {"method": ["DCNN"]},
    "references": [],
    "report": {"tables": ["performance"], "figures": []},
}


def small(folder: Path, name: str, **changes: object) -> Path:
    store = Store(folder, spec(**{**SMALL, "study": name, "claims": [], **changes}))
    store.add("DCNN", 0, details=False)
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two studies, one that cannot be read, and what else lies in such a folder."""
    folder = tmp_path / "results"
    small(folder / "first one", "first")
    small(folder / "second", "second", seeds=1)
    Store(folder / "strange", spec()).write_spec(spec())
    (folder / "strange" / "study.yaml").write_text("study: strange\nfuture: 1\n", encoding="utf-8")
    (folder / "notes").mkdir()
    (folder / "todo.txt").write_text("mine", encoding="utf-8")
    return folder


def links(page: Path) -> list[str]:
    return re.findall(r'<th scope="row"[^>]*><a href="([^"]+)">', page.read_text(encoding="utf-8"))


def test_a_folder_of_studies_gets_reports_and_an_index(cli: Callable[..., Result], results: Path) -> None:
    assert [folder.name for folder in studies_in(results)] == ["first one", "second", "strange"]
    result = cli("report", results)
    assert result.code == 2
    assert f"index: {results / 'index.html'}" in result.out
    assert result.err.startswith(f"study: {results / 'strange'}: study.yaml is not a resolved spec")
    assert "Traceback" not in result.err
    assert links(results / "index.html") == ["first%20one/report/index.html", "second/report/index.html"]
    assert all((results / unquote(link)).is_file() for link in links(results / "index.html"))
    page = (results / "index.html").read_text(encoding="utf-8")
    assert "no report: study.yaml is not a resolved spec" in page
    assert "2 studies, 2 trials." in page
    assert "default-src 'none'" in page
    assert str(results.parent) not in page
    assert (results / "todo.txt").read_text(encoding="utf-8") == "mine"
    assert cli("report", results).code == 2  # the index replaces itself


def test_all_of_it_goes_into_one_folder_that_can_be_moved(
    cli: Callable[..., Result], results: Path, tmp_path: Path
) -> None:
    elsewhere = small(tmp_path / "elsewhere" / "second", "third")
    result = cli("report", results / "first one", results / "second", elsewhere, "--out", tmp_path / "out")
    assert result.code == 0, result
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert links(moved / "index.html") == ["first%20one/index.html", "second/index.html", "second-2/index.html"]
    titles = [
        re.search("<title>(.*?):", (moved / unquote(link)).read_text(encoding="utf-8"))
        for link in links(moved / "index.html")
    ]
    assert [title and title[1] for title in titles] == ["first", "second", "third"]
    assert not (results / "second" / "report").exists()


def test_one_study_has_no_index(cli: Callable[..., Result], results: Path) -> None:
    result = cli("report", results / "second")
    assert result.code == 0, result
    assert "DCNN" in result.out
    assert not (results / "index.html").exists()


def test_an_index_needs_a_place_and_a_study(cli: Callable[..., Result], results: Path, tmp_path: Path) -> None:
    other = small(tmp_path / "other" / "third", "third")
    result = cli("report", results / "second", other)
    assert result.code == 2
    assert "--out" in result.err
    (results / "index.html").write_text("years of work", encoding="utf-8")
    result = cli("report", results)
    assert result.code == 2
    assert "no index of studies" in result.err
    assert (results / "index.html").read_text(encoding="utf-8") == "years of work"
    assert not (results / "second" / "report").exists()
    (tmp_path / "empty" / "one" / "trials").mkdir(parents=True)
    (tmp_path / "empty" / "two" / "trials").mkdir(parents=True)
    result = cli("report", tmp_path / "empty")
    assert result.code == 2
    assert result.err.count("has no study.yaml") == 2
    assert not (tmp_path / "empty" / "index.html").exists()
    for place in (tmp_path / "nowhere", results / "notes"):
        result = cli("report", place)
        assert result.code == 2
        assert str(place) in result.err


def test_names_in_an_index_are_text(tmp_path: Path) -> None:
    name = "<b>&\"'"
    broken = tmp_path / name / "trials"
    broken.mkdir(parents=True)
    written = build_index([small(tmp_path / "good", "good"), broken.parent])
    page = written.page.read_text(encoding="utf-8")
    assert name not in page
    assert "&lt;b&gt;" in page
    assert [item.location for item in written.broken] == [str(broken.parent)]


def test_an_index_of_nothing_says_why_for_each(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with pytest.raises(ResultsError, match=r"(?s)no study has a report.*one.*two"):
        build_index([tmp_path / "one", tmp_path / "two"])


def test_a_misspelt_study_is_told_the_nearest(
    cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(tmp_path / "results" / "tiny", "tiny")
    monkeypatch.chdir(tmp_path)
    result = cli("report", "tinny")
    assert result.code == 2
    assert "did you mean 'tiny'?" in result.err
    assert "Traceback" not in result.err


def test_a_terminal_shows_what_became_of_each_claim(cli: Callable[..., Result], tmp_path: Path) -> None:
    claims = [{"name": "[b]no[/b]", "better": {"method": "DCNN"}, "than": {"method": "TL"}}]
    axes = {"method": ["DCNN", "TL"]}
    result = cli("report", small(tmp_path / "one", "one", claims=claims, axes=axes))
    assert result.code == 0, result
    assert "○ inconclusive [b]no[/b]" in result.out.replace("o inconclusive", "○ inconclusive")


def test_a_study_that_is_named_twice_counts_once(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results)
    (results / "link").symlink_to(results / "second")
    named = ["second", "second/", "./second", results / "second", results / "link"]
    assert [item.location for item in build_index([*named, "first one"], results / "out").studies] == [
        str(named[-1]),
        "first one",
    ]


def test_studies_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for run in ("run1", "run2"):
        small(tmp_path / run, "same")
    names = [item.name for item in build_index([tmp_path / "run1", tmp_path / "run2"]).studies]
    assert names == [f"same ({tmp_path / run})" for run in ("run1", "run2")]


@pytest.mark.parametrize(
    "out", ["s3://bucket/x", "file:///x", "{results}/second/report/x", "{results}/second/trials/x"]
)
def test_a_report_goes_to_no_host_and_into_no_results(cli: Callable[..., Result], results: Path, out: str) -> None:
    place = out.format(results=results)
    before = sorted(results.rglob("*"))
    result = cli("report", results / "second", "--out", place)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert "allowed: a folder" in result.err
    assert sorted(results.rglob("*")) == before
