"""How many epochs early stopping leaves of a search, before any of them has run.

Nothing is known about the candidates then, so their order is drawn: each has a rank, and epochs tell it but for some
noise. The rules are those of Optuna's pruners, which the engine asks at the same epochs (`study.search`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from study.spec.model import EarlyStopping

__all__ = ["surviving_epochs"]

# How much of the spread of candidates an early epoch does not tell yet: with none, whoever is behind once stays behind.
_NOISE = 0.3


def surviving_epochs(
    rules: EarlyStopping | None, candidates: int, epochs: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Epochs that each candidate of a search runs, [candidates], in the order of their start.

    Args:
        rules: when candidates are stopped; None: never.
        candidates: how many there are.
        epochs: epochs of a trial that is not stopped.
        generator: draws the candidates.
    """
    result = np.full(candidates, epochs, np.int64)
    if rules is None or not candidates:
        return result
    rungs = _rungs(rules, epochs)
    quality = generator.normal(size=candidates)
    seen: dict[int, list[float]] = {rung: [] for rung in rungs}
    for number in range(candidates):
        best, told = np.inf, []
        for rung in rungs:
            # The best value so far: it can only fall.
            best = min(best, quality[number] + _NOISE * generator.normal())
            told.append((rung, best))
            if _is_behind(rules, best, seen[rung]):
                result[number] = rung
                break
        # The median is that of candidates that came to their end; successive halving looks at all.
        if rules.rule == "asha" or result[number] == epochs:
            for rung, value in told:
                seen[rung].append(value)
    return result


def _rungs(rules: EarlyStopping, epochs: int) -> list[int]:
    """Epochs at which something is decided; nothing is at the last, where the trial ends anyway."""
    rungs, rung = [], rules.grace_epochs
    while rung < epochs:
        rungs.append(rung)
        rung = rung * rules.reduction_factor if rules.rule == "asha" else max(rung + 1, int(rung * 1.3))
    return rungs


def _is_behind(rules: EarlyStopping, value: float, earlier: list[float]) -> bool:
    if rules.rule == "median":
        return len(earlier) >= rules.min_candidates and value > float(np.median(earlier))
    # Of n that came so far, this one included, n // η go on, and always the best.
    competing = sorted([*earlier, value])
    return value > competing[max(0, len(competing) // rules.reduction_factor - 1)]
