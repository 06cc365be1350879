from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from store_factory import HASH, Store, spec

from reports.results import load_results
from reports.tables import Cell, Table, selection_gap
from study.spec.expand import expand

# λ → validation RMSE, source RMSE, entropy, test RMSE.
CANDIDATES = {
    0.1: (5.0, 1.0, 0.9, 12.0),
    0.3: (4.0, 2.0, 0.8, 9.0),
    0.5: (4.5, 3.0, 0.7, 8.0),
    0.7: (6.0, 4.0, 0.1, 10.0),
}


def searched(folder: Path, **left_out: Any) -> Store:
    grid = {"when": {"method": "MDA"}, "space": {"objective.lambda": {"values": list(CANDIDATES)}}, "seeds": 2}
    store = Store(folder, spec(axes={"method": ["DCNN", "MDA"]}, search=[grid], seeds=4, references=[], claims=[]))
    for weight, (validation, source, entropy, test) in CANDIDATES.items():
        for seed in range(4 if weight == 0.3 else 2):
            # The repeats of the winner are far off: no rule may look at them.
            shift = (seed - 0.5) if seed < 2 else 20.0
            columns = {
                "validation_rmse_m": validation, "source_rmse_m": source, "target_entropy": entropy,
                "test_rmse_m": test + shift, "source_held_out": True,
            } | left_out  # fmt: skip
            store.add("MDA", seed, objective={"lambda": weight}, details=False, **columns)
    return store


def rules(table: Table) -> dict[str, dict[str, Cell]]:
    named = [{c.name: cell for c, cell in zip(table.columns, row, strict=True)} for row in table.rows]
    return {row["Rule"].text: row for row in named}


def test_each_rule_chooses_among_the_same_trials(folder: Path) -> None:
    searched(folder)
    table = selection_gap(load_results(folder))
    assert table is not None
    rows = rules(table)
    assert list(rows) == ["Validation RMSE", "Source risk", "Entropy", "Oracle"]
    told = {name: (row["Chosen"].text, row["Test RMSE"].value, row["Loss"].value) for name, row in rows.items()}
    assert told == {
        "Validation RMSE": ("λ 0.3", pytest.approx(9.0), pytest.approx(1.0)),
        "Source risk": ("λ 0.1", pytest.approx(12.0), pytest.approx(4.0)),
        "Entropy": ("λ 0.7", pytest.approx(10.0), pytest.approx(2.0)),
        "Oracle": ("λ 0.5", pytest.approx(8.0), pytest.approx(0.0)),
    }
    assert rows["Source risk"]["Loss, relative"].value == pytest.approx(50.0)
    assert rows["Validation RMSE"]["Test RMSE, all seeds"].value == pytest.approx(19.0)
    assert rows["Oracle"]["Test RMSE, all seeds"].text == "–"
    assert "test labels" in str(rows["Oracle"]["Rule"].note)
    notes = " ".join(table.notes)
    assert "for comparison only" in notes
    assert "the epoch is that of lowest validation RMSE" in notes
    assert "held back" in notes


def test_what_was_not_recorded_is_said(folder: Path) -> None:
    store = searched(folder, source_rmse_m=None, source_held_out=None)
    store.add("MDA", 1, objective={"lambda": 0.7}, state="diverged", details=False)
    table = selection_gap(load_results(folder))
    assert table is not None
    rows = rules(table)
    assert rows["Source risk"]["Chosen"].text == "— not recorded"
    assert rows["Source risk"]["Chosen"].hole
    # A candidate that lacks a seed is in no comparison, and is not hidden.
    assert rows["Entropy"]["Chosen"].text == "λ 0.5"
    assert rows["Entropy"]["Candidates"].text == "3 of 4"
    assert rows["Entropy"]["Not finished"].text == "diverged ×1"


def test_source_risk_on_training_samples_is_told_apart(folder: Path) -> None:
    searched(folder, source_held_out=False)
    table = selection_gap(load_results(folder))
    assert table is not None
    assert any("samples that were trained on" in note for note in table.notes)


def test_weights_on_an_axis_are_candidates_in_each_configuration(folder: Path) -> None:
    axes = {"method": ["MDA", "HDA"], "objective.lambda": [0.3, 0.7], "system.paths": [10, 25]}
    store = Store(folder, spec(axes=axes, search=[], seeds=2, references=[], claims=[]))
    for cell in expand(store.spec):
        for trial in cell.trials(2, HASH):
            config = trial.config
            # What is best on the validation scenes is best on the test scenes with 10 paths only.
            good = config["objective"].get("lambda") == 0.3
            test = 5.0 if good == (config["system"]["paths"] == 10) else 6.0
            store.add_trial(trial, validation_rmse_m=4.0 if good else 5.0, test_rmse_m=test)
    table = selection_gap(load_results(folder))
    assert table is not None
    named = [{c.name: cell for c, cell in zip(table.columns, row, strict=True)} for row in table.rows]
    losses = {row["Paths"].text: row["Loss"].value for row in named if row["Rule"].text == "Validation RMSE"}
    assert losses == {"10": pytest.approx(0.0), "25": pytest.approx(1.0)}
    assert {row["Method"].text for row in named} == {"MDA"}
    assert any(note.startswith("Mean loss over 2 choices: Validation RMSE 0.50 m (10.0 %)") for note in table.notes)


def test_without_candidates_there_is_no_table(folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["DCNN", "HDA"]}, search=[], claims=[]))
    store.add("HDA", 0, details=False)
    assert selection_gap(load_results(folder)) is None
