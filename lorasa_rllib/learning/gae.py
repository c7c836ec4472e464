"""Generalised advantage estimation with time limits and deaths told apart."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    ended: Tensor,
    gamma: float,
    lambda_: float,
    zeroed: Tensor | None = None,
) -> Tensor:
    """Advantages (Schulman et al. 2016, eq. 16); returns are advantages + values.

        delta_t = r_t + gamma (1 - terminated_t) V'_t - V_t          g_t = delta_t + gamma lambda (1 - ended_t) g_{t+1}

    rewards, values, next_values float [T, ...]: V'_t is the value of the state that step t led to, also where the
    episode was cut by a time limit (then it is the value of the true last state, not of the next episode's first).
    terminated, ended bool, broadcastable to rewards; ended = terminated or truncated. Everything in units of reward.
    zeroed bool: steps whose advantage is set to 0 (`Quirks.zero_time_limits`); None: nowhere.
    """
    delta = rewards + gamma * torch.where(terminated, 0.0, next_values) - values
    decay = gamma * lambda_ * (~ended).to(delta.dtype).expand_as(delta)
    if zeroed is not None:
        delta = torch.where(zeroed, 0.0, delta)
    advantages = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        running = torch.addcmul(delta[t], decay[t], running)
        advantages[t] = running
    return advantages
