"""Ray on this machine alone, closed to others: its processes listen on all interfaces, so they ask for a token.

Ray reads that when it is imported, so nothing here imports it.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

LOCAL = ("", "local")
"""Addresses that mean a Ray of one's own."""


def protect_local_start(arguments: Sequence[str] | None = None) -> None:
    """Has a Ray that is started here want a token that only this process and its children know.

    Left alone is who joins a cluster (--address, RAY_ADDRESS, or one that runs on this machine), has set RAY_AUTH_MODE,
    or has imported Ray already.
    """
    if "ray" in sys.modules:
        return
    given = sys.argv[1:] if arguments is None else arguments
    joins = any(word.partition("=")[0] == "--address" for word in given)
    if joins or "RAY_AUTH_MODE" in os.environ or os.environ.get("RAY_ADDRESS", "") not in LOCAL:
        return
    if "RAY_ADDRESS" not in os.environ and _runs_already():
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _runs_already() -> bool:
    """Whether a cluster was started on this machine that answers: `ray.init` would join it."""
    file = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    try:
        host, _, port = file.read_text().strip().rpartition(":")
        socket.create_connection((host, int(port)), timeout=1).close()
    except (OSError, ValueError):
        return False
    return True
