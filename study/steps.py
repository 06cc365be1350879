"""One step of training: batch, loss, gradient, weights.

    EagerStep       operation by operation, on any device and with any method
    CapturedStep    recorded once as a CUDA graph and replayed: on a GPU the launches of these small networks' many
                    operations take longer than the operations

A captured step computes what an eager one does. Everything that changes between steps stands in tensors that it reads:
sample numbers, progress (which the project's methods take as a tensor, too), learning rate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from models.methods import METHODS, LabelledBatch, Method, UnlabelledBatch
from models.workers import worker_count
from study.data.dataset import TrainingData

__all__ = ["CapturedStep", "EagerStep", "StaticStep", "Step", "can_be_captured"]

# Steps before a capture: libraries set themselves up in them.
_WARM_UP = 3


class Step(Protocol):
    """Takes a step."""

    def __call__(self, source: Tensor, target: Tensor, progress: float) -> Tensor:
        """The loss, on the device; it may be overwritten by the next step.

        Args:
            source: numbers of the labelled samples [B].
            target: numbers of the unlabelled samples [B].
            progress: κ, the share of training that is done.
        """


class EagerStep:
    """A step, operation by operation.

    Args:
        method: what is trained, for which samples it reads.
        loss_of: its training loss, perhaps shared among workers.
        optimizer: changes the weights.
        data: what a step may see.
    """

    def __init__(
        self, method: Method, loss_of: Callable[..., Tensor], optimizer: torch.optim.Optimizer, data: TrainingData
    ) -> None:
        self._method, self._loss_of, self._optimizer, self._data = method, loss_of, optimizer, data

    def __call__(self, source: Tensor, target: Tensor, progress: float | Tensor) -> Tensor:
        """See `Step`."""
        labelled = LabelledBatch(*(values[source] for values in self._data.source))
        unlabelled = UnlabelledBatch(self._data.target.fingerprint[target]) if self._method.reads_target else None
        loss = self._loss_of(labelled, unlabelled, progress)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return loss.detach()


class StaticStep(EagerStep):
    """A step that reads all that changes from tensors which stay where they are."""

    def __init__(
        self,
        method: Method,
        loss_of: Callable[..., Tensor],
        optimizer: torch.optim.Optimizer,
        data: TrainingData,
        batch: int,
    ) -> None:
        super().__init__(method, loss_of, optimizer, data)
        device = data.source.position.device
        self._source = torch.zeros(batch, dtype=torch.long, device=device)
        self._target = torch.zeros_like(self._source)
        self._progress = torch.zeros((), device=device)
        for group in optimizer.param_groups:
            # A schedule writes a rate that is a tensor in place.
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device).clone()
            group["capturable"] = device.type == "cuda"

    def __call__(self, source: Tensor, target: Tensor, progress: float | Tensor) -> Tensor:
        """See `Step`."""
        self._source.copy_(source)
        self._target.copy_(target)
        self._progress.fill_(progress)
        return self._take()

    def _take(self) -> Tensor:
        return super().__call__(self._source, self._target, self._progress)


class CapturedStep(StaticStep):
    """The first steps are taken eagerly, the next one is recorded, and from then on it is replayed.

    Attributes:
        failure: why it could not be recorded, None if it was or was not tried yet; steps are then eager.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.failure: str | None = None
        self._taken = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._loss = torch.zeros((), device=self._source.device)

    def _take(self) -> Tensor:
        self._taken += 1
        if self.failure is not None:
            return super()._take()
        if self._taken <= _WARM_UP:
            return self._aside(super()._take)
        if self._graph is None and not self._record():
            return super()._take()
        assert self._graph is not None
        self._graph.replay()
        return self._loss

    def _aside(self, take: Callable[[], Tensor]) -> Tensor:
        """On the stream of the recording, so that what libraries keep for a stream is there by then."""
        stream = _recording_stream(self._source.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            loss = take()
        torch.cuda.current_stream().wait_stream(stream)
        return loss

    def _record(self) -> bool:
        self._optimizer.zero_grad(set_to_none=True)
        graph, stream = torch.cuda.CUDAGraph(), _recording_stream(self._source.device)
        try:
            # The outer one brings the former stream back after a failure, which the inner one does not.
            with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream):
                self._loss = super()._take()
        except RuntimeError as error:  # what a stream says that cannot record an operation, also out of memory
            causes = list(_causes(error))
            for cause in causes:
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause from None
            self.failure = (str(causes[-1]).splitlines() or ["a CUDA error"])[0]
            torch.cuda.synchronize()
            return False
        self._graph = graph
        return True


@functools.cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """One for the life of the process: libraries keep memory for each stream that they have seen."""
    return torch.cuda.Stream(device)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came after: the end of a failed recording fails, too, and says nothing of why."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, RuntimeError):
            yield current
        current = current.__context__


def can_be_captured(method: Method, device: torch.device) -> bool:
    """Whether a method's step is the same operations each time: those of the project on one GPU.

    A method of a user's own may decide in Python from step to step, which a recording would not repeat.
    """
    return device.type == "cuda" and worker_count() == 1 and type(method) in METHODS.values()
