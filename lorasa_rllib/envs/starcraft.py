"""Base of SMAC and SMACv2: E games of StarCraft II stepped in parallel, arrays in and out.

Each game is a separate process behind a socket; the games of an env runner run concurrently.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from lorasa_rllib.envs.agent_states import StateKind, check_state_kind, is_death_masked, masked_with_id, with_own_view
from lorasa_rllib.envs.base import TeamStep, VectorTeamEnv
from lorasa_rllib.envs.settings import time_limit, whole_number
from lorasa_rllib.envs.starcraft_game import SEEDS, Game, Shown, StarCraftPackage
from lorasa_rllib.spec import TeamSpec

INSTALL = "bash cluster/install_starcraft.sh"


class StarCraftTeam(VectorTeamEnv):
    """E games on one map. Subclasses implement `make_game` for their package.

    state:      the global state. "global": the package's state [E, S]. "agent": per agent, the same with its own
                observation and one-hot id appended, [E, N, S]. "pruned": per agent, the package's state with the
                positions of all units relative to it, and its id, [E, N, S].
    death_mask: for "agent" and "pruned": dead agents have zeros and their id (MAPPO's death masking); the default.
    max_episode_steps: time limit in steps; None: the map's.
    id_capacity: see `TeamSpec`.
    options:    of the package's environment (difficulty, step_mul, reward_scale_rate, ...).

    Games start at the first `reset`. A game that fails is restarted and its episode truncated; `restarts` counts these.
    Roles are unit types; dead agents keep theirs. Rewards are the package's, 20 for a perfect battle by default.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        map_name: str | None = None,
        state: StateKind = "agent",
        death_mask: bool | None = None,
        max_episode_steps: int | None = None,
        id_capacity: int = 0,
        **options: object,
    ):
        named = {} if map_name is None else {"map_name": map_name}
        self.spec = self.team_spec(
            state=state, death_mask=death_mask, max_episode_steps=max_episode_steps, id_capacity=id_capacity,
            **named, **options,
        )  # fmt: skip
        self.check_machine()
        self.num_envs = num_envs
        self._settings = {**named, **options}
        self._kind, self._death_mask = state, is_death_masked(state, death_mask)
        self._limit = time_limit(max_episode_steps)
        self._games: list[Game] = []
        self._threads = ThreadPoolExecutor(num_envs, thread_name_prefix="starcraft")
        spec, shape = self.spec, (num_envs, self.spec.num_agents)
        self._obs = np.zeros((*shape, spec.obs_size), np.float32)
        self._states = np.zeros((num_envs, self.size_of_state(**self._settings)), np.float32)
        self._active = np.zeros(shape, bool)
        self._masks = np.zeros((*shape, spec.action_size), bool)
        self._roles = np.zeros(shape, np.int64)

    # To be implemented for each package

    @classmethod
    @abstractmethod
    def make_game(cls, seed: int | None, **settings: Any) -> StarCraftPackage:
        """Builds one environment of the package without starting a game. Raises ValueError for invalid settings."""

    # The interface

    @classmethod
    def team_spec(  # type: ignore[override]
        cls,
        *,
        state: StateKind = "agent",
        death_mask: bool | None = None,
        max_episode_steps: int | None = None,
        id_capacity: int = 0,
        **settings: object,
    ) -> TeamSpec:
        check_state_kind(state)
        is_death_masked(state, death_mask)
        if state == "pruned" and settings.get("obs_instead_of_state"):
            raise ValueError('obs_instead_of_state=True leaves nothing to prune; use state="agent" or "global".')
        time_limit(max_episode_steps)
        package = cls.make_game(None, **settings)
        info = package.get_env_info()
        agents, obs_size, state_size = info["n_agents"], info["obs_shape"], info["state_shape"]
        own = {"global": 0, "agent": obs_size + agents, "pruned": agents}[state]
        return TeamSpec(
            agents=tuple(f"unit_{n}" for n in range(agents)),
            obs_sizes=(obs_size,) * agents,
            action_kind="discrete",
            action_sizes=(info["n_actions"],) * agents,
            state_size=state_size + own,
            state_per_agent=state != "global",
            num_roles=max(1, package.unit_type_bits),
            has_masks=True,
            id_capacity=whole_number("id_capacity", id_capacity),
        )

    @classmethod
    def size_of_state(cls, **settings: object) -> int:
        """Size S of the package's own state."""
        return int(cls.make_game(None, **settings).get_env_info()["state_shape"])

    @classmethod
    def check_machine(cls) -> None:
        """Raises ValueError if StarCraft II or SMAC's maps are not installed."""
        path = Path(os.environ.get("SC2PATH", "~/StarCraftII")).expanduser()  # where pysc2 looks
        if not (path / "Versions").is_dir():
            raise ValueError(
                f"StarCraft II is not installed at {path} (SC2PATH, or ~/StarCraftII). Run: {INSTALL}   or set SC2PATH "
                "to its folder. Without the game, tune_configs/smax.py trains on similar battles."
            )
        if not any((path / maps / "SMAC_Maps").is_dir() for maps in ("Maps", "maps")):
            raise ValueError(f"StarCraft II at {path} lacks SMAC's maps, Maps/SMAC_Maps. Run: {INSTALL}")

    def reset(self, seed: int | None = None) -> TeamStep:
        if not self._games or seed is not None:
            self._close_games()
            seeds = [None if seed is None else (seed + e) % SEEDS for e in range(self.num_envs)]
            self._games = [Game(lambda s: self.make_game(s, **self._settings), s, self._limit) for s in seeds]
        for e, shown in enumerate(self._threads.map(Game.reset, self._games)):
            self._take(e, shown)
        none = np.zeros(self.num_envs, bool)
        nothing = np.zeros((self.num_envs, 1), np.float32)
        return self._answer(nothing, none, none, [], self._obs[:0], self._states[:0], self._active[:0])

    def step(self, actions: np.ndarray) -> TeamStep:
        # Action 0 is the no-op: the only one available to dead agents, and unavailable to living ones.
        actions = np.where(self._active, actions, 0)
        outcomes = list(self._threads.map(Game.step, self._games, actions.tolist()))
        rewards = np.array([[outcome.reward] for outcome in outcomes], np.float32)
        terminated = np.array([outcome.terminated for outcome in outcomes])
        truncated = np.array([outcome.truncated for outcome in outcomes])
        for e, outcome in enumerate(outcomes):
            self._take(e, outcome.shown)
        over = np.flatnonzero(terminated | truncated)
        final = self._obs[over], self._states[over], self._active[over]  # copies
        ended = over.tolist()
        for e, shown in zip(ended, self._threads.map(Game.reset, [self._games[e] for e in ended]), strict=True):
            self._take(e, shown)
        return self._answer(rewards, terminated, truncated, [outcomes[e].won for e in ended], *final)

    @property
    def restarts(self) -> int:  # type: ignore[override]
        """Number of restarts after a game failed."""
        return sum(game.restarts for game in self._games)

    def close(self) -> None:
        self._close_games()
        self._threads.shutdown()

    def _close_games(self) -> None:
        for game in self._games:
            game.close()
        self._games = []

    def _take(self, e: int, shown: Shown) -> None:
        self._obs[e], self._states[e], self._masks[e], self._roles[e] = shown.obs, shown.state, shown.masks, shown.roles
        self._active[e] = ~self._masks[e, :, 0]  # no-op is available only to dead agents

    def _seen_by_critic(self, states: np.ndarray, obs: np.ndarray, active: np.ndarray) -> np.ndarray:
        if self._kind == "global":
            return states
        if self._kind == "agent":
            return with_own_view(states, obs, active, self._death_mask)
        rows = self._games[0].rows_of_state
        return masked_with_id(centred(states, len(active[0]) if len(active) else 1, *rows), active, self._death_mask)

    def _answer(
        self,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        won: list[bool],
        final_obs: np.ndarray,
        final_states: np.ndarray,
        final_active: np.ndarray,
    ) -> TeamStep:
        empty = np.zeros((0, *self.spec.state_shape), np.float32)
        return TeamStep(
            obs=self._obs,
            state=self._seen_by_critic(self._states, self._obs, self._active),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            active=self._active,
            ended=np.flatnonzero(terminated | truncated),
            final_obs=final_obs,
            final_state=self._seen_by_critic(final_states, final_obs, final_active) if len(final_obs) else empty,
            masks=self._masks,
            roles=self._roles,
            won=np.array(won, bool),
        )


def centred(states: np.ndarray, agents: int, ally_features: int, enemies: int, enemy_features: int) -> np.ndarray:
    """The package's states [E, S] with positions relative to each agent, [E, N, S].

    A state begins with one row per ally (position in columns 2 and 3) and per enemy (columns 1 and 2), relative to the
    centre of the map. Rows of dead units are zero and remain so.
    """
    envs, split = len(states), agents * ally_features
    views = np.repeat(states[:, None], agents, axis=1)
    allies = views[..., :split].reshape(envs, agents, agents, ally_features)
    others = views[..., split : split + enemies * enemy_features].reshape(envs, agents, enemies, enemy_features)
    here = states[:, :split].reshape(envs, agents, 1, ally_features)[..., 2:4]
    for rows, place in ((allies, slice(2, 4)), (others, slice(1, 3))):
        rows[..., place] -= np.where(rows.any(-1, keepdims=True), here, 0.0)
    views[..., :split] = allies.reshape(envs, agents, -1)
    views[..., split : split + enemies * enemy_features] = others.reshape(envs, agents, -1)
    return views
