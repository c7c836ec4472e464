"""Optimiser steps as functions of named tensors, which GPUs replay, are those of the update as it is."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from lorasa_rllib.learning import a2po, mappo
from lorasa_rllib.learning.a2po import A2POSettings
from lorasa_rllib.learning.compiled import StepCompiler
from lorasa_rllib.learning.cuda_graphs import WARM_UPS, Graphs
from lorasa_rllib.learning.replayed import why_not_recorded
from lorasa_rllib.nn.network import NetworkConfig
from tests.helpers import make_policy, owner_tables, random_rollout, team
from tests.learning.helpers import CASES, SETTINGS, UNEQUAL, experienced, optimisers_of

SMALL = dataclasses.replace(SETTINGS, num_epochs=2, minibatch_size=4)
SEQUENTIAL = A2POSettings(num_epochs=2, chunk_length=2, max_grad_norm=0.3, entropy_coeff=0.05, minibatch_size=4)
WHOLE = {"mappo": SMALL, "a2po": SEQUENTIAL}
WHOLE = {name: dataclasses.replace(one, entropy_coeff=0.0, minibatch_size=None) for name, one in WHOLE.items()}
WHOLE["a2po"] = dataclasses.replace(WHOLE["a2po"], agent_order="cyclic")
"""Without noise, shuffling and random orders, so that CPU and GPU take the same steps."""
UPDATES = {"mappo": mappo.update, "a2po": a2po.update}
LAYOUTS = [(*case, False) for case in CASES] + [("lora", "joint", True)]
ITERATIONS = WARM_UPS + 2


class OnCPU(StepCompiler):
    """Replays on a CPU, too: `Graphs` then runs the functions as they are."""

    def replays(self, policy, settings, all_sum):
        return why_not_recorded(policy, settings) is None


def updates(policy, rollouts, algorithm, settings, replayed, device="cpu"):
    """Policy, moments and log after updates on `rollouts`; and the number of recorded graphs."""
    mine = copy.deepcopy(policy).to(device)
    optimisers = optimisers_of(mine)
    compiler = (OnCPU if device == "cpu" else StepCompiler)("auto") if replayed else None
    for seed, rollout in enumerate(rollouts):
        generator = torch.Generator(device).manual_seed(seed)
        args = mine, optimisers, rollout.to(device), settings, generator
        log = UPDATES[algorithm](*args, compiler=compiler)
    moments = {
        f"{group}.{n}.{name}": value
        for group, optimiser in optimisers.items()
        for n, p in enumerate(optimiser.param_groups[0]["params"])
        for name, value in optimiser.state[p].items()
    }
    return {**mine.state_dict(), **moments, **log}, len(compiler.graphs) if compiler else 0


def policy_in(method, phase, spec=UNEQUAL, **options):
    policy = experienced(make_policy(spec, owner_tables(len(spec.agents))[method], **options))
    policy.set_phase(phase)
    return policy


@pytest.mark.parametrize("algorithm", ["mappo", "a2po"])
@pytest.mark.parametrize(("method", "phase", "recurrent"), LAYOUTS)
def test_steps_as_functions_are_those_as_they_are(method, phase, algorithm, recurrent):
    network = NetworkConfig(hidden_size=5, recurrent=recurrent, critic_recurrent=recurrent)
    policy = policy_in(method, phase, network=network)
    rollouts = [random_rollout(policy, 4, 3, seed, dead=(1,)).to("cpu") for seed in range(2)]
    settings = SMALL if algorithm == "mappo" else SEQUENTIAL
    replayed, _ = updates(policy, rollouts, algorithm, settings, True)
    plain, _ = updates(policy, rollouts, algorithm, settings, False)
    # Owners without rows are masked instead of left out, which rounds differently.
    torch.testing.assert_close(replayed, plain, rtol=1e-9, atol=1e-11, equal_nan=True)


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ["mappo", "a2po"])
@pytest.mark.parametrize(("method", "phase", "recurrent"), LAYOUTS)
def test_replayed_graphs_take_the_steps_of_the_cpu(method, phase, algorithm, recurrent):
    network = NetworkConfig(hidden_size=5, recurrent=recurrent, critic_recurrent=recurrent)
    policy = policy_in(method, phase, network=network)
    rollouts = [random_rollout(policy, 4, 3, seed, dead=(1,)) for seed in range(ITERATIONS)]
    settings = WHOLE[algorithm]
    on_gpu, graphs = updates(policy, rollouts, algorithm, settings, True, "cuda")
    on_cpu, _ = updates(policy, rollouts, algorithm, settings, False)
    assert bool(graphs) == (why_not_recorded(policy, settings) is None)
    assert on_gpu.keys() == on_cpu.keys()
    for name, value in on_cpu.items():
        if name != "entropy":  # a squashed Gaussian's is estimated from noise
            found = on_gpu[name].cpu()
            torch.testing.assert_close(found, value, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ["mappo", "a2po"])
def test_graphs_follow_phases_rates_and_restored_moments(algorithm):
    """What changes between updates is an input, or has a graph of its own."""
    policy = policy_in("lora", "backbone", team((3, 3), (2, 2)))
    settings = WHOLE[algorithm]
    found = []
    for replayed in (True, False):
        mine = copy.deepcopy(policy).to("cuda")
        optimisers = optimisers_of(mine)
        compiler = StepCompiler("auto") if replayed else None
        for n in range(9):
            if n == 4:
                mine.set_phase("adapters")
            if n == 7:
                for optimiser in optimisers.values():
                    optimiser.load_state_dict(copy.deepcopy(optimiser.state_dict()))
            for optimiser in optimisers.values():
                optimiser.param_groups[0]["lr"] = 0.01 / (n + 1)
            rollout = random_rollout(policy, 4, 3, n).to("cuda")
            args = mine, optimisers, rollout, settings, torch.Generator("cuda").manual_seed(n)
            UPDATES[algorithm](*args, compiler=compiler)
        found.append(dict(mine.state_dict()))
        assert compiler is None or len(compiler.graphs) >= 2
    torch.testing.assert_close(found[0], found[1], rtol=1e-7, atol=1e-9)


@pytest.mark.gpu
def test_a_function_that_cannot_be_recorded_runs_as_it_is(caplog):
    graphs, strict = Graphs(), Graphs(strict=True)

    def looks(given, numbers):
        return [given["x"] + float(given["x"].sum())]

    x = torch.ones(3, device="cuda")
    with caplog.at_level("INFO"):
        for n in range(5):
            (found,) = graphs.call("looks", looks, {"x": x * n})
            torch.testing.assert_close(found, x * 4 * n)
    assert len(graphs) == 0 and caplog.text.count("not replayed") == 1
    with pytest.raises(RuntimeError, match="compile"):
        for n in range(5):
            strict.call("looks", looks, {"x": x * n})
    assert float((x + 1).sum()) == 6  # the device works on


def test_seeded_noise_does_not_depend_on_how_steps_are_taken():
    policy = policy_in("lora", "joint")
    rollout = random_rollout(policy, 4, 3).to("cpu")
    logs = [updates(policy, [rollout], "mappo", SMALL, replayed)[0]["entropy"] for replayed in (True, False)]
    assert logs[0] == logs[1]
