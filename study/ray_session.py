"""Starting or joining Ray, for trials and for tracing, and asking which machines are there.

connect         start or join Ray, with the code and packages that the cluster file asks for
nodes           the machines that are alive
wait_for_nodes  how many trials fit; waits for machines of a cluster that starts or grows
check_shared    whether all machines see one folder
check_site      whether all machines have the site
dashboard_url   where Ray's dashboard is
"""

from __future__ import annotations

import study.ray_environment  # noqa: F401 - before Ray

# isort: split

import logging
import os
import re
import signal
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray._private.node import Node as RayNode
from ray.exceptions import GetTimeoutError, RayError, RayTaskError, RuntimeEnvSetupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.check import Node, check_nodes, runtime_env, this_machine
from cluster.model import Cluster
from study.data.site import Site, open_site
from study.errors import ClusterError, DataError

__all__ = ["check_shared", "check_site", "connect", "dashboard_url", "nodes", "wait_for_nodes"]

_THE_FILE = "the cluster file"
_LOOPBACK = "127.0.0.1"
_POLL_S = 1.0
_ATTEMPTS = 3
# Ray's words, for which it has no types. At a cluster's client port: the process that serves this client did not begin,
# or died before or while it was asked for. Here: a machine was too busy to start a node.
_NOT_STARTED = (
    "Starting Ray client server failed",
    "Proxy failed to Connect to backend",
    "ZombieProcess",
    "NoSuchProcess",
    "timed out during startup",
)
# Installing packages may take that long; a machine without any is tried in about a second.
_TRY_TIMEOUT_S = 900.0


def connect(cluster: Cluster, *, object_store_mb: int | None = None, source: str = _THE_FILE) -> bool:
    """Start or join Ray.

    On a cluster elsewhere, and wherever the cluster file has a `runtime_env`, every machine that is there is tried
    first: a process starts on it, with what Ray brings, and imports this project.

    Args:
        cluster: where to run.
        object_store_mb: shared memory that is enough for this run; used where Ray is started here and the cluster file
            names no size.
        source: the cluster file, for messages.

    Returns:
        Whether this call did it, so that the caller has to call `ray.shutdown`.

    Raises:
        ClusterError: the cluster cannot be reached, what `runtime_env` asks for cannot be made, or a machine cannot
            run this project. Ray is shut down then.
    """
    if ray.is_initialized():
        return False
    environment = runtime_env(cluster, source=source)
    logging.getLogger("ray").setLevel(logging.ERROR)
    # Its only error is a list of its own names of lost trials; the observer is told of them by ours.
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if environment is not None:
        options["runtime_env"] = environment
    if cluster.address == "local":
        options |= {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus, "include_dashboard": cluster.dashboard}
        if cluster.cpus is None:
            options["num_cpus"] = this_machine().cpus
        if cluster.dashboard:
            options["dashboard_host"] = _LOOPBACK
            if cluster.dashboard_port is not None:
                _check_port(cluster.dashboard_port, source)
                options["dashboard_port"] = cluster.dashboard_port
        store_mb = cluster.object_store_mb or object_store_mb
        if store_mb is not None:
            options["object_store_memory"] = store_mb * 2**20
    # Ray would take a polite kill for itself, and end this process with a page of addresses.
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _start_or_join(cluster.address, options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    except RuntimeEnvSetupError as error:
        ray.shutdown()
        raise _unshippable(error, source) from None
    except Exception as error:
        # What was started before it failed would stay.
        ray.shutdown()
        # Ray has no type of its own for a node that does not start in time: on a machine that is far too busy.
        expected = isinstance(error, ConnectionError | RuntimeError | OSError | ValueError) or type(error) is Exception
        if not expected or (isinstance(error, ValueError) and environment is None):
            raise  # nothing that a cluster file says
        if environment is not None and re.search("runtime[ _]env", str(error), re.IGNORECASE):
            raise _unshippable(error, source) from None
        raise ClusterError(
            f"Ray cannot be reached: {_reason(error)}",
            where=f"address: {cluster.address}",
            allowed="a running Ray cluster of the same Ray version, or address: local",
            fix="start the cluster with `ray up`, or use cluster/local.yaml",
        ) from None
    try:
        if cluster.address != "local" or environment is not None:
            _on_every_node(_try_node, source=source)
    except BaseException:
        ray.shutdown()
        raise
    return True


def _start_or_join(address: str, options: dict[str, Any]) -> None:
    """`ray.init`, and again where a server did not start.

    A cluster's client port forks beside threads of its own, and at times the process that serves a client dies of it. A
    node has 30 s to start, which a machine with much else to do may take.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init(address=address, **options)
        except Exception as error:
            _end_half_started(error)
            # An address where nobody listens is none of these: Ray tries it again by itself.
            if attempt == _ATTEMPTS or not any(words in str(error) for words in _NOT_STARTED):
                raise
            ray.shutdown()
        else:
            return


def _end_half_started(error: BaseException) -> None:
    """End the servers of a node that did not come up: Ray knows no node yet that `ray.shutdown` could end.

    Only the frames of the error know it.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        if isinstance(node, RayNode) and ray_worker._global_node is None:
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            return


def dashboard_url() -> str | None:
    """The address of Ray's dashboard, such as ``http://127.0.0.1:8265``; None where there is none."""
    from ray._private.worker import get_dashboard_url

    try:
        found = get_dashboard_url()
    except (RayError, RuntimeError, ConnectionError):
        return None
    if not found:
        return None
    return str(found) if "://" in found else f"http://{found}"


def nodes() -> list[Node]:
    """The machines of the cluster that are alive, in the order of their names."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            found.append(
                Node(
                    cpus=has.get("CPU", 0.0),
                    gpus=has.get("GPU", 0.0),
                    memory_bytes=int(has.get("memory", 0)),
                    host=node["NodeManagerHostname"] or node["NodeManagerAddress"],
                    node_id=node["NodeID"],
                )
            )
    return sorted(found, key=lambda node: (node.host, node.node_id))


def wait_for_nodes(
    cluster: Cluster,
    *,
    source: str = _THE_FILE,
    should_stop: Callable[[], bool] = lambda: False,
    on_wait: Callable[[str], None] = lambda reason: None,
) -> int:
    """How many trials run at the same time, once the cluster has the machines for one.

    A cluster that is starting, or that grows on demand, is waited for as long as `cluster.wait_for_nodes_s` says. What
    it could not have even when it has grown is refused at once.

    Args:
        cluster: where to run; Ray is connected.
        source: the cluster file, for messages.
        should_stop: asked about once a second while waiting; True ends it.
        on_wait: told once, before the first wait, what is missing.

    Returns:
        Trials at the same time, counted on the grown cluster; 0: `should_stop` said so.

    Raises:
        ClusterError: more is asked for than there is, or than came in time.
    """
    deadline = time.monotonic() + cluster.wait_for_nodes_s
    needed = cluster
    if cluster.autoscaling is not None:
        check_nodes(cluster, nodes(), source=source)
        # The first trial can start before the cluster has grown to all that the file asks for.
        needed = cluster.model_copy(update={"autoscaling": None, "slots": None, "gpus": 0, "cpus": None})
    missing = _missing(needed, source)
    if missing is None:
        return check_nodes(cluster, nodes(), source=source)
    if not cluster.wait_for_nodes_s:
        raise missing
    on_wait(missing.what)
    if cluster.autoscaling is not None:
        _ask_for([_bundle(cluster)] * cluster.workers_per_trial)
    try:
        while missing is not None:
            if should_stop():
                return 0
            if time.monotonic() > deadline:
                raise _too_late(missing, cluster.wait_for_nodes_s)
            time.sleep(_POLL_S)
            missing = _missing(needed, source)
    finally:
        if cluster.autoscaling is not None:
            _ask_for([])  # from now on the trials themselves ask
    return check_nodes(cluster, nodes(), source=source)


def check_shared(folder: Path, *, source: str = "the results folder") -> None:
    """Whether every machine of the cluster sees this folder as the one that it is here, and may write to it.

    Args:
        folder: an absolute folder; made if it does not exist.
        source: what names the folder, for messages.

    Raises:
        ClusterError: it cannot be written, or a machine does not see what was written here.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".shared-") as mark:
            _on_every_node(_see, str(mark.name), source=f"{source}: {folder}")
    except OSError as error:
        raise ClusterError(
            f"the folder cannot be written: {error.strerror or error}",
            where=f"{source}: {folder}",
            allowed="a folder that all machines share",
            fix="check that it is mounted here and that you may write to it",
        ) from None


def _check_port(port: int, source: str) -> None:
    """Whether the dashboard can have the port: Ray finds out when half of it has started."""
    try:
        socket.create_server((_LOOPBACK, port)).close()
    except OSError as error:
        raise ClusterError(
            f"the dashboard cannot have port {port}: {error.strerror or error}",
            where=f"{source}: dashboard_port: {port}",
            allowed="a free port",
            fix="leave dashboard_port out for a free one, or end what uses it",
        ) from None


# --- Machines -----------------------------------------------------------------------------------------------------


def _missing(cluster: Cluster, source: str) -> ClusterError | None:
    try:
        check_nodes(cluster, nodes(), source=source)
    except ClusterError as error:
        return error
    return None


def _too_late(error: ClusterError, waited_s: float) -> ClusterError:
    return ClusterError(
        f"{error.what} (after {waited_s:g} s of waiting for machines)",
        where=error.where,
        allowed=error.allowed,
        fix="look at `ray status` for why no machine came, raise wait_for_nodes_s, or ask for less",
    )


def _bundle(cluster: Cluster) -> dict[str, float]:
    worker = cluster.per_worker
    return {"CPU": worker.cpu, **({"GPU": worker.gpu} if worker.gpu else {})}


def _ask_for(bundles: list[dict[str, float]]) -> None:
    """Tell Ray's autoscaler what has to fit, although nothing runs yet."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles)


def check_site(site: Site, *, source: str = "the site") -> None:
    """Whether every machine of the cluster has a site with the same data.

    Args:
        site: as it is here; shipped sites are looked for by name, others in the same folder.
        source: what names the site, for messages.

    Raises:
        ClusterError: a machine does not have it, or has another one of that name.
    """
    _on_every_node(_see_site, site.reference, site.data_hash, source=f"{source}: {site.reference}")


def _see_site(reference: str, data_hash: str) -> str | None:
    try:
        found = open_site(reference)
    except DataError as error:
        return f"{error.what}\nput the site into a folder that all machines share, or into the same folder on each"
    if found.data_hash != data_hash:
        return f"the site {reference} has other data there\ncopy it anew, or install the same version of the project"
    return None


def _on_every_node(action: Callable[..., str | None], *arguments: object, source: str) -> None:
    """Run something on all machines at once.

    Args:
        action: returns None, or what is wrong and what to do about it, separated by a line break.

    Raises:
        ClusterError: what is wrong on the first machine where something is.
    """
    task = ray.remote(num_cpus=0, max_retries=1)(action)
    machines = nodes()
    references = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(machine.node_id, soft=False)).remote(*arguments)
        for machine in machines
    ]
    for machine, reference in zip(machines, references, strict=True):
        try:
            problem = ray.get(reference, timeout=_TRY_TIMEOUT_S)
        except RuntimeEnvSetupError as error:
            raise _unshippable(error, source, machine.host) from None
        except RayTaskError as error:
            problem = (
                f"a process there cannot load this project: {_reason(error.cause)}\n"
                "install the same version of it there, or ship it with runtime_env.py_modules"
            )
        except (RayError, GetTimeoutError) as error:
            problem = f"no process can be started there: {_reason(error)}\nlook at `ray status` and the Ray logs"
        if problem:
            what, _, fix = problem.partition("\n")
            raise ClusterError(
                f"machine {machine.host}: {what}", where=source, allowed="machines that are set up alike", fix=fix
            )


def _try_node() -> str | None:
    """Importing it is the test: this function is sent by its name."""
    return None


def _see(mark: str) -> str | None:
    path = Path(mark)
    # A network file system may show a new file some seconds late.
    for _ in range(20):
        if path.parent.is_dir() and path in path.parent.iterdir():
            break
        time.sleep(0.5)
    else:
        return (
            f"the folder {path.parent} is another one there, or none\nname a folder that all machines share, or a URI"
        )
    if os.access(path.parent, os.W_OK):
        return None
    return f"the folder {path.parent} cannot be written there\ncheck its permissions"


def _unshippable(error: Exception, source: str, host: str | None = None) -> ClusterError:
    there = "" if host is None else f" on machine {host}"
    return ClusterError(
        f"what runtime_env asks for cannot be made{there}: {_reason(error)}",
        where=f"{source}: runtime_env",
        allowed="folders within Ray's limit on their size, and packages that each machine can install",
        fix="keep results, sites and data out with excludes, and check the names of packages. In a RayJob each key and "
        "variable stands either here or in its runtimeEnvYAML",
    )


def _reason(error: BaseException) -> str:
    """What an error says, in a line: the first, or below a traceback or what pip printed the last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    last = isinstance(error, RuntimeEnvSetupError) or any(line.startswith("Traceback") for line in lines)
    text = re.sub(r"^\w*(Error|ERROR): ", "", lines[-1 if last else 0])
    return text.partition(" For more information")[0][:400]
