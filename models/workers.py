"""The workers that compute a batch together, and what they tell each other."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "agreed_reason",
    "from_first_worker",
    "gathered",
    "is_first_worker",
    "merged_statistics",
    "summed",
    "worker_count",
]

_T = TypeVar("_T")


def worker_count() -> int:
    """W: the processes of torch.distributed's default group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first_worker() -> bool:
    """Whether this process has rank 0, or is alone."""
    return worker_count() == 1 or dist.get_rank() == 0


def from_first_worker(value: _T) -> _T:
    """The first worker's value on every worker: what all have to agree on. It travels by pickle."""
    if worker_count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def agreed_reason(reason: str | None) -> str | None:
    """Why one of the workers cannot do a thing, None if all can: what they exchange depends on how each computes.

    Args:
        reason: why this worker cannot.
    """
    if worker_count() == 1:
        return reason
    reasons: list[str | None] = [None] * worker_count()
    dist.all_gather_object(reasons, reason)
    return next((found for found in reasons if found is not None), None)


def gathered(x: Tensor) -> Tensor:
    """Tensors of one size from all workers, in their order. [...] → [W, ...]."""
    out = x.new_empty((worker_count(), *x.shape))
    dist.all_gather(list(out.unbind()), x.contiguous())
    return out


def summed(x: Tensor) -> Tensor:
    """The sum over all workers, the same to the last bit on each; with one worker ``x`` itself."""
    if worker_count() > 1:
        x = x.contiguous().clone()
        dist.all_reduce(x)
    return x


def merged_statistics(count: int, mean: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of values [1], means [C] and sums of squared deviations from them [C] of all workers' rows.

    Args:
        count: values per channel of this worker, perhaps none.
        mean, squares: the same two of its own rows. Sums of plain squares would lose digits.
    """
    found = gathered(torch.cat([mean.new_full((1,), count), mean, squares]))
    counts, means, parts = found.split([1, len(mean), len(mean)], dim=1)
    total = counts.sum(dim=0)
    mean = (counts * means).sum(dim=0) / total
    return total, mean, (parts + counts * (means - mean).square()).sum(dim=0)
