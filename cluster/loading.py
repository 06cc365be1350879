"""Reading a cluster file: a plain one, one that `ray up` also reads, or one for Kubernetes."""

from __future__ import annotations

import re
from pathlib import Path

from cluster.model import Cluster
from study.errors import SpecError
from study.spec.document import read_document
from study.spec.loading import MAX_BYTES, read_yaml, validate

__all__ = ["load_cluster"]

_KIND = "cluster file"
# `ray up` refuses top-level keys it does not know, but leaves what stands under `metadata` alone.
_RAY_UP_KEYS = ("cluster_name", "provider")
_OURS = ("metadata", "study")
# Kubernetes keeps files in a ConfigMap, which the pods of the cluster see as a folder.
_MANIFEST_KEY = "apiVersion"
_OURS_IN_CONFIG_MAP = ("data", "cluster.yaml")
_SEPARATOR = re.compile(r"---(\s.*)?")


def load_cluster(path: Path) -> Cluster:
    """Read a cluster file.

    A file with `cluster_name` or `provider` is one for ``ray up``: ours are the keys under ``metadata.study`` and Ray
    checks the rest. A file with `apiVersion` is one for ``kubectl apply``: ours is the text ``data: cluster.yaml`` of
    its ConfigMap, which the pods see as a file. In any other file all keys are ours.

    Raises:
        SpecError: the file cannot be read, or its values do not fit; all problems at once.
    """
    parts = _documents(path)
    if parts is not None:
        return _in_config_map(parts, str(path))
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


def _documents(path: Path) -> list[str] | None:
    """The YAML documents of a Kubernetes manifest, each at its lines in the file; None: it is no manifest."""
    try:
        # A device or a pipe can be read once only, or without end.
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError):
        return None  # reading it as a plain file says what is wrong
    if not re.search(rf"^{_MANIFEST_KEY}\s*:", text, re.MULTILINE):
        return None
    parts: list[str] = []
    begun: list[str] = []
    for number, line in enumerate(text.splitlines()):
        if _SEPARATOR.fullmatch(line):
            parts.append("\n".join(begun))
            begun = [""] * (number + 1)
        else:
            begun.append(line)
    parts.append("\n".join(begun))
    return [part for part in parts if any(line.strip() and not line.startswith("#") for line in part.splitlines())]


def _in_config_map(parts: list[str], source: str) -> Cluster:
    for part in parts:
        manifest = read_document(part, source=source, kind=_KIND)
        if manifest.data.get("kind") != "ConfigMap":
            continue
        try:
            text = manifest.value(_OURS_IN_CONFIG_MAP)
        except KeyError:
            continue
        if not isinstance(text, str):
            break
        # The text starts below its key, so that problems have their line in the file.
        above = "\n" * manifest.line(_OURS_IN_CONFIG_MAP)
        return validate(read_document(f"{above}{text}", source=source, kind=_KIND), Cluster, kind=_KIND)
    raise SpecError(
        "this Kubernetes manifest does not say how a study uses the cluster",
        where=source,
        allowed="a ConfigMap with the cluster file's text as data: {cluster.yaml: …}",
        fix="start from the shipped cluster/kuberay.yaml",
    )
