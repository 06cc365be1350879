from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_factory import HASH, Store, full_study, spec, write

from reports.build import build_report
from reports.results import Results, StudyCell, load_results, value_label
from study import store as study_store
from study.errors import ResultsError
from study.search import StudyQueue
from study.selection import canonical, config_value
from study.spec.expand import expand
from study.spec.model import StudySpec
from study.spec.outline import outline
from study.spec.trial import Trial
from study.store import TRIAL_SCHEMA


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


def loose(*columns: str) -> pa.Schema:
    """The schema without the rule that these columns have no nulls."""
    return pa.schema([field.with_nullable(True) if field.name in columns else field for field in TRIAL_SCHEMA])


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
    write(trials / "gggg.parquet", [row | {"key": "gggg", "config": "[]"}], TRIAL_SCHEMA)
    write(trials / "hhhh.parquet", [row | {"key": "hhhh", "config": "{}", "seed": None}], loose("seed"))
    results = load_results(folder)
    assert [trial.key for trial in results.trials] == [good]
    assert [item.path for item in results.damaged] == [trials / f"{letter * 4}.parquet" for letter in "abcdefgh"]
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
    assert [item.path for item in results.damaged] == [folder / "errors" / f"{other}.parquet"]


def test_trials_that_the_spec_does_not_ask_for_are_left_out(folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["DCNN", "HDA"], "system.paths": [25]}, references=[], search=[]))
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
    store = Store(folder, spec(axes=axes, exclude=[{"method": "DCNN", "system.paths": 10}], search=[]))
    store.add("DCNN", 0)
    results = load_results(folder)
    holes = [(cell.method, cell.axes["system.paths"]) for cell in results.cells if not cell.trials]
    assert holes == [
        ("MEAN", 10), ("KNN", 10), ("HDA", 10), ("MEAN", 25), ("KNN", 25), ("HDA", 25),
    ]  # fmt: skip


def wanted_of(folder: Path, data_hash: str = HASH) -> set[str]:
    """Keys of the stored trials that the engine's queue would not run again and counts as the study's."""
    store = study_store.Store(folder)
    rows = store.load().rows
    queue = StudyQueue(store.read_study(), data_hash, rows)
    queue.next()  # a finished search names its winner
    return queue.known_keys() & set(rows)


def shown(results: Results) -> set[str]:
    return {trial.key for cell in results.cells for trial in cell.trials}


NARROWED = {"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": [0.0, 0.4, 0.2]}}}
AXES = {"method": ["DCNN", "TL", "RDA", "MDA", "HDA"], "system.paths": [10, 25]}


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        # Of 11 candidates 3 remain; the repeats of the winner, which lay outside, go with it.
        ({"search": [NARROWED]}, 2 * (8 + 2)),
        ({"exclude": [{"method": ["DCNN", "HDA"], "system.paths": 10}]}, 2 * 3),
        ({"exclude": [{"method": "MEAN"}, {"method": "MDA", "system.paths": 25}]}, 2 + 13),
        ({"seeds": 2}, 2 * 5),
        ({"axes": {**AXES, "system.paths": [10]}}, 2 + 4 * 3 + 13),
        ({"axes": {**AXES, "method": ["MDA", "HDA"]}, "references": ["KNN"]}, 2 * (1 + 3 * 3)),
        ({"select": {"metric": "validation_accuracy"}}, 2 * 2),
        ({"base": {"network": {"preset": "small"}, "training": {"epochs": 41}}}, 2 * (4 * 3 + 13)),
    ],
    ids=["narrowed grid", "excluded", "excluded cells", "fewer seeds", "shorter axis", "methods", "selection", "base"],
)
def test_a_changed_spec_shows_what_it_wants_and_counts_the_rest(
    folder: Path, changes: dict[str, Any], gone: int
) -> None:
    # The lowest validation RMSE is at λ = 0.7; the highest validation accuracy is at λ = 0.1.
    store = full_study(folder, paths=(10, 25), details=False)
    before = load_results(folder)
    assert not before.outside
    assert shown(before) == wanted_of(folder)
    store.write_spec(spec(axes=AXES) | changes)
    results = load_results(folder)
    assert shown(results) == wanted_of(folder)
    assert {trial.key for trial in results.trials} == shown(results)
    assert {trial.key for trial in results.outside} == shown(before) - shown(results)
    assert len(results.outside) == gone
    assert {cell.label() for cell in results.cells} <= {cell.label() for cell in before.cells}
    report = build_report(folder)
    assert f"{gone} stored trials left out: not wanted by the spec" in report.markdown.read_text(encoding="utf-8")
    page = report.html.read_text(encoding="utf-8")
    assert not [trial.key for trial in results.outside if trial.key in page]


def test_a_narrowed_grid_selects_among_the_candidates_that_it_has(folder: Path) -> None:
    store = full_study(folder, details=False)
    store.write_spec(spec(search=[NARROWED]))
    (cell,) = (cell for cell in load_results(folder).cells if cell.method == "MDA")
    assert sorted(trial.config["objective"]["lambda"] for trial in cell.trials) == [0.0, 0.2, 0.4]
    assert cell.winner is not None
    assert cell.winner.values == {"objective.lambda": 0.4}
    assert [trial.seed for trial in cell.reported] == [0]
    assert (cell.planned_candidates, cell.planned) == (3, 5)


def test_trials_of_other_data_are_holes(folder: Path) -> None:
    full_study(folder, details=False)
    (folder / "site.json").write_text(json.dumps({"name": "moved", "data_hash": "other"}), encoding="utf-8")
    results = load_results(folder)
    assert not results.trials
    assert [cell.method for cell in results.cells if not cell.trials] == list(results.methods)
    assert len(results.outside) == 2 + 4 * 3 + 13
    assert wanted_of(folder, "other") == set()
    report = build_report(folder)
    assert report.headline == "No trial of this study has a result yet."
    assert "27 stored trials left out" in report.markdown.read_text(encoding="utf-8")


EVERYTHING: dict[str, Any] = {
    "study": "everything",
    "site": "canyon_small",
    "base": {"network": {"preset": "small"}},
    "axes": {
        "method": ["DCNN", "TL", "RDA", "MDA", "HDA"],
        "branches": ["shared", "twin"],
        "objective.gamma": [None, 1.0, 2.0],  # the first is the third: 2 is the default
        "system.paths": [10, {"uniform": [10, 25]}],
    },
    "seeds": 3,
    "search": [
        {
            "when": {"method": "MDA", "system.paths": 10},
            "space": {"objective.lambda": {"float": [0.0, 1.0]}, "training.batch_size": {"int": [8, 9]}},
            "sampler": "tpe",
            "trials": 6,
            "seeds": 3,
        },
        {  # MDA and HDA read one of these settings each, DCNN and RDA neither
            "when": {
                "method": ["DCNN", "RDA", "MDA", "HDA"],
                "branches": "twin",
                "system.paths": {"uniform": [10, 25]},
            },
            "space": {
                "objective.likelihood": {"values": ["focal", "standard"]},
                "objective.lambda": {"values": [0.25, 0.75]},
            },
        },
        {  # whole numbers for a setting that is none, and fewer points than trials
            "when": {"method": "TL"},
            "space": {"objective.feature_weight": {"values": [0, 1, 2]}},
            "sampler": "random",
            "trials": 20,
        },
    ],
    "exclude": [{"method": "HDA", "system.paths": 10, "objective.gamma": 1.0}],
}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_report_uses_the_trials_that_the_queue_wanted(folder: Path, seed: int) -> None:
    store = Store(folder, EVERYTHING)
    queue = StudyQueue(store.spec, HASH, {})
    handed_out = []
    while isinstance(trial := queue.next(), Trial):
        state = "diverged" if int(trial.key, 16) % 11 == seed else "done"
        row = study_store.Store(folder).find(store.add_trial(trial, state=state))
        queue.finish(row)
        handed_out.append(trial.key)
    results = load_results(folder)
    assert shown(results) == set(handed_out) == queue.known_keys()
    assert not results.outside
    assert wanted_of(folder) == shown(results)
    progress = queue.progress()
    assert progress.wanted == len(handed_out) == outline(store.spec).trials
    assert sum(cell.planned for cell in results.cells) == len(handed_out)
    assert all(len(cell.trials) == cell.planned for cell in results.cells)
    assert all(len(cell.candidates) == cell.planned_candidates for cell in results.cells)


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
    store = Store(folder, CROSSED)
    wanted = {}
    for cell in expand(study):
        resolved = cell.resolve()
        values = {path: config_value(resolved, path) for path in CROSSED["axes"]}
        wanted[canonical(values)] = (cell, resolved)

    def cells() -> set[str]:
        return {canonical({"method": cell.method, **cell.axes}) for cell in results.cells}

    # One trial alone: every other cell is a hole.
    cell, _ = wanted[max(wanted)]
    store.add_trial(cell.trial(0, HASH))
    results = load_results(folder)
    assert cells() == set(wanted)
    assert sum(cell.planned for cell in results.cells) == outline(study).trials
    assert not results.outside
    # Everything: no hole, nothing left out.
    for cell, resolved in wanted.values():
        candidates = (
            [cell.resolve({"objective.lambda": step / 10}) for step in range(11)] if cell.search else [resolved]
        )
        for config in candidates:
            for seed in range(3 if cell.trained and (not cell.search or config == candidates[4]) else 1):
                store.add_trial(
                    Trial(config, seed, HASH),
                    validation_rmse_m=1.0 if config == candidates[min(4, len(candidates) - 1)] else 2.0,
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
        ("held_out", "held out"),
        ([-60, 60.5, -20, 0], "x\u00a0−60…60.5, y\u00a0−20…0\u00a0m"),
        ([[0, 1, 2, 3], [4, 5, 6, 7]], "x\u00a00…1, y\u00a02…3\u00a0m; x\u00a04…5, y\u00a06…7\u00a0m"),
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
        ("{study: s, site: s, select: {metric: test_rmse}}", "not a resolved spec"),
        ("{study: s, site: s, search: [{space: {objective.lamda: {values: [1]}}}]}", "not a resolved spec"),
        ("{study: 2026-01-01}", "not a resolved spec"),
        ("{study: empty, site: canyon_small}", "no finished trial"),
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


def test_a_key_of_the_spec_that_is_wrong_is_named(folder: Path) -> None:
    folder.mkdir()
    (folder / "study.yaml").write_text("{study: s, site: s, select: {metric: test_rmse}}", encoding="utf-8")
    with pytest.raises(ResultsError) as error:
        load_results(folder)
    assert error.value.where == f"{folder / 'study.yaml'}, select.metric"
    assert "validation_rmse or validation_accuracy" in (error.value.allowed or "")


@pytest.mark.parametrize("content", [None, "{", "[]", '{"name": "x"}'])
def test_a_folder_that_lost_its_data_hash_says_what_to_do(folder: Path, content: str | None) -> None:
    Store(folder, spec()).add("DCNN", 0)
    (folder / "site.json").unlink()
    if content is not None:
        (folder / "site.json").write_text(content, encoding="utf-8")
    with pytest.raises(ResultsError, match="which data") as error:
        load_results(folder)
    assert error.value.where == str(folder / "site.json")


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no such results folder"):
        load_results(tmp_path / "nowhere")


def test_the_store_of_the_tests_follows_the_contract(finished: Store) -> None:
    results = load_results(finished.folder)
    documented = Path(__file__).parents[2] / "docs" / "results.md"
    text = documented.read_text(encoding="utf-8")
    assert all(f"`{column}`" in text for column in TRIAL_SCHEMA.names)
    assert yaml.safe_load((finished.folder / "study.yaml").read_text(encoding="utf-8"))["study"] == results.spec.study
    assert json.loads(results.trials[0].row["config"]) == results.trials[0].config


# ------------------------------------------------------------------------------------------------- hostile values


def rewrite(path: Path, key: str, **values: Any) -> None:
    """Change values of one row of a file of trials, as a stranger can."""
    table = pq.read_table(path)
    rows = [row | (values if row["key"] == key else {}) for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"test_accuracy": 7.0}, "test_accuracy is 7"),
    ({"validation_accuracy": -0.1}, "validation_accuracy is -0.1"),
    ({"test_rmse_m": -3.0}, "test_rmse_m is -3"),
    ({"test_p90_error_m": -math.inf}, "test_p90_error_m is -inf"),
    ({"best_epoch": 41}, "best epoch is 41 of 40"),
    ({"best_epoch": 0}, "best epoch is 0"),
    ({"epochs": 50}, "50 epochs of 40 planned"),
    ({"train_seconds": -1.0}, "train_seconds"),
    ({"parameters": -1}, "parameters"),
    ({"seed": -1}, "seed"),
    ({"classes": ["LOS", "NLOS"], "confusion": [1, 2, 3]}, "3 entries for 2 classes"),
    ({"classes": ["LOS", "NLOS"], "confusion": [1, 2, 3, -4]}, "no count"),
    ({"confusion": [1, 2, 3, 4]}, "4 entries for 0 classes"),
    ({"classes": ["LOS", "NLOS"], "test_recall": [0.5]}, "1 recalls of 2 classes"),
    ({"classes": ["LOS", "NLOS"], "test_recall": [0.5, 1.5]}, "recalls"),
    ({"classes": ["LOS", None]}, "no name"),
    ({"config": '{"method": NaN}'}, "NaN"),
    ({"config": '{"a":' * 400 + "1" + "}" * 400}, "nested too deeply"),
    ({"config": '{"method": "Oracle"}'}, "is not that of its key"),
    ({"method": "Oracle"}, "is not that of its key"),
    ({"seed": 1}, "is not that of its key"),
    ({"data_hash": "another"}, "is not that of its key"),
]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Two methods on three seeds in one compacted file; and the keys of DCNN."""
    content = spec(axes={"method": ["DCNN", "HDA"]}, references=[], search=[])
    store = Store(tmp_path_factory.mktemp("few") / "study", content)
    keys = [store.add("DCNN", seed) for seed in range(3)]
    for seed in range(3):
        store.add("HDA", seed)
    study_store.Store(store.folder).compact()
    return store.folder, keys


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize(("values", "reason"), IMPOSSIBLE, ids=[str(number) for number in range(len(IMPOSSIBLE))])
def test_a_row_that_no_trial_can_leave_is_damaged_and_the_others_count(
    folder: Path, few: tuple[Path, list[str]], values: dict[str, Any], reason: str, compacted: bool
) -> None:
    shutil.copytree(few[0], folder)
    key, *others = few[1]
    path = folder / "trials" / "compacted-000001.parquet"
    if not compacted:  # its own file comes before the merged row
        table = pq.read_table(path)
        path = folder / "trials" / f"{key}.parquet"
        pq.write_table(table.filter(pc.equal(table["key"], key)), path)
    rewrite(path, key, **values)
    results = load_results(folder)
    assert [trial.key for trial in results.cells[0].trials] == others
    assert len(results.cells[1].trials) == 3
    assert not results.outside
    (damaged,) = results.damaged
    assert damaged.path == path
    assert reason in damaged.reason
    assert key in str(damaged)


@pytest.mark.parametrize(
    ("kind", "column", "change", "reason"),
    [
        ("epochs", "epoch", lambda values: values[::-1], "not in order"),
        ("epochs", "epoch", lambda values: [1, *values[:-1]], "repeated"),
        ("epochs", "epoch", lambda values: [value - 1 for value in values], "from 1 on"),
        ("epochs", "validation_rmse_m", lambda values: [-1.0, *values[1:]], "below 0"),
        ("errors", "error_m", lambda values: [-1.0, *values[1:]], "below 0"),
        ("errors", "error_m", lambda values: [math.nan, *values[1:]], "no finite number"),
        ("errors", "error_m", lambda values: [math.inf, *values[1:]], "no finite number"),
    ],
)
def test_epochs_and_errors_that_no_trial_can_leave_are_left_out(
    folder: Path, kind: str, column: str, change: Any, reason: str
) -> None:
    store = Store(folder, spec(axes={"method": ["DCNN"]}, references=[], search=[], claims=[]))
    bad, good = store.add("DCNN", 0), store.add("DCNN", 1)
    path = folder / kind / f"{bad}.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    values = pa.array(change(table[column].to_pylist()), table.schema.field(column).type)
    pq.write_table(table.set_column(place, table.schema.field(column), values), path)
    results = load_results(folder)
    one, many = (results.epochs, results.epochs_of) if kind == "epochs" else (results.errors, results.errors_of)
    assert one(bad) is None
    assert one(good) is not None
    assert list(many([bad, good])["key"].unique()) == [good]
    (damaged,) = results.damaged
    assert damaged.path == path
    assert reason in damaged.reason
    build_report(folder)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_many_trials_are_read_as_one_at_a_time(
    few: tuple[Path, list[str]], tmp_path: Path, data: st.DataObject
) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "study"
    shutil.copytree(few[0], folder)
    mixed = Store(folder, yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8")))
    if data.draw(st.booleans()):
        mixed.add("DCNN", 0, epochs=40)  # a file of its own beside the merged one
    stored = list(study_store.Store(folder).load().rows)
    keys = data.draw(st.lists(st.sampled_from([*stored, "0000"]), unique=True))
    results = load_results(folder)
    for many, one, columns in (
        (results.epochs_of, results.epochs, ["epoch", "validation_rmse_m"]),
        (results.errors_of, results.errors, ["condition", "error_m", "x_m"]),
    ):
        table = many(keys, columns)
        assert list(table.columns) == ["key", *columns]
        groups = {str(key): part for key, part in table.groupby("key", observed=True)}
        assert set(groups) == set(keys) - {"0000"}
        for key, part in groups.items():
            own = one(key, columns)
            assert own is not None
            pd.testing.assert_frame_equal(part.drop(columns="key").reset_index(drop=True), own)
            assert np.diff(part.index.to_numpy()).max(initial=1) == 1  # a trial's rows stand together
    assert results.epochs_of([], ["epoch"]).empty


def test_metrics_that_are_not_finite_are_named(folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["DCNN", "HDA"]}, references=[], search=[]))
    store.add("DCNN", 0)
    key = store.add("DCNN", 1, test_rmse_m=math.nan, test_p90_error_m=math.inf)
    store.add("DCNN", 2, state="diverged", validation_rmse_m=math.nan)
    results = load_results(folder)
    assert [(trial.key, columns) for trial, columns in results.not_finite] == [
        (key, ("test_rmse_m", "test_p90_error_m"))
    ]
    assert not results.damaged
    text = build_report(folder).markdown.read_text(encoding="utf-8")
    assert "1 finished trial with a metric that is NaN or infinite" in text
    assert key in text


# ------------------------------------------------------------------------------------------------- another version


def test_a_study_of_an_earlier_version_is_reported(folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["DCNN", "HDA"]}, references=["MEAN"], search=[]))
    for seed in range(2):
        store.add("DCNN", seed)
    content = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    for key in ("published", "methods", "select"):
        content.pop(key, None)
    content["report"] = {"tables": ["performance"], "figures": ["cdf"]}
    (folder / "study.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert len(load_results(folder).trials) == 2
    assert build_report(folder).html.exists()


@pytest.mark.parametrize("place", [(), ("report",), ("base", "system"), ("base", "objective"), ("select",)])
def test_a_key_of_a_later_version_is_named_with_what_to_do(folder: Path, place: tuple[str, ...]) -> None:
    store = Store(folder, spec())
    store.add("DCNN", 0, study_version="9.8.7")
    content = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    level = content
    for key in place:
        level = level[key]
    level["from_the_future"] = 3
    (folder / "study.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ResultsError, match="does not know") as error:
        load_results(folder)
    assert error.value.where == f"{folder / 'study.yaml'}, {'.'.join([*place, 'from_the_future'])}"
    assert "9.8.7" in (error.value.fix or "")


# ------------------------------------------------------------------------------------------------- look-ups


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_configurations_and_their_cells_are_those_of_the_definition(data: st.DataObject) -> None:
    """The look-ups against their definition: a configuration covers a cell that equals it wherever it has a value."""
    paths = ["system.paths", "branches", "objective.gamma"]
    value = st.sampled_from([None, 1, 2.0, "shared", [1, 2]])
    cells = data.draw(
        st.lists(st.tuples(st.sampled_from(["MEAN", "DCNN", "HDA"]), *[value] * len(paths)), min_size=1, max_size=12)
    )
    found = tuple(StudyCell(m, dict(zip(paths, values, strict=True)), (), (), 1, 1) for m, *values in cells)
    axes: dict[str, list[Any]] = {path: [] for path in paths}
    results = Results(Path(), StudySpec.model_construct(axes=axes), "", found)
    without = data.draw(st.sampled_from([(), ("branches",)]))

    def covers(one: Any, other: Any) -> bool:
        return all(v is None or canonical(dict(one).get(path)) == canonical(v) for path, v in other)

    trained = [cell for cell in found if cell.method != "MEAN"] or list(found)
    own = [cell.configuration(without) for cell in trained]
    first = {canonical(dict(item)): item for item in reversed(own)}
    expected = [
        item
        for name, item in reversed(first.items())
        if not any(covers(other, item) and not covers(item, other) for other in own)
    ]
    kept = results.configurations(without)
    assert sorted(map(canonical, map(dict, kept))) == sorted(map(canonical, map(dict, expected)))
    assert [own.index(item) for item in kept] == sorted(own.index(item) for item in kept)
    for configuration in kept:
        assert results.cells_of(configuration, None, without) == [
            cell for cell in found if covers(configuration, cell.configuration(without))
        ]
