"""Write the report of a results folder: one HTML page, one Markdown file, tables and figures as files."""

from __future__ import annotations

import html
import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from markupsafe import Markup, escape

from reports import tables
from reports.drawing import INK, PAPER, Figure
from reports.figures import FIGURES, Missing, method_colours
from reports.pages import template
from reports.results import STATES, Results, load_results, value_label
from reports.tables import Table
from study import __version__
from study.errors import ResultsError

if TYPE_CHECKING:
    import rich.table

__all__ = ["ReportFiles", "build_report"]

# The tables that a spec's `report.tables` may name.
TABLES: Mapping[str, Callable[[Results], Table | None]] = {
    "performance": tables.performance,
    "complexity": tables.complexity,
    "manual_optimum": tables.manual_optimum,
}

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


@dataclass(frozen=True)
class ReportFiles:
    """What was written, and what a terminal shows of it; ``missing`` are the figures that the study has no data for."""

    folder: Path
    headline: str
    html: Path
    markdown: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    missing: tuple[Missing, ...]
    models: tuple[Table, ...]

    @property
    def terminal_tables(self) -> list[rich.table.Table]:
        """The main tables for a terminal."""
        return [tables.to_terminal(table) for table in self.models]


@dataclass(frozen=True)
class _Page:
    """Everything that both pages show, in plain text."""

    name: str
    headline: str
    description: str
    status: str
    warnings: tuple[str, ...]
    claims: tuple[str, ...]
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
    _check_target(target)
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
    )


def _check_target(target: Path) -> None:
    """A report replaces an earlier report, and nothing else."""
    problem = None
    if target.exists() and not target.is_dir():
        problem = "is a file"
    elif target.is_dir():
        strangers = sorted(entry.name for entry in target.iterdir() if entry.name not in _OWN)
        if strangers:
            problem = f"holds other files ({', '.join(strangers[:3])})"
    if problem is not None:
        raise ResultsError(
            f"the report cannot be written there: the place {problem}",
            where=str(target),
            allowed="a folder that does not exist yet, an empty one or an earlier report",
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


def _write(folder: Path, page: _Page, results: Results) -> tuple[list[str], list[str]]:
    table_names, figure_names = [], []
    for part in ("tables", "figures"):
        (folder / part).mkdir(parents=True)
    for table in page.tables.values():
        for suffix, text in (("csv", tables.to_csv(table)), ("md", tables.to_markdown(table))):
            table_names.append(f"tables/{table.name}.{suffix}")
            (folder / table_names[-1]).write_text(text, encoding="utf-8")
    for figure in page.figures.values():
        for suffix, content in (("svg", figure.svg), ("png", figure.png), ("csv", figure.data)):
            figure_names.append(f"figures/{figure.name}.{suffix}")
            data = content if isinstance(content, bytes) else content.encode("utf-8")
            (folder / figure_names[-1]).write_bytes(data)
    (folder / "index.html").write_text(_html(page, results), encoding="utf-8")
    (folder / "report.md").write_text(_markdown(page), encoding="utf-8")
    return table_names, figure_names


# ------------------------------------------------------------------------------------------------- content


_Captioned = TypeVar("_Captioned", Table, Figure)


def _with_words(item: _Captioned, words: str) -> _Captioned:
    """A table or figure whose caption has these words."""
    return item if words in item.caption else replace(item, caption=f"{item.caption} {words}")


def _page(results: Results) -> _Page:
    # Figures first: only they open epochs/ and errors/, and what is damaged there belongs on the page.
    wanted = results.spec.report
    drawn = [FIGURES[name](results) for name in wanted.figures]
    built = [TABLES[name](results) for name in wanted.tables]
    built += [tables.cost(results), tables.trial_list(results)]  # what was spent, and where each number comes from
    warnings = []
    if results.damaged:
        files = "1 damaged file was" if len(results.damaged) == 1 else f"{len(results.damaged)} damaged files were"
        warnings.append(f"{files} left out; see the notes of the first table.")
    split = tables.describe_split(results)
    # Whoever copies one table or figure takes along what it is of.
    drawn = [_with_words(item, split) if isinstance(item, Figure) else item for item in drawn]
    built = [None if table is None else _with_words(table, split) for table in built]
    return _Page(
        name=results.spec.study,
        headline=tables.headline(results),
        description=results.spec.description,
        status=" ".join([_status(results), *tables.remarks(results)]),
        warnings=tuple(warnings),
        claims=tuple(claim.name for claim in results.spec.claims),
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
    if results.axes:
        facts.append(
            (
                "Axes",
                "; ".join(
                    f"{tables.axis_label(path)} {', '.join(value_label(value) for value in results.spec.axes[path])}"
                    for path in results.axes
                ),
            )
        )
    if started:
        facts.append(("Trials started", started[0] if started[0] == started[-1] else f"{started[0]} to {started[-1]}"))
    for column, label in _PROVENANCE:
        found = sorted({text for trial in results.trials if (text := trial.text(column))})
        if found:
            several = f" ({len(found)} different ones)" if len(found) > 1 else ""
            facts.append((label, ", ".join(found) + several))
    facts.append(("Report by", f"study {__version__}"))
    return facts


# ------------------------------------------------------------------------------------------------- HTML


def _html(page: _Page, results: Results) -> str:
    colours = method_colours(results.methods)
    return template("report.html.j2").render(
        page=page,
        headline=_unbroken(page.headline),
        # Fragments from our own templates and from matplotlib, both of which escape; everything else is plain text.
        tables={name: Markup(tables.to_html(table)) for name, table in page.tables.items()},
        drawings={name: Markup(_inline(figure, colours)) for name, figure in page.figures.items()},
        single=len(results.configurations()) == 1,
    )


def _unbroken(sentence: str) -> Markup:
    """A sentence whose numbers keep their units and limits on one line."""
    pattern = r"[\d.]+ – [\d.]+|n = \d+|[\d.]+ (?:m|×)(?= )"
    return Markup(re.sub(pattern, r'<span class="keep">\g<0></span>', str(escape(sentence))))


def _inline(figure: Figure, colours: Mapping[str, str]) -> str:
    """An SVG that takes the page's colours, so that it can be read on a dark background too."""
    svg = figure.svg.replace(PAPER, "", 1).replace(INK, "currentColor")
    for colour in set(colours.values()):
        svg = svg.replace(colour, f"var(--c{colour[1:]}, {colour})")
    label = html.escape(figure.alt_text, quote=True)
    return re.sub(r"<svg ", lambda _: f'<svg role="img" aria-label="{label}" ', svg, count=1)


# ------------------------------------------------------------------------------------------------- Markdown


def _markdown(page: _Page) -> str:
    text = tables.escape_markdown
    lines = [f"# {text(page.name)}", "", text(page.headline), "", text(page.status), ""]
    lines += [text(page.description), ""] if page.description else []
    lines += [f"* {text(warning)}" for warning in page.warnings] + ([""] if page.warnings else [])
    if page.claims:
        lines += ["## Claims", ""]
        lines += [f"* {text(claim)}: not evaluated in this version" for claim in page.claims] + [""]
    lines += ["## Results", "", *_tables(page, "performance", "complexity")]
    if "manual_optimum" in page.tables or "lambda_sweep" in page.figures:
        lines += ["## Manual optimum against self-weighted", "", *_tables(page, "manual_optimum")]
        lines += _figures(page, "lambda_sweep")
    lines += ["## Figures", "", *_figures(page, *(name for name in page.figures if name != "lambda_sweep"))]
    lines += [f"* {text(item.name)}: not shown, {text(item.reason)}" for item in page.missing]
    lines += ["", "## What it cost", "", *_tables(page, "cost"), "## How it was made", ""]
    lines += [f"* {text(label)}: {text(value)}" for label, value in page.facts] + [""]
    lines += [f"* To repeat {text(what)}: `{command}`" for what, command in page.commands] + [""]
    lines += [
        f"Every trial with its key: [tables/trials.csv](tables/trials.csv), {len(page.tables['trials'].rows)} rows."
    ]
    return "\n".join(lines) + "\n"


def _tables(page: _Page, *names: str) -> list[str]:
    return [line for name in names if name in page.tables for line in (tables.to_markdown(page.tables[name]), "")]


def _figures(page: _Page, *names: str) -> list[str]:
    text = tables.escape_markdown
    lines = []
    for name in names:
        if name in page.figures:
            figure = page.figures[name]
            lines += [f"![{text(figure.alt_text)}](figures/{name}.png)", "", f"*Figure.* {text(figure.caption)}", ""]
    return lines
