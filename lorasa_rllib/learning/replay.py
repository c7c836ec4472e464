"""Hidden states of every step, recomputed from those stored per chunk.

Needed only for the quirks of A2PO's published code, and valid only before the first optimiser step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lorasa_rllib.learning.batch import Batch
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout


@torch.no_grad()
def actor_states(policy: TeamPolicy, batch: Batch) -> Tensor:
    """[L, C, N, h]: hidden states of a recurrent actor before each step."""
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
    """[E, V, h]: hidden states of a recurrent critic after the last step, zero if the episode ended there."""
    assert batch.critic_state is not None and batch.keep is not None
    last = slice(len(batch) - rollout.num_envs, len(batch))  # the last chunk of every environment
    _, after = policy.critic.unroll(batch.state[:, last], batch.critic_state[last], batch.keep[:, last])
    assert after is not None
    ended = (rollout.terminated | rollout.truncated)[-1]
    return torch.where(ended[:, None, None], 0.0, after[-1])


@torch.no_grad()
def log_probs_of_single_steps(policy: TeamPolicy, batch: Batch, states: Tensor) -> Tensor:
    """[L, C, N, d]: log-probabilities of the actions taken under the current actor, one step at a time.

    states: `actor_states` computed before the first optimiser step.
    """

    def steps(column: Any) -> Any:
        return None if column is None else column.flatten(0, 1)[None]

    distribution = policy.distribution(
        steps(batch.obs), roles=steps(batch.roles), masks=steps(batch.masks), state=states.flatten(0, 1)
    )
    return distribution.log_prob(steps(batch.actions)).reshape(batch.log_probs.shape)


@torch.no_grad()
def with_values(rollout: TeamRollout, values: Tensor, policy: TeamPolicy) -> TeamRollout:
    """The rollout with the critic's current values stored, `values` [T, E, V] given, for use after it has changed."""
    if rollout.values is not None:
        return rollout
    last, final = policy.critic(rollout.state[-1:]), policy.critic(rollout.final_state)
    return replace(rollout, values=torch.cat([values, last]), final_values=final)
