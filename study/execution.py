"""One trial from its configuration to its tables. No Ray here: the engine and ``study rerun`` both call this."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any

import torch

from models.acceleration import Acceleration, accelerate
from models.complexity import Complexity, measure_complexity
from models.methods import Method, NetworkShape, build_method
from models.model_based import ModelBased
from models.references import REFERENCES
from models.settings import BACKBONES
from models.workers import worker_count
from study.data.dataset import DomainData, SiteData
from study.data.system import fingerprint_shape
from study.errors import DataError
from study.methods import method_class
from study.metrics import Predictions, accuracy, confusion_matrix, rmse_m
from study.provenance import Provenance, processor_name, trial_identity
from study.spec.trial import Trial
from study.store import TrialTables
from study.training import Checkpoints, EpochRecord, condition_entropy, epoch_columns, predict, train

__all__ = ["check_data", "failed_tables", "initialized_method", "run_trial"]


def run_trial(
    trial: Trial,
    data: SiteData,
    provenance: Provenance,
    *,
    checkpoints: Checkpoints | None = None,
    device_trials: int = 1,
) -> Generator[EpochRecord, None, TrialTables]:
    """Run a trial, yielding a record after each epoch; the generator's value are its tables.

    On a CPU the caller limits torch to one thread: two trials on two cores are far faster that way.

    The workers of a torch.distributed group share the batches: each calls this with the same trial and its own device,
    and has the same tables but for what was measured on its own machine.

    Args:
        trial: what to run.
        data: the site, on the device to train on.
        provenance: recorded in the row.
        checkpoints: where training goes on from; reference rows are not trained and do not ask. The seconds in the row
            then include the epochs before.
        device_trials: how many trials share the device at a time, this one included; recorded for the planner.

    Raises:
        StudyError: the data are not the trial's, or do not fit the configuration; a user's method cannot be imported,
            or is not the code that the trial was asked for with.
    """
    began, started_at = time.perf_counter(), datetime.now(UTC)
    device = data.device
    _reset_peak_memory(device)
    check_data(trial, data)
    config = trial.configuration
    parts = data.prepare(config.system, config.split, coordinate_scale_m=config.training.coordinate_scale_m)
    data_seconds = time.perf_counter() - began
    row: dict[str, Any] = {
        **_identity(trial, provenance, started_at),
        "device": _device_name(device),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "device_trials": device_trials,
        "classes": list(parts.conditions) or None,
        "train_samples": len(parts.training.source.position),
        "validation_samples": len(parts.validation.condition),
        "test_samples": len(parts.test.condition),
        "fingerprints": parts.fingerprints,
        "workers": worker_count(),
        "data_seconds": data_seconds,
        "notes": data.note,
    }
    epochs: dict[str, Any] | None = None
    train_began = time.perf_counter()
    if trial.method in REFERENCES:
        reference = REFERENCES[trial.method](**dict(trial.config["objective"]))
        if isinstance(reference, ModelBased):
            channels = data.channels(config.system, config.split)
            reference.fit(channels.training, len(parts.conditions))
            row["train_seconds"] = time.perf_counter() - train_began
            validation, test = (
                Predictions.of(part, position[:, : part.position_m.shape[1]], condition)
                for part, (position, condition) in (
                    (parts.validation, reference.predict(channels.validation)),
                    (parts.test, reference.predict(channels.test)),
                )
            )
        else:
            reference.fit(parts.training.source, len(parts.conditions))
            row["train_seconds"] = time.perf_counter() - train_began
            validation, test = (
                Predictions.of(part, parts.frame.decode(position), condition)
                for part, (position, condition) in (
                    (part, reference.predict(part.fingerprint)) for part in (parts.validation, parts.test)
                )
            )
        row |= {
            "state": "done",
            "validation_rmse_m": rmse_m(validation.error_m),
            "validation_accuracy": accuracy(validation),
        }
    else:
        method, cost, acceleration = initialized_method(trial, len(parts.conditions), device)
        row["setup_seconds"] = time.perf_counter() - train_began
        train_began = time.perf_counter()
        outcome = yield from train(
            method,
            parts.training,
            parts.validation,
            parts.frame,
            config.training,
            seed=trial.seed,
            locates=trial.locates,
            checkpoints=checkpoints,
            key=trial.key,
        )
        best = outcome.best
        began, train_began = began - outcome.seconds_before, train_began - outcome.seconds_before
        row |= {
            "state": "diverged" if outcome.diverged else "done",
            "precision": acceleration.precision,
            "step": "fused" if acceleration.blocks == "fused" else outcome.step,
            "notes": "; ".join([*filter(None, [data.note]), *acceleration.notes, *outcome.notes]) or None,
            "train_seconds": time.perf_counter() - train_began,
            "validation_seconds": math.fsum(record.validation_seconds or 0.0 for record in outcome.epochs),
            "epochs": len(outcome.epochs),
            "best_epoch": best.epoch if best else None,
            "validation_rmse_m": best.validation_rmse_m if best else None,
            "validation_accuracy": best.validation_accuracy if best else None,
            "parameters": cost.parameters,
            "parameters_deployed": cost.parameters_deployed,
            "macs_paper": cost.macs_paper,
            "flops_batch": cost.flops_batch,
            "macs_per_sample": cost.macs_per_sample,
            "macs_deployed": cost.macs_deployed,
        }
        epochs = epoch_columns(outcome.epochs) if outcome.epochs else None
        if outcome.diverged:
            return TrialTables(_finish(row, began, device), epochs)
        # What a choice without target labels may look at: the source domain, and how sure the method is of the target.
        row |= {
            "source_rmse_m": rmse_m(predict(method, parts.source_check, parts.frame).error_m),
            "source_held_out": parts.source_held_out,
            "target_entropy": condition_entropy(method, parts.training.target.fingerprint),
        }
        # The one look at the test scenes.
        test = predict(method, parts.test, parts.frame)
    row |= _test_metrics(test, parts)
    return TrialTables(_finish(row, began, device), epochs, _error_columns(test, parts))


def check_data(trial: Trial, data: SiteData) -> None:
    """Whether a site is the data that a trial is of.

    Raises:
        DataError: it is not.
    """
    if data.site.data_hash != trial.data_hash:
        raise DataError(
            f"site {data.site.name!r} is not the data that the trial is of",
            where=str(data.site.folder),
            allowed=f"data_hash {trial.data_hash}",
            fix="copy the site to this machine anew, or install the same version of the project",
        )


def initialized_method(trial: Trial, conditions: int, device: torch.device) -> tuple[Method, Complexity, Acceleration]:
    """The network of a trial as it starts, on the device; what it costs, and how it is computed there.

    Args:
        trial: what is to be trained.
        conditions: number of propagation conditions of its data.
        device: where to train.

    Raises:
        StudyError: a user's method cannot be imported, or is not the code that the trial was asked for with.
    """
    config = trial.configuration
    shape = NetworkShape(
        fingerprint=fingerprint_shape(config.system),
        conditions=conditions,
        backbone=BACKBONES[config.network.preset],
    )
    torch.manual_seed(trial.seed)
    method = build_method(
        method_class(trial),
        shape,
        branches=config.branches,
        batch_statistics=config.network.batch_statistics,
        objective=dict(trial.config["objective"]),
    )
    cost = measure_complexity(method, config.training.batch_size)
    # channels_last halves a step on a CPU; on a GPU it is what the convolutions want too.
    method = method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return method, cost, accelerate(method, config.training.precision, device)


def failed_tables(trial: Trial, provenance: Provenance, state: str, error: str) -> TrialTables:
    """The tables of a trial that did not get to an end: its identity and why."""
    return TrialTables({**_identity(trial, provenance, datetime.now(UTC)), "state": state, "error": error})


def _identity(trial: Trial, provenance: Provenance, started_at: datetime) -> dict[str, Any]:
    # torch's version has a type of its own, which would make the driver import torch.
    return {**trial_identity(trial, provenance, started_at), "torch_version": str(torch.__version__)}


def _test_metrics(test: Predictions, parts: DomainData) -> dict[str, Any]:
    confusion = confusion_matrix(test, len(parts.conditions))
    recall = None
    if confusion is not None:
        # A class that the test scenes do not hold has no recall.
        recall = [
            float(confusion[i, i]) / total if (total := int(confusion[i].sum())) else math.nan
            for i in range(len(parts.conditions))
        ]
    return {
        "test_rmse_m": rmse_m(test.error_m),
        "test_mean_error_m": float(test.error_m.mean()),
        "test_median_error_m": float(test.error_m.quantile(0.5)),
        "test_p90_error_m": float(test.error_m.quantile(0.9)),
        "test_accuracy": accuracy(test),
        "test_recall": recall,
        "confusion": None if confusion is None else confusion.flatten().tolist(),
    }


def _error_columns(test: Predictions, parts: DomainData) -> dict[str, Any]:
    truth = parts.test.position_m.cpu()
    hat = test.condition_hat
    return {
        "scene": parts.test.scene.numpy(),
        "position": parts.test.index.numpy(),
        "x_m": truth[:, 0].numpy(),
        "y_m": truth[:, 1].numpy(),
        "x_hat_m": test.position_m[:, 0].numpy(),
        "y_hat_m": test.position_m[:, 1].numpy(),
        "error_m": test.error_m.float().numpy(),
        "condition": test.condition.to(torch.int8).numpy(),
        "condition_hat": (torch.full_like(test.condition, -1) if hat is None else hat).to(torch.int8).numpy(),
    }


def _finish(row: dict[str, Any], began: float, device: torch.device) -> dict[str, Any]:
    return {**row, "trial_seconds": time.perf_counter() - began, "peak_memory_mb": _peak_memory_mb(device)}


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Linux counts in KiB, and over the life of the process: a reused trial process never shows less than before.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
