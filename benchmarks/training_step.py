"""Samples per second of a training step, per method, against a plain loop in the same run.

    python benchmarks/training_step.py [--preset small|paper] [--seconds 3]

The plain loop is DCNN as it is often published: default memory layout, a DataLoader over CPU tensors, the loss read on
the host in every step. One thread each, as a trial process has. Figures are ratios to it; the rest depends on the
machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader, TensorDataset

from models.methods import METHODS, LabelledBatch, NetworkShape, UnlabelledBatch, build_method
from models.settings import BACKBONES

SAMPLES = 2048


def rate(step: Callable[[], int], seconds: float) -> float:
    """Source samples per second, after one step to warm up."""
    step()
    began, samples = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        samples += step()
    return samples / elapsed


def plain(shape: NetworkShape, source: LabelledBatch, batch: int) -> Callable[[], int]:
    method = build_method("DCNN", shape)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3, weight_decay=1e-4)
    loader = DataLoader(TensorDataset(*source), batch_size=batch, shuffle=True, drop_last=True)
    batches = iter(loader)
    history: list[float] = []

    def step() -> int:
        nonlocal batches
        values = next(batches, None)
        if values is None:
            batches = iter(loader)
            values = next(batches)
        loss = method.training_loss(LabelledBatch(*values), None, 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
        return batch

    return step


def ours(
    name: str, shape: NetworkShape, source: LabelledBatch, target: torch.Tensor, batch: int, device: str
) -> Callable[[], int]:
    method = build_method(name, shape).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(method.parameter_groups(1e-4), lr=1e-3, fused=True)
    source = LabelledBatch(*(values.to(device) for values in source))
    target = target.to(device)
    order = torch.randperm(SAMPLES, device=device)
    position = 0

    def step() -> int:
        nonlocal position
        rows = order[position : position + batch]
        position = (position + batch) % (SAMPLES - batch + 1)
        unlabelled = UnlabelledBatch(target[rows]) if method.reads_target else None
        loss = method.training_loss(LabelledBatch(*(values[rows] for values in source)), unlabelled, 0.5)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()
        return batch

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(BACKBONES), default="small")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    fingerprint = (1, 64, 64) if arguments.preset == "paper" else (1, 16, 32)
    shape = NetworkShape(fingerprint, conditions=3, backbone=BACKBONES[arguments.preset])
    source = LabelledBatch(torch.rand(SAMPLES, *fingerprint), torch.randn(SAMPLES, 2), torch.randint(3, (SAMPLES,)))
    target = torch.rand(SAMPLES, *fingerprint)
    print(f"preset {arguments.preset}, input {fingerprint}, batch {arguments.batch}, torch {torch.__version__}")
    baseline = rate(plain(shape, source, arguments.batch), arguments.seconds)
    print(f"{'plain DCNN loop':16} {baseline:10.0f} samples/s   × 1.00")
    for name in METHODS:
        found = rate(ours(name, shape, source, target, arguments.batch, arguments.device), arguments.seconds)
        print(f"{name:16} {found:10.0f} samples/s   × {found / baseline:.2f}")


if __name__ == "__main__":
    main()
