"""Updates on a GPU are those on the CPU: the same parameters, moments and statistics, in double precision."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasa_rllib.learning.a2po import A2POSettings, SequentialUpdate
from lorasa_rllib.learning.batch import MAPPOSettings
from lorasa_rllib.learning.mappo import update
from tests.helpers import policies, random_rollout, seeded
from tests.learning.helpers import CASES, experienced, optimisers_of

pytestmark = pytest.mark.gpu
SAME = {"num_epochs": 2, "chunk_length": 2, "max_grad_norm": 0.3, "entropy_coeff": 0.0}


def mappo(policy, optimisers, rollout, device):
    return update(policy, optimisers, rollout, MAPPOSettings(**SAME), torch.Generator(device).manual_seed(1))


def a2po(policy, optimisers, rollout, device):
    order = seeded(1)

    def pick(choices):
        return int(torch.randint(choices, (1,), generator=order))

    noise = torch.Generator(device).manual_seed(1)
    sequence = SequentialUpdate(policy, optimisers, rollout, A2POSettings(**SAME), pick, noise)
    sequence.run()
    return sequence.log


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("algorithm", [mappo, a2po])
@pytest.mark.parametrize(("method", "phase"), CASES)
@settings(max_examples=2)
@given(data=st.data())
def test_updates_are_those_of_the_cpu(method, phase, algorithm, recurrent, data):
    policy = experienced(data.draw(policies(method, recurrent=recurrent)))
    policy.set_phase(phase)
    rollouts = [random_rollout(policy, 4, 3, seed, dead=(1,)) for seed in range(2)]
    results = {}
    for device in ("cpu", "cuda"):
        trained = copy.deepcopy(policy).to(device)
        optimisers = optimisers_of(trained)
        for rollout in rollouts:
            log = algorithm(trained, optimisers, rollout.to(device), device)
        moments = {
            f"{group}.{n}.{name}": value
            for group, optimiser in optimisers.items()
            for n, p in enumerate(optimiser.param_groups[0]["params"])
            for name, value in optimiser.state[p].items()
        }
        log.pop("entropy", None)  # a squashed Gaussian's is estimated from noise
        found = {**trained.state_dict(), **moments, **log}
        assert all(value.device.type == device for value in found.values())
        results[device] = {name: value.cpu() for name, value in found.items()}
    assert results["cpu"].keys() == results["cuda"].keys()
    for name, value in results["cpu"].items():
        found = results["cuda"][name]  # as close as their precision allows: counts are in single
        torch.testing.assert_close(found, value, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}")
