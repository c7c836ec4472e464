"""Faults of env runners: exceptions sent to the driver, and a record of them.

A fault is reported in three places: its first line in the results of the iteration (`faults`), that line and, the first
time, the traceback in the log, and both in the exception if it ends the run.
"""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass

from ray.exceptions import RayActorError

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.rollout.checks import first_line, named
from lorasa_rllib.rollout.episodes import EndlessEpisode

logger = logging.getLogger(__name__)


class CallbackError(RuntimeError):
    """A user callback raised. Ends the run, as it would fail on any env runner."""


@dataclass(frozen=True)
class Fault:
    """An exception raised in an env runner.

    line:  one-line description. trace: traceback of the original exception; empty if there is none behind the line.
    kind:  class of the exception that ends a run: TeamEnvError, EndlessEpisode, CallbackError or RuntimeError.
    cause: the exception itself, if it was raised in this process.
    """

    line: str
    trace: str
    kind: type[Exception]
    cause: BaseException | None = None

    @classmethod
    def of(cls, error: Exception, travels: bool) -> Fault:
        """Wraps an exception. travels: sent to another process, which may be unable to import the exception's class."""
        kinds = (EndlessEpisode, TeamEnvError, CallbackError)
        kind = next((known for known in kinds if isinstance(error, known)), RuntimeError)
        foreign = kind is RuntimeError
        first = error if foreign else error.__cause__
        return cls(
            line=named(error) if foreign else first_line(error),
            trace="" if first is None else "".join(traceback.format_exception(first)).rstrip(),
            kind=kind,
            cause=None if travels else error,
        )

    @property
    def of_callback(self) -> bool:
        """True if a callback raised it."""
        return self.kind is CallbackError

    def exception(self, who: str) -> Exception:
        """The exception with which the fault ends the run. who: name of the env runner."""
        raised = self.kind(f"{who}: {self.line}" + (f"\n\n{self.trace}" if self.trace else ""))
        raised.__cause__ = self.cause
        return raised


class FaultRecord:
    """The faults of a run. count: number so far."""

    def __init__(self) -> None:
        self.count = 0
        self._lines: list[str] = []
        self._last: list[str] = []
        self._shown: set[str] = set()

    def tell(self, line: str, trace: str = "", is_fault: bool = True) -> None:
        """Adds a line to the results of this iteration and to the log, there with the traceback if it is a new one."""
        self.count += is_fault
        self._lines.append(line)
        if is_fault:
            self._last = [*self._last[-2:], line]
        known, self._shown = trace in self._shown, self._shown | {trace}
        logger.warning(line if known or not trace else f"{line}\n{trace}")

    def take(self) -> list[str]:
        """Returns the lines added since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def last(self) -> str:
        """The last three faults, for exception messages."""
        return "; ".join(self._last) or "nothing else was reported"


class OnlyOnce(logging.Filter):
    """Drops RLlib's repeated reports of an env runner's death: after the first line, one traceback per open request.

    Failed constructors pass, as they have a cause of their own.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return not (isinstance(record.msg, RayActorError) and not record.msg.actor_init_failed)


logging.getLogger("ray.rllib.utils.actor_manager").addFilter(OnlyOnce())
