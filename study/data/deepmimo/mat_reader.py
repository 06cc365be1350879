"""Reads .mat files in a process of its own: some damaged ones end the process that reads them, without an exception.

The other process is this module: it takes a JSON line [file, variable], and answers with the length of a pickle in
eight bytes and the pickle: the array, or the names of the variables that are there instead, or an error in words.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MatReader"]


class MatReader:
    """A process that reads .mat files of MATLAB 5 to 7.2; started when it is needed, and again when it was lost."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, file: Path, variable: str) -> tuple[NDArray[Any] | None, list[str]]:
        """A variable, or None and the names of those that the file has.

        Raises:
            ValueError: the file cannot be read; the message says why.
        """
        if self._process is None:
            command = [sys.executable, "-c", f"from {__name__} import _serve; _serve()"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps([str(file), variable]).encode() + b"\n")
            process.stdin.flush()
            header = process.stdout.read(8)
        except BrokenPipeError:
            header = b""
        if len(header) < 8:
            status = process.wait()
            self._process = None
            raise ValueError(f"reading it ends the process that reads ({status})")
        answer = pickle.loads(process.stdout.read(int.from_bytes(header, "little")))
        if isinstance(answer, str):
            raise ValueError(answer)
        values, names = answer
        return values, names

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()  # the end of its input is the end of its work
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


def _serve() -> None:
    for line in sys.stdin.buffer:
        try:
            answer: Any = _load(*json.loads(line))
        except Exception as error:  # a damaged file makes the reader raise anything
            answer = str(error).splitlines()[0] if str(error) else type(error).__name__
        content = pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL)
        sys.stdout.buffer.write(len(content).to_bytes(8, "little") + content)
        sys.stdout.buffer.flush()


def _load(file: str, variable: str) -> tuple[NDArray[Any] | None, list[str]]:
    import scipy.io

    content = scipy.io.loadmat(file, variable_names=[variable])
    if variable not in content:
        return None, [name for name, _, _ in scipy.io.whosmat(file)]
    values = np.asarray(content[variable])
    if values.dtype.hasobject:
        raise ValueError(f"{variable} is of the type {values.dtype}, and not numbers")
    return values, []
