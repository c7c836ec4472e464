"""What goes wrong while env runners work: exceptions that travel to the driver, and the record of them.

A fault is told in three places: its first line in the results of the iteration (`faults`), the line and once the whole
traceback in the log, and both in the exception if it ends the run.
"""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass

from ray.exceptions import RayActorError

from lorasa_rllib.envs.base import TeamEnvError

logger = logging.getLogger(__name__)


class CallbackError(RuntimeError):
    """A callback of the user's raised. Ends the run: another env runner would fail in the same way."""


class EndlessEpisode(TeamEnvError):
    """No episode ended for longer than evaluation waits for one."""


@dataclass(frozen=True)
class Fault:
    """An exception of an env runner.

    line:  what happened, in one line. trace: the traceback of what raised first; empty where the line says it all.
    kind:  class of the exception that ends a run: TeamEnvError, EndlessEpisode, CallbackError or RuntimeError.
    cause: the exception itself, if it was raised in this process.
    """

    line: str
    trace: str
    kind: type[Exception]
    cause: BaseException | None = None

    @classmethod
    def of(cls, error: Exception, travels: bool) -> Fault:
        """travels: whether the fault goes to another process, which may know nothing of the exception's class."""
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
        """Whether a callback raised it."""
        return self.kind is CallbackError

    def exception(self, who: str) -> Exception:
        """What to raise where the fault ends the run. who: the env runner."""
        raised = self.kind(f"{who}: {self.line}" + (f"\n\n{self.trace}" if self.trace else ""))
        raised.__cause__ = self.cause
        return raised


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def named(error: BaseException) -> str:
    """Class and first line of the message of an exception."""
    return f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__


class FaultRecord:
    """The faults of a run. count: how many so far."""

    def __init__(self) -> None:
        self.count = 0
        self._lines: list[str] = []
        self._last: list[str] = []
        self._shown: set[str] = set()

    def tell(self, line: str, trace: str = "", is_fault: bool = True) -> None:
        """One line for the results of this iteration and for the log; there with the traceback, if it is a new one."""
        self.count += is_fault
        self._lines.append(line)
        if is_fault:
            self._last = [*self._last[-2:], line]
        known, self._shown = trace in self._shown, self._shown | {trace}
        logger.warning(line if known or not trace else f"{line}\n{trace}")

    def take(self) -> list[str]:
        """The lines told since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def last(self) -> str:
        """The last faults, for the message of an exception."""
        return "; ".join(self._last) or "nothing else was reported"


class OnlyOnce(logging.Filter):
    """Drops RLlib's second report of an env runner's death: it logs the same words once more for every open request.

    What has a cause of its own, such as an exception in a constructor, passes.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return not (isinstance(record.msg, RayActorError) and not record.msg.actor_init_failed)


logging.getLogger("ray.rllib.utils.actor_manager").addFilter(OnlyOnce())
