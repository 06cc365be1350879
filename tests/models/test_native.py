"""C sources are compiled once for a machine and user, and never trusted where others may have put something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ASK = """
import sys
from pathlib import Path
from models.native import compiled_library
print(compiled_library(Path(sys.argv[1]), "-DNUMBER=7").number())
"""


def _asked(compiler: Path, home: Path, source: Path) -> None:
    """A process of its own, with a compiler and a cache folder, calls what it compiled or found."""
    run = subprocess.run(
        [sys.executable, "-c", ASK, source],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "CC": str(compiler),
             "XDG_CACHE_HOME": str(home)},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert run.stdout.strip() == "7"


def _compiler(path: Path, calls: Path) -> Path:
    path.write_text(f'#!/bin/sh\necho called >> {calls}\nexec cc "$@"\n')
    path.chmod(0o755)
    return path


def test_what_was_compiled_is_kept_for_other_processes(tmp_path: Path) -> None:
    """Damaged, it is made again; in a folder to which others may write, nothing is kept or trusted."""
    calls, cache, source = tmp_path / "calls", tmp_path / "cache", tmp_path / "some.c"
    compiler = _compiler(tmp_path / "compiler", calls)
    source.write_text("int number(void) { return NUMBER; }")

    def calls_of_a_process() -> int:
        calls.write_text("")
        _asked(compiler, cache, source)
        return len(calls.read_text().splitlines())

    assert calls_of_a_process() == 1
    assert calls_of_a_process() == 0
    (kept,) = (cache / "study").iterdir()
    whole = kept.read_bytes()
    # Garbage, nothing, and what a loader takes for a library until it reads beyond the end.
    for damaged in (b"not a library", b"", whole[: len(whole) // 2], whole[:-1]):
        kept.write_bytes(damaged)
        assert calls_of_a_process() == 1
        assert calls_of_a_process() == 0
    kept.unlink()
    os.mkfifo(kept)  # to read from it would wait for ever
    assert calls_of_a_process() == 1
    assert calls_of_a_process() == 0
    (cache / "study").chmod(0o777)
    assert calls_of_a_process() == 1
    assert list((cache / "study").iterdir()) == [kept]


def test_another_compiler_or_source_does_not_find_what_the_first_one_made(tmp_path: Path) -> None:
    cache, source = tmp_path / "cache", tmp_path / "some.c"
    source.write_text("int number(void) { return NUMBER; }")
    for name in ("one", "two"):
        _asked(_compiler(tmp_path / name, tmp_path / "calls"), cache, source)
    source.write_text("int number(void) { return NUMBER + 0; }")
    _asked(tmp_path / "one", cache, source)
    assert len(list((cache / "study").iterdir())) == 3


def test_a_folder_that_takes_nothing_is_done_without(tmp_path: Path) -> None:
    """As one that is full: the library is used from where it was made."""
    calls, cache, source = tmp_path / "calls", tmp_path / "cache", tmp_path / "some.c"
    compiler = _compiler(tmp_path / "compiler", calls)
    source.write_text("int number(void) { return NUMBER; }")
    _asked(compiler, cache, source)
    (kept,) = (cache / "study").iterdir()
    kept.unlink()
    kept.mkdir()  # nothing can be loaded from it, and no file can take its place
    calls.write_text("")
    _asked(compiler, cache, source)
    assert calls.read_text() == "called\n"
    assert not list((cache / "study").glob("*.part"))
