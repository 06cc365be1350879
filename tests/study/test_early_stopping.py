"""Early stopping and NSGA-II in the queue: who competes with whom, and what Optuna is told. No Ray here."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import SMALL_BASE

from study.search import StudyQueue, Work
from study.spec.model import StudySpec
from study.spec.trial import Trial, canonical_json

EPOCHS = 27
ASHA = {"rule": "asha", "grace_epochs": 3, "reduction_factor": 3}
MEDIAN = {"rule": "median", "grace_epochs": 3, "min_candidates": 2}
# Candidates come from good to bad, so that later ones have somebody to fall behind.
SEARCH = {
    "when": {"method": "MDA"},
    "space": {"objective.lambda": {"grid": [0.1, 0.9, 0.1]}},
    "early_stopping": ASHA,
}


def _spec(search: dict[str, Any], **changes: Any) -> StudySpec:
    base = copy.deepcopy(SMALL_BASE)
    base["training"]["epochs"] = EPOCHS
    return StudySpec.model_validate_json(
        json.dumps(
            {
                "study": "s",
                "site": "canyon_small",
                "base": base,
                "axes": {"method": ["MDA"], "system.paths": [10, 25]},
                "references": [],
                "seeds": 3,
                "search": [search],
                **changes,
            }
        ),
        strict=True,
    )


def _errors(trial: Trial) -> list[float]:
    """Validation errors of the epochs: the larger λ and the fewer paths, the worse; each epoch a little better."""
    level = 10 + 5 * trial.config["objective"]["lambda"] + (25 - trial.config["system"]["paths"]) + 0.01 * trial.seed
    return [level + 3 / epoch for epoch in range(1, EPOCHS + 1)]


def _columns(errors: list[float]) -> dict[str, list[Any]]:
    return {
        "epoch": list(range(1, len(errors) + 1)),
        "validation_rmse_m": errors,
        "validation_accuracy": [1 - error / 100 for error in errors],
    }


def _row(trial: Trial, errors: list[float], state: str) -> dict[str, Any]:
    return {
        "key": trial.key,
        "state": state,
        "method": trial.method,
        "seed": trial.seed,
        "config": canonical_json(trial.config),
        "validation_rmse_m": min(errors),
        "validation_accuracy": 1 - min(errors) / 100,
        "data_hash": trial.data_hash,
        "started_at": None,
        "epochs": len(errors),
    }


class Run:
    """Runs a queue one trial at a time, three epochs between two reports, as a trial process would."""

    def __init__(self, queue: StudyQueue) -> None:
        self.queue = queue
        self.trials: list[Trial] = []
        self.epochs: dict[str, dict[str, list[Any]]] = {}

    def go(self, most: int = 10_000) -> Run:
        while len(self.trials) < most and isinstance(trial := self.queue.next(), Trial):
            self.trials.append(trial)
            errors, seen, state = _errors(trial), 0, "done"
            while seen < EPOCHS and state == "done":
                seen += 3
                if self.queue.competes(trial.key) and seen < EPOCHS:
                    state = "pruned" if self.queue.falls_behind(trial.key, _columns(errors[:seen])) else "done"
            self.epochs[trial.key] = _columns(errors[:seen])
            self.queue.finish(_row(trial, errors[:seen], state))
        return self

    def states(self) -> list[tuple[int, float, int, str, int]]:
        """(paths, λ, seed, state, epochs) of every trial, in the order of their start."""
        rows = [self.queue.rows[trial.key] for trial in self.trials]
        return [
            (
                trial.config["system"]["paths"],
                trial.config["objective"]["lambda"],
                trial.seed,
                row["state"],
                row["epochs"],
            )
            for trial, row in zip(self.trials, rows, strict=True)
        ]


def _studies(journal: Path) -> dict[str, list[optuna.trial.FrozenTrial]]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    return {study.study_name: optuna.load_study(study_name=study.study_name, storage=storage).get_trials() for study in
            optuna.get_all_study_summaries(storage)}  # fmt: skip


@pytest.mark.parametrize("rules", [ASHA, MEDIAN], ids=["asha", "median"])
def test_candidates_that_fall_behind_are_stopped_and_told_as_pruned(rules: dict[str, Any], tmp_path: Path) -> None:
    journal = tmp_path / "optuna.journal"
    run = Run(StudyQueue(_spec({**SEARCH, "early_stopping": rules}), "hash", {}, journal)).go()
    found = run.states()
    pruned = [item for item in found if item[3] == "pruned"]
    assert pruned
    assert all(3 <= epochs < EPOCHS for *_, epochs in pruned)
    # The best candidate of each cell comes through, and its repeats run to their end.
    for paths in (10, 25):
        assert [item for item in found if item[:2] == (paths, 0.1)] == [
            (paths, 0.1, s, "done", EPOCHS) for s in range(3)
        ]
    for trials in _studies(journal).values():
        states = [trial.state for trial in trials]
        assert states.count(optuna.trial.TrialState.PRUNED) == sum(paths == 10 for paths, *_ in pruned)
        assert set(states) == {optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.COMPLETE}


def test_candidates_of_different_cells_never_compete() -> None:
    """The cell with few paths is far worse throughout; each cell alone decides as it does beside the other."""
    both = Run(StudyQueue(_spec(SEARCH), "hash", {})).go().states()
    for paths in (10, 25):
        alone = _spec(SEARCH, axes={"method": ["MDA"], "system.paths": [paths]})
        assert [item for item in both if item[0] == paths] == Run(StudyQueue(alone, "hash", {})).go().states()


def test_other_seeds_of_a_candidate_start_when_its_first_has_come_through() -> None:
    run = Run(StudyQueue(_spec({**SEARCH, "seeds": 2}), "hash", {})).go()
    found = run.states()
    pruned = {item[:2] for item in found if item[3] == "pruned"}
    assert pruned
    for paths, weight, seed, state, epochs in found:
        if (paths, weight) in pruned:
            assert (seed, state) == (0, "pruned")
        elif seed > 0:  # nothing but the first seed competes
            assert (state, epochs) == ("done", EPOCHS)
            assert found.index((paths, weight, 0, "done", EPOCHS)) < found.index((paths, weight, seed, state, epochs))
    progress = run.queue.progress()
    assert progress.wanted == len(found)


def test_a_search_goes_on_after_a_restart_as_if_nothing_had_happened() -> None:
    """Without the journal too: the pruner learns from the stored epochs what it knew."""
    whole = Run(StudyQueue(_spec(SEARCH), "hash", {})).go()
    first = Run(StudyQueue(_spec(SEARCH), "hash", {})).go(most=7)
    second = Run(StudyQueue(_spec(SEARCH), "hash", first.queue.rows, epochs=first.epochs.get)).go()
    assert first.states() + second.states() == whole.states()
    assert isinstance(StudyQueue(_spec(SEARCH), "hash", second.queue.rows, epochs=second.epochs.get).next(), Work)


def test_without_early_stopping_what_was_pruned_is_wanted_again() -> None:
    before = Run(StudyQueue(_spec(SEARCH), "hash", {})).go()
    pruned = {key for key, row in before.queue.rows.items() if row["state"] == "pruned"}
    plain = {key: value for key, value in SEARCH.items() if key != "early_stopping"}
    again = Run(StudyQueue(_spec(plain), "hash", before.queue.rows)).go()
    assert {trial.key for trial in again.trials} == pruned
    assert all(row["state"] == "done" for row in again.queue.rows.values())


def test_accuracy_as_the_selection_metric_is_what_candidates_compete_by() -> None:
    spec = _spec(SEARCH, select={"metric": "validation_accuracy"})
    by_accuracy = Run(StudyQueue(spec, "hash", {})).go().states()
    assert by_accuracy == Run(StudyQueue(_spec(SEARCH), "hash", {})).go().states()  # 1 − error / 100 orders alike


def test_a_trial_that_reports_nothing_finite_is_left_to_end_by_itself() -> None:
    queue = StudyQueue(_spec(SEARCH), "hash", {})
    trial = queue.next()
    assert isinstance(trial, Trial)
    assert not queue.falls_behind(trial.key, _columns([float("nan")] * 9))


def test_nsga2_looks_for_small_errors_and_high_accuracy_together(tmp_path: Path) -> None:
    search = {
        "when": {"method": "MDA"},
        "space": {"objective.lambda": {"float": [0.0, 1.0]}},
        "sampler": "nsga2",
        "trials": 40,
    }
    journal = tmp_path / "optuna.journal"
    queue = StudyQueue(_spec(search, axes={"method": ["MDA"]}, seeds=2), "hash", {}, journal)
    tried: list[float] = []
    while isinstance(trial := queue.next(), Trial):
        weight = trial.config["objective"]["lambda"]
        row = _row(trial, [10.0], "done")
        # Errors are smallest at 0.2, accuracy is highest at 0.4: what lies between is the front.
        row |= {"validation_rmse_m": 10 + (weight - 0.2) ** 2, "validation_accuracy": 0.9 - (weight - 0.4) ** 2}
        queue.finish(row)
        tried.append(weight)
    (trials,) = _studies(journal).values()
    assert all(trial.values == pytest.approx([10 + (w - 0.2) ** 2, 0.9 - (w - 0.4) ** 2])
               for trial in trials for w in [trial.params["objective.lambda"]])  # fmt: skip
    candidates = tried[:40]
    near = [0.1 < weight < 0.5 for weight in candidates]
    assert sum(near[-20:]) > sum(near[:20])  # later generations gather around the front
    # The winner is chosen by the selection metric alone, and repeated.
    assert len(tried) == 41
    assert tried[40] == min(candidates, key=lambda weight: abs(weight - 0.2))
