"""Banks of observations: what is pooled stays together, and everyone is represented."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.analysis.observations import ObservationBank, bank_of, inputs_of, names_of
from tests.helpers import make_policy, owner_tables, team


@given(
    steps=st.integers(1, 3), envs=st.integers(1, 6), agents=st.integers(1, 5), limit=st.integers(1, 40),
)  # fmt: skip
def test_columns_are_whole_trajectories_of_all_agents_alike(steps, envs, agents, limit):
    rng = np.random.default_rng(0)
    where = np.stack(np.meshgrid(*map(np.arange, (steps, envs, agents)), indexing="ij"), -1)  # obs say where they are
    keep = rng.random((steps, envs)) < 0.5
    masks, active = rng.random((steps, envs, agents, 4)) < 0.5, np.ones((steps, envs, agents), bool)
    active[1:] = rng.random((steps - 1, envs, agents)) < 0.5
    bank = bank_of(where, keep, masks, active, limit)
    t, e, n = np.moveaxis(bank.obs, -1, 0)
    assert (t == np.arange(steps)[:, None]).all() and (e == e[0]).all() and (n == bank.agents).all()
    assert len({*zip(e[0], n[0], strict=True)}) == e.shape[1] == min(limit, envs * agents)
    remembers = keep[t, e]
    remembers[1:] &= active[t, e, n][:-1]  # agents forget while they are absent
    np.testing.assert_array_equal(bank.keep, remembers)
    np.testing.assert_array_equal(bank.masks, masks[t, e, n])
    np.testing.assert_array_equal(bank.active, active[t, e, n])
    per_agent = np.bincount(bank.agents, minlength=agents)
    assert per_agent.max() - per_agent.min() <= 1
    rows = bank.active_rows()
    np.testing.assert_array_equal(rows, np.flatnonzero(active[t, e, n]))
    few = bank.active_rows(limit=3)
    assert len(few) == min(3, len(rows)) and set(few) <= set(rows) and (np.diff(few) > 0).all()


@given(envs=st.integers(1, 6), agents=st.integers(1, 6))
def test_one_column_for_each_agent_is_not_one_environment_only(envs, agents):
    where = np.broadcast_to(np.arange(envs)[None, :, None, None], (1, envs, agents, 1))
    assert len(np.unique(bank_of(where, limit=agents).obs)) == min(envs, agents)


def test_a_bank_without_columns_for_options_takes_all_rows():
    bank = bank_of(np.zeros((2, 3, 2, 5)))
    assert bank.keep is bank.masks is bank.active is None
    assert bank.active_rows().tolist() == list(range(12))


def test_what_cannot_be_a_bank_is_refused():
    with pytest.raises(ValueError, match="bank_of"):
        ObservationBank(np.zeros((2, 3, 2, 5)))
    with pytest.raises(ValueError, match=r"\[T, E, N, o\]"):
        bank_of(np.zeros((2, 3, 5)))
    for name, column in {
        "keep": np.ones((2, 4), bool),
        "active": np.ones((3, 3), bool),
        "masks": np.ones((2, 1, 7), bool),
        "agents": np.zeros(2, int),
    }.items():
        with pytest.raises(ValueError, match=name):
            ObservationBank(np.zeros((2, 3, 5)), **{name: column})
    for bank in ({"obs": np.zeros((2, 0, 5))}, {"obs": np.zeros((2, 3, 5)), "active": np.zeros((2, 3), bool)}):
        with pytest.raises(ValueError, match="no active row"):
            ObservationBank(**bank)


def test_a_bank_of_another_team_is_refused_and_roles_of_unequal_agents_need_their_agents():
    policy = make_policy(team((4, 2), (2, 3)), owner_tables(2)["role"])
    with pytest.raises(ValueError, match="width 3 are not of this team"):
        next(inputs_of(policy, ObservationBank(np.zeros((1, 1, 3)))))
    with pytest.raises(ValueError, match="whose columns"):
        next(inputs_of(policy, ObservationBank(np.zeros((1, 1, 4)))))
    assert len(list(inputs_of(policy, ObservationBank(np.zeros((1, 1, 4)), agents=np.array([1]))))) == 3


def test_agents_are_called_as_in_the_team_and_roles_by_number():
    spec = team((4, 2), (2, 3))
    assert names_of(make_policy(spec, owner_tables(2)["lora"])) == ["agent_0", "agent_1"]
    assert names_of(make_policy(spec, owner_tables(2)["role"])) == ["role 0", "role 1", "role 2"]
