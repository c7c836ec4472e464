"""Ends a study with a one-line error if its storage becomes full, read-only or unavailable."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ray.tune import Callback
from ray.tune.experiment import Trial

from lorasa_rllib.studies.storage import FULL, storage_fault, tell_fault

REASONS = re.compile("|".join(re.escape(os.strerror(number)) for number in FULL))


class EndWhenFull(Callback):
    """Tune callback that ends the study when a file cannot be written. Tune would retry forever."""

    def __init__(self) -> None:
        self._ended = False

    def on_step_end(self, **info: object) -> None:
        if storage_fault() is not None and not self._ended:
            self._ended = True
            os.kill(os.getpid(), signal.SIGUSR1)  # makes Tune end

    def on_trial_recover(self, trial: Trial, **info: object) -> None:
        self._note(trial)

    def on_trial_error(self, trial: Trial, **info: object) -> None:
        self._note(trial)

    def _note(self, trial: Trial) -> None:
        """Records a storage fault of a trial's process, which writes its own checkpoints."""
        reason = REASONS.search(cause_of(trial.get_error()))
        if reason:
            number = next(number for number in FULL if os.strerror(number) == reason[0])
            tell_fault(OSError(number, reason[0], f"a checkpoint of {trial}"))


@contextmanager
def explained(folder: str, name: str) -> Iterator[None]:
    """Converts an OSError in the body to a RuntimeError that names the storage and the remedy."""
    try:
        yield
    except OSError as error:
        what = f", writing {error.filename}" if error.filename else ""
        raise RuntimeError(
            f"{folder}: {error.strerror or error}{what}. What was written before is whole: make room or let it be "
            f"written again, and the same command with --resume --name {name} continues."
        ) from error


def cause_of(error: BaseException | None) -> str:
    """The last line of an error message, without the traceback of the remote process."""
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
