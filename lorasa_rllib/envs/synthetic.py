"""A team task that costs almost nothing to simulate: for benchmarks with very many agents, and for tests.

Every agent sees a random observation and should answer with a linear function of it that is its own: a shared policy
that does not know its agent cannot solve it. Not a benchmark of learning.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lorasa_rllib.envs.base import TeamStep, VectorTeamEnv
from lorasa_rllib.spec import TeamSpec


class SyntheticTeam(VectorTeamEnv):
    """N agents, observations ~ N(0, 1), reward = -mean over agents and dimensions of (action - tanh(target_n . obs))^2.

    num_agents, obs_size, action_size: sizes; with `unequal=True` every second agent has one feature and one action
    dimension less (at least one remains). episode_length: steps until the time limit. termination: probability of each
    step to end the episode before it.
    """

    def __init__(self, num_envs: int = 1, **env_config: Any):
        self.spec = self.team_spec(**env_config)
        self.num_envs = num_envs
        options = {"episode_length": 100, "termination": 0.0} | env_config
        self._limit, self._termination = int(options["episode_length"]), float(options["termination"])
        spec, targets = self.spec, np.random.default_rng(7)
        shape = (spec.num_agents, spec.obs_size, spec.action_size)
        self._targets = targets.standard_normal(shape).astype(np.float32) * spec.obs_mask()[:, :, None]
        self._targets /= np.sqrt(spec.obs_size)
        self._obs_mask = spec.obs_mask().astype(np.float32)
        self._dims = spec.action_mask().astype(np.float32)
        self._rng = np.random.default_rng()
        self._time = np.zeros(num_envs, np.int64)
        self._obs = np.zeros((num_envs, spec.num_agents, spec.obs_size), np.float32)

    @classmethod
    def team_spec(
        cls,
        num_agents: int = 3,
        obs_size: int = 4,
        action_size: int = 2,
        unequal: bool = False,
        episode_length: int = 100,
        termination: float = 0.0,
        id_capacity: int = 0,
    ) -> TeamSpec:
        if episode_length < 1:
            raise ValueError(f"episode_length={episode_length} must be at least 1.")
        if not 0 <= termination < 1:
            raise ValueError(f"termination={termination} must be a probability below 1.")
        odd = [n % 2 if unequal else 0 for n in range(num_agents)]
        obs_sizes = tuple(max(1, obs_size - less) for less in odd)
        action_sizes = tuple(max(1, action_size - less) for less in odd)
        return TeamSpec(
            agents=tuple(f"agent_{n}" for n in range(num_agents)),
            obs_sizes=obs_sizes,
            action_kind="continuous",
            action_sizes=action_sizes,
            action_low=tuple((-1.0,) * d for d in action_sizes),
            action_high=tuple((1.0,) * d for d in action_sizes),
            state_size=obs_size,
            id_capacity=id_capacity,
        )

    def reset(self, seed: int | None = None) -> TeamStep:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._time[:] = 0
        self._draw()
        return self._answer(np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, bool), self._obs[:0])

    def step(self, actions: np.ndarray) -> TeamStep:
        wanted = np.tanh(np.einsum("eno,nod->end", self._obs, self._targets))
        error = np.square(actions - wanted) * self._dims
        rewards = -(error.sum((1, 2)) / self._dims.sum()).astype(np.float32)
        self._time += 1
        terminated = self._rng.random(self.num_envs) < self._termination
        self._draw()
        ended = terminated | (self._time >= self._limit)
        final = self._obs[ended].copy()
        if ended.any():
            self._draw(ended)
            self._time[ended] = 0
        return self._answer(rewards, terminated, final, ended)

    def _draw(self, which: np.ndarray | slice = slice(None)) -> None:
        self._obs[which] = self._rng.standard_normal(self._obs[which].shape, np.float32) * self._obs_mask

    def _answer(
        self, rewards: np.ndarray, terminated: np.ndarray, final: np.ndarray, ended: np.ndarray | None = None
    ) -> TeamStep:
        ended = np.zeros(self.num_envs, bool) if ended is None else ended
        return TeamStep(
            obs=self._obs,
            state=self._obs.mean(1),
            rewards=rewards[:, None],
            terminated=terminated,
            truncated=ended & ~terminated,
            active=np.ones(self._obs.shape[:2], bool),
            ended=np.flatnonzero(ended),
            final_obs=final,
            final_state=final.mean(1),
        )
