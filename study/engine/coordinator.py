"""Keeps the actor alive that Ray Train's controllers ask for machines.

All trials of a cluster share one, `AutoscalingCoordinator`. Ray starts it on the machine of whichever controller asks
first, and nowhere else: once that machine is lost it is never started again, keeps its name, and every trial that may
go on with fewer workers waits for it for ever.
"""

from __future__ import annotations

import study.engine.environment  # noqa: F401 - before Ray

# isort: split

import ray
from ray.exceptions import ActorUnschedulableError, GetTimeoutError, RayActorError

__all__ = ["keep_coordinator_here"]

_ANSWER_S = 30.0


def keep_coordinator_here() -> None:
    """Start the coordinator on this machine, without which the study cannot go on anyway.

    One that runs elsewhere stays; one whose machine is lost is replaced. How it is made is no public part of Ray: the
    package pins Ray's minor version, and a test holds this.
    """
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    for _ in range(2):
        coordinator = get_or_create_autoscaling_coordinator()
        try:
            ray.get(coordinator.__ray_ready__.remote(), timeout=_ANSWER_S)
        except (ActorUnschedulableError, RayActorError):
            ray.kill(coordinator)
        except GetTimeoutError:  # a busy machine: it is started by and by
            return
        else:
            return
