"""Playing trained policies: an environment without end is not waited for."""

from __future__ import annotations

import pytest

from lorasa_rllib.envs.synthetic import SyntheticTeam
from lorasa_rllib.policies.acting import LoadedPolicy
from lorasa_rllib.policies.saved import saved
from lorasa_rllib.studies import playing
from tests.helpers import make_policy, owner_tables
from tests.rllib.failing import Endless


@pytest.mark.parametrize("env", [Endless, SyntheticTeam])
def test_an_episode_without_end_is_given_up_and_the_options_named(env):
    team = env(2, num_agents=3, episode_length=9)
    policy = LoadedPolicy(saved(make_policy(team.spec, owner_tables(3)["lora"])))
    played = playing.episodes(team, policy, 40, greedy=True, seed=0, patience=0.5)
    if env is SyntheticTeam:
        assert [episode.length for episode in played] == [9] * 40
        return
    with pytest.raises(ValueError, match=r"no episode has ended in 0\.5 s.*max_episode_steps.*--patience"):
        next(played)
