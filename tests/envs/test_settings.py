"""Settings of environments: every suite refuses names, kinds and ranges by name instead of changing its meaning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorasa_rllib.envs.known_team import KnownTeam
from lorasa_rllib.envs.registry import ENVIRONMENTS, environment_class, make_environment
from lorasa_rllib.envs.settings import flag, number, time_limit, whole_number
from tests.envs.games import Game

LEAST = {"pettingzoo": {"env": Game}, "smax": {"map_name": "3m"}}

BAD = {
    "synthetic": [
        ({"num_agents": "3"}, "num_agents='3' must be a whole number of at least 1"),
        ({"num_roles": 1.5}, "num_roles=1.5 must be a whole number of at least 0"),
        ({"discrete": "false"}, "discrete='false' must be True or False"),
        ({"episode_length": 10.5}, "episode_length=10.5 must be a whole number"),
        ({"difference": "x"}, "difference='x' must be a number from 0 to 1"),
        ({"termination": float("nan")}, "termination=nan must be a number from 0 to 1"),
        ({"episode_len": 3}, "the setting 'episode_len' is unknown; did you mean 'episode_length'"),
    ],
    "pettingzoo": [
        ({"max_episode_steps": 5.5}, "max_episode_steps=5.5 must be a whole number of at least 1, or None"),
        ({"max_episode_steps": "5"}, "max_episode_steps='5' must be"),
        ({"max_episode_steps": True}, "max_episode_steps=True must be"),
        ({"metrics_key": ["a"]}, r"metrics_key=\['a'\] must be a name"),
        ({"first_seed": 3}, "env_config must not set 'first_seed'"),
    ],
    "mamujoco": [
        ({"max_episode_steps": 10.5}, "max_episode_steps=10.5 must be"),
        ({"agent_obsk": 1.5}, "agent_obsk=1.5 must be a number of joints"),
        ({"scenario": ["Ant"]}, r"scenario=\['Ant'\] is unknown"),
        ({"local_categories": [["qpos"], ["qposs"]]}, "local_categories: 'qposs' is unknown; did you mean 'qpos'"),
        ({"local_categories": ["qpos"]}, "local_categories=.* must be a list of lists"),
        (
            {"scenario": "Ant", "agent_conf": "4x2", "include_cfrc_ext_in_observation": False},
            "include_cfrc_ext_in_observation=False leaves out what agents observe .* local_categories=",
        ),
        ({"local_categories": [["qpos"]]}, "must have 2 lists, one for each distance from 0 to agent_obsk=1"),
        ({"global_categories": "qpos"}, "global_categories='qpos' must be a list"),
        ({"frame_skip": 2.5}, "frame_skip=2.5 must be a whole number"),
        ({"ctrl_cost_weight": "x"}, "ctrl_cost_weight='x' must be a number"),
        ({"reset_noise_scale": float("nan")}, "reset_noise_scale=nan must be a number"),
        ({"exclude_current_positions_from_observation": "no"}, "must be True or False"),
    ],
    "smax": [
        ({"map_name": ["3m"]}, r"map_name=\['3m'\] must be the name of one map"),
        ({"max_episode_step": 3}, "'max_episode_step' of env_config; did you mean 'max_episode_steps'"),
        ({"max_episode_steps": 10.5}, "max_episode_steps=10.5 must be"),
        ({"state": "agent", "death_mask": "no"}, "death_mask='no' must be True or False"),
    ],
    "vmas": [
        ({"scenario": "navigtion"}, "scenario='navigtion' is unknown to VMAS"),
        ({"scenario": ["navigation"]}, r"scenario=\['navigation'\] is unknown to VMAS"),
        ({"max_episode_steps": 10.5}, "max_episode_steps=10.5 must be a whole number of at least 1"),
        ({"max_episode_steps": "5"}, "max_episode_steps='5' must be"),
        ({"continuous_actions": "false"}, "continuous_actions='false' must be True or False"),
        ({"multidiscrete_actions": 1}, "multidiscrete_actions=1 must be True or False"),
        ({"n_agent": 3}, "refuses these options"),
    ],
}
FOR_ALL = [({"id_capacity": 9.5}, "id_capacity=9.5 must be"), ({"num_envs": 3}, "env_config must not set 'num_envs'")]


@pytest.mark.parametrize("name", BAD)
def test_settings_of_the_wrong_kind_are_refused_by_name(name):
    for settings, message in [*BAD[name], *FOR_ALL]:
        with pytest.raises(ValueError, match=message):
            KnownTeam.of(name, LEAST.get(name, {}) | settings)
        with pytest.raises(ValueError, match=message):
            make_environment(name, 1, LEAST.get(name, {}) | settings)


def test_every_suite_is_tested():
    assert set(BAD) | {"smac", "smacv2"} == set(ENVIRONMENTS)  # those have their own, see test_starcraft.py


@pytest.mark.parametrize("name", BAD)
def test_numbers_of_numpy_and_whole_floats_are_whole_numbers(name):
    kind, least = environment_class(name), LEAST.get(name, {})
    plain = kind.team_spec(**least, id_capacity=20)
    assert kind.team_spec(**least, id_capacity=np.int64(20)) == plain == kind.team_spec(**least, id_capacity=20.0)
    assert type(kind.team_spec(**least, id_capacity=np.int32(20)).id_capacity) is int
    if name != "synthetic":
        limited = make_environment(name, 1, {**least, "max_episode_steps": np.int64(3)}, 0)
        step, steps = limited.reset(0), 0
        none = np.zeros((1, plain.num_agents, *[plain.action_size] * plain.continuous), np.float32)
        actions = none if plain.continuous else none.astype(np.int64)
        actions = actions if limited.device is None else torch.from_numpy(actions)
        while not len(step.ended):
            actions = actions if step.masks is None else step.masks.argmax(-1)
            step, steps = limited.step(actions), steps + 1
        assert steps == 3
        limited.close()


def test_a_setting_that_looks_like_one_of_ours_is_pointed_out(caplog):
    def forgiving(**settings):
        return Game()

    KnownTeam.of("pettingzoo", {"env": forgiving, "team_rewards": "mean", "width": 3})
    assert "'team_rewards', which is handed to the environment; did you mean 'team_reward'" in caplog.text
    assert "width" not in caplog.text


def test_the_checks_say_what_they_take():
    assert (whole_number("n", 3.0), time_limit(None), flag("f", np.True_), number("x", 1)) == (3, None, True, 1.0)
    for check in (whole_number, flag, number):
        for bad in (None, "1", [1], 1j):
            with pytest.raises(ValueError, match=r"name=.* must be"):
                check("name", bad)
