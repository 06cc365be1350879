"""A trial on several Ray Train workers, started by a Tune trial that only waits.

The workers share each batch (see `models.parallel`), so that their result is that of one worker. Epochs are
checkpointed: a worker that dies costs the epochs since the last checkpoint, and so does the death of the waiting trial
or of the whole study, because the Train run has the trial's key for its name.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import study.engine.environment  # noqa: F401 - before Ray

# isort: split

import pyarrow.fs
import ray.train
from ray import tune

from study.engine.attempt import (
    Parcel,
    Payload,
    answer_deadline_s,
    attempt,
    open_data,
    pruned_tables,
    watch_for_hanging,
)
from study.engine.orphans import remove_orphaned_placement_groups
from study.errors import StudyError
from study.spec.trial import Trial
from study.storage import RemoteFolder, is_remote
from study.store import TrialTables

if TYPE_CHECKING:
    from study.training import EpochRecord

__all__ = ["CheckpointFolder", "WorkerGroup", "train_on_workers"]

REPORT_EVERY_S = 1.0
_STATE = "state.pt"


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
        max_failures: how often a trial goes on after the loss of a worker.
    """

    workers: int
    min_workers: int
    cpu: float
    gpu: float
    checkpoints: CheckpointFolder
    checkpoint_every_s: float
    max_failures: int


def train_on_workers(config: dict[str, Any]) -> None:
    """The Tune trial: starts the workers, passes their reports on, and waits.

    Args:
        config: ``payload``, ``group`` (a `WorkerGroup`), ``trial`` (JSON) and ``competes``, as for `TrialProcess`.
    """
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.tune.integration.ray_train import TuneReportCallback

    class Trainer(TorchTrainer):
        """Without Ray's own cleaner, a process for each trial that waits for a dashboard: see `orphans`."""

        def _create_default_callbacks(self) -> list[Any]:
            made = super()._create_default_callbacks()
            return [item for item in made if not isinstance(item, PlacementGroupCleanerCallback)]

    payload: Payload = config["payload"]
    group: WorkerGroup = config["group"]
    trial = Trial(**json.loads(config["trial"]))
    # The trial that was killed in this one's place may still hold what this one needs.
    remove_orphaned_placement_groups()
    if payload.time_limit_s is not None:
        watch_for_hanging(answer_deadline_s(payload.time_limit_s))
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
            failure_config=ray.train.FailureConfig(max_failures=group.max_failures, controller_failure_limit=3),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            callbacks=[TuneReportCallback()],
        ),
    )
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        tables = _failure(trial, payload, error)
        if tables is None:
            raise
        tune.report({"parcel": Parcel(tables)})
    finally:
        watch_for_hanging(None)


def _failure(trial: Trial, payload: Payload, error: ray.train.WorkerGroupError) -> TrialTables | None:
    """The tables of a trial whose own code failed; None where processes or machines were lost."""
    import torch

    from study.execution import failed_tables

    causes = [getattr(item, "cause", None) or item for item in error.worker_failures.values()]
    own = [
        cause
        for cause in causes
        if not isinstance(cause, ray.exceptions.RayError | ray.train.v2.api.exceptions.RayTrainError)
    ]
    if not own:
        return None
    starved = any(
        isinstance(cause, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(cause)
        for cause in own
    )
    return failed_tables(trial, payload.provenance, "out_of_memory" if starved else "failed", str(error))


def _work(config: dict[str, Any]) -> None:
    """One worker of a trial."""
    from ray.train.torch import get_device

    from study.execution import failed_tables, run_trial

    payload: Payload = config["payload"]
    trial = Trial(**json.loads(config["trial"]))
    context = ray.train.get_context()
    data = open_data(payload, get_device())
    reports = _Reports(trial, payload, config["group"].checkpoint_every_s, competes=config["competes"])
    if context.get_world_size() == 1:
        tables = _value(attempt(trial, data, replace(payload, time_limit_s=None), reports))
    else:
        # A worker that fails alone must not look finished: the others wait for it in a collective operation.
        try:
            tables = _value(run_trial(trial, data, payload.provenance, checkpoints=reports))
        except StudyError as error:  # all workers find the same
            tables = failed_tables(trial, payload.provenance, "failed", str(error))
    ray.train.report({"parcel": Parcel(tables)} if context.get_world_rank() == 0 else {})


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
        self._first = ray.train.get_context().get_world_rank() == 0

    def load(self) -> Mapping[str, Any] | None:
        """The state of the last checkpoint, if the trial has one. Asked for by the first worker alone."""
        from study.training import EpochRecord, read_checkpoint

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            state = read_checkpoint(Path(folder) / _STATE)
        self._records = [EpochRecord(**record) for record in state["records"]]
        self._began -= sum(record.seconds for record in self._records)  # they count towards the time limit
        return state

    def epoch_finished(self, record: EpochRecord, state: Callable[[], dict[str, Any]]) -> None:
        """Called on every worker after each epoch.

        Raises:
            StudyError: the trial's time limit is reached.
        """
        from study.training import write_checkpoint

        self._records.append(record)
        now, limit = time.monotonic(), self._payload.time_limit_s
        save, report, stop = _agreed(
            now - self._saved > self._every_s,
            now - self._reported > REPORT_EVERY_S,
            limit is not None and now - self._began > limit,
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
        if not save:
            ray.train.report(metrics)
            return
        self._saved = now
        with tempfile.TemporaryDirectory(prefix="study-checkpoint-") as folder:
            checkpoint = None
            # Without room for it a loss costs more epochs. The other workers are not told: they only have to report.
            with suppress(StudyError):
                if self._first:
                    write_checkpoint(Path(folder) / _STATE, state())
                    checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=checkpoint)


def _agreed(*flags: bool) -> list[bool]:
    """The first worker's view of some flags."""
    import torch
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return list(flags)
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    shared = torch.tensor(flags, dtype=torch.uint8, device=device)
    distributed.broadcast(shared, src=0)
    return [bool(flag) for flag in shared.tolist()]
