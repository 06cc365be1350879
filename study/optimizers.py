"""Adam and SGD of torch, without torch's compiler.

torch's optimizers load its compiler when the first one is made, only to tell it what it shall not compile: about two
seconds of each process that trains (docs/performance.md). Nothing is compiled here. What these two compute, and their
states, are those of their base classes.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

__all__ = ["SGD", "Adam"]

# Where torch looks for what stands in for a function that the compiler must leave alone.
_STAND_IN = "__dynamo_disable"


def _spare(kind: type[Any]) -> None:
    """Let the functions of a class that are hidden from the compiler stand in for themselves."""
    for function in vars(kind).values():
        inner = getattr(function, "__wrapped__", None)
        if inner is not None and not hasattr(inner, _STAND_IN):
            setattr(inner, _STAND_IN, inner)


_spare(torch.optim.Optimizer)
# Below the layers that ask for the compiler.
_adam_step, _sgd_step = inspect.unwrap(torch.optim.Adam.step), inspect.unwrap(torch.optim.SGD.step)


class Adam(torch.optim.Adam):
    """See `torch.optim.Adam`."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Change the weights."""
        return _adam_step(self, closure)


class SGD(torch.optim.SGD):
    """See `torch.optim.SGD`."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Change the weights."""
        return _sgd_step(self, closure)
