"""Observations of PettingZoo: whatever has its space's shape is read, everything else names the agent."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.envs.pettingzoo import PettingZooTeam
from tests.envs import games


def answering(observation, space, after=1):
    """A game that gives bob `observation` once `after` steps were made; before, what its space has."""

    class Answering(games.Game):
        def sees(self, agent):
            return space if agent == "bob" else super().sees(agent)

        def observe(self, agent):
            if agent != "bob":
                return super().observe(agent)
            return observation if self.time >= after else first

    given = space["observation"] if isinstance(space, spaces.Dict) else space
    first = np.zeros(given.shape, np.float32) if isinstance(given, spaces.Box) else int(given.start)
    first = {"observation": first} if isinstance(space, spaces.Dict) else first
    return Answering


BOX3, CHOICE = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(4, start=2)


@pytest.mark.parametrize("after", [0, 1], ids=["at reset", "at a step"])
@pytest.mark.parametrize(
    ("observation", "space", "message"),
    [
        (np.array([7.0]), BOX3, r"array\(\[7.\]\) of shape \(1,\), but its space is Box.*numbers of shape \(3,\)"),
        (7.0, BOX3, r"the observation 7.0, but"),
        (np.zeros(4), BOX3, r"of shape \(4,\)"),
        (np.zeros((3, 1)), BOX3, r"of shape \(3, 1\)"),
        (np.zeros((3, 2)), spaces.Box(-1, 1, (2, 3)), r"of shape \(3, 2\)"),
        ([0.0, [1.0], 2.0], BOX3, r"observation \[0.0, \[1.0\], 2.0\]"),
        (["a", "b", "c"], BOX3, "'a', 'b', 'c'"),
        (None, BOX3, "observation None"),
        (np.zeros(500), BOX3, r"0., 0., .*\.\.\. of shape \(500,\)"),
        (1, CHOICE, "observation 1, but its space is Discrete.*a whole number from 2 to 5"),
        (-1, spaces.Discrete(4), "observation -1.*a whole number from 0 to 3"),
        (6, CHOICE, "observation 6"),
        (2.5, CHOICE, "observation 2.5"),
        (np.array([3]), CHOICE, r"of shape \(1,\)"),
        (np.zeros(3), spaces.Dict({"observation": BOX3}), 'a dictionary with "observation"'),
        ({"seen": np.zeros(3)}, spaces.Dict({"observation": BOX3}), 'a dictionary with "observation"'),
    ],
)
def test_an_observation_outside_its_space_is_an_error_with_the_agents_name(observation, space, message, after):
    with pytest.raises(TeamEnvError, match=f"agent 'bob' was given .*{message}.*or declare the observation space"):
        team = PettingZooTeam(1, env=answering(observation, space, after))
        team.reset(seed=0)
        team.step(np.ones((1, 3), np.int64))


@pytest.mark.parametrize(
    ("observation", "space", "row"),
    [
        ([0.1, 0.2, 0.3], BOX3, [0.1, 0.2, 0.3]),
        (np.array([1, 2, 3]), BOX3, [1, 2, 3]),
        (0.5, spaces.Box(-1, 1, ()), [0.5]),
        (np.int64(3), CHOICE, [0, 1, 0, 0]),
        (np.array(5), CHOICE, [0, 0, 0, 1]),
    ],
)
def test_whatever_has_the_shape_is_an_observation(observation, space, row):
    team = PettingZooTeam(1, env=answering(observation, space, 0))
    np.testing.assert_allclose(team.reset(seed=0).obs[0, 1, : len(row)], row, rtol=1e-6)


@pytest.mark.parametrize("key", ["observation", "observations"])
def test_masked_observations_of_pettingzoo_and_of_rllib(key):
    class Keyed(games.Masked):
        def sees(self, agent):
            return spaces.Dict({key if name == "observation" else name: x for name, x in super().sees(agent).items()})

        def observe(self, agent):
            return {key if name == "observation" else name: x for name, x in super().observe(agent).items()}

    team, other = PettingZooTeam(1, env=Keyed), PettingZooTeam(1, env=games.Masked)
    step, twin = team.reset(seed=0), other.reset(seed=0)
    np.testing.assert_array_equal(step.obs, twin.obs)
    np.testing.assert_array_equal(step.masks, twin.masks)
