"""Advantages of a rollout, corrected unit by unit, and the scores that order the units."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lorasa_rllib.learning.a2po.corrections import CORRECTIONS
from lorasa_rllib.learning.a2po.units import AgentUnit, Unit
from lorasa_rllib.learning.batch import (
    Batch,
    MAPPOSettings,
    in_batch,
    in_sequences,
    moments,
    standardise,
    targets_of,
    with_targets,
)
from lorasa_rllib.learning.normalisers import AllSum, alone
from lorasa_rllib.learning.replay import last_critic_state, with_values
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout


class Advantages:
    """Advantages [T, E, N] in units of reward, `gains`, computed from `targets`.

    Mean and deviation over all live entries are kept as running sums, so the cost of a correction is that of the unit's
    own rows. The critic's targets are not corrected: they remain the returns of the rollout, as published.
    """

    def __init__(self, policy: TeamPolicy, rollout: TeamRollout, settings: MAPPOSettings, all_sum: AllSum = alone):
        self._policy, self._settings, self._all_sum = policy, settings, all_sum
        self.targets = targets_of(policy, rollout, settings)
        quirks = settings.quirks
        self._looks_again = quirks.norm_every_step or quirks.fresh_bootstrap
        self._rollout = with_values(rollout, self.targets.values, policy) if self._looks_again else rollout
        self.batch, self.log = in_batch(policy, rollout, self.targets, settings, all_sum)
        replays = quirks.fresh_bootstrap and policy.critic.recurrent
        self._last_state = last_critic_state(policy, self.batch, rollout) if replays else None
        self.gains = self.targets.gains.expand(rollout.active.shape).clone()
        self._sums = moments(self.gains.double(), rollout.active)
        self._everyone = AgentUnit(tuple(range(rollout.num_agents)))

    def of(self, unit: Unit) -> Tensor:
        """Advantages [L, C, n] in the unit's columns, standardised over all agents' live entries."""
        gains = unit.columns(self.gains)
        standard = standardise(gains, self._rollout.active, self._all_sum, self._sums.to(gains.dtype))
        return in_sequences(standard, len(self.batch.obs))

    def recompute(self) -> Batch:
        """Recomputes advantages, uncorrected, with the current critic. Returns the batch with the new targets."""
        rollout = self._rollout
        self.targets = targets_of(self._policy, rollout, self._settings)
        self.batch = with_targets(self._policy, self.batch, rollout, self.targets, self._all_sum)
        self.gains = self.targets.gains.expand(rollout.active.shape).clone()
        self._sums = moments(self.gains.double(), rollout.active)
        return self.batch

    @torch.no_grad()
    def correct(self, unit: Unit | None, log_ratios: Tensor, form: str) -> None:
        """Corrects the advantages of a unit (None: of all). log_ratios: log c [T, E]; form: a key of `CORRECTIONS`."""
        settings, rollout = self._settings, self._rollout
        if self._looks_again:
            self._look_again(unit)
        unit = self._everyone if unit is None else unit
        errors, ended = (
            unit.columns(x) if x.shape[-1] == self.gains.shape[-1] else x
            for x in (self.targets.errors, self.targets.ended)
        )
        decay = settings.gamma * settings.lambda_
        if settings.quirks.lambda_twice and form == "capped_factors":
            decay *= settings.lambda_
        corrected = CORRECTIONS[form](errors, log_ratios.unsqueeze(-1), ended, decay)
        active = unit.columns(rollout.active)
        before = moments(unit.columns(self.gains).double(), active)
        unit.put(self.gains, corrected.expand(active.shape), rollout.roles)
        self._sums += moments(unit.columns(self.gains).double(), active) - before

    def scores(self, units: Sequence[Unit]) -> list[float]:
        """Mean |A| of each unit over its live rows on all learners."""
        size, live = self.gains.abs(), self._rollout.active
        if self._settings.quirks.score_over_value:
            standard = standardise(self.gains, live, self._all_sum, self._sums.to(self.gains.dtype))
            size, live = (standard / self.targets.values).abs(), torch.ones_like(live)
        sums = []
        for unit in units:
            mine, sizes = unit.live(live, self._rollout.roles), unit.columns(size)
            sums.append(torch.stack([torch.where(mine, sizes, 0.0).sum().double(), mine.sum().double()]))
        total, count = self._all_sum(torch.stack(sums, dim=1))
        return (total / count.clamp(min=1)).tolist()

    def _look_again(self, unit: Unit | None) -> None:
        """Recomputes values with the current normaliser (and, quirk, the last one with the current critic)."""
        rollout, critic = self._rollout, self._policy.critic
        if self._settings.quirks.fresh_bootstrap:
            last = critic.unroll(rollout.state[-1:], self._last_state)[0][0]  # [E, V]
            if isinstance(unit, AgentUnit) and last.shape[-1] > 1:
                unit.put(rollout.values[-1], unit.columns(last), None)
            else:
                rollout.values[-1] = last
        before = self.targets.baseline
        self.targets = targets_of(self._policy, rollout, self._settings)
        self.gains += before - self.targets.baseline
        self._sums = moments(self.gains.double(), rollout.active)
