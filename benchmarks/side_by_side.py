"""Processes of a benchmark that begin together: imports are done before, and the clock stops at the last line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["run_together"]


def run_together(script: str, tasks: Sequence[dict[str, Any]], lines: int) -> tuple[list[dict[str, Any]], float]:
    """Run ``script --worker TASK`` for each task.

    A worker prints ``ready``, waits for a line, and then prints each thing that it found as a line of JSON.

    Args:
        script: file of the benchmark.
        tasks: what each process is told.
        lines: how many lines each process prints.

    Returns:
        What they printed, process by process, and the seconds from their common start to the last line.
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    running = [
        subprocess.Popen(
            [sys.executable, script, "--worker", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for task in tasks
    ]
    try:
        if any(_line(process) != "ready" for process in running):
            raise SystemExit("a process of the benchmark ended before it began; see above")
        began = time.perf_counter()
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        found = [_line(process) for process in running for _ in range(lines)]
        seconds = time.perf_counter() - began  # before the processes end, which may take longer than what is measured
        for process in running:
            process.communicate()
        if not all(found) or any(process.returncode for process in running):
            raise SystemExit("a process of the benchmark failed; see above")
    finally:
        for process in running:
            process.kill()
    return [json.loads(line) for line in found], seconds


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
