"""Freed memory stays with the process, where the C library can do that."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

WORK = """
import resource, sys
import numpy as np
from study.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    for size in (4, 16, 4, 8):
        np.ones(size * 2**17).sum()  # MiB of float64
step()
before = faults()
for _ in range(20):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_memory_that_a_step_frees_is_there_for_the_next() -> None:
    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", WORK, how], check=True, capture_output=True, text=True).stdout)

    assert faults("keep") < faults("default") / 10
