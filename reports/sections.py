"""The order of a report: which tables and figures stand in which section, of the page and of the Markdown file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Part", "Section", "sections"]


@dataclass(frozen=True)
class Part:
    """Tables and figures under one heading."""

    heading: str = ""
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A section of the page; ``short`` is its name in the list of sections."""

    id: str
    short: str
    title: str
    parts: tuple[Part, ...] = ()


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
        (
            Part("Localization error", figures=("cdf", "error_map")),
            Part("Propagation conditions", figures=("confusion", "condition_map")),
            Part("Training", figures=("learning_curves",)),
        ),
    ),
    Section("cost", "Cost", "What it cost", (Part(tables=("cost",)),)),
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
                part.heading,
                tuple(name for name in part.tables if name in own_tables),
                tuple(name for name in part.figures if name in own_figures),
            )
            for part in section.parts
        ]
        parts = [part for part in parts if part.tables or part.figures]
        if parts or section.id == "method" or (section.id == "figures" and missing):
            found.append(Section(section.id, section.short, section.title, tuple(parts)))
    return found
