"""Fused blocks against the layers that they replace, and what happens where they cannot be used."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models import fused_block
from models.backbone import FeatureExtractor
from models.fused_block import FusedExtractor, fuse_blocks
from models.methods import METHODS, Method, NetworkShape, build_method
from models.settings import BACKBONES, Backbone

# A backbone of one block: what is compared is one block, and not how four of them enlarge a rounding.
ONE_BLOCK = replace(BACKBONES["small"], channels=(16,), kernels=(3,))


pytestmark = pytest.mark.usefixtures("one_thread")


def _extractor(
    channels: int, rows: int, columns: int, seed: int, *, planes: int = 2, backbone: Backbone = ONE_BLOCK
) -> FeatureExtractor:
    """One block with weights, biases and scales of both signs."""
    torch.manual_seed(seed)
    extractor = FeatureExtractor(replace(backbone, channels=(channels,)), (planes, rows, columns))
    norm = extractor[1]
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return extractor.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fused(extractor: FeatureExtractor) -> FusedExtractor:
    copied = copy.deepcopy(extractor)
    assert fuse_blocks(copied) is None
    assert isinstance(copied, FusedExtractor)
    return copied


def _step(extractor: FeatureExtractor, x: Tensor) -> dict[str, Tensor]:
    """Output, gradients and running statistics of one step whose loss weighs every output differently.

    The gradient of the input is among them if there are several planes: with one, the first block has none.
    """
    x = x.clone().requires_grad_(x.shape[1] > 1)
    omega = extractor.train()(x)
    # The same numbers in each type, with signs that change all the time: sums of them stay small on the way, so that
    # what a sum has lost to rounding is small beside it.
    weight = torch.arange(omega.numel(), dtype=torch.float64).mul(1.7).sin().float().to(omega.dtype).view_as(omega)
    (omega * weight).sum().backward()
    found = {"omega": omega.detach(), **dict(extractor.named_buffers())}
    if x.grad is not None:
        found["x"] = x.grad
    return found | {name: p.grad for name, p in extractor.named_parameters() if p.grad is not None}


@settings(deadline=None, max_examples=40)
@given(
    samples=st.integers(2, 9),
    rows=st.integers(2, 9),
    columns=st.integers(2, 9),
    channels=st.sampled_from([1, 7, 16, 33, 48]),
    seed=st.integers(0, 2**16),
)
def test_a_block_computes_what_its_layers_do(samples: int, rows: int, columns: int, channels: int, seed: int) -> None:
    """Against float64, the fused block is as near as the layers are, odd rows, columns and channels included."""
    layers = _extractor(channels, rows, columns, seed)
    _is_as_near_as_the_layers(layers, torch.rand(samples, 2, rows, columns))


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@settings(deadline=None, max_examples=60)
@given(
    samples=st.integers(2, 9),
    rows=st.integers(7, 12),
    columns=st.integers(7, 19),
    channels=st.sampled_from([1, 7, 16, 33]),
    kernel=st.integers(1, 6),
    padding=st.sampled_from(["same", "valid"]),
    mean=st.sampled_from([0.0, -1.0, 100.0]),
    seed=st.integers(0, 2**16),
)
def test_the_first_block_computes_what_its_layers_do(
    samples: int, rows: int, columns: int, channels: int, kernel: int, padding: Any, mean: float, seed: int
) -> None:
    """Of one plane, which is computed together with its convolution."""
    backbone = replace(ONE_BLOCK, kernels=(kernel,), padding=padding)
    layers = _extractor(channels, rows, columns, seed, planes=1, backbone=backbone)
    _is_as_near_as_the_layers(layers, mean + torch.rand(samples, 1, rows, columns))


def _is_as_near_as_the_layers(layers: FeatureExtractor, x: Tensor) -> None:
    exact = _step(copy.deepcopy(layers).double(), x.double())
    fused, plain = _step(_fused(layers), x), _step(copy.deepcopy(layers), x)
    assert fused.keys() == plain.keys() == exact.keys()
    # The bias of a convolution before a normalization has no effect: its gradient is rounding alone.
    for name in fused.keys() - {"0.bias"}:
        scale = exact[name].abs().max().double().clamp_min(1.0)
        error = (fused[name].double() - exact[name]).abs().max() / scale
        allowed = 10 * (plain[name].double() - exact[name]).abs().max() / scale + 1e-6
        assert error <= allowed, f"{name}: {error:g}, the layers {allowed:g}"


@pytest.mark.parametrize("planes", [1, 2])
def test_prediction_is_that_of_the_layers(planes: int) -> None:
    layers = _extractor(16, 9, 8, 0, planes=planes)
    x = torch.rand(6, planes, 9, 8)
    _step(layers, x)
    fused = _fused(layers)
    with torch.no_grad():
        torch.testing.assert_close(fused.eval()(x), layers.eval()(x), rtol=1e-5, atol=1e-6)


def test_a_gradient_in_evaluation_mode_is_that_of_the_layers() -> None:
    """Nobody needs it in training, so the blocks have none: the layers answer."""
    layers = _extractor(16, 8, 8, 1).eval()
    fused = _fused(layers).eval()
    x = torch.rand(4, 2, 8, 8, requires_grad=True)
    expected = torch.autograd.grad(layers(x).sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(fused(x).sum(), x)[0], expected)


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(bad: float, planes: int) -> None:
    fused = _fused(_extractor(16, 8, 8, 2, planes=planes))
    x = torch.rand(4, planes, 8, 8)
    x[1, 0, 3, 3] = bad
    assert fused.train()(x).isnan().any()
    with torch.no_grad():
        fused.get_parameter("0.weight")[0] = bad
        assert not fused.eval()(torch.rand(4, planes, 8, 8)).isfinite().all()


def test_a_large_mean_costs_no_digits() -> None:
    """Statistics of 1,000 ± 0.01: a sum of squares in float32 would have none left."""
    fused = _fused(_extractor(16, 8, 8, 3))
    norm = fused[1]
    assert isinstance(norm, nn.BatchNorm2d)
    x = 1000 + 0.01 * torch.randn(64, 16, 8, 8).to(memory_format=torch.channels_last)
    fused_block._block(x, norm.train())
    assert norm.running_var is not None
    exact = x.double().var(dim=(0, 2, 3))
    torch.testing.assert_close(norm.running_var.double(), 0.9 + 0.1 * exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm.running_var - 0.9, 0.1 * exact.float(), rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("planes", [1, 2])
def test_the_same_input_gives_the_same_bits(planes: int) -> None:
    layers, x = _extractor(16, 9, 9, 4, planes=planes), torch.rand(8, planes, 9, 9)
    first, second = _step(_fused(layers), x), _step(_fused(layers), x)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("branches", ["shared", "twin"])
@pytest.mark.parametrize("name", list(METHODS))
def test_a_step_of_a_method_is_that_of_its_layers(name: str, branches: str) -> None:
    """Loss and gradients at the same weights, on the way of ten steps, against float64.

    A value near a tie may pass through another element of its window, in the layers, too: the bound allows for that.
    """
    shape = NetworkShape((1, 16, 16), conditions=3, backbone=BACKBONES["small"])
    torch.manual_seed(0)
    layers = build_method(name, shape, branches=branches).to(memory_format=torch.channels_last)  # type: ignore[call-overload,arg-type]
    fused, exact = copy.deepcopy(layers), copy.deepcopy(layers).double()
    assert fuse_blocks(fused) is None
    assert list(fused.state_dict()) == list(layers.state_dict())
    optimizer = torch.optim.SGD(layers.parameters(), lr=1e-3)
    for step in range(10):
        fused.load_state_dict(layers.state_dict())
        exact.load_state_dict(layers.state_dict())
        (loss, gradient), (exact_loss, exact_gradient) = _loss(fused, step), _loss(exact, step)
        assert loss == pytest.approx(exact_loss, rel=1e-4)
        assert (gradient - exact_gradient).norm() < 0.1 * exact_gradient.norm()
        _loss(layers, step)
        optimizer.step()


def _loss(method: Method, step: int) -> tuple[float, Tensor]:
    """Loss and gradients of a golden step, which stay in the method."""
    source, target = golden.batches(step, next(method.parameters()).dtype)
    method.zero_grad()
    loss = method.train().training_loss(source, target if method.reads_target else None, step / 10)
    loss.backward()
    return float(loss.detach()), torch.cat(
        [p.grad.flatten().double() for p in method.parameters() if p.grad is not None]
    )


def test_bfloat16_blocks_round_where_bfloat16_layers_do() -> None:
    """The blocks on bfloat16 input: near float64 within what eight bits of a value leave."""
    layers = _extractor(16, 9, 8, 5)
    norm = layers[1]
    assert isinstance(norm, nn.BatchNorm2d)
    x = torch.randn(8, 16, 9, 8).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    y = fused_block._block(x, norm.train())
    exact_x = x.detach().double().requires_grad_()
    exact = nn.Sequential(copy.deepcopy(norm).double().train(), nn.MaxPool2d(2), nn.ReLU())(exact_x)
    torch.testing.assert_close(y.double(), exact, rtol=2**-7, atol=2**-7)
    weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).sin().view(y.shape)
    (y.double() * weight).sum().backward()
    (exact * weight).sum().backward()
    assert x.grad is not None
    assert exact_x.grad is not None
    # A rounded maximum may be another value of its window: few may differ, none by more than a gradient.
    close = (x.grad.double() - exact_x.grad).abs() <= 2**-6 * exact_x.grad.abs().max()
    assert close.double().mean() > 0.99


def test_a_subclass_of_the_extractor_is_left_alone() -> None:
    class Own(FeatureExtractor):
        pass

    own = Own(ONE_BLOCK, (1, 8, 8))
    assert fuse_blocks(own) is None
    assert type(own) is Own


def test_other_layers_and_listeners_are_left_alone() -> None:
    """The blocks would compute what the layers no longer say, and nobody would hear of it."""

    def changed(how: str) -> FeatureExtractor:
        extractor = _extractor(16, 8, 8, 0)
        if how == "activation":
            extractor[3] = nn.GELU()
        elif how == "pooling":
            extractor[2] = nn.MaxPool2d(3)
        elif how == "statistics":
            extractor[1] = nn.BatchNorm2d(16, track_running_stats=False)
        elif how == "hook":
            extractor[1].register_forward_hook(lambda *_: None)
        else:
            extractor.insert(4, nn.Dropout())
        return extractor

    for how in ("activation", "pooling", "statistics", "hook", "more"):
        extractor = changed(how)
        assert fuse_blocks(extractor) is None
        assert type(extractor) is FeatureExtractor, how


def test_a_normalization_that_is_kept_fixed_in_training_has_its_gradient() -> None:
    layers = _extractor(16, 8, 8, 6).train()
    fused = _fused(layers).train()
    for extractor in (layers, fused):
        extractor[1].eval()
    x = torch.rand(4, 2, 8, 8)
    for extractor in (layers, fused):
        extractor(x).sum().backward()
    torch.testing.assert_close(fused.get_parameter("0.weight").grad, layers.get_parameter("0.weight").grad)


def test_a_penalty_on_a_gradient_trains_as_with_layers() -> None:
    """The gradient of a gradient, which methods of a user's own may ask for."""
    layers = _extractor(16, 8, 8, 7).double()
    x = torch.rand(6, 16, 8, 8, dtype=torch.float64).float()
    norm = layers.float()[1]
    assert isinstance(norm, nn.BatchNorm2d)
    found = []
    for block in (lambda v: fused_block._block(v, norm.train()), nn.Sequential(norm, nn.MaxPool2d(2), nn.ReLU())):
        norm.zero_grad()
        start = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(block(start).square().sum(), start, create_graph=True)
        slope.square().sum().backward()
        assert norm.weight.grad is not None
        assert start.grad is not None
        found.append((norm.weight.grad.clone(), start.grad))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def test_the_gradient_of_a_gradient_of_the_first_block_is_that_of_the_layers() -> None:
    layers = _extractor(16, 9, 8, 8, planes=1)
    x = torch.rand(6, 1, 9, 8)
    found = []
    for extractor in (_fused(layers).train(), copy.deepcopy(layers).train()):
        slopes = torch.autograd.grad(extractor(x).square().sum(), list(extractor.parameters())[:1], create_graph=True)
        slopes[0].square().sum().backward()
        found.append([p.grad for name, p in extractor.named_parameters() if name != "0.bias"])
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None
        assert theirs is not None
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def test_a_plane_may_lie_in_memory_as_it_likes() -> None:
    """Turned, or every other value of a larger one: the C code reads rows one after the other."""
    fused = _fused(_extractor(16, 9, 8, 11, planes=1))
    everything = torch.rand(6, 1, 16, 9)
    turned = everything[:, :, ::2].transpose(2, 3)
    for norm_is_training in (True, False):
        fused.train(norm_is_training)
        with torch.no_grad():
            assert torch.equal(fused(turned), fused(turned.contiguous()))


def test_a_plane_whose_gradient_is_asked_for_has_one() -> None:
    """Such as for a map of what in a fingerprint a prediction rests on: the convolution answers."""
    layers = _extractor(16, 9, 8, 9, planes=1)
    found = []
    for extractor in (_fused(layers).train(), copy.deepcopy(layers).train()):
        x = torch.linspace(0, 1, 3 * 72).view(3, 1, 9, 8).sin().requires_grad_()
        extractor(x).square().sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_the_first_block_in_bfloat16_is_the_exact_one_rounded() -> None:
    layers = _extractor(16, 9, 8, 10, planes=1)
    x = torch.rand(8, 1, 9, 8)
    fused = copy.deepcopy(layers)
    assert fuse_blocks(fused, torch.bfloat16) is None
    fused.autocast_dtype = torch.bfloat16
    ours, exact = _step(fused, x), _step(layers.double(), x.double())
    torch.testing.assert_close(ours["omega"].double(), exact["omega"], rtol=2**-7, atol=2**-5)
    for name in ("0.weight", "1.weight", "1.bias"):
        assert (ours[name].double() - exact[name]).norm() < 0.05 * exact[name].norm(), name


@pytest.mark.parametrize(
    "shape", [(4, 2, 16, 16), (4, 1, 1, 30), (4, 1, 3, 4), (0, 1, 16, 16), (1, 1, 1, 1), (1, 16, 16)]
)
def test_what_the_blocks_cannot_take_is_answered_by_the_layers(shape: tuple[int, ...]) -> None:
    """Other planes, nothing to pool, no samples: the same error or the same numbers, and statistics as they were."""
    layers = FeatureExtractor(BACKBONES["paper"], (1, 61, 61))
    answers = []
    for extractor in (_fused(layers).train(), copy.deepcopy(layers).train()):
        try:
            answer: Any = extractor(torch.rand(shape)).shape
        except (RuntimeError, ValueError) as error:
            answer = str(error)
        answers.append((answer, [value.tolist() for value in extractor.buffers()]))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("place", range(4))
def test_what_is_not_a_number_is_in_the_output_where_the_layers_have_it(training: bool, place: int) -> None:
    """Wherever it is in a window: pooling lets it through."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(20).train(training)
    x = torch.rand(3, 20, 4, 4)
    x[1, ::3, 2 + place // 2, place % 2] = float("nan")
    layers = nn.Sequential(norm, nn.MaxPool2d(2), nn.ReLU())
    with torch.no_grad():
        ours, theirs = fused_block._block(x, norm), layers(x)
    assert theirs.isnan().any()
    assert torch.equal(ours.isnan(), theirs.isnan())


def test_the_variance_of_the_first_block_keeps_its_digits_where_taps_cancel() -> None:
    """A level of each sample that no kernel sees, and that is tens of thousands times what they see."""
    torch.manual_seed(0)
    one_block = replace(BACKBONES["paper"], channels=(16,), kernels=(6,))
    layers = FeatureExtractor(one_block, (1, 33, 40))
    with torch.no_grad():
        weight = layers.get_parameter("0.weight")
        weight.copy_(weight / weight.std() * 0.3)
        weight -= weight.mean(dim=(1, 2, 3), keepdim=True)
        x = 1000 * (2 * torch.rand(32, 1, 1, 1) - 1) + 0.03 * torch.randn(32, 1, 33, 40)
        ours = _fused(layers).train()(x).double()
        exact = copy.deepcopy(layers).double().train()(x.double())
    assert (ours - exact).norm() < 5e-3 * exact.norm()


def test_one_value_has_no_variance() -> None:
    with pytest.raises(ValueError, match="more than 1 value"):
        fused_block._block(torch.rand(1, 4, 1, 1), nn.BatchNorm2d(4).train())


def test_with_several_threads_the_layers_stay() -> None:
    torch.set_num_threads(2)
    extractor = _extractor(16, 8, 8, 0)
    reason = fuse_blocks(extractor)
    assert reason is not None
    assert "threads" in reason
    assert type(extractor) is FeatureExtractor


BROKEN = """
import os, sys, torch
torch.set_num_threads(1)
from models.acceleration import accelerate
from models.methods import NetworkShape, build_method
from models.settings import BACKBONES
method = build_method("DCNN", NetworkShape((1, 16, 16), backbone=BACKBONES["small"]))
found = accelerate(method, "float32", torch.device("cpu"))
assert method(torch.rand(2, 1, 16, 16)).position.shape == (2, 2)
print(found.blocks, *found.notes)
"""


def test_a_library_without_the_functions_is_not_used(tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(
        '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\nexec cc -shared -fPIC -x c /dev/null -o "$2"\n'
    )
    compiler.chmod(0o755)
    run = subprocess.run(
        [sys.executable, "-c", BROKEN],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "CC": str(compiler),
             "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert run.stdout.startswith("layers ")
    assert "lacks statistics" in run.stdout


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"CC": "", "PATH": "/nowhere"}, "there is no C compiler"),
        ({"CC": "/nowhere/cc"}, "compiler /nowhere/cc of $CC is not there"),
        ({"CC": "false"}, "failed"),
        ({"CC": "true"}, "cannot be used"),
    ],
    ids=["none", "missing", "fails", "makes nothing"],
)
def test_without_a_working_compiler_the_layers_are_used_and_it_is_said(environment: dict[str, str], words: str) -> None:
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", BROKEN],
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert run.stdout.startswith("layers ")
    assert words in run.stdout
