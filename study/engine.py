"""Trials on Ray Tune. The only module that imports ray.tune or ray.train.

Tune starts trial processes, gives them one trial after the other (`reset_config`) and takes their reports. What is to
run comes from a `StudyQueue`; what is true is in the `Store`, which the trial process itself writes. Tune's own state,
loggers and checkpoints are switched off: nothing is read back from them.

torch is imported by the trial processes alone: the driver has no use for it, and starts a second sooner.
"""

from __future__ import annotations

import os

from study.ray_session import connect  # before Ray: it sets what Ray reads when it is imported

# isort: split

# Read by Ray Tune when it is imported or started.
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one prints a box even when told to be silent
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000000")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "60")
# `run` has its own handler: the first Ctrl-C ends the study between two reports.
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"

import json
import socket
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from cluster.check import Machine, check_resources
from cluster.check import slots as cluster_slots
from cluster.model import Cluster
from study.allocator import keep_freed_memory
from study.data.site import open_site
from study.errors import ResultsError, StudyError
from study.observer import RunObserver
from study.provenance import Provenance
from study.search import StudyQueue, Work
from study.spec.trial import Trial
from study.store import Store, TrialTables

if TYPE_CHECKING:
    from study.training import EpochRecord

__all__ = ["execute"]

# Epochs are reported together for about this long: a report costs the driver some milliseconds.
REPORT_EVERY_S = 1.0
_METRIC = "validation_rmse_m"


def execute(
    queue: StudyQueue,
    first: Trial,
    store: Store,
    site_folder: Path,
    cluster: Cluster,
    provenance: Provenance,
    observer: RunObserver,
    should_stop: Callable[[], bool],
) -> bool:
    """Run everything that a queue hands out.

    Args:
        queue: what is to run.
        first: the trial that the queue has handed out already.
        store: where trial processes write; a folder that all of them reach.
        site_folder: the site; a folder that all of them reach.
        cluster: where to run.
        provenance: recorded in every row.
        observer: told what happens.
        should_stop: asked often; True ends the run, and trials that have not finished are dropped.

    Returns:
        Whether it was stopped before all was done.

    Raises:
        ClusterError: the cluster cannot be reached or does not have what the cluster file asks for.
        ResultsError: a trial could not be stored.
    """
    connected = connect(cluster)
    try:
        resources = cluster.resources_per_trial
        total = ray.cluster_resources()
        available = Machine(int(total.get("CPU", 0)), int(total.get("GPU", 0)))
        check_resources(cluster, available)
        slots = cluster_slots(cluster, available.cpus, available.gpus)
        stopper = _RunStopper(should_stop)
        searcher = _QueueSearcher(queue, first, store, observer, stopper, cluster.max_retries)
        payload = _Payload(
            store.folder.resolve(),
            site_folder.resolve(),
            provenance,
            cluster.gpu_memory_share,
            cluster.trial_time_limit_s,
            cluster.fingerprint_memory_mb,
            _device_share(cluster),
            resources.gpu > 0,
            max(1, int(resources.cpu)),
            (socket.gethostname(), os.getpid()),
        )
        with tempfile.TemporaryDirectory(prefix="study-tune-") as scratch:
            tuner = tune.Tuner(
                tune.with_resources(_TrialProcess, {"cpu": resources.cpu, "gpu": resources.gpu}),
                param_space={"payload": payload},
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    reuse_actors=True,
                    # One more than fits waits its turn, so that a freed process finds its next trial at once.
                    max_concurrent_trials=slots + 1 if cluster.slots is None else slots,
                ),
                run_config=tune.RunConfig(
                    storage_path=scratch,
                    name="study",
                    verbose=0,
                    stop=stopper,
                    callbacks=[_Observe(searcher, stopper, observer)],
                    # Tune gives up a trial whose process dies while it is being reset: the searcher hands it out again.
                    failure_config=tune.FailureConfig(max_failures=0),
                ),
            )
            tuner.fit()
        if searcher.store_failure is not None:
            raise searcher.store_failure
        return stopper.stopping
    finally:
        if connected:
            ray.shutdown()


def _device_share(cluster: Cluster) -> float:
    """A trial's share of the memory it trains in: of its GPU, or of the machine that runs the most trials at a time."""
    gpu = cluster.resources_per_trial.gpu
    if gpu > 0:
        return min(1.0, gpu, cluster.gpu_memory_share or 1.0)
    cores = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    fit = int(cores / cluster.resources_per_trial.cpu)
    return 1 / max(1, fit if cluster.slots is None else min(fit, cluster.slots))


@dataclass(frozen=True)
class _Payload:
    """What every trial process gets beside its trial."""

    store: Path
    site: Path
    provenance: Provenance
    gpu_memory_share: float | None
    time_limit_s: float | None
    fingerprint_memory_mb: int | None
    device_share: float
    gpu: bool
    threads: int
    driver: tuple[str, int]

    def driver_is_gone(self) -> bool:
        """Whether the driver is known to have died (on another machine that cannot be seen)."""
        host, pid = self.driver
        if host != socket.gethostname():
            return False
        try:
            os.kill(pid, 0)  # asks, and sends nothing
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # it lives, and is another user's
        return False


class _TrialProcess(tune.Trainable):
    """A process that runs one trial after the other.

    A step is about a second of epochs. The site and its last fingerprints stay in memory between trials.
    """

    def setup(self, config: dict[str, Any]) -> None:
        import torch

        from study.data.dataset import SiteData

        payload: _Payload = config["payload"]
        keep_freed_memory()
        # One thread per trial and as many trials as cores: with more threads two trials slow each other down.
        torch.set_num_threads(payload.threads)
        device = torch.device("cuda" if payload.gpu else "cpu")
        if payload.gpu and payload.gpu_memory_share is not None:
            torch.cuda.set_per_process_memory_fraction(payload.gpu_memory_share)
        limit_mb = payload.fingerprint_memory_mb
        self._data = SiteData(
            open_site(str(payload.site)),
            device,
            fingerprint_bytes=None if limit_mb is None else limit_mb * 2**20,
            device_share=payload.device_share,
        )
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._payload: _Payload = new_config["payload"]
        self._trial = Trial(**json.loads(new_config["trial"]))
        self._run: Generator[EpochRecord, None, TrialTables] | None = None
        self._deadline = None if self._payload.time_limit_s is None else time.monotonic() + self._payload.time_limit_s
        return True

    def step(self) -> dict[str, Any]:
        import torch

        from study.execution import failed_tables, run_trial

        if self._run is None:
            self._run = run_trial(self._trial, self._data, self._payload.provenance)
        began = time.monotonic()
        try:
            while True:
                record = next(self._run)
                now = time.monotonic()
                if self._deadline is not None and now > self._deadline:
                    limit = f"the time limit of {self._payload.time_limit_s:g} s was reached in epoch {record.epoch}"
                    return self._store(failed_tables(self._trial, self._payload.provenance, "failed", limit))
                if now - began > REPORT_EVERY_S:
                    return {"epoch": record.epoch, _METRIC: record.validation_rmse_m, "done": False}
        except StopIteration as end:
            return self._store(end.value)
        except (MemoryError, torch.OutOfMemoryError) as error:
            state, reason = "out_of_memory", str(error) or "not enough memory"
        except StudyError as error:
            state, reason = "failed", str(error)
        except Exception:  # a trial's own failure is a result: it is stored with its traceback, and shown
            state, reason = "failed", traceback.format_exc(limit=20)
        if self._data.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._store(failed_tables(self._trial, self._payload.provenance, state, reason))

    def _store(self, tables: TrialTables) -> dict[str, Any]:
        self._run = None
        if self._payload.driver_is_gone():
            # Ray ends the processes of a killed driver some seconds later. By then the next driver may have handed this
            # trial out again: it belongs to that one now.
            return {"done": True}
        try:
            Store(self._payload.store).write(tables)
        except ResultsError as error:
            return {"store_failure": json.dumps([error.what, error.where, error.allowed, error.fix]), "done": True}
        return {"row": json.dumps(tables.row), "done": True}

    def cleanup(self) -> None:
        if self._run is not None:
            self._run.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: an interrupted trial starts again."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `save_checkpoint`."""


class _NotPickled:
    """Tune pickles its whole set-up for a restart that never happens here; these parts live in the driver alone."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _QueueSearcher(_NotPickled, Searcher):
    """Tune's view of the queue. Never restored by Tune: after a crash a new one is built on the same store."""

    def __init__(
        self,
        queue: StudyQueue,
        first: Trial,
        store: Store,
        observer: RunObserver,
        stopper: _RunStopper,
        max_retries: int,
    ) -> None:
        super().__init__(metric=_METRIC, mode="min")
        self._queue, self._store, self._observer = queue, store, observer
        self._stopper, self._max_retries = stopper, max_retries
        self._ready = [first]  # handed out by the queue, and not running
        self._losses: Counter[str] = Counter()  # by trial key
        self.trials: dict[str, Trial] = {}  # running, by Tune's id
        self.store_failure: ResultsError | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.store_failure is not None:
            return str(Searcher.FINISHED)
        found = self._ready.pop() if self._ready else self._queue.next()
        if not isinstance(found, Trial):
            # Not finished while a trial runs: it may be lost, and has to run again.
            return None if self.trials or found is Work.LATER else str(Searcher.FINISHED)
        self.trials[trial_id] = found
        return {"trial": json.dumps(asdict(found))}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        trial = self.trials.get(trial_id)
        if trial is not None and "epoch" in result:
            self._observer.trial_progressed(trial, result["epoch"], result[_METRIC])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self.trials.pop(trial_id, None)
        if trial is None:  # Tune tells twice when stopping a trial failed
            return
        if result and "store_failure" in result:
            what, where, allowed, fix = json.loads(result["store_failure"])
            self.store_failure = ResultsError(what, where=where, allowed=allowed, fix=fix)
            self._queue.lose(trial.key)
        elif result and "row" in result and not error:
            self._finish(json.loads(result["row"]))
        elif error and trial.key in self._store.keys(trial.key):  # its process died after it had stored it
            self._finish(self._store.find(trial.key))
        elif error and self._losses[trial.key] < self._max_retries and not self._ending():
            self._losses[trial.key] += 1
            self._ready.append(trial)
        else:
            self._queue.lose(trial.key)
            if error:
                self._observer.trial_lost(trial)

    def _finish(self, row: dict[str, Any]) -> None:
        self._queue.finish(row)
        self._observer.trial_finished(row)

    def _ending(self) -> bool:
        return self.store_failure is not None or self._stopper.stopping

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the state is in the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class _RunStopper(_NotPickled, Stopper):
    """Ends the run when it is asked to, or when results cannot be stored."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop
        self.stopping = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self.stopping = self.stopping or self._should_stop()
        return self.stopping


class _Observe(_NotPickled, tune.Callback):
    """Passes Tune's events on."""

    def __init__(self, searcher: _QueueSearcher, stopper: _RunStopper, observer: RunObserver) -> None:
        self._searcher, self._stopper, self._observer = searcher, stopper, observer

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        found = self._searcher.trials.get(trial.trial_id)
        if found is not None:
            self._observer.trial_started(found)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._searcher.store_failure is not None:
            self._stopper.stopping = True
        self._observer.tick()
