"""Several workers compute what one does: real processes, gloo, float64."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from worker_group import run_workers

from models import precision
from models.acceleration import accelerate
from models.backbone import FeatureExtractor
from models.fused_block import fuse_blocks
from models.methods import METHODS, LabelledBatch, Method, NetworkShape, UnlabelledBatch, build_method
from models.parallel import share_batches, shared_training_loss
from models.precision import set_precision
from models.settings import BACKBONES, METHOD_SETTINGS
from models.workers import worker_count

SHAPE = NetworkShape((1, 16, 16), conditions=3, backbone=BACKBONES["small"])
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{f"{name}-shared": (name, "shared", {}) for name in METHODS},
    **{f"{name}-twin": (name, "twin", {}) for name, item in METHOD_SETTINGS.items() if item.twin},
    # The target branch is unused, and only the regularization reaches it, or nothing does.
    "MDA-no-transfer": ("MDA", "twin", {"knowledge_transfer": False}),
    "HDA-unused-branch": ("HDA", "twin", {"knowledge_transfer": False, "weight_regularization": 0.0}),
}
SAMPLES, STEPS = 11, 4  # no number of workers divides the batch
FUSED = ("DCNN-shared", "HDA-shared", "HDA-twin")

Arrays = dict[str, NDArray[Any]]


def _batches(seed: int, samples: int = SAMPLES) -> tuple[LabelledBatch, UnlabelledBatch]:
    draw = torch.Generator().manual_seed(seed)
    return (
        LabelledBatch(
            torch.rand(samples, *SHAPE.fingerprint, generator=draw, dtype=torch.float64),
            torch.randn(samples, 2, generator=draw, dtype=torch.float64),
            torch.randint(3, (samples,), generator=draw),
        ),
        UnlabelledBatch(torch.rand(samples, *SHAPE.fingerprint, generator=draw, dtype=torch.float64)),
    )


def _method(variant: str) -> Method:
    name, branches, objective = VARIANTS[variant]
    torch.manual_seed(0)
    method = build_method(name, SHAPE, branches=branches, objective=objective)  # type: ignore[arg-type]
    return method.double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _plain(tensors: Any) -> Arrays:
    # A copy: numpy would share memory with weights that change.
    return {name: value.detach().numpy().copy() for name, value in tensors}


def _gradients(method: Method) -> Arrays:
    return _plain((name, p.grad) for name, p in method.named_parameters() if p.grad is not None)


def _trained(variant: str) -> tuple[Arrays, Arrays, Arrays]:
    """Gradients of the first step, all weights and statistics after the last, and predictions then."""
    method = _method(variant)
    loss_of = method.training_loss if worker_count() == 1 else shared_training_loss(method)
    # Not Adam: a bias before a batch normalization has no gradient but rounding, which Adam would make as large as any.
    optimizer = torch.optim.SGD(method.parameter_groups(1e-4), lr=1e-2, momentum=0.9)
    first: Arrays = {}
    for step in range(STEPS):
        source, target = _batches(step)
        optimizer.zero_grad(set_to_none=True)
        loss_of(source, target if method.reads_target else None, 0.5).backward()
        first = first or _gradients(method)
        optimizer.step()
    state = _plain(method.state_dict().items())
    method.eval()
    with torch.no_grad():
        prediction = method(_batches(99)[0].fingerprint)
    return first, state, {"position": prediction.position.numpy()}


class _Backwards(nn.Module):
    """A network of a user: layers before the extractor, the extractor twice, and dropout after it."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1))
        self.extractor = self.again = FeatureExtractor(SHAPE.backbone, SHAPE.fingerprint)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(self.extractor.features, 2))

    def training_loss(self, source: LabelledBatch, target: UnlabelledBatch, progress: float) -> Tensor:
        one = self.head(self.extractor(self.before(source.fingerprint)))
        two = self.head(self.again(self.before(target.fingerprint[:1])))
        return (one - source.position).square().mean() + two.square().mean() * progress


def _own_network() -> tuple[Arrays, Arrays]:
    """Gradients and statistics of one step; a part of it has one row, fewer than there are workers."""
    torch.manual_seed(0)
    network = _Backwards().double()
    loss_of = network.training_loss if worker_count() == 1 else shared_training_loss(network)  # type: ignore[arg-type]
    torch.manual_seed(1)
    loss_of(*_batches(0), 0.5).backward()
    return _gradients(network), _plain(network.named_buffers())  # type: ignore[arg-type]


def _fused(variant: str, samples: int) -> tuple[Arrays, Arrays]:
    """Gradients and statistics of one step with fused blocks, in float32."""
    method = _method(variant).float()
    assert fuse_blocks(method) is None
    loss_of = method.training_loss if worker_count() == 1 else shared_training_loss(method)
    source, target = _batches(0, samples)
    source = LabelledBatch(source.fingerprint.float(), source.position.float(), source.condition)
    loss_of(source, UnlabelledBatch(target.fingerprint.float()) if method.reads_target else None, 0.5).backward()
    # A bias before a batch normalization has no gradient but rounding.
    gradients = {
        name: value for name, value in _gradients(method).items() if not re.search(r"\.(0|4|8|12)\.bias", name)
    }
    return gradients, _plain(method.named_buffers())


def _in_bfloat16(blocks: str) -> tuple[float, float, Arrays]:
    """Loss, norm of the gradient and statistics of one step with convolutions in bfloat16."""
    method = _method("HDA-shared").float()
    set_precision(method, "bfloat16")
    if blocks == "fused":
        assert fuse_blocks(method, torch.bfloat16) is None
    loss_of = method.training_loss if worker_count() == 1 else shared_training_loss(method)
    source, target = _batches(0)
    labelled = LabelledBatch(source.fingerprint.float(), source.position.float(), source.condition)
    loss = loss_of(labelled, UnlabelledBatch(target.fingerprint.float()), 0.5)
    loss.backward()
    whole = float(np.linalg.norm([np.linalg.norm(value) for value in _gradients(method).values()]))
    return float(loss.detach()), whole, _plain(method.named_buffers())


def _with_one_that_cannot(folder: str) -> tuple[str, str, tuple[str, ...], float]:
    """How workers compute if the second one has neither a compiler nor bfloat16, and that they do."""
    torch.set_num_threads(1)
    flags = {"avx512_bf16"}
    if dist.get_rank() == 1:
        os.environ["CC"] = "false"
        os.environ["XDG_CACHE_HOME"] = folder
        flags = set()
    precision.processor_flags = lambda: flags  # of the machine that the worker is said to be on
    method = _method("HDA-shared").float()
    found = accelerate(method, "bfloat16", torch.device("cpu"))
    source, target = _batches(0)
    labelled = LabelledBatch(source.fingerprint.float(), source.position.float(), source.condition)
    loss = shared_training_loss(method)(labelled, UnlabelledBatch(target.fingerprint.float()), 0.5)
    return found.precision, found.blocks, found.notes, float(loss.detach())


def _everything() -> dict[str, tuple[Arrays, ...]]:
    torch.set_num_threads(1)  # fused blocks are of one thread
    return {
        **{variant: _trained(variant) for variant in VARIANTS},
        "own network": _own_network(),
        **{f"fused {variant} {samples}": _fused(variant, samples) for variant in FUSED for samples in (SAMPLES, 2)},
    }


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[Arrays, ...]]:
    return _everything()


@pytest.fixture(scope="module", params=[2, 3])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_workers(request.param, tmp_path_factory.mktemp("workers"), _everything)


def _assert_close(got: Arrays, wanted: Arrays) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*VARIANTS, "own network"])
def test_workers_have_the_gradients_weights_and_statistics_of_one(
    case: str, alone: dict[str, tuple[Arrays, ...]], together: Any
) -> None:
    for worker in together:
        for got, wanted in zip(worker[case], alone[case], strict=True):
            _assert_close(got, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [SAMPLES, 2], ids=["all", "fewer than workers"])
@pytest.mark.parametrize("variant", FUSED)
def test_workers_with_fused_blocks_have_the_gradients_and_statistics_of_one(
    variant: str, samples: int, alone: dict[str, tuple[Arrays, ...]], together: Any
) -> None:
    case = f"fused {variant} {samples}"
    for worker in together:
        for got, wanted in zip(worker[case], alone[case], strict=True):
            assert got.keys() == wanted.keys()
            # Of two samples the heads' normalization leaves only signs, and gradients that cancel: in float32 layers,
            # too, are off by 2e-4 there.
            bound = 1e-3 if samples == 2 else 1e-4
            whole = np.linalg.norm([np.linalg.norm(value) for value in wanted.values()])
            for name, value in wanted.items():
                error = np.linalg.norm(got[name].astype(float) - value)
                assert error <= bound * whole, f"{name}: {error:g} of {np.linalg.norm(value):g} in {whole:g}"


@pytest.mark.slow
@pytest.mark.parametrize("blocks", ["layers", "fused"])
def test_workers_in_bfloat16_have_what_one_has(blocks: str, tmp_path: Path, one_thread: None) -> None:
    loss, gradient, buffers = _in_bfloat16(blocks)
    for got_loss, got_gradient, got_buffers in run_workers(2, tmp_path, _in_bfloat16, blocks):
        assert got_loss == pytest.approx(loss, rel=0.02)
        assert got_gradient == pytest.approx(gradient, rel=0.05)
        for name, value in buffers.items():
            np.testing.assert_allclose(got_buffers[name], value, rtol=0.02, atol=0.02, err_msg=name)


@pytest.mark.slow
def test_what_one_worker_lacks_none_uses(tmp_path: Path) -> None:
    """What workers exchange depends on how they compute: they would wait for each other for ever."""
    first, second = run_workers(2, tmp_path, _with_one_that_cannot, str(tmp_path / "cache"))
    assert first == second
    precision_, blocks, notes, loss = first
    assert (precision_, blocks) == ("float32", "layers")
    assert "no instructions for bfloat16" in notes[0]
    assert "compiler" in notes[1]
    assert math.isfinite(loss)


@pytest.mark.slow
def test_workers_are_equal_to_the_last_bit(together: Any) -> None:
    first, *others = together
    for other in others:
        for case, parts in first.items():
            for mine, theirs in zip(parts, other[case], strict=True):
                for name, value in mine.items():
                    assert np.array_equal(value, theirs[name]), (case, name)


@pytest.mark.slow
def test_an_unused_branch_gets_no_gradient(together: Any) -> None:
    for worker in together:
        assert not any(name.startswith("target_branch") for name in worker["HDA-unused-branch"][0])


def test_sharing_keeps_keys_weights_and_what_one_worker_computes() -> None:
    plain, shared = _method("HDA-twin"), _method("HDA-twin")
    parameters = list(shared.parameters())
    share_batches(shared)
    share_batches(shared)  # once more changes nothing
    assert list(shared.state_dict()) == list(plain.state_dict())
    assert all(mine is theirs for mine, theirs in zip(shared.parameters(), parameters, strict=True))
    source, target = _batches(0)
    assert shared.training_loss(source, target, 0.5) == plain.training_loss(source, target, 0.5)
    plain.load_state_dict(shared.state_dict())
