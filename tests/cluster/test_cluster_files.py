"""Cluster files: what they may say, and what the machine must have."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.check import Machine, check_local, check_resources, free_machine_bytes, slots, this_machine
from cluster.loading import load_cluster
from cluster.model import Cluster, Resources
from study.errors import ClusterError, Problem, SpecError
from study.resources import shipped_clusters


@pytest.fixture(autouse=True)
def no_ray_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever Ray the machine of the tests may run."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray_tmp"))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def load(tmp_path: Path, text: str) -> Cluster:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    return load_cluster(file)


def problems(tmp_path: Path, text: str) -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, text)
    return caught.value.problems


# --- Shipped files ----------------------------------------------------------------------------------------------------


def test_every_shipped_file_loads() -> None:
    assert {"local", "gpu"} <= set(shipped_clusters())
    for file in shipped_clusters().values():
        load_cluster(file)


def test_the_local_file_fits_every_machine() -> None:
    cluster = load_cluster(shipped_clusters()["local"])
    assert cluster == Cluster()
    check_local(cluster, machine=Machine(cpus=1, gpus=0))
    check_local(cluster)


def test_the_gpu_file_is_one_that_ray_up_takes() -> None:
    ray = importlib.util.find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    schema = json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load(shipped_clusters()["gpu"].read_text()), schema)


def test_the_gpu_file_on_a_machine_without_gpu(no_gpu: None) -> None:
    file = shipped_clusters()["gpu"]
    with pytest.raises(ClusterError) as caught:
        check_local(load_cluster(file), source=str(file))
    text = str(caught.value)
    assert "GPU" in caught.value.what
    assert f"{file}: gpus: 2" in text
    assert "0 GPUs" in text
    assert "cluster/local.yaml" in text


def test_the_gpu_file_on_a_machine_with_gpus_wants_a_running_cluster() -> None:
    cluster = load_cluster(shipped_clusters()["gpu"])
    with pytest.raises(ClusterError, match="no Ray cluster runs"):
        check_local(cluster, machine=Machine(cpus=16, gpus=2))
    check_resources(cluster, Machine(cpus=16, gpus=2))
    assert slots(cluster, 16, 2) == 4


# --- Loading ----------------------------------------------------------------------------------------------------------


def test_our_keys_in_a_ray_up_file(tmp_path: Path) -> None:
    cluster = load(
        tmp_path, "cluster_name: a\nprovider: {type: local}\nmetadata: {study: {address: auto, slots: 3}, note: x}\n"
    )
    assert (cluster.address, cluster.slots) == ("auto", 3)


def test_a_problem_in_a_ray_up_file_has_its_full_key_path(tmp_path: Path) -> None:
    text = "cluster_name: a\nprovider: {type: local}\nmetadata:\n  study:\n    slot: 3\n"
    (problem,) = problems(tmp_path, text)
    assert (problem.line, problem.key_path, problem.hint) == (5, "metadata.study.slot", "did you mean 'slots'?")


@pytest.mark.parametrize("extra", ["", "metadata: {}\n", "metadata: 3\n"])
def test_a_ray_up_file_without_our_keys(tmp_path: Path, extra: str) -> None:
    with pytest.raises(SpecError, match=r"metadata\.study"):
        load(tmp_path, "cluster_name: a\nprovider: {type: local}\n" + extra)


@pytest.mark.parametrize(
    "address", ["local", "auto", "10.0.0.1:6379", "head.example.org:6379", "ray://head:10001", "'[::1]:6379'"]
)
def test_addresses(tmp_path: Path, address: str) -> None:
    assert load(tmp_path, f"address: {address}\n").address == address.strip("'")


@pytest.mark.parametrize(
    ("line", "key_path", "said"),
    [
        ("address: here", "address", "no address"),
        ("address: head:99999", "address", "no address"),
        ("address: http://head:80", "address", "no address"),
        ("cpus: 0", "cpus", "too small"),
        ("cpus: 1.5", "cpus", "decimal point"),
        ("gpus: -1", "gpus", "too small"),
        ("slots: 0", "slots", "too small"),
        ("resources_per_trial: {cpu: 0}", "resources_per_trial.cpu", "too small"),
        ("resources_per_trial: {cpu: .nan}", "resources_per_trial.cpu", "finite"),
        ("resources_per_trial: {gpu: -0.5}", "resources_per_trial.gpu", "too small"),
        ("resources_per_trial: {gpu: 1e-9}", "resources_per_trial.gpu", "too small"),
        ("resources_per_trial: {gpu: 1.5}", "resources_per_trial.gpu", "part of another"),
        ("resources_per_trial: {gpu: 1}", "resources_per_trial.gpu", "the cluster has gpus: 0"),
        ("{cpus: 2, resources_per_trial: {cpu: 4}}", "resources_per_trial.cpu", "the cluster has cpus: 2"),
        ("gpu_memory_fraction: 1.5", "gpu_memory_fraction", "too large"),
        ("gpu_memory_fraction: 0.5", "gpu_memory_fraction", "no GPU memory"),
        ("trainer: ray_train", "trainer", "not implemented in this version"),
        ("trainer: spark", "trainer", "unknown value"),
        ("workers_per_trial: 2", "workers_per_trial", "not implemented in this version"),
        ("storage: s3://bucket", "storage", "not implemented in this version"),
        ("object_store_mb: 10", "object_store_mb", "too small"),
        ("{address: auto, object_store_mb: 100}", "object_store_mb", "has its size already"),
        ("max_retries: -1", "max_retries", "too small"),
        ("trial_time_limit_s: 0", "trial_time_limit_s", "too small"),
        ("gpu: 1", "gpu", "unknown key"),
    ],
)
def test_values_that_no_cluster_can_have(tmp_path: Path, line: str, key_path: str, said: str) -> None:
    (problem,) = problems(tmp_path, line + "\n")
    assert problem.key_path == key_path
    assert said in problem.what
    assert problem.line == 1
    assert problem.allowed


def test_all_impossible_relations_are_reported_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, "cpus: 1\nresources_per_trial:\n  cpu: 2\n  gpu: 1\n")
    assert [(problem.line, problem.value) for problem in found] == [(3, "2"), (4, "1")]


def test_the_share_of_gpu_memory_follows_the_share_of_the_gpu() -> None:
    assert Cluster().gpu_memory_share is None
    assert Cluster(gpus=1, resources_per_trial=Resources(gpu=0.25)).gpu_memory_share == 0.25
    assert Cluster(gpus=1, resources_per_trial=Resources(gpu=1)).gpu_memory_share is None
    assert Cluster(gpus=1, resources_per_trial=Resources(gpu=1), gpu_memory_fraction=0.9).gpu_memory_share == 0.9


# --- Against the machine ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        (Cluster(cpus=8), "8 CPUs, and this machine has 4"),
        (Cluster(gpus=2), "2 GPUs, and this machine has 1"),
        (Cluster(gpus=2, resources_per_trial=Resources(gpu=2)), "2 GPUs"),
        (Cluster(resources_per_trial=Resources(cpu=5)), "not one trial fits"),
        (Cluster(slots=5), "5 trials at the same time do not fit"),
        (Cluster(address="auto", resources_per_trial=Resources(gpu=2)), "2 GPUs"),
    ],
)
def test_more_than_the_machine_has(cluster: Cluster, said: str) -> None:
    with pytest.raises(ClusterError, match=said) as caught:
        check_local(cluster, source="mine.yaml", machine=Machine(cpus=4, gpus=1))
    assert "mine.yaml" in str(caught.value.where)
    assert caught.value.allowed
    assert caught.value.fix


def test_a_cluster_elsewhere_is_not_held_against_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        far = Cluster(address=address, cpus=1000, gpus=100)
        check_local(far, machine=Machine(1, 0))
    with pytest.raises(ClusterError, match=f"cluster at {address} has 8"):
        check_resources(far, Machine(1000, 8))
    with pytest.raises(ClusterError, match="nothing answers"):
        check_local(far, machine=Machine(1000, 100))


def test_auto_joins_a_ray_that_answers(tmp_path: Path) -> None:
    auto = Cluster(address="auto", gpus=5)
    note = tmp_path / "ray_tmp" / "ray" / "ray_current_cluster"
    note.parent.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        note.write_text(f"127.0.0.1:{server.getsockname()[1]}\n")
        check_local(auto, machine=Machine(1, 0))
    # A killed cluster leaves its note behind.
    with pytest.raises(ClusterError):
        check_local(auto, machine=Machine(1, 0))


def test_this_machine_keeps_to_its_affinity(no_gpu: None) -> None:
    machine = this_machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert 1 <= machine.cpus <= cores
    assert machine.gpus == 0


def test_gpus_are_counted_as_the_driver_lists_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: X (UUID: a)'\necho '  MIG 1g: y'\necho 'GPU 1: X (UUID: b)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert this_machine().gpus == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert this_machine().gpus == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert this_machine().gpus == 0


@pytest.mark.parametrize(
    ("cpu", "gpu", "cpus", "gpus", "fit"),
    [(1, 0, 4, 0, 4), (0.1, 0, 1, 0, 10), (2, 0.5, 16, 2, 4), (1, 0.6, 16, 2, 2), (1, 2, 16, 3, 1), (3, 0, 8, 0, 2)],
)
def test_slots(cpu: float, gpu: float, cpus: int, gpus: int, fit: int) -> None:
    cluster = Cluster(address="auto", resources_per_trial=Resources(cpu=cpu, gpu=gpu))
    assert slots(cluster, cpus, gpus) == fit
    assert slots(cluster.model_copy(update={"slots": 1}), cpus, gpus) == 1


@given(
    cpu=st.floats(0.01, 8),
    gpu=st.just(0.0) | st.floats(0.01, 1) | st.integers(1, 4).map(float),
    cpus=st.integers(1, 64),
    gpus=st.integers(0, 8),
)
def test_slots_never_promise_more_than_there_is(cpu: float, gpu: float, cpus: int, gpus: int) -> None:
    cluster = Cluster(address="auto", resources_per_trial=Resources(cpu=cpu, gpu=gpu))
    try:
        fit = slots(cluster, cpus, gpus)
    except ClusterError:
        assert cpu > cpus or gpu > gpus
        return
    assert fit * cpu <= cpus * (1 + 1e-6)
    assert fit * gpu <= gpus * (1 + 1e-6)


GIB = 2**30


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 10 * GIB),
        (
            {"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": "1", "sys/fs/cgroup/memory.stat": ""},
            10 * GIB,
        ),
        (  # version 2: of 4 GiB 3 are used, 1 of them by files that were read
            {
                "sys/fs/cgroup/memory.max": str(4 * GIB),
                "sys/fs/cgroup/memory.current": str(3 * GIB),
                "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {GIB}\n",
            },
            2 * GIB,
        ),
        (  # version 2, nested: a group around ours has the limit
            {
                "proc/self/cgroup": "0::/jobs/7\n",
                "sys/fs/cgroup/jobs/memory.max": str(5 * GIB),
                "sys/fs/cgroup/jobs/memory.current": str(2 * GIB),
                "sys/fs/cgroup/jobs/memory.stat": "inactive_file 0\n",
                "sys/fs/cgroup/jobs/7/memory.max": "max\n",
                "sys/fs/cgroup/jobs/7/memory.current": str(GIB),
                "sys/fs/cgroup/jobs/7/memory.stat": "inactive_file 0\n",
            },
            3 * GIB,
        ),
        (  # version 1
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": str(2 * GIB),
                "sys/fs/cgroup/memory/x/memory.usage_in_bytes": str(GIB),
                "sys/fs/cgroup/memory/x/memory.stat": "inactive_file 7\ntotal_inactive_file 1024\n",
            },
            GIB + 1024,
        ),
        (  # more used than allowed
            {
                "sys/fs/cgroup/memory.max": "5",
                "sys/fs/cgroup/memory.current": "9",
                "sys/fs/cgroup/memory.stat": "",
            },
            0,
        ),
    ],
)
def test_free_memory_is_what_the_machine_and_its_groups_leave(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    for name, text in {"proc/meminfo": f"MemFree: 1 kB\nMemAvailable:   {10 * 2**20} kB\n", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_machine_bytes(tmp_path) == expected


def test_free_memory_of_this_machine_is_some() -> None:
    assert 0 < free_machine_bytes() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
