"""Updates observation statistics after the last optimiser step on a rollout, so that learners normalise each rollout
with the statistics that env runners sampled it with."""

from __future__ import annotations

import torch

from lorasa_rllib.learning.batch import AllSum, MAPPOSettings, alone
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.rollout.columns import TeamRollout


def take_in_observations(
    policy: TeamPolicy, rollout: TeamRollout, settings: MAPPOSettings, all_sum: AllSum = alone
) -> None:
    """Updates the observation statistics of actor and critic with the live rows of a rollout, over all learners.

    The actor's belong to the backbone and stay fixed in the adapter phase, unless `obs_norm_in_adapter_phase`. A global
    state that all agents share counts at every step.
    """
    actor, critic = policy.actor, policy.critic
    if actor.obs_norm is not None and (policy.phase != "adapters" or settings.obs_norm_in_adapter_phase):
        live = rollout.active.unsqueeze(-1)
        actor.obs_norm.update(rollout.obs, live if actor.obs_mask is None else live & actor.obs_mask, all_sum)
    if critic.obs_norm is not None:
        state = rollout.state[:-1]
        if critic.per_agent:
            critic.obs_norm.update(state, rollout.active.unsqueeze(-1), all_sum)
        else:
            everywhere = torch.ones((1,), dtype=torch.bool, device=state.device)
            critic.obs_norm.update(state.unsqueeze(-2), everywhere, all_sum)
