"""Who listens to a run: the interface, the observers that ship, and how an option names them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from study.errors import SpecError, nearest
from study.observers.base import Observer, Observers, RunObserver
from study.observers.event_log import EventLog, read_events, running_trials
from study.observers.runs import Run, runs_of

__all__ = [
    "EventLog",
    "Observer",
    "Observers",
    "Run",
    "RunObserver",
    "make_observers",
    "read_events",
    "running_trials",
    "runs_of",
]

_NAMES = ("mlflow", "tensorboard")


def make_observers(names_and_targets: Iterable[str], folder: Path, *, is_mirror: bool = False) -> list[RunObserver]:
    """The event log of a study, and what the option ``--log`` asks for.

    Args:
        names_and_targets: ``mlflow``, ``mlflow=URI``, ``tensorboard`` or ``tensorboard=DIR``.
        folder: the results folder of the study; it is written to when the run has started, not before. Its name is the
            name of MLflow's experiment.
        is_mirror: the folder is a copy of remote results, and is removed after the run: a log then needs a target.

    Raises:
        SpecError: a name is unknown, or its target cannot be used.
        DependencyError: a package is missing; the message has the line that installs it.
    """
    observers: list[RunObserver] = [EventLog(folder / "events.jsonl")]
    for text in dict.fromkeys(names_and_targets):
        name, equals, target = text.partition("=")
        if name not in _NAMES or (equals and not target):
            raise SpecError(
                f"unknown log {text!r}{nearest(name, _NAMES)}" if name not in _NAMES else f"{text!r} names no target",
                where="--log",
                allowed="mlflow, mlflow=URI, tensorboard, tensorboard=DIR",
            )
        if is_mirror and not target:
            raise SpecError(
                f"the results are on remote storage, where {name} cannot write",
                where="--log",
                allowed=f"{name}=URI of a server or database" if name == "mlflow" else f"{name}=DIR on this machine",
            )
        if name == "tensorboard" and "://" in target:
            raise SpecError(f"{target!r} is no folder of this machine", where="--log", allowed="tensorboard=DIR")
        # Imported here: MLflow alone takes two seconds.
        if name == "mlflow":
            from study.observers.mlflow_log import MlflowLog, default_uri

            observers.append(MlflowLog(target or default_uri(folder), folder.resolve().name))
        else:
            from study.observers.tensorboard_log import TensorBoardLog

            observers.append(TensorBoardLog(Path(target).expanduser() if target else folder / "tensorboard"))
    return observers
