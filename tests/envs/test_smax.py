"""SMAX: our compiled steps are the package's own, and every map keeps the interface's promises."""

from __future__ import annotations

import platform
import subprocess
import sys

import numpy as np
import pytest

from lorasa_rllib.envs.jax_setup import import_jax
from lorasa_rllib.envs.smax import SMAXTeam
from lorasa_rllib.envs.smax_options import known_options

pytest.importorskip("jaxmarl", reason="needs the extra [smax]")


def drawn(step, rng: np.random.Generator) -> np.ndarray:
    """Random available actions [E, N]."""
    return np.where(step.masks, rng.random(step.masks.shape), -1.0).argmax(-1)


MAP = {"map_name": "smacv2_5_units", "max_episode_steps": 30}  # the same in many tests: every other one is compiled


def test_tensors_on_a_device_are_the_arrays_on_the_host():
    import torch

    host, there = SMAXTeam(3, **MAP), SMAXTeam(3, device="cpu", **MAP)
    rng, ends = np.random.default_rng(0), 0

    def check(one, other):
        assert isinstance(other.obs, torch.Tensor)
        for name, value in vars(other.on_host()).items():
            expected = getattr(one, name)
            assert getattr(expected, "dtype", None) == getattr(value, "dtype", None), name
            np.testing.assert_array_equal(expected, value, err_msg=name)

    for seed in (4, None):
        step = host.reset(seed)
        check(step, there.reset(seed))
        for _ in range(70):
            actions = drawn(step, rng)
            step = host.step(actions)
            check(step, there.step(torch.from_numpy(actions)))
            ends += len(step.ended)
    assert ends > 6


@pytest.mark.parametrize(("device", "problem"), [("tpu", "is not"), ("cuda:7", "asks for a GPU, but PyTorch finds")])
def test_a_device_that_is_not_there_is_refused(device, problem):
    with pytest.raises(ValueError, match=problem):
        SMAXTeam(1, device=device, **MAP)


@pytest.fixture(scope="module")
def battles():
    return SMAXTeam(3, **MAP)


def test_a_step_is_the_packages_own_number_for_number():
    import jax
    from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

    env, rng = SMAXTeam(1, **MAP), np.random.default_rng(0)
    library = HeuristicEnemySMAX(scenario=map_name_to_scenario(MAP["map_name"]), max_steps=MAP["max_episode_steps"] - 1)
    step = env.reset(4)
    key, now = jax.random.split(jax.random.PRNGKey(4))
    obs, battle = library.reset(now)
    ends = 0
    for _ in range(70):
        np.testing.assert_allclose(step.obs[0], np.stack([obs[agent] for agent in library.agents]), atol=1e-6)
        masks = library.get_avail_actions(battle)
        np.testing.assert_array_equal(step.masks[0], np.stack([masks[agent] for agent in library.agents]))
        np.testing.assert_array_equal(step.roles[0], np.asarray(battle.state.unit_types[:5]))
        np.testing.assert_array_equal(step.active[0], np.asarray(battle.state.unit_alive[:5]))
        actions = drawn(step, rng)
        key, now = jax.random.split(key)
        named = {agent: actions[0, n] for n, agent in enumerate(library.agents)}
        obs, battle, rewards, dones, _ = library.step_env(now, battle, named)
        step = env.step(actions)
        assert step.rewards[0, 0] == pytest.approx(float(rewards["ally_0"]), abs=1e-6)
        assert len(step.ended) == bool(dones["__all__"])
        if len(step.ended):
            ends += 1
            last = np.stack([obs[agent] for agent in library.agents])
            np.testing.assert_allclose(step.final_obs[0], last, atol=1e-6)
            key, now = jax.random.split(key)
            obs, battle = library.reset(now)
    assert ends >= 2


def test_copies_are_what_single_environments_with_consecutive_seeds_are(battles):
    singles = [SMAXTeam(1, **MAP) for _ in range(3)]
    step, others = battles.reset(7), [env.reset(7 + e) for e, env in enumerate(singles)]
    rng, ended = np.random.default_rng(1), 0
    for _ in range(60):
        for e, other in enumerate(others):
            for column in ("obs", "state", "rewards", "terminated", "truncated", "active", "masks", "roles"):
                np.testing.assert_allclose(
                    getattr(step, column)[e], getattr(other, column)[0], atol=1e-5, err_msg=column
                )
        actions = drawn(step, rng)
        step = battles.step(actions)
        others = [env.step(actions[e : e + 1]) for e, env in enumerate(singles)]
        for i, e in enumerate(step.ended):
            ended += 1
            assert others[e].ended.tolist() == [0] and others[e].won[0] == step.won[i]
            np.testing.assert_allclose(others[e].final_obs[0], step.final_obs[i], atol=1e-5)
            np.testing.assert_allclose(others[e].final_state[0], step.final_state[i], atol=1e-5)
    assert ended >= 3


def test_a_seed_fixes_everything_that_follows(battles):
    def play(seed):
        rng, step = np.random.default_rng(2), battles.reset(seed)
        return [(step := battles.step(drawn(step, rng))).obs.copy() for _ in range(30)]

    first, again, other = play(3), play(3), play(4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[-1], other[-1])


def test_ends_are_told_apart(battles):
    """A battle that runs out of time is cut off; one that is over is not, and won only if somebody is left."""
    rng, step = np.random.default_rng(3), battles.reset(0)
    cut = over = 0
    for _ in range(150):
        before = step.active.copy()
        step = battles.step(drawn(step, rng))
        assert not (step.terminated & step.truncated).any()
        assert np.array_equal(np.flatnonzero(step.terminated | step.truncated), step.ended)
        assert step.masks.any(-1).all() and np.isfinite(step.obs).all()
        going = np.setdiff1d(np.arange(3), step.ended)
        assert (step.active[going] <= before[going]).all()  # the dead stay dead
        assert step.active[step.ended].all()  # a new battle: everybody is there
        dead = ~step.active
        assert not step.masks[dead][:, 5:].any() and not step.obs[dead].any()  # no targets, nothing seen
        cut, over = cut + step.truncated.sum(), over + step.terminated.sum()
    assert cut and over


@pytest.mark.parametrize("kind", ["agent", "pruned"])
def test_a_dead_agent_shows_the_critic_its_id_only(kind):
    env, rng = SMAXTeam(2, map_name="3m", state=kind, max_episode_steps=40), np.random.default_rng(0)
    seen, deaths = env.reset(1), 0
    for _ in range(80):
        assert seen.state.shape == (2, *env.spec.state_shape)
        np.testing.assert_array_equal(seen.state[..., -3:], np.broadcast_to(np.eye(3), (2, 3, 3)))
        dead = ~seen.active
        deaths += dead.sum()
        assert not seen.state[dead][:, :-3].any() and seen.state[~dead][:, :-3].any(-1).all()
        if kind == "agent":  # global state, own observation, id
            np.testing.assert_allclose(seen.state[~dead][:, -3 - env.spec.obs_size : -3], seen.obs[~dead], atol=1e-6)
        seen = env.step(drawn(seen, rng))
    assert deaths


MAPS = (
    "3m", "8m", "25m", "2s3z", "3s5z", "5m_vs_6m", "10m_vs_11m", "27m_vs_30m", "3s5z_vs_3s6z", "3s_vs_5z", "6h_vs_8z",
    "smacv2_5_units", "smacv2_10_units", "smacv2_20_units",
)  # fmt: skip


def test_every_map_has_a_team():
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    assert set(MAP_NAME_TO_SCENARIO) == set(MAPS)
    for name in MAPS:
        scenario, spec = MAP_NAME_TO_SCENARIO[name], SMAXTeam.team_spec(name)
        assert (spec.num_agents, spec.action_size) == (scenario.num_allies, 5 + scenario.num_enemies)
        assert spec.num_roles == 6 and spec.has_masks and spec.shared_reward


def test_teams_of_smacv2_change_with_every_battle(battles):
    rng, step, teams = np.random.default_rng(0), battles.reset(0), set()
    for _ in range(150):
        teams |= {tuple(roles) for roles in step.roles.tolist()}
        step = battles.step(drawn(step, rng))
    assert len(teams) > 10 and set(np.unique(list(teams))) == set(range(6))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"map_name": "MMM2"},
            "unknown to SMAX in this process.*registered in every process",
        ),
        ({"state": "all"}, "state='all' must be one of"),
        ({"max_episode_steps": 0}, "max_episode_steps=0"),
        ({"action_type": "continuous"}, "actions are discrete"),
        ({"wals_cause_death": False}, "'wals_cause_death' of env_config; did you mean 'walls_cause_death'"),
        ({"num_allies": 10}, "num_allies=10 is not supported: the map decides it"),
        ({"num_enemies": 5}, "num_enemies=5 is not supported"),
        ({"smacv2_position_generation": True}, "the map decides it"),
        ({"smacv2_unit_type_generation": False}, "the map decides it"),
        ({"unit_type_names": ["marine"]}, "the types are the package's"),
        ({"attack_mode": "nearest"}, "attack_mode='nearest' must be one of"),
        ({"walls_cause_death": "no"}, "must be True or False"),
        ({"won_battle_bonus": float("nan")}, "must be a number"),
        ({"world_steps_per_env_step": 1.5}, "must be a whole number"),
        ({"unit_type_health": [1.0]}, "must be 6 numbers"),
        ({"unit_type_health": [1, 2, 3, 4, 5, "x"]}, "must be 6 numbers"),
    ],
)
def test_bad_settings_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        SMAXTeam.team_spec(**config)


def test_every_option_that_is_taken_reaches_the_package():
    """A map overrides some of the package's options in silence: none of those that we take."""
    import_jax()
    for name, default in known_options().items():
        if name == "attack_mode":
            other = "random"
        elif isinstance(default, bool):
            other = not default
        else:
            other = (np.asarray(default) * 2).tolist()  # a list where it has one number for each type
        library = SMAXTeam(1, map_name="3m", **{name: other})._battles.library
        assert np.array_equal(np.asarray(getattr(library, name)), np.asarray(other, np.asarray(default).dtype)), name


def test_lists_arrays_and_tuples_are_the_same_option():
    health = [45.0, 125.0, 160.0, 150.0, 35.0, 90.0]
    kinds = [health, tuple(health), np.array(health)]
    assert len({SMAXTeam(1, map_name="3m", unit_type_health=kind)._battles for kind in kinds}) == 1


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("before", ["", "import jax"], ids=["alone", "after RLlib, which imports JAX"])
def test_jax_is_a_guest_one_thread_no_gpu_and_a_cache(before, tmp_path):
    code = f"""
import os, sys
{before}
os.environ["XDG_CACHE_HOME"] = {str(tmp_path)!r}
from lorasa_rllib.envs.jax_setup import import_jax
out, err = sys.stdout, sys.stderr
jax = import_jax()
assert (sys.stdout, sys.stderr) == (out, err)
assert "NPROC" not in os.environ and "JAX_PLATFORMS" not in os.environ
print([d.platform for d in jax.devices()], jax.config.jax_compilation_cache_dir)
"""
    assert run(code).split() == ["['cpu']", str(tmp_path / "lorasa_rllib" / "jax" / platform.node())]


def test_without_the_package_the_extra_is_named():
    code = """
import sys
sys.modules["jaxmarl"] = None
from lorasa_rllib.envs.registry import environment_class
try:
    environment_class("smax").team_spec()
except ImportError as error:
    print(error)
"""
    assert 'pip install -e ".[smax]" -c constraints.txt' in run(code)
