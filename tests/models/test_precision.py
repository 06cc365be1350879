"""Arithmetic of the feature extractors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.acceleration import accelerate
from models.fused_block import fuse_blocks
from models.methods import METHODS, LabelledBatch, NetworkShape, UnlabelledBatch, build_method
from models.precision import processor_flags, set_precision, why_unavailable
from models.settings import BACKBONES, Precision

CPU = torch.device("cpu")
SHAPE = NetworkShape((1, 16, 16), conditions=3, backbone=BACKBONES["small"])


pytestmark = pytest.mark.usefixtures("one_thread")


def _batches() -> tuple[LabelledBatch, UnlabelledBatch]:
    draw = torch.Generator().manual_seed(0)
    return (
        LabelledBatch(
            torch.rand(64, 1, 16, 16, generator=draw),
            torch.randn(64, 2, generator=draw),
            torch.randint(3, (64,), generator=draw),
        ),
        UnlabelledBatch(torch.rand(64, 1, 16, 16, generator=draw)),
    )


@pytest.mark.parametrize("fused", [False, True], ids=["layers", "fused"])
@pytest.mark.parametrize("name", list(METHODS))
def test_bfloat16_gives_nearly_the_loss_and_gradients_of_float32(name: str, fused: bool) -> None:
    source, target = _batches()
    found = []
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        torch.manual_seed(0)
        method = build_method(name, SHAPE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        set_precision(method, precision)
        if fused:
            assert fuse_blocks(method, torch.bfloat16 if precision == "bfloat16" else torch.float32) is None
        loss = method.training_loss(source, target if method.reads_target else None, 0.5)
        loss.backward()
        assert loss.dtype == torch.float32
        assert all(p.grad is None or p.grad.dtype == p.dtype == torch.float32 for p in method.parameters())
        gradient = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
        found.append((float(loss.detach()), gradient))
    (exact, gradient), (rounded, other) = found
    assert rounded == pytest.approx(exact, rel=0.02)
    # Eight bits of a value: the direction of a step stays.
    assert torch.nn.functional.cosine_similarity(gradient, other, dim=0) > 0.9


def test_predictions_are_float32_and_use_the_precision() -> None:
    torch.manual_seed(0)
    method = build_method("HDA", SHAPE).eval()
    images = _batches()[0].fingerprint
    with torch.no_grad():
        exact = method(images)
        set_precision(method, "bfloat16")
        rounded = method(images)
        set_precision(method, "float32")
        again = method(images)
    assert rounded.position.dtype == rounded.condition_logits.dtype == torch.float32
    assert not torch.equal(rounded.position, exact.position)
    torch.testing.assert_close(rounded.position, exact.position, rtol=0.05, atol=0.05)
    assert torch.equal(again.position, exact.position)


@pytest.mark.parametrize(
    ("precision", "words"), [("tf32", "tf32 is of GPUs"), ("bfloat16", "no instructions for bfloat16")]
)
def test_what_a_processor_lacks_falls_back_to_float32_and_is_said(
    monkeypatch: pytest.MonkeyPatch, precision: str, words: str
) -> None:
    monkeypatch.setattr("models.precision.processor_flags", lambda: {"fma", "avx2", "avx512f"})
    method = build_method("DCNN", SHAPE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = accelerate(method, precision, CPU)  # type: ignore[arg-type]
    assert found.precision == "float32"
    assert len(found.notes) == 1
    assert precision in found.notes[0]
    assert words in found.notes[0]
    assert method.source_branch.extractor.autocast_dtype is None


def test_a_processor_that_has_bfloat16_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.precision.processor_flags", lambda: {"amx_bf16", "avx512_bf16"})
    method = build_method("DCNN", SHAPE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = accelerate(method, "bfloat16", CPU)
    assert (found.precision, found.notes) == ("bfloat16", ())
    assert method.source_branch.extractor.autocast_dtype == torch.bfloat16
    assert method(_batches()[0].fingerprint).position.dtype == torch.float32


def test_float32_needs_nothing() -> None:
    assert why_unavailable("float32", CPU) is None


def test_the_flags_of_this_processor_are_read() -> None:
    if not Path("/proc/cpuinfo").is_file():
        assert processor_flags() == set()
        return
    assert len(processor_flags()) > 5
