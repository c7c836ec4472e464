"""Summaries of episodes, and each slot's share of them."""

from __future__ import annotations

import numpy as np
import pytest

from lorasa_rllib.envs.arrays import NUMPY
from lorasa_rllib.envs.base import TeamStep
from lorasa_rllib.rollout.episodes import EpisodeMeter, share_of_slots


@pytest.mark.parametrize("shared", [True, False])
def test_a_team_return_counts_a_shared_reward_once_and_adds_others_up(shared):
    rewards = np.array([[2.0]] if shared else [[2.0, 3.0]], np.float32)
    none = np.zeros(1, bool)
    step = TeamStep(None, None, rewards, none, ~none, None, np.array([0]), None, None)
    meter = EpisodeMeter(1, rewards.shape[1], NUMPY)
    meter.add(step)
    (summary,) = meter.finish(step)
    assert summary.team_return == (2.0 if shared else 5.0) and summary.length == 1
    assert summary.agent_returns == (None if shared else (2.0, 3.0))


def test_slots_share_episodes_as_evenly_as_possible():
    assert share_of_slots(10, 4).tolist() == [3, 3, 2, 2]
    assert share_of_slots(2, 3).tolist() == [1, 1, 0]
