"""Compares MAMuJoCo with the library's own environments, step by step."""

from __future__ import annotations

import numpy as np


def random_actions(env, rng):
    low, high = env.spec.action_bounds()
    return rng.uniform(low, high, (env.num_envs, *low.shape)).astype(np.float32)


def of_agents(spec, padded, sizes):
    return {agent: padded[n, : sizes[n]] for n, agent in enumerate(spec.agents)}


def assert_seen(spec, obs, state, expected, library):
    """obs [N, width] and state [S] are what the library's agents see and its state, rounded to float32."""
    for agent, seen in of_agents(spec, obs, spec.obs_sizes).items():
        np.testing.assert_array_equal(seen, np.asarray(expected[agent]).astype(np.float32))
    np.testing.assert_array_equal(state, library.state().astype(np.float32))
    assert not obs[~spec.obs_mask()].any()


def steps_equal_to_library(env, library, limit, steps, seed=5, whole=False):
    """Plays both with the same random actions; returns the number of episodes that ended.

    library:  as many environments of the library as `env` has copies.
    limit:    the time limit of `env`.      whole: agents observe the global state.
    """
    spec, rng, agent = env.spec, np.random.default_rng(1), env.spec.agents[0]
    every = range(env.num_envs)

    def seen(e, answer):
        return {name: library[e].state() for name in spec.agents} if whole else answer

    step = env.reset(seed=seed)
    expected = [seen(e, library[e].reset(seed=seed + e)[0]) for e in every]
    age, ends = np.zeros(env.num_envs, int), 0
    for _ in range(steps):
        for e in every:
            assert_seen(spec, step.obs[e], step.state[e], expected[e], library[e])
        actions = random_actions(env, rng)
        step = env.step(actions)
        age += 1
        place = {int(e): f for f, e in enumerate(step.ended)}
        for e, one in enumerate(library):
            answer, rewards, terminated, truncated, _ = one.step(of_agents(spec, actions[e], spec.action_sizes))
            np.testing.assert_array_equal(step.rewards[e, 0], np.float32(rewards[agent]))
            assert step.terminated[e] == terminated[agent]
            assert step.truncated[e] == ((age[e] == limit or truncated[agent]) and not terminated[agent])
            expected[e] = seen(e, answer)
            if e in place:
                ends += 1
                assert_seen(spec, step.final_obs[place[e]], step.final_state[place[e]], expected[e], one)
                expected[e], age[e] = seen(e, one.reset()[0]), 0
    return ends
