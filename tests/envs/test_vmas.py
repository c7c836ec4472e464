"""VMAS: our steps are the package's own, and episodes that begin later are those of worlds that were just reset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasa_rllib.envs.vmas import VMASTeam

vmas = pytest.importorskip("vmas", reason="needs the extra [vmas]")

SCENARIOS = {
    "dispersion": {},
    "navigation": {"n_agents": 3},
    "give_way": {},
    "balance": {"n_agents": 3},
    "flocking": {"n_agents": 3},
    "het_mass": {},
    "simple_tag": {},  # bodies and observations of different sizes
    "simple_speaker_listener": {},  # observations and actions of different sizes; one agent speaks
    "joint_passage": {},
    "drone": {},
    "sampling": {},
}
ACTIONS = {
    "continuous": {},
    "discrete": {"continuous_actions": False},
    "components": {"continuous_actions": False, "multidiscrete_actions": True},
}
CASES = [(name, "continuous") for name in SCENARIOS]
CASES += [(name, kind) for name in ("navigation", "simple_tag", "simple_speaker_listener") for kind in ACTIONS]
CASES = sorted(set(CASES))


def team(name: str, num_envs: int, kind: str = "continuous", **settings) -> VMASTeam:
    return VMASTeam(num_envs, scenario=name, **SCENARIOS[name], **ACTIONS[kind], **settings)


def package(name: str, num_envs: int, kind: str = "continuous"):
    """The package's own environment."""
    return vmas.make_env(name, num_envs=num_envs, seed=0, terminated_truncated=True, **ACTIONS[kind], **SCENARIOS[name])


def drawn(env: VMASTeam, rng: np.random.Generator) -> torch.Tensor:
    """Random actions [E, N, d], or choices."""
    spec, lead = env.spec, (env.num_envs, env.spec.num_agents)
    if spec.continuous:
        low, high = spec.action_bounds()
        return torch.from_numpy(rng.uniform(low, high, (*lead, spec.action_size)).astype(np.float32))
    if not spec.choices:
        return torch.from_numpy(rng.integers(spec.action_sizes, size=lead))
    most = np.ones((spec.num_agents, spec.action_dims), np.int64)
    for row, components in zip(most, spec.choices, strict=True):
        row[: len(components)] = components
    return torch.from_numpy(rng.integers(most, size=(*lead, spec.action_dims)))


def for_package(env: VMASTeam, actions: torch.Tensor) -> list[torch.Tensor]:
    """The team's actions as the package takes them."""
    spec = env.spec
    if spec.continuous:
        return [actions[:, n, :size].clone() for n, size in enumerate(spec.action_sizes)]
    if not spec.choices:
        return [actions[:, n, None].clone() for n in range(spec.num_agents)]
    return [actions[:, n, : len(components)].clone() for n, components in enumerate(spec.choices)]


def assert_seen(env: VMASTeam, obs: torch.Tensor, shown: list[torch.Tensor], **close) -> None:
    for n, (size, own) in enumerate(zip(env.spec.obs_sizes, shown, strict=True)):
        own = torch.cat(list(own.values()), dim=1) if isinstance(own, dict) else own
        torch.testing.assert_close(obs[:, n, :size], own, **close)
        assert not obs[:, n, size:].any(), "padding is zero"


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_steps_are_the_packages_own_number_for_number(name, kind):
    env, theirs, rng = team(name, 5, kind), package(name, 5, kind), np.random.default_rng(1)
    step = env.reset(7)
    assert_seen(env, step.obs, theirs.reset(seed=7), rtol=0, atol=0)
    for _ in range(8):
        actions = drawn(env, rng)
        step = env.step(actions)
        obs, rewards, terminated, _, _ = theirs.step(for_package(env, actions))
        if terminated.any():
            break
        assert_seen(env, step.obs, obs, rtol=0, atol=0)
        torch.testing.assert_close(step.rewards, torch.stack(rewards, dim=1), rtol=0, atol=0)
        assert not step.terminated.any() and not len(step.ended)


OF_ALL = ("het_mass", "simple_speaker_listener")
"""Scenarios that draw something for all worlds at once, which the package, too, keeps where one world is reset."""


@settings(max_examples=3, deadline=None)
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in OF_ALL])
@given(seed=st.integers(0, 2**31 - 1), limit=st.integers(2, 5))
def test_an_episode_that_begins_later_is_that_of_a_world_that_was_just_reset(name, seed, limit):
    env, rng = team(name, 3, max_episode_steps=limit), np.random.default_rng(seed)
    env.reset(seed)
    for _ in range(limit):
        step = env.step(drawn(env, rng))
        if len(step.ended) not in (0, 3):
            return  # the scenario ended one of them: the others begin later
    if len(step.ended) != 3:
        return
    twin, seen = env._renewal._store, env._renewal._obs  # worlds as the package has just reset them
    torch.testing.assert_close(step.obs, seen[:3], rtol=0, atol=0)
    for _ in range(limit - 1):
        actions = drawn(env, rng)
        step = env.step(actions)
        with torch.inference_mode():
            obs, rewards, terminated = twin.step(torch.cat([actions, actions[:1]]))
        torch.testing.assert_close(step.rewards, rewards[:3])
        torch.testing.assert_close(step.terminated, terminated[:3])
        if len(step.ended):
            return
        torch.testing.assert_close(step.obs, obs[:3])


def test_worlds_that_go_on_notice_nothing_of_those_that_begin():
    """One world ends before the others: they step as in the package, which resets none."""
    env, theirs, rng = team("balance", 6), package("balance", 6), np.random.default_rng(3)
    env.reset(11)
    theirs.reset(seed=11)
    ended: set[int] = set()
    for _ in range(60):
        actions = drawn(env, rng)
        step = env.step(actions)
        obs, rewards, terminated, _, _ = theirs.step(for_package(env, actions))
        on = [e for e in range(6) if e not in ended]
        torch.testing.assert_close(step.rewards[on], torch.stack(rewards, dim=1)[on])
        torch.testing.assert_close(step.terminated[on], terminated[on])
        for i, e in enumerate(step.ended):
            if e not in ended:
                torch.testing.assert_close(step.final_obs[i], torch.stack([own[e] for own in obs]))
        ended |= set(step.ended.tolist())
        on = [e for e in range(6) if e not in ended]
        torch.testing.assert_close(step.obs[on], torch.stack(obs, dim=1)[on])
    assert len(ended) > 0, "balls fall"


def test_ends_are_truncations_at_the_time_limit_and_terminations_before():
    env, rng = team("balance", 16, max_episode_steps=60), np.random.default_rng(0)
    env.reset(0)
    terminated = truncated = 0
    age = np.zeros(16, int)
    for _ in range(130):
        step = env.step(drawn(env, rng))
        age += 1
        assert not (step.terminated & step.truncated).any()
        np.testing.assert_array_equal(step.ended, np.flatnonzero(step.terminated | step.truncated))
        np.testing.assert_array_equal(step.truncated, (age == 60) & ~step.terminated.numpy())
        terminated, truncated = terminated + int(step.terminated.sum()), truncated + int(step.truncated.sum())
        age[step.ended] = 0
        assert step.final_obs.shape == (len(step.ended), *step.obs.shape[1:])
    assert terminated and truncated


def test_one_seed_decides_everything_that_follows_and_others_who_draw_change_nothing():
    def play(seed: int, disturb: bool) -> torch.Tensor:
        env, rng = team("navigation", 4, max_episode_steps=3), np.random.default_rng(5)
        seen = [env.reset(seed).obs]
        for _ in range(10):
            if disturb:
                torch.rand(3), np.random.rand(), team("dispersion", 1).reset(1)  # noqa: NPY002
            seen.append(env.step(drawn(env, rng)).obs)
        return torch.stack(seen)

    torch.testing.assert_close(play(3, False), play(3, True), rtol=0, atol=0)
    assert not torch.equal(play(3, False), play(4, False))
    env = team("navigation", 4, max_episode_steps=2)
    rng = np.random.default_rng(0)
    env.reset(1)
    for _ in range(5):
        env.step(drawn(env, rng))
    torch.testing.assert_close(env.reset(3).obs, play(3, False)[0], rtol=0, atol=0)  # also in the middle


def test_agents_that_differ_are_padded_and_the_global_state_is_not():
    env = team("simple_speaker_listener", 2)
    spec = env.spec
    assert len(set(spec.obs_sizes)) == 2 and len(set(spec.action_sizes)) == 2
    assert spec == VMASTeam.team_spec(scenario="simple_speaker_listener") and not spec.shared_reward
    step = env.reset(0)
    expected = torch.cat([step.obs[:, n, :size] for n, size in enumerate(spec.obs_sizes)], dim=1)
    torch.testing.assert_close(step.state, expected, rtol=0, atol=0)
    assert step.state.shape == (2, spec.state_size) and step.rewards.shape == (2, spec.num_agents)
    low, high = spec.action_bounds()
    speaker = spec.action_sizes.index(max(spec.action_sizes))
    assert (low[speaker, 2:] == 0).all() and (high[speaker, 2:] == 1).all(), "what is spoken is between 0 and 1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scenario": "navigaton"}, "did you mean 'navigation'"),
        ({"scenario": "navigation", "n_agent": 3}, "n_agent.* passed but not used"),
        ({"scenario": "navigation", "max_steps": 30}, "use max_episode_steps"),
        ({"max_episode_steps": 0}, "at least 1"),
        ({"multidiscrete_actions": True}, "set continuous_actions=False"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VMASTeam.team_spec(**settings)


def test_a_gpu_that_is_not_there_is_named_with_the_remedy():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="num_gpus_per_env_runner=1"):
        VMASTeam(1, device="cuda")
    with pytest.raises(ValueError, match="is not a device"):
        VMASTeam(1, device="gpu")


def test_a_scenario_of_your_own_is_given_by_its_class():
    from vmas.scenarios import load

    mine = load("dispersion.py").Scenario
    assert VMASTeam(2, scenario=mine, n_agents=2).spec == VMASTeam(2, scenario="dispersion", n_agents=2).spec
