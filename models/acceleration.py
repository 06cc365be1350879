"""The fast ways to compute a method on a device: which of them it has, and what is used where it lacks one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from models.fused_block import fuse_blocks
from models.methods import Method
from models.precision import set_precision, why_unavailable
from models.settings import Precision
from models.workers import agreed_reason

__all__ = ["Acceleration", "accelerate"]


@dataclass(frozen=True)
class Acceleration:
    """How a method is computed.

    Attributes:
        precision: arithmetic of the feature extractors; another one than was asked for where the device lacks that.
        blocks: whether the blocks of the feature extractors are fused (see `models.fused_block`).
        notes: what is slower or other than it could be, and why, a sentence each.
    """

    precision: Precision
    blocks: Literal["fused", "layers"]
    notes: tuple[str, ...] = ()


def accelerate(method: Method, precision: Precision, device: torch.device) -> Acceleration:
    """Let a method that is on a device compute there as fast as it can.

    Weights, and the keys of ``state_dict``, stay as they are. Workers that share batches call it together: what one
    of them lacks, none uses.

    Args:
        method: initialized, on the device.
        precision: what is asked for.
        device: where it is.
    """
    notes = []
    if (reason := agreed_reason(why_unavailable(precision, device))) is not None:
        notes.append(f"precision {precision} is not available, and float32 was used: {reason}")
        precision = "float32"
    set_precision(method, precision)
    if device.type != "cpu":
        return Acceleration(precision, "layers", tuple(notes))
    reason = fuse_blocks(method, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    if reason is not None:
        notes.append(f"training was slower than it could be, as blocks were computed layer by layer: {reason}")
    return Acceleration(precision, "fused" if reason is None else "layers", tuple(notes))
