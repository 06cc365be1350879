"""Arithmetic of the feature extractors: full precision, or what a processor has for it.

Nearly all operations of a step are in the convolutions of `FeatureExtractor`. With ``bfloat16`` they run in it (weights
stay float32, and so do the heads and all losses: a coordinate of bfloat16 would be off by decimetres). ``tf32`` lets a
GPU round the factors of float32 products to ten bits.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from models.backbone import FeatureExtractor
from models.settings import Precision

__all__ = ["processor_flags", "set_precision", "why_unavailable"]

# Of /proc/cpuinfo: x86 (vector and matrix units) and Arm.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "avx10_2", "bf16", "svebf16"}


def why_unavailable(precision: Precision, device: torch.device) -> str | None:
    """Why a device does not compute in a precision, None if it does.

    A processor without instructions for bfloat16 could imitate them, many times slower than float32.
    """
    if precision == "float32":
        return None
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return None
        return f"{torch.cuda.get_device_name(device)} has no {precision}"
    if precision == "tf32":
        return "tf32 is of GPUs"
    return None if processor_flags() & _BFLOAT16_FLAGS else "the processor has no instructions for bfloat16"


def set_precision(network: nn.Module, precision: Precision) -> None:
    """Let the feature extractors of a network compute in a precision, whether it is fast here or not.

    On GPUs ``float32`` and ``tf32`` hold for the whole process, until the next call.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    for module in network.modules():
        if isinstance(module, FeatureExtractor):
            module.autocast_dtype = dtype
    products = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cudnn.conv.fp32_precision = products  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = products


def processor_flags() -> set[str]:
    """What the processor says that it can do, in Linux's words; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}
