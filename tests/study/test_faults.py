"""Whatever dies, and whenever: the same command completes the study, and its table is that of an undisturbed run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_process import CommandProcess
from conftest import LONG_BASE, SMALL_BASE, Result

from study.store import Store

pytestmark = pytest.mark.slow

Cli = Callable[..., Result]
WriteSpec = Callable[..., Path]
Start = Callable[..., CommandProcess]

TRIAL_PROCESS = ("ray::TrialProcess", "ray::ResourceTrainable")
METRICS = ("state", "method", "seed", "best_epoch", "epochs", "validation_rmse_m", "test_rmse_m", "test_accuracy")
STUDY: dict[str, Any] = {
    "study": "faults",
    "site": "canyon_small",
    "base": LONG_BASE,
    "axes": {"method": ["DCNN", "MDA", "HDA"]},
    "references": ["MEAN", "KNN"],
    "seeds": 8,
    "search": [{"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": [0.2, 0.8, 0.3]}}}],
}
TRIALS = 28
# Most tests run the first seeds only: their trials are among those of the whole study.
FEW = ("--seeds", "3")
FEW_TRIALS = 13


def table(folder: Path) -> dict[str, tuple[Any, ...]]:
    """What a study found, by trial key."""
    stored = Store(folder).load()
    assert not stored.damaged
    return {key: tuple(row[name] for name in METRICS) for key, row in stored.rows.items()}


def is_part_of(found: dict[str, tuple[Any, ...]], undisturbed: dict[str, tuple[Any, ...]]) -> bool:
    """Whether these are the trials of the first seeds, as an undisturbed run finds them."""
    return len(found) == FEW_TRIALS and found.items() <= undisturbed.items()


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Identity of every trial file: a trial that ran twice would have a new one."""
    found = {}
    for path in (folder / "trials").glob("*.parquet"):
        status = path.stat()
        found[path.name] = (status.st_ino, status.st_mtime_ns)
    return found


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    (tmp_path / "two.yaml").write_text("cpus: 2\n")  # on many cores everything would end at once
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results" / "faults"


@pytest.fixture
def run(start_command: Start, spec: Path, tmp_path: Path) -> Start:
    """Start ``study run`` of the study, with further arguments."""
    usual = ("run", spec, "--results", tmp_path / "results", "--cluster", tmp_path / "two.yaml")
    return lambda *more, **options: start_command(*usual, *more, **options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    """The table of a run that nothing happens to."""
    home = tmp_path_factory.mktemp("undisturbed")
    (home / "spec.yaml").write_text(yaml.safe_dump(STUDY))
    command = CommandProcess("run", home / "spec.yaml", "--results", home)
    try:
        assert command.ended() == 0, command.output()
    finally:
        command.clean_up()
    found = table(home / "faults")
    assert len(found) == TRIALS
    return found


def test_the_driver_may_be_killed_at_any_moment(
    run: Start, folder: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    """Ten kills, while it starts and in the middle of things: every trial is finished once, and no row is lost."""
    moments = random.Random(0)
    kept: dict[str, tuple[int, int]] = {}
    for kill in range(10):
        driver = run()
        if kill % 2:  # wherever its start has got to
            delay = moments.uniform(0.2, 6)
        else:
            driver.wait_for(lambda before=len(kept): len(files(folder)) > before, "another trial")  # type: ignore[misc]
            delay = moments.uniform(0, 0.5)
        driver.wait_at_most(delay)
        driver.kill()
        assert {name: files(folder)[name] for name in kept} == kept
        kept = files(folder)
    assert kept
    assert len(kept) < TRIALS, "nothing was left to kill"
    last = run()
    assert last.ended() == 0, last.output()
    assert f"{TRIALS - len(kept)} trials executed, {len(kept)} were stored before" in last.output()
    assert {name: files(folder)[name] for name in kept} == kept
    assert table(folder) == undisturbed


def test_a_killed_trial_process_is_replaced(run: Start, folder: Path, undisturbed: dict[str, tuple[Any, ...]]) -> None:
    driver = run(*FEW)
    driver.wait_for(lambda: files(folder), "a first trial")
    os.kill(driver.named(*TRIAL_PROCESS)[0], signal.SIGKILL)
    assert driver.ended() == 0, driver.output()
    assert f"{FEW_TRIALS} trials executed" in driver.output()
    assert is_part_of(table(folder), undisturbed)


def test_a_stopped_study_goes_on(run: Start, folder: Path, undisturbed: dict[str, tuple[Any, ...]]) -> None:
    """Twice: after Ctrl-C, and after a polite kill."""
    kept: dict[str, tuple[int, int]] = {}
    for stop in (CommandProcess.interrupt, CommandProcess.terminate):
        driver = run(*FEW)
        driver.wait_for(lambda wanted=len(kept) + 2: len(files(folder)) >= wanted, "two more trials")  # type: ignore[misc]
        stop(driver)
        assert driver.ended() == 130, driver.output()
        assert "Traceback" not in driver.output()
        assert "run the same command again" in driver.output()
        driver.wait_until_gone(driver.descendants)
        found = files(folder)
        assert len(kept) + 2 <= len(found) < FEW_TRIALS
        assert {name: found[name] for name in kept} == kept
        kept = found
        assert Store(folder).owner() is None
    last = run(*FEW)
    assert last.ended() == 0, last.output()
    assert f"{FEW_TRIALS - len(kept)} trials executed, {len(kept)} were stored before" in last.output()
    assert {name: files(folder)[name] for name in kept} == kept
    assert is_part_of(table(folder), undisturbed)


def test_ctrl_c_while_ray_starts_leaves_nothing_behind(run: Start, folder: Path) -> None:
    driver = run(*FEW)
    servers = lambda: [command for command in driver.descendants().values() if "gcs_server" in command]  # noqa: E731
    driver.wait_for(servers, "Ray's first server")
    driver.interrupt()
    assert driver.ended() == 130, driver.output()
    assert "Traceback" not in driver.output()
    driver.wait_until_gone(driver.descendants)
    assert files(folder) == {}
    assert Store(folder).owner() is None


def test_a_second_driver_is_told_who_runs_the_study(run: Start, folder: Path, start_command: Start) -> None:
    first = run(*FEW)
    first.wait_for(lambda: files(folder), "a first trial")
    second = run(*FEW)
    assert second.ended() == 2, second.output()
    assert str(first.process.pid) in second.output()
    assert "Traceback" not in second.output()
    status = start_command("status", folder)
    assert status.ended() == 0
    assert f"being run by process {first.process.pid}" in status.output()
    assert "running: " in status.output()
    first.kill()  # its lock goes with it
    status = start_command("status", folder)
    assert status.ended() == 0
    assert "not running" in status.output()
    third = run(*FEW)
    third.wait_for(lambda: "were stored before" in third.output() or "stored;" in third.output(), "its start")
    third.interrupt()
    third.ended()


def _small_disk(place: Path) -> str | None:
    """Mount a file system of 8 MB; why it cannot be done here, None if it was."""
    if shutil.which("mount") is None:
        return "there is no mount"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", place], capture_output=True, text=True)
    return made.stderr.strip() or f"exit code {made.returncode}" if made.returncode else None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB for the results."""
    place = tmp_path / "results"
    place.mkdir()
    if (reason := _small_disk(place)) is not None:
        pytest.skip(f"file systems cannot be mounted here: {reason}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def no_small_disk(tmp_path: Path) -> None:
    """Where file systems cannot be mounted."""
    place = tmp_path / "tried"
    place.mkdir()
    if _small_disk(place) is None:
        subprocess.run(["umount", "--lazy", place], check=True)
        pytest.skip("a disk that is really full is tried here")


def test_a_full_disk_pauses_the_study(
    small_disk: Path, run: Start, folder: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    """A real one, which somebody else fills: also while it is full a run ends with a clear message."""
    driver = run(*FEW)
    driver.wait_for(lambda: len(files(folder)) >= 2, "two trials")
    ballast = small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert driver.ended() == 2, driver.output()
    kept = files(folder)
    assert 2 <= len(kept) < FEW_TRIALS
    driver.wait_until_gone(driver.descendants)
    assert not list(folder.rglob(".*.tmp"))
    assert Store(folder).owner() is None
    again = run(*FEW)
    assert again.ended() == 2, again.output()
    for output in (driver.output(), again.output()):
        assert "Traceback" not in output
        assert "results cannot be written: No space left on device" in output
        assert "run the same command again" in output
    assert {name: files(folder)[name] for name in kept} == kept
    ballast.unlink()
    last = run(*FEW)
    assert last.ended() == 0, last.output()
    assert f"{FEW_TRIALS - len(kept)} trials executed, {len(kept)} were stored before" in last.output()
    assert {name: files(folder)[name] for name in kept} == kept
    assert is_part_of(table(folder), undisturbed)


def test_files_that_cannot_grow_pause_the_study(
    no_small_disk: None, run: Start, folder: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    """Where no disk can be filled: after two trials no file may grow beyond a few bytes."""
    limit = """
import resource, study.console
shown = study.console.RunDisplay.trial_finished
count = []
def trial_finished(display, tables):
    shown(display, tables)
    count.append(tables)
    if len(count) == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
study.console.RunDisplay.trial_finished = trial_finished
"""
    driver = run(*FEW, before=limit)
    assert driver.ended() == 2, driver.output()
    assert "Traceback" not in driver.output()
    assert "results cannot be written" in driver.output()
    assert "run the same command again" in driver.output()
    driver.wait_until_gone(driver.descendants)
    kept = files(folder)
    assert len(kept) == 2
    assert not list(folder.rglob(".*.tmp"))
    last = run(*FEW)
    assert last.ended() == 0, last.output()
    assert {name: files(folder)[name] for name in kept} == kept
    assert is_part_of(table(folder), undisturbed)


def test_one_of_two_machines_may_go(
    spec: Path, folder: Path, tmp_path: Path, start_command: Start, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    from ray.cluster_utils import Cluster as TwoMachines

    machines = TwoMachines(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        other = machines.add_node(num_cpus=1)
        machines.wait_for_nodes()
        cluster = tmp_path / "cluster.yaml"
        cluster.write_text(f"address: {machines.address}\n")
        driver = start_command("run", spec, "--results", tmp_path / "results", "--cluster", cluster, *FEW)
        driver.wait_for(lambda: len(files(folder)) >= 2, "two trials")
        machines.remove_node(other, allow_graceful=False)
        assert driver.ended() == 0, driver.output()
    finally:
        machines.shutdown()
    assert f"{FEW_TRIALS} trials executed" in driver.output()
    assert is_part_of(table(folder), undisturbed)


FAULTY_METHODS = '''
"""Methods that go wrong, each in its way, in their third step."""

import os
import time

import torch

from models.methods import DCNN
from models.settings import MethodSettings


class Sound(DCNN):
    settings = MethodSettings("Sound", joint=False, objective=DCNN.settings.objective)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.steps = 0

    def go_wrong(self, loss):
        return loss

    def training_loss(self, source, target, progress):
        loss = super().training_loss(source, target, progress)
        self.steps += 1
        return self.go_wrong(loss) if self.steps > 2 else loss


class Raises(Sound):
    settings = MethodSettings("Raises", joint=False, objective=DCNN.settings.objective)

    def go_wrong(self, loss):
        raise ArithmeticError("broken on purpose")


class NotANumber(Sound):
    settings = MethodSettings("NotANumber", joint=False, objective=DCNN.settings.objective)

    def go_wrong(self, loss):
        return loss * float("nan")


class Greedy(Sound):
    settings = MethodSettings("Greedy", joint=False, objective=DCNN.settings.objective)

    def go_wrong(self, loss):
        return loss + torch.empty(10**15).sum()


class Hangs(Sound):
    settings = MethodSettings("Hangs", joint=False, objective=DCNN.settings.objective)

    def go_wrong(self, loss):
        while True:
            time.sleep(1)


class Slow(Sound):
    settings = MethodSettings("Slow", joint=False, objective=DCNN.settings.objective)

    def go_wrong(self, loss):
        time.sleep(0.3)
        return loss


class Dies(Sound):
    settings = MethodSettings("Dies", joint=False, objective=DCNN.settings.objective)

    def go_wrong(self, loss):
        os._exit(1)
'''


def test_trials_that_go_wrong_are_results_and_the_study_goes_on(start_command: Start, tmp_path: Path) -> None:
    """NaN, an exception, too much memory, a hang, too long, a process that dies: each by a method's own code."""
    (tmp_path / "faulty.py").write_text(textwrap.dedent(FAULTY_METHODS))
    names = ["Sound", "Raises", "NotANumber", "Greedy", "Hangs", "Slow", "Dies"]
    base = {**SMALL_BASE, "training": {**SMALL_BASE["training"], "epochs": 30}}
    spec = {
        "study": "wrong", "site": "canyon_small", "base": base, "seeds": 1, "references": ["MEAN"],
        "axes": {"method": [f"faulty:{name}" for name in names]},
    }  # fmt: skip
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    (tmp_path / "cluster.yaml").write_text("trial_time_limit_s: 20\nmax_retries: 1\n")
    command = ("run", tmp_path / "spec.yaml", "--cluster", tmp_path / "cluster.yaml", "--results", tmp_path / "results")
    driver = start_command(*command)
    assert driver.ended() == 1, driver.output()
    assert "Traceback" not in driver.output()
    folder = tmp_path / "results" / "wrong"
    rows = {row["method"].rpartition(":")[2]: row for row in Store(folder).load().rows.values()}
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {
        "MEAN": "done", "Sound": "done", "Raises": "failed", "NotANumber": "diverged", "Greedy": "out_of_memory",
        "Hangs": "failed", "Slow": "failed",
    }  # fmt: skip
    assert "broken on purpose" in rows["Raises"]["error"]
    assert "time limit of 20 s" in rows["Slow"]["error"]
    assert "did not answer" in rows["Hangs"]["error"]
    assert "lost" in driver.output()  # Dies: nothing is stored of it, and it runs again
    again = start_command(*command)
    assert again.ended() == 1, again.output()
    assert "0 trials executed, 7 were stored before, 1 lost" in again.output()
    retried = start_command(*command, "--retry", "failed,out_of_memory")
    assert retried.ended() == 1, retried.output()
    assert "4 trials executed" in retried.output()
    assert {row["state"] for row in Store(folder).load().rows.values()} == set(states.values())


def test_early_stopping_stops_what_falls_behind(start_command: Start, tmp_path: Path) -> None:
    """On real trials: the report says how many were stopped and what that saved."""
    base = {**SMALL_BASE, "training": {**SMALL_BASE["training"], "epochs": 60, "learning_rate": 3.0e-3}}
    rates = [3.0e-3, 1.0e-3, 1.0e-5, 2.0e-5, 3.0e-5, 1.0e-6, 2.0e-6, 3.0e-6]
    search = {
        "when": {"method": "DCNN"},
        "space": {"training.learning_rate": {"values": rates}},
        "early_stopping": {"rule": "asha", "grace_epochs": 4, "reduction_factor": 3},
    }
    spec = {**STUDY, "study": "early", "base": base, "axes": {"method": ["DCNN"]}, "seeds": 2, "search": [search]}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    driver = start_command("run", tmp_path / "spec.yaml", "--results", tmp_path / "results")
    assert driver.ended() == 0, driver.output()
    folder = tmp_path / "results" / "early"
    store = Store(folder)
    rows = [row for row in store.load().rows.values() if row["method"] == "DCNN"]
    pruned = [row for row in rows if row["state"] == "pruned"]
    assert pruned
    assert len(rows) == len(rates) + 1
    curves = {row["key"]: store.read_epochs(row["key"]).to_pydict()["validation_rmse_m"] for row in rows}  # type: ignore[union-attr]
    firsts = [row["key"] for row in rows if row["seed"] == 0]
    for row in pruned:
        # At an epoch where it was decided, another candidate had been better.
        assert any(
            min(curves[row["key"]][:rung]) > min(min(curves[key][:rung]) for key in firsts if len(curves[key]) >= rung)
            for rung in (4, 12, 36)
            if len(curves[row["key"]]) >= rung
        )
        assert 4 <= row["epochs"] < row["planned_epochs"] == 60
        assert row["test_rmse_m"] is None
        columns = store.read_epochs(row["key"]).to_pydict()  # type: ignore[union-attr]
        assert list(columns["epoch"]) == list(range(1, row["epochs"] + 1))
        assert min(columns["validation_rmse_m"]) == row["validation_rmse_m"]
    assert f"{len(pruned)} pruned" in driver.output()
    assert "0 trials executed" in start_and_end(start_command, tmp_path)


def start_and_end(start_command: Start, tmp_path: Path) -> str:
    driver = start_command("run", tmp_path / "spec.yaml", "--results", tmp_path / "results")
    assert driver.ended() == 0, driver.output()
    return driver.output()
