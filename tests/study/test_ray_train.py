"""A trial on several Ray Train workers: the result of one worker, whatever is killed meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_process import CommandProcess
from conftest import SMALL_BASE

from study.store import Store

pytestmark = pytest.mark.slow

Start = Callable[..., CommandProcess]

WAITING, CONTROLLER, WORKER = "ray::ImplicitFunc", "ray::TrainController", "ray::RayTrainWorker"
METRICS = ("validation_rmse_m", "test_rmse_m", "test_mean_error_m", "test_accuracy")
EPOCHS = 40


class Home:
    """A study of one HDA trial, and the folder of its results."""

    def __init__(self, folder: Path, **cluster: Any) -> None:
        self.results = folder / "results"
        self.folder = self.results / "train"
        # Adam makes a full step of the rounding error that is the gradient of a bias before a batch normalization: with
        # it two runs drift apart sooner, for no reason but the order of sums.
        training = {**SMALL_BASE["training"], "epochs": EPOCHS, "optimizer": "sgd"}
        base = {**SMALL_BASE, "training": training}
        spec = {
            "study": "train", "site": "canyon_small", "base": base, "axes": {"method": ["HDA"]}, "seeds": 1,
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


def test_two_workers_find_what_one_process_finds(undisturbed: Home, start_command: Start, tmp_path: Path) -> None:
    home = Home(tmp_path, workers_per_trial=1, checkpoint_every_s=None)
    command = start_command(*home.command)
    assert command.ended() == 0, command.output()
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


def test_ray_train_with_one_worker_finds_the_same_to_the_last_digit(start_command: Start, tmp_path: Path) -> None:
    (tmp_path / "tune").mkdir()
    (tmp_path / "train").mkdir()
    rows = []
    for name, keys in (("tune", {"checkpoint_every_s": None}), ("train", {"trainer": "ray_train"})):
        home = Home(tmp_path / name, **keys)
        command = start_command(*home.command)
        assert command.ended() == 0, command.output()
        rows.append(home.row())
    assert [row["workers"] for row in rows] == [1, 1]
    for name in METRICS:
        assert rows[0][name] == rows[1][name], name


@pytest.mark.parametrize("victim", [WAITING, WORKER, CONTROLLER])
def test_what_is_killed_is_replaced_and_goes_on_from_the_checkpoint(
    victim: str, undisturbed: Home, start_command: Start, tmp_path: Path
) -> None:
    """The death of the waiting trial is the one that used to hang: its workers' resources stayed taken for ever."""
    home = Home(tmp_path, workers_per_trial=2, cpus=2)
    command = start_command(*home.command)
    command.wait_for(home.checkpoints, "a checkpoint")
    os.kill(command.named(victim)[0], signal.SIGKILL)
    assert command.ended() == 0, command.output()
    assert "1 trial executed" in command.output()
    assert home.errors() == undisturbed.errors()
    for name in METRICS:
        assert home.row()[name] == undisturbed.row()[name], name


def test_a_killed_study_goes_on_from_the_checkpoint(undisturbed: Home, start_command: Start, tmp_path: Path) -> None:
    home = Home(tmp_path, workers_per_trial=2, cpus=2)
    command = start_command(*home.command)
    command.wait_for(home.checkpoints, "a checkpoint")
    command.kill()
    assert not list(home.folder.glob("trials/*.parquet"))
    before = home.checkpoints()
    assert before
    again = start_command(*home.command)
    assert again.ended() == 0, again.output()
    assert home.errors() == undisturbed.errors()
    for name in METRICS:
        assert home.row()[name] == undisturbed.row()[name], name


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
