"""Whose adapter a row uses: by agent, role, table or function, through config, runner and learner."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorasa_rllib.envs.base import TeamEnvError
from lorasa_rllib.rllib.teams import environments

ROLES = {"num_agents": 4, "num_roles": 3, "role_changes": 0.2, "episode_length": 9}
PLAIN = {"num_agents": 4, "episode_length": 9}


def left_or_right(step):
    """Two roles, by the sign of what an agent sees first; nobody's below -1."""
    first = step.obs[..., 0]
    return np.where(first < -1, -1, first > 0)


@pytest.mark.parametrize("algorithm", ["MAPPO", "A2PO"])
@pytest.mark.parametrize(
    ("env_config", "sharing", "adapters"),
    [
        (ROLES, {"adapter_key": "role"}, 3),
        (ROLES, {"adapter_key": "role", "num_adapters": 5}, 5),
        (PLAIN, {"adapter_key": left_or_right, "num_adapters": 2}, 2),
        (PLAIN, {"adapter_key": (1, 0, 1, 0)}, 2),
        (PLAIN, {"adapter_key": {"agent_0": 0, "agent_1": 0, "agent_2": 1, "agent_3": 2}, "num_adapters": 4}, 4),
    ],
    ids=["role", "role, room for more", "function", "table", "table by name"],
)
def test_it_trains_in_both_phases_and_comes_back_from_a_checkpoint(
    small_config, build, tmp_path, algorithm, env_config, sharing, adapters
):
    config = small_config("synthetic", env_config, algorithm, **sharing, phase_switch=64)
    algo = build(config)
    assert [algo.train()["phase"] for _ in range(3)] == ["backbone", "adapters", "adapters"]
    weights = algo.get_module("shared_policy").state_dict()
    assert weights["policy.actor.mlp.0.lora_A"].shape[0] == adapters
    algo.save_to_path(str(tmp_path / "checkpoint"))
    again = build(config)
    again.restore_from_path(str(tmp_path / "checkpoint"))
    assert again.train()["phase"] == "adapters"


def test_a_role_that_nobody_holds_keeps_its_adapter_and_what_adam_remembers(small_config, build):
    key = {"adapter_key": lambda step: np.zeros(step.active.shape, int), "num_adapters": 3}
    algo = build(small_config("synthetic", PLAIN, **key, phase_switch=0))
    learner = algo.learner_group._learner
    before = {n: p.detach().clone() for n, p in learner.policy.parameters_of("adapters").items()}
    algo.train()
    moved = {n: p for n, p in learner.policy.parameters_of("adapters").items() if not n.startswith("log_std")}
    assert any(not torch.equal(p[0], before[n][0]) for n, p in moved.items())
    adam = learner.optimisers()["adapters"]
    for name, p in moved.items():
        torch.testing.assert_close(p[1:], before[name][1:], rtol=0, atol=0)
        if p in adam.state:
            assert not adam.state[p]["step"][1:].any() and not adam.state[p]["exp_avg"][1:].any()


def test_the_roles_of_a_function_travel_with_the_rollout(small_config, build):
    algo = build(small_config("synthetic", PLAIN, adapter_key=left_or_right, num_adapters=2))
    (rollout,) = algo.env_runner.sample()[0].shards
    first = rollout.obs[..., 0]
    np.testing.assert_array_equal(rollout.roles, np.where(first < -1, -1, first > 0))


BAD = {
    "a function without a number": ({"adapter_key": left_or_right}, "set num_adapters"),
    "too short a table": ({"adapter_key": (0, 1)}, "each of the 4 agents"),
    "a table with strangers": ({"adapter_key": {"agent_9": 0}}, "agent_0"),
    "an unknown word": ({"adapter_key": "team"}, "adapter_key='team'"),
    "no roles": ({"adapter_key": "role"}, "needs an environment with roles"),
    "no adapters": ({"num_adapters": 0}, "num_adapters=0"),
    "too few adapters": ({"adapter_key": (0, 1, 2, 3), "num_adapters": 2}, "one of 2"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_keys_are_named(small_config, what):
    sharing, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        small_config("synthetic", PLAIN, **sharing).validate()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (lambda step: step.obs[..., 0], "must give a whole number"),
        (lambda step: np.zeros(4, int), "must give a whole number"),
        (lambda step: np.full(step.active.shape, 2), "num_adapters=2"),
    ],
)
def test_what_a_function_answers_is_checked(small_config, key, message):
    config = small_config("synthetic", PLAIN, adapter_key=key, num_adapters=2)
    env = environments(config)
    with pytest.raises(TeamEnvError, match=message):
        env.reset(0)
