"""Probability ratios of the whole batch under the current actor, cached so that only affected rows are re-evaluated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lorasa_rllib.learning.a2po.units import Unit, moved_by, product_of, rows_of
from lorasa_rllib.learning.batch import Batch, MAPPOSettings
from lorasa_rllib.nn.policy import TeamPolicy

LARGEST = 20.0
"""Bound of log-ratios: far outside any clip range, yet sums over many agents stay finite."""


class Ratios:
    """New over old probability of each row, current after `refresh`.

    log_probs [L, C, N, d]: of the actions taken, under the actor of the last refresh.
    log_ratio [L, C, N]: log of the mean over action dimensions of exp(log_probs - log_probs of the rollout); with
    `joint_ratio`, log-ratio of the whole action. 0 for dead agents, except with `Quirks.dead_ratios`.
    """

    def __init__(self, policy: TeamPolicy, batch: Batch, settings: MAPPOSettings):
        self._policy, self._batch, self._settings = policy, batch, settings
        self._real = policy.actor.real_actions()
        self.log_probs = batch.log_probs.clone()
        self.log_ratio = torch.zeros_like(batch.log_probs[..., 0])

    @torch.no_grad()
    def refresh(self, unit: Unit | None = None, sequences: Tensor | None = None) -> None:
        """Re-evaluates the rows affected by steps of the unit; all rows if None.

        sequences int64: only these sequences of the batch; not for units of roles.
        """
        policy = self._policy
        batch = self._batch if sequences is None else self._batch[sequences]
        moved = None if unit is None else moved_by(policy, unit)
        if moved is None:
            everyone = policy.distribution(
                batch.obs, roles=batch.roles, masks=batch.masks, state=batch.actor_state, keep=batch.keep
            )
            log_probs = everyone.log_prob(batch.actions)
            self._put(log_probs, self._log_ratio(log_probs, batch.log_probs, batch.active, self._real), sequences)
            return
        assert unit is not None
        rows = rows_of(batch, Unit(agents=moved, roles=unit.roles))
        log_probs = policy.distribution(rows.obs, **rows.inputs()).log_prob(rows.actions)
        if rows.sequences is None:
            at, real = torch.tensor(moved, device=log_probs.device), policy.actor.real_actions(moved)
            ratio = self._log_ratio(log_probs, rows.log_probs, rows.active, real)
            self._put(log_probs, ratio, sequences, at)
            return
        assert sequences is None
        at = rows.sequences  # including rows of other roles in these sequences
        active, real = batch.active.flatten(1, 2).index_select(1, at), policy.actor.real_actions(rows.agent)
        self.log_probs.flatten(1, 2).index_copy_(1, at, log_probs)
        self.log_ratio.flatten(1, 2).index_copy_(1, at, self._log_ratio(log_probs, rows.log_probs, active, real))

    def _put(
        self, log_probs: Tensor, log_ratio: Tensor, sequences: Tensor | None, agents: Tensor | None = None
    ) -> None:
        """Stores log_probs [L, c, n, d] and log_ratio [L, c, n] of c sequences and n agents (None: all)."""
        if sequences is None and agents is None:
            self.log_probs, self.log_ratio = log_probs, log_ratio
            return
        place: tuple[Any, ...] = (slice(None), slice(None) if sequences is None else sequences)
        if agents is not None:
            place = (*place, agents) if sequences is None else (slice(None), sequences.unsqueeze(1), agents)
        self.log_probs[place], self.log_ratio[place] = log_probs, log_ratio

    def log_ratio_of(self, log_probs: Tensor) -> Tensor:
        """log_ratio [L, C, N] for other log-probabilities [L, C, N, d] of the whole batch."""
        return self._log_ratio(log_probs, self._batch.log_probs, self._batch.active, self._real)

    def product(self, unit: Unit) -> Tensor:
        """[L, C]: log of the product of the unit's ratios."""
        return product_of(self.log_ratio, self._batch, unit)

    def _log_ratio(self, new: Tensor, old: Tensor, active: Tensor, real: Tensor | None) -> Tensor:
        change = (new - old).clamp(-LARGEST, LARGEST)
        if self._settings.joint_ratio:
            mean = change.sum(-1)
        elif real is None:
            mean = change.exp().mean(-1).log()
        else:
            mean = ((change.exp() * real).sum(-1) / real.sum(-1)).log()
        mean = mean.clamp(-LARGEST, LARGEST)
        return mean if self._settings.quirks.dead_ratios else torch.where(active, mean, 0.0)
