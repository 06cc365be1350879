"""What early stopping is expected to leave, against what Optuna's pruners leave."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.planning import survivors
from study.planning.survivors import surviving_epochs
from study.search import _pruner
from study.spec.model import EarlyStopping

RULES = st.builds(
    EarlyStopping,
    rule=st.sampled_from(["asha", "median"]),
    grace_epochs=st.integers(1, 20),
    reduction_factor=st.integers(2, 5),
    min_candidates=st.integers(1, 10),
)


@given(st.integers(0, 30), st.integers(1, 100), st.integers(0, 100))
def test_without_a_rule_every_candidate_runs_all_its_epochs(candidates: int, epochs: int, seed: int) -> None:
    assert surviving_epochs(None, candidates, epochs, np.random.default_rng(seed)).tolist() == [epochs] * candidates


@given(RULES, st.integers(0, 40), st.integers(1, 200), st.integers(0, 1000))
def test_each_runs_its_grace_and_at_most_all_epochs(
    rules: EarlyStopping, candidates: int, epochs: int, seed: int
) -> None:
    found = surviving_epochs(rules, candidates, epochs, np.random.default_rng(seed))
    assert len(found) == candidates
    assert all(min(rules.grace_epochs, epochs) <= ran <= epochs for ran in found)
    if candidates:
        assert found[0] == epochs or rules.rule == "median"  # the best so far always goes on


@pytest.mark.parametrize("rules", [EarlyStopping(grace_epochs=2), EarlyStopping(rule="median", grace_epochs=3)])
def test_the_rules_are_those_of_optuna(rules: EarlyStopping, monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates whose order never changes, told to the pruner that the engine uses, epoch by epoch."""
    monkeypatch.setattr(survivors, "_NOISE", 0.0)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    candidates, epochs = 30, 40
    for seed in range(5):
        expected = surviving_epochs(rules, candidates, epochs, np.random.default_rng(seed)).tolist()
        quality = np.random.default_rng(seed).normal(size=candidates)
        study = optuna.create_study(pruner=_pruner(rules))
        rungs = survivors._rungs(rules, epochs)
        ran = []
        for value in quality:
            trial = study.ask()
            stopped = epochs
            for epoch in rungs:
                trial.report(float(value), epoch)
                if trial.should_prune():
                    stopped = epoch
                    break
            pruned = optuna.trial.TrialState.PRUNED
            study.tell(trial, None if stopped < epochs else float(value), state=pruned if stopped < epochs else None)
            ran.append(stopped)
        assert expected == ran
        assert min(ran) < epochs


def test_a_stricter_rule_leaves_less() -> None:
    mean = {
        factor: surviving_epochs(
            EarlyStopping(grace_epochs=1, reduction_factor=factor), 500, 81, np.random.default_rng(0)
        ).mean()
        for factor in (2, 3, 4)
    }
    assert mean[2] > mean[3] > mean[4]


def test_the_median_of_those_that_came_to_their_end_becomes_harder_to_reach() -> None:
    rules = EarlyStopping(rule="median", grace_epochs=10)

    def share(candidates: int) -> float:
        generator = np.random.default_rng(0)
        found = [surviving_epochs(rules, candidates, 11, generator) for _ in range(20)]
        return float(np.mean([(ran == 11).mean() for ran in found]))

    assert share(10) > share(50) > share(500)
