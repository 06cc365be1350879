"""The C library's memory, kept for the next step."""

from __future__ import annotations

import ctypes
import functools
import platform

__all__ = ["keep_freed_memory"]

# Numbers of the settings in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# The largest that glibc takes; larger arrays live long enough not to matter.
_LARGEST_HEAP_ARRAY = 32 * 2**20


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees; whether the C library can (glibc alone).

    A training step frees as much as the next one needs. By default glibc gives large blocks back to the kernel, which
    clears them page by page when they are asked for again: that took a fifth of a training step and half of the
    making of fingerprints (docs/performance.md). The process does not need more at its peak.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_MMAP_THRESHOLD, _LARGEST_HEAP_ARRAY)) and bool(
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    )
