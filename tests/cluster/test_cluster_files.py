"""Cluster files: what they may say, and what the machine must have."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cluster.check import (
    Node,
    check_local,
    check_nodes,
    check_resources,
    free_machine_bytes,
    runtime_env,
    slots,
    this_machine,
)
from cluster.loading import load_cluster
from cluster.model import Autoscaling, Cluster, Resources, RuntimeEnv
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
    assert {"local", "gpu", "kuberay"} <= set(shipped_clusters())
    for file in shipped_clusters().values():
        load_cluster(file)


def test_the_local_file_fits_every_machine() -> None:
    cluster = load_cluster(shipped_clusters()["local"])
    assert cluster == Cluster()
    check_local(cluster, machine=Node(cpus=1, gpus=0))
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
        check_local(cluster, machine=Node(cpus=16, gpus=2))
    assert cluster.uses_ray_train
    assert check_nodes(cluster, [Node(8, 1, host="head"), Node(8, 1, host="worker")]) == 2


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict]:
    text = shipped_clusters()["kuberay"].read_text()
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(text)}


def test_shared_memory_leaves_some_for_the_trials() -> None:
    machine = Node(cpus=2, gpus=0, memory_bytes=1000 * 2**20)
    check_local(Cluster(object_store_mb=800), machine=machine)
    with pytest.raises(ClusterError, match="would take 801 MB of 1000 MB") as caught:
        check_local(Cluster(object_store_mb=801), source="mine.yaml", machine=machine)
    assert caught.value.where == "mine.yaml: object_store_mb: 801"
    assert "at most 800" in str(caught.value.allowed)


def test_the_kubernetes_file_is_a_ray_job(manifests: dict[str, dict]) -> None:
    schema = json.loads((Path(__file__).parent / "rayjob_schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(manifests["RayJob"])
    for broken in ("entrypint", "runtimeEnv"):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({**manifests["RayJob"], "spec": {**manifests["RayJob"]["spec"], broken: "x"}})
    assert isinstance(yaml.safe_load(manifests["RayJob"]["spec"]["runtimeEnvYAML"]), dict)


def test_the_parts_of_the_kubernetes_file_fit_together(manifests: dict[str, dict]) -> None:
    cluster = load_cluster(shipped_clusters()["kuberay"])
    spec = manifests["RayJob"]["spec"]["rayClusterSpec"]
    head, (group,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    pods = [head["template"]["spec"], group["template"]["spec"]]
    for pod in pods:
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounted) == {volume["name"] for volume in pod["volumes"]}
        assert mounted["results"] == cluster.storage
        for volume in pod["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] == manifests["PersistentVolumeClaim"]["metadata"]["name"]
            else:
                assert volume["configMap"]["name"] == manifests["ConfigMap"]["metadata"]["name"]
                assert f"--cluster {mounted[volume['name']]}/cluster.yaml" in manifests["RayJob"]["spec"]["entrypoint"]
    has = pods[1]["containers"][0]["resources"]["limits"]
    worker = Node(float(has["cpu"]), float(has["nvidia.com/gpu"]), host="worker")
    nodes = [Node(0, 0, host="head"), *[worker] * group["replicas"]]
    assert check_nodes(cluster, nodes) == group["replicas"]
    assert spec["rayVersion"] == importlib.metadata.version("ray")


# --- Documentation ----------------------------------------------------------------------------------------------------

DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")


def key_paths(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", field
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from key_paths(kind, f"{prefix}{name}.")


def test_the_documentation_tells_every_key_and_its_default() -> None:
    section = DOCUMENTATION.partition("## Every key")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(row) for row in rows} == {4}
    told = {row[0].strip("`"): row[1] for row in rows}
    fields = dict(key_paths(Cluster))
    assert {"address", "runtime_env.env_vars", "autoscaling.nodes"} <= set(fields)
    assert list(told) == list(fields)
    for path, field in fields.items():
        assert field.description, path
        if field.is_required():
            assert told[path] == "–", path
        elif isinstance(field.default, str | bool | int | float):
            text = f"{field.default:g}" if isinstance(field.default, float) else str(field.default).lower()
            assert told[path] == text, path
        else:
            assert told[path] != "–", path
    assert told["checkpoint_every_s"] == f"{Cluster().checkpoint_interval_s:g}"


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", DOCUMENTATION, re.DOTALL))
def test_the_documentations_examples_load(tmp_path: Path, example: str) -> None:
    if "metadata:" in example:
        example = f"cluster_name: x\n{example}"
    load(tmp_path, example)


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


MANIFEST = "# mine\napiVersion: v1\nkind: Service\n---\nkind: ConfigMap\napiVersion: v1\ndata:\n  cluster.yaml: |\n"


def test_our_keys_in_a_kubernetes_manifest(tmp_path: Path) -> None:
    cluster = load(tmp_path, MANIFEST + "    address: auto\n    slots: 3\n---\napiVersion: ray.io/v1\nkind: RayJob\n")
    assert (cluster.address, cluster.slots) == ("auto", 3)


def test_a_problem_in_a_kubernetes_manifest_has_its_line(tmp_path: Path) -> None:
    found = problems(tmp_path, MANIFEST + "    address: auto\n    # mine\n    slot: 3\n")
    assert [(problem.line, problem.key_path, problem.hint) for problem in found] == [
        (11, "slot", "did you mean 'slots'?")
    ]


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: ray.io/v1\nkind: RayJob\n",
        "apiVersion: v1\nkind: ConfigMap\n",
        "apiVersion: v1\nkind: ConfigMap\ndata: {cluster.yaml: {slots: 3}}\n",
    ],
)
def test_a_kubernetes_manifest_without_our_keys(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError, match=r"ConfigMap"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    "storage", ["local", "/shared/results", "s3://bucket", "gs://bucket/a/b", "hdfs://name:9000/a"]
)
def test_places_for_results(tmp_path: Path, storage: str) -> None:
    assert load(tmp_path, f"storage: {storage}\n").storage == storage


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
        ("trainer: spark", "trainer", "unknown value"),
        ("{trainer: tune, workers_per_trial: 2}", "trainer", "with Ray Train only"),
        ("{workers_per_trial: 0}", "workers_per_trial", "too small"),
        ("{workers_per_trial: 2, min_workers_per_trial: 3}", "min_workers_per_trial", "at most"),
        ("min_workers_per_trial: 2", "min_workers_per_trial", "at most"),
        ("{workers_per_trial: 2, resources_per_trial: {cpu: 1}}", "resources_per_trial", "not said what each"),
        ("{resources_per_worker: {cpu: 1}, resources_per_trial: {cpu: 1}}", "resources_per_trial", "written twice"),
        ("{cpus: 4, workers_per_trial: 3, resources_per_worker: {cpu: 2}}", "resources_per_worker.cpu", "6 CPUs"),
        ("{gpus: 1, workers_per_trial: 2, resources_per_worker: {gpu: 1}}", "resources_per_worker.gpu", "2 GPU"),
        ("{gpus: 1, workers_per_trial: 2, slots_per_gpu: 2}", "slots_per_gpu", "cannot share a GPU"),
        ("{gpus: 1, slots_per_gpu: 2, resources_per_trial: {gpu: 0.5}}", "slots_per_gpu", "written twice"),
        ("slots_per_gpu: 2", "slots_per_gpu", "the cluster has gpus: 0"),
        ("{gpus: 1, slots_per_gpu: 101}", "slots_per_gpu", "too large"),
        ("checkpoint_every_s: 60", "checkpoint_every_s", "only Ray Train"),
        ("storage: results", "storage", "does not start at the root"),
        ("storage: ftp://host/results", "storage", "no place where results"),
        ("storage: s3:///results", "storage", "no place where results"),
        ("dashboard_port: 8265", "dashboard_port", "no dashboard"),
        ("{dashboard: true, dashboard_port: 80}", "dashboard_port", "too small"),
        ("{address: auto, dashboard: true}", "dashboard", "already"),
        ("autoscaling: {nodes: 2, cpus: 4}", "autoscaling", "does not grow"),
        ("{address: auto, autoscaling: {nodes: 2, cpus: 4}}", "autoscaling", "does not wait"),
        ("{address: auto, wait_for_nodes_s: 9, autoscaling: {cpus: 4}}", "autoscaling.nodes", "missing"),
        ("runtime_env: {container: x}", "runtime_env.container", "unknown key"),
        ("runtime_env: {pip: [a], uv: [b]}", "runtime_env.uv", "either pip or uv"),
        ("runtime_env: {excludes: [results]}", "runtime_env.excludes", "nothing is shipped"),
        ("runtime_env: {env_vars: {A: 1}}", "runtime_env.env_vars.A", "expected text"),
        ("runtime_env: {env_vars: {A-B: x}}", "runtime_env.env_vars.A-B", "no name"),
        ("runtime_env: {py_modules: mine}", "runtime_env.py_modules", "expected a list"),
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
    # A tenth is left for what CUDA takes in each process.
    assert Cluster(gpus=1, resources_per_trial=Resources(gpu=0.25)).gpu_memory_share == pytest.approx(0.225)
    assert Cluster(gpus=1, slots_per_gpu=4).gpu_memory_share == pytest.approx(0.225)
    assert Cluster(gpus=1, slots_per_gpu=1).gpu_memory_share is None
    assert Cluster(gpus=1, resources_per_trial=Resources(gpu=1)).gpu_memory_share is None
    assert Cluster(gpus=1, resources_per_trial=Resources(gpu=1), gpu_memory_fraction=0.9).gpu_memory_share == 0.9


def test_who_trains_follows_from_the_workers() -> None:
    assert not Cluster().uses_ray_train
    assert Cluster(trainer="ray_train").uses_ray_train
    assert Cluster(workers_per_trial=2).uses_ray_train
    assert not Cluster(trainer="tune").uses_ray_train


def test_a_trial_takes_what_its_workers_take() -> None:
    assert Cluster(resources_per_trial=Resources(cpu=3)).per_worker == Resources(cpu=3)
    assert Cluster(resources_per_worker=Resources(cpu=3)).per_trial == Resources(cpu=3)
    four = Cluster(gpus=8, workers_per_trial=4, resources_per_worker=Resources(cpu=3, gpu=2))
    assert (four.per_worker.cpu, four.per_worker.gpu) == (3, 2)
    assert (four.per_trial.cpu, four.per_trial.gpu) == (12, 8)
    assert Cluster(workers_per_trial=4).per_trial.cpu == 4


@given(st.integers(1, 100))
def test_so_many_trials_share_a_gpu_as_the_file_says(trials: int) -> None:
    cluster = Cluster(gpus=3, slots_per_gpu=trials, resources_per_trial=Resources(cpu=0.01))
    assert slots(cluster, 1000, 3) == 3 * trials
    # Ray keeps whole ten-thousandths.
    assert trials * round(cluster.per_worker.gpu * 10_000) <= 10_000


# --- What is shipped --------------------------------------------------------------------------------------------------


def test_shipped_paths_count_from_the_folder_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "one.py").write_text("")
    (tmp_path / "packages.txt").write_text("")
    asked = RuntimeEnv(
        working_dir=".",
        py_modules=("mine", "one.py", "s3://bucket/more.zip"),
        pip="packages.txt",
        env_vars={"A": "1"},
        excludes=("results",),
    )
    assert runtime_env(Cluster(runtime_env=asked)) == {
        "working_dir": str(tmp_path),
        "py_modules": [str(tmp_path / "mine"), str(tmp_path / "one.py"), "s3://bucket/more.zip"],
        "pip": str(tmp_path / "packages.txt"),
        "env_vars": {"A": "1"},
        "excludes": ["results"],
    }
    listed = Cluster(runtime_env=RuntimeEnv(uv=("torch", "optuna")))
    assert runtime_env(listed) == {"uv": ["torch", "optuna"]}
    assert runtime_env(Cluster(runtime_env=RuntimeEnv())) is None
    assert runtime_env(Cluster()) is None


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        (RuntimeEnv(working_dir="gone"), "working_dir: gone"),
        (RuntimeEnv(working_dir="file"), "working_dir: file"),
        (RuntimeEnv(py_modules=("folder", "gone.py")), r"py_modules\[1\]: gone.py"),
        (RuntimeEnv(pip="folder"), "pip: folder"),
        (RuntimeEnv(conda="gone.yaml"), "conda: gone.yaml"),
    ],
)
def test_what_cannot_be_shipped_is_told_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: RuntimeEnv, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ClusterError, match=f"mine.yaml: runtime_env.{key}"):
        check_local(Cluster(runtime_env=asked), source="mine.yaml", machine=Node(4, 0))


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
        check_local(cluster, source="mine.yaml", machine=Node(cpus=4, gpus=1))
    assert "mine.yaml" in str(caught.value.where)
    assert caught.value.allowed
    assert caught.value.fix


def test_a_cluster_elsewhere_is_not_held_against_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        far = Cluster(address=address, cpus=1000, gpus=100)
        check_local(far, machine=Node(1, 0))
    with pytest.raises(ClusterError, match=f"cluster at {address} has 8"):
        check_resources(far, Node(1000, 8))
    with pytest.raises(ClusterError, match="nothing answers"):
        check_local(far, machine=Node(1000, 100))


def test_auto_joins_a_ray_that_answers(tmp_path: Path) -> None:
    auto = Cluster(address="auto", gpus=5)
    note = tmp_path / "ray_tmp" / "ray" / "ray_current_cluster"
    note.parent.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        note.write_text(f"127.0.0.1:{server.getsockname()[1]}\n")
        check_local(auto, machine=Node(1, 0))
    # A killed cluster leaves its note behind.
    with pytest.raises(ClusterError):
        check_local(auto, machine=Node(1, 0))


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


# --- Against several machines -----------------------------------------------------------------------------------------


def on(*sizes: tuple[float, float]) -> list[Node]:
    return [Node(cpus, gpus, host=f"node-{index}") for index, (cpus, gpus) in enumerate(sizes)]


@pytest.mark.parametrize(
    ("workers", "cpu", "gpu", "sizes", "fit"),
    [
        (1, 4, 0, [(6, 0), (6, 0)], 2),  # not three: the two left-over pairs are on two machines
        (1, 1, 0.6, [(8, 2), (8, 1)], 3),
        (2, 1, 1, [(8, 1), (8, 1), (8, 1)], 1),
        (2, 1, 1, [(8, 2), (0, 0)], 1),
        (4, 2, 0, [(5, 0), (7, 0), (3, 0)], 1),
        (3, 1, 0, [(2, 0), (2, 0), (2, 0)], 2),  # a trial's workers may be on several machines
    ],
)
def test_slots_over_machines(workers: int, cpu: float, gpu: float, sizes: list[tuple[float, float]], fit: int) -> None:
    cluster = Cluster(
        address="auto", workers_per_trial=workers, resources_per_worker=Resources(cpu=cpu, gpu=float(gpu))
    )
    assert check_nodes(cluster, on(*sizes)) == fit


@pytest.mark.parametrize(
    ("keys", "sizes", "said"),
    [
        ({"resources_per_trial": Resources(cpu=8)}, [(4, 0), (4, 0)], "wants 8 CPUs and 0 GPUs on one machine"),
        ({"resources_per_worker": Resources(cpu=1, gpu=2)}, [(8, 1), (8, 1)], "wants 1 CPU and 2 GPUs on one machine"),
        ({"resources_per_trial": Resources(cpu=1, gpu=1)}, [(8, 0), (0, 2)], "wants 1 CPU and 1 GPU on one machine"),
        ({"workers_per_trial": 3}, [(1, 0), (1, 0)], "3 workers, each wants 1 CPU and 0 GPUs, and 2 workers fit"),
        ({"gpus": 3}, [(8, 1), (8, 1)], "asks for 3 GPUs, and the cluster has 2"),
        ({"cpus": 20}, [(8, 1), (8, 1)], "asks for 20 CPUs, and the cluster has 16"),
        ({"slots": 3, "workers_per_trial": 4}, [(8, 0)], "3 trials at the same time do not fit"),
        ({}, [], "not one trial fits"),
    ],
)
def test_what_no_machine_of_the_cluster_can_do(keys: dict, sizes: list[tuple[float, float]], said: str) -> None:
    with pytest.raises(ClusterError, match=said) as caught:
        check_nodes(Cluster(address="auto", **keys), on(*sizes), source="mine.yaml")
    assert str(caught.value.where).startswith("mine.yaml: ")
    for index in range(len(sizes)):
        assert f"node-{index}: " in str(caught.value.allowed)
    assert caught.value.fix


@given(
    sizes=st.lists(st.tuples(st.integers(0, 16), st.integers(0, 4)), min_size=1, max_size=5),
    workers=st.integers(1, 4),
    cpu=st.sampled_from([0.5, 1, 2, 3]),
    gpu=st.sampled_from([0, 1, 2]),
)
def test_all_promised_workers_can_be_placed(sizes: list[tuple[int, int]], workers: int, cpu: float, gpu: float) -> None:
    cluster = Cluster(
        address="auto", workers_per_trial=workers, resources_per_worker=Resources(cpu=cpu, gpu=float(gpu))
    )

    def placed(wanted: int) -> bool:
        left = [list(size) for size in sizes]
        for _ in range(wanted):
            room = next((size for size in left if size[0] >= cpu and size[1] >= gpu), None)
            if room is None:
                return False
            room[0] -= cpu
            room[1] -= gpu
        return True

    try:
        fit = check_nodes(cluster, on(*sizes))
    except ClusterError:
        fit = 0
    assert placed(fit * workers)
    assert not placed((fit + 1) * workers)


def test_machines_to_come_count_once() -> None:
    cluster = Cluster(
        address="auto",
        wait_for_nodes_s=60,
        autoscaling=Autoscaling(nodes=3, cpus=8, gpus=1),
        resources_per_trial=Resources(cpu=2, gpu=1),
    )
    head = (2, 0)
    for present in range(4):
        assert check_nodes(cluster, on(head, *[(8, 1)] * present)) == 3
    assert check_nodes(cluster, on(head, *[(16, 2)] * 4)) == 8
    never = cluster.model_copy(update={"resources_per_trial": Resources(cpu=9, gpu=1)})
    with pytest.raises(ClusterError, match="9 CPUs and 1 GPU on one machine") as caught:
        check_nodes(never, on(head))
    assert "3 × (to come): 8 CPUs and 1 GPU" in str(caught.value.allowed)


# --- Memory -----------------------------------------------------------------------------------------------------------

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
