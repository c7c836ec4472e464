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
SETTINGS = ("trim_threshold", "mmap_threshold", "mmap_max", "top_pad")
"""Parameters by which the environment decides the same, as `MALLOC_<NAME>_` or in `GLIBC_TUNABLES`."""


def keep_freed_memory() -> bool:
    """Has this process keep freed memory. Returns whether it does.

    That is up to 256 MiB at the end of the heap, and free blocks of at most 32 MiB below others that are in use.
    It does not without glibc, nor if the environment sets one of `SETTINGS`.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    said = any(f"MALLOC_{name.upper()}_" in os.environ or name in tunables for name in SETTINGS)
    if said or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, KEPT))
