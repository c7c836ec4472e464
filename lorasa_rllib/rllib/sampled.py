"""Results of an env runner's `sample()` and how they reach the learners: references, episode summaries, times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.rllib.core.learner.training_data import TrainingData

from lorasa_rllib.rollout.columns import TeamRollout


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


PER_AGENT_KEYS_UP_TO = 32
"""Largest team with result keys per agent; more would clutter the results."""


@dataclass
class Sampled:
    """One env runner's part of a sampling round. Small: arrays of remote runners stay in their node's object store.

    shards:          one rollout (or reference to it) per learner; empty for evaluation.
    steps_of_agents: int64 [N], steps for which each agent was alive.
    episodes:        episodes that ended in this round.
    running_return:  mean return so far of the episodes in progress, reported until the first one ends.
    seconds:         time spent in "env", "policy" and all of "sample".
    """

    shards: list[Any]
    num_env_steps: int
    steps_of_agents: np.ndarray
    episodes: list[EpisodeSummary]
    running_return: float
    seconds: dict[str, float] = field(default_factory=dict)

    def env_steps(self) -> int:
        return self.num_env_steps

    def agent_steps(self) -> int:
        return int(self.steps_of_agents.sum())


@dataclass
class TeamTrainingData(TrainingData):
    """RLlib's training data: one list of rollouts (or references) per learner. The driver never resolves them."""

    shards: Sequence[Sequence[Any]] = ()

    def validate(self) -> None:
        if not self.shards or not all(self.shards):
            raise ValueError("TeamTrainingData needs at least one rollout for every learner.")

    def shard(self, num_shards: int, len_lookback_buffer: int | None = None, **kwargs: Any) -> list[Any]:
        if num_shards != len(self.shards):
            raise ValueError(f"rollouts were split for {len(self.shards)} learners, but there are {num_shards}.")
        return [(TeamTrainingData(shards=[shard]), {}) for shard in self.shards]

    def solve_refs(self) -> None:
        """Does nothing: the learner resolves references in `rollout`."""

    def rollout(self, timeout_s: float | None) -> TeamRollout | None:
        """The rollouts of one learner, joined along the environment axis; None if one was lost or timed out."""
        (shard,) = self.shards
        try:
            parts = [ray.get(r, timeout=timeout_s) if isinstance(r, ray.ObjectRef) else r for r in shard]
        except (ray.exceptions.ObjectLostError, ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
            return None
        return TeamRollout.concatenate(parts)


def shards_of_learners(sampled: Sequence[Sampled]) -> TeamTrainingData:
    """Regroups the runners' shards by learner."""
    return TeamTrainingData(shards=list(zip(*(s.shards for s in sampled), strict=True)))
