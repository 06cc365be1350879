"""Workload × durations on the machines of a cluster → hours, money, energy and memory, each with what is not known.

A plan is drawn many times: the machine's speed on the day, the level of every measured quantity, single trials, and
what early stopping leaves. Each draw is scheduled as the engine would run it; a figure is the 10, 50 and 90 % point of
its draws.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.check import free_machine_bytes
from cluster.machines import THIS_MACHINE, MachineKind, slots_of, workers_on
from cluster.model import FINGERPRINT_SHARE, Cluster
from cluster.scheduling import list_schedule
from study import __version__
from study.data.path_table import PathTable
from study.data.site import Site
from study.planning.durations import Durations, Known
from study.planning.observations import Device, Observation
from study.planning.record import Basis, CellPlan, Plan, Spread, worst
from study.planning.work import Work
from study.planning.workload import Jobs, Workload, workload
from study.provenance import processor_name, spec_hash
from study.spec.model import StudySpec

__all__ = ["Draws", "Planner", "beside_seconds", "device_of"]

# Scheduling is most of the work: so many jobs in all draws together, and draws between these bounds.
_JOBS, _FEWEST, _MOST = 250_000, 40, 200
# From the command to the run's first word: imports, and reading the site.
_IMPORTS_S = 2.0
# Of a machine's memory, what trials can have.
_USABLE_MEMORY = 0.85


def beside_seconds(trials: int) -> float:
    """What a command takes beside its run: imports, and the report.

    A report takes 30 to 40 s for 10,000 trials and 3 to 4 s for a few (docs/performance.md).
    """
    return _IMPORTS_S + 3.0 + 0.0035 * trials


@dataclass(frozen=True)
class Draws:
    """Equally likely futures of a study, R of them.

    Attributes:
        seconds: of all trials of each group of the workload, [R, groups].
        makespan: from the command to the report, [R].
        node_hours: machines × hours, [R].
    """

    seconds: NDArray[np.float64]
    makespan: NDArray[np.float64]
    node_hours: NDArray[np.float64]

    @property
    def total(self) -> NDArray[np.float64]:
        """Seconds of all trials, [R]."""
        result: NDArray[np.float64] = self.seconds.sum(axis=1)
        return result


@dataclass(frozen=True)
class _Kind:
    """A kind of machine with what is known about it, and the workload as it is there."""

    machine: MachineKind
    durations: Durations
    load: Workload


class Planner:
    """Plans a study on a cluster.

    Args:
        spec: the study.
        site: its site.
        table: the paths of the scenes that it uses.
        cluster: the cluster file.
        kinds: its machines.
        observations: what was measured.
        stored: label of a cell → its stored trials, which are not planned.
        source: the cluster file, for messages.
        seed: of the draws.

    Raises:
        ClusterError: not one trial fits the machines.
    """

    def __init__(
        self,
        spec: StudySpec,
        site: Site,
        table: PathTable,
        cluster: Cluster,
        kinds: Sequence[MachineKind],
        observations: Sequence[Observation],
        *,
        stored: Mapping[str, int] | None = None,
        source: str = "the cluster file",
        seed: int = 0,
    ) -> None:
        self.spec, self.site, self.table, self.cluster, self.source = spec, site, table, cluster, source
        self._observations, self._seed = observations, seed
        loads: dict[float, Workload] = {}
        self._kinds = []
        for machine in kinds:
            device, peak = device_of(machine, cluster)
            budget = _budget_mb(machine, cluster)
            if budget not in loads:
                loads[budget] = workload(
                    spec,
                    site,
                    table,
                    fingerprint_budget_mb=budget,
                    workers=cluster.workers_per_trial,
                    stored=stored,
                )
            durations = Durations(observations, device, peak, gpu=_on_gpu(cluster))
            self._kinds.append(_Kind(machine, durations, loads[budget]))
        self.slots = slots_of(kinds, cluster, source=source)

    @property
    def _used(self) -> list[_Kind]:
        """The kinds of machine on which a worker fits: the others only cost."""
        return [kind for kind in self._kinds if workers_on(kind.machine, self.cluster)]

    # --- variations ---

    def of_spec(self, spec: StudySpec) -> Planner:
        """The same for another spec: the same site and machines; nothing is taken as stored."""
        return Planner(
            spec, self.site, self.table, self.cluster, self.machines, self._observations,
            source=self.source, seed=self._seed,
        )  # fmt: skip

    def of_size(self, counts: Sequence[int]) -> Planner:
        """The same on another number of machines of each kind."""
        if list(counts) == [kind.machine.count for kind in self._kinds]:
            return self
        other = copy.copy(self)
        # What the file asks for in all is about its own machines.
        other.cluster = self.cluster.model_copy(update={"slots": None, "gpus": 0, "cpus": None, "autoscaling": None})
        other._kinds = [
            replace(kind, machine=replace(kind.machine, count=count))
            for kind, count in zip(self._kinds, counts, strict=True)
        ]
        other.slots = slots_of(other.machines, other.cluster, source=self.source)
        if self.cluster.slots is not None:  # as many on each machine as now
            scaled = round(self.cluster.slots * sum(counts) / self.machine_count)
            other.slots = max(1, min(other.slots, scaled))
        return other

    @property
    def machines(self) -> tuple[MachineKind, ...]:
        """The machines."""
        return tuple(kind.machine for kind in self._kinds)

    @property
    def durations(self) -> tuple[Durations, ...]:
        """What is known about each kind of machine that trials run on."""
        return tuple(kind.durations for kind in self._used)

    @property
    def loads(self) -> tuple[Workload, ...]:
        """The workload as it is on each kind of machine: memory decides whether fingerprints are kept."""
        return tuple(kind.load for kind in self._kinds)

    @property
    def load(self) -> Workload:
        """What is to run."""
        return self._used[0].load

    @property
    def machine_count(self) -> int:
        """How many machines there are."""
        return sum(machine.count for machine in self.machines)

    # --- what it costs by the hour ---

    @property
    def rate_per_hour(self) -> float | None:
        """Money for all machines, for an hour; None where a price is not known, or in several currencies."""
        prices = [machine.price_per_hour for machine in self.machines]
        if None in prices or len({machine.currency for machine in self.machines}) > 1:
            return None
        return math.fsum(price * kind.count for price, kind in zip(prices, self.machines, strict=True) if price)

    @property
    def currency(self) -> str | None:
        """Of the prices."""
        return self.machines[0].currency if self.rate_per_hour is not None else None

    @property
    def watts(self) -> float | None:
        """Of all machines; None where one is not known."""
        watts = [machine.watts for machine in self.machines]
        if None in watts:
            return None
        return math.fsum(value * kind.count for value, kind in zip(watts, self.machines, strict=True) if value)

    @property
    def price_note(self) -> str:
        """Where the prices are from, or why there is no sum of them."""
        notes = "; ".join(dict.fromkeys(machine.price_note for machine in self.machines))
        currencies = sorted({machine.currency for machine in self.machines if machine.currency})
        if len(currencies) > 1:
            return f"prices in {' and '.join(currencies)} cannot be added ({notes})"
        return notes

    # --- drawing ---

    def draw(self, draws: int | None = None) -> Draws:
        """Draw futures, by default as many as the size of the study allows."""
        load = self.load
        wanted = draws or max(_FEWEST, min(_MOST, _JOBS // max(1, load.trials)))
        generator = np.random.default_rng(self._seed)
        slot_kinds = self._slot_kinds()
        group_seconds = np.zeros((wanted, len(load.groups)))
        makespan = np.zeros(wanted)
        trainer = "ray_train" if self.cluster.uses_ray_train else "tune"
        drawn = [_DrawnKind(kind, wanted, trainer, self._seed) for kind in self._used]
        contexts = _numbered([work.context for work in load.works])
        after = [group.after for group in load.groups]
        jobs: Jobs | None = None
        for number in range(wanted):
            if jobs is None or load.random:
                jobs = load.jobs(generator)
            if not len(jobs.group):
                continue
            noise = generator.normal(size=len(jobs.group))
            pairs = [kind.seconds(number, jobs, noise) for kind in drawn]
            seconds, fetching = (np.stack(values, axis=1) for values in zip(*pairs, strict=True))
            gap, first, start, end = drawn[0].engine[number].tolist()
            # Workers of Ray Train are new for each trial: they find no fingerprints.
            context = np.arange(len(jobs.work)) if self.cluster.uses_ray_train else contexts[jobs.work]
            schedule = list_schedule(
                seconds + gap,
                slot_kinds,
                group=jobs.group.tolist(),
                after=after,
                context=context.tolist(),
                context_seconds=fetching,
                first_seconds=first,
            )
            at = np.arange(len(jobs.group)), np.asarray(slot_kinds)[schedule.slot]
            own = seconds[at] + np.where(schedule.fetched, fetching[at], 0.0)
            group_seconds[number] = np.bincount(jobs.group, own, len(load.groups))
            makespan[number] = start + schedule.makespan + end + beside_seconds(load.trials)
        return Draws(group_seconds, makespan, makespan / 3600 * self.machine_count)

    def _slot_kinds(self) -> list[int]:
        """The kind of machine of each slot; workers of one trial on several kinds are as slow as the slowest."""
        per_trial, found, mixed = self.cluster.workers_per_trial, [], []
        # More slots than trials would stay empty.
        most = min(self.slots, max(1, self.load.trials))
        for number, kind in enumerate(self._used):
            workers = workers_on(kind.machine, self.cluster) * kind.machine.count
            found += [number] * min(workers // per_trial, most)
            mixed += [number] if workers % per_trial else []
        if len(found) < most and mixed:
            slowest = max(mixed, key=self._slowness)
            found += [slowest] * (most - len(found))
        return found[:most]

    def _slowness(self, number: int) -> float:
        """Seconds of one step or sample of all kinds of work on a kind of machine."""
        kind = self._used[number]
        return math.fsum(_main_times(kind.durations, work)[0].median for work in kind.load.works)

    # --- the plan ---

    def plan(self, drawn: Draws | None = None) -> Plan:
        """What the study takes."""
        drawn = drawn or self.draw()
        rate, watts = self.rate_per_hour, self.watts
        hours = drawn.makespan / 3600
        total = np.maximum(drawn.total, 1e-9)
        cells = []
        members: dict[int, list[int]] = {}
        for number, group in enumerate(self.load.groups):
            members.setdefault(group.cell, []).append(number)
        for number in sorted(members):
            cell, groups = self.load.cells[number], [self.load.groups[at] for at in members[number]]
            seconds = drawn.seconds[:, members[number]].sum(axis=1)
            cells.append(
                CellPlan(
                    label=cell.cell.label,
                    method=cell.cell.method,
                    values=cell.values,
                    trials=sum(group.count for group in groups),
                    seconds=Spread.of(seconds),
                    cost=None if rate is None else Spread.of(seconds / total * hours * rate),
                    memory_mb=max(self.memory_mb(work) for group in groups for work in group.works),
                    basis=self.basis(groups[0].works[0]),
                )
            )
        return Plan(
            study=self.spec.study,
            spec_hash=spec_hash(self.spec.model_dump(mode="json", by_alias=True)),
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            study_version=__version__,
            cluster=self.source,
            machines=tuple(_in_words(machine) for machine in self.machines),
            trainer="ray_train" if self.cluster.uses_ray_train else "tune",
            slots=self.slots,
            trials=self.load.trials,
            stored=self.load.stored,
            seconds=Spread.of(drawn.total),
            makespan_seconds=Spread.of(drawn.makespan),
            beside_seconds=beside_seconds(self.load.trials),
            cost=None if rate is None else Spread.of(hours * rate),
            currency=self.currency,
            cost_note=self.price_note,
            energy_kwh=None if watts is None else Spread.of(hours * watts / 1000),
            cells=tuple(cells),
            notes=tuple(self._notes()),
        )

    def basis(self, work: Work) -> Basis:
        """The basis of what takes the time of a trial, on the worst of the machines."""
        return worst(known.basis for kind in self._used for known in _main_times(kind.durations, work))

    # --- memory ---

    def memory_mb(self, work: Work, number: int = 0) -> float:
        """Memory of one trial on a kind of machine: the process's, or that of its GPU. In MiB.

        Of fingerprints that processes share it is a process's part.
        """
        kind = self._used[number]
        own = work.data_mb - work.fingerprints_mb
        shared = work.fingerprints_mb / _sharers(kind.machine, self.cluster)
        return kind.durations.base_memory_mb(work.key).median + own + shared

    def memory_problems(self) -> list[str]:
        """Where trials need more memory than there is, in words; empty where all is known to fit."""
        problems = []
        for number, kind in enumerate(self._used):
            there = _memory_mb(kind.machine, self.cluster)
            if there is None or not kind.load.works:
                continue
            largest = max(kind.load.works, key=lambda work: self.memory_mb(work, number))
            needs = self.memory_mb(largest, number)
            if needs > there:
                what = "its part of a GPU" if _on_gpu(self.cluster) else "its part of the memory"
                problems.append(
                    f"{kind.machine.name}: {largest.key} needs about {needs:,.0f} MB, and {what} is {there:,.0f} MB"
                )
        return problems

    # --- what a reader must know ---

    def _notes(self) -> list[str]:
        notes = []
        for kind in self._used:
            bases = [(work, self.basis(work)) for work in kind.load.works]
            counted = sorted({str(work.key) for work, basis in bases if basis == "counted"})
            scaled = sorted({str(work.key) for work, basis in bases if basis == "scaled"})
            name = kind.durations.device.name or kind.machine.name
            if counted:
                peak = "its declared peak" if kind.durations.peak_declared else "a usual peak, as none is declared"
                notes.append(
                    f"Not measured on {name}, but counted operations over {peak}: {_some(counted)}. That may well be "
                    "three times less or more; `study calibrate SPEC` measures it."
                )
            if scaled:
                notes.append(
                    f"Not measured on {name}, and scaled by counted operations: {_some(scaled)}. "
                    "`study calibrate SPEC` measures them."
                )
        notes += [f"Not enough memory: {problem}." for problem in self.memory_problems()]
        idle = sum(machine.gpus * machine.count for machine in self.machines)
        if idle and not _on_gpu(self.cluster):
            notes.append(
                f"The trials use no GPU, and the machines have {idle}: write slots_per_gpu, or gpu under "
                "resources_per_trial."
            )
        if self.cluster.uses_ray_train:
            gap = self._used[0].durations.engine_s("gap_s", "ray_train").median
            notes.append(
                f"Each trial starts its Ray Train workers anew, about {gap:.0f} s: for trials of a minute or two, "
                "trainer: tune is cheaper."
            )
        if self.load.random:
            notes.append("What early stopping leaves of the searches is drawn: nothing is known about the candidates.")
        return list(dict.fromkeys(notes))


@dataclass(frozen=True)
class _Part:
    """A part of a trial's time.

    Attributes:
        name: works with the same name share what is not known about it.
        known: of one step, sample, or whatever is counted.
        per_epoch, once, fetched: how many there are in each epoch, beside them, and where fingerprints are made.
    """

    name: Any
    known: Known
    per_epoch: float = 0.0
    once: float = 0.0
    fetched: float = 0.0


def _parts(durations: Durations, work: Work) -> list[_Part]:
    """What the time of a trial is made of; what takes most of it comes first."""
    key, samples = work.key, work.samples
    making = _Part(
        ("synthesis", work.making, key.rows, key.columns),
        durations.synthesis_s(key, work.making),
        fetched=0.0 if key.making else samples.all,
    )
    if key.trained:
        look, after = durations.evaluation_s(key), work.evaluated_after
        return [
            _Part(("step", key), durations.step_s(key), per_epoch=work.steps),
            _Part(("evaluation", key), look, per_epoch=samples.validation, once=after),
            _Part(("setup", key), durations.setup_s(key), once=1.0),
            making,
        ]
    pairs = samples.train if key.method == "KNN" else 1
    predicted = (samples.validation + samples.test) * pairs
    return [
        _Part(("predict", key), durations.reference_s("predict_s", key), once=predicted),
        _Part(("fit", key), durations.reference_s("fit_s", key), once=samples.train),
        making,
    ]


def _main_times(durations: Durations, work: Work) -> list[Known]:
    """What takes most of the time of a trial."""
    return [part.known for part in _parts(durations, work)[: 2 if work.key.trained else 1]]


class _DrawnKind:
    """Draws of all that is uncertain about one kind of machine.

    Args:
        kind: the kind.
        draws: how many.
        trainer: ``tune`` or ``ray_train``.
        seed: plans with the same seed draw the same levels, so that their differences are those of the studies.
    """

    def __init__(self, kind: _Kind, draws: int, trainer: str, seed: int) -> None:
        durations, works = kind.durations, kind.load.works
        drawn: dict[Any, NDArray[np.float64]] = {}

        def normal(name: Any) -> NDArray[np.float64]:
            number = zlib.crc32(repr((kind.machine.name, name)).encode())
            return np.random.default_rng((seed, number)).normal(size=draws)

        def level(name: Any, known: Known) -> NDArray[np.float64]:
            if name not in drawn:
                drawn[name] = known.median * np.exp(known.sigma * normal(name))
            return drawn[name]

        self._epoch, self._once, self._fetched = (np.zeros((draws, len(works))) for _ in range(3))
        for number, work in enumerate(works):
            for part in _parts(durations, work):
                seconds = level(part.name, part.known)
                self._epoch[:, number] += part.per_epoch * seconds
                self._once[:, number] += part.once * seconds
                self._fetched[:, number] += part.fetched * seconds
        self._noise = np.array([_parts(durations, work)[0].known.noise for work in works])
        speed = np.exp(durations.drift * normal("speed"))[:, None]
        for times in (self._epoch, self._once, self._fetched):
            times *= speed
        engine = [level(name, durations.engine_s(name, trainer)) for name in ("gap_s", "first_s", "start_s", "end_s")]
        self.engine = np.stack(engine, axis=1)

    def seconds(
        self, draw: int, jobs: Jobs, noise: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Seconds of each job in a draw, without and for making its fingerprints."""
        trial = self._once[draw, jobs.work] + jobs.epochs * self._epoch[draw, jobs.work]
        return trial * np.exp(self._noise[jobs.work] * noise), self._fetched[draw, jobs.work]


def device_of(machine: MachineKind, cluster: Cluster) -> tuple[Device, float | None]:
    """What trials are measured on there, and the declared operations per second of one process's share of it."""
    worker = cluster.per_worker
    threads = max(1, int(worker.cpu))
    workers = workers_on(machine, cluster)
    if cluster.slots is not None:
        workers = min(workers, cluster.slots * cluster.workers_per_trial)
    node_type = "" if machine.name == THIS_MACHINE else machine.name
    peak = None if machine.peak_tflops is None else machine.peak_tflops * 1e12
    if worker.gpu:
        sharing = min(max(1, workers), int(1 / worker.gpu + 1e-9)) if worker.gpu < 1 else 1
        return Device(machine.gpu or "", threads, sharing, node_type), peak and peak * min(1.0, worker.gpu)
    name = processor_name() if cluster.address == "local" else ""
    # The declared peak of a machine with GPUs is that of a GPU, which these trials do not use.
    own = None if peak is None or machine.gpus else peak * min(1.0, threads / machine.cpus)
    return Device(name, threads, max(1, workers), node_type), own


def _on_gpu(cluster: Cluster) -> bool:
    return cluster.per_worker.gpu > 0


def _budget_mb(machine: MachineKind, cluster: Cluster) -> float:
    """Memory in which a process may keep its fingerprints, as it will decide itself; all it needs where unknown.

    Those that share have one copy, in what all of them may take together.
    """
    sharers = _sharers(machine, cluster)
    if cluster.fingerprint_memory_mb is not None:
        return float(sharers * cluster.fingerprint_memory_mb)
    there = _memory_mb(machine, cluster)
    return math.inf if there is None else FINGERPRINT_SHARE * there * sharers


def _sharers(machine: MachineKind, cluster: Cluster) -> int:
    """How many processes have one copy of their fingerprints."""
    shared = cluster.fingerprint_cache != "off" and not _on_gpu(cluster)
    return device_of(machine, cluster)[0].trials if shared else 1


def _memory_mb(machine: MachineKind, cluster: Cluster) -> float | None:
    """Memory of one process's share of its GPU, or of the machine; None where that is not known."""
    device, _ = device_of(machine, cluster)
    if _on_gpu(cluster):
        if machine.gpu_memory_bytes is None:
            return None
        return machine.gpu_memory_bytes / 2**20 * (cluster.gpu_memory_share or min(1.0, cluster.per_worker.gpu))
    if machine.name == THIS_MACHINE:
        return free_machine_bytes() / 2**20 / device.trials
    if machine.memory_bytes is None:
        return None
    return _USABLE_MEMORY * machine.memory_bytes / 2**20 / device.trials


def _numbered(values: Sequence[str]) -> NDArray[np.int64]:
    at = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return np.array([at[value] for value in values], np.int64)


def _in_words(machine: MachineKind) -> str:
    gpus = f", {machine.gpus} × {machine.gpu or 'GPU'}" if machine.gpus else ""
    spot = ", spot" if machine.spot else ""
    return f"{machine.count} × {machine.name} ({machine.cpus:g} CPU{'' if machine.cpus == 1 else 's'}{gpus}{spot})"


def _some(words: Sequence[str]) -> str:
    shown = ", ".join(words[:3])
    return shown if len(words) <= 3 else f"{shown} and {len(words) - 3} more"
