"""Model selection between the candidates of one cell: the only place where a winner is chosen.

The engine asks it which candidate to repeat on all seeds; the report asks it which candidate a table row shows.
Both see validation columns only: a metric of the test scenes is refused, so no test number can move a winner.

Pure Python over mappings (rows of the trial table, or dictionaries that look like them).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from study.errors import SpecError, nearest

__all__ = [
    "SELECTION_COLUMNS",
    "Winner",
    "can_win",
    "candidate_label",
    "canonical",
    "config_value",
    "is_trained",
    "select_winner",
]

SELECTION_COLUMNS: Mapping[str, str] = {
    "validation_rmse": "validation_rmse_m",
    "validation_accuracy": "validation_accuracy",
}
"""The metrics that may select, and their columns in the trial table. None of them reads the test scenes."""


@dataclass(frozen=True)
class Winner:
    """The selected candidate of a cell.

    Attributes:
        values: searched key path → value.
        label: the candidate in words, ``objective.lambda = 0.3``.
        score: mean of the selection metric over the search seeds.
        candidates: how many candidates have at least one row, finished or not.
        eligible: how many of them could have won.
    """

    values: Mapping[str, Any]
    label: str
    score: float
    candidates: int
    eligible: int


def config_value(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted key path, ``None`` where the configuration does not have it."""
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def canonical(value: Any) -> str:
    """A text that is equal for equal values: ``25`` and ``25.0``, lists and tuples, ``0.1 + 0.2`` and ``0.3``."""
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)


def is_trained(config: Mapping[str, Any], task: Literal["position", "condition"]) -> bool:
    """Whether the objective of a resolved configuration trains a task.

    MDA weighs the position with λ and the condition with 1 − λ: at λ = 0 or 1 one of them is not learned, and its
    metrics are those of an untrained head.
    """
    if config.get("method") != "MDA" or config_value(config, "system.semantics") in (None, "none"):
        return True
    return bool(config_value(config, "objective.lambda") != (0 if task == "position" else 1))


def can_win(config: Mapping[str, Any], metric: str) -> bool:
    """Whether a candidate with this configuration trains what a selection metric measures."""
    return is_trained(config, "condition" if metric == "validation_accuracy" else "position")


def candidate_label(values: Mapping[str, Any]) -> str:
    """A candidate in words: ``objective.gamma = 2, objective.lambda = 0.3``, key paths in alphabetical order."""
    return ", ".join(f"{path} = {canonical(values[path])}" for path in sorted(values))


def select_winner(
    rows: Iterable[Mapping[str, Any]], searched: Sequence[str], metric: str, mode: str, seeds: int
) -> Winner | None:
    """Choose the candidate with the best mean of the selection metric over the search seeds.

    A candidate is one combination of the searched values. It is eligible when every search seed ``0 … seeds - 1``
    has a row whose state is ``done`` and whose metric is finite: failed, diverged and pruned candidates never win,
    nor does one that still lacks a seed or does not train what is measured. Rows of other seeds (the winner's
    repeats) are not looked at, so the choice stays the same after the winner was repeated.

    Equal means are ordered by the searched values, the lower first (in the alphabetical order of their key paths,
    numbers before everything else), then by the candidate's label. The order of the rows never matters.

    Args:
        rows: rows of one cell; used are ``state``, ``seed``, ``config`` (JSON text or a mapping) and the metric.
        searched: the searched key paths.
        metric: a key of ``SELECTION_COLUMNS``.
        mode: ``min`` or ``max``.
        seeds: the number of search seeds, at least 1.

    Raises:
        SpecError: for a metric that is not a validation metric, an unknown mode or no search seed.
    """
    column = _selection_column(metric)
    if mode not in ("min", "max"):
        raise SpecError(f"select.mode must be min or max, not {mode!r}", where="select.mode", allowed="min, max")
    if seeds < 1:
        raise SpecError(f"a search needs at least one seed, not {seeds}", where="search[].seeds", allowed="1 or more")

    candidates: dict[str, dict[str, Any]] = {}
    scores: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        seed = int(row["seed"])
        if not 0 <= seed < seeds:
            continue
        config = json.loads(row["config"]) if isinstance(row["config"], str) else row["config"]
        values = {path: config_value(config, path) for path in searched}
        label = candidate_label(values)
        candidates.setdefault(label, values)
        score = row.get(column) if can_win(config, metric) else None
        if row["state"] == "done" and score is not None and math.isfinite(score):
            scores.setdefault(label, {}).setdefault(seed, []).append(float(score))

    eligible: list[tuple[float, tuple[tuple[int, float, str], ...], str]] = []
    for label, by_seed in scores.items():
        if len(by_seed) < seeds:
            continue
        # fsum and sorted seeds: the mean must not depend on the order in which files were read.
        mean = math.fsum(math.fsum(by_seed[seed]) / len(by_seed[seed]) for seed in sorted(by_seed)) / seeds
        eligible.append((mean if mode == "min" else -mean, _order(candidates[label]), label))
    if not eligible:
        return None
    score, _, label = min(eligible)
    return Winner(candidates[label], label, score if mode == "min" else -score, len(candidates), len(eligible))


def _selection_column(metric: str) -> str:
    if metric not in SELECTION_COLUMNS:
        raise SpecError(
            f"{metric!r} cannot select a candidate{nearest(metric, SELECTION_COLUMNS)}",
            where="select.metric",
            allowed=", ".join(SELECTION_COLUMNS),
            fix="select on the validation scenes; the test scenes are evaluated once, after the selection",
        )
    return SELECTION_COLUMNS[metric]


def _order(values: Mapping[str, Any]) -> tuple[tuple[int, float, str], ...]:
    """Sort key of a candidate: numbers by size, everything else after them by its text."""
    keys = []
    for path in sorted(values):
        value = values[path]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        keys.append((0, float(value), "") if number else (1, 0.0, canonical(value)))
    return tuple(keys)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        if value.is_integer():
            return int(value)
        # 12 significant digits: a grid built as 0.1 + 0.2 and one written as 0.3 name the same candidate.
        return float(f"{value:.12g}") if math.isfinite(value) else str(value)
    return value
