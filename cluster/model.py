"""What a cluster file says about the machines of a study."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from study.spec.problems import Allowed, InvalidValue, InvalidValues

__all__ = ["Cluster", "Resources"]

_LATER = "is not implemented in this version"
_HOST_PORT = re.compile(r"(ray://)?([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\]):(\d{1,5})")


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _address(text: str) -> str:
    if text in ("local", "auto"):
        return text
    match = _HOST_PORT.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise InvalidValue("this is no address of a Ray cluster")
    return text


def _part_or_whole(gpus: float) -> float:
    # Ray hands out parts of one GPU, or whole GPUs.
    if 0 < gpus < 0.01:
        raise InvalidValue("this part of a GPU is too small to work with")
    if gpus > 1 and not gpus.is_integer():
        raise InvalidValue("a trial cannot have one GPU and a part of another")
    return gpus


def _tune(trainer: str) -> str:
    if trainer != "tune":
        raise InvalidValue(f"trainer: {trainer} {_LATER}")
    return trainer


def _one_worker(workers: int) -> int:
    if workers != 1:
        raise InvalidValue(f"more than one worker per trial {_LATER}")
    return workers


def _local_storage(storage: str) -> str:
    if storage != "local":
        raise InvalidValue(f"storage elsewhere than on the machine that runs `study` {_LATER}")
    return storage


class Resources(_Frozen):
    """What Ray sets aside for one trial. It is bookkeeping: Ray does not stop a trial from using more."""

    cpu: Annotated[float, Field(ge=0.01, le=1024, description="CPU cores of one trial")] = 1.0
    gpu: Annotated[
        float,
        Field(ge=0, le=64, description="GPUs of one trial; 0.25 lets four trials share one GPU"),
        AfterValidator(_part_or_whole),
        Allowed("0, a part from 0.01 to 1, or a whole number up to 64"),
    ] = 0.0


class Cluster(_Frozen):
    """The machines of a study and how its trials share them.

    With ``address: local``, `cpus` and `gpus` are what Ray is started with. With any other address they are the least
    that the running cluster must have.
    """

    address: Annotated[
        str,
        Field(
            description="local: start Ray on this machine; auto: join the Ray that runs on it; or a cluster's address"
        ),
        AfterValidator(_address),
        Allowed("local, auto, host:port or ray://host:port"),
    ] = "local"
    cpus: int | None = Field(None, ge=1, le=100_000, description="CPU cores; all usable ones when left out")
    gpus: int = Field(0, ge=0, le=10_000, description="GPUs")
    slots: int | None = Field(
        None, ge=1, le=100_000, description="trials at the same time; as many as fit when left out"
    )
    resources_per_trial: Resources = Resources()
    gpu_memory_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="largest share of a GPU's memory for one trial; the trial's share of the GPU when left out",
    )
    trainer: Annotated[Literal["tune", "ray_train"], AfterValidator(_tune), Allowed("tune")] = "tune"
    workers_per_trial: Annotated[int, Field(ge=1), AfterValidator(_one_worker), Allowed("1")] = 1
    storage: Annotated[str, AfterValidator(_local_storage), Allowed("local")] = "local"
    object_store_mb: int | None = Field(
        None, ge=80, le=10_000_000, description="shared memory for Ray's object store; Ray chooses when left out"
    )
    max_retries: int = Field(2, ge=0, le=100, description="how often a trial that was lost with its machine runs again")
    fingerprint_memory_mb: int | None = Field(
        None,
        ge=0,
        le=10_000_000,
        description="memory in which a trial may keep its fingerprints, which it otherwise makes for each batch; half "
        "of its share of what is free when left out",
    )
    trial_time_limit_s: float | None = Field(None, gt=0, description="seconds after which a trial is stopped")

    @model_validator(mode="after")
    def _fits_together(self) -> Cluster:
        problems = []
        if self.address != "local" and self.object_store_mb is not None:
            problems.append(
                InvalidValue(
                    "the object store of a running cluster has its size already",
                    "object_store_mb with address: local only",
                    at=("object_store_mb",),
                )
            )
        if self.address == "local" and self.resources_per_trial.gpu > self.gpus:
            problems.append(
                InvalidValue(
                    f"a trial wants {self.resources_per_trial.gpu:g} GPU, and the cluster has gpus: {self.gpus}",
                    f"at most {self.gpus}, or more gpus",
                    at=("resources_per_trial", "gpu"),
                )
            )
        if self.cpus is not None and self.resources_per_trial.cpu > self.cpus:
            problems.append(
                InvalidValue(
                    f"a trial wants {self.resources_per_trial.cpu:g} CPUs, and the cluster has cpus: {self.cpus}",
                    f"at most {self.cpus}, or more cpus",
                    at=("resources_per_trial", "cpu"),
                )
            )
        if self.gpu_memory_fraction is not None and self.resources_per_trial.gpu == 0:
            problems.append(
                InvalidValue(
                    "a trial that has no GPU has no GPU memory",
                    "gpu_memory_fraction with resources_per_trial.gpu above 0",
                    at=("gpu_memory_fraction",),
                )
            )
        if problems:
            raise InvalidValues(problems)
        return self

    @property
    def gpu_memory_share(self) -> float | None:
        """The share of a GPU's memory that one trial may take; None: no cap (whole GPUs, or none)."""
        if self.gpu_memory_fraction is not None:
            return self.gpu_memory_fraction
        share = self.resources_per_trial.gpu
        return share if 0 < share < 1 else None
