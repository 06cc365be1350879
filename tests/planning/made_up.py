"""Measurements that are made up, of a device whose every number is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from study.planning.observations import Device, Observation, Quantity, Versions
from study.planning.work import WorkKey, operations_of

DEVICE = Device("Test processor", 1, 2)
KEY = WorkKey("DCNN", False, 1, 16, 32, 0, 128, "", "small", "")
FLOPS = 4e10


def key(method: str = "DCNN", **changes: Any) -> WorkKey:
    base = {
        "DCNN": KEY,
        "RDA": replace(KEY, method="RDA", target=True),
        "TL": replace(KEY, method="TL", target=True, branches="shared"),
        "MDA": replace(KEY, method="MDA", target=True, branches="shared", conditions=3),
        "HDA": replace(KEY, method="HDA", target=True, branches="shared", conditions=3),
    }[method]
    return replace(base, **changes)


def seconds_of(quantity: Quantity, work: WorkKey, flops: float = FLOPS) -> float:
    """What the made-up device takes: operations over a constant."""
    operations = operations_of(work)
    return 2 * (operations.step if quantity == "step_s" else operations.deployed) / flops


def observation(
    quantity: Quantity = "step_s",
    value: float | None = None,
    work: WorkKey | None = KEY,
    *,
    session: str = "one",
    source: str = "calibration",
    device: Device = DEVICE,
    spread: float = 0.02,
    **rest: Any,
) -> Observation:
    if value is None:
        assert work is not None
        value = seconds_of(quantity, work)
    return Observation(
        quantity, value, value * (1 - spread), value * (1 + spread), 10, session, source, "2026-03-01T10:00:00+00:00",
        device, work, rest.pop("detail", ""), rest.pop("versions", Versions.here()),
    )  # fmt: skip
