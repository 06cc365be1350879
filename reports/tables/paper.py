"""Columns for the values of a publication, and for how far the study's own are from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from reports.results import Results
from reports.statistics import Interval
from reports.tables.model import NOT_APPLICABLE, Cell, Column
from reports.tables.numbers import signed
from study.selection import config_value

__all__ = ["PAPER_NOTE", "PaperColumns", "planned_as_published"]

PAPER_NOTE = (
    "Paper: the published values, on the original data; difference: this study minus the paper. Metres can be compared "
    "on the same data only and have no difference, nor have epochs unless all trials were planned for 2000 of them, as "
    "in the paper."
)
_EPOCHS = 2000  # of the paper's Section V


def planned_as_published(results: Results) -> bool:
    """Whether the trials are planned for as many epochs as the paper's, so that best epochs can be compared."""
    return all(config_value(trial.config, "training.epochs") == _EPOCHS for trial in results.trials)


class PaperColumns:
    """What was published beside one number, and the difference, when any row has a published value; otherwise none.

    Args:
        name, unit: of the column that they stand beside.
        field: the number's name in ``published``.
        rows: the published values of each row.
        write: how the published number is written.
        difference: how the difference is written; ``None`` where the numbers cannot be compared.
        relative: whether the difference is in per cent of the paper's value.
    """

    def __init__(
        self,
        name: str,
        unit: str | None,
        field: str,
        rows: Sequence[Mapping[str, float]],
        write: Callable[[float], str],
        difference: Callable[[float], str] | None,
        *,
        relative: bool = False,
    ) -> None:
        self._field, self._write, self._difference, self._relative = field, write, difference, relative
        self.shown = any(field in row for row in rows)
        columns = [Column(f"{name}, paper", unit, quiet=True, note="as published, on the original data")]
        if difference is not None:
            unit = "%" if relative else unit
            columns.append(Column(f"{name}, difference", unit, quiet=True, note="this study minus the paper"))
        self.columns = tuple(columns) if self.shown else ()

    def cells(self, published: Mapping[str, float], own: Interval | float | None) -> list[Cell]:
        """The cells of one row, whose own number (of an interval, the mean) may be missing."""
        if not self.shown:
            return []
        value = published.get(self._field)
        paper = NOT_APPLICABLE if value is None else Cell(self._write(value), value)
        if self._difference is None:
            return [paper]
        if value is None or own is None:
            return [paper, NOT_APPLICABLE]
        number = own.mean if isinstance(own, Interval) else own
        difference = 100 * (number / value - 1) if self._relative else number - value
        return [paper, Cell(signed(difference, self._difference), difference)]
