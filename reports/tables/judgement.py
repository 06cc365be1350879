"""What the seeds of a table can say: its intervals and tests in words, numbers that may be bold, paired differences."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from reports.results import REFERENCES, Results, StudyCell, Trial
from reports.statistics import MIN_SEEDS, SIGNIFICANCE, Paired, holm, paired
from reports.tables.model import NOT_APPLICABLE, Cell, Column
from reports.tables.numbers import spread

__all__ = [
    "MOST_COMPARED",
    "Difference",
    "beaten_by",
    "bold_candidates",
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
MOST_COMPARED = 40


def describe_interval(results: Results) -> str:
    """How many seeds, and which interval."""
    seeds = results.spec.seeds
    if seeds == 1:
        return "One seed: no interval."
    return (
        f"Mean over {seeds} seeds with the 95 % bootstrap interval, widened for few seeds and cut at the range of "
        "possible values."
    )


def describe_bold(results: Results, largest: int) -> str:
    """What bold means, or why nothing is bold, where so many candidates at most are compared with one another."""
    if results.spec.seeds < MIN_SEEDS:
        return f"No test, and nothing is bold: n < {MIN_SEEDS}."
    return (
        f"Bold: among the networks with {MIN_SEEDS} or more finished seeds (two or more of the same system and split), "
        "no other is significantly better (paired t-test over the common seeds, "
        f"p < {SIGNIFICANCE:g} after Holm's correction over all pairs of these rows)."
        + (" References stand apart and are never bold." if any(n in REFERENCES for n in results.methods) else "")
        + (f" Of more than {MOST_COMPARED} such rows none is bold." if largest > MOST_COMPARED else "")
    )


def describe_test(results: Results, against: str, family: str = "over the table") -> str:
    """The test of paired differences, or why there is none.

    Args:
        results: of the study.
        against: what the rows are compared with.
        family: over what the p-values are corrected.
    """
    if results.spec.seeds < MIN_SEEDS:
        return f"n < {MIN_SEEDS}: no p-value."
    return (
        f"Differences from {against} are paired over the seeds, with Student's t interval; p is that of the paired "
        f"t-test after Holm's correction {family}; effect is Cohen's d_z (the mean paired difference over its standard "
        "deviation) with Hedges' correction."
    )


def values_of(trials: Iterable[Trial], column: str) -> dict[int, float]:
    """Seed → value, of the trials that are done, were trained for the column and have a value."""
    values = {trial.seed: trial.number(column) for trial in trials if trial.state == "done" and trial.trains(column)}
    return {seed: value for seed, value in values.items() if value is not None}


def bold_rows(groups: Iterable[Sequence[tuple[int, StudyCell]]], column: str, *, lower: bool) -> set[int]:
    """The rows that may be bold in one column, by number.

    A row must not be beaten in any group that it belongs to. References are no candidates: they have no seeds.

    Args:
        groups: rows that can be compared, by number.
        column: of the trial table.
        lower: whether lower values are better.
    """
    good: set[int] = set()
    bad: set[int] = set()
    for group in groups:
        rows = bold_candidates(group, column)
        if not 2 <= len(rows) <= MOST_COMPARED:
            continue
        for (number, _), others in zip(rows, beaten_by([values for _, values in rows], lower=lower), strict=True):
            (bad if others else good).add(number)
    return good - bad


def bold_candidates(group: Sequence[tuple[int, StudyCell]], column: str) -> list[tuple[int, dict[int, float]]]:
    """The trained rows of a group with enough finished seeds, by number: seed → value."""
    rows = [(number, values_of(cell.done, column)) for number, cell in group if cell.method not in REFERENCES]
    return [(number, values) for number, values in rows if len(values) >= MIN_SEEDS]


def beaten_by(rows: Sequence[Mapping[int, float]], *, lower: bool) -> list[set[int]]:
    """For each row the rows that are significantly better, by position.

    All pairs are compared over their common seeds and corrected as one family; a pair with too few of them is not
    tested, so neither row beats the other.

    Args:
        rows: seed → value.
        lower: whether lower values are better.
    """
    pairs = list(itertools.combinations(range(len(rows)), 2))
    compared = [paired(rows[i], rows[j]) for i, j in pairs]
    found: list[set[int]] = [set() for _ in rows]
    for (i, j), pair, p in zip(pairs, compared, holm([pair.p for pair in compared]), strict=True):
        if p is None or p >= SIGNIFICANCE or pair.difference is None:
            continue
        better, worse = (i, j) if (pair.difference.mean < 0) == lower else (j, i)
        found[worse].add(better)
    return found


@dataclass(frozen=True)
class Difference:
    """A paired comparison with its corrected p-value."""

    pair: Paired
    p: float | None

    def cell(self, write: Callable[[float], str], trials: Sequence[Trial]) -> Cell:
        """The mean difference with its interval."""
        return spread(self.pair.difference, write, trials, sign=True)


def corrected(pairs: Sequence[Paired | None]) -> list[Difference | None]:
    """Comparisons as one family, for Holm's correction; ``None`` where nothing is compared."""
    p_values = holm([None if pair is None else pair.p for pair in pairs])
    return [None if pair is None else Difference(pair, p) for pair, p in zip(pairs, p_values, strict=True)]


def p_columns(of: str = "") -> tuple[Column, Column]:
    """The columns of `p_cell` and `effect_cell`."""
    what = f", {of}" if of else ""
    family = "this column" if of else "the table"
    return (
        Column(
            f"p{what}", extra=True, note=f"of the paired t-test over the seeds, after Holm's correction over {family}"
        ),
        Column(
            f"Effect{what}",
            extra=True,
            note="Cohen's d_z: mean paired difference over its standard deviation, with Hedges' correction",
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
