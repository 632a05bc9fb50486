"""The C library's memory: what one step of a computation frees, the next one uses again."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT = 2**31 - 1  # bytes; the call takes an int
_OWN_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES", "LD_PRELOAD")


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep the large blocks that are freed, for the whole process and from now on.

    By default it returns every block over 32 MiB (at first 128 kiB) to the kernel at once, and each page of the next
    block costs a fault and a zeroing: a sixth to a fifth of a convolutional network's training step on a CPU. Memory
    in use does not grow; it stays with the process after its peak. Returns whether it was done: not without glibc, nor
    where the environment already tunes or replaces malloc.
    """
    if platform.libc_ver()[0] != "glibc" or any(os.environ.get(name) for name in _OWN_SETTINGS):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _KEPT) and mallopt(_TRIM_THRESHOLD, _KEPT))
