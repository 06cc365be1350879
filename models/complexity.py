"""What a method costs: parameters, multiply-accumulates (MACs) and floating-point operations.

Table III's "FLOPs" are MACs of one training forward pass over a batch of 256, every branch counted, with batch
normalization at 4 per element of its input. That accounting is kept as its own number, beside the usual ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from models.methods import Method, count_parameters

__all__ = ["Complexity", "measure_complexity"]

# thop's convention for a batch normalization in training mode: subtract, divide, scale and shift.
BATCHNORM_MACS_PER_ELEMENT = 4


@dataclass(frozen=True)
class Complexity:
    """Cost of a method.

    Attributes:
        parameters: trainable parameters of all branches and heads (without HDA's two task weights).
        objective_parameters: learned task weights (2 for HDA).
        parameters_deployed: parameters needed for prediction.
        macs_per_sample: MACs of convolutions and linear layers for one sample through every branch.
        macs_deployed: the same for prediction alone.
        batch: batch size of the two numbers below.
        macs_paper: Table III's accounting for a batch.
        flops_batch: 2 × batch × macs_per_sample, the floating-point operations of the same pass.
    """

    parameters: int
    objective_parameters: int
    parameters_deployed: int
    macs_per_sample: int
    macs_deployed: int
    batch: int
    macs_paper: int
    flops_batch: int


@torch.no_grad()
def measure_complexity(method: Method, batch: int = 256) -> Complexity:
    """Count the operations of a method by running one zero sample through its layers.

    The method must be on the CPU; its weights, statistics and mode are left as they were.
    """
    branches = [b for b in (method.source_branch, method.target_branch) if b is not None]
    heads = [m for name, m in method.named_children() if name not in ("source_branch", "target_branch")]
    sample = torch.zeros(1, *method.shape.fingerprint)
    features = torch.zeros(1, method.source_branch.extractor.features)
    counts = [_count(module, sample) for module in branches] + [_count(module, features) for module in heads]
    deployed = counts[0][0]
    macs = sum(count[0] for count in counts)
    normalized = sum(count[1] for count in counts)
    network = count_parameters(method.network_parameters())
    return Complexity(
        parameters=network,
        objective_parameters=count_parameters(method.parameters()) - network,
        parameters_deployed=count_parameters(method.source_branch.parameters()),
        macs_per_sample=macs,
        macs_deployed=deployed,
        batch=batch,
        macs_paper=batch * (macs + BATCHNORM_MACS_PER_ELEMENT * normalized),
        flops_batch=2 * batch * macs,
    )


def _count(network: nn.Module, sample: torch.Tensor) -> tuple[int, int]:
    """(MACs of convolutions and linear layers, elements entering batch normalizations) of one pass of one sample."""
    macs = normalized = 0

    def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal macs, normalized
        if isinstance(layer, nn.Conv2d):
            macs += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            macs += output.numel() * layer.in_features
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            normalized += inputs[0].numel()

    counted: Iterable[nn.Module] = [m for m in network.modules() if not list(m.children())]
    handles = [layer.register_forward_hook(hook) for layer in counted]
    training = network.training
    network.eval()  # a batch of one has no batch statistics, and running statistics must not move
    try:
        network(sample)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return macs, normalized
