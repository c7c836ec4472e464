"""Where implementations of the update differ: each method is one such choice, and the defaults are ours.

`learning.reference` makes those of the published code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lorasa_rllib.learning.losses import huber
from lorasa_rllib.learning.normalisers import AllSum, update_value_norm
from lorasa_rllib.nn.policy import TeamPolicy


@dataclass(frozen=True)
class Rules:
    """Our choices in what MAPPO and A2PO have in common."""

    def value_error(self, values: Tensor, targets: Tensor, delta: float | None) -> Tensor:
        """Error of each value: the Huber loss."""
        return huber(values, targets, delta)

    def td_errors(self, errors: Tensor, truncated: Tensor) -> Tensor:
        """TD errors [T, E, V]: those given, which bootstrap with the true last state where `truncated` [T, E, 1]."""
        return errors

    def before_passes(self, policy: TeamPolicy, returns: Tensor, counted: Tensor, all_sum: AllSum) -> None:
        """Called before the first pass over a rollout: updates the value normaliser with its returns [T, E, V]."""
        update_value_norm(policy, returns, counted, all_sum)

    def targets_of_step(
        self,
        policy: TeamPolicy,
        targets: Tensor,
        returns: Tensor,
        counted: Callable[[], Tensor],
        all_sum: AllSum,
        agents: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Normalised returns for one optimiser step: those of the iteration, `targets`.

        counted: gives the returns that count, bool [..., V]. agents: as in `update_value_norm`.
        """
        return targets

    @property
    def why_not_compiled(self) -> str | None:
        """Why steps under these rules cannot be compiled; None if they can."""
        return None

    def of_loss(self) -> Rules:
        """The rules as far as MAPPO's loss follows them."""
        return Rules()
