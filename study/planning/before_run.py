"""The plan that a run leaves in its results folder, so that its report can compare it with what the study took."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.machines import machine_kinds
from cluster.model import Cluster
from cluster.prices import Prices
from study.data.path_table import PathTable
from study.data.site import Site
from study.errors import StudyError
from study.planning.estimate import Planner
from study.planning.knowledge import gather
from study.planning.record import read_plan
from study.provenance import spec_hash
from study.spec.model import StudySpec
from study.store import Store

__all__ = ["planning"]

# A plan takes some seconds; a run that was stopped early does not wait for a large one.
_PATIENCE_S = 20.0


@contextmanager
def planning(
    spec: StudySpec,
    site: Site,
    table: PathTable,
    cluster: Cluster,
    prices: Prices,
    store: Store,
    results: Path,
    *,
    source: str = "the cluster file",
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[None]:
    """Make the plan of the whole study while Ray starts, and write it; an earlier plan of the same spec is kept.

    The plan rests on everything that was known before, and not on the study itself.

    Args:
        spec: the study.
        site, table: its site, and the paths of the scenes that it uses.
        cluster: where it runs.
        prices: what machines cost.
        store: where the plan is written; locked by this process.
        results: folder of all results.
        source: the cluster file, for messages.
        say: told when there is no plan, and why.
    """
    before = read_plan(store.folder)
    wanted = spec_hash(spec.model_dump(mode="json", by_alias=True))
    if before is not None and not isinstance(before, str) and before.spec_hash == wanted:
        yield
        return
    problem: list[str] = []

    def make() -> None:
        try:
            known = gather(results).without(store.folder.name)
            machines = machine_kinds(cluster, prices, source=source)
            planner = Planner(spec, site, table, cluster, machines, known.observations, source=source)
            store.write_plan(planner.plan().model_dump(mode="json"))
        except StudyError as error:
            problem.append(error.what)
        except Exception as error:  # a study does not end, and says nothing odd, for a plan that nobody waits for
            problem.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=make, name="plan", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(_PATIENCE_S)
        if problem:
            say(f"no plan was made: {problem[0]}")
