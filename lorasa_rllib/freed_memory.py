"""Memory that tensors free is kept for the next ones.

glibc hands freed memory back to the system as soon as 128 KiB are free at the end of the heap, and takes large blocks
from the system each time. The intermediate results of an optimiser step on many rows are such blocks: fetching
their pages anew took a third of the step.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt` (malloc.h)."""
LARGEST = 32 * 2**20
"""Bytes up to which a block comes from the heap: as much as glibc allows itself."""
KEPT = 256 * 2**20
"""Bytes that may lie free at the end of the heap."""


def keep_freed_memory() -> bool:
    """Has this process keep up to 256 MiB of freed memory. Returns whether it does.

    It does not without glibc, nor if the environment sets malloc's own parameters (`MALLOC_...`, `GLIBC_TUNABLES`).
    """
    said = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if said or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, KEPT))
