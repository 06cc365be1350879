"""Training, for every method: one loop that reads top to bottom.

The data are on the device before the loop starts, and nothing inside an epoch waits for the device: losses are added
up there and read once per epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.methods import LabelledBatch, Method, UnlabelledBatch
from study.data.dataset import EvaluationSet, Frame, TrainingData
from study.metrics import Predictions, accuracy, rmse_m
from study.spec.trial import TrainingSettings

__all__ = ["EpochRecord", "TrainingOutcome", "predict", "train"]

# Samples per forward pass of an evaluation.
EVALUATION_BATCH = 1024


@dataclass(frozen=True)
class EpochRecord:
    """What is known after an epoch; the epoch numbers start at 1."""

    epoch: int
    train_loss: float
    validation_rmse_m: float
    validation_accuracy: float | None
    learning_rate: float
    seconds: float
    log_var_position: float | None = None
    log_var_condition: float | None = None


@dataclass(frozen=True)
class TrainingOutcome:
    """How training ended. The method holds the weights of the best epoch, unless it diverged.

    Attributes:
        best: the epoch with the lowest validation RMSE, the earliest of equals; None if the first already diverged.
        epochs: all epochs.
        diverged: a loss or a validation error was not finite.
    """

    best: EpochRecord | None
    epochs: list[EpochRecord]
    diverged: bool


def train(
    method: Method,
    data: TrainingData,
    validation: EvaluationSet,
    frame: Frame,
    settings: TrainingSettings,
    *,
    seed: int,
) -> Generator[EpochRecord, None, TrainingOutcome]:
    """Train a method, yielding a record after each epoch; the generator's value is the outcome.

    An epoch goes once through the labelled samples in random order; the last samples that do not fill a batch wait for
    the next epoch. Target batches are drawn from their own random order.

    Args:
        method: initialized, on the device of the data.
        data: labelled source samples and unlabelled target samples.
        validation: samples that choose the epoch.
        frame: turns the network's coordinates into metres.
        settings: epochs, batch size, optimizer.
        seed: seed of the batch order.
    """
    source, target = data.source, data.target
    samples = source.position.shape[0]
    batch = min(settings.batch_size, samples)
    steps = samples // batch
    device = source.position.device
    order = torch.Generator(device=device).manual_seed(seed)
    optimizer = _optimizer(method, settings)
    schedule = _schedule(optimizer, settings, steps)
    best: EpochRecord | None = None
    best_weights = {name: value.clone() for name, value in method.state_dict().items()}
    records: list[EpochRecord] = []

    for epoch in range(1, settings.epochs + 1):
        began = time.perf_counter()
        method.train()
        total = torch.zeros((), device=device)
        rate = float(optimizer.param_groups[0]["lr"])
        source_order = torch.randperm(samples, generator=order, device=device)
        target_order = _endless_order(target.fingerprint.shape[0], steps * batch, order, device)
        for step in range(steps):
            rows = slice(step * batch, (step + 1) * batch)
            labelled = LabelledBatch(*(values[source_order[rows]] for values in source))
            unlabelled = UnlabelledBatch(target.fingerprint[target_order[rows]]) if method.reads_target else None
            progress = ((epoch - 1) * steps + step) / (settings.epochs * steps)
            loss = method.training_loss(labelled, unlabelled, progress)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()

        predictions = predict(method, validation, frame)
        record = EpochRecord(
            epoch=epoch,
            train_loss=float(total) / steps,
            validation_rmse_m=rmse_m(predictions.error_m),
            validation_accuracy=accuracy(predictions),
            learning_rate=rate,
            seconds=time.perf_counter() - began,
            **{name: float(value) for name, value in method.learned_weights().items()},
        )
        records.append(record)
        diverged = not (math.isfinite(record.train_loss) and math.isfinite(record.validation_rmse_m))
        if not diverged and (best is None or record.validation_rmse_m < best.validation_rmse_m):
            best = record
            for name, value in method.state_dict().items():
                best_weights[name].copy_(value)
        yield record
        if diverged:
            return TrainingOutcome(best, records, diverged=True)

    method.load_state_dict(best_weights)
    return TrainingOutcome(best, records, diverged=False)


@torch.no_grad()
def predict(method: Method, samples: EvaluationSet, frame: Frame) -> Predictions:
    """Positions and conditions of all samples, in their order, none left out."""
    method.eval()
    positions, conditions = [], []
    for images in samples.fingerprint.split(EVALUATION_BATCH):
        prediction = method(images)
        positions.append(frame.decode(prediction.position))
        if prediction.condition_logits is not None:
            conditions.append(prediction.condition_logits.argmax(dim=1))
    return Predictions.of(samples, torch.cat(positions), torch.cat(conditions) if conditions else None)


def _optimizer(method: Method, settings: TrainingSettings) -> torch.optim.Optimizer:
    groups = method.parameter_groups(settings.weight_decay)
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, lr=settings.learning_rate, betas=(settings.momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, fused=True)


def _schedule(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if settings.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=settings.learning_rate,
        # One more than is taken: the scheduler refuses the step after its last.
        total_steps=settings.epochs * steps + 1,
        cycle_momentum=False,
    )


def _endless_order(count: int, wanted: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Sample numbers for ``wanted`` draws: whole random orders of all samples, one after the other."""
    rounds = -(-wanted // count)
    return torch.cat([torch.randperm(count, generator=generator, device=device) for _ in range(rounds)])[:wanted]
