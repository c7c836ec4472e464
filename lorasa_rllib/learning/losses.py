"""Losses as pure functions. They return one value per row and leave the reduction to the caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lorasa_rllib.nn.distributions import ActionDistribution

if TYPE_CHECKING:
    from lorasa_rllib.learning.batch import MAPPOSettings


@dataclass(frozen=True)
class LossRows:
    """What a policy loss reads of a minibatch: one row per step and agent; [...] stands for its leading axes.

    ratio      [..., N, d]: new over old probability of each action component, 1 in dead rows; [..., N, 1] with
               `joint_ratio`. In A2PO it is multiplied by the ratios of the agents that were updated before.
    advantages [..., N], standardised over live rows
    actions    [..., N, d], as sampled, and log_probs [..., N, d], of the policy that sampled them
    active     bool [..., N], False in dead rows, whose losses are not counted
    real       bool [N, d], False for padded components; None: there are none
    """

    ratio: Tensor
    advantages: Tensor
    actions: Tensor
    log_probs: Tensor
    active: Tensor
    real: Tensor | None


ErrorFunction = Callable[[Tensor, Tensor, float | None], Tensor]
"""(values, targets, huber_delta) -> error of each value."""

PolicyLoss = Callable[[ActionDistribution, LossRows, "MAPPOSettings"], Tensor]
"""A policy loss, given the current policy's distribution of the rows. Returns the loss of every row [..., N], to be
minimised; the update sums it over live rows, divides each owner's gradient by its number of them and adds the entropy
bonus."""


def clipped_policy_loss(distribution: ActionDistribution, rows: LossRows, settings: MAPPOSettings) -> Tensor:
    """PPO's loss of every row [..., N], see `clipped_surrogate`: the default `PolicyLoss`."""
    return -clipped_surrogate(rows.ratio, rows.advantages, settings.clip, rows.real)


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip: float, real: Tensor | None = None) -> Tensor:
    """PPO's clipped objective of each row, clipped per action dimension (Schulman et al. 2017, eq. 7).

        sum_d min(w_d A, clip(w_d, 1 - clip, 1 + clip) A)

    ratio [..., N, d], new over old probability; advantages [..., N]; real [N, d], False for padded dimensions. Returns
    [..., N], to be maximised. LoRASA's code clips per dimension; a ratio with d = 1 gives the usual joint form.
    """
    advantages = advantages.unsqueeze(-1)
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return (gain if real is None else gain * real).sum(-1)


def clipped_value_loss(
    values: Tensor,
    old_values: Tensor,
    targets: Tensor,
    clip: float | None,
    huber_delta: float | None,
    error: ErrorFunction | None = None,
) -> Tensor:
    """Value loss of each row, the larger of the unclipped and the clipped error (Yu et al. 2022, MAPPO).

        max( H(v, y), H(v_old + clip(v - v_old, -c, c), y) )

    All [..., V], normalised: v values, v_old old_values, y targets, c clip (None: no clipping). H is `error`, by
    default `huber`.
    """
    error = huber if error is None else error
    loss = error(values, targets, huber_delta)
    if clip is None:
        return loss
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(loss, error(clipped, targets, huber_delta))


def huber(values: Tensor, targets: Tensor, delta: float | None) -> Tensor:
    """The Huber loss of each value; half the squared error if delta is None."""
    if delta is None:
        return 0.5 * (targets - values).square()
    return F.huber_loss(values, targets, reduction="none", delta=delta)
