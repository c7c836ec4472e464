"""A team task of any size with negligible simulation cost, for benchmarks, controlled studies and tests.

Each agent receives a random observation and should respond with a linear function of it, its target, which belongs to
the agent or to its current role. How much targets differ is a setting, so the specialisation that a policy needs is
known; if they differ, a shared policy that cannot identify the agent does not solve the task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lorasa_rllib.envs.base import TeamStep, VectorTeamEnv
from lorasa_rllib.envs.settings import check_names, flag, number, whole_number
from lorasa_rllib.spec import TeamSpec


@dataclass(frozen=True)
class SyntheticSettings:
    """Settings of `SyntheticTeam`. Raises ValueError for those of the wrong kind or range.

    num_agents, obs_size, action_size: sizes; with `unequal=True` every second agent has one feature and one action
                    dimension (or choice) fewer, but at least one of each.
    discrete:       choices instead of dimensions; choice 0 is always available, the others randomly to living agents.
    episode_length: time limit in steps.
    termination:    probability that a step terminates the episode.
    deaths:         probability that an agent dies in a step; the episode ends when all agents are dead.
    shared_reward:  one reward for the team, the sum of the shares; False: each agent receives its own share.
    num_roles:      number of roles, drawn for each agent at the start of an episode.
    role_changes:   probability that an agent's role is redrawn in a step, from all roles and none (-1).
    targets:        "agent": one target per agent; roles have no effect. "role": one per role, and the common target
                    for agents without a role; observations then begin with the one-hot role.
    difference:     share of a target's variance that is not common, from 0 (one target for all) to 1 (none shared).
    id_capacity:    see `TeamSpec`.
    """

    num_agents: int = 3
    obs_size: int = 4
    action_size: int = 2
    unequal: bool = False
    discrete: bool = False
    episode_length: int = 100
    termination: float = 0.0
    deaths: float = 0.0
    shared_reward: bool = True
    num_roles: int = 0
    role_changes: float = 0.0
    targets: Literal["agent", "role"] = "agent"
    difference: float = 1.0
    id_capacity: int = 0

    @classmethod
    def of(cls, env_config: Mapping[str, object]) -> SyntheticSettings:
        """Raises ValueError, with the nearest name, for unknown names."""
        check_names(cls, env_config)
        return cls(**env_config)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        for name in ("num_agents", "obs_size", "action_size", "episode_length"):
            whole_number(name, getattr(self, name), 1)
        for name in ("num_roles", "id_capacity"):
            whole_number(name, getattr(self, name))
        for name in ("unequal", "discrete", "shared_reward"):
            flag(name, getattr(self, name))
        number("difference", self.difference, 0, 1)
        for name in ("termination", "deaths", "role_changes"):
            if number(name, getattr(self, name), 0, 1) == 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a probability below 1.")
        if self.targets not in ("agent", "role"):
            raise ValueError(f"targets={self.targets!r} must be 'agent' or 'role'.")
        if self.targets == "role" and not self.num_roles:
            raise ValueError("targets='role' needs roles: set num_roles.")

    @property
    def shown(self) -> int:
        """Number of features that encode the role."""
        return int(self.num_roles) if self.targets == "role" else 0

    def team(self) -> TeamSpec:
        agents, shown, obs_size = int(self.num_agents), self.shown, int(self.obs_size)
        odd = [n % 2 if self.unequal else 0 for n in range(agents)]
        action_sizes = tuple(max(1, int(self.action_size) - less) for less in odd)
        return TeamSpec(
            agents=tuple(f"agent_{n}" for n in range(agents)),
            obs_sizes=tuple(shown + max(1, obs_size - less) for less in odd),
            action_kind="discrete" if self.discrete else "continuous",
            action_sizes=action_sizes,
            action_low=() if self.discrete else tuple((-1.0,) * d for d in action_sizes),
            action_high=() if self.discrete else tuple((1.0,) * d for d in action_sizes),
            state_size=shown + obs_size,
            shared_reward=bool(self.shared_reward),
            num_roles=int(self.num_roles),
            has_masks=bool(self.discrete),
            id_capacity=int(self.id_capacity),
        )


class SyntheticTeam(VectorTeamEnv):
    """N agents with observations ~ N(0, 1). An agent's share of the team reward:

        continuous   -sum over its dimensions of (action - tanh(target_n . obs))^2 / all dimensions of the team
        discrete     1 / N for the available choice with the largest target_n . obs, 0 for any other

    target = sqrt(1 - difference) common + sqrt(difference) own, both [obs, actions] ~ N(0, 1 / obs_size). Dead agents
    earn nothing and observe zeros. The global state is the mean observation.

    Settings: see `SyntheticSettings`.
    """

    def __init__(self, num_envs: int = 1, **env_config: object):
        settings = SyntheticSettings.of(env_config)
        self.spec = spec = settings.team()
        self.num_envs = num_envs
        self._limit = int(settings.episode_length)
        self._termination, self._deaths = float(settings.termination), float(settings.deaths)
        self._role_changes = float(settings.role_changes)
        self._shown = settings.shown
        self._targets = _targets(spec, self._shown, float(settings.difference))
        self._obs_mask = spec.obs_mask().astype(np.float32)
        self._real = spec.action_mask()
        self._random = [np.random.default_rng() for _ in range(num_envs)]  # one stream per copy
        self._time = np.zeros(num_envs, np.int64)
        self._obs = np.zeros((num_envs, spec.num_agents, spec.obs_size), np.float32)
        self._active = np.ones(self._obs.shape[:2], bool)
        self._masks = np.zeros((*self._obs.shape[:2], spec.action_size), bool) if spec.has_masks else None
        self._roles = np.zeros(self._obs.shape[:2], np.int64) if spec.num_roles else None

    @classmethod
    def team_spec(cls, **env_config: object) -> TeamSpec:
        return SyntheticSettings.of(env_config).team()

    def reset(self, seed: int | None = None) -> TeamStep:
        if seed is not None:
            self._random = [np.random.default_rng(seed + e) for e in range(self.num_envs)]
        self._begin(range(self.num_envs))
        none = np.zeros(self.num_envs, bool)
        return self._answer(np.zeros(self._active.shape, np.float32), none, none, self._obs[:0])

    def step(self, actions: np.ndarray) -> TeamStep:
        shares = self._shares(actions)
        self._time += 1
        every = range(self.num_envs)
        terminated = np.zeros(self.num_envs, bool)
        if self._termination:
            terminated |= [random.random() < self._termination for random in self._random]
        if self._deaths:
            for e in every:
                self._active[e] &= self._random[e].random(self.spec.num_agents) >= self._deaths
            terminated |= ~self._active.any(1)
        if self._roles is not None and self._role_changes:
            for roles, random in zip(self._roles, self._random, strict=True):
                drawn = random.integers(-1, self.spec.num_roles, size=len(roles))
                roles[:] = np.where(random.random(len(roles)) < self._role_changes, drawn, roles)
        self._observe(every)
        self._show_roles()
        ended = terminated | (self._time >= self._limit)
        final = self._obs[ended]  # a copy
        if ended.any():
            self._begin(np.flatnonzero(ended))
        return self._answer(shares, terminated, ended, final)

    def _shares(self, actions: np.ndarray) -> np.ndarray:
        """Each agent's share of the reward of this step, [E, N]."""
        wanted = self._wanted()
        if self.spec.continuous:
            error = np.square(actions - np.tanh(wanted)) * self._real
            return -error.sum(2) / self._real.sum() * self._active
        assert self._masks is not None
        best = np.where(self._masks, wanted, -np.inf).argmax(2)
        return (actions == best) / self.spec.num_agents * self._active

    def _wanted(self) -> np.ndarray:
        """The outputs of the targets before tanh, [E, N, d]."""
        if self._shown:
            return np.einsum("eno,enod->end", self._obs, self._targets[self._roles])
        return np.einsum("eno,nod->end", self._obs, self._targets)

    def _begin(self, which: Sequence[int] | np.ndarray) -> None:
        """Starts new episodes in the copies `which`."""
        self._time[which], self._active[which] = 0, True
        self._observe(which)
        if self._roles is not None:
            for e in which:
                self._roles[e] = self._random[e].integers(self.spec.num_roles, size=self.spec.num_agents)
        self._show_roles()

    def _observe(self, which: Sequence[int] | np.ndarray) -> None:
        """Draws new observations and masks in the copies `which`."""
        for e in which:
            self._random[e].standard_normal(out=self._obs[e], dtype=np.float32)
            if self._masks is not None:
                self._masks[e] = (self._random[e].random(self._masks[e].shape) < 0.5) & self._active[e, :, None]
        self._obs *= self._obs_mask * self._active[:, :, None]  # no effect on other copies
        if self._masks is not None:
            self._masks &= self._real
            self._masks[:, :, 0] = True

    def _show_roles(self) -> None:
        """Writes the one-hot role to the first features if targets belong to roles."""
        if self._roles is not None and self._shown:
            shown = self._roles[..., None] == np.arange(self._shown)
            self._obs[..., : self._shown] = shown & self._active[..., None]

    def _answer(self, shares: np.ndarray, terminated: np.ndarray, ended: np.ndarray, final: np.ndarray) -> TeamStep:
        return TeamStep(
            obs=self._obs,
            state=self._obs.mean(1),
            rewards=(shares.sum(1, keepdims=True) if self.spec.shared_reward else shares).astype(np.float32),
            terminated=terminated,
            truncated=ended & ~terminated,
            active=self._active,
            ended=np.flatnonzero(ended),
            final_obs=final,
            final_state=final.mean(1),
            masks=self._masks,
            roles=self._roles,
        )


def _targets(spec: TeamSpec, roles: int, difference: float) -> np.ndarray:
    """Targets of agents [N, obs, d], or of roles [roles + 1, obs, d], the last for agents without a role."""
    random = np.random.default_rng(7)
    own = random.standard_normal((roles or spec.num_agents, spec.obs_size - roles, spec.action_size))
    own = own.astype(np.float32)
    common = random.standard_normal(own.shape[1:]).astype(np.float32)
    targets = np.sqrt(difference) * own + np.sqrt(1 - difference) * common
    if roles:
        targets = np.concatenate([targets, common[None]])
    targets = np.pad(targets / np.sqrt(own.shape[1]), ((0, 0), (roles, 0), (0, 0))).astype(np.float32)
    return targets if roles else targets * spec.obs_mask().astype(np.float32)[:, :, None]
