from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.errors import SpecError
from study.selection import Winner, canonical, config_value, select_winner

STATES = ["done", "diverged", "failed", "out_of_memory", "pruned"]
WEIGHT = "objective.lambda"


def row(weight: float, value: float | None, seed: int = 0, state: str = "done", test: float = 1.0) -> dict[str, Any]:
    return {
        "state": state, "seed": seed, "config": json.dumps({"objective": {"lambda": weight}}),
        "validation_rmse_m": value, "validation_accuracy": value, "test_rmse_m": test, "test_accuracy": test,
    }  # fmt: skip


def select(rows: list[dict[str, Any]], mode: str = "min", seeds: int = 1) -> Winner | None:
    return select_winner(rows, [WEIGHT], "validation_rmse", mode, seeds)


def winner_of(rows: list[dict[str, Any]], **options: Any) -> float:
    winner = select(rows, **options)
    assert winner is not None
    return winner.values[WEIGHT]


rows_strategy = st.lists(
    st.builds(
        row,
        weight=st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]),
        value=st.one_of(st.none(), st.just(float("nan")), st.floats(0.1, 50)),
        seed=st.integers(0, 2),
        state=st.sampled_from(STATES),
        test=st.floats(0.1, 50),
    ),
    max_size=25,
)


@given(rows_strategy, st.randoms(use_true_random=False))
def test_test_columns_never_move_the_winner(rows: list[dict[str, Any]], random: Any) -> None:
    tests = [entry["test_rmse_m"] for entry in rows]
    random.shuffle(tests)
    shuffled = [
        entry | {"test_rmse_m": value, "test_accuracy": value} for entry, value in zip(rows, tests, strict=True)
    ]
    assert select(shuffled) == select(rows)


@given(rows_strategy, st.randoms(use_true_random=False), st.sampled_from(["min", "max"]), st.integers(1, 3))
def test_the_order_of_rows_never_moves_the_winner(
    rows: list[dict[str, Any]], random: Any, mode: str, seeds: int
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    first, second = select(rows, mode, seeds), select(shuffled, mode, seeds)
    assert (first and first.label) == (second and second.label)


@given(rows_strategy, st.integers(1, 3))
def test_the_winner_is_done_on_every_search_seed_and_none_is_better(rows: list[dict[str, Any]], seeds: int) -> None:
    winner = select(rows, seeds=seeds)
    means = {}
    for weight in {config_value(json.loads(entry["config"]), WEIGHT) for entry in rows}:
        by_seed: dict[int, list[float]] = {}
        for entry in rows:
            value = entry["validation_rmse_m"]
            own = json.loads(entry["config"])["objective"]["lambda"] == weight
            if own and entry["state"] == "done" and value is not None and value == value and entry["seed"] < seeds:
                by_seed.setdefault(entry["seed"], []).append(value)
        if len(by_seed) == seeds:
            means[weight] = sum(sum(values) / len(values) for values in by_seed.values()) / seeds
    if winner is None:
        assert means == {}
    else:
        assert winner.score == pytest.approx(min(means.values()))
        assert winner.eligible == len(means)


@pytest.mark.parametrize("state", STATES[1:])
def test_a_candidate_that_did_not_finish_never_wins(state: str) -> None:
    assert winner_of([row(0.1, 1.0, state=state), row(0.2, 9.0)]) == 0.2
    assert select([row(0.1, 1.0, state=state)]) is None


def test_a_candidate_that_lacks_a_search_seed_never_wins() -> None:
    rows = [row(0.1, 1.0, seed=0), row(0.2, 5.0, seed=0), row(0.2, 6.0, seed=1)]
    assert winner_of(rows, seeds=2) == 0.2


def test_repeats_on_further_seeds_do_not_move_the_winner() -> None:
    rows = [row(0.1, 5.0), row(0.2, 5.1)]
    assert winner_of([*rows, row(0.1, 99.0, seed=1), row(0.1, 99.0, seed=2)]) == 0.1


def test_ties_go_to_the_lower_value_as_a_number() -> None:
    assert winner_of([row(10.0, 5.0), row(9.0, 5.0)]) == 9.0


def test_mode_max_takes_the_highest() -> None:
    assert winner_of([row(0.1, 0.5), row(0.2, 0.9)], mode="max") == 0.2


@pytest.mark.parametrize("metric", ["test_rmse", "test_accuracy", "validation_rsme"])
def test_only_validation_metrics_select(metric: str) -> None:
    with pytest.raises(SpecError) as error:
        select_winner([row(0.1, 1.0)], [WEIGHT], metric, "min", 1)
    assert "validation_rmse" in str(error.value)


def test_mode_and_seeds_are_checked() -> None:
    with pytest.raises(SpecError, match="min or max"):
        select([], mode="lowest")
    with pytest.raises(SpecError, match="at least one seed"):
        select([], seeds=0)


def test_equal_values_are_one_candidate() -> None:
    assert canonical(25) == canonical(25.0)
    assert canonical([8, 8]) == canonical((8.0, 8))
    assert canonical(0.1 + 0.2) == canonical(0.3)
    assert canonical(True) != canonical(1)
    winner = select([row(0.1 + 0.2, 5.0, seed=0), row(0.3, 6.0, seed=1)], seeds=2)
    assert winner is not None
    assert winner.candidates == 1


@pytest.mark.parametrize(
    ("metric", "mode", "wins"), [("validation_rmse", "min", 0.5), ("validation_accuracy", "max", 0.5)]
)
def test_what_a_candidate_does_not_train_never_wins(metric: str, mode: str, wins: float) -> None:
    """An untrained head may be lucky: MDA does not locate at λ = 0 and does not predict conditions at λ = 1."""
    rows = [
        {
            "state": "done",
            "seed": 0,
            "config": {"method": "MDA", "system": {"semantics": "ternary"}, "objective": {"lambda": weight}},
            "validation_rmse_m": 1.0 + weight * (2 - weight),
            "validation_accuracy": 0.5 + weight / 4,
        }
        for weight in (0, 0.5, 1)
    ]
    winner = select_winner(rows, ["objective.lambda"], metric, mode, 1)
    assert winner is not None
    assert winner.values == {"objective.lambda": wins}
    assert (winner.candidates, winner.eligible) == (3, 2)
