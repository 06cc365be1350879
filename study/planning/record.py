"""A plan as plain data: what `study plan --json` prints, and what a run leaves in its results folder as ``plan.json``.

The file may come from a stranger: it is read with limits, and checked, like every other file there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from study.result_files import printable, read_plain_file

__all__ = ["BASIS_WORDS", "PLAN_FILE", "Basis", "CellPlan", "Plan", "Spread", "read_plan", "worst"]

PLAN_FILE = "plan.json"
_MOST_BYTES = 20_000_000

# From the best to the worst, of which a sum has the worst.
Basis = Literal["measured", "scaled", "counted"]
BASIS_WORDS: dict[str, str] = {
    "measured": "measured on this kind of device",
    "scaled": "scaled by counted operations from what was measured on this kind of device",
    "counted": "counted operations over a peak; no work like it was measured on this kind of device",
}

_Amount = Annotated[float, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Spread(_Frozen):
    """A figure that is not known exactly: its median, and the interval that holds it with 80 %.

    Attributes:
        median: half of the draws are smaller.
        low, high: 10 % of the draws are smaller, and 10 % are larger.
    """

    median: _Amount
    low: _Amount
    high: _Amount

    @model_validator(mode="after")
    def _ordered(self) -> Spread:
        if not self.low <= self.median <= self.high:
            raise ValueError(f"low ≤ median ≤ high must hold, but they are {self.low}, {self.median}, {self.high}")
        return self

    @classmethod
    def of(cls, draws: ArrayLike) -> Spread:
        """Of equally likely values."""
        low, median, high = np.quantile(np.asarray(draws, float), (0.1, 0.5, 0.9)).tolist()
        return cls(median=median, low=low, high=high)

    def times(self, factor: float) -> Spread:
        """The same in another unit."""
        return Spread(median=self.median * factor, low=self.low * factor, high=self.high * factor)


class CellPlan(_Frozen):
    """What one cell of a study was expected to take.

    Attributes:
        label: the cell in words.
        method: the method's name.
        values: axis → value; the method is among them.
        trials: trials that it asks for.
        seconds: of all of them, summed.
        cost: its share of the money; None where no price is known.
        memory_mb: of one trial.
        basis: where the seconds come from.
    """

    label: str
    method: str
    values: dict[str, Any]
    trials: Annotated[int, Field(ge=0)]
    seconds: Spread
    cost: Spread | None = None
    memory_mb: _Amount | None = None
    basis: Basis


class Plan(_Frozen):
    """What a study was expected to take.

    Attributes:
        format: of the file.
        study, spec_hash: which study.
        made_at: ISO 8601.
        study_version: of the planner.
        cluster: the cluster file.
        machines: what it consists of, in words.
        trainer: ``tune`` or ``ray_train``: how trials were to run.
        slots: trials at the same time.
        trials: trials that were planned.
        stored: trials of the study that were stored already and are no part of the plan.
        seconds: of all trials, summed.
        makespan_seconds: on the clock, from the command to its report.
        beside_seconds: the part of it that is no part of the run, and not in its log: imports, and the report.
        cost: money for the machines over that time; None where no price is known.
        currency: of the cost.
        cost_note: where the price is from, or why there is none.
        energy_kwh: energy of the machines over that time; None where their watts are not known.
        cells: the cells that have trials.
        notes: what a reader must know.
    """

    format: Literal[1] = 1
    study: str
    spec_hash: str
    made_at: str
    study_version: str
    cluster: str
    machines: tuple[str, ...]
    trainer: Literal["tune", "ray_train"] = "tune"
    slots: Annotated[int, Field(ge=1)]
    trials: Annotated[int, Field(ge=0)]
    stored: Annotated[int, Field(ge=0)] = 0
    seconds: Spread
    makespan_seconds: Spread
    beside_seconds: _Amount = 0.0
    cost: Spread | None = None
    currency: str | None = None
    cost_note: str
    energy_kwh: Spread | None = None
    cells: tuple[CellPlan, ...]
    notes: tuple[str, ...] = ()

    @property
    def basis(self) -> Basis:
        """Where most of the seconds come from, at worst."""
        return worst(cell.basis for cell in self.cells)


def worst(bases: Iterable[Basis]) -> Basis:
    """The basis of a sum."""
    order: tuple[Basis, ...] = ("measured", "scaled", "counted")
    return order[max((order.index(basis) for basis in bases), default=0)]


def read_plan(folder: Path) -> Plan | str | None:
    """The plan of a results folder; None where it has none, and what is wrong with it where it cannot be read."""
    path = folder / PLAN_FILE
    try:
        return Plan.model_validate_json(read_plain_file(path, _MOST_BYTES))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return printable(f"{where}: {first['msg']}" if where else first["msg"])[:300]
    except (OSError, ValueError, RecursionError) as error:
        return printable(str(error))[:300]
