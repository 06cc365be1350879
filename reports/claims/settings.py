"""A metric over the values of a setting: `Steadiness`, `Dependence` and `OptimumShift` of `study.spec.claims`.

Arrays are (n, s, k): n seeds, s sides (or places along an axis), k values of the setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reports.claims.model import Metric, Outcome
from reports.claims.outcomes import SHOWN, each_of, gaps_of, nothing_to_compare, remarks_on, t_test_words, too_few_seeds
from reports.claims.sides import Arm, Pair, Study, pairs_of, setting_words, side_words
from reports.results import axis_label, value_label
from reports.statistics import MIN_SEEDS, Interval, Row, common_seeds, p_above, paired, pooled
from study.selection import canonical
from study.spec.claims import Dependence, OptimumShift, Steadiness

__all__ = ["depends", "shifted", "steadier"]

_Array = npt.NDArray[np.float64]


def steadier(study: Study, claim: Steadiness) -> Outcome:
    """What became of a claim of steadiness; see `reports.claims` for how it is decided."""
    if claim.over not in study.axes:
        return Outcome("Nothing to compare", reason=f"{claim.over} is no axis of this study")
    free = (claim.over,)
    groups = pairs_of(study, claim.steadier, claim.than, free)
    if not groups:
        return nothing_to_compare(study, (claim.steadier, claim.than), free)
    return each_of([_steadier(study, claim, pairs) for pairs in groups])


def depends(study: Study, claim: Dependence) -> Outcome:
    """What became of a claim of dependence; see `reports.claims` for how it is decided."""
    if not study.varies(claim.upon):
        return Outcome("Nothing to compare", reason=f"this study does not vary {claim.upon}")
    free = (claim.upon,)
    arms = study.arms(claim.depends, free)
    if not arms:
        return nothing_to_compare(study, (claim.depends,), free)
    return each_of([_depends(study, claim, side) for side in _listed(arms, claim.depends, free)])


def shifted(study: Study, claim: OptimumShift) -> Outcome:
    """What became of a claim of an optimum that shifts; see `reports.claims` for how it is decided."""
    if not study.varies(claim.of):
        return Outcome("Nothing to compare", reason=f"this study does not vary {claim.of}")
    if claim.differs_over not in study.axes:
        return Outcome("Nothing to compare", reason=f"{claim.differs_over} is no axis of this study")
    free = (claim.of, claim.differs_over)
    arms = study.arms(claim.optimum, free)
    if not arms:
        return nothing_to_compare(study, (claim.optimum,), free)
    return each_of([_shifted(study, claim, side) for side in _listed(arms, claim.optimum, free)])


def _listed(arms: Sequence[Arm], condition: Mapping[str, Any], free: Sequence[str]) -> list[list[Arm]]:
    """The arms of each of the values that a condition lists."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        name = canonical([arm.settings.get(path) for path in condition if path not in free])
        groups.setdefault(name, []).append(arm)
    return list(groups.values())


# ------------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class _Curves:
    """A metric over the values of a setting, on each side, averaged over configurations within each seed.

    Attributes:
        labels: the values in words.
        seeds: what the first axis of ``numbers`` is; a single 0 where nothing has a seed.
        numbers: (n, s, k).
        exact: whether there is no chance in the numbers.
        arms: what they come from.
        untested: values without a result on the same seeds, in words.
        absent: values that not every side and configuration tried, in words.
    """

    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    numbers: _Array
    exact: bool
    arms: tuple[Arm, ...]
    untested: tuple[str, ...]
    absent: tuple[str, ...]

    @property
    def means(self) -> _Array:
        """(s, k)."""
        return np.asarray(self.numbers.mean(axis=0))

    @property
    def missing(self) -> str | None:
        """The values that are not in ``numbers``, in words."""
        words = [
            f"{what}: {', '.join(values[:SHOWN])}{f' and {len(values) - SHOWN} more' if len(values) > SHOWN else ''}"
            for what, values in (("without result on all seeds", self.untested), ("not tried everywhere", self.absent))
            if values
        ]
        return "; ".join(words) or None


def _curves(study: Study, metric: Metric, sides: Sequence[Sequence[Arm]], path: str) -> _Curves | str:
    """The values of a setting that all sides and configurations have on the same seeds, or why there are none."""
    # side → configuration → value → arm
    tables: list[dict[str, dict[str, Arm]]] = []
    shown: dict[str, Any] = {}
    for side in sides:
        table: dict[str, dict[str, Arm]] = {}
        for arm in side:
            if (value := arm.settings.get(path)) is not None:
                rest = canonical({p: v for p, v in arm.settings.items() if p != path})
                table.setdefault(rest, {})[canonical(value)] = arm
                shown.setdefault(canonical(value), value)
        if not table:
            return f"{side[0].method} does not have {path}"
        tables.append(table)
    rows: dict[str, list[Row]] = {}
    absent, untested = [], []
    for name in shown:
        if not all(name in values for table in tables for values in table.values()):
            absent.append(name)
            continue
        of_sides = [[values[name].values(metric) for values in table.values()] for table in tables]
        if all(row != {} for side in of_sides for row in side):
            rows[name] = [pooled(side) for side in of_sides]
        else:
            untested.append(name)
    alone = all(isinstance(row, float) for side in rows.values() for row in side)
    seeds = [0] if alone else common_seeds(row for side in rows.values() for row in side)
    if len(seeds) < MIN_SEEDS and not alone:
        # A value on fewer seeds than others (stopped early, failed) is left out, and not the seeds of all others.
        own = {name: len(common_seeds(side)) for name, side in rows.items()}
        most = max(own.values(), default=0)
        untested += [name for name in rows if own[name] < most]
        rows = {name: side for name, side in rows.items() if own[name] == most}
        seeds = common_seeds(row for side in rows.values() for row in side)
    if len(rows) < 2 or not seeds:
        if len(shown) == 1:
            return f"there is one value of {path} only"
        if gaps := gaps_of(study, [arm for side in sides for arm in side], metric):
            return f"cells are missing or failed: {gaps}"
        return f"no two values of {path} were tried on both sides and in all configurations"
    numbers = np.array([[[_at(side[s], seed) for side in rows.values()] for s in range(len(sides))] for seed in seeds])
    arms = tuple(values[name] for table in tables for values in table.values() for name in rows)
    labels, untested_words, absent_words = (
        tuple(value_label(shown[name]) for name in names) for names in (rows, untested, absent)
    )
    return _Curves(labels, tuple(seeds), numbers, alone or metric.exact, arms, untested_words, absent_words)


def _at(row: Row, seed: int) -> float:
    return row if isinstance(row, float) else row[seed]


def _ordered_pairs(values: _Array) -> _Array:
    """All differences between two of k columns: (n, k · (k − 1))."""
    first, second = np.nonzero(~np.eye(values.shape[1], dtype=bool))
    return values[:, first] - values[:, second]


def _without(values: _Array, column: int) -> _Array:
    return np.delete(values, column, axis=1)


def _decided(
    study: Study,
    metric: Metric,
    curves: _Curves,
    finding: str,
    side: int,
    effect: _Array,
    p: Callable[[], tuple[float, int]],
    reason: str | None = None,
) -> Outcome:
    """The outcome of curves: exact, tested, or undecided for a reason.

    Args:
        study, metric, curves: what was looked at.
        finding: in words.
        side: 1 for the claim, −1 against it.
        effect: (n,), per seed.
        p: the test, when it can be made: the p-value, and the number of comparisons that it is corrected for.
        reason: why it cannot be decided, whatever the test says.
    """
    n = len(curves.seeds)
    remarks = remarks_on(study, curves.arms, metric, n) if not curves.exact else ()
    if curves.missing:
        remarks = (curves.missing, *remarks)
    if curves.exact:
        mean = float(effect.mean())
        return Outcome(
            finding, side, effect=Interval(mean, mean, mean, 1), test="none needed: exact", arms=curves.arms,
            exact=True, reason=reason, remarks=remarks,
        )  # fmt: skip
    interval = paired(dict(enumerate(effect.tolist())), 0.0).difference
    reason = too_few_seeds(study, curves.arms, metric, n) or reason
    if reason is not None:
        return Outcome(finding, side, effect=interval, n=n, arms=curves.arms, reason=reason, remarks=remarks)
    value, times = p()
    test = t_test_words(n, times, one_sided=True)
    return Outcome(finding, side, min(1.0, value), interval, n, test, curves.arms, remarks=remarks)


# ------------------------------------------------------------------------------------------------- steadiness


def _steadier(study: Study, claim: Steadiness, pairs: Sequence[Pair]) -> Outcome:
    metric = study.metrics[claim.metric]
    sides = [list({id(arm): arm for arm in side}.values())
             for side in ([pair.better for pair in pairs], [pair.than for pair in pairs])]  # fmt: skip
    names = side_words(claim.steadier, sides[0]), side_words(claim.than, sides[1])
    curves = _curves(study, metric, sides, claim.over)
    if isinstance(curves, str):
        return Outcome(
            f"Nothing to compare for {names[0]} and {names[1]} over {axis_label(claim.over)}",
            arms=tuple(arm for side in sides for arm in side), reason=curves,
        )  # fmt: skip
    spans = np.ptp(curves.means, axis=1)
    words = [
        f"of {name}{' changes' if i == 0 else ''} by {metric.text(float(span))} ({metric.text(float(means.min()))} at "
        f"{curves.labels[int(means.argmin())]}, {metric.text(float(means.max()))} at "
        f"{curves.labels[int(means.argmax())]})"
        for i, (name, span, means) in enumerate(zip(names, spans, curves.means, strict=True))
    ]
    finding = f"Over {axis_label(claim.over)}, {metric.words} {words[0]}, {words[1]}"
    side = 1 if spans[1] > spans[0] else -1
    changing, steady = (curves.numbers[:, i, :] for i in ((1, 0) if side > 0 else (0, 1)))
    widest, narrow = (
        v[:, int(v.mean(axis=0).argmax())] - v[:, int(v.mean(axis=0).argmin())] for v in (changing, steady)
    )

    def test() -> tuple[float, int]:
        times = changing.shape[1] * (changing.shape[1] - 1)
        return times * float(p_above(widest[:, None] - _ordered_pairs(steady)).max()), times

    # What is not known at one value could make either side the one that changes.
    reason = None
    if curves.untested:
        reason = f"cells are missing or failed: {gaps_of(study, [arm for side in sides for arm in side], metric)}"
    return _decided(study, metric, curves, finding, side, side * (widest - narrow), test, reason)


def _span(values: _Array) -> _Array:
    """The values with the largest mean minus those with the smallest: (n,)."""
    means = values.mean(axis=0)
    return np.asarray(values[:, int(means.argmax())] - values[:, int(means.argmin())])


# ------------------------------------------------------------------------------------------------- dependence


def _depends(study: Study, claim: Dependence, arms: Sequence[Arm]) -> Outcome:
    metric = study.metrics[claim.metric]
    name = side_words({path: v for path, v in claim.depends.items() if path != claim.upon}, arms)
    curves = _curves(study, metric, [arms], claim.upon)
    if isinstance(curves, str):
        return Outcome(f"Nothing to compare for {name} over {axis_label(claim.upon)}", arms=tuple(arms), reason=curves)
    numbers, means = curves.numbers[:, 0, :], curves.means[0]
    low, high = int(means.argmin()), int(means.argmax())
    # Positive where the larger value is more than the factor times the smaller one, whichever of them is the better.
    contrast = numbers[:, high] - claim.factor * numbers[:, low]
    best, worst = (high, low) if metric.higher else (low, high)
    finding = (
        f"{metric.words} of {name} over {axis_label(claim.upon)}: best {metric.text(float(means[best]))} at "
        f"{curves.labels[best]}, worst {metric.text(float(means[worst]))} at {curves.labels[worst]}"
    )
    finding = finding[0].upper() + finding[1:]
    if means[low] > 0:
        finding += f", {means[high] / means[low]:.2f} times"
    if claim.factor > 1:
        finding += f" where at least {claim.factor:g} times is claimed"
    mean = float(contrast.mean())
    # A dependence that nothing was seen of is not refuted unless the numbers have no chance in them.
    side = 1 if mean > 0 or (mean == 0 and claim.factor > 1) else -1 if claim.factor > 1 or curves.exact else 0
    k = len(means)

    def test() -> tuple[float, int]:
        if side > 0:
            return k * (k - 1) * float(p_above(contrast[:, None])[0]), k * (k - 1)
        if side == 0:
            return 1.0, 1
        # All pairs must be within the factor: no correction, since the least certain one decides.
        within = [1 - p_above(_without(numbers, i) - claim.factor * numbers[:, [i]]) for i in range(k)]
        return float(max(p.max() for p in within)), 1

    reason = f"a value without a result may be the worst ({curves.missing})" if side < 0 and curves.missing else None
    return _decided(study, metric, curves, finding, side, contrast, test, reason)


# ------------------------------------------------------------------------------------------------- optimum


def _shifted(study: Study, claim: OptimumShift, arms: Sequence[Arm]) -> Outcome:
    metric = study.metrics[claim.metric]
    free = (claim.of, claim.differs_over)
    name = side_words({path: v for path, v in claim.optimum.items() if path not in free}, arms)
    along: dict[str, list[Arm]] = {}
    for arm in arms:
        if arm.settings.get(claim.differs_over) is not None:
            along.setdefault(canonical(arm.settings[claim.differs_over]), []).append(arm)
    places = [setting_words(claim.differs_over, members[0].settings[claim.differs_over]) for members in along.values()]
    curves: _Curves | str = f"{name} does not have several values of {claim.differs_over}"
    if len(along) > 1:
        # Settings of the configurations, without the axis along which they are compared.
        sides = [[arm.without(claim.differs_over) for arm in members] for members in along.values()]
        curves = _curves(study, metric, sides, claim.of)
    if isinstance(curves, str):
        return Outcome(f"Nothing to compare for {name}", arms=tuple(arms), reason=curves)
    losses = -curves.numbers if metric.higher else curves.numbers  # the lower the better, from here on
    means = losses.mean(axis=0)
    best = means.argmin(axis=1)
    shared = int(means.mean(axis=0).argmin())
    listed = ", ".join(f"{curves.labels[int(i)]} at {place}" for i, place in zip(best, places, strict=True))
    finding = f"Best {axis_label(claim.of)} of {name} by {metric.words}: {listed}"
    regret = losses[:, :, shared].mean(axis=1) - losses[:, np.arange(len(best)), best].mean(axis=1)
    side = 1 if len(set(best.tolist())) > 1 else -1
    if side > 0:
        finding += f"; {curves.labels[shared]} for all costs {metric.text(float(regret.mean()))} on average"
    s, k = means.shape

    def test() -> tuple[float, int]:
        if side > 0:
            # Every value must lose somewhere, the one that is hardest to beat included.
            beaten = [
                min(float(p_above(losses[:, i, [v]] - _without(losses[:, i, :], v)).min()) for i in range(s))
                for v in range(k)
            ]
            return s * (k - 1) * max(beaten), s * (k - 1)
        v = int(best[0])
        ahead = [p_above(_without(losses[:, i, :], v) - losses[:, i, [v]]) for i in range(s)]
        return k * float(max(p.max() for p in ahead)), k

    reason = f"a value without a result may be the best ({curves.missing})" if curves.missing and side < 0 else None
    return _decided(study, metric, curves, finding, side, regret, test, reason)
