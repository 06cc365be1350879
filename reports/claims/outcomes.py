"""Parts of a verdict that all kinds of claims share: claims about each of several values, and why there is no test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reports.claims.model import Metric, Outcome
from reports.claims.sides import Arm, Study
from reports.results import value_label
from reports.statistics import MIN_SEEDS
from study.selection import canonical

__all__ = [
    "SHOWN",
    "each_of",
    "gaps_of",
    "not_trained",
    "nothing_to_compare",
    "remarks_on",
    "t_test_words",
    "too_few_seeds",
]

SHOWN = 3
"""How many items a list in a sentence names."""


def each_of(parts: Sequence[Outcome], of: str) -> Outcome:
    """A claim about each of several values or configurations: true when all are, false when one is not.

    What one of them refutes is refuted, whatever is missing in others.

    Args:
        parts: what became of each.
        of: what they are, in the plural.
    """
    if len(parts) == 1:
        return parts[0]
    arms = tuple(arm for part in parts for arm in part.arms)
    remarks = tuple(dict.fromkeys(remark for part in parts for remark in part.remarks))
    reason = next((part.reason for part in parts if part.reason), None)
    decided = [part for part in parts if part.reason is None]
    against = [part for part in decided if part.side < 0]
    otherwise = None
    if against:
        # An exact part has no p-value, and needs none.
        shown = min(against, key=lambda part: -1.0 if part.p is None else part.p)
        p = None if shown.p is None else min(1.0, shown.p * len(parts))
        reason, otherwise = None, reason
    else:
        shown = min(decided or parts, key=lambda part: (part.side, 0.0 if part.p is None else -part.p))
        p = shown.p
    if len(parts) <= SHOWN:
        finding = "; ".join(f"{part.label}: {part.finding}" for part in parts)
    else:
        holds = sum(part.side > 0 for part in decided)
        finding = f"As claimed in {holds} of {len(parts)} {of}; the one that decides, {shown.label}: {shown.finding}"
    return replace(
        shown, finding=finding, p=p, arms=arms, reason=reason, remarks=remarks, otherwise=otherwise,
        violated=next((part.violated for part in parts if part.violated), None),
    )  # fmt: skip


def nothing_to_compare(study: Study, conditions: Sequence[Mapping[str, Any]], free: tuple[str, ...] = ()) -> Outcome:
    """Why there is nothing to compare."""
    for condition in conditions:
        if not study.arms(condition, free):
            words = ", ".join(f"{path} = {canonical(value)}" for path, value in condition.items())
            return Outcome("Nothing to compare", reason=f"this study has no cell with {words}")
    return Outcome("Nothing to compare", reason="no cells of the two sides share their other settings")


def gaps_of(study: Study, arms: Iterable[Arm], metric: Metric) -> str | None:
    """What is missing in arms, in words; ``None`` when nothing is."""
    found = []
    for arm in {id(arm): arm for arm in arms}.values():
        found += [f"{arm.where(study.axes)}: {words}" for words in arm.gaps(metric)]
    if not found:
        return None
    return found[0] + (f", and {len(found) - 1} more" if len(found) > 1 else "")


def not_trained(arms: Iterable[Arm], metric: Metric) -> str | None:
    """Why a metric of some arms says nothing; ``None`` when all are trained for it."""
    for arm in arms:
        if not arm.trains(metric):
            learned = "conditions" if metric.higher else "coordinates"
            weight = value_label(arm.weight)
            return f"{arm.method} with λ {weight} does not learn {learned}, so its {metric.words} says nothing"
    return None


def remarks_on(
    study: Study, arms: Sequence[Arm], metric: Metric, seeds: int, reason: str | None = None
) -> tuple[str, ...]:
    """What a reader must know beside the numbers and the reason why nothing is decided."""
    words = [f"{arm.where(study.axes)}: {arm.remark}" for arm in arms if arm.remark][:SHOWN]
    wanted = max((arm.seeds for arm in arms if not arm.deterministic), default=seeds)
    if reason is None and seeds < wanted and (gaps := gaps_of(study, arms, metric)):
        words.append(f"{seeds} of {wanted} seeds; {gaps}")
    return tuple(dict.fromkeys(words))


def too_few_seeds(study: Study, arms: Sequence[Arm], metric: Metric, seeds: int) -> str | None:
    """Why there is no test; ``None`` when there can be one."""
    if all(arm.deterministic for arm in arms):
        return "one run each, nothing to test"
    if seeds >= MIN_SEEDS:
        return None
    wanted = min((arm.seeds for arm in arms if not arm.deterministic), default=seeds)
    gaps = gaps_of(study, arms, metric)
    if gaps and wanted >= MIN_SEEDS:
        return f"cells are missing or failed: {gaps}"
    return f"too few seeds: {seeds} of the {MIN_SEEDS} that a test needs" + (f" ({gaps})" if gaps else "")


def t_test_words(seeds: int, times: int = 1, *, one_sided: bool = False) -> str:
    """The test in words; ``times`` is how many comparisons its p-value is corrected for."""
    words = f"paired t-test over {seeds} seeds" + (", one-sided" if one_sided else "")
    return words + (f", for {times} comparisons" if times > 1 else "")
