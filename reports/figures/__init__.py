"""The figures of a report as SVG, PNG and CSV.

Every figure is a function of `Results` that returns a `Figure`, or says with `Missing` why the study has none. A method
has one colour, line style and marker in every figure; line styles and markers differ, so that a grey print can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from reports.drawing import Figure
from reports.figures.bars import bars
from reports.figures.cdf import cdf
from reports.figures.common import Missing, method_colours, method_styles
from reports.figures.condition_map import condition_map
from reports.figures.confusion import confusion
from reports.figures.error_map import error_map
from reports.figures.lambda_sweep import lambda_sweep
from reports.figures.learning_curves import learning_curves
from reports.figures.planned import planned
from reports.results import Results

__all__ = [
    "FIGURES",
    "Missing",
    "bars",
    "cdf",
    "condition_map",
    "confusion",
    "error_map",
    "lambda_sweep",
    "learning_curves",
    "method_colours",
    "method_styles",
    "planned",
]

FIGURES: Mapping[str, Callable[[Results], Figure | Missing]] = {
    "lambda_sweep": lambda_sweep,
    "cdf": cdf,
    "bars": bars,
    "learning_curves": learning_curves,
    "confusion": confusion,
    "condition_map": condition_map,
    "error_map": error_map,
}
