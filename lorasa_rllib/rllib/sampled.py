"""How the rollouts of env runners reach the learners: as references to their nodes' object stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray.rllib.core.learner.training_data import TrainingData

from lorasa_rllib.rollout.columns import TeamRollout
from lorasa_rllib.rollout.episodes import Sampled


@dataclass
class TeamTrainingData(TrainingData):
    """RLlib's training data: one list of rollouts (or references) per learner. The driver never resolves them."""

    shards: Sequence[Sequence[object]] = ()

    def validate(self) -> None:
        if not self.shards or not all(self.shards):
            raise ValueError("TeamTrainingData needs at least one rollout for every learner.")

    def shard(self, num_shards: int, len_lookback_buffer: int | None = None, **kwargs: object) -> list[object]:
        if num_shards != len(self.shards):
            raise ValueError(f"rollouts were split for {len(self.shards)} learners, but there are {num_shards}.")
        return [(TeamTrainingData(shards=[shard]), {}) for shard in self.shards]

    def solve_refs(self) -> None:
        """Does nothing: the learner resolves references in `rollout`."""

    def rollout(self, timeout_s: float | None) -> TeamRollout | None:
        """The rollouts of one learner, joined along the environment axis; None if one was lost or timed out."""
        (shard,) = self.shards
        try:
            parts = [resolved(one, timeout_s) for one in shard]
        except (ray.exceptions.ObjectLostError, ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
            return None
        return TeamRollout.concatenate(parts)


def resolved(shard: object, timeout_s: float | None) -> TeamRollout:
    """The rollout of a shard, fetched within `timeout_s` (None: no limit) if it is a reference."""
    rollout = ray.get(shard, timeout=timeout_s) if isinstance(shard, ray.ObjectRef) else shard
    assert isinstance(rollout, TeamRollout), f"{type(rollout).__name__} is not a rollout"
    return rollout


def shards_of_learners(sampled: Sequence[Sampled]) -> TeamTrainingData:
    """Regroups the runners' shards by learner."""
    return TeamTrainingData(shards=list(zip(*(s.shards for s in sampled), strict=True)))
