"""Starting or joining Ray, for trials and for tracing."""

from __future__ import annotations

import os

# Read by Ray when it is imported or started.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ray would start a task again without end that was stopped because its machine ran out of memory.
os.environ.setdefault("RAY_task_oom_retries", "5")
# Pages about each lost process; whoever gives up its task says so.
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX", r"A worker died or was killed|^Task \S+ failed|worker\(s\) were killed"
)

import logging
from typing import Any

import ray

from cluster.check import this_machine
from cluster.model import Cluster
from study.errors import ClusterError

__all__ = ["connect"]


def connect(cluster: Cluster, *, object_store_mb: int | None = None) -> bool:
    """Start or join Ray.

    Args:
        cluster: where to run.
        object_store_mb: shared memory that is enough for this run; used where Ray is started here and the cluster file
            names no size.

    Returns:
        Whether this call did it, so that the caller has to call `ray.shutdown`.

    Raises:
        ClusterError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        return False
    logging.getLogger("ray").setLevel(logging.ERROR)
    # Its only error is a list of its own names of lost trials; the observer is told of them by ours.
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if cluster.address == "local":
        options |= {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus, "include_dashboard": False}
        if cluster.cpus is None:
            options["num_cpus"] = this_machine().cpus
        store_mb = cluster.object_store_mb or object_store_mb
        if store_mb is not None:
            options["object_store_memory"] = store_mb * 2**20
    try:
        ray.init(address=cluster.address, **options)
    except (ConnectionError, RuntimeError, OSError) as error:
        raise ClusterError(
            f"Ray cannot be reached: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            where=f"address: {cluster.address}",
            allowed="a running Ray cluster of the same Ray version, or address: local",
            fix="start the cluster with `ray up`, or use cluster/local.yaml",
        ) from None
    return True
