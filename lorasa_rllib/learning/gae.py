"""Temporal-difference errors and generalised advantage estimation, distinguishing termination from truncation."""

from __future__ import annotations

import torch
from torch import Tensor


def td_errors(rewards: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """delta_t = r_t + gamma (1 - terminated_t) V'_t - V_t, in units of reward.

    rewards, values, next_values float [T, ...]: V'_t is the value of the state that step t led to; at a time limit that
    is the true last state, not the first of the next episode. terminated bool, broadcastable.
    """
    return rewards + gamma * torch.where(terminated, 0.0, next_values) - values


def accumulate(errors: Tensor, rates: Tensor) -> Tensor:
    """g_t = errors_t + rates_t g_{t+1}, backwards from g_T = 0. errors [T, ...], rates broadcastable."""
    running, sums = torch.zeros_like(errors[0]), []
    for error, rate in zip(reversed(errors.unbind()), reversed(rates.expand_as(errors).unbind()), strict=True):
        running = torch.addcmul(error, rate, running)
        sums.append(running)
    return torch.stack(sums[::-1])


def gae(errors: Tensor, ended: Tensor, decay: float) -> Tensor:
    """Advantages (Schulman et al. 2016, eq. 16); returns are advantages + values.

        g_t = delta_t + gamma lambda (1 - ended_t) g_{t+1}

    errors [T, ...]: `td_errors`. ended bool, broadcastable: terminated or truncated. decay: gamma * lambda.
    """
    return accumulate(errors, decay * (~ended).to(errors.dtype))
