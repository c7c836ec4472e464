"""Multi-Agent MuJoCo (`gymnasium_robotics.mamujoco_v1`) as a vectorised team environment."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from lorasa_rllib.envs.base import TeamStep, VectorTeamEnv
from lorasa_rllib.envs.mamujoco_batch import CannotBatchError, NativeBatch
from lorasa_rllib.envs.mamujoco_library import make_library_environment, unknown_setting
from lorasa_rllib.envs.mamujoco_loop import LibraryLoop
from lorasa_rllib.envs.settings import time_limit, whole_number
from lorasa_rllib.spec import TeamSpec

if TYPE_CHECKING:
    from gymnasium_robotics.envs.multiagent_mujoco.mujoco_multi import MultiAgentMujocoEnv

logger = logging.getLogger(__name__)

Observed = Literal["local", "global"]


class MAMuJoCo(VectorTeamEnv):
    """E copies of a MuJoCo body whose joints are divided among agents.

    scenario, agent_conf:  task and factorisation, such as "HalfCheetah", "6x1"; `agent_conf=None` is a single agent.
    obs:                   "local": an agent observes its joints, those up to `agent_obsk` joints away, and the torso;
                           "global": every agent observes the global state.
    max_episode_steps:     time limit; None: the one registered for the task (1,000 for most).
    id_capacity:           see `TeamSpec`.
    threads:               threads that step the copies, for runners with several cores (`num_cpus_per_env_runner`).
                           Results do not depend on it.
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
        threads: int = 1,
        **options: object,
    ):
        self._task = scenario, agent_conf, _checked(obs, agent_obsk)
        self._options = options
        self._threads = whole_number("threads", threads, 1)
        first = self._one_more()
        self._library = [first]
        self.spec = _spec_of(first, obs, whole_number("id_capacity", id_capacity))
        self._limit = time_limit(max_episode_steps) or first.single_agent_env.spec.max_episode_steps
        spec, task = self.spec, first.single_agent_env.unwrapped
        # Actions [E, N * d] -> actuators [E, nu]: column of each actuator in the (padded) actions.
        self._action_of = np.zeros(task.model.nu, np.int64)
        for n, partition in enumerate(first.agent_action_partitions):
            for d, node in enumerate(partition):
                self._action_of[node.act_ids] = n * spec.action_size + d
        # The library's dtypes, as control costs depend on them: it passes a single agent's actions on unconverted.
        self._control_type = np.float32 if first.agent_obsk is None else np.float64
        self._width = spec.obs_size if obs == "local" and first.agent_obsk is not None else None
        self.grow(num_envs)

    def grow(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self._simulations = self._make_simulations(num_envs)
        self._controls = np.zeros((num_envs, len(self._action_of)), self._control_type)
        self._time = np.zeros(num_envs, np.int64)
        self._none, self._nobody = np.zeros(num_envs, bool), np.zeros(0, np.int64)
        self._active = np.ones((num_envs, self.spec.num_agents), bool)

    def _make_simulations(self, num_envs: int) -> NativeBatch | LibraryLoop:
        first, width, state_size = self._library[0], self._width, self.spec.state_size
        try:
            return NativeBatch(first, num_envs, width, state_size, self._threads)
        except CannotBatchError as reason:
            if self._threads > 1:
                raise ValueError(f"threads={self._threads} cannot be used, leave it out: {reason}.") from reason
            _warn_once(f"Multi-Agent MuJoCo steps its copies one after another, which is slower: {reason}.")
        while len(self._library) < num_envs:
            self._library.append(self._one_more())
        return LibraryLoop(self._library, width, state_size)

    def _one_more(self) -> MultiAgentMujocoEnv:
        """Builds one copy with the library. Raises ValueError for unknown settings."""
        try:
            return make_library_environment(*self._task, **self._options)
        except TypeError as problem:
            ours = [name for name in inspect.signature(type(self)).parameters if name not in ("num_envs", "options")]
            if unknown := unknown_setting(self._task[0], self._options, ours, problem):
                raise ValueError(unknown) from problem
            raise

    @classmethod
    def team_spec(cls, **env_config: object) -> TeamSpec:
        """The team; loads the model. Raises ValueError for unknown settings."""
        one = cls.make(1, env_config)
        one.close()
        return one.spec

    def reset(self, seed: int | None = None) -> TeamStep:
        num_envs, simulations = self.num_envs, self._simulations
        self._begin(range(num_envs), [None if seed is None else seed + e for e in range(num_envs)])
        simulations.rewards[:] = 0.0
        simulations.terminated[:] = False
        return self._answer(self._none, self._nobody, simulations.obs[:0], simulations.state[:0])

    def step(self, actions: np.ndarray) -> TeamStep:
        simulations = self._simulations
        self._controls[...] = actions.reshape(self.num_envs, -1).take(self._action_of, axis=1)
        simulations.step(self._controls)
        self._time += 1
        ended = simulations.terminated | (self._time >= self._limit)
        if not ended.any():
            return self._answer(self._none, self._nobody, simulations.obs[:0], simulations.state[:0])
        over = np.flatnonzero(ended)
        final_obs, final_state = simulations.obs[over], simulations.state[over]  # copies
        self._begin(over.tolist(), [None] * len(over))
        return self._answer(ended & ~simulations.terminated, over, final_obs, final_state)

    @classmethod
    def to_be_rendered(cls, env_config: Mapping[str, object]) -> dict[str, object]:
        return {**env_config, "render_mode": "rgb_array"}

    def render(self) -> np.ndarray:
        return self._simulations.render()

    def close(self) -> None:
        self._simulations.close()

    def _begin(self, which: Sequence[int], seeds: Sequence[int | None]) -> None:
        self._simulations.begin(which, seeds)
        self._time[np.asarray(which)] = 0

    def _answer(
        self, truncated: np.ndarray, ended: np.ndarray, final_obs: np.ndarray, final_state: np.ndarray
    ) -> TeamStep:
        simulations = self._simulations
        return TeamStep(
            obs=simulations.obs,
            state=simulations.state,
            rewards=simulations.rewards,
            terminated=simulations.terminated,
            truncated=truncated,
            active=self._active,
            ended=ended,
            final_obs=final_obs,
            final_state=final_state,
        )


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _spec_of(library: MultiAgentMujocoEnv, obs: Observed, id_capacity: int) -> TeamSpec:
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


def _checked(obs: Observed, agent_obsk: int) -> int:
    """`agent_obsk`. Raises ValueError for invalid settings."""
    if obs not in ("local", "global"):
        raise ValueError(f"obs={obs!r} must be 'local' or 'global'.")
    try:
        return whole_number("agent_obsk", agent_obsk)
    except ValueError:
        raise ValueError(
            f"agent_obsk={agent_obsk!r} must be a number of joints from 0 up; use obs='global' to see everything."
        ) from None
