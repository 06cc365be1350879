"""An index over several studies: a report of each, and one page that leads to them."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from reports.build import ReportFiles, StudySummary, build_report
from reports.html_page import mark
from reports.pages import page_parts, template
from study import __version__
from study.errors import ResultsError, StudyError
from study.storage import open_results

__all__ = ["IndexFiles", "IndexedStudy", "build_index"]

# What tells an index of ours from a page that must not be lost.
_GENERATOR = "study report, index"
_VERDICTS = ("supported", "refuted", "inconclusive")


@dataclass(frozen=True)
class IndexedStudy:
    """A study of an index.

    Attributes:
        location: its results folder, or the URI of one.
        name: what the index calls it: the study's name, with its place where several share one; or its folder's where
            that cannot be read.
        files: its report; None where it has none.
        error: why not.
    """

    location: str
    name: str
    files: ReportFiles | None = None
    error: StudyError | None = None


@dataclass(frozen=True)
class IndexFiles:
    """What was written: the page, and the studies in the order in which they were named."""

    page: Path
    studies: tuple[IndexedStudy, ...]

    @property
    def broken(self) -> tuple[IndexedStudy, ...]:
        """The studies without a report."""
        return tuple(item for item in self.studies if item.error is not None)


@dataclass(frozen=True)
class _Row:
    """One row of the index, in plain text."""

    name: str
    link: str | None
    summary: StudySummary | None
    verdicts: Counter[str]
    error: str

    @property
    def hours(self) -> float:
        """What the trials took."""
        return self.summary.seconds / 3600 if self.summary else 0.0


def build_index(locations: Sequence[str | Path], out: Path | None = None) -> IndexFiles:
    """Write the report of every study, and ``index.html`` over them.

    Without ``out`` each report goes into its study's ``report/`` and the index beside the studies; with ``out`` all
    of it goes there. Links are relative, so that the folder can be moved or packed. A study that cannot be read is
    listed with its error, and the others have their reports.

    Args:
        locations: results folders or their URIs.
        out: a folder for index and reports; needed for URIs, and for studies that lie in different folders.

    Raises:
        ResultsError: the index has no place, or no study can be reported; no index is written then.
    """
    # One study may be named in several ways.
    places = list({place if "://" in str(place) else Path(place).resolve(): place for place in locations}.values())
    target = out if out is not None else _common_folder(places)
    page = target / "index.html"
    _check_index(page)
    studies: list[IndexedStudy] = []
    links: list[str | None] = []
    for place, name in zip(places, _names(places), strict=True):
        try:
            with open_results(place) as store:
                files = build_report(store.folder, None if out is None else out / name)
        except StudyError as error:
            studies.append(IndexedStudy(str(place), name, error=error))
            links.append(None)
            continue
        studies.append(IndexedStudy(str(place), files.summary.name, files))
        links.append(quote(f"{name}/index.html" if out is not None else f"{name}/report/index.html"))
    if all(item.error is not None for item in studies):
        errors = "\n".join(f"{item.location}: {item.error}" for item in studies)
        raise ResultsError(f"no study has a report, so there is no index\n{errors}")
    names = Counter(item.name for item in studies)
    studies = [
        replace(item, name=f"{item.name} ({item.location})") if names[item.name] > 1 else item for item in studies
    ]
    _write(page, _html(studies, links))
    return IndexFiles(page, tuple(studies))


def _common_folder(places: Sequence[str | Path]) -> Path:
    parents = {None if "://" in str(place) else Path(place).resolve().parent for place in places}
    if len(parents) != 1 or None in parents:
        raise ResultsError(
            "the studies do not lie in one folder, so the index has no place",
            where=", ".join(map(str, places)),
            allowed="without --out: folders beside each other, such as results/one results/two",
            fix="name a folder for index and reports with --out",
        )
    # As it was named, where that can be told: messages show it.
    named = Path(places[0])
    return named.parent if named.name not in ("", "..") else named.resolve().parent


def _names(places: Sequence[str | Path]) -> list[str]:
    """A folder name for each study, different from the others'."""
    taken, names = {"index.html"}, []
    for place in places:
        remote = "://" in str(place)
        last = str(place).partition("?")[0].rstrip("/").rpartition("/")[2] if remote else Path(place).resolve().name
        plain = (re.sub(r"[^\w.\- ]", "_", last).lstrip(".") or "study") if remote else last
        name = next(
            name for i in range(1, len(places) + 3) if (name := plain if i == 1 else f"{plain}-{i}") not in taken
        )
        taken.add(name)
        names.append(name)
    return names


def _check_index(page: Path) -> None:
    problem = None
    try:
        if page.is_dir():
            problem = "it is a folder"
        elif page.exists():
            with page.open("rb") as handle:
                if f'content="{_GENERATOR}"'.encode() not in handle.read(2048):
                    problem = "the file exists and is no index of studies"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem is not None:
        raise _unwritable(page, problem)


def _unwritable(page: Path, why: str) -> ResultsError:
    return ResultsError(
        f"the index cannot be written: {why}",
        where=str(page),
        allowed="a new file, or an earlier index, in a folder that this user can write to",
        fix="name another folder with --out; the studies' own reports are in their report/",
    )


def _write(page: Path, text: str) -> None:
    scratch = None
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that nobody opens half a page and a full disk leaves the old one.
        with tempfile.NamedTemporaryFile("wb", dir=page.parent, prefix=".index-", delete=False) as handle:
            scratch = Path(handle.name)
            handle.write(text.encode("utf-8", errors="replace"))
        scratch.chmod(0o644)
        scratch.replace(page)
    except OSError as error:
        raise _unwritable(page, error.strerror or str(error)) from None
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def _html(studies: Sequence[IndexedStudy], links: Sequence[str | None]) -> str:
    rows = []
    for item, link in zip(studies, links, strict=True):
        summary = item.files.summary if item.files else None
        error = item.error.what if item.error else ""
        rows.append(_Row(item.name, link, summary, Counter(summary.verdicts if summary else ()), error))
    counts = Counter[str]()
    for row in rows:
        counts += row.verdicts
    return template("index.html.j2").render(
        parts=page_parts(),
        generator=_GENERATOR,
        rows=rows,
        verdicts=_VERDICTS,
        marks={word: mark(word) for word in _VERDICTS},
        headline=_headline(rows, counts),
        version=__version__,
    )


def _headline(rows: Sequence[_Row], counts: Counter[str]) -> str:
    told = [row.summary for row in rows if row.summary is not None]
    trials = sum(summary.stored for summary in told)
    text = f"{len(told)} {'study' if len(told) == 1 else 'studies'}, {trials:,} {'trial' if trials == 1 else 'trials'}"
    if total := sum(counts.values()):
        ends = ", ".join(f"{counts[word]} {word}" for word in _VERDICTS if counts[word])
        text += f"; {total} {'claim' if total == 1 else 'claims'}: {ends}"
    return f"{text}."
