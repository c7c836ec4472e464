"""Agents that come late, go and return have no memory of before: in sampling, on the learner, and in `act` by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lorasa_rllib.envs.pettingzoo import PettingZooTeam
from lorasa_rllib.learning.a2po import A2POSettings
from lorasa_rllib.learning.a2po.ratios import Ratios
from lorasa_rllib.learning.a2po.units import units_of
from lorasa_rllib.learning.batch import prepare
from lorasa_rllib.learning.reference import Quirks, absent_forget, rules_of
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.policies.acting import LoadedPolicy
from lorasa_rllib.policies.saved import saved
from lorasa_rllib.rollout.collector import Collector
from lorasa_rllib.rollout.memory import Memory
from tests.envs.games import Guests
from tests.helpers import make_policy, owner_tables, randomise

ENVS, STEPS, CHUNK = 2, 20, 4  # an episode has twelve steps
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
REFERENCES = [False, Quirks(absent_memory=True), True]


def policy_for(team, method="lora", reference=False):
    network = NetworkConfig(hidden_size=6, recurrent=True, critic_recurrent=True)
    made = randomise(make_policy(team.spec, owner_tables(3)[method], network=network), 3).float()
    policy = TeamPolicy(replace(made.config, absent_forget=absent_forget(reference)))
    policy.load_state_dict(made.state_dict())
    policy.set_phase("adapters" if policy.config.owners.num_adapters else "backbone")
    return policy


def sampled(policy, team, draw="sample"):
    """Two rollouts of a runner; the second begins within episodes."""
    collector = Collector(team, Memory(policy.config, ENVS, CHUNK), seed=0)
    return [collector.steps(STEPS, policy.acting(), draw, critic=policy.acting_critic())[0].to("cpu") for _ in range(2)]


@pytest.mark.parametrize("reference", REFERENCES, ids=["ours", "memory", "all"])
@pytest.mark.parametrize("method", ["ps", "lora", "nps"])
def test_the_learner_evaluates_what_the_runner_did(method, reference):
    team = PettingZooTeam(ENVS, env=Guests)
    policy, rules = policy_for(team, method, reference), rules_of(reference)
    settings = A2POSettings(chunk_length=CHUNK, rules=rules)
    for rollout in sampled(policy, team):
        batch, _ = prepare(policy, rollout, settings)
        assert not rollout.active.all() and batch.active.any()
        with torch.no_grad():
            everyone = policy.distribution(batch.obs, state=batch.actor_state, keep=batch.actor_keep)
            found = everyone.log_prob(batch.actions)
            values, _ = policy.critic.unroll(batch.state, batch.critic_state, batch.keep)
        torch.testing.assert_close(found[batch.active], batch.log_probs[batch.active], **CLOSE)
        torch.testing.assert_close(values, batch.values, **CLOSE)
        for unit in units_of(policy):
            rows = unit.rows(batch)
            with torch.no_grad():
                own = policy.distribution(rows.obs, **rows.inputs()).log_prob(rows.actions)
            torch.testing.assert_close(own[rows.active], rows.log_probs[rows.active], **CLOSE)
        ratios = Ratios(policy, batch, settings)
        ratios.refresh()
        torch.testing.assert_close(ratios.log_probs[batch.active], batch.log_probs[batch.active], **CLOSE)
        one_by_one = rules.log_probs_of_corrections(policy, batch)
        if one_by_one is not None:
            torch.testing.assert_close(one_by_one()[batch.active], batch.log_probs[batch.active], **CLOSE)


@pytest.mark.parametrize("reference", REFERENCES, ids=["ours", "memory", "all"])
@pytest.mark.parametrize("whole_episodes", [False, True], ids=["steps", "episodes"])
def test_act_by_name_is_what_was_sampled(whole_episodes, reference):
    """Nothing but the state that the last call returned is passed on, as in a loop over a PettingZoo environment."""
    team = PettingZooTeam(1, env=Guests)
    policy = policy_for(team, reference=reference)
    collector = Collector(team, Memory(policy.config, 1, CHUNK), seed=0)
    Guests.told.clear()
    if whole_episodes:
        collector.episodes(2, policy.acting(), draw="mode")
    else:
        collector.steps(STEPS, policy.acting(), draw="mode", critic=policy.acting_critic())
    loaded, state, joined, before = LoadedPolicy(saved(policy)), None, 0, set()
    assert len(Guests.told) >= STEPS
    for begins, seen, actions in Guests.told:
        state = None if begins else state
        acted, state = loaded.act(seen, state)
        assert set(acted) == set(actions)
        for name, action in actions.items():
            np.testing.assert_allclose(acted[name], action, **CLOSE, err_msg=name)
        joined += 0 if begins else len(set(seen) - before)
        before = set(seen)
    assert joined > 5


def test_memory_of_absent_agents_changes_what_they_do():
    """Otherwise the tests above would prove nothing."""
    team = PettingZooTeam(ENVS, env=Guests)
    policy = policy_for(team)
    forgets = sampled(policy, team, draw="mode")[0]
    team = PettingZooTeam(ENVS, env=Guests)
    remembers = sampled(policy_for(team, reference=Quirks(absent_memory=True)), team, draw="mode")[0]
    assert torch.equal(forgets.active, remembers.active)
    present = torch.as_tensor([[t % 12 in Guests.present[name] for name in team.spec.agents] for t in range(STEPS)])
    assert torch.equal(forgets.active, present[:, None].expand(-1, ENVS, -1))
    same = torch.isclose(forgets.actions, remembers.actions, **CLOSE).all(-1)
    ann, bob, cleo = range(3)
    assert (same | ~forgets.active)[:2].all()  # nobody had been away
    assert not same[2, :, bob].any() and not same[4, :, ann].any() and not same[7, :, cleo].any()
