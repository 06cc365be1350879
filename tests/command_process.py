"""A ``study`` command as a process of its own, in a session of its own: to be watched, interrupted and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# Nothing waits that long but for what never comes, even on a machine that has much else to do.
WAIT_S = 600


class CommandProcess:
    """A running command.

    Args:
        arguments: of ``study``.
        before: Python that the process runs first.
        environment: variables beside those of this process.
        folder: where it runs; this process's folder when left out.
    """

    def __init__(
        self,
        *arguments: object,
        before: str = "",
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        program = f"from study.cli import main\n{before}\nmain()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
            cwd=folder,
        )
        self._lines: list[str] = []
        # A pipe that nobody empties would stop the command.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)

    def output(self) -> str:
        """What it has printed by now."""
        if self.process.poll() is not None:
            self._reader.join(10)  # what it started may hold the pipe open
        return "".join(self._lines)

    def descendants(self) -> dict[int, str]:
        """Process ids and command lines of everything else in its session, Ray's own processes included."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                status = (folder / "stat").read_text()
                state, _, _, session = status[status.rindex(")") + 2 :].split()[:4]
                # One that has ended, and that nobody has asked how, is no process any more.
                if int(session) == self.process.pid != int(folder.name) and state != "Z":
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
        return found

    def named(self, *names: str) -> list[int]:
        """Those of them whose command lines start with one of the names, as ``ray::NAME`` does."""
        return sorted(pid for pid, command in self.descendants().items() if command.startswith(names))

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait while it runs, until the condition holds."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            # It may have come with the end.
            ended = self.process.poll() is not None and not condition()
            assert not ended, f"the command ended before {what}: {self.output()}"
            assert time.monotonic() < deadline, f"waited in vain for {what}: {self.output()}"
            time.sleep(0.02)

    def wait_until_gone(self, which: Callable[[], object]) -> None:
        """Wait until nothing is left of what a function lists."""
        deadline = time.monotonic() + WAIT_S
        while which():
            assert time.monotonic() < deadline, f"still there: {self.descendants()}"
            time.sleep(0.05)

    def wait_at_most(self, seconds: float) -> None:
        """Wait so long, or until it ends."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def ended(self) -> int:
        """Wait for its end; its exit code."""
        try:
            return self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end: {self.output()}\n{self.descendants()}") from None

    def kill(self) -> None:
        """kill -9 of the command alone; what it started goes by itself, Ray's own servers after half a minute."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> None:
        """Ctrl-C, which a terminal sends to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def terminate(self) -> None:
        """A polite kill of the command alone."""
        self.process.terminate()

    def clean_up(self) -> None:
        """End whatever is left."""
        for pid in [self.process.pid, *self.descendants()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
