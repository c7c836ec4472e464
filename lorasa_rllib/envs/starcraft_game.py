"""One game of SMAC or SMACv2, with the packages' edge cases (resets, failures, time limits) normalised."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lorasa_rllib.envs.base import TeamEnvError

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Attempts to start a game before an error is raised."""

SEEDS = 2**32
"""StarCraft II accepts seeds below this."""


@dataclass(frozen=True)
class Shown:
    """Current data of one game: obs [N, o], state [S], masks bool [N, actions], roles int [N]."""

    obs: np.ndarray
    state: np.ndarray
    masks: np.ndarray
    roles: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """Result of a step. A game that failed is truncated, with the data of the previous step."""

    shown: Shown
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    won: bool = False


class StarCraftPackage(Protocol):
    """What is used of the environments of `smac` and `smacv2`."""

    n_agents: int
    n_enemies: int
    unit_type_bits: int
    episode_limit: int
    force_restarts: int
    timeouts: int
    agents: Mapping[int, object]

    def reset(self) -> object: ...
    def step(self, actions: Sequence[int]) -> tuple[float, bool, Mapping[str, object]]: ...
    def close(self) -> None: ...
    def get_env_info(self) -> Mapping[str, int]: ...
    def get_obs(self) -> Sequence[np.ndarray]: ...
    def get_state(self) -> np.ndarray: ...
    def get_avail_actions(self) -> Sequence[Sequence[int]]: ...
    def get_unit_type_id(self, unit: object, ally: bool) -> int: ...
    def get_ally_num_attributes(self) -> int: ...
    def get_enemy_num_attributes(self) -> int: ...


class Game:
    """A StarCraft game run through a package's environment, built by `make(seed)` and rebuilt if it fails.

    limit: steps per episode; None: the map's. restarts: number of failures so far, each followed by a restart.
    """

    def __init__(self, make: Callable[[int | None], StarCraftPackage], seed: int | None, limit: int | None = None):
        self._make, self._seed, self._limit = make, seed, limit
        self._package: StarCraftPackage | None = None
        self._any_over = False
        self._last: Shown | None = None
        self._fresh: Shown | None = None  # the same, until the first step of the episode
        self.restarts = 0

    @property
    def _running(self) -> StarCraftPackage:
        assert self._package is not None, "reset comes first"
        return self._package

    @property
    def rows_of_state(self) -> tuple[int, int, int]:
        """Features per ally, number of enemies, and features per enemy in the package's state."""
        package = self._running
        return package.get_ally_num_attributes(), package.n_enemies, package.get_enemy_num_attributes()

    def reset(self) -> Shown:
        """Starts an episode. No effect before its first step, as the packages cannot handle consecutive resets."""
        if self._fresh is not None:
            return self._fresh
        if self._package is not None and not self._any_over:
            self.close()  # until an episode has ended, the packages launch a new game at every reset
        error: Exception | None = None
        for _ in range(ATTEMPTS):
            if self._package is None:
                self._package, self._any_over = self._make(self._seed), False
                if self._limit is not None:
                    getattr(self._package, "env", self._package).episode_limit = self._limit
            try:
                self._last = self._fresh = self._begin()
                return self._fresh
            except Exception as problem:  # the package does not catch errors of its sockets and the game
                error = problem
                self._drop(problem)
        raise TeamEnvError(f"StarCraft II did not start in {ATTEMPTS} attempts: {error}") from error

    def _begin(self) -> Shown:
        package = self._running
        failed = package.force_restarts
        package.reset()  # may return None: SMACv2 loses the result when it retries
        if package.force_restarts > failed:  # the game failed meanwhile and has no units
            raise ConnectionError("StarCraft II failed while an episode began")
        return self._look()

    def step(self, actions: list[int]) -> Outcome:
        """Steps the game with actions [N]. After the episode has ended, `reset` starts the next one."""
        assert self._last is not None, "reset comes first"
        last, self._fresh = self._last, None
        package = self._running
        cut = package.timeouts
        try:
            reward, over, info = package.step(actions)
            if "battle_won" not in info:  # the package silently restarted a failed game
                raise ConnectionError("the game was lost")
            self._last = shown = self._look()
        except Exception as problem:
            self._drop(problem)
            return Outcome(last, truncated=True)
        self._any_over |= over
        timeout = package.timeouts > cut  # the packages report a timeout as a termination
        return Outcome(shown, float(reward), over and not timeout, over and timeout, bool(info["battle_won"]))

    def _look(self) -> Shown:
        package = self._running
        units = [package.agents[n] for n in range(package.n_agents)]
        typed = package.unit_type_bits > 0
        return Shown(
            np.array(package.get_obs(), np.float32),
            np.array(package.get_state(), np.float32),
            np.array(package.get_avail_actions(), bool),
            np.array([package.get_unit_type_id(unit, True) if typed else 0 for unit in units]),
        )

    def _drop(self, problem: Exception) -> None:
        """Closes a failed game; the next `reset` starts a new one with a different seed."""
        logger.warning("StarCraft II failed and is started again: %s: %s", type(problem).__name__, problem)
        self.close()
        self.restarts += 1
        self._seed = None if self._seed is None else (self._seed + 1_000_003) % SEEDS

    def close(self) -> None:
        package, self._package, self._fresh = self._package, None, None
        if package is not None:
            with contextlib.suppress(Exception):  # it is discarded either way
                package.close()
