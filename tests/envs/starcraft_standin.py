"""A stand-in for the packages `smac` and `smacv2`, with the behaviour that their adapters must handle.

Two allies fight two enemies. An ally's attack takes half of an enemy; enemy n kills ally n at step `kills[n]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lorasa_rllib.envs.starcraft import StarCraftTeam

NOOP, STOP, ATTACK = 0, 1, 2


@dataclass
class Unit:
    unit_type: int
    health: float = 1.0


class Package:
    """What the adapters use of `StarCraft2Env`. Every way to break its rules raises AssertionError."""

    n_agents, n_enemies, n_actions, unit_type_bits = 2, 2, 4, 2
    made: ClassVar[list[Package]] = []

    def __init__(self, seed: int | None, kills: tuple[int, int] = (99, 99), limit: int = 6, faults: Any = None):
        self.seed, self.kills, self.episode_limit = seed, kills, limit
        self.faults = faults if faults is not None else {}  # how many steps ago: shared by all that are made
        self.force_restarts = self.timeouts = self.episodes = self.total_steps = 0
        self.stepped, self.running, self.closed, self.over_once = True, False, False, False
        Package.made.append(self)

    def get_env_info(self) -> dict[str, int]:
        return {
            "n_agents": 2, "obs_shape": 3, "state_shape": 2 * 6 + 2 * 5 + 1, "n_actions": 4,
            "episode_limit": self.episode_limit,
        }  # fmt: skip

    def get_ally_num_attributes(self) -> int:
        return 6  # health, cooldown, x, y, two types

    def get_enemy_num_attributes(self) -> int:
        return 5  # health, x, y, two types

    def reset(self) -> None:
        assert self.stepped, "two resets in a row corrupt the package"
        assert not self.episodes or self.over_once, "another game would be launched, and this one left alone"
        self._fault("reset")
        self.stepped, self.running, self.time = False, True, 0
        random = np.random.default_rng([self.seed or 0, self.episodes])
        self.agents = {n: Unit(int(t)) for n, t in enumerate(random.integers(2, size=2))}
        self.foes = [1.0, 1.0]
        self.episodes += 1
        if self.faults.pop("restart in reset", None):
            self.force_restarts += 1
        return None  # as SMACv2 after a retry

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        assert self.running, "an episode that is over goes on only after a reset"
        for n, action in enumerate(actions):
            assert self.get_avail_actions()[n][action], f"action {action} of unit {n} is not available"
        self.stepped = True
        self._fault("step")
        if self.faults.pop("silent restart", None):
            self.force_restarts += 1
            self.running = False
            return 0, True, {}
        self.time += 1
        reward = 0.0
        for action in actions:
            if action >= ATTACK:
                self.foes[action - ATTACK] -= 0.5
                reward += 0.5
        for n, when in enumerate(self.kills):
            if self.time >= when:
                self.agents[n].health = 0.0
        won = max(self.foes) <= 0
        lost = all(unit.health == 0 for unit in self.agents.values())
        over = won or lost
        if not over and self.time >= self.episode_limit:
            over, self.timeouts = True, self.timeouts + 1
        self.running = not over
        self.over_once |= over
        return reward + 10 * won, over, {"battle_won": won}

    def get_obs(self) -> list[np.ndarray]:
        return [np.array([n + 1, self.time, self.episodes]) * (u.health > 0) for n, u in self.agents.items()]

    def get_state(self) -> np.ndarray:
        allies = [
            np.array([1.0, 0.0, 0.1 * n, 0.2 * n, *np.eye(2)[u.unit_type]]) * (u.health > 0)
            for n, u in self.agents.items()
        ]
        enemies = [np.array([h, 0.5, 0.5 + n, 1.0, 0.0]) * (h > 0) for n, h in enumerate(self.foes)]
        return np.concatenate([*allies, *enemies, [self.time]])

    def get_avail_actions(self) -> list[list[int]]:
        return [
            [0, 1, *(int(h > 0) for h in self.foes)] if u.health > 0 else [1, 0, 0, 0] for u in self.agents.values()
        ]

    def get_unit_type_id(self, unit: Unit, ally: bool) -> int:
        return unit.unit_type

    def close(self) -> None:
        self.closed, self.running = True, False

    def _fault(self, where: str) -> None:
        if self.faults.get(where, 0) > 0:
            self.faults[where] -= 1
            raise ConnectionError(f"the game is gone ({where})")


class StandIn(StarCraftTeam):
    """The adapter over the stand-in."""

    @classmethod
    def make_game(cls, seed: int | None, map_name: str = "two", **options: Any) -> Package:
        return Package(seed, **options)

    @classmethod
    def check_machine(cls) -> None:
        pass
