"""C sources that are compiled when they are first needed, for the machine they run on, and kept for other processes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from models.precision import processor_flags

__all__ = ["Unavailable", "compiled_library"]

# Not -ffast-math: a value that is not a number has to stay one.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_COMPILERS = ("cc", "gcc", "clang")
_COMPILE_LIMIT_S = 60
_DIGEST = hashlib.sha256().digest_size


class Unavailable(Exception):  # noqa: N818 - no failure: torch does the same
    """Why a library cannot be had here."""


def compiled_library(source: Path, *flags: str) -> ctypes.CDLL:
    """The functions of a C source.

    They are kept in the user's cache folder; ``CC`` names another compiler than the machine's.

    Args:
        source: a ``.c`` file that needs no other one of ours.
        flags: for the compiler, beside the usual ones.

    Raises:
        Unavailable: they cannot be compiled or loaded here.
    """
    found = _compiled(source, flags)
    if isinstance(found, str):
        raise Unavailable(found)
    return found


@functools.cache
def _compiled(source: Path, flags: tuple[str, ...]) -> ctypes.CDLL | str:
    """The library, or why there is none: asked for once in a process."""
    names = [os.environ["CC"]] if os.environ.get("CC") else [name for name in _COMPILERS if shutil.which(name)]
    if not names:
        return f"there is no C compiler ({', '.join(_COMPILERS)})"
    try:
        command = [*shlex.split(names[0]), *_FLAGS, *flags]
        if shutil.which(command[0]) is None:
            return f"the C compiler {names[0]} of $CC is not there"
        kept = _kept(source, command)
        if kept is not None and _is_whole(kept):
            with suppress(OSError):  # a folder from which nothing may be run
                return ctypes.CDLL(str(kept))
        with tempfile.TemporaryDirectory(prefix="study-") as folder:
            library = Path(folder) / f"{source.stem}.so"
            subprocess.run(
                [*command, str(source), "-o", str(library)],
                check=True, capture_output=True, text=True, errors="replace", timeout=_COMPILE_LIMIT_S,
            )  # fmt: skip
            if kept is not None:
                with suppress(OSError):  # a folder that is full or read-only, or from which nothing may be run
                    _put(library, kept)
                    return ctypes.CDLL(str(kept))
            return ctypes.CDLL(str(library))
    except subprocess.CalledProcessError as error:
        words = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[0]
        return f"the C compiler {names[0]} failed: {words}"
    except subprocess.TimeoutExpired:
        return f"the C compiler {names[0]} did not end within {_COMPILE_LIMIT_S} s"
    except (OSError, ValueError) as error:
        return f"what the C compiler {names[0]} made cannot be used: {error}"


def _kept(source: Path, command: Sequence[str]) -> Path | None:
    """Where what a compiler makes on such a machine is kept for other processes; None if nowhere.

    It is code that will be run: only a folder that nobody else may write to will do. Machines that share the folder may
    have processors that differ in what they can do.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "study"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        seen = folder.stat()
        if seen.st_uid != os.getuid() or seen.st_mode & 0o022:
            return None
        compiler = Path(shutil.which(command[0]) or command[0]).resolve()
        program = compiler.stat()
        made_of = (
            *command,
            compiler,
            program.st_size,
            program.st_mtime_ns,
            source.read_text(),
            platform.machine(),
            *sorted(processor_flags()),
        )
    except (OSError, RuntimeError):  # no home
        return None
    return folder.absolute() / f"{source.stem}-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}.so"


def _put(library: Path, kept: Path) -> None:
    """Put a library in its place, whole or not at all, and behind it what tells that it is whole.

    Raises:
        OSError: it cannot be written there.
    """
    part = kept.with_name(f".{uuid.uuid4().hex}.part")
    content = library.read_bytes()
    try:
        with part.open("xb") as file:
            file.write(content + hashlib.sha256(content).digest())  # loaders do not mind what comes after the end
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o700)
        part.replace(kept)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _is_whole(kept: Path) -> bool:
    """Whether this is a library as `_put` left it: to load one that was cut short would end the process."""
    try:
        if not stat.S_ISREG(kept.stat().st_mode):
            return False
        content = kept.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]
