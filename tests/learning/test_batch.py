"""Batches: sequences of recurrent networks, targets, minibatches, and rows that count for the critic."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasa_rllib.learning.batch import (
    Batch,
    MAPPOSettings,
    prepare,
    standardise,
    state_values,
    value_rows,
)
from lorasa_rllib.learning.normalisers import update_value_norm
from lorasa_rllib.nn.network import NetworkConfig
from tests.helpers import make_policy, owner_tables, policies, random_rollout, seeded, team, teams
from tests.learning.helpers import SETTINGS, UNEQUAL, batch_of, experienced, minibatches

OWN_REWARDS = team((4, 2, 3), (2, 3, 1), shared_reward=False)
RECURRENT = NetworkConfig(hidden_size=5, recurrent=True, critic_recurrent=True)


def recurrent_policy(method="lora"):
    return make_policy(OWN_REWARDS, owner_tables(3)[method], network=RECURRENT)


@given(chunks=st.integers(1, 3), length=st.integers(1, 4), envs=st.integers(1, 3), seed=st.integers(0, 1000))
def test_sequences_unrolled_from_stored_states_repeat_what_was_acted(chunks, length, envs, seed):
    policy = recurrent_policy()
    rollout = random_rollout(policy, chunks * length, envs, seed, chunk_length=length).to("cpu")
    with torch.no_grad():
        keep = torch.ones(rollout.num_steps, envs, 1, dtype=torch.bool)
        keep[1:] = ~(rollout.terminated | rollout.truncated)[:-1].unsqueeze(-1)
        keep = keep.expand(rollout.active.shape).clone()
        keep[1:] &= rollout.active[:-1]  # agents forget while they are absent
        whole, _ = policy.actor.unroll(rollout.obs, keep=keep)
        rollout.log_probs = whole.log_prob(rollout.actions)
        batch, _ = prepare(policy, rollout, MAPPOSettings(chunk_length=length))
        again, _ = policy.actor.unroll(batch.obs, state=batch.actor_state, keep=batch.actor_keep)
        values, _ = policy.critic.unroll(batch.state, batch.critic_state, batch.keep)
    assert len(batch) == chunks * envs and batch.env_steps == chunks * length * envs
    torch.testing.assert_close(again.log_prob(batch.actions), batch.log_probs)
    torch.testing.assert_close(values, batch.values)


def test_columns_of_a_sequence_are_consecutive_steps_of_one_environment():
    policy = recurrent_policy()
    rollout = random_rollout(policy, 6, 2, chunk_length=3).to("cpu")
    batch, _ = prepare(policy, rollout, MAPPOSettings(chunk_length=3))
    for chunk in range(2):
        for e in range(2):
            steps, sequence = slice(3 * chunk, 3 * chunk + 3), 2 * chunk + e
            for name in ("obs", "actions", "log_probs", "active"):
                assert torch.equal(getattr(batch, name)[:, sequence], getattr(rollout, name)[steps, e]), name
            assert torch.equal(batch.actor_state[sequence], rollout.actor_state[chunk, e])
            ended = (rollout.terminated | rollout.truncated)[steps, e]
            assert batch.keep[:, sequence, 0].tolist() == [True, *(~ended[:-1]).tolist()]
            remembers = ~ended[:-1, None] & rollout.active[steps, e][:-1]
            assert batch.actor_keep[0, sequence].all() and torch.equal(batch.actor_keep[1:, sequence], remembers)


def test_steps_that_cannot_be_cut_into_chunks_are_refused():
    policy = recurrent_policy()
    with pytest.raises(ValueError, match="6 steps cannot be cut into chunks of chunk_length=4"):
        prepare(policy, random_rollout(policy, 6, 2).to("cpu"), MAPPOSettings(chunk_length=4))


def test_stored_values_are_used_as_they_are():
    policy = recurrent_policy()
    rollout = random_rollout(policy, 4, 3, seed=1).to("cpu")
    values, follows = state_values(policy, rollout)
    assert torch.equal(values, rollout.values[:-1])
    assert len(rollout.final_index) > 0
    for (t, e), final in zip(rollout.final_index, rollout.final_values, strict=True):
        assert torch.equal(follows[t, e], final)
    rest = torch.ones(4, 3, dtype=torch.bool)
    rest[tuple(rollout.final_index.T)] = False
    assert torch.equal(follows[rest], rollout.values[1:][rest])


# Targets


@pytest.mark.parametrize("shared_reward", [True, False])
@settings(max_examples=10)
@given(data=st.data())
def test_targets_are_discounted_sums_that_bootstrap_with_the_true_last_state_and_never_beyond_an_end(
    shared_reward, data
):
    policy = experienced(data.draw(policies("ps", teams(shared_reward=shared_reward))))
    rollout = random_rollout(policy, 4, 3, seed=data.draw(st.integers(0, 1000))).to("cpu")
    before = copy.deepcopy(policy.value_norm)
    batch, _ = prepare(policy, rollout, SETTINGS)
    critic = copy.deepcopy(policy.critic).requires_grad_(False)
    last = {(int(t), int(e)): s for (t, e), s in zip(rollout.final_index, rollout.final_state, strict=True)}
    width = critic.num_values
    advantages = torch.zeros(4, 3, width, dtype=torch.double)
    values = before.denormalise(critic(rollout.state))
    for e in range(3):
        for t in range(4):
            weight = 1.0
            for k in range(t, 4):
                follows = before.denormalise(critic(last[k, e])) if (k, e) in last else values[k + 1, e]
                if rollout.terminated[k, e]:
                    follows = torch.zeros(width, dtype=torch.double)
                advantages[t, e] += weight * (rollout.rewards[k, e] + SETTINGS.gamma * follows - values[k, e])
                weight *= SETTINGS.gamma * SETTINGS.lambda_
                if rollout.terminated[k, e] or rollout.truncated[k, e]:
                    break
    returns = (advantages + values[:-1]).flatten(0, 1)
    torch.testing.assert_close(batch.returns[0], returns)
    torch.testing.assert_close(batch.values[0], critic(rollout.state[:-1]).flatten(0, 1))
    before.update(returns.mean(0), returns.square().mean(0))
    torch.testing.assert_close(policy.value_norm.state_dict(), before.state_dict())
    per_agent = advantages.expand(4, 3, rollout.num_agents).flatten(0, 1)
    active = batch.active[0]
    live = per_agent[active]
    expected = (per_agent - live.mean()) / (live.std(correction=0) + 1e-5)
    torch.testing.assert_close(batch.advantages[0][active], expected[active], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_what_follows_an_end_is_not_seen_before_it_and_a_true_last_state_is(end):
    policy = experienced(make_policy(UNEQUAL, owner_tables(3)["ps"]))
    rollout = random_rollout(policy, 4, 1)
    for name in ("terminated", "truncated"):
        getattr(rollout, name)[:] = False
    getattr(rollout, end)[1, 0] = True
    cut = end == "truncated"
    rollout.final_index = np.array([[1, 0]]) if cut else np.zeros((0, 2), np.int64)
    rollout.final_state, rollout.final_obs = rollout.final_state[:0], rollout.final_obs[:0]
    if cut:
        rollout.final_state, rollout.final_obs = np.ones((1, 3)), np.ones((1, *rollout.obs.shape[2:]))

    def advantages(**changes):  # before they are standardised, which mixes all steps
        fresh = copy.deepcopy(policy)
        batch, _ = prepare(fresh, dataclasses.replace(rollout, **changes).to("cpu"), SETTINGS)
        return (batch.returns - policy.value_norm.denormalise(batch.values))[0, :, 0]

    state = rollout.state.copy()
    state[2] *= np.array([1.0, -2.0, 0.5])  # the first state of the next episode
    base, next_episode = advantages(), advantages(state=state)
    torch.testing.assert_close(next_episode[:2], base[:2], rtol=1e-9, atol=1e-9)
    assert not torch.isclose(next_episode[2], base[2])
    if cut:
        true_last = advantages(final_state=rollout.final_state * np.array([1.0, -2.0, 0.5]))
        assert not torch.isclose(true_last[:2], base[:2]).any()
        torch.testing.assert_close(true_last[2:], base[2:], rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_standardised_advantages_have_mean_zero_and_deviation_one_over_live_entries(seed, scale):
    advantages = torch.randn(6, 4, 3, generator=seeded(seed), dtype=torch.double) * scale + 2 * scale
    active = torch.rand(6, 4, 3, generator=seeded(seed + 1)) < 0.6
    spoilt = torch.where(active, advantages, float("nan"))
    live = standardise(spoilt, active)[active]
    torch.testing.assert_close(live.mean(), torch.tensor(0.0).double(), rtol=0, atol=1e-9)
    std = advantages[active].std(correction=0)
    torch.testing.assert_close(live.std(correction=0), std / (std + 1e-5))


def test_a_rollout_without_a_live_entry_gives_finite_advantages():
    assert standardise(torch.ones(4, 3), torch.zeros(4, 3, dtype=torch.bool)).isfinite().all()


# Minibatches


def numbered(sequences, length=1):
    """A batch whose observations are the numbers of its sequences."""
    numbers = torch.arange(float(sequences)).expand(length, -1)
    names = ("obs", "state", "actions", "log_probs", "active", "advantages", "values", "returns", "targets")
    return Batch(**dict.fromkeys(names, numbers))


@given(
    rows=st.integers(1, 40),
    size=st.integers(1, 40),
    length=st.integers(1, 3),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 100),
)
def test_minibatches_of_an_epoch_are_whole_sequences_of_one_number_without_repeats(rows, size, length, epochs, seed):
    config = MAPPOSettings(num_epochs=epochs, minibatch_size=size * length)
    batch = numbered(rows, length)
    parts = list(minibatches(batch, config, seeded(seed)))
    if size >= rows:
        assert len(parts) == epochs and all(part is batch for part in parts)
        return
    each = rows // size
    assert len(parts) == epochs * each
    assert {(len(part), part.env_steps) for part in parts} == {(size, size * length)}
    for epoch in range(epochs):
        drawn = torch.cat([part.obs[0] for part in parts[epoch * each : (epoch + 1) * each]]).tolist()
        assert len(set(drawn)) == each * size and set(drawn) <= set(range(rows))


def test_a_full_batch_is_all_rows_in_order_and_epochs_are_reshuffled():
    batch = numbered(64)
    assert all(p is batch for p in minibatches(batch, MAPPOSettings(num_epochs=3), seeded(0)))
    first, second = minibatches(batch, MAPPOSettings(num_epochs=2, minibatch_size=63), seeded(0))
    assert not torch.equal(first.obs, second.obs)


def test_indexing_a_batch_selects_rows_of_every_column():
    spec = team((4, 2, 3), (2, 3, 4), continuous=False, has_masks=True)
    batch = batch_of(make_policy(spec, owner_tables(3)["role"]))
    rows = torch.tensor([5, 0, 3])
    part = batch[rows]
    assert len(part) == 3
    for name, column in vars(batch).items():
        assert column is None or torch.equal(getattr(part, name), column[:, rows]), name


# Dead agents and the critic


def test_dead_rows_count_for_the_critic_unless_switched_off():
    active = torch.tensor([[True, False, True]])
    everything, live = MAPPOSettings(), MAPPOSettings(value_active_only=True)
    own, of_team = torch.zeros(1, 3), torch.zeros(1, 1)
    assert value_rows(own, active, everything).all() and value_rows(of_team, active, live).all()
    assert torch.equal(value_rows(own, active, live), active)


def test_the_value_normaliser_is_updated_with_the_rows_that_count():
    policy = make_policy(OWN_REWARDS, owner_tables(3)["ps"])
    returns = torch.randn(5, 4, 3, generator=seeded(0), dtype=torch.double)
    counted = torch.rand(5, 4, 3, generator=seeded(1)) < 0.5
    counted[..., 1] = False  # an agent that never lives leaves its statistics alone
    update_value_norm(policy, torch.where(counted, returns, torch.nan), counted)
    norm = policy.value_norm
    for agent in (0, 2):
        mine = returns[..., agent][counted[..., agent]]
        torch.testing.assert_close(norm.mean[agent], (1 - norm.beta) * mine.mean())
        torch.testing.assert_close(norm.mean_sq[agent], (1 - norm.beta) * mine.square().mean())
    assert norm.debias[1] == norm.mean[1] == 0
