"""Calibration: what a study's trials take, measured on every kind of machine of a cluster with a few steps each.

Each kind of machine is measured as it will be used: with as many processes at a time as trials will share it, and once
more with one, so that a plan knows what sharing costs. The engine is measured with a small study of its own.
"""

from __future__ import annotations

from study.ray_session import connect, wait_for_nodes  # before Ray: it sets what Ray reads when it is imported

# isort: split

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.check import Node
from cluster.check import workers_on as count_workers
from cluster.machines import MachineKind, workers_on
from cluster.model import Cluster
from study.data.site import Site
from study.engine.attempt import Payload
from study.errors import ClusterError, StudyError
from study.observers import EventLog
from study.planning.estimate import Planner, device_of
from study.planning.observations import Device, Observation, of_engine, write_calibration
from study.planning.work import Work
from study.planning.workload import Workload
from study.provenance import Provenance
from study.running import prepare, run_study
from study.spec.model import StudySpec
from study.spec.trial import Trial
from study.storage import study_location
from study.store import Store

__all__ = ["Calibrated", "CalibrationObserver", "Subject", "calibrate", "subjects_of"]

# More processes than this tell nothing new.
_MOST_PROCESSES = 64
# Reading a large site and a slow step take minutes; whoever waits longer waits for a place.
_PATIENCE_S, _ASK_EVERY_S = 900.0, 0.5


@dataclass(frozen=True)
class Subject:
    """A study to be measured: its site, and its workload on each kind of machine."""

    spec: StudySpec
    site: Site
    loads: tuple[Workload, ...]


class CalibrationObserver(Protocol):
    """Told what happens."""

    def about_to(self, what: str, done: int, total: int) -> None:
        """Something is about to be measured, the first of which is number 0."""

    def failed(self, what: str, reason: str) -> None:
        """Something could not be measured."""


class _Silent:
    def about_to(self, what: str, done: int, total: int) -> None: ...
    def failed(self, what: str, reason: str) -> None: ...


@dataclass
class Calibrated:
    """What a calibration found.

    Attributes:
        path: the file that was written; None where nothing was measured.
        observations: its content.
        failures: what could not be measured, and why.
        stopped: it was asked to stop.
    """

    path: Path | None = None
    observations: list[Observation] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    stopped: bool = False


def calibrate(
    subjects: Sequence[Subject],
    cluster: Cluster,
    kinds: Sequence[MachineKind],
    folder: Path,
    *,
    seconds: float,
    source: str = "the cluster file",
    search_path: Sequence[str] = (),
    observer: CalibrationObserver | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Calibrated:
    """Measure, and write a calibration.

    Args:
        subjects: what to measure.
        cluster: where.
        kinds: its machines, as `cluster.machines.machine_kinds` names them.
        folder: where the calibration is written.
        seconds: for each kind of work; slow ones take longer.
        source: the cluster file, for messages.
        search_path: folders in which a user's own methods are looked for.
        observer: told what happens.
        should_stop: asked between two measurements; what was measured by then is kept.

    Raises:
        StudyError: the cluster cannot be used, or the folder cannot be written.
    """
    observer = observer or _Silent()
    found = Calibrated()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    total = 1 + sum(len(_keys(subjects, number)) for number in range(len(kinds)))
    what = "the engine's own time"
    observer.about_to(what, 0, total)
    try:
        found.observations += _of_engine(cluster, kinds[0], source)
    except StudyError as error:  # of storage, such as a folder that not all machines see: steps can be measured
        found.failures.append((what, error.what))
        observer.failed(what, error.what)
    connected = connect(cluster, source=source)
    try:
        if wait_for_nodes(cluster, source=source, should_stop=should_stop) == 0:
            found.stopped = True
            return found
        done = 1
        for number, (kind, node) in enumerate(_one_of_each(kinds)):
            found.stopped = found.stopped or should_stop()
            if found.stopped:
                break
            session = f"calibration {now} {kind.name}"
            measurer = _Measurer(subjects, number, cluster, kind, node, seconds, session, search_path, observer)
            done = measurer.run(found, done, total, should_stop)
    finally:
        if connected:
            ray.shutdown()
    if found.observations:
        found.path = write_calibration(folder, found.observations)
    return found


def subjects_of(
    specs: Iterable[StudySpec], cluster: Cluster, kinds: Sequence[MachineKind], *, source: str = "the cluster file"
) -> list[Subject]:
    """What there is to measure of some studies.

    Raises:
        StudyError: a site or the cluster cannot be used.
    """
    found = []
    for spec in specs:
        site, table = prepare(spec)
        planner = Planner(spec, site, table, cluster, kinds, [], source=source)
        found.append(Subject(spec, site, planner.loads))
    return found


def _keys(subjects: Sequence[Subject], kind: int) -> dict[Any, tuple[Subject, Work, dict[str, Any]]]:
    """Each kind of work on a kind of machine, with a study, a work and a configuration that have it."""
    found: dict[Any, tuple[Subject, Work, dict[str, Any]]] = {}
    for subject in subjects:
        load = subject.loads[kind]
        for work in load.works:
            found.setdefault(work.key, (subject, work, load.examples[work.key]))
    return found


def _one_of_each(kinds: Sequence[MachineKind]) -> Iterable[tuple[MachineKind, Node]]:
    """A running machine of each kind.

    Raises:
        ClusterError: no machine of a kind is there.
    """
    there = [
        Node(
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            host=node["NodeManagerHostname"] or node["NodeManagerAddress"],
            node_id=node["NodeID"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    if len(kinds) == 1:
        # A head may be smaller than the others, and have no GPU.
        yield kinds[0], max(there, key=lambda node: (node.gpus, node.cpus))
        return
    for kind in kinds:
        fitting = [node for node in there if node.cpus == kind.cpus and node.gpus == kind.gpus]
        if not fitting:
            raise ClusterError(
                f"no machine of the cluster is a {kind.name}: {kind.cpus:g} CPUs and {kind.gpus} GPUs",
                where="nodes of the cluster file",
                allowed="; ".join(f"{node.host}: {node}" for node in there),
                fix="write the cpus and gpus that Ray shows (`ray status`), or start such a machine",
            )
        yield kind, fitting[0]


class _Measurer:
    """Measures one kind of machine."""

    def __init__(
        self,
        subjects: Sequence[Subject],
        number: int,
        cluster: Cluster,
        kind: MachineKind,
        node: Node,
        seconds: float,
        session: str,
        search_path: Sequence[str],
        observer: CalibrationObserver,
    ) -> None:
        self._wanted = _keys(subjects, number)
        self._cluster, self._kind, self._node, self._seconds = cluster, kind, node, seconds
        self._session, self._search_path, self._observer = session, tuple(search_path), observer

    def run(self, found: Calibrated, done: int, total: int, should_stop: Callable[[], bool]) -> int:
        """Measure all; returns how many things are done then."""
        # What the machine has, where the file says more of it: processes that do not fit would be waited for in vain.
        processes = min(workers_on(self._kind, self._cluster), count_workers(self._cluster, self._node))
        if self._cluster.slots is not None:
            processes = min(processes, self._cluster.slots * self._cluster.workers_per_trial)
        if processes < 1:
            self._fail(found, f"the machine {self._node.host}", f"no trial fits: it has {self._node}")
            return done + len(self._wanted)
        meters = self._start(min(processes, _MOST_PROCESSES))
        try:
            sharing, _ = device_of(self._kind, self._cluster)
            alone_too = sharing.trials > 1
            for subject, work, config in self._wanted.values():
                if should_stop():
                    found.stopped = True
                    break
                what = f"{work.key} on {self._kind.name}"
                self._observer.about_to(what, done, total)
                done += 1
                used = [(sharing.trials, meters)]
                if alone_too and work.key.trained:
                    # What sharing costs, one kind of work tells for all.
                    used.append((1, meters[:1]))
                    alone_too = False
                for trials, some in used:
                    reason = self._measure(found, some, trials, subject, work, config, should_stop)
                    if reason is not None:
                        self._fail(found, what, reason)
                        break
        finally:
            for meter in meters:
                ray.kill(meter)
        return done

    def _fail(self, found: Calibrated, what: str, reason: str) -> None:
        found.failures.append((what, reason))
        self._observer.failed(what, reason)

    def _start(self, count: int) -> list[Any]:
        worker = self._cluster.per_worker
        options = {
            "num_cpus": worker.cpu,
            "num_gpus": worker.gpu,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(self._node.node_id, soft=False),
        }
        return [_Meter.options(**options).remote() for _ in range(count)]  # type: ignore[attr-defined]

    def _measure(
        self,
        found: Calibrated,
        meters: Sequence[Any],
        trials: int,
        subject: Subject,
        work: Work,
        config: Mapping[str, Any],
        should_stop: Callable[[], bool],
    ) -> str | None:
        """Measure one kind of work with some processes at once; returns why that failed."""
        worker = self._cluster.per_worker
        payload = Payload(
            site=subject.site.reference,
            search_path=self._search_path,
            provenance=Provenance.here(),
            gpu=worker.gpu > 0,
            gpu_memory_share=self._cluster.gpu_memory_share,
            threads=max(1, int(worker.cpu)),
            time_limit_s=None,
            fingerprint_memory_mb=0,
            device_share=1.0,
            device_trials=trials,
        )
        trial = json.dumps(asdict(Trial(dict(config), 0, subject.site.data_hash)))
        try:
            # All are ready before the first one begins: they have to be slowed by each other.
            problems = _answers([meter.prepare.remote(payload, trial, work) for meter in meters], should_stop)
            if isinstance(problems, str):
                return problems
            if problem := next((text for text in problems if text is not None), None):
                return str(problem)
            answers = _answers([meter.run.remote(self._seconds) for meter in meters], should_stop)
            if isinstance(answers, str):
                return answers
        except RayError as error:
            return f"its process was lost ({type(error).__name__})"
        values: dict[Any, list[float]] = defaultdict(list)
        for device, answer in answers:
            if isinstance(answer, str):
                return answer
            for (quantity, detail), numbers in answer.items():
                values[device, quantity, detail] += numbers
        now = datetime.now(UTC).isoformat(timespec="seconds")
        node_type = "" if self._cluster.address == "local" and not self._cluster.nodes else self._kind.name
        for (name, quantity, detail), numbers in values.items():
            item = Observation.of(
                quantity,
                numbers,
                session=self._session,
                source="calibration",
                measured_at=now,
                device=Device(name, payload.threads, trials, node_type),
                work=None if quantity == "synthesis_s" else work.key,
                detail=detail,
            )
            if item is not None:
                found.observations.append(item)
        return None


def _answers(references: Sequence[Any], should_stop: Callable[[], bool]) -> list[Any] | str:
    """What processes answer, or why that is not waited for."""
    until = time.monotonic() + _PATIENCE_S
    while len(ray.wait(list(references), num_returns=len(references), timeout=_ASK_EVERY_S)[0]) < len(references):
        if should_stop():
            return "it was asked to stop"
        if time.monotonic() > until:
            return f"no answer in {_PATIENCE_S / 60:.0f} minutes: is something else running on the machine?"
    return list(ray.get(list(references)))


@ray.remote
class _Meter:
    """A process that measures, as a trial's process would run."""

    def __init__(self) -> None:
        self._data: dict[str, Any] = {}
        self._measurement: Any = None
        self._name = ""

    def prepare(self, payload: Payload, trial: str, work: Work) -> str | None:
        """Make ready what is to be measured; why it cannot be, where it cannot."""
        import torch

        from study.engine.attempt import open_data
        from study.measuring import Measurement
        from study.provenance import processor_name

        device = torch.device("cuda" if payload.gpu else "cpu")
        self._measurement = None  # frees the memory of the last one
        try:
            self._name = torch.cuda.get_device_name(device) if payload.gpu else processor_name()
            if payload.site not in self._data:
                self._data = {payload.site: open_data(payload, device)}  # the last one alone: sites can be large
            self._measurement = Measurement(Trial(**json.loads(trial)), work, self._data[payload.site])
        except Exception as error:  # a trial's own failure is told, and the others are measured
            return _reason(error)
        return None

    def run(self, seconds: float) -> tuple[str, Any]:
        """The device's name, and what was measured or why it was not."""
        try:
            return self._name, self._measurement.run(seconds)
        except Exception as error:
            return self._name, _reason(error)


def _reason(error: Exception) -> str:
    from study.engine.attempt import state_and_reason

    _, reason = state_and_reason(error)
    return reason.strip().splitlines()[-1]


def _of_engine(cluster: Cluster, kind: MachineKind, source: str) -> list[Observation]:
    """What the engine takes, from a small study of reference rows that train nothing."""
    trainer = "ray_train" if cluster.uses_ray_train else "tune"
    slots = max(1, min(_MOST_PROCESSES, workers_on(kind, cluster) // cluster.workers_per_trial))
    number = slots + 1 if cluster.uses_ray_train else 4 * slots + 4
    spec = StudySpec.model_validate(
        {
            "study": "engine",
            "site": "canyon_small",
            "base": {
                "system": {"subcarriers": 16, "antennas": [2, 2], "paths": 5},
                "split": {"train_scenes": 1, "validation_scenes": 1, "test_scenes": 1},
            },
            "axes": {"method": ["KNN"], "objective.neighbours": list(range(1, number + 1))},
            "references": [],
            "seeds": 1,
        }
    )
    with tempfile.TemporaryDirectory(prefix="study-calibration-") as scratch:
        store = Store(Path(scratch))
        checkpoints = None if cluster.storage == "local" else str(study_location(cluster.storage, "calibration"))
        run_study(spec, cluster, store, EventLog(store.events), cluster_source=source, checkpoints=checkpoints)
        rows = [row for row in store.load().rows.values() if row["state"] == "done"]
        node_type = "" if cluster.address == "local" and not cluster.nodes else kind.name
        return of_engine(store, "calibration", rows, trainer, node_type)
