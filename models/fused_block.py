"""The blocks of Θ1 on a CPU: normalization, pooling and ReLU in one pass over the memory.

Convolutions run near the processor's peak. What follows them is bound by memory: batch normalization, pooling and ReLU
each read and write arrays of up to hundreds of megabytes. `fused_block.c` reads a convolution's output twice forward
(statistics; normalize, pool and rectify) and once backward; the first block, whose convolution is the cheapest and has
the largest output, does not even keep that output. It is compiled when it is first needed, for the machine it runs on,
which takes a few seconds, and kept in the user's cache folder.

What it computes is what the layers compute, up to the order of additions. Where it cannot be used the layers are, and
`fuse_blocks` says why. Workers that share a batch (see `models.parallel`) exchange sums, so that each has the
statistics of all rows; the gradients of weights are those of its own rows.

Shapes: B batch, C channels, H × W rows and columns of a convolution's output.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from models.backbone import FeatureExtractor, remember_statistics
from models.native import Unavailable, compiled_library
from models.workers import agreed_reason, merged_statistics, summed, worker_count

__all__ = ["FusedExtractor", "fuse_blocks"]

_SOURCE = Path(__file__).with_suffix(".c")
# The C source says what they are.
_LANES, _MOST_TAPS = 16, 64
_FLAGS = (f"-DLANES={_LANES}", f"-DMOST_TAPS={_MOST_TAPS}")
_FUNCTIONS = ("statistics", "forward", "gradient_sums", "backward", "first_moments", "first_forward", "first_backward")
_TYPES = {torch.float32: (), torch.bfloat16: ("-DHALF",)}


def fuse_blocks(network: nn.Module, dtype: torch.dtype = torch.float32) -> str | None:
    """Let every `FeatureExtractor` of a network on a CPU run its blocks fused, where that is possible.

    Weights, buffers and the keys of ``state_dict`` stay as they are. A subclass of `FeatureExtractor` is left alone,
    and so is one with other layers or with hooks.

    Args:
        network: what is trained, on one thread: the fused blocks use no second one.
        dtype: of what the convolutions return, float32 or bfloat16.

    Workers that share batches call it together: all fuse or none.

    Returns:
        Why they are not fused, None if they are.
    """
    if (reason := agreed_reason(_why_not(dtype))) is not None:
        return reason
    for module in network.modules():
        if type(module) is FeatureExtractor and _is_plain(module):
            # A new class and no new module: the parameters, also those that an optimizer holds, are the same objects.
            module.__class__ = FusedExtractor
    return None


def _why_not(dtype: torch.dtype) -> str | None:
    """Why this process cannot fuse blocks, None if it can."""
    if torch.get_num_threads() > 1:
        return "the process has several threads, and the faster way has one"
    try:
        _library(dtype)
    except Unavailable as reason:
        return str(reason)
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
        if (torch.is_grad_enabled() and fixed) or not self._fits(fingerprint):
            return super()._run(fingerprint)
        x, convolutions = fingerprint, [layer for layer in self if isinstance(layer, nn.Conv2d)]
        if _is_first(convolutions[0], fingerprint):
            x = _first_block(fingerprint, convolutions.pop(0), norms.pop(0), self.autocast_dtype or torch.float32)
        for convolution, norm in zip(convolutions, norms, strict=False):
            x = _block(convolution(x), norm)
        return x.flatten(1)

    def _fits(self, fingerprint: Tensor) -> bool:
        """Whether it is what the blocks compute; of anything else the layers say what is wrong with it."""
        if fingerprint.dim() != 4 or fingerprint.dtype != torch.float32 or fingerprint.device.type != "cpu":
            return False
        convolutions = [layer for layer in self if isinstance(layer, nn.Conv2d)]
        if fingerprint.shape[1] != convolutions[0].in_channels:
            return False
        sizes = list(fingerprint.shape[2:])
        for layer in convolutions:
            if layer.padding != "same":
                sizes = [size - kernel + 1 for size, kernel in zip(sizes, layer.kernel_size, strict=True)]
            sizes = [size // 2 for size in sizes]
        # One of several workers may have no rows of a batch.
        return min(sizes) > 0 and (len(fingerprint) > 0 or worker_count() > 1)


def _block(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """BatchNorm2d → MaxPool2d(2) → ReLU. x [B, C, H, W] → [B, C, H // 2, W // 2], both channels_last."""
    x = x.contiguous(memory_format=torch.channels_last)
    if norm.training:
        if x.numel() <= x.shape[1] and worker_count() == 1:
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
        if worker_count() > 1:
            every, mean, squares = merged_statistics(count, mean, squares)
            count = int(every)
        variance = squares / count
        remember_statistics(norm, mean, variance, count)
        inverse = (variance + norm.eps).rsqrt()
        scale = weight * inverse
        selected = x.new_empty((batch, height // 2, width // 2, channels))
        choice = torch.empty(selected.shape, dtype=torch.uint8)
        y = _forward(x, scale, bias - mean * scale, selected, choice)
        ctx.save_for_backward(x, weight, bias, mean, inverse, selected, choice)
        ctx.count, ctx.eps = count, norm.eps
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse, selected, choice = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient of this gradient is asked for, such as for a penalty on its norm
            found = _gradients_of_layers(ctx, lambda: _layers(x, weight, bias, ctx.eps), (x, weight, bias), grads[0])
            return (*found, None)
        batch, channels, height, width = x.shape
        g = grads[0].to(x.dtype).contiguous(memory_format=torch.channels_last)
        sums, products = torch.empty((2, channels), dtype=torch.float64)
        windows = choice.numel() // channels
        middle = mean.float()
        _call("gradient_sums", x.dtype, g, selected, choice, windows, channels, middle, sums, products)
        scale = weight * inverse
        # γ / √(variance + ε) · (g − Σ g / count − x̂ · Σ g x̂ / count): mean and variance depend on every x, too.
        every_sum, every_product = summed(torch.stack([sums, products]))
        slope, offset = -scale * inverse.square() * every_product / ctx.count, -scale * every_sum / ctx.count
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        factors = (scale.float(), slope.float(), middle, offset.float())
        _call("backward", x.dtype, x, g, choice, batch, height, width, channels, *factors, dx)
        return dx, (products * inverse).to(weight.dtype), sums.to(weight.dtype), None


# ------------------------------------------------------------------------------------------------- the first block


def _is_first(convolution: nn.Conv2d, x: Tensor) -> bool:
    """Whether `_first_block` can compute a block: its input is one plane, and nobody asks for that one's gradient."""
    return (
        convolution.in_channels == 1
        and convolution.bias is not None
        and (convolution.stride, convolution.dilation) == ((1, 1), (1, 1))
        and convolution.padding_mode == "zeros"
        and convolution.padding in ("same", (0, 0))
        and math.prod(convolution.kernel_size) <= _MOST_TAPS
        and not x.requires_grad
    )


def _first_block(x: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype) -> Tensor:
    """Conv2d → BatchNorm2d → MaxPool2d(2) → ReLU of one plane. x [B, 1, M, N] → [B, C, H // 2, W // 2].

    Its convolution is cheap and has the largest output of the network. That output is kept nowhere: each time it is
    needed it is computed again, next to what needs it. Its statistics follow from those of the input: with m the mean
    and Σ the covariance of what the taps of the kernel see, a channel with weights w has the mean w · m and the
    variance wᵀ Σ w. The same Σ gives the part of the gradient that goes through mean and variance.
    """
    weight, bias = convolution.weight, convolution.bias
    assert bias is not None
    if convolution.padding == "same":
        high, wide = convolution.kernel_size
        up, left = (high - 1) // 2, (wide - 1) // 2
        x = nnf.pad(x, (left, wide - 1 - left, up, high - 1 - up))
    if norm.training:
        y: Tensor = _FirstBlock.apply(x, weight, bias, norm.weight, norm.bias, norm, dtype)
        return y
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias + (bias - norm.running_mean) * scale
        return _first_forward(x.contiguous(), weight, scale, shift, dtype)


class _FirstBlock(torch.autograd.Function):
    """The first block in training, on an input with its margin."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, norm: nn.BatchNorm2d,
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        batch, _, rows, columns = x.shape
        channels, _, high, wide = weight.shape
        count, taps = batch * math.prod(_places(x, weight)), high * wide
        # Around zero no digits are lost to a mean that the normalization takes away again.
        total = x.sum(dtype=torch.float64)
        centre = (summed(total) / summed(total.new_tensor(x.numel()))).float()
        x = (x - centre).contiguous()
        sums, products, work = _doubles(taps), _doubles(taps, taps), _doubles(rows * wide)
        _call("first_moments", dtype, x, batch, rows, columns, high, wide, sums, products, work)
        if worker_count() > 1:
            everything = summed(torch.cat([sums.new_tensor([count]), sums, products.flatten()]))
            number, sums, products = everything.split([1, taps, taps * taps])
            count, products = int(number), products.view(taps, taps)
        seen = sums / count
        covariance = products / count - torch.outer(seen, seen)
        w = weight.reshape(channels, taps).double()
        mean, variance = w @ seen, ((w @ covariance) * w).sum(1).clamp_min(0)
        remember_statistics(norm, mean + w.sum(1) * centre + bias, variance, count)
        inverse = (variance + norm.eps).rsqrt()
        scale = gamma * inverse
        choice = torch.empty(_pooled(x, weight), dtype=torch.uint8)
        y = _first_forward(x, weight, scale, beta - mean * scale, dtype, choice)
        ctx.save_for_backward(x, weight, bias, gamma, beta, seen, covariance, inverse, choice)
        ctx.dtype, ctx.eps = dtype, norm.eps
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, gamma, beta, seen, covariance, inverse, choice = ctx.saved_tensors
        if torch.is_grad_enabled():  # as in a block: the gradient of this gradient is asked for
            found = _gradients_of_layers(
                ctx,
                lambda: _layers(nnf.conv2d(x, weight, bias), gamma, beta, ctx.eps),
                (x, weight, bias, gamma, beta),
                grads[0],
            )
            return (*found, None, None)
        batch, _, rows, columns = x.shape
        channels, _, high, wide = weight.shape
        taps = high * wide
        g = grads[0].to(ctx.dtype).contiguous(memory_format=torch.channels_last)
        chosen, sums = _doubles(taps, channels), _doubles(channels)
        _call("first_backward", ctx.dtype, x, g, choice, batch, rows, columns, high, wide, channels, chosen, sums)
        w = weight.reshape(channels, taps).double()
        # Σ g · (x − mean) over what was chosen, from what its taps saw.
        products = (w * (chosen.T - torch.outer(sums, seen))).sum(1)
        scale, of_gamma = gamma * inverse, products * inverse
        # As in a block, times what each tap saw, summed over all places. It is linear in what this worker's rows have:
        # the average over the workers is the whole gradient, and nothing has to be exchanged.
        through_variance = (scale * inverse * of_gamma)[:, None] * (w @ covariance)
        of_weight = scale[:, None] * (chosen.T - torch.outer(sums, seen)) - through_variance
        # A bias before a normalization has no effect.
        return (
            None, of_weight.view(weight.shape).to(weight.dtype), torch.zeros_like(bias), of_gamma.to(gamma.dtype),
            sums.to(beta.dtype), None, None,
        )  # fmt: skip


def _first_forward(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype, choice: Tensor | None = None
) -> Tensor:
    """The first block for a known scale and shift, [B, C, H // 2, W // 2]; writes ``choice`` if there is one."""
    batch, _, rows, columns = x.shape
    channels, _, high, wide = weight.shape
    padded = -(-channels // _LANES) * _LANES
    weights = torch.zeros(high * wide, padded)
    weights[:, :channels] = weight.reshape(channels, high * wide).T
    y = torch.empty(_pooled(x, weight), dtype=dtype).permute(0, 3, 1, 2)
    sizes = (batch, rows, columns, high, wide, channels, padded)
    _call("first_forward", dtype, x, *sizes, weights, scale.float(), shift.float(), y, choice)
    return y


def _places(x: Tensor, weight: Tensor) -> tuple[int, int]:
    """Rows and columns of the output of a convolution without a margin: (H, W)."""
    return x.shape[2] - weight.shape[2] + 1, x.shape[3] - weight.shape[3] + 1


def _pooled(x: Tensor, weight: Tensor) -> tuple[int, int, int, int]:
    """Shape of the output of the first block in memory: (B, H // 2, W // 2, C)."""
    height, width = _places(x, weight)
    return x.shape[0], height // 2, width // 2, weight.shape[0]


def _doubles(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------- both


def _gradients_of_layers(
    ctx: Any, layers: Callable[[], Tensor], inputs: Sequence[Tensor], g: Tensor
) -> list[Tensor | None]:
    """Gradients, which have gradients again, of the first inputs of a block by way of its layers; None: not needed."""
    if worker_count() > 1:
        raise RuntimeError("workers that share a batch have no gradient of a gradient: train with one worker per trial")
    needed = ctx.needs_input_grad[: len(inputs)]
    y, wanted = layers(), [item for item, asked in zip(inputs, needed, strict=True) if asked]
    found = iter(torch.autograd.grad(y, wanted, g.to(y.dtype), create_graph=True))
    return [next(found) if asked else None for asked in needed]


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
    library = compiled_library(_SOURCE, *_FLAGS, *_TYPES[dtype])
    if missing := [name for name in _FUNCTIONS if not hasattr(library, name)]:
        raise Unavailable(f"what the C compiler made lacks {missing[0]}")
    return library
