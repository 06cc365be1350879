"""Steps of training: the static step against the eager one; the captured one where there is a GPU."""

from __future__ import annotations

import copy

import pytest
import torch

from models.methods import DCNN, METHODS, Method, NetworkShape, build_method
from models.settings import BACKBONES
from study.data.dataset import LabelledSamples, TrainingData, UnlabelledSamples
from study.data.synthesis import Fingerprints
from study.spec.trial import TrainingSettings
from study.steps import CapturedStep, EagerStep, StaticStep, _causes, can_be_captured
from study.training import _optimizer, _schedule

SHAPE = NetworkShape((1, 16, 16), conditions=3, backbone=BACKBONES["small"])
SAMPLES, BATCH, STEPS = 96, 24, 8


def _data(device: str) -> TrainingData:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(2 * SAMPLES, 1, 16, 16, generator=draw).to(device)
    rows = torch.arange(SAMPLES, device=device)
    return TrainingData(
        LabelledSamples(
            Fingerprints(images, rows),
            torch.randn(SAMPLES, 2, generator=draw).to(device),
            torch.randint(3, (SAMPLES,), generator=draw).to(device),
        ),
        UnlabelledSamples(Fingerprints(images, rows + SAMPLES)),
    )


def _trained(method: Method, kind: type[EagerStep], settings: TrainingSettings, device: str) -> list[float]:
    """The losses of some steps."""
    method = copy.deepcopy(method).to(device)
    optimizer = _optimizer(method, settings)
    schedule = _schedule(optimizer, settings, STEPS)
    data = _data(device)
    extra = () if kind is EagerStep else (BATCH,)
    step = kind(method, method.training_loss, optimizer, data, *extra)
    draw = torch.Generator().manual_seed(1)
    losses = []
    for number in range(STEPS):
        source, target = (torch.randperm(SAMPLES, generator=draw)[:BATCH].to(device) for _ in range(2))
        losses.append(float(step(source, target, number / STEPS)))
        schedule.step()
    if isinstance(step, CapturedStep):
        assert step.failure is None
    return losses


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("name", list(METHODS))
def test_a_static_step_is_an_eager_one(name: str, optimizer: str, schedule: str) -> None:
    """Progress and rate in tensors: the losses are those of numbers, to the rounding of float32."""
    settings = TrainingSettings(optimizer=optimizer, schedule=schedule, epochs=1)  # type: ignore[arg-type]
    torch.manual_seed(0)
    method = build_method(name, SHAPE)
    static = _trained(method, StaticStep, settings, "cpu")
    assert static == pytest.approx(_trained(method, EagerStep, settings, "cpu"), rel=1e-4)
    assert len(set(static)) == STEPS


def test_only_steps_of_the_project_on_a_gpu_are_captured() -> None:
    class Own(DCNN):
        pass

    dcnn, own = build_method("DCNN", SHAPE), build_method(Own, SHAPE)
    assert not can_be_captured(dcnn, torch.device("cpu"))
    assert can_be_captured(dcnn, torch.device("cuda"))
    assert not can_be_captured(own, torch.device("cuda"))


def test_the_cause_of_a_failed_recording_is_told() -> None:
    """Its end fails, too, on the way out, and says nothing of the operation."""

    class Recording:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    with pytest.raises(RuntimeError, match="previous error") as caught, Recording():
        raise torch.OutOfMemoryError("CUDA out of memory")
    *_, first = _causes(caught.value)
    assert isinstance(first, torch.OutOfMemoryError)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("name", list(METHODS))
def test_a_captured_step_is_an_eager_one(name: str, optimizer: str) -> None:
    settings = TrainingSettings(optimizer=optimizer, schedule="one_cycle", epochs=1)  # type: ignore[arg-type]
    torch.manual_seed(0)
    method = build_method(name, SHAPE)
    captured = _trained(method, CapturedStep, settings, "cuda")
    assert captured == pytest.approx(_trained(method, EagerStep, settings, "cuda"), rel=1e-3)
