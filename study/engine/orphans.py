"""Frees what a killed trial leaves behind in Ray.

A Ray Train run has a placement group of its own, made by its controller. When the trial's process is killed, controller
and workers go with it, but Ray keeps the placement group for as long as the study runs, and with it the CPUs and GPUs:
the trial that is handed out again would wait for them for ever. Ray Train's own remedy asks Ray's state API, which is
not there without a dashboard.
"""

from __future__ import annotations

import study.engine.environment  # noqa: F401 - before Ray

# isort: split

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

__all__ = ["remove_orphaned_placement_groups"]


def remove_orphaned_placement_groups() -> list[str]:
    """Remove every placement group whose maker, an actor, is dead.

    Exact, since Ray's own table says so, and cheap (under a millisecond); it may be called at any time. The table's
    full form is no public part of Ray: the package pins Ray's minor version, and a test holds this.

    Returns:
        The ids of the removed groups.
    """
    from ray._private.state import state
    from ray.core.generated import gcs_pb2

    removed = []
    for raw in state._connect_and_get_accessor().get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(raw)
        made_by_actor = any(byte != 0xFF for byte in group.creator_actor_id)  # all 0xFF: made by a driver
        if (
            made_by_actor
            and group.creator_actor_dead
            and not group.is_detached
            and group.state != gcs_pb2.PlacementGroupTableData.REMOVED
        ):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            removed.append(group.placement_group_id.hex())
    return removed
