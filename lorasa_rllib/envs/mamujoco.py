"""Multi-Agent MuJoCo (`gymnasium_robotics.mamujoco_v1`) as a vectorised team environment."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from lorasa_rllib.envs.base import TeamStep, VectorTeamEnv
from lorasa_rllib.envs.mamujoco_gather import ObservationGather
from lorasa_rllib.envs.mamujoco_library import make_library_environment, unknown_setting
from lorasa_rllib.spec import TeamSpec

Observed = Literal["local", "global"]


class MAMuJoCo(VectorTeamEnv):
    """E copies of a MuJoCo body whose joints are divided among agents.

    scenario, agent_conf:  task and factorisation, such as "HalfCheetah", "6x1"; `agent_conf=None` is a single agent.
    obs:                   "local": an agent observes its joints, those up to `agent_obsk` joints away, and the torso;
                           "global": every agent observes the global state.
    max_episode_steps:     time limit; None: the one registered for the task (1,000 for most).
    id_capacity:           see `TeamSpec`.
    Other settings are passed to the library (`local_categories`, `global_categories`) or to the Gymnasium task.

    Observations, rewards and terminations are those of the library. The global state is the task's full observation.
    Returns are not comparable with the older multiagent_mujoco package, which maps actions to different actuators.
    """

    spec_needs_copy: ClassVar[bool] = True

    def __init__(
        self,
        num_envs: int = 1,
        *,
        scenario: str = "HalfCheetah",
        agent_conf: str | None = "2x3",
        obs: Observed = "local",
        agent_obsk: int = 1,
        max_episode_steps: int | None = None,
        id_capacity: int = 0,
        **options: Any,
    ):
        self._settings = self._checked(scenario, agent_conf, obs, agent_obsk, max_episode_steps, options)
        first = self._one_more()
        self._library = [first]
        self.spec = _spec_of(first, obs, id_capacity)
        self._limit = max_episode_steps or first.single_agent_env.spec.max_episode_steps
        spec, task = self.spec, first.single_agent_env.unwrapped
        # Actions [E, N * d] -> actuators [E, nu]: column of each actuator in the (padded) actions.
        self._action_of = np.zeros(task.model.nu, np.int64)
        for n, partition in enumerate(first.agent_action_partitions):
            for d, node in enumerate(partition):
                self._action_of[node.act_ids] = n * spec.action_size + d
        # The library's dtypes, as control costs depend on them: it passes a single agent's actions on unconverted.
        self._control_type = np.float32 if first.agent_obsk is None else np.float64
        self._gathers = obs == "local" and first.agent_obsk is not None
        self.grow(num_envs)

    def grow(self, num_envs: int) -> None:
        while len(self._library) < num_envs:
            self._library.append(self._one_more())
        self.num_envs = num_envs = len(self._library)
        self._tasks = [library.single_agent_env.unwrapped for library in self._library]
        spec, first = self.spec, self._library[0]
        self._time = np.zeros(num_envs, np.int64)
        self._obs = np.zeros((num_envs, spec.num_agents, spec.obs_size), np.float32)
        self._state = np.zeros((num_envs, spec.state_size), np.float32)
        self._rewards = np.zeros((num_envs, 1), np.float32)
        self._terminated = np.zeros(num_envs, bool)
        self._active = np.ones((num_envs, spec.num_agents), bool)
        self._gather = None
        if self._gathers:
            agents = range(spec.num_agents)
            self._gather = ObservationGather(
                lambda data: [_build(first, n, data) for n in agents],
                self._tasks[0].model,
                [task.data for task in self._tasks],
                spec.obs_size,
            )

    def _one_more(self) -> Any:
        """Builds one copy with the library. Raises ValueError for unknown settings."""
        try:
            return make_library_environment(**self._settings)
        except TypeError as problem:
            ours = [name for name in inspect.signature(self.team_spec).parameters if name != "options"]
            scenario, options = self._settings["scenario"], set(self._settings) - set(ours)
            if unknown := unknown_setting(scenario, options, ours, problem):
                raise ValueError(unknown) from problem
            raise

    @classmethod
    def team_spec(  # type: ignore[override]
        cls,
        scenario: str = "HalfCheetah",
        agent_conf: str | None = "2x3",
        obs: Observed = "local",
        agent_obsk: int = 1,
        max_episode_steps: int | None = None,
        id_capacity: int = 0,
        **options: Any,
    ) -> TeamSpec:
        """The team; loads the model. Raises ValueError for unknown settings."""
        one = cls(
            scenario=scenario, agent_conf=agent_conf, obs=obs, agent_obsk=agent_obsk,
            max_episode_steps=max_episode_steps, id_capacity=id_capacity, **options,
        )  # fmt: skip
        one.close()
        return one.spec

    @staticmethod
    def _checked(
        scenario: str,
        agent_conf: str | None,
        obs: Observed,
        agent_obsk: int,
        max_episode_steps: int | None,
        options: dict[str, Any],
    ) -> dict[str, Any]:
        """Arguments of `make_library_environment`. Raises ValueError for invalid settings."""
        if obs not in ("local", "global"):
            raise ValueError(f"obs={obs!r} must be 'local' or 'global'.")
        if isinstance(agent_obsk, bool) or not isinstance(agent_obsk, int) or agent_obsk < 0:
            raise ValueError(
                f"agent_obsk={agent_obsk!r} must be a number of joints from 0 up; use obs='global' to see everything."
            )
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps={max_episode_steps} must be at least 1.")
        return {"scenario": scenario, "agent_conf": agent_conf, "agent_obsk": agent_obsk, **options}

    def reset(self, seed: int | None = None) -> TeamStep:
        for e, task in enumerate(self._tasks):
            self._begin(e, task, None if seed is None else seed + e)
        self._observe()
        self._rewards[:] = 0.0
        self._terminated[:] = False
        return self._answer(np.zeros(self.num_envs, bool), self._obs[:0], self._state[:0])

    def step(self, actions: np.ndarray) -> TeamStep:
        controls = actions.reshape(self.num_envs, -1)[:, self._action_of].astype(self._control_type)
        rewards, terminated, state, gather = self._rewards, self._terminated, self._state, self._gather
        for e, task in enumerate(self._tasks):
            state[e], rewards[e, 0], terminated[e], _, _ = task.step(controls[e])
            if gather is not None:
                gather.read(e)
        self._observe()
        self._time += 1
        ended = terminated | (self._time >= self._limit)
        if not ended.any():
            return self._answer(ended, self._obs[:0], self._state[:0])
        over = np.flatnonzero(ended)
        final_obs, final_state = self._obs[over], self._state[over]  # copies
        for e in over.tolist():
            self._begin(e, self._tasks[e], None)
        self._observe(over)
        return self._answer(ended, final_obs, final_state)

    @classmethod
    def to_be_rendered(cls, env_config: Mapping[str, Any]) -> dict[str, Any]:
        return {**env_config, "render_mode": "rgb_array"}

    def render(self) -> np.ndarray:
        return self._tasks[0].render()

    def close(self) -> None:
        for library in self._library:
            library.close()

    def _begin(self, e: int, task: Any, seed: int | None) -> None:
        self._state[e] = task.reset(seed=seed)[0]
        self._time[e] = 0
        if self._gather is not None:
            self._gather.read(e)

    def _observe(self, only: np.ndarray | slice = slice(None)) -> None:
        if self._gather is None:
            self._obs[only] = self._state[only, None]
        else:
            self._gather.observations(self._obs, only)

    def _answer(self, ended: np.ndarray, final_obs: np.ndarray, final_state: np.ndarray) -> TeamStep:
        return TeamStep(
            obs=self._obs,
            state=self._state,
            rewards=self._rewards,
            terminated=self._terminated,
            truncated=ended & ~self._terminated,
            active=self._active,
            ended=np.flatnonzero(ended),
            final_obs=final_obs,
            final_state=final_state,
        )


def _build(library: Any, agent: int, data: Any) -> np.ndarray:
    """The library's observation of one agent, computed from `data`, an MjData."""
    from gymnasium_robotics.envs.multiagent_mujoco.obsk import build_obs

    return build_obs(
        data,
        library.k_dicts[agent],
        library.local_categories,
        library.mujoco_globals,
        library.global_categories,
    )


def _spec_of(library: Any, obs: Observed, id_capacity: int) -> TeamSpec:
    agents = tuple(library.possible_agents)
    state_size = library.single_agent_env.unwrapped.observation_space.shape[0]
    spaces = [library.action_space(agent) for agent in agents]
    whole = obs == "global" or library.agent_obsk is None
    return TeamSpec(
        agents=agents,
        obs_sizes=tuple(state_size if whole else library.observation_space(a).shape[0] for a in agents),
        action_kind="continuous",
        action_sizes=tuple(space.shape[0] for space in spaces),
        action_low=tuple(tuple(map(float, space.low)) for space in spaces),
        action_high=tuple(tuple(map(float, space.high)) for space in spaces),
        state_size=state_size,
        id_capacity=id_capacity,
    )
