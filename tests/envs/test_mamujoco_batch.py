"""Simulations that are stepped by one native call equal the library's environments under every setting."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasa_rllib.envs import mamujoco
from lorasa_rllib.envs.mamujoco import MAMuJoCo
from lorasa_rllib.envs.mamujoco_batch import NativeBatch
from lorasa_rllib.envs.mamujoco_library import FACTORISATIONS, make_library_environment
from lorasa_rllib.envs.mamujoco_loop import LibraryLoop
from tests.envs.mamujoco_twin import random_actions, steps_equal_to_library
from tests.envs.test_mamujoco import EVERY

WEIGHT = st.floats(0.0, 3.0)
NOISE = st.floats(0.0, 0.2)
FLAG = st.booleans()
RUNNING = {"forward_reward_weight": WEIGHT, "ctrl_cost_weight": WEIGHT, "reset_noise_scale": NOISE}
UPRIGHT = {**RUNNING, "healthy_reward": WEIGHT, "terminate_when_unhealthy": FLAG}
POSITIONS = {"exclude_current_positions_from_observation": FLAG}
LYING = {"ctrl_cost_weight": WEIGHT, "reset_noise_scale": NOISE, **POSITIONS}
ARM = {"reward_dist_weight": WEIGHT, "reward_control_weight": WEIGHT}
FORCE_RANGE = st.sampled_from([(-1.0, 1.0), (-0.5, 3.0), (-100.0, 0.25), (-np.inf, np.inf)])
COST_RANGE = st.sampled_from([(-np.inf, 10.0), (0.5, 1.5)])
OPTIONS = {
    "HalfCheetah": {**RUNNING, **POSITIONS},
    "Swimmer": {**RUNNING, **POSITIONS},
    "Walker2d": {
        **UPRIGHT,
        **POSITIONS,
        "healthy_z_range": st.just((1.1, 1.3)),
        "healthy_angle_range": st.just((-0.5, 0.1)),
    },
    "Hopper": {
        **UPRIGHT,
        **POSITIONS,
        "healthy_state_range": st.just((-2.0, 1.5)),
        "healthy_z_range": st.just((0.9, 1.3)),
    },
    "Ant": {
        **UPRIGHT,
        **POSITIONS,
        "main_body": st.sampled_from([1, 3, "torso"]),
        "contact_cost_weight": WEIGHT,
        "contact_force_range": FORCE_RANGE,
        "healthy_z_range": st.just((0.4, 0.8)),
    },
    "Humanoid": {**UPRIGHT, **LYING, "contact_cost_weight": st.just(1e-4), "contact_cost_range": COST_RANGE},
    "HumanoidStandup": {**LYING, "impact_cost_weight": st.just(1e-4), "impact_cost_range": COST_RANGE},
    "Reacher": ARM,
    "Pusher": {**ARM, "reward_near_weight": WEIGHT},
}
CATEGORIES = {  # those that the library can map from its global state
    **dict.fromkeys(FACTORISATIONS, ("qpos", "qvel")),
    **dict.fromkeys(("Humanoid", "HumanoidStandup"), ("qpos", "qvel", "cfrc_ext", "cvel", "cinert", "qfrc_actuator")),
    "Ant": ("qpos", "qvel", "cfrc_ext"),
    "Reacher": ("qpos", "qvel", "fingertip_dist"),
}


def native(env):
    return isinstance(env._simulations, NativeBatch)


@st.composite
def tasks(draw):
    """Settings of any task, each left out in half of the cases."""
    scenario = draw(st.sampled_from(list(FACTORISATIONS)))
    obsk = draw(st.integers(0, 3))
    several = st.lists(st.sampled_from(CATEGORIES[scenario]), min_size=1, unique=True)
    more = OPTIONS[scenario] | {
        "local_categories": st.lists(several, min_size=obsk + 1, max_size=obsk + 1),
        "global_categories": st.lists(st.sampled_from(["qpos", "qvel"]), unique=True).map(tuple),
        "frame_skip": st.sampled_from([1, 3]),
    }
    options = {name: draw(values) for name, values in more.items() if draw(FLAG)}
    return scenario, draw(st.sampled_from(FACTORISATIONS[scenario])), obsk, options


@settings(max_examples=40, deadline=None)
@given(task=tasks(), num_envs=st.integers(1, 3), threads=st.integers(1, 3), whole=FLAG, seed=st.integers(0, 99))
def test_every_setting_of_the_library_keeps_its_results(task, num_envs, threads, whole, seed):
    scenario, conf, obsk, options = task
    obs = "global" if whole else "local"
    env = MAMuJoCo(
        num_envs, scenario=scenario, agent_conf=conf, obs=obs, agent_obsk=obsk, max_episode_steps=9, threads=threads,
        **options,
    )  # fmt: skip
    assert native(env)
    library = [make_library_environment(scenario, conf, obsk, **options) for _ in range(num_envs)]
    steps_equal_to_library(env, library, limit=9, steps=24, seed=seed, whole=whole)
    env.close()


@pytest.mark.parametrize(("scenario", "conf"), EVERY)
def test_every_task_is_stepped_by_one_native_call(scenario, conf):
    assert native(MAMuJoCo(1, scenario=scenario, agent_conf=conf))


@pytest.fixture
def old_mujoco(monkeypatch):
    """As with mujoco 3."""
    monkeypatch.setitem(sys.modules, "mujoco.batch", None)
    mamujoco._warn_once.cache_clear()


@pytest.mark.parametrize("scenario", FACTORISATIONS)
def test_older_versions_of_mujoco_have_the_same_results(scenario, old_mujoco, caplog):
    conf = FACTORISATIONS[scenario][0]
    with caplog.at_level(logging.WARNING):
        env = MAMuJoCo(2, scenario=scenario, agent_conf=conf, max_episode_steps=25)
    assert not native(env) and caplog.text.count("\n") == 1 and 'pip install "mujoco>=4"' in caplog.text
    library = [make_library_environment(scenario, conf, 1) for _ in range(2)]
    assert steps_equal_to_library(env, library, limit=25, steps=60) >= 4
    env.close()


def test_threads_need_the_native_call(old_mujoco):
    with pytest.raises(ValueError, match=r"threads=2 cannot be used.*has no mujoco\.batch"):
        MAMuJoCo(1, threads=2)


def test_a_task_of_ones_own_is_stepped_by_its_own_method():
    from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

    class Seven(HalfCheetahEnv):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, 7.0, *rest

    env = MAMuJoCo(1, gym_env=Seven(), max_episode_steps=5)
    env.reset(seed=0)
    assert not native(env) and env.step(np.zeros((1, 2, 3), np.float32)).rewards.tolist() == [[7.0]]


def test_simulations_that_diverge_start_again_as_in_the_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log
    env = MAMuJoCo(2, scenario="Ant", agent_conf="4x2")
    loop = LibraryLoop([make_library_environment("Ant", "4x2", 1) for _ in range(2)], env.spec.obs_size, 105)
    env.reset(seed=3)
    loop.begin([0, 1], [3, 4])
    rng = np.random.default_rng(0)
    for t in range(8):
        if t == 4:
            env._simulations._arrays["qvel"][1] = 1e11
            loop._tasks[1].data.qvel[:] = 1e11
        actions = random_actions(env, rng)
        step = env.step(actions)
        loop.step(actions.reshape(2, -1)[:, env._action_of].astype(np.float64))
        for name in ("obs", "state", "rewards", "terminated"):
            np.testing.assert_array_equal(getattr(step, name), getattr(loop, name))


def test_what_is_rendered_is_the_first_copy_as_the_library_has_it(monkeypatch):
    """Also right after an episode's end; the picture itself needs a display."""
    env = MAMuJoCo(2, scenario="HalfCheetah", render_mode="rgb_array", max_episode_steps=3)
    library = make_library_environment("HalfCheetah", "2x3", 1)
    task, rng = env._simulations._task, np.random.default_rng(0)
    monkeypatch.setattr(task, "render", lambda: task.data.xpos.copy())
    env.reset(seed=0)
    library.reset(seed=0)
    for t in range(7):
        actions = random_actions(env, rng)
        env.step(actions)
        library.step({agent: actions[0, n] for n, agent in enumerate(env.spec.agents)})
        if t % 3 == 2:
            library.reset()
        np.testing.assert_array_equal(env.render(), library.single_agent_env.unwrapped.data.xpos)
