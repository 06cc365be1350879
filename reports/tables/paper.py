"""Columns for the values of a publication, and for how far the study's own are from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from reports.statistics import Interval
from reports.tables.model import NOT_APPLICABLE, Cell, Column
from reports.tables.numbers import fixed, signed

__all__ = ["PAPER_NOTE", "PaperColumns"]

PAPER_NOTE = (
    "Paper: the published values, on the original data; difference: this study minus the paper. Absolute metres and "
    "epochs can be compared on the original data only, counts of parameters and operations everywhere."
)


class PaperColumns:
    """Two columns beside one number, when any row has a published value for it; otherwise none.

    Args:
        name, unit: of the column that they stand beside.
        field: the number's name in ``published``.
        rows: the published values of each row.
        write: how the number is written.
        relative: whether the difference is in per cent of the paper's value.
    """

    def __init__(
        self,
        name: str,
        unit: str | None,
        field: str,
        rows: Sequence[Mapping[str, float]],
        write: Callable[[float], str],
        *,
        relative: bool = False,
    ) -> None:
        self._field, self._write, self._relative = field, write, relative
        self.shown = any(field in row for row in rows)
        self.columns = (
            (
                Column(f"{name}, paper", unit, quiet=True, note="as published, on the original data"),
                Column(f"{name}, difference", "%" if relative else unit, quiet=True, note="this study minus the paper"),
            )
            if self.shown
            else ()
        )

    def cells(self, published: Mapping[str, float], own: Interval | float | None) -> list[Cell]:
        """The cells of one row, whose own number (of an interval, the mean) may be missing."""
        if not self.shown:
            return []
        value = published.get(self._field)
        if value is None:
            return [NOT_APPLICABLE, NOT_APPLICABLE]
        paper = Cell(self._write(value), value)
        if own is None:
            return [paper, NOT_APPLICABLE]
        number = own.mean if isinstance(own, Interval) else own
        difference = 100 * (number / value - 1) if self._relative else number - value
        return [paper, Cell(signed(difference, fixed(2) if self._relative else self._write), difference)]
