"""Observers: each tells what happened in its own format, and none harms the study."""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import math
import os
import pickle
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SMALL_BASE
from rich.console import Console

from study.console import RunDisplay
from study.errors import DependencyError, SpecError
from study.observers import EventLog, Observer, Observers, RunObserver, make_observers, read_events, running_trials
from study.observers.mlflow_log import MlflowLog
from study.observers.tensorboard_log import TensorBoardLog
from study.search import StudyQueue
from study.spec.expand import expand
from study.spec.model import StudySpec
from study.spec.trial import Trial, canonical_json
from study.store import Damaged, TrialTables

DOCUMENT = Path(__file__).parents[2] / "docs" / "observability.md"
EVENTS = [name for name in vars(RunObserver) if not name.startswith("_")]


def _spec(**changes: Any) -> StudySpec:
    return StudySpec.model_validate(
        {
            "study": "s",
            "site": "canyon_small",
            "base": copy.deepcopy(SMALL_BASE),
            "axes": {"method": ["DCNN", "MDA"], "system.paths": [10, {"uniform": [10, 25]}]},
            "seeds": 1,
            "search": [{"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": [0.2, 0.8, 0.3]}}}],
            **changes,
        }
    )


def _tables(trial: Trial, state: str = "done", **columns: Any) -> TrialTables:
    """What a trial leaves: three epochs, of which the second is the best."""
    done = state == "done"
    row = {
        "key": trial.key,
        "state": state,
        "method": trial.method,
        "seed": trial.seed,
        "config": canonical_json(trial.config),
        "data_hash": trial.data_hash,
        "spec_hash": "5bec",
        "git_commit": "c0ffee",
        "started_at": "2026-01-02T03:04:05+00:00",
        "host": "node7",
        "trial_seconds": 9.0,
        "epochs": 3,
        "best_epoch": 2,
        "validation_rmse_m": 4.0,
        "test_rmse_m": 5.0 if done else None,
        "classes": ["LOS", "NLOS"],
        "test_recall": [0.5, math.nan] if done else None,
        **columns,
    }
    epochs = {
        "epoch": [1, 2, 3],
        "train_loss": [3.0, 2.0, 1.0],
        "validation_rmse_m": [6.0, 4.0, 4.5],
        "validation_accuracy": [None, None, None],
        "seconds": [1.0, 2.0, 3.0],
    }
    return TrialTables(row, epochs if state in ("done", "pruned") else None)


@pytest.fixture
def queue() -> StudyQueue:
    return StudyQueue(_spec(), "hash", {})


@pytest.fixture
def trial(queue: StudyQueue) -> Trial:
    found = queue.next()
    assert isinstance(found, Trial)
    return found


def _tell_everything(observer: RunObserver, queue: StudyQueue, trial: Trial) -> None:
    observer.damaged_files([Damaged(Path("trials/x.parquet"), "cut short")])
    observer.run_started(queue, expand(_spec()), 2)
    observer.trial_started(trial)
    observer.trial_retried(trial, 1, "its machine is gone")
    observer.trial_started(trial)
    observer.trial_progressed(trial, 1, 6.0)
    observer.tick()
    observer.trial_finished(_tables(trial))
    observer.trial_lost(trial, "its machine is gone")
    observer.run_ended(False)


@contextmanager
def _server(folder: Path, program: str, *arguments: object, health: str) -> Iterator[str]:
    """A server that runs beside this interpreter, on a free port of 127.0.0.1; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name(program), *arguments, "--host", "127.0.0.1", "--port", port]
    address = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        try:
            urllib.request.urlopen(address + health, timeout=30).close()
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([*map(str, command)], stdout=log, stderr=log, cwd=folder)
    try:
        deadline = time.monotonic() + 120
        while not is_up():
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=60)


# --- the interface ---


@pytest.mark.parametrize("kind", [Observer, Observers, EventLog, MlflowLog, TensorBoardLog, RunDisplay])
def test_every_observer_has_every_method_with_the_same_arguments(kind: type) -> None:
    for event in EVENTS:
        assert inspect.signature(getattr(kind, event)) == inspect.signature(getattr(RunObserver, event)), event


def test_the_display_hears_everything(queue: StudyQueue, trial: Trial) -> None:
    console = Console(record=True, width=200)
    with RunDisplay(console, ["system.paths"]) as display:
        _tell_everything(display, queue, trial)
    text = console.export_text()
    assert "test RMSE 5.00 m" in text
    assert text.count("its machine is gone") == 2


class _Told(Observer):
    def __init__(self) -> None:
        self.events: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name not in EVENTS:
            return super().__getattribute__(name)
        return lambda *arguments: self.events.append(name)


@pytest.mark.parametrize("failing", EVENTS)
def test_an_observer_that_fails_is_dropped_and_the_others_hear_everything(
    failing: str, queue: StudyQueue, trial: Trial
) -> None:
    def fail(*arguments: Any) -> None:
        calls.append(failing)
        raise ConnectionError("server gone\nand more")

    calls: list[str] = []
    broken = Observer()
    setattr(broken, failing, fail)
    first, last, warned = _Told(), _Told(), list[str]()
    _tell_everything(Observers([first, broken, last], warned.append), queue, trial)
    assert calls == [failing]
    assert len(warned) == 1
    assert "ConnectionError: server gone" in warned[0]
    assert first.events == last.events
    assert set(last.events) == set(EVENTS)


def test_a_message_that_cannot_be_shown_ends_nothing(queue: StudyQueue, trial: Trial) -> None:
    def fail(*arguments: Any) -> None:
        raise BrokenPipeError

    broken, told = Observer(), _Told()
    broken.tick = fail  # type: ignore[method-assign]
    _tell_everything(Observers([broken, told], fail), queue, trial)
    assert told.events[-1] == "run_ended"


def test_ctrl_c_passes_through() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    broken = Observer()
    broken.tick = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        Observers([broken], print).tick()


@pytest.mark.parametrize(("share", "dropped"), [(0.05, False), (0.2, True)])
def test_an_observer_that_takes_much_of_the_runs_time_is_dropped(share: float, dropped: bool) -> None:
    clock, calls, warned = SimpleNamespace(now=0.0), list[float](), list[str]()

    def slow() -> None:
        calls.append(clock.now)
        clock.now += 10 * share

    observer = Observer()
    observer.tick = slow  # type: ignore[method-assign]
    observers = Observers([observer], warned.append, lambda: clock.now)
    for second in range(0, 1000, 10):
        clock.now = max(clock.now, second)
        observers.tick()
    assert len(warned) == dropped
    assert (len(calls) < 100) == dropped


# --- the event log ---


def _documented_fields() -> dict[str, set[str]]:
    found = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| `(\w+)` \| (`\w+`(?:, `\w+`)*) \|", line):
            found[match[1]] = set(re.findall(r"`(\w+)`", match[2]))
    return found


def test_documented_events_and_fields_are_what_is_written(tmp_path: Path, queue: StudyQueue, trial: Trial) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    _tell_everything(log, queue, trial)
    written: dict[str, set[str]] = {}
    for event in read_events(log.path):
        fields = set(event) - {"time", "event"}
        assert written.setdefault(event["event"], fields) == fields
    assert written == _documented_fields()


def test_the_log_knows_which_trials_are_running(tmp_path: Path, queue: StudyQueue, trial: Trial) -> None:
    path = tmp_path / "events.jsonl"
    assert running_trials(path) == []
    killed = EventLog(path)
    killed.run_started(queue, [], 2)
    killed.trial_started(trial)  # of a run that was killed: its end is not told
    log = EventLog(path)
    log.run_started(queue, [], 2)
    assert running_trials(path) == []
    log.trial_started(trial)
    log.trial_progressed(trial, 7, 12.5)
    (running,) = running_trials(path)
    assert (running["key"], running["epoch"], running["validation_rmse_m"]) == (trial.key, 7, 12.5)
    log.trial_retried(trial, 1, "its process was lost")
    assert running_trials(path) == []
    log.trial_started(trial)
    log.trial_lost(trial, "its process was lost")
    assert running_trials(path) == []


def test_events_say_what_happened(tmp_path: Path, queue: StudyQueue, trial: Trial) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    _tell_everything(log, queue, trial)
    found = {event["event"]: event for event in read_events(log.path)}
    assert (found["run_started"]["pid"], found["run_started"]["host"]) == (os.getpid(), socket.gethostname())
    assert found["run_started"]["wanted"] == queue.progress().wanted
    finished = found["trial_finished"]
    assert (finished["key"], finished["state"], finished["test_rmse_m"]) == (trial.key, "done", 5.0)
    assert (finished["host"], finished["error"], finished["finished"]) == ("node7", None, 1)
    assert finished["values"] == {
        "objective.lambda": trial.config["objective"]["lambda"],
        "system.paths": trial.config["system"]["paths"],
    }
    assert found["run_ended"]["states"] == {"done": 1, "lost": 1}


def test_the_error_is_its_last_line_and_no_number_breaks_json(tmp_path: Path, trial: Trial) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.trial_finished(
        _tables(trial, "failed", error="Traceback\n  …\nValueError: größer\n", validation_rmse_m=math.nan)
    )
    log.trial_progressed(trial, 1, math.inf)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    first, second = (json.loads(line, parse_constant=refuse) for line in log.path.read_text("utf-8").splitlines())
    assert (first["error"], first["validation_rmse_m"]) == ("ValueError: größer", None)
    assert second["validation_rmse_m"] is None


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_half_a_line_of_a_killed_run_costs_that_line_only(tmp_path: Path, trial: Trial, cut: int) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.trial_started(trial)
    log.trial_lost(trial, "ü")
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[: len(whole) - cut])
    EventLog(log.path).run_ended(True)
    lost = ["trial_lost"] if cut <= 1 else []  # without its line break alone, a line is still whole
    assert [event["event"] for event in read_events(log.path)] == ["trial_started", *lost, "run_ended"]


def test_lines_that_are_no_events_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'\xff\xfe\n3\n[]\n{"time": "t"}\n\n{"time": "t", "event": "new", "more": 1}\n{"time"')
    assert [event["event"] for event in read_events(path)] == ["new"]


def test_epochs_are_logged_now_and_then(tmp_path: Path, trial: Trial) -> None:
    often, seldom = EventLog(tmp_path / "often", progress_every_s=0), EventLog(tmp_path / "seldom", 3600)
    for epoch in range(1, 6):
        often.trial_progressed(trial, epoch, 1.0)
        seldom.trial_progressed(trial, epoch, 1.0)
    assert [event["epoch"] for event in read_events(often.path)] == [1, 2, 3, 4, 5]
    assert [event["epoch"] for event in read_events(seldom.path)] == [1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_ends_the_log_and_not_the_study(queue: StudyQueue, trial: Trial) -> None:
    told, warned = _Told(), list[str]()
    _tell_everything(Observers([EventLog(Path("/dev/full")), told], warned.append), queue, trial)
    assert told.events[-1] == "run_ended"
    assert len(warned) == 1
    assert "No space left" in warned[0]


def test_nothing_is_written_before_something_happens(tmp_path: Path) -> None:
    make_observers(["tensorboard", "mlflow"], tmp_path / "s")[0].damaged_files([])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [lambda p: EventLog(p / "events"), lambda p: TensorBoardLog(p / "tb")])
def test_memory_does_not_grow_with_the_number_of_trials(
    make: Callable[[Path], RunObserver], tmp_path: Path, trial: Trial
) -> None:
    observer = make(tmp_path)
    sizes = []
    for seed in range(40):
        each = Trial(trial.config, seed, "hash")
        observer.trial_started(each)
        observer.trial_progressed(each, 1, 1.0)
        if seed % 4:
            observer.trial_finished(_tables(each))
        else:
            observer.trial_lost(each, "gone")
        sizes.append(len(pickle.dumps(observer)))
    assert sizes[-1] == sizes[4]


# --- MLflow ---


@pytest.fixture
def mlflow_log(tmp_path: Path, queue: StudyQueue) -> MlflowLog:
    folder = tmp_path / "my study"
    folder.mkdir()
    _, log = make_observers(["mlflow"], folder)
    assert isinstance(log, MlflowLog)
    log.run_started(queue, [], 1)
    return log


def _mlflow_runs(folder: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/my study/mlflow.db")
    experiment = client.get_experiment_by_name("my study")
    return [client.get_run(run.info.run_id) for run in client.search_runs([experiment.experiment_id])]


def test_a_trial_is_a_run_of_mlflow(tmp_path: Path, mlflow_log: MlflowLog, trial: Trial) -> None:
    from mlflow import MlflowClient

    mlflow_log.trial_finished(_tables(trial))
    (run,) = _mlflow_runs(tmp_path)
    assert (run.info.status, run.info.end_time - run.info.start_time) == ("FINISHED", 9000)
    assert run.info.run_name.startswith("MDA seed 0")
    assert run.data.params["objective.lambda"] == "0.2"
    assert run.data.params["system.antennas"] == "[4,4]"
    assert run.data.params["network.preset"] == "small"
    expected = {"key": trial.key, "state": "done", "spec_hash": "5bec", "data_hash": "hash", "git_commit": "c0ffee"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.metrics["test_rmse_m"] == 5.0
    assert run.data.metrics["validation_rmse_m"] == 4.0  # of the best epoch, not of the last
    assert run.data.metrics["test_recall.LOS"] == 0.5
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/my study/mlflow.db")
    history = client.get_metric_history(run.info.run_id, "epoch/validation_rmse_m")
    assert [(item.step, item.value) for item in history] == [(1, 6.0), (2, 4.0), (3, 4.5)]
    assert [b.timestamp - a.timestamp for a, b in itertools.pairwise(history)] == [2000, 3000]


def test_mlflow_takes_a_uniform_number_of_paths_and_long_runs(tmp_path: Path, mlflow_log: MlflowLog) -> None:
    queue = StudyQueue(_spec(axes={"method": ["DCNN"], "system.paths": [{"uniform": [10, 25]}]}, search=[]), "hash", {})
    trial = queue.next()
    assert isinstance(trial, Trial)
    tables = _tables(trial, error="x" * 20_000)
    epochs = {"epoch": list(range(1, 701)), "train_loss": [1.0] * 700, "validation_rmse_m": [math.nan] * 700}
    mlflow_log.trial_finished(TrialTables(tables.row, epochs))
    (run,) = _mlflow_runs(tmp_path)
    assert run.data.params["system.paths"] == '{"uniform":[10,25]}'
    assert run.info.status == "FINISHED"


def test_a_trial_is_logged_once_and_a_later_state_replaces_it(
    tmp_path: Path, mlflow_log: MlflowLog, trial: Trial
) -> None:
    from mlflow import MlflowClient

    for _ in range(2):
        mlflow_log.trial_finished(_tables(trial, "pruned"))
    (pruned,) = _mlflow_runs(tmp_path)
    assert pruned.info.status == "KILLED"
    mlflow_log.trial_finished(_tables(trial))
    (done,) = _mlflow_runs(tmp_path)
    assert (done.info.status, done.data.tags["state"]) == ("FINISHED", "done")
    # A driver that was killed while it logged leaves a run that is not terminated.
    MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/my study/mlflow.db").update_run(done.info.run_id, "RUNNING")
    mlflow_log.trial_finished(_tables(trial))
    (again,) = _mlflow_runs(tmp_path)
    assert again.info.run_id != done.info.run_id


@pytest.mark.parametrize("state", ["failed", "diverged", "out_of_memory"])
def test_a_failed_trial_is_a_failed_run(tmp_path: Path, mlflow_log: MlflowLog, trial: Trial, state: str) -> None:
    mlflow_log.trial_finished(_tables(trial, state, error="ValueError: no"))
    (run,) = _mlflow_runs(tmp_path)
    assert (run.info.status, run.data.tags["state"], run.data.tags["error"]) == ("FAILED", state, "ValueError: no")


@pytest.mark.slow
def test_a_server_takes_the_runs_and_the_terminal_stays_silent(
    tmp_path: Path,
    queue: StudyQueue,
    trial: Trial,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")  # on a busy machine it would warn, and ask again
    arguments = ["server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--workers", "1"]
    with _server(tmp_path, "mlflow", *arguments, health="/health") as server:
        _, log = make_observers([f"mlflow={server}"], tmp_path / "s")
        log.run_started(queue, [], 1)
        for _ in range(2):
            log.trial_finished(_tables(trial))
        client = MlflowClient(tracking_uri=server)
        (run,) = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    assert (run.info.status, run.data.tags["key"], run.data.metrics["test_rmse_m"]) == ("FINISHED", trial.key, 5.0)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_is_gone_ends_mlflow_and_not_the_study(tmp_path: Path, queue: StudyQueue, trial: Trial) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        told, warned = _Told(), list[str]()
        _, log = make_observers([f"mlflow={uri}"], tmp_path)
        _tell_everything(Observers([log, told], warned.append), queue, trial)
    assert told.events[-1] == "run_ended"
    assert len(warned) == 1
    assert warned[0].startswith("MLflow is told nothing more")


# --- TensorBoard ---


def _accumulator(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def test_a_trial_is_a_folder_of_tensorboard(tmp_path: Path, trial: Trial) -> None:
    from tensorboard.plugins.hparams import metadata

    _, log = make_observers(["tensorboard"], tmp_path)
    log.trial_finished(_tables(trial))
    (folder,) = (tmp_path / "tensorboard").iterdir()
    assert folder.name == f"MDA-{trial.key}"
    found = _accumulator(folder)
    epochs = found.Scalars("epoch/validation_rmse_m")
    assert [(item.step, item.value) for item in epochs] == [(1, 6.0), (2, 4.0), (3, 4.5)]
    assert [b.wall_time - a.wall_time for a, b in itertools.pairwise(epochs)] == [2.0, 3.0]
    assert found.Scalars("test_rmse_m")[0].value == 5.0
    assert "epoch/validation_accuracy" not in found.Tags()["scalars"]
    content = found.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    settings = metadata.parse_session_start_info_plugin_data(content).hparams
    assert settings["objective.lambda"].number_value == 0.2
    assert settings["system.antennas"].string_value == "[4,4]"


def test_a_trial_that_ran_again_replaces_its_folder(tmp_path: Path, trial: Trial) -> None:
    log = TensorBoardLog(tmp_path)
    (tmp_path / f".MDA-{trial.key}.tmp").mkdir()  # of a driver that was killed
    log.trial_finished(_tables(trial, "failed"))
    log.trial_finished(_tables(trial, test_rmse_m=7.0))
    (folder,) = tmp_path.iterdir()
    assert [item.value for item in _accumulator(folder).Scalars("test_rmse_m")] == [7.0]


# --- the option ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mlfow", "did you mean 'mlflow'"),
        ("", "unknown log"),
        ("MLflow=x", "unknown log"),
        ("mlflow=", "names no target"),
        ("tensorboard=", "names no target"),
        ("tensorboard=s3://bucket/runs", "no folder of this machine"),
        ("mlflow=./mlruns", "no place for MLflow's runs"),
        ("mlflow=file:///tmp/mlruns", "no place for MLflow's runs"),
    ],
)
def test_a_log_that_does_not_exist_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)) as caught:
        make_observers([text], tmp_path)
    assert caught.value.where
    assert caught.value.where.startswith("--log")
    assert caught.value.allowed


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_a_log_without_a_place_of_its_own_does_not_go_into_a_mirror(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="remote storage"):
        make_observers([name], tmp_path, is_mirror=True)
    assert len(make_observers([f"tensorboard={tmp_path}/tb"], tmp_path, is_mirror=True)) == 2


def test_the_same_log_twice_is_one(tmp_path: Path) -> None:
    assert len(make_observers(["tensorboard", "tensorboard"], tmp_path)) == 2
    assert len(make_observers([], tmp_path)) == 1


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_a_missing_package_is_said_before_anything_starts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [item for item in sys.modules if item.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError) as caught:
        make_observers([name], tmp_path)
    assert f"pip install -e '.[{name}]'" in str(caught.value)


def test_the_driver_needs_no_torch_and_no_telemetry(tmp_path: Path) -> None:
    """In a process of its own: nothing else has imported anything there."""
    program = f"""
import os, sys
from pathlib import Path
from study.observers import make_observers
assert not {{"mlflow", "tensorboard", "torch", "ray"}} & set(sys.modules), "imported without being asked for"
make_observers(["mlflow", "tensorboard"], Path({str(tmp_path)!r}))
assert not {{"torch", "tensorflow", "ray"}} & set(sys.modules)
from mlflow.telemetry.client import get_telemetry_client
assert get_telemetry_client() is None
"""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CI", "PYTEST_CURRENT_TEST", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    }
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=clean, check=False
    )
    assert done.returncode == 0, done.stderr


# --- Optuna's journal ---


@pytest.mark.slow
def test_optuna_dashboard_shows_the_searches_of_a_study(tmp_path: Path) -> None:
    journal = tmp_path / "optuna.journal"
    queue = StudyQueue(_spec(), "hash", {}, journal)
    while isinstance(trial := queue.next(), Trial):
        weight = trial.config["objective"].get("lambda", 0.0)
        queue.finish(_tables(trial, validation_rmse_m=10 + weight).row)
    before = journal.read_bytes()

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"{server}/api/{path}", timeout=30) as answer:
            return json.load(answer)

    with _server(tmp_path, "optuna-dashboard", journal, health="/api/meta") as server:
        studies = ask("studies")["study_summaries"]
        assert len(studies) == 2  # MDA with 10, and with 10 to 25 paths
        for study in studies:
            assert study["study_name"].startswith("MDA paths=")
            trials = ask(f"studies/{study['study_id']}")["trials"]
            found = {trial["params"][0]["param_internal_value"]: trial["values"] for trial in trials}
            assert {trial["state"] for trial in trials} == {"Complete"}
            assert found == {0.2: [10.2], 0.5: [10.5], 0.8: [10.8]}
    assert journal.read_bytes() == before
