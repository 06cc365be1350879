"""The claims of a study as a table of its report."""

from __future__ import annotations

from collections.abc import Sequence

from reports.claims.judging import judge
from reports.claims.model import Judgement, Metric, metrics_of, p_text
from reports.results import Results
from reports.statistics import MIN_SEEDS
from reports.tables import Cell, Column, Table

__all__ = ["claims_table"]


def claims_table(results: Results, judged: Sequence[Judgement] | None = None) -> Table | None:
    """One row for each claim; ``None`` for a spec without claims.

    Args:
        results: the study.
        judged: what `judge` said, where it was asked before.
    """
    if not results.spec.claims:
        return None
    judged = judge(results) if judged is None else judged
    columns = [
        Column("Claim", align="left"),
        Column("Verdict", align="left"),
        Column("Finding", align="left"),
        Column("Difference", spread=True, note="of the means, positive in the claimed direction"),
        Column("n", note="seeds; of a training time, trials"),
        Column("p", note="after Holm's correction for all tested claims"),
        Column("Test", align="left"),
    ]
    paper = any(item.paper for item in judged)
    if paper:
        columns.append(Column("Paper", align="left", quiet=True, note="what the paper says"))
    metrics = metrics_of(results)
    rows = []
    for claim, item in zip(results.spec.claims, judged, strict=True):
        decided = item.verdict != "inconclusive"
        finding = item.finding if decided else f"{item.finding} Inconclusive: {item.reason}."
        row = [
            Cell(item.name, item.name, keys=item.keys),
            Cell(item.verdict, item.verdict, note=item.reason, hole=not decided),
            Cell(finding, finding),
            _effect_cell(metrics[claim.metric], item),
            Cell(str(item.n), item.n) if item.n else Cell("–"),
            Cell("–", note="no test") if item.p is None else Cell(p_text(item.p), item.p, note=item.test_and_p),
            Cell(item.test, item.test),
        ]
        if paper:
            row.append(Cell(item.paper, item.paper))
        rows.append(tuple(row))
    notes = [
        "Supported or refuted: p below 0.05 after Holm’s correction for the claims that were tested "
        f"({sum(item.p is not None for item in judged)}), for the claimed margin or factor and not only the direction. "
        "Numbers of parameters, MACs and trials are exact and need no test. Everything else is inconclusive.",
        f"The replication is the seed: configurations are averaged within each seed, and below {MIN_SEEDS} seeds there "
        "is no p-value. What is said of a setting must hold in every configuration; a comparison is of averages, "
        "and is not supported where a configuration contradicts it significantly. Two references are one run each, "
        "with nothing to test.",
        "Differences of the means with their 95 % Student t interval, positive in the claimed direction. A claimed "
        "margin or factor is not in them: it is in the finding, with what was needed, and tested.",
    ]
    return Table(
        "claims", "Claims", "Statements of the study, judged on its own results.", tuple(columns), tuple(rows),
        tuple(notes),
    )  # fmt: skip


def _effect_cell(metric: Metric, item: Judgement) -> Cell:
    effect = item.effect
    if effect is None:
        return Cell("–")
    band = None
    if effect.low is not None and effect.high is not None and effect.low < effect.high:
        band = f"{_signed(metric, effect.low)} to {_signed(metric, effect.high)}"
    text = _signed(metric, effect.mean) + (f"\u00a0{item.unit}" if item.unit else "")
    low, high = (effect.low, effect.high) if band else (None, None)
    return Cell(text, effect.mean, band, low, high, item.n, keys=item.keys)


def _signed(metric: Metric, value: float) -> str:
    text = metric.number(abs(value))
    return text if not text.strip("0.,") else f"{'+' if value > 0 else '−'}{text}"
