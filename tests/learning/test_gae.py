"""Advantages: the recursion against sums written out, and a tiny episode by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.learning.batch import MAPPOSettings, prepare
from lorasa_rllib.nn.network import NetworkConfig
from tests.helpers import advantages_of, make_policy, owner_tables, random_rollout, seeded, team


def random_steps(steps, seed, lead=(2, 3)):
    generator = seeded(seed)
    rewards, values, next_values = torch.randn(3, steps, *lead, generator=generator, dtype=torch.double)
    ends = torch.rand(steps, *lead[:-1], 1, generator=generator)
    return rewards, values, next_values, ends < 0.2, ends < 0.4


@given(steps=st.integers(1, 7), seed=st.integers(0, 10_000), gamma=st.floats(0, 1), lambda_=st.floats(0, 1))
def test_the_recursion_equals_the_discounted_sum_of_errors_up_to_the_end_of_the_episode(steps, seed, gamma, lambda_):
    rewards, values, next_values, terminated, ended = random_steps(steps, seed)
    actual = advantages_of(rewards, values, next_values, terminated, ended, gamma, lambda_)
    expected = torch.zeros_like(rewards)
    for e in range(rewards.shape[1]):
        for t in range(steps):
            weight = 1.0
            for k in range(t, steps):
                bootstrap = 0.0 if terminated[k, e, 0] else gamma * next_values[k, e]
                expected[t, e] += weight * (rewards[k, e] + bootstrap - values[k, e])
                weight *= gamma * lambda_
                if ended[k, e, 0]:
                    break
    torch.testing.assert_close(actual, expected)


def test_a_termination_and_a_time_limit_by_hand():
    # Two environments, four steps, gamma = 0.5, lambda = 0.5: decay 0.25. V = 2, 4, 6, 8 and V' = 4, 6, 8, 10.
    # The first terminates at step 1; the second is cut there, its true last state being worth 20.
    #
    #   delta, first    1 + 2 - 2 =  1    1 + 0  - 4 = -3     1 + 4 - 6 = -1    1 + 5 - 8 = -2
    #   delta, second   1 + 2 - 2 =  1    1 + 10 - 4 =  7     1 + 4 - 6 = -1    1 + 5 - 8 = -2
    #   g, first        1 - 0.75 = 0.25   -3                  -1 - 0.5 = -1.5   -2
    #   g, second       1 + 1.75 = 2.75    7                  -1.5              -2
    values = torch.tensor([2.0, 4.0, 6.0, 8.0])[:, None].expand(4, 2)
    next_values = torch.tensor([[4.0, 4.0], [6.0, 20.0], [8.0, 8.0], [10.0, 10.0]])
    terminated = torch.tensor([[False, False], [True, False], [False, False], [False, False]])
    ended = torch.tensor([[False, False], [True, True], [False, False], [False, False]])
    advantages = advantages_of(torch.ones(4, 2), values, next_values, terminated, ended, 0.5, 0.5)
    expected = torch.tensor([[0.25, 2.75], [-3.0, 7.0], [-1.5, -1.5], [-2.0, -2.0]])
    torch.testing.assert_close(advantages, expected, rtol=0, atol=0)


def test_without_discount_returns_are_sums_of_rewards_to_the_end():
    rewards, values, next_values, *_ = random_steps(6, 3)
    next_values[:-1] = values[1:]
    terminated = torch.zeros(6, 2, 1, dtype=torch.bool)
    terminated[[3, 5]] = True
    returns = advantages_of(rewards, values, next_values, terminated, terminated, 1.0, 1.0) + values
    first = rewards[:4].flip(0).cumsum(0).flip(0)
    second = rewards[4:].flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(returns, torch.cat([first, second]))


def test_with_lambda_zero_an_advantage_is_the_one_step_error():
    rewards, values, next_values, terminated, ended = random_steps(5, 4)
    delta = rewards + 0.9 * torch.where(terminated, 0.0, next_values) - values
    torch.testing.assert_close(advantages_of(rewards, values, next_values, terminated, ended, 0.9, 0.0), delta)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_value_of_what_follows_a_termination_is_never_read(value):
    rewards, values, next_values, terminated, ended = random_steps(5, 5)
    clean = advantages_of(rewards, values, next_values, terminated, ended, 0.9, 0.9)
    spoilt = torch.where(terminated, value, next_values)
    torch.testing.assert_close(
        advantages_of(rewards, values, spoilt, terminated, ended, 0.9, 0.9), clean, rtol=0, atol=0
    )


def test_an_agent_that_leaves_by_hand():
    """Own rewards: the return of the one that left ends there, that of the other goes on; so do their values."""
    spec = team((2, 2), (1, 1), shared_reward=False)
    policy = make_policy(spec, owner_tables(2)["lora"], network=NetworkConfig(hidden_size=3))
    rollout = random_rollout(policy, steps=3, envs=1)
    rollout.terminated[:], rollout.truncated[:] = False, False
    rollout.final_index, rollout.final_state = rollout.final_index[:0], rollout.final_state[:0]
    rollout.left = np.zeros((3, 1, 2), bool)
    rollout.left[1, 0, 0] = True
    rollout = rollout.to("cpu")
    settings = MAPPOSettings(gamma=0.5, lambda_=0.5)
    values = policy.critic(rollout.state)[:, 0].detach()  # [4, 2], a fresh normaliser changes nothing
    rewards = rollout.rewards[:, 0]
    delta = rewards + 0.5 * values[1:] - values[:-1]
    delta[1, 0] = rewards[1, 0] - values[1, 0]
    g = torch.empty_like(delta)
    g[2] = delta[2]
    g[1] = torch.stack([delta[1, 0], delta[1, 1] + 0.25 * g[2, 1]])
    g[0] = delta[0] + 0.25 * g[1]
    batch, _ = prepare(policy, rollout, settings)
    torch.testing.assert_close(batch.returns[0], g + values[:-1])
