"""What every method costs, for ``study methods``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from models.complexity import measure_complexity
from models.methods import METHODS, Method, NetworkShape, build_method
from models.settings import BACKBONES, Branches, InputTooSmallError
from study.console import show_table
from study.errors import ConfigurationError, nearest

__all__ = ["method_costs", "show_costs"]


def method_costs(
    preset: str,
    branches: str,
    batch: int,
    fingerprint: tuple[int, int, int],
    conditions: int,
    user_method: type[Method] | None = None,
) -> list[dict[str, Any]]:
    """Cost of every trained method, as plain data.

    Args:
        preset: backbone preset.
        branches: shared or twin.
        batch: batch size of the per-batch figures.
        fingerprint: (channels, rows, columns).
        conditions: number of propagation conditions.
        user_method: a class of a user's own, told after the others.

    Raises:
        ConfigurationError: an unknown preset or branches, or a fingerprint too small for the backbone.
    """
    if preset not in BACKBONES:
        raise ConfigurationError(
            f"unknown backbone {preset!r}{nearest(preset, BACKBONES)}", where="--preset", allowed=", ".join(BACKBONES)
        )
    if branches not in get_args(Branches):
        raise ConfigurationError(
            f"unknown branches {branches!r}{nearest(branches, get_args(Branches))}",
            where="--branches",
            allowed=", ".join(get_args(Branches)),
        )
    shape = NetworkShape(fingerprint, conditions, backbone=BACKBONES[preset])
    costs = []
    for kind in (*METHODS.values(), *([user_method] if user_method else [])):
        settings = kind.settings
        try:
            method = build_method(kind, shape, branches=branches)  # type: ignore[arg-type]
        except InputTooSmallError as error:
            raise ConfigurationError(
                str(error),
                where="--antennas, --subcarriers",
                allowed=f"at least {error.backbone.smallest} each",
                fix="enlarge the fingerprint or choose another --preset",
            ) from None
        costs.append(
            {
                "method": settings.name,
                "preset": preset,
                "branches": branches if settings.twin else "single",
                "input": list(fingerprint),
                "conditions": conditions if settings.joint else 0,
                **asdict(measure_complexity(method, batch)),
            }
        )
    return costs


def show_costs(console: Console, costs: list[dict[str, Any]]) -> None:
    """The costs as a table."""
    first = costs[0]
    table = Table(
        title=f"preset {first['preset']}, input {' × '.join(str(n) for n in first['input'])}, batch {first['batch']}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    columns = {
        "method": "method",
        "branches": "branches",
        "parameters": "parameters",
        "parameters_deployed": "deployed",
        "macs_paper": "MACs, Table III",
        "flops_batch": "FLOPs",
        "macs_per_sample": "MACs/sample",
        "macs_deployed": "deployed",
    }
    for key, title in columns.items():
        table.add_column(title, justify="left" if key in ("method", "branches") else "right", no_wrap=True)
    for cost in costs:
        table.add_row(*(_si(cost[key]) if isinstance(cost[key], int) else str(cost[key]) for key in columns))
    show_table(console, table, whole=True)
    console.print(
        "Table III prints as 'FLOPs' the MACs of one training pass over a batch, batch normalization included; "
        "FLOPs here are 2 × MACs of convolutions and linear layers. --json gives all digits."
    )


def _si(value: int) -> str:
    for factor, unit in ((10**9, "G"), (10**6, "M"), (10**3, "K")):
        if value >= factor:
            return f"{value / factor:.3f} {unit}"
    return str(value)
