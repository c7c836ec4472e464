"""MuJoCo simulations stepped by the library, one after another: for any task and any version of mujoco."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lorasa_rllib.envs.mamujoco_gather import RawEntries, find_origins

if TYPE_CHECKING:
    from gymnasium_robotics.envs.multiagent_mujoco.mujoco_multi import MultiAgentMujocoEnv
    from mujoco import MjData


class LibraryLoop:
    """E library environments.

    libraries:  the E environments.
    width:      padded size of local observations; None: agents observe the global state.

    obs         float32 [E, N, width or S]      state       float32 [E, S]
    rewards     float32 [E, 1]                  terminated  bool [E]; all four are updated in place
    """

    def __init__(self, libraries: Sequence[MultiAgentMujocoEnv], width: int | None, state_size: int):
        num_envs, first = len(libraries), libraries[0]
        self._libraries, self._first = libraries, first
        self._tasks = [library.single_agent_env.unwrapped for library in libraries]
        self.state = np.zeros((num_envs, state_size), np.float32)
        self.obs = np.zeros((num_envs, len(first.possible_agents), width or state_size), np.float32)
        self.rewards = np.zeros((num_envs, 1), np.float32)
        self.terminated = np.zeros(num_envs, bool)
        self._gather = None
        if width is not None:
            datas = [task.data for task in self._tasks]
            origins = find_origins(lambda: local_observations(first, datas[0]), datas[0])
            self._raw = RawEntries([origins], num_envs)
            self._views = [
                [(columns, getattr(data, name).reshape(-1)) for name, columns in self._raw.columns.items()]
                for data in datas
            ]
            self._gather = self._raw.gather(origins, width)
            self._from_library = origins.computed

    def begin(self, which: Sequence[int], seeds: Sequence[int | None]) -> None:
        """Starts new episodes in the simulations `which`."""
        for e, seed in zip(which, seeds, strict=True):
            self.state[e] = self._tasks[e].reset(seed=seed)[0]
            self._read(e)
        self._observe(np.asarray(which, np.int64))

    def step(self, controls: np.ndarray) -> None:
        """Steps all simulations. controls: [E, nu] in the library's dtype."""
        for e, task in enumerate(self._tasks):
            self.state[e], self.rewards[e, 0], self.terminated[e], _, _ = task.step(controls[e])
            self._read(e)
        self._observe(None)

    def render(self) -> np.ndarray:
        return self._tasks[0].render()

    def close(self) -> None:
        for library in self._libraries:
            library.close()

    def _read(self, e: int) -> None:
        if self._gather is not None:
            for columns, view in self._views[e]:
                self._raw.values[e, columns] = view

    def _observe(self, only: np.ndarray | None) -> None:
        every = np.arange(len(self._tasks)) if only is None else only
        if self._gather is None:
            self.obs[every] = self.state[every, None]
            return
        self._gather.write(self.obs, only)
        if len(self._gather.computed):
            for e in every:
                built = np.concatenate(local_observations(self._first, self._tasks[e].data))
                self.obs[e].reshape(-1)[self._gather.computed] = built[self._from_library]


def local_observations(library: MultiAgentMujocoEnv, data: MjData) -> list[np.ndarray]:
    """The library's observations of all agents, computed from `data`, an MjData."""
    from gymnasium_robotics.envs.multiagent_mujoco.obsk import build_obs

    return [
        build_obs(data, joints, library.local_categories, library.mujoco_globals, library.global_categories)
        for joints in library.k_dicts
    ]
