"""The machines of a cluster file, as a plan sees them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.check import Node, check_nodes
from cluster.loading import load_cluster
from cluster.machines import MachineKind, machine_kinds, slots_of, slots_on, workers_on
from cluster.model import Autoscaling, Cluster, Machines, Resources
from cluster.prices import Prices, load_prices, merged
from study.errors import ClusterError, SpecError
from study.resources import shipped_clusters

LISTED: dict[str, Any] = {"memory_gb": 16, "region": "here", "date": "2025-03-01", "source": "an invoice"}
PRICES = Prices.model_validate(
    {
        "currency": "USD",
        "node_types": {
            "gpu": {
                **LISTED,
                "cpus": 8,
                "gpus": 2,
                "gpu": "NVIDIA A10G",
                "gpu_memory_gb": 24,
                "peak_tflops": 31.5,
                "on_demand_per_hour": 2.0,
                "spot_per_hour": 0.5,
                "spot_date": "2024-01-31",
                "watts": 600,
            },
            "cpu": {**LISTED, "cpus": 16, "peak_tflops": 1.5, "on_demand_per_hour": 0.7, "watts": 56},
            "free": {**LISTED, "cpus": 4},
        },
    }
)


def kinds(*nodes: Machines, prices: Prices = PRICES, **keys: Any) -> tuple[MachineKind, ...]:
    return machine_kinds(Cluster(address="auto", nodes=nodes, **keys), prices, source="mine.yaml")


def refused(cluster: Cluster, prices: Prices = PRICES, machine: Node | None = None) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        machine_kinds(cluster, prices, source="mine.yaml", machine=machine)
    assert "mine.yaml: " in str(caught.value.where)
    assert caught.value.allowed
    assert caught.value.fix
    return caught.value


# --- What a price list says -------------------------------------------------------------------------------------------


def test_a_type_of_the_price_list() -> None:
    (kind,) = kinds(Machines(type="gpu", count=3))
    assert kind == MachineKind(
        name="gpu",
        count=3,
        cpus=8,
        gpus=2,
        memory_bytes=16 * 2**30,
        gpu="NVIDIA A10G",
        gpu_memory_bytes=24 * 10**9,
        peak_tflops=31.5,
        price_per_hour=2.0,
        currency="USD",
        price_note="gpu on demand, here, 2025-03-01, an invoice",
        watts=600,
        spot=False,
    )


def test_the_spot_price() -> None:
    (known, unknown, unpriced) = kinds(*(Machines(type=name, spot=True) for name in ("gpu", "cpu", "free")))
    assert (known.price_per_hour, known.spot) == (0.5, True)
    assert known.price_note == "gpu spot, here, 2024-01-31, an invoice"
    assert (unknown.price_per_hour, unknown.currency) == (None, None)
    assert unknown.price_note == "no spot price is known for cpu; on demand it is 0.7 USD"
    assert unpriced.price_note == "no price is known for free"


def test_each_type_keeps_the_currency_of_its_list() -> None:
    own = Prices.model_validate(
        {"currency": "EUR", "node_types": {"lab": {**LISTED, "cpus": 4, "on_demand_per_hour": 1}}}
    )
    found = kinds(Machines(type="gpu"), Machines(type="lab"), prices=merged(own, PRICES))
    assert [kind.currency for kind in found] == ["USD", "EUR"]


@pytest.mark.parametrize("spot", [False, True])
@pytest.mark.parametrize("name", list(load_prices().node_types))
def test_every_shipped_type(name: str, spot: bool) -> None:
    prices = load_prices()
    (kind,) = kinds(Machines(type=name, spot=spot), prices=prices)
    listed = prices.node_types[name]
    assert kind.price_per_hour == listed.price(spot=spot)
    assert kind.price_note.startswith(name) == (kind.price_per_hour is not None)
    assert (kind.cpus, kind.gpus, kind.gpu, kind.watts) == (listed.cpus, listed.gpus, listed.gpu, listed.watts)


# --- What the file says itself ----------------------------------------------------------------------------------------


def test_the_file_holds_against_the_price_list() -> None:
    (kind,) = kinds(Machines(type="gpu", memory_gb=64, price_per_hour=1.25, currency="EUR", watts=550))
    assert (kind.memory_bytes, kind.price_per_hour, kind.currency, kind.watts) == (64 * 2**30, 1.25, "EUR", 550)
    assert kind.price_note == "gpu as mine.yaml says"
    assert (kind.cpus, kind.gpu, kind.peak_tflops) == (8, "NVIDIA A10G", 31.5)
    (kind,) = kinds(Machines(type="gpu", price_per_hour=1.25))
    assert kind.currency == "USD"


def test_machines_that_no_price_list_knows() -> None:
    lab = Machines(type="lab", cpus=32, gpus=1, gpu="Own GPU", gpu_memory_gb=10, peak_tflops=5, memory_gb=8)
    (own, bare) = kinds(lab, Machines(type="bare", cpus=4))
    assert (own.gpu, own.gpu_memory_bytes, own.peak_tflops, own.memory_bytes) == ("Own GPU", 10**10, 5, 8 * 2**30)
    assert (own.price_per_hour, own.currency, own.watts) == (None, None, None)
    assert own.price_note == "no price is known for lab"
    assert (bare.gpus, bare.gpu, bare.memory_bytes, bare.peak_tflops) == (0, None, None, None)


def test_what_a_list_says_of_other_hardware_is_not_taken() -> None:
    (other_gpu, fewer, none, cores) = kinds(
        Machines(type="gpu", gpu="Other"),
        Machines(type="gpu", gpus=1),
        Machines(type="gpu", gpus=0),
        Machines(type="cpu", cpus=8),
    )
    assert (other_gpu.gpu, other_gpu.gpu_memory_bytes, other_gpu.peak_tflops) == ("Other", None, None)
    assert (fewer.gpu, fewer.peak_tflops, fewer.gpus) == ("NVIDIA A10G", 31.5, 1)
    assert (none.gpu, none.gpu_memory_bytes, none.peak_tflops) == (None, None, None)
    assert cores.peak_tflops is None
    assert {kind.watts for kind in (other_gpu, fewer, none, cores)} == {None}


# --- This machine -----------------------------------------------------------------------------------------------------


def test_without_nodes_a_local_file_is_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (kind,) = machine_kinds(Cluster(), PRICES)
    assert kind.count == 1
    assert kind.cpus >= 1
    assert (kind.gpus, kind.gpu) == (0, None)
    assert kind.memory_bytes is not None
    assert kind.memory_bytes > 2**28
    assert (kind.price_per_hour, kind.currency, kind.watts) == (None, None, None)
    assert kind.price_note == "no price is known for this machine"


def test_this_machine_as_far_as_the_file_uses_it() -> None:
    machine = Node(8, 2, memory_bytes=10**9)
    (kind,) = machine_kinds(Cluster(cpus=3, gpus=1), PRICES, machine=machine)
    assert (kind.cpus, kind.gpus, kind.memory_bytes) == (3, 1, 10**9)
    assert "8" in str(refused(Cluster(cpus=9), machine=machine))
    assert "2" in str(refused(Cluster(gpus=3), machine=machine))


@pytest.mark.parametrize(
    ("said", "gpu", "memory_bytes"),
    [("NVIDIA A10G, 23028\nNVIDIA L4, 23034\n", "NVIDIA A10G", 23028 * 2**20), ("", None, None), ("x\n", None, None)],
)
def test_the_gpus_of_this_machine_are_asked_for_their_name(
    monkeypatch: pytest.MonkeyPatch, said: str, gpu: str | None, memory_bytes: int | None
) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        listed = "GPU 0: NVIDIA A10G (UUID: x)\n" if "-L" in command else said
        return subprocess.CompletedProcess(command, 0, stdout=listed, stderr="")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(subprocess, "run", run)
    (kind,) = machine_kinds(Cluster(gpus=1), PRICES)
    assert (kind.gpu, kind.gpu_memory_bytes) == (gpu, memory_bytes)


def test_nodes_may_say_what_this_machine_costs() -> None:
    cluster = Cluster(cpus=4, gpus=1, nodes=(Machines(type="gpu"),))
    (kind,) = machine_kinds(cluster, PRICES, machine=Node(1, 0))
    assert (kind.cpus, kind.gpus, kind.gpu, kind.price_per_hour) == (4, 1, "NVIDIA A10G", 2.0)
    (kind,) = machine_kinds(Cluster(nodes=(Machines(type="gpu"),)), PRICES)
    assert (kind.cpus, kind.gpus, kind.gpu, kind.peak_tflops) == (8, 0, None, None)


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["auto", "head:6379", "ray://head:10001"])
def test_a_cluster_elsewhere_says_what_it_consists_of(address: str) -> None:
    error = refused(Cluster(address=address))
    assert "names no node types" in error.what
    assert "nodes: [{type: gpu, count: 2}]" in str(error.fix)


def test_an_unknown_type_is_told_with_the_nearest() -> None:
    error = refused(Cluster(address="auto", nodes=(Machines(type="cpu"), Machines(type="gpux"))))
    assert "did you mean 'gpu'?" in error.what
    assert error.where == "mine.yaml: nodes[1].type: gpux"
    assert error.allowed == "gpu, cpu, free"


def test_a_gpu_without_a_number_of_them() -> None:
    error = refused(Cluster(address="auto", nodes=(Machines(type="lab", cpus=4, gpu="Own GPU"),)))
    assert error.where == "mine.yaml: nodes[0].gpu: Own GPU"


@pytest.mark.parametrize(("key", "wanted"), [("gpus", 5), ("cpus", 33)])
def test_more_than_the_machines_have(key: str, wanted: int) -> None:
    nodes = (Machines(type="gpu", count=2), Machines(type="cpu"))
    assert len(kinds(*nodes, **{key: wanted - 1})) == 2
    error = refused(Cluster(address="auto", nodes=nodes, **{key: wanted}))
    assert error.where == f"mine.yaml: {key}: {wanted}"
    assert "2 × gpu (8 CPUs and 2 GPUs), 1 × cpu (16 CPUs and 0 GPUs)" in str(error.allowed)


@pytest.mark.parametrize(
    ("text", "key_path", "said"),
    [
        ("nodes: [{type: a, count: 2}]", "nodes[0].count", "this machine alone"),
        ("nodes: [{type: a}, {type: b}]", "nodes", "this machine alone"),
        ("address: auto\ngpus: 3\nnodes: [{type: a, gpus: 1, count: 2}]", "gpus", "have 2 GPUs in all"),
        ("address: auto\ncpus: 9\nnodes: [{type: a, cpus: 4}, {type: b, cpus: 4}]", "cpus", "have 8 CPUs in all"),
        ("address: auto\nnodes: [{type: a, gpus: 0, gpu: x}]", "nodes[0].gpu", "no GPU"),
        ("address: auto\nnodes: [{type: a, currency: EUR}]", "nodes[0].currency", "no price"),
        ("address: auto\nnodes: [{type: a, price_per_hour: 1, currency: euro}]", "nodes[0].currency", "no code"),
        ("address: auto\nnodes: [{type: a, price_per_hour: 0}]", "nodes[0].price_per_hour", "too small"),
        ("address: auto\nnodes: [{type: a, watts: -1}]", "nodes[0].watts", "too small"),
        ("address: auto\nnodes: [{type: a, spot: yes}]", "nodes[0].spot", "expected true or false"),
        ("address: auto\nnodes: [{count: 2}]", "nodes[0].type", "missing"),
        ("address: auto\nnodes: [{type: a, prize_per_hour: 1}]", "nodes[0].prize_per_hour", "unknown key"),
        ("address: auto\nnodes: {type: a}", "nodes", "expected a list"),
    ],
)
def test_nodes_that_no_file_can_have(tmp_path: Path, text: str, key_path: str, said: str) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text + "\n")
    with pytest.raises(SpecError) as caught:
        load_cluster(file)
    (problem,) = caught.value.problems
    assert problem.key_path == key_path
    assert said in problem.what
    assert problem.allowed


# --- Trials at a time -------------------------------------------------------------------------------------------------


def test_trials_on_a_machine_and_on_all() -> None:
    cluster = Cluster(
        address="auto",
        workers_per_trial=3,
        resources_per_worker=Resources(cpu=4, gpu=1),
        nodes=(Machines(type="gpu", count=3), Machines(type="cpu")),
    )
    found = machine_kinds(cluster, PRICES)
    assert [workers_on(kind, cluster) for kind in found] == [2, 0]
    # A trial has three workers, so no machine runs one alone, and three machines run two.
    assert [slots_on(kind, cluster) for kind in found] == [0, 0]
    assert slots_of(found, cluster) == 2


def test_what_a_cluster_could_grow_to_is_not_planned_with() -> None:
    cluster = Cluster(
        address="auto",
        wait_for_nodes_s=900,
        autoscaling=Autoscaling(nodes=8, cpus=8, gpus=2),
        slots_per_gpu=2,
        nodes=(Machines(type="gpu"),),
    )
    assert slots_of(machine_kinds(cluster, PRICES), cluster) == 4


def test_no_trial_fits() -> None:
    cluster = Cluster(address="auto", resources_per_trial=Resources(cpu=32), nodes=(Machines(type="gpu"),))
    with pytest.raises(ClusterError, match="not one trial fits"):
        slots_of(machine_kinds(cluster, PRICES), cluster)


@given(
    st.lists(st.tuples(st.sampled_from(["gpu", "cpu", "free"]), st.integers(1, 50)), min_size=1, max_size=4),
    st.sampled_from([0.25, 1.0, 2.0, 4.0]),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.integers(1, 3),
)
def test_so_many_trials_as_on_the_running_cluster(
    nodes: list[tuple[str, int]], cpu: float, gpu: float, workers: int
) -> None:
    gpu = 1.0 if gpu and workers > 1 else gpu
    cluster = Cluster(
        address="auto",
        workers_per_trial=workers,
        resources_per_worker=Resources(cpu=cpu, gpu=gpu),
        nodes=tuple(Machines(type=name, count=count) for name, count in nodes),
    )
    found = machine_kinds(cluster, PRICES)
    together = sum(kind.count * workers_on(kind, cluster) for kind in found) // workers
    assert sum(kind.count * slots_on(kind, cluster) for kind in found) <= together
    machines = [Node(kind.cpus, kind.gpus, host="x") for kind in found for _ in range(kind.count)]
    if together:
        assert slots_of(found, cluster) == check_nodes(cluster, machines) == together
    else:
        with pytest.raises(ClusterError):
            slots_of(found, cluster)


# --- Shipped files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "trials"), [("gpu", 2), ("kuberay", 2)])
def test_the_shipped_files_can_be_planned_with(name: str, trials: int) -> None:
    cluster = load_cluster(shipped_clusters()[name])
    found = machine_kinds(cluster, load_prices(), source=f"{name}.yaml")
    assert slots_of(found, cluster) == trials
    assert sum(kind.count * kind.gpus for kind in found) == cluster.gpus
    assert all(kind.price_per_hour is not None and kind.watts is not None for kind in found)


def test_the_shipped_local_files_example(tmp_path: Path) -> None:
    file = tmp_path / "local.yaml"
    file.write_text(shipped_clusters()["local"].read_text().replace("# nodes:", "nodes:"))
    (kind,) = machine_kinds(load_cluster(file), load_prices())
    assert (kind.cpus, kind.price_per_hour, kind.currency, kind.watts) == (16, 0.05, "EUR", 120)
