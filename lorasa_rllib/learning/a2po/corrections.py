"""Off-policy correction of advantages for agents updated earlier in the same iteration (A2PO).

c_t is the product of their probability ratios at step t, new over old policy. Both published forms weight the error of
step u, as seen from step t, by a capped product C_{t,u} of c_{t+1} .. c_u:

    g_t = sum_{u >= t} (gamma lambda)^(u-t) C_{t,u} delta_u             within the episode

    capped_factors   C_{t,u} = prod_v min(1, c_v)                       (as in Retrace and V-trace)
    capped_product   C_{t,u} = min(1, c_u C_{t,u-1}),  C_{t,t} = 1

With all ratios 1 both are GAE(lambda). Wang et al. 2023 (A2PO, arXiv 2302.06205), eq. 4, and the published code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lorasa_rllib.learning.gae import accumulate

NEGLIGIBLE = 1e-8
"""`capped_product` truncates its sum where (gamma lambda)^k falls below this."""


def capped_factors(errors: Tensor, log_ratios: Tensor, ended: Tensor, decay: float) -> Tensor:
    """g [T, ...] from errors [T, ...], log_ratios = log c [T, ...] and ended bool [T, ...], broadcastable; O(T).

    decay: gamma * lambda.
    """
    rates = torch.zeros_like(log_ratios)
    rates[:-1] = log_ratios[1:].clamp(max=0).exp()
    return accumulate(errors, decay * rates * (~ended).to(errors.dtype))


def capped_product(errors: Tensor, log_ratios: Tensor, ended: Tensor, decay: float) -> Tensor:
    """As `capped_factors`. The cap depends on the start t, so there is no recursion: one pass over all starts for each
    distance u - t, until weights are negligible or every episode has ended."""
    steps = len(errors)
    log_weights = torch.zeros_like(log_ratios)
    going = torch.ones_like(ended)
    total = errors.clone()
    factor = 1.0
    for k in range(1, steps):
        factor *= decay
        log_weights, going = log_weights[: steps - k], going[: steps - k] & ~ended[k - 1 : -1]
        if factor < NEGLIGIBLE or not (going.is_cuda or going.any()):  # on a GPU, looking costs more
            break
        log_weights = (log_weights + log_ratios[k:]).clamp(max=0)
        total[: steps - k] += factor * torch.where(going, log_weights.exp(), 0.0) * errors[k:]
    return total


CORRECTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "capped_factors": capped_factors,
    "capped_product": capped_product,
}
"""Corrections by their name in settings."""
