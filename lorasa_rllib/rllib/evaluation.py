"""Evaluation on env runners, by episodes or steps, and its fault handling.

An environment that raises is rebuilt and the evaluation continues; as in training, the run ends with the error after
`ATTEMPTS` consecutive attempts without a result. A callback that raises ends the run at once. If all env runners died
or hang, or if no episode ends within `evaluation_sample_timeout_s`, the evaluation is skipped: the iteration reports it
in `faults`, and `evaluation_error_after_n_consecutive_skips` skips in a row end the run (by default, none do).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from lorasa_rllib.rllib.faults import Fault, FaultRecord
from lorasa_rllib.rllib.sampling import ATTEMPTS, GRACE, Answer, Outcome, answers, ask, faults_in, name_of
from lorasa_rllib.rollout.episodes import EndlessEpisode

if TYPE_CHECKING:
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

    from lorasa_rllib.rllib.config import TeamConfig
    from lorasa_rllib.rllib.runner import TeamEnvRunner

POLL = 0.05
"""Seconds that each poll of the env runners waits, during evaluation in parallel with training."""


class EvaluationSkipped(RuntimeError):
    """Raised if an evaluation has no result: env runners are lost, or an episode does not end."""


class Evaluation:
    """Requests episodes from evaluation env runners.

    config: the config of the evaluation env runners.
    """

    def __init__(self, config: TeamConfig, faults: FaultRecord):
        self._config, self._faults = config, faults
        self._number = 0  # of the evaluation; late answers to earlier ones are ignored
        self._barren = 0

    def locally(self, runner: TeamEnvRunner) -> list[Answer]:
        """Samples and metrics of a local env runner."""
        return self._until_done(lambda left: {0: runner.attempt(**self._request(left, True))})

    def remotely(self, group: EnvRunnerGroup) -> list[Answer]:
        """Samples and metrics of remote env runners."""
        self._number += 1
        begun: set[int] = set()

        def round_of(left: int) -> dict[int, Outcome]:
            runners = sorted(group.healthy_env_runner_ids())
            if not runners:
                raise EvaluationSkipped(f"no evaluation env runner is left: {self._faults.last()}")
            shares = {r: left // len(runners) + (i < left % len(runners)) for i, r in enumerate(runners)}
            shares = {runner: share for runner, share in shares.items() if share}
            ask(group, self._tag, {r: self._request(share, r not in begun) for r, share in shares.items()})
            begun.update(shares)
            limit = self._limit(max(shares.values()))
            answered = answers(group, self._tag, limit)
            self._tell_of_lost(group, shares.keys() - answered.keys(), limit)
            return answered

        return self._until_done(round_of)

    def while_training(self, group: EnvRunnerGroup, trained: Callable[[], bool], seconds: float) -> list[Answer]:
        """Evaluates on remote env runners until `trained()`, at least once. seconds: the usual duration of training."""
        self._number += 1
        self._barren, began = 0, time.monotonic()
        found: list[Answer] = []
        per_second: dict[int, float] = {}
        busy: set[int] = set()
        while not found or not trained():
            healthy = set(group.healthy_env_runner_ids())
            self._tell_of_lost(group, busy - healthy, None)
            busy &= healthy
            if not healthy:
                raise EvaluationSkipped(f"no evaluation env runner is left: {self._faults.last()}")
            left = seconds - (time.monotonic() - began)
            requests = {
                runner: {
                    "num_timesteps": self._steps(left * per_second.get(runner, 0.0)),
                    "force_reset": runner not in per_second
                    and self._config.evaluation_force_reset_envs_before_iteration,
                }
                for runner in healthy - busy
            }
            ask(group, self._tag, requests)
            answered = answers(group, self._tag, POLL)
            busy = healthy - answered.keys()
            for runner, (parts, metrics) in (self._good(answered) if answered else {}).items():
                found.append((parts, metrics))
                per_second[runner] = sum(p.num_env_steps / max(p.seconds["sample"], 1e-6) for p in parts)
        return found

    @property
    def _in_episodes(self) -> bool:
        return self._config.evaluation_duration_unit == "episodes"

    @property
    def _tag(self) -> str:
        return f"team_evaluation_{self._number}"

    def _until_done(self, round_of: Callable[[int], Mapping[int, Outcome]]) -> list[Answer]:
        self._barren = 0
        found: list[Answer] = []
        left = self._config.evaluation_duration
        while left > 0:
            good = list(self._good(round_of(left)).values())
            found += good
            for parts, _ in good:
                left -= sum(len(part.episodes) if self._in_episodes else part.num_env_steps for part in parts)
        return found

    def _good(self, answered: Mapping[int, Outcome]) -> dict[int, Answer]:
        """Usable answers. Reports the others, and raises if they end the evaluation or the run."""
        good = {runner: answer for runner, answer in answered.items() if not isinstance(answer, Fault)}
        self._barren = 0 if good else self._barren + 1
        failed = [(name_of(runner, evaluates=True), fault) for runner, fault in faults_in(answered)]
        for who, fault in failed:
            if fault.kind is not EndlessEpisode:  # see EvaluationSkipped
                self._faults.tell(f"{who}: {fault.line}", fault.trace)
        for who, fault in failed:
            if fault.kind is EndlessEpisode:
                raise EvaluationSkipped(f"{who}: {fault.line}") from fault.cause
            if fault.of_callback or self._barren == ATTEMPTS or not self._config.restart_failed_env_runners:
                raise fault.exception(who)
        if self._barren == ATTEMPTS:
            raise EvaluationSkipped(f"no evaluation env runner answered: {self._faults.last()}")
        return good

    def _request(self, amount: int, first: bool) -> dict[str, object]:
        if self._in_episodes:
            return {"num_episodes": amount}
        force = first and self._config.evaluation_force_reset_envs_before_iteration
        return {"num_timesteps": amount, "force_reset": force}

    def _steps(self, estimate: float) -> int:
        least = self._config.evaluation_auto_duration_min_env_steps_per_sample
        return int(min(self._config.evaluation_auto_duration_max_env_steps_per_sample, max(least, estimate)))

    def _limit(self, amount: int) -> float | None:
        """Seconds within which every env runner has played its share or terminated itself; None: no limit."""
        limit = self._config.evaluation_sample_timeout_s
        if limit is None:
            return None
        in_a_row = -(-amount // self._config.num_envs_per_env_runner) if self._in_episodes else 1
        return limit * in_a_row + GRACE

    def _tell_of_lost(self, group: EnvRunnerGroup, lost: Collection[int], limit: float | None) -> None:
        healthy = set(group.healthy_env_runner_ids())
        for runner in sorted(lost):
            what = f"did not answer within {limit:.0f} s" if limit and runner in healthy else "died"
            self._faults.tell(f"{name_of(runner, evaluates=True)} {what}; {len(healthy - {runner})} are left")
