"""Where a result comes from: versions, commit, machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import socket
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from study import __version__
from study.spec.trial import Trial, canonical_json

__all__ = ["Provenance", "processor_name", "spec_hash", "trial_identity"]


@dataclass(frozen=True)
class Provenance:
    """Recorded in every row.

    Attributes:
        study_version, ray_version: package versions.
        git_commit: commit of the checkout that ran, with ``+changes`` if files differ from it; None for a wheel.
        spec_hash: identity of the spec that asked for the trial.
    """

    study_version: str
    ray_version: str | None
    git_commit: str | None
    spec_hash: str | None

    @classmethod
    def here(cls, spec: dict[str, Any] | None = None) -> Provenance:
        """Of this installation."""
        return cls(__version__, _version("ray"), _git_commit(), None if spec is None else spec_hash(spec))

    def as_row(self) -> dict[str, Any]:
        """The columns of the trial table."""
        return asdict(self)


def trial_identity(trial: Trial, provenance: Provenance, started_at: datetime) -> dict[str, Any]:
    """The columns of the trial table that are known before a trial has run."""
    return {
        "key": trial.key,
        "method": trial.method,
        "seed": trial.seed,
        "data_seed": trial.config.get("split", {}).get("data_seed"),
        "planned_epochs": trial.config.get("training", {}).get("epochs"),
        "config": canonical_json(trial.config),
        "data_hash": trial.data_hash,
        "started_at": started_at.isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        **provenance.as_row(),
    }


def spec_hash(spec: dict[str, Any]) -> str:
    """The first 16 hex digits of the SHA-256 of a resolved spec."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()[:16]


@cache
def processor_name() -> str:
    """This machine's processor as its maker calls it, such as ``AMD EPYC 7B13``; its kind where that is unknown."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Processor", "cpu model") and value.strip():
                return " ".join(value.split())
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    # A wheel may be installed somewhere inside a foreign repository: ask only in our own checkout.
    if not ((root / ".git").exists() and (root / "pyproject.toml").exists()):
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
