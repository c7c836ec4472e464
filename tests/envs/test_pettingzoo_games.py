"""Making one copy: what is wrong with a name, with settings or with a constructor is said, and whose fault it is."""

from __future__ import annotations

import functools
import sys

import gymnasium
import numpy as np
import pytest
from pettingzoo.test.example_envs import generated_agents_parallel_v0
from pettingzoo.utils import BaseParallelWrapper, aec_to_parallel
from ray.rllib.env.env_context import EnvContext

from lorasa_rllib.envs.base import Worker
from lorasa_rllib.envs.pettingzoo import PettingZooTeam
from lorasa_rllib.envs.pettingzoo_games import make_game
from lorasa_rllib.envs.rllib_game import RLlibGame
from tests.envs import games
from tests.envs.rllib_twin import as_multi_agent


class Plain(games.Game):
    def __init__(self, size=3):
        super().__init__()


class Needs(games.Game):
    def __init__(self, size):
        super().__init__()


class Faulty(games.Game):
    def __init__(self, size=3):
        len(5)


class FaultyInside(games.Game):
    def __init__(self, size=3):
        self.helper(size=size)

    def helper(self):
        pass


def handed_on(**settings):
    return Plain(**settings)


@pytest.mark.parametrize(
    ("env", "settings", "message"),
    [
        (Plain, {"colour": 1}, r"does not take the settings \['colour'\].*unexpected keyword argument 'colour'"),
        (handed_on, {"colour": 1}, r"does not take the settings \['colour'\]"),
        (Needs, {}, r"needs settings: .*missing 1 required positional argument: 'size'.*env_config"),
        ("mpe2.simple_spread_v3", {"n": 3}, r"does not take the settings \['n'\]"),
    ],
)
def test_settings_that_an_environment_does_not_take(env, settings, message):
    with pytest.raises(ValueError, match=message):
        make_game(env, settings)


@pytest.mark.parametrize("settings", [{}, {"size": 4}])
def test_a_constructors_own_error_comes_as_it_is(settings):
    with pytest.raises(TypeError, match="object of type 'int' has no len"):
        make_game(Faulty, settings)


def test_an_error_about_a_setting_within_a_constructor_keeps_its_cause():
    with pytest.raises((TypeError, ValueError), match="unexpected keyword argument 'size'") as caught:
        make_game(FaultyInside, {"size": 4})
    assert caught.value.__cause__ is not None or caught.type is TypeError


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            "pettingzoo.butterfly.knights_archers_zombies_v10",
            "has pettingzoo.butterfly.knights_archers_zombies_v11 ins",
        ),
        ("mpe2.simple_spread_v2", "This package has mpe2.simple_spread_v3 instead"),
        ("mpe2.simple_spread", "This package has mpe2.simple_spread_v3 instead"),
        ("mpe2.simple_spraed_v3", "The package 'mpe2' is installed, but has no such module"),
        ("pettingzoo.classic.tictactoe_v3", r"takes turns \(AEC\).*aec_to_parallel"),
        ("no_such_package.game_v1", "Install the package that has the module 'no_such_package'; if it is your own"),
        ("pettingzoo.utils", "cannot be imported.*has no attribute 'parallel_env'"),
        ("games/mine.py:Game", 'A file is named as a module: "mine:Class", with its folder on PYTHONPATH'),
        (games.Game(), "Game is one copy.*hand over its class"),
        (aec_to_parallel, r"called with the dictionary of settings.*lambda: aec_to_parallel\(MyEnv\(\)\)"),
        (functools.partial(aec_to_parallel), r"lambda: aec_to_parallel\(MyEnv\(\)\)"),
        (BaseParallelWrapper, r"needs settings: .*'env'"),
        (lambda: games.Game, "returned the class Game, not an environment"),
        (lambda: None, "returned None"),
        (lambda: gymnasium.make("CartPole-v1"), "makes an environment of Gymnasium, TimeLimit.*PPO"),
        (lambda: 5, "neither a PettingZoo parallel.*what it makes, of type int, has no possible_agents, reset, step"),
    ],
    ids=lambda x: x if isinstance(x, str) else "instance",
)
def test_the_remedy_fits_the_name(env, message):
    with pytest.raises(ValueError, match=message):
        make_game(env, {})


def test_modules_are_found_under_the_name_that_their_package_gives_them():
    team = PettingZooTeam(2, env="gymnasium_robotics.mamujoco_v1", scenario="HalfCheetah", agent_conf="2x3")
    assert team.spec.num_agents == 2 and team.spec.action_sizes == (3, 3)
    team.reset(seed=0)
    assert np.isfinite(team.step(np.zeros((2, 2, 3), np.float32)).obs).all()
    team.close()
    with pytest.raises(ValueError, match=r"'gymnasium_robotics' is installed, but has no such module"):
        make_game("gymnasium_robotics.GoalEnv", {})


def test_reset_without_a_seed_is_told():
    class Seedless(games.Game):
        def reset(self):
            return super().reset()

    with pytest.raises(ValueError, match=r"reset\(\) of env=.*takes no seed"):
        make_game(Seedless, {})


@pytest.mark.parametrize("takes", ["", "seed=None", "options=None"])
def test_reset_of_rllib_without_seed_and_options_is_told(takes):
    base = as_multi_agent(games.Game)
    old = type("Old", (base,), {"reset": eval(f"lambda self, {takes}: ({{}}, {{}})")})
    with pytest.raises(ValueError, match=r"reset\(\) of env=.*RLlib calls reset\(seed=None, options=None\)"):
        make_game(old, {})


def test_a_game_that_lists_no_agents_in_advance_is_told():
    with pytest.raises(ValueError, match="has no possible_agents, but the agents of a policy are known before"):
        make_game(generated_agents_parallel_v0.parallel_env, {})


class Configured(games.Game):
    def __init__(self, config):
        super().__init__()
        self.config = config


class Optional(games.Game):
    def __init__(self, config=None):
        super().__init__()
        self.config = config


WORKER = Worker(2, num_workers=3, num_envs=4, recreated_worker=True, in_evaluation=True)


@pytest.mark.parametrize(
    "env",
    [
        Configured,
        Optional,
        lambda config: Configured(config),
        lambda c: Configured(c),
        lambda env_config=None: Configured(env_config),
        as_multi_agent(games.Game),
    ],
)
def test_constructors_of_one_dictionary_learn_whose_copy_they_make(env):
    settings = {"length": 7}
    game = make_game(env, settings, WORKER, 1)
    config = game.env.config if isinstance(game, RLlibGame) else game.config
    assert isinstance(config, EnvContext) and config == settings
    assert {name: getattr(config, name) for name in vars(WORKER)} == vars(WORKER)
    assert (config.vector_index, config.remote) == (1, False)
    assert config.copy_with_overrides(worker_index=9).worker_index == 9


def test_a_dictionary_that_is_a_setting_of_its_own_stays_one():
    assert make_game(Optional, {"config": {"size": 3}}).config == {"size": 3}
    assert make_game(Configured, {"config": {"size": 3}}).config == {"size": 3}
    assert make_game(Optional, {}).config == {}


def test_without_ray_the_dictionary_has_the_same_attributes(monkeypatch):
    monkeypatch.delitem(sys.modules, "ray.rllib.env.env_context")
    config = make_game(lambda config: Configured(config), {"size": 3}, WORKER, 1).config
    assert not isinstance(config, EnvContext) and config == {"size": 3}
    assert {name: getattr(config, name) for name in vars(WORKER)} == vars(WORKER)
    assert (config.vector_index, config.remote) == (1, False)
