"""What the seeds of a table can say: its intervals and tests in words, numbers that may be bold, paired differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from reports.results import REFERENCES, Results, StudyCell, Trial
from reports.statistics import MIN_SEEDS, SIGNIFICANCE, Paired, Row, best_rows, holm
from reports.tables.model import NOT_APPLICABLE, Cell, Column
from reports.tables.numbers import spread

__all__ = [
    "Difference",
    "bold_rows",
    "corrected",
    "describe_bold",
    "describe_interval",
    "describe_test",
    "effect_cell",
    "p_cell",
    "p_columns",
    "values_of",
]

# All pairs of a block are compared, of 40 rows 780; among more of them, Holm's correction would find nothing anyway.
_MOST_COMPARED = 40


def describe_interval(results: Results) -> str:
    """How many seeds, and which interval."""
    seeds = results.spec.seeds
    if seeds == 1:
        return "One seed: no interval."
    return f"Mean over {seeds} seeds with the 95 % bootstrap interval, cut at the range of possible values."


def describe_bold(results: Results, largest: int) -> str:
    """What bold means, or why nothing is bold, where so many rows at most are compared with one another."""
    if results.spec.seeds < MIN_SEEDS:
        return f"No test, and nothing is bold: n < {MIN_SEEDS}."
    return (
        "Bold: no other row of the same system and split is significantly better (paired t-test over the seeds, "
        f"p < {SIGNIFICANCE:g} after Holm's correction over all pairs of these rows)."
        + (f" Of more than {_MOST_COMPARED} such rows none is bold." if largest > _MOST_COMPARED else "")
    )


def describe_test(results: Results, against: str) -> str:
    """The test of paired differences, or why there is none."""
    if results.spec.seeds < MIN_SEEDS:
        return f"n < {MIN_SEEDS}: no p-value."
    return (
        f"Differences from {against} are paired over the seeds, with Student's t interval; p is that of the paired "
        "t-test after Holm's correction over the table; effect is Cohen's d with Hedges' correction."
    )


def values_of(trials: Iterable[Trial], column: str) -> dict[int, float]:
    """Seed → value, of the trials that are done and have one."""
    values = {trial.seed: trial.number(column) for trial in trials if trial.state == "done"}
    return {seed: value for seed, value in values.items() if value is not None}


def bold_rows(groups: Iterable[Sequence[tuple[int, StudyCell]]], column: str, *, lower: bool) -> set[int]:
    """The rows that may be bold in one column, by number.

    A row has to be as good as the others in every group that it belongs to.

    Args:
        groups: rows that can be compared, by number.
        column: of the trial table.
        lower: whether lower values are better.
    """
    good: set[int] = set()
    bad: set[int] = set()
    for group in groups:
        rows: list[tuple[int, Row]] = []
        for number, cell in group:
            if values := values_of(cell.done, column):
                rows.append((number, next(iter(values.values())) if cell.method in REFERENCES else values))
        if len(rows) > _MOST_COMPARED:
            continue
        for (number, _), best in zip(rows, best_rows([row for _, row in rows], lower), strict=True):
            (good if best else bad).add(number)
    return good - bad


@dataclass(frozen=True)
class Difference:
    """A paired comparison with its p-value, corrected over the table."""

    pair: Paired
    p: float | None

    def cell(self, write: Callable[[float], str], trials: Sequence[Trial]) -> Cell:
        """The mean difference with its interval."""
        return spread(self.pair.difference, write, trials, sign=True)


def corrected(pairs: Sequence[Paired | None]) -> list[Difference | None]:
    """The comparisons of a table as one family, for Holm's correction; ``None`` where nothing is compared."""
    p_values = holm([None if pair is None else pair.p for pair in pairs])
    return [None if pair is None else Difference(pair, p) for pair, p in zip(pairs, p_values, strict=True)]


def p_columns(of: str = "") -> tuple[Column, Column]:
    """The columns of `p_cell` and `effect_cell`."""
    what = f", {of}" if of else ""
    return (
        Column(
            f"p{what}", extra=True, note="of the paired t-test over the seeds, after Holm's correction over the table"
        ),
        Column(
            f"Effect{what}", extra=True, note="mean paired difference over its standard deviation, Hedges' correction"
        ),
    )


def p_cell(difference: Difference | None) -> Cell:
    """The corrected p-value; with too few seeds, that."""
    if difference is None or difference.pair.difference is None or difference.pair.exact:
        return NOT_APPLICABLE
    if difference.p is None:
        return Cell(f"n < {MIN_SEEDS}", f"n < {MIN_SEEDS}", note=f"n = {difference.pair.n}: too few seeds for a test")
    text = "< 0.001" if difference.p < 0.001 else f"{difference.p:.3f}"
    return Cell(text, difference.p, n=difference.pair.n, note=f"n = {difference.pair.n}")


def effect_cell(difference: Difference | None) -> Cell:
    """The effect size."""
    if difference is None or difference.pair.effect is None:
        return NOT_APPLICABLE
    effect = difference.pair.effect
    return Cell(f"{effect:+.2f}".replace("-", "−"), effect, n=difference.pair.n)
