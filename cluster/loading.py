"""Reading a cluster file: a plain one, or one that `ray up` also reads."""

from __future__ import annotations

from pathlib import Path

from cluster.model import Cluster
from study.errors import SpecError
from study.spec.loading import read_yaml, validate

__all__ = ["load_cluster"]

_KIND = "cluster file"
# `ray up` refuses top-level keys it does not know, but leaves what stands under `metadata` alone.
_RAY_UP_KEYS = ("cluster_name", "provider")
_OURS = ("metadata", "study")


def load_cluster(path: Path) -> Cluster:
    """Read a cluster file.

    A file with `cluster_name` or `provider` is one for ``ray up``: ours are the keys under ``metadata.study`` and Ray
    checks the rest. In any other file all keys are ours.

    Raises:
        SpecError: the file cannot be read, or its values do not fit; all problems at once.
    """
    document = read_yaml(path, kind=_KIND)
    if not any(key in document.data for key in _RAY_UP_KEYS):
        return validate(document, Cluster, kind=_KIND)
    try:
        return validate(document, Cluster, kind=_KIND, at=_OURS)
    except KeyError:
        raise SpecError(
            "this `ray up` file does not say how a study uses the cluster",
            where=str(path),
            allowed="keys such as address and resources_per_trial under metadata.study",
            fix="add 'metadata: {study: {address: auto}}', or start from the shipped cluster/gpu.yaml",
        ) from None
