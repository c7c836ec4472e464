"""Rounds of sampling over all env runners, and what happens when some of them fail.

A runner that dies, hangs or whose environment fails loses its part of a round and nothing else: the others are asked
for more, the lost one comes back when Ray has restarted it, and one line says so. Nothing waits without a limit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.rllib.sampled import Sampled

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Rounds without a single usable answer before training gives up."""

GRACE = 10.0
"""Seconds that the driver waits beyond `sample_timeout_s`, so that a runner that hangs has ended itself by then."""

SAMPLE, PROBE = "team_sample", "team_probe"


def _sample(runner: Any) -> tuple[list[Sampled], Any]:
    return runner.sample(), runner.get_metrics()


def _ping(runner: Any) -> str:
    return runner.ping()


class Sampling:
    """Asks env runners for rollouts.

    restore: brings lost env runners back if they answer; called while none is left.
    count:   how many things have gone wrong so far.
    """

    def __init__(self, group: Any, config: Any, restore: Callable[[], Any]):
        self._group, self._config, self._restore = group, config, restore
        self._barren = self.count = 0
        self._busy: set[int] = set()  # env runners with a round on its way
        self._faults: list[str] = []

    def begin(self) -> None:
        """Lets every env runner start a round, unless it is still busy with one."""
        idle = sorted(set(self._group.healthy_env_runner_ids()) - self._busy)
        if idle:
            self._group.foreach_env_runner_async(_sample, tag=SAMPLE, remote_worker_ids=idle)
            self._busy.update(idle)

    def drop(self) -> None:
        """Waits for rounds that have begun, and forgets them."""
        self._fetch()

    def round(self) -> tuple[list[Sampled], list[Any]]:
        """At least a training batch of environment steps, and the runners' metrics.

        Raises TeamEnvError with the environment's own words, or RuntimeError, after `ATTEMPTS` asks in a row without
        any usable answer (at the first one with `restart_failed_env_runners=False`).
        """
        sampled: list[Sampled] = []
        metrics: list[Any] = []
        while sum(part.num_env_steps for part in sampled) < self._config.total_train_batch_size:
            answers = self._ask()
            good = [(part, numbers) for part, numbers in answers if part.error is None]
            sampled += [part for part, _ in good]
            metrics += [numbers for _, numbers in good]
            self._barren = 0 if good else self._barren + 1
            errors = [part.error for part, _ in answers if part.error is not None]
            if errors and (self._barren == ATTEMPTS or not self._config.restart_failed_env_runners):
                raise TeamEnvError(errors[0])
            if self._barren == ATTEMPTS:
                raise RuntimeError(
                    f"no env runner answered in {ATTEMPTS} rounds of sampling in a row: {'; '.join(self._faults[-3:])}"
                )
        return sampled, metrics

    def take_faults(self) -> list[str]:
        """The lines told since the last call."""
        faults, self._faults = self._faults, []
        return faults

    def tell(self, line: str, is_fault: bool = True) -> None:
        """One line for the log, and for the results of this iteration."""
        self.count += is_fault
        self._faults.append(line)
        logger.warning(line)

    def _ask(self) -> list[tuple[Sampled, Any]]:
        """One answer of every env runner that gives one in time."""
        group = self._group
        if not group.num_remote_env_runners():
            answers = {0: _sample(group.local_env_runner)}
        else:
            if not group.num_healthy_remote_workers():
                self._wait_for_a_runner()
            self.begin()
            asked = set(self._busy)
            answers = self._fetch()
            healthy = set(group.healthy_env_runner_ids())
            for runner in sorted(asked - answers.keys()):
                what = f"did not answer within {self._limit():.0f} s" if runner in healthy else "died"
                self.tell(f"env runner {runner} {what}; its round is lost, {len(healthy - {runner})} are left")
        for runner, ((part,), _) in answers.items():
            if part.error is not None:
                self.tell(
                    f"env runner {runner}: {part.error.splitlines()[0]}; environments made anew, its round is lost"
                )
        return [(part, metrics) for (part,), metrics in answers.values()]

    def _fetch(self) -> dict[int, tuple[list[Sampled], Any]]:
        """The answers of busy env runners; those that have died are busy no more."""
        if not self._busy:
            return {}
        answers = dict(self._group.fetch_ready_async_reqs(tags=SAMPLE, timeout_seconds=self._limit()))
        self._busy &= set(self._group.healthy_env_runner_ids())
        self._busy -= answers.keys()
        return answers

    def _limit(self) -> float | None:
        limit = self._config.sample_timeout_s
        return None if limit is None else limit + GRACE

    def _wait_for_a_runner(self) -> None:
        limit = self._config.env_runner_restore_timeout_s
        if not self._config.restart_failed_env_runners:
            raise RuntimeError("all env runners have died, and restart_failed_env_runners is off.")
        self.tell(f"no env runner is left; waiting for one to come back, {limit:.0f} s at the most")
        deadline = time.monotonic() + limit
        while not self._group.num_healthy_remote_workers():
            if time.monotonic() > deadline:
                raise RuntimeError(f"all env runners have died, and none came back in {limit:.0f} s.")
            time.sleep(0.1)
            self._restore()


def returned(group: Any) -> list[int]:
    """The env runners that were lost and answer again. Asks in passing: those that do not answer cost no time."""
    lost = set(range(1, group.num_remote_env_runners() + 1)) - set(group.healthy_env_runner_ids())
    if not lost:
        return []
    back = [runner for runner, _ in group.fetch_ready_async_reqs(tags=PROBE, timeout_seconds=0.0, mark_healthy=True)]
    if still := sorted(lost - set(back)):
        group.foreach_env_runner_async(_ping, tag=PROBE, healthy_only=False, remote_worker_ids=still)
    return back


class OneLine(logging.Filter):
    """Shortens what RLlib says about lost actors: its tracebacks show RLlib's inside, not what happened."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, BaseException) or record.exc_info:
            return False  # said already, see `Sampling.tell`
        record.msg, record.args = record.getMessage().splitlines()[0], None
        return True


logging.getLogger("ray.rllib.utils.actor_manager").addFilter(OneLine())
