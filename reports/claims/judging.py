"""All claims of a study: judged one by one, corrected together."""

from __future__ import annotations

from reports.claims.comparison import compared
from reports.claims.model import Judgement, Outcome, Verdict, p_text
from reports.claims.settings import depends, shifted, steadier
from reports.claims.sides import Study
from reports.results import Results
from reports.statistics import SIGNIFICANCE, holm
from study.spec.claims import AnyClaim, Comparison, Dependence, Steadiness

__all__ = ["judge"]


def judge(results: Results) -> list[Judgement]:
    """Judge every claim of the spec, in its order. See `reports.claims` for how."""
    study = Study(results)
    outcomes = [_outcome(study, claim) for claim in results.spec.claims]
    # A claim that is undecidable for another reason was not tested, whatever its numbers.
    corrected = holm([None if outcome.reason else outcome.p for outcome in outcomes])
    tested = sum(p is not None for p in corrected)
    return [
        _judgement(study, claim, outcome, p, tested)
        for claim, outcome, p in zip(results.spec.claims, outcomes, corrected, strict=True)
    ]


def _outcome(study: Study, claim: AnyClaim) -> Outcome:
    if isinstance(claim, Comparison):
        return compared(study, claim)
    if isinstance(claim, Steadiness):
        return steadier(study, claim)
    if isinstance(claim, Dependence):
        return depends(study, claim)
    return shifted(study, claim)


def _judgement(study: Study, claim: AnyClaim, outcome: Outcome, p: float | None, tested: int) -> Judgement:
    metric = study.metrics[claim.metric]
    reason = outcome.reason
    if reason is None and not outcome.exact and (p is None or p >= SIGNIFICANCE or outcome.side == 0):
        reason = outcome.otherwise or "within the noise" + ("" if p is None else f" (p = {p_text(p)})")
    if reason is None and outcome.side == 0:
        reason = outcome.otherwise or "it holds in some configurations and not in others"
    if reason is None and outcome.side > 0:
        reason = outcome.violated
    verdict: Verdict = "inconclusive" if reason else "supported" if outcome.side > 0 else "refuted"
    finding = outcome.finding[:1].upper() + outcome.finding[1:]
    if outcome.remarks:
        finding += f" ({'; '.join(outcome.remarks)})"
    keys = dict.fromkeys(trial.key for arm in outcome.arms for trial in (arm.spent if _spent(claim) else arm.trials))
    return Judgement(
        claim.name, claim.paper, verdict, finding + ".", metric.words, metric.unit, outcome.effect, outcome.n,
        outcome.test, p, tested, tuple(keys), reason,
    )  # fmt: skip


def _spent(claim: AnyClaim) -> bool:
    return claim.metric in ("spent_trials", "spent_seconds")
