"""What one trial does: the steps and samples of its network, and what they are measured by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from models.operations import Operations, count_operations
from models.settings import BACKBONES
from study.data.system import SystemConfiguration, UniformPaths, condition_names, fingerprint_shape
from study.spec.trial import canonical_json, method_settings

__all__ = ["Samples", "Work", "WorkKey", "making_of", "operations_of", "work_key", "work_of"]

_BYTES = 4


@dataclass(frozen=True, order=True)
class WorkKey:
    """What decides how long a step takes: trials that are equal in it are measured together.

    Attributes:
        method: the method's name; of a user's class also the first digits of its code's hash.
        target: a step sees unlabelled samples, too.
        channels, rows, columns: the fingerprint.
        conditions: classes of the condition head; 0 without one.
        batch: labelled samples of a step; 0 for reference rows.
        branches: shared, twin, or empty.
        network: the backbone's preset; empty for reference rows.
        making: how fingerprints are made anew for each batch, such as ``adp 25``; empty where they are kept.
        precision: arithmetic that is asked for.
        workers: processes that share each batch.
    """

    method: str
    target: bool
    channels: int
    rows: int
    columns: int
    conditions: int
    batch: int
    branches: str
    network: str
    making: str
    precision: str = "float32"
    workers: int = 1

    @property
    def trained(self) -> bool:
        """Whether it has a network."""
        return bool(self.network)

    @property
    def elements(self) -> int:
        """Numbers of a fingerprint."""
        return self.channels * self.rows * self.columns

    def __str__(self) -> str:
        shape = f"{self.channels} × {self.rows} × {self.columns}"
        if not self.trained:
            return f"{self.method} {shape}"
        words = [self.method, self.network, *([self.branches] if self.branches else []), shape, f"batch {self.batch}"]
        words += [] if self.target or self.method == "DCNN" else ["source alone"]
        words += [f"made per batch ({self.making})"] if self.making else []
        words += [self.precision] if self.precision != "float32" else []
        return " ".join(words)


@dataclass(frozen=True)
class Samples:
    """How many samples the parts of a trial's data have.

    Attributes:
        train, validation, test, target: of these parts.
        check: labelled samples on which the source risk is measured.
        all: of all scenes and positions in use.
    """

    train: int
    validation: int
    test: int
    target: int
    check: int
    all: int


@dataclass(frozen=True)
class Work:
    """One trial.

    Attributes:
        key: see there.
        samples: see there.
        epochs: passes over the labelled samples; 0 for reference rows.
        context: what its fingerprints are made of; a process keeps those of its last trial.
        making: as in the key, but also where fingerprints are kept: they are made once.
        paths_mb: memory of its paths.
        fingerprints_mb: memory of the fingerprints that it keeps.
    """

    key: WorkKey
    samples: Samples
    epochs: int
    context: str
    making: str
    paths_mb: float
    fingerprints_mb: float

    @property
    def data_mb(self) -> float:
        """Memory of its data."""
        return self.paths_mb + self.fingerprints_mb

    @property
    def steps(self) -> int:
        """Steps of an epoch: the last samples that fill no batch wait for the next one."""
        return self.samples.train // self.key.batch if self.key.batch else 0

    @property
    def evaluated_after(self) -> int:
        """Samples that are predicted once, after training."""
        asked = self.samples.test + self.samples.check
        return asked + (self.samples.target if self.key.conditions else 0)


def making_of(system: SystemConfiguration) -> str:
    """How fingerprints of a system are made, as far as it decides the time: ``adp 25``."""
    most = system.paths.uniform[1] if isinstance(system.paths, UniformPaths) else system.paths
    return f"{system.fingerprint} {most}"


def work_key(config: Mapping[str, Any], train_samples: int, *, kept: bool, workers: int = 1) -> WorkKey:
    """The key of a resolved configuration (`TrialConfiguration.resolved`).

    Args:
        config: the configuration.
        train_samples: labelled samples: a batch is not larger.
        kept: whether its fingerprints are kept in memory.
        workers: processes that train it.
    """
    settings = method_settings(dict(config))
    system = SystemConfiguration.model_validate(config["system"])
    channels, rows, columns = fingerprint_shape(system)
    user = config.get("user_method")
    alone = user is None and config["objective"].get("knowledge_transfer") is False
    training = config.get("training")
    return WorkKey(
        method=settings.name if user is None else f"{settings.name}@{user['source'][:8]}",
        target=settings.adapts and not alone,
        channels=channels,
        rows=rows,
        columns=columns,
        conditions=len(condition_names(system.semantics)) if settings.joint else 0,
        batch=min(training["batch_size"], train_samples) if training else 0,
        branches=config.get("branches", ""),
        network=config["network"]["preset"] if training else "",
        making="" if kept else making_of(system),
        precision=training["precision"] if training else "float32",
        workers=workers,
    )


def work_of(config: Mapping[str, Any], samples: Samples, *, fingerprint_budget_mb: float, workers: int = 1) -> Work:
    """The work of a trial.

    Args:
        config: its resolved configuration.
        samples: what its split takes from the site.
        fingerprint_budget_mb: memory in which its process may keep fingerprints.
        workers: processes that train it.
    """
    system = SystemConfiguration.model_validate(config["system"])
    channels, rows, columns = fingerprint_shape(system)
    most = system.paths.uniform[1] if isinstance(system.paths, UniformPaths) else system.paths
    fingerprints_mb = samples.all * channels * rows * columns * _BYTES / 2**20
    # Gain (complex), delay, two angles.
    paths_mb = samples.all * most * 5 * _BYTES / 2**20
    kept = fingerprints_mb <= fingerprint_budget_mb
    training = config.get("training")
    return Work(
        key=work_key(config, samples.train, kept=kept, workers=workers),
        samples=samples,
        epochs=training["epochs"] if training else 0,
        context=canonical_json(
            [{**system.model_dump(mode="json"), "semantics": ""}, {**config["split"], "target": ""}]
        ),
        making=making_of(system),
        paths_mb=2 * paths_mb,  # the table of the site and the device's copy of it
        fingerprints_mb=fingerprints_mb if kept else 0.0,
    )


@lru_cache(maxsize=10_000)
def operations_of(key: WorkKey) -> Operations:
    """Operations of a trained method; a user's counts as one of the project's with the same heads and branches."""
    return count_operations(
        BACKBONES[key.network],
        (key.channels, key.rows, key.columns),
        batch=key.batch,
        target=key.target,
        multi_task=bool(key.branches),
        twin=key.branches == "twin",
        conditions=key.conditions,
        adversarial=key.method == "RDA",
    )
