"""The Parquet store: what is true about a study.

One file per trial in each of ``trials/``, ``epochs/`` and ``errors/``, written whole or not at all: under a temporary
name, synchronized to disk, renamed. ``trials/`` comes last, so a row there means that the trial is complete. The
columns are documented in docs/results.md.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import ValidationError

from study.errors import ResultsError
from study.spec.document import Document
from study.spec.model import StudySpec
from study.spec.problems import problems_of

__all__ = ["FINISHED_STATES", "STATES", "Damaged", "Store", "StoredTrials", "TrialTables"]

STATES = ("done", "diverged", "failed", "out_of_memory", "pruned")
# A failed trial is finished too: its failure is a result, and it runs again only when asked for.
FINISHED_STATES = frozenset(STATES)

_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()

TRIAL_SCHEMA = pa.schema(
    [
        pa.field("key", _TEXT, nullable=False),
        pa.field("state", _TEXT, nullable=False),
        ("error", _TEXT),
        pa.field("method", _TEXT, nullable=False),
        pa.field("seed", _INT, nullable=False),
        ("data_seed", _INT),
        ("search_seed", _INT),
        pa.field("config", _TEXT, nullable=False),
        ("validation_rmse_m", _FLOAT),
        ("validation_accuracy", _FLOAT),
        ("best_epoch", _INT),
        ("epochs", _INT),
        ("planned_epochs", _INT),
        ("test_rmse_m", _FLOAT),
        ("test_mean_error_m", _FLOAT),
        ("test_median_error_m", _FLOAT),
        ("test_p90_error_m", _FLOAT),
        ("test_accuracy", _FLOAT),
        ("test_recall", pa.list_(_FLOAT)),
        ("confusion", pa.list_(_INT)),
        ("classes", pa.list_(_TEXT)),
        ("test_samples", _INT),
        ("train_samples", _INT),
        ("fingerprints", _TEXT),
        ("parameters", _INT),
        ("parameters_deployed", _INT),
        ("macs_paper", _INT),
        ("flops_batch", _INT),
        ("macs_per_sample", _INT),
        ("macs_deployed", _INT),
        ("train_seconds", _FLOAT),
        ("trial_seconds", _FLOAT),
        ("peak_memory_mb", _FLOAT),
        ("started_at", _TEXT),
        ("device", _TEXT),
        ("workers", _INT),
        ("host", _TEXT),
        ("torch_version", _TEXT),
        ("ray_version", _TEXT),
        ("study_version", _TEXT),
        ("git_commit", _TEXT),
        ("spec_hash", _TEXT),
        ("data_hash", _TEXT),
    ]
)
EPOCH_SCHEMA = pa.schema(
    [
        ("key", _TEXT),
        ("epoch", _INT),
        ("train_loss", _FLOAT),
        ("validation_rmse_m", _FLOAT),
        ("validation_accuracy", _FLOAT),
        ("learning_rate", _FLOAT),
        ("seconds", _FLOAT),
        ("log_var_position", _FLOAT),
        ("log_var_condition", _FLOAT),
    ]
)
ERROR_SCHEMA = pa.schema(
    [
        ("key", _TEXT),
        ("scene", pa.int32()),
        ("position", pa.int32()),
        ("x_m", pa.float32()),
        ("y_m", pa.float32()),
        ("x_hat_m", pa.float32()),
        ("y_hat_m", pa.float32()),
        ("error_m", pa.float32()),
        ("condition", pa.int8()),
        ("condition_hat", pa.int8()),
    ]
)


@dataclass(frozen=True)
class TrialTables:
    """What a finished trial leaves.

    Attributes:
        row: the columns of `TRIAL_SCHEMA`; absent ones are null.
        epochs: columns of `EPOCH_SCHEMA` without the key, as lists; None when no epoch was finished.
        errors: columns of `ERROR_SCHEMA` without the key, as arrays; None when there was no test.
    """

    row: dict[str, Any]
    epochs: dict[str, Any] | None = None
    errors: dict[str, Any] | None = None


@dataclass(frozen=True)
class Damaged:
    """A file that could not be read as a result."""

    path: Path
    reason: str


@dataclass
class StoredTrials:
    """The readable rows by key, and the files that were not read."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    damaged: list[Damaged] = field(default_factory=list)


class Store:
    """The results folder of one study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def spec_file(self) -> Path:
        """The resolved spec."""
        return self.folder / "study.yaml"

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.folder / "optuna.journal"

    def write(self, tables: TrialTables) -> None:
        """Store a finished trial.

        Raises:
            ResultsError: the folder cannot be written (permissions, a full disk); nothing half-written remains.
        """
        key = tables.row["key"]
        for name, schema, columns in (
            ("epochs", EPOCH_SCHEMA, tables.epochs),
            ("errors", ERROR_SCHEMA, tables.errors),
        ):
            if columns is not None:
                length = len(next(iter(columns.values())))
                full = {item: columns.get(item, [None] * length) for item in schema.names if item != "key"}
                self._write_table(name, key, pa.table({"key": [key] * length, **full}, schema=schema))
        row = {item: [tables.row.get(item)] for item in TRIAL_SCHEMA.names}
        self._write_table("trials", key, pa.table(row, schema=TRIAL_SCHEMA))

    def load(self) -> StoredTrials:
        """All rows that can be read. A damaged file is listed, and is no result: its trial runs again."""
        stored = StoredTrials()
        for path in sorted((self.folder / "trials").glob("*.parquet")):
            try:
                row = _read_row(path)
            except (OSError, pa.ArrowException, ValueError, KeyError) as error:
                stored.damaged.append(Damaged(path, str(error).splitlines()[0] if str(error) else type(error).__name__))
            else:
                stored.rows[row["key"]] = row
        return stored

    def keys(self, prefix: str = "") -> list[str]:
        """Keys of all trial files, readable or not, that start with the given text."""
        files = sorted((self.folder / "trials").glob("*.parquet"))
        return [path.stem for path in files if path.stem.startswith(prefix)]

    def find(self, prefix: str) -> dict[str, Any]:
        """The row whose key starts with the given text.

        Raises:
            ResultsError: none or several do, or its file is damaged.
        """
        found, known = self.keys(prefix), self.keys()
        if len(found) != 1 or not prefix:
            listed = found or known
            shown = ", ".join(listed[:5]) + (f" … ({len(listed)} in all)" if len(listed) > 5 else "")
            raise ResultsError(
                f"{'no trial has' if not found else f'{len(found)} trials have'} a key that starts with {prefix!r}",
                where=str(self.folder / "trials"),
                allowed=shown or "this folder holds no trial yet",
                fix="copy a key from the report",
            )
        try:
            return _read_row(self.folder / "trials" / f"{found[0]}.parquet")
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            raise ResultsError(
                f"the result file is damaged: {error}", where=found[0], fix="run the study again to replace it"
            ) from None

    def read_spec(self) -> dict[str, Any] | None:
        """The resolved spec of the study that this folder belongs to; None for a new folder.

        Raises:
            ResultsError: study.yaml is damaged.
        """
        try:
            content = yaml.safe_load(self.spec_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise _unwritable(self.folder, error) from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise self._bad_spec(f"study.yaml cannot be read: {type(error).__name__}") from None
        if not isinstance(content, dict):
            raise self._bad_spec("study.yaml is not a resolved spec")
        return content

    def read_study(self) -> StudySpec:
        """The study that this folder belongs to.

        Raises:
            ResultsError: there is no study.yaml, or it is damaged.
        """
        content = self.read_spec()
        if content is None:
            raise ResultsError(
                "the folder has no study.yaml, so it is not a results folder",
                where=str(self.folder),
                allowed="the folder that `study run` wrote: study.yaml, site.json, trials/, epochs/, errors/",
                fix="name the folder of one study, such as results/NAME",
            )
        try:
            return StudySpec.model_validate_json(json.dumps(content), strict=True)
        except (ValidationError, TypeError) as error:  # TypeError: a date, which JSON does not have
            problem = self._bad_spec("study.yaml is not a resolved spec")
            if isinstance(error, ValidationError):
                first = problems_of(error, StudySpec, Document(str(self.spec_file), content, {(): 1}), ())[0]
                problem.where = f"{self.spec_file}, {first.key_path}" if first.key_path else problem.where
                problem.allowed = f"{first.what}; allowed: {first.allowed}" if first.allowed else first.what
            raise problem from None

    def _bad_spec(self, what: str) -> ResultsError:
        return ResultsError(
            what,
            where=str(self.spec_file),
            allowed="the resolved spec as `study run` wrote it",
            fix="restore the file, or delete it and run the study again: that writes it anew and repeats no finished "
            "trial",
        )

    def write_spec(self, spec: Mapping[str, Any]) -> None:
        """Write the resolved spec.

        Raises:
            ResultsError: the folder cannot be written.
        """
        text = yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True)
        self._write_bytes(self.spec_file, text.encode())

    def read_site(self) -> dict[str, Any] | None:
        """Name, folder and hash of the site that the study runs on; None when that is not known."""
        try:
            content = json.loads((self.folder / "site.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def read_data_hash(self) -> str:
        """The identity of the data that the study runs on.

        Raises:
            ResultsError: site.json is missing or damaged.
        """
        data_hash = (self.read_site() or {}).get("data_hash")
        if not isinstance(data_hash, str):
            raise ResultsError(
                "the results folder does not say which data its trials are of",
                where=str(self.folder / "site.json"),
                allowed="the file as `study run` wrote it, with a data_hash",
                fix="restore the file, or delete it and run the study again: that writes it anew and repeats no "
                "finished trial",
            )
        return data_hash

    def write_site(self, site: Mapping[str, Any]) -> None:
        """Record the site.

        Raises:
            ResultsError: the folder cannot be written.
        """
        self._write_bytes(self.folder / "site.json", json.dumps(site, indent=1, ensure_ascii=False).encode())

    def is_locked(self) -> bool:
        """Whether a driver holds the folder now."""
        try:
            with (self.folder / ".lock").open("rb") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one driver.

        The lock is the operating system's: it goes with the process that holds it, however that process ends.

        Raises:
            ResultsError: another driver holds it, or the folder cannot be written.
        """
        path = self.folder / ".lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise _unwritable(path, error) from None
                handle.seek(0)
                owner = handle.read().strip() or "another process"
                raise ResultsError(
                    f"the study is being run by {owner}",
                    where=str(self.folder),
                    allowed="one driver for each results folder",
                    fix="wait for it, or choose another folder with --results",
                ) from None
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}")
            handle.flush()
            self._remove_leftovers()
            yield

    def _remove_leftovers(self) -> None:
        # Only the holder of the lock may: no other driver's trial can be writing now.
        for name in ("trials", "epochs", "errors"):
            for path in (self.folder / name).glob(".*.tmp"):
                with suppress(OSError):
                    path.unlink()

    def _write_table(self, name: str, key: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._write_bytes(self.folder / name / f"{key}.parquet", sink.getvalue().to_pybytes())

    def _write_bytes(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the rename itself is on disk only then
            finally:
                os.close(folder)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise _unwritable(path, error) from None


def _read_row(path: Path) -> dict[str, Any]:
    """The row of one file, or an error of pyarrow, of the file system, or ValueError."""
    with path.open("rb") as file:
        table = pq.read_table(file)
    if table.schema.remove_metadata() != TRIAL_SCHEMA and set(table.schema.names) != set(TRIAL_SCHEMA.names):
        raise ValueError("the columns are not those of a trial")
    rows = table.to_pylist()
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows instead of one")
    row: dict[str, Any] = rows[0]
    if row["key"] != path.stem:
        raise ValueError("the file's name is not the key of its row")
    if row["state"] not in FINISHED_STATES:
        raise ValueError(f"unknown state {row['state']!r}")
    if not (isinstance(row["method"], str) and isinstance(row["seed"], int) and isinstance(row["config"], str)):
        raise ValueError("its method, seed or config is missing")
    if not isinstance(json.loads(row["config"]), dict):
        raise ValueError("its config is not a mapping")
    return row


def _unwritable(path: Path, error: OSError) -> ResultsError:
    reason = error.strerror or str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ResultsError(
        f"results cannot be written: {reason}",
        where=str(path),
        allowed="a folder that this user can write to, with free space",
        fix="free some space and run the same command again; finished trials are kept"
        if full
        else "choose another folder with --results",
    )
