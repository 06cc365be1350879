"""Training, for every method: one loop that reads top to bottom.

The data are on the device before the loop starts, and nothing inside an epoch waits for the device: losses are added
up there and read once per epoch.

Several workers of torch.distributed run the same loop on the same data and share each batch (see `models.parallel`).
"""

from __future__ import annotations

import io
import math
import os
import pickle
import time
import uuid
import zipfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from models.methods import Method
from models.parallel import shared_training_loss
from models.workers import from_first_worker, is_first_worker, worker_count
from study.data.dataset import EvaluationSet, Frame, TrainingData
from study.data.synthesis import Fingerprints
from study.errors import ResultsError, StudyError
from study.metrics import Predictions, accuracy, rmse_m
from study.optimizers import SGD, Adam
from study.spec.trial import TrainingSettings
from study.steps import CapturedStep, EagerStep, Step, can_be_captured

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "EpochRecord",
    "TrainingOutcome",
    "condition_entropy",
    "epoch_columns",
    "predict",
    "read_checkpoint",
    "train",
    "write_checkpoint",
]

# Samples per forward pass of an evaluation.
EVALUATION_BATCH = 1024
# A change of what a checkpoint holds needs a new number: older ones are then refused.
CHECKPOINT_FORMAT = 1


class CheckpointError(ResultsError):
    """A checkpoint that is missing, damaged or of something else: the trial can only start anew."""


@dataclass(frozen=True)
class EpochRecord:
    """What is known after an epoch; the epoch numbers start at 1. `validation_seconds` are a part of `seconds`."""

    epoch: int
    train_loss: float
    validation_rmse_m: float
    validation_accuracy: float | None
    learning_rate: float
    seconds: float
    log_var_position: float | None = None
    log_var_condition: float | None = None
    validation_seconds: float | None = None

    @property
    def diverged(self) -> bool:
        """Whether the loss or the validation error is not finite."""
        return not (math.isfinite(self.train_loss) and math.isfinite(self.validation_rmse_m))

    def beats(self, other: EpochRecord, *, locates: bool) -> bool:
        """Whether a trial is rather tested at this epoch than at another, by validation alone.

        Args:
            other: an earlier epoch.
            locates: whether coordinates are trained; otherwise their error says nothing, and accuracy decides.
        """
        if locates or self.validation_accuracy is None or other.validation_accuracy is None:
            return self.validation_rmse_m < other.validation_rmse_m
        return self.validation_accuracy > other.validation_accuracy


class Checkpoints(Protocol):
    """Where training starts from and what it leaves after an epoch.

    A state is a dictionary of tensors on the CPU and plain values, for `write_checkpoint` and `read_checkpoint`. It
    belongs to a trial and a kind of device, and to no number of workers. ``state["records"]`` are the epochs so far.
    """

    def load(self) -> Mapping[str, Any] | None:
        """The last saved state, None for a new start. The first worker is asked, and the others get its answer."""

    def epoch_finished(self, record: EpochRecord, state: Callable[[], dict[str, Any]]) -> None:
        """Called on every worker after each epoch, before its record is yielded.

        Args:
            record: of the epoch.
            state: copies the state now; any worker may call it, none has to.
        """


@dataclass(frozen=True)
class TrainingOutcome:
    """How training ended. The method holds the weights of the best epoch, unless it diverged.

    Attributes:
        best: the epoch with the lowest validation RMSE (of trials that do not locate: the highest validation
            accuracy), the earliest of equals; None if the first already diverged.
        epochs: all epochs, also those before a checkpoint.
        diverged: a loss or a validation error was not finite.
        seconds_before: what the epochs before the checkpoint took; 0 without one.
        step: how its steps were taken: ``eager``, or on a GPU ``captured``.
        notes: what was slower than it could be, and why.
    """

    best: EpochRecord | None
    epochs: list[EpochRecord]
    diverged: bool
    seconds_before: float = 0.0
    step: Literal["eager", "captured"] = "eager"
    notes: tuple[str, ...] = ()


def train(
    method: Method,
    data: TrainingData,
    validation: EvaluationSet,
    frame: Frame,
    settings: TrainingSettings,
    *,
    seed: int,
    locates: bool = True,
    checkpoints: Checkpoints | None = None,
    key: str = "",
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
        locates: see `EpochRecord.beats`.
        checkpoints: where to go on from; the epochs before are not yielded again.
        key: the trial's, which its checkpoints carry.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to something else.
    """
    source, target = data.source, data.target
    samples = source.position.shape[0]
    batch = min(settings.batch_size, samples)
    steps = samples // batch
    device = source.position.device
    order = torch.Generator(device=device).manual_seed(seed)
    optimizer = _optimizer(method, settings)
    schedule = _schedule(optimizer, settings, steps)
    identity = {"key": key, "method": method.name, "settings": settings.model_dump(mode="json"), "seed": seed}
    so_far = _Progress(method, optimizer, schedule, order, {"format": CHECKPOINT_FORMAT, **identity}, locates)
    if checkpoints is not None:
        so_far.go_on_from(checkpoints)
    seconds_before = so_far.seconds
    training_loss = method.training_loss if worker_count() == 1 else shared_training_loss(method)
    take_step: Step = EagerStep(method, training_loss, optimizer, data)
    if can_be_captured(method, device):
        take_step = CapturedStep(method, training_loss, optimizer, data, batch)

    while len(so_far.records) < settings.epochs and not so_far.diverged:
        began = time.perf_counter()
        epoch = len(so_far.records) + 1
        method.train()
        total = torch.zeros((), device=device)
        rate = float(optimizer.param_groups[0]["lr"])
        source_order = torch.randperm(samples, generator=order, device=device)
        target_order = _endless_order(target.fingerprint.shape[0], steps * batch, order, device)
        for step in range(steps):
            rows = slice(step * batch, (step + 1) * batch)
            progress = ((epoch - 1) * steps + step) / (settings.epochs * steps)
            total += take_step(source_order[rows], target_order[rows], progress)
            schedule.step()

        train_loss = float(total) / steps  # waits for the device: what follows is validation alone
        trained = time.perf_counter()
        predictions = predict(method, validation, frame)
        record = EpochRecord(
            epoch=epoch,
            train_loss=train_loss,
            validation_rmse_m=rmse_m(predictions.error_m),
            validation_accuracy=accuracy(predictions),
            learning_rate=rate,
            seconds=time.perf_counter() - began,
            validation_seconds=time.perf_counter() - trained,
            **{name: float(value) for name, value in method.learned_weights().items()},
        )
        # One worker decides which epoch is the best: another kind of processor may round to another.
        record = from_first_worker(record)
        so_far.add(record)
        if checkpoints is not None:
            checkpoints.epoch_finished(record, so_far.state)
        yield record

    if not so_far.diverged:
        method.load_state_dict(so_far.best_weights)
    captured = isinstance(take_step, CapturedStep) and take_step.failure is None
    notes: tuple[str, ...] = ()
    if isinstance(take_step, CapturedStep) and take_step.failure is not None:
        notes = (f"training was slower than it could be, as its steps could not be captured: {take_step.failure}",)
    return TrainingOutcome(
        so_far.best, so_far.records, so_far.diverged, seconds_before, "captured" if captured else "eager", notes
    )


def epoch_columns(records: Sequence[EpochRecord]) -> dict[str, list[Any]]:
    """Epochs as columns of their table."""
    return {item.name: [getattr(record, item.name) for record in records] for item in fields(EpochRecord)}


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


@torch.no_grad()
def condition_entropy(method: Method, samples: Fingerprints) -> float | None:
    """Mean entropy of the predicted conditions in nats; None without that task. No label is read.

    Small where the method is sure of what it says, right or wrong.
    """
    method.eval()
    total = torch.zeros((), dtype=torch.float64, device=next(method.parameters()).device)
    for images in samples.split(EVALUATION_BATCH):
        logits = method(images).condition_logits
        if logits is None:
            return None
        share = logits.double().log_softmax(dim=1)
        total -= (share.exp() * share).sum()
    return float(total) / len(samples)


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state, whole or not at all.

    Raises:
        ResultsError: it cannot be written (permissions, a full disk).
    """
    content = io.BytesIO()
    torch.save(dict(state), content)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ResultsError(
            f"the checkpoint cannot be written: {error.strerror or error}",
            where=str(path),
            allowed="a folder that this user can write to, with free space",
            fix="free some space, or choose another folder",
        ) from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state: tensors and plain values, and nothing in the file is ever executed.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # what torch.save writes; torch itself does not look at the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise _unusable("there is no checkpoint", where=str(path)) from None
    except pickle.UnpicklingError:  # torch's own text tells how to execute it nevertheless
        raise _unusable("the checkpoint holds more than tensors and plain values", where=str(path)) from None
    except Exception as error:  # a damaged archive makes its readers raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _unusable(f"the checkpoint is damaged: {reason}", where=str(path)) from None
    if not isinstance(state, dict):
        raise _unusable(f"the checkpoint holds a {type(state).__name__} and no state", where=str(path))
    return state


def _unusable(what: str, *, where: str | None = None, allowed: str | None = None) -> CheckpointError:
    return CheckpointError(
        what,
        where=where,
        allowed=allowed or "a checkpoint of this trial as it was written",
        fix="delete the checkpoint and run the study again: the trial then starts with its first epoch",
    )


@dataclass
class _Progress:
    """Everything that changes while a method trains.

    Attributes:
        identity: plain values that a checkpoint must share to be of this training.
        locates: see `EpochRecord.beats`.
        best, best_weights: the best epoch and its weights, those of the start while there is none.
        records: the epochs so far.
    """

    method: Method
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    order: torch.Generator
    identity: dict[str, Any]
    locates: bool
    best: EpochRecord | None = None
    best_weights: dict[str, Tensor] = field(init=False)
    records: list[EpochRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.identity["device"] = self.order.device.type  # random numbers differ
        self.best_weights = {name: value.clone() for name, value in self.method.state_dict().items()}

    @property
    def diverged(self) -> bool:
        return bool(self.records) and self.records[-1].diverged

    @property
    def seconds(self) -> float:
        return sum(record.seconds for record in self.records)

    def add(self, record: EpochRecord) -> None:
        """Add an epoch, whose weights the method has now."""
        self.records.append(record)
        if not record.diverged and (self.best is None or record.beats(self.best, locates=self.locates)):
            self.best = record
            self._keep_weights()

    def _keep_weights(self) -> None:
        for name, value in self.method.state_dict().items():
            self.best_weights[name].copy_(value)

    def state(self) -> dict[str, Any]:
        """A copy of everything, for a checkpoint."""
        device = self.order.device
        return _copied(
            {
                **self.identity,
                "weights": dict(self.method.state_dict()),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "order": self.order.get_state(),
                # For a method with random layers, such as dropout.
                "random": torch.get_rng_state(),
                "random_device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
                "best_epoch": self.best.epoch if self.best else None,
                "best_weights": self.best_weights,
                "records": [asdict(record) for record in self.records],
            }
        )

    def go_on_from(self, checkpoints: Checkpoints) -> None:
        """Take over the last saved state, if there is one; all workers the same, or the same error."""
        found: Mapping[str, Any] | StudyError | None = None
        if is_first_worker():
            try:
                found = checkpoints.load()
            except StudyError as error:
                found = error
        found = from_first_worker(found)
        if isinstance(found, StudyError):
            raise found
        if found is not None:
            self._restore(found)

    def _restore(self, state: Mapping[str, Any]) -> None:
        try:
            differ = [name for name, value in self.identity.items() if state[name] != value]
            if differ:
                raise _unusable(
                    "the checkpoint does not belong to this trial",
                    where=", ".join(f"{name}: {state[name]!r}" for name in differ),
                    allowed=", ".join(f"{name}: {self.identity[name]!r}" for name in differ),
                )
            self.records = [EpochRecord(**record) for record in state["records"]]
            if [record.epoch for record in self.records] != list(range(1, len(self.records) + 1)):
                raise ValueError("its epochs are not complete")
            best = state["best_epoch"]
            self.best = None if best is None else next(record for record in self.records if record.epoch == best)
            self.method.load_state_dict(state["best_weights"])
            self._keep_weights()
            self.method.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            if state["schedule"].keys() != self.schedule.state_dict().keys():
                raise ValueError("its schedule is another one")
            self.schedule.load_state_dict(state["schedule"])
            self.order.set_state(state["order"])
            torch.set_rng_state(state["random"])
            if self.order.device.type == "cuda":
                torch.cuda.set_rng_state(state["random_device"], self.order.device)
        except (AttributeError, IndexError, KeyError, RuntimeError, StopIteration, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise _unusable(f"the checkpoint does not fit the trial: {reason}") from None


def _copied(value: Any) -> Any:
    """Plain data with copies of its tensors on the CPU: training goes on, and a checkpoint may be written meanwhile."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value


def _optimizer(method: Method, settings: TrainingSettings) -> torch.optim.Optimizer:
    groups = method.parameter_groups(settings.weight_decay)
    if settings.optimizer == "adam":
        return Adam(groups, lr=settings.learning_rate, betas=(settings.momentum, 0.999), fused=True)
    return SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, fused=True)


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
