"""Whether the machine has what a cluster file asks for, told before anything starts."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.model import Cluster
from study.errors import ClusterError

__all__ = ["Machine", "check_local", "check_resources", "slots", "this_machine"]

CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Machine:
    """What is there to share: of this machine, or of a whole running cluster.

    Args:
        cpus: CPU cores that this process may use.
        gpus: NVIDIA GPUs that this process may use.
    """

    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"{_count(self.cpus, 'CPU')} and {_count(self.gpus, 'GPU')}"


def this_machine() -> Machine:
    """The cores and GPUs that this process may use: affinity, container limits and CUDA_VISIBLE_DEVICES are kept."""
    return Machine(_usable_cpus(), _usable_gpus())


def check_local(cluster: Cluster, *, source: str = "the cluster file", machine: Machine | None = None) -> None:
    """Compare a cluster file with this machine, before Ray starts.

    A cluster that runs elsewhere (``host:port``) is left to `check_resources`, once it has been asked what it has.

    Args:
        cluster: what `load_cluster` returned.
        source: the cluster file, for messages.
        machine: what the machine has; found out when left out.

    Raises:
        ClusterError: more is asked for than there is, or ``address: auto`` and no Ray runs here.
    """
    if cluster.address not in ("local", "auto"):
        _check_reachable(cluster.address, source)
        return
    if cluster.address == "auto" and _ray_runs_here():
        return
    machine = machine or this_machine()
    check_resources(cluster, machine, source=source)
    if cluster.address == "auto":
        raise ClusterError(
            "no Ray cluster runs on this machine",
            where=f"{source}: address: auto",
            allowed="auto on a node of a running cluster, or local",
            fix="launch the cluster with `ray up` and run the study on its head node, or write address: local",
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


def check_resources(cluster: Cluster, available: Machine, *, source: str = "the cluster file") -> None:
    """Compare a cluster file with what is there: of this machine, or of the running cluster.

    Raises:
        ClusterError: more is asked for than there is, or not one trial fits.
    """
    wanted_gpus = max(cluster.gpus, math.ceil(cluster.resources_per_trial.gpu))
    whose = "this machine" if cluster.address in ("local", "auto") else f"the cluster at {cluster.address}"
    if wanted_gpus > available.gpus:
        key = "gpus" if cluster.gpus >= wanted_gpus else "resources_per_trial.gpu"
        value = cluster.gpus if key == "gpus" else f"{cluster.resources_per_trial.gpu:g}"
        has = "none is usable here" if available.gpus == 0 else f"{whose} has {available.gpus}"
        raise ClusterError(
            f"the cluster file asks for {_count(wanted_gpus, 'GPU')}, and {has}",
            where=f"{source}: {key}: {value}",
            allowed=f"what {whose} has: {available}",
            fix="use cluster/local.yaml, or run on a machine whose GPUs `nvidia-smi -L` lists"
            if available.gpus == 0
            else f"write gpus: {available.gpus}, or fewer GPUs per trial",
        )
    if cluster.cpus is not None and cluster.cpus > available.cpus:
        raise ClusterError(
            f"the cluster file asks for {_count(cluster.cpus, 'CPU')}, and {whose} has {available.cpus} usable",
            where=f"{source}: cpus: {cluster.cpus}",
            allowed=f"what {whose} has: {available}",
            fix="leave cpus out to use all usable ones",
        )
    local = cluster.address == "local"
    cpus = cluster.cpus if local and cluster.cpus is not None else available.cpus
    slots(cluster, cpus, cluster.gpus if local else available.gpus, source=source)


def slots(cluster: Cluster, cpus: float, gpus: float, *, source: str = "the cluster file") -> int:
    """How many trials run at the same time on so many cores and GPUs.

    A trial with a part of a GPU stays on one GPU: two GPUs hold two trials of 0.6, not three.

    Raises:
        ClusterError: not one trial fits, or fewer than `cluster.slots`.
    """
    wanted = cluster.resources_per_trial
    fit = _fit(cpus, wanted.cpu)
    if wanted.gpu >= 1:
        fit = min(fit, _fit(gpus, wanted.gpu))
    elif wanted.gpu > 0:
        fit = min(fit, int(gpus) * _fit(1, wanted.gpu))
    there = f"{_count(cpus, 'CPU')} and {_count(gpus, 'GPU')}"
    each = f"{_count(wanted.cpu, 'CPU')} and {_count(wanted.gpu, 'GPU')}"
    if fit < 1:
        raise ClusterError(
            f"not one trial fits: it wants {each}",
            where=f"{source}: resources_per_trial",
            allowed=f"what is there: {there}",
            fix="ask for less per trial, or use a larger machine",
        )
    if cluster.slots is not None and cluster.slots > fit:
        raise ClusterError(
            f"{cluster.slots} trials at the same time do not fit: each wants {each}",
            where=f"{source}: slots: {cluster.slots}",
            allowed=f"at most {fit}, from {there}",
            fix="leave slots out to run as many as fit, or ask for less per trial",
        )
    return fit if cluster.slots is None else cluster.slots


def _fit(available: float, each: float) -> int:
    # 1 / 0.1 and the like: floor of 9.999999999999998 would lose a slot.
    return math.floor(available / each + 1e-9)


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
