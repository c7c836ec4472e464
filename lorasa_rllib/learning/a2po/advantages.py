"""Advantages of a rollout, corrected unit by unit, and the scores that order the units."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lorasa_rllib.learning.a2po.corrections import CORRECTIONS
from lorasa_rllib.learning.a2po.settings import A2POSettings
from lorasa_rllib.learning.a2po.units import AgentUnit, Unit
from lorasa_rllib.learning.batch import (
    Batch,
    in_batch,
    in_sequences,
    moments,
    standardise,
    targets_of,
    with_targets,
)
from lorasa_rllib.learning.cuda_graphs import Graphs, Numbers, Tensors
from lorasa_rllib.learning.normalisers import AllSum, alone
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout


class Advantages:
    """Advantages [T, E, N] in units of reward, `gains`, computed from `targets`. active: bool [T, E, N].

    Mean and deviation over all live entries are kept as running sums, so the cost of a correction is that of the unit's
    own rows. The critic's targets are not corrected: they remain the returns of the rollout, as published.
    """

    def __init__(
        self,
        policy: TeamPolicy,
        rollout: TeamRollout[Tensor],
        settings: A2POSettings,
        all_sum: AllSum = alone,
        graphs: Graphs | None = None,
    ):
        self._policy, self._settings, self._all_sum, self._graphs = policy, settings, all_sum, graphs
        self.targets = targets_of(policy, rollout, settings)
        self.batch, self.log = in_batch(policy, rollout, self.targets, settings, all_sum)
        self._revaluation = settings.rules.revaluation(policy, rollout, self.batch, self.targets, settings)
        self._rollout = rollout if self._revaluation is None else self._revaluation.rollout
        self.active = rollout.active
        self._everyone = AgentUnit(tuple(range(rollout.num_agents)))
        self._restart()

    def _restart(self) -> None:
        """Takes the advantages of `targets`, uncorrected."""
        self.gains = self.targets.gains.expand(self.active.shape).clone()
        self._sums = moments(self.gains.double(), self.active)

    def of(self, unit: Unit) -> Tensor:
        """Advantages [L, C, n] in the unit's columns, standardised over all agents' live entries."""
        return in_sequences(self.standardised(unit.columns(self.gains)), len(self.batch.obs))

    def standardised(self, gains: Tensor) -> Tensor:
        """Some columns of `gains`, standardised over all agents' live entries."""
        return standardise(gains, self.active, self._all_sum, self._sums.to(gains.dtype))

    def recompute(self) -> Batch:
        """Recomputes advantages, uncorrected, with the current critic. Returns the batch with the new targets."""
        rollout = self._rollout
        self.targets = targets_of(self._policy, rollout, self._settings)
        self.batch = with_targets(self._policy, self.batch, rollout, self.targets, self._all_sum)
        self._restart()
        return self.batch

    @torch.no_grad()
    def correct(self, unit: Unit | None, log_ratios: Tensor, form: str) -> None:
        """Corrects the advantages of a unit (None: of all). log_ratios: log c [T, E]; form: a key of `CORRECTIONS`."""
        settings, roles = self._settings, self._rollout.roles
        unit = self._everyone if unit is None else unit
        if self._revaluation is not None:
            before = self.targets.baseline
            self.targets = self._revaluation(unit)
            self.gains += before - self.targets.baseline
            self._sums = moments(self.gains.double(), self.active)
        errors, ended = (
            unit.columns(x) if x.shape[-1] == self.gains.shape[-1] else x
            for x in (self.targets.errors, self.targets.ended)
        )
        decay = settings.rules.correction_decay(settings.gamma, settings.lambda_, form)
        given = {"errors": errors, "log_ratios": log_ratios.unsqueeze(-1), "ended": ended}

        def function(given: Tensors, numbers: Numbers) -> list[Tensor]:
            return [CORRECTIONS[form](given["errors"], given["log_ratios"], given["ended"], decay)]

        graphs = self._graphs
        (corrected,) = function(given, {}) if graphs is None else graphs.call((form, decay), function, given)
        active = unit.columns(self.active)
        before = moments(unit.columns(self.gains).double(), active)
        unit.put(self.gains, corrected.expand(active.shape), roles)
        self._sums += moments(unit.columns(self.gains).double(), active) - before

    def scores(self, units: Sequence[Unit]) -> list[float]:
        """Mean |A| of each unit over its live rows on all learners."""
        size, live = self._settings.rules.scored(self.gains, self.targets.values, self.active, self.standardised)
        sums = []
        for unit in units:
            mine, sizes = unit.live(live, self._rollout.roles), unit.columns(size)
            sums.append(torch.stack([torch.where(mine, sizes, 0.0).sum().double(), mine.sum().double()]))
        total, count = self._all_sum(torch.stack(sums, dim=1))
        means: list[float] = (total / count.clamp(min=1)).tolist()
        return means
