"""The team rollout: dividing it among learners loses nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.rollout.columns import TeamRollout, in_one_piece
from tests.helpers import make_policy, owner_tables, random_rollout, team

UNEQUAL = team((4, 2, 3), (2, 3, 1))
DISCRETE = team((4, 2, 3), (2, 3, 4), continuous=False, has_masks=True)


def rollout_of(spec=UNEQUAL, steps=5, envs=6, seed=0):
    method = "lora" if spec.continuous else "role"
    return random_rollout(make_policy(spec, owner_tables(3)[method]), steps, envs, seed)


def columns(rollout):
    """All columns; the sparse ones in the order of their index."""
    order = np.lexsort(np.asarray(rollout.final_index).T)
    named = {f.name: getattr(rollout, f.name) for f in dataclasses.fields(rollout)}
    sparse = ("final_index", "final_obs", "final_state")
    return {n: x[order] if n in sparse else x for n, x in named.items() if x is not None}


def assert_equal(one, other):
    one, other = columns(one), columns(other)
    assert one.keys() == other.keys()
    for name, column in one.items():
        np.testing.assert_array_equal(column, other[name], err_msg=name)
        assert column.dtype == other[name].dtype, name


@pytest.mark.parametrize("spec", [UNEQUAL, DISCRETE], ids=["continuous", "discrete with masks and roles"])
@given(parts=st.sampled_from([1, 2, 3, 6]), seed=st.integers(0, 1000), steps=st.integers(1, 6))
def test_splitting_and_concatenating_is_the_identity(spec, parts, seed, steps):
    rollout = rollout_of(spec, steps, 6, seed)
    shards = rollout.split(parts)
    assert [shard.num_envs for shard in shards] == [6 // parts] * parts
    assert sum(shard.agent_steps() for shard in shards) == rollout.agent_steps()
    assert sum(shard.env_steps() for shard in shards) == rollout.env_steps() == steps * 6
    assert_equal(TeamRollout.concatenate(shards), rollout)


@pytest.mark.parametrize("spec", [UNEQUAL, DISCRETE], ids=["continuous", "discrete with masks and roles"])
def test_columns_that_travel_in_one_piece_arrive_as_they_were(spec):
    whole = rollout_of(spec)
    part = whole.split(2)[1]  # views into larger arrays
    for rollout in (whole, part):
        arrived = in_one_piece(rollout._columns(), "cpu")
        assert arrived.keys() == rollout._columns().keys()
        for name, column in rollout._columns().items():
            np.testing.assert_array_equal(arrived[name].numpy(), column, err_msg=name)
            assert arrived[name].numpy().dtype == column.dtype and arrived[name].is_contiguous()


@given(parts=st.sampled_from([1, 2, 3, 6]), seed=st.integers(0, 1000))
def test_every_part_names_its_own_truncated_steps_with_their_true_last_states(parts, seed):
    rollout = rollout_of(seed=seed)
    last = {(t, e): s for (t, e), s in zip(map(tuple, rollout.final_index), rollout.final_state, strict=True)}
    width = 6 // parts
    for k, shard in enumerate(rollout.split(parts)):
        assert {tuple(i) for i in shard.final_index} == {tuple(i) for i in np.argwhere(shard.truncated)}
        for (t, e), state in zip(shard.final_index, shard.final_state, strict=True):
            np.testing.assert_array_equal(state, last[t, e + k * width])


def test_the_parts_are_views_and_leave_the_whole_as_it_was():
    rollout = rollout_of()
    before = rollout.final_index.copy()
    shards = rollout.split(2)
    assert all(np.shares_memory(shard.obs, rollout.obs) for shard in shards)
    np.testing.assert_array_equal(rollout.final_index, before)


def test_environments_that_cannot_be_shared_equally_are_refused():
    with pytest.raises(ValueError, match="6 environments cannot be split into 4 equal parts"):
        rollout_of().split(4)


def test_optional_columns_are_split_along_environments_too():
    rollout = rollout_of()
    rollout.values = np.arange(36.0).reshape(6, 6, 1)
    rollout.episode_start = rollout.terminated.copy()
    assert_equal(TeamRollout.concatenate(rollout.split(3)), rollout)
    np.testing.assert_array_equal(rollout.split(3)[1].values, rollout.values[:, 2:4])


@pytest.mark.parametrize("writeable", [True, False])
def test_tensors_hold_the_values_of_arrays_also_of_read_only_ones(writeable):
    rollout = TeamRollout(**{n: None if x is None else x.copy() for n, x in vars(rollout_of(DISCRETE)).items()})
    for column in vars(rollout).values():
        if column is not None:
            column.flags.writeable = writeable
    moved = rollout.to("cpu")
    assert all(isinstance(column, torch.Tensor) for column in columns(moved).values())
    arrays = {n: None if x is None else x.numpy() for n, x in vars(moved).items()}
    assert_equal(TeamRollout(**arrays), rollout)
    before = rollout.obs.copy()
    moved.obs += 1
    assert np.array_equal(rollout.obs, before) != writeable  # what others may read is copied, the rest is shared
