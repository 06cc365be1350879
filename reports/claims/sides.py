"""What stands on the two sides of a claim: cells, winners and candidates, and which of them are pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from reports.claims.model import Metric, metrics_of
from reports.results import LAMBDA, REFERENCES, Results, StudyCell, Trial, axis_label, axis_unit, value_label
from reports.statistics import Row
from study.selection import canonical, config_value, select_winner
from study.spec.trial import TrialConfiguration

__all__ = ["Arm", "Pair", "Study", "apart_words", "pairs_of", "setting_words", "side_words"]

_WEIGHTS = (LAMBDA, "objective.gamma")


@dataclass(frozen=True)
class Arm:
    """What a cell, a group of cells or a candidate gives for a comparison.

    Attributes:
        method: the method's name.
        settings: key path → value, what tells arms apart; ``method`` among them.
        trials: the trials whose metric counts.
        spent: every trial that was needed to get them.
        planned: how many trials are needed.
        seeds: how many seeds are wanted.
        tuned: key paths whose value was chosen on the validation scenes.
        remark: what a reader must know: ``5 of 11 candidates run``.
    """

    method: str
    settings: Mapping[str, Any]
    trials: tuple[Trial, ...]
    spent: tuple[Trial, ...]
    planned: int
    seeds: int
    tuned: tuple[str, ...] = ()
    remark: str | None = None

    @property
    def deterministic(self) -> bool:
        """Whether there is no seed to vary."""
        return self.method in REFERENCES

    def row(self, metric: Metric) -> Row | None:
        """Seed → value of the trials that are done and trained for it; one for a reference; ``None`` without any."""
        values = {
            trial.seed: value
            for trial in self.trials
            if trial.state == "done"
            and trial.trains(metric.column)
            and (value := trial.number(metric.column)) is not None
        }
        if not values:
            return None
        return float(next(iter(values.values()))) if self.deterministic else values

    @property
    def weight(self) -> Any:
        """MDA's λ, ``None`` where there is none."""
        return config_value(self.trials[0].config, LAMBDA) if self.trials else self.settings.get(LAMBDA)

    def trains(self, metric: Metric) -> bool:
        """Whether its trials are trained for a metric, run or not; see `reports.results.Trial.trains`."""
        if self.trials:
            return all(trial.trains(metric.column) for trial in self.trials)
        config = {"method": self.method, "objective": {"lambda": self.weight}}
        return Trial("", "", self.method, 0, config, {}).trains(metric.column)

    def values(self, metric: Metric) -> Row:
        """As `row`, of an arm that has values: empty otherwise."""
        row = self.row(metric)
        return {} if row is None else row

    def gaps(self, metric: Metric) -> list[str]:
        """What is missing, in words."""
        words = [f"seed {t.seed} {t.state.replace('_', ' ')}" for t in self.trials if t.state != "done"]
        absent = self.seeds - len(self.trials)
        if not self.trials:
            words.append("no candidate finished" if self.tuned and self.spent else "not run")
        elif absent > 0:
            words.append(f"{absent} {'seed' if absent == 1 else 'seeds'} not run")
        elif not words and self.row(metric) is None:
            words.append(f"has no {metric.words}")
        return words

    def without(self, path: str) -> Arm:
        """The same arm, not told apart by a setting."""
        return replace(self, settings={name: value for name, value in self.settings.items() if name != path})

    def where(self, paths: Iterable[str]) -> str:
        """The arm in words: its method and the settings that vary."""
        settings = [setting_words(path, self.settings[path]) for path in paths if self.settings.get(path) is not None]
        return ", ".join([self.method, *settings])


def setting_words(path: str, value: Any) -> str:
    """A setting with its value and unit: ``Bandwidth 100 MHz``."""
    unit = axis_unit(path)
    return f"{axis_label(path)} {value_label(value)}{f' {unit}' if unit else ''}"


class Study:
    """The results with what is looked up for each claim."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.axes = results.axes
        self.metrics = metrics_of(results)
        self._names = {path: settings.name for path, settings in results.spec.methods.items()}
        self._arms: dict[str, list[Arm]] = {}
        self._configs: dict[int, Mapping[str, Any]] = {}

    @cached_property
    def searched(self) -> frozenset[str]:
        """The key paths that are searched somewhere."""
        return frozenset(path for cell in self.results.cells for path in cell.searched)

    def varies(self, path: str) -> bool:
        """Whether the study has several values of a setting to compare."""
        return path in self.axes or path in self.searched

    def arms(self, condition: Mapping[str, Any], free: tuple[str, ...] = ()) -> list[Arm]:
        """The arms of a condition; ``free`` are settings whose values stay apart instead of one being selected."""
        name = canonical([condition, free])
        if name not in self._arms:
            found = [arm for cell in self.results.cells for arm in self._of_cell(cell, condition, free)]
            self._arms[name] = self._folded(found, condition, free)
        return self._arms[name]

    def barely_searched(self, condition: Mapping[str, Any], path: str) -> list[StudyCell]:
        """The cells of a condition whose search of a setting has less than two candidates so far."""
        return [
            cell
            for cell in self.results.cells
            if path in cell.searched
            and len(cell.candidates) < 2 <= cell.planned_candidates
            and all(self._matches(cell, p, wanted) for p, wanted in condition.items() if p not in cell.searched)
        ]

    def _of_cell(self, cell: StudyCell, condition: Mapping[str, Any], free: tuple[str, ...]) -> list[Arm]:
        if cell.method in REFERENCES and "method" not in condition:
            return []
        named = {path: wanted for path, wanted in condition.items() if path in cell.searched}
        if not all(self._matches(cell, path, condition[path]) for path in condition if path not in named):
            return []
        settings = {"method": cell.method, **cell.axes}
        for path in condition:
            if path not in settings and path not in named:
                settings[path] = self._value(cell, path)
        apart = [path for path in cell.searched if path in named or path in free]
        if not apart:
            remark = None
            if len(cell.candidates) < cell.planned_candidates:
                remark = f"{len(cell.candidates)} of {cell.planned_candidates} candidates run"
            trials = cell.reported if not cell.searched or cell.winner is not None else ()
            return [
                Arm(cell.method, settings, trials, cell.trials, cell.planned, cell.seeds, cell.searched, remark)
            ]  # fmt: skip
        groups: dict[str, tuple[dict[str, Any], list[tuple[str, tuple[Trial, ...]]]]] = {}
        for label, members in cell.candidates.items():
            values = {path: config_value(members[0].config, path) for path in apart}
            if all(_is_one_of(values[path], wanted) for path, wanted in named.items()):
                groups.setdefault(canonical(values), (values, []))[1].append((label, members))
        arms = []
        for values, candidates in groups.values():
            hidden = tuple(path for path in cell.searched if path not in apart)
            chosen = self._best([members for _, members in candidates], hidden, cell.search_seeds)
            label, trials = candidates[chosen] if chosen is not None else ("", ())
            won = cell.winner is not None and label == cell.winner.label
            spent = tuple(trial for _, members in candidates for trial in members)
            arms.append(
                Arm(
                    cell.method, {**settings, **values}, cell.reported if won else trials, spent,
                    len(candidates) * cell.search_seeds, cell.search_seeds, hidden,
                )
            )  # fmt: skip
        return arms

    def _folded(self, arms: list[Arm], condition: Mapping[str, Any], free: tuple[str, ...]) -> list[Arm]:
        """Weights on an axis are a search by hand: of the arms that differ in them alone, the best one stays."""
        folded = tuple(path for path in _WEIGHTS if path in self.axes and path not in condition and path not in free)
        if not folded:
            return arms
        groups: dict[str, list[Arm]] = {}
        for arm in arms:
            rest = {path: value for path, value in arm.settings.items() if path not in folded}
            groups.setdefault(canonical(rest), []).append(arm)
        found = []
        for members in groups.values():
            rest = {path: value for path, value in members[0].settings.items() if path not in folded}
            swept = tuple(p for p in folded if len({canonical(arm.settings.get(p)) for arm in members}) > 1)
            if not swept:
                found.append(replace(members[0], settings=rest))
                continue
            seeds = min(arm.seeds for arm in members)
            chosen = self._best([arm.trials for arm in members], (*swept, *members[0].tuned), seeds)
            unfinished = sum(not arm.trials for arm in members)
            found.append(
                Arm(
                    members[0].method, rest, () if chosen is None else members[chosen].trials,
                    tuple({trial.key: trial for arm in members for trial in arm.spent}.values()),
                    sum(arm.planned for arm in members), members[0].seeds,
                    tuple(dict.fromkeys((*swept, *members[0].tuned))),
                    f"{len(members) - unfinished} of {len(members)} values run" if unfinished else None,
                )
            )  # fmt: skip
        return found

    def _best(self, candidates: Sequence[tuple[Trial, ...]], paths: Sequence[str], seeds: int) -> int | None:
        """Which candidate wins on the validation scenes; ``None`` when none can."""
        if len(candidates) == 1 and candidates[0]:
            return 0
        select = self.results.spec.select
        rows = [
            {"seed": t.seed, "state": t.state, "config": t.config, select.column: t.row.get(select.column)}
            for trials in candidates
            for t in trials
        ]
        winner = select_winner(rows, paths, select.metric, select.direction, seeds)
        if winner is None:
            return None
        wanted = canonical(winner.values)
        return next(
            i
            for i, trials in enumerate(candidates)
            if trials and canonical({path: config_value(trials[0].config, path) for path in paths}) == wanted
        )

    def _matches(self, cell: StudyCell, path: str, wanted: Any) -> bool:
        if path == "method":
            names = wanted if isinstance(wanted, list) else [wanted]
            return cell.method in [self._names.get(name, name) for name in names]
        value = self._value(cell, path)
        return value is not None and _is_one_of(value, wanted)

    def _value(self, cell: StudyCell, path: str) -> Any:
        return cell.axes[path] if path in cell.axes else config_value(self._config(cell), path)

    def _config(self, cell: StudyCell) -> Mapping[str, Any]:
        """A resolved configuration of the cell, stored or not."""
        if cell.trials:
            return cell.trials[0].config
        if id(cell) not in self._configs:
            spec = self.results.spec
            path = next((path for path, name in self._names.items() if name == cell.method), None)
            values: dict[str, Any] = spec.base.model_dump(mode="json", by_alias=True)
            values["method"] = path or cell.method
            for axis, value in cell.axes.items():
                if value is not None:
                    *parents, last = axis.split(".")
                    level = values
                    for parent in parents:
                        level = level[parent]
                    level[last] = value
            resolved = TrialConfiguration.model_validate(values).resolved(spec.methods[path] if path else None)
            self._configs[id(cell)] = resolved
        return self._configs[id(cell)]


def _is_one_of(value: Any, wanted: Any) -> bool:
    text = canonical(value)
    return text == canonical(wanted) or (isinstance(wanted, list) and any(text == canonical(item) for item in wanted))


@dataclass(frozen=True)
class Pair:
    """Two arms that differ in what a claim compares, and ``where``: the settings that they share."""

    better: Arm
    than: Arm
    where: Mapping[str, Any]


def pairs_of(
    study: Study, better: Mapping[str, Any], than: Mapping[str, Any], free: tuple[str, ...] = ()
) -> list[list[Pair]]:
    """The pairs of two conditions, a group for each combination of listed values."""
    first, second = study.arms(better, free), study.arms(than, free)
    # A setting that both sides name alike is a filter: it is paired like those that no side names.
    alike = {path for path in better if path in than and canonical(better[path]) == canonical(than[path])}
    contrasted = {*better, *than} - alike - {*free}
    indexed: dict[tuple[str, ...], dict[str, list[Arm]]] = {}
    groups: dict[str, list[Pair]] = {}

    def shape(arm: Arm) -> tuple[str, ...]:
        return tuple(sorted(p for p, value in arm.settings.items() if value is not None and p not in contrasted))

    shapes: dict[tuple[str, ...], list[Arm]] = {}
    for arm in second:
        shapes.setdefault(shape(arm), []).append(arm)
    for arm in first:
        own = shape(arm)
        for other, members in shapes.items():
            # What one side does not have cannot tell the two apart.
            shared = tuple(path for path in own if path in other)
            by_value = indexed.get((*other, "|", *shared))
            if by_value is None:
                by_value = indexed[(*other, "|", *shared)] = {}
                for member in members:
                    by_value.setdefault(canonical([member.settings[path] for path in shared]), []).append(member)
            for match in by_value.get(canonical([arm.settings[path] for path in shared]), ()):
                if arm.settings == match.settings:
                    continue
                name = canonical([[arm.settings.get(p) for p in better if p in contrasted],
                                  [match.settings.get(p) for p in than if p in contrasted]])  # fmt: skip
                where = {path: arm.settings[path] for path in shared}
                groups.setdefault(name, []).append(Pair(arm, match, where))
    return list(groups.values())


def apart_words(condition: Mapping[str, Any], other: Mapping[str, Any], arms: Sequence[Arm], claim: str) -> str:
    """What tells a side from the other one, where the words of the claim do not say it; else empty.

    Args:
        condition: of the side.
        other: of the other side.
        arms: of the side.
        claim: the claim's name.
    """
    said = claim.casefold()
    words = []
    for path in condition:
        value = arms[0].settings.get(path)
        if path in other and canonical(other[path]) == canonical(condition[path]):
            continue
        text, name = value_label(value), axis_label(path)
        if path == "method":
            text = name = arms[0].method
        short = name if isinstance(value, bool) else text
        if not re.search(rf"(?<![\w.]){re.escape(short.casefold())}(?![\w]|\.\d)", said):
            words.append(text if path == "method" else setting_words(path, value))
    tuned = [axis_label(path) for path in dict.fromkeys(path for arm in arms for path in arm.tuned)]
    if tuned and not any(word in said for word in ("optimum", "tuned", "tuning", "best")):
        words.append(f"at its best {' and '.join(tuned)}")
    return " ".join(words) if len(words) == 2 and words[1].startswith("at its") else ", ".join(words)


def side_words(condition: Mapping[str, Any], arms: Sequence[Arm]) -> str:
    """A side in words: ``MDA at its best λ``, ``Fingerprint scm``."""
    arm = arms[0]
    parts = [arm.method] if "method" in condition else []
    parts += [setting_words(path, arm.settings.get(path)) for path in condition if path != "method"]
    parts = parts or ["all methods"]
    tuned = list(dict.fromkeys(path for item in arms for path in item.tuned))
    return ", ".join(parts) + (f" at its best {' and '.join(map(axis_label, tuned))}" if tuned else "")
