"""Episodes of E environment slots: their summaries, returns so far, and each slot's share of a number of episodes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic

import numpy as np

from lorasa_rllib.envs.arrays import Arrays
from lorasa_rllib.envs.base import Array, TeamEnvError, TeamStep

PER_AGENT_KEYS_UP_TO = 32
"""Largest team with result keys per agent; more would clutter the results."""


class EndlessEpisode(TeamEnvError):
    """No episode ended within the time that was given."""


@dataclass(frozen=True)
class EpisodeSummary:
    """Summary of a finished episode.

    team_return: shared rewards count once, individual ones are summed over agents. won: None if unknown.
    agent_returns: return of each agent, if each has its own reward and there are at most `PER_AGENT_KEYS_UP_TO`.
    metrics: numbers that the environment reports about the episode, by name.
    """

    team_return: float
    length: int
    seconds: float
    won: bool | None = None
    agent_returns: tuple[float, ...] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def get_return(self) -> float:
        """The team return; the interface of RLlib's episodes."""
        return self.team_return


@dataclass
class Sampled:
    """What one sampling round of a collector gave beside the columns. Small, so that it can be sent anywhere.

    shards:          rollouts for the learners (or references to them), one each; filled by env runners, empty for
                     evaluation.
    steps_of_agents: int64 [N], steps for which each agent was alive.
    episodes:        episodes that ended in this round.
    running_return:  mean return so far of the episodes in progress, reported until the first one ends.
    seconds:         time spent in "env" and "policy"; on env runners also all of "sample".
    """

    shards: list[object]
    num_env_steps: int
    steps_of_agents: np.ndarray
    episodes: list[EpisodeSummary]
    running_return: float
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def nothing(cls, num_agents: int) -> Sampled:
        """The beginning of a round."""
        return cls([], 0, np.zeros(num_agents, np.int64), [], 0.0, {"env": 0.0, "policy": 0.0})

    def env_steps(self) -> int:
        return self.num_env_steps

    def agent_steps(self) -> int:
        return int(self.steps_of_agents.sum())


class EpisodeMeter(Generic[Array]):
    """Tracks returns [E, R] and lengths [E] of the running episodes."""

    def __init__(self, num_envs: int, num_rewards: int, arrays: Arrays[Array]):
        self._arrays: Arrays[Array] = arrays
        self._returns: Array = arrays.zeros((num_envs, num_rewards), np.float64)
        self._lengths = np.zeros(num_envs, np.int64)
        self._started = np.full(num_envs, time.perf_counter())

    def restart(self) -> None:
        """Begins a new episode in all slots."""
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self._started[:] = time.perf_counter()

    def add(self, step: TeamStep[Array]) -> None:
        """Adds the rewards of one step."""
        self._returns += step.rewards
        self._lengths += 1

    def finish(self, step: TeamStep[Array]) -> list[EpisodeSummary]:
        """Summaries of the episodes ended by `step`, the last one added, in the order of `step.ended`. Resets slots."""
        if not len(step.ended):
            return []
        now = time.perf_counter()
        returns = self._arrays.host(self._returns[step.ended])
        won = [None] * len(step.ended) if step.won is None else step.won.tolist()
        metrics = [{}] * len(step.ended) if step.metrics is None else step.metrics
        own = 1 < returns.shape[1] <= PER_AGENT_KEYS_UP_TO
        summaries = [
            EpisodeSummary(
                team_return=total,
                length=length,
                seconds=now - started,
                won=w,
                agent_returns=tuple(of_agents) if own else None,
                metrics=reported,
            )
            for total, of_agents, length, started, w, reported in zip(
                returns.sum(1).tolist(),
                returns.tolist(),
                self._lengths[step.ended].tolist(),
                self._started[step.ended].tolist(),
                won,
                metrics,
                strict=True,
            )
        ]
        self._returns[step.ended] = 0.0
        self._lengths[step.ended] = 0
        self._started[step.ended] = now
        return summaries

    def running_return(self) -> float:
        """Mean return so far over the slots."""
        return float(self._returns.sum(1).mean())


def share_of_slots(num_episodes: int, num_envs: int) -> np.ndarray:
    """int64 [E]: number of episodes per slot, fixed in advance so that short episodes are not over-represented."""
    share = np.full(num_envs, num_episodes // num_envs, np.int64)
    share[: num_episodes % num_envs] += 1
    return share
