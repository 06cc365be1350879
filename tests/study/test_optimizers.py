"""Optimizers without torch's compiler against torch's own."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from study.optimizers import SGD, Adam

TRAINS = """
import sys, torch
from study.optimizers import Adam, SGD
layer = torch.nn.Linear(3, 3)
for kind, more in ((Adam, {"fused": True}), (SGD, {"momentum": 0.9, "fused": True})):
    optimizer = kind([{"params": list(layer.parameters()), "weight_decay": 0.1}], lr=0.1, **more)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=3, cycle_momentum=False)
    layer(torch.rand(2, 3)).sum().backward()
    optimizer.step()
    schedule.step()
    optimizer.zero_grad(set_to_none=True)
    optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize(
    ("ours", "theirs", "more"),
    [(Adam, torch.optim.Adam, {"betas": (0.8, 0.999)}), (SGD, torch.optim.SGD, {"momentum": 0.9})],
)
def test_weights_and_states_are_those_of_torch(
    ours: type[torch.optim.Optimizer], theirs: type[torch.optim.Optimizer], more: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    first = torch.nn.Linear(5, 4)
    second = copy.deepcopy(first)
    found = []
    for kind, layer in ((ours, first), (theirs, second)):
        optimizer = kind([{"params": list(layer.parameters()), "weight_decay": 1e-2}], lr=1e-2, fused=True, **more)  # type: ignore[call-arg]
        draw = torch.Generator().manual_seed(1)
        for _ in range(5):
            optimizer.zero_grad()
            layer(torch.rand(7, 5, generator=draw)).square().sum().backward()
            optimizer.step()
        found.append(optimizer.state_dict())
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_no_compiler_is_loaded() -> None:
    run = subprocess.run(
        [sys.executable, "-c", TRAINS],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert run.stdout.strip() == "False"
