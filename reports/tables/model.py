"""One table model: what a table is, whatever it is written as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["NOT_APPLICABLE", "Cell", "Column", "Table", "Value"]

Value = float | int | str | None


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: what stands in it.
        unit: the unit, for the header.
        align: where its texts stand; numbers are on the right.
        note: what a reader may ask about it.
        spread: whether its cells carry an interval, which CSV writes into columns of their own.
        quiet: whether it is beside the point (the values of a publication): shown, but not loud.
        extra: whether it may be left out where there is little room.
        names: whether it tells which row this is, and is repeated where a table is split.
    """

    name: str
    unit: str | None = None
    align: Literal["left", "right"] = "right"
    note: str | None = None
    spread: bool = False
    quiet: bool = False
    extra: bool = False
    names: bool = False

    @property
    def header(self) -> str:
        """Name and unit: ``RMSE [m]``."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


@dataclass(frozen=True)
class Cell:
    """A cell: the text a reader sees, and the number behind it.

    Attributes:
        text: the number or word, rounded for reading.
        value: the unrounded number, or the word.
        interval: the interval as text, ``7.93 – 9.71``.
        low, high, n: the unrounded interval and the number of seeds.
        keys: the trials that the cell is made of.
        note: what a reader must know to read the cell: ``3 of 5 seeds``.
        hole: whether something is missing here that the study asks for.
        best: whether the number is bold; what that means, the caption says.
    """

    text: str
    value: Value = None
    interval: str | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    keys: tuple[str, ...] = ()
    note: str | None = None
    hole: bool = False
    best: bool = False

    @property
    def full(self) -> str:
        """Text and interval in one line."""
        return f"{self.text} ({self.interval})" if self.interval else self.text


NOT_APPLICABLE = Cell("–", note="does not apply")


@dataclass(frozen=True)
class Table:
    """A table; ``breaks`` are the rows before which a new group begins."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    breaks: tuple[int, ...] = ()
