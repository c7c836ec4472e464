"""Losses as pure functions. They return one value per row and leave the reduction to the caller."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    one_sided: bool = False,
) -> Tensor:
    """Value loss of each row, the larger of the unclipped and the clipped error (Yu et al. 2022, MAPPO).

        max( H(y - v), H(y - v_old - clip(v - v_old, -c, c)) )

    All [..., V], normalised: v values, v_old old_values, y targets, c clip (None: no clipping). H is the Huber loss,
    or half the square if `huber_delta` is None. one_sided: see `Quirks.one_sided_huber`.
    """
    loss = _huber(values, targets, huber_delta, one_sided)
    if clip is None:
        return loss
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(loss, _huber(clipped, targets, huber_delta, one_sided))


def _huber(values: Tensor, targets: Tensor, delta: float | None, one_sided: bool) -> Tensor:
    if delta is None:
        return 0.5 * (targets - values).square()
    loss = F.huber_loss(values, targets, reduction="none", delta=delta)
    return torch.where(targets - values < -delta, 0.0, loss) if one_sided else loss
