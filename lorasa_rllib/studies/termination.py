"""Handles Ctrl-C and SIGTERM (sent by spot machines and schedulers): running trials save a checkpoint, then the study
ends.

The same command with --resume continues from there. A second signal ends the study immediately. If a signal is sent to
the whole process group (`timeout`, Slurm) or to all processes of a service (systemd), only the script reacts: Ray's
processes, which are needed for saving, block SIGTERM and are ended by Ray and Tune.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.result import SHOULD_CHECKPOINT

LIMIT = 90.0
"""Seconds allowed for saving; AWS reclaims spot machines 120 s after the notice."""

SAME = 2.0
"""Seconds within which a second signal is ignored as a duplicate: `timeout` also signals the process group."""

_asked = threading.Event()
_received: list[int] = []
_at = [0.0]
"""Time at which the study was asked to end."""


@contextmanager
def spared() -> Iterator[None]:
    """Makes processes started in the body block SIGTERM; the caller receives it at the latest when the body ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class SaveOnTermination(Callback):
    """Tune callback that saves and ends on a signal; acts in the process that runs `Tuner.fit()`."""

    def __init__(self) -> None:
        self._saved: set[str] = set()

    def setup(self, **info: object) -> None:
        _asked.clear()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, _ask)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: object) -> None:
        if _asked.is_set() and all(t.trial_id in self._saved for t in trials if t.status == "RUNNING"):
            _end()

    def on_trial_result(self, result: dict[str, Any], **info: object) -> None:
        if _asked.is_set():
            result[SHOULD_CHECKPOINT] = True  # documented by Tune: callbacks may change results

    def on_checkpoint(self, trials: list[Trial], trial: Trial, **info: object) -> None:
        if _asked.is_set():
            self._saved.add(trial.trial_id)


def exit_status() -> int | None:
    """128 + the signal that ended the study, or None."""
    return 128 + _received[-1] if _asked.is_set() else None


def _end() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)  # makes Tune end and save its state for resuming


def _ask(number: int, frame: Any) -> None:
    if _asked.is_set():
        if time.monotonic() - _at[0] < SAME:
            return
        raise SystemExit(128 + number)
    print(f"{signal.Signals(number).name}: saving a checkpoint of every running trial, then ending.", flush=True)
    _received.append(number)
    _at[0] = time.monotonic()
    _asked.set()
    threading.Thread(target=_give_up, daemon=True).start()


def _give_up() -> None:
    """Ends the study if its trials do not save in time."""
    time.sleep(LIMIT)
    _end()
