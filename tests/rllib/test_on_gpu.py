"""Learners on a GPU, through Ray: they train as those on the CPU do, and their checkpoints go on anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorasa_rllib.policies.acting import load_policy
from lorasa_rllib.rllib.module import MODULE_ID
from tests.rllib.test_phases_and_restore import is_adapter, is_backbone, weights_of

pytestmark = pytest.mark.gpu
ROUNDED = {"rtol": 1e-3, "atol": 1e-4}  # single precision, three iterations


def on(config, learners, gpus):
    return config.copy(copy_frozen=False).learners(num_learners=learners, num_gpus_per_learner=gpus)


def kinds_of_devices(algo):
    kinds = algo.learner_group.foreach_learner(
        lambda learner: {p.device.type for p in learner.module[MODULE_ID].policy.parameters()}
    )
    return {kind for result in kinds for kind in (result if isinstance(result, set) else result.get())}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, err_msg=name, **ROUNDED)


@pytest.mark.parametrize("network", [{}, {"preset": "published", "hidden_size": 16}], ids=["feed-forward", "published"])
@pytest.mark.parametrize("algorithm", ["MAPPO", "A2PO"])
@pytest.mark.parametrize("learners", [0, 1])
def test_it_trains_across_the_switch_as_on_the_cpu(small_config, build, algorithm, learners, network):
    config = small_config(algorithm=algorithm).network(**network)
    config = config.training(chunk_length=8, lr=1e-3, entropy_coeff=0.0)  # entropy draws on the device
    if algorithm == "A2PO":
        config = config.training(agent_order="cyclic")  # others draw there, too
    gpu, cpu = build(on(config, learners, 1)), build(on(config, learners, 0))
    assert kinds_of_devices(gpu) == {"cuda"} and kinds_of_devices(cpu) == {"cpu"}
    phases = [[algo.train()["phase"] for algo in (gpu, cpu)] for _ in range(3)]
    assert phases == [["backbone"] * 2, ["backbone"] * 2, ["adapters"] * 2]
    assert_same(weights_of(cpu), weights_of(gpu))


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_checkpoint_of_a_gpu_goes_on_anywhere(small_config, build, tmp_path, gpus):
    config = small_config()
    first, other = build(on(config, 0, 1)), build(on(config, 0, gpus))
    for _ in range(3):
        first.train()
    first.save_to_path(tmp_path / "checkpoint")
    other.restore_from_path(tmp_path / "checkpoint")
    before = weights_of(other)
    assert_same(weights_of(first), before)
    assert other.train()["phase"] == "adapters"
    after = weights_of(other)
    changed = {name for name in after if not np.array_equal(before[name], after[name])}
    assert any(map(is_adapter, changed)) and not any(map(is_backbone, changed))


def test_its_policy_acts_alike_on_both(small_config, build, tmp_path):
    algo = build(on(small_config(), 0, 1))
    for _ in range(3):
        algo.train()
    folder = algo.save_policy(tmp_path / "policy")
    obs = np.random.default_rng(0).standard_normal((50, 3, load_policy(folder).spec.obs_size), np.float32)
    on_cpu, on_gpu = (load_policy(folder, device).act(obs)[0] for device in ("cpu", "cuda"))
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-4, atol=1e-5)
