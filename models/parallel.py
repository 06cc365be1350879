"""One batch computed by several workers with the result of one worker.

Every worker holds the whole batch and takes the same steps. Only the feature extractors, where nearly all of the
computation is, are shared: a worker computes ω of its own rows, with the batch-normalization statistics of all rows,
and gathers the rows of the others. What follows (heads, alignment losses that need the whole batch, regularization) is
computed in full and alike by every worker (random layers too, as all have one seed), so a method need not know how many
there are. A network without a `FeatureExtractor` is computed in full by every worker: right too, and no faster.

The gradients fit torch's DistributedDataParallel, which averages over W workers. A worker's gradient of a head or of a
task weight is the full one, and so is its average. Its gradient of ω counts for its own rows alone, times W: the
average then is the sum over all rows, which is the gradient of one worker on the whole batch.

Shapes: B whole batch, b rows of this worker, W workers, C channels, F features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from models.backbone import FeatureExtractor, remember_statistics
from models.fused_block import FusedExtractor
from models.methods import LabelledBatch, Method, UnlabelledBatch
from models.workers import gathered, merged_statistics, worker_count

__all__ = ["share_batches", "shared_training_loss"]


def share_batches(network: nn.Module) -> None:
    """Let the workers share the batches of every `FeatureExtractor` in a network.

    Weights, buffers and the keys of ``state_dict`` stay as they are, and with one worker the network computes what it
    did. A subclass of `FeatureExtractor` is left alone: its layers may depend on rows in ways that are not known here.
    """
    for module in network.modules():
        if isinstance(module, FeatureExtractor) and type(module) in _SHARED:
            # A new class and no new module: the parameters, also those that an optimizer holds, are the same objects.
            module.__class__ = _SHARED[type(module)]
            for layer in module:
                if type(layer) is nn.BatchNorm2d:
                    layer.__class__ = _SharedBatchNorm2d


def shared_training_loss(method: Method) -> nn.Module:
    """A method's `training_loss` that all workers compute together; its gradients are those of one worker.

    All workers must start from the same weights and call it with the same arguments.
    """
    share_batches(method)
    # Unused: a twin branch without knowledge transfer, or whatever a method leaves out of a step.
    return DistributedDataParallel(_TrainingLoss(method), find_unused_parameters=True)


class _TrainingLoss(nn.Module):
    """DistributedDataParallel wants a module whose `forward` gives the loss.

    It has the method's parameters and not its buffers: these follow the whole batch on every worker, and
    DistributedDataParallel would send them around at every step.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self._weights = nn.ParameterList(method.parameters())
        self._loss_of = method.training_loss

    def forward(self, source: LabelledBatch, target: UnlabelledBatch | None, progress: float) -> Tensor:
        return self._loss_of(source, target, progress)


class _SharedExtractor(FeatureExtractor):
    """Θ1 that computes its own rows and gathers the others. [B, C, M, N] → ω [B, F]."""

    def forward(self, fingerprint: Tensor) -> Tensor:
        if worker_count() == 1:
            return super().forward(fingerprint)
        batch = len(fingerprint)
        omega = super().forward(fingerprint[_rows(batch, dist.get_rank())])
        return _GatherRows.apply(omega, batch)


class _SharedFusedExtractor(_SharedExtractor, FusedExtractor):
    """And whose blocks, which have statistics of all workers' rows by themselves, are fused."""


_SHARED: dict[type, type] = {FeatureExtractor: _SharedExtractor, FusedExtractor: _SharedFusedExtractor}


class _SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with the statistics of all workers' rows. torch's SyncBatchNorm does the same, on GPUs alone."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or worker_count() == 1:
            return super().forward(x)
        with torch.no_grad():
            mean, variance, count = _batch_statistics(x)
            remember_statistics(self, mean, variance, count)
        return _Normalize.apply(x, self.weight, self.bias, mean, variance, count, self.eps)


def _batch_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [C], biased variance [C] and number of values per channel [1] over all workers. x [b, C, H, W]."""
    channels = x.shape[1]
    values = x.numel() // channels
    mean, variance = torch.zeros(
        (2, channels), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device
    )  # not in bfloat16, which cannot count
    if values:
        # The one fused kernel for both: with momentum 1 the running statistics are the batch's, the variance unbiased.
        nnf.batch_norm(x, mean, variance, training=True, momentum=1.0)
    count, mean, squares = merged_statistics(values, mean, variance * (values - 1))
    return mean, squares / count, count


class _Normalize(torch.autograd.Function):
    """γ (x − mean) / √(variance + ε) + β, whose gradient knows that mean and variance depend on every worker's x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        return nnf.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        inverse = (variance + ctx.eps).rsqrt()
        # As if mean and variance were constant; what the weight and the bias get is already right.
        if len(x):
            constant, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                grads[0], x, weight, mean, variance, mean, inverse, False, ctx.eps, [True, True, True]
            )
        else:  # the kernel divides by the number of rows
            constant, of_weight, of_bias = torch.zeros_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
        sums = torch.stack([of_weight, of_bias])
        dist.all_reduce(sums)
        sums *= -weight * inverse / count
        # And what comes through them: −γ / √(variance + ε) · (Σ g x̂ · x̂ + Σ g) / count, again a normalization of x.
        through = nnf.batch_norm(x, mean, variance, sums[0], sums[1], eps=ctx.eps)
        return constant + through, of_weight, of_bias, None, None, None, None


class _GatherRows(torch.autograd.Function):
    """This worker's rows [b, F] → the rows of all [B, F]; backward: its own rows of the gradient, times W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, batch: int) -> Tensor:
        ctx.batch = batch
        workers = worker_count()
        # Shares differ by one row at most, and what is gathered must be of one size.
        padded = x.new_zeros((-(-batch // workers), *x.shape[1:]))
        padded[: len(x)] = x
        everything = gathered(padded)
        counts = [len(range(batch)[_rows(batch, worker)]) for worker in range(workers)]
        return torch.cat([rows[:count] for rows, count in zip(everything, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0][_rows(ctx.batch, dist.get_rank())] * worker_count(), None


def _rows(batch: int, worker: int) -> slice:
    """A worker's rows of a batch: contiguous, in the order of the workers, perhaps none."""
    workers = worker_count()
    return slice(batch * worker // workers, batch * (worker + 1) // workers)
