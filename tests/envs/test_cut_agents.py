"""An agent that is truncated while others go on: what it last saw reaches the learner, and RLlib's own algorithms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorasa_rllib.envs.ordered import OrderedTeam
from lorasa_rllib.envs.pettingzoo import PettingZooTeam
from lorasa_rllib.learning.batch import MAPPOSettings, targets_of
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.rllib.stock import TeamMultiAgentEnv
from lorasa_rllib.rollout.collector import Collector
from lorasa_rllib.rollout.memory import Memory
from tests.envs import games
from tests.envs.rllib_twin import as_multi_agent
from tests.helpers import make_policy, owner_tables

STAY = np.ones((1, 3), np.int64)
CUT = 3  # the step with which bob's part ends


class Relieved(games.Game):
    """bob is truncated in his third step, ann terminates in her fifth; what everyone came to see is written down."""

    shown: list[dict] = []  # noqa: RUF012 - of the game that was played last

    def reset(self, seed=None, options=None):
        obs, infos = super().reset(seed, options)
        self.shown[:] = [obs]
        return obs, infos

    def step(self, actions):
        obs, rewards, ends, cuts, infos = super().step(actions)
        if self.time == CUT:
            cuts["bob"] = True
        if self.time == CUT + 2:
            ends["ann"] = True
        self.agents = [agent for agent in self.agents if not (ends[agent] or cuts[agent])]
        self.shown.append(obs)
        return obs, rewards, ends, cuts, infos


def state_at(t):
    """Everyone's observations in a row after t steps, zeros for those who have left."""
    return np.concatenate([Relieved.shown[t].get(name, np.zeros((2, 2))).ravel() for name in ("ann", "bob", "cleo")])


@pytest.mark.parametrize("team_reward", [None, "mean"])
@pytest.mark.parametrize("kind", [Relieved, as_multi_agent(Relieved)], ids=["PettingZoo", "RLlib"])
def test_its_last_observation_is_told_and_the_next_step_is_without_it(kind, team_reward):
    plain = PettingZooTeam(1, env=kind, team_reward=team_reward)
    order = plain.spec.agents[::-1]
    for team in (plain, OrderedTeam(PettingZooTeam(1, env=kind, team_reward=team_reward), order)):
        bob = 1
        assert not team.reset(0).cut.any()
        for t in range(1, CUT + 1):
            step = team.step(STAY)
            assert step.cut.any() == (t == CUT)
        assert step.cut[0].tolist() == [False, True, False] and not (step.truncated[0] or step.terminated[0])
        assert team_reward or not step.left.any()
        np.testing.assert_array_equal(step.cut_obs[0, bob], Relieved.shown[CUT]["bob"].ravel())
        np.testing.assert_array_equal(step.cut_state[0], state_at(CUT))
        assert not step.active[0, bob] and not step.obs[0, bob].any() and not step.state[0, 4:8].any()
        assert not team.step(STAY).cut.any()
        assert team_reward or team.step(STAY).left.any()


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_it_is_valued_at_its_last_observation(recurrent):
    team = PettingZooTeam(1, env=Relieved)
    network = NetworkConfig(hidden_size=5, recurrent=recurrent, critic_recurrent=recurrent)
    policy = make_policy(team.spec, owner_tables(3)["nps"], network=network).float()
    collector = Collector(team, Memory(policy.config, 1, 2), seed=3, env_seed=30_021)
    critic = policy.acting_critic() if recurrent else None
    rollout, _ = collector.steps(10, policy.acting(), critic=critic)  # the episode has twelve steps
    settings = MAPPOSettings(gamma=0.9, lambda_=0.8)
    targets = targets_of(policy, rollout.to("cpu"), settings)

    def values(states):
        with torch.no_grad():
            sequence = torch.as_tensor(np.stack(states), dtype=torch.float32)[:, None]
            return policy.value_norm.denormalise(policy.critic.unroll(sequence)[0])[:, 0].numpy()

    bob, last = 1, CUT - 1
    seen = [state_at(t) for t in range(CUT)]
    of_states = values(seen)
    of_last = values([*seen, state_at(CUT)])[-1, bob]
    rewards = rollout.rewards[:CUT, 0, bob]
    error = rewards[last] + 0.9 * of_last - of_states[last, bob]
    assert targets.gains[last, 0, bob].item() == pytest.approx(error, rel=1e-4)
    earlier = rewards[last - 1] + 0.9 * of_states[last, bob] - of_states[last - 1, bob]
    assert targets.gains[last - 1, 0, bob].item() == pytest.approx(earlier + 0.72 * error, rel=1e-4)
    without = rollout.state[CUT, 0]  # what the others go on with
    assert not np.allclose(values([*seen, without])[-1, bob], of_last)
    on = values([*seen, without])[-1]
    for other in (0, 2):
        following = targets.gains[CUT, 0, other].item()
        error = rollout.rewards[last, 0, other] + 0.9 * on[other] - of_states[last, other]
        assert targets.gains[last, 0, other].item() == pytest.approx(error + 0.72 * following, rel=1e-4)


def test_under_rllibs_own_algorithms_it_is_truncated_with_its_last_observation():
    env = TeamMultiAgentEnv({"env": "pettingzoo", "env_config": {"env": Relieved}})
    rows, _ = env.reset(seed=0)
    for t in range(1, CUT + 3):
        rows, rewards, terminated, truncated, _ = env.step(dict.fromkeys(rows, 1))
        assert truncated == ({"bob": True} if t == CUT else {}) | {"__all__": False}
        assert terminated == ({"ann": True} if t == CUT + 2 else {}) | {"__all__": False}
        if t == CUT:
            np.testing.assert_array_equal(rows["bob"]["obs"], Relieved.shown[t]["bob"].ravel())
            np.testing.assert_array_equal(rows["bob"]["state"], state_at(t))
        rows = {agent: row for agent, row in rows.items() if not (terminated.get(agent) or truncated.get(agent))}
    assert list(rows) == ["cleo"] and set(rewards) == {"ann", "cleo"}
