"""Every way to compute a method follows the loss curve of the plainest one (see golden.py)."""

from __future__ import annotations

import json
from collections.abc import Callable

import golden
import pytest
import torch

from models.fused_block import fuse_blocks
from models.methods import Method
from models.precision import set_precision

GOLDEN: dict[str, list[float]] = json.loads(golden.FILE.read_text(encoding="utf-8"))


pytestmark = pytest.mark.usefixtures("one_thread")


def channels_last(method: Method) -> None:
    method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fused(method: Method) -> None:
    channels_last(method)
    assert fuse_blocks(method) is None


def bfloat16(method: Method) -> None:
    channels_last(method)
    set_precision(method, "bfloat16")
    assert fuse_blocks(method, torch.bfloat16) is None


@pytest.mark.parametrize(("name", "statistics"), golden.CURVES)
def test_the_plain_path_is_what_it_was(name: str, statistics: str) -> None:
    """A change here is a change of a method: write the file anew only if it is meant."""
    found = golden.curve(name, statistics, torch.float64, lambda method: None)  # type: ignore[arg-type]
    assert found == pytest.approx(GOLDEN[f"{name} {statistics}"], rel=1e-6)


# The first loss has seen no update. Later ones differ by more and more: Adam makes a whole step of the sign of a
# gradient that is nearly zero, in float32 of the plain path, too (up to 3 % of a loss on average).
@pytest.mark.parametrize("fast", [channels_last, fused])
@pytest.mark.parametrize(("name", "statistics"), golden.CURVES)
def test_a_fast_path_follows_the_golden_curve(name: str, statistics: str, fast: Callable[[Method], None]) -> None:
    off = _off(name, statistics, fast)
    assert off[0] < 1e-5
    assert off.mean() < 0.05


# Where it has to be imitated it is slow: two methods stand for all.
@pytest.mark.parametrize("name", ["DCNN", "HDA"])
def test_bfloat16_follows_the_golden_curve(name: str) -> None:
    off = _off(name, "joint", bfloat16)
    assert off[0] < 0.05
    assert off.mean() < 0.2


def _off(name: str, statistics: str, fast: Callable[[Method], None]) -> torch.Tensor:
    wanted = torch.tensor(GOLDEN[f"{name} {statistics}"])
    found = torch.tensor(golden.curve(name, statistics, torch.float32, fast))  # type: ignore[arg-type]
    return (found - wanted).abs() / wanted.abs()
