"""The headline of a report and the remarks beside it, made from results alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reports.comparison import WEIGHTS, CellIndex, Comparison, Side, compare, interval_of, side_of
from reports.results import REFERENCES, STATES, Results, StudyCell, configuration_label
from reports.statistics import MIN_SEEDS, Interval, overlap, paired
from reports.tables.judgement import MOST_COMPARED, beaten_by, values_of
from reports.tables.numbers import distance_decimals, fixed, signed, significant
from reports.tables.words import candidate_text, state_words

__all__ = ["headline", "remarks"]


def headline(results: Results) -> str:
    """One sentence that the data support, made from results alone."""
    decimals = distance_decimals(results)
    pairs = [
        pair
        for pair in compare(results)
        if pair.manual is not None and pair.learned is not None and pair.manual.done and pair.learned.done
    ]
    if len(pairs) == 1:
        return _one_pair(results, pairs[0], decimals)
    if pairs:
        return _many_pairs(results, pairs, decimals)
    return _without_pair(results, decimals)


def _one_pair(results: Results, pair: Comparison, decimals: int) -> str:
    assert pair.manual is not None
    assert pair.learned is not None
    learned, manual = (interval_of(side.done, "test_rmse_m") for side in (pair.learned, pair.manual))
    if learned is None or manual is None:
        return "HDA and MDA finished, but no test RMSE was stored."
    # Only one pair can stand for a study of several configurations when the others are not finished: name it.
    where = f" ({pair.label})" if pair.label else ""
    name = "manual-optimum MDA" if pair.manual.tuned else "MDA with fixed weights"
    sofar = "" if pair.manual.complete and pair.learned.complete else "So far, "
    sentence = f"{sofar}HDA reached {_metres(learned, decimals)}{_lost(pair.learned)}; "
    sentence += f"{name} {_metres(manual, decimals)}{_lost(pair.manual)}{where}"
    beside = _beside(results, pair, learned, manual, decimals)
    if pair.ratio is not None and (pair.manual.sweep or pair.learned.sweep):
        # Trials first: seconds depend on what else the machine did.
        trials = f"{len(pair.manual.spent)} trials against {len(pair.learned.spent)}"
        sentence += f" after {trials} ({significant(pair.ratio, 2)} × the training time)"
    together = overlap(learned, manual)
    if together is None:
        return f"{sentence}; with a single seed there is no interval to judge the difference by{beside}."
    pair_words = _paired_words(pair.learned, pair.manual, decimals)
    judged = pair_words or ("the intervals overlap" if together else "the intervals do not overlap")
    return f"{sentence}; {judged}{beside}."


def _paired_words(learned: Side, manual: Side, decimals: int) -> str | None:
    """The difference seed by seed, where there are enough seeds for a test."""
    pair = paired(values_of(manual.done, "test_rmse_m"), values_of(learned.done, "test_rmse_m"))
    difference = pair.difference
    if pair.p is None or difference is None or difference.low is None or difference.high is None:
        return None
    low, mean, high = (signed(value, fixed(decimals)) for value in (difference.low, difference.mean, difference.high))
    p = "p < 0.001" if pair.p < 0.001 else f"p = {pair.p:.3f}"
    return f"paired over {pair.n} seeds, MDA − HDA is {mean} m ({low} to {high}, {p})"


def remarks(results: Results) -> list[str]:
    """What a reader should know beside the headline: how the references did, and whether training still improved."""
    decimals = distance_decimals(results)
    sentences = []
    means: dict[str, list[float]] = {}
    for cell in results.cells:
        interval = interval_of(cell.done, "test_rmse_m")
        if cell.method in REFERENCES and interval is not None:
            means.setdefault(cell.method, []).append(interval.mean)
    if means:
        told = []
        for method, values in means.items():
            low, high = (f"{value:.{decimals}f}" for value in (min(values), max(values)))
            told.append(f"{method} {low} m" if low == high else f"{method} {low} to {high} m")
        sentences.append(f"References: {', '.join(told)}.")
    trained = [
        (trial.number("best_epoch"), trial.number("epochs"))
        for cell in results.cells
        for trial in cell.done
        if cell.method not in REFERENCES
    ]
    last = sum(best is not None and best == epochs for best, epochs in trained)
    if last * 2 > len(trained):
        sentences.append(
            f"In {last} of {len(trained)} trials the last epoch was the best: more epochs may change the numbers "
            "and their order."
        )
    return sentences


def _many_pairs(results: Results, pairs: Sequence[Comparison], decimals: int) -> str:
    lower = touching = unknown = beaten = 0
    best: tuple[float, Comparison, Interval, Interval] | None = None
    ratios = [
        pair.ratio
        for pair in pairs
        if pair.ratio is not None and any(side is not None and side.sweep for side in (pair.manual, pair.learned))
    ]
    for pair in pairs:
        assert pair.manual is not None
        assert pair.learned is not None
        learned, manual = (interval_of(side.done, "test_rmse_m") for side in (pair.learned, pair.manual))
        if learned is None or manual is None:
            continue
        lower += learned.mean < manual.mean
        together = overlap(learned, manual)
        unknown += together is None
        touching += bool(together)
        beaten += _beside(results, pair, learned, manual, decimals).endswith("both")
        # The spread of the manual optimum's weights is what matters; quote the configuration of the lowest error.
        smallest = min(learned.mean, manual.mean)
        if best is None or smallest < best[0]:
            best = (smallest, pair, learned, manual)
    if best is None:
        return "HDA and MDA finished, but no test RMSE was stored."
    tuned = all(pair.manual is not None and pair.manual.tuned for pair in pairs)
    name = "manual-optimum MDA" if tuned else "MDA"
    judged = f"the intervals overlap in {touching}"
    if unknown:
        known = len(pairs) - unknown
        judged = (
            f"the intervals overlap in {touching} of the {known} that have them"
            if known
            else "on one seed, no interval"
        )
    _, pair, learned, manual = best
    assert pair.manual is not None
    assert pair.learned is not None
    unfinished = any(side is None or not side.complete for pair_ in pairs for side in (pair_.manual, pair_.learned))
    sentence = (
        f"{'So far, ' if unfinished else ''}HDA had a lower mean RMSE than {name} "
        f"in {lower} of {len(pairs)} system configurations ({judged}); where "
        f"errors were lowest ({pair.label}), HDA reached {_metres(learned, decimals)}{_lost(pair.learned)} and {name} "
        f"{_metres(manual, decimals)}{_lost(pair.manual)}"
    )
    if ratios:
        low, high = min(ratios), max(ratios)
        span = (
            significant(low, 2) if f"{low:.2g}" == f"{high:.2g}" else f"{significant(low, 2)} to {significant(high, 2)}"
        )
        sentence += f", {name} after {span} × the training time"
    if beaten:
        sentence += f"; a reference was better than both in {beaten} of {len(pairs)}"
    return sentence + "."


# Settings of the split that leave the test samples as they are.
_SAME_TEST = ("split.labelled_scenes", "split.target", "split.data_seed")
_LOOKED_UP = {"KNN": "the look-up KNN", "MEAN": "the mean position (MEAN)", "MODEL": "the geometric MODEL"}


@dataclass(frozen=True)
class _Entry:
    """A trained method with one choice of settings: of weights, the one that the validation scenes chose."""

    name: str
    side: Side
    interval: Interval


@dataclass(frozen=True)
class _System:
    """What was tested on the same samples of one system: networks, the lowest mean first, and the best reference."""

    label: str
    entries: Sequence[_Entry]
    reference: tuple[str, Interval] | None


def _without_pair(results: Results, decimals: int) -> str:
    """What a study without a pair of HDA and MDA shows: one system at a time, for errors of two say nothing."""
    systems = [system for system in _systems(results) if system.entries]
    sofar = any(len(cell.trials) < cell.planned for cell in results.cells)
    if not systems:
        return _references_alone(results, decimals, sofar=sofar)
    sentence = _one_system(systems[0], decimals) if len(systems) == 1 else _many_systems(systems, decimals)
    if len(systems) > 1 and any(path.startswith("split.") and path not in _SAME_TEST for path in results.spec.axes):
        sentence = f"{sentence}; configurations are tested on different samples"
    # Every sentence begins with an article, a preposition or a name; only names keep their capital.
    if sofar:
        sentence = f"So far, {re.sub(r'^(The|In|No)(?= )', lambda found: found[0].lower(), sentence)}"
    return sentence + "."


def _systems(results: Results) -> list[_System]:
    others = [path for path in results.axes if not path.startswith(("system.", "split."))]
    rest = [path for path in results.axes if path not in others]
    trained = [cell for cell in results.cells if cell.method not in REFERENCES]
    index = CellIndex(trained, without=WEIGHTS)
    whole = CellIndex(results.cells, without=others)
    found = []
    for configuration in results.configurations(without=others):
        entries = {}
        members = whole.of(configuration)
        for cell in members:
            if cell.method in REFERENCES:
                continue
            alike = [other for other in index.of(cell.configuration(WEIGHTS)) if other.method == cell.method]
            side = side_of(results, alike)
            interval = None if side is None else interval_of(side.done, "test_rmse_m")
            if side is None or interval is None:
                continue
            settings = [cell.label(without=[*rest, *WEIGHTS])]
            if side.tuned:
                settings.append(f"{candidate_text(_weights(side))} chosen on the validation scenes")
            name = ", ".join(filter(None, settings))
            entries[tuple(trial.key for trial in side.reported)] = _Entry(
                f"{side.method} ({name})" if name else side.method, side, interval
            )
        ranked = sorted(entries.values(), key=lambda entry: entry.interval.mean)
        found.append(_System(configuration_label(configuration), ranked, _reference(members)))
    return found


def _weights(side: Side) -> dict[str, Any]:
    return {path: side.weight(path) for path in WEIGHTS if path in side.sweep[0].values}


def _reference(cells: Iterable[StudyCell]) -> tuple[str, Interval] | None:
    """The reference of the lowest error."""
    found = [
        (cell.method, interval)
        for cell in cells
        if cell.method in REFERENCES and (interval := interval_of(cell.done, "test_rmse_m")) is not None
    ]
    return min(found, key=lambda entry: entry[1].mean, default=None)


def _references_alone(results: Results, decimals: int, *, sofar: bool) -> str:
    reference = _reference(results.cells)
    if reference is None:
        counts = Counter(trial.state for trial in results.trials)
        ended = ", ".join(f"{counts[state]} {state_words(state)}" for state in STATES if counts[state])
        return f"No trial of this study has a result yet{f' ({ended})' if ended else ''}."
    name, interval = reference
    only = "So far, only" if sofar else "Only"
    return f"{only} references have finished: {name} reached {_metres(interval, decimals)}."


def _one_system(system: _System, decimals: int) -> str:
    first, *others = system.entries
    reference = system.reference
    reached = f"{_metres(first.interval, decimals)}{_lost(first.side)}"
    if others and reference is not None and reference[1].mean < first.interval.mean:
        # A network that a look-up or the mean beats is no finding.
        return (
            f"No method beat {reference[0]} ({_metres(reference[1], decimals)}); the lowest mean of the others, "
            f"{reached}, is that of {first.name}"
        )
    if not others:
        sentence = f"{first.name} reached {reached}"
    else:
        untold = _untold(system)
        if untold == 0:
            sentence = f"{first.name} had the lowest test RMSE of the {len(others) + 1} compared, {reached}"
        else:
            sentence = f"The lowest mean test RMSE, {reached}, is that of {first.name}; "
            if untold is None:
                sentence += _untested(system)
            elif untold == len(others):
                beaten = "the other one" if len(others) == 1 else f"any of the {len(others)} others"
                sentence += f"the difference from {beaten} is within the noise"
            else:
                sentence += f"that is significantly below {len(others) - untold} of the {len(others)} others"
    if reference is not None and reference[1].mean < first.interval.mean:
        name = _LOOKED_UP.get(reference[0], reference[0])
        sentence += f"; {name} reached {reference[1].mean:.{decimals}f} m, which is better"
    elif reference is not None:
        sentence += f"; the best reference, {reference[0]}, {_metres(reference[1], decimals)}"
    return sentence


def _untested(system: _System) -> str:
    if len(system.entries) > MOST_COMPARED:
        return f"of more than {MOST_COMPARED} rows nothing is tested"
    return f"with fewer than {MIN_SEEDS} seeds nothing is tested"


def _untold(system: _System) -> int | None:
    """From how many others the lowest mean cannot be told; ``None`` where nothing is tested."""
    rows = [values_of(entry.side.done, "test_rmse_m") for entry in system.entries]
    if len(rows[0]) < MIN_SEEDS or len(rows) > MOST_COMPARED:
        return None
    # Which mean is the lowest, the same numbers say: it is compared as one of all pairs.
    return sum(0 not in winners for winners in beaten_by(rows, lower=True)[1:])


def _many_systems(systems: Sequence[_System], decimals: int) -> str:
    """In how many configurations which method is lowest; means over different systems are not compared."""
    several = [system for system in systems if len(system.entries) > 1]
    count = f"{len(systems)} configurations"
    if not several:
        low, high = (
            f"{limit(system.entries[0].interval.mean for system in systems):.{decimals}f}" for limit in (min, max)
        )
        methods = " and ".join(dict.fromkeys(system.entries[0].side.method for system in systems))
        sentence = f"{methods} reached a mean test RMSE of {low} to {high} m over {count}"
    else:
        lowest = Counter(system.entries[0].side.method for system in several)
        ranked = [f"{method}’s in {number}" for method, number in lowest.most_common()]
        sentence = f"The lowest mean test RMSE is {', '.join(ranked)} of {len(several)} configurations"
        tested = [untold for system in several if (untold := _untold(system)) is not None]
        if tested:
            sentence += f"; it is significantly below all others in {sum(untold == 0 for untold in tested)}"
        else:
            sentence += f"; {_untested(several[0])}"
    better = sum(
        system.reference is not None and system.reference[1].mean < system.entries[0].interval.mean
        for system in systems
    )
    return sentence + (f"; a reference was better in {better}" if better else "")


def _lost(side: Side) -> str:
    """What became of the seeds without a result: `` (2 of 7 seeds diverged)``."""
    counts = Counter(trial.state for trial in side.reported)
    told = [f"{counts[state]} of {side.seeds} seeds {state_words(state)}" for state in STATES
            if state != "done" and counts[state]]  # fmt: skip
    return f" ({', '.join(told)})" if told else ""


def _beside(results: Results, pair: Comparison, learned: Interval, manual: Interval, decimals: int) -> str:
    """The best reference of the configuration, where it is better than one of the two."""
    reference = _reference(results.cells_of(pair.configuration))
    if reference is None or reference[1].mean >= max(learned.mean, manual.mean):
        return ""
    name, value = reference
    both = value.mean < min(learned.mean, manual.mean)
    than = "both" if both else "HDA" if learned.mean > manual.mean else "MDA"
    return f"; {_LOOKED_UP.get(name, name)} reached {value.mean:.{decimals}f} m, better than {than}"


def _metres(interval: Interval, decimals: int) -> str:
    write = fixed(decimals)
    if interval.low is None or interval.high is None:
        return f"{write(interval.mean)} m (n = {interval.n})"
    return f"{write(interval.mean)} m ({write(interval.low)} – {write(interval.high)}, n = {interval.n})"
