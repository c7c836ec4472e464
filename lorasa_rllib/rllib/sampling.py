"""Sampling rounds over all env runners, and their fault handling.

If a runner dies, hangs or its environment fails, only its part of the round is lost: the other runners sample more, the
lost runner rejoins once Ray has restarted it, and the results report it (`faults`). Waits are limited, unless
`sample_timeout_s` is None. A callback that raises ends the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from ray.rllib.utils.typing import ResultDict

from lorasa_rllib.rllib.faults import Fault, FaultRecord
from lorasa_rllib.rollout.episodes import Sampled

if TYPE_CHECKING:
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

    from lorasa_rllib.rllib.config import TeamConfig
    from lorasa_rllib.rllib.runner import TeamEnvRunner

ATTEMPTS = 3
"""Consecutive rounds without any usable answer after which the run ends."""

GRACE = 10.0
"""Seconds that the driver waits beyond `sample_timeout_s`, within which a hanging runner terminates itself."""

SAMPLE, PROBE = "team_sample", "team_probe"

Metrics: TypeAlias = ResultDict
"""Reduced metrics of an env runner, as `MetricsLogger.aggregate` takes them."""
Answer = tuple[list[Sampled], Metrics]
"""What an env runner sampled, and its metrics."""
Outcome = Answer | Fault
"""An answer, or the fault that prevented it."""


def _attempt(runner: TeamEnvRunner, **what: object) -> Outcome:
    return runner.attempt(**what)


def _ping(runner: TeamEnvRunner) -> str:
    return runner.ping()


def ask(group: EnvRunnerGroup, tag: str, requests: Mapping[int, Mapping[str, object]]) -> None:
    """Starts sampling on remote env runners, without waiting. requests: arguments of `sample()` by env runner."""
    if requests:
        runners = sorted(requests)
        arguments = [dict(requests[runner]) for runner in runners]
        group.foreach_env_runner_async([_attempt] * len(runners), tag=tag, kwargs=arguments, remote_worker_ids=runners)


def answers(group: EnvRunnerGroup, tag: str, seconds: float | None) -> dict[int, Outcome]:
    """Answers to the requests with `tag` that arrive within `seconds` (None: no limit), by env runner."""
    return dict(group.fetch_ready_async_reqs(tags=tag, timeout_seconds=seconds))


class Sampling:
    """Requests rollouts from env runners.

    restore: takes back lost env runners that answer again; called repeatedly while none is left.
    """

    def __init__(self, group: EnvRunnerGroup, config: TeamConfig, faults: FaultRecord, restore: Callable[[], object]):
        self._group, self._config, self._restore = group, config, restore
        self.faults = faults
        self._barren = 0
        self._busy: set[int] = set()  # env runners with a round in progress
        self._began: dict[int, float] = {}

    def begin(self) -> None:
        """Starts a round on every env runner that is not busy with one."""
        idle = set(self._group.healthy_env_runner_ids()) - self._busy
        ask(self._group, SAMPLE, {runner: {} for runner in idle})
        self._busy.update(idle)
        self._began.update(dict.fromkeys(idle, time.monotonic()))

    def drop(self) -> None:
        """Waits for the rounds in progress and discards them."""
        self._fetch()

    def round(self) -> tuple[list[Sampled], list[Metrics]]:
        """Samples at least a training batch of environment steps. Returns the samples and the runners' metrics.

        Raises CallbackError as soon as a callback fails. After `ATTEMPTS` consecutive requests without any usable
        answer, or at the first fault if `restart_failed_env_runners` is False, raises TeamEnvError if an environment
        failed, otherwise RuntimeError, with the message and traceback of the fault.
        """
        sampled: list[Sampled] = []
        metrics: list[Metrics] = []
        while sum(part.num_env_steps for part in sampled) < self._config.total_train_batch_size:
            answered = self._ask()
            good = [answer for answer in answered.values() if not isinstance(answer, Fault)]
            sampled += [part for parts, _ in good for part in parts]
            metrics += [numbers for _, numbers in good]
            self._barren = 0 if good else self._barren + 1
            for runner, fault in faults_in(answered):
                if fault.of_callback or self._barren == ATTEMPTS or not self._config.restart_failed_env_runners:
                    raise fault.exception(name_of(runner))
            if self._barren == ATTEMPTS:
                raise RuntimeError(
                    f"no env runner answered in {ATTEMPTS} rounds of sampling in a row: {self.faults.last()}"
                )
        return sampled, metrics

    def _ask(self) -> dict[int, Outcome]:
        """One answer from every env runner that answers in time; reports all others."""
        group = self._group
        if not group.num_remote_env_runners():
            answered = {0: group.local_env_runner.attempt()}
        else:
            if not group.num_healthy_remote_workers():
                self._wait_for_a_runner()
            self.begin()
            asked = set(self._busy)
            answered = self._fetch()
            healthy = set(group.healthy_env_runner_ids())
            for runner in sorted(asked - answered.keys()):
                self.faults.tell(
                    f"{name_of(runner)} {self._what_happened(runner, runner in healthy)}; its round is lost, "
                    f"{len(healthy - {runner})} are left"
                )
        for runner, fault in faults_in(answered):
            what_now = "" if fault.of_callback else "; environments rebuilt, its round is lost"
            self.faults.tell(f"{name_of(runner)}: {fault.line}{what_now}", fault.trace)
        return answered

    def _what_happened(self, runner: int, healthy: bool) -> str:
        limit = self._config.sample_timeout_s
        if healthy:
            return f"did not answer within {self._limit():.0f} s"
        if limit is not None and time.monotonic() - self._began[runner] >= limit:
            return f"died: it hung for sample_timeout_s={limit:g} s, its log shows where"
        return "died"

    def _fetch(self) -> dict[int, Outcome]:
        """Answers of busy env runners. Those that answered or died are no longer busy."""
        if not self._busy:
            return {}
        answered = answers(self._group, SAMPLE, self._limit())
        self._busy &= set(self._group.healthy_env_runner_ids())
        self._busy -= answered.keys()
        return answered

    def _limit(self) -> float | None:
        limit = self._config.sample_timeout_s
        return None if limit is None else limit + GRACE

    def _wait_for_a_runner(self) -> None:
        limit = self._config.env_runner_restore_timeout_s
        if not self._config.restart_failed_env_runners:
            raise RuntimeError(
                f"all env runners have died, and restart_failed_env_runners is off: {self.faults.last()}"
            )
        self.faults.tell(f"no env runner is left; waiting for one to come back, {limit:.0f} s at the most")
        deadline = time.monotonic() + limit
        while not self._group.num_healthy_remote_workers():
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"all env runners have died, and none came back in {limit:.0f} s: {self.faults.last()}"
                )
            time.sleep(0.1)
            self._restore()


def name_of(runner: int, evaluates: bool = False) -> str:
    """Name of an env runner in messages; 0 is the driver's."""
    kind = "evaluation env runner" if evaluates else "env runner"
    return f"{kind} {runner}" if runner else f"the local {kind}"


def faults_in(answered: Mapping[int, Outcome]) -> list[tuple[int, Fault]]:
    """Env runners that failed, with their faults; failed callbacks come first."""
    failed = [(runner, answer) for runner, answer in answered.items() if isinstance(answer, Fault)]
    return sorted(failed, key=lambda item: (not item[1].of_callback, item[0]))


def returned(group: EnvRunnerGroup) -> list[int]:
    """Lost env runners that answer again. Pings the others without waiting; their answers count in later calls."""
    lost = set(range(1, group.num_remote_env_runners() + 1)) - set(group.healthy_env_runner_ids())
    if not lost:
        return []
    back = [runner for runner, _ in group.fetch_ready_async_reqs(tags=PROBE, timeout_seconds=0.0, mark_healthy=True)]
    if still := sorted(lost - set(back)):
        group.foreach_env_runner_async(_ping, tag=PROBE, healthy_only=False, remote_worker_ids=still)
    return back
