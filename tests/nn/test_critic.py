"""The critic: one value per step or per agent, with the owners that the table names."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.nn.network import OBS_NORMS, NetworkConfig
from tests.helpers import gradients, make_policy, owner_tables, seeded, team

UNEQUAL = team((4, 2, 3), (2, 3, 1), id_capacity=5)


@given(
    critic_input=st.sampled_from(["state", "agent_state"]),
    method=st.sampled_from(["ps", "nps", "seps"]),
    obs_norm=st.sampled_from(OBS_NORMS),
    layer_norm=st.booleans(),
    lead=st.sampled_from([(), (4,), (2, 3)]),
)
def test_values_equal_one_dense_network_per_owner(critic_input, method, obs_norm, layer_norm, lead):
    network = NetworkConfig(hidden_size=5, obs_norm=obs_norm, obs_clip=1.5, layer_norm=layer_norm)
    policy = make_policy(UNEQUAL, owner_tables(3)[method], network=network, critic_input=critic_input)
    critic, owners = policy.critic, policy.config.owners
    state = torch.randn(*lead, UNEQUAL.state_size, generator=seeded(0), dtype=torch.double)
    columns = []
    for agent in range(critic.num_values):
        c = owners.critic_of[agent]

        def norm(layer, x, c=c):
            return F.layer_norm(x, x.shape[-1:], layer.weight[c], layer.bias[c])

        x = norm(critic.feature_norm, state) if obs_norm == "layer" else state
        if obs_norm in ("running", "running_team"):
            x = ((x - critic.obs_norm.mean[0]) / (critic.obs_norm.var[0] + 1e-8).sqrt()).clamp(-1.5, 1.5)
        if owners.num_critics < 3 and critic.num_values > 1:
            x = torch.cat([x, F.one_hot(torch.tensor(agent), 5).double().expand(*lead, 5)], dim=-1)
        for layer in critic.mlp:
            x = torch.relu(F.linear(x, layer.weight[c], layer.bias[c]))
            x = norm(layer.norm, x) if layer_norm else x
        columns.append(F.linear(x, critic.head.weight[c], critic.head.bias[c])[..., 0])
    torch.testing.assert_close(critic(state), torch.stack(columns, -1), rtol=1e-10, atol=1e-11)


def test_the_value_loss_of_one_agent_leaves_the_critics_of_others_alone():
    policy = make_policy(UNEQUAL, owner_tables(3)["nps"])
    state = torch.randn(6, 3, generator=seeded(0), dtype=torch.double)
    for name, grad in gradients(policy.critic(state)[:, 1].sum(), policy.critic).items():
        assert grad[[0, 2]].count_nonzero() == 0, name
        assert grad[1].count_nonzero() > 0, name


@pytest.mark.parametrize(("critic_input", "values"), [("state", 1), ("agent_state", 3)])
def test_the_critic_gives_one_value_per_step_or_one_per_agent(critic_input, values):
    policy = make_policy(UNEQUAL, owner_tables(3)["ps"], critic_input=critic_input)
    assert policy.critic.num_values == values == policy.value_norm.mean.numel()
    assert policy.critic(torch.zeros(2, 4, 3, dtype=torch.double)).shape == (2, 4, values)
