"""RLlib's MultiAgentEnv: as a game of PettingZoo it is the same team, and what takes turns is refused."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from ray.rllib.env.multi_agent_env import MultiAgentEnv, make_multi_agent

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.envs.pettingzoo import PettingZooTeam
from lorasa_rllib.envs.registry import environment_class
from lorasa_rllib.envs.rllib_game import RLlibGame
from tests.envs import games
from tests.envs.rllib_twin import as_multi_agent
from tests.envs.test_pettingzoo import random_actions

TWINS = {
    "plain": games.Game,
    "leavers": games.Leavers,
    "continuous": games.Continuous,
    "masked": games.Masked,
    "masked in infos": games.MaskedInInfos,
}


@pytest.mark.parametrize("team_reward", [None, "sum"])
@pytest.mark.parametrize("only_all", [False, True], ids=["each", "__all__"])
@pytest.mark.parametrize("name", TWINS)
@given(seed=st.integers(0, 1000), length=st.integers(1, 9))
def test_the_same_team_as_in_pettingzoo(name, only_all, team_reward, seed, length):
    options = {"length": length, "team_reward": team_reward}
    team = PettingZooTeam(2, env=TWINS[name], **options)
    twin = PettingZooTeam(2, env=as_multi_agent(TWINS[name], only_all), **options)
    assert twin.spec.agents == ("0", "1", "2")
    for field in ("obs_sizes", "action_sizes", "action_low", "action_high", "state_size", "has_masks"):
        assert getattr(team.spec, field) == getattr(twin.spec, field)
    rng, step, other = np.random.default_rng(seed), team.reset(seed), twin.reset(seed)
    for _ in range(25):
        same(step, other)
        masks = team.spec.action_mask()[None].repeat(2, 0) if step.masks is None else step.masks.copy()
        actions = random_actions(team.spec, rng, masks)
        step, other = team.step(actions), twin.step(actions)


def same(step, other):
    for field, array in vars(step).items():
        np.testing.assert_array_equal(array, getattr(other, field), err_msg=field)


def test_those_who_terminate_need_no_last_observation():
    team = PettingZooTeam(1, env=games.Leavers)
    twin = PettingZooTeam(1, env=as_multi_agent(games.Leavers, forgetful=True))
    step, other = team.reset(0), twin.reset(0)
    for _ in range(40):
        np.testing.assert_array_equal(step.obs, other.obs)
        np.testing.assert_array_equal(step.rewards, other.rewards)
        np.testing.assert_array_equal(step.terminated, other.terminated)
        actions = np.full((1, 3), 2)  # to the end of the line, where they leave
        step, other = team.step(actions), twin.step(actions)


class Pair(MultiAgentEnv):
    """Two agents; `script` says who is given an observation after how many steps, and who has terminated."""

    def __init__(self, config):
        super().__init__()
        self.script, self.ends = config["script"], config.get("ends", {})
        self.possible_agents = config.get("agents", ["a", "b"])
        self.agents = list(self.possible_agents)

    def get_observation_space(self, agent_id):
        return spaces.Box(0, 1, (2,), np.float32)

    def get_action_space(self, agent_id):
        return spaces.Discrete(2)

    def seen(self):
        return {agent: np.full(2, self.time / 9, np.float32) for agent in self.script[self.time]}

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self.seen(), {}

    def step(self, actions):
        self.time += 1
        ends = {agent: True for agent in self.ends.get(self.time, ())} | {"__all__": False}
        return self.seen(), dict.fromkeys("ab", 1.0), ends, {"__all__": False}, {}


def play(steps=3, **config):
    team = PettingZooTeam(1, env=Pair, **config)
    step = team.reset(0)
    return [step.active[0].tolist()] + [team.step(np.ones((1, 2), np.int64)).active[0].tolist() for _ in range(steps)]


@pytest.mark.parametrize(
    ("script", "ends", "message"),
    [
        (
            ["a", "b"],
            {},
            r"agent 'b' is in `agents` after reset\(\) but was given no observation, only \['a'\].*take turns",
        ),
        (["ab", "a"], {}, r"agent 'b' is alive.*set terminateds\[agent\]"),
        (["ab", "ab", "ab"], {1: "b"}, "agent 'b' has terminated or was truncated, and yet"),
        (["ab", "abc"], {}, "agent 'c' was given an observation, but is not one of the possible_agents"),
        ([""], {}, r"agent 'a' is in `agents` after reset\(\) but was given no observation"),
    ],
)
def test_what_cannot_be_learned_is_refused(script, ends, message):
    with pytest.raises(TeamEnvError, match=message):
        play(script=script, ends=ends)


def test_agents_leave_one_by_one():
    assert play(2, script=["ab", "ab", "a"], ends={1: "b"}) == [[True, True], [True, False], [True, False]]


def test_agents_join_when_they_are_first_seen():
    class Latecomers(Pair):
        def reset(self, *, seed=None, options=None):
            obs, infos = super().reset()
            self.agents = list(obs)
            return obs, infos

    team = PettingZooTeam(1, env=Latecomers, script=["a", "a", "ab", "ab"], ends={})
    active = [team.reset(0).active[0].tolist()]
    active += [team.step(np.ones((1, 2), np.int64)).active[0].tolist() for _ in range(3)]
    assert active == [[True, False]] * 2 + [[True, True]] * 2


def test_agents_must_be_listed():
    for agents in ([], [1, "1"]):
        with pytest.raises(ValueError, match=r"agents of Pair is \[.*list all agents"):
            PettingZooTeam.team_spec(env=Pair, script=[""], agents=agents)


@pytest.mark.parametrize("which", ["observation_space", "action_space"])
def test_spaces_under_keys_that_are_not_the_ids_are_refused(which):
    class Keyed(MultiAgentEnv):
        def __init__(self, config):
            super().__init__()
            self.possible_agents = [0, 1]
            one = {"observation_space": spaces.Box(0, 1, (2,)), "action_space": spaces.Discrete(2)}
            for name, space in one.items():
                keys = ("0", "1") if name == which and config["as_text"] else (0, 1)
                setattr(self, name, spaces.Dict(dict.fromkeys(keys, space)))

        def reset(self, *, seed=None, options=None):
            return {agent: np.zeros(2, np.float32) for agent in self.possible_agents}, {}

    with pytest.raises(
        ValueError, match=rf"{which} of Keyed has the keys \['0', '1'\], but the agents' ids are \[0, 1\]"
    ):
        PettingZooTeam.team_spec(env=Keyed, as_text=True)
    assert PettingZooTeam.team_spec(env=Keyed, as_text=False).obs_sizes == (2, 2)


def test_spaces_are_reported_by_agent():
    class Spaceless(Pair):
        def get_observation_space(self, agent_id):
            return {"a": spaces.Discrete(2)}[agent_id]

    class Odd(Pair):
        def get_observation_space(self, agent_id):
            return spaces.Box(0, 1, (3,))

    with pytest.raises(ValueError, match="no observation_space of agent 'b'"):
        PettingZooTeam.team_spec(env=Spaceless, script=["ab"])
    with pytest.raises(ValueError, match=r"agent 'a' was given the observation array.*its space is Box"):
        PettingZooTeam.team_spec(env=Odd, script=["ab"])


class Sized(Pair):
    """Settings by name."""

    def __init__(self, size=2):
        super().__init__({"script": ["ab"]})
        self.size = size


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        (Pair, {"script": ["ab"]}),
        (lambda config: Pair(config), {"script": ["ab"]}),
        (lambda c: Pair(c), {"script": ["ab"]}),
        (lambda script, agents="ab": Pair({"script": script, "agents": list(agents)}), {"script": ["ab"]}),
        (lambda **settings: Pair(settings), {"script": ["ab"]}),
        (lambda: Pair({"script": ["ab"]}), {}),
        (lambda env_config=None: Pair({"script": ["ab"], **env_config}), {}),
        (Sized, {}),
        (Sized, {"size": 7}),
        (f"{__name__}:Sized", {}),
    ],
)
def test_settings_reach_it_by_name_or_in_one_dictionary(env, settings):
    assert PettingZooTeam.team_spec(env=env, **settings).agents == ("a", "b")


def test_settings_that_it_does_not_take_are_named():
    with pytest.raises(ValueError, match=r"does not take the settings .'colour'."):
        PettingZooTeam.team_spec(env=Sized, colour=3)


def test_rllibs_own_copies_of_a_gymnasium_task():
    team = PettingZooTeam(2, env=make_multi_agent("CartPole-v1"), num_agents=3, team_reward="mean")
    assert team.spec.agents == ("0", "1", "2")
    step = team.reset(0)
    for _ in range(60):
        step = team.step(np.ones((2, 3), np.int64))
        assert np.isfinite(step.obs).all()
    team.close()


def test_a_reset_of_the_old_kind_is_refused():
    class Old(Pair):
        def reset(self, *, seed=None, options=None):
            return super().reset()[0]

    with pytest.raises(TeamEnvError, match="Old must return two dictionaries"):
        RLlibGame(Old({"script": ["ab"]})).reset()


@pytest.mark.parametrize("env", [Pair, "CartPole-v1", lambda config: Pair(config), None, ["mamujoco"]])
def test_an_unknown_environment_is_told_the_way(env):
    with pytest.raises(ValueError, match=r'MultiAgentEnv.*\.environment\("pettingzoo", env_config=\{"env": YourEnv'):
        environment_class(env)
