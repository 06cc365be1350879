"""Reading a YAML file into a model, with all its mistakes reported at once.

`load_yaml` is the one way in which study specs, cluster files and scenario files are read. The parts: `document`
(YAML to data with lines), pydantic (the model), `problems` (pydantic's findings in plain words).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from study.errors import Problem, SpecError
from study.spec.document import Document, read_document
from study.spec.problems import Allowed, InvalidValue, InvalidValues, problems_of

__all__ = [
    "Allowed",
    "Document",
    "InvalidValue",
    "InvalidValues",
    "Problem",
    "load_yaml",
    "parse_yaml",
    "read_yaml",
    "validate",
]

T = TypeVar("T", bound=BaseModel)

# A spec has a few kilobytes; a megabyte is a data file given by mistake, and would take long to parse.
MAX_BYTES = 1_000_000


def load_yaml(path: Path, model: type[T], *, kind: str, context: dict[str, Any] | None = None) -> T:
    """Read a YAML file and validate it.

    Args:
        path: the file.
        model: a pydantic model with ``extra="forbid"``.
        kind: what the file should be, such as ``study spec``, for messages.
        context: handed to the model's validators.

    Raises:
        SpecError: the file cannot be read or does not fit; `problems` holds every mistake.
    """
    return validate(read_yaml(path, kind=kind), model, kind=kind, context=context)


def parse_yaml(
    text: str, model: type[T], kind: str, source: str = "<text>", context: dict[str, Any] | None = None
) -> T:
    """Validate YAML text, as `load_yaml` does a file. `source` names it in messages."""
    return validate(read_document(text, source=source, kind=kind), model, kind=kind, context=context)


def read_yaml(path: Path, *, kind: str) -> Document:
    """Read a YAML file without validating it, for files whose model depends on their content.

    Raises:
        SpecError: missing, not a file, too large, not UTF-8, not YAML, empty, or not a mapping.
    """
    where = str(path)
    try:
        if path.is_dir():
            raise SpecError(f"the {kind} is a folder", where=where, allowed="a YAML file", fix="name a file in it")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # not by its size: a device or a pipe has none
        if len(content) > MAX_BYTES:
            raise SpecError(
                f"the file is too large for a {kind}",
                where=where,
                allowed=f"at most {MAX_BYTES // 1000} kB",
                fix="check that this is the file you meant",
            )
    except (FileNotFoundError, NotADirectoryError):
        raise SpecError(f"the {kind} does not exist", where=where, fix="check the path and the folder") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(f"the {kind} cannot be read: {reason}", where=where, fix="check its permissions") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(
            f"the {kind} is not UTF-8 text", where=f"{where}:{line}", allowed="UTF-8", fix="save the file as UTF-8"
        ) from None
    return read_document(text, source=where, kind=kind)


def validate(
    document: Document, model: type[T], *, kind: str, at: tuple[str, ...] = (), context: dict[str, Any] | None = None
) -> T:
    """Validate a document, or the part of it at a key path.

    Args:
        document: what `read_yaml` returned.
        model: a pydantic model with ``extra="forbid"``.
        kind: what the file should be, for messages.
        at: the key path of the mapping to validate; the rest of the file is not looked at.
        context: handed to the model's validators.

    Raises:
        SpecError: the data do not fit.
        KeyError: the document has nothing at `at`.
    """
    problems = list(document.problems)
    result: T | None = None
    # Strict validation of JSON is what YAML means: lists become tuples and words enumerations, but 'no' never becomes
    # False, '3' never 3 and true never 1.
    text = json.dumps(document.value(at))
    try:
        result = model.model_validate_json(text, strict=True, context=context)
    except ValidationError as error:
        problems += problems_of(error, model, document, at)
    if problems or result is None:
        problems.sort(key=lambda problem: problem.line or 0)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpecError(f"{count} in the {kind} {document.source}", problems=problems)
    return result
