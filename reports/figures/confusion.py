"""Confusion matrices of the propagation conditions."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from reports.drawing import WIDTH, Figure, as_csv, drawing
from reports.figures.common import (
    Missing,
    grey_readable,
    left_out,
    mean_words,
    panels,
    reference,
    seeds_words,
    sentences,
    shortened,
    trained_for,
    untrained_words,
    weights_words,
    without_mean,
)
from reports.results import Results, StudyCell

__all__ = ["confusion"]

_ACCURACY = "test_accuracy"
_COLUMNS = 5
_MAX_MATRICES = 20
_MOST_CLASSES = 8


@dataclass(frozen=True)
class _Matrix:
    """Counts [true, predicted] of one cell, summed over its seeds."""

    cell: StudyCell
    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    runs: int

    @property
    def shares(self) -> NDArray[np.float64]:
        """Each row over its sum; NaN where a class did not occur."""
        sums = self.counts.sum(axis=1, keepdims=True)
        result: NDArray[np.float64] = np.divide(
            self.counts, sums, out=np.full(self.counts.shape, np.nan), where=sums > 0
        )
        return result


def confusion(results: Results) -> Figure | Missing:
    """Confusion matrices of every method that predicts conditions, rows normalized."""
    shown, more = panels(results)
    untrained = untrained_words(shown, _ACCURACY)
    found = {
        name: matrices
        for name, cells in shown.items()
        if (matrices := [matrix for cell in without_mean(cells) if (matrix := _matrix(cell)) is not None])
    }
    if not found:
        return Missing(
            "confusion", "no method of the study is trained to predict propagation conditions, or none has finished"
        )
    drawn, left = _fitting(found)
    with drawing() as draw:
        canvas = _draw(drawn)
        svg, png = draw(canvas, "confusion")
    every = [matrix for matrices in drawn.values() for matrix in matrices]
    trained = [matrix for matrix in every if not reference(matrix.cell.method)] or every
    caption = (
        "Confusion of the propagation conditions on the test scenes: share of each true condition (row) that was "
        "predicted as each condition (column), and number of samples, "
        f"{seeds_words((matrix.cell for matrix in trained), (matrix.runs for matrix in trained), cut=False)} pooled. "
        f"Rows add up to 100 %; the diagonal is the recall."
        f"{mean_words(cell for name in drawn for cell in shown[name])}{untrained}{weights_words(results)}"
        f"{left_out([*left, *more])}"
    )
    alt = "Confusion matrices. " + sentences(
        (f"{name}, " if name else "")
        + f"{matrix.cell.method}: recall "
        + ", ".join(
            f"{label} {share:.0%}" if math.isfinite(share) else f"{label} did not occur"
            for label, share in zip(matrix.classes, np.diag(matrix.shares), strict=True)
        )
        for name, matrices in drawn.items()
        for matrix in matrices
    )
    rows = [
        (name, matrix.cell.method, true, predicted, int(matrix.counts[i, j]), float(matrix.shares[i, j]))
        for name, matrices in drawn.items()
        for matrix in matrices
        for i, true in enumerate(matrix.classes)
        for j, predicted in enumerate(matrix.classes)
    ]
    data = pd.DataFrame(rows, columns=["configuration", "method", "true", "predicted", "samples", "share_of_true"])
    return Figure("confusion", caption, alt, svg, png, as_csv(data))


def _matrix(cell: StudyCell) -> _Matrix | None:
    """The counts of a cell; trials without any, not trained to predict, or of other classes do not count."""
    classes: tuple[str, ...] | None = None
    counts: list[NDArray[np.int64]] = []
    for trial in trained_for(cell.done, _ACCURACY):
        names, values = trial.row.get("classes"), trial.row.get("confusion")
        if not names or not values or len(names) > _MOST_CLASSES:
            continue
        own = tuple(str(name) for name in names)
        classes = classes or own
        if own == classes:
            counts.append(np.asarray(values, dtype=np.int64).reshape(len(own), len(own)))
    if classes is None:
        return None
    total = np.sum(counts, axis=0)
    return _Matrix(cell, classes, total, len(counts)) if total.sum() > 0 else None


def _fitting(found: dict[str, list[_Matrix]]) -> tuple[dict[str, list[_Matrix]], list[str]]:
    """As many whole configurations as the figure has room for, and the names of the others; always the first."""
    drawn: dict[str, list[_Matrix]] = {}
    left = []
    for name, matrices in found.items():
        if drawn and sum(map(len, drawn.values())) + len(matrices) > _MAX_MATRICES:
            left.append(name)
        else:
            drawn[name] = matrices[:_MAX_MATRICES]
    return drawn, left


def _draw(drawn: dict[str, list[_Matrix]]) -> Canvas:
    """A block of small multiples for each configuration; blocks of few matrices stand side by side."""
    columns = min(_COLUMNS, max(len(matrices) for matrices in drawn.values()))
    beside = min(len(drawn), max(1, _COLUMNS // columns))
    size = min(1.75, WIDTH / (columns * beside) - 0.1)
    lines = math.ceil(max(len(matrices) for matrices in drawn.values()) / columns)
    high = lines * (size + 0.5) + (0.25 if any(drawn) else 0.05)
    rows = math.ceil(len(drawn) / beside)
    canvas = Canvas(figsize=(WIDTH, rows * high), layout="constrained")
    # Few matrices keep their size: the rest of the width stays empty.
    wide = min(beside * (columns * size + 0.55), WIDTH)
    ratios = [*[wide / beside] * beside, *([WIDTH - wide] if WIDTH - wide > 0.1 else [])]
    blocks = canvas.subfigures(rows, len(ratios), squeeze=False, width_ratios=ratios)[:, :beside].ravel()
    for block, (name, matrices) in zip(blocks, drawn.items(), strict=False):
        grid = block.subplots(lines, columns, squeeze=False)
        for number, axis in enumerate(grid.ravel().tolist()):
            if number < len(matrices):
                _draw_matrix(axis, matrices[number], first=number % columns == 0)
            else:
                axis.set_visible(False)
        if name:
            room = 105 // beside
            block.suptitle(textwrap.fill(shortened(name, 2 * room), room), x=0.01, ha="left", fontsize=8)
    return canvas


def _draw_matrix(axis: Axes, matrix: _Matrix, *, first: bool) -> None:
    import seaborn

    shares = matrix.shares
    words = [
        [_words(share, count) for share, count in zip(row, counts, strict=True)]
        for row, counts in zip(shares, matrix.counts.tolist(), strict=True)
    ]
    labels = [shortened(name, 8) for name in matrix.classes]
    few = len(labels) <= 3
    seaborn.heatmap(
        shares, ax=axis, vmin=0.0, vmax=1.0, cmap=grey_readable(), annot=np.array(words), fmt="", cbar=False,
        square=True, linewidths=0.6, linecolor="#ffffff", xticklabels=labels, yticklabels=labels,
        annot_kws={"fontsize": 7 if few else 5.5, "linespacing": 1.25},
    )  # fmt: skip
    axis.grid(visible=False)
    for text, share in zip(axis.texts, shares[np.isfinite(shares)], strict=False):
        text.set_color(_ink_on(float(share)))
    axis.tick_params(length=0, labelrotation=0)
    if not few:
        axis.tick_params(axis="x", labelrotation=90)
    axis.set_title(shortened(matrix.cell.method, 24), fontsize=8, loc="left")
    axis.set_xlabel("Predicted")
    axis.set_ylabel("True" if first else "")
    if not first:
        axis.set_yticklabels([])


def _ink_on(share: float) -> str:
    """White or near black, whichever stands out more from a cell: relative luminance after WCAG 2, section 1.4.3."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in grey_readable()(share)[:3]
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#1a1a1a" if luminance > 0.18 else "#ffffff"


def _words(share: float, count: int) -> str:
    return f"{share:.1%}".replace("%", " %") + f"\n{count:,}" if math.isfinite(share) else ""
