"""Tracing a site: each scene is a Ray task, and this process writes what the tasks return.

    trace_site      all scenes of a scenario, written as a site
    TraceObserver   told what happens

A worker process builds the scene's walls once and keeps them for the tasks that follow: building and compiling takes
some seconds. Results come back through Ray, so the machines need no common folder.
"""

from __future__ import annotations

from study.ray_session import connect  # before Ray: it sets what Ray reads when it is imported

# isort: split

import functools
import os
import resource
import socket
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.check import check_local
from cluster.model import Cluster
from study.data.scenario import Scenario
from study.data.site import Site
from study.data.tracing import ProbeReport, TracedScene, Tracer, memory_need, probe
from study.data.unfinished_site import DamagedScene, UnfinishedSite
from study.errors import ClusterError, DataError, DependencyError, SpecError, StudyError

__all__ = ["SceneProgress", "TraceObserver", "TracePlan", "trace_site"]

# A scene takes seconds to minutes, so asking this often whether to stop costs nothing.
_ASK_EVERY_S = 0.2
# Shared memory for results on their way: a scene of the paper's size is 2 MB.
_OBJECT_STORE_MB = 500
# Threads of a task, the best first: two share one copy of the scene and halve the time of one (measured: 4.8 s and
# 2.5 s per solve); more of them only where memory allows no further task.
_THREADS = (2, 1, 4, 8, 16)


@dataclass(frozen=True)
class TracePlan:
    """What is about to be traced.

    Args:
        scenes: scenes in all.
        kept: scenes that an earlier run finished.
        at_once: tasks that run at the same time.
        threads: CPUs of each task.
        memory_bytes: memory set aside for each task.
    """

    scenes: int
    kept: int
    at_once: int
    threads: int
    memory_bytes: int


class SceneProgress(NamedTuple):
    """A scene was traced and stored.

    Args:
        scene: its number.
        done: scenes that are finished, those of an earlier run included.
        scenes: scenes in all.
        resumed: scenes that an earlier run had finished.
        seconds: time since this run began to trace.
        scene_seconds: time that the scene took; a process's first one includes building and compiling.
        peak_memory_bytes: largest memory of the process that traced it, so far.
        machine: name of the machine that traced it.
        node: Ray's name of that machine.
    """

    scene: int
    done: int
    scenes: int
    resumed: int
    seconds: float
    scene_seconds: float
    peak_memory_bytes: int
    machine: str
    node: str

    @property
    def seconds_left(self) -> float:
        """Estimate from the scenes of this run."""
        return self.seconds / (self.done - self.resumed) * (self.scenes - self.done)


class TraceObserver(Protocol):
    """Told in the main thread what happens."""

    def trace_started(self, plan: TracePlan) -> None:
        """Scenes are about to be traced."""

    def scene_damaged(self, damaged: DamagedScene) -> None:
        """A finished scene of an earlier run cannot be read; it is traced again."""

    def scene_traced(self, progress: SceneProgress) -> None:
        """A scene was traced and stored."""

    def tick(self) -> None:
        """Some time has passed."""


class _Silent:
    def trace_started(self, plan: TracePlan) -> None: ...
    def scene_damaged(self, damaged: DamagedScene) -> None: ...
    def scene_traced(self, progress: SceneProgress) -> None: ...
    def tick(self) -> None: ...


def trace_site(
    scenario: Scenario,
    out: Path,
    cluster: Cluster,
    *,
    scenes: int | None = None,
    cluster_source: str = "the cluster file",
    observer: TraceObserver | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Site | None:
    """Trace every scene and write the site; a trace that was cut off goes on where it stopped.

    Finished scenes wait in ``<out>.partial`` beside the site, one file each, until the last one is there.

    Args:
        scenario: what to trace.
        out: folder of the site; must not exist.
        cluster: where to trace.
        scenes: trace only the first so many scenes; they are as they are among all.
        cluster_source: the cluster file, for messages.
        observer: told what happens.
        should_stop: asked often; True ends the trace, and scenes that are not finished are dropped.

    Returns:
        The site, or None if it was stopped before all was done.

    Raises:
        DependencyError: the ray tracer does not work here, or not on a machine of the cluster.
        ClusterError: the cluster cannot be reached or is too small, or a scene was lost too often.
        SpecError: the scenario has fewer scenes.
        DataError: the folder exists or cannot be written, or `<out>.partial` belongs to another scenario or version.
    """
    out, observer = Path(out), observer or _Silent()
    if os.path.lexists(out):
        raise DataError("the folder of the new site exists", where=str(out), fix="name another folder or remove it")
    check_local(cluster, source=cluster_source)
    if scenes is not None and not 1 <= scenes <= scenario.scenes:
        raise SpecError(
            f"scenario {scenario.name!r} has no {scenes} scenes",
            where="--scenes",
            allowed=f"1 … {scenario.scenes}",
            fix="write more scenes into the scenario, or ask for fewer",
        )
    unfinished = UnfinishedSite(scenario, out, probe(), scenes)
    with unfinished.claimed():
        missing, damaged = unfinished.missing()
        for scene in damaged:
            observer.scene_damaged(scene)
        # Without missing scenes only the last step is left, and Ray need not start.
        try:
            if missing and not _trace(missing, unfinished, cluster, observer, should_stop):
                return None
        except StudyError:
            unfinished.forget()
            raise
        return unfinished.finish()


def _trace(
    missing: list[int],
    unfinished: UnfinishedSite,
    cluster: Cluster,
    observer: TraceObserver,
    should_stop: Callable[[], bool],
) -> bool:
    """Trace and store scenes; whether all of them are stored."""
    connected = connect(cluster, object_store_mb=_OBJECT_STORE_MB)
    tasks = None
    try:
        scenario, resumed, began = unfinished.scenario, unfinished.kept, time.monotonic()
        threads, at_once = _share(ray.nodes(), memory_need(scenario), cluster.address)
        observer.trace_started(TracePlan(unfinished.scenes, resumed, at_once, threads, memory_need(scenario)))
        tasks = _Tasks(unfinished, threads, at_once, cluster.max_retries, missing)
        while tasks.remaining:
            if should_stop():
                return False
            for number, result in tasks.finished(_ASK_EVERY_S, should_stop):
                unfinished.save(number, result.scene)
                elapsed = time.monotonic() - began
                observer.scene_traced(
                    SceneProgress(number, unfinished.kept, unfinished.scenes, resumed, elapsed, *result[1:])
                )
            observer.tick()
        return True
    finally:
        if tasks is not None:
            tasks.cancel()
        if connected:
            ray.shutdown()


def _share(nodes: Iterable[dict], memory_bytes: int, address: str) -> tuple[int, int]:
    """Threads of a task and how many tasks run at once, so that most CPUs are busy and no machine's memory is overrun.

    Raises:
        ClusterError: no machine has the memory or a CPU for one task.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"]]

    def fit(threads: int) -> int:
        return sum(
            min(int(has.get("CPU", 0) // threads), int(has.get("memory", 0) // memory_bytes)) for has in machines
        )

    threads = max(_THREADS, key=lambda count: fit(count) * count)  # the first of equals
    if not fit(threads):
        largest = max((has.get("memory", 0) for has in machines if has.get("CPU", 0) >= 1), default=0)
        raise ClusterError(
            f"no machine can trace a scene: it takes 1 CPU and {memory_bytes / 1e9:.1f} GB of memory, and the largest "
            f"machine has {largest / 1e9:.1f} GB to give",
            where=f"address: {address}",
            allowed="one machine with a CPU and the memory",
            fix="write a lower solver.receivers_per_solve (memory grows with it, and the time hardly changes) or "
            "samples_per_source into the scenario, or use a larger machine",
        )
    return threads, fit(threads)


# --- Tasks --------------------------------------------------------------------------------------------------------


class _Result(NamedTuple):
    scene: TracedScene
    seconds: float
    peak_memory_bytes: int
    machine: str
    node: str


class _Tasks:
    """The tasks of the missing scenes: a few more are handed to Ray than can run, so that no machine waits."""

    def __init__(
        self, unfinished: UnfinishedSite, threads: int, at_once: int, max_retries: int, missing: list[int]
    ) -> None:
        scenario = unfinished.scenario
        self._task = _trace_scene.options(
            num_cpus=threads, memory=memory_need(scenario), max_retries=max_retries, retry_exceptions=False
        )
        self._arguments = (scenario.model_dump_json(), threads, _versions(unfinished.report), _machine_id())
        self._window = max(16, 4 * at_once)
        self._waiting = deque(missing)
        self._running: dict[ray.ObjectRef, int] = {}
        self._max_retries, self._memory_bytes = max_retries, memory_need(scenario)

    @property
    def remaining(self) -> int:
        """Scenes that are not finished."""
        return len(self._waiting) + len(self._running)

    def finished(self, timeout_s: float, should_stop: Callable[[], bool]) -> Iterable[tuple[int, _Result]]:
        """Numbers and results of scenes that have become ready; none after the timeout.

        Raises:
            StudyError: a scene cannot be traced.
        """
        while self._waiting and len(self._running) < self._window:
            number = self._waiting.popleft()
            self._running[self._task.remote(number, *self._arguments)] = number
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        for reference in ready:
            number = self._running.pop(reference)
            try:
                result = ray.get(reference)
            except RayError as error:
                if should_stop():  # Ctrl-C reaches the processes of the tasks too
                    self._waiting.appendleft(number)
                    return
                raise self._failure(number, error) from None
            yield number, result

    def cancel(self) -> None:
        """End the tasks that run or wait, and their processes."""
        for reference in self._running:
            ray.cancel(reference, force=True)
        self._running.clear()

    def _failure(self, number: int, error: RayError) -> Exception:
        if isinstance(error, RayTaskError):
            # Ours arrives as it was raised; anything else is a defect, and keeps the traceback of the task.
            return error.cause if isinstance(error.cause, StudyError) else error
        return ClusterError(
            f"the process that traced scene {number} was lost, and so were those of its "
            f"{self._max_retries} further attempts ({type(error).__name__})",
            allowed=f"a machine with {self._memory_bytes / 1e9:.1f} GB for each process",
            fix="end other programs that need memory, or write a lower solver.receivers_per_solve into the scenario; "
            "the finished scenes are kept, and the same command goes on",
        )


@ray.remote
def _trace_scene(number: int, scenario_json: str, threads: int, versions: str, driver: str) -> _Result:
    """One scene, in a worker process."""
    began = time.monotonic()
    scene = _tracer(scenario_json, threads, versions, driver).trace(number)
    return _Result(
        scene,
        time.monotonic() - began,
        _peak_memory_bytes(),
        socket.gethostname(),
        ray.get_runtime_context().get_node_id(),
    )


@functools.lru_cache(maxsize=1)
def _tracer(scenario_json: str, threads: int, versions: str, driver: str) -> Tracer:
    """The tracer of this process; built for the first of its tasks, and kept for those that follow."""
    if _machine_id() != driver:  # the driver has tried its own machine
        _check_machine(versions)
    return Tracer(Scenario.model_validate_json(scenario_json), threads)


def _check_machine(versions: str) -> None:
    """Whether this machine can trace, and with the versions of the driver's.

    Raises:
        DependencyError: it cannot, or its paths could differ.
    """
    try:
        found = _versions(probe())
    except DependencyError as error:
        raise DependencyError(error.what, where=socket.gethostname(), allowed=error.allowed, fix=error.fix) from None
    if found != versions:
        raise DependencyError(
            f"the ray tracer differs between machines: {found}",
            where=socket.gethostname(),
            allowed=f"what the machine of the command has: {versions}",
            fix="install the same versions on all machines",
        )


def _versions(report: ProbeReport) -> str:
    named = {**report.packages, "LLVM": report.llvm_version}
    return ", ".join(f"{name} {version}" for name, version in named.items())


def _machine_id() -> str:
    """Tells machines apart, also those that were given the same name."""
    return f"{socket.gethostname()}/{uuid.getnode():x}"


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
