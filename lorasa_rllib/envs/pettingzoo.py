"""PettingZoo parallel environments and RLlib MultiAgentEnvs as vectorised team environments."""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar, Literal, Self

import numpy as np

from lorasa_rllib.envs.action_masks import write_mask
from lorasa_rllib.envs.base import TeamEnvError, TeamStep, VectorTeamEnv, Worker
from lorasa_rllib.envs.infos import METRICS_KEY, EpisodeInfos
from lorasa_rllib.envs.pettingzoo_answers import (
    Answer,
    alive,
    alive_after_reset,
    flags,
    ids_of,
    numbers,
    of_each,
    of_reset,
    of_step,
    state_numbers,
)
from lorasa_rllib.envs.pettingzoo_games import close_game, make_game
from lorasa_rllib.envs.pettingzoo_spaces import observe
from lorasa_rllib.envs.pettingzoo_team import team_of_game
from lorasa_rllib.envs.settings import time_limit
from lorasa_rllib.spaces import described
from lorasa_rllib.spec import TeamSpec

logger = logging.getLogger(__name__)

OURS = ("team_reward", "max_episode_steps", "id_capacity", "metrics_key")
"""Settings that are not handed on to the environment."""


Seen = tuple[np.ndarray, np.ndarray]
"""Observations [N, o] and global state [S] or [N, S] at the end of an episode or of an agent's part in it."""


class PettingZooTeam(VectorTeamEnv):
    """E copies of a PettingZoo parallel environment, stepped one after another.

    env:               module with a `parallel_env` ("mpe2.simple_spread_v3"), "module:function", or any callable that
                       returns a `ParallelEnv`, such as its class; or an RLlib `MultiAgentEnv`, see `RLlibGame`.
                       Functions of one argument, `lambda config: ...`, and `MultiAgentEnv` classes are called as in
                       RLlib: config is a dictionary of the settings whose attributes `config.worker_index`,
                       `config.vector_index` and the other fields of `Worker` identify the copy, for example to choose
                       ports or files. Everything else is called with the settings as keyword arguments.
    team_reward:       None: every agent has its own reward; "mean" or "sum": one team reward over all agents
                       (agents that have left count as 0).
    max_episode_steps: time limit in addition to the environment's own.
    id_capacity:       see `TeamSpec`.
    metrics_key:       entry of `infos[agent]` with metrics, read at each agent's last step and averaged over agents:
                       `infos[agent]["metrics"] = {"score": 3.0}` is reported as `env_runners/metrics/score`.
                       RLlib's `infos["__common__"]` is read at the last step of the episode.
    first_seed:        seed of the reset that determines the team; a first `reset` with this seed does not repeat it.
    Other settings are passed to `env`.

    Observations: Box of any shape, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these, flattened like
    `gymnasium.spaces.utils.flatten`. Action masks: the entry "action_mask" of dictionary observations, or
    `infos[agent]["action_mask"]`, for any agent at any step; without a mask all choices are available. Actions: Box
    with finite bounds; or Discrete, MultiDiscrete or MultiBinary, whose masks concatenate those of all components or
    are a tuple of them. The global state is the result of the method `state()` if there is one, otherwise the
    concatenated observations. Agents are named by `str` of their ids.
    An observation that is missing or does not have the shape of its space raises TeamEnvError, naming the agent.
    Agents that leave stay in the arrays: inactive, with zero observations. An episode ends when all agents have left,
    and is truncated if any of the last ones was. An agent that is both terminated and truncated counts as terminated.
    An agent truncated while others continue is bootstrapped from its last observation.
    """

    spec_needs_copy: ClassVar[bool] = True

    def __init__(
        self,
        num_envs: int = 1,
        *,
        env: object = None,
        team_reward: Literal["mean", "sum"] | None = None,
        max_episode_steps: int | None = None,
        id_capacity: int = 0,
        metrics_key: str = METRICS_KEY,
        first_seed: int | None = None,
        for_worker: Worker = Worker(),  # noqa: B008 - frozen
        **env_kwargs: object,
    ):
        self._limit = time_limit(max_episode_steps)
        self._env, self._env_kwargs, self._team_reward = env, env_kwargs, team_reward
        if not isinstance(metrics_key, str):
            raise ValueError(f"metrics_key={metrics_key!r} must be a name, a key of infos[agent].")
        for name in env_kwargs:
            _warn_of_likeness(name)
        self._metrics_key, self._worker = metrics_key, for_worker
        game = make_game(env, env_kwargs, for_worker)
        self._games = [game]
        try:
            self._ids = ids_of(game, "possible_agents")
            shown = of_reset(game, game.reset(seed=first_seed))
            alive_after_reset(game)
            self.spec, self._views, self._own_state = team_of_game(
                game, self._ids, shown, env, team_reward, id_capacity
            )
            self._shown: tuple[int | None, tuple[Answer, Answer]] | None = (first_seed, shown)
            self.grow(num_envs)
        except BaseException:
            with suppress(Exception):  # report the original error
                self.close()
            raise

    @classmethod
    def make(
        cls,
        num_envs: int,
        env_config: Mapping[str, object],
        first_seed: int | None = None,
        worker: Worker = Worker(),  # noqa: B008 - frozen
    ) -> Self:
        return cls(num_envs, first_seed=first_seed, for_worker=worker, **env_config)  # type: ignore[arg-type]

    def grow(self, num_envs: int) -> None:
        while len(self._games) < num_envs:
            self._games.append(make_game(self._env, self._env_kwargs, self._worker, len(self._games)))
        self._allocate()

    def reordered(self, agents: Sequence[str]) -> Self:
        at = [self.spec.agents.index(agent) for agent in agents]
        self.spec = self.spec.in_order(agents)
        self._ids, self._views = tuple(self._ids[n] for n in at), [self._views[n] for n in at]
        self._allocate()
        return self

    def _allocate(self) -> None:
        """Allocates the arrays for all copies, in the order of the agents."""
        self.num_envs = num_envs = len(self._games)
        self._index = {agent: n for n, agent in enumerate(self._ids)}
        spec, shape = self.spec, (num_envs, self.spec.num_agents)
        self._time, self._begun = np.zeros(num_envs, np.int64), np.zeros(num_envs, bool)
        self._obs = np.zeros((*shape, spec.obs_size), np.float32)
        self._state = np.zeros((num_envs, spec.state_size), np.float32)
        self._active = np.zeros(shape, bool)
        # Masks may first appear at a later step, so discrete actions always have them.
        self._masks = None if spec.continuous else np.zeros((*shape, spec.action_size), bool)
        self._first_choices = spec.first_choices()
        self._in_use = spec.obs_mask()
        self._infos = EpisodeInfos(num_envs, self._metrics_key)

    @classmethod
    def team_spec(cls, **env_config: object) -> TeamSpec:
        """Builds and resets one copy, as only this shows whether there are masks and a global state."""
        one = cls.make(1, env_config)
        one.close()
        return one.spec

    def reset(self, seed: int | None = None) -> TeamStep:
        for e in range(self.num_envs):
            self._begin(e, None if seed is None else seed + e)
        none, rewards = np.zeros(self.num_envs, bool), np.zeros(self._active.shape, np.float32)
        nobody = np.zeros(self._active.shape, bool)
        return self._answer(rewards, none, none, nobody, nobody, [], [])

    def step(self, actions: np.ndarray) -> TeamStep:
        rewards = np.zeros(self._active.shape, np.float32)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        left, cut = np.zeros(self._active.shape, bool), np.zeros(self._active.shape, bool)
        final: list[Seen] = []
        parting: list[Seen] = []
        metrics: list[dict[str, float]] = []
        self._time += 1
        for e, game in enumerate(self._games):
            self.stepping = e
            acted = alive(game)
            who = [self._index[agent] for agent in acted]
            moves = {agent: self.spec.action_of(n, actions[e, n]) for agent, n in zip(acted, who, strict=True)}
            obs, earned, ends, cuts, infos = of_step(game, game.step(moves))
            rewards[e, who] = numbers(of_each(acted, earned, "reward"), acted)
            ended = flags(of_each(acted, ends, "termination"), acted, "termination")
            stopped = flags(of_each(acted, cuts, "truncation"), acted, "truncation")
            left[e, who] = ended
            gone = [agent for agent, end, stop in zip(acted, ended, stopped, strict=True) if end or stop]
            onward = alive(game)
            over = not onward or len(gone) == len(acted)
            if over or self._time[e] == self._limit:
                self._infos.add(e, acted, infos)
                metrics.append(self._infos.finish(e, infos))
                truncated[e] = not over or any(stop and not end for end, stop in zip(ended, stopped, strict=True))
                terminated[e] = not truncated[e]
                final.append(self._last(e, acted, obs))
                self._begin(e, None)
            else:
                _check_gone(gone, onward)
                self._infos.add(e, gone, infos)
                cut[e, who] = [stop and not end for end, stop in zip(ended, stopped, strict=True)]
                if cut[e].any():
                    parting.append(self._last(e, {**dict.fromkeys(acted), **dict.fromkeys(onward)}, obs))
                self._observe(e, onward, obs, infos)
        return replace(self._answer(rewards, terminated, truncated, left, cut, final, parting), metrics=metrics)

    @classmethod
    def to_be_rendered(cls, env_config: Mapping[str, object]) -> dict[str, object]:
        return {**env_config, "render_mode": "rgb_array"}

    def render(self) -> np.ndarray:
        game = self._games[0]
        try:
            picture = game.render()
        except (AttributeError, NotImplementedError) as problem:  # PettingZoo's own says nothing
            raise NotImplementedError(
                f"{type(game).__name__} cannot be rendered ({described(problem)}): give it a method render() that "
                'returns a picture [height, width, 3] with render_mode="rgb_array".'
            ) from problem
        if picture is None:
            raise NotImplementedError('there is no picture; set render_mode="rgb_array" in env_config.')
        return np.asarray(picture)

    def close(self) -> None:
        for game in self._games:
            close_game(game)

    def _begin(self, e: int, seed: int | None) -> None:
        """Starts an episode in copy e, unless one was started, no step was taken and `seed` is None."""
        if self._begun[e] and self._time[e] == 0 and seed is None:
            return
        self.stepping = e
        shown, self._shown = (self._shown, None) if e == 0 else (None, self._shown)
        if shown is not None and shown[0] == seed:
            obs, infos = shown[1]
        else:
            obs, infos = of_reset(self._games[e], self._games[e].reset(seed=seed))
        self._time[e], self._begun[e] = 0, True
        self._infos.restart(e)
        self._observe(e, alive_after_reset(self._games[e]), obs, infos)

    def _last(self, e: int, agents: Iterable[object], obs: Answer) -> Seen:
        """The last observations and global state of copy e, including agents that are leaving; copies."""
        self._observe(e, list(agents), obs, None)
        return self._obs[e].copy(), self._state[e].copy()

    def _observe(self, e: int, agents: Sequence[object], obs: Answer, infos: Answer | None) -> None:
        """Fills the rows of `agents`, zeros elsewhere. infos: None for last observations, which need no masks."""
        self._obs[e], self._active[e] = 0.0, False
        if self._masks is not None:
            self._masks[e] = False
            self._masks[e] |= self._first_choices  # agents that have left keep one available choice
        for agent, seen in zip(agents, of_each(agents, obs, "observation"), strict=True):
            if agent not in self._index:
                raise TeamEnvError(
                    f"agent {agent!r} is not one of the possible_agents {list(self._index)}; list all that ever appear."
                )
            n = self._index[agent]
            view = self._views[n]
            self._active[e, n] = True
            observe(view, agent, seen, self._obs[e, n])
            if infos is not None:
                write_mask(view, agent, seen, infos.get(agent), None if self._masks is None else self._masks[e, n])
        if self._own_state:
            self._state[e] = state_numbers(self._games[e], self._games[e].state(), self.spec.state_size)
        else:
            self._state[e] = self._obs[e][self._in_use]

    def _answer(
        self,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        left: np.ndarray,
        cut: np.ndarray,
        final: Sequence[Seen],
        parting: Sequence[Seen],
    ) -> TeamStep:
        final_obs, final_state = _stacked(final, self._obs, self._state)
        cut_obs, cut_state = _stacked(parting, self._obs, self._state)
        if self._team_reward:
            rewards = getattr(rewards, self._team_reward)(1, keepdims=True)
        return TeamStep(
            obs=self._obs,
            state=self._state,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            active=self._active,
            ended=np.flatnonzero(terminated | truncated),
            final_obs=final_obs,
            final_state=final_state,
            masks=self._masks,
            left=None if self._team_reward else left,
            cut=cut,
            cut_obs=cut_obs,
            cut_state=cut_state,
        )


@functools.cache
def _warn_of_likeness(name: str) -> None:
    """Warns of a setting that is handed on to the user's environment, but looks like one of ours: a typing error?"""
    if ours := difflib.get_close_matches(name, OURS, n=1, cutoff=0.85):
        logger.warning(
            f"env_config has the setting {name!r}, which is handed to the environment; did you mean {ours[0]!r}?"
        )


def _stacked(seen: Sequence[Seen], obs: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stacks pairs of observations and global state; without pairs, zero rows of `obs` and `state`."""
    return (np.stack([o for o, _ in seen]), np.stack([s for _, s in seen])) if seen else (obs[:0], state[:0])


def _check_gone(gone: Sequence[object], onward: Sequence[object]) -> None:
    """Raises TeamEnvError if an agent that has just ended is still among those that act next."""
    if staying := [agent for agent in gone if agent in onward]:
        raise TeamEnvError(
            f"agent {staying[0]!r} has terminated or was truncated, and is still among `agents`. Let step() remove it "
            "from `agents`, or report its end only once it no longer acts."
        )
