"""The blocks of Θ1 on a CPU: normalization, pooling and ReLU in one pass over the memory.

Convolutions run near the processor's peak. What follows them is bound by memory: batch normalization, pooling and ReLU
each read and write arrays of up to hundreds of megabytes. `fused_block.c` reads a convolution's output twice forward
(statistics; normalize, pool and rectify) and once backward. It is compiled when it is first needed, for the machine it
runs on, which takes half a second.

What it computes is what the layers compute, up to the order of additions. Where it cannot be used the layers are, and
`fuse_blocks` says why.

Shapes: B batch, C channels, H × W rows and columns of a convolution's output.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from models.backbone import FeatureExtractor

__all__ = ["FusedExtractor", "fuse_blocks"]

_SOURCE = Path(__file__).with_suffix(".c")
# Not -ffast-math: a value that is not a number has to stay one.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_COMPILERS = ("cc", "gcc", "clang")
_COMPILE_LIMIT_S = 60
_TYPES = {torch.float32: (), torch.bfloat16: ("-DHALF",)}


class Unavailable(Exception):  # noqa: N818 - no failure: the layers do the same
    """Why the blocks cannot be fused here."""


def fuse_blocks(network: nn.Module, dtype: torch.dtype = torch.float32) -> str | None:
    """Let every `FeatureExtractor` of a network on a CPU run its blocks fused, where that is possible.

    Weights, buffers and the keys of ``state_dict`` stay as they are. A subclass of `FeatureExtractor` is left alone,
    and so is one with other layers or with hooks.

    Args:
        network: what is trained, on one thread: the fused blocks use no second one.
        dtype: of what the convolutions return, float32 or bfloat16.

    Returns:
        Why they are not fused, None if they are.
    """
    if torch.get_num_threads() > 1:
        return "the process has several threads"
    try:
        _library(dtype)
    except Unavailable as reason:
        return str(reason)
    for module in network.modules():
        if type(module) is FeatureExtractor and _is_plain(module):
            # A new class and no new module: the parameters, also those that an optimizer holds, are the same objects.
            module.__class__ = FusedExtractor
    return None


def _is_plain(extractor: FeatureExtractor) -> bool:
    """Whether its layers are those that the blocks compute, and nobody listens to them."""
    *layers, last = extractor
    plain = len(layers) % 4 == 0 and type(last) is nn.Flatten
    for number, layer in enumerate(layers):
        plain = plain and type(layer) is (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.ReLU)[number % 4]
        plain = plain and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)
        if isinstance(layer, nn.BatchNorm2d):
            plain = plain and layer.affine and layer.track_running_stats and layer.momentum is not None
        if isinstance(layer, nn.MaxPool2d):
            sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
            plain = plain and sizes == (2, 2, 0, 1, False)
    return plain


class FusedExtractor(FeatureExtractor):
    """Θ1 whose blocks are fused. [B, C, M, N] → ω [B, F]."""

    def _run(self, fingerprint: Tensor) -> Tensor:
        norms = [layer for layer in self if isinstance(layer, nn.BatchNorm2d)]
        # What the blocks have no gradient for, or no numbers.
        fixed = not all(norm.training for norm in norms)
        if (torch.is_grad_enabled() and fixed) or fingerprint.dtype != torch.float32:
            return super()._run(fingerprint)
        x = fingerprint
        for convolution, norm in zip(list(self)[0::4], norms, strict=False):
            x = _block(convolution(x), norm)
        return x.flatten(1)


def _block(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """BatchNorm2d → MaxPool2d(2) → ReLU. x [B, C, H, W] → [B, C, H // 2, W // 2], both channels_last."""
    x = x.contiguous(memory_format=torch.channels_last)
    if norm.training:
        if x.numel() <= x.shape[1]:
            norm(x)  # says that one value has no variance
        y: Tensor = _Block.apply(x, norm.weight, norm.bias, norm)
        return y
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return _forward(x, scale, norm.bias - norm.running_mean * scale, None, None)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        batch, channels, height, width = x.shape
        count = batch * height * width
        mean, squares = torch.empty((2, channels), dtype=torch.float64)
        _call("statistics", x.dtype, x, count, channels, mean, squares)
        # Batch normalization keeps the unbiased variance, and normalizes with the biased one.
        for running, seen in ((norm.running_mean, mean), (norm.running_var, squares / (count - 1))):
            running.lerp_(seen.to(running.dtype), norm.momentum)  # type: ignore[union-attr,arg-type]
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        inverse = (squares / count + norm.eps).rsqrt()
        scale = weight * inverse
        selected = x.new_empty((batch, height // 2, width // 2, channels))
        choice = torch.empty(selected.shape, dtype=torch.uint8)
        y = _forward(x, scale, bias - mean * scale, selected, choice)
        ctx.save_for_backward(x, weight, bias, mean, inverse, selected, choice)
        ctx.eps = norm.eps
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse, selected, choice = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient of this gradient is asked for, such as for a penalty on its norm
            y = _layers(x, weight, bias, ctx.eps)
            wanted = [item for item, needed in zip((x, weight, bias), ctx.needs_input_grad[:3], strict=True) if needed]
            found = iter(torch.autograd.grad(y, wanted, grads[0], create_graph=True))
            return (*(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None)
        batch, channels, height, width = x.shape
        g = grads[0].to(x.dtype).contiguous(memory_format=torch.channels_last)
        sums, products = torch.empty((2, channels), dtype=torch.float64)
        windows = choice.numel() // channels
        middle = mean.float()
        _call("gradient_sums", x.dtype, g, selected, choice, windows, channels, middle, sums, products)
        of_weight = products * inverse
        scale, count = weight * inverse, batch * height * width
        # γ / √(variance + ε) · (g − Σ g / count − x̂ · Σ g x̂ / count): mean and variance depend on every x, too.
        slope, offset = -scale * inverse * of_weight / count, -scale * sums / count
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        factors = (scale.float(), slope.float(), middle, offset.float())
        _call("backward", x.dtype, x, g, choice, batch, height, width, channels, *factors, dx)
        return dx, of_weight.to(weight.dtype), sums.to(weight.dtype), None


def _layers(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """What a block computes in training, layer by layer."""
    return nnf.relu(nnf.max_pool2d(nnf.batch_norm(x, None, None, weight, bias, training=True, eps=eps), 2))


def _forward(x: Tensor, scale: Tensor, shift: Tensor, selected: Tensor | None, choice: Tensor | None) -> Tensor:
    batch, channels, height, width = x.shape
    y = x.new_empty((batch, height // 2, width // 2, channels)).permute(0, 3, 1, 2)
    sizes = (batch, height, width, channels)
    _call("forward", x.dtype, x, *sizes, scale.float(), shift.float(), y, selected, choice)
    return y


def _call(name: str, dtype: torch.dtype, *arguments: Tensor | int | None) -> None:
    """Call a function of the library; the arrays live as long as the call, because the arguments hold them."""
    values = [
        ctypes.c_int64(item) if isinstance(item, int) else ctypes.c_void_p(None if item is None else item.data_ptr())
        for item in arguments
    ]
    getattr(_library(dtype), name)(*values)


@functools.cache
def _library(dtype: torch.dtype) -> ctypes.CDLL:
    """The compiled functions for one type of array.

    Raises:
        Unavailable: they cannot be compiled or loaded here.
    """
    found = _compiled(dtype)
    if isinstance(found, str):
        raise Unavailable(found)
    return found


@functools.cache
def _compiled(dtype: torch.dtype) -> ctypes.CDLL | str:
    """The library, or why there is none: asked for once in a process."""
    names = [os.environ["CC"]] if os.environ.get("CC") else [name for name in _COMPILERS if shutil.which(name)]
    if not names:
        return f"there is no C compiler ({', '.join(_COMPILERS)})"
    with tempfile.TemporaryDirectory(prefix="study-") as folder:
        library = Path(folder) / "fused_block.so"
        command = [*shlex.split(names[0]), *_FLAGS, *_TYPES[dtype], str(_SOURCE), "-o", str(library)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMPILE_LIMIT_S)
            return ctypes.CDLL(str(library))
        except subprocess.CalledProcessError as error:
            words = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[0]
            return f"the C compiler {names[0]} failed: {words}"
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return f"what the C compiler {names[0]} made cannot be used: {error}"
