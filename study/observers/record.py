"""A finished trial as trackers want it: flat settings, final numbers, and a number for each epoch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from study.spec.trial import canonical_json
from study.store import EPOCH_SCHEMA, TRIAL_SCHEMA, TrialTables

__all__ = ["EpochValues", "TrialRecord", "key_paths"]

_NOT_MEASURED = frozenset({"seed", "data_seed", "search_seed", "planned_epochs", "workers", "threads", "device_trials"})
_MEASURED = [
    field.name
    for field in TRIAL_SCHEMA
    if (pa.types.is_floating(field.type) or pa.types.is_integer(field.type)) and field.name not in _NOT_MEASURED
]
_SERIES = [name for name in EPOCH_SCHEMA.names if name not in ("key", "epoch")]
_TAGS = ("key", "state", "error", "data_seed", "search_seed", "started_at", "device", "host", "workers")
_PROVENANCE = ("torch_version", "ray_version", "study_version", "git_commit", "spec_hash", "data_hash")


@dataclass(frozen=True)
class EpochValues:
    """One epoch.

    Attributes:
        epoch: counted from 1.
        time_s: when it ended, seconds since 1970.
        values: column of the epoch table → value; nulls are left out.
    """

    epoch: int
    time_s: float
    values: dict[str, float]


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial.

    Attributes:
        key, state, method, seed: as in the trial table.
        began_s, ended_s: seconds since 1970.
        settings: key path → value of the resolved configuration.
        metrics: numeric columns of the trial table, and ``test_recall.CLASS``; nulls are left out.
        tags: state, provenance and error of the trial, as texts; nulls are left out.
        epochs: in their order.
    """

    key: str
    state: str
    method: str
    seed: int
    began_s: float
    ended_s: float
    settings: dict[str, Any]
    metrics: dict[str, float]
    tags: dict[str, str]
    epochs: list[EpochValues]

    @classmethod
    def of(cls, tables: TrialTables) -> TrialRecord:
        """From what a trial left."""
        row = tables.row
        config = json.loads(row["config"])
        began = _seconds(row.get("started_at"))
        recall = zip(row.get("classes") or [], row.get("test_recall") or [], strict=False)
        return cls(
            key=row["key"],
            state=row["state"],
            method=row["method"],
            seed=row["seed"],
            began_s=began,
            ended_s=began + (row.get("trial_seconds") or 0.0),
            settings=dict(key_paths(config)),
            metrics={
                **{name: float(row[name]) for name in _MEASURED if row.get(name) is not None},
                **{f"test_recall.{condition}": float(value) for condition, value in recall if value is not None},
            },
            tags={name: str(row[name]) for name in (*_TAGS, *_PROVENANCE) if row.get(name) is not None},
            epochs=list(_epochs(tables.epochs, began)),
        )

    def settings_as_text(self) -> dict[str, str]:
        """Key path → value as it stands in a spec: text as it is, all else as JSON."""
        return {
            path: value if isinstance(value, str) else canonical_json(value) for path, value in self.settings.items()
        }


def key_paths(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a configuration by their key paths."""
    for name, value in config.items():
        # The one setting that is a mapping itself is a uniform number of paths.
        if isinstance(value, Mapping) and set(value) != {"uniform"}:
            yield from key_paths(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _epochs(columns: Mapping[str, Any] | None, time_s: float) -> Iterator[EpochValues]:
    for index, epoch in enumerate([] if columns is None else columns["epoch"]):
        values = {name: columns[name][index] for name in _SERIES if columns is not None and name in columns}
        given = {name: float(value) for name, value in values.items() if value is not None}
        time_s += given.get("seconds", 0.0)
        yield EpochValues(int(epoch), time_s, given)


def _seconds(started_at: str | None) -> float:
    return (datetime.now(UTC) if started_at is None else datetime.fromisoformat(started_at)).timestamp()
