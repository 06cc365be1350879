"""Starts or joins Ray, and lets Tune run what the queue hands out."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import study.engine.environment  # noqa: F401 - before Ray

# isort: split

import ray

from cluster.check import Node
from cluster.model import Cluster
from study.data.shared_fingerprints import Sharing, remove_run
from study.data.site import Site
from study.engine.attempt import Payload
from study.engine.orphans import remove_orphaned_placement_groups
from study.observers import RunObserver
from study.provenance import Provenance
from study.ray_session import check_shared, check_site, connect, dashboard_url, nodes, wait_for_nodes
from study.search import StudyQueue
from study.spec.trial import Trial
from study.storage import is_remote
from study.store import Store

if TYPE_CHECKING:  # Tune, which these need, is loaded while Ray starts
    from study.engine.train_workers import CheckpointFolder
    from study.running import RunLimit

__all__ = ["execute", "sharing_of"]

# How often the study looks for what killed Ray Train trials left behind.
_SWEEP_EVERY_S = 2.0
# What the process takes that starts a trial's workers and waits for them.
_WAITING_BYTES = 300 * 2**20


def execute(
    queue: StudyQueue,
    first: Trial,
    store: Store,
    site: Site,
    cluster: Cluster,
    provenance: Provenance,
    observer: RunObserver,
    should_stop: Callable[[], bool],
    *,
    checkpoints: str,
    search_path: Sequence[str] = (),
    source: str = "the cluster file",
    on_connected: Callable[[int], None] = lambda slots: None,
    say: Callable[[str], None] = lambda text: None,
    limit: RunLimit | None = None,
) -> bool:
    """Run everything that a queue hands out.

    Args:
        queue: what is to run.
        first: the trial that the queue has handed out already.
        store: where the tables are written, by this process alone.
        site: the site, which every machine has to have.
        cluster: where to run.
        provenance: recorded in every row.
        observer: told what happens.
        should_stop: asked often; True ends the run, and trials that have not finished are dropped.
        checkpoints: where Ray Train keeps checkpoints of unfinished trials: an absolute folder or a URI.
        search_path: folders in which trial processes look for a user's own methods.
        source: the cluster file, for messages.
        say: told what the user may want to know of the cluster.
        on_connected: told how many trials run at a time, once the machines are known.
        limit: after which no trial is handed out.

    Returns:
        Whether it was stopped before all was done.

    Raises:
        ClusterError: the cluster cannot be reached or does not have what the cluster file asks for.
        ResultsError: a trial could not be stored.
    """
    with _loading_meanwhile():
        connected = connect(cluster, source=source)
    from ray import tune

    from study.engine.coordinator import keep_coordinator_here
    from study.engine.searcher import EarlyStopping, Limits, Observe, QueueSearcher, RunStopper
    from study.engine.train_workers import CheckpointFolder

    sharing: Sharing | None = None
    try:
        if cluster.dashboard and (url := dashboard_url()) is not None:
            say(f"Ray's dashboard: {url}")
        slots = wait_for_nodes(
            cluster,
            source=source,
            should_stop=should_stop,
            on_wait=lambda missing: say(f"waiting for machines: {missing}"),
        )
        if slots == 0:
            return True
        machines = nodes()
        if cluster.uses_ray_train and len(machines) > 1 and not is_remote(checkpoints):
            check_shared(Path(checkpoints), source="checkpoints of trials")
        if cluster.uses_ray_train and cluster.address != "local":
            keep_coordinator_here()
        on_connected(slots)
        if len(machines) > 1:
            check_site(site)
        sharing = sharing_of(cluster, machines)
        payload = _payload(cluster, machines, site, provenance, search_path, sharing)
        folder = CheckpointFolder(checkpoints)
        stopper = RunStopper(should_stop)
        # Ray Train's workers notice a hang themselves, and what they wait for is no hang.
        hang_limit_s = None if cluster.uses_ray_train else cluster.trial_time_limit_s
        limits = Limits(cluster.max_retries, hang_limit_s)
        free = folder.remove if cluster.uses_ray_train else _nothing
        may_go_on = limit.allows_more if limit is not None and limit.is_set else _always
        searcher = QueueSearcher(queue, first, store, provenance, observer, stopper, limits, free, may_go_on)
        trainable, parameters = _trainable(cluster, payload, folder)
        # One more than fits waits its turn, so that a freed process finds its next trial at once. Ray Train's workers
        # are no resources of Tune's: there the number alone keeps trials from waiting for each other. With a limit
        # none waits: it would start after the limit.
        waits = cluster.slots is None and not cluster.uses_ray_train and may_go_on is _always
        at_once = slots + 1 if waits else slots
        with tempfile.TemporaryDirectory(prefix="study-tune-") as scratch:
            tuner = tune.Tuner(
                trainable,
                param_space=parameters,
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=EarlyStopping(searcher),
                    num_samples=-1,
                    reuse_actors=not cluster.uses_ray_train,
                    max_concurrent_trials=at_once,
                ),
                run_config=tune.RunConfig(
                    storage_path=scratch,
                    name="study",
                    verbose=0,
                    stop=stopper,
                    callbacks=[Observe(searcher, stopper, _ticker(observer, store, sweep=cluster.uses_ray_train))],
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
        if sharing is not None:
            remove_run(sharing)


@contextmanager
def _loading_meanwhile() -> Iterator[None]:
    """Load Tune and what of this package is made of it, in a second that Ray's start spends waiting for its servers.

    Ray is started by the calling thread: Linux ends its servers with the thread that has started them. A module that
    cannot be loaded is not heard of here: it is imported again where it is used.
    """

    def load() -> None:
        with suppress(Exception):
            for name in ("searcher", "train_workers", "trial_process"):
                import_module(f"study.engine.{name}")

    # Both threads need it, and Python's import locks do not mind.
    import_module("ray._common.usage.usage_lib")
    thread = threading.Thread(target=load, name="engine")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _trainable(cluster: Cluster, payload: Payload, checkpoints: CheckpointFolder) -> tuple[Any, dict[str, Any]]:
    """What Tune runs, and what it gives to each trial beside the trial itself."""
    from ray import tune

    from study.engine.train_workers import WorkerGroup, train_on_workers
    from study.engine.trial_process import TrialProcess

    worker = cluster.per_worker
    if not cluster.uses_ray_train:
        return tune.with_resources(TrialProcess, {"cpu": worker.cpu, "gpu": worker.gpu}), {"payload": payload}
    workers = cluster.workers_per_trial
    group = WorkerGroup(
        workers=workers,
        min_workers=cluster.min_workers_per_trial or workers,
        cpu=worker.cpu,
        gpu=worker.gpu,
        checkpoints=checkpoints,
        checkpoint_every_s=cluster.checkpoint_interval_s,
    )
    # The trial itself only waits: any part of a CPU that it took would be missing to its workers.
    return tune.with_resources(train_on_workers, {"memory": _WAITING_BYTES}), {"payload": payload, "group": group}


def _payload(
    cluster: Cluster,
    machines: Sequence[Node],
    site: Site,
    provenance: Provenance,
    search_path: Sequence[str],
    sharing: Sharing | None,
) -> Payload:
    worker = cluster.per_worker
    return Payload(
        site=site.reference,
        search_path=tuple(search_path),
        provenance=provenance,
        gpu=worker.gpu > 0,
        gpu_memory_share=cluster.gpu_memory_share,
        threads=max(1, int(worker.cpu)),
        time_limit_s=cluster.trial_time_limit_s,
        fingerprint_memory_mb=cluster.fingerprint_memory_mb,
        device_share=_device_share(cluster, machines),
        device_trials=_processes_on_a_device(cluster, machines),
        sharing=sharing,
    )


def sharing_of(cluster: Cluster, machines: Sequence[Node]) -> Sharing | None:
    """How the processes of a machine share fingerprints; None where each has a GPU, or a machine to itself."""
    worker, size = cluster.per_worker, cluster.autoscaling
    if worker.gpu > 0 or cluster.fingerprint_cache == "off":
        return None
    to_come = [Node(size.cpus, size.gpus)] if size is not None else []
    processes = [
        _processes_on_a_device(cluster, [node]) for node in (*machines, *to_come) if node.cpus >= worker.cpu - 1e-9
    ]
    if max(processes, default=1) == 1:
        return None
    folder = None if cluster.fingerprint_cache == "auto" else cluster.fingerprint_cache
    # The memory that a trial may take is multiplied by it: what is right on the smallest machine is safe on all.
    return Sharing.of_a_new_run(folder, min(processes))


def _device_share(cluster: Cluster, machines: Sequence[Node]) -> float:
    """A process's share of the memory it trains in: of its GPU, or of the machine that runs the most of them."""
    worker = cluster.per_worker
    if worker.gpu > 0:
        return min(1.0, worker.gpu, cluster.gpu_memory_share or 1.0)
    return 1 / _processes_on_a_device(cluster, machines)


def _processes_on_a_device(cluster: Cluster, machines: Sequence[Node]) -> int:
    """How many processes share a GPU or, without one, the machine that runs the most of them."""
    worker = cluster.per_worker
    fit = int(1 / worker.gpu + 1e-9) if worker.gpu else int(max(node.cpus for node in machines) / worker.cpu + 1e-9)
    processes = fit if cluster.slots is None else min(fit, cluster.slots * cluster.workers_per_trial)
    return max(1, processes)


def _ticker(observer: RunObserver, store: Store, *, sweep: bool) -> Callable[[], None]:
    last = time.monotonic()

    def tick() -> None:
        nonlocal last
        observer.tick()
        store.sync()
        if sweep and time.monotonic() - last > _SWEEP_EVERY_S:
            # A trial that is not handed out again would keep what its workers had.
            last = time.monotonic()
            remove_orphaned_placement_groups()

    return tick


def _always() -> bool:
    """Without a limit."""
    return True


def _nothing(key: str) -> None:
    """Trials in one process leave nothing behind."""
