"""Tracks the episodes of E slots: returns and lengths, and each slot's share of a number of episodes."""

from __future__ import annotations

import time

import numpy as np

from lorasa_rllib.envs.base import TeamStep
from lorasa_rllib.rllib.sampled import PER_AGENT_KEYS_UP_TO, EpisodeSummary


class EpisodeMeter:
    """Tracks returns [E, R] and lengths [E] of the running episodes."""

    def __init__(self, num_envs: int, num_rewards: int):
        self._returns = np.zeros((num_envs, num_rewards))
        self._lengths = np.zeros(num_envs, np.int64)
        self._started = np.full(num_envs, time.perf_counter())

    def restart(self) -> None:
        """Begins a new episode in all slots."""
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self._started[:] = time.perf_counter()

    def add(self, step: TeamStep) -> None:
        """Adds the rewards of one step."""
        self._returns += step.rewards
        self._lengths += 1

    def finish(self, step: TeamStep) -> list[EpisodeSummary]:
        """Summaries of the episodes ended by `step`, the last one added, in the order of `step.ended`. Resets slots."""
        now = time.perf_counter()
        won = [None] * len(step.ended) if step.won is None else step.won.tolist()
        metrics = [{}] * len(step.ended) if step.metrics is None else step.metrics
        own = 1 < self._returns.shape[1] <= PER_AGENT_KEYS_UP_TO
        summaries = [
            EpisodeSummary(
                team_return=float(self._returns[e].sum()),
                length=int(self._lengths[e]),
                seconds=now - float(self._started[e]),
                won=w,
                agent_returns=tuple(self._returns[e].tolist()) if own else None,
                metrics=reported,
            )
            for e, w, reported in zip(step.ended, won, metrics, strict=True)
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
