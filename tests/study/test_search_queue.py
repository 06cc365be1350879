"""The queue: everything that is wanted is handed out once, whatever is stored and however often it restarts."""

from __future__ import annotations

import copy
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import optuna
import pytest
from conftest import SMALL_BASE
from hypothesis import given, settings

from study.search import StudyQueue, Work
from study.spec.expand import expand
from study.spec.model import StudySpec
from study.spec.outline import outline
from study.spec.trial import Trial, canonical_json

GRID = {"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": [0.0, 1.0, 0.25]}}, "seeds": 1}
TPE = {
    "when": {"method": "MDA"},
    "space": {"objective.lambda": {"grid": [0.0, 1.0, 0.1]}, "objective.gamma": {"float": [0.0, 4.0]}},
    "sampler": "tpe",
    "trials": 9,
    "seeds": 2,
}


def _spec(search: Any = None, **changes: Any) -> StudySpec:
    return StudySpec.model_validate(
        {
            "study": "s",
            "site": "canyon_small",
            "base": copy.deepcopy(SMALL_BASE),
            "axes": {"method": ["DCNN", "MDA", "HDA"], "system.paths": [10, 25]},
            "seeds": 3,
            "search": search if isinstance(search, list) else [search] if search else [],
            **changes,
        }
    )


def _row(trial: Trial, state: str = "done") -> dict[str, Any]:
    """What a trial process would store: an error with its optimum at λ = 0.3, γ = 1."""
    objective = trial.config["objective"]
    error = 10 + (objective.get("lambda", 0) - 0.3) ** 2 + (objective.get("gamma", 0) - 1) ** 2 + trial.seed * 0.01
    return {
        "key": trial.key,
        "state": state,
        "method": trial.method,
        "seed": trial.seed,
        "config": canonical_json(trial.config),
        "validation_rmse_m": error if state == "done" else None,
        "data_hash": trial.data_hash,
        "started_at": None,
    }


def _drain(queue: StudyQueue) -> Iterator[Trial]:
    while isinstance(trial := queue.next(), Trial):
        yield trial
        queue.finish(_row(trial))


def _run(spec: StudySpec, rows: dict[str, Any] | None = None, journal: Path | None = None) -> list[Trial]:
    return list(_drain(StudyQueue(spec, "hash", rows or {}, journal)))


@pytest.mark.parametrize("search", [None, GRID, TPE], ids=["no search", "grid", "tpe"])
def test_every_wanted_trial_is_handed_out_once(search: dict[str, Any] | None) -> None:
    spec = _spec(search)
    trials = _run(spec)
    assert len({trial.key for trial in trials}) == len(trials)
    assert len(trials) == outline(spec).trials
    for cell in expand(spec):
        if cell.search is None:
            seeds = range(spec.seeds) if cell.trained else [0]
            assert {cell.trial(seed, "hash").key for seed in seeds} <= {trial.key for trial in trials}


def test_a_grid_is_enumerated_and_its_winner_repeated_on_all_seeds() -> None:
    trials = [trial for trial in _run(_spec(GRID)) if trial.method == "MDA" and trial.config["system"]["paths"] == 10]
    tried = [(trial.config["objective"]["lambda"], trial.seed) for trial in trials]
    assert tried[:5] == [(0.0, 0), (0.25, 0), (0.5, 0), (0.75, 0), (1.0, 0)]
    assert sorted(tried[5:]) == [(0.25, 1), (0.25, 2)]  # 0.25 is nearest to the optimum at 0.3


def test_tpe_gets_nearer_to_the_optimum_than_its_first_draws() -> None:
    search = {**TPE, "trials": 30, "seeds": 1}
    trials = [trial for trial in _run(_spec(search)) if trial.method == "MDA" and trial.config["system"]["paths"] == 25]
    errors = [_row(trial)["validation_rmse_m"] for trial in trials if trial.seed == 0]
    assert min(errors[5:]) < min(errors[:5])


@settings(max_examples=25)
@given(st.sampled_from(["grid", "tpe"]), st.integers(0, 60), st.integers(1, 4), st.randoms(use_true_random=False))
def test_an_interrupted_study_goes_on_without_repeating_or_losing_a_trial(
    kind: str, finished: int, parallel: int, randomness: random.Random
) -> None:
    """Any number of trials finish, in any order, some are cut off; then a new driver starts, without the journal."""
    spec = _spec(GRID if kind == "grid" else TPE)
    queue = StudyQueue(spec, "hash", {})
    live: list[Trial] = []
    for _ in range(finished):
        while len(live) < parallel and isinstance(trial := queue.next(), Trial):
            live.append(trial)
        if live:
            queue.finish(_row(live.pop(randomness.randrange(len(live)))))
    stored = dict(queue.rows)
    again = _run(spec, stored)
    assert not {trial.key for trial in again} & set(stored)
    assert len(stored) + len(again) == outline(spec).trials
    assert _run(spec, stored | {trial.key: _row(trial) for trial in again}) == []


def test_a_killed_driver_leaves_a_journal_that_the_next_one_uses(tmp_path: Path) -> None:
    spec, journal = _spec(TPE), tmp_path / "optuna.journal"
    queue = StudyQueue(spec, "hash", {}, journal)
    first = [queue.next() for _ in range(3)]  # handed out, never finished
    queue.finish(_row(first[0]))  # type: ignore[arg-type]
    again = _run(spec, dict(queue.rows), journal)
    assert {trial.key for trial in first[1:]} <= {trial.key for trial in again}  # type: ignore[union-attr]
    assert len(again) + 1 == outline(spec).trials
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    for study in storage.get_all_studies():
        states = {trial.state for trial in storage.get_all_trials(study._study_id)}
        assert optuna.trial.TrialState.RUNNING not in states


def test_candidates_that_failed_never_win() -> None:
    queue = StudyQueue(_spec(GRID, axes={"method": ["MDA"]}), "hash", {})
    repeats = []
    while isinstance(trial := queue.next(), Trial):
        weight = trial.config["objective"].get("lambda")
        if weight is not None and trial.seed > 0:
            repeats.append(weight)
        queue.finish(_row(trial, "diverged" if weight == 0.25 else "done"))
    assert set(repeats) == {0.5}  # the next best after 0.25


def test_a_cell_whose_candidates_all_failed_has_no_repeats() -> None:
    queue = StudyQueue(_spec(GRID, axes={"method": ["MDA"]}), "hash", {})
    seeds = []
    while isinstance(trial := queue.next(), Trial):
        if trial.method == "MDA":
            seeds.append(trial.seed)
        queue.finish(_row(trial, "failed"))
    assert seeds == [0] * 5


def test_the_repeats_wait_for_all_candidates() -> None:
    queue = StudyQueue(_spec(GRID, axes={"method": ["MDA"]}, references=[]), "hash", {})
    candidates = [queue.next() for _ in range(5)]
    assert all(isinstance(trial, Trial) for trial in candidates)
    assert queue.next() is Work.LATER
    for trial in candidates:
        queue.finish(_row(trial))  # type: ignore[arg-type]
    assert isinstance(queue.next(), Trial)


def test_a_lost_trial_is_not_handed_out_again_by_the_same_driver() -> None:
    spec = _spec(axes={"method": ["DCNN"]}, references=[])
    queue = StudyQueue(spec, "hash", {})
    lost = queue.next()
    assert isinstance(lost, Trial)
    queue.lose(lost.key)
    assert lost.key not in {trial.key for trial in _drain(queue)}
    assert queue.next() is Work.NONE
    assert lost.key in {trial.key for trial in _run(spec, dict(queue.rows))}


def test_more_seeds_and_wider_axes_run_only_what_is_new() -> None:
    before = _run(_spec(GRID))
    rows = {trial.key: _row(trial) for trial in before}
    more = _run(_spec(GRID, seeds=5), rows)
    assert {trial.seed for trial in more} == {3, 4}
    assert len(more) == 6 * 2  # 3 methods × 2 path counts, 2 new seeds each
    wider = _run(_spec(GRID, axes={"method": ["DCNN", "MDA", "HDA"], "system.paths": [10, 25, 15]}), rows)
    assert {trial.config["system"]["paths"] for trial in wider} == {15}


def test_a_finer_grid_keeps_the_points_that_it_shares() -> None:
    rows = {trial.key: _row(trial) for trial in _run(_spec(GRID, axes={"method": ["MDA"]}))}
    finer = {**GRID, "space": {"objective.lambda": {"grid": [0.0, 1.0, 0.125]}}}
    new = [trial for trial in _run(_spec(finer, axes={"method": ["MDA"]}), rows) if trial.seed == 0]
    assert {trial.config["objective"]["lambda"] for trial in new} == {0.125, 0.375, 0.625, 0.875}


def test_trials_of_other_data_do_not_count() -> None:
    spec = _spec(GRID)
    rows = {trial.key: _row(trial) for trial in _drain(StudyQueue(spec, "other data", {}))}
    assert len(_run(spec, rows)) == outline(spec).trials


def test_stored_repeats_count_as_stored_while_a_search_grows() -> None:
    rows = {trial.key: _row(trial) for trial in _run(_spec(GRID))}
    finer = {**GRID, "space": {"objective.lambda": {"grid": [0.0, 1.0, 0.125]}}}
    queue = StudyQueue(_spec(finer), "hash", rows)
    queue.next()
    assert queue.progress().stored == len(rows)


def test_progress_counts_what_is_wanted_stored_and_done() -> None:
    spec = _spec(GRID)
    queue = StudyQueue(spec, "hash", {})
    assert queue.progress().wanted == outline(spec).trials
    trial = queue.next()
    assert isinstance(trial, Trial)
    assert queue.progress().running == 1
    queue.finish(_row(trial))
    assert queue.progress().finished["done"] == 1
    list(_drain(queue))
    assert queue.progress().finished["done"] == queue.progress().wanted
    label, value = queue.best() or ("", 0.0)
    assert label.startswith(("DCNN", "MDA", "HDA"))
    assert value >= 10


@pytest.mark.parametrize("finished", [0, 4])
def test_a_search_ends_when_its_last_candidate_is_lost(finished: int) -> None:
    queue = StudyQueue(_spec(GRID, axes={"method": ["MDA"]}, references=[]), "hash", {})
    candidates = [queue.next() for _ in range(5)]
    for trial in candidates[:finished]:
        queue.finish(_row(trial))  # type: ignore[arg-type]
    for trial in candidates[finished:]:
        queue.lose(trial.key)  # type: ignore[union-attr]
    assert [trial.seed for trial in _drain(queue)] == ([1, 2] if finished else [])
    assert queue.next() is Work.NONE


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_long_search_is_topped_up_by_a_new_driver(sampler: str) -> None:
    """With the same seed a new sampler would draw what is stored already, and give up."""
    search = {
        "when": {"method": "MDA"}, "space": {"objective.gamma": {"float": [0.0, 4.0]}}, "sampler": sampler, "seeds": 1,
    }  # fmt: skip
    axes = {"method": ["MDA"]}
    rows = {
        trial.key: _row(trial) for trial in _run(_spec({**search, "trials": 210}, axes=axes, references=[], seeds=1))
    }
    assert len(rows) == 210
    more = _run(_spec({**search, "trials": 215}, axes=axes, references=[], seeds=1), rows)
    assert len(more) == 5


def test_failed_candidates_that_are_tried_again_are_the_same_candidates(tmp_path: Path) -> None:
    spec, journal = _spec(TPE, axes={"method": ["MDA"]}, references=[]), tmp_path / "optuna.journal"
    queue = StudyQueue(spec, "hash", {}, journal)
    trials = list(_drain_with(queue, lambda number: "failed" if number == 3 else "done"))
    failed = trials[3]
    rows = {key: row for key, row in queue.rows.items() if key != failed.key}
    again = StudyQueue(spec, "hash", rows, journal, retried={failed.key: queue.rows[failed.key]})
    first = again.next()
    assert isinstance(first, Trial)
    assert first.key == failed.key


def _drain_with(queue: StudyQueue, state: Callable[[int], str]) -> Iterator[Trial]:
    for number in itertools.count():
        if not isinstance(trial := queue.next(), Trial):
            return
        yield trial
        queue.finish(_row(trial, state(number)))


def test_another_metric_or_sampler_is_another_optuna_study(tmp_path: Path) -> None:
    journal = tmp_path / "optuna.journal"
    names = set()
    for changes in ({}, {"select": {"metric": "validation_accuracy"}}, {"search": [{**TPE, "sampler": "random"}]}):
        StudyQueue(_spec(**{"search": TPE, "axes": {"method": ["MDA"]}, **changes}), "hash", {}, journal)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
        names = {study.study_name for study in optuna.get_all_study_summaries(storage)}
    assert len(names) == 3


def test_a_candidate_that_was_enqueued_and_never_asked_for_is_closed(tmp_path: Path) -> None:
    spec, journal = _spec(GRID, axes={"method": ["MDA"]}, references=[]), tmp_path / "optuna.journal"
    StudyQueue(spec, "hash", {}, journal).next()
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    (summary,) = optuna.get_all_study_summaries(storage)
    optuna.load_study(study_name=summary.study_name, storage=storage).enqueue_trial({"objective.lambda": 0.75})
    tried = [trial.config["objective"]["lambda"] for trial in _run(spec, {}, journal) if trial.seed == 0]
    assert sorted(tried) == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    "space",
    [
        {"objective.knowledge_transfer": {"values": [True, False]}},
        {"system.paths": {"values": [{"uniform": [10, 25]}, 25]}},
        {"objective.lambda": {"grid": [0.2, 0.8, 0.3]}, "branches": {"values": ["shared", "twin"]}},
    ],
    ids=["transfer", "paths", "branches"],
)
def test_every_candidate_is_found_again_whatever_else_its_values_change(space: dict[str, Any]) -> None:
    """Without knowledge transfer no target is read, and fixed paths have no data seed."""
    axes = {"method": ["MDA"]}
    spec = _spec({"when": {"method": "MDA"}, "space": space, "seeds": 1}, axes=axes, references=[])
    rows = {trial.key: _row(trial) for trial in _run(spec)}
    (cell,) = expand(spec)
    assert cell.search is not None
    assert len(cell.stored_candidates(rows.values(), "hash")) == cell.search.points()
    assert _run(spec, rows) == []


@pytest.mark.parametrize("search", [None, GRID, TPE], ids=["no search", "grid", "tpe"])
@settings(max_examples=15)
@given(st.randoms(use_true_random=False))
def test_the_progress_is_what_the_cells_count(search: dict[str, Any] | None, randomness: random.Random) -> None:
    """It is counted as trials become known and finish; the cells are counted anew each time."""
    spec = _spec(search)
    rows = {trial.key: _row(trial, randomness.choice(["done", "failed", "pruned"])) for trial in _run(spec)}
    stored = dict(randomness.sample(sorted(rows.items()), randomness.randrange(len(rows) + 1)))
    queue = StudyQueue(spec, "hash", stored)
    while True:
        progress, cells = queue.progress(), queue.cells()
        assert progress.wanted == sum(cell.wanted for cell in cells)
        assert progress.stored + sum(progress.finished.values()) == sum(cell.stored for cell in cells)
        if not isinstance(trial := queue.next(), Trial):
            break
        queue.finish(_row(trial, randomness.choice(["done", "failed"])))


def _calls_of(work: Callable[[], object]) -> int:
    """How many functions run; what a generator or a comprehension does for each item counts, too."""
    count = 0

    def called(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def _calls_per_finished_trial(spec: StudySpec) -> list[int]:
    queue, calls = StudyQueue(spec, "hash", {}), []
    while isinstance(trial := queue.next(), Trial):
        row = _row(trial)

        def finish(row: dict[str, Any] = row) -> None:
            queue.finish(row)
            queue.progress()

        calls.append(_calls_of(finish))
    return calls


def test_a_finished_candidate_costs_the_same_in_a_large_search() -> None:
    small, large = (
        _calls_per_finished_trial(
            _spec(
                {"when": {}, "space": {"objective.lambda": {"grid": [0.0, 1.0, 1 / points]}}},
                axes={"method": ["MDA"]},
                references=[],
                seeds=1,
            )
        )
        for points in (10, 200)
    )
    # A call for each candidate of the search would be thousands.
    assert sum(large[-20:]) / 20 < 1.2 * sum(small) / len(small) + 20
