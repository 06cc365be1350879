"""Seconds and memory of a trial's parts, measured in this process with a few steps of the real training loop.

No Ray here: `study.calibrating` brings this to every kind of machine.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from models.model_based import ModelBased
from models.references import REFERENCES
from study.data.dataset import DomainData, EvaluationSet, LabelledSamples, SiteData, TrainingData, UnlabelledSamples
from study.data.synthesis import Fingerprints
from study.execution import initialized_method
from study.planning.observations import Quantity
from study.planning.work import Work
from study.spec.trial import Trial
from study.training import train

__all__ = ["Measured", "measure"]

# Quantity and its detail → single values.
Measured = dict[tuple[Quantity, str], list[float]]

# Steps of a measured epoch: enough that what an epoch does beside them hardly counts.
_STEPS = 4
# Samples of a measured evaluation, and of reference rows, whose time grows with their square.
_EVALUATED = 512
_LABELLED, _PREDICTED = 1024, 256
_MODEL_SAMPLES = 64
# Measured epochs (the first one warms up): the fewest, and the most however fast they are.
_FEWEST, _MOST = 3, 50


def measure(trial: Trial, work: Work, data: SiteData, *, seconds: float) -> Measured:
    """Measure the parts of a trial on the device of its data.

    Args:
        trial: one of those that the work is of.
        work: says whether fingerprints are kept, and how large they are.
        data: the site, with no memory for fingerprints: only those are made that are measured.
        seconds: how long to go on; slow steps take longer.

    Raises:
        StudyError: the trial cannot be run.
        torch.OutOfMemoryError, MemoryError: it needs more memory than there is.
    """
    config = trial.configuration
    parts = data.prepare(config.system, config.split, coordinate_scale_m=config.training.coordinate_scale_m)
    found: Measured = defaultdict(list)
    if not work.key.trained:
        _measure_reference(trial, work, data, parts, found)
        return dict(found)
    _forget_peak(data.device)
    batch = work.key.batch
    chosen = _drawn(len(parts.training.source.position), batch * _STEPS, data.device)
    source = parts.training.source
    images = _made(source.fingerprint, chosen, work, found, data.device)
    target = parts.training.target.fingerprint
    others = _made(target, _drawn(len(target), batch * _STEPS, data.device), work, found, data.device)
    validation = _subset(parts.validation, _EVALUATED, work, found, data.device)
    training = TrainingData(
        LabelledSamples(images, source.position[chosen], source.condition[chosen]), UnlabelledSamples(others)
    )
    began = time.perf_counter()
    method, _ = initialized_method(trial, len(parts.conditions), data.device)
    found["setup_s", ""].append(time.perf_counter() - began)
    settings = config.training.model_copy(update={"epochs": _MOST + 1, "batch_size": batch})
    steps, evaluated = len(chosen) // batch, len(validation.condition)
    began = time.perf_counter()
    epochs = train(method, training, validation, parts.frame, settings, seed=trial.seed)
    for number, record in enumerate(epochs):
        looked = record.validation_seconds or 0.0
        if number:
            found["step_s", ""].append((record.seconds - looked) / steps)
            found["evaluation_s", ""].append(looked / evaluated)
        if number >= _FEWEST and time.perf_counter() - began > seconds:
            break
    epochs.close()
    # What was held here was a part of the data: the rest of the peak is what a whole trial has, too.
    held_mb = work.paths_mb
    if not work.key.making:
        held_mb += sum(len(item) for item in (images, others, validation.fingerprint)) * work.key.elements * 4 / 2**20
    found["base_memory_mb", ""].append(max(1.0, _peak_mb(data.device) - held_mb))
    return dict(found)


def _measure_reference(trial: Trial, work: Work, data: SiteData, parts: DomainData, found: Measured) -> None:
    reference = REFERENCES[trial.method](**dict(trial.config["objective"]))
    device, config = data.device, trial.configuration
    began = time.perf_counter()
    if isinstance(reference, ModelBased):
        channels = data.channels(config.system, config.split)
        chosen = _drawn(len(channels.training.position_m), _MODEL_SAMPLES, device)
        asked = channels.test[_drawn(len(channels.test), _MODEL_SAMPLES, device)]
        labelled = channels.training._replace(
            csi=channels.training.csi[chosen],
            position_m=channels.training.position_m[chosen],
            condition=channels.training.condition[chosen],
        )
        began = time.perf_counter()
        reference.fit(labelled, len(parts.conditions))
        fitted = time.perf_counter()
        reference.predict(asked)
        pairs = len(asked)
    else:
        source = parts.training.source
        chosen = _drawn(len(source.position), _LABELLED, device)
        images = _made(source.fingerprint, chosen, work, found, device)
        test = _subset(parts.test, _PREDICTED, work, found, device)
        began = time.perf_counter()
        reference.fit(LabelledSamples(images, source.position[chosen], source.condition[chosen]), len(parts.conditions))
        fitted = time.perf_counter()
        reference.predict(test.fingerprint)
        pairs = len(test.condition) * (len(chosen) if work.key.method == "KNN" else 1)
    _wait_for(device)
    found["fit_s", ""].append((fitted - began) / len(chosen))
    found["predict_s", ""].append((time.perf_counter() - fitted) / pairs)


def _drawn(count: int, wanted: int, device: torch.device) -> Tensor:
    """Numbers of some samples, as scattered as in training."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(count, generator=generator)[:wanted].to(device)


def _subset(samples: EvaluationSet, wanted: int, work: Work, found: Measured, device: torch.device) -> EvaluationSet:
    chosen = _drawn(len(samples.condition), wanted, device)
    return EvaluationSet(
        _made(samples.fingerprint, chosen, work, found, device),
        samples.position_m[chosen],
        samples.condition[chosen],
        samples.scene[chosen.cpu()],
        samples.index[chosen.cpu()],
    )


def _made(
    fingerprints: Fingerprints, chosen: Tensor, work: Work, found: Measured, device: torch.device
) -> Fingerprints:
    """Some fingerprints as the trial would have them: made before training, or for each batch."""
    if work.key.making:
        return fingerprints.take(chosen)
    fingerprints[chosen[:1]]  # the first call sets libraries up
    _wait_for(device)
    began = time.perf_counter()
    made = fingerprints[chosen]
    _wait_for(device)
    detail = f"{work.making} {work.key.rows} {work.key.columns}"
    found["synthesis_s", detail].append((time.perf_counter() - began) / len(chosen))
    return Fingerprints(made, torch.arange(len(chosen), device=device))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    """Let the peak of memory start now; without Linux it stays that of the process's life."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
