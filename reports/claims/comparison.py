"""One side against the other: `study.spec.claims.Comparison`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

from reports.claims.model import Outcome
from reports.claims.outcomes import (
    each_of,
    gaps_of,
    not_trained,
    nothing_to_compare,
    remarks_on,
    t_test_words,
    too_few_seeds,
)
from reports.claims.sides import Arm, Pair, Study, apart_words, pairs_of, side_words
from reports.statistics import (
    MIN_SEEDS,
    SIGNIFICANCE,
    Interval,
    Row,
    common_seeds,
    holm,
    p_above,
    paired,
    pooled,
    ratio_interval,
)
from study.spec.claims import Comparison

__all__ = ["compared"]


def compared(study: Study, claim: Comparison) -> Outcome:
    """What became of a comparison; see `reports.claims` for how it is decided."""
    groups = pairs_of(study, claim.better, claim.than)
    if not groups:
        return nothing_to_compare(study, (claim.better, claim.than))
    return each_of([_Group(study, claim, pairs, alone=len(groups) == 1).outcome() for pairs in groups], "values")


class _Group:
    """The pairs of one comparison; several pairs are several system configurations."""

    def __init__(self, study: Study, claim: Comparison, pairs: Sequence[Pair], alone: bool) -> None:
        self.study, self.claim, self.pairs = study, claim, pairs
        self.alone = alone  # otherwise its label names the sides
        self.metric = study.metrics[claim.metric]
        self.better, self.than = [pair.better for pair in pairs], [pair.than for pair in pairs]
        self.arms = (*self.better, *self.than)
        self.label = f"{side_words(claim.better, self.better)} against {side_words(claim.than, self.than)}"

    def outcome(self) -> Outcome:
        if self.claim.metric in ("spent_trials", "spent_seconds"):
            for arm in self.arms:
                if len(arm.spent) < arm.planned:
                    stored = f"{len(arm.spent)} of {arm.planned} trials stored"
                    return self._undecided(f"cells are missing: {arm.where(self.study.axes)}: {stored}")
            return self._counts() if self.claim.metric == "spent_trials" else self._times()
        return self._over_seeds()

    def _over_seeds(self) -> Outcome:
        if untrained := not_trained(self.arms, self.metric):
            return self._undecided(untrained)
        without = [arm for arm in self.arms if arm.row(self.metric) is None]
        if without:
            gaps = gaps_of(self.study, without, self.metric)
            failed = any(trial.state != "done" for arm in without for trial in arm.trials)
            failed = failed or any(len(arm.trials) < arm.seeds for arm in without)
            return self._undecided(f"cells are missing or failed: {gaps}" if failed else str(gaps))
        own = [(pair.better.values(self.metric), pair.than.values(self.metric)) for pair in self.pairs]
        if self.metric.exact:
            return self._exactly([(_mean(better), _mean(than)) for better, than in own])
        seeds = common_seeds(row for pair in own for row in pair)
        reason = too_few_seeds(self.study, self.arms, self.metric, len(seeds))
        alone = all(arm.deterministic for arm in self.arms)
        if not seeds and not alone:
            return self._undecided(reason or "no seed is done on both sides")
        rows = [(_only(better, seeds), _only(than, seeds)) for better, than in own]
        better, than = pooled([row for row, _ in rows]), pooled([row for _, row in rows])
        first, second = (better, than) if self.metric.higher else (than, better)
        result = paired(first, _times(second, self.claim.factor), self.claim.margin)
        effect = paired(first, second).difference
        if alone and effect is not None:
            effect = Interval(effect.mean, None, None, 1)
        means = [(_mean(b), _mean(t)) for b, t in rows]
        n = 1 if alone else result.n
        ratio = ratio_interval(first, second)
        return Outcome(
            self._words(_mean(better), _mean(than), means, ratio, n),
            side=int(np.sign(self._gain(_mean(better), _mean(than)) - self.claim.margin)),
            p=result.p, effect=effect, n=n, test="no test" if result.p is None else t_test_words(result.n),
            arms=self.arms, reason=reason, label=self.label,
            remarks=remarks_on(self.study, self.arms, self.metric, result.n, reason),
            violated=self._violated([self._p_against(b, t) for b, t in own]) if reason is None else None,
        )  # fmt: skip

    def _p_against(self, better: Row, than: Row) -> float | None:
        """One-sided p-value that a configuration contradicts the claim, on all seeds that it has itself."""
        first, second = (better, than) if self.metric.higher else (than, better)
        seeds = common_seeds([first, second])
        if len(seeds) < MIN_SEEDS:
            return None
        gains = np.array([_at(first, seed) - self.claim.factor * _at(second, seed) for seed in seeds])
        return 1 - float(p_above(gains[:, None], self.claim.margin)[0])

    def _violated(self, p_values: Sequence[float | None]) -> str | None:
        """Whether an average hides configurations that contradict it."""
        found = sum(p is not None and p < SIGNIFICANCE for p in holm(p_values)) if len(p_values) > 1 else 0
        return f"holds on average, violated in {found} of {len(p_values)} configurations" if found else None

    def _counts(self) -> Outcome:
        return self._exactly(
            [(float(len(b.spent)), float(len(t.spent))) for b, t in zip(self.better, self.than, strict=True)]
        )

    def _exactly(self, values: Sequence[tuple[float, float]]) -> Outcome:
        holds = self._holds(values)
        better, than = (math.fsum(side) / len(values) for side in zip(*values, strict=True))
        mean = self._better_by(better, than)
        return Outcome(
            self._words(better, than, values, None, 0),
            side=1 if holds == len(values) else -1 if holds == 0 else 0, effect=Interval(mean, mean, mean, len(values)),
            test="none needed: exact", arms=self.arms, exact=True, label=self.label,
        )  # fmt: skip

    def _holds(self, values: Sequence[tuple[float, float]]) -> int:
        """In how many configurations the numbers are as claimed."""
        claim = self.claim
        gains = [self._gain(better, than) for better, than in values]
        # "At least twice": exactly twice is enough. "Better": equal is not.
        strict = not self.metric.exact or (claim.margin == 0 and claim.factor == 1)
        return sum(
            gain > claim.margin or (not strict and math.isclose(gain, claim.margin, rel_tol=1e-9, abs_tol=1e-9))
            for gain in gains
        )

    def _times(self) -> Outcome:
        """Sums of training times: each trial's time is a draw, so a sum of n has n times their variance."""
        claim = self.claim
        sums = [(self._seconds(pair.better), self._seconds(pair.than)) for pair in self.pairs]
        better, than = (math.fsum(side) / len(side) for side in zip(*sums, strict=True))
        used = {id(arm): arm for arm in self.arms}.values()
        n = sum(len(arm.spent) for arm in used)
        fewest = min((len(arm.spent) for arm in used if not arm.deterministic), default=None)
        reason = None
        if fewest is None:
            reason = "one run each, nothing to test"
        elif fewest < MIN_SEEDS:
            reason = f"too few trials: {fewest} of the {MIN_SEEDS} that a test needs"
        test = self._welch(self.pairs, claim.factor)
        difference = than - better
        error, df = self._welch(self.pairs, 1.0)
        half = float(stdtrit(df, 0.975)) * error if reason is None else None
        excess = than - claim.factor * better - claim.margin
        violated = None
        if reason is None:
            each = [(t - claim.factor * b - claim.margin, pair) for (b, t), pair in zip(sums, self.pairs, strict=True)]
            violated = self._violated([_p_below(own, *self._welch([pair], claim.factor)) for own, pair in each])
        below = _p_below(excess, *test)
        return Outcome(
            self._words(better, than, sums, None, 0) + "; times depend on what else the machine did",
            side=int(np.sign(excess)), p=2 * min(below, 1 - below) if reason is None else None,
            effect=Interval(difference, None if half is None else difference - half,
                            None if half is None else difference + half, n),
            n=n, test="no test" if reason else f"Welch’s t-test of the sums over {n} trials", arms=self.arms,
            reason=reason, label=self.label, violated=violated,
        )  # fmt: skip

    def _seconds(self, arm: Arm) -> float:
        return math.fsum(trial.number(self.metric.column) or 0.0 for trial in arm.spent)

    def _welch(self, pairs: Sequence[Pair], factor: float) -> tuple[float, float]:
        """Standard error of the mean over pairs of than − factor · better, and Satterthwaite's degrees of freedom."""
        weights: dict[int, float] = {}  # an arm can stand in several pairs
        arms = {}
        for pair in pairs:
            for arm, weight in ((pair.than, 1.0), (pair.better, -factor)):
                arms[id(arm)] = arm
                weights[id(arm)] = weights.get(id(arm), 0.0) + weight / len(pairs)
        parts = []
        for i, arm in arms.items():
            seconds = [trial.number(self.metric.column) or 0.0 for trial in arm.spent]
            if len(seconds) > 1:
                variance = weights[i] ** 2 * len(seconds) * float(np.var(seconds, ddof=1))
                parts.append((variance, len(seconds) - 1))
        total = math.fsum(part for part, _ in parts)
        if total == 0:
            return 0.0, 1.0
        return math.sqrt(total), total**2 / math.fsum(part**2 / df for part, df in parts)

    def _gain(self, better: float, than: float) -> float:
        """How much better, beyond the factor: what is compared with the margin."""
        if self.metric.higher:
            return better - self.claim.factor * than
        return than - self.claim.factor * better

    def _better_by(self, better: float, than: float) -> float:
        return better - than if self.metric.higher else than - better

    def _undecided(self, reason: str) -> Outcome:
        words = self.metric.words
        finding = f"{words[0].upper()}{words[1:]} cannot be compared"
        return Outcome(finding, arms=self.arms, reason=reason, label=self.label)

    def _words(
        self,
        better: float,
        than: float,
        values: Sequence[tuple[float, float]],
        ratio: Interval | None,
        n: int,
    ) -> str:
        """Both values, their difference, and what was claimed of it beyond the direction.

        Args:
            better, than: means over configurations.
            values: those of each configuration.
            ratio: how many times better, with its interval, where it has one.
            n: seeds; 0 where there is none.
        """
        claim, metric = self.claim, self.metric
        sides = []
        for value, condition, other, arms in (
            (better, claim.better, claim.than, self.better),
            (than, claim.than, claim.better, self.than),
        ):
            apart = apart_words(condition, other, arms, claim.name) if self.alone else ""
            sides.append(metric.text(value) + (f" ({apart})" if apart else ""))
        words = f"{sides[0]} against {sides[1]}: "
        gain = self._better_by(better, than)
        if metric.number(abs(gain)).strip("0.,"):
            words += f"{metric.text(abs(gain))} {metric.gain if gain > 0 else metric.loss}"
        else:
            words += "no difference"
        if n:
            words += f" (n = {n})"
        needs = []
        if claim.factor != 1:
            factor = f"{claim.factor:g} times"
            high, low = (better, than) if metric.higher else (than, better)
            actual = ""
            if low > 0:
                digits = 2 if abs(high / low - claim.factor) >= 0.01 else 3
                actual = f"; is {high / low:.{digits}f} times"
                if ratio is not None and ratio.low is not None and ratio.high is not None:
                    actual += f" ({ratio.low:.{digits}f} – {ratio.high:.{digits}f})"
            needs.append(f"needs at least {factor}{actual}")
        if claim.margin:
            size = metric.text(abs(claim.margin))
            how = f"at least {size} {metric.gain}" if claim.margin > 0 else f"at most {size} {metric.loss}"
            needs.append(f"needs {how}" + (" than that" if needs else ""))
        if needs:
            words += f"; {'; '.join(needs)}"
        if len(self.pairs) > 1:
            words += f"; as claimed in {self._holds(values)} of {len(self.pairs)} configurations"
        return words


def _p_below(excess: float, error: float, df: float) -> float:
    """One-sided p-value that an expected excess is below 0; 0, 0.5 or 1 without spread."""
    if error == 0:
        return 0.5 * (1 + float(np.sign(excess)))
    return float(stdtr(df, excess / error))


def _at(row: Row, seed: int) -> float:
    return row if isinstance(row, float) else row[seed]


def _only(row: Row, seeds: Sequence[int]) -> Row:
    return row if isinstance(row, float) else {seed: row[seed] for seed in seeds}


def _times(row: Row, factor: float) -> Row:
    return row * factor if isinstance(row, float) else {seed: value * factor for seed, value in row.items()}


def _mean(row: Row) -> float:
    return row if isinstance(row, float) else math.fsum(row.values()) / len(row)
