"""A trial on several Ray Train workers: the result of one worker, whatever is killed meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from command_process import CommandProcess
from conftest import SMALL_BASE

from study.store import Store

Start = Callable[..., CommandProcess]

WAITING, CONTROLLER, WORKER = "ray::ImplicitFunc", "ray::TrainController", "ray::RayTrainWorker"
METRICS = ("validation_rmse_m", "test_rmse_m", "test_mean_error_m", "test_accuracy")
EPOCHS = 24


class Home:
    """A study of one trial of each method, and the folder of its results."""

    def __init__(self, folder: Path, methods: Sequence[str] = ("HDA",), **cluster: Any) -> None:
        self.results = folder / "results"
        self.folder = self.results / "train"
        # Adam makes a full step of the rounding error that is the gradient of a bias before a batch normalization: with
        # it two runs drift apart sooner, for no reason but the order of sums.
        training = {**SMALL_BASE["training"], "epochs": EPOCHS, "optimizer": "sgd"}
        base = {**SMALL_BASE, "training": training}
        spec = {
            "study": "train", "site": "canyon_small", "base": base, "axes": {"method": list(methods)}, "seeds": 1,
            "references": [],
        }  # fmt: skip
        self.spec, self.cluster = folder / "spec.yaml", folder / "cluster.yaml"
        self.spec.write_text(yaml.safe_dump(spec))
        self.cluster.write_text(yaml.safe_dump({"checkpoint_every_s": 0, **cluster}))

    @property
    def command(self) -> tuple[object, ...]:
        return ("run", self.spec, "--cluster", self.cluster, "--results", self.results)

    def row(self) -> dict[str, Any]:
        (row,) = Store(self.folder).load().rows.values()
        return row

    def errors(self) -> list[float]:
        """Validation errors of all epochs."""
        columns = Store(self.folder).read_epochs(self.row()["key"]).to_pydict()  # type: ignore[union-attr]
        assert list(columns["epoch"]) == list(range(1, EPOCHS + 1))
        return list(columns["validation_rmse_m"])

    def checkpoints(self) -> list[Path]:
        return [path for path in self.folder.glob("checkpoints/*/checkpoint_*") if path.is_dir()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two workers, and nothing happens to them."""
    home = Home(tmp_path_factory.mktemp("undisturbed"), workers_per_trial=2)
    command = CommandProcess(*home.command)
    try:
        assert command.ended() == 0, command.output()
    finally:
        command.clean_up()
    return home


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The same trial without Ray Train."""
    home = Home(tmp_path_factory.mktemp("one"), workers_per_trial=1, checkpoint_every_s=None)
    command = CommandProcess(*home.command)
    try:
        assert command.ended() == 0, command.output()
    finally:
        command.clean_up()
    return home


@pytest.mark.slow
def test_two_workers_find_what_one_process_finds(undisturbed: Home, one_process: Home) -> None:
    home = one_process
    alone, together = home.row(), undisturbed.row()
    assert (alone["workers"], together["workers"]) == (1, 2)
    assert alone["key"] == together["key"]
    # Sums in another order differ in their last digits, and each epoch enlarges that (tests/models/test_parallel.py has
    # the law, in double precision).
    assert undisturbed.errors()[0] == pytest.approx(home.errors()[0], rel=1e-5)
    assert undisturbed.errors()[:5] == pytest.approx(home.errors()[:5], rel=5e-3)
    for name in METRICS:
        assert together[name] == pytest.approx(alone[name], rel=0.05), name
    assert not undisturbed.checkpoints()  # a stored trial needs none


@pytest.mark.slow
def test_ray_train_with_one_worker_finds_the_same_to_the_last_digit(
    one_process: Home, start_command: Start, tmp_path: Path
) -> None:
    home = Home(tmp_path, trainer="ray_train")
    command = start_command(*home.command)
    assert command.ended() == 0, command.output()
    assert home.row()["workers"] == 1
    for name in METRICS:
        assert home.row()[name] == one_process.row()[name], name


@pytest.mark.slow
def test_what_is_killed_is_replaced_and_goes_on_from_the_checkpoint(
    undisturbed: Home, start_command: Start, tmp_path: Path
) -> None:
    """First the study itself, and then, while it goes on, each kind of process that a trial has.

    The death of the waiting trial is the one that used to hang: its workers' resources stayed taken for ever.
    """
    home = Home(tmp_path, workers_per_trial=2, cpus=2, max_retries=5)
    killed = start_command(*home.command)
    killed.wait_for(home.checkpoints, "a checkpoint")
    killed.kill()
    assert not list(home.folder.glob("trials/*.parquet"))
    seen = set(home.checkpoints())
    assert seen
    command = start_command(*home.command)
    for victim in (WAITING, WORKER, CONTROLLER):
        # At first a checkpoint may still come from a worker of the killed study.
        command.wait_for(
            lambda seen=seen, victim=victim: set(home.checkpoints()) - seen and command.named(victim),  # type: ignore[misc]
            "another checkpoint",
        )
        seen = set(home.checkpoints())
        os.kill(command.named(victim)[0], signal.SIGKILL)
    assert command.ended() == 0, command.output()
    assert "1 trial executed" in command.output()
    assert command.output().count("starts again") == 3
    assert home.errors() == undisturbed.errors()
    for name in METRICS:
        assert home.row()[name] == undisturbed.row()[name], name


@pytest.mark.slow
def test_a_trial_goes_on_with_fewer_workers_when_a_machine_is_lost(
    undisturbed: Home, start_command: Start, tmp_path: Path
) -> None:
    from ray.cluster_utils import Cluster as TwoMachines

    machines = TwoMachines(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        other = machines.add_node(num_cpus=1)
        machines.wait_for_nodes()
        home = Home(tmp_path, workers_per_trial=2, min_workers_per_trial=1, address=machines.address)
        command = start_command(*home.command)
        command.wait_for(home.checkpoints, "a checkpoint")
        machines.remove_node(other, allow_graceful=False)
        assert command.ended() == 0, command.output()
    finally:
        machines.shutdown()
    assert home.row()["workers"] == 1  # those that ended it
    assert home.errors()[:5] == pytest.approx(undisturbed.errors()[:5], rel=5e-3)
    for name in METRICS:
        assert home.row()[name] == pytest.approx(undisturbed.row()[name], rel=0.05), name


@pytest.mark.slow
def test_what_trials_ask_for_machines_is_not_lost_with_a_machine() -> None:
    """Ray pins it to where it was first asked for, and it would stay dead, under its name, for all later trials."""
    import ray
    from ray.cluster_utils import Cluster as TwoMachines
    from ray.exceptions import ActorUnschedulableError, RayActorError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from study.engine.coordinator import keep_coordinator_here

    def ask() -> str:
        """As a controller on this machine does; returns the machine."""
        from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator

        ray.get(coordinator.get_or_create_autoscaling_coordinator().__ray_ready__.remote(), timeout=600)
        return str(ray.get_runtime_context().get_node_id())

    machines = TwoMachines(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        other = machines.add_node(num_cpus=1)
        machines.wait_for_nodes()
        ray.init(address=machines.address, log_to_driver=False)
        there = NodeAffinitySchedulingStrategy(other.node_id, soft=False)
        assert ray.get(ray.remote(ask).options(scheduling_strategy=there).remote()) == other.node_id
        coordinator = ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
        process = psutil.Process(ray.get(coordinator.__ray_call__.remote(lambda _: os.getpid())))
        machines.remove_node(other, allow_graceful=False)
        process.wait(600)  # it outlives its machine by a moment, and answers
        with pytest.raises((ActorUnschedulableError, RayActorError)):
            ask()
        keep_coordinator_here()
        ask()
    finally:
        ray.shutdown()
        machines.shutdown()


@pytest.mark.slow
def test_trials_wait_for_machines_as_long_as_it_takes(
    undisturbed: Home, start_command: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray gives the workers up every two seconds here: that is no loss of a trial."""
    from ray.cluster_utils import Cluster as TwoMachines

    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")  # what the machines start gets it from here
    machines = TwoMachines(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        other = machines.add_node(num_cpus=1)
        machines.wait_for_nodes()
        home = Home(tmp_path, workers_per_trial=2, address=machines.address, max_retries=1)
        command = start_command(*home.command)
        command.wait_for(home.checkpoints, "a checkpoint")
        machines.remove_node(other, allow_graceful=False)
        command.wait_at_most(10)
        assert command.process.poll() is None, command.output()
        machines.add_node(num_cpus=1)
        assert command.ended() == 0, command.output()
    finally:
        machines.shutdown()
    assert "1 trial executed" in command.output()
    assert home.errors() == undisturbed.errors()


FAULTY_METHODS = '''
"""Methods that go wrong in their third step or later, some on one worker alone."""

import os
import time
from pathlib import Path

import torch
from torch import distributed

from models.methods import DCNN
from models.settings import MethodSettings

HERE = Path(__file__).parent


class Wrong(DCNN):
    settings = MethodSettings("Wrong", joint=False, objective=DCNN.settings.objective)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.steps = 0

    def training_loss(self, source, target, progress):
        loss = super().training_loss(source, target, progress)
        self.steps += 1
        return self.go_wrong(loss, distributed.get_rank()) if self.steps > 2 else loss


class Raises(Wrong):
    settings = MethodSettings("Raises", joint=False, objective=DCNN.settings.objective)

    def go_wrong(self, loss, rank):
        if rank == 1:
            with (HERE / "raised").open("a") as file:
                file.write("once ")
            raise ArithmeticError("broken on purpose")
        return loss


class Greedy(Wrong):
    settings = MethodSettings("Greedy", joint=False, objective=DCNN.settings.objective)

    def go_wrong(self, loss, rank):
        return loss + torch.empty(10**15).sum()


class Hangs(Wrong):
    settings = MethodSettings("Hangs", joint=False, objective=DCNN.settings.objective)

    def go_wrong(self, loss, rank):
        while rank == 1:
            time.sleep(1)
        return loss


class Slow(Wrong):
    settings = MethodSettings("Slow", joint=False, objective=DCNN.settings.objective)

    def go_wrong(self, loss, rank):
        time.sleep(0.3)
        return loss


class Spoils(Wrong):
    """Whichever of the files is there says what happens to the checkpoints."""

    settings = MethodSettings("Spoils", joint=False, objective=DCNN.settings.objective)

    def go_wrong(self, loss, rank):
        if rank != 0:
            return loss
        (checkpoints,) = HERE.glob("results/train/checkpoints/*")
        states = list(checkpoints.glob("checkpoint_*/state.pt"))
        if states and (HERE / "full").exists():
            checkpoints.rename(HERE / "away")
            checkpoints.write_text("no folder")
        elif states and (HERE / "damage").exists():
            for state in states:
                os.truncate(state, 100)
            (HERE / "damage").unlink()
            os._exit(1)
        return loss
'''


@pytest.mark.slow
def test_trials_that_go_wrong_on_several_workers_are_results(start_command: Start, tmp_path: Path) -> None:
    """An exception of one worker alone, too much memory, too long, and a hang of one worker: each ends its trial."""
    (tmp_path / "wrong.py").write_text(textwrap.dedent(FAULTY_METHODS))
    names = ["Raises", "Greedy", "Hangs", "Slow"]
    methods = [f"wrong:{name}" for name in names]
    home = Home(tmp_path, methods, workers_per_trial=2, cpus=2, trial_time_limit_s=15)
    command = start_command(*home.command)
    assert command.ended() == 1, command.output()
    assert "Traceback" not in command.output()
    assert "4 trials executed" in command.output()
    rows = {row["method"].rpartition(":")[2]: row for row in Store(home.folder).load().rows.values()}
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {"Raises": "failed", "Greedy": "out_of_memory", "Hangs": "failed", "Slow": "failed"}
    assert "broken on purpose" in rows["Raises"]["error"]
    assert "go_wrong" in rows["Raises"]["error"]  # its traceback
    assert "time limit of 15 s was reached in epoch" in rows["Slow"]["error"]
    assert "did not answer" in rows["Hangs"]["error"]
    assert (tmp_path / "raised").read_text() == "once "  # another attempt would be in vain


@pytest.mark.slow
def test_what_happens_to_checkpoints_ends_no_trial(start_command: Start, tmp_path: Path) -> None:
    """Those that cannot be written pause the study; with one that is damaged the trial starts anew."""
    (tmp_path / "wrong.py").write_text(textwrap.dedent(FAULTY_METHODS))
    home = Home(tmp_path, ["wrong:Spoils"], workers_per_trial=2, cpus=2)
    (tmp_path / "full").touch()
    command = start_command(*home.command)
    assert command.ended() == 2, command.output()
    assert "Traceback" not in command.output()
    assert "checkpoints cannot be written" in command.output()
    assert "run the same command again" in command.output()
    assert not Store(home.folder).load().rows
    (tmp_path / "full").rename(tmp_path / "damage")
    (no_folder,) = home.folder.glob("checkpoints/*")
    no_folder.unlink()
    again = start_command(*home.command)
    assert again.ended() == 0, again.output()
    assert "1 trial executed" in again.output()
    assert not (tmp_path / "damage").exists()
    assert home.row()["state"] == "done"
    assert len(home.errors()) == EPOCHS


def test_a_folder_of_checkpoints_that_is_gone_is_a_failure_of_storage(tmp_path: Path) -> None:
    """What Ray itself raises where its folder was taken away between two checkpoints."""
    from ray.exceptions import GetTimeoutError
    from ray.train.v2._internal.execution.storage import StorageContext

    from study.engine.train_workers import _is_of_storage

    storage = StorageContext(str(tmp_path), "key")
    shutil.rmtree(tmp_path / "key")
    (tmp_path / "key").write_text("no folder")
    with pytest.raises((OSError, RuntimeError)) as caught:
        storage._check_validation_file()
    assert _is_of_storage(caught.value)
    assert _is_of_storage(OSError("No space left on device"))
    assert not _is_of_storage(RuntimeError("of the trial's own code"))
    assert not _is_of_storage(GetTimeoutError("looks like an OSError"))


def test_a_list_of_checkpoints_that_ray_cannot_read_is_removed(tmp_path: Path) -> None:
    from ray.train import Checkpoint, CheckpointConfig
    from ray.train._internal.session import _TrainingResult
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
    from ray.train.v2._internal.execution.storage import StorageContext

    from study.engine.train_workers import CheckpointFolder

    storage = StorageContext(str(tmp_path), "key")
    manager = CheckpointManager(CheckpointConfig(), storage)
    checkpoint = tmp_path / "key" / "checkpoint_1"
    checkpoint.mkdir()
    result = _TrainingResult(checkpoint=Checkpoint(str(checkpoint), storage.storage_filesystem), metrics={})
    manager._checkpoint_results.append(result)
    manager._latest_checkpoint_result = result
    manager._checkpoint_to_report_index[result.checkpoint] = 0
    manager._write_state_to_storage()
    folder, snapshot = CheckpointFolder(str(tmp_path)), tmp_path / "key" / "checkpoint_manager_snapshot.json"
    whole = snapshot.read_text()

    folder.remove_unusable("another")
    folder.remove_unusable("key")
    assert snapshot.read_text() == whole
    lacking = {name: value for name, value in json.loads(whole).items() if name != "current_report_index"}
    for damaged in ("", whole[: len(whole) // 2], "[]", "null", json.dumps(lacking), whole.replace("_1", "_2")):
        checkpoint.mkdir(parents=True, exist_ok=True)
        snapshot.write_text(damaged)
        folder.remove_unusable("key")
        assert not (tmp_path / "key").exists(), damaged
