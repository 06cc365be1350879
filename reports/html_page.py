"""The report as one HTML file that opens from disk.

A number leads to the trials that it is made of: the rows of the table of trials stand once in the page, and a number
names the rows that are its own. Tables of a large study show their first rows as markup; the others are kept as JSON,
from which the page's script draws them when they are asked for.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from reports import tables
from reports.drawing import INK, PAPER, Figure
from reports.pages import json_block, page_parts, template
from reports.sections import figure_title, sections
from reports.tables import Cell, Table

if TYPE_CHECKING:
    from reports.build import Page

__all__ = ["mark", "report_html", "without_empty_columns"]

STATIC_ROWS = 200
"""Rows of a table that are markup; a browser draws thousands of them slowly, and they are ten times as long as JSON."""

PAGE_ROWS = 10_000
"""Rows of a table that are in the page at all; the CSV file has every one."""

_MARKS = {
    "supported": "M8 0a8 8 0 1 0 0 16A8 8 0 0 0 8 0M7 12 3 8l1.5-1.5L7 9l4.5-4.5L13 6z",
    "refuted": "M8 0l8 8-8 8-8-8zM5.6 4.6l-1 1L7 8l-2.4 2.4 1 1L8 9l2.4 2.4 1-1L9 8l2.4-2.4-1-1L8 7z",
    "inconclusive": "M8 0a8 8 0 1 0 0 16A8 8 0 0 0 8 0M8 2.5a5.5 5.5 0 1 1 0 11 5.5 5.5 0 0 1 0-11",
    # Of an actual value beside a planned interval.
    "inside": "M0 3h2.5v10H0zM13.5 3H16v10h-2.5zM8 4.5a3.5 3.5 0 1 0 0 7a3.5 3.5 0 0 0 0-7",
    "above": "M8 1l7 9H1zM1 12.5h14V15H1z",
    "below": "M8 15L1 6h14zM1 1h14v2.5H1z",
}
_MARKED = ("claims", "planned", "planned_axes", "planned_totals")


def mark(word: str) -> Markup:
    """The mark of a judged claim or of a kept plan: a shape, a word and a colour."""
    shape = '<svg viewBox="0 0 16 16" aria-hidden="true"><path fill-rule="evenodd" d="{1}"/></svg>'
    return Markup(f'<span class="mark {{0}}">{shape}{{0}}</span>').format(word, _MARKS[word])


def report_html(page: Page, colours: Mapping[str, str], *, single: bool) -> str:
    """The whole page.

    Args:
        page: what it shows.
        colours: method → colour, which the page adapts to a dark background.
        single: whether the study has one system configuration.
    """
    trials = _Trials(page.tables["trials"])
    return template("report.html.j2").render(
        page=page,
        parts=page_parts(),
        headline=_unbroken(page.headline),
        sections=sections(page.tables, page.figures, bool(page.missing)),
        captions={name: _without(figure.caption, page.common) for name, figure in page.figures.items()},
        titles={name: figure_title(name) for name in page.figures},
        # Fragments from our own templates and from matplotlib, both of which escape; everything else is plain text.
        tables={name: _table_html(table, trials, page.common) for name, table in page.tables.items()},
        drawings={name: Markup(_inline(figure, colours)) for name, figure in page.figures.items()},
        single=single,
        sets=json_block(trials.sets()),
    )


# ------------------------------------------------------------------------------------------------- numbers and trials


class _Trials:
    """Which rows of the table of trials a number is made of; equal sets are kept once."""

    def __init__(self, table: Table) -> None:
        self._rows: dict[str, int] = {}
        for number, row in enumerate(table.rows[:PAGE_ROWS]):
            for key in row[-1].keys:
                self._rows.setdefault(key, number)
        self._sets: dict[str, int] = {}

    def trials_of(self, cell: Cell) -> int | None:
        """The number of the cell's set; None where the page has none of its trials."""
        rows = sorted({self._rows[key] for key in cell.keys if key in self._rows})
        return self._sets.setdefault(_ranges(rows), len(self._sets)) if rows else None

    def target_of(self, cell: Cell) -> str:
        """Where a number leads when no script runs: its first trial, or the file with all of them."""
        first = min((self._rows[key] for key in cell.keys if key in self._rows), default=STATIC_ROWS)
        keys = {self._rows[key]: key for key in cell.keys if key in self._rows}
        return f"#trial-{keys[first]}" if first < STATIC_ROWS else "tables/trials.csv"

    def sets(self) -> list[str]:
        """Every set as ranges of row numbers: ``0-2,7``."""
        return list(self._sets)


def _ranges(numbers: Sequence[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


@dataclass(frozen=True)
class _TablePage:
    """What the page adds to a table."""

    trials: _Trials
    is_trials: bool
    is_claims: bool
    is_marked: bool
    rest: Markup | None
    static_rows: int

    def trials_of(self, cell: Cell) -> int | None:
        """See `_Trials.trials_of`."""
        return self.trials.trials_of(cell)

    def target_of(self, cell: Cell) -> str:
        """See `_Trials.target_of`."""
        return self.trials.target_of(cell)

    def mark_of(self, cell: Cell) -> Markup | None:
        """The mark of a verdict; None for other cells."""
        return mark(cell.text) if self.is_marked and cell.text in _MARKS else None


def _table_html(table: Table, trials: _Trials, common: Sequence[str]) -> Markup:
    whole_table, table = table, replace(without_empty_columns(table), caption=_without(table.caption, common))
    is_trials = table.name == "trials"
    later = table.rows[STATIC_ROWS:PAGE_ROWS]
    rest = {
        "rows": [[_cell_json(cell, trials, is_trials, cell is row[-1]) for cell in row] for row in later],
        "breaks": [number for number in table.breaks if STATIC_ROWS <= number < PAGE_ROWS],
        "total": len(table.rows),
    }
    content: dict[str, Any] = {
        "page": _TablePage(
            trials,
            is_trials,
            table.name == "claims",
            table.name in _MARKED,
            json_block(rest) if later else None,
            STATIC_ROWS,
        )
    }
    # A text of thousands of rows is taken from the file, which lies beside the page.
    whole = not later
    content["csv"] = tables.to_csv(whole_table) if whole else None
    content["markdown"] = tables.to_markdown(whole_table) if whole else None
    content["latex"] = tables.to_latex(whole_table) if whole else None
    return Markup(template("table.html.j2").render(table=table, **content))


def without_empty_columns(table: Table) -> Table:
    """The table without the columns that have nothing in them but dashes; the files keep them."""
    shown = [
        number
        for number in range(len(table.columns))
        if not number
        or not table.rows
        or any(row[number].text not in ("", "–") or row[number].keys for row in table.rows)
    ]
    return replace(
        table,
        columns=tuple(table.columns[number] for number in shown),
        rows=tuple(tuple(row[number] for number in shown) for row in table.rows),
    )


def _without(caption: str, common: Sequence[str]) -> str:
    """A caption without the sentences that the page says above."""
    for sentence in common:
        caption = caption.replace(sentence, "")
    return " ".join(caption.split())


def _cell_json(cell: Cell, trials: _Trials, is_trials: bool, last: bool) -> list[Any]:
    """A cell as the page's script reads it: text, value (true where it is the text), and what else there is."""
    more: dict[str, Any] = {}
    if cell.interval:
        more["i"] = cell.interval
    if is_trials:
        if last:
            more["k"] = cell.keys[0]
    elif cell.keys and cell.text and (number := trials.trials_of(cell)) is not None:
        more["s"] = number
    if cell.hole:
        more["h"] = 1
    if cell.best:
        more["b"] = 1
    if cell.note:
        more["t"] = cell.note
        if is_trials and cell.hole:
            more["w"] = cell.note
    value = True if cell.value == cell.text else cell.value
    return [cell.text, value, more] if more else [cell.text, value]


# ------------------------------------------------------------------------------------------------- words and drawings


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
