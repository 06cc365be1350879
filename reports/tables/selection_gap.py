"""What choosing without labels of the target costs: the same trials under several selection rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.comparison import WEIGHTS, CellIndex, Side, interval_of, side_of
from reports.results import Results, Trial
from reports.statistics import Interval
from reports.tables.judgement import describe_interval
from reports.tables.model import NOT_APPLICABLE, Cell, Column, Table
from reports.tables.numbers import distance_decimals, fixed, spread
from reports.tables.words import (
    axis_cell,
    axis_columns,
    candidate_text,
    damage_notes,
    describe_split,
    metric_cell,
    not_finished,
    not_finished_cell,
    plural,
    tested_epoch,
    untrained_notes,
)
from study.selection import candidate_label, config_value

__all__ = ["selection_gap"]


@dataclass(frozen=True)
class _Rule:
    """A way to choose: the candidate with the lowest (or highest) mean of a column."""

    name: str
    column: str
    note: str
    lower: bool = True


_SOURCE = _Rule("Source risk", "source_rmse_m", "no label of the target: RMSE on labelled samples of the source domain")
_ENTROPY = _Rule(
    "Entropy", "target_entropy", "no label of the target: how sure the predicted conditions of the target samples are"
)
_ORACLE = _Rule("Oracle", "test_rmse_m", "uses test labels; for comparison only")


@dataclass(frozen=True)
class _Candidate:
    """One candidate on the seeds that select: those that every candidate was run with."""

    values: Mapping[str, Any]
    trials: tuple[Trial, ...]
    repeats: tuple[Trial, ...]

    def mean(self, column: str) -> float | None:
        """Mean of a column over the selecting seeds; ``None`` unless each has it and was trained for it."""
        values = [trial.number(column) if trial.trains(column) else None for trial in self.trials]
        found = [value for value in values if value is not None]
        return math.fsum(found) / len(found) if found and len(found) == len(values) else None


def selection_gap(results: Results) -> Table | None:
    """The selection rules side by side; ``None`` when no method has two candidates that finished."""
    entries = [(*entry, _eligible(entry[1])) for entry in _searched(results)]
    entries = [entry for entry in entries if len(entry[2]) > 1]
    if not entries:
        return None
    metres = fixed(distance_decimals(results))
    select = results.spec.select
    first = _Rule(
        select.metric.replace("_", " ").replace("rmse", "RMSE").capitalize().replace("rmse", "RMSE"),
        select.column,
        "labels of the validation scenes; what the study selects by",
        select.direction == "min",
    )
    repeated = any(trial for _, _, candidates in entries for item in candidates for trial in item.repeats)
    axes = [path for path, _ in entries[0][0]]
    columns = (
        *axis_columns(axes),
        Column("Method", align="left", names=True),
        Column("Rule", align="left", names=True, note="by what the candidate is chosen"),
        Column("Chosen", align="left", note="the candidate with the best mean over the seeds that select"),
        Column("Candidates", note="finished on every seed that selects, of those run"),
        Column("Test RMSE", "m", spread=True, note="over the seeds that select, the same for every rule"),
        Column("Loss", "m", note="test RMSE above that of the oracle's choice"),
        Column("Loss, relative", "%", note="the same, of the oracle's test RMSE"),
        *(
            [Column("Test RMSE, all seeds", "m", spread=True, note="where the candidate was repeated on more seeds")]
            if repeated
            else []
        ),
        Column("Not finished", align="left"),
    )
    rows: list[tuple[Cell, ...]] = []
    breaks = []
    losses: dict[str, list[tuple[float, float]]] = {}
    for configuration, side, candidates in entries:
        if rows:
            breaks.append(len(rows))
        oracle = _choose(candidates, _ORACLE)
        least = None if oracle is None else oracle.mean("test_rmse_m")
        for rule in (first, _SOURCE, _ENTROPY, _ORACLE):
            start = [*(axis_cell(value) for _, value in configuration), Cell(side.method, side.method)]
            row = [*start, Cell(rule.name, rule.name, note=rule.note)]
            chosen = _choose(candidates, rule)
            if chosen is None:
                row += [_unrecorded(results, side, candidates, rule), *[Cell("", hole=True)] * (4 + repeated)]
            else:
                words = candidate_text(chosen.values)
                row.append(Cell(words, words, keys=tuple(trial.key for trial in chosen.trials)))
                count = f"{len(candidates)} of {len(side.sweep)}"
                row.append(Cell(count, count, hole=len(candidates) < len(side.sweep)))
                own = interval_of(chosen.trials, "test_rmse_m")
                row.append(metric_cell(own, metres, chosen.trials, "test_rmse_m"))
                loss = _loss(chosen.mean("test_rmse_m"), least)
                losses.setdefault(rule.name, []).extend([loss] if loss else [])
                row += (
                    [Cell(metres(loss[0]), loss[0]), Cell(f"{loss[1]:.1f}", loss[1])] if loss else [NOT_APPLICABLE] * 2
                )
                if repeated:
                    everything = (*chosen.trials, *chosen.repeats)
                    interval: Interval | None = interval_of(everything, "test_rmse_m") if chosen.repeats else None
                    row.append(spread(interval, metres, everything))
            tried = [trial for point in side.sweep for trial in point.trials]
            row.append(not_finished_cell(not_finished(tried, (), side.seeds, side.candidates)))
            rows.append(tuple(row))
    caption = " ".join(
        [
            describe_split(results),
            "Each rule chooses among the same trials: the candidates that finished on every seed that selects.",
            describe_interval(results),
            "One choice is made in each row, so nothing is tested.",
        ]
    )
    notes = [
        f"{first.name} is the rule of the study; source risk and entropy see no label of the target; the oracle "
        "chooses by the test RMSE: it uses test labels and is for comparison only.",
        f"Only the candidate is chosen by these rules: within each trial the epoch is that of {tested_epoch(results)}.",
        *untrained_notes(trial for _, _, candidates in entries for item in candidates for trial in item.trials),
        *_mean_losses(losses, len(entries), metres),
        *_source_notes(trial for _, _, candidates in entries for item in candidates for trial in item.trials),
        *damage_notes(results),
    ]
    return Table(
        "selection_gap", "What choosing without labels of the target costs", caption, columns, tuple(rows),
        tuple(notes), tuple(breaks),
    )  # fmt: skip


def _searched(results: Results) -> Iterator[tuple[tuple[tuple[str, Any], ...], Side]]:
    """Each configuration and method that has candidates: of a search, or weights on an axis."""
    indices = {
        method: CellIndex((cell for cell in results.cells if cell.method == method), without=WEIGHTS)
        for method in results.methods
    }
    for configuration in results.configurations(without=WEIGHTS):
        for index in indices.values():
            side = side_of(results, index.of(configuration))
            if side is not None and side.sweep and side.mixes:
                yield configuration, side


def _eligible(side: Side) -> list[_Candidate]:
    """The candidates whose trials on the selecting seeds are all done, in the order of their values."""
    # Sweep points have the seeds that select; the winner's other trials are its repeats.
    paths = sorted({path for point in side.sweep for path in point.values})
    repeats: dict[str, list[Trial]] = {}
    for trial in side.reported:
        label = candidate_label({path: config_value(trial.config, path) for path in paths})
        repeats.setdefault(label, []).append(trial)
    found = []
    for point in side.sweep:
        # As in `select_winner`: a candidate that lacks a seed cannot be compared with the others.
        if sum(t.state == "done" and t.number("test_rmse_m") is not None for t in point.trials) < side.selecting:
            continue
        label, own = candidate_label(point.values), {trial.key for trial in point.trials}
        further = tuple(trial for trial in repeats.get(label, ()) if trial.key not in own)
        found.append(_Candidate(point.values, point.trials, further))
    return sorted(found, key=lambda item: _order(item.values))


def _order(values: Mapping[str, Any]) -> list[tuple[bool, float, str]]:
    return [
        (False, float(value), "") if isinstance(value, int | float) else (True, 0.0, str(value))
        for _, value in sorted(values.items())
    ]


def _choose(candidates: Sequence[_Candidate], rule: _Rule) -> _Candidate | None:
    """The rule's choice, of equal ones the first; ``None`` unless every candidate has what the rule looks at.

    As in `select_winner`, a candidate that was not trained for it is not considered.
    """
    candidates = [item for item in candidates if all(trial.trains(rule.column) for trial in item.trials)]
    means = [candidate.mean(rule.column) for candidate in candidates]
    known = [mean for mean in means if mean is not None]
    if not known or len(known) < len(means):
        return None
    return candidates[means.index(min(known) if rule.lower else max(known))]


def _unrecorded(results: Results, side: Side, candidates: Sequence[_Candidate], rule: _Rule) -> Cell:
    if rule is _ENTROPY and not _predicts(results, side):
        return Cell("– no condition is predicted", "–", note="entropy needs predicted conditions")
    candidates = [item for item in candidates if all(trial.trains(rule.column) for trial in item.trials)]
    count = sum(candidate.mean(rule.column) is not None for candidate in candidates)
    some = f" for {plural(len(candidates) - count, 'candidate')}" if count else ""
    return Cell(f"— not recorded{some}", hole=True, note="trials of an earlier version lack it; repeat them to see it")


def _predicts(results: Results, side: Side) -> bool:
    paths = {settings.name: path for path, settings in results.spec.methods.items()}
    joint = results.spec.settings_of(paths.get(side.method, side.method)).joint
    return joint and config_value(side.spent[0].config, "system.semantics") != "none"


def _loss(own: float | None, least: float | None) -> tuple[float, float] | None:
    """Metres, and per cent of the oracle's."""
    if own is None or least is None or least <= 0:
        return None
    return own - least, 100 * (own / least - 1)


def _mean_losses(
    losses: Mapping[str, Sequence[tuple[float, float]]], searches: int, write: Callable[[float], str]
) -> list[str]:
    """What a rule costs on average, of the rules that could choose everywhere."""
    told = [
        f"{name} {write(math.fsum(loss for loss, _ in found) / searches)} m "
        f"({math.fsum(share for _, share in found) / searches:.1f} %)"
        for name, found in losses.items()
        if name != _ORACLE.name and len(found) == searches
    ]
    return [f"Mean loss over {plural(searches, 'choice')}: {', '.join(told)}."] if searches > 1 and told else []


def _source_notes(trials: Iterable[Trial]) -> list[str]:
    """On which samples the source risk was measured."""
    told = {trial.row.get("source_held_out") for trial in trials if trial.number("source_rmse_m") is not None}
    words = {
        True: "on training scenes whose labels were held back (split.labelled_scenes)",
        False: "on the very samples that were trained on, which flatters what overfits; to hold some back, set "
        "split.labelled_scenes",
    }
    found = [text for value, text in words.items() if value in told]
    return [f"The source risk was measured {'; of other trials, '.join(found)}."] if found else []
