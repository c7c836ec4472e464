"""Processes of benchmarks that work on request: each line on their standard input is a request, a line of JSON answers.

They start once and wait in between, so that a benchmark can let them take turns, each with a Python of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Any

ENDS_WITHIN = 60
"""Seconds allowed for a process to end by itself."""


class Child:
    """A process that runs a command and answers requests. name: for messages."""

    def __init__(self, name: str, command: Sequence[str]):
        self._name, self._log = name, tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def ask(self) -> dict[str, Any]:
        """Its answer to a request. Raises RuntimeError with its last output if it ended instead."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print("go", file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"{self._name} ended:\n{self._log.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # makes it end by itself
        try:
            self._process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def answers() -> IO[str]:
    """Standard output for answers alone: in this process, what libraries print goes to standard error from now on."""
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return own
