"""What is compared, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from reports.results import Results
from reports.statistics import Interval
from reports.tables import distance_decimals

if TYPE_CHECKING:
    from reports.claims.sides import Arm

__all__ = ["Judgement", "Metric", "Outcome", "Verdict", "metrics_of", "p_text"]

Verdict = Literal["supported", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Judgement:
    """What became of a claim.

    Attributes:
        name: the claim in words.
        paper: what the paper says.
        verdict: supported, refuted or inconclusive.
        finding: what was found, in one sentence with numbers.
        metric: what was compared, in words.
        unit: of ``effect``; empty for a share.
        effect: the plain difference in the claimed direction, whatever margin or factor is claimed, with its 95 %
            interval; ``None`` without data.
        n: number of seeds (of trials for ``spent_seconds``).
        test: the test in words.
        p: after Holm's correction; ``None`` without a test.
        tested: how many claims of the study were tested, which is what p is corrected for.
        keys: the trials that were looked at.
        reason: why the claim is inconclusive, ``None`` when it is not.
    """

    name: str
    paper: str
    verdict: Verdict
    finding: str
    metric: str
    unit: str
    effect: Interval | None
    n: int
    test: str
    p: float | None
    tested: int
    keys: tuple[str, ...]
    reason: str | None = None

    @property
    def test_and_p(self) -> str:
        """The test with its p-value: ``paired t-test over 5 seeds, p = 0.003 after Holm’s correction for 6 claims``."""
        if self.p is None:
            return self.test
        sign = "" if self.p < 1e-4 else "= "
        correction = f" after Holm’s correction for {self.tested} claims" if self.tested > 1 else ""
        return f"{self.test}, p {sign}{p_text(self.p)}{correction}"


@dataclass(frozen=True)
class Metric:
    """A metric: its column, its words, which direction is good, and what a gain and a loss are called."""

    column: str
    words: str
    unit: str
    higher: bool = False
    exact: bool = False
    decimals: int = 0
    gain: str = "better"
    loss: str = "worse"

    def number(self, value: float) -> str:
        """A value without its unit."""
        if self.unit == "s" and abs(value) >= 600:
            return f"{value:.0f}"
        whole = self.exact and float(value).is_integer()
        return f"{value:,.0f}" if whole else f"{value:.{self.decimals}f}"

    def text(self, value: float) -> str:
        """A value with its unit."""
        return f"{self.number(value)}\u00a0{self.unit}" if self.unit else self.number(value)


_METRICS = {
    "test_rmse": Metric("test_rmse_m", "RMSE", "m"),
    "test_median_error": Metric("test_median_error_m", "median error", "m"),
    "test_p90_error": Metric("test_p90_error_m", "90th-percentile error", "m"),
    "test_accuracy": Metric("test_accuracy", "accuracy", "", higher=True, decimals=3),
    "best_epoch": Metric("best_epoch", "best epoch", "epochs", decimals=1, gain="earlier", loss="later"),
    "parameters": Metric("parameters", "parameters", "parameters", exact=True, decimals=1, gain="fewer", loss="more"),
    "macs_paper": Metric("macs_paper", "MACs per batch", "MACs", exact=True, decimals=1, gain="fewer", loss="more"),
    "spent_trials": Metric("", "trials needed", "trials", exact=True, decimals=1, gain="fewer", loss="more"),
    "spent_seconds": Metric("train_seconds", "training time", "s", decimals=1, gain="less", loss="more"),
}


def metrics_of(results: Results) -> Mapping[str, Metric]:
    """The metrics that a claim can be about, by the names that specs have for them."""
    decimals = distance_decimals(results)
    return {name: replace(m, decimals=decimals) if m.unit == "m" else m for name, m in _METRICS.items()}


def p_text(p: float) -> str:
    """A p-value in words."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


@dataclass(frozen=True)
class Outcome:
    """What one claim, or one part of it, came to before the correction.

    Attributes:
        side: 1 where the numbers are on the claim's side, −1 where they are against it, 0 where neither.
        p: the p-value for that side; ``None`` without a test.
        reason: why nothing can be decided, whatever the numbers are.
        exact: whether ``side`` needs no test.
        remarks: what a reader must know beside the numbers.
        label: which of several values or configurations this is, in words.
        otherwise: why it is inconclusive if it is not refuted.
        violated: why it is inconclusive if it would be supported.
    """

    finding: str
    side: int = 0
    p: float | None = None
    effect: Interval | None = None
    n: int = 0
    test: str = "no test"
    arms: tuple[Arm, ...] = ()
    reason: str | None = None
    exact: bool = False
    remarks: tuple[str, ...] = ()
    label: str = ""
    otherwise: str | None = None
    violated: str | None = None
