"""Convolutional feature extractor Θ1 and multilayer-perceptron heads Θ2, Θ3.

Shapes: B batch, C input channels, M antennas (rows), N delay bins or subcarriers (columns), F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.settings import Backbone

__all__ = ["FeatureExtractor", "initialize", "perceptron", "remember_statistics", "reverse_gradient"]


class FeatureExtractor(nn.Sequential):
    """Θ1: four blocks, then flatten. Input [B, C, M, N], output ω [B, F] with ω ≥ 0.

    Attributes:
        features: F.
        autocast_dtype: number format of its convolutions, where it is another than that of its weights.

    Raises:
        InputTooSmallError: the input does not fit the backbone.
    """

    autocast_dtype: torch.dtype | None = None

    def __init__(self, backbone: Backbone, input_shape: tuple[int, int, int]) -> None:
        channels, rows, columns = input_shape
        self.features = backbone.features(rows, columns)
        layers: list[nn.Module] = []
        for width, kernel in zip(backbone.channels, backbone.kernels, strict=True):
            layers += [
                nn.Conv2d(channels, width, kernel, padding="same" if backbone.padding == "same" else 0),
                nn.BatchNorm2d(width),
                nn.MaxPool2d(2),
                nn.ReLU(),
            ]
            channels = width
        super().__init__(*layers, nn.Flatten())

    def forward(self, fingerprint: Tensor) -> Tensor:
        """[B, C, M, N] → ω [B, F], in the type of the input."""
        if self.autocast_dtype is None:
            return self._run(fingerprint)
        with torch.autocast(fingerprint.device.type, dtype=self.autocast_dtype):
            omega = self._run(fingerprint)
        return omega.to(fingerprint.dtype)

    def _run(self, fingerprint: Tensor) -> Tensor:
        """The layers, one after the other."""
        omega: Tensor = super().forward(fingerprint)
        return omega


def perceptron(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """A head: Linear → BatchNorm1d → ReLU for each hidden width, then a linear layer. [B, inputs] → [B, outputs]."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


@torch.no_grad()
def initialize(network: nn.Module) -> None:
    """Xavier initialization (Section V-A) of every convolution and linear layer; biases start at zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def remember_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: Tensor | int) -> None:
    """Keep the statistics of a batch for prediction, as a normalization does that computes them itself.

    Args:
        mean, variance: of each channel [C]; the biased variance, which normalizes. The unbiased one is kept.
        count: values per channel.
    """
    for running, seen in ((norm.running_mean, mean), (norm.running_var, variance * (count / (count - 1)))):
        running.lerp_(seen.to(running.dtype), norm.momentum)  # type: ignore[union-attr,arg-type]
    norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, strength: float | Tensor) -> Tensor:
        ctx.strength = strength  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grads[0], None  # type: ignore[attr-defined]


def reverse_gradient(x: Tensor, strength: float | Tensor) -> Tensor:
    """The identity whose gradient is multiplied by −strength (adversarial domain classification in RDA)."""
    return _ReverseGradient.apply(x, strength)
