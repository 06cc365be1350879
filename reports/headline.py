"""The headline of a report and the remarks beside it, made from results alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reports.comparison import Comparison, Side, compare, interval_of
from reports.results import REFERENCES, STATES, Results, StudyCell
from reports.statistics import Interval, overlap, paired
from reports.tables.judgement import values_of
from reports.tables.numbers import distance_decimals, fixed, signed, significant
from reports.tables.words import state_words

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
        return _one_pair(pairs[0], decimals)
    if pairs:
        return _many_pairs(pairs, decimals)
    return _best_method(results, decimals)


def _one_pair(pair: Comparison, decimals: int) -> str:
    assert pair.manual is not None
    assert pair.learned is not None
    learned, manual = (interval_of(side.done, "test_rmse_m") for side in (pair.learned, pair.manual))
    if learned is None or manual is None:
        return "HDA and MDA finished, but no test RMSE was stored."
    # Only one pair can stand for a study of several configurations when the others are not finished: name it.
    where = f" ({pair.label})" if pair.label else ""
    name = "manual-optimum MDA" if pair.manual.tuned else "MDA with fixed weights"
    sofar = "" if pair.manual.complete and pair.learned.complete else "So far, "
    sentence = f"{sofar}HDA reached {_metres(learned, decimals)}; {name} {_metres(manual, decimals)}{where}"
    if pair.ratio is not None:
        # Trials first: seconds depend on what else the machine did.
        trials = f"{len(pair.manual.spent)} trials against {len(pair.learned.spent)}"
        sentence += f" after {trials} ({significant(pair.ratio, 2)} × the training time)"
    together = overlap(learned, manual)
    if together is None:
        return f"{sentence}; with a single seed there is no interval to judge the difference by."
    pair_words = _paired_words(pair.learned, pair.manual, decimals)
    return f"{sentence}; {pair_words or ('the intervals overlap' if together else 'the intervals do not overlap')}."


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


def _many_pairs(pairs: Sequence[Comparison], decimals: int) -> str:
    lower = touching = unknown = 0
    best: tuple[float, Comparison, Interval, Interval] | None = None
    ratios = [pair.ratio for pair in pairs if pair.ratio is not None]
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
    unfinished = any(side is None or not side.complete for pair_ in pairs for side in (pair_.manual, pair_.learned))
    sentence = (
        f"{'So far, ' if unfinished else ''}HDA had a lower mean RMSE than {name} "
        f"in {lower} of {len(pairs)} system configurations ({judged}); where "
        f"errors were lowest ({pair.label}), HDA reached {_metres(learned, decimals)} and {name} "
        f"{_metres(manual, decimals)}"
    )
    if ratios:
        low, high = min(ratios), max(ratios)
        span = (
            significant(low, 2) if f"{low:.2g}" == f"{high:.2g}" else f"{significant(low, 2)} to {significant(high, 2)}"
        )
        sentence += f", {name} after {span} × the training time"
    return sentence + "."


# Settings of the split that leave the test samples as they are.
_SAME_TEST = ("split.labelled_scenes", "split.target", "split.data_seed")


def _best_method(results: Results, decimals: int) -> str:
    ranked: list[tuple[float, StudyCell, Interval]] = []
    references: list[tuple[float, StudyCell, Interval]] = []
    for cell in results.cells:
        interval = interval_of(cell.done, "test_rmse_m")
        if interval is not None:
            (references if cell.method in REFERENCES else ranked).append((interval.mean, cell, interval))
    if not ranked and not references:
        counts = Counter(trial.state for trial in results.trials)
        ends = ", ".join(f"{counts[state]} {state_words(state)}" for state in STATES if counts[state])
        return f"No trial of this study has a result yet{f' ({ends})' if ends else ''}."
    sofar = "So far, " if any(len(cell.trials) < cell.planned for cell in results.cells) else ""
    if not ranked:
        _, cell, interval = min(references, key=lambda entry: entry[0])
        only = "So far, only" if sofar else "Only"
        return f"{only} references have finished: {cell.method} reached {_metres(interval, decimals)}."
    _, cell, interval = min(ranked, key=lambda entry: entry[0])
    where = f" ({cell.label()})" if cell.label() else ""
    one = len({other.method for _, other, _ in ranked}) == 1 and len(ranked) == 1
    sentence = f"{cell.method} reached {_metres(interval, decimals)}{where}"
    if not one:
        sentence = f"{cell.method} had the lowest test RMSE of what was compared, {_metres(interval, decimals)}{where}"
        if any(path.startswith("split.") and path not in _SAME_TEST for path in results.spec.axes):
            sentence = f"{sentence}; configurations are tested on different samples"
    sentence = f"{sofar}{sentence}"
    same = {id(other) for other in results.cells_of(cell.configuration())}
    beside = [entry for entry in references if id(entry[1]) in same]
    if beside:
        mean, reference, value = min(beside, key=lambda entry: entry[0])
        if mean < interval.mean and not one:
            # A network that a look-up or the mean beats is no finding.
            nobody = "So far, no method" if sofar else "No method"
            return (
                f"{nobody} beat {reference.method} ({_metres(value, decimals)}){where}; the best of them, "
                f"{cell.method}, reached {_metres(interval, decimals)}."
            )
        if len(beside) > 1:
            rank = "better" if len(beside) == 2 else "best"
            sentence += f"; the {rank} reference, {reference.method}, {_metres(value, decimals)}"
        else:
            sentence += f"; the reference {reference.method} {_metres(value, decimals)}"
    return sentence + "."


def _metres(interval: Interval, decimals: int) -> str:
    write = fixed(decimals)
    if interval.low is None or interval.high is None:
        return f"{write(interval.mean)} m (n = {interval.n})"
    return f"{write(interval.mean)} m ({write(interval.low)} – {write(interval.high)}, n = {interval.n})"
