"""The order of a report: which tables and figures stand in which section, of the page and of the Markdown file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Part", "Section", "figure_title", "sections", "short_title"]

_SHORT = {
    "performance": "Errors and accuracy", "bars": "Bars", "gains": "Gains", "selection_gap": "Selection",
    "complexity": "Complexity", "manual_optimum": "Table", "lambda_sweep": "λ sweep", "cdf": "CDF",
    "error_map": "Error map", "confusion": "Confusion", "condition_map": "Condition map",
    "learning_curves": "Learning curves", "cost": "Trials and time", "planned": "Planned and actual",
    "planned_totals": "On the clock", "planned_axes": "By axis",
}  # fmt: skip
_FIGURES = {
    "bars": "Error and accuracy as bars",
    "lambda_sweep": "Error and accuracy over λ",
    "cdf": "Distribution of the localization error",
    "error_map": "Where localization fails",
    "confusion": "Which conditions are confused",
    "condition_map": "Where conditions are predicted wrongly",
    "learning_curves": "Learning curves",
    "planned": "Planned and actual time by method",
}


@dataclass(frozen=True)
class Part:
    """Tables, and the figures that follow them."""

    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A section of the page; ``short`` is its name in the list of sections."""

    id: str
    short: str
    title: str
    parts: tuple[Part, ...] = ()

    @property
    def items(self) -> list[tuple[str, str]]:
        """Ids and short names of what stands in it, for the list of sections; none where it is one thing only."""
        found = [
            (f"{kind}-{name}", short_title(name))
            for part in self.parts
            for kind, names in (("table", part.tables), ("figure", part.figures))
            for name in names
            if kind == "table" or name not in part.tables  # it stands below the table of its name
        ]
        return found if len(found) > 1 else []


def figure_title(name: str) -> str:
    """The heading of a figure."""
    return _FIGURES.get(name, _words(name))


def short_title(name: str) -> str:
    """A table or figure in a list of contents."""
    return _SHORT.get(name, _words(name))


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


_SECTIONS = (
    Section("claims", "Claims", "Claims", (Part(tables=("claims",)),)),
    Section(
        "results", "Results", "Results",
        (Part(tables=("performance",), figures=("bars",)), Part(tables=("gains", "selection_gap", "complexity"))),
    ),
    Section(
        "weights", "Manual optimum", "Manual optimum against self-weighted",
        (Part(tables=("manual_optimum",), figures=("lambda_sweep",)),),
    ),
    Section(
        "figures", "Figures", "Figures",
        (Part(figures=("cdf", "error_map", "confusion", "condition_map", "learning_curves")),),
    ),
    Section(
        "cost", "Cost", "What it cost",
        (
            Part(tables=("cost",)), Part(tables=("planned",), figures=("planned",)),
            Part(tables=("planned_totals", "planned_axes")),
        ),
    ),
    Section("method", "How it was made", "How it was made"),
)  # fmt: skip


def sections(table_names: Iterable[str], figure_names: Iterable[str], missing: bool) -> list[Section]:
    """The sections that the page has something for, in the order of the report.

    Args:
        table_names: the tables of the report.
        figure_names: its figures.
        missing: whether there are figures that the study has no data for; they are named among the figures.
    """
    own_tables, own_figures = list(table_names), list(figure_names)
    found = []
    for section in _SECTIONS:
        parts = [
            Part(
                tuple(name for name in part.tables if name in own_tables),
                tuple(name for name in part.figures if name in own_figures),
            )
            for part in section.parts
        ]
        parts = [part for part in parts if part.tables or part.figures]
        if parts or section.id == "method" or (section.id == "figures" and missing):
            found.append(Section(section.id, section.short, section.title, tuple(parts)))
    return found
