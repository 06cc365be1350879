"""How many epochs were worth it so far: the best epochs of stored trials that are like those of a study."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from study.planning.workload import Workload
from study.spec.trial import canonical_json

__all__ = ["Convergence", "Epochs", "convergence"]


@dataclass(frozen=True)
class Epochs:
    """Best epochs of a cell's trials.

    Attributes:
        label: the cell.
        trials: how many there are.
        lowest, median, highest: their best epochs.
        planned: the most epochs that one of them had.
    """

    label: str
    trials: int
    lowest: int
    median: int
    highest: int
    planned: int

    @property
    def settled(self) -> bool:
        """Whether the last epochs brought nothing: a best epoch near the end says that more might have."""
        return self.highest <= 0.8 * self.planned


@dataclass(frozen=True)
class Convergence:
    """What is known of the cells of a study.

    Attributes:
        cells: the cells that have trials.
        unknown: how many trained cells have none.
    """

    cells: tuple[Epochs, ...]
    unknown: int

    def needed_epochs(self, margin: float) -> int | None:
        """Epochs that would have done for all cells, with a margin; None where that is not known of one."""
        if self.unknown or not self.cells or not all(cell.settled for cell in self.cells):
            return None
        return math.ceil(margin * max(cell.highest for cell in self.cells))


def convergence(load: Workload, rows: Iterable[Mapping[str, Any]]) -> Convergence:
    """Best epochs of the cells of a study, from whatever trials are stored.

    Trials count that differ from the cell's in seed, epochs and searched values alone, and ran all their epochs.

    Args:
        load: the study's cells.
        rows: rows of the trial table, of any study.
    """
    usable = [row for row in rows if row["state"] == "done" and row["best_epoch"] is not None and row["epochs"]]
    best: dict[tuple[str, ...], dict[str, list[tuple[int, int]]]] = {}
    cells, unknown = [], 0
    for cell in load.cells:
        if not cell.cell.trained:
            continue
        free = ("training.epochs", *(cell.cell.search.space if cell.cell.search else ()))
        if free not in best:
            best[free] = _by_essence(usable, free)
        found = best[free].get(_essence(cell.cell.text, free) or "")
        if not found:
            unknown += 1
            continue
        epochs = sorted(epoch for epoch, _ in found)
        planned = max(ran for _, ran in found)
        cells.append(Epochs(cell.cell.label, len(epochs), epochs[0], epochs[len(epochs) // 2], epochs[-1], planned))
    return Convergence(tuple(cells), unknown)


def _by_essence(rows: Iterable[Mapping[str, Any]], free: tuple[str, ...]) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    known: dict[str, str | None] = {}  # the seeds of a candidate have one text
    for row in rows:
        text = row["config"]
        if text not in known:
            known[text] = _essence(text, free)
        if (essence := known[text]) is not None:
            found.setdefault(essence, []).append((row["best_epoch"], row["epochs"]))
    return found


def _essence(text: str, free: tuple[str, ...]) -> str | None:
    """A configuration without the values at some key paths."""
    try:
        config = json.loads(text)
        for path in free:
            *parents, last = path.split(".")
            place = config
            for name in parents:
                place = place[name]
            place.pop(last, None)
        return canonical_json(config)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):  # a reference row, or of a stranger
        return None
