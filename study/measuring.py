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
from typing import Any

import torch
from torch import Tensor

from models.model_based import ModelBased
from models.references import REFERENCES
from study.data.dataset import DomainData, EvaluationSet, LabelledSamples, SiteData, TrainingData, UnlabelledSamples
from study.data.synthesis import Fingerprints
from study.execution import check_data, initialized_method
from study.planning.observations import Quantity
from study.planning.work import Work
from study.spec.trial import Trial
from study.training import EVALUATION_BATCH, train

__all__ = ["Measured", "Measurement"]

# Quantity and its detail → single values.
Measured = dict[tuple[Quantity, str], list[float]]

# Steps of a measured epoch: enough that what an epoch does beside them hardly counts.
_STEPS = 4
# Samples of reference rows, whose time grows with their square.
_LABELLED, _PREDICTED = 1024, 256
_MODEL_SAMPLES = 256
# Measured epochs (the first one warms up): the fewest, and the most however fast they are.
_FEWEST, _MOST = 3, 50


class Measurement:
    """The parts of a trial, on the device of its data: first what is made once, then what is done over and over.

    Several processes make their measurements, wait for each other, and `run` them at the same time.

    Args:
        trial: one of those that the work is of.
        work: says whether fingerprints are kept, and how large they are.
        data: the site, with no memory for fingerprints: only those are made that are measured.

    Raises:
        StudyError: the trial cannot be run.
        torch.OutOfMemoryError, MemoryError: it needs more memory than there is.
    """

    def __init__(self, trial: Trial, work: Work, data: SiteData) -> None:
        check_data(trial, data)
        self._trial, self._work, self._data = trial, work, data
        self._found: Measured = defaultdict(list)
        config = trial.configuration
        self._parts = data.prepare(config.system, config.split, coordinate_scale_m=config.training.coordinate_scale_m)
        if work.key.trained:
            self._prepare_network()
        else:
            self._reference = _Reference(trial, work, data, self._parts, self._found)

    def _prepare_network(self) -> None:
        work, parts, found, device = self._work, self._parts, self._found, self._data.device
        _forget_peak(device)
        batch = work.key.batch
        source, target = parts.training.source, parts.training.target.fingerprint
        chosen = _drawn(len(source.position), batch * _STEPS, device)
        images = _made(source.fingerprint, chosen, work, found, device)
        others = _made(target, _drawn(len(target), batch * _STEPS, device), work, found, device)
        self._validation = _subset(parts.validation, EVALUATION_BATCH, work, found, device)
        self._training = TrainingData(
            LabelledSamples(images, source.position[chosen], source.condition[chosen]), UnlabelledSamples(others)
        )
        began = time.perf_counter()
        self._method, _, _ = initialized_method(self._trial, len(parts.conditions), device)
        found["setup_s", ""].append(time.perf_counter() - began)
        # What is held here is a part of the data: the rest of the peak is what a whole trial has, too.
        self._held_mb = work.paths_mb
        if not work.key.making:
            held = len(images) + len(others) + len(self._validation.fingerprint)
            self._held_mb += held * work.key.elements * 4 / 2**20

    def run(self, seconds: float) -> Measured:
        """Train, or predict, for about so long; slow steps take longer."""
        if not self._work.key.trained:
            self._reference.run(seconds)
            return dict(self._found)
        found, training, batch = self._found, self._training, self._work.key.batch
        settings = self._trial.configuration.training.model_copy(update={"epochs": _MOST + 1, "batch_size": batch})
        steps, evaluated = len(training.source.position) // batch, len(self._validation.condition)
        began = time.perf_counter()
        epochs = train(self._method, training, self._validation, self._parts.frame, settings, seed=self._trial.seed)
        for number, record in enumerate(epochs):
            looked = record.validation_seconds or 0.0
            if number:  # the first one warms up
                found["step_s", ""].append((record.seconds - looked) / steps)
                found["evaluation_s", ""].append(looked / evaluated)
            if number >= _FEWEST and time.perf_counter() - began > seconds:
                break
        epochs.close()
        found["base_memory_mb", ""].append(max(1.0, _peak_mb(self._data.device) - self._held_mb))
        return dict(found)


class _Reference:
    """A reference row: fitted to some samples, asked for some others."""

    def __init__(self, trial: Trial, work: Work, data: SiteData, parts: DomainData, found: Measured) -> None:
        self._found, self._device, self._conditions = found, data.device, len(parts.conditions)
        self._reference = REFERENCES[trial.method](**dict(trial.config["objective"]))
        self._compares = work.key.method == "KNN"
        config, device = trial.configuration, data.device
        if isinstance(self._reference, ModelBased):
            channels = data.channels(config.system, config.split)
            chosen = _drawn(len(channels.training.position_m), _MODEL_SAMPLES, device)
            self._asked: Any = channels.test[_drawn(len(channels.test), _MODEL_SAMPLES, device)]
            self._labelled: Any = channels.training._replace(
                csi=channels.training.csi[chosen],
                position_m=channels.training.position_m[chosen],
                condition=channels.training.condition[chosen],
            )
        else:
            source = parts.training.source
            chosen = _drawn(len(source.position), _LABELLED, device)
            images = _made(source.fingerprint, chosen, work, found, device)
            self._labelled = LabelledSamples(images, source.position[chosen], source.condition[chosen])
            self._asked = _subset(parts.test, _PREDICTED, work, found, device).fingerprint
        self._labels = len(chosen)

    def run(self, seconds: float) -> None:
        """Measure, for about so long."""
        pairs = len(self._asked) * (self._labels if self._compares else 1)
        began = time.perf_counter()
        for number in range(_MOST + 1):
            start = time.perf_counter()
            self._reference.fit(self._labelled, self._conditions)
            fitted = time.perf_counter()
            self._reference.predict(self._asked)
            _wait_for(self._device)
            now = time.perf_counter()
            if number:  # the first call makes tables and takes memory that later ones find
                self._found["fit_s", ""].append((fitted - start) / self._labels)
                self._found["predict_s", ""].append((now - fitted) / pairs)
            if number >= _FEWEST and now - began > seconds:
                break


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
