"""Probability ratios of the whole batch under the current actor, cached so that only affected rows are re-evaluated."""

from __future__ import annotations

import torch
from torch import Tensor

from lorasa_rllib.learning.a2po.settings import A2POSettings
from lorasa_rllib.learning.a2po.units import Unit, moved_by
from lorasa_rllib.learning.batch import Batch
from lorasa_rllib.nn.policy import TeamPolicy

LARGEST = 20.0
"""Bound of log-ratios: far outside any clip range, yet sums over many agents stay finite."""


class Ratios:
    """New over old probability of each row, as of its last evaluation: `refresh` updates all rows that a unit's steps
    change, `evaluate` those of a unit.

    log_probs [L, C, N, d]: of the actions taken.
    log_ratio [L, C, N]: log of the mean over action dimensions of exp(log_probs - log_probs of the rollout); with
    `joint_ratio`, log-ratio of the whole action. 0 for dead agents.
    """

    def __init__(self, policy: TeamPolicy, batch: Batch, settings: A2POSettings):
        self._policy, self._batch, self._settings = policy, batch, settings
        self._real = policy.actor.real_actions()
        self.log_probs = batch.log_probs.clone()
        self.log_ratio = torch.zeros_like(batch.log_probs[..., 0])

    def refresh(self, unit: Unit | None = None) -> None:
        """Re-evaluates the rows affected by steps of the unit; all rows if None."""
        self.evaluate(None if unit is None else moved_by(self._policy, unit))

    @torch.no_grad()
    def evaluate(self, unit: Unit | None) -> None:
        """Re-evaluates the rows of the unit; all rows if None."""
        policy, batch = self._policy, self._batch
        if unit is None:
            everyone = policy.distribution(
                batch.obs, roles=batch.roles, masks=batch.masks, state=batch.actor_state, keep=batch.actor_keep
            )
            self.log_probs = everyone.log_prob(batch.actions)
            self.log_ratio = self.log_ratio_of(self.log_probs)
            return
        rows = unit.rows(batch)
        log_probs = policy.distribution(rows.obs, **rows.inputs()).log_prob(rows.actions)
        real = policy.actor.real_actions(rows.agent)
        active = rows.place.take(batch.active)  # of all roles in these sequences
        rows.place.put(self.log_probs, log_probs)
        rows.place.put(self.log_ratio, self._log_ratio(log_probs, rows.log_probs, active, real))

    def log_ratio_of(self, log_probs: Tensor) -> Tensor:
        """log_ratio [L, C, N] for other log-probabilities [L, C, N, d] of the whole batch."""
        return self._log_ratio(log_probs, self._batch.log_probs, self._batch.active, self._real)

    def product(self, unit: Unit) -> Tensor:
        """[L, C]: log of the product of the unit's ratios."""
        return unit.log_product(self.log_ratio, self._batch.roles)

    def _log_ratio(self, new: Tensor, old: Tensor, active: Tensor, real: Tensor | None) -> Tensor:
        change = (new - old).clamp(-LARGEST, LARGEST)
        if self._settings.joint_ratio:
            mean = change.sum(-1)
        elif real is None:
            mean = change.exp().mean(-1).log()
        else:
            mean = ((change.exp() * real).sum(-1) / real.sum(-1)).log()
        mean = mean.clamp(-LARGEST, LARGEST)
        return self._settings.rules.corrected_ratios(mean, active)
