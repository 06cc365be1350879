"""Write the report of a results folder: one HTML page, one Markdown file, tables and figures as files."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from reports import tables
from reports.claims import claims_table, judge
from reports.comparison import seconds_of
from reports.drawing import Figure
from reports.figures import FIGURES, Missing, method_colours, planned
from reports.headline import headline, remarks
from reports.html_page import report_html
from reports.results import STATES, Results, axis_label, load_results, value_label
from reports.sections import figure_title, sections
from reports.tables import TABLES, Table
from reports.tables.words import plural
from study import __version__
from study.errors import ResultsError
from study.selection import config_value

if TYPE_CHECKING:
    import rich.table

__all__ = ["Page", "ReportFiles", "StudySummary", "build_report", "check_target"]

_OWN = {"index.html", "report.md", "tables", "figures"}
_PROVENANCE = (
    ("device", "Device"),
    ("torch_version", "PyTorch"),
    ("ray_version", "Ray"),
    ("study_version", "study"),
    ("git_commit", "Commit"),
    ("data_hash", "Data hash"),
    ("spec_hash", "Spec hash"),
)
# Notes of trials that are told of: they seldom differ.
_MOST_NOTES = 5


@dataclass(frozen=True)
class StudySummary:
    """What an index says of a study.

    Attributes:
        name: of the study.
        headline: the sentence that its results support.
        verdicts: of its claims, in the order of the spec: supported, refuted or inconclusive.
        planned, stored: trials that the spec asks for, and those that ran to an end.
        seconds: everything that the stored trials did, summed.
        last_started: when the last stored trial was started, ISO 8601; None when that was not stored.
    """

    name: str
    headline: str
    verdicts: tuple[str, ...]
    planned: int
    stored: int
    seconds: float
    last_started: str | None


@dataclass(frozen=True)
class ReportFiles:
    """What was written, and what a terminal shows of it.

    ``missing`` are the figures that the study has no data for, ``claims`` verdicts and names.
    """

    folder: Path
    headline: str
    html: Path
    markdown: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    missing: tuple[Missing, ...]
    models: tuple[Table, ...]
    claims: tuple[tuple[str, str], ...]
    summary: StudySummary

    @property
    def terminal_tables(self) -> list[rich.table.Table]:
        """The main tables for a terminal."""
        return [tables.to_terminal(table) for table in self.models]


@dataclass(frozen=True)
class Page:
    """Everything that the HTML page and the Markdown file show, in plain text.

    ``claims`` are verdicts and names; ``common`` are the sentences that the page says once, and each file by itself.
    """

    name: str
    headline: str
    description: str
    status: str
    warnings: tuple[str, ...]
    claims: tuple[tuple[str, str], ...]
    common: tuple[str, ...]
    tables: Mapping[str, Table]
    figures: Mapping[str, Figure]
    missing: Sequence[Missing]
    facts: Sequence[tuple[str, str]]
    commands: Sequence[tuple[str, str]]


def build_report(results_folder: str | Path, out: str | Path | None = None) -> ReportFiles:
    """Write ``report/`` into the results folder, or the report into ``out``.

    The report is written beside its place and moved there when it is whole, so that nobody reads half of it.

    Raises:
        ResultsError: when the results cannot be used, or when ``out`` holds anything but an earlier report.
    """
    results = load_results(results_folder)
    target = Path(out) if out is not None else results.folder / "report"
    check_target(target)
    page = _page(results)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".report-", dir=target.parent) as scratch:
            fresh = Path(scratch) / "new"
            table_names, figure_names = _write(fresh, page, results)
            _replace(fresh, target, Path(scratch) / "old")
    except OSError as error:
        raise ResultsError(
            f"the report cannot be written: {error.strerror or error}",
            where=str(target),
            allowed="a folder that this user can write to, with free space",
            fix="choose another folder with --out, or free some space; the results are kept",
        ) from None
    return ReportFiles(
        target,
        page.headline,
        target / "index.html",
        target / "report.md",
        tuple(target / name for name in table_names),
        tuple(target / name for name in figure_names),
        tuple(page.missing),
        tuple(page.tables[name] for name in ("performance", "manual_optimum") if name in page.tables),
        page.claims,
        _summary(results, page),
    )


def _summary(results: Results, page: Page) -> StudySummary:
    started = [text for trial in results.trials if (text := trial.text("started_at"))]
    return StudySummary(
        page.name,
        page.headline,
        tuple(verdict for verdict, _ in page.claims),
        sum(cell.planned for cell in results.cells),
        len(results.trials),
        seconds_of(results.trials, "trial_seconds"),
        max(started, default=None),
    )


def check_target(target: Path) -> None:
    """A report replaces an earlier report, and nothing else.

    Raises:
        ResultsError: there is something else.
    """
    problem = None
    results = next((folder for folder in target.absolute().parents if (folder / "study.yaml").is_file()), None)
    if results is not None and target.absolute() != results / "report":
        problem = f"lies in the results folder {results}"
    elif target.exists() and not target.is_dir():
        problem = "is a file"
    elif target.is_dir():
        strangers = sorted(entry.name for entry in target.iterdir() if entry.name not in _OWN)
        if strangers:
            problem = f"holds other files ({', '.join(strangers[:3])})"
    if problem is not None:
        raise ResultsError(
            f"the report cannot be written there: the place {problem}",
            where=str(target),
            allowed="a folder that does not exist yet, an empty one or an earlier report, outside of results",
            fix="choose another folder, or move those files away",
        )


def _replace(fresh: Path, target: Path, old: Path) -> None:
    # mkdtemp makes folders for one user only; a report is read by others.
    fresh.chmod(0o755)
    had = target.exists()
    if had:
        target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        if had:
            old.rename(target)
        raise


def _write(folder: Path, page: Page, results: Results) -> tuple[list[str], list[str]]:
    table_names, figure_names = [], []
    for part in ("tables", "figures"):
        (folder / part).mkdir(parents=True)
    for table in page.tables.values():
        for suffix, write in (("csv", tables.to_csv), ("md", tables.to_markdown), ("tex", tables.to_latex)):
            table_names.append(f"tables/{table.name}.{suffix}")
            _write_text(folder / table_names[-1], write(table))
    for figure in page.figures.values():
        for suffix, content in (("svg", figure.svg), ("png", figure.png), ("csv", figure.data)):
            figure_names.append(f"figures/{figure.name}.{suffix}")
            data = content if isinstance(content, bytes) else content.encode("utf-8", errors="replace")
            (folder / figure_names[-1]).write_bytes(data)
    colours, single = method_colours(results.methods), len(results.configurations()) == 1
    _write_text(folder / "index.html", report_html(page, colours, single=single))
    _write_text(folder / "report.md", _markdown(page))
    return table_names, figure_names


def _write_text(file: Path, text: str) -> None:
    # JSON can hold halves of characters, which no file can; a stranger's site.json may.
    file.write_bytes(text.encode("utf-8", errors="replace"))


# ------------------------------------------------------------------------------------------------- content


_Captioned = TypeVar("_Captioned", Table, Figure)


def _with_words(item: _Captioned, words: str) -> _Captioned:
    """A table or figure whose caption has these words."""
    return item if words in item.caption else replace(item, caption=f"{item.caption} {words}")


def _page(results: Results) -> Page:
    # Figures first: only they open epochs/ and errors/, and what is damaged there belongs on the page.
    wanted = results.spec.report
    drawn = [FIGURES[name](results) for name in wanted.figures]
    judged = judge(results)
    built = [claims_table(results, judged), *(TABLES[name](results) for name in wanted.tables)]
    # What was spent, what it was expected to be, and where each number comes from.
    built += [
        tables.cost(results),
        tables.planned(results),
        tables.planned_totals(results),
        tables.planned_axes(results),
    ]
    built.append(tables.trial_list(results))
    drawn += [figure for figure in [planned(results)] if figure is not None]
    warnings = []
    if results.damaged:
        files = "1 damaged file was" if len(results.damaged) == 1 else f"{len(results.damaged)} damaged files were"
        warnings.append(f"{files} left out; see the notes of the first table.")
    if isinstance(results.plan, str):
        warnings.append(f"The damaged plan.json was left out: {results.plan}.")
    warnings += _other_precisions(results)
    split = tables.describe_split(results)
    # Whoever copies one table or figure takes along what it is of.
    drawn = [_with_words(item, split) if isinstance(item, Figure) else item for item in drawn]
    built = [None if table is None else _with_words(table, split) for table in built]
    return Page(
        name=results.spec.study,
        headline=headline(results),
        description=results.spec.description,
        status=" ".join([_status(results), *remarks(results)]),
        warnings=tuple(warnings),
        claims=tuple((judgement.verdict, judgement.name) for judgement in judged),
        common=(split, tables.describe_selection(results)),
        tables={table.name: table for table in built if table is not None},
        figures={item.name: item for item in drawn if isinstance(item, Figure)},
        missing=[item for item in drawn if isinstance(item, Missing)],
        facts=_facts(results),
        commands=(
            ("the study (finished trials are not repeated)", _run_command(results)),
            ("one trial, by its key", "study rerun KEY"),
        ),
    )


def _run_command(results: Results) -> str:
    """The command that completes the study, from the folder that holds results/ (or the results folder itself)."""
    folder = results.folder.resolve()
    if folder.parent.name == "results":
        return f"study run {shlex.quote(f'results/{folder.name}/study.yaml')}"
    return f"study run {shlex.quote(f'{folder.name}/study.yaml')} --results ."


def _status(results: Results) -> str:
    stored, planned = len(results.trials), sum(cell.planned for cell in results.cells)
    counts = Counter(trial.state for trial in results.trials)
    ends = ", ".join(f"{counts[state]} {state.replace('_', ' ')}" for state in STATES if counts[state])
    words = f"{stored} of {planned} trials stored{f': {ends}' if ends else ''}."
    if stopped := tables.describe_early_stopping(results):
        words += f" {stopped}"
    return words + (" The study is not complete; numbers may still move." if stored < planned else "")


def _facts(results: Results) -> list[tuple[str, str]]:
    seeds = sorted({trial.seed for trial in results.trials})
    started = sorted(text for trial in results.trials if (text := trial.text("started_at")))
    facts = [
        ("Site and split", tables.describe_split(results)),
        ("Selection", tables.describe_selection(results)),
        ("Seeds", f"{results.spec.seeds} wanted; stored: {', '.join(map(str, seeds)) or 'none'}"),
    ]
    if results.spec.axes:
        axes = [
            f"{axis_label(path)} {', '.join(value_label(value) for value in values)}"
            for path, values in results.spec.axes.items()
        ]
        facts.append(("Axes", "; ".join(axes)))
    if started:
        facts.append(("Trials started", started[0] if started[0] == started[-1] else f"{started[0]} to {started[-1]}"))
    for column, label in _PROVENANCE:
        found = sorted({text for trial in results.trials if (text := trial.text(column))})
        if found:
            several = f" ({len(found)} different ones)" if len(found) > 1 else ""
            facts.append((label, ", ".join(found) + several))
    facts += _computation(results)
    facts.append(("Report by", f"study {__version__}"))
    return facts


def _computation(results: Results) -> list[tuple[str, str]]:
    """How trials were computed, and what was slower or other than asked for: from their rows, which no table shows."""
    trained = [trial for trial in results.trials if trial.text("step")]
    ways = Counter(f"{trial.text('step')} steps, {trial.text('precision') or 'unknown'}" for trial in trained)
    facts = [("Computed with", "; ".join(f"{way} ({plural(count, 'trial')})" for way, count in sorted(ways.items())))]
    notes = Counter(note for trial in trained if (note := trial.text("notes")))
    said = [f"{note} ({plural(count, 'trial')})" for note, count in notes.most_common(_MOST_NOTES)]
    said += [f"{len(notes) - _MOST_NOTES} more in the rows"] if len(notes) > _MOST_NOTES else []
    return [*(facts if ways else []), *([("Other than asked for", "; ".join(said))] if said else [])]


def _other_precisions(results: Results) -> list[str]:
    """Trials that are shown under a precision in which they were not computed, for their machine has none of it."""
    ways: Counter[tuple[str, str]] = Counter()
    for trial in results.trials:
        asked, used = config_value(trial.config, "training.precision"), trial.text("precision")
        if used and isinstance(asked, str) and asked != used:
            ways[asked, used] += 1
    return [
        f"{plural(count, 'trial')} under precision {asked} {'was' if count == 1 else 'were'} computed in {used}: the "
        f"machine has no {asked}, and they say nothing of it."
        for (asked, used), count in sorted(ways.items())
    ]


# ------------------------------------------------------------------------------------------------- Markdown


def _markdown(page: Page) -> str:
    text = tables.escape_markdown
    lines = [f"# {text(page.name)}", "", text(page.headline), "", text(page.status), ""]
    lines += [text(page.description), ""] if page.description else []
    lines += [f"* {text(warning)}" for warning in page.warnings] + ([""] if page.warnings else [])
    for section in sections(page.tables, page.figures, bool(page.missing)):
        lines += [f"## {section.title}", ""]
        for part in section.parts:
            for name in part.tables:
                lines += [tables.to_markdown(page.tables[name]), ""]
            for name in part.figures:
                figure = page.figures[name]
                lines += [f"![{text(figure.alt_text)}](figures/{name}.png)", ""]
                lines += [f"**{text(figure_title(name))}.** {text(figure.caption)}", ""]
        if section.id == "figures" and page.missing:
            lines += [f"* {text(item.name)}: not shown, {text(item.reason)}" for item in page.missing] + [""]
    lines += [f"* {text(label)}: {text(value)}" for label, value in page.facts] + [""]
    lines += [f"* To repeat {text(what)}: {_code(command)}" for what, command in page.commands] + [""]
    lines += [
        f"Every trial with its key: [tables/trials.csv](tables/trials.csv), {len(page.tables['trials'].rows)} rows."
    ]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """Text in a code span, which ends at as many backticks as it began with."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}"
