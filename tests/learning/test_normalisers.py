"""Observation statistics: learnt from every rollout after it was used, at rest with the backbone."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from lorasa_rllib.learning import a2po, mappo
from lorasa_rllib.learning.a2po import A2POSettings
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.nn.obs_norm import RunningNorm
from tests.helpers import make_policy, owner_tables, random_rollout, seeded, team
from tests.learning.helpers import SETTINGS, optimisers_of

SPEC = team((4, 2, 3), (2, 3, 1))
ALGORITHMS = {"MAPPO": (mappo, SETTINGS), "A2PO": (a2po, A2POSettings(chunk_length=2))}


def fresh(obs_norm="running", method="lora", spec=SPEC, **network):
    shape = NetworkConfig(hidden_size=5, obs_norm=obs_norm, **network)
    policy = make_policy(spec, owner_tables(3)[method], network=shape, critic_input="agent_state")
    for norm in (policy.actor.obs_norm, policy.critic.obs_norm):
        norm.load_state_dict(RunningNorm(*norm.mean.shape, norm.clip).state_dict())
    return policy


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("obs_norm", ["running", "running_team"])
def test_an_update_ends_with_the_statistics_of_the_live_rows_of_all_rollouts(algorithm, recurrent, obs_norm):
    module, settings = ALGORITHMS[algorithm]
    policy = fresh(obs_norm, recurrent=recurrent, critic_recurrent=recurrent)
    real = torch.as_tensor(SPEC.obs_mask())
    rollouts, used = [], []
    policy.actor.register_forward_pre_hook(lambda actor, _: used.append(actor.obs_norm.mean.clone()))
    for seed in range(3):
        rollout = random_rollout(policy, 6, 4, seed).to("cpu")
        rollout.obs = torch.where(real, rollout.obs, torch.nan)
        rollouts.append(rollout)
        before = copy.deepcopy(policy.actor.obs_norm.mean)
        used.clear()
        module.update(policy, optimisers_of(policy), rollout, settings, seeded(0))
        assert used and all(torch.equal(mean, before) for mean in used)
    obs, state, active = (
        torch.cat([getattr(r, name)[:6].flatten(0, 1) for r in rollouts]) for name in ("obs", "state", "active")
    )
    norm = policy.actor.obs_norm
    for n in range(3):
        for f in range(SPEC.obs_sizes[n]):
            have = [m for m in range(3) if f < SPEC.obs_sizes[m]] if obs_norm == "running_team" else [n]
            values = torch.cat([obs[active[:, m], m, f] for m in have])
            torch.testing.assert_close(norm.mean[n, f], values.mean())
            torch.testing.assert_close(norm.var[n, f], values.var(correction=0))
            assert norm.count[n, f] == len(values)
    torch.testing.assert_close(policy.critic.obs_norm.mean[0], state.mean(0))
    torch.testing.assert_close(policy.critic.obs_norm.var[0], state.var(0, correction=0))
    assert (policy.critic.obs_norm.count == len(state)).all()


def test_a_state_for_each_agent_has_statistics_for_each():
    spec = dataclasses.replace(SPEC, state_per_agent=True)
    policy = fresh(spec=spec)
    rollout = random_rollout(policy, 6, 4)
    rollout.final_state = rollout.final_state[:, None].repeat(3, 1)
    rollout = rollout.to("cpu")
    mappo.update(policy, optimisers_of(policy), rollout, SETTINGS, seeded(0))
    for n in range(3):
        values = rollout.state[:-1, :, n][rollout.active[..., n]]
        torch.testing.assert_close(policy.critic.obs_norm.mean[n], values.mean(0))
        torch.testing.assert_close(policy.critic.obs_norm.var[n], values.var(0, correction=0))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("goes_on", [False, True])
def test_in_the_adapter_phase_the_actors_statistics_rest_and_the_critics_go_on(algorithm, goes_on):
    module, settings = ALGORITHMS[algorithm]
    policy = fresh()
    policy.set_phase("adapters")
    rollout = random_rollout(policy, 6, 4).to("cpu")
    settings = dataclasses.replace(settings, obs_norm_in_adapter_phase=goes_on)
    module.update(policy, optimisers_of(policy), rollout, settings, seeded(0))
    assert bool(policy.actor.obs_norm.count.any()) == goes_on
    assert policy.critic.obs_norm.count.all()
