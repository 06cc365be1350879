"""The C library's memory, kept for the next step."""

from __future__ import annotations

import ctypes
import functools
import platform

__all__ = ["keep_freed_memory"]

# Numbers of the settings in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees; whether the C library can (glibc alone).

    A training step frees as much as the next one needs. By default glibc gives large blocks back to the kernel, which
    clears them page by page when they are asked for again: that took a quarter of a training step of the paper's
    network and half of the making of fingerprints (docs/performance.md). The price is memory in pieces: the process
    needs up to a half more at its peak.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    # All blocks on the heap, also the largest; one heap, also for a thread that trains: only the first is unlimited.
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1))
    taken = [bool(library.mallopt(*setting)) for setting in settings]
    return all(taken)
