"""Several learners on one node equal one learner with all of the data, through Ray and gloo."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorasa_rllib.rllib.learner import restore_generator
from lorasa_rllib.rllib.module import MODULE_ID
from lorasa_rllib.rllib.runner import TeamEnvRunner
from lorasa_rllib.rllib.sampled import TeamTrainingData

ENVIRONMENTS = {
    "continuous": ({"num_agents": 3, "unequal": True, "episode_length": 9, "termination": 0.05}, {}),
    "masks, deaths and roles": (
        {"num_agents": 3, "discrete": True, "deaths": 0.1, "num_roles": 2, "episode_length": 9, "shared_reward": False},
        {"adapter_key": "role"},
    ),
}
NETWORKS = {
    "feed-forward": {"obs_norm": "running"},
    "published": {"preset": "published", "hidden_size": 16, "obs_norm": "running_team"},
}


def weights_on_every_rank(group):
    states = list(group.foreach_learner(lambda learner: learner.module[MODULE_ID].get_state()))
    return [result.get() if hasattr(result, "get") and not isinstance(result, dict) else result for result in states]


def uneven_rollouts(config, count):
    """Rollouts whose halves differ in live rows and episode ends."""
    runner = TeamEnvRunner(config=config, worker_index=0)
    rollouts = []
    for _ in range(count):
        (rollout,) = runner.sample()[0].shards
        live = rollout.active
        live[:, : rollout.num_envs // 2, 1] = False  # agent 1 lives in the second half only
        live[3:, 0, 0] = False
        rollouts.append(rollout)
    first, second = rollouts[0].split(2)
    assert first.active.sum() != second.active.sum() and (first.terminated.sum() != second.terminated.sum())
    return rollouts


CASES = [  # (algorithm, environment, network)
    *(("MAPPO", env, network) for env in ENVIRONMENTS for network in NETWORKS),
    ("A2PO", "continuous", "feed-forward"),
    ("A2PO", "masks, deaths and roles", "published"),
]


@pytest.mark.parametrize(("algorithm", "env", "network"), CASES)
def test_two_learners_equal_one_over_three_iterations_across_the_switch(small_config, algorithm, env, network):
    env_config, sharing = ENVIRONMENTS[env]
    config = small_config("synthetic", env_config, algorithm, **sharing).network(**NETWORKS[network])
    # Differences of rounding, which depend on the processor, grow with the length of the steps.
    config = config.training(train_batch_size_per_learner=4 * 20, chunk_length=5, lr=2e-3)
    rollouts = uneven_rollouts(config, 3)
    phases = ["backbone", "backbone", "adapters"]
    one = config.build_learner(spaces=config.spaces())
    two = config.copy(copy_frozen=False).learners(num_learners=2).training(train_batch_size_per_learner=2 * 20)
    group = two.build_learner_group(spaces=config.spaces())
    try:
        group.set_state({"learner": {"rl_module": one.get_state(components="rl_module")["rl_module"]}})
        for rollout, phase in zip(rollouts, phases, strict=True):
            timesteps = {"num_env_steps_sampled_lifetime": 0}
            one.update(training_data=TeamTrainingData(shards=[[rollout]]), timesteps=timesteps, phase=phase)
            halves = TeamTrainingData(shards=[[part] for part in rollout.split(2)])
            group.update(training_data=halves, timesteps=timesteps, phase=phase)
        expected = one.module[MODULE_ID].get_state()
        first, second = weights_on_every_rank(group)
    finally:
        group.shutdown()
    for name, value in expected.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        torch.testing.assert_close(
            torch.as_tensor(first[name]), torch.as_tensor(value), rtol=1e-4, atol=1e-5, check_dtype=False, msg=name
        )


def test_a_generator_of_a_device_of_another_kind_gives_one_that_all_learners_agree_on():
    """States of generators on GPUs are shorter; a checkpoint of one may be restored without a GPU."""
    own, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    for generator in (own, other):
        restore_generator(generator, torch.arange(16, dtype=torch.uint8))
    assert torch.equal(torch.rand(3, generator=own), torch.rand(3, generator=other))
    restore_generator(other, state := own.get_state())
    assert torch.equal(other.get_state(), state)
