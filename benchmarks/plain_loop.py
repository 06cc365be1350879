"""The loop that `speed.py` measures everything against: training as it is often published.

Fingerprints come from a file made beforehand, as float64 arrays through a DataLoader; tensors have the default memory
layout; one process uses all threads; source and target pass one after the other; the loss is read on the host in every
step. Validation, best epoch and test are those of our trials; networks, losses and samples are the project's own, so
that nothing else differs but the batch order, and with it the last digits of the errors.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from models.methods import LabelledBatch, NetworkShape, UnlabelledBatch, build_method
from models.settings import BACKBONES
from study.data.dataset import SiteData
from study.spec.trial import TrialConfiguration

__all__ = ["plain_trial", "write_fingerprints"]

_EVALUATION_BATCH = 1024


def write_fingerprints(data: SiteData, config: TrialConfiguration, file: Path) -> None:
    """The samples of a configuration as float64 arrays."""
    parts = data.prepare(config.system, config.split, coordinate_scale_m=config.training.coordinate_scale_m)
    source, frame = parts.training.source, parts.frame
    every = slice(None)
    arrays: dict[str, Any] = {
        "source": source.fingerprint[every],
        "position": source.position,
        "condition": source.condition,
        "target": parts.training.target.fingerprint[every],
        "scale_m": torch.tensor(frame.scale_m),
    }
    for name, part in (("validation", parts.validation), ("test", parts.test)):
        arrays[name] = part.fingerprint[every]
        arrays[f"{name}_position"] = frame.encode(part.position_m)
    np.savez(
        file, **{k: v.cpu().numpy().astype(np.int64 if k == "condition" else np.float64) for k, v in arrays.items()}
    )


def plain_trial(file: Path, config: TrialConfiguration, seed: int, device: str = "cpu") -> dict[str, float]:
    """Train and test once; errors in metres, seconds on the clock."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    arrays = {name: torch.from_numpy(values) for name, values in np.load(file).items()}
    scale_m, training = float(arrays["scale_m"]), config.training
    shape = NetworkShape(
        tuple(arrays["source"].shape[1:]),  # type: ignore[arg-type]
        conditions=int(arrays["condition"].max()) + 1,
        backbone=BACKBONES[config.network.preset],
    )
    method = build_method(config.method, shape, batch_statistics="per_domain").to(device)
    options: dict[str, Any] = {"batch_size": training.batch_size, "shuffle": True, "drop_last": True}
    source = DataLoader(TensorDataset(arrays["source"], arrays["position"], arrays["condition"]), **options)
    target = DataLoader(TensorDataset(arrays["target"]), **options)
    optimizer = torch.optim.Adam(method.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    steps = len(source) * training.epochs
    schedule: Any = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    if training.schedule == "one_cycle":
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=training.learning_rate, total_steps=steps + 1, cycle_momentum=False
        )

    def error_m(part: str) -> float:
        method.eval()
        squares = []
        with torch.no_grad():
            images, truth = arrays[part], arrays[f"{part}_position"]
            for start in range(0, len(images), _EVALUATION_BATCH):
                rows = slice(start, start + _EVALUATION_BATCH)
                found = method(images[rows].to(device).float()).position
                squares.append((found - truth[rows].to(device).float()).square().sum(dim=1).cpu())
        return scale_m * float(torch.cat(squares).mean().sqrt())

    history, best, best_weights, number = [], float("inf"), None, 0
    for _ in range(training.epochs):
        method.train()
        others = itertools.cycle(target)
        for images, position, condition in source:
            labelled = LabelledBatch(images.to(device).float(), position.to(device).float(), condition.to(device))
            unlabelled = UnlabelledBatch(next(others)[0].to(device).float()) if method.reads_target else None
            loss = method.training_loss(labelled, unlabelled, number / steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            history.append(loss.item())
            number += 1
        error = error_m("validation")
        if error < best:
            best, best_weights = error, {name: value.clone() for name, value in method.state_dict().items()}
    if best_weights is not None:
        method.load_state_dict(best_weights)
    return {"validation_rmse_m": best, "test_rmse_m": error_m("test"), "seconds": time.perf_counter() - began}
