"""Masks count whenever they come and whoever they belong to; those that cannot be read name the agent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.envs.pettingzoo import PettingZooTeam
from tests.envs import games
from tests.envs.rllib_twin import as_multi_agent

KINDS = {"PettingZoo": lambda game: game, "MultiAgentEnv": as_multi_agent}
kinds = pytest.mark.parametrize("kind", list(KINDS))


def told(masks, game=games.Game):
    """A game with `masks[time][agent]` in the infos of its agents."""

    class Told(game):
        def infos(self, agents=None):
            now = masks[self.time] if self.time < len(masks) else {}
            return {a: {"action_mask": now[a]} if a in now else {} for a in agents or self.agents}

    return Told


@kinds
@given(data=st.data(), steps=st.integers(1, 6))
def test_masks_in_infos_count_from_the_step_in_which_they_come(kind, data, steps):
    """Any agent, any step, also where the first reset() showed none; whoever has none has all choices."""
    mask = st.lists(st.booleans(), min_size=3, max_size=3).filter(any)
    masks = [
        data.draw(st.dictionaries(st.sampled_from(["ann", "bob", "cleo"]), mask, max_size=3)) for _ in range(steps + 1)
    ]
    team = PettingZooTeam(2, env=KINDS[kind](told(masks)), length=99)
    step = team.reset(0)
    for t in range(steps + 1):
        expected = [masks[t].get(agent, [True] * 3) for agent in ("ann", "bob", "cleo")]
        np.testing.assert_array_equal(step.masks, [expected, expected])
        step = team.step(np.ones((2, 3), np.int64))


class Joining(games.Game):
    """bob joins after the first step, with a mask from then on."""

    def reset(self, seed=None, options=None):
        obs, _ = super().reset(seed)
        self.agents = ["ann", "cleo"]
        return {agent: obs[agent] for agent in self.agents}, self.infos()

    def step(self, actions):
        self.agents = ["ann", "bob", "cleo"]
        return super().step(actions)

    def infos(self, agents=None):
        return {a: {"action_mask": [0, 1, 1]} if a == "bob" else {} for a in agents or self.agents}


def test_masks_of_agents_that_join_later():
    team = PettingZooTeam(1, env=Joining)
    assert team.reset(0).masks[0].tolist() == [[True] * 3, [True, False, False], [True] * 3]  # bob is not there
    step = team.step(np.ones((1, 3), np.int64))
    assert step.active.all() and step.masks[0].tolist() == [[True] * 3, [False, True, True], [True] * 3]


@kinds
@pytest.mark.parametrize("time", [0, 1, 3])
@pytest.mark.parametrize(
    "mask",
    [
        [0.0, -np.inf, 0.0],
        [0.0, -1e9, 0.0],
        [1, 2, 0],
        [0.5, 1, 1],
        [np.nan, 1, 1],
        [True, False],
        [1, 1, 1, 1],
        [[1], [1, 0]],
        ["1", "1", "1"],
        "all",
        {0: True},
        7,
        torch.tensor([0.0, -torch.inf, 0.0]),
    ],
    ids=repr,
)
def test_what_is_no_mask_is_refused_with_the_agents_name(kind, time, mask):
    masks = [{} for _ in range(time)] + [{"bob": mask}]
    name = {"PettingZoo": "bob", "MultiAgentEnv": "1"}[kind]
    with pytest.raises(
        TeamEnvError, match=f"agent '{name}' was given the action_mask .*must have 3 entries.*mask == 0"
    ):
        team = PettingZooTeam(1, env=KINDS[kind](told(masks)))
        team.reset(0)
        for _ in range(time):
            team.step(np.ones((1, 3), np.int64))


@pytest.mark.parametrize(
    "mask",
    [
        [True, False, True],
        np.array([1, 0, 1], np.int8),
        np.array([1, 0, 1], np.float32),
        (1, 0, 1.0),
        np.array([[1, 0, 1]]),
        torch.tensor([True, False, True]),
    ],
    ids=repr,
)
def test_masks_of_any_type(mask):
    team = PettingZooTeam(1, env=told([{"bob": mask}]))
    assert team.reset(0).masks[0, 1].tolist() == [True, False, True]


def test_a_mask_in_the_observation_and_one_in_the_infos_both_count():
    class Both(games.Masked):
        def infos(self, agents=None):
            return {agent: {"action_mask": [1, 0, 1]} for agent in agents or self.agents}

    both, one = PettingZooTeam(2, env=Both), PettingZooTeam(2, env=games.Masked)
    np.testing.assert_array_equal(both.reset(0).masks, one.reset(0).masks & [True, False, True])


def test_a_mask_that_the_space_declares_must_be_there():
    class Forgetful(games.Masked):
        def observe(self, agent):
            seen = super().observe(agent)
            if agent == "bob" and self.time:
                del seen["action_mask"]
            return seen

    team = PettingZooTeam(1, env=Forgetful)
    team.reset(0)
    with pytest.raises(TeamEnvError, match="agent 'bob' came with no action_mask in its observation"):
        team.step(np.ones((1, 3), np.int64))


@kinds
@pytest.mark.parametrize("time", [0, 2])
def test_a_mask_beside_continuous_actions_is_refused(kind, time):
    masks = [{} for _ in range(time)] + [{"bob": [1, 1]}]
    with pytest.raises(TeamEnvError, match="was given an action_mask, but its actions are continuous"):
        team = PettingZooTeam(1, env=KINDS[kind](told(masks, games.Continuous)))
        team.reset(0)
        for _ in range(time):
            team.step(np.zeros((1, 3, 3), np.float32))


@pytest.mark.parametrize(
    ("game", "has_masks"),
    [(games.Game, False), (games.Masked, True), (games.MaskedInInfos, True), (games.Continuous, False)],
)
def test_the_spec_says_whether_the_first_reset_had_masks(game, has_masks):
    assert PettingZooTeam.team_spec(env=game).has_masks == has_masks


def test_masks_of_several_components():
    """One after the other, or a tuple; those who have left, or have no mask, have a choice in each."""
    team = PettingZooTeam(2, env=games.Several)
    step = team.reset(0)
    assert team.spec.choices == ((3, 2), (3,), (2, 2, 2, 2)) and team.spec.action_size == 8
    assert step.masks[:, 0, 1:].astype(int).tolist() == [[1, 1, 0, 1, 0, 0, 0]] * 2
    assert step.masks[0, 1:].astype(int).tolist() == [[1, 0, 1, 0, 0, 0, 0, 0], [1] * 8]
    np.testing.assert_array_equal(team.spec.can_choose(step.masks), True)
    for mask in ([1, 1, 1, 0, 1], np.array([1, 1, 1, 0, 1])):
        flat = PettingZooTeam(1, env=told([{"ann": mask}], games.Several)).reset(0)
        assert flat.masks[0, 0].astype(int).tolist() == [1, 1, 1, 0, 1, 0, 0, 0]
    with pytest.raises(TeamEnvError, match=r"agent .ann. .*must have 5 entries"):
        PettingZooTeam(1, env=told([{"ann": [1, 1, 1]}], games.Several)).reset(0)
    idle = np.concatenate([np.zeros((1, 3, 8), bool), team.spec.first_choices()[None]])
    assert team.spec.can_choose(idle).tolist() == [[False] * 3, [True] * 3]


def test_choices_of_unequal_agents():
    class Unequal(told([{"cleo": [0, 1]}])):
        def acts(self, agent):
            return spaces.Discrete({"ann": 4, "bob": 1, "cleo": 2}[agent])

    masks = PettingZooTeam(1, env=Unequal).reset(0).masks[0].astype(int).tolist()
    assert masks == [[1, 1, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0]]
