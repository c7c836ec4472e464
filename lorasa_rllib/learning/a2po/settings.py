"""What decides an A2PO update: its numbers, and the choices in which implementations differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from lorasa_rllib.learning.a2po.units import Unit
from lorasa_rllib.learning.batch import Batch, MAPPOSettings, Targets
from lorasa_rllib.learning.rules import Rules
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout


class Revaluation(Protocol):
    """Values a rollout again before each correction. rollout: with values stored in it."""

    rollout: TeamRollout[Tensor]

    def __call__(self, unit: Unit) -> Targets:
        """The targets for a correction of the unit."""
        ...


@dataclass(frozen=True)
class A2PORules(Rules):
    """Our choices; see `learning.rules`."""

    def position_of_clip(self, position: int, loop: str) -> int:
        """The position whose clip range a unit at `position` has: its own."""
        return position

    def correction_decay(self, gamma: float, lambda_: float, form: str) -> float:
        """Decay of corrections per step: gamma * lambda."""
        return gamma * lambda_

    def corrected_ratios(self, log_ratio: Tensor, active: Tensor) -> Tensor:
        """log-ratios [..., N] for corrections and the others' product: 0 for dead agents."""
        return torch.where(active, log_ratio, 0.0)

    def scored(
        self, gains: Tensor, values: Tensor, active: Tensor, standardised: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """What orders the units: the mean of the first tensor where the second is True; |A| of live rows.

        gains and active [T, E, N]. values [T, E, V], normalised. standardised: standardises `gains`.
        """
        return gains.abs(), active

    def revaluation(
        self, policy: TeamPolicy, rollout: TeamRollout[Tensor], batch: Batch, targets: Targets, settings: MAPPOSettings
    ) -> Revaluation | None:
        """Values the rollout again before each correction; None: they are those before the first step."""
        return None

    def log_probs_of_corrections(self, policy: TeamPolicy, batch: Batch) -> Callable[[], Tensor] | None:
        """Evaluates the actor for corrections, [L, C, N, d]; None: as for the losses."""
        return None


Loop = Literal["agent", "epoch"]


@dataclass(frozen=True)
class A2POSettings(MAPPOSettings):
    """Settings of the update in addition to MAPPO's. `A2POConfig.training` documents them for users.

    agent_order:    a key of `ORDERS`.
    units_per_step: number of units (see `learning.a2po.units`) updated together.
    loop:           "agent": each unit runs all its epochs in turn. "epoch": every epoch goes through all units.
    two_stage:      precede each step of actor and critic with a step of the critic alone.
    correction:     a key of `CORRECTIONS`: how advantages are corrected for units updated before; None: not at all.
    others_clip:    the product of the others' ratios is clipped to 1 +- others_clip; None: half the unit's clip range.
    late:           rollouts come from an older policy, so ratios are not 1 at the start.
    clip_growth:    the clip range of position k of m is clip * (1 - clip_growth * (1 - k / m)).
    """

    agent_order: str = "semi_greedy"
    units_per_step: int = 1
    loop: Loop = "agent"
    two_stage: bool = True
    correction: str | None = "capped_factors"
    others_clip: float | None = 0.1
    clip_growth: float = 0.5
    late: bool = False
    rules: A2PORules = field(default_factory=A2PORules)

    def clip_at(self, position: int, steps: int) -> float:
        """Clip range at a position, counted from 1, in a sequence of `steps`."""
        return self.clip * (1 - self.clip_growth * (1 - position / steps))
