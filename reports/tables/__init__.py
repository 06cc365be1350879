"""The tables of a report: one table model, several renderings with the same numbers in the same order.

Builders (``performance``, ``gains``, ``complexity``, …) read ``Results`` and give a ``Table``, or ``None`` where the
study has nothing for it; renderings (``to_html``, ``to_markdown``, …) read a ``Table`` and know nothing of studies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from reports.results import Results
from reports.tables.complexity import complexity
from reports.tables.cost import cost, describe_early_stopping
from reports.tables.gains import gains
from reports.tables.latex import escape_latex, to_latex
from reports.tables.manual_optimum import manual_optimum
from reports.tables.model import Cell, Column, Table
from reports.tables.numbers import distance_decimals, si_count
from reports.tables.performance import performance
from reports.tables.planned import planned, planned_axes, planned_totals
from reports.tables.renderings import escape_markdown, to_csv, to_html, to_markdown, to_terminal
from reports.tables.selection_gap import selection_gap
from reports.tables.trial_list import trial_list
from reports.tables.words import describe_selection, describe_split

__all__ = [
    "TABLES",
    "Cell",
    "Column",
    "Table",
    "complexity",
    "cost",
    "describe_early_stopping",
    "describe_selection",
    "describe_split",
    "distance_decimals",
    "escape_latex",
    "escape_markdown",
    "gains",
    "manual_optimum",
    "performance",
    "planned",
    "planned_axes",
    "planned_totals",
    "selection_gap",
    "si_count",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
    "to_terminal",
    "trial_list",
]

TABLES: Mapping[str, Callable[[Results], Table | None]] = {
    "performance": performance,
    "gains": gains,
    "manual_optimum": manual_optimum,
    "complexity": complexity,
    "selection_gap": selection_gap,
}
"""The tables that a spec's ``report.tables`` may name."""
