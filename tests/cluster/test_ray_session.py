"""Ray as a cluster file asks for it: started here, or joined on several machines."""

from __future__ import annotations

import importlib
import os
import random
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cluster.model import Autoscaling, Cluster, Resources, RuntimeEnv
from study.data.site import open_site
from study.errors import ClusterError
from study.ray_session import check_shared, check_site, connect, dashboard_url, nodes, wait_for_nodes

# isort: split

import ray
from ray._private import services
from ray.cluster_utils import Cluster as RayCluster

pytestmark = pytest.mark.slow

STORE_MB = 100


@pytest.fixture
def no_ray() -> Iterator[None]:
    assert not ray.is_initialized()
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def machines() -> Iterator[RayCluster]:
    """A cluster of two machines with 1 and 2 CPUs; a test may add more."""
    args = {"object_store_memory": STORE_MB * 2**20, "include_dashboard": False}
    cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1, **args})
    cluster.add_node(num_cpus=2, **args)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def joined(machines: RayCluster) -> Iterator[Cluster]:
    file = Cluster(address=machines.address)
    assert connect(file)
    yield file
    ray.shutdown()


def free_port() -> int:
    """A free port below those that Linux hands out: no other test's Ray gets it by chance before it is used here."""
    for port in random.sample(range(20_000, 32_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no free port")


# --- Started here -----------------------------------------------------------------------------------------------------


def test_code_and_variables_reach_a_task_and_the_dashboard_stays_here(
    no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_methods").mkdir()
    (tmp_path / "my_methods" / "__init__.py").write_text("NAME = 'mine'\n")
    (tmp_path / "my_module.py").write_text("NAME = 'beside'\n")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "note.txt").write_text("read")
    monkeypatch.chdir(tmp_path)
    port = free_port()
    cluster = Cluster(
        cpus=1,
        object_store_mb=STORE_MB,
        dashboard=True,
        dashboard_port=port,
        runtime_env=RuntimeEnv(
            working_dir="here", py_modules=("my_methods", "my_module.py"), env_vars={"STUDY_TEST": "x"}
        ),
    )
    assert connect(cluster)
    assert not connect(cluster)

    @ray.remote
    def ask() -> tuple[str, ...]:
        modules = [importlib.import_module(name) for name in ("my_methods", "my_module")]
        return (os.environ["STUDY_TEST"], Path("note.txt").read_text(), *(module.NAME for module in modules))

    assert ray.get(ask.remote(), timeout=120) == ("x", "read", "mine", "beside")
    assert dashboard_url() == f"http://127.0.0.1:{port}"
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    assert listening == {"127.0.0.1"}
    (node,) = nodes()
    assert (node.cpus, node.gpus) == (1, 0)
    assert node.memory_bytes
    assert node.memory_bytes > 0


def test_no_dashboard_unless_asked_for(no_ray: None) -> None:
    assert dashboard_url() is None
    assert connect(Cluster(cpus=1, object_store_mb=STORE_MB))
    assert dashboard_url() is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (RuntimeEnv(conda="no-such-environment"), "on machine"),
        (RuntimeEnv(working_dir="large"), "exceeds the maximum size"),
        (RuntimeEnv(py_modules=("large",)), "exceeds the maximum size"),
    ],
    ids=["packages", "working_dir", "py_modules"],
)
def test_what_cannot_be_made_is_told_before_anything_runs(
    no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: RuntimeEnv, said: str
) -> None:
    # Ray reads its limit when it is imported.
    monkeypatch.setattr("ray._private.runtime_env.packaging.GCS_STORAGE_MAX_SIZE", 10_000)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "noise").write_bytes(os.urandom(20_000))
    with pytest.raises(ClusterError, match=said) as caught:
        connect(Cluster(cpus=1, object_store_mb=STORE_MB, runtime_env=asked), source="mine.yaml")
    assert caught.value.where == "mine.yaml: runtime_env"
    assert not ray.is_initialized()


def test_a_port_that_is_taken(no_ray: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ClusterError, match=f"cannot have port {port}"):
            connect(Cluster(cpus=1, dashboard=True, dashboard_port=port))
    assert not ray.is_initialized()


# --- Several machines -------------------------------------------------------------------------------------------------


def test_every_machine_is_counted(joined: Cluster) -> None:
    found = nodes()
    assert sorted(node.cpus for node in found) == [1, 2]
    assert len({node.node_id for node in found}) == 2
    assert wait_for_nodes(joined) == 3
    assert wait_for_nodes(joined.model_copy(update={"workers_per_trial": 2})) == 1
    with pytest.raises(ClusterError, match="wants 3 CPUs and 0 GPUs on one machine") as caught:
        wait_for_nodes(joined.model_copy(update={"resources_per_trial": Resources(cpu=3)}))
    assert socket.gethostname() in str(caught.value.allowed)


def test_a_machine_that_comes_is_waited_for(machines: RayCluster, joined: Cluster) -> None:
    larger = joined.model_copy(update={"resources_per_trial": Resources(cpu=4), "wait_for_nodes_s": 120})
    told: list[str] = []
    added = []

    def arrive(reason: str) -> None:
        told.append(reason)
        added.append(machines.add_node(num_cpus=4, object_store_memory=STORE_MB * 2**20))

    try:
        assert wait_for_nodes(larger, on_wait=arrive) == 1
        assert len(told) == 1
        assert "4 CPUs" in told[0]
        assert wait_for_nodes(larger, on_wait=arrive) == 1
        assert len(told) == 1
    finally:
        for node in added:
            machines.remove_node(node)
    deadline = time.monotonic() + 60
    while len(nodes()) > 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert sorted(node.cpus for node in nodes()) == [1, 2]


def test_waiting_for_machines_ends(joined: Cluster) -> None:
    larger = joined.model_copy(update={"resources_per_trial": Resources(cpu=9), "wait_for_nodes_s": 1})
    with pytest.raises(ClusterError, match="after 1 s of waiting") as caught:
        wait_for_nodes(larger, source="mine.yaml")
    assert "wait_for_nodes_s" in str(caught.value.fix)
    assert wait_for_nodes(larger, should_stop=lambda: True) == 0


def test_a_cluster_that_grows_is_asked_to(joined: Cluster) -> None:
    from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    grows = joined.model_copy(
        update={
            "autoscaling": Autoscaling(nodes=2, cpus=8),
            "wait_for_nodes_s": 60,
            "resources_per_trial": Resources(cpu=4),
        }
    )
    asked: list[bytes] = []

    def stop() -> bool:
        asked.append(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL))
        return True

    assert wait_for_nodes(grows, should_stop=stop) == 0
    assert b'"CPU": 4' in asked[0]
    assert b"CPU" not in _internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL)
    # What it has is enough for a first trial, and trials are counted on what it can have.
    assert wait_for_nodes(grows.model_copy(update={"resources_per_trial": Resources(cpu=2)})) == 1 + 2 * 4
    with pytest.raises(ClusterError, match="wants 9 CPUs and 0 GPUs on one machine"):
        wait_for_nodes(grows.model_copy(update={"resources_per_trial": Resources(cpu=9)}), should_stop=stop)
    assert len(asked) == 1


def test_a_shared_folder_is_told_from_others_of_its_name(
    joined: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_shared(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    with pytest.raises(ClusterError, match="cannot be written"):
        check_shared(Path("/proc/no/folder"))
    if sys.platform == "linux":
        # The same name in each process, and another folder.
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ClusterError, match="is another one there, or none"):
            check_shared(Path("/proc/self/cwd/results"))


def test_every_machine_must_have_the_site(joined: Cluster, tmp_path: Path) -> None:
    shipped = open_site("canyon_small")
    check_site(shipped)
    assert shipped.reference == "canyon_small"
    copied = tmp_path / "street"
    shutil.copytree(shipped.folder, copied)
    own = open_site(copied)
    check_site(own)
    assert own.reference == str(copied)
    with pytest.raises(ClusterError, match="has other data there"):
        check_site(replace(own, data_hash="another"))
    shutil.rmtree(copied)
    with pytest.raises(ClusterError, match="unknown site") as caught:
        check_site(own)
    assert "a folder that all machines share" in str(caught.value)


def test_a_machine_that_cannot_load_this_project_is_named(
    machines: RayCluster, no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "__init__.py").write_text("raise ImportError('made for another Python')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClusterError, match=f"machine {socket.gethostname()}: .* cannot load this project") as caught:
        connect(Cluster(address=machines.address, runtime_env=RuntimeEnv(working_dir=".")))
    assert "made for another Python" in caught.value.what
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out during startup. This could happen because …"),
        ConnectionAbortedError("Starting Ray client server failed. See …"),
        ConnectionAbortedError("Initialization failure from server:\npsutil.ZombieProcess: …"),
    ],
)
def test_a_server_that_does_not_start_is_tried_again_and_given_up_in_the_end(
    no_ray: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tried: list[str] = []

    def init(*, address: str, **options: object) -> None:
        tried.append(address)
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ClusterError, match="Ray cannot be reached"):
        connect(Cluster(address="local"))
    assert tried == ["local"] * 3
    tried.clear()
    monkeypatch.setattr("study.ray_session._NOT_STARTED", ())
    with pytest.raises(ClusterError):
        connect(Cluster(address="local"))
    assert tried == ["local"]


def _own_servers() -> list[str]:
    """Ray's servers that this process has started, and that live."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if child.name() in ("gcs_server", "raylet") and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child.name())
    return sorted(found)


def test_of_a_node_that_did_not_come_up_in_time_nothing_stays(no_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real, asked = _own_servers(), services.get_node, []

    def get_node(*arguments: object) -> object:
        asked.append(_own_servers())
        if len(asked) == 1:
            raise Exception("The current node timed out during startup. This could happen because …")
        return real(*arguments)

    monkeypatch.setattr(services, "get_node", get_node)
    try:
        assert connect(Cluster(address="local", cpus=1, object_store_mb=STORE_MB))
        assert asked[0] == asked[1] == _own_servers() == sorted([*before, "gcs_server", "raylet"])
    finally:
        ray.shutdown()


def test_a_cluster_is_reached_through_its_client_port(
    no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the process that serves this client dies before it serves: the first one is given no Python."""
    (tmp_path / "my_remote_module.py").write_text("NAME = 'far'\n")
    port = free_port()
    environments: list[dict[str, object]] = [{"env_vars": {"PYTHONHOME": "/nowhere"}}]
    join = ray.init

    def init(*, runtime_env: dict[str, object], **options: object) -> object:
        return join(runtime_env=environments.pop() if environments else runtime_env, **options)

    monkeypatch.setattr(ray, "init", init)
    head = {"num_cpus": 2, "object_store_memory": STORE_MB * 2**20, "include_dashboard": False}
    far = RayCluster(initialize_head=True, head_node_args={"ray_client_server_port": port, **head})
    try:
        asked = RuntimeEnv(py_modules=(str(tmp_path / "my_remote_module.py"),), env_vars={"STUDY_TEST": "x"})
        assert connect(Cluster(address=f"ray://127.0.0.1:{port}", runtime_env=asked))
        assert not environments

        @ray.remote
        def ask() -> tuple[str, str]:
            return importlib.import_module("my_remote_module").NAME, os.environ["STUDY_TEST"]

        assert ray.get(ask.remote(), timeout=120) == ("far", "x")
        assert [node.cpus for node in nodes()] == [2]
        assert wait_for_nodes(Cluster(address=f"ray://127.0.0.1:{port}")) == 2
        assert dashboard_url() is None
    finally:
        ray.shutdown()
        far.shutdown()
