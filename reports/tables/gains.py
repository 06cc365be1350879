"""Table II: what the second task, knowledge transfer and the choice of weights add to the single tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reports.comparison import GAMMA, CellIndex, interval_of, side_of
from reports.published import PublishedValues
from reports.results import LAMBDA, Results, StudyCell, Trial, value_label
from reports.statistics import Paired, paired
from reports.tables.judgement import (
    corrected,
    describe_interval,
    describe_test,
    effect_cell,
    p_cell,
    p_columns,
    values_of,
)
from reports.tables.model import NOT_APPLICABLE, Cell, Column, Table
from reports.tables.numbers import distance_decimals, fixed
from reports.tables.paper import PAPER_NOTE, PaperColumns
from reports.tables.words import (
    axis_cell,
    axis_columns,
    damage_notes,
    describe_selection,
    describe_split,
    hole_of,
    metric_cell,
    not_finished,
    not_finished_cell,
    seeds_cell,
    untrained_notes,
)
from study.selection import candidate_label, config_value, select_winner

__all__ = ["gains"]

_TRANSFER = "objective.knowledge_transfer"
_OWN = (LAMBDA, GAMMA, _TRANSFER)
_METHODS = ("DCNN", "MDA", "HDA")
_Task = Literal["location", "condition", "both"]
_AT_ONE_WEIGHT: tuple[tuple[str, _Task, float], ...] = (
    ("Only location (MDA)", "location", 1.0),
    ("Only condition (MDA)", "condition", 0.0),
    ("Unweighted (MDA)", "both", 0.5),
)


@dataclass(frozen=True)
class _Row:
    """One row: a task set with or without knowledge transfer, in one system configuration.

    Attributes:
        name: as Table II calls it.
        task: what is learned.
        method: whose trials they are.
        weights: of coordinate regression and of condition prediction, in words.
        transfer: whether source and target are aligned.
        reported: the trials that the row is made of.
        stored: every stored trial that was looked at for it.
        seeds: how many seeds the row should have.
        optimum: whether it was chosen among several λ.
        candidates: how many were run and how many are wanted, where the row was chosen among them.
    """

    name: str
    task: _Task
    method: str
    weights: str
    transfer: bool
    reported: tuple[Trial, ...]
    stored: tuple[Trial, ...]
    seeds: int
    optimum: bool = False
    candidates: tuple[int, int] | None = None

    @property
    def done(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.reported if trial.state == "done")

    def values(self, column: str) -> dict[int, float]:
        """Seed → value; nothing for a task that is not learned."""
        return values_of(self.reported, column)


def gains(results: Results) -> Table | None:
    """Table II; ``None`` unless a configuration has a single-task row without knowledge transfer and another row."""
    blocks = []
    for configuration, rows in _blocks(results):
        bases = _base(rows, "location"), _base(rows, "condition")
        if any(base is not None and len(rows) > 1 for base in bases):
            blocks.append((configuration, rows, bases))
    if not blocks:
        return None
    entries = [(configuration, row, *bases) for configuration, rows, bases in blocks for row in rows]
    metres = fixed(distance_decimals(results))
    published = PublishedValues(results)
    papers = [_published(published, configuration, row) for configuration, row, _, _ in entries]
    paper_rmse = PaperColumns("RMSE", "m", "test_rmse", papers, fixed(4), None)
    paper_accuracy = PaperColumns("Accuracy", None, "test_accuracy", papers, fixed(4), fixed(3))
    position = corrected([_gain(row, base, "test_rmse_m") for _, row, base, _ in entries])
    condition = corrected([_gain(row, base, "test_accuracy") for _, row, _, base in entries])
    columns = (
        *axis_columns([path for path, _ in blocks[0][0]]),
        Column("Learning task", align="left", names=True),
        Column(
            "Weights",
            align="left",
            names=True,
            note="of coordinate regression (λ) and of condition prediction (1 − λ)",
        ),
        Column("KT", align="left", names=True, note="knowledge transfer: source and target are aligned"),
        Column("RMSE", "m", spread=True),
        *paper_rmse.columns,
        Column("Accuracy", spread=True),
        *paper_accuracy.columns,
        Column("Gain, RMSE", "%", spread=True, note="100 · (single task / row − 1)"),
        *p_columns("RMSE"),
        Column("Gain, accuracy", "%", spread=True, note="100 · (row / single task − 1)"),
        *p_columns("accuracy"),
        Column("Seeds", align="left", note="finished of wanted"),
        Column("Not finished", align="left"),
    )
    lines: list[tuple[Cell, ...]] = []
    for (configuration, row, *_), paper, first, second in zip(entries, papers, position, condition, strict=True):
        rmse, accuracy = interval_of(row.done, "test_rmse_m"), interval_of(row.done, "test_accuracy", (0.0, 1.0))
        cells = [*(axis_cell(value) for _, value in configuration), Cell(row.name, row.name)]
        cells += [Cell(row.weights, row.weights), _transfer(row)]
        if row.done:
            cells += [metric_cell(rmse, metres, row.done, "test_rmse_m"), *paper_rmse.cells(paper, rmse)]
            cells += [metric_cell(accuracy, fixed(3), row.done, "test_accuracy")]
            cells += paper_accuracy.cells(paper, accuracy)
        else:
            hole = hole_of(row.stored, row.reported, row.seeds, row.candidates)
            cells += [hole, *paper_rmse.cells(paper, None)]
            cells += [Cell("", hole=True), *paper_accuracy.cells(paper, None)]
        for gain in (first, second):
            cells += [
                NOT_APPLICABLE if gain is None else gain.cell(fixed(2), row.done),
                p_cell(gain),
                effect_cell(gain),
            ]
        words = not_finished(row.stored, row.reported, row.seeds, row.candidates)
        cells += [seeds_cell(row.reported, row.seeds), not_finished_cell(words)]
        lines.append(tuple(cells))
    caption = " ".join(
        [
            describe_split(results),
            describe_selection(results),
            describe_interval(results),
            describe_test(
                results,
                "the single-task row without knowledge transfer",
                "over the RMSE column and over the accuracy column",
            ),
        ]
    )
    notes = [
        "A gain is the mean over the seeds of 100 · (single task / row − 1) for the RMSE and of 100 · (row / single "
        "task − 1) for the accuracy, both against the single-task row without knowledge transfer, as in Table II of "
        "the paper; above zero is better.",
        *_base_notes(bases for _, _, bases in blocks),
        *untrained_notes(trial for _, row, *_ in entries for trial in row.done),
        *([PAPER_NOTE] if paper_rmse.shown or paper_accuracy.shown else []),
        *damage_notes(results),
    ]
    breaks, start = [], 0
    for _, members, _ in blocks[:-1]:
        start += len(members)
        breaks.append(start)
    return Table(
        "gains",
        "What each task and knowledge transfer add",
        caption,
        columns,
        tuple(lines),
        tuple(notes),
        tuple(breaks),
    )


def _base(rows: Sequence[_Row], task: _Task) -> _Row | None:
    """The single-task row without knowledge transfer: of the same network (MDA) where there is one that finished."""
    found = [row for row in rows if row.task == task and not row.transfer]
    found.sort(key=lambda row: (not row.done, row.method != "MDA"))
    return found[0] if found else None


def _base_notes(bases: Iterator[tuple[_Row | None, _Row | None]]) -> list[str]:
    methods = dict.fromkeys(base.method for base, _ in bases if base is not None)
    if not methods:
        return []
    words = {"DCNN": "DCNN", "MDA": "MDA with λ = 1"}
    return [f"The single task that gains in RMSE are against is {' or '.join(words[name] for name in methods)}."]


def _gain(row: _Row, base: _Row | None, column: str) -> Paired | None:
    if base is None or row is base:
        return None
    single, own = base.values(column), row.values(column)
    ratios = {
        seed: single[seed] / own[seed] if column == "test_rmse_m" else own[seed] / single[seed]
        for seed in single.keys() & own.keys()
        if single[seed] > 0 and own[seed] > 0
    }
    if not ratios:
        return None
    return paired({seed: 100 * (ratio - 1) for seed, ratio in ratios.items()}, 0.0)


def _published(published: PublishedValues, configuration: Sequence[tuple[str, Any]], row: _Row) -> Mapping[str, float]:
    if not row.reported:
        return {}
    # λ, γ and knowledge transfer are told by the trials themselves.
    settings = {path: value for path, value in configuration if path not in _OWN}
    return published.of(row.method, settings, row.reported[0].config, optimum=row.optimum)


def _transfer(row: _Row) -> Cell:
    words = "with" if row.transfer else "without"
    return Cell(words, words)


# ------------------------------------------------------------------------------------------------- rows


def _blocks(results: Results) -> Iterator[tuple[tuple[tuple[str, Any], ...], list[_Row]]]:
    """The rows of each system configuration, as Table II orders them."""
    ours = [cell for cell in results.cells if cell.method in _METHODS]
    read = {path for cell in ours for path, value in cell.axes.items() if value is not None}
    unread = [path for path in results.axes if path not in read]
    indices = {method: CellIndex((cell for cell in ours if cell.method == method), without=_OWN) for method in _METHODS}
    for configuration in results.configurations(without=(*_OWN, *unread)):
        cells = {method: index.of(configuration) for method, index in indices.items()}
        rows = []
        if cells["DCNN"]:
            rows.append(_whole(results, cells["DCNN"], "Only location (DCNN)", "location", "1 / 0", transfer=False))
        for name, task, weight in _AT_ONE_WEIGHT:
            for transfer, members in _by_transfer(results, cells["MDA"]):
                rows += _weighted(results, members, name, task, weight, transfer=transfer)
        for transfer, members in _by_transfer(results, cells["MDA"]):
            rows += _tuned(results, members, transfer=transfer)
        for transfer, members in _by_transfer(results, cells["HDA"]):
            rows.append(_whole(results, members, "Self-weighted (HDA)", "both", "learned", transfer=transfer))
        yield configuration, rows


def _by_transfer(results: Results, cells: Sequence[StudyCell]) -> list[tuple[bool, list[StudyCell]]]:
    groups: dict[bool, list[StudyCell]] = {}
    for cell in cells:
        value = cell.axes.get(_TRANSFER)
        if value is None and cell.trials:
            value = config_value(cell.trials[0].config, _TRANSFER)
        if value is None:
            value = results.spec.base.objective.knowledge_transfer
        groups.setdefault(value is not False, []).append(cell)
    return sorted(groups.items())


def _whole(
    results: Results, cells: Sequence[StudyCell], name: str, task: _Task, weights: str, *, transfer: bool
) -> _Row:
    side = side_of(results, cells)
    assert side is not None
    return _Row(
        name, task, side.method, weights, transfer, side.reported, side.spent, side.seeds, candidates=side.candidates
    )


def _weighted(
    results: Results, cells: Sequence[StudyCell], name: str, task: _Task, weight: float, *, transfer: bool
) -> list[_Row]:
    """MDA at one λ, which is on an axis, a candidate of a search, or everywhere the same."""
    stored = {
        trial.key: trial
        for cell in cells
        for trial in cell.trials
        if _is(config_value(trial.config, LAMBDA), weight)
    }  # fmt: skip
    planned = [cell for cell in cells if _is(cell.axes.get(LAMBDA), weight)]
    if not stored and not planned:
        return []
    trials = tuple(stored.values())
    searching = [cell for cell in cells if cell.searched]
    paths = sorted({GAMMA, *(path for cell in searching for path in cell.searched)} - {LAMBDA})
    labels = {
        trial.key: candidate_label({path: config_value(trial.config, path) for path in paths}) for trial in trials
    }
    seeds = searching[0].search_seeds if searching else results.spec.seeds
    reported = trials
    if len(set(labels.values())) > 1:
        # Without regression there is no RMSE to choose by.
        by_accuracy = task == "condition"
        metric = "validation_accuracy" if by_accuracy else results.spec.select.metric
        mode = "max" if by_accuracy else results.spec.select.direction
        winner = select_winner([trial.row for trial in trials], paths, metric, mode, seeds)
        reported = () if winner is None else tuple(t for t in trials if labels[t.key] == winner.label)
    # The winner of a search was repeated on all seeds, another candidate was not.
    repeated = any(trial.seed >= seeds for trial in reported)
    wanted = results.spec.seeds if repeated or not searching else seeds
    weights = f"{value_label(weight)} / {value_label(1 - weight)}"
    several = len(set(labels.values()))
    candidates = (several, several) if several > 1 else None
    return [_Row(name, task, "MDA", weights, transfer, reported, trials, wanted, candidates=candidates)]


def _tuned(results: Results, cells: Sequence[StudyCell], *, transfer: bool) -> list[_Row]:
    """MDA at the λ that the validation scenes chose, or at the one λ of the study."""
    side = side_of(results, cells)
    if side is None or not side.mixes:
        return []
    tried = {point.values[LAMBDA] for point in side.sweep if point.values.get(LAMBDA) is not None}
    weight = side.weight(LAMBDA)
    if len(tried) < 2 and (not side.reported or any(_is(weight, known) for known in (0.0, 0.5, 1.0))):
        return []
    name = "Approximate optimum (MDA)" if len(tried) > 1 else "Fixed weights (MDA)"
    words = "—" if weight is None else f"{weight:.3g} / {1 - weight:.3g}"
    return [
        _Row(
            name, "both", "MDA", words, transfer, side.reported, side.spent, side.seeds, len(tried) > 1, side.candidates
        )
    ]


def _is(value: Any, weight: float) -> bool:
    return isinstance(value, int | float) and abs(value - weight) < 1e-9
