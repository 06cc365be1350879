"""A trial on several Ray Train workers, started by a Tune trial that only waits.

The workers share each batch (see `models.parallel`), so that their result is that of one worker. Epochs are
checkpointed: a worker that dies costs the epochs since the last checkpoint, and so does the death of the waiting trial
or of the whole study, because the Train run has the trial's key for its name.

A worker that is alive and cannot go on says why with an `_EndError`, and its trial is not tried again for that. Any
other loss ends the waiting trial too, and the searcher hands the trial out again, as it does for trials in one process.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import study.engine.environment  # noqa: F401 - before Ray

# isort: split

import pyarrow.fs
import ray.train
from ray import tune
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision

from study.engine.attempt import Parcel, Payload, answer_deadline_s, open_data, pruned_tables, state_and_reason
from study.engine.orphans import remove_orphaned_placement_groups
from study.errors import ResultsError, StudyError
from study.spec.trial import Trial
from study.storage import RemoteFolder, is_remote
from study.store import TrialTables

if TYPE_CHECKING:
    from study.training import EpochRecord

__all__ = ["CheckpointFolder", "WorkerGroup", "train_on_workers"]

REPORT_EVERY_S = 1.0
_STATE = "state.pt"
_SNAPSHOT = "checkpoint_manager_snapshot.json"


@dataclass(frozen=True)
class CheckpointFolder:
    """Where Ray Train keeps the checkpoints of unfinished trials, in a folder for each key.

    Attributes:
        location: an absolute folder, or the URI of one on any pyarrow file system.
    """

    location: str

    def open(self) -> tuple[pyarrow.fs.FileSystem, str]:
        """The file system, and the folder's path there.

        Raises:
            ResultsError: the URI cannot be used, or its storage cannot be reached.
        """
        if not is_remote(self.location):
            return pyarrow.fs.LocalFileSystem(), self.location
        remote = RemoteFolder.open(self.location)
        return remote.filesystem, remote.base

    def remove_unusable(self, key: str) -> None:
        """Remove what a trial left if Ray Train could not read it: its controller would not even start.

        Ray writes its list of checkpoints in place: whoever is killed meanwhile leaves half of it.
        """
        from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _CheckpointManagerState

        filesystem, path = self.open()
        try:
            with filesystem.open_input_stream(f"{path}/{key}/{_SNAPSHOT}") as file:
                text = file.read()
        except OSError:  # not there; or Ray itself will say what is wrong
            return
        try:
            snapshot = _CheckpointManagerState.model_validate(json.loads(text))
            names = {item.checkpoint_dir_name for item in snapshot.checkpoint_results}
            latest = snapshot.latest_checkpoint_result
            found = filesystem.get_file_info([f"{path}/{key}/{name}" for name in sorted(names)])
            usable = all(info.type == pyarrow.fs.FileType.Directory for info in found)
            usable = usable and (latest is None or latest.checkpoint_dir_name in names)
        except (ValueError, TypeError):
            usable = False
        if not usable:
            print(f"the checkpoints of trial {key} cannot be used; it starts anew", file=sys.stderr)
            self.remove(key)

    def remove(self, key: str) -> None:
        """Remove what a trial left; nothing happens if there is nothing, or if it cannot be removed now."""
        try:
            filesystem, path = self.open()
            filesystem.delete_dir(f"{path}/{key}")
        except (OSError, StudyError):  # not there, or not reachable: a checkpoint too many does no harm
            return


@dataclass(frozen=True)
class WorkerGroup:
    """The workers of one trial.

    Attributes:
        workers: how many.
        min_workers: with how few a trial goes on after a loss.
        cpu, gpu: what each worker gets.
        checkpoints: where checkpoints are kept.
        checkpoint_every_s: least seconds between two checkpoints.
    """

    workers: int
    min_workers: int
    cpu: float
    gpu: float
    checkpoints: CheckpointFolder
    checkpoint_every_s: float


class _EndError(Exception):
    """Raised by a worker that is alive and cannot go on. It carries text alone: it goes through two processes."""


class _TrialFailedError(_EndError):
    """The trial's own failure, which is a result.

    Args:
        state: of the row.
        reason: the row's error.
        seconds: what it took.
    """

    def __init__(self, state: str, reason: str, seconds: float) -> None:
        super().__init__(state, reason, seconds)
        self.state, self.reason, self.seconds = state, reason, seconds

    def __str__(self) -> str:
        return self.reason


class _UnusableCheckpointError(_EndError):
    """The trial cannot go on from its checkpoint."""


class _UnwritableCheckpointError(_EndError):
    """A checkpoint cannot be stored, which is no failure of the trial."""


class _OnlyWaiting(DefaultFailurePolicy):
    """A trial waits for its machines as long as it takes; whatever else goes wrong ends the run of its workers.

    The 30 s after which Ray gives a group of workers up only let it look again how many machines there are. A group
    that got its machines and cannot start is another matter: it would be started for ever.
    """

    def make_decision(self, training_failed_error: ray.train.TrainingFailedError) -> FailureDecision:
        """RETRY or RAISE."""
        cause = getattr(training_failed_error, "controller_failure", None)
        waiting = isinstance(cause, WorkerGroupStartupTimeoutError)
        return FailureDecision.RETRY if waiting else FailureDecision.RAISE


def train_on_workers(config: dict[str, Any]) -> None:
    """The Tune trial: starts the workers, passes their reports on, and waits.

    It reports the tables as ``parcel``, or as ``unwritable`` a `ResultsError` that ends the study.

    Args:
        config: ``payload``, ``group`` (a `WorkerGroup`), ``trial`` (JSON) and ``competes``, as for `TrialProcess`.
    """
    payload: Payload = config["payload"]
    checkpoints: CheckpointFolder = config["group"].checkpoints
    trial = Trial(**json.loads(config["trial"]))
    # The trial that was killed in this one's place may still hold what this one needs.
    remove_orphaned_placement_groups()
    checkpoints.remove_unusable(trial.key)
    end = _run_workers(trial, config)
    if isinstance(end, _UnusableCheckpointError):
        print(f"{end}\nthe trial starts anew", file=sys.stderr)
        checkpoints.remove(trial.key)
        end = _run_workers(trial, config)
    if isinstance(end, _TrialFailedError):
        from study.execution import failed_tables

        tables = failed_tables(trial, payload.provenance, end.state, end.reason)
        tables.row["trial_seconds"] = end.seconds
        tune.report({"parcel": Parcel(tables)})
    elif end is not None:  # what cannot be used and cannot be removed is no better than what cannot be written
        error = ResultsError(
            f"checkpoints cannot be written: {end}",
            where=f"{checkpoints.location}/{trial.key}",
            allowed="a folder that every machine can write to, with free space",
            fix="make room there, then run the same command again: what is stored is kept",
        )
        tune.report({"unwritable": error})


def _run_workers(trial: Trial, config: dict[str, Any]) -> _EndError | None:
    """Let workers run a trial.

    Returns:
        Why they could not end it; None if they did.

    Raises:
        WorkerGroupError: workers were lost.
        ControllerError, RayActorError: the process that minds them was lost.
    """
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.tune.integration.ray_train import TuneReportCallback

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            """Without Ray's own cleaner, a process for each trial that waits for a dashboard: see `orphans`."""
            made = super()._create_default_callbacks()
            return [item for item in made if not isinstance(item, PlacementGroupCleanerCallback)]

        def _initialize_and_run_controller(self, **parts: Any) -> ray.train.Result:
            policy = _OnlyWaiting(self.run_config.failure_config)
            return super()._initialize_and_run_controller(**{**parts, "failure_policy": policy})

    payload: Payload = config["payload"]
    group: WorkerGroup = config["group"]
    workers = group.workers if trial.config.get("training") else 1  # a reference row has nothing to share
    filesystem, path = group.checkpoints.open()
    trainer = Trainer(
        _work,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if group.gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(group.min_workers, workers) if group.min_workers < workers else workers,
            use_gpu=group.gpu > 0,
            resources_per_worker={"CPU": group.cpu, **({"GPU": group.gpu} if group.gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=trial.key,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            callbacks=[TuneReportCallback()],
        ),
    )
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        failures = list(error.worker_failures.values())
        end = next((item for item in failures if isinstance(item, _EndError)), None)
        limit = payload.time_limit_s
        if end is None and limit is not None and any(isinstance(e, WorkerHealthCheckTimeoutError) for e in failures):
            # It hangs where no other thread of its process can run, so that the worker's own clock stands still.
            end = _TrialFailedError("failed", f"the trial did not answer (time limit {limit:g} s) and was ended", 0.0)
        if end is None:
            raise
        return end
    except ray.train.ControllerError as error:  # Ray's list of checkpoints is written by this process
        if not _is_of_storage(error.controller_failure):
            raise
        return _UnwritableCheckpointError(str(error.controller_failure))
    return None


def _is_of_storage(error: BaseException) -> bool:
    """Whether an error is the operating system's or the storage's; some of Ray's own look as if they were."""
    if isinstance(error, OSError):
        return not isinstance(error, ray.exceptions.RayError)
    # Before each checkpoint Ray looks for a file that it left there at the start, and has no type for its absence.
    return isinstance(error, RuntimeError) and str(error).startswith("Unable to set up cluster storage")


def _work(config: dict[str, Any]) -> None:
    """One worker of a trial.

    The trial runs in a thread of its own, so that this one can tell when it hangs.
    """
    payload: Payload = config["payload"]
    trial = Trial(**json.loads(config["trial"]))
    reports = _Reports(trial, payload, config["group"].checkpoint_every_s, competes=config["competes"])
    answer: Future[TrialTables] = Future()

    def run() -> None:
        try:
            answer.set_result(_tables(trial, payload, reports))
        except BaseException as error:  # raised below
            answer.set_exception(error)

    threading.Thread(target=run, name="trial", daemon=True).start()
    while not wait([answer], timeout=reports.patience_s()).done:
        reports.check_for_hanging()
    tables = answer.result()
    ray.train.report({"parcel": Parcel(tables)} if ray.train.get_context().get_world_rank() == 0 else {})


def _tables(trial: Trial, payload: Payload, reports: _Reports) -> TrialTables:
    """The tables of a trial.

    Raises:
        _EndError: it cannot go on. A worker that fails alone must not look finished: the others wait for it in a
            collective operation, until Ray hears of the error and ends them.
        Exception: another worker was lost.
    """
    from ray.train.torch import get_device

    from study.execution import run_trial
    from study.training import CheckpointError

    began = time.monotonic()
    try:
        data = open_data(payload, get_device())
        run = run_trial(trial, data, payload.provenance, checkpoints=reports, device_trials=payload.device_trials)
        return _value(run)
    except _EndError:
        raise
    except CheckpointError as error:
        raise _UnusableCheckpointError(str(error)) from None
    except Exception as error:
        if _says_that_another_was_lost(error):
            raise
        raise _TrialFailedError(*state_and_reason(error), time.monotonic() - began) from None


def _says_that_another_was_lost(error: Exception) -> bool:
    """Whether an error comes from a collective operation whose other end is gone.

    It may be heard of before the loss itself. Gloo has no type of its own for it.
    """
    from torch import distributed

    from models.workers import worker_count

    if worker_count() == 1:
        return False
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in ("/gloo/", "NCCL"))


def _value(run: Generator[Any, None, TrialTables]) -> TrialTables:
    while True:
        try:
            next(run)
        except StopIteration as end:
            tables: TrialTables = end.value
            return tables


class _Reports:
    """Reports and checkpoints after epochs; the first worker decides when, because all have to take part."""

    def __init__(self, trial: Trial, payload: Payload, every_s: float, *, competes: bool) -> None:
        self._trial, self._payload, self._every_s, self._competes = trial, payload, every_s, competes
        self._records: list[EpochRecord] = []
        self._began = self._saved = self._reported = time.monotonic()
        # When the trial was last heard of; None while Ray has it, which may wait for others and for the storage.
        self._heard: float | None = self._began
        self._first = ray.train.get_context().get_world_rank() == 0

    def patience_s(self) -> float | None:
        """Seconds after which to ask whether the trial hangs; None for never."""
        if self._payload.time_limit_s is None:
            return None
        heard = time.monotonic() if self._heard is None else self._heard
        return max(0.1, heard + answer_deadline_s(self._payload.time_limit_s) - time.monotonic())

    def check_for_hanging(self) -> None:
        """Called by another thread than the trial's.

        Raises:
            _TrialFailedError: an epoch takes longer than any should.
        """
        now, heard, limit = time.monotonic(), self._heard, self._payload.time_limit_s
        if limit is None or heard is None or now - heard < answer_deadline_s(limit):
            return
        after = f"epoch {self._records[-1].epoch}" if self._records else "its start"
        reason = (
            f"the trial did not answer for {now - heard:.0f} s after {after} (time limit {limit:g} s) and was ended"
        )
        raise _TrialFailedError("failed", reason, now - self._began)

    def load(self) -> Mapping[str, Any] | None:
        """The state of the last checkpoint, if the trial has one. Asked for by the first worker alone.

        Raises:
            CheckpointError: there should be one, and it cannot be used.
        """
        from study.training import CheckpointError, EpochRecord, read_checkpoint

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        try:
            with checkpoint.as_directory() as folder:
                state = read_checkpoint(Path(folder) / _STATE)
            self._records = [EpochRecord(**record) for record in state["records"]]
            seconds = sum(record.seconds for record in self._records)
        except (OSError, KeyError, TypeError) as error:
            raise CheckpointError(f"the checkpoint cannot be read: {error}", where=checkpoint.path) from None
        self._began -= seconds  # they count towards the time limit
        return state

    def epoch_finished(self, record: EpochRecord, state: Callable[[], dict[str, Any]]) -> None:
        """Called on every worker after each epoch.

        Raises:
            StudyError: the trial's time limit is reached; on all workers.
            _UnwritableCheckpointError: there is no room for a checkpoint.
        """
        from models.workers import from_first_worker

        self._records.append(record)
        now, limit = time.monotonic(), self._payload.time_limit_s
        self._heard = now
        save, report, stop = from_first_worker(
            (
                now - self._saved > self._every_s,
                now - self._reported > REPORT_EVERY_S,
                limit is not None and now - self._began > limit,
            )
        )
        if stop:
            raise StudyError(f"the time limit of {limit:g} s was reached in epoch {record.epoch}")
        if not (save or report):
            return
        self._reported = now
        metrics: dict[str, Any] = {}
        if self._first:
            metrics = {"epoch": record.epoch, "validation_rmse_m": record.validation_rmse_m}
            if self._competes:
                tables = pruned_tables(self._trial, self._payload.provenance, self._records, now - self._began)
                metrics["so_far"] = Parcel(tables)
        if save:
            self._saved = now
        with ExitStack() as stack:
            checkpoint = self._checkpoint(stack, state) if save and self._first else None
            self._heard = None
            try:
                ray.train.report(metrics, checkpoint=checkpoint)
            except (OSError, RuntimeError) as error:
                if not _is_of_storage(error):
                    raise
                raise _UnwritableCheckpointError(str(error)) from None
            finally:
                self._heard = time.monotonic()

    def _checkpoint(self, stack: ExitStack, state: Callable[[], dict[str, Any]]) -> ray.train.Checkpoint | None:
        """A checkpoint in a temporary folder of this machine.

        None without room for it: a loss then costs more epochs. The other workers only have to report.
        """
        from study.training import write_checkpoint

        with suppress(OSError, StudyError):
            temporary = tempfile.TemporaryDirectory(prefix="study-checkpoint-", ignore_cleanup_errors=True)
            folder = stack.enter_context(temporary)
            write_checkpoint(Path(folder) / _STATE, state())
            return ray.train.Checkpoint.from_directory(folder)
        return None
