"""The env runner: steps E environments in lock step with one forward pass per step for all E x N rows."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME, WEIGHTS_SEQ_NO

from lorasa_rllib.envs.base import TeamStep, VectorTeamEnv
from lorasa_rllib.envs.registry import make_environment
from lorasa_rllib.learning.rollout import TeamRollout
from lorasa_rllib.nn.actor import Actor
from lorasa_rllib.rllib.episodes import EpisodeMeter, share_of_slots
from lorasa_rllib.rllib.module import MODULE_ID
from lorasa_rllib.rllib.results import log_evaluation, log_sampling
from lorasa_rllib.rllib.sampled import Sampled


class TeamEnvRunner(EnvRunner, Checkpointable):
    """RLlib env runner for vectorised team environments.

    A round of `sample()` fills arrays `[T, E, N, ...]` and returns one `Sampled` with a shard per learner; with
    `num_episodes` (evaluation) it runs a fixed number of episodes in every environment slot, so that short episodes are
    not favoured, and returns their summaries only.
    """

    def __init__(self, *, config: Any, **kwargs: Any):
        Checkpointable.__init__(self)
        EnvRunner.__init__(self, config=config, **kwargs)
        torch.set_num_threads(1)
        self.spaces = kwargs.get("spaces") or {}
        self.spec = self.config.team_spec()
        self._generator = torch.Generator()
        if self._seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(self._seed)
        self._weights_seq_no = 0
        self._actor: Actor | None = None
        self._step: TeamStep | None = None
        self.env: VectorTeamEnv | None = None
        self.module: Any = None
        self.make_module()
        only_driver = self.worker_index == 0 and self.config.num_env_runners > 0
        if self.config.create_env_on_local_worker or not only_driver:
            self.make_env()

    # Building

    @override(EnvRunner)
    def make_env(self) -> None:
        if self.env is not None:
            self.env.close()
        self.num_envs = self.config.num_envs_per_env_runner
        self.env = make_environment(self.config.env, self.num_envs, dict(self.config.env_config))
        self.meter = EpisodeMeter(self.num_envs)
        self._step = None

    @override(EnvRunner)
    def make_module(self) -> None:
        spec = self.config.get_multi_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module = spec.build()
        self._actor = None

    @override(EnvRunner)
    def get_spaces(self) -> dict[str, Any]:
        observation, action = self.config.row_spaces()
        agents = self.spec.agents
        every = gym.spaces.Dict({a: observation for a in agents}), gym.spaces.Dict({a: action for a in agents})
        return {INPUT_ENV_SPACES: every, INPUT_ENV_SINGLE_SPACES: every, MODULE_ID: (observation, action)}

    @property
    def policy(self) -> Any:
        return self.module[MODULE_ID].policy

    # Sampling

    @override(EnvRunner)
    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
        **kwargs: Any,
    ) -> list[Sampled]:
        """One round.

        num_timesteps: environment steps summed over slots, rounded up to whole steps of all of them; by default the
        configured fragment. num_episodes: episodes to run in all, shared out evenly over slots beforehand.
        explore: sampled actions if True, greedy if False; by default as configured.
        random_actions: uniform actions within the bounds instead of the policy's.
        """
        assert self.env is not None, "this env runner has no environment"
        started = time.perf_counter()
        explore = self.config.explore if explore is None else explore
        if self._actor is None:
            self._actor = self.policy.acting()
        if self._step is None or force_reset or num_episodes is not None:
            self._reset()
        if num_episodes is not None:
            sampled = self._sample_episodes(num_episodes, explore, random_actions)
            self._step = None  # evaluation starts from fresh episodes
        else:
            fragment = self.config.get_rollout_fragment_length(worker_index=self.worker_index)
            steps = fragment if num_timesteps is None else -(-num_timesteps // self.num_envs)
            sampled = self._sample_steps(steps, explore, random_actions)
        sampled.seconds["sample"] = time.perf_counter() - started
        self.num_env_steps_sampled_lifetime += sampled.num_env_steps
        log_sampling(self.metrics, sampled, self.spec, self._weights_seq_no)
        if self.config.in_evaluation:
            log_evaluation(self.metrics, sampled)
            sampled.shards = []
        return [sampled]

    def _reset(self) -> None:
        assert self.env is not None
        seed = None if self._step is not None or self._seed is None else self._seed * 10_007
        self._step = self.env.reset(seed)
        self.meter.restart()

    def _sample_steps(self, steps: int, explore: bool, random_actions: bool) -> Sampled:
        rollout = _empty_rollout(self.spec, steps, self.num_envs, self._step)
        seconds = {"env": 0.0, "policy": 0.0}
        episodes, final = [], []
        step = self._step
        for t in range(steps):
            began = time.perf_counter()
            rollout.obs[t], rollout.state[t], rollout.active[t] = step.obs, step.state, step.active
            for name in ("masks", "roles"):
                if getattr(rollout, name) is not None:
                    getattr(rollout, name)[t] = getattr(step, name)
            actions, log_probs = self._act(step, explore, random_actions)
            rollout.actions[t], rollout.log_probs[t] = actions, log_probs
            acted = time.perf_counter()
            step = self._step = self.env.step(self._to_environment(actions))
            stepped = time.perf_counter()
            rollout.rewards[t] = step.rewards
            rollout.terminated[t], rollout.truncated[t] = step.terminated, step.truncated
            if len(step.ended):
                cut = step.truncated[step.ended]
                for e, obs, state in zip(
                    step.ended[cut], step.final_obs[cut], step.final_state[cut], strict=True
                ):
                    final.append((t, e, obs.copy(), state.copy()))
            episodes += self.meter.add(step)
            seconds["policy"] += acted - began
            seconds["env"] += stepped - acted
        rollout.state[steps] = step.state
        if final:
            rollout.final_index = np.array([(t, e) for t, e, _, _ in final], np.int64)
            rollout.final_obs = np.stack([obs for _, _, obs, _ in final])
            rollout.final_state = np.stack([state for _, _, _, state in final])
        shards: list[Any] = []
        if not self.config.in_evaluation:
            shards = list(rollout.split(max(1, self.config.num_learners)))
            if self.worker_index:
                shards = [ray.put(shard) for shard in shards]
        return Sampled(
            shards, rollout.env_steps(), rollout.active.sum((0, 1)), episodes, self.meter.running_return(), seconds
        )

    def _sample_episodes(self, num_episodes: int, explore: bool, random_actions: bool) -> Sampled:
        left = share_of_slots(num_episodes, self.num_envs)
        episodes, env_steps, agent_steps = [], 0, np.zeros(self.spec.num_agents, np.int64)
        while left.any():
            running = left > 0
            active = self._step.active
            env_steps += int(running.sum())
            agent_steps += active[running].sum(0)
            actions, _ = self._act(self._step, explore, random_actions)
            self._step = self.env.step(self._to_environment(actions))
            ended = self.meter.add(self._step)
            for e, summary in zip(self._step.ended, ended, strict=True):
                if left[e] > 0:
                    episodes.append(summary)
                    left[e] -= 1
        return Sampled([], env_steps, agent_steps, episodes, self.meter.running_return(), {})

    def _act(self, step: TeamStep, explore: bool, random_actions: bool) -> tuple[np.ndarray, np.ndarray]:
        """Actions of the policy [E, N, d] and their log-probabilities."""
        with torch.inference_mode():
            distribution = self._actor(
                torch.from_numpy(step.obs),
                roles=None if step.roles is None else torch.from_numpy(step.roles),
                masks=None if step.masks is None else torch.from_numpy(step.masks),
                adapters=self.policy.adapters_on,
            )
            if random_actions:
                actions = distribution.random(self._generator)
            else:
                actions = distribution.sample(self._generator) if explore else distribution.mode()
            return actions.numpy(), distribution.log_prob(actions).numpy()

    def _to_environment(self, actions: np.ndarray) -> np.ndarray:
        return self.spec.to_environment(actions)

    # RLlib's contract

    @override(EnvRunner)
    def get_metrics(self) -> Any:
        return self.metrics.reduce()

    @override(Checkpointable)
    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        state: dict[str, Any] = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_env_steps_sampled_lifetime}
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(
                components=self._get_subcomponents(COMPONENT_RL_MODULE, components),
                not_components=self._get_subcomponents(COMPONENT_RL_MODULE, not_components),
                **kwargs,
            )
            state[WEIGHTS_SEQ_NO] = self._weights_seq_no
        return state

    @override(Checkpointable)
    def set_state(self, state: dict[str, Any]) -> None:
        """Takes weights unless it has just these: a restored checkpoint may be older than what the runner holds."""
        if COMPONENT_RL_MODULE in state:
            number = state.get(WEIGHTS_SEQ_NO, 0)
            if number == 0 or number != self._weights_seq_no:
                weights = state[COMPONENT_RL_MODULE]
                self.module.set_state(ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights)
                self._actor = None
            if number > 0:
                self._weights_seq_no = number
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self.num_env_steps_sampled_lifetime = state[NUM_ENV_STEPS_SAMPLED_LIFETIME]

    @override(Checkpointable)
    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), {"config": self.config}

    @override(Checkpointable)
    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        return [(COMPONENT_RL_MODULE, self.module)]

    @override(EnvRunner)
    def assert_healthy(self) -> None:
        assert self.module is not None, "the env runner has no module"

    @override(EnvRunner)
    def stop(self) -> None:
        if self.env is not None:
            self.env.close()
            self.env = None


def _empty_rollout(spec: Any, steps: int, envs: int, step: TeamStep) -> TeamRollout:
    shape = (steps, envs, spec.num_agents)
    kind = np.float32 if spec.continuous else np.int64
    return TeamRollout(
        obs=np.empty((*shape, spec.obs_size), np.float32),
        state=np.empty((steps + 1, envs, spec.state_size), np.float32),
        actions=np.empty((*shape, spec.action_dims), kind),
        log_probs=np.empty((*shape, spec.action_dims), np.float32),
        rewards=np.empty((steps, envs, spec.reward_width), np.float32),
        terminated=np.empty((steps, envs), bool),
        truncated=np.empty((steps, envs), bool),
        active=np.empty(shape, bool),
        final_index=np.empty((0, 2), np.int64),
        final_obs=np.empty((0, spec.num_agents, spec.obs_size), np.float32),
        final_state=np.empty((0, spec.state_size), np.float32),
        masks=None if step.masks is None else np.empty((*shape, spec.action_size), bool),
        roles=None if step.roles is None else np.empty(shape, np.int64),
    )
