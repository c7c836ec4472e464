"""RLlib's PPO with the evaluation of `rllib.evaluation`; RLlib's own discards the errors of env runners."""

from __future__ import annotations

from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING

from ray.rllib.algorithms.ppo.ppo import PPO
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EVALUATION_RESULTS,
    NUM_EPISODES,
    TIMERS,
    TRAINING_ITERATION_TIMER,
)
from ray.rllib.utils.typing import ResultDict

from lorasa_rllib.rllib.evaluation import Evaluation, EvaluationSkipped
from lorasa_rllib.rllib.faults import FaultRecord
from lorasa_rllib.rllib.sampling import Answer

if TYPE_CHECKING:
    from lorasa_rllib.rllib.config import TeamConfig
    from lorasa_rllib.rllib.runner import TeamEnvRunner

NoBatches = tuple[None, int, int, list[object]]
"""What RLlib expects of an evaluation: no results of its own, environment steps, agent steps, no batches."""


class EvaluatingPPO(PPO):
    """PPO that evaluates with `TeamEnvRunner`s and records the faults of the run in `_faults`."""

    @override(PPO)
    def setup(self, config: TeamConfig) -> None:
        self._faults = FaultRecord()
        self._evaluations_skipped = 0
        super().setup(config)

    @cached_property
    def _evaluation(self) -> Evaluation:
        return Evaluation(self.evaluation_config, self._faults)

    @override(PPO)
    def evaluate(self, parallel_train_future: object = None) -> ResultDict:
        """Runs `evaluation_duration` episodes (or steps) and returns their results.

        Raises ValueError if there is no env runner to evaluate with, EvaluationSkipped if the evaluation env runners
        are lost or an episode does not end (see `rllib.evaluation`), and TeamEnvError, CallbackError or RuntimeError
        for errors of environments, callbacks and anything else.
        """
        runner = self.env_runner
        without = runner is None or (runner.collector is None and self.config.num_env_runners > 0)
        if self.eval_env_runner_group is None and without and self.config.custom_evaluation_function is None:
            raise ValueError(
                "there is no env runner to evaluate with: those of training are remote. Set "
                ".evaluation(evaluation_interval=...), or evaluation_num_env_runners=1, before build_algo()."
            )
        return super().evaluate(parallel_train_future)

    @override(PPO)
    def _run_one_evaluation(self, parallel_train_future: object = None) -> ResultDict:
        try:
            results = super()._run_one_evaluation(parallel_train_future)
        except EvaluationSkipped as reason:
            self._evaluations_skipped += 1
            most = self.config.evaluation_error_after_n_consecutive_skips
            if most is not None and self._evaluations_skipped >= most:
                raise
            self._faults.tell(f"evaluation skipped, {self._evaluations_skipped} in a row: {reason}")
            return {EVALUATION_RESULTS: {ENV_RUNNER_RESULTS: {NUM_EPISODES: 0}}}
        self._evaluations_skipped = 0
        return results

    @override(PPO)
    def _evaluate_on_local_env_runner(self, env_runner: TeamEnvRunner) -> NoBatches:
        return self._evaluated(self._evaluation.locally(env_runner))

    @override(PPO)
    def _evaluate_with_fixed_duration(self) -> NoBatches:
        return self._evaluated(self._evaluation.remotely(self.eval_env_runner_group))

    @override(PPO)
    def _evaluate_with_auto_duration(self, parallel_train_future: Future) -> NoBatches:
        seconds = self.metrics.peek((TIMERS, TRAINING_ITERATION_TIMER), default=0.0)
        group = self.eval_env_runner_group
        return self._evaluated(self._evaluation.while_training(group, parallel_train_future.done, seconds))

    def _evaluated(self, found: list[Answer]) -> NoBatches:
        """Adds the env runners' metrics to the results."""
        self.metrics.aggregate([metrics for _, metrics in found], key=(EVALUATION_RESULTS, ENV_RUNNER_RESULTS))
        parts = [part for sampled, _ in found for part in sampled]
        if not any(part.episodes for part in parts):
            self._faults.tell("no episode ended in this evaluation: raise evaluation_duration", is_fault=False)
        return None, sum(part.env_steps() for part in parts), sum(part.agent_steps() for part in parts), []
