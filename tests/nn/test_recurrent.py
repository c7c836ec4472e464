"""Recurrent actors and critics: all ways to compute a sequence agree, and nothing leaks between episodes or agents."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasa_rllib.nn import bank
from lorasa_rllib.nn.acting import UnmergedActor
from lorasa_rllib.nn.bank import ADAPTER_PARAMETERS, Banks, LoRAConfig
from lorasa_rllib.nn.gru import BankGRU
from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.nn.rows import Router
from lorasa_rllib.spec import Owners
from tests.helpers import (
    BY_AGENT,
    METHODS,
    gradients,
    make_policy,
    outputs,
    owner_tables,
    policies,
    random_masks,
    random_obs,
    random_roles,
    randomise,
    seeded,
    team,
)

PATHS = {"merged": 1, "factored": 10**9}
EXACT = {"rtol": 1e-9, "atol": 1e-10}
UNEQUAL = team((4, 2, 3), (2, 3, 1))
RECURRENT = NetworkConfig(hidden_size=5, recurrent=True, critic_recurrent=True)


def sequence_of(policy, steps, envs):
    """Everything an actor takes for a random sequence: states to start from, and resets at random."""
    spec, owners, size = policy.config.spec, policy.config.owners, policy.config.network.hidden_size
    rows = {"roles": random_roles(owners, steps, envs, seed=2), "masks": random_masks(spec, steps, envs, seed=3)}
    rows["state"] = torch.randn(envs, spec.num_agents, size, generator=seeded(4), dtype=torch.double)
    rows["keep"] = torch.rand(steps, envs, spec.num_agents, generator=seeded(5)) < 0.7
    return random_obs(spec, steps, envs, seed=1), rows


def cut(rows, index):
    """Rows [T, E, N, ...] at `index`; the states have no time."""
    after = index[1:] if isinstance(index, tuple) else ()
    return {
        name: None if column is None else column[after] if name == "state" else column[index]
        for name, column in rows.items()
    }


@given(size=st.integers(1, 6), steps=st.integers(1, 5), envs=st.integers(1, 3), seed=st.integers(0, 100))
def test_without_adapters_it_is_the_gru_of_pytorch(size, steps, envs, seed):
    owners = Owners("ps", (0, 0))
    ours = randomise(BankGRU(size, Banks(owners, LoRAConfig()), layer_norm=False).double(), seed)
    theirs = torch.nn.GRU(size, size).double()
    for name, layer in (("ih", ours.input), ("hh", ours.hidden)):
        getattr(theirs, f"weight_{name}_l0").data = layer.weight[0].detach().clone()
        getattr(theirs, f"bias_{name}_l0").data = layer.bias[0].detach().clone()
    x = torch.randn(steps, envs, 2, size, generator=seeded(seed), dtype=torch.double)
    h = torch.randn(envs, 2, size, generator=seeded(seed + 1), dtype=torch.double)
    rows = Router(owners).layout(x)
    y, states = ours(rows.arrange(x), rows, h, None)
    expected, last = theirs(x.flatten(1, 2), h.flatten(0, 1)[None])
    torch.testing.assert_close(rows.restore(y).flatten(1, 2), expected, **EXACT)
    torch.testing.assert_close(states[-1].flatten(0, 1), last[0], **EXACT)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=5)
@given(data=st.data())
def test_a_team_sequence_equals_single_steps_of_single_rows(method, path, data):
    """Values and gradients; owners of rows may change within the sequence where routing is by role."""
    policy = data.draw(policies(method, recurrent=True))
    steps, envs = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 2))
    obs, rows = sequence_of(policy, steps, envs)
    actor, agents = policy.actor, range(policy.config.spec.num_agents)
    with patch.object(bank, "MERGE_FROM_ROWS", PATHS[path]):
        distribution, states = actor.unroll(obs, **rows)
    expected, last = [], []
    for e in range(envs):
        for n in agents:
            h, outs = rows["state"][e, n], []
            for t in range(steps):
                here = {name: cut(rows, (t, e, n))[name] for name in ("roles", "masks")}
                here = {name: None if column is None else column[None] for name, column in here.items()}
                h = h * rows["keep"][t, e, n]
                one, after = actor.unroll(obs[t, e, n][None], agent=n, state=h, **here)
                outs.append(outputs(one)[0])
                h = after[0]
            expected.append(torch.stack(outs))
            last.append(h)
    actual, expected = outputs(distribution), torch.stack(expected, 1).unflatten(1, (envs, len(agents)))
    torch.testing.assert_close(actual, expected, **EXACT)
    torch.testing.assert_close(states[-1], torch.stack(last).unflatten(0, (envs, len(agents))), **EXACT)
    weights = torch.randn(actual.shape, generator=seeded(6), dtype=torch.double)
    real = expected > -1e9
    ours, theirs = (gradients((weights * torch.where(real, y, 0.0)).sum(), actor) for y in (actual, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=4)
@given(data=st.data())
def test_rows_with_an_agent_each_equal_the_team(method, path, data):
    """Agents in any order; the agent of a row may even change from step to step."""
    policy = data.draw(policies(method, recurrent=True))
    steps, envs, agents = 3, 2, policy.config.spec.num_agents
    obs, rows = sequence_of(policy, steps, envs)
    order = torch.randperm(envs * agents, generator=seeded(data.draw(st.integers(0, 99))))
    expected, states = policy.actor.unroll(obs, **rows)

    def shuffled(column):
        return None if column is None else column.flatten(1, 2)[:, order]

    state = rows.pop("state").flatten(0, 1)[order]
    agent = torch.arange(agents).expand(steps, envs, agents).flatten(1, 2)[:, order]
    flat = {name: shuffled(column) for name, column in rows.items()}
    with patch.object(bank, "MERGE_FROM_ROWS", PATHS[path]):
        actual, after = policy.actor.unroll(shuffled(obs), agent=agent, state=state, **flat)
    torch.testing.assert_close(outputs(actual), shuffled(outputs(expected)), **EXACT)
    torch.testing.assert_close(after, shuffled(states), **EXACT)


def test_the_agent_of_a_row_may_change_from_step_to_step():
    policy = make_policy(UNEQUAL, owner_tables(3)["lora"], network=RECURRENT)
    agent = torch.tensor([[0, 2, 1, 1], [1, 2, 0, 1], [2, 2, 2, 1]])
    obs = random_obs(UNEQUAL, 3, 4).gather(2, agent[:, :, None, None].expand(-1, -1, 1, 4))[:, :, 0]
    actual, _ = policy.actor.unroll(obs, agent=agent)
    h, expected = torch.zeros(4, 5, dtype=torch.double), []
    for t in range(3):
        one, after = policy.actor.unroll(obs[t][None], agent=agent[t][None], state=h)
        h = after[0]
        expected.append(outputs(one)[0])
    torch.testing.assert_close(outputs(actual), torch.stack(expected), **EXACT)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=5)
@given(data=st.data())
def test_acting_step_by_step_equals_the_sequence(method, data):
    policy = data.draw(policies(method, recurrent=True))
    obs, rows = sequence_of(policy, 4, 2)
    expected, states = policy.actor.unroll(obs, **rows)
    for acting in (policy.acting(), UnmergedActor(policy.actor, policy.adapters_on)):
        h = rows["state"]
        for t in range(4):
            h = h * rows["keep"][t].unsqueeze(-1)
            roles, available = (None if rows[name] is None else rows[name][t] for name in ("roles", "masks"))
            one, h = acting.step(obs[t], roles=roles, available=available, hidden=h)
            torch.testing.assert_close(outputs(one), outputs(expected)[t], **EXACT)
            torch.testing.assert_close(h, states[t], **EXACT)


@given(data=st.data(), length=st.integers(1, 5))
def test_chunks_that_start_from_stored_states_equal_the_whole(data, length):
    policy = data.draw(policies("lora", recurrent=True))
    obs, rows = sequence_of(policy, 6, 2)
    expected, _ = policy.actor.unroll(obs, **rows)
    state = rows.pop("state")
    for start in range(0, 6, length):
        part = slice(start, start + length)
        actual, states = policy.actor.unroll(obs[part], state=state, **cut(rows, part))
        torch.testing.assert_close(outputs(actual), outputs(expected)[part], **EXACT)
        state = states[-1]


def test_nothing_before_a_reset_reaches_what_comes_after_it():
    policy = make_policy(UNEQUAL, owner_tables(3)["lora"], network=RECURRENT)
    obs = random_obs(UNEQUAL, 6, 2).requires_grad_()
    keep = torch.ones(6, 2, 1, dtype=torch.bool)
    keep[3, 0] = False
    distribution, _ = policy.actor.unroll(obs, keep=keep)
    (grad,) = torch.autograd.grad(outputs(distribution)[3:].square().sum(), obs)
    assert grad[:3, 0].count_nonzero() == 0
    assert grad[:3, 1].count_nonzero() > 0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", [m for m in BY_AGENT if m not in ("ps", "lora_one_for_all")])
def test_the_loss_of_one_agent_leaves_the_slices_of_every_other_owner_alone(method, path):
    policy = make_policy(UNEQUAL, owner_tables(3)[method], network=RECURRENT)
    owners, obs = policy.config.owners, random_obs(UNEQUAL, 3, 2)
    for agent in range(3):
        with patch.object(bank, "MERGE_FROM_ROWS", PATHS[path]):
            mine = outputs(policy.actor.unroll(obs)[0])[:, :, agent]
        for name, grad in gradients(mine.square().sum(), policy.actor).items():
            if len(grad) == 1:
                continue
            adapter = name.rpartition(".")[2] in ADAPTER_PARAMETERS
            owner = (owners.adapter_of if adapter else owners.backbone_of)[agent]
            others = [o for o in range(len(grad)) if o != owner]
            assert grad[others].count_nonzero() == 0, name
            assert grad[owner].count_nonzero() > 0, name


@pytest.mark.parametrize("per_agent", [False, True])
@pytest.mark.parametrize("method", ["ps", "nps", "seps"])
def test_the_critic_steps_like_it_unrolls(method, per_agent):
    spec = team((4, 2, 3), (2, 3, 1), state_per_agent=per_agent)
    critic_input = "agent_state" if per_agent or method != "ps" else "state"
    policy = make_policy(spec, owner_tables(3)[method], network=RECURRENT, critic_input=critic_input)
    width = policy.critic.num_values
    states = torch.randn(5, 2, *spec.state_shape, generator=seeded(1), dtype=torch.double)
    keep = torch.rand(5, 2, width, generator=seeded(2)) < 0.6
    h = torch.randn(2, width, 5, generator=seeded(3), dtype=torch.double)
    values, hidden = policy.critic.unroll(states, h, keep)
    acting = policy.acting_critic()
    for t in range(5):
        one, h = acting.step(states[t], h * keep[t].unsqueeze(-1))
        torch.testing.assert_close(one, values[t], **EXACT)
        torch.testing.assert_close(h, hidden[t], **EXACT)
