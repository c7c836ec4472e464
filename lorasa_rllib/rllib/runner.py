"""The env runner: steps E environments in lock step, with one forward pass per step for all E x N rows."""

from __future__ import annotations

import faulthandler
import logging
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import ray
import torch
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME, WEIGHTS_SEQ_NO
from ray.rllib.utils.typing import ResultDict, StateDict

from lorasa_rllib.envs.arrays import arrays_of
from lorasa_rllib.envs.base import TeamEnvError, VectorTeamEnv, Worker
from lorasa_rllib.nn.acting import Acting
from lorasa_rllib.nn.merged import MergedCritic
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.rllib.callbacks import RunnerCallbacks
from lorasa_rllib.rllib.faults import CallbackError, Fault
from lorasa_rllib.rllib.module import MODULE_ID
from lorasa_rllib.rllib.results import forget_evaluation, log_evaluation, log_restarts, log_sampling
from lorasa_rllib.rllib.seeds import first_seed
from lorasa_rllib.rllib.starts import counted_start, was_restarted
from lorasa_rllib.rllib.teams import environments, learn_team, worker_of
from lorasa_rllib.rollout.checks import named
from lorasa_rllib.rollout.collector import Collector, Draw
from lorasa_rllib.rollout.columns import TeamRollout
from lorasa_rllib.rollout.episodes import EndlessEpisode, Sampled
from lorasa_rllib.rollout.memory import Memory

if TYPE_CHECKING:
    from lorasa_rllib.rllib.config import TeamConfig

logger = logging.getLogger(__name__)

REMADE = 1_000_003
"""Added to the seed each time environments are rebuilt after an error."""

SLACK = 5.0
"""Extra seconds that an evaluation round may take, beyond `evaluation_sample_timeout_s` per episode of a slot."""


class TeamEnvRunner(EnvRunner, Checkpointable):
    """RLlib env runner for vectorised team environments.

    `sample()` fills arrays `[T, E, N, ...]` and returns one `Sampled` with a shard per learner; with `num_episodes`
    (evaluation) it runs a fixed number of episodes per environment slot, so that short ones are not over-represented,
    and returns only their summaries.

    fault: why a remote env runner could not be built, for the driver to read; if the constructor raised, Ray would
        discard the actor and the reason with it.
    """

    def __init__(self, *, config: TeamConfig, **kwargs: object):
        Checkpointable.__init__(self)
        EnvRunner.__init__(self, config=config, **kwargs)
        torch.set_num_threads(1)
        self.spaces = kwargs.get("spaces") or {}
        self._weights_seq_no = 0
        self._remade = self._restarts = 0
        self._snapshots: tuple[Acting, MergedCritic | None] | None = None
        self.collector: Collector[Any] | None = None
        self.env: VectorTeamEnv[Any] | None = None
        self.module: Any = None  # MultiRLModule
        self.fault: Fault | None = None
        try:
            with counted_start():
                self._build()
        except Exception as error:
            if not self.worker_index:
                raise
            self.fault = Fault.of(error, travels=True)

    # Building

    def _build(self) -> None:
        only_driver = self.worker_index == 0 and self.config.num_env_runners > 0
        has_env = self.config.create_env_on_local_worker or not only_driver
        learn_team(self.config, has_env, self._whose())
        self.plan = self.config.plan()
        self._callbacks = RunnerCallbacks(self)
        self.make_module()
        if self.worker_index:
            self._make_env_or_say_why()
        elif has_env:
            self.make_env()

    def _make_env_or_say_why(self) -> None:
        try:
            self.make_env()
        except (TeamEnvError, CallbackError):
            raise
        except (Exception, SystemExit) as error:
            raise TeamEnvError(f"the environment could not be made: {named(error)}") from error

    @override(EnvRunner)
    def make_env(self) -> None:
        self.stop()
        self.num_envs = self.config.num_envs_per_env_runner
        # Rebuilt environments get another random stream, as the same one could fail in the same step.
        seed = None if self._seed is None else self._seed + REMADE * self._remade
        env_seed = first_seed(seed)
        self.env = environments(self.config, env_seed, self._whose())
        memory = Memory(self.plan.policy, self.num_envs, self.config.chunk_length, self.env.device)
        self.policy.to(arrays_of(self.env.device).device)
        self._snapshots, self._restarts = None, 0
        self.collector = Collector(self.env, memory, seed, env_seed, self._callbacks.episode_end())
        self._callbacks.environment_created()

    def _whose(self) -> Worker:
        """Description of this env runner for constructors of environments."""
        return worker_of(self.config, self.worker_index or 0, recreated=self._remade > 0 or was_restarted())

    @override(EnvRunner)
    def make_module(self) -> None:
        spec = self.config.get_multi_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module = spec.build()
        self._snapshots = None

    @override(EnvRunner)
    def get_spaces(self) -> dict[str, tuple[gym.Space, gym.Space]]:
        return self.config.spaces()

    @property
    def policy(self) -> TeamPolicy:
        return self.module[MODULE_ID].policy

    # Sampling

    def attempt(self, **what: object) -> tuple[list[Sampled], ResultDict] | Fault:
        """Returns `sample(**what)` and its metrics, or the fault if it raised.

        After a fault, unless a callback raised or `restart_failed_env_runners` is False, the next attempt rebuilds all
        environments. RLlib would restart the whole env runner instead, which takes seconds and hides the error.
        """
        if self.fault is not None and self.module is None:
            return self.fault
        try:
            if self.collector is None:
                self._make_env_or_say_why()
            return self.sample(**what), self.get_metrics()
        except Exception as error:
            fault = Fault.of(error, travels=self.worker_index > 0)
            if self.config.restart_failed_env_runners and not fault.of_callback:
                self._remade += 1
                self._discard_env()
            return fault

    def _discard_env(self) -> None:
        try:
            self.stop()
        except Exception:  # it had already failed, and that error is reported
            logger.warning("closing an environment that had failed raised:", exc_info=True)
        self.env = self.collector = None

    @override(EnvRunner)
    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
        **kwargs: object,
    ) -> list[Sampled]:
        """Samples one round.

        num_timesteps: environment steps summed over slots, rounded up to whole steps of all of them; None: the
            configured fragment.
        num_episodes: total number of episodes, divided evenly over the slots in advance.
        explore: True: sampled actions; False: greedy ones. None: as configured for training or evaluation.
        random_actions: uniform actions within the bounds instead of the policy's.
        force_reset: begin new episodes first.

        Raises TeamEnvError if an environment fails, CallbackError if a callback does.
        """
        if self.collector is None:
            raise RuntimeError("this env runner has no environment: sample with the remote ones.")
        started = time.perf_counter()
        evaluates = self.config.in_evaluation or num_episodes is not None
        if explore is None:  # evaluation on the training env runners passes the training config
            borrowed = evaluates and not self.config.in_evaluation
            explore = (self.config.get_evaluation_config_object() if borrowed else self.config).explore
        draw: Draw = "random" if random_actions else "sample" if explore else "mode"
        acting, critic = self._acting()
        fragment = self.config.get_rollout_fragment_length(worker_index=self.worker_index)
        steps = fragment if num_timesteps is None else -(-num_timesteps // self.num_envs)
        patience, limit = self.config.evaluation_sample_timeout_s, self.config.sample_timeout_s
        if evaluates:
            in_a_row = 1 if num_episodes is None else -(-num_episodes // self.num_envs)
            limit = None if patience is None else patience * in_a_row + SLACK
        with ends_if_stuck(limit if self.worker_index else None):
            if force_reset:
                self.collector.restart()
            if num_episodes is not None:
                sampled = self._episodes(self.collector, num_episodes, acting, draw)
            else:
                rollout, sampled = self.collector.steps(steps, acting, draw, critic)
                if not evaluates:
                    sampled.shards = self._shards(rollout)
        sampled.seconds["sample"] = time.perf_counter() - started
        self.num_env_steps_sampled_lifetime += sampled.num_env_steps
        log_sampling(self.metrics, sampled, self.plan.spec, self._weights_seq_no)
        restarts, self._restarts = self._restarts, 0 if self.env is None else self.env.restarts
        log_restarts(self.metrics, max(0, self._restarts - restarts))
        if evaluates:
            log_evaluation(self.metrics, sampled)
        samples = [sampled]
        self._callbacks.sample_end(samples)
        return samples

    def _acting(self) -> tuple[Acting, MergedCritic | None]:
        if self._snapshots is None:  # once per weight sync
            self._snapshots = self.policy.acting(), self.policy.acting_critic()
        return self._snapshots

    def _episodes(self, collector: Collector[Any], num_episodes: int, acting: Acting, draw: Draw) -> Sampled:
        patience = self.config.evaluation_sample_timeout_s
        try:
            sampled = collector.episodes(num_episodes, acting, draw, patience)
        except EndlessEpisode as endless:
            raise EndlessEpisode(
                f"{endless} Give the environment a time limit (such as max_episode_steps in env_config), evaluate a "
                'number of steps with evaluation_duration_unit="timesteps", or raise '
                f"evaluation_sample_timeout_s={patience:g}."
            ) from None
        collector.restart()  # training must not continue these episodes
        return sampled

    def _shards(self, rollout: TeamRollout[Any]) -> list[object]:
        """One part per learner; remote env runners put them into their node's object store and return references.

        A learner in this process reads the columns on the device where they are; all others get them from the host.
        """
        if self.worker_index or self.config.num_learners:
            rollout = rollout.on_host()
        parts = rollout.split(max(1, self.config.num_learners))
        return [ray.put(part) for part in parts] if self.worker_index else list(parts)

    # RLlib's interface

    @override(EnvRunner)
    def get_metrics(self) -> ResultDict:
        metrics = self.metrics.reduce()
        if not self.config.in_evaluation:
            forget_evaluation(self.metrics)
        return metrics

    @override(Checkpointable)
    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: object,
    ) -> StateDict:
        state: StateDict = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_env_steps_sampled_lifetime}
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(
                components=self._get_subcomponents(COMPONENT_RL_MODULE, components),
                not_components=self._get_subcomponents(COMPONENT_RL_MODULE, not_components),
                **kwargs,
            )
            state[WEIGHTS_SEQ_NO] = self._weights_seq_no
        return state

    @override(Checkpointable)
    def set_state(self, state: StateDict) -> None:
        """Loads weights whatever their sequence number, which weights of another run or a checkpoint may share."""
        if COMPONENT_RL_MODULE in state and self.module is not None:
            weights = state[COMPONENT_RL_MODULE]
            self.module.set_state(ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights)
            self._snapshots = None
            self._weights_seq_no = state.get(WEIGHTS_SEQ_NO, 0) or self._weights_seq_no
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self.num_env_steps_sampled_lifetime = state[NUM_ENV_STEPS_SAMPLED_LIFETIME]

    def set_weights(self, weights: StateDict) -> None:
        """Loads weights by module id; called by RLlib's `Algorithm.set_weights`."""
        self.set_state({COMPONENT_RL_MODULE: weights})

    @override(Checkpointable)
    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, object]]:
        return (), {"config": self.config}

    @override(Checkpointable)
    def get_checkpointable_components(self) -> list[tuple[str, object]]:
        return [(COMPONENT_RL_MODULE, self.module)]

    @override(EnvRunner)
    def assert_healthy(self) -> None:
        """Never raises: `fault` says why a remote env runner could not be built."""

    def give_away_env(self) -> VectorTeamEnv[Any]:
        """Hands over the environments; the caller has to close them."""
        assert self.env is not None, "this env runner has no environment"
        env, self.env, self.collector = self.env, None, None
        return env

    @override(EnvRunner)
    def stop(self) -> None:
        env, self.env = self.env, None
        if env is not None:
            env.close()


@contextmanager
def ends_if_stuck(seconds: float | None) -> Iterator[None]:
    """Terminates this process if the body takes longer, with a traceback in its log that shows where it hangs.

    Works even while an environment holds the GIL. Ray then restarts the env runner. None: no limit.
    """
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)  # 2: stderr, the log
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
