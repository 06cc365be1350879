"""How every figure is drawn and written: as SVG, PNG and CSV.

Figures are drawn on ``Figure`` objects of matplotlib, never through pyplot: no global state, no window, no leak.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from reports.csv_fields import csv_text
from study.errors import ResultsError

__all__ = ["INK", "PAPER", "WIDTH", "Figure", "as_csv", "check_figure_name", "drawing", "write_figure"]

WIDTH = 7.1
"""Inches: the text width of an A4 page with the report's margins."""

INK = "#1b1f24"
"""The colour of text and axes; the page replaces it by the colour of its text."""

PAPER = '<rect width="100%" height="100%" fill="white"/>'
"""The background of an SVG file; the page removes it."""


RASTER_DPI = 220
"""Dots per inch of the layers of an SVG that are images."""

# XML has no place for them, not even escaped: control characters, halves of surrogate pairs, non-characters.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Figure:
    """A finished figure: ``svg`` and ``png`` as files hold them, ``data`` as CSV."""

    name: str
    caption: str
    alt_text: str
    svg: str
    png: bytes
    data: str


@contextlib.contextmanager
def drawing() -> Iterator[Callable[[Canvas, str], tuple[str, bytes]]]:
    """The settings of every figure; yields the function that writes one."""
    settings: Any = {
        "font.family": ["DejaVu Sans"],  # ships with matplotlib, so that layouts agree on every machine
        "font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 8,
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": INK,
        "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
        "ytick.major.size": 2.5, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.color": INK, "grid.alpha": 0.1, "grid.linewidth": 0.5, "axes.axisbelow": True, "lines.linewidth": 1.5,
        "axes.facecolor": "none", "savefig.dpi": 160,
        # Text stays text: small, searchable and in the reader's own font.
        "svg.fonttype": "none",
        # A "$" in a name is a dollar sign, not a formula.
        "text.parse_math": False, "axes.formatter.use_mathtext": False,
    }  # fmt: skip

    def write(canvas: Canvas, name: str) -> tuple[str, bytes]:
        FigureCanvasAgg(canvas)
        picture, drawing = io.BytesIO(), io.StringIO()
        canvas.savefig(picture, format="png", facecolor="white")
        # Both have one layout; finding it takes half of the time.
        canvas.set_layout_engine("none")
        # The salt gives the same ids in every build, and different ones in every figure of a page.
        with mpl.rc_context({"svg.hashsalt": name}):
            canvas.savefig(
                drawing,
                format="svg",
                dpi=RASTER_DPI,
                facecolor="none",
                metadata={"Date": None, "Creator": None, "Type": None, "Format": None},
            )
        return _clean_svg(drawing.getvalue(), name), picture.getvalue()

    with mpl.rc_context(settings), warnings.catch_warnings():
        # A PNG shows a box for a letter that the font lacks; an SVG has the letter, and the reader's font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield write


def _clean_svg(svg: str, name: str) -> str:
    """Without prologue and metadata, with ids that are unique on a page, in the reader's font."""
    svg = _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", svg[svg.index("<svg") :])
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # A hundredth of a point is finer than any screen or print; the rest of the digits is half of a file.
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    svg = re.sub(r'(?<= )([xy]="-?\d+\.\d\d)\d+"', r'\1"', svg)
    # Nothing refers to a picture, and two equal ones have one id.
    svg = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", svg)
    svg = re.sub(r'(?<=[ ])id="([^"<>]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"<>]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^()]+)\)", rf"url(#{name}-\1)", svg)
    svg = svg.replace("'DejaVu Sans'", "system-ui, -apple-system, 'Segoe UI', sans-serif")
    # A file is read on its own, perhaps in a dark viewer: it brings its paper. The page takes it away again.
    return re.sub(r"(<svg[^>]*>)", rf"\1{PAPER}", svg, count=1)


def as_csv(data: pd.DataFrame) -> str:
    """The numbers of a figure as CSV."""
    return data.map(lambda value: csv_text(value) if isinstance(value, str) else value).to_csv(
        index=False, float_format="%.10g", lineterminator="\n"
    )


def check_figure_name(path: Path) -> None:
    """Whether a figure can be written under a name, before it is drawn.

    Raises:
        ResultsError: its suffix is another than .svg or .png.
    """
    if path.suffix.lower() not in (".svg", ".png"):
        raise ResultsError(
            f"a figure cannot be written as {path.suffix or 'a file without a suffix'}",
            where=str(path),
            allowed="a file name that ends in .svg or .png",
            fix=f"name it {path.with_suffix('.svg').name}" if path.name else "name a file",
        )


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as one file, whole or not at all.

    Args:
        figure: the figure.
        path: where to, with the suffix of what it is: .svg or .png.

    Raises:
        ResultsError: another suffix, or a place that cannot be written.
    """
    check_figure_name(path)
    content = figure.png if path.suffix.lower() == ".png" else figure.svg.encode("utf-8")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        # A name that is a folder would only be refused when all is written.
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise ResultsError(
            f"the figure cannot be written: {error.strerror or error}",
            where=str(path),
            allowed="a file in a folder that exists and that this user can write to, with free space",
            fix="choose another file, or make its folder first",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
