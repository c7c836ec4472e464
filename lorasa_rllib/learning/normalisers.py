"""Updates of the running statistics of returns and observations, and sums over learners."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.nn.rows import index_of
from lorasa_rllib.rollout.columns import TeamRollout

AllSum = Callable[[Tensor], Tensor]
"""Sums a tensor over learners, possibly in place."""


def alone(x: Tensor) -> Tensor:
    """`all_sum` of a single learner."""
    return x


def sum_over_learners(tensors: Sequence[Tensor], all_sum: AllSum) -> None:
    """Sums tensors over learners, in place, as one flat vector."""
    if all_sum is alone:
        return
    summed = all_sum(torch.cat([t.flatten() for t in tensors]))
    for tensor, part in zip(tensors, torch.split(summed, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def update_value_norm(
    policy: TeamPolicy,
    returns: Tensor,
    counted: Tensor,
    all_sum: AllSum = alone,
    agents: tuple[int, ...] | None = None,
) -> None:
    """Updates the value normaliser with the `counted` returns [..., V] in units of reward, of all learners.

    agents: the returns are those of these agents only; V counts them.
    """
    kept = torch.where(counted, returns, 0.0).flatten(0, -2)
    rows = counted.flatten(0, -2).sum(0).to(returns.dtype)
    total, square, rows = all_sum(torch.cat([kept.sum(0), kept.square().sum(0), rows])).chunk(3)
    if agents is not None:
        total, square, rows = (
            x.new_zeros(policy.critic.num_values).index_copy(0, index_of(agents, x.device), x)
            for x in (total, square, rows)
        )
    policy.value_norm.update(total / rows.clamp(min=1), square / rows.clamp(min=1), rows > 0)


def update_obs_norm(
    policy: TeamPolicy, rollout: TeamRollout[Tensor], in_adapter_phase: bool = False, all_sum: AllSum = alone
) -> None:
    """Updates the observation statistics of actor and critic with the live rows of a rollout, over all learners.

    To be called after the last optimiser step on a rollout, so that learners normalise each rollout with the statistics
    that env runners sampled it with. The actor's belong to the backbone and stay fixed in the adapter phase, unless
    `in_adapter_phase`. A global state that all agents share counts at every step.
    """
    actor, critic = policy.actor, policy.critic
    if actor.obs_norm is not None and (policy.phase != "adapters" or in_adapter_phase):
        live = rollout.active.unsqueeze(-1)
        actor.obs_norm.update(rollout.obs, live if actor.obs_mask is None else live & actor.obs_mask, all_sum)
    if critic.obs_norm is not None:
        state = rollout.state[:-1]
        if critic.per_agent:
            critic.obs_norm.update(state, rollout.active.unsqueeze(-1), all_sum)
        else:
            everywhere = torch.ones((1,), dtype=torch.bool, device=state.device)
            critic.obs_norm.update(state.unsqueeze(-2), everywhere, all_sum)
