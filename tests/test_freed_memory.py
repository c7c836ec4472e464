"""Memory that tensors free is kept for the next ones."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from lorasa_rllib.freed_memory import keep_freed_memory

kept = keep_freed_memory()

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    x = [torch.ones(2**20) for _ in range(8)]  # 4 MiB each
    return sum(x)

work()
before = pages()
for _ in range(10):
    work()
print(kept, pages() - before)
"""


def run(**environment: str) -> tuple[bool, int]:
    """Whether memory is kept, and how many pages ten rounds fetch."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, timeout=120, check=True)
    kept, pages = done.stdout.split()
    return kept == "True", int(pages)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again_unless_the_environment_sets_malloc():
    kept, pages = run()
    assert kept
    left_alone, fetched = run(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")
    assert not left_alone and fetched > 5 * pages
