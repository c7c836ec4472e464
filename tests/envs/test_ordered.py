"""Agents are read by name, in the order that was seen first."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import fields, replace
from itertools import permutations

import numpy as np
import pytest

from lorasa_rllib.envs.base import TeamStep
from lorasa_rllib.envs.known_team import KnownTeam
from lorasa_rllib.envs.ordered import ACTING, OrderedTeam, check_team, in_order
from lorasa_rllib.envs.pettingzoo import PettingZooTeam
from lorasa_rllib.envs.synthetic import SyntheticTeam
from tests.envs import games
from tests.envs.rllib_twin import as_multi_agent

ROWS = {"obs", "active", "masks", "roles", "left", "cut", "final_obs", "cut_obs"}


def played(env, agents, steps=30):
    """What `env` answers to actions that depend on the agent alone, its rows in the order of `agents`."""
    spec = env.spec
    row = [spec.agents.index(agent) for agent in agents]
    random = {agent: np.random.default_rng(sorted(agents).index(agent)) for agent in agents}

    def actions(step):
        moves = {}
        for agent in agents:
            n = spec.agents.index(agent)
            weights = random[agent].random((env.num_envs, spec.action_size))
            if spec.continuous:
                moves[agent] = weights.astype(np.float32)
            else:
                masks = spec.action_mask()[n] if step.masks is None else step.masks[:, n]
                moves[agent] = np.where(masks, weights, -1).argmax(-1)
        return np.stack([moves[agent] for agent in spec.agents], 1)

    def read(step):
        found = {}
        for name in (f.name for f in fields(TeamStep)):
            value = getattr(step, name)
            by_row = name in ROWS or (name == "rewards" and not spec.shared_reward)
            by_row = by_row or (name in ("state", "final_state", "cut_state") and spec.state_per_agent)
            found[name] = np.array(value)[:, row] if by_row and value is not None else np.array(value)
        return found

    step = env.reset(3)
    seen = [read(step)]
    for _ in range(steps):
        step = env.step(actions(step))
        seen.append(read(step))
    return seen


def assert_same(one, other, but=()):
    for a, b in zip(one, other, strict=True):
        for name in a:
            if name not in but:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("settings", [
    {"discrete": True, "num_roles": 2, "role_changes": 0.2, "unequal": True, "deaths": 0.05, "episode_length": 9},
    {"shared_reward": False, "unequal": True, "episode_length": 9},
])  # fmt: skip
def test_every_column_moves_with_its_agent(settings):
    plain = SyntheticTeam(2, **settings)
    agents = plain.spec.agents
    expected = played(plain, agents)
    for order in permutations(agents):
        ordered = in_order(SyntheticTeam(2, **settings), plain.spec.in_order(order))
        assert ordered.spec.agents == order
        assert_same(expected, played(ordered, agents))


def shuffled(game, order):
    class Shuffled(game):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.possible_agents = list(order)
            self.time = 0

        def reset(self, seed=None, options=None):
            if seed is not None or not hasattr(self, "random"):
                self.random = np.random.default_rng(seed)
            self.agents, self.time = list(self.possible_agents), 0
            places = self.random.integers(self.places, size=3).tolist()
            self.place = dict(zip(sorted(self.agents), places, strict=True))
            return {agent: self.observe(agent) for agent in self.agents}, self.infos()

    return Shuffled


@pytest.mark.parametrize("rllib", [False, True], ids=["PettingZoo", "MultiAgentEnv"])
@pytest.mark.parametrize("game", [games.Masked, games.Continuous, games.MaskedInInfos])
def test_the_order_of_possible_agents_is_of_no_account(game, rllib):
    """Also not for a state that is made of all observations in a row."""
    names = ("ann", "bob", "cleo")
    stateless = type("Stateless", (game,), {"state": games.ParallelEnv.state})
    team = PettingZooTeam.team_spec(env=shuffled(stateless, names))
    expected = played(in_order(PettingZooTeam(2, env=shuffled(stateless, names)), team), names)
    for order in permutations(names):
        env = shuffled(stateless, order)
        one = PettingZooTeam(2, env=renamed(as_multi_agent(env), order) if rllib else env)
        found = in_order(one, team)
        assert found.spec.agents == names
        assert_same(expected, played(found, names), but=("metrics",))


def renamed(twin, order):
    """A MultiAgentEnv whose ids are the names of the agents, not numbers."""

    class Named(twin):
        def __init__(self, config=None):
            super().__init__(config)
            spaces = self.observation_spaces, self.action_spaces
            self.observation_spaces, self.action_spaces = ({order[n]: s for n, s in x.items()} for x in spaces)
            self.names = {name: name for name in order}
            self.possible_agents = self.agents = list(order)

    return Named


def test_other_names_and_sizes_are_refused_with_the_agents():
    team = SyntheticTeam.team_spec(num_agents=3)
    other = replace(team, agents=("agent_0", "scout", "agent_2"))
    with pytest.raises(ValueError, match=r"'scout', 'agent_2': 'agent_1' missing, 'scout' unknown to the policy"):
        check_team(other, team)
    with pytest.raises(ValueError, match=r"the policy's obs_sizes are 4, 3, 4, those of the environment 4, 4, 4"):
        check_team(team, SyntheticTeam.team_spec(num_agents=3, unequal=True))
    more_state = replace(team, state_size=9)
    check_team(more_state, team, ACTING)
    with pytest.raises(ValueError, match="the policy's state_size are 4, those of the environment 9"):
        check_team(more_state, team)
    nearly = replace(team, action_high=tuple((1 + 1e-9,) * 2 for _ in range(3)))
    check_team(nearly, team)


def test_reordering_twice_takes_the_first_one_back():
    plain = SyntheticTeam(1)
    there = plain.reordered(("agent_2", "agent_0", "agent_1"))
    assert isinstance(there, OrderedTeam) and there.reordered(plain.spec.agents) is plain


def test_what_is_known_of_a_team_belongs_to_its_settings_wherever_it_goes():
    table = np.arange(3)
    known = KnownTeam.of("synthetic", {"num_agents": 3})
    odd = KnownTeam(games.Game, {"table": table, "inner": {"of": [object()]}}, known.spec)
    for again in (odd, deepcopy(odd), pickle.loads(pickle.dumps(odd))):
        assert again.belongs_to(games.Game, again.env_config)
    assert odd.belongs_to(games.Game, {**odd.env_config, "table": table.copy()})
    assert not odd.belongs_to(games.Game, {**odd.env_config, "table": table + 1})
    assert not odd.belongs_to(games.Leavers, odd.env_config)
    given = {"num_agents": 3, "nested": {"x": 1}}
    kept = KnownTeam("synthetic", known.env_config, known.spec).moved_to("synthetic", given)
    given["nested"]["x"] = 2
    assert not kept.belongs_to("synthetic", given)
