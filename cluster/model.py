"""What a cluster file says about the machines of a study."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from cluster.prices import Currency
from study.spec.problems import Allowed, InvalidValue, InvalidValues

__all__ = ["Autoscaling", "Cluster", "Machines", "Resources", "RuntimeEnv"]

_HOST_PORT = re.compile(r"(ray://)?([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\]):(\d{1,5})")
# Each process that uses a GPU takes memory beside torch's, which no cap on torch counts.
_CAPPED_SHARE = 0.9
# Of a process's share of free memory, what its fingerprints may take: batches and networks need some too.
FINGERPRINT_SHARE = 0.5
# Ray keeps the books in steps of a ten-thousandth.
_STEPS = 10_000
# What pyarrow can write to, by the scheme of the URI.
_STORES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
_URI = re.compile(rf"(?:{'|'.join(_STORES)})://[^\s/?#]+(?:/[^\s?#]*)?(?:\?\S*)?")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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
        raise InvalidValue("a process cannot have one GPU and a part of another")
    return gpus


def _storage(text: str) -> str:
    if text == "local" or _URI.fullmatch(text):
        return text
    if "://" in text:
        raise InvalidValue("this is no place where results can be kept")
    if not PurePosixPath(text).is_absolute():
        raise InvalidValue("machines could take this folder for different ones: it does not start at the root")
    return text


def _cache(text: str) -> str:
    if text in ("auto", "off") or PurePosixPath(text).is_absolute():
        return text
    raise InvalidValue("this is no folder that each machine could have")


class Resources(_Frozen):
    """What Ray sets aside for one process of a trial. It is bookkeeping: no process is kept from using more."""

    cpu: Annotated[float, Field(ge=0.01, le=1024, description="CPU cores")] = 1.0
    gpu: Annotated[
        float,
        Field(ge=0, le=64, description="GPUs; 0.25 lets four trials share one GPU"),
        AfterValidator(_part_or_whole),
        Allowed("0, a part from 0.01 to 1, or a whole number up to 64"),
    ] = 0.0


class RuntimeEnv(_Frozen):
    """What Ray brings to the machines for the processes of a study.

    Paths count from the folder in which the command runs, as ``site`` of a study spec does.
    """

    working_dir: str | None = Field(
        None, min_length=1, description="folder (or .zip) in which the processes run and import modules, or its URI"
    )
    py_modules: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="packages (folders), modules (.py), wheels or their URIs that the processes can import"
    )
    pip: tuple[str, ...] | str | None = Field(None, description="packages to install with pip, or a requirements file")
    uv: tuple[str, ...] | str | None = Field(None, description="the same with uv")
    conda: str | dict[str, Any] | None = Field(
        None, description="conda environment: its name, its YAML file or that file's content"
    )
    env_vars: dict[str, str] = Field({}, description="environment variables of the processes")
    excludes: tuple[str, ...] = Field(
        (), description="what of the folders is not shipped, as in .gitignore; that file itself is heeded too"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> RuntimeEnv:
        problems = []
        installers = [name for name in ("pip", "uv", "conda") if getattr(self, name) is not None]
        for name in installers[1:]:
            problems.append(
                InvalidValue(f"Ray takes either {installers[0]} or {name}", "one of pip, uv and conda", at=(name,))
            )
        if self.excludes and self.working_dir is None and not self.py_modules:
            problems.append(
                InvalidValue("nothing is shipped", "excludes with working_dir or py_modules", at=("excludes",))
            )
        for name in self.env_vars:
            if not _ENVIRONMENT_NAME.fullmatch(name):
                problems.append(
                    InvalidValue(
                        "this is no name of an environment variable",
                        "letters, digits and _, no digit first",
                        at=("env_vars", name),
                    )
                )
        if problems:
            raise InvalidValues(problems)
        return self


class Autoscaling(_Frozen):
    """What a cluster that grows on demand can grow to."""

    nodes: int = Field(ge=1, le=100_000, description="machines of this size that the cluster can have")
    cpus: int = Field(ge=1, le=100_000, description="CPU cores of each")
    gpus: int = Field(0, ge=0, le=1024, description="GPUs of each")


class Machines(_Frozen):
    """Machines of one type, as a plan counts them.

    What a price list says of the type need not be said here, and what is said here holds instead.
    """

    type: str = Field(
        min_length=1, description="a type that a price list knows, such as aws/g5.xlarge, or a name of your own"
    )
    count: int = Field(1, ge=1, le=100_000, description="how many the cluster has")
    spot: bool = Field(False, description="paid at the spot price: cheaper, and can be ended at any time")
    cpus: float | None = Field(None, gt=0, le=100_000, description="virtual CPUs of each, as Ray counts them")
    gpus: int | None = Field(None, ge=0, le=1024, description="GPUs of each")
    memory_gb: float | None = Field(
        None, gt=0, le=1_000_000, description="memory of each; a GB is 2^30 bytes, as the clouds count"
    )
    gpu: str | None = Field(
        None, min_length=1, description="the name of its GPUs, as torch.cuda.get_device_name tells it"
    )
    gpu_memory_gb: float | None = Field(
        None, gt=0, le=100_000, description="memory of each GPU; a GB is 10^9 bytes, which a driver leaves free"
    )
    peak_tflops: float | None = Field(
        None, gt=0, le=1_000_000, description="declared FP32 peak: of one GPU, or of a whole machine without GPU"
    )
    price_per_hour: float | None = Field(None, gt=0, le=1_000_000, description="what an hour of each costs")
    currency: Currency | None = Field(None, description="of price_per_hour; that of the price list when left out")
    watts: float | None = Field(None, gt=0, le=10_000_000, description="power of each, as a whole, when it is busy")

    @model_validator(mode="after")
    def _fits_together(self) -> Machines:
        problems = []
        for key in ("gpu", "gpu_memory_gb"):
            if self.gpus == 0 and getattr(self, key) is not None:
                problems.append(InvalidValue("the machine has no GPU", f"{key} with gpus above 0", at=(key,)))
        if self.currency is not None and self.price_per_hour is None:
            problems.append(InvalidValue("there is no price", "currency with price_per_hour", at=("currency",)))
        if problems:
            raise InvalidValues(problems)
        return self


class Cluster(_Frozen):
    """The machines of a study and how its trials share them.

    With ``address: local``, `cpus` and `gpus` are what Ray is started with. With any other address they are the least
    that the running cluster must have.

    A trial has one worker, or several (`workers_per_trial`). What a worker gets is `per_worker`, whichever keys the
    file says it with.
    """

    address: Annotated[
        str,
        Field(
            description="local: start Ray on this machine; auto: join the Ray that runs on it; or a cluster's address"
        ),
        AfterValidator(_address),
        Allowed("local, auto, host:port or ray://host:port"),
    ] = "local"
    cpus: int | None = Field(
        None, ge=1, le=100_000, description="CPU cores of Ray here; elsewhere the least that the cluster must have"
    )
    gpus: int = Field(0, ge=0, le=10_000, description="GPUs, likewise")
    wait_for_nodes_s: float = Field(
        0, ge=0, le=86_400, description="how long machines are waited for that a cluster does not have yet"
    )
    autoscaling: Autoscaling | None = Field(
        None, description="for a cluster that grows on demand: what it can grow to; trials are counted by that"
    )
    nodes: tuple[Machines, ...] = Field(
        (), description="the machines, for `study plan` alone: a running cluster is asked what it has"
    )
    slots: int | None = Field(
        None, ge=1, le=100_000, description="trials at the same time; as many as fit when left out"
    )
    slots_per_gpu: int | None = Field(
        None, ge=1, le=100, description="trials that share a GPU, each with its part of the GPU and of its memory"
    )
    resources_per_trial: Resources = Field(Resources(), description="what Ray sets aside for a trial with one worker")
    workers_per_trial: int = Field(
        1, ge=1, le=1024, description="processes that train one trial together (more than 1: Ray Train)"
    )
    min_workers_per_trial: int | None = Field(
        None, ge=1, le=1024, description="workers with which a trial goes on after a loss; all of them when left out"
    )
    resources_per_worker: Resources | None = Field(
        None, description="what Ray sets aside for each worker of a trial; 1 CPU when left out"
    )
    gpu_memory_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="largest share of a GPU's memory for one process; when left out nine tenths of its part of the "
        "GPU, and no limit for whole GPUs",
    )
    trainer: Literal["tune", "ray_train"] | None = Field(
        None,
        description="tune: a trial is one process, and the next trial reuses it; ray_train: a trial runs in Ray Train "
        "workers and keeps checkpoints. When left out: ray_train for several workers",
    )
    checkpoint_every_s: float | None = Field(
        None, ge=0, le=86_400, description="how often a Ray Train trial keeps a checkpoint; 0: after each epoch"
    )
    max_retries: int = Field(
        2,
        ge=0,
        le=100,
        description="how often a trial runs again, or goes on from its checkpoint, after its process or machine died",
    )
    trial_time_limit_s: float | None = Field(
        None, gt=0, le=2_592_000, description="seconds after which a trial is stopped"
    )
    storage: Annotated[
        str,
        Field(description="where results are kept unless --results says it: local, a folder that all share, or a URI"),
        AfterValidator(_storage),
        Allowed(f"local, an absolute folder, or a URI such as s3://bucket/prefix ({', '.join(_STORES)})"),
    ] = "local"
    runtime_env: RuntimeEnv | None = Field(None, description="code, packages and variables that Ray brings to machines")
    dashboard: bool = Field(False, description="Ray's dashboard, for this machine alone (127.0.0.1)")
    dashboard_port: int | None = Field(
        None, ge=1024, le=65_535, description="its port; the first free one from 8265 on when left out"
    )
    object_store_mb: int | None = Field(
        None, ge=80, le=10_000_000, description="shared memory for Ray's object store; Ray chooses when left out"
    )
    fingerprint_memory_mb: int | None = Field(
        None,
        ge=0,
        le=10_000_000,
        description="memory in which a trial may keep its fingerprints, which it otherwise makes for each batch; half "
        "of its share of what is free when left out. Trials of a machine that share them may take together what all of "
        "them may",
    )
    fingerprint_cache: Annotated[
        str,
        Field(
            description="where each machine has the fingerprints that its trials share, on CPUs; auto: in its folder "
            "for temporary files; off: each trial keeps its own"
        ),
        AfterValidator(_cache),
        Allowed("auto, off, or an absolute folder that each machine has"),
    ] = "auto"

    @model_validator(mode="after")
    def _fits_together(self) -> Cluster:
        problems = [*self._misplaced(), *self._wrong_nodes(), *self._wrong_workers(), *self._wrong_resources()]
        if problems:
            raise InvalidValues(problems)
        return self

    def _misplaced(self) -> list[InvalidValue]:
        """Keys that the address does not go with."""
        problems = []
        if self.address != "local":
            if self.object_store_mb is not None:
                what = "the object store of a running cluster has its size already"
                problems.append(InvalidValue(what, "object_store_mb with address: local only", at=("object_store_mb",)))
            if self.dashboard:
                what = "a running cluster has its dashboard, or none, already"
                problems.append(InvalidValue(what, "dashboard with address: local only", at=("dashboard",)))
        elif self.autoscaling is not None:
            what = "this machine does not grow"
            allowed = "autoscaling with another address than local"
            problems.append(InvalidValue(what, allowed, at=("autoscaling",)))
        if self.autoscaling is not None and not self.wait_for_nodes_s and self.address != "local":
            what = "a cluster that grows takes minutes to start a machine, and this file does not wait"
            problems.append(InvalidValue(what, "autoscaling with wait_for_nodes_s, such as 900", at=("autoscaling",)))
        if self.dashboard_port is not None and not self.dashboard:
            what = "there is no dashboard"
            problems.append(InvalidValue(what, "dashboard_port with dashboard: true", at=("dashboard_port",)))
        return problems

    def _wrong_nodes(self) -> list[InvalidValue]:
        """Machines that the rest of the file contradicts. What only a price list knows is checked with it."""
        problems = []
        if self.address == "local" and sum(kind.count for kind in self.nodes) > 1:
            at: tuple[str | int, ...] = ("nodes",) if len(self.nodes) > 1 else ("nodes", 0, "count")
            what = "the cluster is this machine alone"
            problems.append(InvalidValue(what, "one machine, or another address than local", at=at))
        for key, noun in (("cpus", "CPUs"), ("gpus", "GPUs")):
            each, wanted = [getattr(kind, key) for kind in self.nodes], getattr(self, key)
            if not self.nodes or wanted is None or any(number is None for number in each):
                continue
            there = sum(kind.count * number for kind, number in zip(self.nodes, each, strict=True))
            if wanted > there:
                what = f"the machines in nodes have {there:g} {noun} in all"
                problems.append(InvalidValue(what, f"at most {there:g}, or more nodes", at=(key,)))
        return problems

    def _wrong_workers(self) -> list[InvalidValue]:
        """Keys of trials with several workers, or of Ray Train, that do not go together."""
        problems = []
        if self.trainer == "tune" and self.workers_per_trial > 1:
            what = f"{self.workers_per_trial} workers train a trial with Ray Train only"
            problems.append(InvalidValue(what, "ray_train, or no trainer: with workers_per_trial > 1", at=("trainer",)))
        if self.min_workers_per_trial is not None and self.min_workers_per_trial > self.workers_per_trial:
            problems.append(
                InvalidValue(
                    f"a trial has {self.workers_per_trial} of them at most",
                    f"1 … {self.workers_per_trial}, or more workers_per_trial",
                    at=("min_workers_per_trial",),
                )
            )
        if self.checkpoint_every_s is not None and not self.uses_ray_train:
            what = "only Ray Train trials keep checkpoints: others start again"
            problems.append(
                InvalidValue(what, "checkpoint_every_s with trainer: ray_train", at=("checkpoint_every_s",))
            )
        written = "resources_per_trial" in self.model_fields_set
        if written and self.resources_per_worker is not None:
            what = "a worker's resources are written twice"
            problems.append(InvalidValue(what, "this key or resources_per_worker", at=("resources_per_trial",)))
        elif written and self.workers_per_trial > 1:
            what = f"a trial has {self.workers_per_trial} workers, and it is not said what each of them gets"
            problems.append(
                InvalidValue(what, "resources_per_worker", at=("resources_per_trial",), hint="rename the key")
            )
        return problems

    def _wrong_resources(self) -> list[InvalidValue]:
        """Resources that contradict each other."""
        problems = []
        key = self.resources_key
        worker, workers = self.per_worker, self.workers_per_trial
        chosen = self.resources_per_worker or self.resources_per_trial
        if self.slots_per_gpu is not None and "gpu" in chosen.model_fields_set:
            what = "the part of a GPU that a trial gets is written twice"
            problems.append(InvalidValue(what, f"this key or {key}.gpu", at=("slots_per_gpu",)))
        where = ("slots_per_gpu",) if self.slots_per_gpu is not None else (key, "gpu")
        if workers > 1 and 0 < worker.gpu < 1:
            # NCCL, which carries gradients between GPUs, refuses two workers on one.
            what = "workers of one trial cannot share a GPU"
            problems.append(InvalidValue(what, "whole GPUs for trials with several workers", at=where))
        who = "a trial wants" if workers == 1 else f"the {workers} workers of a trial want"
        if self.address == "local" and workers * worker.gpu > self.gpus + 1e-9:
            problems.append(
                InvalidValue(
                    f"{who} {workers * worker.gpu:g} GPU, and the cluster has gpus: {self.gpus}",
                    f"at most {self.gpus / workers:g}, or more gpus" if self.slots_per_gpu is None else "more gpus",
                    at=where,
                )
            )
        if self.cpus is not None and workers * worker.cpu > self.cpus and self.autoscaling is None:
            problems.append(
                InvalidValue(
                    f"{who} {workers * worker.cpu:g} CPUs, and the cluster has cpus: {self.cpus}",
                    f"at most {self.cpus / workers:g}, or more cpus",
                    at=(key, "cpu"),
                )
            )
        if self.gpu_memory_fraction is not None and worker.gpu == 0:
            problems.append(
                InvalidValue(
                    "a trial that has no GPU has no GPU memory",
                    f"gpu_memory_fraction with {key}.gpu above 0",
                    at=("gpu_memory_fraction",),
                )
            )
        return problems

    @property
    def resources_key(self) -> str:
        """The key that says, or would say, what each worker gets."""
        several = self.resources_per_worker is not None or self.workers_per_trial > 1
        return "resources_per_worker" if several else "resources_per_trial"

    @property
    def uses_ray_train(self) -> bool:
        """Whether trials run in Ray Train workers."""
        return self.trainer == "ray_train" or (self.trainer is None and self.workers_per_trial > 1)

    @property
    def per_worker(self) -> Resources:
        """What each worker of a trial gets; a trial with one worker has no more than that."""
        chosen = self.resources_per_worker or self.resources_per_trial
        if self.slots_per_gpu is None:
            return chosen
        # Rounded down: six parts of 0.1667 are more than one GPU.
        return Resources(cpu=chosen.cpu, gpu=_STEPS // self.slots_per_gpu / _STEPS)

    @property
    def per_trial(self) -> Resources:
        """What all workers of a trial get together."""
        worker = self.per_worker
        return Resources.model_construct(
            cpu=worker.cpu * self.workers_per_trial, gpu=worker.gpu * self.workers_per_trial
        )

    @property
    def gpu_memory_share(self) -> float | None:
        """The share of a GPU's memory that one process may take; None: no cap (whole GPUs, or none)."""
        if self.gpu_memory_fraction is not None:
            return self.gpu_memory_fraction
        part = self.per_worker.gpu
        return _CAPPED_SHARE * part if 0 < part < 1 else None

    @property
    def checkpoint_interval_s(self) -> float:
        """How often a Ray Train trial keeps a checkpoint; 0: after each epoch."""
        return 60.0 if self.checkpoint_every_s is None else self.checkpoint_every_s
