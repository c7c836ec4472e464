"""Sequences of recurrent networks, rows that count for the critic, and the quirks of the published implementation."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.learning.batch import MAPPOSettings, prepare, state_values, take_in, value_rows
from lorasa_rllib.learning.quirks import REFERENCE, Quirks, quirks_of
from lorasa_rllib.nn.network import NetworkConfig
from tests.helpers import make_policy, owner_tables, random_rollout, seeded, team

UNEQUAL = team((4, 2, 3), (2, 3, 1), shared_reward=False)
RECURRENT = NetworkConfig(hidden_size=5, recurrent=True, critic_recurrent=True)


def recurrent_policy(method="lora"):
    return make_policy(UNEQUAL, owner_tables(3)[method], network=RECURRENT)


@given(chunks=st.integers(1, 3), length=st.integers(1, 4), envs=st.integers(1, 3), seed=st.integers(0, 1000))
def test_sequences_unrolled_from_stored_states_repeat_what_was_acted(chunks, length, envs, seed):
    policy = recurrent_policy()
    rollout = random_rollout(policy, chunks * length, envs, seed, chunk_length=length).to("cpu")
    with torch.no_grad():
        keep = torch.ones(rollout.num_steps, envs, 1, dtype=torch.bool)
        keep[1:] = ~(rollout.terminated | rollout.truncated)[:-1].unsqueeze(-1)
        whole, _ = policy.actor.unroll(rollout.obs, keep=keep)
        rollout.log_probs = whole.log_prob(rollout.actions)
        batch, _ = prepare(policy, rollout, MAPPOSettings(chunk_length=length))
        again, _ = policy.actor.unroll(batch.obs, state=batch.actor_state, keep=batch.keep)
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


# Dead agents and the critic


def test_dead_rows_count_for_the_critic_unless_told_otherwise():
    active = torch.tensor([[True, False, True]])
    everything, live = MAPPOSettings(), MAPPOSettings(value_active_only=True)
    own, of_team = torch.zeros(1, 3), torch.zeros(1, 1)
    assert value_rows(own, active, everything).all() and value_rows(of_team, active, live).all()
    assert torch.equal(value_rows(own, active, live), active)


def test_the_normaliser_takes_in_the_rows_that_count():
    policy = make_policy(UNEQUAL, owner_tables(3)["ps"])
    returns = torch.randn(5, 4, 3, generator=seeded(0), dtype=torch.double)
    counted = torch.rand(5, 4, 3, generator=seeded(1)) < 0.5
    counted[..., 1] = False  # an agent that never lives leaves its statistics alone
    take_in(policy, torch.where(counted, returns, torch.nan), counted)
    norm = policy.value_norm
    for agent in (0, 2):
        mine = returns[..., agent][counted[..., agent]]
        torch.testing.assert_close(norm.mean[agent], (1 - norm.beta) * mine.mean())
        torch.testing.assert_close(norm.mean_sq[agent], (1 - norm.beta) * mine.square().mean())
    assert norm.debias[1] == norm.mean[1] == 0


# Quirks


def test_reference_is_every_quirk_and_nothing_is_the_default():
    assert quirks_of(True) == REFERENCE and all(vars(REFERENCE).values())
    assert quirks_of(False) == Quirks() == MAPPOSettings().quirks and not any(vars(Quirks()).values())
    assert quirks_of(one := Quirks(one_sided_huber=True)) is one


def test_a_time_limit_is_worth_its_value_and_no_more():
    policy = make_policy(UNEQUAL, owner_tables(3)["ps"])
    rollout = random_rollout(policy, 4, 3, seed=1).to("cpu")
    settings = MAPPOSettings(quirks=Quirks(zero_time_limits=True, norm_every_step=True))
    batch, _ = prepare(policy, rollout, settings)
    gained = (batch.returns - policy.value_norm.denormalise(batch.values))[0].view(4, 3, 3)
    assert rollout.truncated.any()
    assert gained[rollout.truncated].abs().max() < 1e-9
    usual, _ = prepare(policy, rollout, dataclasses.replace(settings, quirks=Quirks(norm_every_step=True)))
    assert (usual.returns - batch.returns)[0].view(4, 3, 3)[rollout.truncated].abs().min() > 1e-6


def test_the_normaliser_waits_for_the_optimiser_steps():
    policy = make_policy(UNEQUAL, owner_tables(3)["ps"])
    rollout = random_rollout(policy, 4, 3).to("cpu")
    prepare(policy, rollout, MAPPOSettings(quirks=Quirks(norm_every_step=True)))
    assert not policy.value_norm.debias.any()
    prepare(policy, rollout, MAPPOSettings())
    assert policy.value_norm.debias.all()
