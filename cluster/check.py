"""Whether the machines have what a cluster file asks for, told before anything starts.

this_machine    what this machine has
check_local     a cluster file against this machine, before Ray starts
check_nodes     a cluster file against the machines of a running cluster; how many trials fit at a time
runtime_env     what Ray is to bring to the machines, with paths that exist
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.model import Cluster
from study.errors import ClusterError

__all__ = [
    "Node",
    "check_local",
    "check_nodes",
    "check_resources",
    "free_machine_bytes",
    "runtime_env",
    "slots",
    "this_machine",
    "workers_on",
]

CONNECT_TIMEOUT_S = 5.0
_THE_FILE = "the cluster file"
_SHOWN_NODES = 6
_OBJECT_STORE_SHARE = 0.8


@dataclass(frozen=True)
class Node:
    """What a machine has to share.

    Args:
        cpus: CPU cores that the study may use.
        gpus: NVIDIA GPUs that it may use.
        memory_bytes: memory that Ray may hand out; None where nobody has asked.
        host: its name or address; empty for this machine.
        node_id: Ray's name of it.
    """

    cpus: float
    gpus: float
    memory_bytes: int | None = None
    host: str = ""
    node_id: str = ""

    def __str__(self) -> str:
        return _amount(self.cpus, self.gpus)


def this_machine() -> Node:
    """The cores and GPUs that this process may use: affinity, container limits and CUDA_VISIBLE_DEVICES are kept."""
    return Node(_usable_cpus(), _usable_gpus())


def check_local(cluster: Cluster, *, source: str = _THE_FILE, machine: Node | None = None) -> None:
    """Compare a cluster file with this machine, before Ray starts.

    What a cluster elsewhere (``host:port``) has is left to `check_nodes`, once it has been asked.

    Args:
        cluster: what `load_cluster` returned.
        source: the cluster file, for messages.
        machine: what the machine has; found out when left out.

    Raises:
        ClusterError: more is asked for than there is, ``address: auto`` and no Ray runs here, nothing answers at the
            address, or a folder to be shipped does not exist.
    """
    runtime_env(cluster, source=source)
    if cluster.address not in ("local", "auto"):
        _check_reachable(cluster.address, source)
        return
    if cluster.address == "auto" and _ray_runs_here():
        return
    machine = machine or this_machine()
    check_resources(cluster, machine, source=source)
    if cluster.address == "local":
        _check_object_store(cluster, machine.memory_bytes or free_machine_bytes(), source)
    if cluster.address == "auto":
        raise ClusterError(
            "no Ray cluster runs on this machine",
            where=f"{source}: address: auto",
            allowed="auto on a node of a running cluster, or local",
            fix="launch the cluster with `ray up` and run the study on its head node, or write address: local",
        )


def _check_object_store(cluster: Cluster, free_bytes: int, source: str) -> None:
    """Whether Ray's shared memory leaves memory for the trials: Ray itself finds out when it has half started."""
    most = int(_OBJECT_STORE_SHARE * free_bytes / 2**20)
    if cluster.object_store_mb is not None and cluster.object_store_mb > most:
        raise ClusterError(
            f"Ray's shared memory would take {cluster.object_store_mb} MB of {free_bytes // 2**20} MB that are free",
            where=f"{source}: object_store_mb: {cluster.object_store_mb}",
            allowed=f"at most {most} on this machine now",
            fix="write less, or leave object_store_mb out: Ray then chooses",
        )


def _check_reachable(address: str, source: str) -> None:
    """Whether something listens at ``host:port``: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ClusterError(
            f"nothing answers at {address}: {error.strerror or error}",
            where=f"{source}: address: {address}",
            allowed="the address of a running Ray cluster, or local",
            fix="launch the cluster with `ray up`, check host and port, or use cluster/local.yaml",
        ) from None


def check_resources(cluster: Cluster, available: Node, *, source: str = _THE_FILE) -> None:
    """`check_nodes` for one machine. With ``address: local`` it is what Ray would be started on.

    Raises:
        ClusterError: more is asked for than there is, or not one trial fits.
    """
    _check_totals(cluster, [available], source)
    if cluster.address == "local":
        available = Node(available.cpus if cluster.cpus is None else cluster.cpus, cluster.gpus)
    check_nodes(cluster, [available], source=source)


def slots(cluster: Cluster, cpus: float, gpus: float, *, source: str = _THE_FILE) -> int:
    """How many trials run at the same time on one machine with so many cores and GPUs.

    Raises:
        ClusterError: not one trial fits, or fewer than `cluster.slots`.
    """
    return _count_slots(cluster, [Node(cpus, gpus)], source)


def check_nodes(cluster: Cluster, machines: Sequence[Node], *, source: str = _THE_FILE) -> int:
    """Compare a cluster file with the machines of a cluster.

    A worker stays on one machine, and with a part of a GPU on one GPU: two GPUs hold two workers of 0.6, not three.
    The workers of one trial may be on several machines. With `cluster.autoscaling` the machines count that the cluster
    can still start.

    Args:
        cluster: what `load_cluster` returned.
        machines: the machines that are alive.
        source: the cluster file, for messages.

    Returns:
        How many trials run at the same time.

    Raises:
        ClusterError: more is asked for than there is, not one trial fits, or fewer than `cluster.slots`.
    """
    machines = [*machines, *_to_come(cluster, machines)]
    _check_totals(cluster, machines, source)
    return _count_slots(cluster, machines, source)


def _to_come(cluster: Cluster, machines: Iterable[Node]) -> list[Node]:
    """The machines that an autoscaling cluster does not have yet; larger ones of it count as of its size."""
    size = cluster.autoscaling
    if size is None:
        return []
    present = sum(machine.cpus >= size.cpus and machine.gpus >= size.gpus for machine in machines)
    return [Node(size.cpus, size.gpus, host="(to come)")] * max(0, size.nodes - present)


def _check_totals(cluster: Cluster, machines: Sequence[Node], source: str) -> None:
    cpus, gpus = sum(machine.cpus for machine in machines), sum(machine.gpus for machine in machines)
    wanted_gpus = max(cluster.gpus, math.ceil(cluster.per_trial.gpu - 1e-9))
    here = cluster.address in ("local", "auto") and len(machines) == 1 and not machines[0].host
    whose = "this machine" if here else "the cluster" + ("" if cluster.address == "auto" else f" at {cluster.address}")
    if wanted_gpus > gpus:
        in_all = cluster.gpus >= wanted_gpus
        key, value = ("gpus", cluster.gpus) if in_all else _gpu_key(cluster)
        if gpus:
            has = f"{whose} has {gpus:g}"
            fix = f"write gpus: {gpus:g}, or fewer GPUs per trial"
        else:
            has = "none is usable here" if here else f"{whose} has none"
            fix = "use cluster/local.yaml, or run on a machine whose GPUs `nvidia-smi -L` lists"
        raise ClusterError(
            f"the cluster file asks for {_count(wanted_gpus, 'GPU')}, and {has}",
            where=f"{source}: {key}: {value:g}",
            allowed=f"what {whose} has: {_listed(machines)}",
            fix=fix,
        )
    if cluster.cpus is not None and cluster.cpus > cpus:
        raise ClusterError(
            f"the cluster file asks for {_count(cluster.cpus, 'CPU')}, and {whose} has {cpus:g} usable",
            where=f"{source}: cpus: {cluster.cpus}",
            allowed=f"what {whose} has: {_listed(machines)}",
            fix="leave cpus out to use all usable ones",
        )


def _count_slots(cluster: Cluster, machines: Sequence[Node], source: str) -> int:
    worker, workers = cluster.per_worker, cluster.workers_per_trial
    fit = sum(workers_on(cluster, machine) for machine in machines)
    each, there = _amount(worker.cpu, worker.gpu), _listed(machines)
    if fit < 1:
        # Enough of each in all, but on different machines: the sum would only confuse.
        one = "it wants" if workers == 1 else "each of its workers wants"
        on_one = " on one machine" if len(machines) > 1 else ""
        raise ClusterError(
            f"not one trial fits: {one} {each}{on_one}",
            where=f"{source}: {cluster.resources_key}",
            allowed=f"what is there: {there}",
            fix="ask for less per trial, or use a larger machine",
        )
    if fit < workers:
        raise ClusterError(
            f"not one trial fits: it has {workers} workers, each wants {each}, and {_count(fit, 'worker')} "
            + ("fits" if fit == 1 else "fit"),
            where=f"{source}: workers_per_trial: {workers}",
            allowed=f"at most {fit}, on what is there: {there}",
            fix=f"write workers_per_trial: {fit}, ask for less per worker, or use more machines",
        )
    at_once = fit // workers
    if cluster.slots is not None and cluster.slots > at_once:
        wants = f"{each}" if workers == 1 else f"{workers} × {each}"
        raise ClusterError(
            f"{cluster.slots} trials at the same time do not fit: each wants {wants}",
            where=f"{source}: slots: {cluster.slots}",
            allowed=f"at most {at_once}, from {there}",
            fix="leave slots out to run as many as fit, or ask for less per trial",
        )
    return at_once if cluster.slots is None else cluster.slots


def workers_on(cluster: Cluster, machine: Node) -> int:
    """How many workers one machine holds; a trial has `workers_per_trial` of them, maybe on several machines."""
    worker = cluster.per_worker
    fit = _fit(machine.cpus, worker.cpu)
    if worker.gpu >= 1:
        return min(fit, _fit(machine.gpus, worker.gpu))
    return min(fit, int(machine.gpus) * _fit(1, worker.gpu)) if worker.gpu > 0 else fit


def _gpu_key(cluster: Cluster) -> tuple[str, float]:
    """The key that says how many GPUs a worker wants, and its value."""
    if cluster.slots_per_gpu is not None:
        return "slots_per_gpu", cluster.slots_per_gpu
    return f"{cluster.resources_key}.gpu", cluster.per_worker.gpu


def _listed(machines: Sequence[Node]) -> str:
    """What each machine has, such as ``node-1: 8 CPUs and 1 GPU; 3 × (to come): 4 CPUs and 0 GPUs``."""
    if not machines:
        return "no machine"
    if len(machines) == 1 and not machines[0].host:
        return str(machines[0])
    counted: dict[str, int] = {}
    for machine in machines:
        line = f"{machine.host or 'this machine'}: {machine}"
        counted[line] = counted.get(line, 0) + 1
    lines = [line if number == 1 else f"{number} × {line}" for line, number in counted.items()]
    more = [f"and {len(lines) - _SHOWN_NODES} more"] if len(lines) > _SHOWN_NODES else []
    return "; ".join(lines[:_SHOWN_NODES] + more)


def runtime_env(cluster: Cluster, *, source: str = _THE_FILE, folder: Path | None = None) -> dict[str, Any] | None:
    """What `ray.init` takes as ``runtime_env``: the file's, with paths that are absolute and exist.

    Args:
        cluster: what `load_cluster` returned.
        source: the cluster file, for messages.
        folder: where relative paths start; the current folder when left out.

    Returns:
        None where the file has none.

    Raises:
        ClusterError: a folder or file does not exist, or is not what Ray can ship.
    """
    if cluster.runtime_env is None:
        return None
    base = Path.cwd() if folder is None else folder
    asked = cluster.runtime_env

    def found(key: str, text: str, kinds: str, suffixes: tuple[str, ...], *, folders: bool) -> str:
        if "://" in text:
            return text
        path = base / Path(text).expanduser()
        if (folders and path.is_dir()) or (path.is_file() and path.suffix in suffixes):
            return str(path.resolve())
        problem = f"is no {kinds}" if path.exists() else "does not exist"
        raise ClusterError(
            f"what is to be shipped to the machines {problem}: {path}",
            where=f"{source}: runtime_env.{key}: {text}",
            allowed=f"{kinds}, from {base}",
            fix="check the path, or run the command in the folder from which it counts",
        )

    result: dict[str, Any] = {}
    if asked.working_dir is not None:
        result["working_dir"] = found("working_dir", asked.working_dir, "folder or .zip", (".zip",), folders=True)
    if asked.py_modules:
        kinds = "folder, .py or .whl"
        result["py_modules"] = [
            found(f"py_modules[{index}]", text, kinds, (".py", ".whl"), folders=True)
            for index, text in enumerate(asked.py_modules)
        ]
    for key in ("pip", "uv"):
        packages = getattr(asked, key)
        if packages is not None:
            one_file = isinstance(packages, str)
            result[key] = (
                found(key, packages, "requirements file (.txt)", (".txt",), folders=False) if one_file else [*packages]
            )
    if isinstance(asked.conda, str) and asked.conda.endswith((".yaml", ".yml")):
        result["conda"] = found("conda", asked.conda, "YAML file", (".yaml", ".yml"), folders=False)
    elif asked.conda is not None:
        result["conda"] = asked.conda
    if asked.env_vars:
        result["env_vars"] = dict(asked.env_vars)
    if asked.excludes:
        result["excludes"] = [*asked.excludes]
    return result or None


def _fit(available: float, each: float) -> int:
    # 1 / 0.1 and the like: floor of 9.999999999999998 would lose a slot.
    return math.floor(available / each + 1e-9)


def _amount(cpus: float, gpus: float) -> str:
    return f"{_count(cpus, 'CPU')} and {_count(gpus, 'GPU')}"


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"


def _usable_cpus() -> int:
    # os.sched_getaffinity is Linux only.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _container_cpus()
    return cores if quota is None else max(1, min(cores, quota))


def _container_cpus() -> int | None:
    """The CPU limit of a container, which affinity does not show: ``docker run --cpus 2``."""
    root = Path("/sys/fs/cgroup")
    try:
        if (unified := root / "cpu.max").exists():
            quota, period = unified.read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        return int(quota) // int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no control groups, or "max": no limit
        return None


def free_machine_bytes(root: Path = Path("/")) -> int:
    """Memory that this process could still take: the machine's, or what is left of its control group's limit.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # a guess, where nothing is said below
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    for folder, limit, used in _memory_groups(root):
        try:
            left = int((folder / limit).read_text()) - int((folder / used).read_text())
            # Files that were read are kept in memory, and count as used until something needs the room.
            for line in (folder / "memory.stat").read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == ("inactive_file" if limit == "memory.max" else "total_inactive_file"):
                    left += int(value)
            free = min(free, left)
        except (OSError, ValueError):  # no such group, or "max": no limit
            continue
    return max(0, free)


def _memory_groups(root: Path) -> Iterator[tuple[Path, str, str]]:
    """This process's control groups and those around them, with the names of their limit and use."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    mount = root / "sys/fs/cgroup"
    for line in ["0::/", "0:memory:/", *lines]:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            base, limit, used = mount, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, used = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = base / path.lstrip("/")
        while folder != base:
            yield folder, limit, used
            folder = folder.parent
        yield base, limit, used


def _usable_gpus() -> int:
    """NVIDIA GPUs by the driver's own tools: importing torch to count them would take seconds."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
        found = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    except (OSError, subprocess.SubprocessError):
        try:
            found = sum(1 for _ in Path("/proc/driver/nvidia/gpus").iterdir())
        except OSError:
            found = 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    chosen = [device for device in visible.split(",") if device.strip() not in ("", "-1", "NoDevFiles")]
    return min(found, len(chosen))


def _ray_runs_here() -> bool:
    """Whether a Ray cluster can be joined with ``auto``. Ray itself looks in the same two places."""
    if os.environ.get("RAY_ADDRESS"):
        return True
    folder = os.environ.get("RAY_TMPDIR") or (os.environ.get("TMPDIR") if sys.platform == "linux" else None)
    if folder is None:
        folder = "/tmp" if sys.platform in ("linux", "darwin") else tempfile.gettempdir()
    try:
        host, _, port = Path(folder, "ray", "ray_current_cluster").read_text().strip().rpartition(":")
        # A cluster that was killed leaves the file behind.
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return True
    except (OSError, ValueError):
        return False
