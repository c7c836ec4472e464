"""Environments as users of RLlib and PettingZoo have them go straight into `.environment(...)`."""

from __future__ import annotations

import functools
import sys
from types import ModuleType

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from mpe2 import simple_spread_v3
from pettingzoo import ParallelEnv
from ray import tune
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv

from lorasa_rllib import MAPPO, MAPPOConfig, load_policy
from lorasa_rllib.envs.synthetic import SyntheticTeam

OBS, ACTION = Box(-1, 1, (3,)), Discrete(3)


class Game(ParallelEnv):
    """`size` agents, four steps."""

    def __init__(self, size=2):
        self.possible_agents = [f"agent_{n}" for n in range(size)]

    def observation_space(self, agent):
        return OBS

    def action_space(self, agent):
        return ACTION

    def _seen(self):
        return dict.fromkeys(self.possible_agents, np.zeros(3, np.float32))

    def reset(self, seed=None, options=None):
        self.agents, self.time = list(self.possible_agents), 0
        return self._seen(), {}

    def step(self, actions):
        self.time += 1
        rewards, over = {agent: float(action == 1) for agent, action in actions.items()}, self.time == 4
        ends = dict.fromkeys(self.agents, False)
        cuts, self.agents = dict.fromkeys(self.agents, over), [] if over else self.agents
        return self._seen(), rewards, ends, cuts, {}


class WithConfig(Game):
    def __init__(self, config):
        super().__init__(config["size"])


class Multi(MultiAgentEnv):
    """The same for RLlib, with RLlib's only argument."""

    def __init__(self, config=None):
        super().__init__()
        self.game = Game((config or {}).get("size", 2))
        self.possible_agents = self.agents = self.game.possible_agents
        self.observation_spaces = dict.fromkeys(self.agents, OBS)
        self.action_spaces = dict.fromkeys(self.agents, ACTION)

    def reset(self, *, seed=None, options=None):
        return self.game.reset()

    def step(self, actions):
        obs, rewards, _, cuts, infos = self.game.step(actions)
        return obs, rewards, {"__all__": False}, {"__all__": all(cuts.values())}, infos


def make_game(config):
    return Game(config["size"])


def make_by_name(size):
    return Game(size)


@pytest.fixture(scope="module")
def registered():
    tune.register_env("a_game_of_mine", lambda config: ParallelPettingZooEnv(Game(config.get("size", 2))))
    tune.register_env("odd_parameters", lambda *arguments, unused=1: Multi(*arguments))
    return {"registered": "a_game_of_mine", "registered, odd parameters": "odd_parameters"}


def module():
    """A module as games of PettingZoo are."""
    made = ModuleType("a_game_v0")
    made.parallel_env = Game
    sys.modules[made.__name__] = made
    return made


ENVS = {
    "MultiAgentEnv": Multi,
    "ParallelEnv": Game,
    "ParallelEnv with one dictionary": WithConfig,
    "function": make_game,
    "function by name": make_by_name,
    "lambda": lambda config: Multi(config),
    "partial": functools.partial(Game),
    "module:name": f"{__name__}:Multi",
    "module": module(),
    "registered": None,
    "registered, odd parameters": None,
}


def ways(env):
    """A config with the environment, in every way to give one."""
    settings = {"size": 3}
    yield MAPPOConfig().environment(env, env_config=settings)
    yield MAPPOConfig().environment(env_config=settings).environment(env)
    yield MAPPOConfig().environment("synthetic").environment(env).environment(env_config=settings)
    yield MAPPOConfig().environment(Game).environment(env, env_config=settings)
    yield MAPPOConfig().update_from_dict({"env": env, "env_config": settings})
    by_attribute = MAPPOConfig().environment(env_config=settings)
    by_attribute.env = env
    yield by_attribute


@pytest.mark.parametrize("kind", ENVS)
def test_an_environment_is_found_and_given_its_settings(registered, kind):
    for config in ways(ENVS[kind] or registered[kind]):
        config.sharing("ps").validate()
        assert config.env == "pettingzoo"
        again = MAPPOConfig().update_from_dict(config.to_dict())
        for same in (config, config.copy(), again):
            assert sorted(same.team_spec().agents) == ["agent_0", "agent_1", "agent_2"]


def test_environments_of_this_package_stay_what_they_are(registered):
    tune.register_env("synthetic", lambda config: Multi(config))
    for env in ("synthetic", SyntheticTeam):
        config = MAPPOConfig().environment(Game).environment(env, env_config={"num_agents": 5})
        assert config.env == env and config.team_spec().num_agents == 5


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("CartPole-v1", "'CartPole-v1' is unknown.*register_env"),
        ("mamujco", "did you mean 'mamujoco'"),
        ("no.such.module", "'no.such.module' is unknown"),
        (Game(), "is one copy.*hand over its class, Game"),
        (3, "a class, a function.*not a int; its settings are a second argument"),
        ({"env": Game}, "a class, a function.*not a dict"),
        (simple_spread_v3.parallel_env(), "aec_to_parallel_wrapper is one copy.*the function that made it"),
        (simple_spread_v3.env(), r"one copy, and it takes turns \(AEC\).*aec_to_parallel"),
        (gymnasium.make("CartPole-v1"), "an environment of Gymnasium.*a single agent.*PPO"),
        (SyntheticTeam(1), "is one copy.*its class, SyntheticTeam"),
        (ParallelPettingZooEnv, r"wraps an environment.*lambda config: ParallelPettingZooEnv\(MyEnv"),
        (ParallelPettingZooEnv(Game()), "hand over the class of the environment inside"),
    ],
)
def test_what_is_no_environment_is_refused_at_the_call(env, message):
    with pytest.raises(ValueError, match=message):
        MAPPOConfig().environment(env)


def test_a_setting_that_would_take_the_place_of_the_environment_is_refused():
    with pytest.raises(ValueError, match="env_config has a setting 'env'"):
        MAPPOConfig().environment(Multi, env_config={"env": "forest"})


def quick(config):
    config.sharing("lora", schedule="joint", r=2).network(hidden_size=16)
    return config.training(train_batch_size=32, num_epochs=1).env_runners(num_envs_per_env_runner=2)


def test_a_registered_environment_trains_remotely_evaluates_and_comes_back(registered, build, tmp_path):
    config = quick(MAPPOConfig().environment(registered["registered"], env_config={"size": 3}))
    config.env_runners(num_env_runners=1)
    config.evaluation(evaluation_interval=1, evaluation_config={"env_config": {"size": 3}}, evaluation_duration=2)
    algo = build(config)
    result = algo.train()
    assert result["env_runners"]["num_env_steps_sampled"] == 32
    assert 0 <= result["evaluation"]["env_runners"]["episode_return_mean"] <= 12
    algo.save_to_path(tmp_path / "checkpoint")
    algo.save_policy(tmp_path / "policy")
    again = MAPPO.from_checkpoint(tmp_path / "checkpoint")
    assert again.train()["training_iteration"] == 2
    again.stop()
    game = Game(3)
    actions, _ = load_policy(tmp_path / "policy").act(game.reset()[0])
    assert set(actions) == set(game.possible_agents)


def test_build_algo_takes_an_environment(build):
    algo = quick(MAPPOConfig().environment(env_config={"size": 3})).build_algo(env=Multi)
    try:
        assert algo.train()["env_runners"]["num_env_steps_sampled"] == 32
    finally:
        algo.stop()
