"""Parameters of an optimiser are views of flat buffers, whatever happens to module and optimiser in between."""

from __future__ import annotations

import copy

import cloudpickle
import pytest
import torch

from lorasa_rllib.learning import mappo
from tests.helpers import make_policy, owner_tables, random_rollout, seeded
from tests.learning.helpers import CASES, SETTINGS, UNEQUAL, optimisers_of

METHOD_AND_PHASE = pytest.mark.parametrize(("method", "phase"), CASES)


def policy_in(method, phase):
    policy = make_policy(UNEQUAL, owner_tables(3)[method])
    policy.set_phase(phase)
    return policy


def train(policy, optimisers, seed=0):
    rollout = random_rollout(policy, 4, 3, seed).to("cpu")
    mappo.update(policy, optimisers, rollout, SETTINGS, seeded(seed))


def moments_of(optimisers):
    return {name: o.state_dict()["state"] for name, o in optimisers.items()}


def assert_in_blocks(policy, optimisers):
    """Every parameter lies in a block, and the fewest that owners and phase allow."""
    for group, optimiser in optimisers.items():
        parameters = list(policy.parameters_of(group).values())
        trained = [p for p in parameters if p.requires_grad]
        assert {p for block in optimiser.blocks for p in block.parameters} == set(trained)
        assert len(optimiser.blocks) == len({len(p) for p in trained})
        for block in optimiser.blocks:
            assert block.holds()
            assert torch.equal(block.flat([p.detach() for p in block.parameters]), block.values)


@METHOD_AND_PHASE
def test_an_update_leaves_parameters_in_blocks_and_names_as_they_were(method, phase):
    policy = policy_in(method, phase)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    optimisers = optimisers_of(policy)
    for optimiser in optimisers.values():
        optimiser.arrange()
    torch.testing.assert_close(dict(policy.state_dict()), before, rtol=0, atol=0)
    train(policy, optimisers)
    assert_in_blocks(policy, optimisers)


@METHOD_AND_PHASE
@pytest.mark.parametrize("what", ["loaded", "copied", "pickled", "moved", "assigned"])
def test_training_goes_on_identically_whatever_happens_to_the_module(method, phase, what):
    policy = policy_in(method, phase)
    optimisers = optimisers_of(policy)
    train(policy, optimisers)
    whole = copy.deepcopy((policy, optimisers))
    if what == "loaded":  # from another policy, into the same buffers
        state = copy.deepcopy(policy.state_dict())
        train(policy, {name: copy.deepcopy(o) for name, o in optimisers.items()})
        policy.load_state_dict(state)
        assert all(block.holds() for o in optimisers.values() for block in o.blocks)
    elif what == "copied":
        policy, optimisers = copy.deepcopy((policy, optimisers))
    elif what == "pickled":
        policy, optimisers = cloudpickle.loads(cloudpickle.dumps((policy, optimisers)))
    elif what == "moved":
        policy.float().double()
        whole[0].float().double()
    else:
        policy.load_state_dict(copy.deepcopy(policy.state_dict()), assign=True)
        loaded = {name: o.state_dict() for name, o in optimisers.items()}
        optimisers = optimisers_of(policy)
        for name, optimiser in optimisers.items():
            optimiser.load_state_dict(loaded[name])
    for part in ((policy, optimisers), whole):
        train(*part, seed=1)
    torch.testing.assert_close(dict(policy.state_dict()), dict(whole[0].state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(moments_of(optimisers), moments_of(whole[1]), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["lora", "seps_lora"])
def test_phases_come_and_go_and_moments_stay(method):
    policy = policy_in(method, "joint")
    optimisers = optimisers_of(policy)
    train(policy, optimisers)
    before = copy.deepcopy(moments_of(optimisers))
    policy.set_phase("adapters")
    train(policy, optimisers, seed=1)
    assert_in_blocks(policy, optimisers)
    after = moments_of(optimisers)
    torch.testing.assert_close(after["backbone"], before["backbone"], rtol=0, atol=0)
    assert all((state["step"] == 10).all() for state in after["adapters"].values())
    policy.set_phase("joint")
    train(policy, optimisers, seed=2)
    assert_in_blocks(policy, optimisers)
    assert {state["step"].item() for state in moments_of(optimisers)["critic"].values()} == {15.0}


def test_states_saved_by_parameter_with_counters_of_their_own_load():
    """As torch lays them out, and older versions did: each parameter has tensors of its own."""
    parameters = [torch.zeros(3, 2), torch.zeros(3, 4, 2), torch.zeros(3, 1), torch.zeros(1, 5)]
    state = {
        n: {
            "step": torch.full((len(p),), float(n // 2 + 1)),
            "exp_avg": torch.full_like(p, n + 1.0),
            "exp_avg_sq": torch.full_like(p, n + 10.0),
        }
        for n, p in enumerate(parameters)
    }
    optimisers = optimisers_of(policy_in("ps", "backbone"))
    optimiser = type(optimisers["critic"])([p.requires_grad_() for p in parameters])
    saved = {"state": copy.deepcopy(state), "param_groups": optimiser.state_dict()["param_groups"]}
    optimiser.load_state_dict(saved)
    optimiser.arrange()
    assert sorted(len(block.parameters) for block in optimiser.blocks) == [1, 1, 2]
    torch.testing.assert_close(optimiser.state_dict()["state"], state, rtol=0, atol=0)
    optimiser.advance([torch.ones_like(block.values) for block in optimiser.blocks])
    steps = [entry["step"].tolist() for entry in optimiser.state_dict()["state"].values()]
    assert steps == [[2.0] * 3, [2.0] * 3, [3.0] * 3, [3.0]]
