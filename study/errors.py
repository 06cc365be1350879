"""The errors a user can mend.

    StudyError              what happened, where, what is allowed, what to do; the CLI prints it and exits with 2
    ├── SpecError           a study spec, cluster file or scenario file that cannot be used
    ├── DataError           a site or path table that is missing, damaged or does not fit
    ├── ConfigurationError  values that are well formed but cannot work together (an input too small for a backbone)
    ├── ClusterError        resources that the machine or the cluster does not have
    ├── ResultsError        a results folder that cannot be used
    └── DependencyError     an optional package that is missing or too old

Everything else that reaches the command line is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "ClusterError",
    "ConfigurationError",
    "DataError",
    "DependencyError",
    "Problem",
    "ResultsError",
    "SpecError",
    "StudyError",
    "nearest",
]


class StudyError(Exception):
    """A mistake that the user can mend.

    Args:
        what: what is wrong, in one sentence.
        where: the file, line, key path or row.
        allowed: what would have been right.
        fix: what to do next.
    """

    def __init__(
        self, what: str, *, where: str | None = None, allowed: str | None = None, fix: str | None = None
    ) -> None:
        super().__init__(what)
        self.what, self.where, self.allowed, self.fix = what, where, allowed, fix

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("where", self.where), ("allowed", self.allowed), ("to do", self.fix)):
            if text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries (Ray); the default would call __init__ with the message alone.
        return (_rebuild, (type(self), self.what, self.where, self.allowed, self.fix))


def _rebuild(kind: type[StudyError], what: str, where: str | None, allowed: str | None, fix: str | None) -> StudyError:
    return kind(what, where=where, allowed=allowed, fix=fix)


@dataclass(frozen=True)
class Problem:
    """One mistake in a file.

    Args:
        file: the file as the user named it.
        line: counted from 1; None where the mistake has no line.
        key_path: such as ``axes.system.paths[1]``; empty for the file as a whole.
        value: the value as it was read, shortened for reading; None where there is none (a missing key).
        what: what is wrong, in plain words.
        allowed: what would have been right.
        hint: the nearest match, or what to write instead.
    """

    file: str
    line: int | None
    key_path: str
    value: str | None
    what: str
    allowed: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        key = self.key_path or "(whole file)"
        lines = [f"{place}  {key}" + (f": {self.value}" if self.value is not None else "")]
        lines.append(f"  {self.what}" + (f"; {self.hint}" if self.hint else ""))
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        return "\n".join(lines)


class SpecError(StudyError):
    """A study spec, cluster file or scenario file that cannot be used.

    Args:
        what: what is wrong, in one sentence.
        where: the file, line, key path or row.
        allowed: what would have been right.
        fix: what to do next.
        problems: every mistake found in the file, in the order of its lines; empty when the file could not be read.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        allowed: str | None = None,
        fix: str | None = None,
        problems: Iterable[Problem] = (),
    ) -> None:
        super().__init__(what, where=where, allowed=allowed, fix=fix)
        self.problems = list(problems)

    def __str__(self) -> str:
        text = [f"  {line}" for problem in self.problems for line in str(problem).splitlines()]
        return "\n".join([super().__str__(), *text])

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_spec, (type(self), self.what, self.where, self.allowed, self.fix, tuple(self.problems)))


def _rebuild_spec(
    kind: type[SpecError],
    what: str,
    where: str | None,
    allowed: str | None,
    fix: str | None,
    problems: tuple[Problem, ...],
) -> SpecError:
    return kind(what, where=where, allowed=allowed, fix=fix, problems=problems)


class DataError(StudyError):
    """A site or path table that is missing, damaged or does not fit."""


class ConfigurationError(StudyError):
    """Values that are well formed but cannot work together."""


class ClusterError(StudyError):
    """Resources that the machine or the cluster does not have."""


class ResultsError(StudyError):
    """A results folder that cannot be used."""


class DependencyError(StudyError):
    """An optional package that is missing or too old."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint such as ``"; did you mean 'method'?"``, empty when nothing is close."""
    match = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""
