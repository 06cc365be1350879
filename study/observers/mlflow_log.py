"""Finished trials in MLflow (extra `mlflow`): an experiment per study, a run per trial."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from study.errors import DependencyError, SpecError
from study.observers.base import Observer
from study.observers.record import TrialRecord
from study.search import StudyQueue
from study.spec.expand import Cell
from study.store import TrialTables

__all__ = ["MlflowLog", "default_uri"]

_STATUS = {"done": "FINISHED", "pruned": "KILLED"}  # all other states: FAILED
_DATABASE = re.compile(r"(https?|sqlite|(postgresql|mysql|mssql)(\+\w+)?)://.+")
# What MLflow takes in one request.
_METRICS_AT_ONCE, _PARAMETERS_AT_ONCE, _LONGEST_TAG = 1000, 100, 5000


class MlflowLog(Observer):
    """Logs each trial when it has finished.

    A trial that MLflow has in the same state already is not logged again; one in another state (it ran again, or its
    logging was cut short) replaces that run, which MLflow keeps among its deleted ones.

    Args:
        uri: MLflow's tracking URI: a server (``http://…``) or a database (``sqlite:///FILE``).
        experiment: name of the experiment.

    Raises:
        DependencyError: the package is missing.
        SpecError: the URI is none of these.
    """

    name = "MLflow"

    def __init__(self, uri: str, experiment: str) -> None:
        if not _DATABASE.fullmatch(uri):
            raise SpecError(
                f"{uri!r} is no place for MLflow's runs",
                where="--log mlflow=URI",
                allowed="http://HOST:PORT, https://…, sqlite:///FILE, postgresql://…, mysql://…, mssql://…",
                fix="write sqlite:///FILE for a file on this machine (MLflow has given up folders of files)",
            )
        self._uri, self._experiment = uri, experiment
        self._entities = _import_mlflow().entities
        self._client: Any = None
        self._experiment_id = ""

    def run_started(self, queue: StudyQueue, cells: list[Cell], slots: int) -> None:
        """Find the study's experiment, or make it."""
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self._uri)
        found = self._client.get_experiment_by_name(self._experiment)
        self._experiment_id = self._client.create_experiment(self._experiment) if found is None else found.experiment_id

    def trial_finished(self, tables: TrialTables) -> None:
        """Log a trial."""
        record = TrialRecord.of(tables)
        status = _STATUS.get(record.state, "FAILED")
        for run in self._client.search_runs([self._experiment_id], f"tags.key = '{record.key}'"):
            if run.info.status == status and run.data.tags.get("state") == record.state:
                return
            self._client.delete_run(run.info.run_id)
        began_ms, ended_ms = int(record.began_s * 1000), int(record.ended_s * 1000)
        run_id = self._client.create_run(
            self._experiment_id,
            start_time=began_ms,
            run_name=f"{record.method} seed {record.seed} {record.key[:8]}",
            tags={name: text[-_LONGEST_TAG:] for name, text in record.tags.items()},
        ).info.run_id
        metric, parameter = self._entities.Metric, self._entities.Param
        parameters = [parameter(path, text) for path, text in record.settings_as_text().items()]
        parameters.append(parameter("seed", str(record.seed)))
        metrics = [metric(name, value, ended_ms, 0) for name, value in record.metrics.items()] + [
            metric(f"epoch/{name}", value, int(epoch.time_s * 1000), epoch.epoch)
            for epoch in record.epochs
            for name, value in epoch.values.items()
        ]
        for start in range(0, len(parameters), _PARAMETERS_AT_ONCE):
            self._client.log_batch(run_id, params=parameters[start : start + _PARAMETERS_AT_ONCE])
        for start in range(0, len(metrics), _METRICS_AT_ONCE):
            self._client.log_batch(run_id, metrics=metrics[start : start + _METRICS_AT_ONCE])
        # Last: a run that is not terminated was cut short, and is logged anew.
        self._client.set_terminated(run_id, status, ended_ms)


def default_uri(folder: Path) -> str:
    """A database in a results folder.

    Raises:
        SpecError: a URI cannot name the folder.
    """
    path = str(folder.resolve() / "mlflow.db")
    if "?" in path or "#" in path or "%" in path:
        raise SpecError(
            "MLflow cannot keep its database in a folder with ?, # or % in its name",
            where=path,
            fix="choose another folder with --results, or another file with --log mlflow=sqlite:///FILE",
        )
    return f"sqlite:///{path}"


def _import_mlflow() -> Any:
    # Read by MLflow when it is imported: it would tell its makers of its use.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    # It would print a link for each run.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    # Its defaults wait for minutes for a server that does not answer, and the driver with it.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        import mlflow
        import mlflow.entities
    except ImportError as error:
        raise DependencyError(
            f"--log mlflow needs a package that is not here ({error.name or error})",
            fix="pip install 'study[mlflow]', in a checkout: pip install -e '.[mlflow]'",
        ) from None
    # It says on stderr that it makes its tables, in the middle of the display.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow
