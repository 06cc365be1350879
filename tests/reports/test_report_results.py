from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from store_factory import TRIAL_SCHEMA, Store, full_study, spec, write

from reports.results import load_results, value_label
from study.errors import ResultsError
from study.selection import canonical, config_value
from study.spec.expand import expand, size
from study.spec.model import StudySpec


def test_trials_are_grouped_into_cells_in_the_order_of_the_report(folder: Path) -> None:
    full_study(folder, paths=(10, {"uniform": [10, 25]}), details=False)
    results = load_results(folder)
    methods = ["MEAN", "KNN", "DCNN", "TL", "RDA", "MDA", "HDA"]
    assert [(value_label(cell.axes["system.paths"]), cell.method) for cell in results.cells] == [
        (paths, method) for paths in ("10", "10–25") for method in methods
    ]
    assert not results.outside
    assert not results.damaged


def test_the_winner_is_the_candidate_of_lowest_validation_rmse_and_its_repeats_are_reported(finished: Store) -> None:
    results = load_results(finished.folder)
    (cell,) = (cell for cell in results.cells if cell.method == "MDA")
    assert cell.winner is not None
    searched = [trial for trial in cell.trials if trial.seed == 0]
    best = min(searched, key=lambda trial: trial.row["validation_rmse_m"])
    assert cell.winner.values["objective.lambda"] == best.config["objective"]["lambda"]
    assert [trial.seed for trial in cell.reported] == [0, 1, 2]
    assert cell.planned == len(cell.trials) == 13
    assert cell.planned_candidates == 11


def test_damaged_files_are_named_and_never_read(folder: Path) -> None:
    store = Store(folder, spec())
    good = store.add("DCNN", 0)
    trials = folder / "trials"
    (trials / "aaaa.parquet").write_bytes(b"not parquet")
    (trials / "bbbb.parquet").write_bytes((trials / f"{good}.parquet").read_bytes()[:-40])
    (trials / "cccc.parquet").write_bytes((trials / f"{good}.parquet").read_bytes())
    row: dict[str, Any] = dict.fromkeys(TRIAL_SCHEMA.names)
    row |= {"key": "dddd", "state": "done", "method": "TL", "seed": 1, "config": "{"}
    write(trials / "dddd.parquet", [row], TRIAL_SCHEMA)
    write(trials / "eeee.parquet", [], TRIAL_SCHEMA)
    write(trials / "ffff.parquet", [row | {"key": "ffff", "state": "finished", "config": "{}"}], TRIAL_SCHEMA)
    results = load_results(folder)
    assert [trial.key for trial in results.trials] == [good]
    assert [item.name for item in results.damaged] == [f"trials/{letter * 4}.parquet" for letter in "abcdef"]
    assert all(item.reason for item in results.damaged)


def test_epochs_and_errors_are_read_when_asked_for(folder: Path) -> None:
    store = Store(folder, spec())
    key, other = store.add("HDA", 0), store.add("HDA", 1)
    (folder / "errors" / f"{other}.parquet").write_bytes(b"")
    results = load_results(folder)
    epochs, errors = results.epochs(key), results.errors(key)
    assert epochs is not None
    assert errors is not None
    assert len(epochs) == 40
    assert len(errors) == 600
    assert results.epochs("0000") is None
    assert results.errors(other) is None
    assert results.errors(other) is None
    assert [item.name for item in results.damaged] == [f"errors/{other}.parquet"]


def test_trials_that_the_spec_does_not_ask_for_are_left_out(folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["DCNN", "HDA"], "system.paths": [25]}, references=[]))
    kept = store.add("DCNN", 0)
    left_out = {store.add("DCNN", 7), store.add("DCNN", 0, system={"paths": 10}), store.add("TL", 0)}
    results = load_results(folder)
    assert {trial.key for trial in results.outside} == left_out
    assert [trial.key for cell in results.cells for trial in cell.trials] == [kept]


def test_two_versions_of_a_configuration_are_never_mixed(folder: Path) -> None:
    store = Store(folder, spec())
    old = [store.add("DCNN", seed, epochs=20, started_at=f"2026-01-0{seed + 1}T00:00:00+00:00") for seed in range(3)]
    new = [store.add("DCNN", seed, epochs=40, started_at=f"2026-02-0{seed + 1}T00:00:00+00:00") for seed in range(2)]
    results = load_results(folder)
    (cell,) = (cell for cell in results.cells if cell.method == "DCNN")
    assert [trial.key for trial in cell.reported] == new
    assert sorted(trial.key for trial in results.outside) == sorted(old)


def test_cells_without_a_trial_are_holes_unless_excluded(folder: Path) -> None:
    axes = {"method": ["DCNN", "HDA"], "system.paths": [10, 25]}
    store = Store(folder, spec(axes=axes, exclude=[{"method": "DCNN", "system.paths": 10}]))
    store.add("DCNN", 0)
    results = load_results(folder)
    holes = [(cell.method, cell.axes["system.paths"]) for cell in results.cells if not cell.trials]
    assert holes == [
        ("MEAN", 10), ("KNN", 10), ("HDA", 10), ("MEAN", 25), ("KNN", 25), ("HDA", 25),
    ]  # fmt: skip


CROSSED: dict[str, Any] = {
    "study": "crossed",
    "site": "canyon_small",
    "base": {"network": {"preset": "small"}},
    "axes": {
        "method": ["DCNN", "TL", "MDA", "HDA"],
        "branches": ["shared", "twin"],
        "system.paths": [10, {"uniform": [10, 25]}],
        "objective.gamma": [0.0, 2.0],
    },
    "seeds": 3,
    "search": [
        {"when": {"method": "MDA", "network.preset": "small"}, "space": {"objective.lambda": {"grid": [0.0, 1.0, 0.1]}}}
    ],
    "exclude": [{"method": "TL", "system.paths": 10}],
}


def test_cells_and_plans_agree_with_the_spec_that_the_engine_runs(folder: Path) -> None:
    study = StudySpec.model_validate_json(json.dumps(CROSSED), strict=True)
    store = Store(folder, study.model_dump(mode="json", by_alias=True))
    wanted = {}
    for cell in expand(study):
        resolved = cell.resolve()
        values = {path: config_value(resolved, path) for path in CROSSED["axes"]}
        wanted[canonical(values)] = (cell, resolved)

    def cells() -> set[str]:
        return {canonical({"method": cell.method, **cell.axes}) for cell in results.cells}

    # One trial alone: every other cell is a hole.
    cell, resolved = wanted[max(wanted)]
    store.add_config(resolved, 0)
    results = load_results(folder)
    assert cells() == set(wanted)
    assert sum(cell.planned or 0 for cell in results.cells) == size(study).trials
    assert not results.outside
    # Everything: no hole, nothing left out.
    for cell, resolved in wanted.values():
        candidates = (
            [cell.resolve({"objective.lambda": step / 10}) for step in range(11)] if cell.search else [resolved]
        )
        for config in candidates:
            for seed in range(3 if cell.trained and (not cell.search or config == candidates[4]) else 1):
                store.add_config(
                    config, seed, validation_rmse_m=1.0 if config == candidates[min(4, len(candidates) - 1)] else 2.0
                )
    results = load_results(folder)
    assert cells() == set(wanted)
    assert not results.outside
    assert all(len(cell.trials) == cell.planned for cell in results.cells)
    assert all(len(cell.done) == cell.seeds for cell in results.cells)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ({"uniform": [10, 25]}, "10–25"),
        ([8, 8], "8 × 8"),
        (0.1 + 0.2, "0.3"),
        (None, "–"),
        (True, "yes"),
        ("adp", "adp"),
        ({"low": 1, "high": 2}, "low 1, high 2"),
    ],
)
def test_axis_values_in_words(value: object, label: str) -> None:
    assert value_label(value) == label


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no study.yaml"),
        ("study: [", "cannot be read"),
        ("- a list", "not a resolved spec"),
        ("axes: {method: DCNN}", "not a resolved spec"),
        ("search: [3]", "not a resolved spec"),
        ("select: {metric: test_rmse}", "cannot select"),
        ("study: empty", "no finished trial"),
    ],
)
def test_a_folder_that_cannot_be_used_says_what_to_do(folder: Path, content: str | None, words: str) -> None:
    folder.mkdir()
    if content is not None:
        (folder / "study.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ResultsError) as error:
        load_results(folder)
    assert words in error.value.what
    assert error.value.where
    assert str(folder) in error.value.where
    assert error.value.allowed
    assert error.value.fix


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no such results folder"):
        load_results(tmp_path / "nowhere")


def test_the_store_of_the_tests_follows_the_contract(finished: Store) -> None:
    results = load_results(finished.folder)
    documented = Path(__file__).parents[2] / "docs" / "results.md"
    text = documented.read_text(encoding="utf-8")
    assert all(f"`{column}`" in text for column in TRIAL_SCHEMA.names)
    assert yaml.safe_load((finished.folder / "study.yaml").read_text(encoding="utf-8"))["study"] == results.name
    assert json.loads(results.trials[0].row["config"]) == results.trials[0].config
