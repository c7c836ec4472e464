"""The synthetic team keeps the interface's promises; other tests stand on it."""

from __future__ import annotations

import numpy as np
import pytest

from lorasa_rllib.envs.synthetic import SyntheticTeam

TEAMS = {
    "continuous": {"unequal": True, "termination": 0.1},
    "discrete": {"discrete": True, "action_size": 5, "unequal": True, "deaths": 0.1, "num_roles": 3},
    "targets of roles": {"num_roles": 3, "role_changes": 0.3, "targets": "role", "difference": 0.5, "unequal": True},
    "own rewards": {"discrete": True, "action_size": 5, "shared_reward": False, "deaths": 0.1, "termination": 0.1},
}


def random_actions(env: SyntheticTeam, rng: np.random.Generator, copies: int) -> np.ndarray:
    spec = env.spec
    if spec.continuous:
        return rng.uniform(-1, 1, (copies, spec.num_agents, spec.action_size)).astype(np.float32)
    return rng.integers(spec.action_size, size=(copies, spec.num_agents))


@pytest.mark.parametrize("name", TEAMS)
def test_copies_are_what_single_environments_with_consecutive_seeds_are(name):
    options = TEAMS[name] | {"num_agents": 4, "episode_length": 7}
    together, alone = SyntheticTeam(3, **options), [SyntheticTeam(1, **options) for _ in range(3)]
    step, singles, rng = together.reset(5), [env.reset(5 + e) for e, env in enumerate(alone)], np.random.default_rng(0)
    lengths = set()
    for _ in range(40):
        ended = step.ended.tolist()
        for e, single in enumerate(singles):
            for column in ("obs", "state", "rewards", "terminated", "truncated", "active", "masks", "roles"):
                ours, other = getattr(step, column), getattr(single, column)
                assert (ours is None) == (other is None)
                if ours is not None:
                    np.testing.assert_allclose(ours[e], other[0], rtol=1e-6, err_msg=column)
            assert len(single.ended) == (e in ended)
            if e in ended:
                lengths.add(bool(single.truncated[0]))
                np.testing.assert_array_equal(step.final_obs[ended.index(e)], single.final_obs[0])
        actions = random_actions(together, rng, 3)
        step = together.step(actions)
        singles = [env.step(actions[e : e + 1]) for e, env in enumerate(alone)]
    assert True in lengths


def test_the_dead_see_and_earn_nothing_and_have_one_choice_until_the_next_episode():
    env = SyntheticTeam(8, num_agents=4, discrete=True, action_size=5, deaths=0.3, shared_reward=False)
    step, rng = env.reset(0), np.random.default_rng(0)
    dead = ~step.active
    assert not dead.any() and step.masks.shape == (8, 4, 5) and 0.3 < step.masks[..., 1:].mean() < 0.7
    died = 0
    for _ in range(20):
        step = env.step(random_actions(env, rng, 8))
        assert not step.rewards[dead].any()
        over = np.zeros(8, bool)
        over[step.ended] = True
        assert step.active[over].all() and not (step.active & dead)[~over].any()
        dead = ~step.active
        died += dead.sum()
        assert not step.obs[dead].any() and (step.masks[dead] == [True, *[False] * 4]).all()
        np.testing.assert_array_equal(step.terminated, over)  # long before the time limit, only because all are dead
    assert died


@pytest.mark.parametrize("shared", [True, False])
def test_the_best_available_choice_earns_the_whole_reward(shared):
    env = SyntheticTeam(2, discrete=True, action_size=4, shared_reward=shared)
    step = env.reset(1)
    wanted = np.where(step.masks, np.einsum("eno,nod->end", step.obs, env._targets), -np.inf)
    rewards = env.step(wanted.argmax(-1)).rewards
    assert rewards.shape == (2, 1 if shared else 3)
    np.testing.assert_allclose(rewards.sum(-1), 1.0, rtol=1e-6)
    step = env.reset(1)
    wanted = np.where(step.masks, np.einsum("eno,nod->end", step.obs, env._targets), np.inf)
    assert env.step(wanted.argmin(-1)).rewards.sum() < 2


@pytest.mark.parametrize("difference", [0.0, 0.25, 1.0])
def test_difference_is_the_share_of_a_targets_variance_that_is_its_own(difference):
    targets = SyntheticTeam(1, num_agents=400, obs_size=8, difference=difference)._targets
    np.testing.assert_allclose(8 * targets.var(0).mean(), difference, atol=0.03)
    if not difference:
        assert (targets == targets[0]).all()


def test_by_role_the_same_observation_asks_for_the_same_answer_whoever_sees_it():
    options = {"num_agents": 5, "num_roles": 3, "role_changes": 0.3, "targets": "role", "shared_reward": False}
    env, rng, seen = SyntheticTeam(2, episode_length=15, **options), np.random.default_rng(0), set()
    step = env.reset(0)
    for _ in range(40):
        roles, features = step.roles.copy(), step.obs[..., 3:].copy()
        np.testing.assert_array_equal(step.obs[..., :3], roles[..., None] == np.arange(3))
        seen |= set(roles.flatten().tolist())
        best = np.tanh(np.einsum("eno,enod->end", features, env._targets[roles, 3:]))
        shift = rng.uniform(-0.5, 0.5, best.shape)
        step = env.step(best + shift)
        np.testing.assert_allclose(step.rewards, -np.square(shift).sum(2) / 10, rtol=1e-4)
    assert seen == {-1, 0, 1, 2}


@pytest.mark.parametrize(
    "setting",
    [
        {"episode_length": 0},
        {"termination": 1.0},
        {"deaths": -0.1},
        {"difference": 1.5},
        {"targets": "team"},
        {"targets": "role"},
    ],
)
def test_bad_settings_name_the_setting(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        SyntheticTeam(1, **setting)
