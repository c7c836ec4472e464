"""Exported networks of single agents act as the policy does, also where they are no Python any more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasa_rllib.nn.network import NetworkConfig
from lorasa_rllib.policies.acting import LoadedPolicy
from lorasa_rllib.policies.exporting import AgentNetwork, export_onnx, export_program
from lorasa_rllib.policies.saved import saved
from tests.helpers import METHODS, make_policy, owner_tables, policies, team
from tests.policies.test_acting import CLOSE, bounded, has_masks, rows_of


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_an_agents_network_acts_as_the_agent(method, recurrent, data):
    policy = has_masks(bounded(data.draw(policies(method, recurrent=recurrent))))
    spec, loaded = policy.config.spec, LoadedPolicy(saved(policy))
    obs, roles, mask = rows_of(policy, 5)
    n = data.draw(st.integers(0, spec.num_agents - 1))
    if roles is not None:
        roles = np.full_like(roles, roles[0, n])
    state = None
    if recurrent:
        state = np.random.default_rng(0).standard_normal((5, spec.num_agents, loaded.saved.config.network.hidden_size))
        state = state.astype(np.float32)
    expected, after = loaded.act(obs, state, roles=roles, mask=mask)
    network = AgentNetwork(loaded.saved, spec.agents[n], None if roles is None else int(roles[0, n]))
    given_ = [torch.as_tensor(obs[:, n, : spec.obs_sizes[n]]), None if state is None else torch.as_tensor(state[:, n])]
    given_ += [None if mask is None else torch.as_tensor(mask[:, n, : spec.action_sizes[n]])]
    found = network(*given_)
    action, hidden = found if recurrent else (found, None)
    np.testing.assert_allclose(action, spec.action_of(n, expected[:, n]), **CLOSE)
    if recurrent:
        np.testing.assert_allclose(hidden, after[:, n], **CLOSE)


CASES = [
    pytest.param(kind, recurrent, id=f"{kind}-{'recurrent' if recurrent else 'feed-forward'}")
    for kind in ("continuous", "discrete")
    for recurrent in (False, True)
]


def network_of(kind, recurrent):
    continuous = kind == "continuous"
    spec = team((4, 3), (2, 2) if continuous else (3, 2), continuous, has_masks=not continuous)
    shape = NetworkConfig(hidden_size=8, recurrent=recurrent)
    return AgentNetwork(saved(make_policy(spec, owner_tables(2)["lora"], network=shape).float()), "agent_1")


def arguments(network, rows):
    found = [torch.randn(rows, network.obs_size)]
    found += [torch.randn(rows, network.hidden_size) if network.recurrent else None]
    if network.masked:
        mask = torch.rand(rows, network.num_choices) < 0.5
        mask[:, 0] = True
        found.append(mask)
    return found if network.masked else found[: 1 + network.recurrent]


@pytest.mark.parametrize(("kind", "recurrent"), CASES)
def test_programs_are_read_back_and_take_any_number_of_rows(kind, recurrent, tmp_path):
    network = network_of(kind, recurrent)
    path = export_program(network, tmp_path / "agent.pt2")
    program = torch.export.load(path).module()
    for rows in (1, 7):
        given_ = arguments(network, rows)
        torch.testing.assert_close(program(*given_), network(*given_))


@pytest.mark.parametrize(("kind", "recurrent"), CASES)
def test_onnx_files_run_in_onnxruntime(kind, recurrent, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    network = network_of(kind, recurrent)
    session = onnxruntime.InferenceSession(export_onnx(network, tmp_path / "agent.onnx"))
    assert [i.name for i in session.get_inputs()] == network.inputs()
    for rows in (1, 7):
        given_ = arguments(network, rows)
        tensors = [x.numpy() for x in given_ if x is not None]
        found = session.run(None, dict(zip(network.inputs(), tensors, strict=True)))
        wanted = network(*given_)
        for one, other in zip(found, wanted if network.recurrent else (wanted,), strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=1e-4, atol=1e-5)


def test_unknown_agents_and_missing_roles_are_refused():
    policy = saved(make_policy(team((3, 3), (2, 2)), owner_tables(2)["role"]).float())
    with pytest.raises(ValueError, match="no agent 'nobody'"):
        AgentNetwork(policy, "nobody")
    with pytest.raises(ValueError, match="say which role"):
        AgentNetwork(policy, "agent_0")
