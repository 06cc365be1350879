"""A metric over the values of a setting: `Steadiness`, `Dependence` and `OptimumShift` of `study.spec.claims`.

Arrays are (n, s, k): n seeds, s sides (or places along an axis), k values of the setting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from reports.claims.model import Metric, Outcome
from reports.claims.outcomes import (
    SHOWN,
    each_of,
    gaps_of,
    not_trained,
    nothing_to_compare,
    remarks_on,
    t_test_words,
    too_few_seeds,
)
from reports.claims.sides import Arm, Pair, Study, pairs_of, setting_words
from reports.results import axis_label, axis_unit, value_label
from reports.statistics import MIN_SEEDS, Interval, Row, common_seeds, p_above, paired
from study.selection import canonical
from study.spec.claims import Dependence, OptimumShift, Steadiness

__all__ = ["depends", "shifted", "steadier"]

_Array = npt.NDArray[np.float64]

_Values = Mapping[str, Arm]  # value of the setting, as a canonical text → arm


def steadier(study: Study, claim: Steadiness) -> Outcome:
    """What became of a claim of steadiness; see `reports.claims` for how it is decided."""
    if claim.over not in study.axes:
        return Outcome("Nothing to compare", reason=f"{claim.over} is no axis of this study")
    free = (claim.over,)
    pairs = pairs_of(study, claim.steadier, claim.than, free)
    if not pairs:
        return nothing_to_compare(study, (claim.steadier, claim.than), free)
    groups: dict[str, list[Pair]] = {}
    for pair in (pair for group in pairs for pair in group):
        # Settings that one side alone has, too: one arm can be paired with several.
        name = canonical([pair.better.without(claim.over).settings, pair.than.without(claim.over).settings])
        groups.setdefault(name, []).append(pair)
    found = [
        _Configuration([{canonical(pair.better.settings.get(claim.over)): pair.better for pair in g},
                        {canonical(pair.than.settings.get(claim.over)): pair.than for pair in g}])
        for g in groups.values()
    ]  # fmt: skip
    return _each(found, free, pairs[0][0].better.method, lambda item: _steadier(study, claim, item))


def depends(study: Study, claim: Dependence) -> Outcome:
    """What became of a claim of dependence; see `reports.claims` for how it is decided."""
    if not study.varies(claim.upon):
        return Outcome("Nothing to compare", reason=f"this study does not vary {claim.upon}")
    free = (claim.upon,)
    arms, waiting = study.arms(claim.depends, free), _waiting(study, claim.depends, claim.upon)
    if not arms and not waiting:
        return nothing_to_compare(study, (claim.depends,), free)
    found = [_Configuration([_by_value(members, claim.upon)]) for members in _configurations(arms, free)]
    method = arms[0].method if arms else ""
    outcome = _each(found, free, method, lambda item: _depends(study, claim, item), waiting)
    if claim.factor == 1 or outcome.effect is None:
        return outcome
    return replace(outcome, finding=f"{outcome.finding}; needs at least {claim.factor:g} times")


def shifted(study: Study, claim: OptimumShift) -> Outcome:
    """What became of a claim of an optimum that shifts; see `reports.claims` for how it is decided."""
    if not study.varies(claim.of):
        return Outcome("Nothing to compare", reason=f"this study does not vary {claim.of}")
    if claim.differs_over not in study.axes:
        return Outcome("Nothing to compare", reason=f"{claim.differs_over} is no axis of this study")
    free = (claim.of, claim.differs_over)
    arms, waiting = study.arms(claim.optimum, free), _waiting(study, claim.optimum, claim.of)
    if not arms and not waiting:
        return nothing_to_compare(study, (claim.optimum,), free)
    found = []
    for members in _configurations(arms, free):
        along: dict[str, list[Arm]] = {}
        for arm in members:
            if arm.settings.get(claim.differs_over) is not None:
                along.setdefault(canonical(arm.settings[claim.differs_over]), []).append(arm)
        sides = [_by_value(place, claim.of) for place in along.values()]
        places = [setting_words(claim.differs_over, p[0].settings[claim.differs_over]) for p in along.values()]
        found.append(_Configuration(sides, places))
    several = [item for item in found if len(item.sides) > 1]
    if not several and not waiting:
        reason = f"{arms[0].method} does not have several values of {claim.differs_over}"
        return Outcome("Nothing to compare", arms=tuple(arms), reason=reason)
    method = arms[0].method if arms else ""
    return _each(several, free, method, lambda item: _shifted(study, claim, item), waiting)


# ------------------------------------------------------------------------------------------------- configurations


@dataclass(frozen=True)
class _Configuration:
    """One combination of all other settings, the method among them.

    Attributes:
        sides: what is compared in it, each with its arms by the value of the setting.
        places: what the sides are, where they are places along an axis.
    """

    sides: Sequence[_Values]
    places: Sequence[str] = ()

    @property
    def arms(self) -> tuple[Arm, ...]:
        return tuple(arm for side in self.sides for arm in side.values())


def _configurations(arms: Sequence[Arm], free: Sequence[str]) -> list[list[Arm]]:
    """The arms of each combination of the settings that are not free."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        rest = {path: value for path, value in arm.settings.items() if path not in free}
        groups.setdefault(canonical(rest), []).append(arm)
    return list(groups.values())


def _by_value(arms: Sequence[Arm], path: str) -> dict[str, Arm]:
    return {canonical(arm.settings[path]): arm for arm in arms if arm.settings.get(path) is not None}


def _labels(found: Sequence[_Configuration], free: Sequence[str]) -> list[str]:
    """The configurations in words: the settings in which they differ."""
    sides = [[side_arms[0] for side in item.sides if (side_arms := list(side.values()))] for item in found]
    paths = dict.fromkeys(path for arms in sides for arm in arms for path in arm.settings if path not in free)
    values = {path: {canonical([arm.settings.get(path) for arm in arms]) for arms in sides} for path in paths}
    words = []
    for arms in sides:
        of_sides = []
        for arm in arms:
            own = [arm.method] if len(values.get("method", ())) > 1 else []
            own += [
                setting_words(path, arm.settings[path])
                for path in paths
                if path != "method" and len(values[path]) > 1 and arm.settings.get(path) is not None
            ]
            of_sides.append(", ".join(own) or arm.method)
        words.append(" against ".join(dict.fromkeys(of_sides)))
    return words


def _waiting(study: Study, condition: Mapping[str, Any], path: str) -> list[Outcome]:
    """The configurations whose search has not come far enough: they are undecided, and not left out."""
    return [
        Outcome(
            "nothing to compare",
            label=", ".join(words for words in (cell.method, cell.label()) if words),
            reason=f"{cell.method}: {len(cell.candidates)} of {cell.planned_candidates} candidates run",
        )
        for cell in study.barely_searched(condition, path)
    ]


def _each(
    found: Sequence[_Configuration],
    free: Sequence[str],
    method: str,
    judged: Callable[[_Configuration], Outcome],
    waiting: Sequence[Outcome] = (),
) -> Outcome:
    """A claim in each configuration. One that was never to have two values of the setting has no part in it."""
    path = free[0]
    varied = [item for item in found if len({name for side in item.sides for name in side}) > 1]
    if not varied and not waiting:
        having = next((arm for item in found for arm in item.arms if arm.settings.get(path) is not None), None)
        reason = f"there is one value of {path} only"
        if having is None:
            reason = f"{method} does not have {path}"
        return Outcome("Nothing to compare", arms=tuple(arm for item in found for arm in item.arms), reason=reason)
    parts = [replace(judged(item), label=label) for item, label in zip(varied, _labels(varied, free), strict=True)]
    return each_of([*parts, *waiting], "configurations")


# ------------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class _Curves:
    """A metric over the values of a setting, on each side, in one configuration.

    Attributes:
        labels: the values in words.
        seeds: what the first axis of ``numbers`` is; a single 0 where nothing has a seed.
        numbers: (n, s, k).
        exact: whether there is no chance in the numbers.
        arms: what they come from.
        untested: values without a result on the same seeds, in words.
        absent: values that not every side tried, in words.
        untrained: values with which the metric is not trained, in words: they are no results.
    """

    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    numbers: _Array
    exact: bool
    arms: tuple[Arm, ...]
    untested: tuple[str, ...]
    absent: tuple[str, ...]
    untrained: tuple[str, ...]

    @property
    def means(self) -> _Array:
        """(s, k)."""
        return np.asarray(self.numbers.mean(axis=0))

    @property
    def missing(self) -> str | None:
        """The values that should be in ``numbers`` and are not, in words."""
        return _listed({"without result on all seeds": self.untested, "not tried everywhere": self.absent})

    @property
    def left_out(self) -> str | None:
        """The values that do not count, in words."""
        return _listed({"left out, since the metric is not trained there": self.untrained})


def _listed(groups: Mapping[str, Sequence[str]]) -> str | None:
    words = [
        f"{what}: {', '.join(values[:SHOWN])}{f' and {len(values) - SHOWN} more' if len(values) > SHOWN else ''}"
        for what, values in groups.items()
        if values
    ]
    return "; ".join(words) or None


def _curves(study: Study, metric: Metric, sides: Sequence[_Values], path: str) -> _Curves | str:
    """The values of a setting that all sides have on the same seeds, or why there are none."""
    shown = {name: arm.settings[path] for side in sides for name, arm in side.items()}
    for side in sides:
        if not side or all(arm.settings.get(path) is None for arm in side.values()):
            return f"a side does not have {path}"
    rows: dict[str, list[Row]] = {}
    absent, untested, untrained = [], [], []
    for name in shown:
        if not all(name in side for side in sides):
            absent.append(name)
            continue
        if not all(side[name].trains(metric) for side in sides):
            untrained.append(name)
            continue
        own = [side[name].values(metric) for side in sides]
        if all(row != {} for row in own):
            rows[name] = own
        else:
            untested.append(name)
    alone = all(isinstance(row, float) for side in rows.values() for row in side)
    seeds = [0] if alone else common_seeds(row for side in rows.values() for row in side)
    if len(seeds) < MIN_SEEDS and not alone:
        # A value on fewer seeds than most (stopped early, failed) is left out, and not the seeds of all others; the
        # winner of a search has more of them than those that it was chosen from.
        counts = {name: len(common_seeds(side)) for name, side in rows.items()}
        often = Counter(counts.values())
        usual = max(often, key=lambda count: (often[count], count), default=0)
        untested += [name for name in rows if counts[name] < usual]
        rows = {name: side for name, side in rows.items() if counts[name] >= usual}
        seeds = common_seeds(row for side in rows.values() for row in side)
    if len(rows) < 2 or not seeds:
        trained = [arm for side in sides for name, arm in side.items() if name not in untrained]
        if gaps := gaps_of(study, trained, metric):
            return f"cells are missing or failed: {gaps}"
        if len(shown) - len(untrained) < 2:
            return not_trained([arm for side in sides for arm in side.values()], metric) or f"one value of {path} only"
        where = " on both sides" if len(sides) > 1 else ""
        left_out = _listed({"not trained for it": [value_label(shown[name]) for name in untrained]})
        return f"less than two values of {path} have a result{where}" + (f" ({left_out})" if left_out else "")
    numbers = np.array([[[_at(side[s], seed) for side in rows.values()] for s in range(len(sides))] for seed in seeds])
    arms = tuple(side[name] for side in sides for name in rows)
    labels, *others = (
        tuple(value_label(shown[name]) for name in names) for names in (rows, untested, absent, untrained)
    )
    return _Curves(labels, tuple(seeds), numbers, metric.exact, arms, *others)


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
    if curves.exact:
        mean = float(effect.mean())
        return Outcome(
            finding, side, effect=Interval(mean, mean, mean, 1), test="none needed: exact", arms=curves.arms,
            exact=True, reason=reason, remarks=_remarks(curves),
        )  # fmt: skip
    interval = paired(dict(enumerate(effect.tolist())), 0.0).difference
    reason = too_few_seeds(study, curves.arms, metric, n) or reason
    remarks = (*_remarks(curves), *remarks_on(study, curves.arms, metric, n, reason))
    if reason is not None:
        return Outcome(finding, side, effect=interval, n=n, arms=curves.arms, reason=reason, remarks=remarks)
    value, times = p()
    test = t_test_words(n, times, one_sided=True)
    return Outcome(finding, side, min(1.0, value), interval, n, test, curves.arms, remarks=remarks)


def _remarks(curves: _Curves) -> tuple[str, ...]:
    return tuple(words for words in (curves.missing, curves.left_out) if words)


def _range(metric: Metric, path: str, labels: Sequence[str], means: _Array) -> str:
    """Where a metric is smallest and largest: ``8.0 m at λ 0.1, 14.4 m at λ 0.9``."""
    unit = axis_unit(path)
    ends = int(means.argmin()), int(means.argmax())
    places = [f"{axis_label(path)} {labels[i]}{f' {unit}' if unit else ''}" for i in ends]
    return ", ".join(f"{metric.text(float(means[i]))} at {place}" for i, place in zip(ends, places, strict=True))


# ------------------------------------------------------------------------------------------------- steadiness


def _steadier(study: Study, claim: Steadiness, item: _Configuration) -> Outcome:
    metric = study.metrics[claim.metric]
    curves = _curves(study, metric, item.sides, claim.over)
    if isinstance(curves, str):
        return Outcome("nothing to compare", arms=item.arms, reason=curves)
    spans = np.ptp(curves.means, axis=1)
    words = [
        f"{metric.text(float(span))} ({_range(metric, claim.over, curves.labels, means)})"
        for span, means in zip(spans, curves.means, strict=True)
    ]
    finding = f"changes by {words[0]} against {words[1]}"
    side = 1 if spans[1] > spans[0] else -1
    changing, steady = (curves.numbers[:, i, :] for i in ((1, 0) if side > 0 else (0, 1)))
    widest, narrow = _span(changing), _span(steady)

    def test() -> tuple[float, int]:
        times = changing.shape[1] * (changing.shape[1] - 1)
        return times * float(p_above(widest[:, None] - _ordered_pairs(steady)).max()), times

    # What is not known at one value could make either side the one that changes.
    reason = None
    if curves.untested:
        reason = f"cells are missing or failed: {gaps_of(study, item.arms, metric)}"
    return _decided(study, metric, curves, finding, side, side * (widest - narrow), test, reason)


def _span(values: _Array) -> _Array:
    """The values with the largest mean minus those with the smallest: (n,)."""
    means = values.mean(axis=0)
    return np.asarray(values[:, int(means.argmax())] - values[:, int(means.argmin())])


# ------------------------------------------------------------------------------------------------- dependence


def _depends(study: Study, claim: Dependence, item: _Configuration) -> Outcome:
    metric = study.metrics[claim.metric]
    curves = _curves(study, metric, item.sides, claim.upon)
    if isinstance(curves, str):
        return Outcome("nothing to compare", arms=item.arms, reason=curves)
    numbers, means = curves.numbers[:, 0, :], curves.means[0]
    low, high = int(means.argmin()), int(means.argmax())
    # Positive where the larger value is more than the factor times the smaller one, whichever of them is the better.
    contrast = numbers[:, high] - claim.factor * numbers[:, low]
    finding = _range(metric, claim.upon, curves.labels, means)
    if means[low] > 0:
        finding += f": {means[high] / means[low]:.2f} times"
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
    return _decided(study, metric, curves, finding, side, numbers[:, high] - numbers[:, low], test, reason)


# ------------------------------------------------------------------------------------------------- optimum


def _shifted(study: Study, claim: OptimumShift, item: _Configuration) -> Outcome:
    metric = study.metrics[claim.metric]
    curves = _curves(study, metric, item.sides, claim.of)
    if isinstance(curves, str):
        return Outcome("nothing to compare", arms=item.arms, reason=curves)
    losses = -curves.numbers if metric.higher else curves.numbers  # the lower the better, from here on
    means = losses.mean(axis=0)
    best = means.argmin(axis=1)
    shared = int(means.mean(axis=0).argmin())
    listed = ", ".join(f"{curves.labels[int(i)]} at {place}" for i, place in zip(best, item.places, strict=True))
    finding = f"best {axis_label(claim.of)}: {listed}"
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
