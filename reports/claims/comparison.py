"""One side against the other: `study.spec.claims.Comparison`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

from reports.claims.model import Outcome
from reports.claims.outcomes import each_of, gaps_of, nothing_to_compare, remarks_on, t_test_words, too_few_seeds
from reports.claims.sides import Pair, Study, pairs_of, side_words
from reports.statistics import MIN_SEEDS, Interval, Row, common_seeds, paired, pooled
from study.spec.claims import Comparison

__all__ = ["compared"]


def compared(study: Study, claim: Comparison) -> Outcome:
    """What became of a comparison; see `reports.claims` for how it is decided."""
    groups = pairs_of(study, claim.better, claim.than)
    if not groups:
        return nothing_to_compare(study, (claim.better, claim.than))
    return each_of([_Group(study, claim, pairs).outcome() for pairs in groups])


class _Group:
    """The pairs of one comparison; several pairs are several system configurations."""

    def __init__(self, study: Study, claim: Comparison, pairs: Sequence[Pair]) -> None:
        self.study, self.claim, self.pairs = study, claim, pairs
        self.metric = study.metrics[claim.metric]
        self.better, self.than = [pair.better for pair in pairs], [pair.than for pair in pairs]
        self.arms = (*self.better, *self.than)
        self.names = side_words(claim.better, self.better), side_words(claim.than, self.than)

    def outcome(self) -> Outcome:
        if self.claim.metric in ("spent_trials", "spent_seconds"):
            for arm in self.arms:
                if len(arm.spent) < arm.planned:
                    stored = f"{len(arm.spent)} of {arm.planned} trials stored"
                    return self._undecided(f"cells are missing: {arm.where(self.study.axes)}: {stored}")
            return self._counts() if self.claim.metric == "spent_trials" else self._times()
        return self._over_seeds()

    def _over_seeds(self) -> Outcome:
        without = [arm for arm in self.arms if arm.row(self.metric) is None]
        if without:
            gaps = gaps_of(self.study, without, self.metric)
            failed = any(trial.state != "done" for arm in without for trial in arm.trials)
            failed = failed or any(len(arm.trials) < arm.seeds for arm in without)
            return self._undecided(f"cells are missing or failed: {gaps}" if failed else str(gaps))
        rows = [(pair.better.values(self.metric), pair.than.values(self.metric)) for pair in self.pairs]
        if self.metric.exact or all(arm.deterministic for arm in self.arms):
            return self._exactly([(_mean(better), _mean(than)) for better, than in rows])
        seeds = common_seeds(row for pair in rows for row in pair)
        reason = too_few_seeds(self.study, self.arms, self.metric, len(seeds))
        if not seeds:
            return self._undecided(reason or "no seed is done on both sides")
        rows = [(_only(better, seeds), _only(than, seeds)) for better, than in rows]
        better, than = pooled([row for row, _ in rows]), pooled([row for _, row in rows])
        first, second = (better, than) if self.metric.higher else (than, better)
        result = paired(first, _times(second, self.claim.factor), self.claim.margin)
        gain = self._gain(_mean(better), _mean(than))
        holds = sum(self._gain(_mean(b), _mean(t)) > self.claim.margin for b, t in rows)
        return Outcome(
            self._words(_mean(better), _mean(than), holds),
            side=int(np.sign(gain - self.claim.margin)), p=result.p, effect=result.difference, n=result.n,
            test="no test" if result.p is None else t_test_words(result.n), arms=self.arms, reason=reason,
            remarks=remarks_on(self.study, self.arms, self.metric, result.n),
        )  # fmt: skip

    def _counts(self) -> Outcome:
        return self._exactly(
            [(float(len(b.spent)), float(len(t.spent))) for b, t in zip(self.better, self.than, strict=True)]
        )

    def _exactly(self, values: Sequence[tuple[float, float]]) -> Outcome:
        claim = self.claim
        gains = [self._gain(better, than) for better, than in values]
        # "At least twice": exactly twice is enough. "Better": equal is not.
        strict = claim.margin == 0 and claim.factor == 1
        holds = sum(
            gain > claim.margin or (not strict and math.isclose(gain, claim.margin, rel_tol=1e-9, abs_tol=1e-9))
            for gain in gains
        )
        mean = math.fsum(gains) / len(gains)
        better, than = (math.fsum(side) / len(values) for side in zip(*values, strict=True))
        return Outcome(
            self._words(better, than, holds),
            side=1 if holds == len(gains) else -1 if holds == 0 else 0,
            effect=Interval(mean, mean, mean, len(gains)), test="none needed: exact", arms=self.arms, exact=True,
        )  # fmt: skip

    def _times(self) -> Outcome:
        """Sums of training times: each trial's time is a draw, so a sum of n has n times their variance."""
        claim = self.claim
        used = {id(arm): arm for arm in self.arms}
        seconds = {i: [t.number(self.metric.column) or 0.0 for t in arm.spent] for i, arm in used.items()}
        sums = {i: math.fsum(values) for i, values in seconds.items()}
        weights = dict.fromkeys(used, 0.0)  # an arm can stand in several pairs
        for pair in self.pairs:
            weights[id(pair.than)] += 1 / len(self.pairs)
            weights[id(pair.better)] -= claim.factor / len(self.pairs)
        mean = math.fsum(weights[i] * total for i, total in sums.items())
        parts = [
            (weights[i] ** 2 * len(values) * float(np.var(values, ddof=1)), len(values) - 1)
            for i, values in seconds.items()
            if len(values) > 1
        ]
        variance = math.fsum(part for part, _ in parts)
        n = sum(map(len, seconds.values()))
        fewest = min((len(seconds[i]) for i, arm in used.items() if not arm.deterministic), default=MIN_SEEDS)
        reason = None
        if fewest < MIN_SEEDS:
            reason = f"too few trials: {fewest} of the {MIN_SEEDS} that a test needs"
        p, effect = None, Interval(mean, None, None, n)
        if reason is None and variance > 0:
            df = variance**2 / math.fsum(part**2 / d for part, d in parts)  # Satterthwaite's
            error = math.sqrt(variance)
            p = 2 * float(stdtr(df, -abs(mean - claim.margin) / error))
            half = float(stdtrit(df, 0.975)) * error
            effect = Interval(mean, mean - half, mean + half, n)
        holds = sum(self._gain(sums[id(p.better)], sums[id(p.than)]) > claim.margin for p in self.pairs)
        better, than = (math.fsum(sums[id(a)] for a in side) / len(side) for side in (self.better, self.than))
        return Outcome(
            self._words(better, than, holds), side=int(np.sign(mean - claim.margin)), p=p, effect=effect, n=n,
            test="no test" if p is None else f"Welch’s t-test of the sums over {n} trials", arms=self.arms,
            reason=reason, exact=reason is None and p is None,
        )  # fmt: skip

    def _gain(self, better: float, than: float) -> float:
        """How much better, beyond the factor: what is compared with the margin."""
        if self.metric.higher:
            return better - self.claim.factor * than
        return than - self.claim.factor * better

    def _undecided(self, reason: str) -> Outcome:
        metric = self.metric.words
        finding = f"{metric[0].upper()}{metric[1:]} of {self.names[0]} and of {self.names[1]} cannot be compared"
        return Outcome(finding, arms=self.arms, reason=reason)

    def _words(self, better: float, than: float, holds: int) -> str:
        claim, metric = self.claim, self.metric
        gain = better - than if metric.higher else than - better
        words = f"{metric.words} of {self.names[0]} {metric.text(better)}, of {self.names[1]} {metric.text(than)}: "
        if metric.number(abs(gain)).strip("0.,"):
            words += f"{metric.text(abs(gain))} {'better' if gain > 0 else 'worse'}"
        else:
            words += "no difference"
        claimed = []
        if claim.factor != 1:
            times = f"{claim.factor:g} times better" if claim.factor > 1 else f"{1 / claim.factor:.3g} times as bad"
            claimed.append(f"at {'least' if claim.factor > 1 else 'most'} {times}")
        if claim.margin:
            how = "at least {} better" if claim.margin > 0 else "at most {} worse"
            claimed.append(how.format(metric.text(abs(claim.margin))))
        if claimed:
            words += f", where {' and '.join(claimed)} is claimed"
        if len(self.pairs) > 1:
            words += f"; as claimed in {holds} of {len(self.pairs)} configurations"
        return words[0].upper() + words[1:]


def _only(row: Row, seeds: Sequence[int]) -> Row:
    return row if isinstance(row, float) else {seed: row[seed] for seed in seeds}


def _times(row: Row, factor: float) -> Row:
    return row * factor if isinstance(row, float) else {seed: value * factor for seed, value in row.items()}


def _mean(row: Row) -> float:
    return row if isinstance(row, float) else math.fsum(row.values()) / len(row)
