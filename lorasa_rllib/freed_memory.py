"""Keeps the memory of freed tensors in the process, so that the next tensors reuse it.

By default glibc returns large freed blocks to the system, and every new one starts with page faults. On 24,000 rows
page faults took more than a quarter of an optimiser step.
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
