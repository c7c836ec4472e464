"""What TorchRL's PPO trains on: Multi-Agent MuJoCo through its PettingZoo wrapper, and VMAS through its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium_robotics import mamujoco_v1
from pettingzoo.utils import BaseParallelWrapper
from torchrl.envs import (
    EnvBase,
    ExplorationType,
    PettingZooWrapper,
    RewardSum,
    SerialEnv,
    TransformedEnv,
    VecNormV2,
    VmasEnv,
    set_exploration_type,
)

from benchmarks.torchrl_ppo import AGENTS, OBS, Numbers, TorchRLPPO

ENVS = 8
"""Environments of TorchRL's own PPO on MuJoCo."""


class WithIds(BaseParallelWrapper):
    """The task with observations padded to the longest, one-hot ids, and no infos, which TorchRL's wrapper rejects."""

    def __init__(self, task: Any):
        super().__init__(task)
        agents = list(task.possible_agents)
        longest = max(task.observation_space(agent).shape[0] for agent in task.possible_agents)
        self._space = Box(-np.inf, np.inf, (longest + len(agents),), np.float32)
        self._blank = dict(zip(agents, np.eye(len(agents), longest + len(agents), longest, np.float32), strict=True))

    def observation_space(self, agent: str) -> Box:
        return self._space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        obs, _ = self.env.reset(seed=seed, options=options)
        return self._with_ids(obs), {agent: {} for agent in obs}

    def step(self, actions: Any) -> tuple[Any, ...]:
        obs, rewards, terminated, truncated, _ = self.env.step(actions)
        return self._with_ids(obs), rewards, terminated, truncated, {agent: {} for agent in obs}

    def _with_ids(self, obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = {agent: self._blank[agent].copy() for agent in obs}
        for agent, seen in obs.items():
            rows[agent][: len(seen)] = seen
        return rows


def mujoco_env(scenario: str, agent_conf: str) -> EnvBase:
    """One copy of a task of Multi-Agent MuJoCo.

    Observations and rewards match `benchmarks.stock`. Ids are appended here, because nothing else distinguishes agents
    in TorchRL's shared networks.
    """
    task = WithIds(mamujoco_v1.parallel_env(scenario, agent_conf, 1))
    return PettingZooWrapper(task, group_map={AGENTS: list(task.possible_agents)}, device="cpu")


def mujoco_envs(scenario: str, agent_conf: str, envs: int) -> EnvBase:
    """`envs` copies of a task in this process."""
    return SerialEnv(envs, lambda: mujoco_env(scenario, agent_conf))


def vmas_envs(scenario: str, envs: int, **options: Any) -> EnvBase:
    """`envs` worlds of a scenario, with episodes of 100 steps, as in TorchRL's tutorial. options: of the scenario."""
    env = VmasEnv(scenario=scenario, num_envs=envs, continuous_actions=True, max_steps=100, device="cpu", **options)
    return TransformedEnv(env, RewardSum(in_keys=[env.reward_key], out_keys=[(AGENTS, "episode_reward")]))


class TorchRLMuJoCo(TorchRLPPO):
    """A `benchmarks.contestants.Contestant` with observations normalised by running statistics."""

    def __init__(
        self, scenario: str, agent_conf: str, total_env_steps: int, seed: int, episodes: int, batch: int | None
    ):
        torch.manual_seed(seed)
        self._normaliser = VecNormV2(in_keys=[OBS], decay=0.99999, reduce_batch_dims=True)
        env = TransformedEnv(mujoco_envs(scenario, agent_conf, ENVS), self._normaliser)
        env.set_seed(seed)
        batch = batch or Numbers().batch
        super().__init__(env, Numbers(batch=batch, iterations=-(-total_env_steps // batch)))
        self._task, self._episodes = (scenario, agent_conf), episodes

    @torch.no_grad()
    def greedy(self) -> float:
        """Mean return of whole episodes without exploration."""
        env = TransformedEnv(mujoco_env(*self._task), self._normaliser.to_observation_norm())
        returns = []
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            for _ in range(self._episodes):
                played = env.rollout(10_000, self.actor)
                returns.append(float(played["next", AGENTS, "reward"][..., 0, 0].sum()))
        env.close()
        return float(np.mean(returns))
