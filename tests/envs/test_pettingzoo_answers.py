"""What environments answer: ends, states and the older API, the same for PettingZoo and RLlib."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pettingzoo.classic import rps_v2
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.envs.pettingzoo import PettingZooTeam
from tests.envs import games
from tests.envs.rllib_twin import as_multi_agent
from tests.envs.test_action_masks import KINDS, kinds

STAY = np.ones((1, 3), np.int64)


# Ends


def ending(ends, cuts):
    """A game whose first step ends with these flags by agent."""

    class Ending(games.Game):
        def step(self, actions):
            obs, rewards, _, _, infos = super().step(actions)
            agents, self.agents = self.possible_agents, []
            return obs, rewards, {a: a in ends for a in agents}, {a: a in cuts for a in agents}, infos

    return Ending


EVERYONE = ("ann", "bob", "cleo")


@kinds
@pytest.mark.parametrize("only_all", [False, True], ids=["each", "__all__"])
@pytest.mark.parametrize("team_reward", [None, "mean", "sum"])
@pytest.mark.parametrize(
    ("ends", "cuts", "terminated"),
    [(EVERYONE, (), True), ((), EVERYONE, False), (EVERYONE, EVERYONE, True)],
    ids=["terminated", "truncated", "both"],
)
def test_whoever_is_terminated_and_truncated_is_terminated(kind, only_all, team_reward, ends, cuts, terminated):
    game = ending(ends, cuts)
    env = game if kind == "PettingZoo" else as_multi_agent(game, only_all)
    team = PettingZooTeam(1, env=env, team_reward=team_reward)
    team.reset(0)
    step = team.step(STAY)
    assert (step.terminated[0], step.truncated[0]) == (terminated, not terminated)
    assert team_reward or step.left.all() == terminated


@kinds
@pytest.mark.parametrize("team_reward", [None, "mean"])
def test_one_of_whom_both_is_said(kind, team_reward):
    team = PettingZooTeam(1, env=KINDS[kind](ending(EVERYONE, ("bob",))), team_reward=team_reward)
    team.reset(0)
    assert team.step(STAY).terminated[0]


def test_a_cut_of_some_cuts_the_teams_episode():
    team = PettingZooTeam(1, env=ending(("ann", "bob"), ("bob", "cleo")), team_reward="mean")
    team.reset(0)
    assert team.step(STAY).truncated[0]


class Flags(MultiAgentEnv):
    """Two agents; one step with the given flags."""

    def __init__(self, config):
        super().__init__()
        self.flags = config["ends"], config["cuts"]
        self.possible_agents = self.agents = ["a", "b"]
        self.observation_spaces = {agent: spaces.Box(0, 1, (1,)) for agent in "ab"}
        self.action_spaces = {agent: spaces.Discrete(2) for agent in "ab"}

    def seen(self):
        return {agent: np.zeros(1, np.float32) for agent in "ab"}

    def reset(self, *, seed=None, options=None):
        return self.seen(), {}

    def step(self, actions):
        return self.seen(), dict.fromkeys("ab", 1.0), *self.flags, {}


@pytest.mark.parametrize(
    ("ends", "cuts", "left", "terminated"),
    [
        ({"__all__": True}, {"__all__": True}, [True, True], True),
        ({"a": True, "b": True, "__all__": False}, {"__all__": True}, [True, True], True),
        ({"a": True, "__all__": True}, {"a": True, "b": True, "__all__": True}, [True, False], False),
        ({"a": True}, {"b": True}, [True, False], False),
        ({"a": True}, {"__all__": True}, [True, False], False),
        ({"__all__": np.True_}, {"__all__": np.array(True)}, [True, True], True),
    ],
)
def test_ends_of_each_and_of_all_in_rllib(ends, cuts, left, terminated):
    """An agent's own flags count; "__all__" is for those without. Termination comes first at both."""
    team = PettingZooTeam(1, env=Flags, ends=ends, cuts=cuts)
    team.reset(0)
    step = team.step(np.zeros((1, 2), np.int64))
    assert step.left[0].tolist() == left
    assert (step.terminated[0], step.truncated[0]) == (terminated, not terminated)


# States


def with_state(value):
    class Stateful(games.Game):
        def state(self):
            return value(self) if callable(value) else value

    return Stateful


@kinds
@pytest.mark.parametrize(
    "value",
    [
        [1, 2, 3],
        np.array([[1.0], [2.0], [3.0]]),
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([1.0, 2.0, 3.0], requires_grad=True),
        (True, 2, 3.0),
    ],
    ids=repr,
)
def test_states_of_any_type(kind, value):
    team = PettingZooTeam(2, env=KINDS[kind](with_state(value)))
    assert team.spec.state_size == 3
    assert team.reset(0).state.tolist() == [[1.0, 2.0, 3.0]] * 2


@kinds
@pytest.mark.parametrize("value", [None, "attribute", "property"])
def test_without_a_state_it_is_all_observations(kind, value):
    class Attribute(games.Game):
        state = {"ann": 1}  # noqa: RUF012

    class Property(games.Game):
        @property
        def state(self):
            return np.zeros(7)

    game = {"attribute": Attribute, "property": Property}.get(value) or with_state(value)
    team, plain = PettingZooTeam(1, env=KINDS[kind](game)), PettingZooTeam(1, env=games.Game)
    np.testing.assert_array_equal(team.reset(0).state, plain.reset(0).state)


@kinds
@pytest.mark.parametrize("late", [False, True], ids=["at reset", "at a step"])
@pytest.mark.parametrize("value", [{"x": np.zeros(3)}, [[1.0], [1.0, 2.0]], "here", [], [None, 1]], ids=repr)
def test_what_is_no_state_is_refused(kind, value, late):
    with pytest.raises(TeamEnvError, match=r"state\(\) of .* gave .*Let it return an array of numbers"):
        team = PettingZooTeam(1, env=KINDS[kind](with_state(lambda g: np.zeros(3) if late and not g.time else value)))
        team.reset(0)
        team.step(STAY)


@pytest.mark.parametrize("value", [None, np.zeros(4)])
def test_a_state_that_changes_is_refused(value):
    team = PettingZooTeam(1, env=with_state(lambda g: value if g.time else np.zeros(3)))
    team.reset(0)
    with pytest.raises(TeamEnvError, match=r"state\(\) (of Stateful gave None|has 4 entries, but had 3)"):
        team.step(STAY)


def test_a_classic_game_that_keeps_its_records_in_state():
    team = PettingZooTeam(1, env=rps_v2.parallel_env)
    assert team.spec.state_size == sum(team.spec.obs_sizes)
    team.reset(0)
    team.step(np.zeros((1, 2), np.int64))


def test_a_fault_within_state_is_not_taken_for_its_absence():
    with pytest.raises(
        TeamEnvError, match=r"state\(\) of Stateful raised TypeError: 'int' object is not subscriptable"
    ):
        PettingZooTeam.team_spec(env=with_state(lambda g: g.time[0]))


# The older API


@kinds
@pytest.mark.parametrize("agents", [("ann", "bob", "cleo"), ("ann", "bob")])
def test_reset_with_observations_only_is_told(kind, agents):
    class Old(games.Game):
        def reset(self, seed=None, options=None):
            return {agent: super(Old, self).reset(seed)[0][agent] for agent in agents}

    class OldRLlib(Flags):
        def reset(self, *, seed=None, options=None):
            return self.seen()

    env, settings = (Old, {}) if kind == "PettingZoo" else (OldRLlib, {"ends": {}, "cuts": {}})
    with pytest.raises(TeamEnvError, match=r"reset\(\) of Old.* must return two dictionaries.*but returned \{'a"):
        PettingZooTeam.team_spec(env=env, **settings)


@kinds
def test_step_with_four_values_is_told(kind):
    class Old(games.Game):
        def step(self, actions):
            obs, rewards, ends, _, infos = super().step(actions)
            return obs, rewards, ends, infos

    class OldRLlib(Flags):
        def step(self, actions):
            return super().step(actions)[:4]

    env, settings = (Old, {}) if kind == "PettingZoo" else (OldRLlib, {"ends": {}, "cuts": {}})
    team = PettingZooTeam(1, env=env, **settings)
    team.reset(0)
    with pytest.raises(TeamEnvError, match=r"step\(\) of Old.* must return five .*but returned 4 values"):
        team.step(np.ones((1, team.spec.num_agents), np.int64))


@kinds
@pytest.mark.parametrize("empty", [None, {}, {"ann": None}, {"ann": "nothing"}], ids=repr)
def test_infos_may_be_nothing(kind, empty):
    class Silent(games.Game):
        def reset(self, seed=None, options=None):
            return super().reset(seed)[0], empty

        def step(self, actions):
            return *super().step(actions)[:4], empty

    class SilentRLlib(Flags):
        def reset(self, *, seed=None, options=None):
            return self.seen(), empty

        def step(self, actions):
            return *super().step(actions)[:4], empty

    env, settings = (Silent, {}) if kind == "PettingZoo" else (SilentRLlib, {"ends": {}, "cuts": {}})
    team = PettingZooTeam(1, env=env, **settings)
    assert team.reset(0).masks.all()
    assert team.step(np.ones((1, team.spec.num_agents), np.int64)).masks.all()


def test_infos_of_another_type_are_told():
    class Listed(games.Game):
        def infos(self, agents=None):
            return [{}]

    with pytest.raises(TeamEnvError, match=r"the infos of reset\(\) of Listed must be a dictionary by agent"):
        PettingZooTeam.team_spec(env=Listed)


def test_an_environment_without_close():
    game = games.Game()
    env = SimpleNamespace(possible_agents=game.possible_agents, observation_space=game.observation_space)
    env.action_space, env.step = game.action_space, game.step

    def reset(seed=None, options=None):
        answer = game.reset(seed, options)
        env.agents = game.agents
        return answer

    env.reset = reset
    assert PettingZooTeam.team_spec(env=lambda: env).num_agents == 3
    team = PettingZooTeam(1, env=lambda: env)
    team.reset(0)
    team.close()


# Ids


@pytest.mark.parametrize("ids", [(0, 1, 2), (("red", 0), ("red", 1), ("blue", 0)), ("åsa", "böb", "名前")])
def test_agents_are_called_by_str_of_their_ids(ids):
    class Named(games.Game):
        def __init__(self):
            super().__init__()
            self.names = dict(zip(ids, self.possible_agents, strict=True))
            self.possible_agents = list(ids)

        def observation_space(self, agent):
            return super().observation_space(self.names[agent])

        def action_space(self, agent):
            return super().action_space(self.names[agent])

        def observe(self, agent):
            return np.full((2, 2), self.place[agent], np.float32)

    team = PettingZooTeam(2, env=Named)
    assert team.spec.agents == tuple(map(str, ids))
    step = team.reset(0)
    for _ in range(30):
        assert step.active.all()
        step = team.step(np.ones((2, 3), np.int64))


@pytest.mark.parametrize("ids", [[], [1, "1"], ["a", "a"]])
def test_agents_must_have_distinct_names(ids):
    class Odd(games.Game):
        def __init__(self):
            super().__init__()
            self.possible_agents = ids

    with pytest.raises(ValueError, match=r"possible_agents of Odd is \[.*under distinct names"):
        PettingZooTeam.team_spec(env=Odd)


# Agents


def with_agents(listed):
    """A game whose agents are listed by what `listed` makes of their ids."""

    class Listed(games.Game):
        def __init__(self, length):
            super().__init__(length)
            self.possible_agents = listed(self.possible_agents)

        def reset(self, seed=None, options=None):
            answer = super().reset(seed)
            self.agents = listed(self.agents)
            return answer

        def step(self, actions):
            self.agents = list(self.agents)
            answer = super().step(actions)
            self.agents = listed(self.agents)
            return answer

    return Listed


@pytest.mark.parametrize("listed", [np.array, tuple, dict.fromkeys])
def test_lists_of_agents_of_any_type(listed):
    team, plain = PettingZooTeam(1, env=with_agents(listed), length=3), PettingZooTeam(1, env=games.Game, length=3)
    assert team.spec.agents == plain.spec.agents
    team.reset(0), plain.reset(0)
    for _ in range(5):
        one, other = team.step(STAY), plain.step(STAY)
        np.testing.assert_array_equal(one.obs, other.obs)
        np.testing.assert_array_equal(one.truncated, other.truncated)


@kinds
@pytest.mark.parametrize("listed", [3, "ann", lambda: ["ann"]], ids=["number", "name", "function"])
def test_what_is_no_list_of_agents_is_refused(kind, listed):
    class Unlisted(games.Game):
        def __init__(self):
            super().__init__()
            self.possible_agents = listed

    class UnlistedFlags(Flags):
        def __init__(self, config):
            super().__init__({"ends": {}, "cuts": {}})
            self.possible_agents = listed

    with pytest.raises(ValueError, match=r"possible_agents of Unlisted.* is .*list all agents that ever appear"):
        PettingZooTeam(1, env=Unlisted if kind == "PettingZoo" else UnlistedFlags)


def test_a_game_that_never_says_who_acts_is_refused():
    class Silent(games.Game):
        def reset(self, seed=None, options=None):
            answer = super().reset(seed)
            del self.agents
            return answer

    with pytest.raises(TeamEnvError, match="`agents` of Silent is missing"):
        PettingZooTeam(1, env=Silent)


def test_an_rllib_environment_need_not_say_who_acts():
    class Quiet(Flags):
        def __init__(self, config):
            super().__init__(config)
            self.agents = []

    team = PettingZooTeam(1, env=Quiet, ends={}, cuts={})
    assert team.reset(0).active.all()


@pytest.mark.parametrize("flag", [(("bob",), ()), ((), ("bob",))], ids=["terminated", "truncated"])
def test_agents_that_have_ended_must_leave_agents(flag):
    class Staying(ending(*flag)):
        def step(self, actions):
            answer = super().step(actions)
            self.agents = list(self.possible_agents)
            return answer

    team = PettingZooTeam(1, env=Staying)
    team.reset(0)
    with pytest.raises(TeamEnvError, match="agent 'bob' has terminated or was truncated, and is still among `agents`"):
        team.step(STAY)


@kinds
@pytest.mark.parametrize("value", ["no", None, 2, [0, 1], {}], ids=repr)
@pytest.mark.parametrize("which", [2, 3], ids=["termination", "truncation"])
def test_ends_are_true_or_false(kind, which, value):
    class Unclear(games.Game if kind == "PettingZoo" else Flags):
        def step(self, actions):
            answer = list(super().step(actions))
            answer[which] = dict.fromkeys(answer[0], value)
            return tuple(answer)

    settings = {} if kind == "PettingZoo" else {"ends": {}, "cuts": {}}
    team = PettingZooTeam(1, env=Unclear, **settings)
    team.reset(0)
    what = ["termination", "truncation"][which - 2]
    with pytest.raises(TeamEnvError, match=f"the {what} of agent 'a(nn)?' is .*True or False"):
        team.step(np.zeros((1, team.spec.num_agents), np.int64))


def test_ends_of_other_types_count():
    class Typed(games.Game):
        def step(self, actions):
            obs, rewards, _, _, infos = super().step(actions)
            self.agents = ["cleo"]
            return (
                obs,
                rewards,
                {"ann": 1, "bob": np.array([True]), "cleo": torch.tensor(0)},
                dict.fromkeys(obs, 0),
                infos,
            )

    team = PettingZooTeam(1, env=Typed)
    team.reset(0)
    assert team.step(STAY).left.tolist() == [[True, True, False]]
