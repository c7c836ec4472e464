"""MAMuJoCo equals the library step for step, and fails early on bad input."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from lorasa_rllib.envs.mamujoco import MAMuJoCo
from lorasa_rllib.envs.mamujoco_library import FACTORISATIONS, make_library_environment

EVERY = [(scenario, conf) for scenario, confs in FACTORISATIONS.items() for conf in confs]
EVERY += [
    ("ManySegmentSwimmer", "4x2"),
    ("ManySegmentSwimmer", "3x1"),
    ("ManySegmentAnt", "2x2"),
    ("HalfCheetah", None),
]


def random_actions(env, rng):
    low, high = env.spec.action_bounds()
    return rng.uniform(low, high, (env.num_envs, *low.shape)).astype(np.float32)


def of_agents(spec, padded, sizes):
    return {agent: padded[n, : sizes[n]] for n, agent in enumerate(spec.agents)}


@pytest.mark.parametrize("obsk", [0, 1, 2])
@pytest.mark.parametrize(("scenario", "conf"), EVERY)
def test_observations_rewards_and_ends_equal_the_librarys(scenario, conf, obsk):
    env = MAMuJoCo(2, scenario=scenario, agent_conf=conf, agent_obsk=obsk, max_episode_steps=25)
    library = [make_library_environment(scenario, conf, obsk) for _ in range(2)]
    spec, rng = env.spec, np.random.default_rng(1)
    step = env.reset(seed=5)
    expected = [one.reset(seed=5 + e)[0] for e, one in enumerate(library)]
    age, ends = np.zeros(2, int), 0
    for _ in range(60):
        for e in range(2):
            for agent, seen in of_agents(spec, step.obs[e], spec.obs_sizes).items():
                np.testing.assert_array_equal(seen, expected[e][agent].astype(np.float32))
            np.testing.assert_array_equal(step.state[e], library[e].state().astype(np.float32))
            assert not step.obs[e][~spec.obs_mask()].any()
        actions = random_actions(env, rng)
        step = env.step(actions)
        age += 1
        place = {int(e): f for f, e in enumerate(step.ended)}
        for e, one in enumerate(library):
            answer, rewards, terminated, truncated, _ = one.step(of_agents(spec, actions[e], spec.action_sizes))
            agent = spec.agents[0]
            np.testing.assert_array_equal(step.rewards[e, 0], np.float32(rewards[agent]))
            assert step.terminated[e] == terminated[agent]
            assert step.truncated[e] == ((age[e] == 25 or truncated[agent]) and not terminated[agent])
            if e in place:
                ends += 1
                for name, seen in of_agents(spec, step.final_obs[place[e]], spec.obs_sizes).items():
                    np.testing.assert_array_equal(seen, answer[name].astype(np.float32))
                np.testing.assert_array_equal(step.final_state[place[e]], one.state().astype(np.float32))
                answer, age[e] = one.reset()[0], 0
            expected[e] = answer
    assert ends >= 4
    env.close()


def test_only_what_is_no_copy_of_raw_data_is_left_to_the_library():
    slow = {s for s, c in EVERY if c and len(MAMuJoCo(1, scenario=s, agent_conf=c)._gather.computed)}
    assert slow == {"Reacher"}


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
    task = env._tasks[0]
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
