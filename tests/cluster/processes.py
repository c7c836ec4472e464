"""Processes that a test has started, found by a mark in their environment, and free ports for them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

MARK = "LORASA_TEST_MARK"


def marked(mark: str) -> list[int]:
    """Ids of the processes whose environment holds `MARK=mark`: children inherit it, whoever adopts them."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                environment = (process / "environ").read_bytes().split(b"\0")
            except OSError:  # ended meanwhile, or not ours
                continue
            if wanted in environment and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


def end(mark: str, patience: float = 5.0) -> None:
    """Ends them: politely, then at once."""
    for number, until in (
        (signal.SIGTERM, time.monotonic() + patience),
        (signal.SIGKILL, time.monotonic() + 2 * patience),
    ):
        for pid in marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        while marked(mark) and time.monotonic() < until:
            time.sleep(0.1)
    assert not marked(mark)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
