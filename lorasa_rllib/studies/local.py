"""Protects a local Ray instance with a token, as its processes listen on all network interfaces.

Ray reads the settings when it is imported, so nothing here imports it.
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
"""Values of RAY_ADDRESS that start a new local instance."""


def protect_local_start(arguments: Sequence[str] | None = None) -> None:
    """Makes a Ray instance started here require a token known only to this process and its children.

    Does nothing if a cluster is joined (--address, RAY_ADDRESS, or one that runs on this machine), if RAY_AUTH_MODE is
    set, or if Ray has already been imported.
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
    """Whether a cluster started on this machine responds, in which case `ray.init` would join it."""
    file = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    try:
        host, _, port = file.read_text().strip().rpartition(":")
        socket.create_connection((host, int(port)), timeout=1).close()
    except (OSError, ValueError):
        return False
    return True
