"""The machines of a cluster as a plan sees them: what each has, what it costs, what it draws.

machine_kinds   the machines of a cluster file, with what a price list knows of their types
workers_on      how many workers of a trial one of them holds
slots_on        how many trials one of them runs at a time
slots_of        how many trials all of them run at a time
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cluster.check import Node, check_nodes, check_resources, this_machine
from cluster.check import workers_on as _workers_on
from cluster.model import Cluster, Machines
from cluster.prices import NodeType, Prices
from study.errors import ClusterError, nearest

__all__ = ["THIS_MACHINE", "MachineKind", "machine_kinds", "slots_of", "slots_on", "workers_on"]

_THE_FILE = "the cluster file"
THIS_MACHINE = "this machine"
# The clouds' GB of memory are of 2^30 bytes. Of a GPU's memory the driver keeps a part: what torch finds on a GPU of
# "24 GB" is about 24 × 10^9 bytes, and less than 24 × 2^30.
_MEMORY_GB = 2**30
_GPU_MEMORY_GB = 10**9


@dataclass(frozen=True)
class MachineKind:
    """Machines that are alike.

    Args:
        name: their type, as the cluster file or a price list names it.
        count: how many there are.
        cpus: virtual CPUs of each.
        gpus: GPUs of each.
        memory_bytes: memory of each; None: not known.
        gpu: the name of its GPUs, as ``torch.cuda.get_device_name`` tells it; None: no GPU, or not known.
        gpu_memory_bytes: memory of each GPU; None: no GPU, or not known.
        peak_tflops: declared FP32 peak in TFLOP/s, of one GPU or, without one, of the whole machine; None: not known.
        price_per_hour: what an hour of each costs, in `currency`; None: not known.
        currency: such as USD; None where the price is not known.
        price_note: where and when the price held and who said so, or that none is known.
        watts: power of each, as a whole, when it is busy; None: not known.
        spot: whether a machine can be ended at any time, and is paid so.
    """

    name: str
    count: int
    cpus: float
    gpus: int
    memory_bytes: int | None
    gpu: str | None
    gpu_memory_bytes: int | None
    peak_tflops: float | None
    price_per_hour: float | None
    currency: str | None
    price_note: str
    watts: float | None
    spot: bool


def machine_kinds(
    cluster: Cluster, prices: Prices, *, source: str = _THE_FILE, machine: Node | None = None
) -> tuple[MachineKind, ...]:
    """What a cluster consists of, by its `nodes`.

    With ``address: local`` it is this machine, as far as `cpus` and `gpus` let the study use it; `nodes` may say what
    an hour of it costs.

    Args:
        cluster: what `load_cluster` returned.
        prices: what `load_prices` returned, or `merged` of it.
        source: the cluster file, for messages.
        machine: what this machine has; found out when left out.

    Returns:
        A kind for each item of `nodes`, in their order.

    Raises:
        ClusterError: the file does not say which machines there are, no list knows a type, or the machines have less
            than the file asks for.
    """
    local = cluster.address == "local"
    if not cluster.nodes:
        if local:
            return (_here(cluster, machine, source),)
        raise ClusterError(
            "the cluster file names no node types, so nobody can say what the cluster has and costs",
            where=f"{source}: nodes",
            allowed=f"a list of machines, of types such as {', '.join(list(prices.node_types)[:3])}",
            fix=f"write nodes: [{{type: {next(iter(prices.node_types))}, count: 2}}], or give cpus, gpus and so on of "
            "machines that no price list knows",
        )
    kinds = tuple(_kind(item, index, prices, source) for index, item in enumerate(cluster.nodes))
    if local:
        kinds = tuple(_limited(kind, cluster) for kind in kinds)
    _check_totals(cluster, kinds, source)
    return kinds


def workers_on(kind: MachineKind, cluster: Cluster) -> int:
    """How many workers one machine of a kind holds.

    A trial has `cluster.workers_per_trial` of them, and they may be on several machines: add them up over all machines
    before dividing.
    """
    return _workers_on(cluster, Node(kind.cpus, kind.gpus))


def slots_on(kind: MachineKind, cluster: Cluster) -> int:
    """How many trials one machine of a kind runs at a time, on its own; 0 where a trial needs several machines."""
    return workers_on(kind, cluster) // cluster.workers_per_trial


def slots_of(kinds: Iterable[MachineKind], cluster: Cluster, *, source: str = _THE_FILE) -> int:
    """How many trials all machines together run at a time; `cluster.slots` where the file says it.

    Raises:
        ClusterError: not one trial fits, or fewer than `cluster.slots`.
    """
    nodes = [Node(kind.cpus, kind.gpus, host=kind.name) for kind in kinds for _ in range(kind.count)]
    # The machines are those of `nodes`: what the cluster could grow to besides is not planned with.
    return check_nodes(cluster.model_copy(update={"autoscaling": None}), nodes, source=source)


def _kind(item: Machines, index: int, prices: Prices, source: str) -> MachineKind:
    known = prices.node_types.get(item.type)
    if known is None and item.cpus is None:
        raise ClusterError(
            f"no price list knows the type {item.type!r}, and the file does not say what it has"
            + nearest(item.type, prices.node_types),
            where=f"{source}: nodes[{index}].type: {item.type}",
            allowed=", ".join(prices.node_types),
            fix="correct the type, add it to a price list of your own (--prices FILE), or write cpus, and gpus where "
            "it has some, beside it",
        )
    cpus, gpus = item.cpus, item.gpus
    if known is not None:
        cpus = known.cpus if cpus is None else cpus
        gpus = known.gpus if gpus is None else gpus
    assert cpus is not None
    gpus = gpus or 0
    if not gpus and item.gpu is not None:
        raise ClusterError(
            f"it is said which GPU a machine of type {item.type!r} has, and not how many",
            where=f"{source}: nodes[{index}].gpu: {item.gpu}",
            allowed="gpu with gpus above 0",
            fix="write gpus: 1 beside it",
        )
    # What a list says of a GPU holds for that GPU alone, and its watts for the whole machine as listed.
    same_gpu = known is not None and gpus > 0 and item.gpu in (None, known.gpu)
    alike = known is not None and cpus == known.cpus and gpus == known.gpus and (not gpus or same_gpu)
    gpu = item.gpu or (known.gpu if known is not None and same_gpu else None)
    gpu_memory_gb, peak_tflops, watts, memory_gb = item.gpu_memory_gb, item.peak_tflops, item.watts, item.memory_gb
    if known is not None:
        gpu_memory_gb = gpu_memory_gb or (known.gpu_memory_gb if same_gpu else None)
        peak_tflops = peak_tflops or (known.peak_tflops if same_gpu or alike else None)
        watts = watts or (known.watts if alike else None)
        memory_gb = memory_gb or known.memory_gb
    price, currency, note = _price(item, known, prices, source)
    return MachineKind(
        name=item.type,
        count=item.count,
        cpus=cpus,
        gpus=gpus,
        memory_bytes=_bytes(memory_gb, _MEMORY_GB),
        gpu=gpu if gpus else None,
        gpu_memory_bytes=_bytes(gpu_memory_gb, _GPU_MEMORY_GB) if gpus else None,
        peak_tflops=peak_tflops,
        price_per_hour=price,
        currency=currency,
        price_note=note,
        watts=watts,
        spot=item.spot,
    )


def _price(item: Machines, known: NodeType | None, prices: Prices, source: str) -> tuple[float | None, str | None, str]:
    """Price of an hour, its currency, and where both are from."""
    if item.price_per_hour is not None:
        return item.price_per_hour, item.currency or prices.currency, f"{item.type} as {source} says"
    if known is None:
        return None, None, f"no price is known for {item.type}"
    price, currency = known.price(spot=item.spot), prices.currency_of(item.type)
    if price is not None:
        how = "spot" if item.spot else "on demand"
        return price, currency, f"{item.type} {how}, {known.origin(spot=item.spot)}"
    if item.spot and known.on_demand_per_hour is not None:
        otherwise = f"; on demand it is {known.on_demand_per_hour:g} {currency}"
        return None, None, f"no spot price is known for {item.type}{otherwise}"
    return None, None, f"no price is known for {item.type}"


def _limited(kind: MachineKind, cluster: Cluster) -> MachineKind:
    """A machine as far as Ray will use it, which is told by `cpus` and `gpus`."""
    cpus, gpus = min(kind.cpus, cluster.cpus or kind.cpus), min(kind.gpus, cluster.gpus)
    if kind.gpus and not gpus:
        # The peak of a GPU is not that of the processor.
        kind = replace(kind, gpu=None, gpu_memory_bytes=None, peak_tflops=None)
    return replace(kind, cpus=cpus, gpus=gpus)


def _here(cluster: Cluster, machine: Node | None, source: str) -> MachineKind:
    """This machine, where the file says nothing of it."""
    has = machine or this_machine()
    check_resources(cluster, has, source=source)
    gpu, gpu_memory_bytes = _gpu_here() if cluster.gpus and machine is None else (None, None)
    return MachineKind(
        name=THIS_MACHINE,
        count=1,
        cpus=has.cpus if cluster.cpus is None else cluster.cpus,
        gpus=cluster.gpus,
        memory_bytes=_memory_here() if machine is None else machine.memory_bytes,
        gpu=gpu,
        gpu_memory_bytes=gpu_memory_bytes,
        peak_tflops=None,
        price_per_hour=None,
        currency=None,
        price_note=f"no price is known for {THIS_MACHINE}",
        watts=None,
        spot=False,
    )


def _check_totals(cluster: Cluster, kinds: Sequence[MachineKind], source: str) -> None:
    """What only a price list knew: whether the machines have what the file says the cluster has."""
    listed = ", ".join(f"{kind.count} × {kind.name} ({Node(kind.cpus, kind.gpus)})" for kind in kinds)
    for key, noun, wanted in (("cpus", "CPUs", cluster.cpus or 0), ("gpus", "GPUs", cluster.gpus)):
        there = sum(kind.count * getattr(kind, key) for kind in kinds)
        if wanted > there:
            raise ClusterError(
                f"the cluster file asks for {wanted} {noun}, and the machines in nodes have {there:g}",
                where=f"{source}: {key}: {wanted}",
                allowed=f"what the machines have: {listed}",
                fix=f"write {key}: {there:g}, or more machines in nodes"
                if there
                else "name machines in nodes that have some",
            )


def _bytes(gigabytes: float | None, unit: int) -> int | None:
    return None if gigabytes is None else int(gigabytes * unit)


def _memory_here() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gpu_here() -> tuple[str | None, int | None]:
    """Name and memory in bytes of the first GPU, by the driver's own tool: importing torch would take seconds."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        name, _, mebibytes = listed.stdout.splitlines()[0].rpartition(",")
        return name.strip(), int(mebibytes) * 2**20
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None, None
