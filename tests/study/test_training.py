"""Training and the data that it may see, on the embedded site, without Ray."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL_BASE
from worker_group import run_workers

from models.methods import DCNN, LabelledBatch, NetworkShape
from models.settings import BACKBONES, METHOD_SETTINGS, TRAINED_METHODS
from study.data.dataset import DomainData, SiteData, TrainingData
from study.data.site import open_site
from study.errors import ConfigurationError, ResultsError
from study.execution import run_trial
from study.metrics import Predictions, accuracy, confusion_matrix, rmse_m
from study.provenance import Provenance
from study.spec.trial import Trial, TrialConfiguration
from study.store import TrialTables
from study.training import CheckpointError, Checkpoints, EpochRecord, read_checkpoint, train, write_checkpoint

HERE = Provenance("0", None, None, None)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> SiteData:
    return SiteData(open_site("canyon_small"))


def _trial(method: str, seed: int = 0, **changes: dict[str, Any]) -> Trial:
    config = copy.deepcopy(SMALL_BASE)
    for section, values in changes.items():
        config.setdefault(section, {}).update(values)
    resolved = TrialConfiguration.model_validate({"method": method, **config}).resolved()
    return Trial(resolved, seed, open_site("canyon_small").data_hash)


def _run(trial: Trial, data: SiteData, checkpoints: Checkpoints | None = None) -> tuple[list[EpochRecord], TrialTables]:
    records, run = [], run_trial(trial, data, HERE, checkpoints=checkpoints)
    while True:
        try:
            records.append(next(run))
        except StopIteration as end:
            return records, end.value


@pytest.mark.parametrize("method", list(METHOD_SETTINGS))
def test_every_method_gives_a_complete_row(method: str, data: SiteData) -> None:
    records, tables = _run(_trial(method), data)
    row, settings = tables.row, METHOD_SETTINGS[method]
    assert row["state"] == "done"
    assert math.isfinite(row["test_rmse_m"])
    assert row["test_samples"] == 2 * 160
    assert row["train_samples"] == 3 * 160
    assert tables.errors is not None
    assert len(tables.errors["error_m"]) == 320
    assert set(tables.errors["scene"].tolist()) == {4, 5}
    assert row["test_rmse_m"] == pytest.approx(float(np.sqrt(np.mean(tables.errors["error_m"] ** 2))), rel=1e-4)
    assert (row["test_accuracy"] is not None) == settings.joint
    if settings.joint:
        assert sum(row["confusion"]) == 320
        right = sum(row["confusion"][i * 3 + i] for i in range(3))
        assert row["test_accuracy"] == pytest.approx(right / 320)
    if settings.trained:
        assert [record.epoch for record in records] == [1, 2]
        best = min(records, key=lambda record: record.validation_rmse_m)
        assert row["best_epoch"] == best.epoch
        assert row["validation_rmse_m"] == best.validation_rmse_m
        assert (records[0].log_var_position is not None) == (method == "HDA")


@pytest.mark.parametrize("method", TRAINED_METHODS)
def test_the_same_seed_repeats_and_another_does_not(method: str, data: SiteData) -> None:
    def path(seed: int) -> list[float]:
        return [record.train_loss for record in _run(_trial(method, seed), data)[0]]

    assert path(0) == path(0)
    assert path(0) != path(1)


def _untimed(record: EpochRecord) -> EpochRecord:
    return dataclasses.replace(record, seconds=0, validation_seconds=None)


@pytest.mark.parametrize("method", ["TL", "RDA", "MDA", "HDA", "KNN"])
def test_labels_of_the_test_scenes_cannot_reach_training(method: str, data: SiteData) -> None:
    """With other labels in the target scenes, training and selection are the same to the last digit."""
    other = SiteData(data.site)
    table = data.site.read_paths(range(6))
    condition = table.condition.copy()
    condition[4:] = (condition[4:] + 1) % 3
    other._table = dataclasses.replace(table, condition=condition)
    records, tables = _run(_trial(method), data)
    again, changed = _run(_trial(method), other)
    for one, two in zip(records, again, strict=True):
        assert _untimed(one) == _untimed(two)
    assert tables.row["validation_rmse_m"] == changed.row["validation_rmse_m"]
    if METHOD_SETTINGS[method].joint:
        assert tables.row["test_accuracy"] != changed.row["test_accuracy"]


def test_the_training_data_hold_no_target_labels(data: SiteData) -> None:
    config = TrialConfiguration.model_validate({"method": "HDA", **SMALL_BASE})
    parts = data.prepare(config.system, config.split, coordinate_scale_m=30.0)
    assert parts.training.target._fields == ("fingerprint",)
    assert torch.equal(parts.training.target.fingerprint[:], parts.test.fingerprint[:])
    assert len(parts.training.source.position) == 3 * 160


def test_the_target_can_be_the_validation_scenes(data: SiteData) -> None:
    config = TrialConfiguration.model_validate(
        {"method": "HDA", **SMALL_BASE, "split": {**SMALL_BASE["split"], "target": "validation"}}
    )
    parts = data.prepare(config.system, config.split, coordinate_scale_m=30.0)
    assert torch.equal(parts.training.target.fingerprint[:], parts.validation.fingerprint[:])


def test_one_scale_for_all_axes_keeps_the_metric(data: SiteData) -> None:
    config = TrialConfiguration.model_validate({"method": "DCNN", **SMALL_BASE})
    frame = data.prepare(config.system, config.split, coordinate_scale_m=30.0).frame
    points = torch.tensor([[0.0, 0.0], [30.0, 40.0]])
    coded = frame.encode(points)
    assert (coded[1] - coded[0]).norm() == pytest.approx(50 / 30)
    torch.testing.assert_close(frame.decode(coded), points, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("method", TRAINED_METHODS)
def test_nothing_inside_an_epoch_waits_for_the_device(
    method: str, data: SiteData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every way to read a tensor's value on the host is counted; the count does not grow with the steps."""
    counts = {"reads": 0}
    for name in ("item", "__float__", "__bool__", "__int__", "tolist", "numpy", "cpu", "nonzero"):
        real = getattr(torch.Tensor, name)

        def counted(self: torch.Tensor, *args: Any, _real: Any = real, **kwargs: Any) -> Any:
            counts["reads"] += 1
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)

    def reads(batch: int) -> int:
        counts["reads"] = 0
        _run(_trial(method, training={"batch_size": batch}), data)
        return counts["reads"]

    assert reads(240) == reads(40)  # 2 and 12 steps an epoch


def test_divergence_ends_the_trial_and_is_its_state(data: SiteData) -> None:
    trial = _trial("DCNN", training={"epochs": 30, "learning_rate": 1e30, "optimizer": "sgd"})
    records, tables = _run(trial, data)
    assert tables.row["state"] == "diverged"
    assert tables.row.get("test_rmse_m") is None
    assert tables.errors is None
    assert len(records) < 30
    assert tables.epochs is not None
    assert len(tables.epochs["epoch"]) == len(records)


def test_the_test_scenes_are_predicted_once_at_the_best_epoch(data: SiteData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    import study.execution
    import study.training

    real = study.training.predict

    def spy(method: Any, samples: Any, frame: Any) -> Any:
        seen.append(samples.scene.unique().tolist())
        return real(method, samples, frame)

    monkeypatch.setattr(study.training, "predict", spy)
    monkeypatch.setattr(study.execution, "predict", spy)
    _run(_trial("HDA", training={"epochs": 3}), data)
    source, validation, test = [0, 1, 2], [3], [4, 5]
    assert seen == [validation, validation, validation, source, test]


@pytest.mark.parametrize(("weight", "metric"), [(0.0, "validation_accuracy"), (1.0, "validation_rmse_m")])
def test_who_learns_conditions_alone_is_tested_at_the_epoch_of_the_best_accuracy(
    weight: float, metric: str, data: SiteData
) -> None:
    records, tables = _run(_trial("MDA", objective={"lambda": weight}, training={"epochs": 5}), data)
    values = [getattr(record, metric) for record in records]
    best = values.index(max(values) if metric == "validation_accuracy" else min(values)) + 1
    assert tables.row["best_epoch"] == best
    assert tables.row[metric] == values[best - 1]


@pytest.mark.parametrize("method", ["DCNN", "HDA"])
def test_what_can_be_known_without_labels_of_the_target_is_recorded(method: str, data: SiteData) -> None:
    split = {"train_scenes": 3, "labelled_scenes": 2}
    trained_on = _run(_trial(method, split=split | {"labelled_scenes": "all"}), data)[1].row
    held_out = _run(_trial(method, split=split), data)[1].row
    assert [trained_on["source_held_out"], held_out["source_held_out"]] == [False, True]
    assert trained_on["source_rmse_m"] != held_out["source_rmse_m"]
    for row in (trained_on, held_out):
        assert 0 < row["source_rmse_m"] < 200
        assert (row["target_entropy"] is None) == (method == "DCNN")
        if method == "HDA":
            assert 0 < row["target_entropy"] <= math.log(3)


def test_training_beats_the_mean_position(data: SiteData) -> None:
    training = {"epochs": 8, "batch_size": 64, "learning_rate": 3e-3, "schedule": "one_cycle"}
    changes = {"split": {"train_scenes": 24}, "training": training}
    mean = _run(_trial("MEAN", **changes), data)[1].row["test_rmse_m"]
    trained = _run(_trial("DCNN", **changes), data)[1].row["test_rmse_m"]
    assert trained < mean / 2


def _fingerprints(data: SiteData, **changes: dict[str, Any]) -> torch.Tensor:
    config = TrialConfiguration.model_validate(_trial("HDA", **changes).config)
    parts = data.prepare(config.system, config.split, coordinate_scale_m=30.0)
    return parts.test.fingerprint[:]


def test_variable_paths_are_drawn_once_for_all_trials(data: SiteData) -> None:
    drawn = {"paths": {"uniform": [10, 25]}}
    first = _fingerprints(data, system=drawn)
    assert not torch.equal(first, _fingerprints(data, system=drawn, split={"data_seed": 1}))
    assert torch.equal(first, _fingerprints(data, system=drawn))
    same = (first == _fingerprints(data, system={"paths": 25})).flatten(1).all(1).float().mean()
    assert 0 < same < 0.5  # one in sixteen draws all 25, and some rows have fewer
    # The same scene at the same positions has the same channels in another split.
    shifted = _fingerprints(data, system=drawn, split={"train_scenes": 2, "validation_scenes": 2})
    assert torch.equal(first, shifted)
    some = _fingerprints(data, system=drawn, split={"area": [-100, 100, -20, 0]})
    assert len(some) < len(first)
    assert {tuple(image.flatten().tolist()) for image in some} < {tuple(image.flatten().tolist()) for image in first}


@pytest.mark.parametrize("method", ["HDA", "KNN"])
def test_fingerprints_that_do_not_fit_are_made_for_each_batch(method: str, data: SiteData) -> None:
    small = SiteData(data.site, fingerprint_bytes=100_000)
    records, kept = _run(_trial(method), data)
    again, made = _run(_trial(method), small)
    assert (kept.row["fingerprints"], made.row["fingerprints"]) == ("kept", "per batch")
    for one, two in zip(records, again, strict=True):
        assert one.train_loss == pytest.approx(two.train_loss, rel=1e-3)
    assert made.row["test_rmse_m"] == pytest.approx(kept.row["test_rmse_m"], rel=1e-3)


def test_labelled_scenes_take_labels_away_and_nothing_else(data: SiteData) -> None:
    def parts(**split: Any) -> DomainData:
        config = TrialConfiguration.model_validate(_trial("HDA", split=split).config)
        return data.prepare(config.system, config.split, coordinate_scale_m=30.0)

    everything, some = parts(), parts(labelled_scenes=2)
    assert len(some.training.source.position) == 2 * 160
    assert torch.equal(some.training.source.fingerprint[:], everything.training.source.fingerprint[:][:320])
    assert torch.equal(some.test.scene, everything.test.scene)
    assert torch.equal(some.training.target.fingerprint[:], everything.training.target.fingerprint[:])


def test_where_the_test_is_does_not_reach_training(data: SiteData) -> None:
    """The same labelled positions, tested nearby or at the far end of the street."""

    def training(end_m: int) -> TrainingData:
        held = {"validation": [[50, 100, -20, 0]], "test": [[100, end_m, -20, 0]]}
        split = {"positions": "held_out", "held_out": held, "target": "validation", "area": [-100, end_m, -20, 0]}
        config = TrialConfiguration.model_validate(_trial("HDA", split=split).config)
        return data.prepare(config.system, config.split, coordinate_scale_m=30.0).training

    near, far = training(130), training(300)
    assert len(near.source.position) == len(far.source.position) > 100
    for one, two in ((near.source, far.source), (near.target, far.target)):
        for mine, theirs in zip(one, two, strict=True):  # type: ignore[call-overload]
            assert torch.equal(mine[:], theirs[:])


@pytest.mark.parametrize("target", ["test", "validation"])
def test_held_out_positions_never_train(data: SiteData, target: str) -> None:
    split = {"positions": "held_out", "target": target, "held_out": {"block_m": 30.0}}
    config = TrialConfiguration.model_validate(_trial("HDA", split=split).config)
    parts = data.prepare(config.system, config.split, coordinate_scale_m=30.0)
    trained = {tuple(place) for place in parts.frame.decode(parts.training.source.position).round().tolist()}
    evaluated = [
        {tuple(place) for place in part.position_m.round().tolist()} for part in (parts.validation, parts.test)
    ]
    assert trained.isdisjoint(evaluated[0] | evaluated[1])
    assert evaluated[0].isdisjoint(evaluated[1])
    chosen = parts.test if target == "test" else parts.validation
    assert torch.equal(parts.training.target.fingerprint[:], chosen.fingerprint[:])
    # Labels, positions and fingerprints still belong together.
    row = {(int(s), int(i)): n for n, (s, i) in enumerate(zip(parts.test.scene, parts.test.index, strict=True))}
    table = data.site.read_paths(sorted({scene for scene, _ in row}))
    for (scene, index), n in list(row.items())[::7]:
        at = int(np.flatnonzero(table.scene == scene)[0])
        assert parts.test.condition[n] == table.condition[at, index]
        assert parts.test.position_m[n].tolist() == table.position_m[index, :2].tolist()


def test_binary_semantics_join_the_two_blocked_conditions(data: SiteData) -> None:
    row = _run(_trial("HDA", system={"semantics": "binary"}), data)[1].row
    assert row["classes"] == ["LOS", "NLOS"]
    assert len(row["confusion"]) == 4


def test_without_semantics_there_is_no_accuracy(data: SiteData) -> None:
    row = _run(_trial("MDA", system={"semantics": "none"}), data)[1].row
    assert row["test_accuracy"] is None
    assert row["classes"] is None


def test_more_than_the_site_has_is_refused(data: SiteData) -> None:
    with pytest.raises(ConfigurationError, match="needs 203 scenes"):
        _run(_trial("DCNN", split={"train_scenes": 200}), data)
    with pytest.raises(ConfigurationError, match="asks for 26 paths"):
        _run(_trial("DCNN", system={"paths": 26}), data)


def test_metrics_by_hand() -> None:
    predictions = Predictions(
        position_m=torch.zeros(3, 2),
        error_m=torch.tensor([3.0, 4.0, 0.0]).double(),
        condition=torch.tensor([0, 1, 2]),
        condition_hat=torch.tensor([0, 2, 2]),
    )
    assert rmse_m(predictions.error_m) == pytest.approx(math.sqrt(25 / 3))
    assert accuracy(predictions) == pytest.approx(2 / 3)
    matrix = confusion_matrix(predictions, 3)
    assert matrix is not None
    assert matrix.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]


class _Folder:
    """Keeps the state after every epoch in a folder; training goes on after the given one."""

    def __init__(self, path: Path, after: int = 0) -> None:
        self._path, self._after = path, after

    def load(self) -> Mapping[str, Any] | None:
        return read_checkpoint(self._path / f"{self._after}.pt") if self._after else None

    def epoch_finished(self, record: EpochRecord, state: Callable[[], dict[str, Any]]) -> None:
        write_checkpoint(self._path / f"{record.epoch}.pt", state())


def _training(epochs: int = 4) -> dict[str, Any]:
    return {"epochs": epochs, "schedule": "one_cycle", "learning_rate": 1e-2, "batch_size": 130}


# What differs between two runs of one trial.
MEASURED = (
    "train_seconds", "validation_seconds", "data_seconds", "setup_seconds", "trial_seconds", "peak_memory_mb",
    "started_at",
)  # fmt: skip


def _assert_same_tables(one: TrialTables, two: TrialTables) -> None:
    assert {k: v for k, v in one.row.items() if k not in MEASURED} == {
        k: v for k, v in two.row.items() if k not in MEASURED
    }
    assert one.epochs is not None
    assert two.epochs is not None
    for name, values in one.epochs.items():
        assert values == two.epochs[name] or name in ("seconds", "validation_seconds"), name
    assert (one.errors is None) == (two.errors is None)
    for name, column in (one.errors or {}).items():
        assert np.array_equal(column, two.errors[name]), name  # type: ignore[index]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("HDA", {}),
        ("RDA", {"training": {**_training(), "schedule": "constant", "optimizer": "sgd"}}),
    ],
)
def test_a_resumed_trial_is_the_undisturbed_one(
    method: str, changes: dict[str, Any], data: SiteData, tmp_path: Path
) -> None:
    trial = _trial(method, **{"training": _training(), **changes})
    records, whole = _run(trial, data)
    _assert_same_tables(_run(trial, data, _Folder(tmp_path))[1], whole)
    for after in (1, 3, 4):  # after the last epoch only the test is left
        torch.rand(after)  # what else drew numbers in this process does not matter
        later, resumed = _run(trial, data, _Folder(tmp_path, after))
        assert [record.epoch for record in later] == list(range(after + 1, 5))
        _assert_same_tables(resumed, whole)
        before = read_checkpoint(tmp_path / f"{after}.pt")["records"]
        spent = sum(record["seconds"] for record in before) + sum(record.seconds for record in later)
        assert spent < resumed.row["train_seconds"] < resumed.row["trial_seconds"]
    assert len(records) == 4


def test_a_diverged_trial_stays_diverged(data: SiteData, tmp_path: Path) -> None:
    trial = _trial("DCNN", training={"epochs": 30, "learning_rate": 1e30, "optimizer": "sgd"})
    records, whole = _run(trial, data, _Folder(tmp_path))
    later, resumed = _run(trial, data, _Folder(tmp_path, len(records)))
    assert later == []
    assert resumed.row["state"] == "diverged"
    assert resumed.row["epochs"] == whole.row["epochs"] < 30


class _Dropping(DCNN):
    def training_loss(self, source: LabelledBatch, target: Any, progress: float) -> torch.Tensor:
        dropped = torch.nn.functional.dropout(source.fingerprint, 0.5)
        return super().training_loss(source._replace(fingerprint=dropped), target, progress)


def test_random_layers_go_on_with_their_numbers(data: SiteData, tmp_path: Path) -> None:
    config = TrialConfiguration.model_validate({"method": "DCNN", **SMALL_BASE})
    parts = data.prepare(config.system, config.split, coordinate_scale_m=30.0)

    def losses(after: int) -> list[float]:
        torch.manual_seed(0)
        method = _Dropping(NetworkShape((1, 16, 16), backbone=BACKBONES["small"]))
        settings = config.training.model_copy(update={"epochs": 3})
        torch.manual_seed(after)
        folder = _Folder(tmp_path, after)
        run = train(method, parts.training, parts.validation, parts.frame, settings, seed=0, checkpoints=folder)
        return [record.train_loss for record in run]

    whole = losses(0)
    assert losses(1) == whole[1:]
    assert losses(2) == whole[2:]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (("MDA", 0, {}), "method"),
        (("HDA", 1, {}), "seed"),
        (("HDA", 0, {"training": {"epochs": 5}}), "settings"),
        (("HDA", 0, {"objective": {"gamma": 1.0}}), "key"),
    ],
)
def test_the_checkpoint_of_another_trial_is_refused(
    other: tuple[str, int, Any], named: str, data: SiteData, tmp_path: Path
) -> None:
    _run(_trial("HDA"), data, _Folder(tmp_path))
    method, seed, changes = other
    with pytest.raises(CheckpointError, match="does not belong to this trial") as caught:
        _run(_trial(method, seed, **changes), data, _Folder(tmp_path, 1))
    assert named in str(caught.value.where)


def test_a_state_with_anything_missing_or_foreign_is_refused(data: SiteData, tmp_path: Path) -> None:
    _run(_trial("HDA"), data, _Folder(tmp_path))
    state = read_checkpoint(tmp_path / "1.pt")
    for name in state.keys() - {"random_device"}:
        for foreign in ("text", {"a": 1}, torch.zeros(2, 2)):
            write_checkpoint(tmp_path / "9.pt", {**state, name: foreign})
            with pytest.raises(CheckpointError, match="checkpoint does not"):
                _run(_trial("HDA"), data, _Folder(tmp_path, 9))
        write_checkpoint(tmp_path / "9.pt", {key: value for key, value in state.items() if key != name})
        with pytest.raises(CheckpointError, match="checkpoint does not"):
            _run(_trial("HDA"), data, _Folder(tmp_path, 9))


class _Malicious:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_a_checkpoint_executes_nothing(tmp_path: Path) -> None:
    file, trace = tmp_path / "state.pt", tmp_path / "executed"
    torch.save({"weights": _Malicious(trace)}, file)
    with pytest.raises(ResultsError, match="more than tensors and plain values") as caught:
        read_checkpoint(file)
    assert "weights_only" not in str(caught.value)
    file.write_bytes(pickle.dumps(_Malicious(trace)))
    with pytest.raises(ResultsError, match="damaged"):
        read_checkpoint(file)
    assert not trace.exists()
    pickle.loads(file.read_bytes())
    assert trace.exists()  # it would have


def test_a_damaged_checkpoint_is_called_so(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    state = {"numbers": torch.arange(100.0), "text": "a"}
    write_checkpoint(file, state)
    assert torch.equal(read_checkpoint(file)["numbers"], state["numbers"])
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    content = file.read_bytes()
    at = content.index(state["numbers"].numpy().tobytes())
    for damaged in (b"", content[:100], content[:-100], content[: at + 8] + b"\xff" + content[at + 9 :]):
        file.write_bytes(damaged)
        with pytest.raises(ResultsError, match="damaged"):
            read_checkpoint(file)
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content), size=200):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            same = read_checkpoint(file)  # padding and names that nobody reads may differ
        except ResultsError:
            continue
        assert torch.equal(same["numbers"], state["numbers"])
        assert same["text"] == "a"
    torch.save([1, 2], file)
    with pytest.raises(ResultsError, match="holds a list"):
        read_checkpoint(file)
    with pytest.raises(ResultsError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(ResultsError, match="cannot be written"):
        write_checkpoint(file / "state.pt", state)


def test_a_row_says_what_was_planned_and_by_how_many(data: SiteData) -> None:
    trained = _run(_trial("DCNN", system={"paths": {"uniform": [10, 25]}}, split={"data_seed": 7}), data)[1].row
    assert [trained[name] for name in ("planned_epochs", "workers", "data_seed")] == [2, 1, 7]
    reference = _run(_trial("MEAN"), data)[1].row
    assert [reference[name] for name in ("planned_epochs", "workers", "data_seed")] == [None, 1, None]


def _as_worker(trials: list[Trial], folder: Path) -> tuple[list[tuple[TrialTables, TrialTables]], str]:
    """Each whole trial with checkpoints, the trial after the second epoch of one worker, and an error."""
    data = SiteData(open_site("canyon_small"))
    mine = folder / f"worker-{torch.distributed.get_rank()}"
    tables = [
        (
            _run(trial, data, _Folder(mine / trial.key))[1],
            _run(trial, data, _Folder(folder / "alone" / trial.key, 2))[1],
        )
        for trial in trials
    ]
    if torch.distributed.get_rank() == 0:
        (mine / "9.pt").write_bytes(b"half a file")
    with pytest.raises(ResultsError) as caught:  # also where there is no such file
        _run(trials[0], data, _Folder(mine, 9))
    return tables, str(caught.value)


@pytest.mark.slow
def test_two_workers_have_the_trial_of_one(data: SiteData, tmp_path: Path) -> None:
    # float32 adds rows in another order. SGD keeps such differences small; Adam makes those of a bias before a batch
    # normalization, which has no gradient but rounding, as large as any.
    trials = [
        _trial("HDA", training={**_training(), "learning_rate": 1e-3, "optimizer": optimizer})
        for optimizer in ("sgd", "adam")
    ]
    alone = [_run(trial, data, _Folder(tmp_path / "alone" / trial.key))[1] for trial in trials]
    (first, error), (second, same_error) = run_workers(2, tmp_path, _as_worker, trials, tmp_path)
    assert "damaged" in error
    assert error == same_error
    for trial, whole, mine, other, tolerance in zip(trials, alone, first, second, (2e-3, 2e-2), strict=True):
        for one, two in zip(mine, other, strict=True):
            _assert_same_tables(one, two)
        then_alone = _run(trial, data, _Folder(tmp_path / "worker-0" / trial.key, 2))[1]
        assert [tables.row["workers"] for tables in (*mine, then_alone)] == [2, 2, 1]
        assert whole.epochs is not None
        for tables in (*mine, then_alone):
            assert tables.epochs is not None
            assert tables.row["best_epoch"] == whole.row["best_epoch"]
            assert tables.row["test_rmse_m"] == pytest.approx(whole.row["test_rmse_m"], rel=tolerance)
            for name in ("train_loss", "validation_rmse_m", "learning_rate", "log_var_position"):
                assert tables.epochs[name] == pytest.approx(whole.epochs[name], rel=tolerance, abs=1e-4), name
