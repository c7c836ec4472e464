"""What networks did at every single step when they acted, replayed from the states stored for chunks.

Only the quirks of A2PO's published code need it, and only before anything has moved.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lorasa_rllib.learning.batch import Batch
from lorasa_rllib.learning.rollout import TeamRollout
from lorasa_rllib.nn.policy import TeamPolicy


@torch.no_grad()
def actor_states(policy: TeamPolicy, batch: Batch) -> Tensor:
    """[L, C, N, h]: what a recurrent actor carried into every step."""
    assert batch.actor_state is not None and batch.keep is not None
    _, after = policy.actor.unroll(
        batch.obs,
        roles=batch.roles,
        masks=batch.masks,
        adapters=policy.adapters_on,
        state=batch.actor_state,
        keep=batch.keep,
    )
    assert after is not None
    into = torch.cat([batch.actor_state[None], after[:-1]])
    return torch.where(batch.keep.unsqueeze(-1), into, 0.0)


@torch.no_grad()
def last_critic_state(policy: TeamPolicy, batch: Batch, rollout: TeamRollout) -> Tensor:
    """[E, V, h]: what a recurrent critic carries into the state after the last step."""
    assert batch.critic_state is not None and batch.keep is not None
    last = slice(len(batch) - rollout.num_envs, len(batch))  # the last chunk of every environment
    _, after = policy.critic.unroll(batch.state[:, last], batch.critic_state[last], batch.keep[:, last])
    assert after is not None
    ended = (rollout.terminated | rollout.truncated)[-1]
    return torch.where(ended[:, None, None], 0.0, after[-1])


@torch.no_grad()
def log_probs_of_single_steps(policy: TeamPolicy, batch: Batch, states: Tensor) -> Tensor:
    """[L, C, N, d]: of the actions taken, by the actor of today from the `actor_states` of then."""

    def steps(column: Any) -> Any:
        return None if column is None else column.flatten(0, 1)[None]

    distribution = policy.distribution(
        steps(batch.obs), roles=steps(batch.roles), masks=steps(batch.masks), state=states.flatten(0, 1)
    )
    return distribution.log_prob(steps(batch.actions)).reshape(batch.log_probs.shape)


@torch.no_grad()
def with_values(rollout: TeamRollout, values: Tensor, policy: TeamPolicy) -> TeamRollout:
    """The rollout with the critic's values [T, E, V] written down, to be used again after it has moved."""
    if rollout.values is not None:
        return rollout
    last, final = policy.critic(rollout.state[-1:]), policy.critic(rollout.final_state)
    return replace(rollout, values=torch.cat([values, last]), final_values=final)
