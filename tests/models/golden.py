"""Loss curves of every method, computed once by the plainest path: what faster paths are held to.

    python tests/models/golden.py        writes golden_losses.json anew, after a change that is meant

Plain: float64, default memory layout, layer by layer, on random images that depend on the position they are from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from models.methods import METHODS, LabelledBatch, Method, NetworkShape, UnlabelledBatch, build_method
from models.settings import BACKBONES, BatchStatistics

FILE = Path(__file__).with_name("golden_losses.json")
SHAPE = NetworkShape((1, 16, 16), conditions=3, backbone=BACKBONES["small"])
BATCH, STEPS = 64, 30
CURVES: tuple[tuple[str, BatchStatistics], ...] = (
    *((name, "joint") for name in METHODS),
    *((name, "per_domain") for name in ("TL", "MDA", "HDA")),
)


def batches(step: int, dtype: torch.dtype) -> tuple[LabelledBatch, UnlabelledBatch]:
    """Of one step: a bump at the position, and noise; the condition tells its quadrant, and the target is darker."""
    draw = torch.Generator().manual_seed(step)

    def images(position: Tensor, brightness: float) -> Tensor:
        at = torch.linspace(-1, 1, 16, dtype=torch.float64)
        bump = torch.exp(
            -8 * ((at[:, None] - position[:, 0, None, None]) ** 2 + (at - position[:, 1, None, None]) ** 2)
        )
        noise = torch.rand(BATCH, 16, 16, generator=draw, dtype=torch.float64)
        return (brightness * bump + 0.2 * noise)[:, None].to(dtype)

    def positions() -> Tensor:
        return 2 * torch.rand(BATCH, 2, generator=draw, dtype=torch.float64) - 1

    source = positions()
    condition = (source[:, 0] > 0).long() + (source > 0).all(dim=1).long()
    return (
        LabelledBatch(images(source, 1.0), source.to(dtype), condition),
        UnlabelledBatch(images(positions(), 0.8)),
    )


def curve(
    name: str, statistics: BatchStatistics, dtype: torch.dtype, change: Callable[[Method], nn.Module | None]
) -> list[float]:
    """Losses of `STEPS` steps of Adam; ``change`` makes the method fast before the first."""
    torch.manual_seed(0)
    # Drawn in float32, as always, so that all paths start from the same weights.
    method = build_method(name, SHAPE, batch_statistics=statistics).to(dtype)
    change(method)
    optimizer = torch.optim.Adam(method.parameter_groups(1e-4), lr=1e-3)
    losses = []
    for step in range(STEPS):
        source, target = batches(step, dtype)
        loss = method.train().training_loss(source, target if method.reads_target else None, step / STEPS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def main() -> None:
    """Write the file."""
    found = {f"{name} {how}": curve(name, how, torch.float64, lambda method: None) for name, how in CURVES}
    assert all(math.isfinite(value) for values in found.values() for value in values)
    rows = (
        f"  {json.dumps(name)}: {json.dumps([float(f'{v:.9g}') for v in values])}" for name, values in found.items()
    )
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
