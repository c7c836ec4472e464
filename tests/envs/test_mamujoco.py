"""MAMuJoCo equals the library step for step, and fails early on bad input."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from lorasa_rllib.envs.mamujoco import MAMuJoCo
from lorasa_rllib.envs.mamujoco_library import FACTORISATIONS, make_library_environment
from tests.envs.mamujoco_twin import random_actions, steps_equal_to_library

EVERY = [(scenario, conf) for scenario, confs in FACTORISATIONS.items() for conf in confs]
EVERY += [
    ("ManySegmentSwimmer", "4x2"),
    ("ManySegmentSwimmer", "3x1"),
    ("ManySegmentAnt", "2x2"),
    ("HalfCheetah", None),
]


@pytest.mark.parametrize("obsk", [0, 1, 2])
@pytest.mark.parametrize(("scenario", "conf"), EVERY)
def test_observations_rewards_and_ends_equal_the_librarys(scenario, conf, obsk):
    env = MAMuJoCo(2, scenario=scenario, agent_conf=conf, agent_obsk=obsk, max_episode_steps=25)
    library = [make_library_environment(scenario, conf, obsk) for _ in range(2)]
    assert steps_equal_to_library(env, library, limit=25, steps=60) >= 4
    env.close()


def test_global_observations_are_the_state_for_every_agent():
    env = MAMuJoCo(2, scenario="Walker2d", agent_conf="2x3", obs="global", max_episode_steps=3)
    step = env.reset(seed=0)
    for _ in range(7):
        np.testing.assert_array_equal(step.obs, np.broadcast_to(step.state[:, None], step.obs.shape))
        step = env.step(np.zeros((2, 2, 3), np.float32))
        if len(step.ended):
            np.testing.assert_array_equal(step.final_obs, np.repeat(step.final_state[:, None], 2, axis=1))


def test_the_time_limit_of_the_task_is_the_default():
    env = MAMuJoCo(1, scenario="Reacher", agent_conf="2x1")
    env.reset(seed=0)
    ends = [env.step(np.zeros((1, 2, 1), np.float32)).truncated[0] for _ in range(100)]
    assert np.flatnonzero(ends).tolist() == [49, 99]


def test_a_seed_fixes_everything_and_copies_differ():
    def play(seed):
        env = MAMuJoCo(2, scenario="Hopper", agent_conf="3x1", max_episode_steps=6)
        rng, seen = np.random.default_rng(0), [env.reset(seed).obs.copy()]
        for _ in range(15):
            seen.append(env.step(random_actions(env, rng)).obs.copy())
        return np.stack(seen)

    np.testing.assert_array_equal(play(3), play(3))
    assert np.abs(play(3) - play(4)).max() > 0
    assert np.abs(play(3)[0, 0] - play(3)[0, 1]).max() > 0


BAD = {
    "scenario": ({"scenario": "HalfCheeta"}, "scenario='HalfCheeta'.*HalfCheetah"),
    "factorisation": ({"scenario": "Ant", "agent_conf": "8x1"}, "agent_conf='8x1'.*4x2"),
    "segments": ({"scenario": "ManySegmentSwimmer", "agent_conf": "4"}, "agent_conf='4'"),
    "one segment": ({"scenario": "ManySegmentSwimmer", "agent_conf": "1x1"}, "at least 2"),
    "coupled": ({"scenario": "CoupledHalfCheetah", "agent_conf": "1p1"}, "mujoco > 3.5"),
    "obs": ({"obs": "all"}, "obs='all'"),
    "obsk": ({"agent_obsk": None}, "agent_obsk=None.*global"),
    "negative obsk": ({"agent_obsk": -1}, "agent_obsk=-1"),
    "limit": ({"max_episode_steps": 0}, "max_episode_steps=0"),
    "threads": ({"threads": 0}, "threads=0 must be a whole number of at least 1"),
    "misspelt": (
        {"agentobsk": 1},
        "setting 'agentobsk'; did you mean 'agent_obsk'.*scenario, agent_conf, obs, agent_obsk",
    ),
    "misspelt, segmented": (
        {"scenario": "ManySegmentSwimmer", "agent_conf": "2x2", "max_episode_step": 9},
        "setting 'max_episode_step'; did you mean 'max_episode_steps'",
    ),
    "misspelt, the task's": ({"frame_skp": 3}, "setting 'frame_skp'; did you mean 'frame_skip'.*to HalfCheetah-v5 are"),
    "nothing like it": ({"zzz": 1}, r"unknown setting 'zzz'\. Settings of the environment are scenario"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_name_the_setting_and_the_choices(case):
    settings, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        MAMuJoCo.team_spec(**settings)


def test_settings_of_the_task_reach_it():
    options = {"frame_skip": 3, "ctrl_cost_weight": 0.7, "global_categories": ("qpos",)}
    env = MAMuJoCo(1, **options)
    task = env._library[0].single_agent_env.unwrapped
    assert (task.frame_skip, task._ctrl_cost_weight, env._library[0].global_categories) == (3, 0.7, ("qpos",))


def test_segmented_scenarios_leave_no_files_and_do_not_race():
    from gymnasium_robotics.envs import multiagent_mujoco

    assets = Path(multiagent_mujoco.__file__).parent / "assets"
    before, errors = sorted(os.listdir(assets)), []

    def build():
        try:
            MAMuJoCo(2, scenario="ManySegmentSwimmer", agent_conf="5x2").reset(seed=0)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors and sorted(os.listdir(assets)) == before
