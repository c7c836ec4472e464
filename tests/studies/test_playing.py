"""Playing trained policies: the episodes are the policy's own, and an environment without end is not waited for."""

from __future__ import annotations

import numpy as np
import pytest

from lorasa_rllib.envs.synthetic import SyntheticTeam
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.policies.acting import LoadedPolicy
from lorasa_rllib.policies.saved import saved
from lorasa_rllib.studies import playing
from tests.helpers import make_policy, owner_tables
from tests.rllib.failing import Endless


@pytest.mark.parametrize("env", [Endless, SyntheticTeam])
def test_an_episode_without_end_is_given_up_and_the_options_named(env):
    team = env(2, num_agents=3, episode_length=9)
    policy = LoadedPolicy(saved(make_policy(team.spec, owner_tables(3)["lora"])))
    seen = []
    if env is SyntheticTeam:
        played = playing.episodes(team, policy, 40, greedy=True, seed=0, patience=0.5, watch=seen.append)
        assert [episode.length for episode in played] == [9] * 40 and seen == played
        return
    with pytest.raises(ValueError, match=r"no episode has ended in 0\.5 s.*max_episode_steps.*--patience"):
        playing.episodes(team, policy, 40, greedy=True, seed=0, patience=0.5)


def by_hand(team, policy, count, greedy, seed):
    """Returns and lengths of the first `count` episodes, as a user of `LoadedPolicy` would play them: one copy."""
    policy.seed(seed)
    step, state = team.reset(seed), None
    played, total, length = [], 0.0, 0
    while len(played) < count:
        actions, state = policy.choose(step.obs, state, roles=step.roles, mask=step.masks, greedy=greedy)
        step = team.step(actions)
        total, length = total + float(step.rewards.sum()), length + 1
        if len(step.ended):
            played.append((total, length))
            total, length, state = 0.0, 0, None
    return played


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("method", ["lora", "role"])
@pytest.mark.parametrize("discrete", [False, True])
def test_episodes_are_those_of_the_policy_played_by_hand(discrete, method, recurrent, greedy):
    team = SyntheticTeam(1, num_agents=3, episode_length=9, termination=0.1, discrete=discrete, num_roles=3)
    network = NetworkConfig(hidden_size=6, recurrent=recurrent)
    policy = LoadedPolicy(saved(make_policy(team.spec, owner_tables(3)[method], network=network).float()))
    expected = by_hand(team, policy, 8, greedy, seed=4)
    again = SyntheticTeam(1, num_agents=3, episode_length=9, termination=0.1, discrete=discrete, num_roles=3)
    played = playing.episodes(again, policy, 8, greedy, seed=4)
    assert [episode.length for episode in played] == [length for _, length in expected]
    returns = [total for total, _ in expected]
    np.testing.assert_allclose([episode.team_return for episode in played], returns, rtol=1e-5, atol=1e-5)


def test_intervals_with_and_without_the_bootstrap_agree_where_they_meet():
    values = np.random.default_rng(1).exponential(100, playing.MANY + 1)
    width = np.subtract(*playing._interval(values)[::-1])
    np.testing.assert_allclose(playing._interval(values[:-1]), playing._interval(values), atol=0.05 * width)
