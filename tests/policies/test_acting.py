"""Loaded policies act as the trained policy does: whole teams, some agents, by name, with and without memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.nn.policy import TeamPolicy
from lorasa_rllib.policies.acting import LoadedPolicy
from lorasa_rllib.policies.saved import saved
from tests.helpers import (
    METHODS,
    make_policy,
    owner_tables,
    policies,
    random_masks,
    random_obs,
    random_roles,
    randomise,
    seeded,
    team,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def agents_of(policy):
    return {"masks": policy.config.spec.has_masks}


def rows_of(policy, *lead, seed=0):
    """Random observations, roles and masks as numpy, float32."""
    spec, owners = policy.config.spec, policy.config.owners
    obs = random_obs(spec, *lead, seed=seed).float().numpy()
    roles, masks = random_roles(owners, *lead, seed=seed), random_masks(spec, *lead, seed=seed)
    return obs, None if roles is None else roles.numpy(), None if masks is None else masks.numpy()


def in_training(policy, obs, roles, masks, state=None):
    """Greedy actions in the environment's units and next states, through the actor that trains."""
    recurrent = policy.config.network.recurrent
    time = (None,) if recurrent else ()
    with torch.no_grad():
        distribution, after = policy.actor.unroll(
            torch.as_tensor(obs)[time],
            roles=None if roles is None else torch.as_tensor(roles)[time],
            masks=None if masks is None else torch.as_tensor(masks)[time],
            state=None if state is None else torch.as_tensor(state),
            adapters=policy.adapters_on,
        )
    mode = distribution.mode().numpy()
    mode, after = (mode[0], after[0].numpy()) if recurrent else (mode, None)
    return policy.config.spec.to_environment(mode), after


def bounded(policy):
    """With bounds that are not -1 and 1, as environments have them."""
    spec = policy.config.spec
    if spec.continuous:
        for name, factor in (("action_low", 0.5), ("action_high", 2.0)):
            wider = tuple(tuple(factor * b for b in bounds) for bounds in getattr(spec, name))
            object.__setattr__(spec, name, wider)
    return policy.float()


def has_masks(policy):
    object.__setattr__(policy.config.spec, "has_masks", not policy.config.spec.continuous)
    return policy


@pytest.mark.gpu
@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_actions_on_a_gpu_are_those_on_the_cpu(method, recurrent, data):
    policy = has_masks(bounded(data.draw(policies(method, recurrent=recurrent))))
    on_cpu, on_gpu = (LoadedPolicy(saved(policy), device) for device in ("cpu", "cuda"))
    states = [None, None]
    for step in range(3):
        obs, roles, masks = rows_of(policy, 3, seed=step)
        (expected, states[0]), (actions, states[1]) = (
            loaded.act(obs, state, roles=roles, mask=masks)
            for loaded, state in zip((on_cpu, on_gpu), states, strict=True)
        )
        np.testing.assert_allclose(actions, expected, **CLOSE)
        if recurrent:
            np.testing.assert_allclose(states[1], states[0], **CLOSE)


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_actions_are_those_of_training(method, recurrent, data):
    policy = has_masks(bounded(data.draw(policies(method, recurrent=recurrent))))
    loaded, lead = LoadedPolicy(saved(policy)), data.draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    state = expected_state = None
    for step in range(3):
        obs, roles, mask = rows_of(policy, *lead, seed=step)
        actions, state = loaded.act(obs, state, roles=roles, mask=mask)
        expected, expected_state = in_training(policy, obs, roles, mask, expected_state)
        np.testing.assert_allclose(actions, expected, **CLOSE)
        assert actions.dtype == (np.float32 if policy.config.spec.continuous else np.int64)
        if recurrent:
            np.testing.assert_allclose(state, expected_state, **CLOSE)


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_some_agents_act_as_they_do_in_the_team(method, recurrent, data):
    policy = has_masks(bounded(data.draw(policies(method, recurrent=recurrent))))
    loaded, spec = LoadedPolicy(saved(policy)), policy.config.spec
    obs, roles, mask = rows_of(policy)
    team_actions, team_state = loaded.act(obs, roles=roles, mask=mask)
    team_actions, _ = loaded.act(obs, team_state, roles=roles, mask=mask)
    some = data.draw(st.permutations(range(spec.num_agents)))[: data.draw(st.integers(1, spec.num_agents))]

    def of(array):
        return None if array is None else array[some]

    actions, _ = loaded.act(obs[some], of(team_state), agents=some, roles=of(roles), mask=of(mask))
    np.testing.assert_allclose(actions, team_actions[some], **CLOSE)
    names = [spec.agents[n] for n in some]

    def named(array, sizes=None):
        return array and dict(zip(names, array, strict=True)) if sizes is None else {
            name: array[n][: sizes[n]] for name, n in zip(names, some, strict=True)
        }  # fmt: skip

    by_name, after = loaded.act(
        named(obs, spec.obs_sizes),
        None if team_state is None else named(list(team_state[some])),
        roles=None if roles is None else named(roles[some].tolist()),
        mask=None if mask is None else named(mask, spec.action_sizes),
    )
    assert list(by_name) == names and (after is None) == (not recurrent)
    for n, name in zip(some, names, strict=True):
        np.testing.assert_allclose(by_name[name], spec.action_of(n, team_actions[n]), **CLOSE)
        alone, _ = loaded.act(
            obs[n][: spec.obs_sizes[n]],
            None if team_state is None else team_state[n],
            agents=name,
            roles=None if roles is None else roles[n],
            mask=None if mask is None else mask[n][: spec.action_sizes[n]],
        )
        np.testing.assert_allclose(alone, by_name[name], **CLOSE)


@pytest.mark.parametrize("continuous", [True, False])
def test_sampled_actions_follow_the_distribution_and_the_seed(continuous):
    policy = make_policy(team((3, 3), (2, 2), continuous), owner_tables(2)["lora"]).float()
    obs = np.broadcast_to(rows_of(policy)[0], (4000, 2, 3))
    drawn = [LoadedPolicy(saved(policy), seed=7).act(obs, greedy=False)[0] for _ in range(2)]
    np.testing.assert_array_equal(*drawn)
    with torch.no_grad():
        distribution = policy.distribution(torch.as_tensor(obs))
        expected = policy.config.spec.to_environment(distribution.sample(seeded(1)).numpy())
    np.testing.assert_allclose(drawn[0].mean(0), expected.mean(0), atol=0.05)
    np.testing.assert_allclose(drawn[0].std(0), expected.std(0), atol=0.05)


def test_many_agents_act_through_their_factors():
    spec = team((3,) * 200, (2,) * 200)
    policy = make_policy(spec, owner_tables(200)["lora"]).float()
    obs, roles, mask = rows_of(policy, 2)
    actions, _ = LoadedPolicy(saved(policy)).act(obs)
    np.testing.assert_allclose(actions, in_training(policy, obs, roles, mask)[0], **CLOSE)
    some, _ = LoadedPolicy(saved(policy)).act(obs[:, [5, 170]], agents=["agent_5", "agent_170"])
    np.testing.assert_allclose(some, actions[:, [5, 170]], **CLOSE)


def test_agents_that_appear_later_begin_without_memory():
    from lorasa_rllib.nn.network import NetworkConfig

    network = NetworkConfig(hidden_size=4, recurrent=True)
    policy = make_policy(team((3, 3), (2, 2)), owner_tables(2)["lora"], network=network).float()
    loaded, obs = LoadedPolicy(saved(randomise(policy, 3))), {"agent_0": np.ones(3), "agent_1": -np.ones(3)}
    _, state = loaded.act({"agent_0": obs["agent_0"]})
    actions, state = loaded.act(obs, state)
    fresh, _ = loaded.act({"agent_1": obs["agent_1"]})
    np.testing.assert_allclose(actions["agent_1"], fresh["agent_1"], **CLOSE)
    assert set(state) == set(obs)
    assert loaded.act({}, state) == ({}, {})


@pytest.mark.parametrize("absent_forget", [True, False])
def test_agents_whose_ids_are_numbers_are_named_by_them(absent_forget):
    """If agent ids are numbers, a number selects the agent with that id, not the agent at that position."""
    from lorasa_rllib.nn.network import NetworkConfig

    spec = replace(team((3, 3, 3), (2, 2, 2)), agents=("2", "0", "1"))
    made = make_policy(spec, owner_tables(3)["nps"], network=NetworkConfig(hidden_size=4, recurrent=True))
    policy = TeamPolicy(replace(made.config, absent_forget=absent_forget))
    loaded = LoadedPolicy(saved(randomise(policy, 3)))
    rows = np.eye(3, dtype=np.float32)
    by_name = by_id = None
    for there in ([2, 0, 1], [1], [0, 2], [1, 0]):
        seen = {agent: rows[agent] for agent in there}
        expected, by_name = loaded.act({str(agent): row for agent, row in seen.items()}, by_name)
        actions, by_id = loaded.act({np.int64(agent): row for agent, row in seen.items()}, by_id)
        np.testing.assert_equal({str(agent): action for agent, action in actions.items()}, expected)
        np.testing.assert_array_equal(list(by_id.values()), list(by_name.values()))
    for agent in (2, 0, 1):
        expected, _ = loaded.act({str(agent): rows[0]})
        np.testing.assert_equal(loaded.act(rows[0], agents=agent)[0], expected[str(agent)])
    with pytest.raises(ValueError, match=r"no agents \[3\]"):
        loaded.act(rows[0], agents=3)
    with pytest.raises(ValueError, match=r"state: agent '2' is named more than once, \[2, '2'\]"):
        loaded.act({2: rows[0]}, {2: by_id[0], "2": by_id[0]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"observations": np.zeros((3, 4))}, r"observations has shape \[3, 4\]; its last axes must be \[2, 4\]"),
        ({"observations": np.zeros((2, 4)), "agents": ["nobody", 0]}, r"no agents \['nobody'\]; it has \['agent_0'"),
        ({"observations": np.zeros((1, 4)), "agents": [2]}, r"no agents \[2\]"),
        ({"observations": {"agent_0": np.zeros(3)}}, "observations of agent_0 must have 4 entries, not 3"),
        ({"observations": {"agent_0": np.zeros(4)}, "agents": [0]}, "leave agents out"),
        (
            {"observations": {"agent_1": np.zeros(4), 1: np.ones(4)}},
            r"observations: agent 'agent_1' is named more than once, \['agent_1', 1\]",
        ),
        ({"observations": np.zeros(3), "agents": 1}, "observations of agent_1 must end in 4"),
        ({"observations": np.zeros((2, 4))}, "give mask"),
        ({"observations": np.zeros((2, 4)), "mask": np.ones((2, 3))}, r"mask has shape \[2, 3\]"),
        ({"observations": np.zeros((5, 2, 4)), "mask": np.ones((5, 2, 2))}, "give roles"),
        ({"observations": np.zeros((2, 4)), "roles": [0], "mask": np.ones((2, 2))}, r"roles has shape \[1\]"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(arguments, message):
    spec = team((4, 4), (2, 2), continuous=False, has_masks=True)
    needs_roles = "roles" in message
    policy = make_policy(spec, owner_tables(2)["role" if needs_roles else "lora"]).float()
    with pytest.raises(ValueError, match=message):
        LoadedPolicy(saved(policy)).act(**arguments)


def test_what_does_not_fit_is_refused_with_a_reason():
    spec = team((3, 3), (5, 3), continuous=False, has_masks=True)
    loaded = LoadedPolicy(saved(make_policy(spec, owner_tables(2)["role"]).float()))
    obs, mask, roles = np.zeros((2, 3)), np.ones((2, 5), bool), np.zeros(2, int)
    named = {name: np.zeros(3) for name in spec.agents}
    masks = {name: np.ones(size, bool) for name, size in zip(spec.agents, spec.action_sizes, strict=True)}
    loaded.act(named, roles=dict.fromkeys(named, 0), mask=masks)
    for wrong, message in (
        ({"mask": np.ones((7, 2, 5), bool)}, r"mask has shape \[7, 2, 5\]; it must be \[2, 5\]"),
        ({"roles": np.zeros((3, 2), int)}, r"roles has shape \[3, 2\]; it must be \[2\]"),
        ({"agents": [0.5, 1]}, r"no agents \[0\.5\]"),
    ):
        with pytest.raises(ValueError, match=message):
            loaded.act(obs, **{"roles": roles, "mask": mask, **wrong})
    with pytest.raises(ValueError, match="observations must be numbers"):
        loaded.act(None, roles=roles, mask=mask)
    for wrong, message in (
        ({"mask": masks | {"agent_1": np.ones(5, bool)}}, r"mask of agent_1 must end in 3 choices, not \[5\]"),
        ({"mask": masks | {"agent_1": np.ones(2, bool)}}, r"mask of agent_1 must end in 3 choices, not \[2\]"),
        ({"mask": {"agent_0": masks["agent_0"]}}, r"mask of \['agent_1'\] is missing"),
        ({"roles": {"agent_1": 0}}, r"roles of \['agent_0'\] is missing"),
        ({"roles": [0, 0]}, "observations are by name, so roles must be, too"),
    ):
        with pytest.raises(ValueError, match=message):
            loaded.act(named, **{"roles": dict.fromkeys(named, 0), "mask": masks, **wrong})
    with pytest.raises(ValueError, match="device 'nonsense' cannot be used here"):
        LoadedPolicy(loaded.saved, device="nonsense")
