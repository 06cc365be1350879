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
    # As in training: many blocks of MiB at a time, freed together. Pages of 4 KiB are touched one by one.
    for block in [np.empty(30 * 2**20, np.uint8) for _ in range(4)]:
        block[::4096] = 1
step()
before = faults()
for _ in range(10):
    step()
print((faults() - before) / 10)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_memory_that_a_step_frees_is_there_for_the_next() -> None:
    run = subprocess.run([sys.executable, "-c", WORK, "keep"], check=True, capture_output=True, text=True)
    # 4 × 30 MiB are 30,720 pages, or 60 where the kernel gives pages of 2 MiB.
    assert float(run.stdout) < 10, "page faults per step"
